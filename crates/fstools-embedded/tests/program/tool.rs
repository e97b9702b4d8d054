//! The program in a file, and what a client sees of it.

use std::ffi::OsStr;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::{fs, thread};

use fstools_embedded::FS_TOOLS;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Where the program is. It is written once, before anything is started: a file that is open for
/// writing cannot be executed.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("modal-sandbox-fs-tools");
        // A name of its own, so that no test that runs meanwhile is disturbed.
        let new = path.with_extension(std::process::id().to_string());
        fs::write(&new, FS_TOOLS).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(&new, &path).unwrap();
        path
    })
}

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Done {
    /// The output of a run that must have gone well.
    pub(crate) fn output(self) -> Vec<u8> {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""));
        self.stdout
    }

    pub(crate) fn json(self) -> Value {
        serde_json::from_slice(&self.output()).unwrap()
    }

    /// Kind and message of a failure, which must be as clients expect one.
    pub(crate) fn failure(self) -> (String, String) {
        assert_eq!(self.code, Some(1), "{self:?}");
        assert_eq!(self.stderr.trim_end().lines().count(), 1, "{self:?}");
        let failure: Value = serde_json::from_str(&self.stderr).expect(&self.stderr);
        let text = |key: &str| failure[key].as_str().expect(key).to_owned();
        assert!(!text("message").is_empty());
        text("detail");
        (text("error_kind"), text("message"))
    }
}

/// Runs `command` with `input` as its stdin.
pub(crate) fn run_command(mut command: Command, input: &[u8]) -> Done {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = thread::scope(|scope| {
        // A program that fails early reads nothing.
        scope.spawn(move || stdin.write_all(input));
        child.wait_with_output().unwrap()
    });
    Done {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// Runs the program with one argument.
pub(crate) fn run_raw(argument: &OsStr, input: &[u8]) -> Done {
    let mut command = Command::new(program());
    command.arg(argument);
    run_command(command, input)
}

/// Runs the program with a command, under another program (`setpriv` for example) if it is given.
pub(crate) fn run_under(wrapper: &[&str], command: &Value, input: &[u8]) -> Done {
    let mut words: Vec<&OsStr> = wrapper.iter().map(OsStr::new).collect();
    words.push(program().as_os_str());
    let mut process = Command::new(words[0]);
    process.args(&words[1..]).arg(command.to_string());
    run_command(process, input)
}

pub(crate) fn run(command: &Value) -> Done {
    run_under(&[], command, b"")
}

pub(crate) fn read(path: &Path) -> Done {
    run(&json!({ "ReadFile": { "path": path } }))
}

pub(crate) fn write(path: &Path, input: &[u8]) -> Done {
    run_under(&[], &json!({ "WriteFile": { "path": path } }), input)
}

/// A folder that everybody may enter.
pub(crate) fn folder() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// The names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}

/// A name that is no UTF-8 and holds whatever else a name can.
pub(crate) fn hostile() -> &'static OsStr {
    OsStr::from_bytes(b"a\"b\\c\n\xff\xc3\x1b[2J{\"")
}

/// A user who is nobody in particular, and may do little.
pub(crate) const NOBODY: &[&str] =
    &["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--"];
