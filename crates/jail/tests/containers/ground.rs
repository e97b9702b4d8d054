//! What every test stands on: a small root of busybox, a control group, ids, and cleaning up.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use jail::{
    Child, Ended, Exec, ExecError, ExecIo, IdRange, Limits, Plan, Prepared, Process, Standby, Stdio,
};

/// The building process of these tests.
pub(crate) fn exe() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_jail-run"))
}

/// Layers and a writable folder in a place of their own, removed with the value.
pub(crate) struct Ground {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) parent: String,
    pub(crate) ids: IdRange,
}

/// A program that has ended, and what it said.
pub(crate) struct Said {
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) ended: Ended,
}

/// A running program whose output is being read.
pub(crate) struct Running {
    pub(crate) child: Child,
    stdin: Option<OwnedFd>,
    out: JoinHandle<String>,
    err: JoinHandle<String>,
}

impl Ground {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(rustix::process::geteuid().is_root(), "these tests must be run as root");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let process = std::process::id();
        let dir = tempfile::Builder::new().prefix("jail-host-path-").tempdir().unwrap();
        for name in ["scratch", "scratch/upper", "scratch/work"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let first = 1_879_048_192 + (process % 1000 * 64 + number % 64) % 4000 * 65_536;
        let parent = format!("palisade-test-{process}-{number}");
        Self { dir, parent, ids: IdRange { first, count: 65_536 } }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Makes a further layer of one file.
    pub(crate) fn layer(&self, name: &str, file: &str, content: &str) -> PathBuf {
        let layer = self.path(name);
        let path = layer.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        layer
    }

    /// A plan that runs a shell script.
    pub(crate) fn plan(&self, script: &str) -> Plan {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        Plan {
            name: format!("test-{number}"),
            cgroup_parent: self.parent.clone(),
            hostname: "inside".into(),
            ids: self.ids,
            layers: vec![base().to_owned()],
            upper: self.path("scratch/upper"),
            work: self.path("scratch/work"),
            volatile: false,
            binds: vec![],
            files: vec![],
            tmpfs: vec![],
            shm_bytes: 1 << 20,
            limits: Limits {
                memory_bytes: 64 << 20,
                cpu_weight: 100,
                cpu_max_millis: None,
                pids: 64,
                open_files: 256,
                file_size_bytes: None,
            },
            process: Some(Process {
                argv: vec!["sh".into(), "-c".into(), script.into()],
                env: vec![("PATH".into(), "/bin".into()), ("ONLY".into(), "this".into())],
                cwd: "/".into(),
                uid: 0,
                gid: 0,
                groups: vec![],
            }),
            takes_execs: false,
            end_with_caller: true,
        }
    }

    /// A plan of a container without a program, in which programs can be started.
    pub(crate) fn plan_for_execs(&self) -> Plan {
        Plan { process: None, takes_execs: true, ..self.plan("") }
    }

    /// Such a container.
    pub(crate) fn hold(&self) -> Child {
        hold(&self.plan_for_execs())
    }

    /// Runs a script to its end.
    pub(crate) fn run(&self, script: &str) -> Said {
        run(&self.plan(script))
    }

    /// What a script prints; it must succeed.
    pub(crate) fn say(&self, script: &str) -> String {
        let said = self.run(script);
        let good = said.ended.exit == jail::Exit::Code(0);
        assert!(good, "{script}: {:?}\n{}{}", said.ended, said.out, said.err);
        said.out.trim().to_owned()
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        let _ = jail::sweep(&self.parent, &[]);
        for path in groups(&self.parent) {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Directories of this name at the top of the control group trees.
pub(crate) fn groups(name: &str) -> Vec<PathBuf> {
    let tops = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
    let tops = tops.chain([PathBuf::from("/sys/fs/cgroup")]);
    tops.map(|top| top.join(name)).filter(|path| path.is_dir()).collect()
}

/// A process that will build a container below the ground's control group.
pub(crate) fn stand_by(ground: &Ground, name: &str) -> Standby {
    Standby::with(exe(), &ground.parent, name).unwrap_or_else(|e| panic!("{e}"))
}

/// Starts `plan` without streams.
pub(crate) fn hold(plan: &Plan) -> Child {
    let prepared = jail::prepare_with(exe(), plan, Stdio::null().unwrap());
    prepared.unwrap_or_else(|e| panic!("{e}")).start().unwrap()
}

/// A shell script as a further program.
pub(crate) fn script(text: &str) -> Process {
    Process {
        argv: vec!["sh".into(), "-c".into(), text.into()],
        env: vec![("PATH".into(), "/bin".into())],
        cwd: "/".into(),
        uid: 0,
        gid: 0,
        groups: vec![],
    }
}

/// A further program whose output is being read.
pub(crate) struct Started {
    pub(crate) exec: Exec,
    stdin: Option<OwnedFd>,
    out: JoinHandle<String>,
    err: JoinHandle<String>,
}

/// Starts a further program with pipes.
pub(crate) fn exec(child: &Child, process: &Process) -> Result<Started, ExecError> {
    let (out, out_end) = std::io::pipe().unwrap();
    let (err, err_end) = std::io::pipe().unwrap();
    let (in_end, stdin) = std::io::pipe().unwrap();
    let stdio = Stdio { stdin: in_end.into(), stdout: out_end.into(), stderr: err_end.into() };
    let exec = child.exec(process, ExecIo::Streams(stdio))?;
    Ok(Started { exec, stdin: Some(stdin.into()), out: read(out), err: read(err) })
}

/// What a script prints as a further program; it must succeed.
pub(crate) fn say(child: &Child, text: &str) -> String {
    let (exit, out, err) = exec(child, &script(text)).unwrap_or_else(|e| panic!("{e}")).finish();
    assert_eq!(exit, jail::Exit::Code(0), "{text}: {out}{err}");
    out.trim().to_owned()
}

impl Started {
    /// Writes to its stdin.
    pub(crate) fn tell(&self, text: &str) {
        let stdin = self.stdin.as_ref().unwrap().try_clone().unwrap();
        fs::File::from(stdin).write_all(text.as_bytes()).unwrap();
    }

    /// Closes its stdin and waits for it: exit, stdout, stderr.
    pub(crate) fn finish(mut self) -> (jail::Exit, String, String) {
        self.stdin = None;
        let exit = self.exec.wait().unwrap();
        (exit, self.out.join().unwrap(), self.err.join().unwrap())
    }
}

fn read(mut pipe: std::io::PipeReader) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = vec![];
        pipe.read_to_end(&mut bytes).unwrap();
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// Prepares `plan` with pipes.
pub(crate) fn prepare(plan: &Plan) -> (Prepared, [std::io::PipeReader; 2], OwnedFd) {
    let (out, out_end) = std::io::pipe().unwrap();
    let (err, err_end) = std::io::pipe().unwrap();
    let (in_end, stdin) = std::io::pipe().unwrap();
    let stdio = Stdio { stdin: in_end.into(), stdout: out_end.into(), stderr: err_end.into() };
    let prepared = jail::prepare_with(exe(), plan, stdio);
    (prepared.unwrap_or_else(|e| panic!("{e}")), [out, err], stdin.into())
}

/// Starts `plan` with pipes.
pub(crate) fn start(plan: &Plan) -> Running {
    let (prepared, [out, err], stdin) = prepare(plan);
    let child = prepared.start().unwrap_or_else(|e| panic!("{e}"));
    Running { child, stdin: Some(stdin), out: read(out), err: read(err) }
}

impl Running {
    /// Closes its stdin, waits for the program, ends the container.
    pub(crate) fn finish(mut self) -> Said {
        self.stdin = None;
        self.child.wait().unwrap();
        self.end()
    }

    /// Ends the container at once.
    pub(crate) fn end(self) -> Said {
        let ended = self.child.end().unwrap();
        Said { out: self.out.join().unwrap(), err: self.err.join().unwrap(), ended }
    }

    pub(crate) fn tell(&mut self, text: &str) {
        let stdin = self.stdin.as_ref().unwrap().try_clone().unwrap();
        std::fs::File::from(stdin).write_all(text.as_bytes()).unwrap();
    }
}

/// Runs `plan` to its end.
pub(crate) fn run(plan: &Plan) -> Said {
    start(plan).finish()
}

/// A root of busybox and the probe, shared by all tests of this process and never written to.
pub(crate) fn base() -> &'static Path {
    static BASE: OnceLock<PathBuf> = OnceLock::new();
    BASE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("busybox-root");
        let ready = dir.join(".ready");
        if ready.exists() {
            return dir;
        }
        let _ = fs::remove_dir_all(&dir);
        for name in ["bin", "etc", "tmp"] {
            fs::create_dir_all(dir.join(name)).unwrap();
        }
        fs::set_permissions(dir.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
        fs::copy("/bin/busybox", dir.join("bin/busybox")).expect("busybox-static is needed");
        let list = Command::new("/bin/busybox").arg("--list").output().unwrap().stdout;
        for applet in String::from_utf8(list).unwrap().lines().filter(|name| *name != "busybox") {
            symlink("busybox", dir.join("bin").join(applet)).unwrap();
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/containers/probe.c");
        let mut cc = Command::new("cc");
        cc.args(["-static", "-O1", "-o"]).arg(dir.join("bin/probe")).arg(source);
        assert!(cc.status().expect("a C compiler is needed").success());
        fs::write(ready, "").unwrap();
        dir
    })
}
