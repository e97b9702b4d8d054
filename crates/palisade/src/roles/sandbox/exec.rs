//! `palisade sandbox exec`: a program in a sandbox, with this command's streams.

use std::io::{IsTerminal, Read};
use std::process::ExitCode;

use anyhow::{Result, bail};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::sync::mpsc;
use tonic::Code;
use wire::client as pb;
use wire::router as rpb;
use wire::rpc::router as rpc;

use super::print;
use crate::calls::{Calls, refused};
use crate::config::SandboxExec;

/// Bytes of standard input that are sent at a time.
const INPUT_BYTES: usize = 64 << 10;

/// Such pieces that wait to be sent.
const PIECES_MAX: usize = 4;

/// A terminal whose keys go to the program as they are pressed, until it is dropped.
struct Raw(Termios);

impl Raw {
    fn set() -> Result<Self> {
        let usual = tcgetattr(std::io::stdin())?;
        let mut raw = usual.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(usual))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Runs the program; returns its exit code.
pub(super) async fn run(calls: &Calls, sandbox: &str, wanted: SandboxExec) -> Result<ExitCode> {
    let (router, task_id) = calls.router(sandbox).await?;
    let exec_id = hex::encode(rand::random::<[u8; 16]>());
    let has_terminal = wanted.tty && std::io::stdin().is_terminal();
    let exec = Exec { router, task_id, exec_id };
    exec.start(wanted).await?;
    let raw = match has_terminal {
        true => Some(Raw::set()?),
        false => None,
    };
    let stdin = tokio::spawn(exec.clone().send());
    let (stdout, stderr, code) =
        tokio::join!(exec.output(false), exec.output(true), exec.exit_code());
    drop(raw);
    stdin.abort();
    stdout?;
    stderr?;
    code
}

/// A program that runs.
#[derive(Clone)]
struct Exec {
    /// The command router.
    router: Calls,
    /// The sandbox's container.
    task_id: String,
    exec_id: String,
}

impl Exec {
    async fn start(&self, wanted: SandboxExec) -> Result<()> {
        let pty_info = wanted.tty.then(|| {
            let size = tcgetwinsize(std::io::stdin()).ok();
            pb::PtyInfo {
                enabled: true,
                winsz_rows: size.map_or(0, |size| size.ws_row.into()),
                winsz_cols: size.map_or(0, |size| size.ws_col.into()),
                env_term: std::env::var("TERM").unwrap_or_default(),
                ..pb::PtyInfo::default()
            }
        });
        let request = rpb::TaskExecStartRequest {
            task_id: self.task_id.clone(),
            exec_id: self.exec_id.clone(),
            command_args: wanted.command,
            stdout_config: rpb::TaskExecStdoutConfig::Pipe.into(),
            stderr_config: rpb::TaskExecStderrConfig::Pipe.into(),
            workdir: wanted.workdir,
            pty_info,
            env: wanted.env.into_iter().collect(),
            ..rpb::TaskExecStartRequest::default()
        };
        self.router.call::<rpc::TaskExecStart>(request).await?;
        Ok(())
    }

    /// Prints one of its streams.
    async fn output(&self, is_stderr: bool) -> Result<()> {
        let file_descriptor = match is_stderr {
            true => rpb::TaskExecStdioFileDescriptor::Stderr,
            false => rpb::TaskExecStdioFileDescriptor::Stdout,
        };
        let request = rpb::TaskExecStdioReadRequest {
            task_id: self.task_id.clone(),
            exec_id: self.exec_id.clone(),
            offset: 0,
            file_descriptor: file_descriptor.into(),
        };
        let mut pieces = self.router.stream::<rpc::TaskExecStdioRead>(request).await?;
        while let Some(piece) = pieces.message().await.map_err(|status| refused(&status))? {
            print(is_stderr, &piece.data)?;
        }
        Ok(())
    }

    /// Sends what is typed or piped in, until its end or the program's.
    async fn send(self) {
        let mut pieces = typed();
        let (mut offset, mut eof) = (0, false);
        while !eof {
            let data = pieces.recv().await.unwrap_or_default();
            let count = data.len() as u64;
            eof = data.is_empty();
            let request = rpb::TaskExecStdinWriteRequest {
                task_id: self.task_id.clone(),
                exec_id: self.exec_id.clone(),
                offset,
                data: data.into(),
                eof,
            };
            // The program reads no more: how it ends says the rest.
            if self.router.call::<rpc::TaskExecStdinWrite>(request).await.is_err() {
                return;
            }
            offset += count;
        }
    }

    /// Waits for its end.
    async fn exit_code(&self) -> Result<ExitCode> {
        use rpb::task_exec_wait_response::ExitStatus;
        loop {
            let request = rpb::TaskExecWaitRequest {
                task_id: self.task_id.clone(),
                exec_id: self.exec_id.clone(),
            };
            let ended = match self.router.ask::<rpc::TaskExecWait>(request).await {
                Ok(ended) => ended,
                // It still runs.
                Err(status) if status.code() == Code::DeadlineExceeded => continue,
                Err(status) => return Err(refused(&status)),
            };
            let code = match ended.exit_status {
                Some(ExitStatus::Code(code)) => code,
                Some(ExitStatus::Signal(signal)) => 128 + signal,
                None => bail!("the server does not say how the program ended"),
            };
            return Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX)));
        }
    }
}

/// What is read from standard input; nothing more at its end. The thread that reads ends with this
/// process: it may wait for a line.
fn typed() -> mpsc::Receiver<Vec<u8>> {
    let (tell, pieces) = mpsc::channel(PIECES_MAX);
    std::thread::spawn(move || {
        let mut buffer = vec![0; INPUT_BYTES];
        // What cannot be read is at its end.
        while let Ok(count @ 1..) = std::io::stdin().read(&mut buffer) {
            if tell.blocking_send(buffer[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    pieces
}
