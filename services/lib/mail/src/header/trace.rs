//! Our Received field (RFC 5321 section 4.4).

use std::fmt::{self, Write as _};
use std::net::IpAddr;

use smtp::address::{Address, Domain, Host};

use crate::{QueueId, Timestamp};

/// Most characters of a client's word that are shown where it is no host name.
const SHOWN_CHARACTERS_MAX: usize = 64;

/// How a message came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// After HELO.
    Smtp,
    /// After EHLO.
    Esmtp,
    /// After EHLO, and MAIL had SMTPUTF8 (RFC 6531 section 4.3).
    Utf8Smtp,
    /// By a call of the send service.
    Grpc,
}

/// Where a message comes from and how it came, as the Received field tells it.
#[derive(Clone, Copy, Debug)]
pub struct Trace<'a> {
    /// What the client called itself. What isn't a host name is shown in a comment, without anything that
    /// could end it.
    pub helo: Option<&'a str>,
    /// Its address; none where there is no network between.
    pub client_address: Option<IpAddr>,
    /// The name that DNS has for the address, if it was asked.
    pub client_name: Option<&'a Domain>,
    /// The protocol.
    pub protocol: Protocol,
    /// With TLS: version and cipher, such as `TLSv1.3 with cipher TLS_AES_256_GCM_SHA384`.
    pub tls: Option<&'a str>,
    /// Whether the client had logged in. As whom isn't told.
    pub authenticated: bool,
    /// Our name.
    pub by: &'a Domain,
    /// Our name for the message.
    pub queue_id: QueueId,
    /// The recipient, when there is just one: with several, naming any would tell the others.
    pub recipient: Option<&'a Address>,
    /// Now.
    pub now: Timestamp,
}

impl Trace<'_> {
    /// The registered word for the protocol (RFC 3848, RFC 6531 section 4.3).
    fn with(&self) -> &'static str {
        match (self.protocol, self.tls.is_some(), self.authenticated) {
            (Protocol::Grpc, ..) => "GRPC",
            (Protocol::Smtp, ..) => "SMTP",
            (Protocol::Esmtp, false, false) => "ESMTP",
            (Protocol::Esmtp, false, true) => "ESMTPA",
            (Protocol::Esmtp, true, false) => "ESMTPS",
            (Protocol::Esmtp, true, true) => "ESMTPSA",
            (Protocol::Utf8Smtp, false, false) => "UTF8SMTP",
            (Protocol::Utf8Smtp, false, true) => "UTF8SMTPA",
            (Protocol::Utf8Smtp, true, false) => "UTF8SMTPS",
            (Protocol::Utf8Smtp, true, true) => "UTF8SMTPSA",
        }
    }

    fn from(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let helo = self.helo.map(|helo| Host::parse(helo).map_err(|_| helo));
        let literal = self.client_address.map(|ip| Host::Literal(ip.to_canonical()));
        match (&helo, &literal) {
            (Some(Ok(host)), _) => write!(f, " from {host}")?,
            (_, Some(literal)) => write!(f, " from {literal}")?,
            (_, None) => return Ok(()),
        }
        match (&helo, self.client_name, &literal) {
            (Some(Err(word)), ..) => write!(f, " (HELO {})", Shown(word))?,
            (_, Some(name), Some(literal)) => write!(f, " ({name} {literal})")?,
            (Some(Ok(_)), None, Some(literal)) => write!(f, " ({literal})")?,
            (..) => {}
        }
        f.write_str("\r\n\t")
    }
}

/// The field with its CRLF. No line of it is over 998 octets.
impl fmt::Display for Trace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Received:")?;
        self.from(f)?;
        let blank = if self.helo.is_none() && self.client_address.is_none() { " " } else { "" };
        write!(f, "{blank}by {} with {}", self.by, self.with())?;
        if let Some(tls) = self.tls {
            write!(f, " ({})", Shown(tls))?;
        }
        write!(f, "\r\n\tid {}", self.queue_id)?;
        // RFC 5321 has the path in ASCII but for a transaction with SMTPUTF8 (RFC 6531 section 3.7.3).
        let utf8 = self.protocol == Protocol::Utf8Smtp;
        if let Some(recipient) = self.recipient.filter(|recipient| utf8 || !recipient.needs_smtputf8()) {
            write!(f, " for <{recipient}>")?;
        }
        write!(f, ";\r\n\t{}\r\n", self.now.to_rfc5322())
    }
}

/// Text of somebody else in a comment of ours.
struct Shown<'a>(&'a str);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().take(SHOWN_CHARACTERS_MAX).try_for_each(|character| {
            f.write_char(match character {
                '(' | ')' | '\\' => '?',
                ' '..='~' => character,
                _ => '?',
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smtp::address::Utf8;

    use super::*;
    use crate::header::field;

    fn field(helo: Option<&str>, change: impl FnOnce(&mut Trace<'_>)) -> String {
        let by = "mx.example.net".parse().unwrap();
        let mut trace = Trace {
            helo,
            client_address: Some([192, 0, 2, 7].into()),
            client_name: None,
            protocol: Protocol::Esmtp,
            tls: None,
            authenticated: true,
            by: &by,
            queue_id: "01ARYZ6S41ZZZZZZZZZZZZZZZZ".parse().unwrap(),
            recipient: None,
            now: Timestamp(1_795_579_643_042),
        };
        change(&mut trace);
        trace.to_string()
    }

    #[test]
    fn the_trace_tells_from_by_with_id_for_and_when() {
        let name = "client.example.org".parse().unwrap();
        let recipient = Address::parse("UsEr+Tag@d1.test", Utf8::Refused).unwrap();
        let text = field(Some("App.Example.ORG"), |_| {});
        assert_eq!(
            text,
            "Received: from app.example.org ([192.0.2.7])\r\n\tby mx.example.net with ESMTPA\r\n\t\
             id 01ARYZ6S41ZZZZZZZZZZZZZZZZ;\r\n\tWed, 25 Nov 2026 04:07:23 +0000\r\n"
        );
        let by = "mx.example.net".parse().unwrap();
        let trace = Trace {
            helo: Some("[192.0.2.7]"),
            client_address: Some("::ffff:192.0.2.7".parse().unwrap()),
            client_name: Some(&name),
            protocol: Protocol::Utf8Smtp,
            tls: Some("TLSv1.3 with cipher TLS_AES_256_GCM_SHA384"),
            authenticated: true,
            by: &by,
            queue_id: "01ARYZ6S41ZZZZZZZZZZZZZZZZ".parse().unwrap(),
            recipient: Some(&recipient),
            now: Timestamp(1_795_579_643_042),
        };
        assert_eq!(
            trace.to_string(),
            "Received: from [192.0.2.7] (client.example.org [192.0.2.7])\r\n\t\
             by mx.example.net with UTF8SMTPSA (TLSv1.3 with cipher TLS_AES_256_GCM_SHA384)\r\n\t\
             id 01ARYZ6S41ZZZZZZZZZZZZZZZZ for <UsEr+Tag@d1.test>;\r\n\tWed, 25 Nov 2026 04:07:23 +0000\r\n"
        );
    }

    #[test]
    fn a_call_without_a_network_has_no_from() {
        let text = field(None, |trace| {
            trace.client_address = None;
            trace.protocol = Protocol::Grpc;
        });
        assert!(text.starts_with("Received: by mx.example.net with GRPC\r\n\tid "), "{text}");
    }

    #[test]
    fn what_is_no_host_name_stays_in_its_comment() {
        let text = field(Some("x) by evil.test\r\nBcc: (y\\"), |_| {});
        let line = "Received: from [192.0.2.7] (HELO x? by evil.test??Bcc: ?y?)\r\n\tby mx.example.net with ESMTPA\r\n";
        assert!(text.starts_with(line), "{text}");
    }

    #[test]
    fn a_recipient_beyond_ascii_is_named_only_where_the_protocol_allows() {
        let recipient = Address::parse("jürgen@example.org", Utf8::Allowed).unwrap();
        let by = "mx.example.net".parse().unwrap();
        let mut trace = Trace {
            helo: None,
            client_address: None,
            client_name: None,
            protocol: Protocol::Esmtp,
            tls: None,
            authenticated: false,
            by: &by,
            queue_id: QueueId::from_bits(0),
            recipient: Some(&recipient),
            now: Timestamp(0),
        };
        assert!(trace.to_string().is_ascii());
        trace.protocol = Protocol::Utf8Smtp;
        assert!(trace.to_string().contains(" for <jürgen@example.org>;"));
    }

    proptest! {
        #[test]
        fn whatever_a_client_calls_itself_makes_one_field(helo: String) {
            let text = field(Some(&helo), |_| {});
            let fields: Vec<_> = field::fields(text.as_bytes()).collect();
            prop_assert!(fields.len() == 1 && fields[0].is_ok());
            prop_assert!(text.is_ascii());
        }
    }
}
