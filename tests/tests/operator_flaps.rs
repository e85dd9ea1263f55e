//! DNS that goes wrong: what fails or is missed for a while changes nothing, what lasts is told once, and mail goes on.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]
#![allow(clippy::print_stdout, reason = "what was measured is worth seeing, and not worth failing for")]

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;
use tests::deadline::until_true;
use tests::knot::Knot;
use tests::kubernetes::{Operator, SETTLED, condition};
use tests::operated::{Operated, ZONE, zone_lines};

const DOMAIN: (&str, &str, &str) = ("shop", "sendingdomain", "example");
/// For so long what was there counts in the second test.
const SECS: i64 = 10;

/// A domain whose zone has two servers, of which the first is asked as a resolver too.
struct World {
    site: Operated,
    second: Knot,
    _operator: Operator,
    /// With all of the domain's records.
    ready: Value,
}

impl World {
    /// With the domain Ready.
    fn start(hold_secs: i64, doubt_secs: i64) -> Self {
        let mut site = Operated::start();
        let second = Knot::start(&site.lab.subfolder("second"), &[(ZONE, "")]);
        let servers = format!(
            "ns1 A {}\nns2 A {}\nout A 192.0.2.1\nmx A 192.0.2.9\n",
            site.knot.address(),
            second.address()
        );
        site.knot.serve("servers.test", &servers);
        let mut arguments = site.arguments();
        arguments.retain(|argument| !argument.starts_with("--operator-doubt"));
        arguments.push(format!("--operator-hold-secs={hold_secs}"));
        arguments.push(format!("--operator-doubt-secs={doubt_secs}"));
        let operator = site.cluster.operator("one", &arguments);
        site.apply_domain();
        site.apply_credential();
        let ready = site.checked_domain(2);
        let mut world = Self { site, second, _operator: operator, ready };
        world.first_has_all();
        world.second_has_all();
        world.site.cluster.wait_condition(DOMAIN, "Ready", "True");
        world.site.cluster.wait_condition(("shop", "smtpcredential", "app"), "Ready", "True");
        world
    }

    fn first_has_all(&mut self) {
        self.site.publish(&self.ready, None);
    }

    fn second_has_all(&mut self) {
        self.second.serve(ZONE, &zone_lines(&self.ready, None));
    }

    fn second_has_no_keys(&mut self) {
        self.second.serve(ZONE, &zone_lines(&self.ready, Some("DKIM")));
    }

    fn object(&self) -> Value {
        self.site.cluster.object(DOMAIN.0, DOMAIN.1, DOMAIN.2).unwrap()
    }

    /// Nothing changes while so many looks don't find all records as they were.
    fn stays(&self, looks: usize, what: &str) {
        let before = conditions(&self.object());
        let mut wrong = BTreeSet::new();
        self.site.cluster.wait(DOMAIN, what, |object| {
            assert_eq!(conditions(object), before, "{what}");
            wrong.extend((!is_well(object)).then(|| object["status"]["checkedAt"].to_string()));
            (wrong.len() >= looks).then_some(())
        });
    }

    /// Nothing changes until all records are found again.
    fn recovers(&self, what: &str) {
        let before = conditions(&self.object());
        self.site.cluster.wait(DOMAIN, &format!("all is found after {what}"), |object| {
            assert_eq!(conditions(object), before, "after {what}");
            is_well(object).then_some(())
        });
        println!("nothing changed: {what}");
    }

    /// How often it was told that the domain is ready or isn't.
    fn tellings(&self) -> u64 {
        let events = self.site.cluster.objects("shop", "events.events.k8s.io");
        let of_domain = events.iter().filter(|event| {
            (&event["regarding"]["kind"], &event["action"]) == (&"SendingDomain".into(), &"Check".into())
        });
        of_domain.map(|event| event["series"]["count"].as_u64().unwrap_or(1)).sum()
    }
}

/// All conditions: what, whether, why, and since when.
fn conditions(object: &Value) -> Vec<[String; 4]> {
    let conditions = object["status"]["conditions"].as_array().unwrap().iter();
    let parts = ["type", "status", "reason", "lastTransitionTime"];
    conditions.map(|condition| parts.map(|part| condition[part].as_str().unwrap().to_owned())).collect()
}

/// Whether the last look found all records that the domain needs.
fn is_well(object: &Value) -> bool {
    let status = &object["status"];
    let mut needed = status["records"].as_array().unwrap().iter().filter(|record| record["required"] == true);
    needed.all(|record| record["state"] == "Found" && record["checkedAt"] == status["checkedAt"])
}

fn second(value: &Value) -> i64 {
    value.as_str().unwrap().parse::<Timestamp>().unwrap().as_second()
}

#[test]
fn look_ups_that_fail_and_records_that_one_server_lacks_for_a_while_change_nothing() {
    let mut world = World::start(3600, 3600);
    let mx = world.site.lab.mx("d1.test");
    world.recovers("the first look");
    let (before, told) = (conditions(&world.object()), world.tellings());
    let sent = world.site.application().send_while(|| {
        for looks in [2, 1, 1] {
            let what = "SERVFAIL of a resolver and a server";
            world.site.knot.expire(ZONE);
            world.stays(looks, what);
            world.first_has_all();
            world.recovers(what);
        }
        let what = "silence of a resolver and a server";
        world.site.knot.stop();
        world.stays(2, what);
        world.site.knot.go_on();
        world.recovers(what);

        let what = "SERVFAIL of another server";
        world.second.expire(ZONE);
        world.stays(2, what);
        world.second_has_all();
        world.recovers(what);

        let what = "silence of another server";
        world.second.stop();
        world.stays(2, what);
        world.second.go_on();
        world.recovers(what);

        let what = "keys that one server lacks";
        for looks in [3, 1] {
            world.second_has_no_keys();
            world.stays(looks, what);
            world.second_has_all();
            world.recovers(what);
        }

        let what = "another record beside a key";
        let name = format!("{}._domainkey", world.ready["status"]["keys"][0]["selector"].as_str().unwrap());
        let twice = format!("{}{name} TXT \"v=DKIM1; p=\"\n", zone_lines(&world.ready, None));
        world.second.serve(ZONE, &twice);
        world.stays(2, what);
        world.second_has_all();
        world.recovers(what);

        let what = "a DMARC record that is gone for a while";
        world.site.publish(&world.ready, Some("DMARC"));
        world.stays(2, what);
        world.first_has_all();
        world.recovers(what);
    });
    println!("{sent} messages were sent meanwhile");
    world.site.all_signed(&mx, sent);
    assert_eq!((conditions(&world.object()), world.tellings()), (before, told));
}

/// Ready has come to be so, later than what was there may count; since when.
fn turns(world: &World, status: &str, reason: &str, seen: i64) {
    world.site.cluster.wait_condition(DOMAIN, "Ready", status);
    let object = world.object();
    let ready = condition(&object, "Ready").unwrap();
    assert_eq!(ready["reason"], reason);
    let held = second(&ready["lastTransitionTime"]) - seen;
    println!("{reason} after {held} s");
    assert!(held >= SECS, "{reason} after {held} s: {object:#}");
}

/// When the domain's first key was last seen at all servers.
fn key_seen(world: &World) -> i64 {
    let object = world.object();
    let records = object["status"]["records"].as_array().unwrap();
    let key = records.iter().find(|record| record["condition"] == "DKIMPublished").unwrap();
    assert_eq!(key["state"], "Found");
    second(&key["checkedAt"])
}

#[test]
fn what_lasts_is_told_once_and_so_is_its_end() {
    let mut world = World::start(SECS, SECS);
    let mx = world.site.lab.mx("d1.test");
    world.recovers("the first look");
    let told = world.tellings();
    let application = world.site.application();
    let sent = application.send_while(|| {
        let seen = key_seen(&world);
        world.site.knot.expire(ZONE);
        turns(&world, "Unknown", "LookupFailed", seen);
        world.stays(3, "look-ups that fail for long");
        world.first_has_all();
        world.site.cluster.wait_condition(DOMAIN, "Ready", "True");
        world.recovers("look-ups that failed for long");
    });
    println!("{sent} messages were sent while DNS couldn't be asked");
    world.site.all_signed(&mx, sent);
    until_true("both turns are told", SETTLED, || world.tellings() == told + 2);

    let seen = key_seen(&world);
    world.second_has_no_keys();
    turns(&world, "False", "RecordMissing", seen);
    until_true("mail is put off", SETTLED, || application.is_told() == 451);
    world.stays(3, "keys that one server lacks for long");
    world.second_has_all();
    world.site.cluster.wait_condition(DOMAIN, "Ready", "True");
    world.recovers("keys that one server lacked for long");
    until_true("mail is taken", SETTLED, || application.is_told() == 250);
    until_true("these turns are told too", SETTLED, || world.tellings() == told + 4);
}
