//! The run: batch by batch, with what is refused and how far it has come.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::account::{Read, Reading};
use super::error::RowError;
use super::progress::Progress;
use super::reader::{self, Batch, Judged};
use super::refused::Refused;
use super::report::{About, Report};
use super::{Args, unreadable};
use crate::auth::password;
use crate::cli::{Admin, Failure, when};
use crate::model::{Event, EventKind, UserId};
use crate::store::{ImportBatch, ImportProgress, ImportedAccount, StoreError};

/// At each end of the file, this much tells it from others.
const PROBE_BYTES: u64 = 1 << 20;

/// How often a batch is looked up anew because others took an address meanwhile.
const TRIES: u32 = 5;

pub(super) async fn run(
    admin: &Admin,
    args: &Args,
    reading: Reading,
    settings: &password::Settings,
) -> Result<(), Failure> {
    let cannot = |error: io::Error| unreadable(&args.file, &error);
    let mut file = File::open(&args.file).map_err(cannot)?;
    let total = file.metadata().map_err(cannot)?.len();
    let digest = digest(&mut file, total, args, &reading).map_err(cannot)?;
    let name = args.file.file_name().unwrap_or(args.file.as_os_str()).to_string_lossy();
    let format = reading.source.name();

    if args.from_start && !args.dry_run {
        admin.store.forget_import(digest).await?;
    }
    let earlier = if args.dry_run { None } else { admin.store.import_progress(digest).await? };
    if let Some(ImportProgress { finished_at: Some(at), .. }) = &earlier {
        let at = when(Some(*at));
        return Err(Failure::refused(format!(
            "{name} was imported at {at}, in this way; --from-start goes over it again"
        )));
    }
    let mut run = Run::new(admin, args, digest, &name, earlier)?;
    let mut batches = reader::start(file, reading, usize::from(args.batch))
        .map_err(|error| Failure::failed("the system gives no thread", &error))?;
    let mut progress = Progress::of(total);
    let done = async {
        while let Some(batch) = batches.recv().await {
            let batch = batch.map_err(cannot)?;
            let bytes = batch.bytes;
            if !batch.rows.is_empty() {
                run.take(batch).await?;
            }
            progress.show(run.report.rows, bytes);
        }
        run.finish().await
    }
    .await;
    progress.end();
    done?;

    let others = run.report.passwords.keys().copied().collect();
    let slowest =
        (!run.report.passwords.is_empty()).then(|| settings.time_of_slowest(&others).as_secs_f64());
    let errors_file = run.refused.as_ref().and_then(Refused::path);
    let about = About {
        file: &name,
        format,
        is_dry_run: args.dry_run,
        slowest,
        errors_file: errors_file.as_deref(),
    };
    if args.json {
        println!("{}", run.report.json(&about));
    } else {
        println!("{}", run.report.text(&about));
    }
    if run.report.refused > 0 { Err(Failure::no()) } else { Ok(()) }
}

struct Run<'a> {
    admin: &'a Admin,
    /// Nothing is stored.
    is_dry: bool,
    report: Report,
    /// `None` = nobody wants it.
    refused: Option<Refused>,
    refused_path: PathBuf,
    progress: ImportProgress,
    /// Rows that an earlier run did.
    done_before: u64,
}

impl<'a> Run<'a> {
    fn new(
        admin: &'a Admin,
        args: &Args,
        digest: [u8; 32],
        name: &str,
        earlier: Option<ImportProgress>,
    ) -> Result<Self, Failure> {
        if let Some(earlier) = &earlier {
            let rows = earlier.rows_done;
            eprintln!("going on after {rows} rows, where an earlier run stopped");
        }
        let done_before = earlier.as_ref().map_or(0, |earlier| earlier.rows_done);
        let progress = earlier.unwrap_or_else(|| ImportProgress {
            digest,
            file: name.to_owned(),
            rows_done: 0,
            imported: 0,
            already_there: 0,
            refused: 0,
            error_bytes: 0,
            started_at: admin.clock.now(),
            finished_at: None,
        });
        let refused_path = args.errors.clone().unwrap_or_else(|| {
            let mut path = args.file.clone().into_os_string();
            path.push(".errors.jsonl");
            path.into()
        });
        let is_wanted = !args.dry_run || args.errors.is_some();
        let refused = is_wanted
            .then(|| Refused::open(refused_path.clone(), progress.error_bytes))
            .transpose()
            .map_err(|error| unwritable(&refused_path, &error))?;
        let report = Report {
            imported: progress.imported,
            already_there: progress.already_there,
            refused: progress.refused,
            ..Report::default()
        };
        let is_dry = args.dry_run;
        Ok(Self { admin, is_dry, report, refused, refused_path, progress, done_before })
    }

    async fn take(&mut self, batch: Batch) -> Result<(), Failure> {
        let mut rows = batch.rows;
        for judged in &rows {
            match &judged.read {
                Ok(Some(read)) => self.report.count(read.class),
                Ok(None) => self.report.other += 1,
                Err(_) => {}
            }
        }
        let skip = self.done_before.saturating_sub(self.report.rows);
        self.report.rows += rows.len() as u64;
        rows.drain(..rows.len().min(usize::try_from(skip).unwrap_or(usize::MAX)));
        if rows.is_empty() {
            return Ok(());
        }
        for _ in 0..TRIES {
            if self.store(&rows).await? {
                return Ok(());
            }
        }
        Err(Failure::refused("others keep taking the addresses of this file; try again later"))
    }

    /// False when an address was taken since it was looked up.
    async fn store(&mut self, rows: &[Judged]) -> Result<bool, Failure> {
        let taken = Taken::look_up(self.admin, rows).await?;
        let (mut accounts, mut already_there, mut refused) = (Vec::new(), 0, Vec::new());
        for judged in rows {
            match &judged.read {
                Ok(None) => {}
                Ok(Some(read)) => match taken.judge(read) {
                    Standing::Free => accounts.push(read.imported.clone()),
                    Standing::There => already_there += 1,
                    Standing::Conflict(why) => refused.push((&judged.row, why)),
                },
                Err(why) => refused.push((&judged.row, why.clone())),
            }
        }
        let before = self.refused.as_ref().map_or(0, Refused::length);
        if let Some(file) = &mut self.refused {
            for (row, why) in &refused {
                file.add(row, why);
            }
            file.write().map_err(|error| unwritable(&self.refused_path, &error))?;
        }
        let progress = ImportProgress {
            rows_done: self.progress.rows_done + rows.len() as u64,
            imported: self.progress.imported + accounts.len() as u64,
            already_there: self.progress.already_there + already_there,
            refused: self.progress.refused + refused.len() as u64,
            error_bytes: self.refused.as_ref().map_or(0, Refused::length),
            ..self.progress.clone()
        };
        if !self.is_dry && !self.commit(&accounts, &progress).await? {
            if let Some(file) = &mut self.refused {
                file.cut(before).map_err(|error| unwritable(&self.refused_path, &error))?;
            }
            return Ok(false);
        }
        self.progress = progress;
        self.report.imported = self.progress.imported;
        self.report.already_there = self.progress.already_there;
        for (row, why) in &refused {
            self.report.refuse(row.line, why);
        }
        Ok(true)
    }

    async fn commit(
        &self,
        accounts: &[ImportedAccount],
        progress: &ImportProgress,
    ) -> Result<bool, Failure> {
        let event = Event {
            reason: Some(format!("{} accounts", accounts.len())),
            ..self.admin.event(EventKind::UsersImported, None)
        };
        self.store_batch(accounts, progress, &event).await
    }

    async fn finish(&mut self) -> Result<(), Failure> {
        if self.is_dry {
            return Ok(());
        }
        let ImportProgress { imported, already_there, refused, .. } = &self.progress;
        let event = Event {
            reason: Some(format!(
                "{imported} imported, {already_there} already there, {refused} refused"
            )),
            ..self.admin.event(EventKind::ImportFinished, None)
        };
        let ended = ImportProgress { finished_at: Some(event.at), ..self.progress.clone() };
        self.store_batch(&[], &ended, &event).await.map(drop)
    }

    async fn store_batch(
        &self,
        accounts: &[ImportedAccount],
        progress: &ImportProgress,
        event: &Event,
    ) -> Result<bool, Failure> {
        let before = self.progress.rows_done;
        let store = &self.admin.store;
        match store.import_accounts(accounts, before, progress, event.at, event).await {
            Ok(ImportBatch::Done) => Ok(true),
            Ok(ImportBatch::Taken) => Ok(false),
            Ok(ImportBatch::Overtaken) => {
                Err(Failure::refused("another process imports this very file"))
            }
            Err(error @ StoreError::Unavailable { .. }) => Err(Failure::failed(
                "the database is away; the same command goes on where this one stopped",
                &error,
            )),
            Err(error) => Err(error.into()),
        }
    }
}

/// The accounts that have an id or an address of a batch.
#[derive(Default)]
struct Taken {
    ids: HashSet<UserId>,
    owners: HashMap<String, UserId>,
}

enum Standing {
    Free,
    /// It is this very account.
    There,
    Conflict(RowError),
}

impl Taken {
    async fn look_up(admin: &Admin, rows: &[Judged]) -> Result<Self, Failure> {
        let accounts = || {
            rows.iter()
                .filter_map(|judged| judged.read.as_ref().ok()?.as_ref())
                .map(|read| (read.has_id, &read.imported.account))
        };
        let ids: Vec<_> = accounts()
            .filter(|(has_id, _)| *has_id)
            .map(|(_, account)| account.user.id.clone())
            .collect();
        let keys: Vec<_> = accounts().map(|(_, account)| account.email.key().to_owned()).collect();
        let mut taken = Self::default();
        for (id, key) in admin.store.accounts_taken(&ids, &keys).await? {
            taken.ids.insert(id.clone());
            taken.owners.insert(key, id);
        }
        Ok(taken)
    }

    /// A file without ids means whoever has the address.
    fn judge(&self, read: &Read) -> Standing {
        let account = &read.imported.account;
        match self.owners.get(account.email.key()) {
            Some(owner) if !read.has_id || *owner == account.user.id => Standing::There,
            Some(_) => Standing::Conflict(RowError::EmailTaken),
            None if read.has_id && self.ids.contains(&account.user.id) => {
                Standing::Conflict(RowError::IdTaken)
            }
            None => Standing::Free,
        }
    }
}

/// Which import this is: the file, and how it is read. Leaves the file at its beginning.
fn digest(file: &mut File, total: u64, args: &Args, reading: &Reading) -> io::Result<[u8; 32]> {
    let mut sha = Sha256::new();
    let Args { map, confirmed, allow_admin, allow_weak, .. } = args;
    let (source, roles_from) = (reading.source, &reading.roles_from);
    let options =
        format!("{source:?} {map:?} {confirmed:?} {roles_from:?} {allow_admin} {allow_weak}");
    sha.update(format!("{total} {options}\n"));
    for start in [0, total.saturating_sub(PROBE_BYTES)] {
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.take(PROBE_BYTES).read_to_end(&mut bytes)?;
        sha.update(&bytes);
    }
    file.rewind()?;
    Ok(sha.finalize().into())
}

fn unwritable(file: &Path, error: &io::Error) -> Failure {
    Failure::failed(&format!("{} cannot be written", file.display()), error)
}
