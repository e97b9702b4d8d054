//! The syscall filter: what a program may ask of the kernel.
//!
//! `rules` holds the list as data, `tree` makes a program of it that the kernel can search: a
//! linear filter of this length takes more than 1 ms to load and slows every call.

mod rules;
mod tree;

use std::collections::BTreeMap;
use std::io;

use crate::sys::filter;

pub use rules::{GROUPS, Group, Verdict};

/// Sets no_new_privs and loads the filter for this process and all that it makes.
///
/// # Errors
/// The kernel's.
pub(crate) fn enter() -> io::Result<()> {
    load(&rules::table())
}

/// As [`enter`], but for a first process that starts programs in control groups of their own:
/// only clone3 can do that. Each program enters the usual filter on top of this one.
///
/// # Errors
/// The kernel's.
pub(crate) fn enter_to_start_programs() -> io::Result<()> {
    load(&rules::table_with_clone3())
}

fn load(table: &BTreeMap<u32, Verdict>) -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    filter::load(&mut tree::program(table))
}

/// What the filter does with each call that it knows, by name: for a report to people.
pub fn calls() -> impl Iterator<Item = (&'static str, Verdict)> {
    GROUPS.iter().flat_map(|group| group.calls.iter().map(|&(name, _)| (name, group.verdict)))
}

/// Instructions of the filter.
pub fn length() -> usize {
    tree::program(&rules::table()).len()
}
