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
/// Bytes of a program with its arguments and environment as it travels to a running container;
/// the kernel takes no more than 6 MiB of them.
pub const PROCESS_BYTES_MAX: usize = 8 << 20;
/// Milliseconds until a further program must have started in a container.
pub const EXEC_MS_MAX: u64 = 30_000;
/// Left-over groups of ended programs whose removal is tried when a further one is started.
pub const LEFTOVERS_TRIED_MAX: usize = 16;
/// Milliseconds until a container must be prepared, and until its program must have started.
pub const PREPARE_MS_MAX: u64 = 30_000;
/// Milliseconds until all processes of a container must be frozen, or go on again.
pub const FREEZE_MS_MAX: u64 = 5_000;
/// Milliseconds until a tree must lie in a running container, or be taken out of it.
pub const ATTACH_MS_MAX: u64 = 10_000;
/// Milliseconds after which file systems are broken off that keep killed processes from dying.
pub const STUCK_MS_MAX: u64 = 500;
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

/// Fabrics that one network namespace may hold at the same time, one per server.
pub const SLOTS_MAX: u32 = 16;
/// Containers with a network that one fabric may hold: a slot's share of the /16, without its
/// network, gateway and last address.
pub const ATTACHED_MAX: u32 = 4_093;
/// Extra destinations of one container, literal and resolved ones together.
pub const EXTRAS_MAX: usize = 512;
/// Seconds for which a resolved extra destination may pass.
pub const EXTRA_SECONDS_MAX: u64 = 3_600;
/// Seconds for which such a destination passes again after somebody emptied the firewall.
pub const EXTRA_SECONDS_AGAIN: u64 = 300;
/// Ranges, and separately host names, of one allow list.
pub const LISTED_MAX: usize = 1_024;
/// Names and addresses that are remembered of what one container asked for.
pub const HEARD_MAX: usize = 1_024;
/// Addresses of allowed names that pass for one container at the same time.
pub const NAMED_MAX: usize = 4_096;
/// Seconds for which an allowed name's address passes beyond its time to live: programs keep
/// addresses somewhat longer than they are told.
pub const NAMED_SECONDS_MORE: u64 = 300;
/// Connections that one container may have open through the host at the same time.
pub const FLOWS_MAX: u32 = 8_192;
/// Bytes of one netlink answer.
pub const NETLINK_BYTES_MAX: usize = 64 << 10;
/// Messages of one netlink dump: links or routes of the host.
pub const DUMP_MESSAGES_MAX: usize = 1 << 18;
/// Milliseconds for a netlink answer.
pub const NETLINK_MS_MAX: u64 = 5_000;
/// Milliseconds for one run of `nft`.
pub const NFT_MS_MAX: u64 = 10_000;
/// Milliseconds to wait while another server of this host opens or closes its fabric.
pub const CHANGE_MS_MAX: u64 = 10_000;
/// Milliseconds between looks at the host's interfaces.
pub const LOOK_MS_MAX: u64 = 2_000;
/// Milliseconds until a new interface must send; the kernel takes up to a second.
pub const SENDING_MS_MAX: u64 = 3_000;

/// Bytes of a scratch name.
pub const SCRATCH_NAME_BYTES_MAX: usize = 64;
/// Bytes below which a disk limit cannot be kept: a file system's own blocks need so much.
pub const SCRATCH_BYTES_MIN: u64 = 4 << 20;
/// Files of one tmpfs scratch, beside the limit of one per 1,024 bytes.
pub const SCRATCH_INODES_MAX: u64 = 1 << 20;
/// Bytes of the smallest btrfs image: mkfs refuses less than about 109 MiB.
pub const IMAGE_BYTES_MIN: u64 = 256 << 20;
/// Bytes of the data folder's file system that the image leaves free at least; with half of
/// them gone no new scratch space is made.
pub const RESERVE_BYTES_MIN: u64 = 1 << 30;
/// Project ids that are tried for one that is free.
pub const PROJECTS_MAX: u32 = 1 << 16;
