//! The limits of the developer's commands.

use std::time::Duration;

/// How long a server may take to say that it is ready.
pub(crate) const READY_MAX: Duration = Duration::from_secs(60);

/// How long a server may take to end after SIGTERM before it is killed.
pub(crate) const STOP_MAX: Duration = Duration::from_secs(30);

/// How long the kernel may take to forget what has ended: it frees network namespaces later.
pub(crate) const SETTLE_MAX: Duration = Duration::from_secs(30);

/// How long the demo's `modal run` may take: the first one makes the base image.
pub(crate) const DEMO_MAX: Duration = Duration::from_secs(1_200);

/// How long the virtual machine may run; its processor is emulated.
pub(crate) const VM_MAX: Duration = Duration::from_secs(600);

/// Lines that the virtual machine said and that are not shown yet.
pub(crate) const VM_LINES_MAX: usize = 1_024;

/// Memory of the virtual machine.
pub(crate) const VM_MEMORY_MIB: u32 = 3_072;

/// Processors of the virtual machine.
pub(crate) const VM_PROCESSORS: u32 = 2;

/// Size of the virtual machine's first disk; only what is in it takes space.
pub(crate) const VM_ROOT_MIB: u32 = 8_192;

/// Size of its second disk.
pub(crate) const VM_PAYLOAD_MIB: u32 = 16_384;

/// How often something awaited is looked at.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Lines of a file of Rust code that are too many to be read comfortably.
pub(crate) const FILE_LINES_WARN: usize = 500;

/// Lines of a file of Rust code that are refused.
pub(crate) const FILE_LINES_MAX: usize = 800;

/// Columns of a line of code.
pub(crate) const COLUMNS_MAX: usize = 100;

/// Differences of one kind that are shown one by one.
pub(crate) const SHOWN_MAX: usize = 20;
