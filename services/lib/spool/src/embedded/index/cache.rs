//! The messages that were accepted last, kept whole, so that the usual path never reads the disk.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use mail::{Message, Recipient};

/// A message as it was accepted.
#[derive(Debug)]
pub(in crate::embedded) struct Cached {
    pub(in crate::embedded) message: Arc<Message>,
    /// The recipients of each job.
    pub(in crate::embedded) jobs: Vec<Vec<Recipient>>,
    pub(in crate::embedded) content: Bytes,
    /// What it is taken to weigh.
    pub(in crate::embedded) octets: u64,
}

/// First in, first out, up to a number of octets.
pub(in crate::embedded) struct Cache {
    octets_max: u64,
    octets: u64,
    messages: HashMap<u32, (u64, Arc<Cached>)>,
    /// Message and its turn; what was removed since has another turn or none.
    turns: VecDeque<(u32, u64)>,
    turn: u64,
}

impl Cache {
    pub(super) fn new(octets_max: u64) -> Self {
        Self { octets_max, octets: 0, messages: HashMap::new(), turns: VecDeque::new(), turn: 0 }
    }

    pub(in crate::embedded) fn insert(&mut self, message: u32, cached: Arc<Cached>) {
        self.turn += 1;
        self.octets += cached.octets;
        self.messages.insert(message, (self.turn, cached));
        self.turns.push_back((message, self.turn));
        while self.octets > self.octets_max {
            let Some((message, turn)) = self.turns.pop_front() else {
                break;
            };
            if self.messages.get(&message).is_some_and(|entry| entry.0 == turn) {
                self.remove(message);
            }
        }
        if self.turns.len() > 2 * self.messages.len() + 1_024 {
            self.turns
                .retain(|(message, turn)| self.messages.get(message).is_some_and(|entry| entry.0 == *turn));
        }
    }

    pub(super) fn find(&self, message: u32) -> Option<Arc<Cached>> {
        self.messages.get(&message).map(|entry| Arc::clone(&entry.1))
    }

    pub(in crate::embedded) fn remove(&mut self, message: u32) {
        if let Some((_, cached)) = self.messages.remove(&message) {
            self.octets -= cached.octets;
        }
    }
}
