//! A step runner for tests: a chroot over an overlay in namespaces of its own. It contains
//! nothing; the real one is the worker's.

use std::io::{Read as _, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use images::package_settings::{self, Host, Passthrough, SETTINGS_DIR, Sharing};
use images::{Entry, EntryKind, Exit, RunError, RunStep, Source, StepDirs, StepRunner, TreeCopy};

/// Mounts the tree; what follows runs with `$T` as its root. `$1` layers, `$2` upper, `$3` work,
/// `$4` a folder with the files of the host's package settings.
const MOUNT: &str = r#"set -eu; T=$5
mount -t overlay palisade-test -o "lowerdir=$1,upperdir=$2,workdir=$3" "$T""#;

const PREPARE: &str = r#"
mount -t proc palisade-test "$T/proc"; mount --rbind /dev "$T/dev"
mount -t tmpfs palisade-test "$T/run"
mount -t tmpfs -o mode=1777 palisade-test "$T/tmp"
mount --bind /etc/resolv.conf "$T/etc/resolv.conf"
mkdir -p "$T/run/palisade"; cp -rL "$4" "$T/run/palisade/packages"
if [ -e "$4/covering" ]; then
    mount --bind "$4/covering" "$T/etc/apt/sources.list.d/debian.sources"
fi
shift 5
exec chroot "$T" "$@""#;

/// Runs steps, with this host's network and package settings.
#[derive(Debug)]
pub(crate) struct Chroot {
    host: Host,
}

impl Chroot {
    pub(crate) fn new() -> Self {
        Self { host: Host::this() }
    }

    fn command(layers: &[PathBuf], dirs: &StepDirs, dir: &Path, script: &str) -> Command {
        let root = dir.join("root");
        let none = dir.join("none");
        std::fs::create_dir_all(&root).unwrap();
        std::fs::create_dir_all(&none).unwrap();
        let mut lower: Vec<String> =
            layers.iter().rev().map(|layer| layer.to_str().unwrap().to_owned()).collect();
        lower.push(none.to_str().unwrap().to_owned());
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--fork", "--kill-child=KILL", "sh", "-c"]);
        command.arg(format!("{MOUNT}\n{script}")).arg("sh").arg(lower.join(":"));
        command.args([&dirs.upper, &dirs.work, &dir.join("settings"), &root]);
        command
    }

    fn settings(&self, layers: &[PathBuf], dir: &Path) -> Passthrough {
        let image = package_settings::image_apt(layers).unwrap();
        let settings =
            package_settings::collect(&self.host, image.as_ref(), Sharing::default()).unwrap();
        let files = dir.join("settings");
        std::fs::create_dir_all(files.join("paths")).unwrap();
        for (path, content) in &settings.files {
            // There is one file elsewhere: it covers apt's sources where the host has a mirror.
            let name = path.strip_prefix(SETTINGS_DIR).unwrap_or(Path::new("covering"));
            std::fs::write(files.join(name), content).unwrap();
        }
        for (host, inside) in &settings.binds {
            let name = inside.strip_prefix(SETTINGS_DIR).unwrap();
            std::os::unix::fs::symlink(host, files.join(name)).unwrap();
        }
        settings
    }
}

impl StepRunner for Chroot {
    fn run(&self, step: &RunStep, log: &mut dyn FnMut(&[u8])) -> Result<Exit, RunError> {
        let dir = tempfile::tempdir().unwrap();
        let settings = self.settings(&step.layers, dir.path());
        let mut command = Self::command(&step.layers, &step.dirs, dir.path(), PREPARE);
        command.args(["env", "-i", "-C", &step.cwd]);
        for (name, value) in settings.merge_env(&step.env) {
            command.arg(format!("{name}={value}"));
        }
        if !step.user.is_empty() {
            command.args(["setpriv", "--init-groups", "--reuid", &step.user]);
        }
        let (mut reader, writer) = std::io::pipe().unwrap();
        command.args(&step.argv).stdin(Stdio::null());
        command.stdout(writer.try_clone().unwrap()).stderr(writer);
        let mut child = command.spawn().unwrap();
        drop(command);
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = reader.read(&mut buffer) {
            log(&buffer[..read]);
        }
        let status = child.wait().unwrap();
        match (status.code(), status.signal()) {
            (Some(code), _) => Ok(Exit::Code(code)),
            (None, signal) => Ok(Exit::Signal(signal.unwrap_or(0))),
        }
    }

    fn write(
        &self,
        layers: &[PathBuf],
        dirs: &StepDirs,
        entries: &[Entry],
    ) -> Result<(), RunError> {
        let dir = tempfile::tempdir().unwrap();
        let mut script = String::from("cd \"$T\"\n");
        for entry in entries {
            script.push_str(&write_lines(entry, dir.path()));
        }
        let mut command = Self::command(layers, dirs, dir.path(), &script);
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().flush().unwrap();
        let status = child.wait().unwrap();
        if status.success() { Ok(()) } else { Err(RunError::Refused(status.to_string())) }
    }

    fn copy(&self, _: &[PathBuf], _: &StepDirs, copy: &TreeCopy) -> Result<(), RunError> {
        panic!("copies between trees are tested with the worker's runner: {copy:?}")
    }
}

/// Shell lines that write one entry. Tests have no links on the way.
fn write_lines(entry: &Entry, dir: &Path) -> String {
    let path = entry.path.strip_prefix("/").unwrap().to_str().unwrap();
    let name = entry.name_in_folder.as_deref().unwrap_or("");
    let owner = entry.owner.as_deref().unwrap_or("0:0");
    let mode = entry.mode;
    let make = match &entry.kind {
        EntryKind::Folder => {
            return format!(
                "[ -d './{path}' ] || {{ mkdir -p './{path}'; chown {owner} './{path}'; }}\n"
            );
        }
        EntryKind::Link(target) => format!("ln -sf '{target}' \"$p\""),
        EntryKind::File(Source::File(host)) => format!("cp '{}' \"$p\"", host.display()),
        EntryKind::File(Source::Bytes(bytes)) => {
            let host = dir.join(format!("{:x}", rand::random::<u64>()));
            std::fs::write(&host, bytes).unwrap();
            format!("cp '{}' \"$p\"", host.display())
        }
    };
    format!(
        "p='./{path}'; [ ! -d \"$p\" ] || p=\"$p/{name}\"; mkdir -p \"$(dirname \"$p\")\"\n\
         {make}; chmod {mode:o} \"$p\"; chown {owner} \"$p\"\n"
    )
}
