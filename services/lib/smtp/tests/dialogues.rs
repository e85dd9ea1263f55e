//! Plays the dialogues of `dialogues/` against the server's session, however the client's octets arrive.
//!
//! The first line that is no comment has the settings. `C:` is a line from the client, `c:` octets without CRLF; `\r`, `\n`,
//! `\0`, `\xHH` and `\\` are octets, `{3*x}` is `xxx`. `S:` is a reply line, `S: *` any reply. `A:` is a message that was
//! accepted, `R:` the end of a transaction, `T:` the TLS handshake, `X:` the end of the connection.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use smtp::reply::Reply;
use smtp::server::{AuthOffer, Question, Security, Session, Settings, StartTls, Step, Transaction, Verdict};

struct Dialogue {
    name: String,
    settings: Settings,
    security: Security,
    authenticated: bool,
    steps: Vec<Turn>,
}

/// What the client sends and what follows from it.
#[derive(Default)]
struct Turn {
    octets: Vec<u8>,
    events: Vec<String>,
}

#[test]
fn every_line_is_answered_before_the_next() {
    for dialogue in dialogues() {
        let mut player = Player::new(&dialogue);
        for (index, turn) in dialogue.steps.iter().enumerate() {
            player.feed(&turn.octets);
            let events = std::mem::take(&mut player.events);
            assert_events(&turn.events, &events, &format!("{} turn {index}", dialogue.name));
        }
    }
}

#[test]
fn all_at_once_is_no_different() {
    for dialogue in dialogues() {
        dialogue.play(|player, octets| player.feed(octets));
    }
}

#[test]
fn octet_by_octet_is_no_different() {
    for dialogue in dialogues() {
        dialogue.play(|player, octets| octets.chunks(1).for_each(|octet| player.feed(octet)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_split_is_no_different(lengths in vec(1usize..40, 1..20)) {
        for dialogue in dialogues() {
            dialogue.play(|player, mut octets| {
                let mut lengths = lengths.iter().cycle();
                while !octets.is_empty() {
                    let (piece, rest) = octets.split_at((*lengths.next().unwrap()).min(octets.len()));
                    player.feed(piece);
                    octets = rest;
                }
            });
        }
    }
}

fn dialogues() -> Vec<Dialogue> {
    let folder = Path::new("tests/dialogues");
    let dialogues: Vec<_> =
        fs::read_dir(folder).unwrap().map(|file| Dialogue::read(&file.unwrap().path())).collect();
    assert!(dialogues.len() > 10);
    dialogues
}

impl Dialogue {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let words = lines.next().unwrap();
        let mut dialogue = Self {
            name: path.file_stem().unwrap().to_str().unwrap().to_owned(),
            settings: Settings { size_max: 1000, ..Settings::new("mx.example.org") },
            security: Security::Tls,
            authenticated: false,
            steps: vec![Turn::default()],
        };
        words.split(' ').for_each(|word| dialogue.set(word));
        for line in lines {
            let (kind, text) = line.split_at(2);
            let text = expanded(text.strip_prefix(' ').unwrap_or(text));
            match kind {
                "C:" => dialogue.steps.push(Turn::new([unescaped(&text), b"\r\n".to_vec()].concat())),
                "c:" => dialogue.steps.last_mut().unwrap().octets.extend(unescaped(&text)),
                _ => dialogue.steps.last_mut().unwrap().events.push(format!("{kind} {text}")),
            }
        }
        dialogue
    }

    fn set(&mut self, word: &str) {
        let settings = &mut self.settings;
        match word.split_once('=').unwrap_or((word, "")) {
            ("tls", _) => self.security = Security::Tls,
            ("plain", _) => self.security = Security::Plain,
            ("authenticated", _) => self.authenticated = true,
            ("no-starttls", _) => settings.starttls = StartTls::NotOffered,
            ("auth-always", _) => settings.auth = AuthOffer::Always,
            ("errors-max", number) => settings.errors_max = number.parse().unwrap(),
            ("auth-failures-max", number) => settings.auth_failures_max = number.parse().unwrap(),
            ("recipients-max", number) => settings.recipients_max = number.parse().unwrap(),
            _ => panic!("{}: unknown setting {word}", self.name),
        }
    }

    /// Plays it with each stretch between TLS handshakes in one go.
    fn play(&self, feed: impl Fn(&mut Player, &[u8])) {
        let mut player = Player::new(self);
        for stretch in self.steps.split_inclusive(|turn| turn.events.iter().any(|event| event == "T: ")) {
            let octets: Vec<u8> = stretch.iter().flat_map(|turn| turn.octets.clone()).collect();
            feed(&mut player, &octets);
        }
        let expected: Vec<_> = self.steps.iter().flat_map(|turn| turn.events.clone()).collect();
        assert_events(&expected, &player.events, &self.name);
    }
}

impl Turn {
    fn new(octets: Vec<u8>) -> Self {
        Self { octets, events: Vec::new() }
    }
}

struct Player {
    session: Option<Session>,
    out: Vec<u8>,
    body: Vec<u8>,
    events: Vec<String>,
}

impl Player {
    fn new(dialogue: &Dialogue) -> Self {
        let session = Session::new(Arc::new(dialogue.settings.clone()), dialogue.security);
        let mut player = Self { session: None, out: Vec::new(), body: Vec::new(), events: Vec::new() };
        session.greeting(&mut player.out);
        player.session = Some(session);
        player.note();
        if dialogue.authenticated {
            player.feed(b"EHLO client.example.org\r\nAUTH PLAIN AHVzZXIAc2VjcmV0\r\n");
        }
        if !dialogue.steps[0].events.iter().any(|event| event.starts_with("S: 220 ")) {
            player.events.clear();
        }
        player
    }

    fn feed(&mut self, mut octets: &[u8]) {
        loop {
            let Some(session) = &mut self.session else { return };
            let body = &mut self.body;
            let (consumed, step) =
                session.advance(octets, &mut self.out, &mut |piece| body.extend_from_slice(piece));
            octets = &octets[consumed..];
            self.note();
            match step {
                Step::Read => return assert!(octets.is_empty()),
                Step::Ask(question) => {
                    let verdict = self.decide(question);
                    self.session.as_mut().unwrap().answer(verdict, &mut self.out);
                    self.note();
                }
                Step::Reset => self.events.push("R: ".into()),
                Step::StartTls => {
                    self.events.push("T: ".into());
                    self.session = self.session.take().map(Session::after_tls);
                }
                Step::Close => {
                    self.events.push("X: ".into());
                    self.session = None;
                }
            }
        }
    }

    /// Turns what was written into events.
    fn note(&mut self) {
        let text = String::from_utf8(std::mem::take(&mut self.out)).unwrap();
        self.events.extend(text.split_terminator("\r\n").map(|line| format!("S: {line}")));
    }

    fn decide(&mut self, question: Question) -> Verdict {
        let refuse = |code, enhanced, text: &'static str| Verdict::Refuse(Reply::new(code, enhanced, text));
        match question {
            Question::Authenticate { authcid, .. } if authcid == "broken" => {
                refuse(454, (4, 7, 0), "temporary authentication failure")
            }
            Question::Authenticate { authcid, password, .. }
                if authcid == "user" && password == b"secret" =>
            {
                Verdict::Yes
            }
            Question::Authenticate { .. } => refuse(535, (5, 7, 8), "authentication failed"),
            Question::Sender { from, .. } if from.to_string().starts_with("refused@") => {
                refuse(550, (5, 7, 1), "not your domain")
            }
            Question::Recipient { to, .. } if to.to_string().starts_with("refused@") => {
                refuse(550, (5, 1, 1), "no such user")
            }
            Question::Recipient { to, .. } if to.to_string().starts_with("closing@") => {
                Verdict::CloseWith(Reply::new(421, (4, 3, 2), "shutting down"))
            }
            Question::Sender { .. } | Question::Recipient { .. } => Verdict::Yes,
            Question::Body => {
                self.body.clear();
                let transaction = self.session.as_ref().unwrap().transaction().unwrap();
                let busy = transaction
                    .recipients
                    .iter()
                    .any(|recipient| recipient.to.to_string().starts_with("busy@"));
                if busy { refuse(452, (4, 3, 1), "no space") } else { Verdict::Yes }
            }
            Question::Message { flaws: Some(flaws), .. } => Verdict::Refuse(flaws.reply()),
            Question::Message { .. } => {
                let transaction = self.session.as_ref().unwrap().transaction().unwrap();
                self.events.push(accepted(transaction, &self.body));
                Verdict::YesWith(Reply::new(250, (2, 0, 0), "queued"))
            }
        }
    }
}

fn accepted(transaction: &Transaction, body: &[u8]) -> String {
    let recipients: Vec<_> =
        transaction.recipients.iter().map(|recipient| format!("<{}>", recipient.to)).collect();
    format!("A: <{}> -> {}: {}", transaction.from, recipients.join(" "), body.escape_ascii())
}

fn assert_events(expected: &[String], events: &[String], place: &str) {
    let mut events = events.iter();
    for expected in expected {
        let mut event =
            events.next().unwrap_or_else(|| panic!("{place}: nothing came, {expected} should have"));
        if expected == "S: *" {
            while event.as_bytes()[6] == b'-' {
                event = events.next().unwrap();
            }
        } else {
            assert_eq!(event, expected, "{place}");
        }
    }
    assert_eq!(events.next(), None, "{place}");
}

/// `{3*x}` becomes `xxx`.
fn expanded(text: &str) -> String {
    let Some((before, rest)) = text.split_once('{') else { return text.to_owned() };
    let Some((number, (what, after))) = rest.split_once('*').and_then(|(n, r)| Some((n, r.split_once('}')?)))
    else {
        return text.to_owned();
    };
    let Ok(number) = number.parse() else { return text.to_owned() };
    [before, &what.repeat(number), &expanded(after)].concat()
}

fn unescaped(text: &str) -> Vec<u8> {
    let mut octets = Vec::new();
    let mut rest = text.as_bytes().iter().copied();
    while let Some(octet) = rest.next() {
        octets.push(match octet {
            b'\\' => match rest.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b'0') => 0,
                Some(b'x') => {
                    let digits = [rest.next().unwrap(), rest.next().unwrap()];
                    u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap()
                }
                Some(b'\\') => b'\\',
                other => panic!("unknown escape {other:?}"),
            },
            other => other,
        });
    }
    octets
}
