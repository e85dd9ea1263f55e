//! Recipients that end as their name says, without a network: for trying things out.

use mail::{Disposition, Recipient, RecipientResult, RemoteReply, Timestamp};
use smtp::address::Host;
use smtp::reply::Reply;

/// The domain that is simulated in every mode.
pub(crate) const DOMAIN: &str = "simulator.stagepost.test";

pub(crate) fn is_simulated(host: &Host) -> bool {
    host.domain().is_some_and(|domain| domain.as_str() == DOMAIN)
}

/// `success`, `bounce` and `defer`, each also with a `+label`; anything else bounces and says so.
pub(crate) fn result(recipient: &Recipient, at: Timestamp) -> RecipientResult {
    let local = recipient.address.local();
    let name = local.split('+').next().unwrap_or(local).to_ascii_lowercase();
    let (disposition, reply) = match name.as_str() {
        "success" => {
            (Disposition::Delivered { relayed: false }, Reply::new(250, (2, 0, 0), "delivered, simulated"))
        }
        "bounce" => (Disposition::Bounced, Reply::new(550, (5, 1, 1), "no such user, simulated")),
        "defer" => (Disposition::Deferred, Reply::new(451, (4, 3, 0), "try again later, simulated")),
        _ => (
            Disposition::Bounced,
            Reply::new(550, (5, 1, 1), "the simulator knows only success@, bounce@ and defer@"),
        ),
    };
    RecipientResult {
        recipient: recipient.clone(),
        disposition,
        status: reply.enhanced().unwrap_or((4, 3, 0).into()),
        reason: format!("{DOMAIN} said: {reply}"),
        remote: Some(RemoteReply { host: Some(DOMAIN.to_owned()), reply }),
        at,
    }
}

#[cfg(test)]
mod tests {
    use smtp::address::{Address, Utf8};

    use super::*;

    #[test]
    fn a_simulated_recipient_ends_as_its_name_says() {
        for (local, disposition, status) in [
            ("success", "delivered", "2.0.0"),
            ("Success+label", "delivered", "2.0.0"),
            ("bounce", "bounced", "5.1.1"),
            ("defer+1", "deferred", "4.3.0"),
            ("somebody", "bounced", "5.1.1"),
        ] {
            let address = Address::parse(&format!("{local}@{DOMAIN}"), Utf8::Refused).unwrap();
            assert!(is_simulated(address.host()));
            let result = result(&Recipient::new(address), Timestamp(0));
            assert_eq!(
                (result.disposition.as_str(), &*result.status.to_string()),
                (disposition, status),
                "{local}"
            );
        }
        let odd = Address::parse("x@simulator.stagepost.test", Utf8::Refused).unwrap();
        let reason = result(&Recipient::new(odd), Timestamp(0)).reason;
        assert!(["success@", "bounce@", "defer@"].iter().all(|name| reason.contains(name)), "{reason}");
        assert!(!is_simulated(&Host::parse("stagepost.test").unwrap()));
    }
}
