//! A small key-value store with compare-and-set, and its embedded implementation: one file.

use std::path::{Path, PathBuf};

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("accounts");

/// The store can't do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It can't be opened, read or written.
    #[error("can't {attempt} {path}: {cause}")]
    Failed {
        /// What was tried.
        attempt: &'static str,
        /// The store's file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// Somebody else changed the key meanwhile.
    #[error("{0} was changed by somebody else meanwhile; look at it again and repeat")]
    Conflict(String),
}

/// One key's change.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which key.
    pub key: String,
    /// What it must hold; none when it must not be there.
    pub expected: Option<Vec<u8>>,
    /// What it holds then; none to remove it.
    pub new: Option<Vec<u8>>,
}

/// Where accounts are kept. Calls block.
pub trait Store: Send + Sync + 'static {
    /// Everything, in order of keys.
    ///
    /// # Errors
    /// When it can't be read.
    fn all(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError>;

    /// Makes all changes or none; durable when it returns.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when a key doesn't hold what was expected, else when it can't be written.
    fn change(&self, changes: &[Change]) -> Result<(), StoreError>;
}

/// A store in one file of this host.
pub struct Embedded {
    path: PathBuf,
    database: Database,
}

impl Embedded {
    /// Opens the file, or makes it for its owner only.
    ///
    /// # Errors
    /// When it can't be opened, is damaged, or another process has it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let failed = |cause: String| StoreError::Failed { attempt: "open", path: path.into(), cause };
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|error| failed(error.to_string()))?;
        let backend = FileBackend::new(file).map_err(|error| failed(error.to_string()))?;
        // The file is small, and who may send must not be read from a damaged one: all checksums are verified first.
        let database = Database::builder()
            .set_check_integrity_on_open(true)
            .create_with_backend(backend)
            .map_err(|error| failed(error.to_string()))?;
        let store = Self { path: path.into(), database };
        // The table is there from the first on, so that reading needs no special case.
        store.change(&[])?;
        Ok(store)
    }

    fn failed(&self, attempt: &'static str, cause: impl ToString) -> StoreError {
        StoreError::Failed { attempt, path: self.path.clone(), cause: cause.to_string() }
    }
}

impl Store for Embedded {
    fn all(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let transaction = self.database.begin_read()?;
            let table = transaction.open_table(TABLE)?;
            let mut found = Vec::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                found.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(found)
        };
        read().map_err(|error| self.failed("read", error))
    }

    fn change(&self, changes: &[Change]) -> Result<(), StoreError> {
        let write = || -> Result<Option<String>, redb::Error> {
            let transaction = self.database.begin_write()?;
            {
                let mut table = transaction.open_table(TABLE)?;
                for Change { key, expected, new } in changes {
                    let held = table.get(key.as_str())?.map(|value| value.value().to_vec());
                    if held != *expected {
                        // Dropped uncommitted, the transaction leaves nothing behind.
                        return Ok(Some(key.clone()));
                    }
                    match new {
                        Some(value) => table.insert(key.as_str(), value.as_slice())?,
                        None => table.remove(key.as_str())?,
                    };
                }
            }
            transaction.commit()?;
            Ok(None)
        };
        match write().map_err(|error| self.failed("write", error))? {
            None => Ok(()),
            Some(key) => Err(StoreError::Conflict(key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &str, expected: Option<&str>, new: Option<&str>) -> Change {
        let octets = |text: &str| text.as_bytes().to_vec();
        Change { key: key.into(), expected: expected.map(octets), new: new.map(octets) }
    }

    #[test]
    fn of_two_changes_from_the_same_state_one_fails_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Embedded::open(&folder.path().join("store")).unwrap();
        store.change(&[set("a", None, Some("1"))]).unwrap();
        store.change(&[set("a", Some("1"), Some("2"))]).unwrap();
        let late = store.change(&[set("b", None, Some("1")), set("a", Some("1"), Some("3"))]);
        assert!(matches!(late, Err(StoreError::Conflict(key)) if key == "a"));
        assert_eq!(store.all().unwrap(), [("a".to_owned(), b"2".to_vec())]);
    }

    #[test]
    fn a_file_that_is_no_store_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        std::fs::write(&path, "this is no database".repeat(1000)).unwrap();
        let error = Embedded::open(&path).err().unwrap().to_string();
        assert!(error.contains(path.to_str().unwrap()), "{error}");
    }

    #[test]
    fn a_damaged_file_is_refused_or_read_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("store");
        let store = Embedded::open(&path).unwrap();
        for number in 0..100 {
            store.change(&[set(&format!("key {number}"), None, Some(&"value ".repeat(number)))]).unwrap();
        }
        let kept = store.all().unwrap();
        drop(store);
        let whole = std::fs::read(&path).unwrap();
        let mut refused = 0;
        for place in (0..whole.len()).step_by(whole.len() / 300) {
            let mut altered = whole.clone();
            altered[place..].iter_mut().take(16).for_each(|octet| *octet ^= 0xa5);
            for content in [&altered[..], &whole[..place]] {
                std::fs::write(&path, content).unwrap();
                let opened = std::panic::catch_unwind(|| Embedded::open(&path).map(|store| store.all()));
                match opened {
                    Ok(Ok(found)) if content.is_empty() => assert_eq!(found.unwrap(), []),
                    Ok(Ok(found)) => assert_eq!(found.unwrap(), kept),
                    Ok(Err(error)) => {
                        refused += 1;
                        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
                    }
                    // redb asserts in debug builds what it returns as an error in others.
                    Err(_) if cfg!(debug_assertions) => {}
                    Err(_) => panic!("at octet {place}"),
                }
            }
        }
        assert!(refused > 0);
    }
}
