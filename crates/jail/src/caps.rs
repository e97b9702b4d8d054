//! Capabilities that a container keeps, all of them valid in its own user namespace only.

use std::io;

use rustix::thread::{
    CapabilitiesSecureBits, CapabilitySet, CapabilitySets, capabilities,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_capabilities_secure_bits,
};

/// What the container's root may do, and who needs it.
pub const KEPT: &[(CapabilitySet, &str)] = &[
    (CapabilitySet::CHOWN, "dpkg and tar give files to their owners"),
    (CapabilitySet::DAC_OVERRIDE, "root reads and writes files of the container's users"),
    (CapabilitySet::FOWNER, "dpkg and pip change modes and times of files of other users"),
    (CapabilitySet::FSETID, "tar keeps set-id bits of files that it changes"),
    (CapabilitySet::SETUID, "apt and servers become another user for their dangerous parts"),
    (CapabilitySet::SETGID, "the same for groups"),
    (CapabilitySet::SETPCAP, "programs that drop further capabilities must be able to"),
    (CapabilitySet::KILL, "root ends processes of the container's users"),
    (CapabilitySet::SYS_CHROOT, "apt and package scripts use chroot; the root is left by no way"),
    (CapabilitySet::NET_BIND_SERVICE, "servers that listen below port 1024"),
    (CapabilitySet::SETFCAP, "dpkg restores file capabilities (they are void: no_new_privs)"),
];

/// The kept capabilities as one set.
pub(crate) fn kept() -> CapabilitySet {
    KEPT.iter().fold(CapabilitySet::empty(), |all, &(one, _)| all | one)
}

/// Takes all capabilities but `keep` from this thread, for good: also from the bounding set, so
/// that no program that it starts gets them.
///
/// # Errors
/// The kernel's; this needs CAP_SETPCAP.
pub(crate) fn reduce(keep: CapabilitySet) -> io::Result<()> {
    clear_ambient_capability_set()?;
    for number in 0..64 {
        let one = CapabilitySet::from_bits_retain(1 << number);
        if keep.contains(one) {
            continue;
        }
        match remove_capability_from_bounding_set(one) {
            Ok(()) => {}
            // The first number that the kernel does not know.
            Err(rustix::io::Errno::INVAL) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let empty = CapabilitySet::empty();
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: empty };
    Ok(set_capabilities(None, sets)?)
}

/// Runs `act` without CAP_SYS_RESOURCE: the kernel writes to an overlay with the rights of who
/// mounted it, and with this one quotas and reserved blocks would not stop it. With `keep_root`,
/// a change of the file-system ids inside `act` does not take the other capabilities away.
///
/// # Errors
/// The kernel's, as `From<io::Error>`, or what `act` answers.
pub(crate) fn without_resource<T, E: From<io::Error>>(
    keep_root: bool,
    act: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    let before = capabilities(None).map_err(io::Error::from)?;
    let mut sets = before;
    sets.effective.remove(CapabilitySet::SYS_RESOURCE);
    set_capabilities(None, sets).map_err(io::Error::from)?;
    let bits = rustix::thread::capabilities_secure_bits().map_err(io::Error::from)?;
    if keep_root {
        let fixed = bits | CapabilitiesSecureBits::NO_SETUID_FIXUP;
        set_capabilities_secure_bits(fixed).map_err(io::Error::from)?;
    }
    let answer = act();
    set_capabilities_secure_bits(bits).map_err(io::Error::from)?;
    set_capabilities(None, before).map_err(io::Error::from)?;
    answer
}
