//! What administrators ask: hold, release, remove.

use std::ops::Bound;

use mail::{JobId, QueueId};
use proto::spool::v1 as wire;

use super::{Action, Administer, Writer};
use crate::embedded::frame::{Frame, Kind};
use crate::embedded::host_text;
use crate::embedded::index::{Index, Standing};
use crate::embedded::packed::{pack, packed};
use crate::{Selection, SettleError};

/// Messages that are looked at under one lock.
const LOOK_MESSAGES: usize = 4_096;
/// Jobs that are changed by one record.
const CHANGE_JOBS: usize = 4_096;

impl Writer {
    pub(super) fn administer(&mut self, request: Administer) {
        let jobs = self.select(&request.which);
        let mut changed = Vec::new();
        let mut result = Ok(());
        for some in jobs.chunks(CHANGE_JOBS) {
            let some = self.concerned(&request.action, some);
            if some.is_empty() {
                continue;
            }
            result = self.change(&request.action, &some);
            if result.is_err() {
                break;
            }
            changed.extend(some);
        }
        // Whoever asked may have gone.
        let _ = request.answer.send(result.map(|()| changed));
    }

    fn select(&self, which: &Selection) -> Vec<JobId> {
        let index = self.core.index();
        match which {
            Selection::Job(id) => index.find_job(*id).map(|_| *id).into_iter().collect(),
            Selection::Message(id) => match index.find_message(*id) {
                Some(message) => index.jobs_of(message).into_iter().map(|job| index.job_id(job)).collect(),
                None => Vec::new(),
            },
            Selection::Account(account) => {
                let Some(account) = index.account_number(account.as_str()) else {
                    return Vec::new();
                };
                drop(index);
                self.select_all(|index, message, _| index.is_of_account(message, account))
            }
            Selection::Host(host) => {
                let Some(host) = index.host_number(&host_text(host)) else {
                    return Vec::new();
                };
                drop(index);
                self.select_all(|index, _, job| index.is_for_host(job, host))
            }
        }
    }

    fn select_all(&self, wanted: impl Fn(&Index, u32, u32) -> bool) -> Vec<JobId> {
        let mut found = Vec::new();
        let mut from: Bound<QueueId> = Bound::Unbounded;
        loop {
            let index = self.core.index();
            let mut looked = 0;
            for (id, message) in index.messages_from(from).take(LOOK_MESSAGES) {
                let jobs = index.jobs_of(message).into_iter().filter(|job| wanted(&index, message, *job));
                found.extend(jobs.map(|job| index.job_id(job)));
                from = Bound::Excluded(id);
                looked += 1;
            }
            if looked < LOOK_MESSAGES {
                return found;
            }
        }
    }

    /// Those that the action would change.
    fn concerned(&self, action: &Action, jobs: &[JobId]) -> Vec<JobId> {
        let index = self.core.index();
        let concerned = |id: &JobId| {
            index.find_job(*id).map(|job| index.job(job)).is_some_and(|entry| match action {
                Action::Hold(_) => !entry.is_held(),
                Action::Release => entry.is_held() || entry.standing == Standing::Waiting,
                Action::Remove => true,
            })
        };
        jobs.iter().copied().filter(concerned).collect()
    }

    fn change(&mut self, action: &Action, jobs: &[JobId]) -> Result<(), SettleError> {
        let mark = |hold: Option<String>| wire::Mark { packed: packed(jobs), hold };
        let magic = self.log.magic;
        let frame = match action {
            Action::Hold(reason) => Frame::new(magic, Kind::Mark, 0, &mark(Some(reason.clone()))),
            Action::Release => Frame::new(magic, Kind::Mark, 0, &mark(None)),
            Action::Remove => Frame::new(magic, Kind::Gone, 0, &pack(jobs)),
        };
        self.log
            .append(&[&frame])
            .map_err(|error| SettleError::Unavailable { job: jobs[0], cause: error.to_string() })?;
        let (segment, end) = self.log.end();
        let mut index = self.core.index();
        index.segments.entry(segment).or_default().end = end;
        for id in jobs {
            if let Some(job) = index.find_job(*id) {
                apply(action, &mut index, job);
            }
        }
        drop(index);
        self.core.ready.notify_one();
        Ok(())
    }
}

fn apply(action: &Action, index: &mut Index, job: u32) {
    let standing = index.job(job).standing;
    match action {
        Action::Remove => index.remove_job(job),
        Action::Hold(reason) => {
            index.set_hold(job, Some(reason));
            // One that is leased stays so; it is held when it comes back.
            if matches!(standing, Standing::Ready | Standing::Waiting) {
                index.stand(job, Standing::Held);
            }
        }
        Action::Release => {
            index.set_hold(job, None);
            if matches!(standing, Standing::Held | Standing::Waiting) {
                index.make_ready(job);
            }
        }
    }
}
