//! The directory that a store lives in: the few file operations that it needs, and nothing that it doesn't.
//!
//! A trait, so that tests can keep every operation in memory and reopen the store after any of them.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FallocateFlags, FlockOperation};

/// A directory; its files have plain names.
pub(super) trait Disk: Send + Sync {
    /// The names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// An empty file of this name, whatever was there.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes creations and removals durable.
    fn sync_directory(&self) -> io::Result<()>;
    /// Octets that can still be written.
    fn free_octets(&self) -> io::Result<u64>;
    /// The path of a file, for people.
    fn path(&self, name: &str) -> PathBuf;
}

/// An open file. Reading and writing give the place; there is no cursor.
pub(super) trait DiskFile: Send + Sync {
    /// Fills as much of `buffer` as the file has from `offset` on.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    fn write_at(&self, pieces: &mut [IoSlice<'_>], offset: u64) -> io::Result<()>;
    /// Makes the file's octets and size durable.
    fn sync(&self) -> io::Result<()>;
    fn truncate(&self, octets: u64) -> io::Result<()>;
    /// Takes room ahead, so that later writes there neither fail for want of it nor change the file's size.
    fn allocate(&self, octets: u64) -> io::Result<()>;
    fn octets(&self) -> io::Result<u64>;
}

/// Reads exactly `buffer`, or says that the file ends before.
pub(super) fn read_exact_at(file: &dyn DiskFile, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    if file.read_at(buffer, offset)? < buffer.len() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// A directory of the file system. It is locked as long as this lives.
pub(super) struct FileDisk {
    directory: PathBuf,
    handle: File,
    _lock: File,
}

/// Why a directory can't be used.
pub(super) enum FileDiskError {
    Locked,
    Io(&'static str, io::Error),
}

const LOCK: &str = "lock";

impl FileDisk {
    pub(super) fn open(directory: &Path) -> Result<Self, FileDiskError> {
        std::fs::create_dir_all(directory).map_err(|error| FileDiskError::Io("create", error))?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join(LOCK))
            .map_err(|error| FileDiskError::Io("create the lock file in", error))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(FileDiskError::Locked),
            Err(error) => return Err(FileDiskError::Io("lock", error.into())),
        }
        let handle = File::open(directory).map_err(|error| FileDiskError::Io("open", error))?;
        Ok(Self { directory: directory.to_owned(), handle, _lock: lock })
    }
}

impl Disk for FileDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let name =
            |entry: io::Result<std::fs::DirEntry>| entry.map(|entry| entry.file_name().into_string().ok());
        std::fs::read_dir(&self.directory)?.map(name).filter_map(Result::transpose).collect()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(self.directory.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let file = OpenOptions::new().read(true).write(true).open(self.directory.join(name))?;
        Ok(Arc::new(RealFile(file)))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.directory.join(name))
    }

    fn sync_directory(&self) -> io::Result<()> {
        self.handle.sync_all()
    }

    fn free_octets(&self) -> io::Result<u64> {
        let figures = rustix::fs::fstatvfs(self.handle.as_fd())?;
        Ok(figures.f_bavail.saturating_mul(figures.f_frsize))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

struct RealFile(File);

impl DiskFile for RealFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.0.read_at(&mut buffer[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }

    fn write_at(&self, mut pieces: &mut [IoSlice<'_>], mut offset: u64) -> io::Result<()> {
        // The kernel takes at most 1,024 pieces (IOV_MAX) a call.
        IoSlice::advance_slices(&mut pieces, 0);
        while !pieces.is_empty() {
            let some = pieces.len().min(1_024);
            match rustix::io::pwritev(&self.0, &pieces[..some], offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    IoSlice::advance_slices(&mut pieces, count);
                    offset += count as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn truncate(&self, octets: u64) -> io::Result<()> {
        self.0.set_len(octets)
    }

    fn allocate(&self, octets: u64) -> io::Result<()> {
        // Measured on ext4: a sync into room taken ahead takes half the time of one that also grows the file, and filling
        // the room with zeros first gains nothing more.
        match rustix::fs::fallocate(&self.0, FallocateFlags::empty(), 0, octets) {
            // A file system that can't do it grows the file as it goes.
            Ok(()) | Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn octets(&self) -> io::Result<u64> {
        self.0.metadata().map(|metadata| metadata.len())
    }
}
