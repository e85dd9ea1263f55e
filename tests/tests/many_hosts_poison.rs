//! Records that no version should have written stop nobody: good mail goes on through the same workers, which live, and each of
//! them ends, waits with a reason, or is put aside.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "the figures of a run are part of what it proves")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use prost::Message as _;
use proto::spool::v1 as wire;
use serde_json::Value;
use tests::deadline::SOON;
use tests::fleet::{Fleet, FleetSetup, Role};
use tests::lab::Lab;
use tests::message;
use tests::submitters::FROM;

const GOOD: usize = 300;

const FOR_NOBODY: &str = "no recipients";

type Spoil = fn(&mut wire::Job);

/// What is wrong with a record, by a name.
const SPOILT: [(&str, Spoil); 20] = [
    ("no header", |job| message_of(job).header_octets = 0),
    ("a header of five octets", |job| message_of(job).header_octets = 5),
    ("a header longer than all", |job| message_of(job).header_octets = u32::MAX),
    ("one octet", |job| message_of(job).octets = 1),
    ("more octets than there are", |job| message_of(job).octets = 1 << 50),
    ("no content", |job| job.content = Some(Vec::new().into())),
    ("content that is none", |job| job.content = Some(vec![0; 5_000].into())),
    ("content beside that isn't there", |job| (job.content, job.chunk_octets) = (None, 512 << 10)),
    ("chunks of all sizes", |job| (job.content, job.chunk_octets) = (None, u32::MAX)),
    ("a signature that is none", |job| state_of(job).signature = Some("\r\n\r\n\u{200b}\0".into())),
    ("a domain that nobody has", |job| message_of(job).author_domain = "nobody.test".into()),
    ("an account that nobody is", |job| message_of(job).account_id = "acc-nobody".into()),
    ("accepted at the end of time", |job| message_of(job).accepted_at_ms = u64::MAX),
    ("expired at the beginning", |job| message_of(job).expires_at_ms = 0),
    ("never to expire", |job| message_of(job).expires_at_ms = u64::MAX),
    ("due at the end of time", |job| state_of(job).due_at_ms = Some(u64::MAX)),
    ("attempts without number", |job| state_of(job).attempts = u32::MAX),
    ("as many reports as there can be", |job| state_of(job).reports = u16::MAX.into()),
    (FOR_NOBODY, |job| state_of(job).recipients.clear()),
    ("a demand that isn't known", |job| message_of(job).tls = 99),
];

fn message_of(job: &mut wire::Job) -> &mut wire::Message {
    job.message.as_mut().unwrap()
}

fn state_of(job: &mut wire::Job) -> &mut wire::State {
    job.state.as_mut().unwrap()
}

/// Submits a message for each while nobody delivers, and spoils its record; gives their queue ids by name.
fn spoil(fleet: &Fleet) -> BTreeMap<String, &'static str> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let connect = async { jetstream::new(async_nats::connect(fleet.nats.url()).await.unwrap()) };
    let context = runtime.block_on(connect);
    let mut client = fleet.login(0);
    let mut spoilt = BTreeMap::new();
    for (number, (name, change)) in SPOILT.into_iter().enumerate() {
        let to = format!("bad{number}@refuses.test");
        let queue_id = client.submit(FROM, &[&to], &message::text(FROM, &to, name, "Hello.")).queue_id();
        let replaced = runtime.block_on(async {
            for partition in 0..2 {
                let stream = context.get_stream(format!("stagepost-MAIL-{partition}")).await.unwrap();
                let filter = format!("stagepost.mail.{partition}.*.{queue_id}.0");
                let Ok(record) = stream.get_last_raw_message_by_subject(&filter).await else { continue };
                let mut job = wire::Job::decode(record.payload.clone()).unwrap();
                change(&mut job);
                stream.delete_message(record.sequence).await.unwrap();
                let sent = context.publish(record.subject.clone(), job.encode_to_vec().into()).await.unwrap();
                sent.await.unwrap();
                return true;
            }
            false
        });
        assert!(replaced, "{queue_id} is queued");
        spoilt.insert(queue_id, name);
    }
    spoilt
}

/// What became of a message: how it ended, else where it is.
fn fate(events: &[Value], queue: &[Value], dead: &str, queue_id: &str, name: &str) -> Option<String> {
    let ends = ["delivered", "bounced", "expired", "dropped"];
    let of_it = events.iter().filter(|event| event["queue_id"] == queue_id);
    let ended = of_it.map(|event| event["kind"].as_str().unwrap()).find(|kind| ends.contains(kind));
    let queued = || {
        let job = queue.iter().find(|job| job["job"].to_string().contains(queue_id))?;
        let state = job["state"].as_str()?;
        ["waiting", "held"].contains(&state).then(|| format!("{state}: {}", job["reason"]))
    };
    let aside = || dead.contains(queue_id).then(|| "put aside".to_owned());
    // Nobody is to be told of a job for nobody.
    let is_queued = || queue.iter().any(|job| job["job"].to_string().contains(queue_id));
    let gone = || (name == FOR_NOBODY && !is_queued()).then(|| "gone".to_owned());
    ended.map(str::to_owned).or_else(queued).or_else(aside).or_else(gone)
}

#[test]
fn spoilt_records_stop_neither_workers_nor_good_mail() {
    let lab = Lab::new();
    let receiver = lab.mx("d1.test");
    let _refuses = lab.mx("refuses.test");
    let _reports = lab.mx("sender.test");
    let mut fleet = FleetSetup::new(&lab)
        .with(Role::Delivery, 2)
        .set("nats.partitions", 2)
        .set("nats.lanes", 1)
        .set("delivery.retry_waits_secs", vec![2_i64])
        .start();
    (0..2).for_each(|place| assert!(fleet.stop(Role::Delivery, place, SOON).success()));
    let spoilt = spoil(&fleet);
    let mut client = fleet.login(0);
    for number in 0..GOOD {
        let to = format!("user{number}@d1.test");
        client.submit(FROM, &[&to], &message::text(FROM, &to, "good", "Hello.")).queue_id();
    }
    (0..2).for_each(|place| fleet.start(Role::Delivery, place));
    (0..2).for_each(|place| fleet.wait_ready(Role::Delivery, place));
    let workers: Vec<u32> = (0..2).map(|place| fleet.process(Role::Delivery, place).id()).collect();

    let received = receiver.wait_for_within(GOOD, SOON * 3);
    let recipients: BTreeSet<&str> = received.iter().flat_map(|message| message.recipients()).collect();
    assert_eq!((received.len(), recipients.len()), (GOOD, GOOD));
    let end = Instant::now() + SOON * 3;
    let fates = loop {
        let (events, queue) = (fleet.events(), fleet.queue());
        let dead = fleet.ask(&["queue", "dead"]).to_string();
        let fates: Vec<_> = spoilt
            .iter()
            .map(|(queue_id, name)| (name, queue_id, fate(&events, &queue, &dead, queue_id, name)))
            .collect();
        if fates.iter().all(|(_, _, fate)| fate.is_some()) {
            break fates;
        }
        assert!(Instant::now() < end, "some neither ended, nor wait, nor are put aside: {fates:#?}");
        std::thread::sleep(Duration::from_millis(500));
    };
    for (name, queue_id, fate) in fates {
        println!("{queue_id} {name}: {}", fate.unwrap_or_default());
    }
    for (place, id) in workers.into_iter().enumerate() {
        assert_eq!(fleet.process(Role::Delivery, place).id(), id);
        let health = fleet.admin(Role::Delivery, place, "/livez").unwrap();
        assert_eq!(health.status, 200, "{}", fleet.log(Role::Delivery, place));
    }
}
