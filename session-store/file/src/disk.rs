//! The store file and its log, as bytes: which entries there are, without knowing what they mean.

use std::fs::{self, File, OpenOptions, Permissions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition, TableError,
};

use crate::error::OpenError;
use crate::keys::{EdgeKeys, RANDOM_OCTETS};
use crate::log::{Entries, Log};
use crate::suspicious::Suspicious;

/// Entries: bytes of the name → sealed value.
const ENTRIES: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("entries");
/// What belongs to the file itself.
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const FORMAT: &str = "format";
const BATCH: &str = "batch";
const KEYS: &str = "keys";
const NAMING: &str = "naming";
/// The format that this program writes.
const KNOWN_FORMAT: u64 = 1;
/// Bytes of the log that are worked into the database in one go: a few thousand records, some milliseconds.
const LOG_BYTES: u64 = 4 << 20;
/// What the database may keep of the file in memory; everything is in the maps of the store anyhow.
const CACHE_BYTES: usize = 8 << 20;

/// An open store file: locked, checked, its log applied. [`crate::FileStore::load`] makes a store of it.
pub struct StoreFile {
    path: PathBuf,
    /// `None` after an error of the disk, until it is opened again.
    db: Option<Database>,
    pub(crate) log: Log,
    /// The number of the last batch, written or not yet in the database.
    pub(crate) batch: u64,
    /// The log is worked into the database when it is so long.
    pub(crate) log_bytes: u64,
    pub(crate) clock: Clock,
}

/// The clock of the store: milliseconds since 1970.
pub type Clock = Arc<dyn Fn() -> u64 + Send + Sync>;

fn system_clock() -> Clock {
    Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

impl std::fmt::Debug for StoreFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreFile").field("path", &self.path).field("batch", &self.batch).finish_non_exhaustive()
    }
}

impl StoreFile {
    /// Opens the file and its log (`PATH.log`), makes them where they are missing (mode 0600), and locks them for this process.
    ///
    /// # Errors
    /// [`OpenError`]; the file is then as it was.
    pub fn open(path: &Path) -> Result<StoreFile, OpenError> {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !folder.is_dir() {
            let source = std::io::Error::new(std::io::ErrorKind::NotFound, "its directory is not there; make it first");
            return Err(OpenError::Io { path: path.to_owned(), verb: "opened", source });
        }
        let mut log = Log::open(&beside(path, "log"), path)?;
        if !path.exists() {
            make(path)?;
        }
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(OpenError::io(folder, "synchronised"))?;
        tighten(path)?;
        // The database checks less than its documentation promises where pages are damaged, and may panic there.
        let opened = catch_unwind(AssertUnwindSafe(|| open_database(path)));
        let (db, mut contained) =
            opened.unwrap_or_else(|_| Err(OpenError::damaged(path, "the database's structure is wrong")))?;
        for batch in log.read(contained)? {
            write(&db, batch.number, &batch.entries, None).map_err(|error| storage(path, &error))?;
            contained = batch.number;
        }
        log.reset(contained).map_err(OpenError::io(path, "written"))?;
        Ok(StoreFile {
            path: path.to_owned(),
            db: Some(db),
            log,
            batch: contained,
            log_bytes: LOG_BYTES,
            clock: system_clock(),
        })
    }

    /// Another length of the log (4 MiB) at which it is worked into the database: shorter costs more, and opens faster.
    #[must_use]
    pub fn with_log_bytes(mut self, bytes: u64) -> StoreFile {
        self.log_bytes = bytes;
        self
    }

    /// Another clock than the system's, for tests.
    #[must_use]
    pub fn with_clock(mut self, clock: Clock) -> StoreFile {
        self.clock = clock;
        self
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The edge's own keys; `None` where none were made.
    ///
    /// # Errors
    /// `Damaged`, or keys in a form that this program does not know.
    pub fn keys(&self) -> Result<Option<EdgeKeys>, OpenError> {
        let value = meta(self.db()?, KEYS).map_err(|error| storage(&self.path, &error))?;
        value.map(|bytes| EdgeKeys::from_bytes(&bytes)).transpose().map_err(|reason| OpenError::Unreadable {
            path: self.path.clone(),
            record: "keys".into(),
            reason,
        })
    }

    /// The edge's own keys, made now where there were none: from octets of the operating system's random source. On the disk before it
    /// returns.
    ///
    /// # Errors
    /// As [`StoreFile::keys`]; the disk's.
    pub fn make_keys(&mut self, random: &[u8; RANDOM_OCTETS]) -> Result<EdgeKeys, OpenError> {
        if let Some(keys) = self.keys()? {
            return Ok(keys);
        }
        let keys = EdgeKeys::from_random(random);
        write(self.db()?, self.batch, &Entries::new(), Some((KEYS, &keys.to_bytes())))
            .map_err(|error| storage(&self.path, &error))?;
        Ok(keys)
    }

    /// Takes the file for a key of names, told by its fingerprint: the names in the file are hashes by that key.
    ///
    /// # Errors
    /// `Unreadable` where the file was written with another key of names.
    pub(crate) fn claim(&mut self, fingerprint: &[u8; 16]) -> Result<(), OpenError> {
        let db = self.db()?;
        match meta(db, NAMING).map_err(|error| storage(&self.path, &error))? {
            Some(found) if found == fingerprint => Ok(()),
            Some(_) => Err(OpenError::Unreadable {
                path: self.path.clone(),
                record: "naming".into(),
                reason: "the names in the file were made with another key `naming`".into(),
            }),
            None => write(db, self.batch, &Entries::new(), Some((NAMING, fingerprint)))
                .map_err(|error| storage(&self.path, &error)),
        }
    }

    /// Calls `each` with every entry, until it fails.
    pub(crate) fn entries<E>(
        &self,
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), E>,
    ) -> Result<Result<(), E>, OpenError> {
        let db = self.db()?;
        let walk = || -> Result<Result<(), E>, redb::Error> {
            let table = db.begin_read()?.open_table(ENTRIES)?;
            for entry in table.iter()? {
                let (name, value) = entry?;
                if let Err(error) = each(name.value(), value.value()) {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(()))
        };
        match catch_unwind(AssertUnwindSafe(walk)) {
            Ok(walked) => walked.map_err(|error| storage(&self.path, &error)),
            Err(_) => Err(OpenError::damaged(&self.path, "the database's structure is wrong")),
        }
    }

    fn db(&self) -> Result<&Database, OpenError> {
        self.db.as_ref().ok_or_else(|| OpenError::damaged(&self.path, "the disk failed; open it again"))
    }

    /// Writes entries into the database, on the disk when it returns; then the log is emptied.
    ///
    /// # Errors
    /// What the disk says. The log still has what the database has not; the next call opens the database again.
    pub(crate) fn checkpoint(&mut self, entries: &Entries) -> Result<(), String> {
        let db = match self.db.take() {
            Some(db) => db,
            None => open_database(&self.path).map_err(|error| error.to_string())?.0,
        };
        // After an error the database refuses everything until it is opened again, so it is not kept.
        write(&db, self.batch, entries, None).map_err(|error| error.to_string())?;
        self.db = Some(db);
        self.log.reset(self.batch).map_err(|error| error.to_string())
    }
}

/// `PATH.ending`.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

/// A new database under another name first, so that a kill leaves a whole one or none.
fn make(path: &Path) -> Result<(), OpenError> {
    let new = beside(path, "new");
    let file = private(&new, true).map_err(OpenError::io(&new, "made"))?;
    let db = builder().create_file(file).map_err(|error| database(&new, error))?;
    write(&db, 0, &Entries::new(), Some((FORMAT, &KNOWN_FORMAT.to_be_bytes())))
        .map_err(|error| storage(&new, &error))?;
    drop(db);
    fs::rename(&new, path).map_err(OpenError::io(path, "made"))
}

/// Opens for reading and writing; a new file belongs to its owner alone.
fn private(path: &Path, new: bool) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(new).truncate(new).mode(0o600).open(path)
}

/// The file may hold keys: nobody else reads it.
fn tighten(path: &Path) -> Result<(), OpenError> {
    let mode = fs::metadata(path).map_err(OpenError::io(path, "read"))?.permissions().mode();
    if mode & 0o077 != 0 {
        tracing::warn!(path = %path.display(), mode = format!("{:o}", mode & 0o777), "the store file was open to others; now it is not");
        fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(OpenError::io(path, "made private"))?;
    }
    Ok(())
}

fn builder() -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// The database, every page of it checked, and the number of the last batch in it. Where the last transaction is damaged the one before
/// it stands again: the log, which continues the last one, tells.
fn open_database(path: &Path) -> Result<(Database, u64), OpenError> {
    let file = private(path, false).map_err(OpenError::io(path, "opened"))?;
    if file.metadata().map_err(OpenError::io(path, "read"))?.len() == 0 {
        return Err(OpenError::NotAStore { path: path.to_owned(), reason: "it is empty".into() });
    }
    let file = Suspicious::new(FileBackend::new(file).map_err(|error| database(path, error))?);
    let db = builder().create_with_backend(file).map_err(|error| database(path, error))?;
    let number = |key: &str| -> Result<u64, OpenError> {
        let bytes = meta(&db, key).map_err(|error| storage(path, &error))?;
        let bytes = bytes.and_then(|bytes| <[u8; 8]>::try_from(bytes).ok());
        bytes.map(u64::from_be_bytes).ok_or_else(|| OpenError::NotAStore {
            path: path.to_owned(),
            reason: format!("it is a database without {key}"),
        })
    };
    match number(FORMAT)? {
        KNOWN_FORMAT => {}
        found => return Err(OpenError::Newer { path: path.to_owned(), found, known: KNOWN_FORMAT }),
    }
    let contained = number(BATCH)?;
    Ok((db, contained))
}

fn meta(db: &Database, key: &str) -> Result<Option<Vec<u8>>, redb::Error> {
    let table = match db.begin_read()?.open_table(META) {
        Ok(table) => table,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    Ok(table.get(key)?.map(|value| value.value().to_owned()))
}

/// One transaction, on the disk when it returns.
fn write(db: &Database, batch: u64, entries: &Entries, also: Option<(&str, &[u8])>) -> Result<(), redb::Error> {
    let transaction = db.begin_write()?;
    {
        let mut table = transaction.open_table(ENTRIES)?;
        for (name, value) in entries {
            match value {
                Some(value) => drop(table.insert(name.as_slice(), value.as_ref())?),
                None => drop(table.remove(name.as_slice())?),
            }
        }
        let mut meta = transaction.open_table(META)?;
        meta.insert(BATCH, batch.to_be_bytes().as_slice())?;
        if let Some((key, value)) = also {
            meta.insert(key, value)?;
        }
    }
    transaction.commit()?;
    Ok(())
}

fn database(path: &Path, error: DatabaseError) -> OpenError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => OpenError::InUse { path: path.to_owned() },
        DatabaseError::UpgradeRequired(version) => {
            OpenError::NotAStore { path: path.to_owned(), reason: format!("its database has format {version}") }
        }
        DatabaseError::Storage(StorageError::Io(source)) if source.kind() == std::io::ErrorKind::InvalidData => {
            OpenError::NotAStore { path: path.to_owned(), reason: source.to_string() }
        }
        DatabaseError::Storage(StorageError::Io(source)) => {
            OpenError::Io { path: path.to_owned(), verb: "opened", source }
        }
        other => OpenError::damaged(path, other.to_string()),
    }
}

fn storage(path: &Path, error: &redb::Error) -> OpenError {
    match error {
        redb::Error::Io(source) => {
            let source = std::io::Error::new(source.kind(), source.to_string());
            OpenError::Io { path: path.to_owned(), verb: "used", source }
        }
        other => OpenError::damaged(path, other.to_string()),
    }
}
