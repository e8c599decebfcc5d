//! Reads the file and makes accounts of its rows, on a thread of its own while the database works.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::thread;

use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::account::{Read, Reading};
use super::error::RowError;
use super::rows::{Row, Rows};

/// Batches that wait: enough for the database never to.
const WAITING: usize = 2;

/// Some rows of the file, one after the other.
pub(super) struct Batch {
    pub(super) rows: Vec<Judged>,
    /// How much of the file was read with them.
    pub(super) bytes: u64,
}

/// A row and what it gives; `None` = it is no account.
pub(super) struct Judged {
    pub(super) row: Row,
    pub(super) read: Result<Option<Read>, RowError>,
}

/// Starts the thread; it ends with the file or the receiver.
pub(super) fn start(
    file: File,
    reading: Reading,
    batch: usize,
) -> io::Result<mpsc::Receiver<io::Result<Batch>>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    thread::Builder::new().name("import".to_owned()).spawn(move || {
        let mut seen = Seen::default();
        let mut rows = match Rows::open(file) {
            Ok(rows) => rows,
            Err(error) => return drop(sender.blocking_send(Err(error))),
        };
        loop {
            let read = next_batch(&mut rows, &reading, &mut seen, batch);
            let is_last = !matches!(&read, Ok(batch) if !batch.rows.is_empty());
            let is_gone = sender.blocking_send(read).is_err();
            if is_last || is_gone {
                return;
            }
        }
    })?;
    Ok(receiver)
}

fn next_batch(
    rows: &mut Rows<File>,
    reading: &Reading,
    seen: &mut Seen,
    size: usize,
) -> io::Result<Batch> {
    let mut found = Vec::with_capacity(size);
    while found.len() < size
        && let Some(row) = rows.next()?
    {
        let read = match &row.content {
            Ok(fields) => reading.account(fields).and_then(|read| seen.once(read, row.line)),
            Err((_, why)) => Err(why.clone()),
        };
        found.push(Judged { row, read });
    }
    Ok(Batch { rows: found, bytes: rows.bytes() })
}

/// The addresses and ids of rows that can be imported, by 128 bits of their SHA-256: a million take
/// some 60 MB, and two different ones are never taken for the same.
#[derive(Default)]
struct Seen(HashMap<[u8; 16], u64>);

impl Seen {
    fn once(&mut self, read: Option<Read>, line: u64) -> Result<Option<Read>, RowError> {
        let Some(one) = &read else { return Ok(read) };
        let account = &one.imported.account;
        let mut keys = vec![key("address", account.email.key())];
        if one.has_id {
            keys.push(key("id", account.user.id.as_str()));
        }
        if let Some(first) = keys.iter().find_map(|key| self.0.get(key)) {
            return Err(RowError::Twice(*first));
        }
        self.0.extend(keys.into_iter().map(|key| (key, line)));
        Ok(read)
    }
}

fn key(kind: &str, text: &str) -> [u8; 16] {
    let digest = Sha256::new().chain_update(kind).chain_update([0]).chain_update(text).finalize();
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    key
}
