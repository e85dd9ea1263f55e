//! Password guesses are counted by all members together.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::task::JoinSet;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn five_hundred_guesses_at_once_through_two_members_are_few() {
    let shared = Shared::new(Kind::Redis, Memory::Kept);
    let members = shared.members(2).await;
    let (guesser, owner): (IpAddr, IpAddr) = ([192, 0, 2, 1].into(), [198, 51, 100, 1].into());
    let guesses = Arc::new(AtomicUsize::new(0));
    let mut sessions = JoinSet::new();
    for session in 0..500 {
        let (member, guesses) = (Arc::clone(&members[session % 2]), Arc::clone(&guesses));
        sessions.spawn(async move {
            if member.login_wait("anna", guesser).await.is_none() {
                guesses.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
                member.login_failed("anna", guesser).await;
            }
        });
    }
    sessions.join_all().await;
    // At most 16 are looked at at a time, and when the first of them failed there were two free ones at most.
    let guesses = guesses.load(Ordering::SeqCst);
    assert!((1..=20).contains(&guesses), "{guesses} guesses");
    for member in &members {
        assert!(member.status().shared);
        assert!(member.login_wait("anna", guesser).await.is_some());
        assert_eq!(member.login_wait("anna", owner).await, None);
        member.login_succeeded("anna", owner);
    }
}
