//! Where a job stands, and what moves it from there: time, a lease, a settlement, an administrator.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use mail::Timestamp;

use super::slab::Slab;
use super::{Claim, Index, JobEntry, Standing, Ticket};

impl Index {
    /// Puts everything that was read into its order, oldest first.
    pub(in super::super) fn arrange(&mut self) {
        self.arranged = true;
        let messages: Vec<u32> = self.by_id.values().copied().collect();
        for message in messages {
            for job in self.jobs_of(message) {
                let standing = self.jobs[job].standing;
                self.enter(job, standing);
            }
        }
    }

    /// Where a job stands from here on.
    pub(in super::super) fn stand(&mut self, job: u32, standing: Standing) {
        self.leave(job);
        let entry = &mut self.jobs[job];
        self.counts[entry.standing as usize] -= 1;
        self.counts[standing as usize] += 1;
        entry.standing = standing;
        self.enter(job, standing);
    }

    fn enter(&mut self, job: u32, standing: Standing) {
        if !self.arranged {
            return;
        }
        let entry = &self.jobs[job];
        match standing {
            Standing::Ready => {
                let account = self.messages[entry.message].account;
                let name = self.accounts.text(account);
                self.order.push(&mut self.jobs, job, account, name);
            }
            Standing::Waiting => {
                self.waits.push(Reverse((entry.at, job, entry.generation)));
                let waiting = usize::try_from(self.counts[Standing::Waiting as usize]).unwrap_or(usize::MAX);
                if self.waits.len() > waiting.saturating_mul(2).saturating_add(1_024) {
                    let jobs = &self.jobs;
                    self.waits.retain(|Reverse((at, job, generation))| {
                        is_current(jobs, *job, *generation, Standing::Waiting) && jobs[*job].at == *at
                    });
                }
            }
            Standing::Leased => self.leases.push(Reverse((entry.at, job, entry.generation))),
            Standing::Held | Standing::Settling => {}
        }
    }

    pub(super) fn leave(&mut self, job: u32) {
        let entry = &self.jobs[job];
        if self.arranged && entry.standing == Standing::Ready {
            let account = self.messages[entry.message].account;
            self.order.remove(&mut self.jobs, job, account);
        }
    }

    /// Ready, or held where that was asked for. It was waited for or has been tried: it goes before fresh ones.
    pub(in super::super) fn make_ready(&mut self, job: u32) {
        self.jobs[job].fresh = false;
        let standing = if self.jobs[job].is_held() { Standing::Held } else { Standing::Ready };
        self.stand(job, standing);
    }

    /// Waiting until `at`, or held where that was asked for.
    pub(in super::super) fn make_wait(&mut self, job: u32, at: Timestamp) {
        self.jobs[job].at = at;
        let standing = if self.jobs[job].is_held() { Standing::Held } else { Standing::Waiting };
        self.stand(job, standing);
    }

    /// Says that a job is to be held, or no longer; where it stands is the caller's to change.
    pub(in super::super) fn set_hold(&mut self, job: u32, reason: Option<&str>) {
        let old = self.jobs[job].hold;
        self.jobs[job].hold = reason.map_or(0, |reason| self.reasons.take(reason));
        if old != 0 {
            self.reasons.give_back(old);
        }
    }

    /// Moves up to `most` jobs whose wait or lease has ended; says how many.
    pub(in super::super) fn advance(&mut self, now: Timestamp, most: usize) -> usize {
        let mut moved = 0;
        while moved < most {
            let Some(Reverse((at, job, generation))) =
                self.waits.peek().copied().filter(|next| next.0.0 <= now)
            else {
                break;
            };
            self.waits.pop();
            if is_current(&self.jobs, job, generation, Standing::Waiting) && self.jobs[job].at == at {
                self.make_ready(job);
                moved += 1;
            }
        }
        while moved < most {
            let Some(Reverse((_, job, generation))) =
                self.leases.peek().copied().filter(|next| next.0.0 <= now)
            else {
                break;
            };
            self.leases.pop();
            if !is_current(&self.jobs, job, generation, Standing::Leased) {
                continue;
            }
            let until = self.jobs[job].at;
            if until > now {
                // It was touched since.
                self.leases.push(Reverse((until, job, generation)));
                continue;
            }
            self.lose(job);
            moved += 1;
        }
        moved
    }

    /// Takes a lease away: whoever has it may have sent the message.
    pub(in super::super) fn lose(&mut self, job: u32) {
        self.jobs[job].redelivered = true;
        self.jobs[job].generation = self.next_generation();
        self.make_ready(job);
    }

    /// Never 0, which is what places have that are free: a claim on a job that is gone names none, even when its place
    /// is used again.
    pub(super) fn next_generation(&mut self) -> u32 {
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        self.generation
    }

    /// The next instant at which something may move.
    pub(in super::super) fn next_instant(&self) -> Option<Timestamp> {
        let first = |heap: &BinaryHeap<Reverse<(Timestamp, u32, u32)>>| heap.peek().map(|next| next.0.0);
        match (first(&self.waits), first(&self.leases)) {
            (Some(wait), Some(lease)) => Some(wait.min(lease)),
            (wait, lease) => wait.or(lease),
        }
    }

    /// Whether somebody can be leased now.
    pub(in super::super) fn has_ready(&self) -> bool {
        self.counts[Standing::Ready as usize] > 0
    }

    /// Leases the next one.
    pub(in super::super) fn lease(&mut self, until: Timestamp) -> Option<Ticket> {
        let job = self.order.pop(&mut self.jobs)?;
        let generation = self.next_generation();
        let entry = &mut self.jobs[job];
        self.counts[Standing::Ready as usize] -= 1;
        self.counts[Standing::Leased as usize] += 1;
        entry.standing = Standing::Leased;
        entry.generation = generation;
        entry.at = until;
        entry.dropped = false;
        self.enter(job, Standing::Leased);
        Some(self.ticket(job))
    }

    pub(in super::super) fn ticket(&self, job: u32) -> Ticket {
        let entry = &self.jobs[job];
        let message = &self.messages[entry.message];
        Ticket {
            claim: Claim { job, generation: entry.generation },
            id: self.job_id(job),
            place: message.place,
            octets: message.octets,
            head_octets: message.head_octets,
            state: entry.state(),
            reports: entry.reports,
            redelivered: entry.redelivered,
            standing: entry.standing,
            at: entry.at,
            hold: self.hold(job),
            cached: self.cache.find(entry.message),
        }
    }

    /// The job that the claim names, as long as it is leased by it or being settled.
    pub(in super::super) fn claimed(&self, claim: Claim) -> Option<u32> {
        let held = |standing| is_current(&self.jobs, claim.job, claim.generation, standing);
        (held(Standing::Leased) || held(Standing::Settling)).then_some(claim.job)
    }
}

fn is_current(jobs: &Slab<JobEntry>, job: u32, generation: u32, standing: Standing) -> bool {
    jobs.find(job).is_some_and(|entry| entry.generation == generation && entry.standing == standing)
}
