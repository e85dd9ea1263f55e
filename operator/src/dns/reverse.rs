//! The names of sending addresses: receivers distrust an address whose name doesn't lead back to it, or isn't what it says in
//! EHLO.

use super::lookup::Lookup;
use super::name::Name;
use super::report::{Finding, Purpose, Record, RecordType};
use super::spf::Sender;

/// Looks at the PTR record of an address.
pub async fn check_pointer(sender: &Sender, lookup: &impl Lookup) -> Record {
    let name = Name::of_address(sender.address);
    let expected = sender.ehlo.to_string();
    let found = lookup.pointers(&name).await;
    let observed = match &found {
        Ok(answer) => answer.records.iter().map(Name::to_string).collect(),
        Err(_) => Vec::new(),
    };
    let finding = match &found {
        Ok(answer) if answer.records.contains(&sender.ehlo) => {
            Finding::found(format!("{} is named {}", sender.address, sender.ehlo))
        }
        Ok(answer) => {
            let names: Vec<String> = answer.records.iter().map(Name::to_string).collect();
            let reason = format!(
                "{} is named {}, and says {} in EHLO; let whoever runs the network publish PTR \"{expected}\" at {name}, \
                 or say that name in EHLO",
                sender.address,
                names.join(", "),
                sender.ehlo
            );
            Finding::mismatch(reason)
        }
        Err(error) if !error.is_absence() => {
            Finding::without_answer(error, RecordType::Ptr, &name, &expected)
        }
        Err(_) => Finding::missing(format!(
            "{} has no name; let whoever runs the network publish PTR \"{expected}\" at {name}",
            sender.address
        )),
    };
    Record {
        record_type: RecordType::Ptr,
        name,
        expected,
        purpose: Purpose::Reverse,
        required: true,
        observed,
        finding,
    }
}

/// Looks at the address of the name that is said in EHLO.
pub async fn check_ehlo(sender: &Sender, lookup: &impl Lookup) -> Record {
    let (name, expected) = (sender.ehlo.clone(), sender.address.to_string());
    let record_type = RecordType::of_address(sender.address);
    let found = lookup.addresses_like(&name, sender.address).await;
    let observed: Vec<String> = match &found {
        Ok(answer) => answer.records.iter().map(ToString::to_string).collect(),
        Err(_) => Vec::new(),
    };
    let finding = match &found {
        Ok(answer) if answer.records.contains(&sender.address) => {
            Finding::found(format!("{name} has the address {expected}"))
        }
        Ok(_) => Finding::mismatch(format!(
            "{name} has the address {} and not {expected}, which says that name in EHLO; publish {record_type} \"{expected}\" \
             there as well",
            observed.join(", ")
        )),
        Err(error) => Finding::without_answer(error, record_type, &name, &expected),
    };
    Record { record_type, name, expected, purpose: Purpose::Ehlo, required: true, observed, finding }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dns::memory::{Memory, name};
    use crate::dns::report::State;

    #[tokio::test]
    async fn an_address_has_the_name_that_it_says() {
        let sender = Sender { address: "192.0.2.1".parse().unwrap(), ehlo: name("out.example.net") };
        for (dns, state, word) in [
            (
                Memory::default().ptr("192.0.2.1", "out.example.net"),
                State::Found,
                "is named out.example.net.",
            ),
            (
                Memory::default().ptr("192.0.2.1", "host7.cloud.example"),
                State::Mismatch,
                "named host7.cloud.example.",
            ),
            (Memory::default(), State::Missing, "PTR \"out.example.net.\" at 1.2.0.192.in-addr.arpa."),
            (Memory::default().failing("1.2.0.192.in-addr.arpa"), State::Unknown, "timed out"),
        ] {
            let finding = check_pointer(&sender, &dns).await.finding;
            assert!(finding.state == state && finding.reason.contains(word), "{finding:?}");
        }
    }

    #[tokio::test]
    async fn the_name_leads_back_to_the_address() {
        let sender = Sender { address: "2001:db8::1".parse().unwrap(), ehlo: name("out.example.net") };
        let host = || Memory::default().address("out.example.net", "192.0.2.1");
        for (dns, state, word) in [
            (host().address("out.example.net", "2001:db8::1"), State::Found, "has the address 2001:db8::1"),
            (
                host().address("out.example.net", "2001:db8::2"),
                State::Mismatch,
                "has the address 2001:db8::2 and not",
            ),
            (host(), State::Missing, "publish AAAA \"2001:db8::1\""),
            (host().failing("out.example.net"), State::Unknown, "timed out"),
        ] {
            let finding = check_ehlo(&sender, &dns).await.finding;
            assert!(finding.state == state && finding.reason.contains(word), "{finding:?}");
        }
    }
}
