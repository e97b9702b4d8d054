//! What containers with a network need from this machine: names, and single ports of the host.

pub mod dns;
pub mod forward;
