//! Mail from an administrator: admin.v1 `Send`, through the same checks as a client's.

use std::sync::Arc;
use std::time::Instant;

use limits::Limits;
use mail::Recipient;
use proto::accounts::v1::administration_client::AdministrationClient;
use proto::accounts::v1::{GetAccountRequest, ListDomainsRequest};
use proto::admin::v1::send_server::{Send as SendService, SendServer};
use proto::admin::v1::{SubmitRequest, SubmitResponse};
use runtime::telemetry::failed;
use smtp::address::{Address, AddressError, ForwardPath, ReversePath, Utf8};
use smtp::command::MailParams;
use smtp::reply::Reply;
use smtp::server::StartTls;
use spool::Spool;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use tracing::field::display;
use tracing::{Instrument as _, Span};

use crate::acceptance::{Origin, Submission};
use crate::config::Settings;
use crate::directory::Profile;
use crate::gate::Gate;
use crate::{Config, Parts, spans};

mod compose;

type Accounts = AdministrationClient<runtime::rpc::Client>;

/// The gRPC service by which `stagepost send` submits messages. Whoever shows the service token may send as any account, but
/// nothing that the account itself couldn't.
pub fn send_routes<S: Spool, L: Limits>(config: &Config, parts: &Parts<S, L>, accounts: Accounts) -> Routes {
    let settings = Settings::new(config, &parts.host_name, StartTls::NotOffered);
    let recipients_max = settings.smtp.recipients_max;
    let gate = Gate::new(&settings, parts.clone());
    Routes::new(SendServer::new(Service { gate, accounts, recipients_max }))
}

struct Service<S, L> {
    gate: Arc<Gate<S, L>>,
    accounts: Accounts,
    recipients_max: usize,
}

#[tonic::async_trait]
impl<S: Spool, L: Limits> SendService for Service<S, L> {
    async fn submit(&self, request: Request<SubmitRequest>) -> Result<Response<SubmitResponse>, Status> {
        let span = spans::submission();
        let taken = self.take(request.into_inner()).instrument(span.clone()).await;
        if let Err(status) = &taken {
            failed(&span, status.code().description());
        }
        taken.map(Response::new)
    }
}

impl<S: Spool, L: Limits> Service<S, L> {
    async fn take(&self, request: SubmitRequest) -> Result<SubmitResponse, Status> {
        let began = Instant::now();
        let SubmitRequest { account, from, to, subject, text } = request;
        let profile = self.profile(account).await?;
        Span::current().record("mail.account", display(&profile.account));
        let from = address("from", &from)?;
        let to = to.iter().map(|text| address("to", text)).collect::<Result<Vec<_>, _>>()?;
        if to.is_empty() || to.len() > self.recipients_max {
            return Err(Status::invalid_argument(format!("give 1 to {} recipients", self.recipients_max)));
        }
        let content = compose::message(&from, &to, &subject, &text);
        let reverse_path = ReversePath::Mailbox(from);
        self.gate
            .may_send(&profile, &reverse_path, Some(content.len() as u64))
            .map_err(|reply| status(&reply))?;
        let mut tickets = Vec::with_capacity(to.len());
        for recipient in &to {
            let path = ForwardPath::Mailbox(recipient.clone());
            let (ticket, own) = self.gate.recipient(&profile, &path).await.map_err(|reply| status(&reply))?;
            tickets.push(ticket);
            tickets.extend(own);
        }
        let mut intake =
            self.gate.intake(Some(content.len() as u64)).await.map_err(|reply| status(&reply))?;
        intake.push(&content);
        let submission = Submission {
            profile: &profile,
            reverse_path,
            params: &MailParams::default(),
            recipients: to.into_iter().map(Recipient::new).collect(),
            octets_over_127: !content.is_ascii(),
            received: intake.finish().map_err(|reply| status(&reply))?,
            receive: began.elapsed(),
            origin: Origin::Administrator,
        };
        let accepted = self.gate.accept(submission, tickets).await.map_err(|reply| status(&reply))?;
        Ok(SubmitResponse { queue_id: accepted.queue_id.to_string(), message_id: accepted.message_id })
    }

    async fn profile(&self, account: String) -> Result<Profile, Status> {
        let mut accounts = self.accounts.clone();
        let account = accounts.get_account(GetAccountRequest { account }).await?.into_inner();
        let domains = accounts.list_domains(ListDomainsRequest { account: account.id.clone() }).await?;
        Profile::of_account(account, domains.into_inner().domains)
            .ok_or_else(|| Status::internal("the answer of accounts makes no sense"))
    }
}

fn address(field: &str, text: &str) -> Result<Address, Status> {
    Address::parse(text, Utf8::Allowed).map_err(|error: AddressError| {
        Status::invalid_argument(format!("{field}: {text:?} is no address: {error}"))
    })
}

/// The reply that a client would have got, as gRPC says it.
fn status(reply: &Reply) -> Status {
    match reply.code() {
        452 => Status::resource_exhausted(reply.to_string()),
        400..=499 => Status::unavailable(reply.to_string()),
        _ => Status::failed_precondition(reply.to_string()),
    }
}
