//! What is done for a domain: records published, accounts told, what is left of old keys taken away.

use std::collections::{BTreeMap, HashMap};

use kube::ResourceExt as _;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams};
use kube::runtime::events::EventType;
use proto::accounts::v1::{self as wire, PutDomainRequest, PutKey};

use super::endpoints::{self, Endpoint};
use super::rotation::Next;
use super::{Reconcile, Wanted, key_state, say, wire_algorithm};
use crate::context::{Failure, MANAGER};
use crate::crd::{DnsMode, DnsRecord, DomainKey, DomainKeyState, Unready};
use crate::secrets::KeyMaterial;
use crate::told::TellError;

/// The part of a name of the DNSEndpoint that is not about a key.
const MAIL: &str = "mail";

impl Reconcile<'_> {
    /// Publishes what is to be published by external-dns.
    pub(super) async fn publish(
        &self,
        wanted: &Wanted,
        keys: &[DomainKey],
        material: &HashMap<String, KeyMaterial>,
        records: &[DnsRecord],
    ) -> Result<(), Failure> {
        if self.domain.spec.dns.mode != DnsMode::ExternalDns {
            return Ok(());
        }
        let dns = &self.domain.spec.dns;
        let mut parts: BTreeMap<String, Vec<Endpoint>> = BTreeMap::new();
        for key in keys.iter().filter(|key| key.state != DomainKeyState::Generating) {
            let Some(held) = material.get(&key.selector) else { continue };
            let own = format!("{}._domainkey.{}", key.selector, wanted.domain);
            let txt = |name: &str| Endpoint::new("TXT", name, &held.record, dns);
            let endpoints = match wanted.target(&key.selector) {
                Some(target) => {
                    let alias = target.as_str();
                    vec![txt(alias), Endpoint::new("CNAME", &own, alias, dns)]
                }
                None => vec![txt(&own)],
            };
            parts.insert(key.selector.clone(), endpoints);
        }
        let api = self.endpoints();
        if let Some(mail) = self.mail(&api, records).await? {
            parts.insert(MAIL.into(), mail);
        }
        for (part, endpoints) in parts {
            self.context.leading.check()?;
            let object = endpoints::object(&self.domain, &part, &endpoints);
            let params = PatchParams::apply(MANAGER).force();
            match api.patch(&object.name_any(), &params, &Patch::Apply(&object)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {
                    let note = "there are no DNSEndpoint objects in this cluster: install external-dns with its CRD, or set \
                                spec.dns.mode to Manual and publish status.records yourself";
                    let reason = ("NoDNSEndpoints", "Publish");
                    self.context.event(&self.domain, EventType::Warning, reason, note.into()).await;
                    return Ok(());
                }
                applied => drop(applied?),
            }
        }
        Ok(())
    }

    /// What is to be published of a domain beside its keys; none while nothing is or should be.
    async fn mail(
        &self,
        api: &Api<DynamicObject>,
        records: &[DnsRecord],
    ) -> Result<Option<Vec<Endpoint>>, Failure> {
        let of_domain = ["SPFAligned", "DMARCPublished", "ReturnPathReady"];
        let ours = records
            .iter()
            .filter(|record| record.required && of_domain.contains(&record.condition.as_str()))
            // A record that is a matter of taste isn't ours to write, nor one that only the domain's owner knows.
            .filter(|record| record.r#type != "MX" || self.domain.spec.return_path.is_some())
            .filter(|record| !record.value.is_empty());
        let object = api.get_opt(&endpoints::name_of(&self.domain, MAIL)).await?;
        let before = object.as_ref().map(endpoints::published).unwrap_or_default();
        let mail = endpoints::of_records(ours, &before, &self.domain.spec.dns);
        // Nothing is known of any record before DNS is asked for the first time. What is published already is applied again:
        // its object may be that of a SendingDomain before this one.
        let none = records.is_empty() || (mail.is_empty() && before.is_empty());
        Ok((!none).then_some(mail))
    }

    pub(super) fn endpoints(&self) -> Api<DynamicObject> {
        let namespace = self.domain.namespace().unwrap_or_default();
        Api::namespaced_with(self.context.client.clone(), &namespace, &endpoints::resource())
    }

    /// Tells accounts of the domain, its keys, and what it lacks; why that can't be.
    pub(super) async fn tell(
        &self,
        keys: &[DomainKey],
        material: &HashMap<String, KeyMaterial>,
        unready: Option<&Unready>,
    ) -> Result<Option<(&'static str, String)>, Failure> {
        let namespace = self.domain.namespace().unwrap_or_default();
        let wanted = &self.domain.spec.account;
        let account = self.context.account(&namespace, wanted);
        let Some(Ok(account)) = account.as_ref().map(|account| &account.0) else {
            return Ok(Some(("NoAccount", format!("there is no Account {wanted} in namespace {namespace}"))));
        };
        let account = crate::account::name_of(account);
        let Some(said) = say(&self.domain, &account, keys, unready) else { return Ok(None) };
        if self.context.told.has(&said) {
            return Ok(None);
        }
        let put = keys.iter().filter_map(|key| {
            let (state, held) = (key_state(key.state)?, material.get(&key.selector)?);
            Some(PutKey {
                selector: key.selector.clone(),
                algorithm: wire_algorithm(key.algorithm),
                state: state.into(),
                pkcs8_der: held.pkcs8_der.to_vec().into(),
            })
        });
        let request = PutDomainRequest {
            account,
            name: self.domain.spec.domain.clone(),
            subdomains: self.domain.spec.subdomains,
            keys: put.collect(),
            unready: unready.map(|unready| wire::Unready {
                reason: unready.reason.clone(),
                object: format!("SendingDomain {namespace}/{}", self.domain.name_any()),
                since_ms: unready.since.0.as_millisecond(),
            }),
            ..PutDomainRequest::default()
        };
        self.context.leading.check()?;
        match self.context.told.domain(&said, request).await {
            Ok(()) => Ok(None),
            Err(TellError::Refused(why)) => Ok(Some(("Refused", why))),
            Err(TellError::NoAccount(_)) => {
                Ok(Some(("AccountNotReady", format!("the Account {wanted} isn't Ready"))))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes away what is left of keys that are gone.
    pub(super) async fn clear(&self, next: &Next) -> Result<(), Failure> {
        let namespace = self.domain.namespace().unwrap_or_default();
        for key in next.keys.iter().filter(|key| next.gone.contains(&key.selector)) {
            self.context.leading.check()?;
            if self.domain.spec.dns.mode == DnsMode::ExternalDns {
                let name = endpoints::name_of(&self.domain, &key.selector);
                match self.endpoints().delete(&name, &DeleteParams::default()).await {
                    Err(kube::Error::Api(status)) if status.code == 404 => {}
                    deleted => drop(deleted?),
                }
            }
            if key.external {
                continue;
            }
            if let Some(secret) = self.context.secrets(&namespace).get_opt(&key.secret_name).await? {
                self.context.delete_secret(&secret).await?;
            }
        }
        Ok(())
    }
}
