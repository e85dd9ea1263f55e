//! `Account` objects: told to accounts.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt as _;
use kube::runtime::controller::Action;
use limits::Limits as _;
use proto::accounts::v1::PutAccountRequest;

use crate::condition::{self, Holds, Verdict};
use crate::context::{Context, Failure};
use crate::crd::{Account, AccountStatus, Usage};
use crate::told::{Said, TellError};

/// What was told is looked at again now and then: objects that belong to it may have changed, and mail is sent.
const AGAIN: Duration = Duration::from_secs(60);

/// The account's name at Stagepost.
pub(crate) fn name_of(account: &Account) -> String {
    account.spec.name.clone().unwrap_or_else(|| account.name_any())
}

/// What accounts should know of it.
pub(crate) fn said(account: &Account) -> Option<(Said, PutAccountRequest)> {
    if account.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let spec = &account.spec;
    let reason = || spec.suspended_reason.clone().unwrap_or_else(|| "suspended by its owner".into());
    let request = PutAccountRequest {
        name: name_of(account),
        plan: spec.plan.as_str().into(),
        recipients_per_day: spec.quotas.recipients_per_day,
        suspended: spec.suspended,
        suspended_reason: if spec.suspended { reason() } else { String::new() },
        ..PutAccountRequest::default()
    };
    let quota = request.recipients_per_day.map_or_else(String::new, |quota| quota.to_string());
    let suspended = if request.suspended { request.suspended_reason.as_str() } else { "-" };
    let said = Said::of(account.uid()?, &[&request.name, &request.plan, &quota, suspended]);
    Some((said, request))
}

pub(crate) async fn reconcile(account: &Account, context: &Context) -> Result<Action, Failure> {
    let Some((said, request)) = said(account) else {
        if let Some(uid) = account.uid() {
            context.told.withdraw(&uid).await?;
        }
        return Ok(Action::await_change());
    };
    let name = request.name.clone();
    let before = account.status.clone().unwrap_or_default();
    let (verdict, id) = if context.told.has(&said) && before.account_id.is_some() {
        (known(), before.account_id.clone())
    } else {
        context.leading.check()?;
        match context.told.account(&said, request).await {
            Ok(kept) => (known(), Some(kept.id)),
            Err(TellError::Refused(why) | TellError::NoAccount(why)) => {
                (Verdict::new("Ready", Holds::False, "Refused", why), None)
            }
            Err(error) => return Err(error.into()),
        }
    };
    let ready = verdict.holds == Holds::True;
    let recipients_today = match (&context.counters, &id) {
        (Some(counters), Some(id)) => Some(counters.quota_used(id).await),
        _ => None,
    };
    let now = Time(k8s_openapi::jiff::Timestamp::now());
    let generation = account.metadata.generation;
    let status = AccountStatus {
        observed_generation: generation,
        conditions: condition::after(&before.conditions, vec![verdict], generation, &now),
        name: Some(name),
        account_id: id,
        usage: Usage { recipients_today, ..usage(account, context) },
    };
    if status != before {
        context.put_status(&Account { status: Some(status), ..account.clone() }).await?;
    }
    Ok(Action::requeue(if ready { AGAIN } else { AGAIN / 4 }))
}

fn known() -> Verdict {
    Verdict::new("Ready", Holds::True, "Known", "the account is known to Stagepost")
}

fn usage(account: &Account, context: &Context) -> Usage {
    let (namespace, name) = (account.namespace(), account.name_any());
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let domains = context.domains.state();
    let domains = domains.iter().filter_map(|object| object.0.as_ref().ok());
    let domains = domains.filter(|object| object.namespace() == namespace && object.spec.account == name);
    let credentials = context.credentials.state();
    let credentials = credentials.iter().filter_map(|object| object.0.as_ref().ok());
    let credentials =
        credentials.filter(|object| object.namespace() == namespace && object.spec.account == name);
    Usage { domains: count(domains.count()), credentials: count(credentials.count()), recipients_today: None }
}
