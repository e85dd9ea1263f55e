//! Whoever guesses passwords gets few guesses, keeps nobody else from logging in, and doesn't learn who exists.
#![allow(clippy::unwrap_used, reason = "a test that can't go on panics")]

use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tests::address;
use tests::lab::Lab;
use tests::smtp::{Client, Reply, base64};
use tests::stagepost::{PASSWORD, Stagepost, USER};

/// Sessions that guess at the same time.
const AT_ONCE: usize = 8;

/// What a guess is told when the password was looked at.
fn is_looked_at(reply: &Reply) -> bool {
    reply.code == 535 && reply.enhanced() == Some("5.7.8")
}

/// What it is told when it wasn't.
fn is_unseen(reply: &Reply) -> bool {
    reply.code == 421 && reply.enhanced() == Some("4.7.0")
}

/// Most guesses that are looked at in this time when `free` are, and each `step` more double the wait for the next from 1 s on.
/// Those that come together can't know of each other's failures.
fn most_guesses(free: u32, step: u32, time: Duration) -> u32 {
    let (mut guesses, mut wait, mut spent) = (free + u32::try_from(AT_ONCE).unwrap(), 1, 0);
    while spent <= time.as_secs() {
        guesses += step;
        spent += wait * u64::from(step);
        wait *= 2;
    }
    guesses
}

/// 500 sessions of one guess each, some at a time; how many were looked at.
fn guess_in_sessions(stagepost: &Stagepost, user: impl Fn(usize) -> String + Sync) -> u32 {
    let (next, looked_at) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::SeqCst);
                    if number >= 500 {
                        return;
                    }
                    let reply = stagepost.client().auth_plain(&user(number), &format!("guess {number}"));
                    assert!(is_looked_at(&reply) || is_unseen(&reply), "{reply:?}");
                    looked_at.fetch_add(usize::from(is_looked_at(&reply)), Ordering::SeqCst);
                }
            });
        }
    });
    u32::try_from(looked_at.into_inner()).unwrap()
}

/// Logs in with the right password from elsewhere, again and again, while something goes on.
fn with_honest_logins<T>(stagepost: &Stagepost, work: impl FnOnce() -> T) -> T {
    let elsewhere = address::fresh();
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let honest = scope.spawn(|| {
            let mut logins = 0;
            while !over.load(Ordering::SeqCst) {
                let reply = stagepost.client_from(elsewhere).auth_plain(USER, PASSWORD);
                assert_eq!(reply.code, 235, "{reply:?} after {logins} logins");
                logins += 1;
            }
            logins
        });
        // The logins end also where the work panics.
        let result = catch_unwind(AssertUnwindSafe(work));
        over.store(true, Ordering::SeqCst);
        let logins = honest.join().unwrap();
        assert!(logins > 0, "nobody logged in meanwhile");
        result.unwrap_or_else(|panic| resume_unwind(panic))
    })
}

#[test]
fn a_session_ends_with_its_third_guess() {
    let lab = Lab::new();
    let stagepost = lab.stagepost().start();
    let mut client = stagepost.client();
    let guess = format!("AUTH PLAIN {}\r\n", base64(format!("\0{USER}\0wrong").as_bytes()));
    // All in one write: the session has to stop by itself.
    let _ = client.try_send(guess.repeat(500).as_bytes());
    let mut replies = Vec::new();
    while let Ok(reply) = client.try_reply() {
        replies.push(reply);
    }
    let looked_at = replies.iter().filter(|reply| is_looked_at(reply)).count();
    assert!((1..=3).contains(&looked_at) && replies.len() <= 4, "{replies:?}");
}

#[test]
fn guesses_of_one_password_over_many_sessions_are_few() {
    let lab = Lab::new();
    let stagepost = lab.stagepost().start();
    let began = Instant::now();
    let guesses = with_honest_logins(&stagepost, || guess_in_sessions(&stagepost, |_| USER.to_owned()));
    let most = most_guesses(2, 1, began.elapsed());
    assert!((1..=most).contains(&guesses), "{guesses} guesses in {:?}, {most} at most", began.elapsed());
}

#[test]
fn guesses_of_many_users_from_one_address_are_few() {
    let lab = Lab::new();
    let stagepost = lab.stagepost().start();
    // Somebody behind the same address logged in before.
    stagepost.login();
    let began = Instant::now();
    let guesses =
        with_honest_logins(&stagepost, || guess_in_sessions(&stagepost, |number| format!("user{number}")));
    let most = most_guesses(20, 4, began.elapsed());
    assert!((1..=most).contains(&guesses), "{guesses} guesses in {:?}, {most} at most", began.elapsed());
    stagepost.login();
}

/// A login whose user name or password is wrong, from an address that nobody guessed from before.
struct Stranger<'a> {
    stagepost: &'a Stagepost,
    user: &'a str,
}

impl Stranger<'_> {
    fn client(&self) -> Client {
        self.stagepost.client_from(address::fresh())
    }

    /// What the login is told, and how long that took.
    fn tries(&self) -> (Reply, Duration) {
        let mut client = self.client();
        let asked = Instant::now();
        let reply = client.auth_plain(self.user, "wrong");
        (reply, asked.elapsed())
    }

    /// The same in the steps of AUTH LOGIN: what each is told.
    fn tries_in_steps(&self) -> [Reply; 3] {
        let mut client = self.client();
        let lines = ["AUTH LOGIN".to_owned(), base64(self.user.as_bytes()), base64(b"wrong")];
        lines.map(|line| client.command(&line))
    }
}

#[test]
fn an_unknown_user_and_a_wrong_password_are_told_alike_in_the_same_time() {
    const TRIES: usize = 30;
    let lab = Lab::new();
    let stagepost = lab.stagepost().start();
    let made = stagepost.ask(&["credential", "create", "shop"]);
    let generated = made["username"].as_str().unwrap_or_else(|| panic!("a user name in {made}"));
    // One whose password was chosen, one whose secret was made, any, and none. The first logged in before.
    stagepost.login();
    let strangers =
        [USER, generated, "apikey", "nobody"].map(|user| Stranger { stagepost: &stagepost, user });
    let mut times = strangers.each_ref().map(|_| Vec::new());
    let (expected, _) = strangers[3].tries();
    assert!(is_looked_at(&expected), "{expected:?}");
    for turn in 0..TRIES {
        for place in 0..strangers.len() {
            // In turn, and not always after the same one.
            let place = (place + turn) % strangers.len();
            let (reply, took) = strangers[place].tries();
            assert_eq!(reply, expected, "{}", strangers[place].user);
            times[place].push(took);
        }
    }
    let medians = times.map(|mut times| {
        times.sort_unstable();
        times[TRIES / 2]
    });
    let (least, most) = (*medians.iter().min().unwrap(), *medians.iter().max().unwrap());
    // Looking at a hash takes more than ten times as long as anything else that a login does.
    assert!(most < least * 2, "{medians:?}");
    let steps = strangers[3].tries_in_steps();
    assert_eq!(steps[2], expected);
    for stranger in &strangers {
        assert_eq!(stranger.tries_in_steps(), steps, "{}", stranger.user);
    }
}

#[test]
fn nothing_else_tells_who_exists() {
    let lab = Lab::new();
    let stagepost = lab.stagepost().start();
    stagepost.ask(&["account", "create", "other", "--plan", "unlimited"]);
    stagepost.domain("other", "other.test", &lab.dns);
    stagepost.credential("other", "other-app", PASSWORD);
    let source: Ipv4Addr = address::fresh();
    let mut inside = stagepost.client_from(source);
    assert_eq!(inside.auth_plain(USER, PASSWORD).code, 235);
    for client in [&mut stagepost.client_from(source), &mut inside] {
        for (verb, codes) in [("VRFY", [252, 502]), ("EXPN", [502, 502])] {
            let names = [USER, "other-app", "shop", "hello@sender.test", "postmaster@other.test", "nobody"];
            let replies = names.map(|name| client.command(&format!("{verb} {name}")));
            assert!(codes.contains(&replies[0].code), "{:?}", replies[0]);
            assert!(replies.iter().all(|reply| *reply == replies[0]), "{verb}: {replies:?}");
        }
    }
    let mut inside = stagepost.login();
    inside.expect("MAIL FROM:<hello@sender.test>", 250);
    let recipients =
        ["other-app@other.test", "nobody@other.test", "shop-app@sender.test", "nobody@nowhere.test"];
    let replies = recipients.map(|recipient| inside.command(&format!("RCPT TO:<{recipient}>")));
    assert!(replies.iter().all(|reply| reply.code == 250 && *reply == replies[0]), "{replies:?}");
}
