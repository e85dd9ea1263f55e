//! Promises about failed logins.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use tokio::task::JoinSet;

use super::Stage;
use crate::Limits;

const GUESSER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const OWNER: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

/// Three guesses in a row, whichever member is asked; the wait rises with the next.
pub async fn guesses_are_slowed_and_the_right_password_from_elsewhere_works<S: Stage>(stage: &mut S) {
    let members = [stage.join().await, stage.join().await];
    // So many failures that the wait for the next is longer than a test.
    for guess in 0..12 {
        members[guess % 2].login_failed("anna", GUESSER).await;
    }
    for member in &members {
        let wait = member.login_wait("anna", GUESSER).await.map(|wait| wait.as_secs());
        assert!(wait.is_some_and(|secs| (400..=512).contains(&secs)), "{wait:?}");
        // Neither another name from there nor the name from elsewhere waits.
        for (user, address) in [("anna", OWNER), ("berta", GUESSER)] {
            assert_eq!(member.login_wait(user, address).await, None);
            member.login_succeeded(user, address);
        }
    }
    // A success begins the count anew.
    members[0].login_succeeded("anna", GUESSER);
    stage.settle(&members[0]).await;
    assert_eq!(members[1].login_wait("anna", GUESSER).await, None);
    members[1].login_undecided("anna", GUESSER);
    for _ in 0..2 {
        members[1].login_failed("anna", GUESSER).await;
    }
    assert_eq!(members[0].login_wait("anna", GUESSER).await, None);
}

/// One host has a whole network of addresses to guess from; who logged in there before gets in.
pub async fn one_address_guessing_many_names_is_slowed<S: Stage>(stage: &mut S) {
    let members = [stage.join().await, stage.join().await];
    let address = |host: u32| IpAddr::V6(Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(host)));
    assert_eq!(members[0].login_wait("honest", address(0)).await, None);
    members[0].login_succeeded("honest", address(0));
    stage.settle(&members[0]).await;
    for name in 0..48u32 {
        members[name as usize % 2].login_failed(&format!("user{name}"), address(name)).await;
    }
    for member in &members {
        let wait = member.login_wait("stranger", address(1000)).await.map(|wait| wait.as_secs());
        assert!(wait.is_some_and(|secs| (30..=60).contains(&secs)), "{wait:?}");
        assert_eq!(member.login_wait("honest", address(0)).await, None);
    }
}

/// More than are looked at at a time: they wait their turn.
pub async fn honest_logins_at_once_all_get_in<S: Stage>(stage: &mut S) {
    let members = [Arc::new(stage.join().await), Arc::new(stage.join().await)];
    let mut sessions = JoinSet::new();
    for session in 0..100 {
        let member = Arc::clone(&members[session % 2]);
        sessions.spawn(async move {
            let wait = member.login_wait("application", OWNER).await;
            tokio::task::yield_now().await;
            member.login_succeeded("application", OWNER);
            wait
        });
    }
    assert!(sessions.join_all().await.iter().all(Option::is_none));
}
