//! The promises of the local counters, seen through the trait.
#![allow(clippy::unwrap_used, reason = "a test fails where something is missing")]

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use limits::local::Local;
use limits::{Clock, Connection, Limits, Quota, QuotaTicket, SiteLimits, Slot, Urgency};

const NOON: u64 = 20_417 * 86_400_000 + 43_200_000;
const HALF_A_DAY: u64 = 43_200_000;

/// A clock whose hands the test turns; sleeping turns them too.
#[derive(Default)]
struct Hands {
    millis: AtomicU64,
    behind: AtomicU64,
}

impl Hands {
    fn forward(&self, millis: u64) {
        self.millis.fetch_add(millis, Ordering::SeqCst);
    }

    fn set_back(&self, millis: u64) {
        self.behind.store(millis, Ordering::SeqCst);
    }
}

impl Clock for Hands {
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.millis.load(Ordering::SeqCst))
    }

    fn unix_millis(&self) -> u64 {
        NOON + self.millis.load(Ordering::SeqCst) - self.behind.load(Ordering::SeqCst)
    }

    fn sleep(&self, time: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        self.forward(u64::try_from(time.as_millis()).unwrap() + 1);
        Box::pin(tokio::task::yield_now())
    }
}

async fn taken(local: &Local, account: &str, per_day: u64, recipients: u32) -> bool {
    match local.take_quota(account, Some(per_day), recipients).await {
        Quota::Taken(ticket) => {
            ticket.keep();
            true
        }
        Quota::Exhausted { .. } => false,
    }
}

async fn count_taken(local: &Arc<Local>, tasks: usize, takes: usize, per_day: u64) -> usize {
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..tasks {
        let local = Arc::clone(local);
        running.spawn(async move {
            let mut count = 0;
            for _ in 0..takes {
                count += usize::from(taken(&local, "a", per_day, 1).await);
                tokio::task::yield_now().await;
            }
            count
        });
    }
    running.join_all().await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_quota_holds_exactly_however_many_ask_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let journalled = Local::open(&folder.path().join("quota")).unwrap();
    for local in [Local::in_memory(), journalled] {
        let local = Arc::new(local);
        assert_eq!(count_taken(&local, 50, 10, 100).await, 100);
        assert_eq!(local.quota_used("a").await, 100);
    }
}

#[tokio::test]
async fn what_does_not_end_in_an_acceptance_is_given_back() {
    let local = Local::in_memory();
    assert!(taken(&local, "a", 100, 40).await);
    let Quota::Taken(ticket) = local.take_quota("a", Some(100), 60).await else { panic!("60 are left") };
    assert!(!taken(&local, "a", 100, 1).await);
    drop(ticket);
    assert_eq!(local.quota_used("a").await, 40);
    assert!(!taken(&local, "a", 100, 61).await);
    assert!(taken(&local, "a", 100, 60).await);
    assert!(taken(&local, "b", 1, 1).await);
    assert!(!taken(&local, "c", 0, 1).await);
}

#[tokio::test]
async fn an_account_without_a_quota_is_counted_and_not_limited() {
    let local = Local::in_memory();
    for _ in 0..1000 {
        let Quota::Taken(ticket) = local.take_quota("a", None, 7).await else { panic!("limited") };
        ticket.keep();
    }
    assert_eq!(local.quota_used("a").await, 7000);
}

#[tokio::test]
async fn a_day_begins_once_at_midnight_utc() {
    let hands = Arc::new(Hands::default());
    let local = Local::in_memory_with_clock(Arc::clone(&hands) as Arc<dyn Clock>);
    let Quota::Taken(yesterday) = local.take_quota("a", Some(10), 10).await else { panic!("none left") };
    let Quota::Exhausted { resets_in } = local.take_quota("a", Some(10), 1).await else { panic!("one more") };
    assert_eq!(resets_in, Duration::from_millis(HALF_A_DAY));
    hands.forward(HALF_A_DAY - 1);
    assert!(!taken(&local, "a", 10, 1).await);
    hands.forward(1);
    assert_eq!(local.quota_used("a").await, 0);
    assert!(taken(&local, "a", 10, 10).await);
    // A clock that is set back over midnight opens neither day again.
    hands.set_back(5000);
    assert!(!taken(&local, "a", 10, 1).await);
    hands.set_back(0);
    assert!(!taken(&local, "a", 10, 1).await);
    // What was given up yesterday isn't given back to today.
    drop(yesterday);
    assert_eq!(local.quota_used("a").await, 10);
}

#[tokio::test]
async fn an_orderly_restart_remembers_exactly_what_was_used() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("quota");
    for round in 0..5 {
        let local = Local::open(&path).unwrap();
        assert_eq!(local.quota_used("a").await, round * 7);
        assert!(taken(&local, "a", 100, 7).await);
        drop(local.take_quota("a", Some(100), 50).await);
        local.close().await;
    }
    assert_eq!(Local::open(&path).unwrap().quota_used("a").await, 35);
}

#[tokio::test]
async fn a_kill_forgets_nothing_and_costs_a_block_at_most() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("quota"), folder.path().join("copy"));
    let local = Local::open(&path).unwrap();
    for used in 1..=100u64 {
        assert!(taken(&local, "a", 100, 1).await);
        // What is on disk at this instant is what a kill would leave.
        std::fs::copy(&path, &copy).unwrap();
        let remembered = Local::open(&copy).unwrap().quota_used("a").await;
        assert!((used..=used + 6).contains(&remembered), "{remembered} of {used}");
        assert!(remembered <= 100);
    }
    assert!(!taken(&local, "a", 100, 1).await);
}

#[tokio::test]
async fn a_record_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let Err(error) = Local::open(folder.path()) else { panic!("a folder was taken for a file") };
    assert!(error.to_string().contains(folder.path().to_str().unwrap()), "{error}");
    std::fs::write(folder.path().join("quota"), b"\xff\xfe rubbish\n\n1 2\n").unwrap();
    assert!(taken(&Local::open(&folder.path().join("quota")).unwrap(), "a", 1, 1).await);
}

#[tokio::test]
async fn a_job_waits_two_seconds_at_most_for_a_slot() {
    let hands = Arc::new(Hands::default());
    let local = Local::in_memory_with_clock(Arc::clone(&hands) as Arc<dyn Clock>);
    let limits = SiteLimits { messages_per_sec: 1.0, burst: 1, connections: 0 };
    let slot = |urgency| local.slot("site", limits, 1, urgency);
    assert_eq!(slot(Urgency::Fresh).await, Slot::Go(1));
    // Within two seconds: it goes, late.
    assert_eq!(slot(Urgency::Fresh).await, Slot::Go(1));
    assert!((1000..1010).contains(&hands.monotonic().as_millis()));
}

/// A clock that stands, and in which nobody wakes up.
struct Frozen;

impl Clock for Frozen {
    fn monotonic(&self) -> Duration {
        Duration::from_secs(1000)
    }

    fn unix_millis(&self) -> u64 {
        NOON
    }

    fn sleep(&self, _: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(std::future::pending())
    }
}

#[test]
fn of_many_at_once_those_who_cannot_go_within_two_seconds_are_told_when_to_come_back() {
    let local = Local::in_memory_with_clock(Arc::new(Frozen));
    let limits = SiteLimits { messages_per_sec: 1.0, burst: 1, connections: 0 };
    let mut context = Context::from_waker(Waker::noop());
    let mut asking: Vec<_> =
        (0..200).map(|_| Box::pin(local.slot("site", limits, 1, Urgency::Fresh))).collect();
    let answers: Vec<_> = asking.iter_mut().map(|ask| ask.as_mut().poll(&mut context)).collect();
    assert_eq!(answers[0], Poll::Ready(Slot::Go(1)));
    // The next one is waited for, the others' places are a second apart.
    assert!(answers[1].is_pending());
    for (answer, place) in answers.iter().zip(0u64..).skip(2) {
        let Poll::Ready(Slot::Wait(wait)) = answer else { panic!("{answer:?} at {place}") };
        assert_eq!(wait.as_millis(), u128::from(place) * 1000);
    }
}

#[tokio::test]
async fn a_dropped_connection_lease_makes_room() {
    let local = Local::in_memory();
    let limits = SiteLimits { messages_per_sec: 0.0, burst: 1, connections: 1 };
    let Connection::Granted(lease) = local.connection("site", limits).await else { panic!("the first") };
    assert!(matches!(local.connection("site", limits).await, Connection::Wait(_)));
    assert!(matches!(local.connection("other", limits).await, Connection::Granted(_)));
    drop(lease);
    assert!(matches!(local.connection("site", limits).await, Connection::Granted(_)));
}

#[tokio::test]
async fn guesses_are_slowed_and_the_right_password_from_elsewhere_still_works() {
    let hands = Arc::new(Hands::default());
    let local = Local::in_memory_with_clock(Arc::clone(&hands) as Arc<dyn Clock>);
    let (guesser, owner): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "198.51.100.1".parse().unwrap());
    let mut seen = 0;
    for _ in 0..500 {
        if local.login_wait("anna", guesser).await.is_none() {
            seen += 1;
            local.login_failed("anna", guesser).await;
        }
    }
    assert_eq!(seen, 3);
    assert_eq!(local.login_wait("anna", owner).await, None);
    local.login_succeeded("anna", owner);
    hands.forward(901_000);
    assert_eq!(local.login_wait("anna", guesser).await, None);
}

#[tokio::test]
async fn one_address_guessing_many_names_is_slowed_and_does_not_lock_out_who_logged_in_there() {
    let local = Local::in_memory_with_clock(Arc::new(Hands::default()));
    let address: IpAddr = "2001:db8::1".parse().unwrap();
    assert_eq!(local.login_wait("honest", address).await, None);
    local.login_succeeded("honest", address);
    let mut seen = 0;
    for name in 0..500u32 {
        // One host has a whole network of addresses to guess from.
        let address = IpAddr::V6((0x2001_0db8_u128 << 96 | u128::from(name)).into());
        if local.login_wait(&format!("user{name}"), address).await.is_none() {
            seen += 1;
            local.login_failed(&format!("user{name}"), address).await;
        }
    }
    assert_eq!(seen, 21);
    assert_eq!(local.login_wait("honest", address).await, None);
    assert!(local.login_wait("stranger", address).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn five_hundred_sessions_guessing_at_once_get_few_guesses() {
    let local = Arc::new(Local::in_memory());
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    let guesses = Arc::new(AtomicU64::new(0));
    let mut sessions = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let (local, guesses) = (Arc::clone(&local), Arc::clone(&guesses));
        sessions.spawn(async move {
            if local.login_wait("anna", address).await.is_none() {
                guesses.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
                local.login_failed("anna", address).await;
            }
        });
    }
    sessions.join_all().await;
    // Those that were being looked at when the first failed, and the free ones that came in between.
    assert!(guesses.load(Ordering::SeqCst) <= 20, "{guesses:?} guesses");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn five_hundred_honest_sessions_at_once_all_get_in() {
    let local = Arc::new(Local::in_memory());
    let address: IpAddr = "192.0.2.1".parse().unwrap();
    let mut sessions = tokio::task::JoinSet::new();
    for _ in 0..500 {
        let local = Arc::clone(&local);
        sessions.spawn(async move {
            let wait = local.login_wait("application", address).await;
            tokio::task::yield_now().await;
            local.login_succeeded("application", address);
            wait
        });
    }
    assert!(sessions.join_all().await.iter().all(Option::is_none));
}
