//! A registry on loopback (Debian's docker-registry), what is pushed to it, and a wire to it that
//! breaks.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use blobs::Digest;
use serde_json::{Value, json};

pub(crate) const USER: &str = "me";
pub(crate) const PASSWORD: &str = "open sesame";

/// `USER:` and the bcrypt hash of `PASSWORD`, as htpasswd writes it.
const HTPASSWD: &str = "me:$2y$04$Gwbu9FnDcEWNKJ6lkHW1neH7iK6QPzCGY0Jldp5IkQtQDKxD9yCpu\n";

/// A running registry. It ends with this value.
pub(crate) struct Registry {
    pub(crate) port: u16,
    dir: tempfile::TempDir,
    child: Child,
    has_password: bool,
}

impl Registry {
    pub(crate) fn start(has_password: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let auth = if has_password {
            fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
            format!(
                "auth:\n  htpasswd:\n    realm: test\n    path: {}/htpasswd\n",
                dir.path().display()
            )
        } else {
            String::new()
        };
        let config = format!(
            "version: 0.1\nlog:\n  accesslog:\n    disabled: false\nstorage:\n  filesystem:\n    \
             rootdirectory: {}/data\nhttp:\n  addr: 127.0.0.1:{port}\n{auth}",
            dir.path().display(),
        );
        let path = dir.path().join("config.yml");
        fs::write(&path, config).unwrap();
        let log = fs::File::create(dir.path().join("log")).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdin(Stdio::null())
            .stderr(log.try_clone().unwrap())
            .stdout(log)
            .spawn()
            .expect("docker-registry cannot be run: apt install docker-registry");
        let registry = Self { port, dir, child, has_password };
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(20), "{}", registry.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// How often a blob was asked for.
    pub(crate) fn gets(&self, blob: Digest) -> usize {
        let wanted = format!("\"GET /v2/it/blobs/sha256:{blob}");
        self.log().lines().filter(|line| line.contains(&wanted)).count()
    }

    /// The file that holds a blob.
    pub(crate) fn blob_file(&self, blob: Digest) -> PathBuf {
        let hex = blob.to_string();
        let root = self.dir.path().join("data/docker/registry/v2/blobs/sha256");
        root.join(&hex[..2]).join(&hex).join("data")
    }

    fn send(&self, method: &str, url: &str, kind: &str, body: &[u8]) -> String {
        let mut request = ureq::http::Request::builder().method(method).uri(url);
        request = request.header("Content-Type", kind);
        if self.has_password {
            use base64::Engine as _;
            let text = format!("{USER}:{PASSWORD}");
            let text = base64::prelude::BASE64_STANDARD.encode(text);
            request = request.header("Authorization", format!("Basic {text}"));
        }
        let answer = ureq::run(request.body(body).unwrap()).unwrap();
        let location = answer.headers().get("Location");
        location.map(|it| it.to_str().unwrap().to_owned()).unwrap_or_default()
    }

    pub(crate) fn push_blob(&self, bytes: &[u8]) -> Digest {
        let base = format!("http://127.0.0.1:{}/v2/it/blobs/uploads/", self.port);
        let place = self.send("POST", &base, "application/octet-stream", b"");
        let digest = Digest::of(bytes);
        let with = if place.contains('?') { '&' } else { '?' };
        let url = format!("{place}{with}digest=sha256:{digest}");
        self.send("PUT", &url, "application/octet-stream", bytes);
        digest
    }

    pub(crate) fn push_manifest(&self, tag: &str, kind: &str, manifest: &Value) -> Digest {
        let bytes = manifest.to_string();
        let url = format!("http://127.0.0.1:{}/v2/it/manifests/{tag}", self.port);
        self.send("PUT", &url, kind, bytes.as_bytes());
        Digest::of(bytes.as_bytes())
    }

    /// Pushes an image of these layers under `it:<tag>`; gives the layers' blobs.
    pub(crate) fn push(&self, tag: &str, layers: &[Layer]) -> Vec<Digest> {
        self.push_for(tag, layers, arch())
    }

    pub(crate) fn push_for(&self, tag: &str, layers: &[Layer], arch: &str) -> Vec<Digest> {
        let ids: Vec<String> =
            layers.iter().map(|layer| format!("sha256:{}", Digest::of(&layer.tar))).collect();
        let config = json!({
            "os": "linux", "architecture": arch, "config": {"Env": ["A=b"], "Cmd": ["run"]},
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        let config = config.to_string();
        let config_digest = self.push_blob(config.as_bytes());
        let blobs: Vec<Digest> = layers.iter().map(|layer| self.push_blob(&layer.packed)).collect();
        let described: Vec<Value> = layers
            .iter()
            .zip(&blobs)
            .map(|(layer, blob)| {
                let kind = format!("application/vnd.oci.image.layer.v1.tar{}", layer.kind);
                json!({"mediaType": kind, "digest": format!("sha256:{blob}"),
                    "size": layer.packed.len()})
            })
            .collect();
        let kind = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({
            "schemaVersion": 2, "mediaType": kind, "layers": described,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": format!("sha256:{config_digest}"), "size": config.len()},
        });
        self.push_manifest(tag, kind, &manifest);
        blobs
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// This machine's architecture, as images call it.
pub(crate) fn arch() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A layer, packed.
pub(crate) struct Layer {
    tar: Vec<u8>,
    packed: Vec<u8>,
    kind: &'static str,
}

impl Layer {
    /// A layer of files, by path and content.
    pub(crate) fn of(files: &[(&str, &[u8])], kind: &'static str) -> Self {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in files {
            let mut header = tar::Header::new_ustar();
            header.set_size(content.len() as u64);
            header.set_mode(0o755);
            builder.append_data(&mut header, path, *content).unwrap();
        }
        Self::pack(builder.into_inner().unwrap(), kind)
    }

    /// A layer of bytes that do not pack, so that it takes a while.
    pub(crate) fn of_noise(path: &str, len: usize) -> Self {
        let noise: Vec<u8> = (0..len.div_ceil(8)).flat_map(|_| rand::random::<[u8; 8]>()).collect();
        Self::of(&[(path, &noise)], "+gzip")
    }

    pub(crate) fn pack(tar: Vec<u8>, kind: &'static str) -> Self {
        let packed = match kind {
            "+gzip" => {
                let level = flate2::Compression::fast();
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
                encoder.write_all(&tar).unwrap();
                encoder.finish().unwrap()
            }
            "+zstd" => zstd::encode_all(&tar[..], 1).unwrap(),
            _ => tar.clone(),
        };
        Self { tar, packed, kind }
    }
}

/// A port that leads to another and breaks: each connection after so many bytes of answers.
pub(crate) struct BrokenWire {
    pub(crate) port: u16,
    pub(crate) connections: Arc<AtomicUsize>,
}

impl BrokenWire {
    /// `stall` keeps a connection open and silent instead of ending it.
    pub(crate) fn to(port: u16, bytes_max: usize, stall: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let here = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::Relaxed);
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
                let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                std::thread::spawn(move || std::io::copy(&mut from, &mut to));
                std::thread::spawn(move || answer(server, client, bytes_max, stall));
            }
        });
        Self { port: here, connections }
    }
}

fn answer(mut server: TcpStream, mut client: TcpStream, bytes_max: usize, stall: bool) {
    let (mut left, mut buffer) = (bytes_max, [0; 16 << 10]);
    while left > 0 {
        let len = left.min(buffer.len());
        let Ok(read @ 1..) = server.read(&mut buffer[..len]) else { break };
        if client.write_all(&buffer[..read]).is_err() {
            break;
        }
        left -= read;
    }
    if stall && left == 0 {
        std::thread::sleep(Duration::from_secs(60));
    }
    drop(client.shutdown(Shutdown::Both));
    drop(server.shutdown(Shutdown::Both));
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect()
}
