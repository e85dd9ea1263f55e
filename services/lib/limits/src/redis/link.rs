//! The way to the server: one connection on which all questions are pipelined, and whether it is there at all.
//!
//! ```text
//! shared --no answer in time, or an error--> away --a connection whose greeting was answered--> shared
//! ```
//!
//! The first question that isn't answered opens the circuit: those that follow pay nothing, and a task in the background
//! looks whether the server is back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError};
use redis::{RedisResult, ServerErrorKind, Value};
use tokio::sync::Notify;

use super::scripts::Scripts;

/// How long a question waits for its answer.
const ANSWER_TIME: Duration = Duration::from_millis(500);
/// How long a connection may take, in the background, with TLS and the greeting.
const CONNECT_TIME: Duration = Duration::from_secs(2);

pub(super) struct Link {
    client: Client,
    scripts: Scripts,
    standing: RwLock<Standing>,
    /// Done at the instant from which the server counts as away.
    at_loss: Box<dyn Fn() + Send + Sync>,
    /// Rung after it.
    pub(super) lost: Notify,
    connections: AtomicU64,
    answered: AtomicU64,
    answered_locally: AtomicU64,
}

#[derive(Clone)]
enum Standing {
    Shared(Line),
    Away { since: Instant },
}

/// A connection and its number, so that an old one's end isn't taken for the new one's.
#[derive(Clone)]
pub(super) struct Line {
    connection: MultiplexedConnection,
    number: u64,
}

impl Link {
    /// Not connected.
    pub(super) fn new(client: Client, at_loss: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            client,
            scripts: Scripts::new(),
            standing: RwLock::new(Standing::Away { since: Instant::now() }),
            at_loss: Box::new(at_loss),
            lost: Notify::new(),
            connections: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            answered_locally: AtomicU64::new(0),
        }
    }

    pub(super) fn scripts(&self) -> &Scripts {
        &self.scripts
    }

    /// The server's answer; none when it is away, and then the local counters answer.
    pub(super) async fn ask<T: FromRedisValue>(&self, question: &Cmd) -> Option<T> {
        let answer = match self.line() {
            Some(line) => self.ask_on(&line, question).await,
            None => None,
        };
        match &answer {
            Some(_) => _ = self.answered.fetch_add(1, Ordering::Relaxed),
            None => self.count_local(),
        }
        answer
    }

    /// The local counters answer a question for which the server isn't asked.
    pub(super) fn count_local(&self) {
        self.answered_locally.fetch_add(1, Ordering::Relaxed);
    }

    /// The same, not counted as a question.
    pub(super) async fn ask_on<T: FromRedisValue>(&self, line: &Line, question: &Cmd) -> Option<T> {
        let connection = line.connection.clone();
        let asked = {
            let mut connection = connection.clone();
            question.query_async(&mut connection).await
        };
        let answer = match asked {
            Err(error) if is_unknown_script(&error) => {
                let mut connection = connection;
                match self.load(&mut connection).await {
                    Ok(()) => question.query_async(&mut connection).await,
                    Err(error) => Err(error),
                }
            }
            other => other,
        };
        self.or_away(line, answer)
    }

    /// Tells the server something in one go; its answers, when it heard.
    pub(super) async fn tell(&self, line: &Line, messages: &Pipeline) -> Option<Vec<Value>> {
        let mut connection = line.connection.clone();
        let told: RedisResult<Vec<Value>> = match messages.query_async(&mut connection).await {
            Err(error) if is_unknown_script(&error) => match self.load(&mut connection).await {
                Ok(()) => messages.query_async(&mut connection).await,
                Err(error) => Err(error),
            },
            other => other,
        };
        self.or_away(line, told)
    }

    /// The connection, while the server isn't away.
    pub(super) fn line(&self) -> Option<Line> {
        match &*self.standing.read().unwrap_or_else(PoisonError::into_inner) {
            Standing::Shared(line) => Some(line.clone()),
            Standing::Away { .. } => None,
        }
    }

    /// How long the server has been away.
    pub(super) fn away_for(&self) -> Option<Duration> {
        match &*self.standing.read().unwrap_or_else(PoisonError::into_inner) {
            Standing::Shared(_) => None,
            Standing::Away { since } => Some(since.elapsed()),
        }
    }

    /// A new connection, on which the scripts are known. Questions don't use it before it is made the shared one.
    pub(super) async fn connect(&self) -> RedisResult<Line> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIME))
            .set_response_timeout(Some(ANSWER_TIME));
        let connecting = async {
            let mut connection = self.client.get_multiplexed_async_connection_with_config(&config).await?;
            self.load(&mut connection).await?;
            RedisResult::Ok(connection)
        };
        let connection = match tokio::time::timeout(CONNECT_TIME, connecting).await {
            Ok(connected) => connected?,
            Err(_) => return Err(RedisError::from((ErrorKind::Io, "connecting took too long"))),
        };
        Ok(Line { connection, number: self.connections.fetch_add(1, Ordering::Relaxed) })
    }

    /// From now on questions go to the server, on this connection.
    pub(super) fn share(&self, line: Line) {
        *self.standing.write().unwrap_or_else(PoisonError::into_inner) = Standing::Shared(line);
    }

    /// How many questions the server answered, and how many the local counters.
    pub(super) fn answered(&self) -> (u64, u64) {
        (self.answered.load(Ordering::Relaxed), self.answered_locally.load(Ordering::Relaxed))
    }

    async fn load(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        for script in self.scripts.each() {
            script.load_async(connection).await?;
        }
        Ok(())
    }

    /// The answer; or the server is away, whatever is wrong with it.
    fn or_away<T>(&self, line: &Line, answer: RedisResult<T>) -> Option<T> {
        let error = match answer {
            Ok(answer) => return Some(answer),
            Err(error) => error,
        };
        let mut standing = self.standing.write().unwrap_or_else(PoisonError::into_inner);
        if matches!(&*standing, Standing::Shared(shared) if shared.number == line.number) {
            *standing = Standing::Away { since: Instant::now() };
            (self.at_loss)();
            tracing::warn!(%error, "redis is away: limits are kept by this pod's share");
            self.lost.notify_waiters();
        }
        None
    }
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}
