//! The streams of a sandbox's own program.

use std::sync::Arc;

use tonic::Status;

use crate::programs::spool::Spool;
use crate::programs::stdin::Stdin;

/// The streams of the sandbox's own program.
#[derive(Debug)]
pub(crate) struct Own {
    /// What it writes to standard output.
    pub(crate) stdout: Arc<Spool>,
    /// What it writes to standard error.
    pub(crate) stderr: Arc<Spool>,
    /// What it reads; none where there is no program.
    pub(super) stdin: Option<Stdin>,
}

impl Own {
    /// Where its program is written to.
    ///
    /// # Errors
    /// When it has no program.
    pub(crate) fn stdin(&self) -> Result<&Stdin, Status> {
        self.stdin.as_ref().ok_or_else(|| {
            Status::failed_precondition("the sandbox has no program whose stdin could be written")
        })
    }
}
