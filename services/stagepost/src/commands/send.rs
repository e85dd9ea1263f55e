//! `stagepost send`.

use clap::Args;
use proto::admin::v1::SubmitRequest;
use proto::admin::v1::send_client::SendClient;
use runtime::rpc::Client;
use tonic::Status;

use super::view::{View, record, text};

#[derive(Args, Debug)]
pub(crate) struct Command {
    /// Account that sends, by name or id.
    #[arg(long, default_value = "demo")]
    account: String,
    /// Sender, of a domain of the account.
    #[arg(long)]
    from: String,
    /// Recipients.
    #[arg(long, required = true, value_delimiter = ',')]
    to: Vec<String>,
    /// Subject field.
    #[arg(long, default_value = "A test mail from Stagepost")]
    subject: String,
    /// Text of the body.
    #[arg(long, default_value = "This is a test mail, sent with `stagepost send`.")]
    text: String,
}

impl Command {
    pub(crate) async fn run(self, client: Client) -> Result<View, Status> {
        let Self { account, from, to, subject, text: body } = self;
        let request = SubmitRequest { account, from, to, subject, text: body };
        let queued = SendClient::new(client).submit(request).await?.into_inner();
        Ok(View::one(record([
            ("queue_id", text(&queued.queue_id)),
            ("message_id", text(&queued.message_id)),
        ])))
    }
}
