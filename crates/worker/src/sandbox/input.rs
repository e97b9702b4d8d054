//! Programs' streams as the control plane reaches them, for clients of before the command router.

use std::sync::Arc;

use bytes::Bytes;
use model::TaskId;

use super::link::Error;
use super::{ENDED, Found, STARTING, Sandbox};
use crate::Worker;
use crate::supervisor::words::{EXEC_INPUT, ExecPiece, INPUT, Piece, TAKEN, Taken};

/// Why something was not done with a stream: told to whoever asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreached {
    /// It cannot be done any more.
    #[error("{0}")]
    Closed(String),
    /// It may be done when the same is asked again.
    #[error("{0}")]
    Later(String),
}

impl From<Error> for Unreached {
    fn from(error: Error) -> Self {
        match error {
            // Its end is on its way.
            Error::Gone(_) => Self::Closed(ENDED.into()),
            Error::Refused(text) => Self::Closed(text),
            error @ (Error::Lost(_) | Error::Late(_) | Error::Answer(_)) => {
                Self::Later(crate::task::chain(&error))
            }
        }
    }
}

/// The sandbox whose streams are reached.
fn running(found: Option<Found>) -> Result<Arc<Sandbox>, Unreached> {
    match found {
        Some(Found::Running(sandbox)) => Ok(sandbox),
        Some(Found::Starting) => Err(Unreached::Later(STARTING.into())),
        Some(Found::Ended(_)) | None => Err(Unreached::Closed(ENDED.into())),
    }
}

impl Worker {
    /// Writes to the standard input of a sandbox's own program, or of `exec`, behind what was
    /// written before. The same number with the same bytes, right after it, is written once.
    ///
    /// # Errors
    /// When nobody reads it any more, or its supervisor is not reached now.
    pub async fn write_stdin(
        &self,
        task: &TaskId,
        exec: Option<String>,
        index: u32,
        data: Bytes,
        eof: bool,
    ) -> Result<(), Unreached> {
        let piece = Piece { index, data, eof };
        let sandbox = running(self.sandboxes.find(task))?;
        let written = match exec {
            None => sandbox.link.wait_for(INPUT, &piece).await,
            Some(exec) => sandbox.link.wait_for(EXEC_INPUT, &ExecPiece { exec, piece }).await,
        };
        written.map_err(Unreached::from)
    }

    /// How far the standard output of a program in a sandbox was read, in bytes, and how many read
    /// it now.
    ///
    /// # Errors
    /// If there is no such program, or its supervisor is not reached now.
    pub async fn stdout_taken(&self, task: &TaskId, exec: &str) -> Result<(u64, usize), Unreached> {
        let sandbox = running(self.sandboxes.find(task))?;
        let taken = sandbox.link.ask::<Taken>(TAKEN, &exec).await?;
        Ok((taken.bytes, taken.readers))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_passes_is_asked_again_and_an_end_is_not() {
        let is_later = |why: Unreached| matches!(why, Unreached::Later(_));
        assert!(is_later(running(Some(Found::Starting)).unwrap_err()));
        assert!(!is_later(running(None).unwrap_err()));
        assert!(is_later(Error::Late(Duration::from_secs(1)).into()));
        assert!(is_later(Error::Answer("it broke off".into()).into()));
        assert!(!is_later(Error::Gone(io::ErrorKind::ConnectionRefused.into()).into()));
        let refused = Unreached::from(Error::Refused("stdin is closed".into()));
        assert_eq!(refused, Unreached::Closed("stdin is closed".into()));
    }
}
