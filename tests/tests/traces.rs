//! What happens to a message is one trace, from the client's MAIL to the recipient's server; what happens to it after a deferral is
//! another, linked to it. Traces name no person, and where nobody wants them there are none.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tests::deadline::{SOON, until_true};
use tests::fleet::{FleetSetup, Role};
use tests::jaeger::{Jaeger, Span, Trace};
use tests::lab::Lab;
use tests::message;
use tests::mx::{Answer, Step, Tls};
use tests::stagepost::{Setup, Stagepost};

const FROM: &str = "hello@sender.test";
const ASKED: &str = "accounts.authorize";
const CALL: &str = "stagepost.accounts.v1.Directory/Authorize";

fn traced<'lab>(lab: &'lab Lab, jaeger: &Jaeger) -> Setup<'lab> {
    lab.stagepost().set("otlp_endpoint", jaeger.endpoint()).set("log_format", "json")
}

fn submit(stagepost: &Stagepost, recipient: &str) -> String {
    let octets = message::text(FROM, recipient, "traced", "Hello.");
    stagepost.login().submit(FROM, &[recipient], &octets).queue_id()
}

fn is_child(child: &Span, parent: &Span) -> bool {
    child.parent.as_deref() == Some(&parent.id) && child.trace == parent.trace
}

fn is_linked(span: &Span, to: &Span) -> bool {
    span.links.contains(&(to.trace.clone(), to.id.clone()))
}

fn event_names(span: &Span) -> Vec<&str> {
    span.events.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn a_message_is_one_trace_from_the_client_to_the_recipients_server() {
    let lab = Lab::new();
    let jaeger = Jaeger::start(&lab);
    let mx = lab.mx("d1.test");
    mx.tls(Tls::Works(lab.authority.issue(&["mx.d1.test"]).server()));
    let stagepost = traced(&lab, &jaeger).start();
    let id = submit(&stagepost, "somebody@d1.test");
    let received = mx.wait_for(1);
    assert!(received[0].tls);
    let trace = jaeger.wait_for_message(&id, "process", 1);

    let root = trace.only("smtp.transaction");
    assert_eq!(root.parent, None);
    assert_eq!((root.attribute("span.kind"), root.attribute("smtp.reply_code")), ("server", "250"));
    assert_eq!(
        (root.attribute("mail.sender.domain"), root.attribute("mail.queue_id")),
        ("sender.test", &*id)
    );
    assert_eq!(event_names(root), ["RCPT"]);
    for (name, kind) in [("accounts.authorize", "internal"), ("publish", "producer"), ("process", "consumer")]
    {
        let child = trace.only(name);
        assert!(is_child(child, root), "{child:#?}");
        assert_eq!(child.attribute("span.kind"), kind);
    }
    let process = trace.only("process");
    for span in [process, trace.only("publish")] {
        assert_eq!(span.attribute("messaging.message.id"), id);
        assert_eq!(span.attribute("messaging.operation.name"), span.name);
    }
    assert_eq!(
        (process.attribute("mail.queue_id"), process.attribute("mail.disposition")),
        (&*id, "delivered")
    );
    for name in ["dns.mx", "dkim.sign", "smtp.connect", "smtp.tls", "smtp.deliver"] {
        let child = trace.only(name);
        assert!(is_child(child, process), "{child:#?}");
        assert!(!child.attributes.contains_key("error.type"), "{child:#?}");
    }
    let deliver = trace.only("smtp.deliver");
    let peer = mx.address().ip().to_string();
    for span in [deliver, trace.only("smtp.connect"), trace.only("smtp.tls")] {
        assert_eq!(span.attribute("span.kind"), "client");
        assert_eq!(span.attribute("server.address"), "mx.d1.test");
        assert_eq!(span.attribute("network.peer.address"), peer);
    }
    assert_eq!(trace.only("smtp.tls").attribute("tls.protocol.version"), "TLSv1_3");
    assert_eq!(deliver.attribute("smtp.reply_code"), "250");
    assert_eq!(event_names(deliver), ["MAIL", "RCPT", "DATA", "the final dot"]);

    let log = stagepost.log();
    let line = log.lines().find(|line| line.contains("\"attempt\"") && line.contains(&id)).unwrap();
    assert!(line.contains(&format!("\"trace_id\":\"{}\"", root.trace)), "{line}");
    // The session ends after its transactions; they are linked to it, and it names who logged in.
    let traces = jaeger.wait_for("the session", |traces| {
        let sessions = traces.iter().flat_map(|trace| trace.named("smtp.session"));
        sessions.into_iter().any(|session| is_linked(root, session)).then(|| traces.to_vec())
    });
    let told = format!("{traces:?}");
    assert!(!told.contains("hello@") && !told.contains("somebody"), "an address is told: {told}");
}

#[test]
fn over_many_hosts_it_is_one_trace_as_well() {
    let lab = Lab::new();
    let jaeger = Jaeger::start(&lab);
    let mx = lab.mx("d1.test");
    mx.tls(Tls::Works(lab.authority.issue(&["mx.d1.test"]).server()));
    let fleet = FleetSetup::new(&lab)
        .with(Role::Ingress, 2)
        .with(Role::Delivery, 2)
        .set("otlp_endpoint", jaeger.endpoint())
        .set("ingress.profile_refresh_secs", 1_i64)
        .start();
    let mut client = fleet.login(1);
    // As long as Redis doesn't know who has connections, none is opened; and what accounts said isn't to be known any more.
    let before = lab.mx("before.test");
    let octets = message::text(FROM, "somebody@before.test", "before", "Hello.");
    assert_eq!(client.submit(FROM, &["somebody@before.test"], &octets).code, 250);
    before.wait_for_within(1, SOON * 3);
    std::thread::sleep(Duration::from_secs(2));
    let octets = message::text(FROM, "somebody@d1.test", "traced", "Hello.");
    let id = client.submit(FROM, &["somebody@d1.test"], &octets).queue_id();
    mx.wait_for(1);
    let trace = jaeger.wait_for("the whole of it", |traces| {
        let whole = |trace: &&Trace| {
            let names = trace.names();
            trace.0.iter().any(|span| span.attribute("mail.queue_id") == id)
                && [CALL, "smtp.transaction", "publish", "process", "smtp.deliver"]
                    .iter()
                    .all(|it| names.contains(it))
        };
        traces.iter().find(whole).cloned()
    });
    let root = trace.only("smtp.transaction");
    let process = trace.only("process");
    assert!(is_child(process, root), "{process:#?}");
    for (name, parent, service) in [
        ("smtp.transaction", None, "stagepost-ingress"),
        ("accounts.authorize", Some(root), "stagepost-ingress"),
        ("publish", Some(root), "stagepost-ingress"),
        ("process", Some(root), "stagepost-delivery"),
        ("dns.mx", Some(process), "stagepost-delivery"),
        ("dkim.sign", Some(process), "stagepost-delivery"),
        ("smtp.connect", Some(process), "stagepost-delivery"),
        ("smtp.tls", Some(process), "stagepost-delivery"),
        ("smtp.deliver", Some(process), "stagepost-delivery"),
    ] {
        let span = trace.only(name);
        assert_eq!(span.service, service, "{span:#?}");
        assert_eq!(span.parent.as_ref(), parent.map(|parent| &parent.id), "{span:#?}");
    }
    let calls = trace.named(CALL);
    assert!(calls.iter().any(|call| call.service == "stagepost-accounts"), "{calls:#?}");
    // What is told of it elsewhere names the trace.
    let events = fleet.events();
    let of_it = events.iter().filter(|event| event["queue_id"] == id);
    let of_it: Vec<&str> = of_it.filter_map(|event| event["trace_id"].as_str()).collect();
    assert_eq!(of_it, [&*root.trace, &*root.trace], "{events:#?}");
}

#[test]
fn accounts_goes_on_with_the_trace_of_the_transaction_that_asks() {
    let lab = Lab::new();
    let jaeger = Jaeger::start(&lab);
    let stagepost = traced(&lab, &jaeger).set("ingress.profile_refresh_secs", 1_i64).start();
    let mut client = stagepost.login();
    // Accounts is asked again when what it said is a second old.
    let trace = jaeger.wait_for("a transaction that asks accounts", |traces| {
        client.expect("MAIL FROM:<hello@sender.test>", 250);
        client.expect("RSET", 250);
        let asks = |trace: &&Trace| {
            trace.named(CALL).len() == 2 && trace.names().is_superset(&["smtp.transaction", ASKED].into())
        };
        traces.iter().find(asks).cloned()
    });
    let asked = trace.only(ASKED);
    assert!(is_child(asked, trace.only("smtp.transaction")));
    let calls = trace.named(CALL);
    let of_kind = |kind: &str| *calls.iter().find(|call| call.attribute("span.kind") == kind).unwrap();
    assert!(is_child(of_kind("client"), asked), "{trace:#?}");
    assert!(is_child(of_kind("server"), of_kind("client")), "{trace:#?}");
}

#[test]
fn an_attempt_after_a_deferral_is_a_trace_of_its_own_that_is_linked_to_the_first() {
    let lab = Lab::new();
    let jaeger = Jaeger::start(&lab);
    let mx = lab.mx("d1.test");
    let first = AtomicBool::new(true);
    mx.script(move |step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") && first.swap(false, Ordering::Relaxed) => {
            Answer::reply("451 4.2.1 somebody@d1.test is busy")
        }
        _ => Answer::Usual,
    });
    let stagepost = traced(&lab, &jaeger).start();
    let id = submit(&stagepost, "somebody@d1.test");
    mx.wait_for(1);
    let trace = jaeger.wait_for_message(&id, "process", 1);
    let deferred = trace.only("process");
    assert_eq!(
        (deferred.attribute("mail.attempt"), deferred.attribute("mail.disposition")),
        ("1", "deferred")
    );
    let refused = trace.only("smtp.deliver");
    assert_eq!(
        (refused.attribute("smtp.reply_code"), refused.attribute("smtp.enhanced_status")),
        ("451", "4.2.1")
    );
    assert_eq!(
        (refused.attribute("error.type"), refused.attribute("otel.status_code")),
        ("deferred", "ERROR")
    );

    let (second, told) = jaeger.wait_for("the second attempt", |traces| {
        let is_second = |trace: &&Trace| trace.0.iter().any(|span| span.attribute("mail.attempt") == "2");
        Some((traces.iter().find(is_second).cloned()?, format!("{traces:?}")))
    });
    let process = second.only("process");
    assert_eq!(process.parent, None);
    assert_ne!(process.trace, deferred.trace);
    assert!(is_linked(process, trace.only("smtp.transaction")), "{process:#?}");
    assert_eq!(
        (process.attribute("mail.queue_id"), process.attribute("mail.disposition")),
        (&*id, "delivered")
    );
    // It was signed already.
    assert!(!second.names().contains("dkim.sign"));
    assert!(is_child(second.only("smtp.deliver"), process));
    assert!(!told.contains("somebody"), "what the server said names somebody: {told}");
}

#[test]
fn a_report_to_the_sender_is_part_of_the_trace_of_what_it_reports() {
    let lab = Lab::new();
    let jaeger = Jaeger::start(&lab);
    let mx = lab.mx("d1.test");
    let sender = lab.mx("sender.test");
    mx.script(|step| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => Answer::reply("550 5.1.1 nobody"),
        _ => Answer::Usual,
    });
    let stagepost = traced(&lab, &jaeger).start();
    let id = submit(&stagepost, "somebody@d1.test");
    sender.wait_for(1);
    let trace = jaeger.wait_for_message(&id, "process", 2);
    let report = trace.only("report");
    assert!(is_child(report, trace.only("smtp.transaction")), "{report:#?}");
    let [bounced, told] = trace.named("process")[..] else { panic!("{trace:#?}") };
    assert_eq!((bounced.attribute("mail.queue_id"), bounced.attribute("error.type")), (&*id, "bounced"));
    assert!(is_child(told, report), "{told:#?}");
    assert_eq!(
        (told.attribute("mail.recipient.domain"), told.attribute("mail.disposition")),
        ("sender.test", "delivered")
    );
    assert_ne!(told.attribute("mail.queue_id"), id);
}

#[test]
fn a_message_on_a_connection_that_was_open_is_linked_to_its_opening() {
    let lab = Lab::new();
    let jaeger = Jaeger::start(&lab);
    let mx = lab.mx("d1.test");
    let stagepost = traced(&lab, &jaeger).start();
    let first = submit(&stagepost, "a@d1.test");
    mx.wait_for(1);
    // Settled, so that the connection is idle.
    stagepost.wait_until_idle(SOON);
    let second = submit(&stagepost, "b@d1.test");
    mx.wait_for(2);
    assert_eq!(mx.connections(), 1, "the connection is used again");
    let opened = jaeger.wait_for_message(&first, "process", 1);
    let reused = jaeger.wait_for_message(&second, "process", 1);
    let deliver = reused.only("smtp.deliver");
    assert!(is_child(deliver, reused.only("process")));
    assert!(is_linked(deliver, opened.only("smtp.connect")), "{deliver:#?}");
    assert_eq!(deliver.attribute("smtp.connection.reused"), "true");
    assert!(!reused.names().contains("smtp.connect"));
    assert_eq!(opened.only("smtp.deliver").attribute("smtp.connection.reused"), "false");
}

#[test]
fn where_no_trace_is_kept_none_arrives_and_mail_goes_and_addresses_are_told_where_that_is_set() {
    let lab = Lab::new();
    let jaeger = Jaeger::start(&lab);
    let mx = lab.mx("d1.test");
    let mut silent = traced(&lab, &jaeger).set("trace_ratio", 0_i64).start();
    let mut telling = traced(&lab, &jaeger).set("trace_addresses", true).start();
    let untold = submit(&silent, "somebody@d1.test");
    mx.wait_for(1);
    silent.wait_until_idle(SOON);
    // What was to be sent is sent before the end.
    assert!(silent.stop(SOON).success());
    assert!(!silent.log().contains("trace_id"));
    let told = submit(&telling, "somebody@d1.test");
    mx.wait_for(2);
    assert!(telling.stop(SOON).success());
    // The end waits until the collector has everything.
    let traces = jaeger.traces();
    let of = |id: &str| traces.iter().filter(|trace| format!("{trace:?}").contains(id)).count();
    assert_eq!((of(&untold), of(&told)), (0, 1));
    let trace = jaeger.wait_for_message(&told, "process", 1);
    assert_eq!(trace.only("smtp.transaction").attribute("mail.sender.address"), FROM);
    assert_eq!(trace.only("process").attribute("mail.recipient.addresses"), "somebody@d1.test");
}

#[test]
fn a_collector_that_is_away_holds_up_no_mail() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let nobody = lab.publish("nobody.test");
    let mut stagepost = lab.stagepost().set("otlp_endpoint", format!("http://{nobody}:4317")).start();
    submit(&stagepost, "somebody@d1.test");
    mx.wait_for(1);
    stagepost.wait_until_idle(SOON);
    until_true("the log says so", SOON, || stagepost.log().contains("BatchSpanProcessor"));
    assert!(stagepost.stop(SOON).success());
}
