//! `stagepost account`.

use clap::Subcommand;
use proto::accounts::v1::administration_client::AdministrationClient;
use proto::accounts::v1::{
    Account, CreateAccountRequest, DeleteAccountRequest, GetAccountRequest, ListAccountsRequest, ManagedBy,
    UpdateAccountRequest,
};
use runtime::rpc::Client;
use serde_json::Value;
use tonic::{Code, Status};

use super::view::{Record, View, instant, record, text};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make an account.
    Create {
        /// Its name, unique.
        name: String,
        /// `free` (100 recipients a day) or `unlimited`.
        #[arg(long, default_value = "free")]
        plan: String,
        /// Recipients a UTC day, instead of the plan's.
        #[arg(long)]
        recipients_per_day: Option<u64>,
        /// Leave an account of this name as it is, and show it.
        #[arg(long)]
        if_missing: bool,
    },
    /// List accounts.
    List,
    /// Show one account.
    Show {
        /// Name or id.
        account: String,
    },
    /// Change an account's plan or quota.
    Set {
        /// Name or id.
        account: String,
        /// Another plan.
        #[arg(long)]
        plan: Option<String>,
        /// Recipients a UTC day, instead of the plan's.
        #[arg(long, conflicts_with = "plan_quota")]
        recipients_per_day: Option<u64>,
        /// Back to the plan's quota.
        #[arg(long)]
        plan_quota: bool,
    },
    /// Refuse an account's new mail and hold what it has queued.
    Suspend {
        /// Name or id.
        account: String,
        /// Shown to those who try to send.
        #[arg(long, default_value = "suspended by the administrator")]
        reason: String,
    },
    /// Let a suspended account send again.
    Resume {
        /// Name or id.
        account: String,
    },
    /// Delete an account with its credentials and domains.
    Delete {
        /// Name or id.
        account: String,
    },
}

impl Command {
    pub(crate) async fn run(self, client: Client) -> Result<View, Status> {
        let mut client = AdministrationClient::new(client);
        let managed_by = ManagedBy::CommandLine.into();
        match self {
            Self::Create { name, plan, recipients_per_day, if_missing } => {
                let account = name.clone();
                let request = CreateAccountRequest { name, plan, recipients_per_day, managed_by };
                match client.create_account(request).await {
                    Err(status) if if_missing && status.code() == Code::AlreadyExists => {
                        client.get_account(GetAccountRequest { account }).await.map(one)
                    }
                    made => made.map(one),
                }
            }
            Self::List => {
                let accounts = client.list_accounts(ListAccountsRequest {}).await?.into_inner().accounts;
                Ok(View::List {
                    columns: &["name", "id", "plan", "recipients_per_day", "suspended", "created"],
                    records: accounts.into_iter().map(facts).collect(),
                    empty: "There is no account; make one with `stagepost account create NAME`.",
                })
            }
            Self::Show { account } => client.get_account(GetAccountRequest { account }).await.map(one),
            Self::Set { account, plan, recipients_per_day, plan_quota } => {
                let request = UpdateAccountRequest {
                    account,
                    plan,
                    recipients_per_day,
                    clear_recipients_per_day: plan_quota,
                    managed_by,
                    ..Default::default()
                };
                client.update_account(request).await.map(one)
            }
            Self::Suspend { account, reason } => {
                let (suspended, suspended_reason) = (Some(true), Some(reason));
                let request = UpdateAccountRequest {
                    account,
                    suspended,
                    suspended_reason,
                    managed_by,
                    ..Default::default()
                };
                client.update_account(request).await.map(one)
            }
            Self::Resume { account } => {
                let suspended = Some(false);
                let request = UpdateAccountRequest { account, suspended, managed_by, ..Default::default() };
                client.update_account(request).await.map(one)
            }
            Self::Delete { account } => {
                client.delete_account(DeleteAccountRequest { account: account.clone(), managed_by }).await?;
                Ok(View::one(record([("deleted", text(&account))])))
            }
        }
    }
}

fn one(response: tonic::Response<Account>) -> View {
    View::one(facts(response.into_inner()))
}

fn facts(account: Account) -> Record {
    record([
        ("name", text(&account.name)),
        ("id", text(&account.id)),
        ("plan", text(&account.plan)),
        (
            "recipients_per_day",
            account.effective_recipients_per_day.map_or_else(|| Value::from("without limit"), Value::from),
        ),
        ("suspended", if account.suspended { text(&account.suspended_reason) } else { Value::Null }),
        ("managed_by", text(super::owner(account.managed_by))),
        ("created", instant(account.created_at_ms)),
    ])
}
