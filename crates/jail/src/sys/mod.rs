//! The crate's only `unsafe` code: kernel calls that no safe wrapper of rustix or nix offers.
#![allow(unsafe_code, reason = "raw kernel calls; every block says why it is sound")]

pub(crate) mod btrfs;
pub(crate) mod filter;
pub(crate) mod interface;
pub(crate) mod mount;
pub(crate) mod process;
pub(crate) mod quota;
