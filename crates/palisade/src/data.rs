//! The data folder: who may use it, and what lies in it beside the database.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use model::router_token::Key;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

/// Where imported Pythons lie.
pub(crate) const PYTHONS: &str = "pythons";

/// Where the key of tokens for command routers lies.
const ROUTER_KEY: &str = "router-key.json";

/// A data folder.
#[derive(Debug, Clone)]
pub(crate) struct Data(PathBuf);

/// Held as long as a server uses the folder. Containers do not inherit it: the jail closes every
/// descriptor first thing, and whatever is executed loses it.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "its life is what counts")] File);

/// What `palisade env` needs: written by the server, readable by its owner alone.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Access {
    /// The address in use.
    pub(crate) server_url: String,
    /// The token's id.
    pub(crate) token_id: String,
    /// The token's secret. The database holds its hash only.
    pub(crate) token_secret: String,
    /// The certificate of the server's own CA, unless the operator gave a certificate.
    pub(crate) ca_file: Option<PathBuf>,
    /// That CA beside those that this machine trusts.
    pub(crate) ca_bundle: Option<PathBuf>,
    /// The server's process.
    pub(crate) pid: u32,
}

/// The token of the first start.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Token {
    /// Its id.
    pub(crate) id: String,
    /// Its secret.
    pub(crate) secret: String,
}

impl Data {
    /// The folder; it is made, closed to others, if it is missing.
    pub(crate) fn make(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
        // Set-user-id files of containers lie below: nobody else may reach them.
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))
            .with_context(|| format!("cannot close {} to others", dir.display()))?;
        let dir = fs::canonicalize(dir)?;
        Ok(Self(dir))
    }

    /// The folder of a server that was started before.
    pub(crate) fn of(dir: &Path) -> Self {
        Self(dir.to_owned())
    }

    /// A path in the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }

    /// Takes the folder for this process.
    pub(crate) fn lock(&self) -> Result<Lock> {
        let path = self.path("lock");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
            if error == rustix::io::Errno::WOULDBLOCK {
                bail!(
                    "another server uses {}: stop it first, or take another --data-dir",
                    self.0.display()
                );
            }
            return Err(error).with_context(|| format!("cannot lock {}", path.display()));
        }
        Ok(Lock(file))
    }

    /// Whether a server uses the folder.
    pub(crate) fn is_locked(&self) -> bool {
        let Ok(file) = File::open(self.path("lock")) else { return false };
        match flock(file.as_fd(), FlockOperation::NonBlockingLockShared) {
            Ok(()) => false,
            Err(error) => error == rustix::io::Errno::WOULDBLOCK,
        }
    }

    /// Writes a file that only its owner can read, whole or not at all.
    fn write_private(&self, name: &str, content: &impl Serialize) -> Result<()> {
        let (path, draft) = (self.path(name), self.path(&format!("{name}.draft")));
        let write = || -> Result<()> {
            let _ = fs::remove_file(&draft);
            let mut file =
                OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
            file.write_all(&serde_json::to_vec_pretty(content)?)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            Ok(())
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }

    /// The token of an earlier start.
    pub(crate) fn token(&self) -> Result<Option<Token>> {
        match fs::read(self.path("token.json")) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).context("cannot read the token"),
        }
    }

    /// Keeps the token of the first start.
    pub(crate) fn put_token(&self, token: &Token) -> Result<()> {
        self.write_private("token.json", token)
    }

    /// What signs tokens for command routers: made at the first start, and kept, so that clients
    /// go on after a restart.
    pub(crate) fn router_key(&self) -> Result<Key> {
        let path = self.path(ROUTER_KEY);
        match fs::read(&path) {
            Ok(bytes) => {
                let kept: String = serde_json::from_slice(&bytes)
                    .with_context(|| format!("{} is damaged: delete it", path.display()))?;
                let mut key = [0; 64];
                hex::decode_to_slice(kept, &mut key)
                    .with_context(|| format!("{} is damaged: delete it", path.display()))?;
                Ok(Key::new(key))
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let key: [u8; 64] = std::array::from_fn(|_| rand::random());
                self.write_private(ROUTER_KEY, &hex::encode(key))?;
                Ok(Key::new(key))
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// The way to a socket in the folder, whose own path may be longer than the 108 bytes that a
    /// socket's address has room for; good as long as the file is open.
    fn socket(&self, name: &str) -> Result<(File, PathBuf)> {
        let dir =
            File::open(&self.0).with_context(|| format!("cannot open {}", self.0.display()))?;
        let path = format!("/proc/self/fd/{}/{name}", dir.as_raw_fd());
        Ok((dir, path.into()))
    }

    /// Listens at a socket in the folder, for its owner alone.
    pub(crate) fn listen(&self, name: &str) -> Result<UnixListener> {
        let (_dir, path) = self.socket(name)?;
        let _ = fs::remove_file(&path);
        let listen = || -> std::io::Result<UnixListener> {
            let listener = UnixListener::bind(&path)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            listener.set_nonblocking(true)?;
            Ok(listener)
        };
        listen().with_context(|| format!("cannot listen at {}", self.path(name).display()))
    }

    /// Connects to a socket of the server that uses the folder.
    pub(crate) fn connect(&self, name: &str) -> Result<UnixStream> {
        let (_dir, path) = self.socket(name)?;
        UnixStream::connect(&path)
            .with_context(|| format!("the server does not answer at {}", self.path(name).display()))
    }

    /// Tells `palisade env` where the server is.
    pub(crate) fn put_access(&self, access: &Access) -> Result<()> {
        self.write_private("access.json", access)
    }

    /// Where the running server is.
    pub(crate) fn access(&self) -> Result<Access> {
        let none = || {
            format!(
                "no server runs on {}: start one with `palisade serve --data-dir {}`",
                self.0.display(),
                self.0.display()
            )
        };
        if !self.is_locked() {
            bail!(none());
        }
        let bytes = fs::read(self.path("access.json")).with_context(none)?;
        serde_json::from_slice(&bytes).context("access.json is damaged: restart the server")
    }

    /// Nobody can be reached any more.
    pub(crate) fn remove_access(&self) {
        let _ = fs::remove_file(self.path("access.json"));
    }
}
