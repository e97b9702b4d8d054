//! What the kernel holds: listed before and after, so that nothing left behind goes unseen.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::limits::SHOWN_MAX;

/// Things in the kernel, by kind; the order is that in which they are shown.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kernel {
    kinds: Vec<(&'static str, BTreeSet<String>)>,
}

impl Kernel {
    /// Lists what is there now.
    ///
    /// Processes are this program's descendants: it adopts orphans ([`adopt_orphans`]), so that
    /// none of the server's escapes, and other people's do not count.
    pub(crate) fn look() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").context("no mountinfo")?;
        Ok(Self {
            kinds: vec![
                ("processes started here", descendants(std::process::id())?),
                ("mounts", mount_points(&mounts)),
                ("network namespaces", network_namespaces(&mounts)?),
                ("control groups", control_groups(&mounts)),
                ("network interfaces", names_in(Path::new("/sys/class/net"))),
                ("nftables tables", tables()?),
                ("loop devices", loop_devices()),
            ],
        })
    }

    /// How many there are of each kind, a line each.
    pub(crate) fn summary(&self) -> String {
        let lines =
            self.kinds.iter().map(|(kind, things)| format!("  {:>5} {kind}\n", things.len()));
        lines.collect()
    }

    /// What `after` has and this has not (`+`), and the reverse (`-`), a line each.
    pub(crate) fn difference(&self, after: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        for ((kind, before), (_, after)) in self.kinds.iter().zip(&after.kinds) {
            let added = after.difference(before).map(|thing| format!("+ {kind}: {thing}"));
            let gone = before.difference(after).map(|thing| format!("- {kind}: {thing}"));
            let all: Vec<String> = added.chain(gone).collect();
            let more = all.len().saturating_sub(SHOWN_MAX);
            lines.extend(all.into_iter().take(SHOWN_MAX));
            if more > 0 {
                lines.push(format!("  {kind}: and {more} more"));
            }
        }
        lines
    }
}

/// Makes orphaned descendants of this process its children.
pub(crate) fn adopt_orphans() -> Result<()> {
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).context("orphans cannot be adopted")?;
    Ok(())
}

/// Takes the exit status of adopted children that have ended, which would stay as zombies.
///
/// Only to be called when no child is awaited elsewhere: it would lose its status.
pub(crate) fn reap_orphans() {
    use rustix::process::{WaitOptions, wait};
    while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {}
}

fn descendants(root: u32) -> Result<BTreeSet<String>> {
    let mut processes = Vec::new();
    for pid in process_ids()? {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        if let Some(parent) = parent_in(&stat) {
            processes.push((pid, parent));
        }
    }
    let mut family = BTreeSet::from([root]);
    // A child may have a smaller number than its parent: look until nobody is added.
    loop {
        let known = family.len();
        family.extend(
            processes
                .iter()
                .filter(|(_, p)| family.contains(p))
                .map(|(pid, _)| *pid)
                .collect::<Vec<_>>(),
        );
        if family.len() == known {
            break;
        }
    }
    family.remove(&root);
    Ok(family.into_iter().map(described).collect())
}

fn process_ids() -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc").context("/proc cannot be read")?;
    let names = entries.flatten().map(|entry| entry.file_name());
    Ok(names.filter_map(|name| name.to_str()?.parse().ok()).collect())
}

/// The parent in the text of `/proc/PID/stat`: `pid (name) state parent …`; see proc(5).
fn parent_in(stat: &str) -> Option<u32> {
    // The name may hold spaces and parentheses.
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn described(pid: u32) -> String {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let command = String::from_utf8_lossy(&command).replace('\0', " ");
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    format!("{pid} {} {command}", name.trim())
}

/// Fields of a line of mountinfo: `id parent device root target options … - type source …`;
/// see proc(5).
fn mount_fields(line: &str) -> Option<(&str, &str, &str, &str)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, target) = (left.next()?, left.next()?);
    let mut right = right.split(' ');
    Some((root, target, right.next()?, right.next()?))
}

fn mount_points(mounts: &str) -> BTreeSet<String> {
    let fields = mounts.lines().filter_map(mount_fields);
    fields.map(|(root, target, kind, source)| format!("{target} {kind} {source} {root}")).collect()
}

fn network_namespaces(mounts: &str) -> Result<BTreeSet<String>> {
    let mut namespaces = BTreeSet::new();
    for pid in process_ids()? {
        if let Ok(link) = fs::read_link(format!("/proc/{pid}/ns/net")) {
            namespaces.insert(link.to_string_lossy().into_owned());
        }
    }
    let kept =
        mounts.lines().filter_map(mount_fields).filter(|(root, ..)| root.starts_with("net:"));
    namespaces.extend(kept.map(|(root, ..)| root.to_owned()));
    Ok(namespaces)
}

fn control_groups(mounts: &str) -> BTreeSet<String> {
    let mut groups = BTreeSet::new();
    for (_, target, kind, _) in mounts.lines().filter_map(mount_fields) {
        if kind == "cgroup" || kind == "cgroup2" {
            add_directories(Path::new(target), &mut groups);
        }
    }
    groups
}

fn add_directories(dir: &Path, found: &mut BTreeSet<String>) {
    // Groups come and go while this looks.
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path: PathBuf = entry.path();
            found.insert(path.to_string_lossy().into_owned());
            add_directories(&path, found);
        }
    }
}

fn names_in(dir: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(dir) else { return BTreeSet::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn tables() -> Result<BTreeSet<String>> {
    let output = Command::new("nft").args(["list", "tables"]).output().context("no nft")?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(|line| line.trim().to_owned()).collect())
}

/// Loop devices that have a file.
fn loop_devices() -> BTreeSet<String> {
    let names = names_in(Path::new("/sys/block"));
    let devices = names.iter().filter_map(|name| {
        let file = fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()?;
        Some(format!("{name} {}", file.trim()))
    });
    devices.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kernel(things: &[&str]) -> Kernel {
        Kernel { kinds: vec![("mounts", things.iter().map(ToString::to_string).collect())] }
    }

    #[test]
    fn differences_have_their_direction() {
        let difference = kernel(&["/a", "/b"]).difference(&kernel(&["/b", "/c"]));
        assert_eq!(difference, ["+ mounts: /c", "- mounts: /a"]);
        assert!(kernel(&["/a"]).difference(&kernel(&["/a"])).is_empty());
    }

    #[test]
    fn many_differences_are_counted() {
        let many: Vec<String> = (0..SHOWN_MAX + 3).map(|n| format!("/{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let difference = kernel(&[]).difference(&kernel(&many));
        assert_eq!(difference.len(), SHOWN_MAX + 1);
        assert_eq!(difference[SHOWN_MAX], "  mounts: and 3 more");
    }

    #[test]
    fn a_process_name_may_hold_parentheses() {
        assert_eq!(parent_in("42 (a) R 7) S 17 42 42"), Some(17));
        assert_eq!(parent_in(""), None);
    }

    #[test]
    fn mount_lines_are_read() {
        let line = "36 35 0:4 net:[4026532] /run/x rw shared:1 - nsfs nsfs rw";
        assert_eq!(mount_fields(line), Some(("net:[4026532]", "/run/x", "nsfs", "nsfs")));
    }

    #[test]
    fn a_grandchild_is_a_descendant() {
        let mut shell = Command::new("sh")
            .args(["-c", "sleep 60 & echo $!; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let stdout = shell.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut line).unwrap();
        // By number alone: the grandchild may still bear its parent's name and words.
        let grandchild: i32 = line.trim().parse().unwrap();
        let of_all = descendants(std::process::id()).unwrap();
        let of_shell = descendants(shell.id()).unwrap();
        let pid = rustix::process::Pid::from_raw(grandchild).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        shell.wait().unwrap();
        let start = format!("{grandchild} ");
        assert!(of_shell.iter().any(|process| process.starts_with(&start)), "{of_shell:?}");
        assert!(of_all.iter().any(|process| process.starts_with(&start)), "{of_all:?}");
    }
}
