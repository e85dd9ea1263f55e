//! What comes before and beside conversations: accounts, keys, the simulator, the sandbox, bad messages.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use mail::{Job, JobId, QueueId, Recipient, RecipientResult};
use spool::embedded::Embedded;
use spool::{
    AcceptError, ContentError, Entry, EntryState, Lease, NewMessage, Query, Retry, Selection, SettleError,
    Spool, Summary,
};

use crate::harness::accounts::Standing;
use crate::harness::mx::{Behaviour, Mx};
use crate::harness::{Letter, Site, open, unsigned, until};

#[tokio::test]
async fn mail_of_a_suspended_account_is_held_and_goes_on_afterwards() {
    let mx = Mx::start(Behaviour::usual()).await;
    let mut site = Site::start(&[&mx], &[]).await;
    site.accounts.set(Standing::Suspended);
    let queue_id = site.submit(Letter::to(&["u@d1.test"])).await;
    let state = async |wanted: EntryState| site.queued().await.iter().all(|entry| entry.state == wanted);
    until("the message is held", async || state(EntryState::Held).await).await;
    assert_eq!(site.queued().await[0].job.deferred.as_deref(), Some("account is suspended: unpaid"));
    // An administrator's own hold is none of delivery's business.
    let later = Letter::to(&["v@d1.test"])
        .with(|message| message.not_before = Some(message.accepted_at.plus_secs(900)));
    let held = site.submit(later).await;
    until("both are held", async || {
        // Ignored while the job is leased.
        let _ = site.spool.hold(Selection::Message(held), String::from("by hand")).await;
        let queued = site.queued().await;
        queued.len() == 2 && queued.iter().all(|entry| entry.state == EntryState::Held)
    })
    .await;
    site.accounts.set(Standing::Good);
    let told = site.told().await;
    assert_eq!((told.queue_id, told.short().as_str()), (queue_id, "delivered 2.0.0"));
    until("one is left", async || site.queued().await.len() == 1).await;
    assert_eq!(site.queued().await[0].state, EntryState::Held);
    site.stop().await;
}

#[tokio::test]
async fn without_a_key_or_anybody_to_ask_nothing_leaves() {
    for standing in [Standing::Keyless, Standing::Away] {
        let mx = Mx::start(Behaviour::usual()).await;
        let site = Site::start(&[&mx], &[]).await;
        site.accounts.set(standing);
        site.submit(Letter::to(&["u@d1.test"])).await;
        until("the message waits", async || {
            matches!(site.queued().await[..], [Entry { state: EntryState::Waiting { .. }, .. }])
        })
        .await;
        let waiting = site.queued().await.remove(0);
        assert_eq!(waiting.job.attempts, 0, "{standing:?}");
        assert!(waiting.job.deferred.is_some());
        assert_eq!(mx.seen(|seen| seen.connections), 0);
        site.stop().await;
    }
}

#[tokio::test]
async fn mail_without_keys_leaves_unsigned_only_if_the_settings_say_so() {
    for (sign, standing) in
        [("when-keys", Standing::Keyless), ("never", Standing::Keyless), ("never", Standing::Good)]
    {
        let mx = Mx::start(Behaviour::usual()).await;
        let mut site = Site::start(&[&mx], &["--delivery-sign", sign]).await;
        site.accounts.set(standing);
        let letter = Letter::to(&["u@d1.test"]);
        let octets = letter.octets();
        site.submit(letter).await;
        assert_eq!(site.told().await.short(), "delivered 2.0.0");
        assert_eq!(mx.messages(), [octets], "{sign}");
        site.stop().await;
    }
}

#[tokio::test]
async fn simulated_recipients_end_as_named_and_are_recorded() {
    let home = Mx::start(Behaviour::usual()).await;
    let mut site = Site::start(&[&home], &["--delivery-retry-waits-secs", "600"]).await;
    let names =
        ["success+a", "bounce", "defer", "whoever"].map(|name| format!("{name}@simulator.stagepost.test"));
    site.submit(Letter::to(&names.each_ref().map(String::as_str))).await;
    let expected = ["bounced 5.1.1", "bounced 5.1.1", "deferred 4.3.0", "delivered 2.0.0"];
    assert_eq!(site.told_in_short(4).await, expected);
    // One report on both that bounced.
    assert_eq!(site.told().await.short(), "delivered 2.0.0");
    until("one waits", async || site.queued().await.len() == 1).await;
    assert_eq!(home.messages().len(), 1);
    site.stop().await;
}

#[tokio::test]
async fn the_sandbox_keeps_what_would_have_left() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mail").to_string_lossy().into_owned();
    let mut site = Site::start(&[], &["--delivery-mode", "sandbox", "--delivery-sandbox", &path]).await;
    let letter = Letter::to(&["u@d1.test", "v@d1.test"]);
    let octets = letter.octets();
    site.submit(letter).await;
    assert_eq!(site.told_in_short(2).await, ["delivered 2.0.0", "delivered 2.0.0"]);
    let files: Vec<_> = std::fs::read_dir(folder.path().join("mail/new")).unwrap().collect();
    assert_eq!(files.len(), 1);
    let kept = std::fs::read(files[0].as_ref().unwrap().path()).unwrap();
    let envelope =
        b"Return-Path: <boss@sender.test>\r\nDelivered-To: u@d1.test\r\nDelivered-To: v@d1.test\r\n";
    assert_eq!(unsigned(kept.strip_prefix(envelope).unwrap()), octets);
    site.drained().await;
    site.stop().await;
}

#[tokio::test]
async fn a_message_that_makes_us_panic_stops_no_other_and_goes_back_in_the_end() {
    let mx = Mx::start(Behaviour::usual()).await;
    let folder = tempfile::tempdir().unwrap();
    let poison = Letter::to(&["u@d1.test"]);
    let spool = Poisoned { inner: open(&folder), poison: poison.message.queue_id };
    let mut site = Site::over(spool, folder, &[&mx], &[]).await;
    let poison = site.submit(poison).await;
    for _ in 0..50 {
        site.submit(Letter::to(&["u@d1.test"])).await;
    }
    let (mut good, mut bad) = (0, Vec::new());
    while good < 51 {
        let told = site.told().await;
        if told.queue_id == poison {
            bad.push(told.short());
        } else {
            assert_eq!(told.short(), "delivered 2.0.0");
            good += 1;
        }
    }
    // Fifty messages, and the report on the bad one.
    assert_eq!(
        bad,
        ["deferred 4.3.0", "deferred 4.3.0", "deferred 4.3.0", "deferred 4.3.0", "bounced 5.3.0"]
    );
    site.stop().await;
}

#[tokio::test]
async fn what_is_being_delivered_when_the_process_ends_is_finished() {
    let mx = Mx::start(Behaviour::usual()).await;
    let mut site = Site::start(&[&mx], &[]).await;
    for _ in 0..200 {
        site.submit(Letter::to(&["u@d1.test"])).await;
    }
    site.told().await;
    let spool = Arc::clone(&site.spool);
    let _folder = tokio::time::timeout(Duration::from_secs(20), site.end()).await.expect("it ends in time");
    let left = spool.look(Query::default()).await.unwrap();
    assert!(left.iter().all(|entry| entry.state == EntryState::Ready), "nothing stays leased");
    assert_eq!(mx.messages().len() + left.len(), 200, "nothing is lost and nothing sent twice");
}

/// A store in which one message can't be read without a panic.
struct Poisoned {
    inner: Embedded,
    poison: QueueId,
}

struct PoisonedLease {
    inner: <Embedded as Spool>::Lease,
    poison: QueueId,
}

impl Spool for Poisoned {
    type Lease = PoisonedLease;
    type Events = <Embedded as Spool>::Events;

    fn events(&self) -> &Self::Events {
        self.inner.events()
    }

    async fn accept(&self, message: NewMessage) -> Result<(), AcceptError> {
        self.inner.accept(message).await
    }

    fn room_for(&self, octets: u64) -> Result<(), AcceptError> {
        self.inner.room_for(octets)
    }

    async fn lease(&self, max: usize) -> Vec<PoisonedLease> {
        let poison = self.poison;
        self.inner.lease(max).await.into_iter().map(|inner| PoisonedLease { inner, poison }).collect()
    }

    async fn look(&self, query: Query) -> Result<Vec<Entry>, ContentError> {
        self.inner.look(query).await
    }

    async fn header(&self, queue_id: QueueId) -> Result<Option<Bytes>, ContentError> {
        self.inner.header(queue_id).await
    }

    async fn summary(&self, hosts_max: usize) -> Summary {
        self.inner.summary(hosts_max).await
    }

    async fn release(&self, which: Selection) -> Result<usize, SettleError> {
        self.inner.release(which).await
    }

    async fn hold(&self, which: Selection, reason: String) -> Result<usize, SettleError> {
        self.inner.hold(which, reason).await
    }

    async fn remove(&self, which: Selection) -> Result<Vec<JobId>, SettleError> {
        self.inner.remove(which).await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}

impl Lease for PoisonedLease {
    fn job(&self) -> &Job {
        self.inner.job()
    }

    async fn content(&self, offset: u64) -> Result<Bytes, ContentError> {
        let job = self.inner.job();
        assert!(job.message.queue_id != self.poison || job.id.report.is_some(), "poison");
        self.inner.content(offset).await
    }

    async fn touch(&self) -> Result<(), SettleError> {
        self.inner.touch().await
    }

    async fn narrow(
        &mut self,
        remaining: Vec<Recipient>,
        results: Vec<RecipientResult>,
    ) -> Result<(), SettleError> {
        self.inner.narrow(remaining, results).await
    }

    async fn done(self, results: Vec<RecipientResult>) -> Result<(), SettleError> {
        self.inner.done(results).await
    }

    async fn retry(self, retry: Retry, results: Vec<RecipientResult>) -> Result<(), SettleError> {
        self.inner.retry(retry, results).await
    }

    async fn hold(self, reason: String) -> Result<(), SettleError> {
        self.inner.hold(reason).await
    }
}
