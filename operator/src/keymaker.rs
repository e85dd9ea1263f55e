//! Makes DKIM keys on threads that give way to all other work.

use dkim::{Algorithm, KeyError, SigningKey};
use tokio::sync::{mpsc, oneshot};

/// An RSA key takes a fifth of a second of CPU; more threads than this would hold up a small node.
const THREADS: usize = 2;
const WAITING_MAX: usize = 16;
/// The lowest priority that there is.
const NICENESS: i32 = 19;

type Order = (Algorithm, oneshot::Sender<Result<SigningKey, KeyError>>);

/// Takes orders for keys. The threads end when it is dropped.
pub(crate) struct KeyMaker(mpsc::Sender<Order>);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MakeError {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the threads that make keys are gone")]
    Gone,
}

impl KeyMaker {
    pub(crate) fn start() -> std::io::Result<Self> {
        let (sender, receiver) = mpsc::channel::<Order>(WAITING_MAX);
        let receiver = std::sync::Arc::new(std::sync::Mutex::new(receiver));
        for number in 0..THREADS {
            let orders = std::sync::Arc::clone(&receiver);
            let work = move || {
                if let Err(error) = rustix::process::nice(NICENESS) {
                    tracing::debug!(%error, "a thread that makes keys keeps its priority");
                }
                loop {
                    let order = match orders.lock() {
                        Ok(mut orders) => orders.blocking_recv(),
                        Err(_) => None,
                    };
                    let Some((algorithm, answer)) = order else { return };
                    // Whoever ordered it may have gone; then the key is nobody's.
                    let _ = answer.send(SigningKey::generate(algorithm));
                }
            };
            std::thread::Builder::new().name(format!("dkim-keys-{number}")).spawn(work)?;
        }
        Ok(Self(sender))
    }

    /// A new key; waits for its turn.
    pub(crate) async fn make(&self, algorithm: Algorithm) -> Result<SigningKey, MakeError> {
        let (sender, answer) = oneshot::channel();
        self.0.send((algorithm, sender)).await.map_err(|_| MakeError::Gone)?;
        Ok(answer.await.map_err(|_| MakeError::Gone)??)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn keys_come_in_the_kind_that_was_ordered() {
        let maker = KeyMaker::start().unwrap();
        let orders = [Algorithm::Ed25519Sha256, Algorithm::RsaSha256, Algorithm::Ed25519Sha256];
        let made = futures_util::future::join_all(orders.map(|algorithm| maker.make(algorithm))).await;
        let kinds: Vec<Algorithm> = made.into_iter().map(|key| key.unwrap().algorithm()).collect();
        assert_eq!(kinds, orders);
    }
}
