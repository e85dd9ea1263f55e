//! Texts that many entries share, counted: the last to give one back frees it.

use std::collections::HashMap;
use std::sync::Arc;

#[derive(Default)]
pub(super) struct Interner {
    texts: Vec<(Arc<str>, u32)>,
    known: HashMap<Arc<str>, u32>,
    free: Vec<u32>,
}

impl Interner {
    /// The text's number, with one more use.
    pub(super) fn take(&mut self, text: &str) -> u32 {
        if let Some(number) = self.known.get(text).copied() {
            self.texts[number as usize].1 += 1;
            return number;
        }
        let shared: Arc<str> = text.into();
        let number = match self.free.pop() {
            Some(number) => {
                self.texts[number as usize] = (Arc::clone(&shared), 1);
                number
            }
            None => {
                self.texts.push((Arc::clone(&shared), 1));
                u32::try_from(self.texts.len() - 1).unwrap_or(u32::MAX)
            }
        };
        self.known.insert(shared, number);
        number
    }

    pub(super) fn give_back(&mut self, number: u32) {
        let entry = &mut self.texts[number as usize];
        entry.1 -= 1;
        if entry.1 == 0 {
            self.known.remove(&entry.0);
            self.free.push(number);
        }
    }

    pub(super) fn find(&self, text: &str) -> Option<u32> {
        self.known.get(text).copied()
    }

    pub(super) fn text(&self, number: u32) -> &Arc<str> {
        &self.texts[number as usize].0
    }

    /// Each text with its number of uses.
    pub(super) fn uses(&self) -> impl Iterator<Item = (&str, u32)> {
        self.known.iter().map(|(text, number)| (&**text, self.texts[*number as usize].1))
    }
}
