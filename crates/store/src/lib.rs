//! Metadata: what palisade remembers. One SQLite file, one writer at a time, many readers.
//!
//! Every noun has its file of free functions over a [`Db`]; a [`Tx`] and a [`Read`] both lend one.
//! Lookups of what users own take their [`Scope`]: an id of another workspace is not found (A7).

pub mod apps;
pub mod blobs;
pub mod calls;
pub mod dicts;
pub mod environments;
pub mod functions;
pub mod hints;
pub mod image_names;
pub mod images;
pub mod inputs;
pub mod logs;
pub mod mounts;
pub mod outcomes;
pub mod queues;
pub mod replays;
pub mod retention;
pub mod sandboxes;
pub mod secrets;
pub mod tasks;
pub mod tokens;

mod link;
mod named;
mod row;

use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::time::Duration;

use model::WorkspaceId;
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{Connection, SqlSafeStr};

pub use hints::{Ear, Hint, Hints};
pub use link::Read;

/// A connection, however it was come by.
pub type Db = SqliteConnection;

/// Every migration, in order. What was released never changes; new ones are added at the end.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "base", include_str!("../migrations/0001_base.sql")),
    (2, "objects", include_str!("../migrations/0002_objects.sql")),
    (3, "images", include_str!("../migrations/0003_images.sql")),
    (4, "sandboxes", include_str!("../migrations/0004_sandboxes.sql")),
    (5, "snapshots", include_str!("../migrations/0005_snapshots.sql")),
];

fn migrator() -> Migrator {
    let migration = |&(version, name, sql): &(i64, &'static str, &'static str)| {
        Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(MIGRATIONS.iter().map(migration).collect())
}

/// Pages of the log at which a commit moves them to the file itself, in case that
/// [`Store::checkpoint`] did not keep up: 64 MiB.
const LOG_PAGES_MAX: &str = "16384";

/// How long a writer waits for another program that holds the file.
const BUSY_MAX: Duration = Duration::from_secs(10);

/// Readers at the same time.
const READERS_MAX: u32 = 8;

/// What can go wrong with what is remembered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is not a database, or a damaged one.
    #[error(
        "{path} is not a sound palisade database ({reason}); it was left as it is: \
         restore it from a backup, or start with another --data-dir"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        reason: String,
    },
    /// The disk is full.
    #[error("the disk that holds the database is full: free some space, then try again")]
    Full,
    /// A stored value does not have the form that this release writes.
    #[error("a stored {what} cannot be read: {reason}")]
    Unreadable {
        /// Which noun.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// The server ends.
    #[error("the database is closed: the server ends")]
    Closed,
    /// Anything else that SQLite says.
    #[error("the database refused: {0}")]
    Sql(#[source] sqlx::Error),
    /// A migration failed.
    #[error("the database could not be brought to this release's form: {0}")]
    Migrate(#[from] sqlx::migrate::MigrateError),
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        // 13 is SQLITE_FULL; extended codes keep the primary one in the low byte.
        let full = error
            .as_database_error()
            .and_then(|e| e.code())
            .and_then(|code| code.parse::<i32>().ok())
            .is_some_and(|code| code & 0xff == 13);
        if full { Self::Full } else { Self::Sql(error) }
    }
}

/// Result of the store.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Whose things a lookup may find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// The workspace.
    pub workspace: WorkspaceId,
}

/// The database and the hints that go with it.
#[derive(Debug, Clone)]
pub struct Store {
    writer: link::Writer,
    readers: link::Readers,
    hints: Hints,
}

/// A transaction: what it changed is there for all after `commit`, and for nobody without it.
#[derive(Debug)]
pub struct Tx {
    inner: link::Writing,
    hints: Hints,
    rung: Vec<Hint>,
}

impl Tx {
    /// Rings `hint` once this transaction is committed.
    pub fn ring(&mut self, hint: Hint) {
        self.rung.push(hint);
    }

    /// Makes the changes lasting, then rings.
    pub async fn commit(self) -> Result<()> {
        self.commit_then(|| ()).await
    }

    /// As [`Tx::commit`], with something to do when the changes are lasting and before it rings.
    pub async fn commit_then(self, then: impl FnOnce()) -> Result<()> {
        self.inner.commit().await?;
        then();
        for hint in &self.rung {
            self.hints.ring(hint);
        }
        Ok(())
    }
}

impl Deref for Tx {
    type Target = Db;
    fn deref(&self) -> &Db {
        &self.inner
    }
}

impl DerefMut for Tx {
    fn deref_mut(&mut self) -> &mut Db {
        &mut self.inner
    }
}

impl Store {
    /// Opens the database file, makes it if it is not there, and brings it to this release's form.
    ///
    /// Write-ahead log without a sync at each commit: what was committed survives the end of the
    /// process, however hard; a loss of power may cost the last moments.
    ///
    /// Nothing is analyzed: the indexes are made for the queries, and with SQLite's statistics of
    /// values a query with a range is planned anew each time that it is asked.
    pub async fn open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_MAX)
            .foreign_keys(true)
            .pragma("temp_store", "memory")
            .pragma("wal_autocheckpoint", LOG_PAGES_MAX);
        let corrupt = |error: &dyn std::fmt::Display| Error::Corrupt {
            path: path.to_owned(),
            reason: error.to_string(),
        };
        let mut writer = SqliteConnection::connect_with(&options).await.map_err(|error| {
            match Error::from(error) {
                Error::Full => Error::Full,
                other => corrupt(&other),
            }
        })?;
        let verdict: String = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_one(&mut writer)
            .await
            .map_err(|error| corrupt(&error))?;
        if verdict != "ok" {
            return Err(corrupt(&verdict));
        }
        migrator().run(&mut writer).await?;
        let readers = link::Readers::new(options, READERS_MAX);
        Ok(Self { writer: link::Writer::new(writer), readers, hints: Hints::default() })
    }

    /// Starts a transaction that may write. There is one at a time; others wait.
    pub async fn begin(&self) -> Result<Tx> {
        Ok(Tx { inner: self.writer.begin().await?, hints: self.hints.clone(), rung: Vec::new() })
    }

    /// A connection that reads what is committed.
    pub async fn read(&self) -> Result<Read> {
        self.readers.get().await
    }

    /// Wake-ups that go with what is written.
    pub fn hints(&self) -> &Hints {
        &self.hints
    }

    /// Moves what is in the log to the file itself, beside those who write. Call it from time to
    /// time: else a commit every thousand pages does it, and waits for the disk.
    pub async fn checkpoint(&self) -> Result<()> {
        let mut db = self.read().await?;
        sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").execute(&mut *db).await?;
        Ok(())
    }

    /// Closes the file, all written.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}
