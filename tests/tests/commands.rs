//! Stagepost's own commands against a running Stagepost: tables for people, JSON for programs.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::process::Command;

use serde_json::Value;
use tests::deadline::{SOON, until, until_true};
use tests::lab::Lab;
use tests::message;
use tests::mx::{Answer, Step};
use tests::process::run;
use tests::stagepost::{PASSWORD, Stagepost, USER, program};

/// What a command prints for people.
fn table(stagepost: &Stagepost, arguments: &[&str]) -> String {
    let mut command = Command::new(program());
    command.args(arguments).arg("--state").arg(stagepost.state());
    let output = run(command, b"");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The words of the line that begins with this one.
fn row<'a>(table: &'a str, first: &str) -> Vec<&'a str> {
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.into_iter()
        .find(|row| row.first() == Some(&first))
        .unwrap_or_else(|| panic!("no {first} in\n{table}"))
}

/// A command that fails: what it says, in one line.
fn fails(stagepost: &Stagepost, arguments: &[&str]) -> String {
    let error = stagepost.try_ask(arguments).unwrap_err();
    assert!(error.starts_with("stagepost: ") && error.lines().count() == 1, "{error}");
    error
}

fn is_an_instant(value: &Value) -> bool {
    value.as_str().is_some_and(|text| text.len() >= 20 && text.starts_with("20") && text.ends_with('Z'))
}

#[test]
fn accounts_are_made_listed_changed_and_deleted() {
    let lab = Lab::new();
    let stagepost = lab.stagepost().bare().start();
    assert!(table(&stagepost, &["account", "list"]).contains("stagepost account create"));
    let made = stagepost.ask(&["account", "create", "news"]);
    assert_eq!(
        (&made["name"], &made["plan"], &made["recipients_per_day"]),
        (&"news".into(), &"free".into(), &100.into())
    );
    assert!(is_an_instant(&made["created"]), "{made}");
    stagepost.ask(&["account", "create", "shop", "--plan", "unlimited"]);
    assert!(fails(&stagepost, &["account", "create", "shop"]).contains("shop"));
    assert!(fails(&stagepost, &["account", "create", "other", "--plan", "gold"]).contains("unlimited"));

    let listed = table(&stagepost, &["account", "list"]);
    assert_eq!(
        row(&listed, "NAME"),
        ["NAME", "ID", "PLAN", "RECIPIENTS", "PER", "DAY", "SUSPENDED", "CREATED"]
    );
    assert_eq!(row(&listed, "news")[2..4], ["free", "100"]);
    assert_eq!(row(&listed, "shop")[2..6], ["unlimited", "without", "limit", row(&listed, "shop")[5]]);
    let names = stagepost.ask(&["account", "list"]);
    let names: Vec<&str> =
        names.as_array().unwrap().iter().map(|account| account["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["news", "shop"]);

    let set = stagepost.ask(&["account", "set", "news", "--recipients-per-day", "7"]);
    assert_eq!(set["recipients_per_day"], 7);
    assert_eq!(stagepost.ask(&["account", "set", "news", "--plan-quota"])["recipients_per_day"], 100);
    assert_eq!(stagepost.ask(&["account", "set", "news", "--plan", "unlimited"])["plan"], "unlimited");
    let by_id = stagepost.ask(&["account", "show", made["id"].as_str().unwrap()]);
    assert_eq!(by_id, stagepost.ask(&["account", "show", "news"]));
    assert_eq!(row(&table(&stagepost, &["account", "show", "news"]), "plan"), ["plan", "unlimited"]);

    stagepost.ask(&["account", "suspend", "news", "--reason", "unpaid"]);
    assert_eq!(stagepost.ask(&["account", "show", "news"])["suspended"], "unpaid");
    stagepost.ask(&["account", "resume", "news"]);
    assert_eq!(stagepost.ask(&["account", "show", "news"])["suspended"], Value::Null);
    stagepost.ask(&["account", "delete", "news"]);
    assert!(fails(&stagepost, &["account", "show", "news"]).contains("news"));
}

#[test]
fn a_suspended_account_is_told_why_and_may_send_again_when_resumed() {
    let lab = Lab::new();
    let stagepost = lab.stagepost().set("ingress.profile_refresh_secs", 1).start();
    stagepost.ask(&["account", "suspend", "shop", "--reason", "unpaid"]);
    let mail = || stagepost.login().command("MAIL FROM:<a@sender.test>");
    until_true("the refusal", SOON, || mail().code == 550);
    let reply = mail();
    assert_eq!(reply.enhanced(), Some("5.7.1"));
    assert!(reply.text().contains("this account is suspended: unpaid"), "{reply:?}");
    stagepost.ask(&["account", "resume", "shop"]);
    until_true("the account's return", SOON, || mail().code == 250);
}

#[test]
fn credentials_are_made_listed_and_revoked() {
    let lab = Lab::new();
    let stagepost = lab.stagepost().start();
    let shown = table(&stagepost, &["credential", "create", "shop", "--description", "the web shop"]);
    assert!(shown.contains("Keep the secret now"), "{shown}");
    let (user, secret) = (row(&shown, "username")[1].to_owned(), row(&shown, "secret")[1].to_owned());
    stagepost.login_as(&user, &secret).expect("NOOP", 250);
    stagepost.login_as("apikey", &secret).expect("NOOP", 250);

    let listed = stagepost.ask(&["credential", "list", "shop"]);
    assert!(!listed.to_string().contains(&secret) && !listed.to_string().contains(PASSWORD));
    let listed = table(&stagepost, &["credential", "list", "shop"]);
    assert_eq!(row(&listed, "USERNAME"), ["USERNAME", "ID", "DESCRIPTION", "CREATED"]);
    assert_eq!(row(&listed, &user)[2..5], ["the", "web", "shop"]);
    assert_eq!(row(&listed, USER)[0], USER);
    assert!(!listed.contains(&secret));

    stagepost.ask(&["credential", "revoke", &user]);
    let mut client = stagepost.client();
    assert_eq!(client.auth_plain(&user, &secret).code, 535);
    stagepost.login().expect("NOOP", 250);
    assert!(fails(&stagepost, &["credential", "revoke", &user]).contains(&user));
    assert!(fails(&stagepost, &["credential", "create", "nobody"]).contains("nobody"));
    assert!(
        fails(&stagepost, &["credential", "create", "shop", "--username", "x", "--password-stdin"])
            .contains("no password")
    );
}

#[test]
fn domains_are_added_with_the_records_to_publish_and_removed() {
    let lab = Lab::new();
    let stagepost = lab.stagepost().start();
    let added = table(&stagepost, &["domain", "add", "news.test", "--account", "shop"]);
    let keys: Vec<&str> =
        added.lines().filter(|line| line.contains("._domainkey.news.test. IN TXT \"v=DKIM1;")).collect();
    assert_eq!(keys.len(), 2, "{added}");
    assert!(
        keys.iter().any(|line| line.contains("k=rsa")) && keys.iter().any(|line| line.contains("k=ed25519")),
        "{added}"
    );
    assert!(added.contains("v=spf1") && added.contains("_dmarc.news.test. IN TXT"), "{added}");
    let strings = added.split('"').skip(1).step_by(2);
    assert!(
        strings.map(str::len).all(|octets| octets <= 255),
        "a TXT string has at most 255 octets\n{added}"
    );

    let shown = stagepost.ask(&["domain", "show", "news.test"]);
    let states: Vec<&Value> = shown["keys"].as_array().unwrap().iter().map(|key| &key["state"]).collect();
    assert_eq!(states, ["active", "active"]);
    assert_eq!(shown["subdomains"], false);
    assert_eq!(stagepost.ask(&["domain", "set", "news.test", "--subdomains"])["subdomains"], true);
    let listed = table(&stagepost, &["domain", "list"]);
    assert_eq!(row(&listed, "NAME")[..2], ["NAME", "ACCOUNT"]);
    assert_eq!(row(&listed, "news.test")[0], "news.test");
    assert_eq!(stagepost.ask(&["domain", "list", "--account", "shop"]).as_array().map(Vec::len), Some(2));

    assert!(fails(&stagepost, &["domain", "add", "news.test", "--account", "shop"]).contains("news.test"));
    assert!(fails(&stagepost, &["domain", "add", "two words", "--account", "shop"]).contains("two words"));
    let with_more = stagepost.ask(&["domain", "add-key", "news.test", "rsa"]);
    let keys = with_more["keys"].as_array().unwrap();
    let new =
        keys.iter().find(|key| key["state"] == "published").unwrap()["selector"].as_str().unwrap().to_owned();
    let changed = stagepost.ask(&["domain", "set-key", "news.test", &new, "active"]);
    assert!(changed["keys"].as_array().unwrap().iter().all(|key| key["state"] == "active"), "{changed}");

    stagepost.ask(&["domain", "remove", "news.test"]);
    assert!(fails(&stagepost, &["domain", "show", "news.test"]).contains("news.test"));
}

#[test]
fn the_queue_says_why_mail_waits_and_until_when() {
    let lab = Lab::new();
    let (mx, other) = (lab.mx("d1.test"), lab.mx("d2.test"));
    for mx in [&mx, &other] {
        mx.script(|step| match step {
            Step::Command { line, .. } if line.starts_with("RCPT") => {
                Answer::reply("450 4.2.0 greylisted, come back")
            }
            _ => Answer::Usual,
        });
    }
    let stagepost = lab.stagepost().set("delivery.retry_waits_secs", vec![3600]).start();
    assert_eq!(table(&stagepost, &["queue", "list"]), "Nothing waits.\n");
    let octets = message::text("a@sender.test", "b@d1.test", "to wait", "Hello.");
    let queue_id = stagepost.login().submit("a@sender.test", &["b@d1.test", "c@d2.test"], &octets).queue_id();
    let waiting = || stagepost.ask(&["queue", "list", "--status", "waiting"]);
    let jobs = until("both attempts", SOON, || {
        Some(waiting()).filter(|jobs| jobs.as_array().map(Vec::len) == Some(2))
    });

    let job = jobs.as_array().unwrap().iter().find(|job| job["to"][0] == "b@d1.test").unwrap();
    assert!(job["job"].as_str().unwrap().starts_with(&queue_id), "{job}");
    assert!(job["reason"].as_str().unwrap().contains("greylisted, come back"), "{job}");
    assert!(is_an_instant(&job["next_attempt"]) && is_an_instant(&job["accepted"]), "{job}");
    assert!(
        job["next_attempt"].as_str() > job["accepted"].as_str()
            && job["next_attempt"].as_str() < job["expires"].as_str()
    );
    assert_eq!(
        (&job["attempts"], &job["from"], &job["message_id"]),
        (&1.into(), &"a@sender.test".into(), &"<to-wait@client.test>".into())
    );
    assert_eq!(
        (&job["last"][0]["recipient"], &job["last"][0]["status"]),
        (&"b@d1.test".into(), &"4.2.0".into())
    );

    let listed = table(&stagepost, &["queue", "list"]);
    assert_eq!(row(&listed, "JOB"), ["JOB", "STATE", "NEXT", "ATTEMPT", "ATTEMPTS", "FROM", "TO", "REASON"]);
    let shown = row(&listed, job["job"].as_str().unwrap());
    let next = job["next_attempt"].as_str().unwrap();
    assert_eq!(shown[1..6], ["waiting", next, "1", "a@sender.test", "b@d1.test"], "{listed}");
    assert!(listed.contains("greylisted, come back"), "{listed}");

    let of_domain = stagepost.ask(&["queue", "list", "--domain", "d2.test"]);
    assert_eq!((of_domain.as_array().map(Vec::len), &of_domain[0]["to"][0]), (Some(1), &"c@d2.test".into()));
    assert_eq!(stagepost.ask(&["queue", "list", "--limit", "1"]).as_array().map(Vec::len), Some(1));
    let first = stagepost.ask(&["queue", "list", "--limit", "1"])[0]["job"].as_str().unwrap().to_owned();
    let second = stagepost.ask(&["queue", "list", "--after", &first]);
    assert_eq!(second.as_array().map(Vec::len), Some(1));
    assert_ne!(second[0]["job"], first.as_str());
    assert_eq!(stagepost.ask(&["queue", "summary"])["waiting"], 2);
    let summary = table(&stagepost, &["queue", "summary"]);
    assert!(row(&summary, "waiting") == ["waiting", "2"] && summary.contains("d1.test"), "{summary}");

    let shown = stagepost.ask(&["queue", "show", &queue_id, "--header"]);
    assert_eq!(shown["jobs"].as_array().map(Vec::len), Some(2));
    assert!(shown["header"].as_str().unwrap().contains("Subject: to wait"), "{shown}");
    let shown = table(&stagepost, &["queue", "show", &queue_id, "--header"]);
    assert!(shown.contains("greylisted, come back") && shown.contains("\nSubject: to wait\n"), "{shown}");
}

#[test]
fn queued_mail_is_held_tried_and_removed_on_demand() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let put_off = |step: &Step<'_>| match step {
        Step::Command { line, .. } if line.starts_with("RCPT") => Answer::reply("450 4.2.0 greylisted"),
        _ => Answer::Usual,
    };
    mx.script(put_off);
    // Where a report would go, if there were one.
    let own = lab.mx("sender.test");
    let stagepost = lab.stagepost().set("delivery.retry_waits_secs", vec![3600]).start();
    let mut client = stagepost.login();
    let mut submit = |subject: &str| {
        let octets = message::text("a@sender.test", "b@d1.test", subject, "Hello.");
        client.submit("a@sender.test", &["b@d1.test"], &octets).queue_id()
    };
    let [tried, held, removed] = ["tried", "held", "removed"].map(&mut submit);
    let state_of =
        |id: &str| stagepost.ask(&["queue", "show", id])["jobs"][0]["state"].as_str().unwrap().to_owned();
    for id in [&tried, &held, &removed] {
        until_true("the first attempt", SOON, || state_of(id) == "waiting");
    }

    assert_eq!(stagepost.ask(&["queue", "hold", &held, "--reason", "looked at by Legal"])["jobs"], 1);
    assert_eq!(state_of(&held), "held");
    let listed = stagepost.ask(&["queue", "list", "--status", "held"]);
    assert_eq!(
        (listed.as_array().map(Vec::len), &listed[0]["reason"]),
        (Some(1), &"looked at by Legal".into())
    );
    assert_eq!(stagepost.ask(&["queue", "remove", &removed])["jobs"], 1);
    assert!(fails(&stagepost, &["queue", "show", &removed]).contains(&removed));

    mx.behave();
    assert_eq!(stagepost.ask(&["queue", "retry", &tried])["jobs"], 1);
    let subjects = |count: usize| {
        let all = mx.wait_for(count);
        all.iter().flat_map(|received| message::values(&received.octets, "Subject")).collect::<Vec<_>>()
    };
    assert_eq!(subjects(1), ["tried"]);
    until_true("the end of the first", SOON, || stagepost.queued() == 1);
    assert_eq!(state_of(&held), "held");
    stagepost.ask(&["queue", "retry", &held]);
    assert_eq!(subjects(2), ["tried", "held"]);
    stagepost.wait_until_idle(SOON);
    assert_eq!((mx.count(), own.count()), (2, 0), "what was removed is neither delivered nor reported");
    for command in ["show", "retry", "hold", "remove"] {
        assert!(fails(&stagepost, &["queue", command, &tried]).contains(&tried), "{command}");
    }
}

#[test]
fn send_submits_a_test_mail_by_the_account_s_rules() {
    let lab = Lab::new();
    let mx = lab.mx("d1.test");
    let stagepost = lab.stagepost().start();
    let sent =
        ["send", "--account", "shop", "--from", "hello@sender.test", "--to", "one@d1.test,two@d1.test"];
    let answer = stagepost.ask(&[&sent[..], &["--subject", "Grüße", "--text", "Hallo Köln."]].concat());
    assert_eq!(answer["queue_id"].as_str().map(str::len), Some(26));
    let received = &mx.wait_for(1)[0];
    assert_eq!(received.recipients(), ["one@d1.test", "two@d1.test"]);
    assert_eq!(message::values(&received.octets, "Message-ID"), [answer["message_id"].as_str().unwrap()]);
    assert_eq!(tests::judge::mail_auth(&lab.dns, &received.octets), Ok(()));
    let shown = table(&stagepost, &sent);
    assert_eq!(row(&shown, "queue")[..2], ["queue", "id"]);

    let other = fails(
        &stagepost,
        &["send", "--account", "shop", "--from", "hello@other.test", "--to", "one@d1.test"],
    );
    assert!(other.contains("stagepost domain add other.test"), "{other}");
    let nowhere =
        fails(&stagepost, &["send", "--account", "shop", "--from", "hello@sender.test", "--to", "nowhere"]);
    assert!(nowhere.contains("\"nowhere\" is no address"), "{nowhere}");
    let nobody = fails(
        &stagepost,
        &["send", "--account", "nobody", "--from", "hello@sender.test", "--to", "one@d1.test"],
    );
    assert!(nobody.contains("nobody"), "{nobody}");
    mx.wait_for(2);
    stagepost.wait_until_idle(SOON);
    assert_eq!(mx.count(), 2);
}

#[test]
fn send_waits_until_its_mail_has_ended() {
    let lab = Lab::new();
    let stagepost = lab.stagepost().start();
    let send = |to: &'static str, secs: &'static str| {
        ["send", "--account", "shop", "--from", "hello@sender.test", "--to", to, "--wait", secs]
    };
    let both = "success@simulator.stagepost.test,success+2@simulator.stagepost.test";
    let queue_id = stagepost.ask(&send(both, "30"))["queue_id"].as_str().unwrap().to_owned();
    let events = stagepost.ask(&["explain", &queue_id]).to_string();
    assert_eq!(events.matches("\"delivered\"").count(), 2, "{events}");

    let bounced = fails(&stagepost, &send("bounce@simulator.stagepost.test", "30"));
    assert!(bounced.contains("bounce@simulator.stagepost.test: bounced: "), "{bounced}");
    let waits = fails(&stagepost, &send("defer@simulator.stagepost.test", "1"));
    assert!(waits.contains("hasn't ended within 1 s"), "{waits}");
}

#[test]
fn what_is_there_may_be_asked_for_again() {
    let lab = Lab::new();
    let stagepost = lab.stagepost().bare().start();
    let account = ["account", "create", "shop", "--plan", "unlimited", "--if-missing"];
    let made = stagepost.ask(&account);
    assert_eq!(stagepost.ask(&account), made);
    assert_eq!(
        stagepost.ask(&["account", "create", "shop", "--if-missing"])["plan"],
        "unlimited",
        "it stays as it is"
    );
    let domain = ["domain", "add", "example.com", "--account", "shop", "--keys", "ed25519", "--if-missing"];
    let made = stagepost.ask(&domain);
    assert_eq!(stagepost.ask(&domain), made);
    assert!(fails(&stagepost, &domain[..7]).contains("registered already"));
}

#[test]
fn a_command_without_stagepost_says_how_to_name_or_start_one() {
    let lab = Lab::new();
    let mut stagepost = lab.stagepost().start();
    assert!(stagepost.stop(SOON).success());
    assert!(
        fails(&stagepost, &["queue", "list"]).contains("start it with `stagepost dev` or `stagepost run`")
    );
    let mut command = Command::new(program());
    command.args(["queue", "list", "--state-of-nothing"]);
    assert_eq!(run(command, b"").status.code(), Some(2));
    let mut command = Command::new(program());
    command.args(["queue", "list"]).env("STAGEPOST_STATE", lab.folder().join("nowhere"));
    let output = run(command, b"");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{error}");
    assert!(error.contains("--state") && error.contains("nowhere") && error.lines().count() == 1, "{error}");
}
