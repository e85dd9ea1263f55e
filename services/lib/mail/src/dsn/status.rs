//! The part for programs (RFC 3464 section 2).

use std::fmt::Write as _;

use smtp::address::{Address, Domain};
use smtp::command::Orcpt;

use super::News;
use super::fold::{ascii, wrap};
use crate::{Message, RecipientResult};

/// Appends the part: its CRLF after the delimiter, header and content, without the last CRLF.
pub(super) fn write(
    message: &Message,
    results: &[RecipientResult],
    reporting_mta: &Domain,
    out: &mut Vec<u8>,
) {
    let mut text = String::with_capacity(1024);
    field("Reporting-MTA", &format!("dns; {reporting_mta}"), &mut text);
    if let Some(envid) = &message.envid {
        field("Original-Envelope-Id", &ascii(envid), &mut text);
    }
    field("Arrival-Date", &message.accepted_at.to_rfc5322(), &mut text);
    field("X-Stagepost-Queue-Id", &message.queue_id.to_string(), &mut text);
    for result in results {
        text.push_str("\r\n");
        recipient(message, result, &mut text);
    }
    out.extend_from_slice(
        b"\r\nContent-Description: Delivery report\r\nContent-Type: message/delivery-status\r\n\r\n",
    );
    out.extend_from_slice(text.trim_ascii_end().as_bytes());
}

fn recipient(message: &Message, result: &RecipientResult, text: &mut String) {
    let news = News::of(result);
    if let Some(orcpt) = &result.recipient.orcpt {
        field("Original-Recipient", &original_recipient(orcpt), text);
    }
    field("Final-Recipient", &final_recipient(&result.recipient.address), text);
    let action = match news {
        News::Failed => "failed",
        News::Delayed => "delayed",
        News::Delivered => "delivered",
        News::Relayed => "relayed",
    };
    field("Action", action, text);
    field("Status", &result.status.to_string(), text);
    match &result.remote {
        Some(remote) => {
            if let Some(host) = &remote.host {
                field("Remote-MTA", &format!("dns; {}", ascii(host)), text);
            }
            field("Diagnostic-Code", &format!("smtp; {}", ascii(&remote.reply.to_string())), text);
        }
        None => field("Diagnostic-Code", &format!("X-Stagepost; {}", ascii(&result.reason)), text),
    }
    field("Last-Attempt-Date", &result.at.to_rfc5322(), text);
    if news == News::Delayed {
        field("Will-Retry-Until", &message.expires_at.to_rfc5322(), text);
    }
}

/// The address as the sender gave it. Other types than `utf-8` are in ASCII and stand here decoded
/// (RFC 3461 section 6.3); `utf-8` has its 7-bit form in this part (RFC 6533 section 3).
fn original_recipient(orcpt: &str) -> String {
    match orcpt.parse::<Orcpt>() {
        Ok(orcpt) if orcpt.addr_type.eq_ignore_ascii_case("utf-8") => orcpt.encoded().replacen(';', "; ", 1),
        _ => ascii(orcpt).replacen(';', "; ", 1),
    }
}

fn final_recipient(address: &Address) -> String {
    if !address.needs_smtputf8() {
        return format!("rfc822; {address}");
    }
    let orcpt = Orcpt { addr_type: String::from("utf-8"), address: address.to_string() };
    orcpt.encoded().replacen(';', "; ", 1)
}

/// Appends a field, folded.
fn field(name: &str, value: &str, text: &mut String) {
    let start = text.len();
    // Writing into a String can't fail.
    let _ = write!(text, "{name}:");
    let first = text.split_off(start);
    wrap(&first, value, " ", text);
}
