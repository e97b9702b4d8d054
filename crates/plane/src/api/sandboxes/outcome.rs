//! How a sandbox ended, as its client reads it.

use model::link::End;
use store::sandboxes::Sandbox;
use wire::client as pb;
use wire::client::generic_result::GenericStatus as Status;

/// Exit codes of what did not end by itself. The client makes 124 of a timeout and 137 of a
/// termination by itself, whatever stands here, and takes the code in all other cases (1.6.4).
const TIMED_OUT: i32 = 124;
const KILLED: i32 = 137;
const FAILED: i32 = 1;

/// How it ended; nothing while it lives.
pub(crate) fn result(sandbox: &Sandbox) -> Option<pb::GenericResult> {
    let end = sandbox.end.as_ref()?;
    let (status, exitcode, says_why) = match end {
        End::Exit { code: 0 } => (Status::Success, 0, false),
        End::Exit { code } => (Status::Failure, *code, false),
        End::Signal { signal } => (Status::Failure, 128 + signal, true),
        End::OutOfMemory { .. } => (Status::KernelOomKill, KILLED, true),
        End::NotStarted { .. } => (Status::InitFailure, FAILED, true),
        End::Stopped => (Status::Terminated, KILLED, true),
        End::TimedOut => (Status::Timeout, TIMED_OUT, true),
        End::Idle => (Status::IdleTimeout, TIMED_OUT, true),
        End::Lost => (Status::InternalFailure, FAILED, true),
    };
    let exception = match says_why {
        true => format!("sandbox {} ended: {end}", sandbox.id),
        false => String::new(),
    };
    let status = status as i32;
    Some(pb::GenericResult { status, exitcode, exception, ..pb::GenericResult::default() })
}

/// What a handle must know.
pub(super) fn metadata(sandbox: &Sandbox) -> pb::SandboxHandleMetadata {
    pb::SandboxHandleMetadata { result: result(sandbox), app_id: sandbox.app.to_string() }
}
