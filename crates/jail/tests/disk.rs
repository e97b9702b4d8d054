//! Disk limits, in mount namespaces that the tests make. Needs root, btrfs-progs and loop devices.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jail::disk::{Disk, DiskConfig, Error, Mechanism};
use nix::mount::{MsFlags, mount, umount};
use nix::sched::{CloneFlags, unshare};

const MIB: u64 = 1 << 20;

/// Runs `test` in a mount namespace of its own, with an empty folder.
fn alone(test: impl FnOnce(&Path) + Send) {
    let outcome = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("unshare");
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).expect("make private");
            let dir = tempfile::tempdir().expect("folder");
            let before = snapshot(dir.path());
            test(dir.path());
            let deadline = Instant::now() + Duration::from_secs(5);
            while snapshot(dir.path()) != before && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(20));
            }
            assert_eq!(snapshot(dir.path()), before, "something is left behind");
        });
        thread.join()
    });
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// The mounts and loop devices that belong to `dir`, and what is in it.
fn snapshot(dir: &Path) -> Vec<String> {
    let dir = dir.to_str().expect("path");
    let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").expect("mounts");
    let mut lines: Vec<String> = mounts.lines().map(str::to_owned).collect();
    for device in std::fs::read_dir("/sys/block").expect("devices") {
        let path = device.expect("device").path().join("loop/backing_file");
        lines.extend(std::fs::read_to_string(path));
    }
    lines.retain(|line| line.contains(dir));
    let entries = std::fs::read_dir(dir).expect("list");
    lines.extend(entries.map(|entry| entry.expect("entry").path().display().to_string()));
    lines
}

fn config(dir: &Path, only: Option<Mechanism>) -> DiskConfig {
    DiskConfig { dir: dir.to_owned(), capacity_bytes: Some(1 << 30), only }
}

fn open(dir: &Path, only: Mechanism) -> Disk {
    Disk::open(&config(dir, Some(only))).expect("open the disk")
}

/// Writes to a new file until it is refused; returns the bytes written and the error.
fn fill(path: &Path) -> (u64, std::io::Error) {
    let mut file = match File::create(path) {
        Ok(file) => file,
        Err(error) => return (0, error),
    };
    let chunk = vec![7; 64 << 10];
    let mut wrote = 0;
    loop {
        match file.write(&chunk) {
            Ok(len) => wrote += len as u64,
            Err(error) => return (wrote, error),
        }
        assert!(wrote < 1 << 30, "nothing stops the writer");
    }
}

fn is_refusal(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::QuotaExceeded | ErrorKind::StorageFull)
}

/// An overlay over an empty layer, mounted as a container's is.
fn overlay(dir: &Path, upper: &Path, work: &Path) -> PathBuf {
    let (lower, merged) = (dir.join("lower"), dir.join("merged"));
    std::fs::create_dir_all(&lower).expect("lower");
    std::fs::create_dir_all(&merged).expect("merged");
    let options = format!(
        "lowerdir={},upperdir={},workdir={}",
        lower.display(),
        upper.display(),
        work.display()
    );
    mount(Some("palisade"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str()))
        .expect("mount the overlay");
    merged
}

fn end_overlay(dir: &Path) {
    umount(&dir.join("merged")).expect("unmount the overlay");
    std::fs::remove_dir(dir.join("merged")).expect("merged");
    std::fs::remove_dir_all(dir.join("lower")).expect("lower");
}

#[test]
fn a_container_cannot_write_beyond_its_limit() {
    for mechanism in [Mechanism::Btrfs, Mechanism::Tmpfs] {
        alone(|dir| check_limit(dir, mechanism));
    }
    // A large image keeps data and metadata apart, a small one does not.
    alone(|dir| {
        let large =
            DiskConfig { capacity_bytes: Some(20 << 30), ..config(dir, Some(Mechanism::Btrfs)) };
        check_limit_on(dir, &Disk::open(&large).expect("open"));
    });
}

/// Fills one of two containers, and sees that it alone is full.
fn check_limit(dir: &Path, mechanism: Mechanism) {
    check_limit_on(dir, &open(dir, mechanism));
}

fn check_limit_on(dir: &Path, disk: &Disk) {
    let full = disk.make("full", 32 * MIB).expect("make");
    let other = disk.make("other", 32 * MIB).expect("make");
    let merged = overlay(dir, &full.upper, &full.work);
    let (wrote, error) = fill(&merged.join("big"));
    assert!(is_refusal(&error), "{error}");
    assert!(wrote <= 32 * MIB, "{wrote} bytes passed");
    assert!(wrote >= 28 * MIB, "only {wrote} bytes fit");
    // The neighbour has its own.
    std::fs::write(other.upper.join("file"), vec![1; 20 << 20]).expect("neighbour");
    // A full disk can be emptied, and used again.
    std::fs::remove_file(merged.join("big")).expect("delete on a full disk");
    rustix::fs::syncfs(File::open(&merged).expect("open")).expect("sync");
    std::fs::write(merged.join("again"), vec![1; 16 << 20]).expect("write again");
    end_overlay(dir);
    full.remove().expect("remove");
    disk.close().expect("close");
    drop(other);
}

/// An ext4 with project quotas, mounted on a folder in `dir`; an error if this kernel has none.
fn with_projects(dir: &Path) -> std::io::Result<PathBuf> {
    let (image, folder) = (dir.join("ext4.img"), dir.join("ext4"));
    File::create_new(&image)?.set_len(200 * MIB)?;
    std::fs::create_dir(&folder)?;
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().expect(program);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        if output.status.success() { Ok(()) } else { Err(std::io::Error::other(said)) }
    };
    let (image, point) = (image.to_str().expect("path"), folder.to_str().expect("path"));
    run("mkfs.ext4", &["-q", "-O", "project,quota", "-E", "quotatype=prjquota", image])?;
    run("mount", &["-o", "loop,prjquota", image, point])?;
    Ok(folder)
}

#[test]
fn project_quotas_are_used_where_the_kernel_has_them() {
    alone(|dir| {
        match with_projects(dir) {
            Ok(folder) => {
                let disk = Disk::open(&config(&folder, None)).expect("open");
                assert_eq!(disk.mechanism(), Mechanism::ProjectQuota);
                let left = disk.make("left", 8 * MIB).expect("make");
                std::fs::write(left.upper.join("file"), vec![1; 4 << 20]).expect("write");
                let used = left.usage().expect("usage");
                assert!((4 * MIB..5 * MIB).contains(&used), "{used}");
                drop(left);
                disk.close().expect("close");
                // What a killed server left is removed, and its limit lifted.
                kill_one("project", &folder);
                check_limit(&folder, Mechanism::ProjectQuota);
                assert_eq!(std::fs::read_dir(&folder).expect("list").count(), 1, "lost+found");
                umount(&folder).expect("unmount");
            }
            Err(error) => {
                println!("this kernel has no project quotas: {error}");
                let only = config(dir, Some(Mechanism::ProjectQuota));
                let refused = Disk::open(&only).expect_err("no quotas").to_string();
                assert!(refused.contains("project quota"), "{refused}");
            }
        }
        std::fs::remove_dir(dir.join("ext4")).expect("folder");
        std::fs::remove_file(dir.join("ext4.img")).expect("image");
    });
}

#[test]
fn many_small_files_count_too() {
    for mechanism in [Mechanism::Btrfs, Mechanism::Tmpfs] {
        alone(|dir| {
            let disk = open(dir, mechanism);
            let scratch = disk.make("small", 8 * MIB).expect("make");
            let full = (0..200_000).find_map(|n| {
                File::create(scratch.upper.join(format!("{n:060}"))).err().map(|error| (n, error))
            });
            let (count, error) = full.expect("empty files are unlimited");
            assert!(is_refusal(&error), "{error}");
            println!("{mechanism}: {count} empty files in 8 MiB");
            scratch.remove().expect("remove");
            disk.close().expect("close");
        });
    }
}

#[test]
fn removing_gives_the_space_back() {
    alone(|dir| {
        let disk = open(dir, Mechanism::Btrfs);
        let image = dir.join("palisade-scratch.img");
        let on_host = || {
            use std::os::unix::fs::MetadataExt;
            std::fs::metadata(&image).expect("image").blocks() * 512
        };
        // Each round fills most of the image: the second would not fit beside the first.
        for round in 0..3 {
            let scratch = disk.make("round", 700 * MIB).expect("make");
            let mut file = File::create(scratch.upper.join("big")).expect("create");
            for _ in 0..600 {
                file.write_all(&vec![9; 1 << 20]).unwrap_or_else(|e| panic!("round {round}: {e}"));
            }
            rustix::fs::syncfs(&file).expect("sync");
            drop(file);
            assert!(scratch.usage().expect("usage") >= 600 * MIB);
            assert!(on_host() >= 600 * MIB);
            scratch.remove().expect("remove");
            let deadline = Instant::now() + Duration::from_secs(30);
            while on_host() > 100 * MIB && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(50));
            }
            assert!(on_host() <= 100 * MIB, "the host still lacks {} bytes", on_host());
        }
        disk.close().expect("close");
    });
}

#[test]
fn a_full_image_recovers() {
    alone(|dir| {
        let small =
            DiskConfig { capacity_bytes: Some(300 * MIB), ..config(dir, Some(Mechanism::Btrfs)) };
        let disk = Disk::open(&small).expect("open");
        let first = disk.make("first", 250 * MIB).expect("make");
        let second = disk.make("second", 250 * MIB).expect("make");
        let (wrote, _) = fill(&first.upper.join("big"));
        assert!(wrote >= 240 * MIB, "{wrote}");
        let (_, error) = fill(&second.upper.join("big"));
        assert!(is_refusal(&error), "{error}");
        first.remove().expect("remove on a full image");
        let deadline = Instant::now() + Duration::from_secs(20);
        let mut wrote = 0;
        while wrote < 150 * MIB && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(200));
            wrote = fill(&second.upper.join("big")).0;
        }
        assert!(wrote >= 150 * MIB, "only {wrote} bytes after the removal");
        std::fs::remove_file(second.upper.join("big")).expect("delete");
        disk.make("third", 8 * MIB).expect("make after it was full");
    });
}

#[test]
fn usage_is_told() {
    for mechanism in [Mechanism::Btrfs, Mechanism::Tmpfs] {
        alone(|dir| {
            let disk = open(dir, mechanism);
            let scratch = disk.make("used", 32 * MIB).expect("make");
            let empty = scratch.usage().expect("usage");
            assert!(empty < MIB, "{empty}");
            std::fs::write(scratch.upper.join("file"), vec![1; 5 << 20]).expect("write");
            rustix::fs::syncfs(File::open(&scratch.upper).expect("open")).expect("sync");
            let used = scratch.usage().expect("usage");
            assert!((5 * MIB..6 * MIB).contains(&used), "{used}");
        });
    }
}

#[test]
fn what_cannot_be_kept_is_refused() {
    alone(|dir| {
        let disk = open(dir, Mechanism::Btrfs);
        for name in ["", "..", "a/b", "a\0", "ä", &"x".repeat(65)] {
            assert!(matches!(disk.make(name, 8 * MIB), Err(Error::Name(_))), "{name:?}");
        }
        assert!(matches!(disk.make("a", MIB), Err(Error::TooSmall(_))));
        let first = disk.make("a", 8 * MIB).expect("make");
        assert!(disk.make("a", 8 * MIB).is_err(), "the name is in use");
        assert!(first.upper.is_dir());
        disk.close().expect("close");
        assert!(matches!(disk.make("b", 8 * MIB), Err(Error::Closed)));
        let small = DiskConfig { capacity_bytes: Some(MIB), ..config(dir, Some(Mechanism::Btrfs)) };
        let error = Disk::open(&small).expect_err("too small").to_string();
        assert!(error.contains("capacity"), "{error}");
    });
}

#[test]
fn the_best_mechanism_is_taken_and_the_better_ones_are_explained() {
    alone(|dir| {
        let disk = Disk::open(&config(dir, None)).expect("open");
        for passed in disk.passed_over() {
            println!("{}: {} ({})", passed.mechanism, passed.why, passed.remedy);
            assert!(!passed.why.is_empty() && passed.mechanism != disk.mechanism());
        }
        println!("{} is taken", disk.mechanism());
        assert_ne!(disk.mechanism(), Mechanism::Tmpfs);
    });
}

/// Starts a server that holds a disk in `dir`, and kills it.
fn kill_one(mechanism: &str, dir: &Path) {
    let mut victim = Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "a_server_holds_its_disk", "--nocapture"])
        .env("PALISADE_TEST_VICTIM", format!("{mechanism} {}", dir.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the victim");
    let mut seen = String::new();
    let stdout = victim.stdout.as_mut().expect("stdout");
    while !seen.contains("holding") {
        let mut byte = [0];
        stdout.read_exact(&mut byte).expect("read what the victim says");
        seen.push(char::from(byte[0]));
    }
    victim.kill().expect("kill");
    victim.wait().expect("wait");
}

#[test]
fn what_a_killed_server_left_is_removed() {
    for mechanism in ["btrfs", "tmpfs"] {
        alone(|dir| {
            kill_one(mechanism, dir);
            let left = snapshot(dir);
            assert!(left.len() >= 2, "{left:?}");
            // A file that is still open somewhere does not stop the next server.
            let open_file = File::open(dir.join("palisade-scratch/left/upper/file")).expect("open");
            let disk = open(dir, Mechanism::Btrfs);
            let scratch = disk.make("left", 8 * MIB).expect("make under the old name");
            assert_eq!(std::fs::read_dir(&scratch.upper).expect("list").count(), 0);
            drop(open_file);
            disk.close().expect("close");
        });
    }
}

/// The victim of the test above; by itself, a check that what is open can be closed.
#[test]
fn a_server_holds_its_disk() {
    let hold = |dir: &Path, only| {
        let disk = open(dir, only);
        let scratch = disk.make("left", 16 * MIB).expect("make");
        std::fs::write(scratch.upper.join("file"), "left behind").expect("write");
        println!("holding");
        if std::env::var_os("PALISADE_TEST_VICTIM").is_some() {
            // Until killed, or until the other test is gone.
            let _ = std::io::stdin().read(&mut [0]);
        }
        disk.close().expect("close");
    };
    match std::env::var("PALISADE_TEST_VICTIM") {
        Ok(victim) => match victim.split_once(' ') {
            Some(("project", dir)) => hold(Path::new(dir), Mechanism::ProjectQuota),
            Some(("tmpfs", dir)) => hold(Path::new(dir), Mechanism::Tmpfs),
            Some((_, dir)) => hold(Path::new(dir), Mechanism::Btrfs),
            None => panic!("no folder"),
        },
        Err(_) => alone(|dir| hold(dir, Mechanism::Btrfs)),
    }
}

#[test]
fn making_and_removing_take_milliseconds() {
    for mechanism in [Mechanism::Btrfs, Mechanism::Tmpfs] {
        alone(|dir| {
            let start = Instant::now();
            let disk = open(dir, mechanism);
            let opened = start.elapsed();
            let (mut making, mut removing) = (Vec::new(), Vec::new());
            for n in 0..30 {
                let start = Instant::now();
                let scratch = disk.make(&format!("n{n}"), 64 * MIB).expect("make");
                making.push(start.elapsed());
                std::fs::write(scratch.upper.join("file"), vec![1; 4 << 20]).expect("write");
                let start = Instant::now();
                scratch.remove().expect("remove");
                removing.push(start.elapsed());
            }
            making.sort();
            removing.sort();
            let start = Instant::now();
            disk.close().expect("close");
            println!(
                "{mechanism}: open {opened:?}, make {:?} (worst {:?}), remove {:?} (worst {:?}), \
                 close {:?}",
                making[15],
                making[29],
                removing[15],
                removing[29],
                start.elapsed()
            );
            assert!(making[15] < Duration::from_millis(500), "{:?}", making[15]);
        });
    }
}

/// What a container stands on outlives the server that made it, whether that ends well or not; the
/// next one takes it over with its limit, and removes the rest.
#[test]
fn what_is_left_is_taken_over() {
    for mechanism in [Mechanism::Btrfs, Mechanism::Tmpfs] {
        for ends_well in [true, false] {
            alone(|dir| check_taken_over(dir, mechanism, ends_well));
        }
    }
}

fn check_taken_over(dir: &Path, mechanism: Mechanism, ends_well: bool) {
    let disk = open(dir, mechanism);
    let (kept, other) = (disk.make("kept", 16 * MIB), disk.make("other", 16 * MIB));
    let (kept, other) = (kept.expect("make"), other.expect("make"));
    std::fs::write(kept.upper.join("file"), "kept").expect("write");
    std::fs::write(other.upper.join("file"), "other").expect("write");
    kept.leave();
    // A killed server leaves everything as it is.
    if ends_well {
        drop(other);
    } else {
        other.leave();
    }
    disk.close().expect("close");
    drop(disk);
    let names = ["kept".to_owned()];
    let disk = Disk::open_keeping(&config(dir, None), &names).expect("open again");
    assert_eq!(disk.mechanism(), mechanism);
    assert!(disk.adopt("other").is_err(), "{mechanism}: it was not to be kept");
    let kept = disk.adopt("kept").expect("adopt");
    assert_eq!(std::fs::read_to_string(kept.upper.join("file")).expect("read"), "kept");
    let (wrote, error) = fill(&kept.upper.join("more"));
    assert!(wrote <= 16 * MIB && is_refusal(&error), "{mechanism}: {wrote} bytes, {error}");
    let new = disk.make("new", 16 * MIB).expect("make");
    new.remove().expect("remove");
    kept.remove().expect("remove");
    disk.close().expect("close");
}
