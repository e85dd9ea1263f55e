//! Mail into a Maildir instead of to its recipients: as it would have left, signature included.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use mail::{JobId, Message, Recipient};

/// A Maildir.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox(PathBuf);

impl Sandbox {
    /// Makes the folders that aren't there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        for folder in ["tmp", "new", "cur"] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path.join(folder))?;
        }
        Ok(Self(path.into()))
    }

    /// Writes a message, on disk when this returns; it blocks. Lines end in CRLF, as they would on the wire. A job that is
    /// tried again replaces its file in `new`.
    pub(crate) fn write(
        &self,
        job: JobId,
        message: &Message,
        recipients: &[Recipient],
        signature: &str,
        content: &[u8],
    ) -> io::Result<PathBuf> {
        let name = format!("{}.{job}.stagepost", message.accepted_at.secs());
        let (temporary, place) = (self.0.join("tmp").join(&name), self.0.join("new").join(&name));
        let mut envelope = format!("Return-Path: <{}>\r\n", message.reverse_path);
        for recipient in recipients {
            envelope.push_str(&format!("Delivered-To: {}\r\n", recipient.address));
        }
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        for part in [envelope.as_bytes(), signature.as_bytes(), content] {
            file.write_all(part)?;
        }
        file.sync_all()?;
        fs::rename(&temporary, &place)?;
        File::open(self.0.join("new"))?.sync_all()?;
        Ok(place)
    }
}
