//! What goes on in the background: heartbeats and renewals while the server is there, looking for it while it is away, and
//! telling it what nobody waits for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, FromRedisValue as _, Pipeline};
use tokio::sync::{mpsc, oneshot};

use super::link::Line;
use super::member::{Member, Tell};
use super::places::Held;
use super::scripts::call;
use super::share::Census;
use crate::local::site::Purpose;

/// How often a member says that it lives; a silent one is taken for dead after the second.
const BEAT_EVERY: Duration = Duration::from_secs(2);
const LIVES: Duration = Duration::from_secs(10);
/// How often it is looked whether the server is back.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Others come back within this time after this member did, with connections that the server doesn't know of.
const CALM_AFTER_ABSENCE: Duration = Duration::from_secs(3);
/// How many messages are sent in one go at most.
const BATCH_MAX: usize = 256;
/// What must be told when the server is back; more than this is left to expire.
const LASTING_MAX: usize = 10_000;

/// Beats and renews, or looks for the server, until it is aborted.
pub(super) async fn keep(member: Arc<Member>) {
    let mut renewed = Instant::now();
    loop {
        // Listening begins before the look, so that no ring is missed.
        let mut lost = std::pin::pin!(member.link.lost.notified());
        lost.as_mut().enable();
        let Some(line) = member.link.line() else {
            tokio::time::sleep(LOOK_EVERY).await;
            if arrive(&member, Arrival::Return).await.is_ok() {
                renewed = Instant::now();
            }
            continue;
        };
        tokio::select! {
            () = lost => continue,
            () = tokio::time::sleep(BEAT_EVERY.min(member.lease / 6)) => {}
        }
        if let Some(age) = beat(&member, &line).await {
            // The server may have been replaced behind the same connection.
            member.places.begin_calm(member.lease.saturating_sub(age), Instant::now());
        }
        if renewed.elapsed() >= member.lease / 3 {
            member.tell(Tell::Renew);
            renewed = Instant::now();
        }
    }
}

/// Whether the member was there before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Arrival {
    First,
    Return,
}

/// Connects, and makes the server's word count from now on. Says why not.
pub(super) async fn arrive(member: &Member, arrival: Arrival) -> Result<(), String> {
    let line = member.link.connect().await.map_err(|error| error.to_string())?;
    let unanswered = || "no answer in time".to_owned();
    let age = beat(member, &line).await.ok_or_else(unanswered)?;
    let away_for = member.link.away_for().unwrap_or_default();
    if !settle_quotas(member, &line).await {
        return Err(unanswered());
    }
    let after_absence = if arrival == Arrival::Return { CALM_AFTER_ABSENCE } else { Duration::ZERO };
    let calm = member.lease.saturating_sub(age).max(after_absence);
    member.places.calm_on_return(calm, Instant::now());
    member.quotas.begin_presence();
    member.link.share(line);
    member.tell(Tell::Renew);
    if arrival == Arrival::Return {
        tracing::info!(away_ms = away_for.as_millis(), "redis is back: limits are shared by all pods");
    }
    Ok(())
}

/// Says that the member lives; the age of the server's epoch. While that is younger than a lease, not all who hold leases have
/// had the time to renew them.
async fn beat(member: &Member, line: &Line) -> Option<Duration> {
    let mut question = call(&member.link.scripts().beat, &member.keys.members(&member.group));
    question.arg(&member.name).arg(u64::try_from(LIVES.as_micros()).unwrap_or(u64::MAX));
    let (age, members, rank): (u64, u32, u32) = member.link.ask_on(line, &question).await?;
    member.saw(Census { members: members.max(1), rank: Some(rank) });
    Some(Duration::from_micros(age))
}

/// Takes the member out of the group.
pub(super) async fn leave(member: &Member) {
    if let Some(line) = member.link.line() {
        let [_, members] = member.keys.members(&member.group);
        let mut question = call(&member.link.scripts().leave, &[members]);
        question.arg(&member.name);
        let _: Option<u32> = member.link.ask_on(&line, &question).await;
    }
}

/// Tells the server what it is owed on quotas; says whether it heard.
async fn settle_quotas(member: &Member, line: &Line) -> bool {
    let mut owed = member.quotas.take_owed();
    while !owed.is_empty() {
        let rest = owed.split_off(owed.len().min(BATCH_MAX));
        let mut messages = Pipeline::new();
        for (account, day, recipients) in &owed {
            let mut message = call(&member.link.scripts().quota_correct, &member.keys.quota(account));
            message.arg(*day).arg(*recipients);
            messages.add_command(message);
        }
        if member.link.tell(line, &messages).await.is_none() {
            member.quotas.in_doubt(&owed);
            rest.iter().for_each(|(account, day, recipients)| member.quotas.owe(account, *day, *recipients));
            return false;
        }
        owed = rest;
    }
    true
}

/// Tells the server, in order, what nobody waits for.
pub(super) async fn tell(member: Arc<Member>, mut tells: mpsc::UnboundedReceiver<Tell>) {
    let mut batch = Vec::new();
    let mut lasting = VecDeque::new();
    while tells.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let settled = tell_batch(&member, batch.drain(..), &mut lasting).await;
        for settled in settled {
            // Who asked may have gone.
            let _ = settled.send(());
        }
    }
}

/// A message, and what is to be done about the answer.
struct Message {
    call: Cmd,
    about: About,
}

enum About {
    Passing,
    Lasting,
    LoginEnded,
    Renewal(Box<str>),
}

async fn tell_batch(
    member: &Member,
    batch: impl Iterator<Item = Tell>,
    lasting: &mut VecDeque<Message>,
) -> Vec<oneshot::Sender<()>> {
    let mut settled = Vec::new();
    let mut messages: Vec<Message> = lasting.drain(..).collect();
    let mut owed = false;
    for tell in batch {
        let mut add = |call, about| messages.push(Message { call, about });
        match tell {
            Tell::Passing(call) => add(call, About::Passing),
            Tell::Lasting(call) => add(call, About::Lasting),
            Tell::LoginEnded(call) => add(call, About::LoginEnded),
            Tell::Owed => owed = true,
            Tell::Settle(sender) => settled.push(sender),
            Tell::Renew => {
                owed = true;
                if member.link.line().is_some() {
                    member.take_spent().into_iter().for_each(|call| add(call, About::Passing));
                    for held in member.places.held(Instant::now()) {
                        add(renewal(member, &held), About::Renewal(held.site));
                    }
                }
            }
        }
    }
    let line = member.link.line();
    while !messages.is_empty() {
        let rest = messages.split_off(messages.len().min(BATCH_MAX));
        let heard = match &line {
            Some(line) => send(member, line, &messages).await,
            None => false,
        };
        if !heard {
            messages.retain(|message| matches!(message.about, About::Lasting | About::LoginEnded));
            lasting.extend(messages);
        }
        messages = rest;
    }
    let excess = lasting.len().saturating_sub(LASTING_MAX);
    lasting.drain(..excess);
    if let Some(line) = line.filter(|_| owed) {
        settle_quotas(member, &line).await;
    }
    settled
}

fn renewal(member: &Member, held: &Held) -> Cmd {
    let [leases, probes, _] = member.keys.connections(&held.site);
    let mut call = call(&member.link.scripts().renew, &[leases, probes]);
    call.arg(u64::try_from(member.lease.as_micros()).unwrap_or(u64::MAX));
    for (number, purpose) in &held.leases {
        call.arg(member.lease_name(*number)).arg(u8::from(*purpose == Purpose::Probe));
    }
    call
}

async fn send(member: &Member, line: &Line, messages: &[Message]) -> bool {
    let mut pipeline = Pipeline::new();
    for message in messages {
        pipeline.add_command(message.call.clone());
    }
    let Some(answers) = member.link.tell(line, &pipeline).await else { return false };
    let now = Instant::now();
    for (message, answer) in messages.iter().zip(answers) {
        match &message.about {
            About::Renewal(site) => {
                if let Ok(open) = u32::from_redis_value(answer) {
                    member.places.heard(site, open, now);
                }
            }
            About::LoginEnded => member.login_ended.notify_one(),
            About::Passing | About::Lasting => {}
        }
    }
    true
}

/// Sends all that was told before.
pub(super) async fn settle(member: &Member) {
    let (settled, all_sent) = oneshot::channel();
    member.tell(Tell::Settle(settled));
    // It fails when nobody tells the server anything any more.
    let _ = all_sent.await;
}
