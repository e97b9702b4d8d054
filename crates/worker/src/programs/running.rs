//! A program that was started in a container, also after its end: its streams, and how it ended.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jail::Exit;
use tokio::sync::watch;
use tonic::Status;

use super::rules::Place;
use super::spool::Spool;
use super::stdin::Stdin;
use crate::limits::END_BEHIND_OUTPUT_MAX;

/// A program.
#[derive(Debug)]
pub(crate) struct Running {
    /// None once they are not kept any more.
    streams: Mutex<Option<Streams>>,
    /// Where it is written to.
    pub(crate) stdin: Stdin,
    exit: watch::Sender<Option<Exit>>,
}

/// What is kept of a program's output: nothing of a stream that goes nowhere.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    /// Its standard output.
    pub(crate) stdout: Option<Arc<Spool>>,
    /// Its standard error.
    pub(crate) stderr: Option<Arc<Spool>>,
    /// Its place among the programs of all containers, where there are so many.
    pub(crate) _place: Option<Place>,
}

impl Running {
    /// A program that runs.
    pub(crate) fn new(streams: Streams, stdin: Stdin) -> Self {
        Self { streams: Mutex::new(Some(streams)), stdin, exit: watch::Sender::new(None) }
    }

    /// It has ended.
    pub(crate) fn end(&self, exit: Exit) {
        self.exit.send_replace(Some(exit));
        // Whoever is told that stdin is closed may ask at once how the program ended.
        self.stdin.end();
    }

    fn streams(&self) -> MutexGuard<'_, Option<Streams>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One of its streams; none if it goes nowhere.
    ///
    /// # Errors
    /// NOT_FOUND once it is not kept any more.
    pub(crate) fn output(&self, is_stderr: bool) -> Result<Option<Arc<Spool>>, Status> {
        let streams = self.streams();
        let Some(streams) = streams.as_ref() else {
            let text = "exec_id: the output of this program, which has ended, is not kept any more";
            return Err(Status::not_found(text));
        };
        Ok(if is_stderr { streams.stderr.clone() } else { streams.stdout.clone() })
    }

    /// Its streams, as far as they are kept.
    pub(crate) fn spools(&self) -> Vec<Arc<Spool>> {
        let streams = self.streams();
        let both = streams.iter().flat_map(|streams| [&streams.stdout, &streams.stderr]);
        both.flatten().cloned().collect()
    }

    /// Whether its output is kept.
    pub(crate) fn has_output(&self) -> bool {
        self.streams().is_some()
    }

    /// Keeps its output no longer; who reads it now reads on.
    pub(crate) fn forget_output(&self) {
        *self.streams() = None;
    }

    /// Whether all of its output was read, and no more comes.
    pub(crate) fn is_read(&self) -> bool {
        self.spools().iter().all(|spool| {
            let marks = spool.marks();
            marks.finished && marks.readers == 0 && marks.taken == marks.end
        })
    }

    /// How it ended, if it has.
    pub(crate) fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits a moment for those that read its output, after its end.
    pub(crate) async fn output_read(&self) {
        let all = async {
            for spool in self.spools() {
                spool.read_out().await;
            }
        };
        let _ = tokio::time::timeout(END_BEHIND_OUTPUT_MAX, all).await;
    }

    /// Waits for its end for a while.
    pub(crate) async fn ended_within(&self, time: Duration) -> Option<Exit> {
        let mut exit = self.exit.subscribe();
        let ended = tokio::time::timeout(time, exit.wait_for(Option::is_some)).await;
        ended.ok()?.ok().and_then(|exit| *exit)
    }
}
