//! What worker and supervisor say to each other beside the client's own requests: JSON over HTTP/2
//! on the supervisor's socket.

use std::path::PathBuf;

use jail::{Plan, Process};
use model::link::End;
use model::sandbox::Probe;
use model::{Millis, TaskId, Time};
use serde::{Deserialize, Serialize};

/// Waits until it can build a container in little time: nothing to nothing.
pub(crate) const STAND_BY: &str = "/control/stand-by";
/// Builds the container: [`Assignment`] to [`Built`].
pub(crate) const PREPARE: &str = "/control/prepare";
/// Runs its program: nothing to nothing.
pub(crate) const START: &str = "/control/start";
/// Asks how it stands: nothing to [`State`].
pub(crate) const STATE: &str = "/control/state";
/// Ends it and waits until it is gone: [`End`] to [`Ending`].
pub(crate) const END: &str = "/control/end";
/// Waits until it is gone: nothing to [`Ending`].
pub(crate) const ENDED: &str = "/control/ended";
/// Says how many connections to its ports are open: a number to nothing.
pub(crate) const CONNECTIONS: &str = "/control/connections";
/// Writes to the standard input of its program: [`Piece`] to nothing.
pub(crate) const INPUT: &str = "/control/input";
/// Writes to that of a program that was started in it: [`ExecPiece`] to nothing.
pub(crate) const EXEC_INPUT: &str = "/control/exec-input";
/// Says how far the standard output of a program was read: its id to [`Taken`].
pub(crate) const TAKEN: &str = "/control/taken";
/// Stops all its processes, as long as the answer is read: nothing to a word, and another when they
/// go on by themselves.
pub(crate) const FREEZE: &str = "/control/freeze";

/// The file of an [`Ending`] in the sandbox's folder.
pub(crate) const ENDING_FILE: &str = "ending.json";
/// The socket in that folder.
pub(crate) const SOCKET_FILE: &str = "sock";
/// The spools of the sandbox's own program in that folder.
pub(crate) const STDOUT_FILE: &str = "stdout";
/// See [`STDOUT_FILE`].
pub(crate) const STDERR_FILE: &str = "stderr";

/// The container that a supervisor is to build, and how long it lives.
#[derive(Serialize, Deserialize)]
pub(crate) struct Assignment {
    /// The container's id.
    pub(crate) task: TaskId,
    /// The sandbox's folder.
    pub(crate) folder: PathBuf,
    /// The container, with the sandbox's program, if that has no terminal.
    pub(crate) plan: Plan,
    /// The sandbox's program, if it has a terminal.
    pub(crate) on_terminal: Option<OnTerminal>,
    /// The environment of programs that are started in it.
    pub(crate) env: Vec<(String, String)>,
    /// Their folder.
    pub(crate) cwd: String,
    /// When it ends at the latest.
    pub(crate) deadline: Time,
    /// It ends after this long without an exec, a write to its stdin or a connection.
    pub(crate) idle_timeout_ms: Option<Millis>,
    /// What says that it is ready.
    pub(crate) probe: Option<Probe>,
}

/// A program on a terminal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OnTerminal {
    /// The program.
    pub(crate) process: Process,
    /// Height in characters.
    pub(crate) rows: u16,
    /// Width in characters.
    pub(crate) columns: u16,
}

/// A piece of standard input, behind those before.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Piece {
    /// The same number with the same bytes again is the same piece.
    pub(crate) index: u32,
    /// The bytes.
    pub(crate) data: bytes::Bytes,
    /// Nothing follows.
    pub(crate) eof: bool,
}

/// The same for a program that was started in the sandbox.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ExecPiece {
    /// Its id.
    pub(crate) exec: String,
    /// What is written.
    pub(crate) piece: Piece,
}

/// How far the standard output of a program was read.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Taken {
    /// Bytes that the furthest reader has taken.
    pub(crate) bytes: u64,
    /// How many read now.
    pub(crate) readers: usize,
}

/// A container whose walls are up.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Built {
    /// Its first process.
    pub(crate) pid: i32,
}

/// How a supervisor stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum State {
    /// Its container does not run.
    Unstarted,
    /// Its container runs.
    Running {
        /// Which.
        task: TaskId,
        /// Its first process.
        pid: i32,
    },
    /// Its container is gone.
    Ended(Ending),
}

/// How a sandbox ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ending {
    /// How.
    pub(crate) end: End,
    /// When.
    pub(crate) at: Time,
    /// Where its standard output, as far as it is kept, begins.
    pub(crate) stdout_start: u64,
    /// Where its standard error, as far as it is kept, begins.
    pub(crate) stderr_start: u64,
}
