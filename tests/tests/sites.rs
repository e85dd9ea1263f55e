//! What one operator runs is one site: its limits hold for all domains that it takes mail for, and for nobody else's.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use tests::deadline::{SOON, until, until_true};
use tests::lab::Lab;
use tests::message;
use tests::mx::{Answer, Mx, Step};
use tests::stagepost::Stagepost;

const FROM: &str = "hello@sender.test";

/// Submits so many messages to each of these domains, in turn.
fn send(stagepost: &Stagepost, domains: &[&str], count: usize) {
    let mut client = stagepost.login();
    for number in 0..count {
        for domain in domains {
            let recipient = format!("user{number}@{domain}");
            let octets = message::text(FROM, &recipient, domain, "Hello.");
            client.submit(FROM, &[&recipient], &octets).queue_id();
        }
    }
}

/// Counts the transactions that are going on at a time, at however many receivers.
#[derive(Clone, Default)]
struct Transactions {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Transactions {
    /// The receiver takes a moment for each message.
    fn watch(&self, mx: &Mx) {
        let all = self.clone();
        mx.script(move |step| {
            match step {
                Step::Command { line, .. } if line.starts_with("MAIL") => {
                    let now = all.now.fetch_add(1, Ordering::SeqCst) + 1;
                    all.most.fetch_max(now, Ordering::SeqCst);
                }
                Step::Dot { .. } => {
                    std::thread::sleep(Duration::from_millis(50));
                    all.now.fetch_sub(1, Ordering::SeqCst);
                }
                _ => {}
            }
            Answer::Usual
        });
    }
}

/// Where two receivers wait for each other, each with a message in its hands.
#[derive(Default)]
struct Meeting {
    arrived: Mutex<[bool; 2]>,
    changed: Condvar,
}

impl Meeting {
    /// Whether both have come in time.
    fn attend(&self, place: usize) -> bool {
        let mut arrived = self.arrived.lock().unwrap_or_else(PoisonError::into_inner);
        arrived[place] = true;
        self.changed.notify_all();
        let (both, _) = self
            .changed
            .wait_timeout_while(arrived, SOON, |arrived| *arrived != [true, true])
            .unwrap_or_else(PoisonError::into_inner);
        *both == [true, true]
    }
}

#[test]
fn domains_with_the_same_mx_hosts_share_one_limit() {
    let lab = Lab::new();
    let hosts = ["mx1.host.test", "mx2.host.test"].map(|host| lab.mx_host(host));
    // The order of preference is another one: the set is the same.
    lab.dns.mx("d1.test", &[(10, "mx1.host.test"), (20, "mx2.host.test")]);
    lab.dns.mx("d2.test", &[(10, "MX2.host.test"), (20, "mx1.host.test")]);
    let transactions = Transactions::default();
    hosts.iter().for_each(|mx| transactions.watch(mx));
    let stagepost = lab
        .stagepost()
        .set("delivery.site_limits", vec!["mx1.host.test+mx2.host.test=0:1:1".to_owned()])
        .set("delivery.connection_idle_secs", 0_i64)
        .start();
    send(&stagepost, &["d1.test", "d2.test"], 10);
    let arrived = || hosts.iter().map(Mx::count).sum::<usize>();
    until_true("all mail", SOON * 2, || arrived() == 20);
    assert_eq!(transactions.most.load(Ordering::SeqCst), 1);
}

#[test]
fn domains_with_other_mx_hosts_have_limits_of_their_own() {
    let lab = Lab::new();
    let receivers = ["d1.test", "d2.test"].map(|domain| lab.mx(domain));
    let meeting = Arc::new(Meeting::default());
    for (place, mx) in receivers.iter().enumerate() {
        let meeting = Arc::clone(&meeting);
        mx.script(move |step| match step {
            Step::Dot { .. } if !meeting.attend(place) => Answer::reply("554 5.0.0 nobody else came"),
            _ => Answer::Usual,
        });
    }
    let limits = vec!["mx.d1.test=0:1:1".to_owned(), "mx.d2.test=0:1:1".to_owned()];
    let stagepost = lab.stagepost().set("delivery.site_limits", limits).start();
    send(&stagepost, &["d1.test", "d2.test"], 1);
    for mx in &receivers {
        mx.wait_for_within(1, SOON * 2);
    }
}

#[test]
fn a_providers_hosts_are_one_site_whatever_their_names() {
    let lab = Lab::new();
    let domains = ["d1.test", "d2.test", "d3.test"];
    let receivers = domains.map(|domain| {
        let host = format!("{}.mail.protection.outlook.com", domain.replace('.', "-"));
        lab.dns.mx(domain, &[(0, &host)]);
        lab.mx_host(&host)
    });
    let transactions = Transactions::default();
    receivers.iter().for_each(|mx| transactions.watch(mx));
    let stagepost = lab
        .stagepost()
        .set("delivery.site_limits", vec!["exchange-online=0:1:1".to_owned()])
        .set("delivery.connection_idle_secs", 0_i64)
        .start();
    send(&stagepost, &domains, 5);
    for mx in &receivers {
        mx.wait_for_within(5, SOON * 3);
    }
    assert_eq!(transactions.most.load(Ordering::SeqCst), 1);
}

#[test]
fn a_provider_gets_as_many_messages_on_a_connection_as_it_takes() {
    let lab = Lab::new();
    let yahoo = lab.mx_host("mta5.am0.yahoodns.net");
    lab.dns.mx("d1.test", &[(1, "mta5.am0.yahoodns.net")]);
    let other = lab.mx("d2.test");
    let stagepost = lab.stagepost().set("delivery.connections_max", 1_i64).start();
    send(&stagepost, &["d1.test", "d2.test"], 45);
    let most = |mx: &Mx| {
        let mut carried: BTreeMap<usize, usize> = BTreeMap::new();
        for received in mx.wait_for_within(45, SOON * 2) {
            *carried.entry(received.connection).or_default() += 1;
        }
        carried.into_values().max().unwrap()
    };
    assert!(most(&yahoo) <= 20, "{} messages on a connection", most(&yahoo));
    // It isn't that nobody gets more.
    assert!(most(&other) > 20, "{} messages on a connection", most(&other));
}

#[test]
fn a_site_is_tried_again_when_its_own_setting_says() {
    let lab = Lab::new();
    let receivers = ["d1.test", "d2.test"].map(|domain| {
        let mx = lab.mx(domain);
        let asked = AtomicUsize::new(0);
        mx.script(move |step| match step {
            Step::Command { line, .. }
                if line.starts_with("RCPT") && asked.fetch_add(1, Ordering::SeqCst) == 0 =>
            {
                Answer::reply("450 4.2.0 come again")
            }
            _ => Answer::Usual,
        });
        mx
    });
    let stagepost = lab
        .stagepost()
        .set("delivery.retry_waits_secs", vec![3600_i64])
        .set("delivery.site_retry_waits_secs", vec!["mx.d1.test=1:2".to_owned()])
        .start();
    send(&stagepost, &["d2.test", "d1.test"], 1);
    let deferred = |domain: &str| {
        let queue = stagepost.queue();
        queue
            .iter()
            .any(|job| job["state"] == "waiting" && job["to"][0] == format!("user0@{domain}").as_str())
    };
    until("the other's deferral", SOON, || deferred("d2.test").then_some(()));
    receivers[0].wait_for(1);
    assert!(deferred("d2.test"));
    assert_eq!(receivers[1].count(), 0);
}
