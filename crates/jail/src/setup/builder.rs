//! The building process: opens what the container is made of, clones its first process, maps
//! its ids, mounts its root, and puts it in its control groups.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::Mode;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use super::{Error, end, init};
use crate::message::{self, Inner, News, Order};
use crate::overlay::{self, Mapping, Sources};
use crate::plan::{Bind, BindIds, Plan};
use crate::sys::mount::{attr, set_attributes};
use crate::sys::process::{Cloned, clone_sibling, close_from};

/// What came with the order to build.
struct Kit {
    plan: Plan,
    stdio: [OwnedFd; 3],
    v2: Option<OwnedFd>,
    members: Vec<OwnedFd>,
}

/// Host devices that every program may use; the order is that of the descriptors.
pub(super) const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Folder of the stage on which `init` puts the root.
pub(super) const ROOT_POINT: &str = "r";

pub(super) fn main() -> ! {
    let Ok(control) = take_control() else { end(1) };
    match build(&control) {
        Ok(()) => end(0),
        Err(error) => {
            // If this cannot be said either, the caller sees the closed socket.
            let _ = message::send(&control, &News::Failed { text: error.to_string() }, &[]);
            end(1)
        }
    }
}

/// Takes the socket to the caller from stdin, and closes whatever else leaked into this process.
fn take_control() -> io::Result<OwnedFd> {
    close_from(3)?;
    let control = rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 3)?;
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(control)
}

fn build(control: &OwnedFd) -> Result<(), Error> {
    let kit = receive(control).map_err(Error::Plan)?;
    let plan = &kit.plan;
    harden().map_err(Error::step("hardening the building process"))?;
    let sources = Sources::open(&plan.layers, &plan.upper, &plan.work)?;
    let binds: Result<Vec<_>, _> =
        plan.binds.iter().map(|bind| open(&bind.source).map(|tree| (bind, tree))).collect();
    let binds = binds?;
    let devices: Result<Vec<_>, _> =
        DEVICES.iter().map(|name| open(&Path::new("/dev").join(name))).collect();
    let devices = devices?;
    overlay::stage()?;
    rustix::fs::mkdir(ROOT_POINT, Mode::from_raw_mode(0o755))
        .map_err(Error::step("making the place for the root"))?;

    let (ours, theirs) = message::pair().map_err(Error::step("making a socket pair"))?;
    let cloned = clone_sibling(init::NAMESPACES, kit.v2.as_ref().map(AsFd::as_fd));
    let (pid, pidfd) = match cloned.map_err(Error::step("making the container's namespaces"))? {
        Cloned::Child => {
            drop((ours, sources, binds, devices, kit.v2, kit.members));
            init::main(kit.plan, control, theirs, kit.stdio)
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    drop(theirs);
    let user = open_namespace(pid, "user")?;
    let net = open_namespace(pid, "net")?;
    message::send(control, &News::Made { pid }, &[pidfd.as_fd(), net.as_fd()])
        .map_err(Error::step("telling the caller"))?;
    map_ids(pid, plan).map_err(Error::step("mapping the container's ids (`ids`)"))?;

    let mapping = Mapping { userns: user.as_fd(), first: plan.ids.first };
    let root = sources.mount(Some(mapping), plan.volatile)?;
    for (bind, tree) in &binds {
        set_bind(bind, tree, user.as_fd())?;
    }
    for tree in &devices {
        set_attributes(tree.as_fd(), attr::NOSUID | attr::NOEXEC, None, false)
            .map_err(Error::step("setting up devices"))?;
    }
    let trees = binds.iter().map(|(_, tree)| tree).chain(&devices);
    let trees: Vec<_> = std::iter::once(&root).chain(trees).map(AsFd::as_fd).collect();
    message::send(&ours, &Inner::Root, &trees).map_err(Error::step("handing over the root"))?;
    // While the first process mounts: on v1 this waits for the kernel for several milliseconds.
    for file in kit.members {
        rustix::io::write(&file, pid.to_string().as_bytes())
            .map_err(Error::step("moving the container into its control groups"))?;
    }
    message::send(&ours, &Inner::Attached, &[]).map_err(Error::step("handing over"))
}

fn receive(control: &OwnedFd) -> io::Result<Kit> {
    let unusable = || io::Error::new(io::ErrorKind::InvalidData, "unexpected message");
    let (Order::Build { v2 }, descriptors) = message::receive(control)? else {
        return Err(unusable());
    };
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next().ok_or_else(unusable);
    let plan = message::read_memory(&next()?)?;
    let stdio = [next()?, next()?, next()?];
    let v2 = v2.then(next).transpose()?;
    let members = descriptors.collect();
    Ok(Kit { plan, stdio, v2, members })
}

/// Nobody may look into this process or its copies, whose executable is the host's binary; and
/// when the host is short of memory, containers go before its own services.
fn harden() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let score: i32 = fs::read_to_string("/proc/self/oom_score_adj")?.trim().parse().unwrap_or(0);
    if score < OOM_SCORE {
        fs::write("/proc/self/oom_score_adj", OOM_SCORE.to_string())?;
    }
    rustix::thread::set_name(c"init")?;
    Ok(())
}

/// Of -1000 to 1000; services of the host have 0.
const OOM_SCORE: i32 = 500;

fn open(path: &Path) -> Result<OwnedFd, Error> {
    overlay::clone_mount(path).map_err(|source| Error::Open { path: path.to_owned(), source })
}

fn open_namespace(pid: i32, name: &str) -> Result<OwnedFd, Error> {
    let path = Path::new("/proc").join(pid.to_string()).join("ns").join(name);
    File::open(&path).map(OwnedFd::from).map_err(|source| Error::Open { path, source })
}

fn map_ids(pid: i32, plan: &Plan) -> io::Result<()> {
    let map = format!("0 {} {}\n", plan.ids.first, plan.ids.count);
    fs::write(format!("/proc/{pid}/uid_map"), &map)?;
    fs::write(format!("/proc/{pid}/gid_map"), &map)
}

fn set_bind(bind: &Bind, tree: &OwnedFd, userns: BorrowedFd<'_>) -> Result<(), Error> {
    let mut flags = attr::NOSUID | attr::NODEV;
    if bind.read_only {
        flags |= attr::RDONLY;
    }
    let failed = |source| Error::Mount { what: bind.target.display().to_string(), source };
    let mapped = match bind.ids {
        BindIds::AsIs => return set_attributes(tree.as_fd(), flags, None, false).map_err(failed),
        BindIds::Mapped | BindIds::MappedIfPossible => {
            set_attributes(tree.as_fd(), flags, Some(userns), false)
        }
    };
    match mapped {
        Err(error)
            if error.kind() == io::ErrorKind::InvalidInput
                && bind.ids == BindIds::MappedIfPossible =>
        {
            set_attributes(tree.as_fd(), flags, None, false).map_err(failed)
        }
        mapped => mapped.map_err(|source| Error::Map { path: bind.source.clone(), source }),
    }
}
