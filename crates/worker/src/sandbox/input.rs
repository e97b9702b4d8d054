//! Standard input of a sandbox that comes through the control plane, as clients of before the
//! command router send it.

use bytes::Bytes;
use model::TaskId;

use super::Found;
use crate::Worker;
use crate::supervisor::words::{INPUT, Piece};

/// Why a piece of standard input was not written: told to whoever wrote it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unwritten(String);

impl Worker {
    /// Writes to the standard input of a sandbox's own program, behind what was written before.
    /// The same number with the same bytes, right after it, is written once.
    ///
    /// # Errors
    /// When nobody reads it any more.
    pub async fn write_stdin(
        &self,
        task: &TaskId,
        index: u32,
        data: Bytes,
        eof: bool,
    ) -> Result<(), Unwritten> {
        let Some(Found::Running(sandbox)) = self.sandboxes.find(task) else {
            return Err(Unwritten("the sandbox does not run: nothing reads its stdin".into()));
        };
        let written = sandbox.link.wait_for(INPUT, &Piece { index, data, eof }).await;
        written.map_err(|error| Unwritten(error.to_string()))
    }
}
