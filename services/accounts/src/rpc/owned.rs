//! What an owner outside says of its objects, from the wire.

use proto::accounts::v1 as wire;
use runtime::clock::now_millis;
use tonic::Status;
use zeroize::Zeroizing;

use super::{algorithm, key_state, owner, plan};
use crate::model::{CredentialLimit, Later, Origin, Owner, Unready};
use crate::office::owned::{PutAccount, PutCredential, PutDomain, PutKey};

type Said<T> = Result<(T, Origin, Owner), Status>;

pub(super) fn origin(origin: wire::Origin) -> Origin {
    let wire::Origin { origin, digest } = origin;
    Origin { origin, digest }
}

pub(super) fn account(request: wire::PutAccountRequest) -> Said<PutAccount> {
    let wire::PutAccountRequest {
        managed_by,
        origin: from,
        name,
        plan: wanted,
        recipients_per_day,
        suspended,
        suspended_reason,
    } = request;
    let suspended = suspended.then_some(suspended_reason);
    let put = PutAccount { name, plan: plan(&wanted)?, recipients_per_day, suspended };
    Ok((put, origin(from.unwrap_or_default()), owner(managed_by)?))
}

pub(super) fn credential(request: wire::PutCredentialRequest) -> Said<PutCredential> {
    let wire::PutCredentialRequest {
        managed_by,
        origin: from,
        account,
        username,
        secret_sha256,
        description,
        sender_domains,
        limit,
    } = request;
    let secret_sha256 = secret_sha256.to_vec();
    let limit = limit.map(|wire::CredentialLimit { recipients_per_day, counted_as }| CredentialLimit {
        recipients_per_day,
        counted_as,
        later: Later::new(),
    });
    let put = PutCredential { account, username, secret_sha256, description, sender_domains, limit };
    Ok((put, origin(from.unwrap_or_default()), owner(managed_by)?))
}

pub(super) fn domain(request: wire::PutDomainRequest) -> Said<PutDomain> {
    let wire::PutDomainRequest { managed_by, origin: from, account, name, subdomains, keys, unready } =
        request;
    let keys = keys.into_iter().map(key).collect::<Result<_, _>>()?;
    let put = PutDomain { account, name, subdomains, keys, unready: unready.map(self::unready) };
    Ok((put, origin(from.unwrap_or_default()), owner(managed_by)?))
}

/// Without a time, or with one that is to come, it is since now.
fn unready(unready: wire::Unready) -> Unready {
    let wire::Unready { reason, object, since_ms } = unready;
    let now = now_millis();
    let since_ms = u64::try_from(since_ms).ok().filter(|since| (1..now).contains(since)).unwrap_or(now);
    Unready { reason, object, since_ms, later: Later::new() }
}

fn key(key: wire::PutKey) -> Result<PutKey, Status> {
    let wire::PutKey { selector, algorithm: kind, state, pkcs8_der } = key;
    Ok(PutKey {
        selector,
        algorithm: algorithm(kind)?,
        state: key_state(state)?,
        pkcs8_der: Zeroizing::new(pkcs8_der.to_vec()),
    })
}
