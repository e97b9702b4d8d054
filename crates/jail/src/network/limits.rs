//! The limits of container networks.

/// Fabrics that one network namespace may hold at the same time, one per server.
pub const SLOTS_MAX: u32 = 16;
/// Containers with a network that one fabric may hold: a slot's share of the /16, without its
/// network, gateway and last address.
pub const ATTACHED_MAX: u32 = 4_093;
/// Extra destinations of one container, literal and resolved ones together.
pub const EXTRAS_MAX: usize = 512;
/// Seconds for which a resolved extra destination may pass.
pub const EXTRA_SECONDS_MAX: u64 = 3_600;
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
