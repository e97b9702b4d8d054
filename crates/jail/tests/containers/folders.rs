//! Folders that come from the caller, and folders of which nothing may be believed.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use jail::{Bind, BindIds, InlineFile, Kind, Root, Tmpfs};

use crate::ground::{Ground, base, run};

fn bind(source: &Path, target: &str, read_only: bool, ids: BindIds) -> Bind {
    Bind { source: source.to_owned(), target: target.into(), read_only, ids }
}

#[test]
fn bound_folders_are_seen_and_written_with_mapped_ids() {
    let ground = Ground::new();
    let (shared, fixed) = (ground.path("shared"), ground.path("fixed"));
    for folder in [&shared, &fixed] {
        fs::create_dir(folder).unwrap();
        fs::write(folder.join("in"), "given").unwrap();
    }
    let script = "cat /mnt/a/in /mnt/b/in; stat -c %u /mnt/a/in /mnt/b/in; echo new > /mnt/a/out; \
                  echo new > /mnt/b/out; cat /etc/one; cp /bin/true /mnt/a/x; mknod /mnt/a/p p";
    let mut plan = ground.plan(script);
    plan.binds = vec![
        bind(&shared, "/mnt/a", false, BindIds::Mapped),
        bind(&fixed, "/mnt/b", true, BindIds::AsIs),
        bind(&fixed.join("in"), "/etc/one", true, BindIds::default()),
    ];
    let said = run(&plan);
    assert_eq!(said.out, "givengiven0\n65534\ngiven", "{}", said.err);
    assert!(said.err.contains("/mnt/b/out: Read-only file system"), "{}", said.err);
    assert_eq!(fs::read_to_string(shared.join("out")).unwrap(), "new\n");
    assert_eq!(fs::metadata(shared.join("out")).unwrap().uid(), 0);
    assert!(!fixed.join("out").exists());
}

#[test]
fn small_files_and_memory_file_systems_are_there() {
    let ground = Ground::new();
    let file = |target: &str, content: &str, read_only| InlineFile {
        target: target.into(),
        content: content.into(),
        mode: 0o640,
        read_only,
    };
    let script = "cat /etc/resolv.conf /deep/er/file; stat -c %a:%u /deep/er/file; \
                  echo y > /etc/resolv.conf; cat /etc/resolv.conf; echo z > /deep/er/file; \
                  stat -c %a /scratch; \
                  dd if=/dev/zero of=/scratch/x bs=1M count=3 2>&1 | grep -c space; \
                  cat /proc/self/mountinfo";
    let mut plan = ground.plan(script);
    let layer = ground.path("links");
    fs::create_dir_all(layer.join("etc")).unwrap();
    // Where the image has a link to nowhere.
    symlink("../run/systemd/resolv.conf", layer.join("etc/resolv.conf")).unwrap();
    plan.layers.push(layer);
    plan.files = vec![file("/etc/resolv.conf", "x\n", false), file("/deep/er/file", "f\n", true)];
    plan.tmpfs = vec![Tmpfs { target: "/scratch".into(), bytes: 2 << 20, mode: 0o1777 }];
    let said = run(&plan);
    assert!(said.out.starts_with("x\nf\n640:0\ny\n1777\n1\n"), "{}\n{}", said.out, said.err);
    assert!(said.err.contains("Read-only"), "{}", said.err);
    assert!(!said.out.contains("jail-host-path"), "{}", said.out);
}

#[test]
fn links_of_an_image_lead_nowhere_outside() {
    let ground = Ground::new();
    let layer = ground.path("evil");
    fs::create_dir_all(&layer).unwrap();
    let outside = ground.path("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, layer.join("data")).unwrap();
    symlink("../../../../../../etc", layer.join("up")).unwrap();
    let source = ground.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("here"), "here").unwrap();
    let mut plan = ground.plan("cat /data/here /up/x/here");
    plan.layers.push(layer);
    plan.binds = vec![
        bind(&source, "/data", false, BindIds::AsIs),
        bind(&source, "/up/x", false, BindIds::AsIs),
    ];
    let said = run(&plan);
    assert_eq!(said.out, "herehere", "{}", said.err);
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert!(!Path::new("/etc/x").exists());
}

#[test]
fn an_overlay_of_the_host_takes_copies() {
    let ground = Ground::new();
    let lower = ground.layer("lower", "etc/kept", "kept");
    symlink("/etc", lower.join("link")).unwrap();
    symlink("../../../../../../../../tmp", lower.join("climb")).unwrap();
    let (upper, work) = (ground.path("scratch/upper"), ground.path("scratch/work"));
    let mounted = jail::overlay(&[base().to_owned(), lower], &upper, &work).unwrap();
    let root = Root::of(mounted);
    assert_eq!(root.read("/etc/kept".as_ref(), 100).unwrap(), b"kept");
    // Absolute and climbing links stay inside.
    std::io::Write::write_all(&mut root.create("link/new".as_ref(), 0o600).unwrap(), b"new")
        .unwrap();
    root.create("/climb/mine".as_ref(), 0o644).unwrap();
    root.remove("etc/kept".as_ref()).unwrap();
    assert!(!Path::new("/etc/new").exists() && !Path::new("/tmp/mine").exists());
    drop(root);
    assert_eq!(fs::read_to_string(upper.join("etc/new")).unwrap(), "new");
    assert!(upper.join("tmp/mine").exists());
    let facts = fs::metadata(upper.join("etc/new")).unwrap();
    assert_eq!((facts.uid(), facts.mode() & 0o7777), (0, 0o600));
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains("overlay palisade"), "{mounts}");
}

#[test]
fn a_root_is_never_left() {
    let ground = Ground::new();
    let inside = ground.path("inside");
    fs::create_dir(&inside).unwrap();
    let secret = ground.path("secret");
    fs::write(&secret, "secret").unwrap();
    for (to, name) in [
        (secret.to_str().unwrap(), "absolute"),
        ("../secret", "relative"),
        ("/proc/self/root/etc/passwd", "magic"),
        ("/proc/self/cwd", "magic-folder"),
        ("loop", "loop"),
        ("/", "top"),
        ("nowhere", "dangling"),
    ] {
        symlink(to, inside.join(name)).unwrap();
    }
    let root = Root::open_folder(&inside).unwrap();
    for path in
        ["absolute", "relative", "magic", "../secret", "top/../../secret", "loop", "dangling"]
    {
        assert!(root.open(path.as_ref()).is_err(), "{path}");
        assert!(root.read(path.as_ref(), 100).is_err(), "{path}");
    }
    // Through links nothing is made outside either; links themselves are not replaced by content.
    for path in ["absolute", "relative", "../secret2", "magic-folder/x", "dangling"] {
        let _ = root.create(path.as_ref(), 0o644);
        let _ = root.mkdir_all(path.as_ref(), 0o755);
        let _ = root.chmod(path.as_ref(), 0o777);
        let _ = root.remove(path.as_ref());
        let _ = root.remove_all(path.as_ref());
    }
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    assert_eq!(fs::metadata(&secret).unwrap().mode() & 0o777, 0o644);
    assert!(!ground.path("secret2").exists());
    for path in ["/", "", "..", "a/..", "."] {
        assert!(root.remove_all(path.as_ref()).is_err(), "{path:?}");
        assert!(root.mkdir(path.as_ref(), 0o755).is_err(), "{path:?}");
    }
}

#[test]
fn devices_and_pipes_are_not_opened() {
    let ground = Ground::new();
    let inside = ground.path("inside");
    fs::create_dir(&inside).unwrap();
    let device = rustix::fs::makedev(1, 3);
    let kinds = [
        ("null", rustix::fs::FileType::CharacterDevice, device),
        ("pipe", rustix::fs::FileType::Fifo, 0),
    ];
    for (name, kind, device) in kinds {
        let mode = rustix::fs::Mode::from_raw_mode(0o666);
        rustix::fs::mknodat(rustix::fs::CWD, inside.join(name), kind, mode, device).unwrap();
    }
    let root = Root::open_folder(&inside).unwrap();
    for name in ["null", "pipe"] {
        let error = root.open(name.as_ref()).expect_err(name);
        assert!(matches!(error, jail::RootError::Special { .. }), "{error}");
        assert!(root.create(name.as_ref(), 0o644).is_err());
        assert_eq!(root.stat(name.as_ref()).unwrap().kind, Kind::Special);
        root.remove(name.as_ref()).unwrap();
    }
}

#[test]
fn a_root_does_what_it_says() {
    let ground = Ground::new();
    let root = Root::open_folder(ground.dir.path()).unwrap();
    root.mkdir_all("a/b/c".as_ref(), 0o750).unwrap();
    root.mkdir_all("a/b/c".as_ref(), 0o700).unwrap();
    let file = root.create("a/file".as_ref(), 0o4755).unwrap();
    std::io::Write::write_all(&mut &file, b"12345").unwrap();
    let facts = root.stat("a/file".as_ref()).unwrap();
    assert_eq!((facts.kind, facts.size_bytes, facts.mode), (Kind::File, 5, 0o4755));
    assert_eq!(root.stat("a/b".as_ref()).unwrap().mode, 0o750);
    assert!(root.create_new("a/file".as_ref(), 0o644).is_err());
    root.create("a/file".as_ref(), 0o600).unwrap();
    assert_eq!(root.stat("a/file".as_ref()).unwrap().size_bytes, 0);
    assert_eq!(root.stat("a/file".as_ref()).unwrap().mode, 0o4755);
    root.chmod("a/file".as_ref(), 0o600).unwrap();
    root.symlink("file".as_ref(), "a/link".as_ref()).unwrap();
    assert_eq!(root.read_link("a/link".as_ref()).unwrap(), "file");
    assert_eq!(root.stat_link("a/link".as_ref()).unwrap().kind, Kind::Link);
    assert_eq!(root.stat("a/link".as_ref()).unwrap().mode, 0o600);
    root.link("a/file".as_ref(), "a/hard".as_ref()).unwrap();
    root.rename("a/hard".as_ref(), "a/soft".as_ref()).unwrap();
    root.chown("a/soft".as_ref(), 12, 34).unwrap();
    root.set_modified("a/soft".as_ref(), 1_000_000).unwrap();
    let facts = root.stat("a/file".as_ref()).unwrap();
    assert_eq!((facts.uid, facts.gid, facts.modified_s), (12, 34, 1_000_000));
    let names: Vec<_> = root.read_dir("a".as_ref()).unwrap();
    let names: Vec<_> = names.iter().map(|e| (e.name.to_str().unwrap(), e.kind)).collect();
    let want =
        [("b", Kind::Folder), ("file", Kind::File), ("link", Kind::Link), ("soft", Kind::File)];
    assert_eq!(names, want);
    assert!(root.remove("a".as_ref()).is_err());
    root.remove("a/b/c".as_ref()).unwrap();
    root.remove_all("a".as_ref()).unwrap();
    assert!(root.stat("a".as_ref()).expect_err("gone").is_not_found());
    let below = root.below("scratch".as_ref()).unwrap();
    assert_eq!(below.read_dir("/".as_ref()).unwrap().len(), 2);
}

#[test]
fn a_hostile_tree_is_removed() {
    let ground = Ground::new();
    // Deeper than descriptors reach, and with a link out.
    let kept = ground.layer("kept", "file", "kept");
    let mut folder = rustix::fs::openat(
        rustix::fs::CWD,
        ground.dir.path(),
        rustix::fs::OFlags::DIRECTORY,
        rustix::fs::Mode::empty(),
    )
    .unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&folder, "deep", rustix::fs::Mode::from_raw_mode(0o700)).unwrap();
        rustix::fs::symlinkat(&kept, &folder, "out").unwrap();
        let flags = rustix::fs::OFlags::DIRECTORY;
        folder = rustix::fs::openat(&folder, "deep", flags, rustix::fs::Mode::empty()).unwrap();
    }
    drop(folder);
    let root = Root::open_folder(ground.dir.path()).unwrap();
    root.remove_all("deep".as_ref()).unwrap();
    root.remove_all("out".as_ref()).unwrap();
    assert!(!ground.path("deep").exists());
    assert_eq!(fs::read_to_string(kept.join("file")).unwrap(), "kept");
    fs::set_permissions(&kept, fs::Permissions::from_mode(0o000)).unwrap();
    root.remove_all("kept".as_ref()).unwrap();
    assert!(!kept.exists());
}
