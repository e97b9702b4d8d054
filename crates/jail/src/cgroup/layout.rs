//! Where the control group trees of this host are mounted.

use std::path::{Path, PathBuf};
use std::{fs, io};

/// The trees of this host.
#[derive(Debug, Clone, Default)]
pub(crate) struct Layout {
    /// Version 2: mount point and controllers that can be used there.
    pub(crate) v2: Option<(PathBuf, Vec<String>)>,
    /// Version 1: mount points and the controllers of each.
    pub(crate) v1: Vec<(PathBuf, Vec<String>)>,
}

impl Layout {
    /// Reads it from the mounts that this thread sees.
    ///
    /// # Errors
    /// When /proc or the top of v2's tree cannot be read.
    pub(crate) fn detect() -> io::Result<Self> {
        let mut layout = Self::parse(&fs::read_to_string("/proc/thread-self/mountinfo")?);
        if let Some((top, controllers)) = &mut layout.v2 {
            let text = fs::read_to_string(top.join("cgroup.controllers"))?;
            controllers.extend(text.split_whitespace().map(str::to_owned));
        }
        Ok(layout)
    }

    fn parse(mountinfo: &str) -> Self {
        let mut layout = Self::default();
        for line in mountinfo.lines() {
            // proc_pid_mountinfo(5): fields up to " - ", then type, source, super options.
            let Some((mount, kind)) = line.split_once(" - ") else { continue };
            let Some(point) = mount.split(' ').nth(4) else { continue };
            let point = PathBuf::from(point);
            let mut kind = kind.split(' ');
            match kind.next() {
                Some("cgroup2") if layout.v2.is_none() => layout.v2 = Some((point, vec![])),
                Some("cgroup") => {
                    let known = |name: &&str| CONTROLLERS.contains(name);
                    let options = kind.nth(1).unwrap_or_default().split(',').filter(known);
                    let controllers: Vec<String> = options.map(str::to_owned).collect();
                    let new = |name: &String| layout.v1_of(name).is_none_or(|p| p == point);
                    if !controllers.is_empty() && controllers.iter().all(new) {
                        layout.v1.push((point, controllers));
                    }
                }
                _ => {}
            }
        }
        layout
    }

    /// Top of the tree of v1 that holds `controller`.
    pub(crate) fn v1_of(&self, controller: &str) -> Option<&Path> {
        let holds = |(_, names): &&(PathBuf, Vec<String>)| names.iter().any(|n| n == controller);
        self.v1.iter().find(holds).map(|(path, _)| path.as_path())
    }

    /// Tops of all trees.
    pub(crate) fn tops(&self) -> impl Iterator<Item = &Path> {
        self.v2.iter().map(|(top, _)| top).chain(self.v1.iter().map(|(top, _)| top)).map(|p| &**p)
    }

    /// Top of v2's tree if it holds `controller`.
    pub(crate) fn v2_of(&self, controller: &str) -> Option<&Path> {
        let (path, names) = self.v2.as_ref()?;
        names.iter().any(|name| name == controller).then_some(path.as_path())
    }
}

/// What of v1 matters here; the other options of such a mount are not controllers.
const CONTROLLERS: [&str; 4] = ["memory", "cpu", "cpuacct", "pids"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_each_kind_of_host() {
        let hybrid = "\
            30 20 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            31 20 0:27 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
            32 20 0:28 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n\
            33 20 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            34 20 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let layout = Layout::parse(hybrid);
        let path = |text: &str| Some(PathBuf::from(text));
        assert_eq!(layout.v2.as_ref().map(|v2| v2.0.clone()), path("/sys/fs/cgroup/unified"));
        let found = |name: &str| layout.v1_of(name).map(Path::to_owned);
        assert_eq!(found("cpu"), path("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(found("cpuacct"), found("cpu"));
        assert_eq!(found("memory"), path("/sys/fs/cgroup/memory"));
        assert_eq!(found("pids"), None);
        assert_eq!(layout.v1.len(), 2);
        assert_eq!(layout.v2_of("memory"), None);

        let pure =
            Layout::parse("30 20 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n");
        assert_eq!(pure.v2.map(|v2| v2.0), path("/sys/fs/cgroup"));
        assert!(pure.v1.is_empty());
    }
}
