//! Is this the password?

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use crate::model::{Credential, Proof};
use crate::office::Office;
use crate::secret::{fingerprint, hash_password, is_password};

/// Logs in with any secret that we made.
const ANY_USER: &str = "apikey";
/// Verifications of chosen passwords at a time: each takes a core and 19 MiB.
const AT_A_TIME: usize = 2;
/// Passwords that were verified lately, so that a client that logs in for each message doesn't pay each time.
const REMEMBERED_MAX: usize = 4096;

pub(crate) struct Login {
    office: Arc<Office>,
    turns: Arc<Semaphore>,
    /// What a password that can't be right is compared with, so that it takes as long as a wrong one.
    decoy: String,
    key: hmac::Key,
    remembered: Mutex<HashSet<[u8; 32]>>,
}

impl Login {
    pub(crate) fn new(office: Arc<Office>) -> Result<Self, String> {
        let decoy = hash_password(&runtime::random::<16>())?;
        let key = hmac::Key::new(hmac::HMAC_SHA256, &runtime::random::<32>());
        let remembered = Mutex::default();
        Ok(Self { office, turns: Arc::new(Semaphore::new(AT_A_TIME)), decoy, key, remembered })
    }

    /// The credential whose password it is. A wrong user name and a wrong password cost the same time.
    pub(crate) async fn verify(&self, username: &str, password: Zeroizing<Vec<u8>>) -> Option<Credential> {
        let book = self.office.book();
        let shown = fingerprint(&password);
        let credential = match username {
            ANY_USER => book.credential_of_secret(&shown),
            _ => book.credential_of_user(username),
        };
        let hash = match credential.map(|credential| &credential.proof) {
            Some(Proof::Secret(kept))
                if verify_slices_are_equal(kept.as_bytes(), shown.as_bytes()).is_ok() =>
            {
                return credential.cloned();
            }
            Some(Proof::Password(hash)) => {
                if self.is_remembered(hash, &password) {
                    return credential.cloned();
                }
                Some(hash.clone())
            }
            Some(Proof::Secret(_)) | None => None,
        };
        let right = self.compare(hash, password).await;
        credential.filter(|_| right).cloned()
    }

    /// Compares with the hash, or with the decoy and then says no.
    async fn compare(&self, hash: Option<String>, password: Zeroizing<Vec<u8>>) -> bool {
        let Ok(turn) = Arc::clone(&self.turns).acquire_owned().await else { return false };
        let can_be_right = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.decoy.clone());
        // Sessions that came together log in alike: what the first one paid for holds for those behind it.
        if can_be_right && self.is_remembered(&hash, &password) {
            return true;
        }
        // The turn goes along, for hashing runs on when the caller has given up.
        let work = move || {
            let right = is_password(&password, &hash);
            drop(turn);
            (right, hash, password)
        };
        let compared = spawn_blocking(work).await;
        let Ok((right, hash, password)) = compared else { return false };
        let right = right && can_be_right;
        if right {
            self.remember(&hash, &password);
        }
        right
    }

    fn is_remembered(&self, hash: &str, password: &[u8]) -> bool {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner).contains(&self.tag(hash, password))
    }

    fn remember(&self, hash: &str, password: &[u8]) {
        let tag = self.tag(hash, password);
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(tag);
    }

    /// Useless outside this process; a changed password has another hash.
    fn tag(&self, hash: &str, password: &[u8]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(hash.as_bytes());
        context.update(&[0]);
        context.update(password);
        let mut tag = [0; 32];
        tag.copy_from_slice(context.sign().as_ref());
        tag
    }
}
