//! Operators that take mail for many domains on hosts of many names, and what may go to each of them.
//!
//! They are in the file `providers.toml`, which is part of the program; settings win over it.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Arc;

use serde::Deserialize;
use smtp::address::Domain;

const SHIPPED: &str = include_str!("providers.toml");

/// All providers that are known.
#[derive(Debug)]
pub(crate) struct Providers {
    limits: HashMap<Arc<str>, ProviderLimits>,
    /// Whose hosts are at or below a name.
    hosts: HashMap<Domain, Arc<str>>,
}

/// What may go to a provider; what isn't there is as for everybody.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct ProviderLimits {
    /// At a time.
    pub(crate) connections: Option<NonZeroU32>,
    pub(crate) rate: Option<Rate>,
    pub(crate) messages_per_connection: Option<NonZeroU32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rate {
    pub(crate) messages_per_sec: f64,
    pub(crate) burst: NonZeroU32,
}

/// The file of providers can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProvidersError {
    /// It isn't TOML, or has other keys than it should.
    #[error("the file of providers can't be read: {0}")]
    Syntax(String),
    /// What it says of one of them makes no sense.
    #[error("the file of providers: {name}: {wrong}")]
    Provider {
        /// Of which.
        name: String,
        /// What is wrong.
        wrong: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    provider: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    mx: Vec<String>,
    connections: Option<NonZeroU32>,
    messages_per_sec: Option<f64>,
    burst: Option<NonZeroU32>,
    messages_per_connection: Option<NonZeroU32>,
    /// For those who read the file.
    source: String,
}

impl Providers {
    /// Those that come with the program.
    pub(crate) fn shipped() -> Result<Self, ProvidersError> {
        Self::parse(SHIPPED)
    }

    pub(crate) fn parse(text: &str) -> Result<Self, ProvidersError> {
        let File { provider: entries } = toml::from_str(text)
            .map_err(|error| ProvidersError::Syntax(error.to_string().replace('\n', " ")))?;
        let mut providers = Self { limits: HashMap::new(), hosts: HashMap::new() };
        for entry in entries {
            let name = entry.name.clone();
            providers.add(entry).map_err(|wrong| ProvidersError::Provider { name, wrong })?;
        }
        Ok(providers)
    }

    fn add(&mut self, entry: Entry) -> Result<(), String> {
        let Entry { name, mx, connections, messages_per_sec, burst, messages_per_connection, source } = entry;
        let plain = |octet: u8| octet.is_ascii_lowercase() || octet.is_ascii_digit() || octet == b'-';
        // So it is neither a host, nor a host and its port, nor several hosts.
        if name.is_empty() || !name.bytes().all(plain) {
            return Err("a name is made of lower case letters, digits and hyphens".into());
        }
        if source.trim().is_empty() {
            return Err("it isn't said where the figures come from".into());
        }
        let rate = match (messages_per_sec, burst) {
            (None, None) => None,
            (Some(messages_per_sec), Some(burst))
                if messages_per_sec.is_finite() && messages_per_sec > 0.0 =>
            {
                Some(Rate { messages_per_sec, burst })
            }
            _ => return Err("a rate is a number above 0 and a burst".into()),
        };
        let name: Arc<str> = name.into();
        let limits = ProviderLimits { connections, rate, messages_per_connection };
        if self.limits.insert(Arc::clone(&name), limits).is_some() {
            return Err("it is there twice".into());
        }
        if mx.is_empty() {
            return Err("it has no hosts".into());
        }
        for text in mx {
            let host = text.parse::<Domain>().map_err(|error| format!("{text}: {error}"))?;
            if host.as_str() != text || !text.contains('.') {
                return Err(format!("{text}: not a name of two labels or more in lower case"));
            }
            if let Some(other) = self.hosts.insert(host, Arc::clone(&name)) {
                return Err(format!("{text} is {other}'s already"));
            }
        }
        Ok(())
    }

    /// Whose a host is: the longest name that it is at or below decides.
    pub(crate) fn of_host(&self, host: &Domain) -> Option<&Arc<str>> {
        let mut above = Some(host.clone());
        while let Some(name) = above {
            if let Some(provider) = self.hosts.get(&name) {
                return Some(provider);
            }
            above = name.parent();
        }
        None
    }

    /// What may go to the provider of this name, if there is one.
    pub(crate) fn limits(&self, name: &str) -> Option<&ProviderLimits> {
        self.limits.get(name)
    }

    /// The provider whose name differs from `wanted` least, if it differs little.
    pub(crate) fn nearest(&self, wanted: &str) -> Option<&str> {
        let names = self.limits.keys().map(AsRef::as_ref);
        let scored = names.map(|name: &str| (strsim::damerau_levenshtein(name, wanted), name));
        scored.min().filter(|(distance, _)| *distance <= 1 + wanted.len() / 5).map(|(_, name)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider<'a>(providers: &'a Providers, host: &str) -> Option<&'a str> {
        providers.of_host(&host.parse().unwrap()).map(AsRef::as_ref)
    }

    #[test]
    fn the_file_is_sound_and_says_of_every_figure_where_it_comes_from() {
        let providers = Providers::shipped().unwrap();
        assert!(providers.limits.len() >= 30, "{}", providers.limits.len());
        let File { provider: entries } = toml::from_str(SHIPPED).unwrap();
        for Entry { name, source, connections, messages_per_connection, .. } in &entries {
            let ours = source == "no published figure; a cautious default";
            let published = source.contains(':') && source.contains('(');
            assert!(ours || published, "{name}: neither a document nor a default of ours: {source}");
            assert!(connections.is_some_and(|most| most.get() <= 500), "{name}");
            // That servers close a connection after so many is never a guess.
            assert!(messages_per_connection.is_none() || published, "{name}");
        }
    }

    #[test]
    fn hosts_are_known_by_their_names() {
        let providers = Providers::shipped().unwrap();
        for (host, name) in [
            ("aspmx.l.google.com", "google"),
            ("alt4.aspmx.l.google.com", "google"),
            ("ALT1.GMAIL-SMTP-IN.L.GOOGLE.COM", "google"),
            ("aspmx3.googlemail.com", "google"),
            ("sender-test.mail.protection.outlook.com", "exchange-online"),
            ("sender-test.x-v1.mx.microsoft", "exchange-online"),
            ("hotmail-com.olc.protection.outlook.com", "outlook-com"),
            ("mta5.am0.yahoodns.net", "yahoo"),
            ("mx-aol.mail.gm0.yahoodns.net", "yahoo"),
            ("mx01.mail.icloud.com", "icloud"),
            ("mx00.emig.gmx.net", "gmx"),
            ("mx-ha03.web.de", "gmx"),
            ("mx02.t-online.de", "t-online"),
            ("smtp-in.orange.fr", "orange"),
            ("mx2h1.comcast.net", "comcast"),
            ("mxa-00123456.gslb.pphosted.com", "proofpoint"),
            ("eu-smtp-inbound-2.mimecast.com", "mimecast"),
            ("d12345a.ess.uk.barracudanetworks.com", "barracuda"),
            ("mx1.hc123-45.eu.iphmx.com", "cisco"),
            ("mx01.ionos.co.uk", "ionos"),
            ("smtpin.rzone.de", "strato"),
            ("mx3.zoho.com.au", "zoho"),
            ("qiye163mx01.mxmail.netease.com", "netease"),
            ("in1-smtp.messagingengine.com", "fastmail"),
        ] {
            assert_eq!(provider(&providers, host), Some(name), "{host}");
        }
    }

    #[test]
    fn what_only_looks_like_a_providers_host_is_not() {
        let providers = Providers::shipped().unwrap();
        for host in [
            "evilaspmx.l.google.com",
            "aspmx.l.google.com.evil.test",
            "aspmx-l-google.com",
            "www.google.com",
            "google.com",
            "notyahoodns.net",
            "yahoodns.net.test",
            "c-192-0-2-1.hsd1.ca.comcast.net",
            "microsoft",
            "com",
        ] {
            assert_eq!(provider(&providers, host), None, "{host}");
        }
    }

    #[test]
    fn the_longest_name_counts() {
        let text = r#"
            provider = [
                { name = "one", mx = ["mail.test"], source = "none" },
                { name = "two", mx = ["in.mail.test", "other.test"], source = "none" },
            ]"#;
        let providers = Providers::parse(text).unwrap();
        for (host, name) in [
            ("mail.test", "one"),
            ("a.mail.test", "one"),
            ("in.mail.test", "two"),
            ("a.b.IN.mail.test", "two"),
            ("begin.mail.test", "one"),
            ("other.test", "two"),
        ] {
            assert_eq!(provider(&providers, host), Some(name), "{host}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (entries, wrong) in [
            (r#"name = "A", mx = ["a.test"], source = "s""#, "a name is made of"),
            (r#"name = "a.b", mx = ["a.test"], source = "s""#, "a name is made of"),
            (r#"name = "a", mx = [], source = "s""#, "no hosts"),
            (r#"name = "a", mx = ["a.test"], source = " ""#, "where the figures come from"),
            (r#"name = "a", mx = ["a.test", "a.test"], source = "s""#, "a.test is a's already"),
            (r#"name = "a", mx = ["test"], source = "s""#, "two labels"),
            (r#"name = "a", mx = ["A.test"], source = "s""#, "lower case"),
            (r#"name = "a", mx = [".a.test"], source = "s""#, ".a.test"),
            (r#"name = "a", mx = ["a.test"], messages_per_sec = 1.0, source = "s""#, "a rate is"),
            (r#"name = "a", mx = ["a.test"], messages_per_sec = 0.0, burst = 1, source = "s""#, "a rate is"),
            (r#"name = "a", mx = ["a.test"], connections = 0, source = "s""#, "connections"),
            (r#"name = "a", mx = ["a.test"], conections = 1, source = "s""#, "conections"),
            (r#"name = "a", mx = ["a.test"]"#, "source"),
            (
                r#"name = "a", mx = ["a.test"], source = "s"}, {name = "a", mx = ["b.test"], source = "s""#,
                "twice",
            ),
        ] {
            let error = Providers::parse(&format!("provider = [{{{entries}}}]")).unwrap_err().to_string();
            assert!(error.contains(wrong), "{entries}: {error}");
        }
    }

    #[test]
    fn a_name_that_is_almost_right_is_found() {
        let providers = Providers::shipped().unwrap();
        assert_eq!(providers.nearest("gogle"), Some("google"));
        assert_eq!(providers.nearest("exchangeonline"), Some("exchange-online"));
        assert_eq!(providers.nearest("postoffice"), None);
    }
}
