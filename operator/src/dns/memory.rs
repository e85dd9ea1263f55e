//! DNS for tests: what is put in is there, all else isn't.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::lookup::{Answer, Found, Lookup, LookupError, Mx, Text};
use super::name::Name;

#[derive(Clone)]
enum Data {
    Text(Text),
    Mx(Mx),
    Ipv4(Ipv4Addr),
    Ipv6(Ipv6Addr),
    Pointer(Name),
    Alias(Name),
}

#[derive(Default)]
pub(crate) struct Memory {
    records: BTreeMap<Name, Vec<Data>>,
    failing: Vec<Name>,
}

pub(crate) fn name(text: &str) -> Name {
    text.parse().unwrap()
}

impl Memory {
    fn with(mut self, owner: &str, data: Data) -> Self {
        self.records.entry(name(owner)).or_default().push(data);
        self
    }

    pub(crate) fn txt(self, owner: &str, text: &str) -> Self {
        self.with(owner, Data::Text(Text(text.into())))
    }

    /// `.` is the null MX.
    pub(crate) fn mx(self, owner: &str, preference: u16, exchange: &str) -> Self {
        self.with(owner, Data::Mx(Mx { preference, exchange: exchange.parse().ok() }))
    }

    pub(crate) fn address(self, owner: &str, address: &str) -> Self {
        let data = match address.parse().unwrap() {
            std::net::IpAddr::V4(address) => Data::Ipv4(address),
            std::net::IpAddr::V6(address) => Data::Ipv6(address),
        };
        self.with(owner, data)
    }

    pub(crate) fn ptr(self, address: &str, host: &str) -> Self {
        let owner = Name::of_address(address.parse().unwrap());
        self.with(owner.as_str(), Data::Pointer(name(host)))
    }

    pub(crate) fn cname(self, owner: &str, target: &str) -> Self {
        self.with(owner, Data::Alias(name(target)))
    }

    /// Whatever is asked of this name, nobody answers.
    pub(crate) fn failing(mut self, owner: &str) -> Self {
        self.failing.push(name(owner));
        self
    }

    fn ask<T>(&self, asked: &Name, pick: impl Fn(&Data) -> Option<T>) -> Found<T> {
        let mut aliases: Vec<Name> = Vec::new();
        loop {
            let owner = aliases.last().unwrap_or(asked);
            if self.failing.contains(owner) {
                return Err(LookupError::Failed("it timed out".to_owned()));
            }
            let here = self.records.get(owner).map(Vec::as_slice).unwrap_or_default();
            let records: Vec<T> = here.iter().filter_map(&pick).collect();
            if !records.is_empty() {
                return Ok(Answer { records, aliases, ttl_secs: 300 });
            }
            let alias = here.iter().find_map(|data| match data {
                Data::Alias(target) => Some(target.clone()),
                _ => None,
            });
            match alias {
                Some(target) if !aliases.contains(&target) => aliases.push(target),
                Some(_) => return Err(LookupError::Failed("the aliases are a circle".to_owned())),
                None if here.is_empty() => return Err(LookupError::NoDomain),
                None => return Err(LookupError::NoRecords),
            }
        }
    }
}

impl Lookup for Memory {
    async fn text(&self, name: &Name) -> Found<Text> {
        self.ask(name, |data| if let Data::Text(text) = data { Some(text.clone()) } else { None })
    }

    async fn exchanges(&self, name: &Name) -> Found<Mx> {
        self.ask(name, |data| if let Data::Mx(mx) = data { Some(mx.clone()) } else { None })
    }

    async fn ipv4(&self, name: &Name) -> Found<Ipv4Addr> {
        self.ask(name, |data| if let Data::Ipv4(address) = data { Some(*address) } else { None })
    }

    async fn ipv6(&self, name: &Name) -> Found<Ipv6Addr> {
        self.ask(name, |data| if let Data::Ipv6(address) = data { Some(*address) } else { None })
    }

    async fn pointers(&self, name: &Name) -> Found<Name> {
        self.ask(name, |data| if let Data::Pointer(host) = data { Some(host.clone()) } else { None })
    }

    async fn alias(&self, name: &Name) -> Found<Name> {
        self.ask(name, |data| if let Data::Alias(target) = data { Some(target.clone()) } else { None })
    }
}
