//! What is under a client: one socket, or a name with its replicas.

use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::body::Body;
use tonic::transport::{Channel, Endpoint};

use super::spread::Spread;
use super::{CONNECT_TIMEOUT, Server};
use crate::tls::ClientTls;

/// What carries the calls of a [`Client`].
#[derive(Clone, Debug)]
pub struct Transport(pub(super) Way);

#[derive(Clone, Debug)]
pub(super) enum Way {
    Socket(Channel),
    Spread(Spread),
}

impl Transport {
    pub(super) fn new(server: &Server, tls: Result<ClientTls, String>) -> Self {
        Self(match server {
            Server::Unix(path) => Way::Socket(socket_channel(path)),
            Server::Tcp(uri) => Way::Spread(Spread::new(uri, None)),
            Server::Tls(uri) => Way::Spread(Spread::new(uri, Some(tls))),
        })
    }
}

fn socket_channel(path: &Path) -> Channel {
    let path: Arc<Path> = path.into();
    // The URI is never looked up: the connector knows where to go.
    Endpoint::from_static("http://stagepost").connect_timeout(CONNECT_TIMEOUT).connect_with_connector_lazy(
        tower::service_fn(move |_| {
            let path = Arc::clone(&path);
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }),
    )
}

impl tower::Service<hyper::Request<Body>> for Transport {
    type Response = hyper::Response<Body>;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match &mut self.0 {
            Way::Socket(channel) => channel.poll_ready(context).map_err(Into::into),
            Way::Spread(_) => Poll::Ready(Ok(())),
        }
    }

    fn call(&mut self, request: hyper::Request<Body>) -> Self::Future {
        match &mut self.0 {
            Way::Socket(channel) => {
                let answer = channel.call(request);
                Box::pin(async move { answer.await.map_err(Into::into) })
            }
            Way::Spread(spread) => {
                let spread = spread.clone();
                Box::pin(async move { spread.call(request).await.map_err(Into::into) })
            }
        }
    }
}
