//! Runs one untrusted program behind namespaces, cgroups, a syscall filter and its own root.

pub mod disk;
pub mod network;
mod sys;
