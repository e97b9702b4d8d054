//! Base images out of Debian packages, with mmdebstrap.
//!
//! The result behaves like the official images of the same name: `python` and `pip` stand in
//! `/usr/local/bin`, pip installs as root without being told that Debian manages Python, C
//! extensions find Python's headers, and apt knows Debian's own archive. What the host is set to
//! (mirror, options, resolver, names) is used while it is made and not in it.

use std::ffi::OsString;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::apt::{self, Mirrors};
use crate::catalogue::{BaseRecipe, Suite};
use crate::image::Config;
use crate::limits::{BASE_BUILD_MAX, BASE_OUTPUT_BYTES_MAX};
use crate::tree::{Tree, TreeError, remove_all};

/// Changes with what this module makes, so that older results are not taken for its.
pub(crate) const RECIPE_VERSION: u32 = 1;

/// Makes merged /usr folders without the package that needs all of Perl for it.
const MERGED_USR: &str = "/usr/share/mmdebstrap/hooks/merged-usr";

/// Documentation and translations are left out now and by every later apt in the image, as in
/// official slim images; licences stay. Without the marker file, pip installs as root.
const DPKG_OPTIONS: [&str; 8] = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/lintian/*",
    "path-exclude=/usr/lib/python3*/EXTERNALLY-MANAGED",
    "force-unsafe-io",
];

/// Where Python's headers come from: its development package would bring a C library's too.
const HEADERS_HOOK: &str = "set -e; d=\"$1/palisade-headers\"; mkdir \"$d\"; cd \"$d\"; \
    APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\" apt-get download -q libpython3.MINOR-dev; \
    dpkg-deb --fsys-tarfile ./*.deb | tar -C \"$1\" -xf - --wildcards './usr/include/*'; \
    cd /; rm -r \"$d\"";

/// Pip comes out of the wheels that Debian's venv brings along, into /usr/local, where it can
/// replace itself.
const PIP_HOOK: &str = "set -e; w=$(cd \"$1\" && echo usr/share/python-wheels/pip-*.whl); \
    env PYTHONHASHSEED=0 chroot \"$1\" python3.MINOR \"/$w/pip\" install --quiet --no-index \
    --no-cache-dir --root-user-action=ignore --find-links /usr/share/python-wheels PACKAGES";

/// Left by packages and by mmdebstrap; of no use in an image, or not the same twice.
const LITTER: [&str; 12] = [
    "etc/apt/apt.conf.d/99mmdebstrap",
    "etc/apt/sources.list",
    "etc/.pwd.lock",
    "etc/machine-id",
    "var/cache/debconf/config.dat-old",
    "var/cache/debconf/templates.dat-old",
    "var/cache/ldconfig/aux-cache",
    "var/lib/dpkg/status-old",
    "var/log/alternatives.log",
    "var/log/bootstrap.log",
    "var/log/dpkg.log",
    "var/log/fontconfig.log",
];

/// Debian images refuse to start services while packages are installed.
const POLICY_RC: &str = "#!/bin/sh\nexit 101\n";

/// Packages that were installed stay out of layers, and indexes small.
const APT_CONF: &str = "\
DPkg::Post-Invoke { \"rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true\"; };
Dir::Cache::pkgcache \"\";
Dir::Cache::srcpkgcache \"\";
Acquire::GzipIndexes \"true\";
Acquire::Languages \"none\";
Apt::AutoRemove::SuggestsImportant \"false\";
";

/// Why a base image cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The tool is not on the host.
    #[error(
        "base images are made with {tool}, which this host lacks; install it \
        (Debian and Ubuntu: apt install mmdebstrap util-linux debian-archive-keyring)"
    )]
    ToolMissing {
        /// Its name.
        tool: &'static str,
    },
    /// The tool cannot be run.
    #[error("running {tool} fails")]
    Tool {
        /// Its name.
        tool: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The tool ran and failed.
    #[error("making the base image of Debian {suite} fails with {status}:\n{output}")]
    Failed {
        /// The suite.
        suite: &'static str,
        /// As the tool ended.
        status: std::process::ExitStatus,
        /// The end of what it said.
        output: String,
    },
    /// It took too long.
    #[error("making the base image of Debian {suite} took longer than {} minutes; is the package \
        archive reachable?\n{output}", BASE_BUILD_MAX.as_secs() / 60)]
    TimedOut {
        /// The suite.
        suite: &'static str,
        /// The end of what the tool said.
        output: String,
    },
    /// The result cannot be finished.
    #[error("finishing the base image fails")]
    Tree(#[from] TreeError),
    /// A folder of the result cannot be emptied.
    #[error("emptying {} fails", path.display())]
    Empty {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The package that the image is about is not in it.
    #[error("the base image of Debian {suite} has no {package}")]
    PackageMissing {
        /// The suite.
        suite: &'static str,
        /// The package.
        package: String,
    },
}

/// Makes the tree of a base image in the empty folder `target`, and says how its processes start.
pub(crate) fn make(suite: Suite, minor: Option<u8>, target: &Path) -> Result<Config, Error> {
    run_mmdebstrap(suite, minor, target)?;
    finish(suite, minor, target)
}

/// What identifies the result of [`make`], for the key under which it is remembered.
pub(crate) fn identity(recipe: &BaseRecipe) -> String {
    format!("debian {RECIPE_VERSION} {recipe:?} {}", std::env::consts::ARCH)
}

fn run_mmdebstrap(suite: Suite, minor: Option<u8>, target: &Path) -> Result<(), Error> {
    let mirrors = Mirrors::read(Path::new("/"))?;
    let mut arguments: Vec<OsString> = Vec::new();
    // All that mmdebstrap starts and mounts lives in namespaces that go with it, and it goes
    // with us: a server that is killed leaves nothing running and nothing mounted.
    for word in ["--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork"] {
        arguments.push(word.into());
    }
    for word in ["--kill-child=KILL", "--mount-proc", "mmdebstrap", "--mode=root"] {
        arguments.push(word.into());
    }
    for word in ["--variant=minbase", "--format=directory", "--skip=output/mknod"] {
        arguments.push(word.into());
    }
    arguments.push(format!("--hook-dir={MERGED_USR}").into());
    arguments.extend(DPKG_OPTIONS.iter().map(|option| format!("--dpkgopt={option}").into()));
    for option in apt::host_options() {
        arguments.push(format!("--aptopt={}", option.trim_end_matches(';')).into());
    }
    for (kind, path) in [("netrc", "/etc/apt/auth.conf"), ("netrcparts", "/etc/apt/auth.conf.d")] {
        if Path::new(path).exists() {
            arguments.push(format!("--aptopt=Dir::Etc::{kind} \"{path}\"").into());
        }
    }
    if let Some(minor) = minor {
        let packages =
            format!("ca-certificates,netbase,tzdata,python3.{minor},python3.{minor}-venv");
        arguments.push(format!("--include={packages}").into());
        // Since 3.12 Python comes without setuptools.
        let packages = if minor < 12 { "pip setuptools" } else { "pip" };
        for hook in [HEADERS_HOOK, PIP_HOOK] {
            let minor = minor.to_string();
            let hook = hook.replace("MINOR", &minor).replace("PACKAGES", packages);
            arguments.push(format!("--customize-hook={hook}").into());
        }
    }
    arguments.push(suite.name().into());
    arguments.push(target.into());
    arguments.extend(mirrors.lines(suite.name(), "main").into_iter().map(OsString::from));

    let mut command = Command::new("setpriv");
    command.args(arguments).env_clear().current_dir("/");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root").env("LC_ALL", "C");
    for name in ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    for (tool, path) in [("mmdebstrap", "/usr/bin/mmdebstrap"), ("setpriv", "/usr/bin/setpriv")] {
        if !Path::new(path).exists() {
            return Err(Error::ToolMissing { tool });
        }
    }
    watch(command, suite.name())
}

/// Runs the tool to its end or its time, and keeps the end of what it says for an error.
fn watch(mut command: Command, suite: &'static str) -> Result<(), Error> {
    let fail = |source| Error::Tool { tool: "mmdebstrap", source };
    let (mut reader, writer) = std::io::pipe().map_err(fail)?;
    let clone = writer.try_clone().map_err(fail)?;
    command.stdin(Stdio::null()).stdout(writer).stderr(clone).process_group(0);
    let mut child = command.spawn().map_err(fail)?;
    drop(command);
    let output = std::thread::spawn(move || {
        let (mut tail, mut buffer) = (Vec::new(), [0; 8 << 10]);
        while let Ok(read @ 1..) = reader.read(&mut buffer) {
            tail.extend_from_slice(&buffer[..read]);
            let over = tail.len().saturating_sub(BASE_OUTPUT_BYTES_MAX);
            tail.drain(..over);
        }
        tail
    });
    let status = wait(&mut child).map_err(fail)?;
    let output = output.join().unwrap_or_default();
    let output = without_passwords(&String::from_utf8_lossy(&output));
    match status {
        None => Err(Error::TimedOut { suite, output }),
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(Error::Failed { suite, status, output }),
    }
}

/// Waits for a child until its time is up; then it is ended, and there is no status.
fn wait(child: &mut Child) -> std::io::Result<Option<std::process::ExitStatus>> {
    let started = Instant::now();
    while started.elapsed() < BASE_BUILD_MAX {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    // The child is `unshare`: its end ends the first process of the namespace, and that all.
    child.kill()?;
    child.wait()?;
    Ok(None)
}

fn finish(suite: Suite, minor: Option<u8>, target: &Path) -> Result<Config, Error> {
    let tree = Tree::open(target)?;
    for path in LITTER {
        tree.remove(path)?;
    }
    for folder in ["dev", "run", "tmp", "var/log/apt", "var/lib/apt/lists", "var/cache/apt"] {
        let path = target.join(folder);
        empty(&path).map_err(|source| Error::Empty { path, source })?;
    }
    // Places for what a container gets at its start; the host's own must not stay.
    for path in ["etc/hostname", "etc/hosts", "etc/resolv.conf"] {
        tree.write(path, b"", 0o644)?;
    }
    // Debian's own archive, as official images name it.
    let sources = Mirrors::default().stanzas(suite.name(), "main");
    tree.write(apt::SOURCES, sources.as_bytes(), 0o644)?;
    tree.write("etc/apt/apt.conf.d/70palisade", APT_CONF.as_bytes(), 0o644)?;
    tree.write("usr/sbin/policy-rc.d", POLICY_RC.as_bytes(), 0o755)?;
    let mut config = Config::default();
    config.set_env("PATH", crate::image::DEFAULT_PATH.to_owned());
    let Some(minor) = minor else {
        config.cmd = vec!["bash".to_owned()];
        return Ok(config);
    };
    for name in ["python", "python3"] {
        let path = format!("usr/local/bin/{name}");
        tree.remove(&path)?;
        tree.link(&path, &format!("/usr/bin/python3.{minor}"))?;
    }
    let package = format!("python3.{minor}");
    let status = tree.read("var/lib/dpkg/status")?.unwrap_or_default();
    let version = package_version(&String::from_utf8_lossy(&status), &package)
        .ok_or(Error::PackageMissing { suite: suite.name(), package })?;
    config.set_env("LANG", "C.UTF-8".to_owned());
    config.set_env("PYTHON_VERSION", version);
    config.cmd = vec!["python3".to_owned()];
    Ok(config)
}

/// The upstream part of an installed package's version: "3.11.2" of "3.11.2-6+deb12u6".
fn package_version(status: &str, package: &str) -> Option<String> {
    let start = format!("Package: {package}");
    let stanza = status.split("\n\n").find(|stanza| stanza.lines().next() == Some(&start))?;
    let version = stanza.lines().find_map(|line| line.strip_prefix("Version: "))?;
    let end = version.find(['-', '+', '~']).unwrap_or(version.len());
    Some(version[..end].to_owned())
}

fn empty(folder: &Path) -> std::io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_all(&entry.path())?;
        } else {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Takes `user:password@` out of the addresses in a text that is shown to people.
pub(crate) fn without_passwords(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("://") {
        let (before, after) = rest.split_at(start + 3);
        shown.push_str(before);
        let end = after.find(|c: char| c.is_whitespace() || "/'\"".contains(c));
        let authority = &after[..end.unwrap_or(after.len())];
        match authority.rfind('@') {
            Some(at) => {
                shown.push_str("***");
                rest = &after[at..];
            }
            None => rest = after,
        }
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::{package_version, without_passwords};

    #[test]
    fn versions_come_from_dpkgs_list() {
        let status = "Package: python3.11-venv\nVersion: 9\n\n\
            Package: python3.11\nStatus: install ok installed\nVersion: 3.11.2-6+deb12u6\n";
        assert_eq!(package_version(status, "python3.11").as_deref(), Some("3.11.2"));
        assert_eq!(package_version(status, "python3.13"), None);
    }

    #[test]
    fn passwords_are_not_shown() {
        let check = |text: &str, wanted: &str| assert_eq!(without_passwords(text), wanted);
        check("get http://u:p@h.test/x y", "get http://***@h.test/x y");
        check("get 'https://token@h.test' y", "get 'https://***@h.test' y");
        check("http://h.test/a@b", "http://h.test/a@b");
        check("a@b c://d e://f@g", "a@b c://d e://***@g");
    }
}
