//! Accounts: who may send, from which domains, how much, and with which keys it is signed.
//!
//! ```text
//!  ingress  --Directory-----> login (secrets, passwords) --.
//!  delivery --Signing-------> keys, unsealed --------------+--> book: everything in memory
//!  commands --Administration-> office: checks, changes ----'     ^
//!                                  '--compare and set--> store --' (one file, or NATS for many replicas)
//! ```
//!
//! Everything is kept under a key in a small key-value [`store::Store`] and mirrored in memory, so that a question never waits
//! for a disk, or for NATS while that is away. A change names the state that it was decided on; when somebody was quicker, it is
//! decided anew. What another replica changes is followed within moments.
//! Secrets that we make carry 160 bits and are kept as SHA-256, chosen passwords as argon2id, signing keys sealed with
//! AES-256-GCM. Counting what an account sends is not done here: that is `limits`.

mod book;
mod login;
mod mirror;
mod model;
mod office;
mod records;
mod rpc;
mod seal;
mod secret;
pub mod store;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use smtp::address::Domain as Name;
use tokio::task::JoinSet;
use tonic::service::Routes;

pub use office::ChangeError;
pub use seal::SealError;

use crate::login::Login;
use crate::mirror::Mirror;
use crate::office::Office;
use crate::seal::Seal;
use crate::store::{Change, StoreError};

/// The flags of accounts.
#[derive(clap::Args, Clone, Debug)]
#[group(skip)]
#[command(next_help_heading = "Accounts")]
pub struct Config {
    /// File with the key that seals signing keys at rest; made when it isn't there. By default `sealing.key` beside the accounts.
    #[arg(long, value_name = "FILE")]
    pub accounts_sealing_key: Option<PathBuf>,
    /// What the suggested SPF record permits to send, such as `include:_spf.example.net`; by default this host's addresses.
    #[arg(long, value_name = "MECHANISMS")]
    pub accounts_spf: Option<String>,
}

/// The configuration as accounts wants it.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The sealing key's file; none for the default.
    pub sealing_key: Option<PathBuf>,
    /// Mechanisms of the suggested SPF record.
    pub spf: String,
}

impl Config {
    /// The settings, on a host of this name.
    pub fn settings(&self, host_name: &Name) -> Settings {
        let Self { accounts_sealing_key, accounts_spf } = self;
        let spf = accounts_spf.clone().unwrap_or_else(|| format!("a:{host_name}"));
        Settings { sealing_key: accounts_sealing_key.clone(), spf }
    }
}

/// Accounts can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder can't be made.
    #[error("can't make the folder {path} for accounts: {source}")]
    Folder {
        /// Which folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The store can't be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The sealing key can't be agreed on with other replicas.
    #[error("can't agree on the sealing key: {0}")]
    Agreement(ChangeError),
    /// The sealing key can't be used, or isn't the one that sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// An entry can't be understood.
    #[error("the entry {key} in {place} can't be read: {cause}; restore it from a backup")]
    Entry {
        /// The store's file.
        place: String,
        /// Which entry.
        key: String,
        /// Why.
        cause: String,
    },
    /// The system has no entropy or memory for the cost of passwords.
    #[error("can't prepare password hashing: {0}")]
    Passwords(String),
}

/// The service. Cheap to clone.
#[derive(Clone)]
pub struct Accounts {
    office: Arc<Office>,
    login: Arc<Login>,
    /// Follows a shared store until the last clone is dropped.
    _following: Arc<JoinSet<()>>,
}

impl Accounts {
    /// Opens the accounts in a folder, which is made when it isn't there. Blocks: for a thread that may.
    ///
    /// # Errors
    /// When the folder, the store or the sealing key can't be used; each names the path.
    pub fn open(folder: &Path, settings: Settings) -> Result<Self, OpenError> {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .map_err(|source| OpenError::Folder { path: folder.into(), source })?;
        let path = folder.join("accounts.redb");
        let store = store::Embedded::open(&path)?;
        let key_path = settings.sealing_key.unwrap_or_else(|| folder.join("sealing.key"));
        let seal = Seal::load_or_make(&key_path)?;
        let held = store.all()?.into_iter().map(|(key, value)| Change { key, value: Some(value) });
        let mirror = Mirror::new(&held.collect::<Vec<_>>(), 0);
        let book = mirror.view().0;
        // Nobody else could know it.
        if let Some((key, cause)) = book.unreadable.first_key_value() {
            let place = path.display().to_string();
            return Err(OpenError::Entry { place, key: key.clone(), cause: cause.clone() });
        }
        book.check_seal(&seal)?;
        drop(book);
        let office = Office::new(Arc::new(mirror), Arc::new(store), seal, settings.spf);
        Self::new(office, JoinSet::new())
    }

    /// Opens the accounts that all replicas of an instance share, in a bucket of NATS JetStream that is made when it isn't there.
    /// What another replica changes is here within a second. While NATS is away, questions are answered from memory and changes
    /// fail with [`ChangeError::Unavailable`]. While there is an entry that this version can't read, which a later one may
    /// have written, nothing can be changed, and what it is about is unavailable, not missing; all else is answered.
    ///
    /// # Errors
    /// When NATS doesn't answer within 30 s, when the sealing key isn't there or isn't the one of the other replicas.
    pub async fn open_shared(
        context: async_nats::jetstream::Context,
        instance: &str,
        replicas: usize,
        settings: Settings,
    ) -> Result<Self, OpenError> {
        let Settings { sealing_key, spf } = settings;
        let seal = Seal::load(&sealing_key.ok_or(SealError::Unnamed)?)?;
        let (store, mut events) = store::Shared::open(context, instance, replicas).await?;
        let mirror = loop {
            match events.recv().await {
                Some(store::Event::Whole(changes, position)) => break Mirror::new(&changes, position),
                Some(_) => {}
                None => return Err(StoreError::Away("nothing can be read".into()).into()),
            }
        };
        let mirror = Arc::new(mirror);
        mirror.view().0.check_seal(&seal)?;
        let mut following = JoinSet::new();
        let follower = Arc::clone(&mirror);
        following.spawn(async move {
            while let Some(event) = events.recv().await {
                follower.follow(event);
            }
        });
        let office = Office::new(mirror, Arc::new(store), seal, spf);
        office.agree_on_seal().await?;
        Self::new(office, following)
    }

    fn new(office: Office, following: JoinSet<()>) -> Result<Self, OpenError> {
        let office = Arc::new(office);
        let login = Arc::new(Login::new(Arc::clone(&office)).map_err(OpenError::Passwords)?);
        Ok(Self { office, login, _following: Arc::new(following) })
    }

    /// Whether what is answered is what the store holds, and changes can be made; else why not.
    ///
    /// # Errors
    /// What is wrong, for people. Questions are answered all the same, from what was known last.
    pub fn ready(&self) -> Result<(), String> {
        self.office.standing().borrow().clone()
    }

    /// The gRPC services Directory, Signing and Administration, and their health: Administration serves while [`Accounts::ready`].
    pub fn routes(&self) -> Routes {
        rpc::routes(&self.office, &self.login)
    }

    /// Makes an account without limit, a credential with a chosen password and a sending domain, as far as they aren't there.
    ///
    /// # Errors
    /// When the store fails, or a name is taken by somebody else.
    pub async fn ensure_demo(
        &self,
        account: &str,
        user: &str,
        password: &str,
        domain: &str,
    ) -> Result<(), ChangeError> {
        self.office.ensure_demo(account, user, password, domain).await
    }
}
