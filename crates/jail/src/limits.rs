//! The limits of this crate: every buffer, list and wait that a plan or a container could grow.

/// Layers under one root; the kernel allows 500 (OVL_MAX_STACK), option strings fewer.
pub const LAYERS_MAX: usize = 250;
/// Bound folders and files of one container: their descriptors travel in one message
/// (SCM_MAX_FD is 253).
pub const BINDS_MAX: usize = 128;
/// Small files, and separately tmpfs mounts, of one container.
pub const FILES_MAX: usize = 64;
/// Bytes of one small file.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Bytes of the plan as it travels to the process that builds the container.
pub const PLAN_BYTES_MAX: usize = 16 << 20;
/// Bytes of one message between the caller and a container's first process.
pub const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// Milliseconds until a container must be prepared, and until its program must have started.
pub const PREPARE_MS_MAX: u64 = 30_000;
/// Milliseconds until a killed tree must be gone.
pub const KILL_MS_MAX: u64 = 30_000;
/// Retries of a path lookup that raced with a rename.
pub const LOOKUPS_MAX: usize = 64;
/// Inodes of the tmpfs that holds /dev and small files, besides one per file.
pub const DEVICE_INODES_MAX: usize = 1024;
/// Bytes of that tmpfs, besides the small files.
pub const DEVICE_BYTES_MAX: usize = 1 << 20;
/// Levels of folders that are open at once while a tree is removed.
pub const REMOVAL_DEPTH_MAX: usize = 64;
