//! Connections to the file: one that writes, lent to one transaction at a time, and some that
//! read.
//!
//! sqlx' own pool asks a connection whether it lives before it lends it and again when it comes
//! back; with SQLite each question is a trip to another thread and back, which costs more than
//! most statements. A connection to a file of the same process does not get lost.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

use crate::{Error, Result};

/// The connection that writes.
#[derive(Debug, Clone)]
pub(crate) struct Writer(Arc<tokio::sync::Mutex<Desk>>);

/// Who has the desk may write.
#[derive(Debug)]
pub(crate) struct Desk {
    /// Nothing once the store is closed.
    connection: Option<SqliteConnection>,
    /// A transaction was begun, and it is not known to have ended.
    begun: bool,
}

/// A transaction that may write. One that is dropped is rolled back before the next begins.
#[derive(Debug)]
pub(crate) struct Writing(OwnedMutexGuard<Desk>);

impl Writer {
    pub(crate) fn new(connection: SqliteConnection) -> Self {
        let desk = Desk { connection: Some(connection), begun: false };
        Self(Arc::new(tokio::sync::Mutex::new(desk)))
    }

    pub(crate) async fn begin(&self) -> Result<Writing> {
        let mut desk = self.0.clone().lock_owned().await;
        let begun = std::mem::replace(&mut desk.begun, true);
        let db = desk.connection.as_mut().ok_or(Error::Closed)?;
        if begun {
            // This fails where the commit had been done, and only its answer was not waited for.
            // Had it failed in another way, no transaction could begin now.
            let _ = sqlx::query("ROLLBACK").execute(&mut *db).await;
        }
        sqlx::query("BEGIN IMMEDIATE").execute(db).await?;
        Ok(Writing(desk))
    }

    pub(crate) async fn close(&self) {
        let connection = self.0.lock().await.connection.take();
        close(connection).await;
    }
}

impl Writing {
    pub(crate) async fn commit(mut self) -> Result<()> {
        let db = self.0.connection.as_mut().ok_or(Error::Closed)?;
        sqlx::query("COMMIT").execute(db).await?;
        self.0.begun = false;
        Ok(())
    }
}

impl Deref for Writing {
    type Target = SqliteConnection;
    fn deref(&self) -> &SqliteConnection {
        self.0.connection.as_ref().unwrap_or_else(|| unreachable!("closing waits for the desk"))
    }
}

impl DerefMut for Writing {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.0.connection.as_mut().unwrap_or_else(|| unreachable!("closing waits for the desk"))
    }
}

/// The connections that read; each is opened when it is first needed.
#[derive(Debug, Clone)]
pub(crate) struct Readers {
    options: Arc<SqliteConnectOptions>,
    free: Arc<Mutex<Vec<SqliteConnection>>>,
    permits: Arc<Semaphore>,
    most: u32,
}

/// A connection that reads what is committed. It goes back when it is dropped.
#[derive(Debug)]
pub struct Read {
    connection: Option<SqliteConnection>,
    free: Arc<Mutex<Vec<SqliteConnection>>>,
    _permit: OwnedSemaphorePermit,
}

fn lock(free: &Mutex<Vec<SqliteConnection>>) -> MutexGuard<'_, Vec<SqliteConnection>> {
    free.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Readers {
    pub(crate) fn new(options: SqliteConnectOptions, most: u32) -> Self {
        let permits = Arc::new(Semaphore::new(most as usize));
        Self { options: Arc::new(options), free: Arc::default(), permits, most }
    }

    pub(crate) async fn get(&self) -> Result<Read> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let free = lock(&self.free).pop();
        let connection = match free {
            Some(connection) => connection,
            None => SqliteConnection::connect_with(&self.options).await?,
        };
        Ok(Read { connection: Some(connection), free: self.free.clone(), _permit: permit })
    }

    /// Waits for all that read, then closes.
    pub(crate) async fn close(&self) {
        let all = self.permits.acquire_many(self.most).await;
        self.permits.close();
        drop(all);
        let free = std::mem::take(&mut *lock(&self.free));
        for connection in free {
            close(Some(connection)).await;
        }
    }
}

async fn close(connection: Option<SqliteConnection>) {
    if let Some(connection) = connection
        && let Err(error) = connection.close().await
    {
        tracing::warn!(%error, "a connection to the database was not closed in good order");
    }
}

impl Deref for Read {
    type Target = SqliteConnection;
    fn deref(&self) -> &SqliteConnection {
        self.connection.as_ref().unwrap_or_else(|| unreachable!("it is taken by drop alone"))
    }
}

impl DerefMut for Read {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().unwrap_or_else(|| unreachable!("it is taken by drop alone"))
    }
}

impl Drop for Read {
    fn drop(&mut self) {
        // Before the permit goes, so that who gets it finds the connection.
        lock(&self.free).extend(self.connection.take());
    }
}
