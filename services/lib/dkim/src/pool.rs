//! Threads that sign, so that a millisecond of RSA never holds up the threads that move mail.

use std::{
    collections::VecDeque,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use crate::{
    body::BodyHash,
    sign::{SignError, Signer, sign_all},
};

/// One message to sign, with what [`sign_all`] takes. `H` is whatever owns the header section's octets.
pub struct Job<H> {
    pub signers: Arc<[Signer]>,
    pub header: H,
    pub body_hash: BodyHash,
    /// Seconds since 1970.
    pub timestamp: u64,
}

/// A fixed number of signing threads with one queue, first in, first out. The queue has no bound of its own: each
/// message waits for its signature before it goes on, so whoever bounds the messages in work bounds the queue.
///
/// Dropping the pool signs what is queued and waits for it, so that every job is answered.
pub struct SigningPool {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

impl SigningPool {
    /// A pool of that many threads, at least one; a thread for each core keeps them all busy.
    ///
    /// # Errors
    /// When the system won't start a thread.
    pub fn new(threads: usize) -> io::Result<Self> {
        let mut pool = Self { queue: Arc::default(), threads: Vec::with_capacity(threads.max(1)) };
        for number in 0..threads.max(1) {
            let queue = Arc::clone(&pool.queue);
            let thread = thread::Builder::new().name(format!("dkim-sign-{number}"));
            pool.threads.push(thread.spawn(move || queue.work())?);
        }
        Ok(pool)
    }

    /// Queues a message and returns at once. `done` is called on a signing thread with the signature fields or the
    /// reason that there are none, so it should do no more than pass them on.
    pub fn submit<H, D>(&self, job: Job<H>, done: D)
    where
        H: AsRef<[u8]> + Send + 'static,
        D: FnOnce(Result<Vec<u8>, SignError>) + Send + 'static,
    {
        self.queue.push(Box::new(move || {
            // A message on which the signer fails costs itself, not the messages behind it.
            let Job { signers, header, body_hash, timestamp } = job;
            let signed = AssertUnwindSafe(|| sign_all(&signers, header.as_ref(), &body_hash, timestamp));
            done(catch_unwind(signed).unwrap_or(Err(SignError::Panicked)));
        }));
    }
}

impl Drop for SigningPool {
    fn drop(&mut self) {
        self.queue.close();
        let current = thread::current().id();
        for thread in self.threads.drain(..) {
            // The last owner may be a completion, on one of these threads, which can't wait for itself.
            if thread.thread().id() != current {
                // The threads catch what their jobs throw, so there is no panic to pass on.
                let _ = thread.join();
            }
        }
    }
}

type Task = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    tasks: VecDeque<Task>,
    closed: bool,
}

impl Queue {
    fn push(&self, task: Task) {
        self.lock().tasks.push_back(task);
        self.changed.notify_one();
    }

    fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }

    fn work(&self) {
        while let Some(task) = self.next() {
            // What reaches here is a completion's panic; it has nobody to be told.
            let _ = catch_unwind(AssertUnwindSafe(task));
        }
    }

    /// The next task, when there is one; nothing once the queue is closed and empty.
    fn next(&self) -> Option<Task> {
        let state = self.lock();
        let mut state = self
            .changed
            .wait_while(state, |state| state.tasks.is_empty() && !state.closed)
            .unwrap_or_else(PoisonError::into_inner);
        state.tasks.pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that runs under the lock leaves the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::{Algorithm, BodyHasher, SigningKey, sign};

    fn signers() -> Arc<[Signer]> {
        let key = Arc::new(SigningKey::generate(Algorithm::Ed25519Sha256).unwrap());
        Arc::new([Signer::new("example.com", "s", key).unwrap()])
    }

    fn job<H>(signers: &Arc<[Signer]>, header: H) -> Job<H> {
        let body_hash = BodyHasher::new().finish();
        Job { signers: Arc::clone(signers), header, body_hash, timestamp: 1_764_000_000 }
    }

    /// A header on which the signer fails.
    struct Poison;

    impl AsRef<[u8]> for Poison {
        fn as_ref(&self) -> &[u8] {
            panic!("this message is poison")
        }
    }

    #[test]
    fn the_pool_signs_as_the_function_does() {
        let signers = signers();
        let pool = SigningPool::new(2).unwrap();
        let (done, signed) = mpsc::channel();
        let header = "From: a@example.com\r\n";
        pool.submit(job(&signers, header), move |field| done.send(field).unwrap());
        let Job { body_hash, timestamp, .. } = job(&signers, header);
        let expected = sign(&signers[0], header.as_bytes(), &body_hash, timestamp, None).unwrap();
        assert_eq!(signed.recv().unwrap().unwrap(), expected);
    }

    #[test]
    fn a_message_that_panics_is_answered_and_the_others_are_signed() {
        let signers = signers();
        let pool = SigningPool::new(1).unwrap();
        let (done, signed) = mpsc::channel();
        for number in 0..6 {
            let done = done.clone();
            let answer = move |field: Result<Vec<u8>, SignError>| done.send((number, field)).unwrap();
            match number {
                0 | 3 => pool.submit(job(&signers, Poison), answer),
                _ => pool.submit(job(&signers, "From: a@example.com\r\n"), answer),
            }
        }
        for expected in 0..6 {
            let (number, field) = signed.recv().unwrap();
            assert_eq!(number, expected);
            match number {
                0 | 3 => assert!(matches!(field, Err(SignError::Panicked))),
                _ => assert!(field.unwrap().starts_with(b"DKIM-Signature: v=1;")),
            }
        }
    }

    #[test]
    fn a_completion_that_panics_stops_no_thread() {
        let signers = signers();
        let pool = SigningPool::new(1).unwrap();
        pool.submit(job(&signers, "From: a@example.com\r\n"), |_| panic!("nobody waits for this one"));
        let (done, signed) = mpsc::channel();
        pool.submit(job(&signers, "From: a@example.com\r\n"), move |field| done.send(field).unwrap());
        assert!(signed.recv().unwrap().is_ok());
    }

    #[test]
    fn dropping_the_pool_answers_what_is_queued() {
        let signers = signers();
        let pool = SigningPool::new(3).unwrap();
        let (done, signed) = mpsc::channel();
        for _ in 0..500 {
            let done = done.clone();
            pool.submit(job(&signers, "From: a@example.com\r\n"), move |field| done.send(field).unwrap());
        }
        drop(pool);
        assert_eq!(signed.try_iter().filter(Result::is_ok).count(), 500);
    }

    #[test]
    fn the_pool_may_be_dropped_by_a_completion() {
        let signers = signers();
        let pool = Arc::new(SigningPool::new(2).unwrap());
        let last = Arc::clone(&pool);
        let (release, released) = mpsc::channel::<()>();
        let (done, finished) = mpsc::channel();
        pool.submit(job(&signers, "From: a@example.com\r\n"), move |_| {
            released.recv().unwrap_err();
            drop(last);
            done.send(()).unwrap();
        });
        drop(pool);
        drop(release);
        finished.recv().unwrap();
    }
}
