//! HTTP for those who look after the process: is it alive, is it ready, what has it counted.
//!
//! | path | answer |
//! |---|---|
//! | `/livez` | 200 as long as the process serves it; nothing outside the process is asked, so that an outage elsewhere restarts nothing |
//! | `/readyz` | 200 when every [`Check`] holds, else 503 with a line for each that fails |
//! | `/metrics` | the [`Registry`] as OpenMetrics text |

use std::convert::Infallible;
use std::fmt::Write as _;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::metrics::{Registry, TEXT_TYPE};

/// A check that takes longer has failed.
const CHECK_WITHIN: Duration = Duration::from_secs(2);
/// A request has to come within this time, on a connection that is new or was used before.
const REQUEST_WITHIN: Duration = Duration::from_secs(60);
/// Scrapers and probes need few.
const CONNECTIONS_MAX: usize = 64;
/// When the system has no descriptor for a connection, the next is accepted after this pause.
const BACK_OFF: Duration = Duration::from_millis(100);
/// At the end, answers that are being written have this long.
const GRACE: Duration = Duration::from_secs(1);

type Checked = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// One thing that must hold for the process to be ready.
pub struct Check {
    name: &'static str,
    ask: Box<dyn Fn() -> Checked + Send + Sync>,
}

impl Check {
    /// A check that is asked at each `/readyz` and says in one line why it fails. It fails too when it takes over 2 s.
    pub fn new<F>(name: &'static str, ask: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self { name, ask: Box::new(move || Box::pin(ask())) }
    }

    async fn failure(&self) -> Option<String> {
        let cause = match timeout(CHECK_WITHIN, (self.ask)()).await {
            Ok(Ok(())) => return None,
            Ok(Err(cause)) => cause.replace('\n', " "),
            Err(_) => format!("no answer within {} s", CHECK_WITHIN.as_secs()),
        };
        Some(format!("{}: {cause}", self.name))
    }
}

/// All that must hold for the process to be ready.
#[derive(Default)]
pub struct Health {
    checks: Vec<Arc<Check>>,
}

impl Health {
    /// Asks this too.
    #[must_use]
    pub fn with(mut self, check: Check) -> Self {
        self.checks.push(Arc::new(check));
        self
    }

    /// A line for each check that fails, in the order in which they were added. All are asked at once.
    pub async fn failures(&self) -> Vec<String> {
        let mut asking = JoinSet::new();
        for (place, check) in self.checks.iter().enumerate() {
            let check = Arc::clone(check);
            asking.spawn(async move { (place, check.name, check.failure().await) });
        }
        let mut failures = Vec::new();
        while let Some(asked) = asking.join_next().await {
            match asked {
                Ok((place, _, Some(failure))) => failures.push((place, failure)),
                Ok((_, _, None)) => {}
                Err(panicked) => failures.push((usize::MAX, format!("a check panicked: {panicked}"))),
            }
        }
        failures.sort();
        failures.into_iter().map(|(_, failure)| failure).collect()
    }
}

/// Serves both until `shutdown`.
pub async fn serve(listener: TcpListener, health: Health, registry: Registry, shutdown: CancellationToken) {
    let shown = Arc::new((health, registry));
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepting = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, place)
        };
        match shutdown.run_until_cancelled(accepting).await {
            None => break,
            Some((Ok((stream, _)), place)) => {
                let (shown, shutdown) = (Arc::clone(&shown), shutdown.clone());
                connections.spawn(async move {
                    converse(stream, shown, shutdown).await;
                    drop(place);
                });
            }
            Some((Err(error), _)) => {
                tracing::debug!(%error, "an administrator's connection can't be accepted");
                sleep(BACK_OFF).await;
            }
        }
    }
    let ended = async { while connections.join_next().await.is_some() {} };
    // What takes longer than that is cut off when the set is dropped.
    let _ = timeout(GRACE, ended).await;
}

async fn converse(stream: TcpStream, shown: Arc<(Health, Registry)>, shutdown: CancellationToken) {
    let service = service_fn(move |request: Request<Incoming>| {
        let shown = Arc::clone(&shown);
        async move { Ok::<_, Infallible>(answer(request.method(), request.uri().path(), &shown).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(REQUEST_WITHIN);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an administrator's connection was lost");
    }
}

async fn answer(
    method: &Method,
    path: &str,
    (health, registry): &(Health, Registry),
) -> Response<Full<Bytes>> {
    const PLAIN: &str = "text/plain; charset=utf-8";
    if !["/livez", "/readyz", "/metrics"].contains(&path) {
        return response(
            StatusCode::NOT_FOUND,
            PLAIN,
            String::from("there are /livez, /readyz and /metrics\n"),
        );
    }
    if method != Method::GET && method != Method::HEAD {
        let mut refusal =
            response(StatusCode::METHOD_NOT_ALLOWED, PLAIN, String::from("only GET and HEAD are served\n"));
        refusal.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match path {
        "/metrics" => response(StatusCode::OK, TEXT_TYPE, registry.text().await),
        "/readyz" => {
            let failures = health.failures().await;
            if failures.is_empty() {
                return response(StatusCode::OK, PLAIN, String::from("ready\n"));
            }
            let mut text = String::new();
            for failure in failures {
                // A string takes all that is written.
                let _ = writeln!(text, "{failure}");
            }
            response(StatusCode::SERVICE_UNAVAILABLE, PLAIN, text)
        }
        _ => response(StatusCode::OK, PLAIN, String::from("alive\n")),
    }
}

fn response(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn shown(health: Health) -> (Health, Registry) {
        let mut registry = Registry::default();
        registry.counter("things", "Things").inc();
        (health, registry)
    }

    async fn ask(method: Method, path: &str, shown: &(Health, Registry)) -> (u16, String) {
        let answer = answer(&method, path, shown).await;
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn ready_means_that_every_check_holds_in_time() {
        let fails = |cause: &'static str| move || async move { Err(String::from(cause)) };
        let good = Health::default().with(Check::new("store", || async { Ok(()) }));
        assert_eq!(ask(Method::GET, "/readyz", &shown(good)).await, (200, "ready\n".into()));
        let bad = Health::default()
            .with(Check::new("slow", std::future::pending))
            .with(Check::new("store", || async { Ok(()) }))
            .with(Check::new("accounts", fails("gone\naway")));
        let shown = shown(bad);
        let (status, text) = ask(Method::GET, "/readyz", &shown).await;
        assert_eq!((status, text.as_str()), (503, "slow: no answer within 2 s\naccounts: gone away\n"));
        assert_eq!(ask(Method::GET, "/livez", &shown).await.0, 200);
    }

    #[tokio::test]
    async fn other_paths_and_methods_are_refused() {
        let shown = shown(Health::default());
        assert_eq!(ask(Method::GET, "/", &shown).await.0, 404);
        assert_eq!(ask(Method::POST, "/nothing", &shown).await.0, 404);
        assert_eq!(ask(Method::POST, "/metrics", &shown).await.0, 405);
        assert_eq!(ask(Method::HEAD, "/livez", &shown).await.0, 200);
        assert!(ask(Method::GET, "/metrics", &shown).await.1.contains("stagepost_things_total 1\n"));
    }

    #[tokio::test]
    async fn it_serves_until_it_is_told_to_stop() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, Health::default(), Registry::default(), shutdown.clone()));
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /livez HTTP/1.1\r\nHost: admin\r\n\r\n").await.unwrap();
        let mut begin = [0; 12];
        client.read_exact(&mut begin).await.unwrap();
        assert_eq!(&begin, b"HTTP/1.1 200");
        shutdown.cancel();
        serving.await.unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.unwrap();
        assert!(rest.ends_with(b"alive\n"));
        assert!(TcpStream::connect(address).await.is_err());
    }
}
