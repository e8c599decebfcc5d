//! The file of refused rows, JSON lines with `line` and `error` besides the fields, so that it can be
//! mended and imported itself. It holds password hashes, so nobody but its owner may read it.

use std::fs::File;
use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::PathBuf;

use serde_json::{Value, json};

use super::error::RowError;
use super::rows::Row;

/// The file; one that stays empty goes away again.
pub(super) struct Refused {
    path: PathBuf,
    file: File,
    length: u64,
    pending: Vec<u8>,
}

impl Refused {
    /// Goes on behind the first `length` bytes: what follows was written by a run that stored
    /// nothing of those rows.
    pub(super) fn open(path: PathBuf, length: u64) -> io::Result<Self> {
        let mut options = File::options();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path)?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        // It may have been moved away; nothing is made up in its place.
        let length = length.min(file.metadata()?.len());
        file.set_len(length)?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self { path, file, length, pending: Vec::new() })
    }

    /// Where it is, if there is one.
    pub(super) fn path(&self) -> Option<String> {
        (self.length > 0).then(|| self.path.display().to_string())
    }

    /// Notes a row for [`write`](Self::write).
    pub(super) fn add(&mut self, row: &Row, why: &RowError) {
        let mut fields = match &row.content {
            Ok(fields) => fields.clone(),
            Err((text, _)) => {
                [("text".to_owned(), Value::from(text.as_str()))].into_iter().collect()
            }
        };
        fields.insert("line".to_owned(), row.line.into());
        fields.insert("error".to_owned(), json!(why.to_string()));
        self.pending.extend(Value::Object(fields).to_string().into_bytes());
        self.pending.push(b'\n');
    }

    /// How long it is.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Takes back what was written after it had this length.
    pub(super) fn cut(&mut self, length: u64) -> io::Result<()> {
        self.length = length;
        self.file.set_len(length)?;
        self.file.seek(SeekFrom::End(0)).map(drop)
    }

    /// Writes what was noted, for good.
    pub(super) fn write(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = std::mem::take(&mut self.pending);
        self.file.write_all(&pending)?;
        self.file.sync_data()?;
        self.length += pending.len() as u64;
        Ok(())
    }
}

impl Drop for Refused {
    fn drop(&mut self) {
        if self.length == 0 {
            // Nothing is lost when it stays.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
