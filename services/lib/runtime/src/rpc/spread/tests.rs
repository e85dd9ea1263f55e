use std::sync::RwLock;

use tokio::runtime::Runtime;
use tonic::Code;
use tonic::service::Routes;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::super::transport::Way;
use super::super::{Listener, Token, Transport, serve};
use super::*;

const SOON: Duration = Duration::from_secs(30);

/// A replica on a runtime of its own, so that it can be killed with all its connections.
struct Replica {
    address: SocketAddr,
    runtime: Option<Runtime>,
    shutdown: CancellationToken,
}

struct Named(&'static str);

#[tonic::async_trait]
impl Health for Named {
    async fn check(
        &self,
        _: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<HealthCheckResponse>, Status> {
        let mut answer = tonic::Response::new(HealthCheckResponse::default());
        answer.metadata_mut().insert("replica", self.0.parse().unwrap());
        Ok(answer)
    }

    type WatchStream = tokio_stream::Empty<Result<HealthCheckResponse, Status>>;

    async fn watch(
        &self,
        _: tonic::Request<HealthCheckRequest>,
    ) -> Result<tonic::Response<Self::WatchStream>, Status> {
        Ok(tonic::Response::new(tokio_stream::empty()))
    }
}

fn token() -> Token {
    Token("0123456789abcdef".into())
}

impl Replica {
    fn start(name: &'static str, address: SocketAddr) -> Self {
        let runtime = Runtime::new().unwrap();
        let shutdown = CancellationToken::new();
        let listener = {
            let _entered = runtime.enter();
            let listener = std::net::TcpListener::bind(address).unwrap();
            listener.set_nonblocking(true).unwrap();
            Listener::Tcp(tokio::net::TcpListener::from_std(listener).unwrap())
        };
        let address = listener.address().unwrap();
        let (routes, ended) = (Routes::new(HealthServer::new(Named(name))), shutdown.clone());
        runtime.spawn(async move { serve(listener, routes, &token(), ended).await });
        Self { address, runtime: Some(runtime), shutdown }
    }

    fn new(name: &'static str) -> Self {
        Self::start(name, "127.0.0.1:0".parse().unwrap())
    }

    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waits until its sockets are closed, which a thread of another runtime may not.
            std::thread::spawn(move || drop(runtime)).join().unwrap();
        }
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A client of whatever the name stands for at the moment.
struct Caller {
    spread: Spread,
    names: Arc<RwLock<HashSet<SocketAddr>>>,
}

impl Caller {
    fn of(addresses: impl IntoIterator<Item = SocketAddr>) -> Self {
        let names = Arc::new(RwLock::new(addresses.into_iter().collect::<HashSet<_>>()));
        let resolved = Arc::clone(&names);
        let resolve = move || std::future::ready(Ok(resolved.read().unwrap().clone()));
        let spread = Spread::resolving(Target::new("http://replicas:1", None), resolve);
        Self { spread, names }
    }

    async fn call(&self) -> Result<String, Status> {
        let transport = Transport(Way::Spread(self.spread.clone()));
        let attach = super::super::AttachToken(token().field());
        let channel = tonic::service::interceptor::InterceptedService::new(transport, attach);
        let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await?;
        Ok(answer.metadata().get("replica").unwrap().to_str().unwrap().to_owned())
    }

    async fn linked(&self, count: usize) {
        let mut links = self.spread.shared.links.subscribe();
        timeout(SOON, links.wait_for(|links| links.len() == count)).await.unwrap().unwrap();
    }

    /// How many of some calls each replica answered; none fails.
    async fn answers(&self, calls: usize) -> HashMap<String, usize> {
        let mut answers = HashMap::new();
        for _ in 0..calls {
            *answers.entry(self.call().await.unwrap()).or_default() += 1;
        }
        answers
    }
}

fn counts<const N: usize>(of: [(&str, usize); N]) -> HashMap<String, usize> {
    of.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_spread_and_a_dead_replica_is_left_at_once() {
    let (one, mut two, three) = (Replica::new("one"), Replica::new("two"), Replica::new("three"));
    let caller = Caller::of([one.address, two.address, three.address]);
    caller.linked(3).await;
    assert_eq!(caller.answers(30).await, counts([("one", 10), ("two", 10), ("three", 10)]));
    two.kill();
    caller.linked(2).await;
    assert_eq!(caller.answers(30).await, counts([("one", 15), ("three", 15)]));
    let back = Replica::start("two again", two.address);
    caller.linked(3).await;
    assert_eq!(caller.answers(30).await, counts([("one", 10), ("two again", 10), ("three", 10)]));
    drop(back);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_fails_when_a_replica_ends_in_order() {
    let (one, two) = (Replica::new("one"), Replica::new("two"));
    let caller = Caller::of([one.address, two.address]);
    caller.linked(2).await;
    let ends = two.shutdown.clone();
    let calls = async {
        for number in 0..400 {
            if number == 100 {
                ends.cancel();
            }
            caller.call().await.unwrap();
        }
    };
    timeout(SOON, calls).await.unwrap();
    caller.linked(1).await;
    assert_eq!(caller.answers(4).await, counts([("one", 4)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_comes_to_mean_others_is_followed() {
    let (one, two) = (Replica::new("one"), Replica::new("two"));
    let caller = Caller::of([one.address]);
    assert_eq!(caller.call().await.unwrap(), "one");
    *caller.names.write().unwrap() = HashSet::from([two.address]);
    let moved = async {
        while caller.call().await.unwrap() != "two" {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, moved).await.unwrap();
    caller.linked(1).await;
    assert_eq!(caller.answers(4).await, counts([("two", 4)]));
}

#[tokio::test]
async fn when_nobody_is_there_the_caller_is_told_why() {
    // An address of its own, so that no other test comes to listen there.
    let gone = std::net::TcpListener::bind("127.9.8.7:0").unwrap().local_addr().unwrap();
    let refused = Caller::of([gone]).call().await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    let text = refused.message();
    assert!(text.contains("http://replicas:1") && text.contains("refused"), "{text}");
}
