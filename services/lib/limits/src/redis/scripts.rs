//! What runs in the server, and the names of its keys.
//!
//! All keys of one script carry the same hash tag, `{instance:kind:name}`, so that a cluster keeps them together.

use redis::{Cmd, Script};

/// The scripts, each with what it is built upon before it.
pub(super) struct Scripts {
    pub(super) pass: Script,
    pub(super) put_back: Script,
    pub(super) spend: Script,
    pub(super) open: Script,
    pub(super) renew: Script,
    pub(super) close: Script,
    pub(super) answered: Script,
    pub(super) unanswered: Script,
    pub(super) quota_take: Script,
    pub(super) quota_correct: Script,
    pub(super) login_enter: Script,
    pub(super) login_end: Script,
    pub(super) beat: Script,
    pub(super) leave: Script,
}

impl Scripts {
    pub(super) fn new() -> Self {
        let clock = include_str!("lua/clock.lua");
        let script = |text: &str| Script::new(&[clock, text].concat());
        let bucket = |text: &str| script(&[include_str!("lua/bucket.lua"), text].concat());
        let login = |text: &str| script(&[include_str!("lua/login.lua"), text].concat());
        Self {
            pass: bucket(include_str!("lua/pass.lua")),
            put_back: bucket(include_str!("lua/put_back.lua")),
            spend: bucket(include_str!("lua/spend.lua")),
            open: script(include_str!("lua/open.lua")),
            renew: script(include_str!("lua/renew.lua")),
            close: script(include_str!("lua/close.lua")),
            answered: script(include_str!("lua/answered.lua")),
            unanswered: script(include_str!("lua/unanswered.lua")),
            quota_take: script(include_str!("lua/quota_take.lua")),
            quota_correct: script(include_str!("lua/quota_correct.lua")),
            login_enter: login(include_str!("lua/login_enter.lua")),
            login_end: login(include_str!("lua/login_end.lua")),
            beat: script(include_str!("lua/beat.lua")),
            leave: script(include_str!("lua/leave.lua")),
        }
    }

    pub(super) fn each(&self) -> [&Script; 14] {
        let Self { pass, put_back, spend, open, renew, close, answered, unanswered, .. } = self;
        let Self { quota_take, quota_correct, login_enter, login_end, beat, leave, .. } = self;
        [
            pass,
            put_back,
            spend,
            open,
            renew,
            close,
            answered,
            unanswered,
            quota_take,
            quota_correct,
            login_enter,
            login_end,
            beat,
            leave,
        ]
    }
}

/// A script's call with its keys; arguments are added to it.
pub(super) fn call(script: &Script, keys: &[String]) -> Cmd {
    let mut call = redis::cmd("EVALSHA");
    call.arg(script.get_hash()).arg(keys.len()).arg(keys);
    call
}

/// Names of keys.
pub(super) struct Keys {
    instance: String,
}

impl Keys {
    pub(super) fn new(instance: String) -> Self {
        Self { instance }
    }

    /// The bucket of a site.
    pub(super) fn bucket(&self, site: &str) -> [String; 1] {
        [format!("{{{}:site:{site}}}:bucket", self.instance)]
    }

    /// Leases, probes and state of a site's connections.
    pub(super) fn connections(&self, site: &str) -> [String; 3] {
        let tag = format!("{{{}:site:{site}}}", self.instance);
        [format!("{tag}:leases"), format!("{tag}:probes"), format!("{tag}:state")]
    }

    /// The state of a site's connections.
    pub(super) fn site_state(&self, site: &str) -> [String; 1] {
        let [_, _, state] = self.connections(site);
        [state]
    }

    pub(super) fn quota(&self, account: &str) -> [String; 1] {
        [format!("{{{}:quota:{account}}}", self.instance)]
    }

    /// What is known of a user name from an address, and of the address.
    pub(super) fn login(&self, user: &str, address: std::net::IpAddr) -> [String; 2] {
        let tag = format!("{{{}:login:{address}}}", self.instance);
        // A user name may be long; two that share a number share their failures at that address, and nothing else.
        [format!("{tag}:{:016x}", fnv1a(user)), tag]
    }

    /// The epoch, and the members of a group.
    pub(super) fn members(&self, group: &str) -> [String; 2] {
        let tag = format!("{{{}:members}}", self.instance);
        [format!("{tag}:epoch"), format!("{tag}:{group}")]
    }
}

/// The same number for the same text in every member, whatever it was built with.
fn fnv1a(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, octet| {
        (hash ^ u64::from(octet)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_script_share_a_hash_tag() {
        let keys = Keys::new("mail".into());
        let tag = |key: &String| key[key.find('{').unwrap()..=key.find('}').unwrap()].to_owned();
        let address = "2001:db8::".parse().unwrap();
        let login = keys.login("anna", address);
        assert_eq!(login.each_ref().map(tag), ["{mail:login:2001:db8::}", "{mail:login:2001:db8::}"]);
        assert_ne!(login[0], keys.login("berta", address)[0]);
        assert_eq!(keys.connections("a b").each_ref().map(tag), ["{mail:site:a b}"; 3]);
        assert_eq!(keys.members("delivery").each_ref().map(tag), ["{mail:members}"; 2]);
    }

    #[test]
    fn user_names_have_the_published_numbers() {
        assert_eq!((fnv1a(""), fnv1a("a")), (0xcbf2_9ce4_8422_2325, 0xaf63_dc4c_8601_ec8c));
    }
}
