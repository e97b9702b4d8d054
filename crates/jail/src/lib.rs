//! Runs one untrusted program behind namespaces, control groups, a syscall filter and its own
//! root. Knows nothing of who asks: it takes a [`Plan`] and returns a [`Child`].
//!
//! The embedding binary begins its `main` with
//!
//! ```no_run
//! if jail::is_child() {
//!     jail::child_main();
//! }
//! ```
//!
//! because [`prepare`] executes the binary once more to build a container in a process without
//! threads.

mod attach;
mod caps;
mod cgroup;
mod child;
pub mod disk;
mod exec;
mod hanging;
pub mod host;
mod inside;
pub mod limits;
mod message;
pub mod network;
mod overlay;
mod plan;
mod root;
pub mod seccomp;
mod setup;
mod spawn;
mod stdio;
mod sweep;
mod sys;

pub use attach::{Attached, Error as AttachError, Tree, Writable, attach, attached, detach};
pub use caps::KEPT as CAPABILITIES;
pub use cgroup::{Error as CgroupError, Usage, join};
pub use child::{Child, Ended, Error as ChildError, Exit};
pub use exec::{Error as ExecError, Exec, ExecIo};
pub use inside::{Error as ListenError, connect_inside, listen_inside};
pub use overlay::{Error as OverlayError, overlay, view};
pub use plan::{Bind, BindIds, IdRange, InlineFile, Limits, Plan, Process, Refused, Tmpfs};
pub use root::{Entry, Error as RootError, Facts, Kind, Root};
pub use setup::{child_main, is_child};
pub use spawn::{Error, Prepared, Standby, prepare, prepare_with};
pub use stdio::Stdio;
pub use sweep::{Swept, end_named, remove_parents, sweep};

/// The source that every mount of ours names: it tells in a list of mounts whose they are.
const MOUNT_SOURCE: &str = "palisade";
