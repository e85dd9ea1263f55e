//! Commands for people and programs: clients of a running Stagepost.

mod account;
mod credential;
mod domain;
mod events;
mod explain;
mod queue;
mod send;
mod view;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand, ValueEnum};
use runtime::rpc::{Client, Server, Token};
use runtime::tls::ClientTls;

/// How a command's answer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

// Which Stagepost a command talks to, and how it answers. (As a doc comment it would stand in place of each command's own help.)
#[derive(Args, Clone, Debug)]
pub(crate) struct Connection {
    /// Where Stagepost listens: unix:/path, http://host:port or https://host:port; by default the socket in the state directory.
    #[arg(long, global = true, env = "STAGEPOST_SERVER")]
    server: Option<Server>,
    /// File with the service token; by default `token` in the state directory.
    #[arg(long, global = true, env = "STAGEPOST_TOKEN_FILE")]
    token_file: Option<PathBuf>,
    /// PEM file with the authorities that the server's certificate is signed by (https://); by default those that the web trusts.
    #[arg(long, id = "server_ca", value_name = "FILE", global = true, env = "STAGEPOST_CA")]
    ca: Option<PathBuf>,
    /// PEM file with a certificate chain, where the server asks for one; with `--key`.
    #[arg(
        long,
        id = "own_certificate",
        value_name = "FILE",
        global = true,
        requires = "own_key",
        env = "STAGEPOST_CERTIFICATE"
    )]
    certificate: Option<PathBuf>,
    /// PEM file with the key of `--certificate`.
    #[arg(
        long,
        id = "own_key",
        value_name = "FILE",
        global = true,
        requires = "own_certificate",
        env = "STAGEPOST_KEY"
    )]
    key: Option<PathBuf>,
    /// State directory of the Stagepost meant: ./.stagepost if it is there, else /var/lib/stagepost.
    #[arg(long, id = "state_folder", value_name = "DIR", global = true, env = "STAGEPOST_STATE")]
    state: Option<PathBuf>,
    /// How the answer is printed.
    #[arg(long, short, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
}

impl Connection {
    fn connect(&self) -> Result<Client> {
        let Self { server, token_file, ca, certificate, key, state, output: _ } = self;
        let state = state.clone().unwrap_or_else(default_state);
        let server = server.clone().unwrap_or_else(|| Server::Unix(crate::serve::socket_path(&state)));
        let token_file = token_file.clone().unwrap_or_else(|| crate::serve::token_path(&state));
        let token = Token::load(&token_file).with_context(|| {
            format!("is Stagepost running with state in {}? Name it with --state, or use --server and --token-file", state.display())
        })?;
        if let Server::Unix(path) = &server {
            std::os::unix::net::UnixStream::connect(path).with_context(|| {
                format!(
                    "no Stagepost answers on {}; start it with `stagepost dev` or `stagepost run`",
                    path.display()
                )
            })?;
        }
        let tls = ClientTls::load(ca.as_deref(), certificate.as_deref().zip(key.as_deref()))?;
        Ok(runtime::rpc::connect_tls(&server, &token, &tls))
    }
}

fn default_state() -> PathBuf {
    let here = Path::new(".stagepost");
    if here.is_dir() { here.into() } else { crate::site::DEFAULT_STATE.into() }
}

/// What can be asked.
#[derive(Subcommand, Debug)]
pub(crate) enum Ask {
    /// Accounts: who may send, and how much.
    #[command(subcommand)]
    Account(account::Command),
    /// Credentials: how applications log in.
    #[command(subcommand)]
    Credential(credential::Command),
    /// Sending domains and their DKIM keys.
    #[command(subcommand)]
    Domain(domain::Command),
    /// Mail that waits.
    #[command(subcommand)]
    Queue(queue::Command),
    /// What happens to mail, a line an event, as it comes.
    Events(events::Command),
    /// A message's whole story: why it waits, until when, what the remote said, how it ended.
    Explain(explain::Command),
    /// Submit a test mail.
    Send(send::Command),
}

impl Ask {
    /// Asks and prints the answer.
    pub(crate) async fn run(self, connection: &Connection) -> Result<()> {
        let client = connection.connect()?;
        let mut output = connection.output;
        let answer = match self {
            Self::Events(command) => return command.run(client, output).await,
            Self::Explain(command) => {
                output = command.output(output);
                command.run(client).await
            }
            Self::Account(command) => command.run(client).await,
            Self::Credential(command) => command.run(client).await,
            Self::Domain(command) => command.run(client).await,
            Self::Queue(command) => command.run(client).await,
            Self::Send(command) => command.run(client).await,
        };
        match answer {
            Ok(view) => view.print(output),
            Err(status) => anyhow::bail!(explained(&status)),
        }
    }
}

/// A gRPC status as a line for people.
fn explained(status: &tonic::Status) -> String {
    match status.code() {
        tonic::Code::Unavailable => format!("Stagepost doesn't answer: {}", status.message()),
        tonic::Code::Unimplemented => {
            String::from("the server named by --server doesn't offer this; name another")
        }
        _ => status.message().to_owned(),
    }
}

/// Who may change a thing.
fn owner(managed_by: i32) -> &'static str {
    use proto::accounts::v1::ManagedBy;
    match ManagedBy::try_from(managed_by) {
        Ok(ManagedBy::CommandLine) => "command line",
        Ok(ManagedBy::Operator) => "operator",
        Ok(ManagedBy::Unspecified) | Err(_) => "",
    }
}
