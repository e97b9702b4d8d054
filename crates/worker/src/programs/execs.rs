//! The programs that clients start in a container, by the ids that clients give them.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use jail::{Exec, ExecIo, Exit, Process, Stdio};
use serde::Serialize;
use sha2::{Digest, Sha256};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::Status;

use super::container::Container;
use super::pump::{self, Stage, watched, watched_only};
use super::rules::{Place, Rules};
use super::running::{Running, Streams};
use super::spool::Spool;
use super::stdin::Stdin;
use crate::limits::{EXEC_END_KEPT_MAX, EXEC_READ_KEPT_MAX, EXEC_UNREAD_KEPT_MAX};

/// What is to be started, checked.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Program {
    /// As the container's root.
    pub(crate) process: Process,
    /// Whether its standard output is kept.
    pub(crate) stdout: bool,
    /// Where its standard error goes.
    pub(crate) stderr: Stderr,
    /// Rows and columns of its terminal, if it has one.
    pub(crate) terminal: Option<(u16, u16)>,
    /// When all of it is killed.
    pub(crate) timeout: Option<Duration>,
}

impl Program {
    /// What tells it from others.
    fn hash(&self) -> [u8; 32] {
        let text = serde_json::to_vec(self).expect("a program is plain data");
        Sha256::digest(text).into()
    }
}

/// Where a program's standard error goes.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) enum Stderr {
    /// Nowhere.
    Null,
    /// It is kept.
    Kept,
    /// Where its standard output goes.
    Stdout,
}

type Outcome = Option<Result<Arc<Running>, Status>>;

#[derive(Debug)]
struct Entry {
    /// Of the program as it was asked for: arguments and variables would be held for hours.
    hash: [u8; 32],
    outcome: watch::Receiver<Outcome>,
    /// When it ended, and whether its output was read to its end then.
    ended: Option<(Instant, bool)>,
    /// Alive as long as something is read from what it has started.
    pumping: Weak<()>,
}

/// All programs of a container.
#[derive(Debug)]
pub(crate) struct Execs {
    rules: Rules,
    entries: Mutex<HashMap<String, Entry>>,
}

impl Execs {
    /// None yet.
    pub(crate) fn new(rules: Rules) -> Self {
        Self { rules, entries: Mutex::default() }
    }

    /// How many it takes.
    pub(crate) fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Whether none is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a program, or finds that it was started before.
    ///
    /// # Errors
    /// Why it does not run; told to the client.
    pub(crate) async fn start(
        &self,
        container: &Arc<Container>,
        id: &str,
        program: Program,
    ) -> Result<(), Status> {
        let mut outcome = self.begin(container, id, program)?;
        let outcome = outcome.wait_for(Option::is_some).await;
        let outcome = outcome.map_err(|_| Status::internal("the start was given up"))?.clone();
        match outcome {
            Some(Ok(_)) => Ok(()),
            Some(Err(status)) => Err(status),
            None => Err(Status::internal("the start was given up")),
        }
    }

    /// The start goes on if the client's connection is lost: it will ask again.
    fn begin(
        &self,
        container: &Arc<Container>,
        id: &str,
        program: Program,
    ) -> Result<watch::Receiver<Outcome>, Status> {
        let hash = program.hash();
        let mut entries = self.lock();
        if let Some(entry) = entries.get(id) {
            if entry.hash == hash {
                return Ok(entry.outcome.clone());
            }
            return Err(Status::already_exists(format!(
                "exec_id: another program was started as `{id}`"
            )));
        }
        let Rules { noun, running_max, .. } = self.rules;
        forget(&mut entries, &self.rules, Instant::now());
        // In the server's process also those count that left background processes.
        let counts =
            |entry: &Entry| entry.ended.is_none() || self.rules.places.is_some() && entry.pumps();
        if entries.values().filter(|entry| counts(entry)).count() >= running_max {
            return Err(Status::resource_exhausted(format!(
                "{running_max} programs run in this {noun}: wait until some have ended"
            )));
        }
        let place = self.rules.place()?;
        let (tell, outcome) = watch::channel(None);
        let pumping = Arc::new(());
        let pumps = Arc::downgrade(&pumping);
        let entry = Entry { hash, outcome: outcome.clone(), ended: None, pumping: pumps };
        entries.insert(id.to_owned(), entry);
        let (container, id) = (container.clone(), id.to_owned());
        let held = (pumping, place);
        tokio::spawn(async move { run(container, id, program, held, tell).await });
        Ok(outcome)
    }

    /// A program that was started.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub(crate) async fn find(&self, id: &str) -> Result<Arc<Running>, Status> {
        let unknown = || {
            let noun = self.rules.noun;
            Status::not_found(format!("exec_id: no program was started as `{id}` in this {noun}"))
        };
        let outcome = self.lock().get(id).map(|entry| entry.outcome.clone());
        let mut outcome = outcome.ok_or_else(unknown)?;
        match outcome.wait_for(Option::is_some).await.map(|outcome| outcome.clone()) {
            Ok(Some(outcome)) => outcome,
            _ => Err(unknown()),
        }
    }

    fn mark_ended(&self, id: &str) {
        if let Some(entry) = self.lock().get_mut(id) {
            entry.ended = Some((Instant::now(), false));
        }
    }

    /// Has an ended program's output forgotten in time where others wait for its place; elsewhere
    /// that is done when the next one is started.
    async fn forgotten(&self, container: &Container, id: &str) {
        let has_place = || self.lock().get(id).is_some_and(Entry::has_output);
        while self.rules.places.is_some() && has_place() {
            tokio::select! {
                () = tokio::time::sleep(EXEC_READ_KEPT_MAX) => {
                    forget(&mut self.lock(), &self.rules, Instant::now());
                }
                () = container.gone() => return,
            }
        }
    }

    /// Waits until nobody reads any output.
    pub(crate) async fn unread(&self) {
        let spools: Vec<_> = {
            let entries = self.lock();
            let outcomes = entries.values().map(|entry| entry.outcome.borrow().clone());
            let running = outcomes.filter_map(|outcome| outcome?.ok());
            running.flat_map(|one| one.spools()).collect()
        };
        for spool in spools {
            let _ = spool.watch().wait_for(|marks| marks.readers == 0).await;
        }
    }
}

/// Forgets the output of programs that ended long ago, later also how they ended; and the oldest of
/// too many.
fn forget(entries: &mut HashMap<String, Entry>, rules: &Rules, now: Instant) {
    for entry in entries.values_mut() {
        if let Some((at, false)) = entry.ended
            && entry.is_read()
        {
            entry.ended = Some((at.max(now), true));
        }
        let kept = |(at, is_read): (Instant, bool)| {
            now - at < if is_read { EXEC_READ_KEPT_MAX } else { EXEC_UNREAD_KEPT_MAX }
        };
        if !entry.ended.is_none_or(kept) {
            entry.forget_output();
        }
    }
    // Of those that never ran there is no more to tell than that.
    entries.retain(|_, entry| match entry.ended {
        _ if entry.pumps() => true,
        Some((at, _)) if entry.running().is_some() => now - at < EXEC_END_KEPT_MAX,
        Some((at, _)) => now - at < EXEC_READ_KEPT_MAX,
        None => true,
    });
    for id in oldest(entries, rules.ended_max, Entry::has_output) {
        entries[&id].forget_output();
    }
    for id in oldest(entries, rules.known_max, |entry| !entry.pumps()) {
        entries.remove(&id);
    }
}

/// The ended ones of a kind that are more than `most`: those first of which less is lost.
fn oldest(
    entries: &HashMap<String, Entry>,
    most: usize,
    kind: impl Fn(&Entry) -> bool,
) -> Vec<String> {
    let ended = entries.iter().filter(|(_, entry)| kind(entry));
    let ended = ended.filter_map(|(id, entry)| Some((entry, entry.ended?, id)));
    let mut ended: Vec<_> =
        ended.map(|(entry, (at, is_read), id)| (entry.has_output(), !is_read, at, id)).collect();
    let more = ended.len().saturating_sub(most);
    if more > 0 {
        ended.sort();
    }
    ended.into_iter().take(more).map(|(_, _, _, id)| id.clone()).collect()
}

impl Entry {
    fn pumps(&self) -> bool {
        self.pumping.strong_count() > 0
    }

    fn running(&self) -> Option<Arc<Running>> {
        self.outcome.borrow().as_ref()?.as_ref().ok().cloned()
    }

    fn is_read(&self) -> bool {
        self.running().is_none_or(|running| running.is_read())
    }

    fn has_output(&self) -> bool {
        self.running().is_some_and(|running| running.has_output())
    }

    fn forget_output(&self) {
        if let Some(running) = self.running() {
            running.forget_output();
        }
    }
}

/// What is read from a program, and into which spools.
type Outputs = Vec<(Arc<AsyncFd<OwnedFd>>, Arc<Spool>)>;

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(format!("the streams of the program: {error}"))
}

/// A pipe: its reader's side and its writer's.
pub(crate) fn pipe() -> Result<(OwnedFd, OwnedFd), Status> {
    rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(failed)
}

fn null() -> Result<OwnedFd, Status> {
    let file = std::fs::File::options().write(true).open("/dev/null");
    file.map(OwnedFd::from).map_err(failed)
}

/// Starts a program and stays with it until its end, and that of all that hold its streams.
async fn run(
    container: Arc<Container>,
    id: String,
    program: Program,
    (pumping, place): (Arc<()>, Option<Place>),
    tell: watch::Sender<Outcome>,
) {
    let busy = container.activity().busy();
    let timeout = program.timeout;
    let (exec, running, outputs) = match start(&container, program, place.clone()).await {
        Ok(started) => started,
        Err(status) => {
            tell.send_replace(Some(Err(status)));
            container.execs().mark_ended(&id);
            return;
        }
    };
    let (stage, staged) = watch::channel(Stage::Running);
    let mut pumps = JoinSet::new();
    for (source, spool) in outputs {
        pumps.spawn(pump::run(source, spool, staged.clone()));
    }
    let running = Arc::new(running);
    tell.send_replace(Some(Ok(running.clone())));
    let exit = until_end(&exec, timeout).await;
    // What the program has started lives on.
    drop(exec);
    stage.send_replace(Stage::Ended);
    running.end(exit);
    container.execs().mark_ended(&id);
    drop((busy, running));
    let pumped = async {
        let all = async { while pumps.join_next().await.is_some() {} };
        tokio::pin!(all);
        tokio::select! {
            () = &mut all => {}
            () = container.gone() => {
                stage.send_replace(Stage::Gone);
                all.await;
            }
        }
        drop((pumping, place));
    };
    tokio::join!(pumped, container.execs().forgotten(&container, &id));
}

async fn start(
    container: &Arc<Container>,
    program: Program,
    place: Option<Place>,
) -> Result<(Exec, Running, Outputs), Status> {
    if let Some((rows, columns)) = program.terminal {
        let exec = container.exec(program.process, ExecIo::Terminal { rows, columns }).await?;
        let terminal = exec.terminal().ok_or_else(|| failed("the terminal is missing"))?;
        let terminal = terminal.try_clone_to_owned().map_err(failed)?;
        let both = Interest::READABLE | Interest::WRITABLE;
        let terminal = Arc::new(watched(terminal, both).map_err(failed)?);
        let stdout = container.spool().map_err(failed)?;
        // What it writes to standard error comes out of the terminal, too.
        let stderr = container.spool().map_err(failed)?;
        stderr.finish();
        let stdin = Stdin::new(terminal.clone(), true);
        let outputs = vec![(terminal, stdout.clone())];
        let streams = Streams { stdout: Some(stdout), stderr: Some(stderr), _place: place };
        return Ok((exec, Running::new(streams, stdin), outputs));
    }
    let (stdio, running, outputs) = streams(container, &program, place)?;
    let exec = container.exec(program.process, ExecIo::Streams(stdio)).await?;
    Ok((exec, running, outputs))
}

/// What a program is given, and what we keep of it.
fn streams(
    container: &Container,
    program: &Program,
    place: Option<Place>,
) -> Result<(Stdio, Running, Outputs), Status> {
    let mut outputs = vec![];
    let mut kept = || -> Result<_, Status> {
        let spool = container.spool().map_err(failed)?;
        let (ours, theirs) = pipe()?;
        let ours = Arc::new(watched(ours, Interest::READABLE).map_err(failed)?);
        outputs.push((ours, spool.clone()));
        Ok((theirs, Some(spool)))
    };
    let (theirs, stdout) = if program.stdout { kept()? } else { (null()?, None) };
    let (their_stderr, stderr) = match program.stderr {
        Stderr::Null => (null()?, None),
        Stderr::Kept => kept()?,
        Stderr::Stdout => (theirs.try_clone().map_err(failed)?, None),
    };
    let (their_stdin, stdin) = pipe()?;
    let stdin = Arc::new(watched(stdin, Interest::WRITABLE).map_err(failed)?);
    let running = Running::new(Streams { stdout, stderr, _place: place }, Stdin::new(stdin, false));
    Ok((Stdio { stdin: their_stdin, stdout: theirs, stderr: their_stderr }, running, outputs))
}

/// Waits for the program's end; kills all of it when its time is over.
pub(crate) async fn until_end(exec: &Exec, timeout: Option<Duration>) -> Exit {
    let ended = exec.ended().as_fd().try_clone_to_owned();
    let watched = ended.and_then(|ended| watched_only(ended, Interest::READABLE));
    let watched = match watched {
        Ok(watched) => watched,
        Err(error) => {
            tracing::error!(%error, "a program cannot be watched: it is ended");
            let _ = exec.kill();
            return Exit::Signal(libc::SIGKILL);
        }
    };
    let mut left = timeout.map(|timeout| Instant::now() + timeout);
    loop {
        let late = async {
            match left {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ready = watched.readable() => match exec.try_wait() {
                Ok(Some(exit)) => return exit,
                Ok(None) => {
                    if let Ok(mut ready) = ready {
                        ready.clear_ready();
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "a program's end cannot be read");
                    return Exit::Signal(libc::SIGKILL);
                }
            },
            () = late => {
                if let Err(error) = exec.kill() {
                    tracing::error!(%error, "a program whose time is over cannot be ended");
                }
                left = None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::EXECS_ENDED_MAX;

    /// A program without output.
    fn entry(ended: Option<Instant>) -> Entry {
        let (_, theirs) = pipe().unwrap();
        let stdin = Arc::new(watched(theirs, Interest::WRITABLE).unwrap());
        let running = Running::new(Streams::default(), Stdin::new(stdin, false));
        running.end(Exit::Code(7));
        let (_, outcome) = watch::channel(Some(Ok(Arc::new(running))));
        Entry { hash: [0; 32], outcome, ended: ended.map(|at| (at, true)), pumping: Weak::new() }
    }

    #[tokio::test]
    async fn how_one_ended_is_known_for_longer_than_its_output_is_kept() {
        let begun = Instant::now();
        let mut entries = HashMap::from([
            ("runs".to_owned(), entry(None)),
            ("first".to_owned(), entry(Some(begun))),
            ("later".to_owned(), entry(Some(begun + EXEC_READ_KEPT_MAX))),
        ]);
        let check = |entries: &HashMap<String, Entry>, id: &str, has_output| {
            let running = entries[id].running().unwrap();
            assert_eq!(running.output(false).is_ok(), has_output, "{id}");
            assert_eq!(running.exit(), Some(Exit::Code(7)));
        };
        forget(&mut entries, &Rules::of_sandbox(), begun + EXEC_READ_KEPT_MAX);
        for (id, has_output) in [("runs", true), ("first", false), ("later", true)] {
            check(&entries, id, has_output);
        }
        forget(&mut entries, &Rules::of_sandbox(), begun + EXEC_END_KEPT_MAX);
        check(&entries, "runs", true);
        check(&entries, "later", false);
        assert!(!entries.contains_key("first"));
    }

    #[tokio::test]
    async fn the_oldest_of_too_many_are_forgotten() {
        let begun = Instant::now();
        let numbered = |n: u32| {
            let ended = begun + Duration::from_millis(n.into());
            (n.to_string(), entry(Some(ended)))
        };
        let count = u32::try_from(EXECS_ENDED_MAX).unwrap() + 2;
        let mut entries: HashMap<_, _> = (0..count).map(numbered).collect();
        forget(&mut entries, &Rules::of_sandbox(), begun + Duration::from_secs(60));
        assert_eq!(entries.len(), count as usize);
        let kept = ["0", "1", "2"].map(|id| entries[id].has_output());
        assert_eq!(kept, [false, false, true]);
    }
}
