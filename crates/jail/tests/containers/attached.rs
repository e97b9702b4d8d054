//! Trees that are laid into a running container, and sockets inside of it.

use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jail::{AttachError, Child, Tree, Writable, attach, detach};

use crate::ground::{Ground, base, exec, say, script};
use crate::life::{leaves_nothing, wait_until};

fn read_only(layers: &[PathBuf]) -> Tree {
    Tree { layers: layers.to_vec(), writable: None }
}

fn say_not(child: &Child, text: &str) -> String {
    let (exit, out, err) = exec(child, &script(text)).unwrap().finish();
    assert_ne!(exit, jail::Exit::Code(0), "{text}: {out}");
    err
}

#[test]
fn a_tree_comes_and_goes() {
    let ground = Ground::new();
    let child = ground.hold();
    let one = ground.layer("one", "a/file", "one");
    let two = ground.layer("two", "a/file", "two");
    fs::write(one.join("owned"), "").unwrap();
    std::os::unix::fs::chown(one.join("owned"), Some(1000), Some(1001)).unwrap();
    say(&child, "mkdir /mine; echo own > /mine/own");
    attach(child.pid(), Path::new("/mine"), &read_only(std::slice::from_ref(&one))).unwrap();
    let seen = say(&child, "cat /mine/a/file; stat -c %u:%g /mine /mine/owned; ls /mine");
    assert_eq!(seen, "one0:0\n1000:1001\na\nowned");
    assert!(say_not(&child, "echo x > /mine/new").contains("Read-only"));
    // A missing folder is made, by the container's root.
    let deep = Path::new("/new/deep");
    attach(child.pid(), deep, &read_only(&[one.clone(), two])).unwrap();
    assert_eq!(say(&child, "cat /new/deep/a/file; stat -c %u /new"), "two0");
    assert_eq!(fs::metadata(ground.path("scratch/upper/new")).unwrap().uid(), 0);
    let mounts = say(&child, "cat /proc/self/mountinfo");
    assert!(!mounts.contains("jail-host-path"), "{mounts}");
    for target in ["/mine", "/new/deep"] {
        detach(child.pid(), Path::new(target)).unwrap();
    }
    assert_eq!(say(&child, "cat /mine/own; ls /new/deep | wc -l"), "own\n0");
    child.end().unwrap();
    leaves_nothing(&ground);
}

#[test]
fn what_is_written_stays_in_its_folder() {
    let ground = Ground::new();
    let child = ground.hold();
    for name in ["more", "more/upper", "more/work"] {
        fs::create_dir(ground.path(name)).unwrap();
    }
    let layer = ground.layer("one", "old", "old");
    let writable = Writable {
        upper: ground.path("more/upper"),
        work: ground.path("more/work"),
        volatile: false,
    };
    let tree = Tree { layers: vec![layer.clone()], writable: Some(writable) };
    attach(child.pid(), Path::new("/data"), &tree).unwrap();
    say(&child, "echo new > /data/new; chown 1000 /data/new; echo changed > /data/old");
    let facts = fs::metadata(ground.path("more/upper/new")).unwrap();
    assert_eq!((facts.uid(), facts.gid()), (1000, 0));
    assert_eq!(fs::read_to_string(ground.path("more/upper/old")).unwrap(), "changed\n");
    assert_eq!(fs::read_to_string(layer.join("old")).unwrap(), "old");
    // A program that uses it keeps it.
    let user = exec(&child, &script("cd /data; echo > /tmp/up; read x; cat new")).unwrap();
    wait_until("it is there", || ground.path("scratch/upper/tmp/up").exists());
    detach(child.pid(), Path::new("/data")).unwrap();
    assert_eq!(say(&child, "ls /data | wc -l"), "0");
    user.tell("go\n");
    assert_eq!(user.finish().1, "new\n");
    child.end().unwrap();
    leaves_nothing(&ground);
}

#[test]
fn the_host_sees_what_a_container_sees() {
    let ground = Ground::new();
    let child = ground.hold();
    for name in ["more", "more/upper", "more/work"] {
        fs::create_dir(ground.path(name)).unwrap();
    }
    let layer = ground.layer("one", "old", "old");
    let writable = Writable {
        upper: ground.path("more/upper"),
        work: ground.path("more/work"),
        volatile: true,
    };
    let tree = Tree { layers: vec![layer.clone()], writable: Some(writable) };
    say(&child, "mkdir -p '/a b/c'; echo own > '/a b/own'; ln -s '/a b' /link");
    let id = attach(child.pid(), Path::new("/link/c"), &tree).unwrap();
    say(&child, "echo new > /link/c/new; chown 7 /link/c/new; rm /link/c/old; mv '/a b' /moved");
    let attached = jail::attached(child.pid()).unwrap();
    assert_eq!(attached, [jail::Attached { id, path: "/moved/c".into() }]);
    child.freeze().unwrap();
    let layers = vec![base().to_owned(), ground.path("scratch/upper")];
    let trees = [("/".into(), layers), ("/moved/c".into(), vec![layer, ground.path("more/upper")])];
    let root = jail::Root::of(jail::view(&trees).unwrap());
    assert_eq!(root.read(Path::new("/moved/own"), 9).unwrap(), b"own\n");
    assert_eq!(root.read(Path::new("/moved/c/new"), 9).unwrap(), b"new\n");
    assert_eq!(root.stat(Path::new("/moved/c/new")).unwrap().uid, 7);
    assert!(root.stat(Path::new("/moved/c/old")).unwrap_err().is_not_found());
    assert!(root.mkdir(Path::new("/moved/c/x"), 0o755).is_err(), "it is read-only");
    drop(root);
    child.thaw().unwrap();
    detach(child.pid(), Path::new("/moved/c")).unwrap();
    assert_eq!(jail::attached(child.pid()).unwrap(), []);
    child.end().unwrap();
    leaves_nothing(&ground);
}

#[test]
fn links_lead_out_nowhere() {
    let ground = Ground::new();
    let outside = ground.path("outside");
    fs::create_dir(&outside).unwrap();
    let child = ground.hold();
    let layer = ground.layer("one", "file", "one");
    let tree = read_only(std::slice::from_ref(&layer));
    let text = format!(
        "ln -s ../../../../../..{0} /up; ln -s {0} /absolute; ln -s /proc/1/root/tmp /magic; \
         ln -s /proc/self/root/tmp /self; mkdir /real; ln -s real /link; ln -s loop /loop; \
         echo > /plain",
        outside.display()
    );
    say(&child, &text);
    for target in ["/up", "/absolute"] {
        // The path of the host does not exist inside: a link to nowhere.
        attach(child.pid(), Path::new(target), &tree).expect_err(target);
    }
    for target in ["/magic", "/self", "/magic/x", "/loop", "/plain", "/plain/x"] {
        attach(child.pid(), Path::new(target), &tree).expect_err(target);
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    for target in ["/", "relative", "/a/../b"] {
        let error = attach(child.pid(), Path::new(target), &tree).expect_err(target);
        assert!(matches!(error, AttachError::Refused(_)), "{error}");
    }
    attach(child.pid(), Path::new("/link"), &tree).unwrap();
    assert_eq!(say(&child, "cat /real/file"), "one");
    detach(child.pid(), Path::new("/link")).unwrap();
    // Its own walls are not taken away.
    for target in ["/proc", "/proc/kcore", "/sys", "/dev", "/dev/shm", "/real", "/etc/.."] {
        let error = detach(child.pid(), Path::new(target)).expect_err(target);
        let refused = matches!(error, AttachError::NotAttached(_) | AttachError::Refused(_));
        assert!(refused || target == "/proc/kcore", "{target}: {error}");
    }
    say(&child, "ln -s / /top");
    let error = attach(child.pid(), Path::new("/top"), &tree).expect_err("the root");
    assert!(error.to_string().contains("`target` leads to the whole root"), "{error}");
    assert!(matches!(detach(child.pid(), Path::new("/top")), Err(AttachError::NotAttached(_))));
    // Nor is a process of the host a container.
    let me = i32::try_from(std::process::id()).unwrap();
    let error = attach(me, Path::new("/tmp/jail-test-attach"), &tree).expect_err("the host");
    assert!(matches!(error, AttachError::NoContainer { .. }), "{error}");
    child.end().unwrap();
    leaves_nothing(&ground);
}

#[test]
fn the_caller_may_connect_inside() {
    let ground = Ground::new();
    let (prepared, _, _stdin) = crate::ground::prepare(&ground.plan_for_execs());
    let namespace = prepared.network_namespace().try_clone_to_owned().unwrap();
    let namespace = std::os::fd::AsFd::as_fd(&namespace);
    let child = prepared.start().unwrap();
    let address: SocketAddr = "127.0.0.1:8000".parse().unwrap();
    let limit = Duration::from_secs(2);
    let refused = jail::connect_inside(namespace, address, limit).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    let text = "while true; do echo hello | nc -l -p 8000; done";
    let _server = exec(&child, &script(text)).unwrap();
    let connect = || jail::connect_inside(namespace, address, limit);
    wait_until("it listens", || connect().is_ok());
    let mut text = String::new();
    wait_until("it answers", || {
        connect().is_ok_and(|mut stream| {
            text.clear();
            stream.read_to_string(&mut text).is_ok() && !text.is_empty()
        })
    });
    assert_eq!(text, "hello\n");
    child.end().unwrap();
    leaves_nothing(&ground);
}
