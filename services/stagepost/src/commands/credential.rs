//! `stagepost credential`.

use std::io::Read as _;

use clap::Subcommand;
use proto::accounts::v1::administration_client::AdministrationClient;
use proto::accounts::v1::{
    CreateCredentialRequest, Credential, ListCredentialsRequest, ManagedBy, RevokeCredentialRequest,
};
use runtime::rpc::Client;
use tonic::Status;

use super::view::{self, Record, View, instant, record, text};

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make a credential for an application; its secret is shown this once.
    Create {
        /// Account, by name or id.
        account: String,
        /// A user name of your choice; made up when not given.
        #[arg(long)]
        username: Option<String>,
        /// Read a password of your choice from standard input instead of making a secret.
        #[arg(long)]
        password_stdin: bool,
        /// What it is for.
        #[arg(long, default_value = "")]
        description: String,
    },
    /// List an account's credentials.
    List {
        /// Account, by name or id.
        account: String,
    },
    /// Revoke a credential: logins with it fail from now on.
    Revoke {
        /// User name or id.
        credential: String,
    },
}

impl Command {
    pub(crate) async fn run(self, client: Client) -> Result<View, Status> {
        let mut client = AdministrationClient::new(client);
        let managed_by = ManagedBy::CommandLine.into();
        match self {
            Self::Create { account, username, password_stdin, description } => {
                let password = if password_stdin { read_password()? } else { Vec::new() };
                let request = CreateCredentialRequest {
                    account,
                    username: username.unwrap_or_default(),
                    password: password.into(),
                    description,
                    managed_by,
                };
                let made = client.create_credential(request).await?.into_inner();
                let mut record = facts(made.credential.unwrap_or_default());
                record.insert("secret".into(), text(&made.secret));
                let note = if made.secret.is_empty() {
                    ""
                } else {
                    "\nKeep the secret now: it can't be shown again. Log in with the user name above or with `apikey`.\n"
                };
                let text = view::facts(&record) + note;
                Ok(View::Told { record, text })
            }
            Self::List { account } => {
                let found = client.list_credentials(ListCredentialsRequest { account }).await?.into_inner();
                Ok(View::List {
                    columns: &["username", "id", "description", "created"],
                    records: found.credentials.into_iter().map(facts).collect(),
                    empty: "The account has no credential; make one with `stagepost credential create ACCOUNT`.",
                })
            }
            Self::Revoke { credential } => {
                let request = RevokeCredentialRequest { credential: credential.clone(), managed_by };
                client.revoke_credential(request).await?;
                Ok(View::one(record([("revoked", text(&credential))])))
            }
        }
    }
}

fn read_password() -> Result<Vec<u8>, Status> {
    let mut password = Vec::new();
    std::io::stdin().lock().take(4096).read_to_end(&mut password).map_err(|error| {
        Status::invalid_argument(format!("can't read the password from standard input: {error}"))
    })?;
    let kept = password.trim_ascii_end().len();
    password.truncate(kept);
    if password.is_empty() {
        return Err(Status::invalid_argument("standard input holds no password"));
    }
    Ok(password)
}

fn facts(credential: Credential) -> Record {
    record([
        ("username", text(&credential.username)),
        ("id", text(&credential.id)),
        ("account_id", text(&credential.account_id)),
        ("description", text(&credential.description)),
        ("managed_by", text(super::owner(credential.managed_by))),
        ("created", instant(credential.created_at_ms)),
    ])
}
