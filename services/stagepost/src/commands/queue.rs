//! `stagepost queue`.

use clap::Subcommand;
use proto::admin::v1::queue_client::QueueClient;
use proto::admin::v1::revive_dead_request::{All, Which};
use proto::admin::v1::{
    ChangeResponse, DeadLetter, HoldRequest, ListDeadRequest, ListRequest, QueuedJob, RemoveRequest,
    ReviveDeadRequest, SelectRequest, ShowRequest, SummaryRequest,
};
use runtime::rpc::Client;
use serde_json::Value;
use tonic::{Response, Status};

use super::view::{Record, View, instant, record, text};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// List what waits, with the reason and the next attempt.
    List {
        /// Only this account's (id).
        #[arg(long, default_value = "")]
        account: String,
        /// Only mail to this domain.
        #[arg(long, default_value = "")]
        domain: String,
        /// Only jobs that are `ready`, `leased`, `waiting` or `held`.
        #[arg(long, default_value = "")]
        status: String,
        /// The job after which to go on.
        #[arg(long, default_value = "")]
        after: String,
        /// How many at most.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Count what waits, by state and by domain.
    Summary,
    /// Show all that is queued of a message.
    Show {
        /// Queue id.
        queue_id: String,
        /// The message's header section too.
        #[arg(long)]
        header: bool,
    },
    /// Try now what waits or is held.
    Retry {
        /// Queue id or job id.
        id: String,
    },
    /// Hold until released by `queue retry`.
    Hold {
        /// Queue id or job id.
        id: String,
        /// Shown in the list.
        #[arg(long, default_value = "held by the administrator")]
        reason: String,
    },
    /// Drop without a report to the sender.
    Remove {
        /// Queue id or job id.
        id: String,
        /// Told with the event `dropped`.
        #[arg(long, default_value = "removed by the administrator")]
        reason: String,
    },
    /// List records that can't be read, as an older program may find those of a newer one; they hold up no others.
    Dead {
        /// The number after which to go on.
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// How many at most.
        #[arg(long, default_value_t = 100)]
        limit: u32,
    },
    /// Put back what couldn't be read, to be tried by a program that can; what still can't be read is listed anew.
    #[command(group(clap::ArgGroup::new("which").required(true).args(["number", "all"])))]
    Revive {
        /// Number from `queue dead`.
        number: Option<u64>,
        /// All of them.
        #[arg(long)]
        all: bool,
    },
}

impl Command {
    pub(crate) async fn run(self, client: Client) -> Result<View, Status> {
        let mut client = QueueClient::new(client);
        match self {
            Self::List { account, domain, status, after, limit } => {
                let request = ListRequest { account_id: account, host: domain, state: status, after, limit };
                let jobs = client.list(request).await?.into_inner().jobs;
                Ok(View::List {
                    columns: &["job", "state", "next_attempt", "attempts", "from", "to", "reason"],
                    records: jobs.into_iter().map(facts).collect(),
                    empty: "Nothing waits.",
                })
            }
            Self::Summary => summary(&mut client).await,
            Self::Show { queue_id, header } => {
                let shown =
                    client.show(ShowRequest { queue_id: queue_id.clone(), header }).await?.into_inner();
                let jobs = shown.jobs.into_iter().map(|job| Value::Object(facts(job))).collect::<Vec<_>>();
                let mut lines = String::new();
                for job in &jobs {
                    lines.push('\n');
                    for (name, value) in
                        job.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null())
                    {
                        let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                        lines.push_str(&format!("{:<14} {shown}\n", name.replace('_', " ")));
                    }
                }
                let octets = String::from_utf8_lossy(&shown.header).into_owned();
                if !octets.is_empty() {
                    lines.push_str(&format!("\n{}", octets.replace("\r\n", "\n")));
                }
                let mut record = record([("queue_id", text(&queue_id)), ("header", text(&octets))]);
                record.insert("jobs".into(), Value::Array(jobs));
                Ok(View::Told { record, text: lines })
            }
            Self::Retry { id } => client.retry(SelectRequest { id }).await.map(changed),
            Self::Hold { id, reason } => client.hold(HoldRequest { id, reason }).await.map(changed),
            Self::Remove { id, reason } => client.remove(RemoveRequest { id, reason }).await.map(changed),
            Self::Dead { after, limit } => {
                let letters = client.list_dead(ListDeadRequest { after, limit }).await?.into_inner().letters;
                Ok(View::List {
                    columns: &["number", "since", "octets", "subject", "cause"],
                    records: letters.into_iter().map(letter).collect(),
                    empty: "There are no dead letters.",
                })
            }
            Self::Revive { number, all: _ } => {
                let which = number.map_or(Which::All(All {}), Which::Number);
                let found = client.revive_dead(ReviveDeadRequest { which: Some(which) }).await?.into_inner();
                Ok(View::one(record([
                    ("revived", Value::from(found.revived)),
                    ("left", Value::from(found.left)),
                ])))
            }
        }
    }
}

async fn summary(client: &mut QueueClient<Client>) -> Result<View, Status> {
    let found = client.summary(SummaryRequest { hosts_max: 20 }).await?.into_inner();
    let hosts = found.hosts.into_iter().map(|count| (count.host, Value::from(count.jobs)));
    Ok(View::one(record([
        ("ready", Value::from(found.ready)),
        ("leased", Value::from(found.leased)),
        ("waiting", Value::from(found.waiting)),
        ("held", Value::from(found.held)),
        ("dead_letters", Value::from(found.dead_letters)),
        ("disk_octets", Value::from(found.disk_octets)),
        (
            "hosts",
            Value::Array(
                hosts
                    .map(|(host, jobs)| Value::Object(record([("host", text(&host)), ("jobs", jobs)])))
                    .collect(),
            ),
        ),
        ("damage", Value::Array(found.damage.into_iter().map(Value::from).collect())),
    ])))
}

fn changed(response: Response<ChangeResponse>) -> View {
    View::one(record([("jobs", Value::from(response.into_inner().jobs))]))
}

fn letter(letter: DeadLetter) -> Record {
    record([
        ("number", Value::from(letter.number)),
        ("since", instant(letter.at_ms)),
        ("octets", Value::from(letter.octets)),
        ("subject", text(&letter.subject)),
        ("cause", text(&letter.cause)),
    ])
}

/// What is known of a job.
pub(super) fn facts(job: QueuedJob) -> Record {
    let to = job.recipients.iter().map(|recipient| text(&recipient.address)).collect();
    let last = job.recipients.iter().filter(|recipient| recipient.last_at_ms > 0).map(|recipient| {
        Value::Object(record([
            ("recipient", text(&recipient.address)),
            ("status", text(&recipient.last_status)),
            ("reply", text(&recipient.last_reply)),
            ("host", text(&recipient.last_host)),
            ("at", instant(recipient.last_at_ms)),
        ]))
    });
    record([
        ("job", text(&job.job_id)),
        ("kind", text(&job.kind)),
        ("state", text(&job.state)),
        ("reason", text(&job.reason)),
        ("next_attempt", instant(job.due_at_ms)),
        ("attempts", Value::from(job.attempts)),
        ("account_id", text(&job.account_id)),
        (
            "from",
            Value::from(if job.reverse_path.is_empty() { "<>".to_owned() } else { job.reverse_path.clone() }),
        ),
        ("to", Value::Array(to)),
        ("octets", Value::from(job.octets)),
        ("message_id", text(&job.message_id)),
        ("accepted", instant(job.accepted_at_ms)),
        ("expires", instant(job.expires_at_ms)),
        ("last", Value::Array(last.collect())),
    ])
}
