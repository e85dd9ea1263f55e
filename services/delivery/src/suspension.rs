//! Mail of suspended accounts: held, and released when the account may send again.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use limits::Limits;
use mail::{AccountId, JobId};
use spool::{Query, Selection, Spool, StateName};

use crate::cache::lock;
use crate::context::Context;

/// Accounts with held mail are asked about this often.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Jobs that are looked at, and released, at a time.
const PAGE: usize = 500;
/// What an administrator holds has another reason and stays held.
const PREFIX: &str = "account is suspended";

/// Why a job of a suspended account is held.
pub(crate) fn hold_reason(reason: &str) -> String {
    if reason.is_empty() { PREFIX.to_owned() } else { format!("{PREFIX}: {reason}") }
}

/// Accounts that have mail held for their suspension.
#[derive(Default)]
pub(crate) struct Suspensions(Mutex<HashSet<AccountId>>);

impl Suspensions {
    pub(crate) fn add(&self, account: &AccountId) {
        let mut accounts = lock(&self.0);
        if !accounts.contains(account) {
            accounts.insert(account.clone());
        }
    }
}

/// Releases what is held once its account isn't suspended any more, until `stopping`.
pub(crate) async fn watch<S: Spool, L: Limits>(context: Arc<Context<S, L>>) {
    find(&context).await;
    let stopping = context.stopping.clone();
    while stopping.run_until_cancelled(tokio::time::sleep(ASK_EVERY)).await.is_some() {
        let accounts: Vec<AccountId> = lock(&context.suspensions.0).iter().cloned().collect();
        for account in accounts {
            match context.signatures.suspension(&account).await {
                Ok(Some(_)) => {}
                Ok(None) => release(&context, account).await,
                Err(status) => {
                    tracing::debug!(%account, cause = status.message(), "can't ask whether an account is suspended")
                }
            }
        }
    }
}

/// After a restart: which accounts have mail held.
async fn find<S: Spool, L: Limits>(context: &Context<S, L>) {
    let mut after = None;
    loop {
        let (jobs, next) = page(context, None, after).await;
        jobs.iter().for_each(|(_, account)| context.suspensions.add(account));
        match next {
            Some(next) => after = Some(next),
            None => return,
        }
    }
}

async fn release<S: Spool, L: Limits>(context: &Context<S, L>, account: AccountId) {
    // Those that are held from here on are found the next time.
    lock(&context.suspensions.0).remove(&account);
    // Else what is released would be held again for what was known of the account.
    context.signatures.forget(&account);
    let mut after = None;
    let mut released = 0;
    loop {
        let (jobs, next) = page(context, Some(&account), after).await;
        let mut releasing = tokio::task::JoinSet::new();
        for (job, _) in jobs {
            let spool = Arc::clone(&context.spool);
            releasing.spawn(async move { spool.release(Selection::Job(job)).await });
        }
        for result in releasing.join_all().await {
            match result {
                Ok(jobs) => released += jobs,
                Err(error) => {
                    tracing::warn!(%account, %error, "can't release mail of an account that is no longer suspended");
                    context.suspensions.add(&account);
                }
            }
        }
        match next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    tracing::info!(%account, jobs = released, "account is no longer suspended, its mail goes on");
}

/// Jobs that are held for a suspension, and after which job the next page begins, if there is one.
async fn page<S: Spool, L: Limits>(
    context: &Context<S, L>,
    account: Option<&AccountId>,
    after: Option<JobId>,
) -> (Vec<(JobId, AccountId)>, Option<JobId>) {
    let query = Query {
        account: account.cloned(),
        state: Some(StateName::Held),
        after,
        limit: PAGE,
        ..Query::default()
    };
    let entries = match context.spool.look(query).await {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%error, "can't look for mail of suspended accounts");
            return (Vec::new(), None);
        }
    };
    let next = (entries.len() == PAGE).then(|| entries.last().map(|entry| entry.job.id)).flatten();
    let held = entries
        .into_iter()
        .filter(|entry| entry.job.deferred.as_deref().is_some_and(|reason| reason.starts_with(PREFIX)));
    (held.map(|entry| (entry.job.id, entry.job.message.account.clone())).collect(), next)
}
