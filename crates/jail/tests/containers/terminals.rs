//! Further programs with a terminal.

use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

use jail::{Child, Exec, ExecIo, Exit, Process};

use crate::ground::{Ground, say, script};
use crate::life::leaves_nothing;

/// A program and its terminal.
struct Session {
    exec: Exec,
    terminal: File,
    seen: String,
}

impl Session {
    fn start(child: &Child, process: &Process) -> Self {
        let exec = child.exec(process, ExecIo::Terminal { rows: 30, columns: 100 }).unwrap();
        let terminal = exec.terminal().unwrap().try_clone_to_owned().unwrap();
        Self { exec, terminal: terminal.into(), seen: String::new() }
    }

    fn tell(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }

    /// Reads until `text` has been seen; answers everything up to it.
    fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(at) = self.seen.find(text) {
                let rest = self.seen.split_off(at + text.len());
                return std::mem::replace(&mut self.seen, rest);
            }
            assert!(Instant::now() < deadline, "no {text:?} in {:?}", self.seen);
            let mut bytes = [0; 4096];
            // EIO: the program's side is closed.
            let count = self.terminal.read(&mut bytes).unwrap_or(0);
            assert!(count > 0, "no {text:?} in {:?}", self.seen);
            self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    }
}

#[test]
fn it_is_the_containers_and_the_programs() {
    let ground = Ground::new();
    let child = ground.hold();
    let mut process = script(
        "tty; stty size; stat -c %u:%a $(tty); echo to-tty > /dev/tty; \
         test -t 0 && test -t 1 && test -t 2 && echo all; ls /dev/pts; read line; \
         echo got $line; exit 6",
    );
    (process.uid, process.gid) = (1000, 1000);
    let mut session = Session::start(&child, &process);
    let seen = session.expect("ptmx\r\n");
    assert!(seen.starts_with("/dev/pts/0\r\n30 100\r\n1000:620\r\nto-tty\r\n"), "{seen:?}");
    assert!(seen.contains("all\r\n0     ptmx"), "{seen:?}");
    session.tell("line\n");
    session.expect("got line\r\n");
    assert_eq!(session.exec.wait().unwrap(), Exit::Code(6));
    // Its name is free again once the caller lets go.
    drop(session);
    assert_eq!(say(&child, "ls /dev/pts"), "ptmx");
    child.end().unwrap();
    leaves_nothing(&ground);
}

#[test]
fn keys_and_sizes_reach_it() {
    let ground = Ground::new();
    let child = ground.hold();
    let text = "trap 'stty size' WINCH; trap 'echo interrupted' INT; echo ready; \
                while true; do read line && echo got $line; done";
    let mut session = Session::start(&child, &script(text));
    session.expect("ready");
    session.exec.resize(50, 132).unwrap();
    session.expect("50 132");
    session.tell("\x03");
    session.expect("interrupted");
    session.tell("word\n");
    session.expect("got word");
    // A second one is another terminal.
    let mut other = Session::start(&child, &script("tty; sleep 100"));
    other.expect("/dev/pts/1");
    other.exec.kill().unwrap();
    assert_eq!(other.exec.wait().unwrap(), Exit::Signal(9));
    assert_eq!(session.exec.try_wait().unwrap(), None);
    session.exec.signal(libc::SIGHUP).unwrap();
    assert_eq!(session.exec.wait().unwrap(), Exit::Signal(1));
    child.end().unwrap();
    leaves_nothing(&ground);
}

#[test]
fn nobody_types_into_it_from_inside() {
    let ground = Ground::new();
    let child = ground.hold();
    // ioctl(0, TIOCSTI): EPERM.
    #[cfg(target_arch = "x86_64")]
    {
        let mut session = Session::start(&child, &script("probe 64 16 0 0x5412 @; echo end"));
        assert_eq!(session.expect("end"), "1\r\nend");
    }
    child.end().unwrap();
}

#[test]
fn a_program_that_is_not_there_leaves_no_terminal() {
    let ground = Ground::new();
    let child = ground.hold();
    let mut process = script("");
    process.argv = vec!["/no/such".into()];
    let error = child.exec(&process, ExecIo::Terminal { rows: 1, columns: 1 }).unwrap_err();
    assert!(error.to_string().contains("/no/such"), "{error}");
    assert_eq!(say(&child, "ls /dev/pts"), "ptmx");
    child.end().unwrap();
}
