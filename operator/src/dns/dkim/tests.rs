use dkim::{Algorithm as Signs, SigningKey};

use super::*;
use crate::dns::authority::Zone;
use crate::dns::memory::{Memory, name};

const AT: &str = "s1._domainkey.example.com";

fn generated(algorithm: Signs) -> Key {
    Key::from_record("s1", &SigningKey::generate(algorithm).unwrap().public_record()).unwrap()
}

async fn found(key: &Key, dns: &Memory) -> (State, String) {
    let record = check(&name("example.com"), key, dns).await.unwrap();
    (record.finding.state, record.finding.reason)
}

fn base64_of(record: &str) -> &str {
    record.split_once("p=").unwrap().1
}

#[tokio::test]
async fn our_key_is_found_however_it_is_written() {
    let rsa = generated(Signs::RsaSha256);
    let info = STANDARD.decode(base64_of(&rsa.record)).unwrap();
    let inner = STANDARD.encode(rsa_public_key(&info).unwrap());
    // 24 octets stand before the RSAPublicKey of a key of 2048 bits.
    assert_eq!(STANDARD.decode(&inner).unwrap(), info[24..]);
    let folded = base64_of(&rsa.record).replace('A', "A \t");
    for text in [
        rsa.record.clone(),
        format!("p={}", base64_of(&rsa.record)),
        format!(" v=DKIM1 ; h=sha1:sha256; s=email; t=s; n=a note; p={folded};"),
        format!("v=DKIM1; k=rsa; p={inner}"),
    ] {
        let (state, reason) = found(&rsa, &Memory::default().txt(AT, &text)).await;
        assert_eq!(state, State::Found, "{text}: {reason}");
    }
    let ed25519 = generated(Signs::Ed25519Sha256);
    assert_eq!(found(&ed25519, &Memory::default().txt(AT, &ed25519.record)).await.0, State::Found);
}

#[tokio::test]
async fn what_keeps_receivers_from_verifying_is_named() {
    let rsa = generated(Signs::RsaSha256);
    let p = base64_of(&rsa.record);
    let other = generated(Signs::RsaSha256).record;
    for (text, word) in [
        (other.as_str(), "p= is another key"),
        ("v=DKIM1; p=", "revoked"),
        ("v=DKIM1; k=rsa", "it has no p="),
        ("v=DKIM1; p=!", "p= isn't base64"),
        ("k=rsa; v=DKIM1; p=AAAA", "v= must be DKIM1 and stand first"),
        ("hello", "not of the form tag=value"),
        (&format!("k=ed25519; p={p}"), "algorithm is ed25519 and should be rsa"),
        (&format!("h=sha1; p={p}"), "h= doesn't allow sha256"),
        (&format!("s=other; p={p}"), "s= doesn't allow email"),
        (&format!("t=y:s; p={p}"), "t=y tells receivers"),
        (&format!("p={}", &p[..236]), "cut off at its end"),
    ] {
        let (state, reason) = found(&rsa, &Memory::default().txt(AT, text)).await;
        assert!(state == State::Mismatch && reason.contains(word), "{text}: {state} {reason}");
        assert!(reason.contains(&format!("publish TXT \"{}\"", rsa.record)), "{reason}");
    }
}

/// As some publish it: with the twelve octets of a SubjectPublicKeyInfo in front.
#[tokio::test]
async fn a_wrapped_ed25519_key_is_told_from_another() {
    let key = generated(Signs::Ed25519Sha256);
    let mut wrapped = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    wrapped.extend(STANDARD.decode(base64_of(&key.record)).unwrap());
    let text = format!("v=DKIM1; k=ed25519; p={}", STANDARD.encode(wrapped));
    let (state, reason) = found(&key, &Memory::default().txt(AT, &text)).await;
    assert!(state == State::Mismatch && reason.contains("only its 32 octets"), "{reason}");
}

#[tokio::test]
async fn absence_company_and_failure_are_told_apart() {
    let key = generated(Signs::Ed25519Sha256);
    assert_eq!(found(&key, &Memory::default()).await.0, State::Missing);
    assert_eq!(found(&key, &Memory::default().address(AT, "192.0.2.1")).await.0, State::Missing);
    assert_eq!(found(&key, &Memory::default().failing(AT)).await.0, State::Unknown);
    let company = Memory::default().txt(AT, &key.record).txt(AT, "heritage=external-dns");
    let (state, reason) = found(&key, &company).await;
    assert!(state == State::Mismatch && reason.contains("2 TXT records, one of them ours"), "{reason}");
}

#[tokio::test]
async fn an_alias_must_lead_to_its_own_target() {
    let key = generated(Signs::Ed25519Sha256).behind(name("k1.keys.example.net"));
    let record = key.record.clone();
    let direct = Memory::default().txt(AT, &record);
    let right = Memory::default().cname(AT, "k1.keys.example.net");
    let other = || Memory::default().cname(AT, "k2.keys.example.net");
    for (dns, state, word) in [
        (right.txt("k1.keys.example.net", &record), State::Found, "(at k1.keys.example.net.)"),
        (Memory::default().cname(AT, "k1.keys.example.net"), State::Missing, "which has no TXT record yet"),
        (Memory::default(), State::Missing, "publish CNAME \"k1.keys.example.net.\""),
        (direct, State::Mismatch, "has a record of its own"),
        (other(), State::Mismatch, "is an alias to k2.keys.example.net."),
        (other().txt("k2.keys.example.net", &record), State::Mismatch, "is an alias to k2.keys.example.net."),
        (Memory::default().failing(AT), State::Unknown, "timed out"),
    ] {
        let (found, reason) = found(&key, &dns).await;
        assert!(found == state && reason.contains(word), "{found} {reason}");
    }
}

struct Two([Found<Text>; 2]);

impl Authority for Two {
    async fn zone(&self, _: &Name) -> Result<Zone, LookupError> {
        Err(LookupError::NoDomain)
    }

    async fn everywhere(&self, _: &Name) -> Result<Vec<Sighting>, LookupError> {
        let servers = [name("ns1.example.net"), name("ns2.example.net")].into_iter();
        let sightings = servers.zip(self.0.clone());
        Ok(sightings.map(|(server, found)| Sighting { server, address: None, found }).collect())
    }
}

#[tokio::test]
async fn a_key_is_everywhere_only_when_nobody_lacks_it() {
    let key = generated(Signs::Ed25519Sha256);
    let has = || Ok(Answer { records: vec![Text(key.record.clone().into())], aliases: vec![], ttl_secs: 1 });
    let dns = Memory::default().txt(AT, &key.record);
    let away = || Err(LookupError::Failed("it timed out".to_owned()));
    for (two, resolver, state, word) in [
        ([has(), has()], &dns, State::Found, "all 2 servers"),
        ([has(), Err(LookupError::NoDomain)], &dns, State::Missing, "ns2.example.net.: "),
        ([has(), away()], &dns, State::Unknown, "ns2.example.net.: "),
        ([away(), Err(LookupError::NoRecords)], &dns, State::Missing, "ns2.example.net.: "),
        ([has(), has()], &Memory::default(), State::Missing, "has no TXT record"),
    ] {
        let waits = |_: &Sighting| false;
        let finding = check_everywhere(&name("example.com"), &key, resolver, &Two(two), waits).await.unwrap();
        assert!(finding.state == state && finding.reason.contains(word), "{finding:?}");
    }
}

#[tokio::test]
async fn servers_that_are_given_up_count_for_nothing_while_there_are_others() {
    let key = generated(Signs::Ed25519Sha256);
    let has = || Ok(Answer { records: vec![Text(key.record.clone().into())], aliases: vec![], ttl_secs: 1 });
    let dns = Memory::default().txt(AT, &key.record);
    let away = || Err(LookupError::Failed("it timed out".to_owned()));
    for (two, given_up, resolver, state, word) in [
        ([has(), away()], 1, &dns, State::Found, "all 1 servers"),
        ([has(), away()], 1, &dns, State::Found, "; ns2.example.net. didn't answer"),
        ([Err(LookupError::NoDomain), away()], 1, &dns, State::Missing, "ns1.example.net.: "),
        // The other one is still waited for.
        ([away(), away()], 1, &dns, State::Unknown, "ns1.example.net.: "),
        ([away(), away()], 2, &dns, State::Unknown, "ns1.example.net.: "),
        ([has(), away()], 1, &Memory::default(), State::Missing, "has no TXT record"),
    ] {
        let last = |sighting: &Sighting| match given_up {
            1 => sighting.server == name("ns2.example.net"),
            _ => true,
        };
        let finding = check_everywhere(&name("example.com"), &key, resolver, &Two(two), last).await.unwrap();
        assert!(finding.state == state && finding.reason.contains(word), "{finding:?}");
    }
}
