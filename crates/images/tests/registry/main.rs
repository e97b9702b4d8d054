//! Pulls as they are: from Debian's docker-registry on loopback, which these tests fill.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod imports;
mod place;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use blobs::Digest;
use images::{Builder, Credentials, Image, LayerStore, Sources};
use place::{BrokenWire, Layer, PASSWORD, Registry, USER, names};
use serde_json::json;

/// A builder over an empty store, and what it said.
struct Bench {
    dir: tempfile::TempDir,
    builder: Builder,
}

impl Bench {
    fn new() -> Self {
        Self::with_mirrors(&[])
    }

    fn with_mirrors(mirrors: &[String]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(LayerStore::open(dir.path().join("store")).unwrap());
        let mirrors = mirrors.iter().map(|text| text.parse().unwrap()).collect();
        let builder = Builder::with_sources(store, Sources { mirrors });
        Self { dir, builder }
    }

    fn pull(&self, name: &str) -> (Result<Image, String>, String) {
        self.pull_with(name, None)
    }

    fn pull_with(
        &self,
        name: &str,
        credentials: Option<&Credentials>,
    ) -> (Result<Image, String>, String) {
        let mut log = Vec::new();
        let mut say = |bytes: &[u8]| log.extend_from_slice(bytes);
        let image = self.builder.base_with(name, credentials, &mut say);
        (image.map_err(|error| error.to_string()), String::from_utf8_lossy(&log).into_owned())
    }

    fn refusal(&self, name: &str) -> String {
        self.pull(name).0.unwrap_err()
    }

    /// Every layer is what its name says, and nothing is half-made.
    fn verify(&self) {
        let store = self.builder.store();
        for layer in store.list().unwrap() {
            store.verify(layer).unwrap();
        }
        assert_eq!(names(&self.dir.path().join("store/tmp")), [""; 0]);
    }

    fn file(&self, image: &Image, layer: usize, path: &str) -> std::path::PathBuf {
        self.builder.store().diff(image.layers[layer]).join(path)
    }
}

fn three_layers() -> [Layer; 3] {
    let low =
        Layer::of(&[("usr/bin/python3.12", b"x"), ("etc/a", b"low"), ("gone", b"x")], "+gzip");
    let high = Layer::of(&[("etc/a", b"high"), (".wh.gone", b"")], "+zstd");
    [low, high, Layer::of(&[("usr/bin/python", b"y")], "")]
}

#[test]
fn an_image_is_pulled_once_and_asked_for_each_time() {
    let registry = Registry::start(false);
    let blobs = registry.push("one", &three_layers());
    let (bench, name) = (Bench::new(), format!("127.0.0.1:{}/it:one", registry.port));
    let (image, log) = bench.pull(&name);
    let image = image.unwrap();
    assert!(log.contains("pulling 3 layers"), "{log}");
    assert_eq!((image.layers.len(), image.python), (3, Some((3, 12))));
    assert_eq!(
        (image.config.env("A"), image.config.cmd.as_slice()),
        (Some("b"), &["run".into()][..])
    );
    assert_eq!(fs::read(bench.file(&image, 1, "etc/a")).unwrap(), b"high");
    let gone = fs::symlink_metadata(bench.file(&image, 1, "gone")).unwrap();
    assert!(gone.file_type().is_char_device());
    bench.verify();

    let (again, log) = bench.pull(&name);
    assert_eq!((again.unwrap(), log.as_str()), (image.clone(), ""));
    // The tag moves: the next build sees it, and fetches what is new.
    let mut layers: Vec<Layer> = three_layers().into();
    layers.push(Layer::of(&[("new", b"n")], "+gzip"));
    let new = registry.push("one", &layers);
    let (moved, log) = bench.pull(&name);
    let moved = moved.unwrap();
    assert_eq!((&moved.layers[..3], moved.layers.len()), (&image.layers[..], 4), "{log}");
    assert!(blobs.iter().chain(&new[3..]).all(|blob| registry.gets(*blob) == 1));

    // A digest names the image for ever.
    let port = registry.port;
    drop(registry);
    let (kept, log) = bench.pull(&name);
    assert_eq!(kept.unwrap(), moved);
    assert!(log.contains("what was pulled before is used") && log.contains("reached"), "{log}");
    let error = bench.refusal(&format!("127.0.0.1:{port}/it:other"));
    assert!(error.contains("palisade image import") && error.contains("it:other"), "{error}");
}

#[test]
fn private_images_open_to_their_credentials_alone() {
    let registry = Registry::start(true);
    registry.push("one", &three_layers());
    let (bench, name) = (Bench::new(), format!("127.0.0.1:{}/it:one", registry.port));
    let error = bench.refusal(&name);
    assert!(error.contains("REGISTRY_USERNAME"), "{error}");
    let credentials =
        |password: &str| Credentials { username: USER.into(), password: password.into() };
    let (refused, _) = bench.pull_with(&name, Some(&credentials("wrong guess")));
    let error = refused.unwrap_err();
    assert!(error.contains("do not open it") && !error.contains("wrong guess"), "{error}");
    let (image, log) = bench.pull_with(&name, Some(&credentials(PASSWORD)));
    image.unwrap();
    assert!(!log.contains(PASSWORD), "{log}");
    // Neither while the registry can be asked nor when it cannot does another get it.
    assert!(bench.refusal(&name).contains("REGISTRY_USERNAME"));
    drop(registry);
    assert!(bench.pull_with(&name, Some(&credentials(PASSWORD))).0.is_ok());
    assert!(bench.refusal(&name).contains("cannot be pulled"));
    assert!(bench.pull_with(&name, Some(&credentials("wrong guess"))).0.is_err());
    let found =
        Command::new("grep").args(["-raF", PASSWORD]).arg(bench.dir.path()).output().unwrap();
    assert!(found.stdout.is_empty(), "the password is in the store");
}

#[test]
fn mirrors_stand_for_registries() {
    let registry = Registry::start(false);
    registry.push("one", &three_layers());
    let address = format!("http://127.0.0.1:{}", registry.port);
    let bench = Bench::with_mirrors(&[format!("hub.test={address}")]);
    bench.pull("hub.test/it:one").0.unwrap();
    let error = bench.refusal("hub.test/it:none");
    assert!(error.contains(&address) && error.contains("no such image"), "{error}");
    assert!(error.contains("hub.test: it cannot be reached"), "{error}");
    assert!(error.contains("--registry-mirror hub.test="), "{error}");
    // Who was just out of reach is not waited for again.
    let started = Instant::now();
    assert!(bench.refusal("hub.test/it:none").contains("a moment ago"));
    assert!(started.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    let registry = Registry::start(false);
    registry.push("big", &[Layer::of_noise("noise", 8 << 20)]);
    let wire = BrokenWire::to(registry.port, 3 << 20, false);
    let bench = Bench::new();
    let (image, log) = bench.pull(&format!("127.0.0.1:{}/it:big", wire.port));
    let image = image.unwrap();
    assert!(wire.connections.load(Ordering::Relaxed) >= 3, "{log}");
    assert_eq!(fs::metadata(bench.file(&image, 0, "noise")).unwrap().len(), 8 << 20);
    assert!(registry.log().lines().filter(|line| line.contains(" 206 ")).count() >= 2);
    bench.verify();
    // One that never gets anywhere is given up.
    let wire = BrokenWire::to(registry.port, 5_000, false);
    let bench = Bench::new();
    let error = bench.refusal(&format!("127.0.0.1:{}/it:big", wire.port));
    assert!(error.contains("cannot be pulled"), "{error}");
    bench.verify();
}

#[test]
fn other_bytes_than_were_asked_for_are_refused() {
    let registry = Registry::start(false);
    let name = format!("127.0.0.1:{}/it:one", registry.port);
    let blobs = registry.push("one", &three_layers());
    for (place, blob) in blobs.iter().enumerate() {
        let (file, at) = (registry.blob_file(*blob), if place == 1 { 6 } else { 20 });
        let whole = fs::read(&file).unwrap();
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        fs::write(&file, bytes).unwrap();
        let bench = Bench::new();
        let error = bench.refusal(&name);
        assert!(error.contains(&format!("the layer sha256:{blob} has other bytes")), "{error}");
        fs::write(&file, whole).unwrap();
        bench.verify();
        bench.pull(&name).0.unwrap();
        bench.verify();
    }
}

#[test]
fn what_a_manifest_says_of_layers_is_compared() {
    let registry = Registry::start(false);
    let layer = registry.push("one", &[Layer::of(&[("a", b"a")], "+gzip")])[0];
    let other = Digest::of(b"other");
    let config = json!({"rootfs": {"diff_ids": [format!("sha256:{other}")]}}).to_string();
    let digest = registry.push_blob(config.as_bytes());
    let size = fs::metadata(registry.blob_file(layer)).unwrap().len();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": kind,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": format!("sha256:{digest}"), "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": format!("sha256:{layer}"), "size": size}],
    });
    registry.push_manifest("lie", kind, &manifest);
    let bench = Bench::new();
    let error = bench.refusal(&format!("127.0.0.1:{}/it:lie", registry.port));
    assert!(error.contains(&format!("not sha256:{other}")), "{error}");
    bench.verify();
}

#[test]
fn another_machines_image_is_refused_with_both_names() {
    let registry = Registry::start(false);
    registry.push_for("s390x", &three_layers(), "s390x");
    let bench = Bench::new();
    let error = bench.refusal(&format!("127.0.0.1:{}/it:s390x", registry.port));
    let here = format!("this machine is linux/{}", place::arch());
    assert!(error.contains("made for linux/s390x") && error.contains(&here), "{error}");
}

#[test]
fn an_index_leads_to_this_machines_image() {
    let registry = Registry::start(false);
    let (here, kind) = (place::arch(), "application/vnd.oci.image.manifest.v1+json");
    let mut entries = Vec::new();
    for (tag, arch) in [("other", "s390x"), ("this", here)] {
        registry.push_for(tag, &[Layer::of(&[("arch", arch.as_bytes())], "+gzip")], arch);
        let url = format!("http://127.0.0.1:{}/v2/it/manifests/{tag}", registry.port);
        let manifest = ureq::get(&url).header("Accept", kind).call().unwrap();
        let bytes = manifest.into_body().read_to_vec().unwrap();
        entries.push(json!({"mediaType": kind, "digest": format!("sha256:{}", Digest::of(&bytes)),
            "size": bytes.len(), "platform": {"os": "linux", "architecture": arch}}));
    }
    let kind = "application/vnd.oci.image.index.v1+json";
    let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": entries});
    let digest = registry.push_manifest("all", kind, &index);
    let bench = Bench::new();
    for name in ["it:all".to_owned(), format!("it@sha256:{digest}")] {
        let image = bench.pull(&format!("127.0.0.1:{}/{name}", registry.port)).0.unwrap();
        assert_eq!(fs::read_to_string(bench.file(&image, 0, "arch")).unwrap(), here);
    }
}

#[test]
fn two_builds_at_once_fetch_a_layer_once() {
    let registry = Registry::start(false);
    // The same layers in two orders: each pull has claimed what the other waits for.
    let layers: Vec<Layer> = (0..6).map(|n| Layer::of_noise(&format!("n{n}"), 2 << 20)).collect();
    let blobs = registry.push("up", &layers);
    let down: Vec<Layer> = layers.into_iter().rev().collect();
    registry.push("down", &down);
    let bench = Bench::new();
    let images: Vec<Image> = std::thread::scope(|scope| {
        let pull = |tag| bench.pull(&format!("127.0.0.1:{}/it:{tag}", registry.port)).0.unwrap();
        let pulls: Vec<_> =
            ["up", "down", "up", "down"].map(|tag| scope.spawn(move || pull(tag))).into();
        pulls.into_iter().map(|pull| pull.join().unwrap()).collect()
    });
    assert_eq!(images[0], images[2]);
    assert!(images[0].layers.iter().eq(images[1].layers.iter().rev()));
    for blob in blobs {
        assert_eq!(registry.gets(blob), 1);
    }
    bench.verify();
}

#[test]
fn bombs_are_refused() {
    let registry = Registry::start(false);
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(300 << 20);
    header.set_path("zeros").unwrap();
    header.set_cksum();
    tar.append(&header, std::io::repeat(0).take(300 << 20)).unwrap();
    registry.push("bomb", &[Layer::pack(tar.into_inner().unwrap(), "+zstd")]);
    let bench = Bench::new();
    let error = bench.refusal(&format!("127.0.0.1:{}/it:bomb", registry.port));
    assert!(error.contains("layer 1 of 1") && error.contains("becomes more than"), "{error}");
    bench.verify();
}

#[test]
fn hostile_layers_are_refused_by_their_entry() {
    let registry = Registry::start(false);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/archives");
    let tar = fs::read(folder.join("below-link.tar")).unwrap();
    registry.push("hostile", &[Layer::pack(tar, "+gzip")]);
    let bench = Bench::new();
    let error = bench.refusal(&format!("127.0.0.1:{}/it:hostile", registry.port));
    assert!(error.contains("layer 1 of 1: \"out/passwd\" in the archive is refused"), "{error}");
    bench.verify();
}

/// The name that says to this program, run again, what to pull and where to.
const PULL_HERE: &str = "PALISADE_TEST_PULL";

#[test]
fn a_killed_pull_leaves_nothing_half_made_and_the_next_goes_on() {
    if let Ok(text) = std::env::var(PULL_HERE) {
        let (store, name) = text.split_once(' ').unwrap();
        let store = Arc::new(LayerStore::open(store).unwrap());
        drop(Builder::new(store).base(name, &mut |_| {}));
        return;
    }
    let registry = Registry::start(false);
    let layers: Vec<Layer> = (0..4).map(|n| Layer::of_noise(&format!("n{n}"), 2 << 20)).collect();
    registry.push("four", &layers);
    let wire = BrokenWire::to(registry.port, 3 << 19, true);
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_pull_leaves_nothing_half_made_and_the_next_goes_on"])
        .env(PULL_HERE, format!("{} 127.0.0.1:{}/it:four", store.display(), wire.port))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let is_busy = || store.join("tmp").is_dir() && names(&store.join("tmp")).len() >= 4;
    while !is_busy() {
        assert!(started.elapsed() < Duration::from_secs(20), "the pull never began");
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(names(&store.join("layers")), [""; 0]);
    let opened = Arc::new(LayerStore::open(&store).unwrap());
    assert_eq!(names(&store.join("tmp")), [""; 0]);
    let name = format!("127.0.0.1:{}/it:four", registry.port);
    let image = Builder::new(opened.clone()).base(&name, &mut |_| {}).unwrap();
    for layer in &image.layers {
        opened.verify(*layer).unwrap();
    }
}
