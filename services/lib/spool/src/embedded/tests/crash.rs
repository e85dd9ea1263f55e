//! Whatever was done, and wherever it stops: what was answered holds, and nothing else.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::embedded::faults::Crash;
use crate::embedded::lease::EmbeddedLease;
use crate::{Retry, Selection};

#[derive(Clone, Debug)]
enum Step {
    Accept {
        jobs: u16,
        octets: usize,
    },
    Lease(usize),
    Settle {
        which: usize,
        how: How,
    },
    /// Settles all leases and accepts as many messages, all at the same time.
    Burst(How),
    Advance(u64),
    Administer {
        which: usize,
        whole: Whole,
        how: Admin,
    },
    Reopen(Option<u64>),
    Close,
}

#[derive(Clone, Copy, Debug)]
enum How {
    Done,
    Fail,
    Retry(u64),
    RetryWithReport(u64),
    Narrow,
    NarrowWithReport,
    Hold,
    Drop,
}

#[derive(Clone, Copy, Debug)]
enum Whole {
    Job,
    Message,
    Account,
}

#[derive(Clone, Copy, Debug)]
enum Admin {
    Hold,
    Release,
    Remove,
}

/// A job as it must come back.
#[derive(Clone, Debug, Default, PartialEq)]
struct Kept {
    recipients: Vec<Recipient>,
    results: Vec<RecipientResult>,
    attempts: u32,
    due: Option<Timestamp>,
    held: bool,
    reports: u16,
}

type Model = BTreeMap<JobId, Kept>;

struct Run {
    disk: MemoryDisk,
    clock: Clock,
    spool: Embedded,
    leases: Vec<EmbeddedLease>,
    model: Model,
    messages: u64,
    /// The model after each step, with the number of operations there were before and after it.
    history: Vec<(usize, usize, Model)>,
}

impl Run {
    fn new() -> Self {
        let (disk, clock) = (MemoryDisk::new(), Clock::new());
        let spool = open(&disk, &clock);
        Self { disk, clock, spool, leases: Vec::new(), model: Model::new(), messages: 0, history: Vec::new() }
    }

    async fn step(&mut self, step: &Step) {
        let before = self.disk.operations();
        match step {
            Step::Accept { jobs, octets } => self.accept(*jobs, *octets).await,
            Step::Lease(max) => {
                if self.spool.summary(0).await.ready > 0 {
                    self.leases.extend(self.spool.lease(*max).await);
                }
            }
            Step::Settle { which, how } => {
                if !self.leases.is_empty() {
                    let lease = self.leases.swap_remove(which % self.leases.len());
                    self.settle(lease, *how).await;
                }
            }
            Step::Burst(how) => self.burst(*how).await,
            Step::Advance(millis) => self.clock.advance(*millis),
            Step::Administer { which, whole, how } => self.administer(*which, *whole, *how).await,
            Step::Reopen(seed) => {
                let crash = seed.map_or(Crash::Kill, Crash::Power);
                self.disk = self.disk.after(self.disk.operations(), crash);
                self.reopen().await;
                return;
            }
            Step::Close => {
                self.spool.close().await;
                self.disk = self.disk.after(self.disk.operations(), Crash::Power(7));
                self.reopen().await;
                return;
            }
        }
        self.history.push((before, self.disk.operations(), self.model.clone()));
    }

    async fn reopen(&mut self) {
        self.leases.clear();
        self.spool = open(&self.disk, &self.clock);
        check(&self.spool, &self.clock, &[&self.model]).await;
        self.history.clear();
    }

    async fn accept(&mut self, jobs: u16, octets: usize) {
        let new = self.new_message(jobs, octets);
        self.spool.accept(new).await.unwrap();
    }

    fn new_message(&mut self, jobs: u16, octets: usize) -> NewMessage {
        self.messages += 1;
        let new = message(self.messages, jobs, octets);
        for (job, number) in new.jobs.iter().zip(0..) {
            let kept = Kept { recipients: job.recipients.clone(), ..Kept::default() };
            self.model.insert(JobId::delivery(new.message.queue_id, number), kept);
        }
        new
    }

    async fn burst(&mut self, how: How) {
        let mut tasks = tokio::task::JoinSet::new();
        for lease in std::mem::take(&mut self.leases) {
            let new = self.new_message(1, 700);
            let spool = self.spool.clone();
            tasks.spawn(async move {
                spool.accept(new).await.unwrap();
                None
            });
            if lease.touch().await.is_ok() {
                tasks.spawn(self.settled(lease, how));
            }
        }
        self.leases.extend(tasks.join_all().await.into_iter().flatten());
    }

    async fn settle(&mut self, lease: EmbeddedLease, how: How) {
        // One that can't be touched has lapsed or was removed.
        if lease.touch().await.is_ok() {
            let settled = self.settled(lease, how);
            self.leases.extend(settled.await);
        }
    }

    /// Changes the model at once, and the store when it is polled.
    fn settled(
        &mut self,
        mut lease: EmbeddedLease,
        how: How,
    ) -> impl Future<Output = Option<EmbeddedLease>> + Send + use<> {
        let id = lease.job().id;
        let all = recipients(lease.job());
        let reports = matches!(how, How::Fail | How::RetryWithReport(_) | How::NarrowWithReport);
        let results: Vec<_> = all.first().filter(|_| reports).map(failure).into_iter().collect();
        let rest = if results.is_empty() { all } else { all[1..].to_vec() };
        let report =
            if id.report.is_none() && !results.is_empty() { self.add_report(id, &results) } else { 0 };
        let kept = self.model.get_mut(&id).unwrap();
        kept.reports = kept.reports.max(report);
        let mut at = self.clock.now();
        match how {
            How::Done | How::Fail => drop(self.model.remove(&id)),
            How::Retry(millis) | How::RetryWithReport(millis) => {
                at = at.plus_millis(millis);
                kept.attempts += 1;
                kept.due = Some(at);
                kept.recipients.clone_from(&rest);
            }
            How::Narrow | How::NarrowWithReport => {
                kept.recipients.clone_from(&rest);
                // It was due already; the record of the narrow has no such time.
                kept.due = None;
            }
            How::Hold => kept.held = true,
            How::Drop => {}
        }
        let attempts = self.model.get(&id).map_or(0, |kept| kept.attempts);
        async move {
            match how {
                How::Done | How::Fail => lease.done(results).await.unwrap(),
                How::Retry(_) | How::RetryWithReport(_) => {
                    let retry =
                        Retry { at, remaining: rest, attempts, reason: "later".into(), signature: None };
                    lease.retry(retry, results).await.unwrap();
                }
                How::Narrow | How::NarrowWithReport => {
                    lease.narrow(rest, results).await.unwrap();
                    return Some(lease);
                }
                How::Hold => lease.hold("look".into()).await.unwrap(),
                How::Drop => drop(lease),
            }
            None
        }
    }

    fn add_report(&mut self, id: JobId, results: &[RecipientResult]) -> u16 {
        let number = self.model[&id].reports + 1;
        let kept = Kept { results: results.to_vec(), ..Kept::default() };
        self.model.insert(JobId { report: Some(number), ..id }, kept);
        number
    }

    async fn administer(&mut self, which: usize, whole: Whole, how: Admin) {
        let Some(id) = self.model.keys().nth(which % self.model.len().max(1)).copied() else {
            return;
        };
        let account = |id: JobId| message(id.queue_id.to_bits() as u64, 1, 0).message.account;
        let selection = match whole {
            Whole::Job => Selection::Job(id),
            Whole::Message => Selection::Message(id.queue_id),
            Whole::Account => Selection::Account(account(id)),
        };
        let concerned = |other: &JobId| match whole {
            Whole::Job => *other == id,
            Whole::Message => other.queue_id == id.queue_id,
            Whole::Account => account(*other) == account(id),
        };
        match how {
            Admin::Hold => {
                self.spool.hold(selection, "look".into()).await.unwrap();
                self.model.iter_mut().filter(|(id, _)| concerned(id)).for_each(|(_, kept)| kept.held = true);
            }
            Admin::Release => {
                self.spool.release(selection).await.unwrap();
                for (_, kept) in self.model.iter_mut().filter(|(id, _)| concerned(id)) {
                    kept.held = false;
                    kept.due = None;
                }
            }
            Admin::Remove => {
                self.spool.remove(selection).await.unwrap();
                self.model.retain(|id, _| !concerned(id));
            }
        }
    }
}

/// What is queued is what one of the models says.
async fn check(spool: &Embedded, clock: &Clock, models: &[&Model]) {
    let found: Model = entries(spool).await.into_iter().map(|(id, entry)| (id, kept(entry))).collect();
    let meant = |model: &Model| {
        let mut model = model.clone();
        for kept in model.values_mut() {
            // While a job is held, when it was due doesn't matter; when it is due already, neither.
            kept.due = kept.due.filter(|due| !kept.held && *due > clock.now());
            kept.reports = 0;
        }
        model
    };
    let models: Vec<Model> = models.iter().map(|model| meant(model)).collect();
    assert!(models.contains(&found), "found {found:#?}\ninstead of one of {models:#?}");
    assert!(spool.summary(0).await.damage.is_empty(), "{:?}", spool.summary(0).await.damage);
    check_content(spool).await;
}

fn kept(entry: Entry) -> Kept {
    let (recipients, results) = match entry.job.kind {
        JobKind::Delivery { recipients } => (recipients, Vec::new()),
        JobKind::Report { results } => (Vec::new(), results),
    };
    let due = match entry.state {
        EntryState::Waiting { until } => Some(until),
        _ => None,
    };
    let held = entry.state == EntryState::Held;
    Kept { recipients, results, attempts: entry.job.attempts, due, held, reports: 0 }
}

fn settling() -> impl Strategy<Value = How> {
    prop_oneof![
        3 => Just(How::Done),
        2 => Just(How::Fail),
        2 => (0u64..100_000).prop_map(How::Retry),
        1 => (0u64..100_000).prop_map(How::RetryWithReport),
        1 => Just(How::Narrow),
        1 => Just(How::NarrowWithReport),
        1 => Just(How::Hold),
        1 => Just(How::Drop),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let whole = prop_oneof![Just(Whole::Job), Just(Whole::Message), Just(Whole::Account)];
    let admin = prop_oneof![1 => Just(Admin::Hold), 2 => Just(Admin::Release), 1 => Just(Admin::Remove)];
    prop_oneof![
        6 => (1u16..4, prop_oneof![20 => 0usize..1_500, 1 => Just(300_000)])
            .prop_map(|(jobs, octets)| Step::Accept { jobs, octets }),
        6 => (1usize..9).prop_map(Step::Lease),
        10 => (any::<usize>(), settling()).prop_map(|(which, how)| Step::Settle { which, how }),
        2 => settling().prop_map(Step::Burst),
        2 => (0u64..100_000).prop_map(Step::Advance),
        1 => (any::<usize>(), whole, admin).prop_map(|(which, whole, how)| Step::Administer { which, whole, how }),
        1 => proptest::option::of(any::<u64>()).prop_map(Step::Reopen),
        1 => Just(Step::Close),
    ]
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// A crash after `count` operations leaves the model before or after the step that was under way, or the one of the step
/// that was done.
async fn crash_after(run: &Run, count: usize, crash: Crash) {
    let empty = Model::new();
    let done = run.history.iter().rposition(|(_, after, _)| *after <= count);
    let mut models = vec![done.map_or(&empty, |place| &run.history[place].2)];
    let under_way = run.history.get(done.map_or(0, |place| place + 1));
    models.extend(under_way.filter(|(before, ..)| *before <= count).map(|(.., model)| model));
    let spool = open(&run.disk.after(count, crash), &run.clock);
    check(&spool, &run.clock, &models).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_answered_survives_every_kind_of_end(steps in proptest::collection::vec(step(), 1..60)) {
        block_on(async {
            let mut run = Run::new();
            run.disk.slow_down(Duration::from_micros(100));
            for step in &steps {
                run.step(step).await;
            }
            run.step(&Step::Reopen(None)).await;
            run.step(&Step::Reopen(Some(steps.len() as u64))).await;
        });
    }

    #[test]
    fn a_crash_in_the_middle_of_a_step_leaves_it_done_or_not_begun(
        steps in proptest::collection::vec(step(), 1..25),
        seed: u64,
    ) {
        block_on(async {
            let mut run = Run::new();
            let lasts = |step: &&Step| !matches!(step, Step::Reopen(_) | Step::Close | Step::Burst(_));
            for step in steps.iter().filter(lasts) {
                run.step(step).await;
            }
            let operations = run.disk.operations();
            let stride = operations / 24 + 1;
            for count in (seed as usize % stride..=operations).step_by(stride) {
                crash_after(&run, count, Crash::Kill).await;
                crash_after(&run, count, Crash::Power(seed ^ count as u64)).await;
            }
        });
    }
}

/// The dialogue of a delivery that defers, narrows, fails and reports, cut at every single operation.
#[test]
fn no_operation_is_a_bad_one_to_be_killed_at() {
    let settle = |how| Step::Settle { which: 0, how };
    let steps = [
        Step::Accept { jobs: 2, octets: 900 },
        Step::Lease(1),
        settle(How::Retry(5)),
        Step::Lease(1),
        settle(How::NarrowWithReport),
        settle(How::Retry(6)),
        Step::Advance(10),
        Step::Lease(9),
        settle(How::Fail),
        settle(How::Done),
        settle(How::Done),
        Step::Lease(9),
        settle(How::Done),
    ];
    block_on(async {
        let mut run = Run::new();
        for step in &steps {
            run.step(step).await;
        }
        // What follows makes the first segments go.
        for _ in 0..12 {
            run.step(&Step::Accept { jobs: 1, octets: 1_000 }).await;
            run.step(&Step::Lease(1)).await;
            run.step(&settle(How::Done)).await;
        }
        for count in 0..=run.disk.operations() {
            crash_after(&run, count, Crash::Kill).await;
            crash_after(&run, count, Crash::Power((count as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))).await;
        }
    });
}
