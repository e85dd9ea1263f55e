//! Stagepost as on many hosts: services of their own, one nats-server, Redis.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use tests::fleet::{Fleet, FleetSetup, Role};
use tests::lab::Lab;
use tests::nats::Nats;
use tests::stagepost::{PASSWORD, USER};

use crate::measure::Signing;
use crate::peer::{Traces, retire_other_keys};
use crate::usage::Part;

/// A fleet that runs; it ends when this is dropped.
pub(crate) struct Distributed {
    fleet: Fleet,
    authority: PathBuf,
    /// Holds the state.
    _lab: Lab,
}

impl Distributed {
    /// One accounts, one ingress, so many deliveries, with the settings that the one process is measured with.
    pub(crate) fn start(folder: &Path, deliveries: usize, signing: Signing, traces: Option<Traces>) -> Self {
        let lab = Lab::below(folder);
        let mut setup = FleetSetup::new(&lab)
            .with(Role::Delivery, deliveries)
            // As many lanes as there are by default.
            .set("nats.lanes", 16)
            .set("nats.lease_secs", 90)
            .set("log", "warn")
            .set("delivery.port", 25)
            .set("delivery.resolvers", vec!["127.0.0.1:53".to_owned()])
            .set("delivery.tls", "opportunistic")
            .set("delivery.sign", signing.setting());
        if let Some(Traces { endpoint, ratio }) = traces {
            setup = setup.set("otlp_endpoint", endpoint).set("trace_ratio", ratio);
        }
        let fleet = setup.start();
        fleet.domain("shop", "example.com", &lab);
        retire_other_keys(|arguments| fleet.ask(arguments));
        let authority = folder.join("authority.pem");
        std::fs::write(&authority, lab.authority.pem()).unwrap();
        Self { fleet, authority, _lab: lab }
    }

    /// Where it takes mail.
    pub(crate) fn submission(&self) -> SocketAddr {
        self.fleet.submission(0)
    }

    /// Arguments for the load.
    pub(crate) fn login(&self) -> Vec<String> {
        let authority = self.authority.display().to_string();
        ["--user", USER, "--password", PASSWORD, "--authority", &authority].map(str::to_owned).to_vec()
    }

    pub(crate) fn nats(&self) -> &Nats {
        &self.fleet.nats
    }

    /// Its processes, by their kinds.
    pub(crate) fn parts(&self) -> Vec<Part> {
        let part = |name: &str, id| Part { name: name.to_owned(), id };
        let mut parts = vec![
            part("nats-server", self.nats().process(0).id()),
            part("redis-server", self.fleet.redis.process().id()),
        ];
        let roles = [(Role::Accounts, "accounts"), (Role::Ingress, "ingress"), (Role::Delivery, "delivery")];
        for (role, name) in roles {
            let places = 0..self.fleet.count(role);
            parts.extend(places.map(|place| part(name, self.fleet.process(role, place).id())));
        }
        parts
    }
}
