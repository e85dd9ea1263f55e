//! The part for people.

use std::fmt::Write as _;

use smtp::address::Domain;
use smtp::reply::EnhancedCode;

use super::News;
use super::fold::{printable, wrap};
use crate::{Message, RecipientResult, transfer_encoding};

/// Appends the part: its CRLF after the delimiter, header and content, without the last CRLF.
pub(super) fn write(
    message: &Message,
    results: &[RecipientResult],
    reporting_mta: &Domain,
    out: &mut Vec<u8>,
) {
    let mut text = String::with_capacity(1024);
    // Writing into a String can't fail, here and below.
    let _ = write!(text, "This is the mail system at {reporting_mta}.\r\n\r\n");
    for news in News::ALL {
        let told: Vec<&RecipientResult> = results.iter().filter(|result| News::of(result) == news).collect();
        if !told.is_empty() {
            wrap("", &headline(news, told.len(), message), "", &mut text);
            told.iter().for_each(|result| recipient(news, result, &mut text));
            text.push_str("\r\n");
        }
    }
    let _ = write!(text, "The message was accepted on {}", message.accepted_at.to_rfc5322());
    let _ = write!(text, "\r\nas {}.\r\n", message.queue_id);
    if !message.message_id.is_empty() {
        wrap("Its Message-ID is", &printable(&message.message_id), "", &mut text);
    }

    let text = text.trim_ascii_end();
    out.extend_from_slice(b"\r\nContent-Description: Notification\r\nContent-Type: text/plain; charset=");
    if text.is_ascii() {
        out.extend_from_slice(b"us-ascii\r\n\r\n");
        out.extend_from_slice(text.as_bytes());
    } else {
        out.extend_from_slice(b"utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n");
        transfer_encoding::quoted_printable(text.as_bytes(), out);
    }
}

fn headline(news: News, count: usize, message: &Message) -> String {
    let recipients = match count {
        1 => String::from("this recipient"),
        _ => format!("these {count} recipients"),
    };
    match news {
        News::Failed => format!(
            "Your message could not be delivered to {recipients}, and no further attempt will be made. Other recipients are not \
             affected."
        ),
        News::Delayed => format!(
            "Your message could not be delivered yet to {recipients}. You need not do anything: it is tried again until {}.",
            message.expires_at.to_rfc5322()
        ),
        News::Delivered => format!("Your message was delivered to {recipients}, as you asked to be told."),
        News::Relayed => format!(
            "Your message was passed to a server that sends no reports, for {recipients}. You asked to be told of its \
             delivery; nothing more will be known."
        ),
    }
}

fn recipient(news: News, result: &RecipientResult, text: &mut String) {
    let _ = write!(text, "\r\n<{}>\r\n", result.recipient.address);
    wrap("    Reason:", &printable(&result.reason), "        ", text);
    if let Some(remote) = &result.remote {
        let host = remote.host.as_deref().unwrap_or("The remote server");
        let said = format!("{host} said: {}", remote.reply);
        wrap("    ", &printable(&said), "        ", text);
    }
    let _ = write!(text, "    Status: {}\r\n", result.status);
    if news == News::Failed {
        wrap("    What to do:", advice(result.status), "        ", text);
    }
}

/// What a sender can do about a failure, by what it is about (RFC 3463 and the registry that RFC 5248 made).
fn advice(status: EnhancedCode) -> &'static str {
    match (status.subject, status.detail) {
        (1, 10) => "The domain takes no mail at all. Check the address, or reach the recipient another way.",
        (1, 2) | (4, 4) => "Check the part of the address after the @ for typing errors.",
        (1, 7 | 8) => {
            "The recipient's server refuses your own address. Check it, and that its domain takes mail."
        }
        (1, _) => "Check the address for typing errors, or ask the recipient for the one that is in use.",
        (2, 2) => "The mailbox is full. Send the message again later, or reach the recipient another way.",
        (3, 4) | (2, 3) => "Send a smaller message, for instance with a link in place of an attachment.",
        (2, _) => "The mailbox is not in use. Ask the recipient for the address that is.",
        (4, 6) => "The message goes in circles. Tell the postmaster of the recipient's domain.",
        (4, _) => "The recipient's server could not be reached in time. Send the message again later.",
        (6, 7) => {
            "The recipient's server can't take addresses beyond ASCII. Send from, and to, an address in ASCII."
        }
        (6, _) => {
            "The recipient's server can't take the message in this form. Send it as plain text, without attachments."
        }
        (7, _) => {
            "The recipient's server refused the message by its rules. Its answer often names the reason; if not, ask the \
                   postmaster there."
        }
        _ => {
            "If the answer of the recipient's server doesn't say, ask the postmaster of the recipient's domain."
        }
    }
}
