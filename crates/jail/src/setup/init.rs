//! The container's first process: puts up its walls, starts the program when told, reaps, passes
//! signals on, and ends with the program. When it ends, the kernel ends all that is left.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{DumpableBehavior, WaitOptions, WaitStatus, set_dumpable_behavior, wait};
use rustix::thread::CapabilitySet;

use super::execs::Execs;
use super::mounts::{self, Trees};
use super::program::{self, Streams};
use super::{Error, end};
use crate::message::{self, Inner, News, Order};
use crate::plan::Plan;
use crate::sys::process::fork;
use crate::{caps, seccomp, sys};

/// All kinds but cgroup, which must be entered first, and time.
pub(super) const NAMESPACES: i32 = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// Passed on to the program when this process gets them.
const FORWARDED: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

pub(super) fn main(plan: Plan, control: &OwnedFd, builder: OwnedFd, stdio: [OwnedFd; 3]) -> ! {
    let walls = set_up(&plan, &builder);
    drop(builder);
    let told = match walls {
        Ok(()) => message::send(control, &News::Ready, &[]),
        // The building process failed first, and says itself why.
        Err(Error::Plan(error)) if error.kind() == io::ErrorKind::UnexpectedEof => end(1),
        Err(error) => {
            let _ = message::send(control, &News::Failed { text: error.to_string() }, &[]);
            end(1)
        }
    };
    // Before the program runs, a container without its caller is of no use to anybody.
    let order = told.and_then(|()| message::receive::<Order>(control));
    let Ok((Order::Start, _)) = order else { end(1) };
    let execs = Execs::new(&plan);
    match start(&plan, stdio) {
        Ok(program) if message::send(control, &News::Started, &[]).is_ok() => {
            let status = stay(program, control, &plan, execs);
            end(report(control, status))
        }
        Ok(_) => end(1),
        Err(error) => {
            let _ = message::send(control, &News::NotExecuted { text: error.to_string() }, &[]);
            end(1)
        }
    }
}

fn set_up(plan: &Plan, builder: &OwnedFd) -> Result<(), Error> {
    let (Inner::Root, trees) = message::receive(builder).map_err(Error::Plan)? else {
        return Err(Error::Plan(io::Error::from(io::ErrorKind::InvalidData)));
    };
    become_root().map_err(Error::step("becoming the container's root"))?;
    rustix::system::sethostname(plan.hostname.as_bytes())
        .map_err(Error::step("setting the host name (`hostname`)"))?;
    set_loopback_up().map_err(Error::step("setting up the loopback interface"))?;
    let trees = Trees::new(plan, trees)?;
    mounts::set_up(plan, trees)?;
    let (Inner::Attached, _) = message::receive(builder).map_err(Error::Plan)? else {
        return Err(Error::Plan(io::Error::from(io::ErrorKind::InvalidData)));
    };
    // Only now: the group it is in becomes the top of what it sees.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWCGROUP)
        .map_err(Error::step("making the cgroup namespace"))?;
    mounts::show_cgroup();
    sys::process::join_new_keyring().map_err(Error::step("making a keyring"))?;
    reduce(caps::kept()).map_err(Error::step("dropping capabilities"))?;
    let filter =
        if plan.takes_execs { seccomp::enter_to_start_programs() } else { seccomp::enter() };
    filter.map_err(Error::step("loading the syscall filter"))
}

/// Until here this process has the host's root ids, which are nobody's in its own namespace.
fn become_root() -> io::Result<()> {
    let (uid, gid) = (rustix::process::Uid::ROOT, rustix::process::Gid::ROOT);
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    rustix::process::setsid()?;
    Ok(())
}

/// Gives capabilities away. A change of credentials can make a process visible to others again
/// (where fs.suid_dumpable is 1), and this one's executable is the host's.
fn reduce(keep: CapabilitySet) -> io::Result<()> {
    caps::reduce(keep)?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}

fn set_loopback_up() -> io::Result<()> {
    let (family, kind) = (rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM);
    let socket = rustix::net::socket(family, kind, None)?;
    sys::interface::set_loopback_up(socket.as_fd())
}

/// Forks the program, if there is one, and waits until it is executed.
fn start(plan: &Plan, stdio: [OwnedFd; 3]) -> Result<Option<Pid>, program::Error> {
    let blocked = SigSet::from_iter(FORWARDED.into_iter().chain([Signal::SIGCHLD]));
    blocked.thread_block().map_err(program::Error::other("blocking signals"))?;
    let Some(process) = &plan.process else { return Ok(None) };
    let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(program::Error::other("making a pipe"))?;
    let Some(pid) = fork().map_err(program::Error::other("forking"))? else {
        drop(reader);
        let error = program::execute(plan, process, Streams::Three(stdio));
        let _ = rustix::io::write(&writer, error.to_string().as_bytes());
        end(1)
    };
    drop((writer, stdio));
    let mut text = String::new();
    File::from(reader)
        .read_to_string(&mut text)
        .map_err(program::Error::other("waiting for the program"))?;
    if text.is_empty() { Ok(Some(Pid::from_raw(pid))) } else { Err(program::Error::Told(text)) }
}

/// Reaps, passes on and starts further programs until `program` has ended; answers how.
fn stay(program: Option<Pid>, control: &OwnedFd, plan: &Plan, mut execs: Execs<'_>) -> WaitStatus {
    // What is left to do needs nothing but the right to signal any user's process, and what
    // further programs shall have.
    if !plan.takes_execs && reduce(CapabilitySet::KILL).is_err() {
        end(1)
    }
    let watched = SigSet::from_iter(FORWARDED.into_iter().chain([Signal::SIGCHLD]));
    let Ok(signals) = SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC) else { end(1) };
    let mut listening = true;
    loop {
        let mut wanted = vec![PollFd::new(&signals, PollFlags::IN)];
        if listening {
            wanted.push(PollFd::new(control, PollFlags::IN));
        }
        if rustix::io::retry_on_intr(|| poll(&mut wanted, None)).is_err() {
            end(1)
        }
        let signalled = !wanted[0].revents().is_empty();
        let ordered = wanted.get(1).is_some_and(|one| !one.revents().is_empty());
        if signalled && let Some(status) = take_signal(&signals, program, &mut execs) {
            return status;
        }
        if ordered && !take_order(control, program, &mut execs) {
            if plan.end_with_caller {
                end(1)
            }
            listening = false;
        }
    }
}

/// Passes one signal on, or reaps; answers when the program itself has ended.
fn take_signal(
    signals: &SignalFd,
    program: Option<Pid>,
    execs: &mut Execs<'_>,
) -> Option<WaitStatus> {
    let number = signals.read_signal().ok().flatten()?.ssi_signo;
    let signal = i32::try_from(number).ok().and_then(|number| Signal::try_from(number).ok());
    if signal != Some(Signal::SIGCHLD) {
        let _ = program.map(|program| nix::sys::signal::kill(program, signal));
        return None;
    }
    // One SIGCHLD may stand for many children.
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) => {
                let pid = pid.as_raw_nonzero().get();
                if program.is_some_and(|program| program.as_raw() == pid) {
                    return Some(status);
                }
                execs.reaped(pid, status);
            }
            Err(rustix::io::Errno::INTR) => {}
            Ok(None) | Err(_) => return None,
        }
    }
}

/// Does what the caller says; `false` when it is gone.
fn take_order(control: &OwnedFd, program: Option<Pid>, execs: &mut Execs<'_>) -> bool {
    match message::receive::<Order>(control) {
        Ok((Order::Exec { terminal }, descriptors)) => {
            execs.start(terminal, descriptors);
            true
        }
        Ok((Order::Signal(number), _)) => {
            if let (Ok(signal), Some(program)) = (Signal::try_from(number), program) {
                let _ = nix::sys::signal::kill(program, signal);
            }
            true
        }
        Ok((Order::Build { .. } | Order::Start, _)) => true,
        Err(error) => error.kind() == io::ErrorKind::InvalidData,
    }
}

/// Tells the caller how the program ended; answers the exit code that says the same.
fn report(control: &OwnedFd, status: WaitStatus) -> i32 {
    let (code, signal) = parts(status);
    // A caller that is gone does not want to know.
    let _ = message::send(control, &News::Ended { code, signal }, &[]);
    code.or(signal.map(|signal| 128 + signal)).unwrap_or(1)
}

/// Exit code or signal, real-time ones included.
pub(super) fn parts(status: WaitStatus) -> (Option<i32>, Option<i32>) {
    match (status.exit_status(), status.terminating_signal()) {
        (None, None) => (Some(1), None),
        told => told,
    }
}
