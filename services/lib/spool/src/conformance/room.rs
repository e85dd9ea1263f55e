//! A store that is full.

use mail::JobKind;

use super::sample::{bounced, deferred, message, recipients};
use super::{Setup, Stage, lease, must};
use crate::{AcceptError, Lease, NewMessage, Origin, Retry, Spool};

/// Small enough to be filled, large enough for a backend's own overhead.
const OCTETS: u64 = 24 << 20;
/// Who gets the reports.
const SENDER: &str = "sender@example.com";

/// Everything fails for good: each job makes a report, each report a message to the sender, for which there is still room;
/// they are delivered, then there is room again.
pub async fn a_full_store_drains_by_bouncing<S: Stage>(stage: &mut S) {
    let setup = Setup { octets_max: OCTETS, ..Setup::default() };
    let spool = stage.open(setup).await;
    let accepted = fill(&spool, stage).await;
    let (mut failed, mut reported, mut told) = (0, 0, 0);
    while told < accepted {
        for job in lease(&spool, 64).await {
            match &job.job().kind {
                JobKind::Delivery { recipients } if recipients[0].address.to_string() == SENDER => {
                    must(job.done(Vec::new()).await, "deliver a report from a full store");
                    told += 1;
                }
                JobKind::Delivery { recipients } => {
                    let failure = vec![bounced(&recipients[0], stage.now())];
                    must(job.done(failure).await, "fail in a full store");
                    failed += 1;
                }
                JobKind::Report { .. } => {
                    let content = vec![b'r'; 3_000];
                    let report = message(100_000 + reported, "a", &[&[SENDER]], &content, stage.now());
                    let report = NewMessage { origin: Origin::Report(job.job().id), ..report };
                    must(spool.accept(report).await, "report from a full store");
                    must(job.done(Vec::new()).await, "end a report in a full store");
                    reported += 1;
                }
            }
        }
    }
    assert_eq!((failed, reported), (accepted, accepted));
    assert!(room_comes_back(&spool).await, "everything has ended, and there is no room");
}

/// Everything fails for a while, again and again: each retry is kept, and what is delivered at last makes room.
pub async fn a_full_store_drains_by_deferring<S: Stage>(stage: &mut S) {
    let setup = Setup { octets_max: OCTETS, ..Setup::default() };
    let mut spool = stage.open(setup).await;
    let accepted = fill(&spool, stage).await;
    for attempts in 1..6 {
        let mut left = accepted;
        while left > 0 {
            for job in lease(&spool, 64).await {
                let remaining: Vec<_> =
                    recipients(job.job()).iter().map(|recipient| deferred(recipient, stage.now())).collect();
                let signature = Some("DKIM-Signature: v=1; b=".to_owned() + &"x".repeat(400) + "\r\n");
                let retry = Retry {
                    at: stage.now().plus_secs(3_600),
                    remaining,
                    attempts,
                    reason: "421 later".into(),
                    signature: signature.map(Into::into),
                };
                must(job.retry(retry, Vec::new()).await, "retry in a full store");
                left -= 1;
            }
        }
        assert!(spool.summary(0).await.disk_octets < 2 * OCTETS, "retries pile up on disk");
        stage.advance(3_600_000).await;
    }
    stage.kill(spool).await;
    spool = stage.open(setup).await;
    let mut left = accepted;
    while left > 0 {
        for job in lease(&spool, 64).await {
            assert_eq!(job.job().attempts, 5);
            must(job.done(Vec::new()).await, "deliver from a full store");
            left -= 1;
        }
    }
    assert!(room_comes_back(&spool).await, "everything has ended, and there is no room");
}

/// Accepts until there is no room; says how many.
async fn fill<S: Stage>(spool: &S::Spool, stage: &S) -> u64 {
    let content = vec![b'x'; 60_000];
    for number in 0..10_000 {
        let new = message(number, "a", &[&["user@example.org"]], &content, stage.now());
        match spool.accept(new).await {
            Ok(()) => {}
            Err(AcceptError::Full(_)) => {
                assert!(number > 50, "the store was full after {number} messages");
                assert!(matches!(spool.room_for(60_000), Err(AcceptError::Full(_))));
                return number;
            }
            Err(error) => panic!("accept: {error}"),
        }
    }
    panic!("the store was never full");
}

async fn room_comes_back<S: Spool>(spool: &S) -> bool {
    for _ in 0..100 {
        if spool.room_for(1 << 20).is_ok() {
            return true;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    false
}
