//! `stagepost explain`.

use std::fmt::Write as _;

use clap::Args;
use mail::{Event, EventKind, EventMessage, Timestamp};
use proto::admin::v1::events_client::EventsClient;
use proto::admin::v1::{ExplainRequest, ExplainResponse, QueuedJob, Story};
use runtime::rpc::Client;
use serde_json::Value;
use tonic::Status;

use super::events::{age, facts, in_one_line, what_came};
use super::view::{Record, View, instant, record, text};
use super::{Output, queue};

#[derive(Args, Debug)]
pub(crate) struct Command {
    /// Queue id, job id, or a recipient's address.
    #[arg(value_name = "QUEUE-ID|JOB|RECIPIENT")]
    about: String,
    /// How far back to search a recipient's mail, as 30m, 12h or 7d; a queue id tells its own time.
    #[arg(long, value_name = "AGE", value_parser = age, default_value = "24h")]
    since: u64,
    /// The same as `--output json`.
    #[arg(long)]
    json: bool,
}

impl Command {
    /// How the answer is to be printed.
    pub(crate) fn output(&self, output: Output) -> Output {
        if self.json { Output::Json } else { output }
    }

    pub(crate) async fn run(self, client: Client) -> Result<View, Status> {
        let Self { about, since, json: _ } = self;
        let request = ExplainRequest { about: about.clone(), within_secs: since };
        let answer = EventsClient::new(client).explain(request).await?.into_inner();
        view(&about, answer)
    }
}

/// What is known of a message, read.
struct Known {
    queue_id: String,
    report_on: Option<String>,
    events: Vec<Event>,
    jobs: Vec<QueuedJob>,
}

impl Known {
    fn new(story: Story) -> Result<Self, Status> {
        let Story { queue_id, events, jobs, report_on } = story;
        let events = spool::events::batch_from_wire(events.unwrap_or_default())
            .map_err(|error| Status::internal(format!("the server's answer isn't understood: {error}")))?;
        Ok(Self { queue_id, report_on, events, jobs })
    }

    /// All recipients, in the order in which they appear.
    fn recipients(&self) -> Vec<String> {
        let told = self.events.iter().map(|event| event.recipient.to_string());
        let queued = self.jobs.iter().flat_map(|job| &job.recipients).map(|it| it.address.clone());
        let mut recipients: Vec<String> = Vec::new();
        for recipient in told.chain(queued) {
            if !recipients.contains(&recipient) {
                recipients.push(recipient);
            }
        }
        recipients
    }
}

fn view(about: &str, answer: ExplainResponse) -> Result<View, Status> {
    let ExplainResponse { stories, searched_since_ms, left_out } = answer;
    let stories = stories.into_iter().map(Known::new).collect::<Result<Vec<_>, _>>()?;
    let searched = Timestamp(searched_since_ms);
    let mut told = String::new();
    if about.contains('@') {
        let _ = writeln!(
            told,
            "Mail to {about} that is queued, or of which there was an event since {searched}:"
        );
        if left_out > 0 {
            let _ = writeln!(told, "({left_out} earlier messages are left out.)");
        }
        told.push('\n');
    }
    told.push_str(&stories.iter().map(tell).collect::<Vec<_>>().join("\n"));
    let record = record([
        ("about", text(about)),
        ("searched_since", Value::from(searched.to_string())),
        ("left_out", Value::from(left_out)),
        ("stories", stories.into_iter().map(|known| Value::Object(story_facts(known))).collect()),
    ]);
    Ok(View::Told { record, text: told })
}

fn story_facts(known: Known) -> Record {
    let Known { queue_id, report_on, events, jobs } = known;
    record([
        ("queue_id", Value::from(queue_id)),
        ("report_on", report_on.map_or(Value::Null, Value::from)),
        ("events", events.iter().map(|event| Value::Object(facts(event))).collect()),
        ("jobs", jobs.into_iter().map(|job| Value::Object(queue::facts(job))).collect()),
    ])
}

/// The story for people.
fn tell(known: &Known) -> String {
    let mut lines = String::new();
    match &known.report_on {
        Some(job) => {
            let _ = writeln!(lines, "{}, the report to the sender on job {job}", known.queue_id);
        }
        None => {
            let _ = writeln!(lines, "{}", known.queue_id);
        }
    }
    if let Some(accepted) = accepted(known) {
        let _ = writeln!(lines, "  {accepted}");
    }
    for recipient in known.recipients() {
        tell_recipient(&mut lines, known, &recipient);
    }
    for job in known.jobs.iter().filter(|job| job.kind == "report") {
        let _ = writeln!(lines, "  report to the sender: {}", standing(job));
    }
    lines
}

fn accepted(known: &Known) -> Option<String> {
    let of_event = |message: &EventMessage| {
        (
            message.accepted_at.to_string(),
            message.account.to_string(),
            message.sender.to_string(),
            message.octets,
            message.message_id.clone(),
        )
    };
    let of_job = |job: &QueuedJob| {
        let at = instant(job.accepted_at_ms).as_str().unwrap_or_default().to_owned();
        (at, job.account_id.clone(), job.reverse_path.clone(), job.octets, job.message_id.clone())
    };
    let first = known.events.first().map(|event| of_event(&event.message));
    let (at, account, sender, octets, message_id) = first.or_else(|| known.jobs.first().map(of_job))?;
    let sender = if sender.is_empty() { "<>" } else { &sender };
    Some(format!(
        "accepted {at} from {sender}, account {account}, {octets} octets, Message-ID {}",
        in_one_line(&message_id)
    ))
}

fn tell_recipient(lines: &mut String, known: &Known, recipient: &str) {
    let _ = writeln!(lines, "  to {recipient}");
    let mut ended = false;
    for event in known.events.iter().filter(|event| event.recipient.to_string() == recipient) {
        ended |= event.kind.is_final();
        if event.kind != EventKind::Accepted {
            let _ = writeln!(lines, "    {} {}: {}", event.at, event.kind, what_came(event));
        }
    }
    if ended {
        return;
    }
    let is_its = |job: &&QueuedJob| {
        job.kind != "report" && job.recipients.iter().any(|queued| queued.address == recipient)
    };
    let now = match known.jobs.iter().find(is_its) {
        Some(job) => standing(job),
        None => String::from(
            "not queued any more, and no event that is kept says how it ended: that event is too old or was lost",
        ),
    };
    let _ = writeln!(lines, "    now {now}");
}

/// Where a job stands, and what comes next.
fn standing(job: &QueuedJob) -> String {
    let at = |millis| instant(millis).as_str().unwrap_or_default().to_owned();
    let because = match in_one_line(&job.reason) {
        reason if reason.is_empty() => String::new(),
        reason => format!(": {reason}"),
    };
    match job.state.as_str() {
        "waiting" => {
            let until = at(job.due_at_ms);
            format!(
                "waiting until {until}{because}; {} failed so far, given up {}",
                attempts(job.attempts),
                at(job.expires_at_ms)
            )
        }
        "held" => format!("held until released (stagepost queue retry {}){because}", job.job_id),
        "leased" => format!("being worked on, attempt {}", job.attempts.saturating_add(1)),
        "ready" => format!("ready, waiting for its turn{because}"),
        other => format!("{other}{because}"),
    }
}

fn attempts(count: u32) -> String {
    match count {
        1 => String::from("1 attempt"),
        count => format!("{count} attempts"),
    }
}
