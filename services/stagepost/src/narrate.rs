//! One line on the terminal for each thing that happens to a message, for `stagepost dev`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mail::{Disposition, Job, QueueId, RecipientResult};
use smtp::address::ReversePath;

/// Messages whose acceptance is remembered until their first attempt.
const REMEMBERED_MAX: usize = 4096;

/// Tells what happens. The terminal is written by a thread of its own, so that it never stops mail.
pub(crate) struct Narrator {
    lines: Sender<String>,
    accepted: Mutex<HashMap<QueueId, Acceptance>>,
}

#[derive(Clone, Copy)]
struct Acceptance {
    receive: Duration,
    store: Duration,
}

impl Narrator {
    pub(crate) fn new() -> Self {
        let (lines, told) = channel::<String>();
        std::thread::spawn(move || {
            for line in told {
                // Nobody can be told that the terminal is gone.
                let _ = writeln!(std::io::stdout(), "{line}");
            }
        });
        Self { lines, accepted: Mutex::default() }
    }

    fn say(&self, line: String) {
        // The thread ends with the process.
        let _ = self.lines.send(line);
    }

    fn acceptance(&self, queue_id: QueueId) -> Option<Acceptance> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).remove(&queue_id)
    }
}

impl ingress::Observer for Narrator {
    fn accepted(&self, accepted: &ingress::Accepted<'_>) {
        let mut remembered = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        let acceptance = Acceptance { receive: accepted.receive, store: accepted.store };
        remembered.insert(accepted.queue_id, acceptance);
    }

    fn refused(&self, refused: &ingress::Refused<'_>) {
        self.say(format!("refused at {}: {}", refused.stage.as_str(), refused.reply));
    }
}

impl delivery::Observer for Narrator {
    fn attempt(&self, report: &delivery::AttemptReport<'_>) {
        let message = &report.job.message;
        let from = match &message.reverse_path {
            ReversePath::Null => String::from("<>"),
            ReversePath::Mailbox(address) => address.to_string(),
        };
        let mut line = format!("{} {from}", message.queue_id);
        for result in report.results {
            let _ = write!(line, " -> {}: {};", result.recipient.address, outcome(report, result));
        }
        if let Some(Acceptance { receive, store }) = self.acceptance(message.queue_id) {
            let _ = write!(line, " accepted in {}, on disk in {},", millis(receive), millis(store));
        }
        let times = [
            ("routed", report.route),
            ("signed", report.sign),
            ("connected", report.connect),
            ("handed over", report.deliver),
        ];
        for (step, time) in times.into_iter().filter(|(_, time)| !time.is_zero()) {
            let _ = write!(line, " {step} in {},", millis(time));
        }
        self.say(line.trim_end_matches([',', ';']).to_owned());
    }

    fn waits(&self, job: &Job, wait: Duration, reason: &str) {
        self.say(format!("{} waits {}: {reason}", job.id, millis(wait)));
    }
}

/// What came of it, and where it went or would have gone.
fn outcome(report: &delivery::AttemptReport<'_>, result: &RecipientResult) -> String {
    let disposition = result.disposition.as_str();
    let host = report.host.map(|host| format!(" at {host}")).unwrap_or_default();
    match result.disposition {
        Disposition::Delivered { .. } => format!("{disposition}{host} ({})", result.reason),
        _ => format!("{disposition}{host}, {} {}", result.status, result.reason),
    }
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1000.0)
}
