//! The store of one process: a file.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use redb::backends::FileBackend;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use tokio::task::spawn_blocking;

use super::{Change, Position, Store, StoreError};

const TABLE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("accounts");

/// A store in one file of this host, which no other process can open meanwhile. Positions count from its opening.
pub struct Embedded(Arc<Inner>);

struct Inner {
    path: PathBuf,
    database: Database,
    position: Mutex<Position>,
}

impl Embedded {
    /// Opens the file, or makes it for its owner only. Blocks.
    ///
    /// # Errors
    /// When it can't be opened, is damaged, or another process has it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let failed =
            |cause: String| StoreError::Failed { attempt: "open", place: path.display().to_string(), cause };
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
        let inner = Inner { path: path.into(), database, position: Mutex::new(0) };
        // The table is there from the first on, so that reading needs no special case.
        inner.write(&[]).map_err(|error| inner.failed("write", error))?;
        Ok(Self(Arc::new(inner)))
    }

    /// Everything, in order of keys. Blocks.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn all(&self) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let read = || -> Result<_, redb::Error> {
            let transaction = self.0.database.begin_read()?;
            let table = transaction.open_table(TABLE)?;
            let mut found = Vec::new();
            for entry in table.iter()? {
                let (key, value) = entry?;
                found.push((key.value().to_owned(), value.value().to_vec()));
            }
            Ok(found)
        };
        read().map_err(|error| self.0.failed("read", error))
    }
}

#[tonic::async_trait]
impl Store for Embedded {
    async fn change(&self, seen: Position, changes: &[Change]) -> Result<Position, StoreError> {
        let (inner, changes) = (Arc::clone(&self.0), changes.to_vec());
        let done = spawn_blocking(move || inner.change(seen, &changes)).await;
        done.map_err(|error| self.0.failed("write", error))?
    }
}

impl Inner {
    fn change(&self, seen: Position, changes: &[Change]) -> Result<Position, StoreError> {
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        if *position != seen {
            return Err(StoreError::Conflict);
        }
        self.write(changes).map_err(|error| self.failed("write", error))?;
        *position += 1;
        Ok(*position)
    }

    fn write(&self, changes: &[Change]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for Change { key, value } in changes {
                match value {
                    Some(value) => table.insert(key.as_str(), value.as_slice())?,
                    None => table.remove(key.as_str())?,
                };
            }
        }
        transaction.commit()?;
        Ok(())
    }

    fn failed(&self, attempt: &'static str, cause: impl ToString) -> StoreError {
        StoreError::Failed { attempt, place: self.path.display().to_string(), cause: cause.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &str, value: &str) -> Change {
        Change { key: key.into(), value: Some(value.as_bytes().to_vec()) }
    }

    #[tokio::test]
    async fn of_two_changes_from_the_same_position_one_fails_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = Embedded::open(&folder.path().join("store")).unwrap();
        assert_eq!(store.change(0, &[set("a", "1"), set("c", "1")]).await.unwrap(), 1);
        let removed = Change { key: "c".into(), value: None };
        assert_eq!(store.change(1, &[set("a", "2"), removed]).await.unwrap(), 2);
        let late = store.change(1, &[set("b", "1"), set("a", "3")]).await;
        assert!(matches!(late, Err(StoreError::Conflict)));
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
            store
                .0
                .change(number, &[set(&format!("key {number}"), &"value ".repeat(number as usize))])
                .unwrap();
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
