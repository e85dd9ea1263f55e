//! Entries that are named by a small number, which is used again once its entry is gone.

use std::ops::{Index, IndexMut};

/// A freed place holds the default until it is used again; its owner knows which numbers are in use.
#[derive(Default)]
pub(super) struct Slab<T> {
    entries: Vec<T>,
    free: Vec<u32>,
}

impl<T: Default> Slab<T> {
    pub(super) fn insert(&mut self, entry: T) -> u32 {
        if let Some(place) = self.free.pop() {
            self[place] = entry;
            return place;
        }
        self.entries.push(entry);
        u32::try_from(self.entries.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn remove(&mut self, place: u32) {
        self[place] = T::default();
        self.free.push(place);
    }

    pub(super) fn find(&self, place: u32) -> Option<&T> {
        self.entries.get(place as usize)
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, place: u32) -> &T {
        &self.entries[place as usize]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, place: u32) -> &mut T {
        &mut self.entries[place as usize]
    }
}
