//! Who is leased next.
//!
//! Lanes take turns, in a lane its accounts take turns, and of an account those that were due or tried before go before
//! fresh ones, each kind first in first out. So an account with a million jobs delays another one's by one job a turn.

use std::collections::VecDeque;

use super::slab::Slab;
use super::{JobEntry, NONE};

pub(super) struct Order {
    /// By the account's number.
    queues: Vec<Queue>,
    /// Accounts that wait for their turn, by lane.
    lanes: Vec<VecDeque<u32>>,
    /// Lanes that wait for their turn.
    turns: VecDeque<u16>,
}

#[derive(Clone, Default)]
struct Queue {
    due: List,
    fresh: List,
    lane: u16,
    /// Whether it stands in its lane.
    in_turn: bool,
}

/// The ends of a list whose links are in the jobs.
#[derive(Clone)]
struct List {
    head: u32,
    tail: u32,
}

impl Default for List {
    fn default() -> Self {
        Self { head: NONE, tail: NONE }
    }
}

impl Order {
    pub(super) fn new(lanes: u16) -> Self {
        Self { queues: Vec::new(), lanes: vec![VecDeque::new(); lanes.max(1).into()], turns: VecDeque::new() }
    }

    /// Puts a job at the end of its account's list.
    pub(super) fn push(&mut self, jobs: &mut Slab<JobEntry>, job: u32, account: u32, name: &str) {
        let place = account as usize;
        if self.queues.len() <= place {
            self.queues.resize(place + 1, Queue::default());
        }
        let queue = &mut self.queues[place];
        if !queue.in_turn {
            queue.in_turn = true;
            queue.lane = lane_of(name, self.lanes.len());
            let lane = &mut self.lanes[usize::from(queue.lane)];
            lane.push_back(account);
            if lane.len() == 1 {
                self.turns.push_back(queue.lane);
            }
        }
        queue.list(jobs[job].fresh).push(jobs, job);
    }

    /// Takes a job out of its account's list, wherever it stands there.
    pub(super) fn remove(&mut self, jobs: &mut Slab<JobEntry>, job: u32, account: u32) {
        // An account that has none left keeps its turn until it comes.
        self.queues[account as usize].list(jobs[job].fresh).remove(jobs, job);
    }

    /// Takes the next job.
    pub(super) fn pop(&mut self, jobs: &mut Slab<JobEntry>) -> Option<u32> {
        while let Some(turn) = self.turns.pop_front() {
            let lane = &mut self.lanes[usize::from(turn)];
            let Some(account) = lane.pop_front() else {
                continue;
            };
            let queue = &mut self.queues[account as usize];
            let job = queue.pop(jobs);
            if queue.is_empty() {
                queue.in_turn = false;
            } else {
                lane.push_back(account);
            }
            if !lane.is_empty() {
                self.turns.push_back(turn);
            }
            if job.is_some() {
                return job;
            }
        }
        None
    }
}

impl Queue {
    fn list(&mut self, fresh: bool) -> &mut List {
        if fresh { &mut self.fresh } else { &mut self.due }
    }

    fn is_empty(&self) -> bool {
        self.due.head == NONE && self.fresh.head == NONE
    }

    fn pop(&mut self, jobs: &mut Slab<JobEntry>) -> Option<u32> {
        let list = if self.due.head == NONE { &mut self.fresh } else { &mut self.due };
        let job = list.head;
        if job == NONE {
            return None;
        }
        list.remove(jobs, job);
        Some(job)
    }
}

impl List {
    fn push(&mut self, jobs: &mut Slab<JobEntry>, job: u32) {
        jobs[job].next = NONE;
        jobs[job].previous = self.tail;
        match self.tail {
            NONE => self.head = job,
            tail => jobs[tail].next = job,
        }
        self.tail = job;
    }

    fn remove(&mut self, jobs: &mut Slab<JobEntry>, job: u32) {
        let (previous, next) = (jobs[job].previous, jobs[job].next);
        match previous {
            NONE => self.head = next,
            previous => jobs[previous].next = next,
        }
        match next {
            NONE => self.tail = previous,
            next => jobs[next].previous = previous,
        }
        jobs[job].next = NONE;
        jobs[job].previous = NONE;
    }
}

fn lane_of(account: &str, lanes: usize) -> u16 {
    let lanes = u32::try_from(lanes).unwrap_or(u32::MAX);
    u16::try_from(crc32fast::hash(account.as_bytes()) % lanes).unwrap_or(0)
}
