//! Programs' streams as the control plane reaches them, for clients of before the command router.

use std::sync::Arc;

use bytes::Bytes;
use model::TaskId;

use super::{Found, Sandbox};
use crate::Worker;
use crate::supervisor::words::{EXEC_INPUT, ExecPiece, INPUT, Piece, TAKEN, Taken};

/// Why something was not done with a stream: told to whoever asked.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreached(String);

impl Worker {
    fn streams_of(&self, task: &TaskId) -> Result<Arc<Sandbox>, Unreached> {
        match self.sandboxes.find(task) {
            Some(Found::Running(sandbox)) => Ok(sandbox),
            _ => Err(Unreached("the sandbox does not run: its streams are closed".into())),
        }
    }

    /// Writes to the standard input of a sandbox's own program, or of `exec`, behind what was
    /// written before. The same number with the same bytes, right after it, is written once.
    ///
    /// # Errors
    /// When nobody reads it any more.
    pub async fn write_stdin(
        &self,
        task: &TaskId,
        exec: Option<String>,
        index: u32,
        data: Bytes,
        eof: bool,
    ) -> Result<(), Unreached> {
        let piece = Piece { index, data, eof };
        let sandbox = self.streams_of(task)?;
        let written = match exec {
            None => sandbox.link.wait_for(INPUT, &piece).await,
            Some(exec) => sandbox.link.wait_for(EXEC_INPUT, &ExecPiece { exec, piece }).await,
        };
        written.map_err(|error| Unreached(error.to_string()))
    }

    /// How far the standard output of a program in a sandbox was read, in bytes, and how many read
    /// it now.
    ///
    /// # Errors
    /// If there is no such program.
    pub async fn stdout_taken(&self, task: &TaskId, exec: &str) -> Result<(u64, usize), Unreached> {
        let taken = self.streams_of(task)?.link.ask::<Taken>(TAKEN, &exec).await;
        let taken = taken.map_err(|error| Unreached(error.to_string()))?;
        Ok((taken.bytes, taken.readers))
    }
}
