//! The judgement: one point for each thing that functions need. Pure.

use jail::disk::Mechanism;
use jail::host::CgroupKind;

use super::facts::{Facts, Trial};

/// Open files that a process of a build step may have; a lower hard limit of the host is kept
/// instead (see docs/limits.md).
const OPEN_FILES_WANTED: u64 = 16_384;

/// Free bytes below which a few images fill the disk: a Python base image with a compiler takes
/// more than half a GiB, and containers' writable layers share the rest.
const FREE_BYTES_WANTED: u64 = 10 << 30;

/// How it stands with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// As wanted.
    Ok,
    /// Functions run, but something is weaker.
    Weaker,
    /// Functions cannot run.
    Missing,
    /// Not known without root.
    Unknown,
}

/// One thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Point {
    /// Its name: the same in every release.
    pub(super) key: &'static str,
    /// How it stands.
    pub(super) state: State,
    /// What was found.
    pub(super) found: String,
    /// What follows, where it is not as wanted.
    pub(super) follows: Option<String>,
    /// How to get it.
    pub(super) remedy: Option<String>,
}

fn point(key: &'static str, state: State, found: impl Into<String>) -> Point {
    Point { key, state, found: found.into(), follows: None, remedy: None }
}

impl Point {
    fn ok(key: &'static str, found: impl Into<String>) -> Self {
        point(key, State::Ok, found)
    }

    fn weaker(key: &'static str, found: impl Into<String>) -> Self {
        point(key, State::Weaker, found)
    }

    fn missing(key: &'static str, found: impl Into<String>) -> Self {
        point(key, State::Missing, found)
    }

    fn unknown(key: &'static str) -> Self {
        point(key, State::Unknown, "not tried, because it needs root")
    }

    fn follows(mut self, text: impl Into<String>) -> Self {
        self.follows = Some(text.into());
        self
    }

    fn remedy(mut self, text: impl Into<String>) -> Self {
        self.remedy = Some(text.into());
        self
    }
}

/// All points, in the order in which they are worth reading.
pub(super) fn judge(facts: &Facts) -> Vec<Point> {
    vec![
        kernel(facts),
        root(facts),
        capabilities(facts),
        user_namespaces(facts),
        overlay(facts),
        seccomp(facts),
        proc(facts),
        cgroups(facts),
        open_files(facts),
        disk_space(facts),
        disk_limit(facts),
        network(facts),
        resolver(facts),
        base_images(facts),
        container(facts),
        fallbacks(facts),
    ]
}

fn kernel(facts: &Facts) -> Point {
    let found = facts.host.kernel.clone();
    if !facts.host.kernel_too_old {
        return Point::ok("kernel", found);
    }
    Point::missing("kernel", found)
        .follows("containers need a kernel of 6.1 or newer")
        .remedy("Debian 12 and newer have one: apt install linux-image-amd64, then restart")
}

fn root(facts: &Facts) -> Point {
    match (facts.host.root, facts.host.initial_user_namespace) {
        (true, true) => Point::ok("root", "yes"),
        (true, false) => Point::weaker("root", "only of a user namespace inside the host's")
            .follows("mounts and id ranges may be refused: the trial container below tells")
            .remedy("run it as the host's own root, outside of other containers"),
        (false, _) => Point::missing("root", "no")
            .follows("`palisade serve` refuses to start: only root can build containers' walls")
            .remedy("sudo palisade doctor; sudo palisade serve"),
    }
}

fn capabilities(facts: &Facts) -> Point {
    let (missing, wished) = (&facts.host.capabilities_missing, &facts.host.capabilities_wished);
    let remedy = "start it where root has all capabilities: not inside another container, and \
        without CapabilityBoundingSet= in its systemd unit";
    if !facts.host.root {
        return Point::unknown("capabilities");
    }
    if !missing.is_empty() {
        return Point::missing("capabilities", format!("without {}", missing.join(", ")))
            .follows("containers cannot be built")
            .remedy(remedy);
    }
    if wished.is_empty() {
        return Point::ok("capabilities", "all");
    }
    let (names, effects): (Vec<_>, Vec<_>) = wished.iter().copied().unzip();
    Point::weaker("capabilities", format!("without {}", names.join(", ")))
        .follows(effects.join("; "))
        .remedy(remedy)
}

fn user_namespaces(facts: &Facts) -> Point {
    let most = facts.host.user_namespaces_max;
    if most > 0 {
        return Point::ok("user_namespaces", format!("up to {most}"));
    }
    Point::missing("user_namespaces", "switched off")
        .follows("containers cannot have ids of their own")
        .remedy("sysctl -w user.max_user_namespaces=65536, and the same in /etc/sysctl.d")
}

fn overlay(facts: &Facts) -> Point {
    if facts.host.overlay_known {
        return Point::ok("overlay", "yes");
    }
    Point::missing("overlay", "the kernel has no overlayfs")
        .follows("containers cannot have their writable layer over an image")
        .remedy("modprobe overlay; else a kernel that is built with CONFIG_OVERLAY_FS")
}

fn seccomp(facts: &Facts) -> Point {
    if facts.host.seccomp {
        return Point::ok("seccomp", "yes");
    }
    Point::missing("seccomp", "the kernel has no system call filters")
        .follows("containers cannot be kept from dangerous system calls")
        .remedy("use a kernel that is built with CONFIG_SECCOMP_FILTER, as Debian's are")
}

fn proc(facts: &Facts) -> Point {
    let hidden = &facts.host.proc_hidden_by;
    if hidden.is_empty() {
        return Point::ok("proc", "whole");
    }
    Point::missing("proc", format!("partly hidden by mounts: {}", hidden.join(", ")))
        .follows("the kernel refuses containers a /proc of their own")
        .remedy("run it outside of other containers, or unmount what lies over /proc")
}

fn cgroups(facts: &Facts) -> Point {
    let cgroups = &facts.host.cgroups;
    let kind = match cgroups.kind {
        CgroupKind::V2 => "version 2",
        CgroupKind::V1 => "version 1",
        CgroupKind::Hybrid => "versions 1 and 2",
        CgroupKind::None => "none mounted",
    };
    let all = [("memory", cgroups.memory), ("cpu", cgroups.cpu), ("pids", cgroups.pids)];
    let lacking: Vec<_> = all.iter().filter(|(_, v)| v.is_none()).map(|&(name, _)| name).collect();
    if lacking.is_empty() {
        let places = all.map(|(name, version)| format!("{name} in v{}", version.unwrap_or(0)));
        return Point::ok("cgroups", format!("{kind}: {}", places.join(", ")));
    }
    Point::missing("cgroups", format!("{kind}, without {}", lacking.join(", ")))
        .follows("limits of memory, processor and processes cannot be enforced")
        .remedy(
            "start the kernel with systemd.unified_cgroup_hierarchy=1 cgroup_enable=memory \
             (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub and restart); inside \
             another container, give it the controllers",
        )
}

fn open_files(facts: &Facts) -> Point {
    match facts.host.open_files_max {
        None => Point::ok("open_files", "no hard limit"),
        Some(most) if most >= OPEN_FILES_WANTED => {
            Point::ok("open_files", format!("hard limit {most}"))
        }
        Some(most) => Point::weaker("open_files", format!("hard limit {most}"))
            .follows(format!(
                "processes in containers get at most {most} open files, and the server serves \
                 fewer connections"
            ))
            .remedy("LimitNOFILE=524288 in the systemd unit, or /etc/security/limits.conf"),
    }
}

/// Bytes as people read them.
fn gib(bytes: u64) -> String {
    let tenths = bytes / ((1 << 30) / 10);
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

fn disk_space(facts: &Facts) -> Point {
    let dir = facts.data_dir.display();
    match facts.free_bytes {
        None => Point::weaker("disk_space", format!("not known for {dir}"))
            .follows("whether images and containers have room is not known"),
        Some(free) if free >= FREE_BYTES_WANTED => {
            Point::ok("disk_space", format!("{} free for {dir}", gib(free)))
        }
        Some(free) => Point::weaker("disk_space", format!("{} free for {dir}", gib(free)))
            .follows("a few images fill it, and then nothing can be built or started")
            .remedy("make room, or give another folder with --data-dir"),
    }
}

fn disk_limit(facts: &Facts) -> Point {
    let key = "disk_limit";
    let disk = match &facts.disk {
        Trial::NeedsRoot => return Point::unknown(key),
        Trial::Failed(why) => {
            return Point::missing(key, why)
                .follows("the server does not start: a limit that nobody enforces is not accepted")
                .remedy("apt install btrfs-progs; then let the data folder have 2 GiB of room");
        }
        Trial::Worked(disk) => disk,
    };
    let why = disk.passed_over.iter().map(|p| format!("no {}: {}", p.mechanism, p.why));
    let why: Vec<_> = why.collect();
    let found = match why.is_empty() {
        true => disk.mechanism.to_string(),
        false => format!("{} ({})", disk.mechanism, why.join("; ")),
    };
    if disk.mechanism != Mechanism::Tmpfs {
        return Point::ok(key, found);
    }
    let remedy = match facts.has_btrfs_tools {
        false => "apt install btrfs-progs".to_owned(),
        true => disk.passed_over.last().map(|p| p.remedy.to_owned()).unwrap_or_default(),
    };
    Point::weaker(key, found)
        .follows("what a container writes counts as its memory, and meets that limit first")
        .remedy(remedy)
}

fn network(facts: &Facts) -> Point {
    let key = "network";
    let follows = "containers have no network: images cannot be built, and of functions only \
        those with block_network=True run, on images that are there already";
    if !facts.has_nft {
        return Point::missing(key, "the program `nft` is not in the search path")
            .follows(follows)
            .remedy("apt install nftables");
    }
    match &facts.network {
        Trial::NeedsRoot => Point::unknown(key),
        Trial::Failed(why) => Point::missing(key, why).follows(follows).remedy(
            "let root have CAP_NET_ADMIN, and the kernel nf_tables and veth (modprobe nf_tables \
             veth); one private /16 range must be free of the host's routes",
        ),
        Trial::Worked(found) if found.obstacles.is_empty() => {
            Point::ok(key, format!("nftables, containers in {}", found.subnet))
        }
        Trial::Worked(found) => {
            Point::weaker(key, format!("another firewall drops: {}", found.obstacles.join(", ")))
                .follows("containers may not reach the internet, nor the resolver")
                .remedy(
                    "let the interfaces `pal*` pass in these chains, in both directions: \
                     iifname \"pal*\" accept; oifname \"pal*\" accept",
                )
        }
    }
}

fn resolver(facts: &Facts) -> Point {
    if let Some(address) = facts.resolver {
        return Point::ok("resolver", address.to_string());
    }
    Point::weaker("resolver", "/etc/resolv.conf names none")
        .follows("containers' names are asked at port 53 of this machine's own loopback address")
        .remedy("write a line `nameserver ADDRESS` into /etc/resolv.conf")
}

fn base_images(facts: &Facts) -> Point {
    let lack = &facts.base_images_lack;
    if lack.is_empty() {
        return Point::ok("base_images", "mmdebstrap");
    }
    Point::missing("base_images", format!("without {}", lack.join(", ")))
        .follows("base images cannot be made: functions run on images that are there already")
        .remedy(format!(
            "apt install {}; other distributions call the packages alike",
            lack.join(" ")
        ))
}

fn container(facts: &Facts) -> Point {
    match &facts.container {
        Trial::NeedsRoot => Point::unknown("container"),
        Trial::Worked(took) => {
            Point::ok("container", format!("built and removed ({} ms)", took.as_millis()))
        }
        Trial::Failed(why) => {
            let point = Point::missing("container", why).follows("functions cannot run");
            if why.contains("container's namespaces: Operation not permitted") {
                return point.remedy(
                    "in a chroot the kernel makes no user namespaces: run it outside of one",
                );
            }
            point.remedy("see to the points above first; this error names the step that failed")
        }
    }
}

/// What is done in another way than on the newest kernel, by name. The walls and limits are the
/// same; docs/hosts.md says what each costs.
fn fallbacks(facts: &Facts) -> Point {
    let (key, cgroups) = ("fallbacks", &facts.host.cgroups);
    let mut names = Vec::new();
    if cgroups.needs_version_1() {
        names.push("joins-groups-late (version 1 holds controllers)");
    }
    if !cgroups.has_version_2() {
        names.push("kills-one-by-one (there is no version 2 of control groups)");
    }
    match &facts.memory_ids {
        Trial::NeedsRoot => return Point::unknown(key),
        Trial::Worked(true) => {}
        Trial::Worked(false) => {
            names.push("memory-without-mapped-ids (the kernel is older than 6.3)");
        }
        Trial::Failed(why) => {
            return Point::weaker(key, format!("not known: {why}"))
                .follows("which of them are in use cannot be said")
                .remedy("apt install util-linux");
        }
    }
    if let Trial::Worked(disk) = &facts.disk {
        match disk.mechanism {
            Mechanism::ProjectQuota => {}
            Mechanism::Btrfs => names.push("disk-in-a-file (see disk_limit)"),
            Mechanism::Tmpfs => names.push("disk-in-memory (see disk_limit)"),
        }
    }
    Point::ok(key, if names.is_empty() { "none".to_owned() } else { names.join(", ") })
}

#[cfg(test)]
mod tests {
    use super::super::report::tests::facts;
    use super::*;

    fn state(facts: &Facts, key: &str) -> State {
        judge(facts).into_iter().find(|point| point.key == key).expect("a point").state
    }

    #[test]
    fn a_good_machine_has_no_weak_point() {
        for point in judge(&facts()) {
            assert_eq!(point.state, State::Ok, "{point:?}");
            assert_eq!((point.follows, point.remedy), (None, None));
        }
    }

    #[test]
    fn each_lack_shows_in_its_own_point() {
        let mut changed = facts();
        let mut check = |change: &dyn Fn(&mut Facts), key: &str, want: State| {
            changed = facts();
            change(&mut changed);
            let bad: Vec<_> =
                judge(&changed).into_iter().filter(|point| point.state != State::Ok).collect();
            assert_eq!(bad.len(), 1, "{bad:?}");
            assert_eq!((bad[0].key, bad[0].state), (key, want));
            assert!(bad[0].follows.is_some() && bad[0].remedy.is_some(), "{bad:?}");
        };
        let failed = || Trial::Failed("no".into());
        check(&|f| f.host.kernel_too_old = true, "kernel", State::Missing);
        check(&|f| f.host.initial_user_namespace = false, "root", State::Weaker);
        check(
            &|f| f.host.capabilities_missing = vec!["CAP_SETUID"],
            "capabilities",
            State::Missing,
        );
        let wished = ("CAP_SYS_RESOURCE", "limits of open files cannot be raised");
        check(&|f| f.host.capabilities_wished = vec![wished], "capabilities", State::Weaker);
        check(&|f| f.host.user_namespaces_max = 0, "user_namespaces", State::Missing);
        check(&|f| f.host.overlay_known = false, "overlay", State::Missing);
        check(&|f| f.host.seccomp = false, "seccomp", State::Missing);
        check(&|f| f.host.proc_hidden_by = vec!["/proc/kcore".into()], "proc", State::Missing);
        check(&|f| f.host.cgroups.memory = None, "cgroups", State::Missing);
        check(&|f| f.host.open_files_max = Some(1_024), "open_files", State::Weaker);
        check(&|f| f.free_bytes = Some(3 << 30), "disk_space", State::Weaker);
        check(&|f| f.disk = failed_disk(), "disk_limit", State::Missing);
        check(&|f| f.has_nft = false, "network", State::Missing);
        check(&|f| f.network = Trial::Failed("no".into()), "network", State::Missing);
        check(&|f| f.resolver = None, "resolver", State::Weaker);
        check(&|f| f.base_images_lack = vec!["mmdebstrap"], "base_images", State::Missing);
        check(&|f| f.container = failed(), "container", State::Missing);
        check(&|f| f.memory_ids = Trial::Failed("no".into()), "fallbacks", State::Weaker);
    }

    #[test]
    fn fallbacks_are_named() {
        use jail::host::CgroupKind;
        let mut facts = facts();
        let names = |facts: &Facts| -> Vec<String> {
            let found = fallbacks(facts).found;
            found.split(", ").map(|name| name.split(' ').next().unwrap_or("").to_owned()).collect()
        };
        assert_eq!(names(&facts), ["none"]);
        facts.memory_ids = Trial::Worked(false);
        assert_eq!(names(&facts), ["memory-without-mapped-ids"]);
        facts.host.cgroups.kind = CgroupKind::Hybrid;
        facts.host.cgroups.cpu = Some(1);
        assert_eq!(names(&facts), ["joins-groups-late", "memory-without-mapped-ids"]);
        facts.host.cgroups.kind = CgroupKind::V1;
        facts.memory_ids = Trial::Worked(true);
        assert_eq!(names(&facts), ["joins-groups-late", "kills-one-by-one"]);
    }

    fn failed_disk() -> Trial<super::super::facts::DiskFacts> {
        Trial::Failed("no mechanism".into())
    }

    #[test]
    fn the_best_disk_limit_and_the_reasons_against_better_ones_are_named() {
        let mut facts = facts();
        let passed = |mechanism, why: &str| jail::disk::PassedOver {
            mechanism,
            why: why.into(),
            remedy: "do this",
        };
        let quota = passed(Mechanism::ProjectQuota, "no quota here");
        facts.disk = Trial::Worked(super::super::facts::DiskFacts {
            mechanism: Mechanism::Btrfs,
            passed_over: vec![quota.clone()],
        });
        let point = disk_limit(&facts);
        assert_eq!(point.state, State::Ok);
        assert_eq!(point.found, "btrfs in a file (no project quota: no quota here)");
        facts.disk = Trial::Worked(super::super::facts::DiskFacts {
            mechanism: Mechanism::Tmpfs,
            passed_over: vec![quota, passed(Mechanism::Btrfs, "no loop device")],
        });
        assert_eq!(disk_limit(&facts).state, State::Weaker);
        assert_eq!(disk_limit(&facts).remedy.as_deref(), Some("do this"));
        facts.has_btrfs_tools = false;
        assert_eq!(disk_limit(&facts).remedy.as_deref(), Some("apt install btrfs-progs"));
    }

    #[test]
    fn a_foreign_firewall_is_named() {
        let mut facts = facts();
        let Trial::Worked(survey) = &mut facts.network else { panic!("a network") };
        survey.obstacles = vec!["ip filter FORWARD".into()];
        assert_eq!(state(&facts, "network"), State::Weaker);
        assert!(network(&facts).found.contains("ip filter FORWARD"));
    }

    #[test]
    fn sizes_are_read_by_people() {
        assert_eq!((gib(0), gib(3 << 29), gib(10 << 30)), three("0.0", "1.5", "10.0"));
    }

    fn three(a: &str, b: &str, c: &str) -> (String, String, String) {
        (format!("{a} GiB"), format!("{b} GiB"), format!("{c} GiB"))
    }
}
