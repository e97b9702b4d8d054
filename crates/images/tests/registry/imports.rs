//! Images from files, as skopeo writes them.

use std::fs;
use std::process::Command;

use images::{Image, ImportError, import};

use super::Bench;
use super::place::{Layer, Registry};

fn skopeo(registry: &Registry, target: &str) {
    let from = format!("docker://127.0.0.1:{}/it:one", registry.port);
    let copied = Command::new("skopeo")
        .args(["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", &from, target])
        .output()
        .expect("skopeo cannot be run: apt install skopeo");
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));
}

fn import_into(
    bench: &Bench,
    path: &std::path::Path,
    name: Option<&str>,
) -> Result<Vec<(String, Image)>, ImportError> {
    import(&bench.builder, path, name, false, &mut |_| {}).map(|report| report.images)
}

#[test]
fn what_skopeo_writes_is_imported_under_its_name() {
    let registry = Registry::start(false);
    registry.push(
        "one",
        &[Layer::of(&[("a", b"low")], "+gzip"), Layer::of(&[("b", b"high")], "+gzip")],
    );
    let pulled = {
        let bench = Bench::new();
        bench.pull(&format!("127.0.0.1:{}/it:one", registry.port)).0.unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    skopeo(&registry, &format!("oci:{}:tag", path("layout").display()));
    skopeo(&registry, &format!("oci-archive:{}", path("oci.tar").display()));
    let saved = format!("docker-archive:{}:me/it:one", path("docker.tar").display());
    skopeo(&registry, &saved);
    drop(registry);

    let bench = Bench::new();
    let error = import_into(&bench, &path("layout"), None).unwrap_err().to_string();
    assert!(error.contains("--name"), "{error}");
    for (file, name) in [("layout", "a:1"), ("oci.tar", "b.test/x")] {
        let images = import_into(&bench, &path(file), Some(name)).unwrap();
        assert_eq!(images[0].1, pulled, "{file}");
        assert_eq!(bench.pull(name).0.unwrap(), pulled, "{file}");
    }
    let images = import_into(&bench, &path("docker.tar"), None).unwrap();
    assert_eq!(images, [("docker.io/me/it:one".to_owned(), pulled.clone())]);
    // Other files of the same content: the same layers.
    assert_eq!(bench.builder.store().list().unwrap().len(), 2);
    let names: Vec<String> =
        bench.builder.store().names().unwrap().into_iter().map(|it| it.name).collect();
    assert_eq!(names, ["b.test/x:latest", "docker.io/library/a:1", "docker.io/me/it:one"]);
    bench.verify();
}

#[test]
fn what_is_no_image_is_refused() {
    let registry = Registry::start(false);
    let blob = registry.push("one", &[Layer::of(&[("a", b"low")], "+gzip")])[0];
    let dir = tempfile::tempdir().unwrap();
    skopeo(&registry, &format!("oci:{}:tag", dir.path().join("layout").display()));
    let bench = Bench::new();
    let refusal = |path: &str| {
        import_into(&bench, &dir.path().join(path), Some("a")).unwrap_err().to_string()
    };
    assert!(refusal("nowhere").contains("nowhere"));
    fs::create_dir(dir.path().join("empty")).unwrap();
    assert!(refusal("empty").contains("is no image"));
    fs::write(dir.path().join("junk"), "no archive at all").unwrap();
    assert!(refusal("junk").contains("cannot be read"));
    let file = dir.path().join(format!("layout/blobs/sha256/{blob}"));
    let mut bytes = fs::read(&file).unwrap();
    bytes[20] ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = refusal("layout");
    assert!(error.contains(&format!("the layer sha256:{blob} has other bytes")), "{error}");
    fs::remove_file(&file).unwrap();
    assert!(refusal("layout").contains("is not in the archive"));
    // A blob that is a link out of the layout is not read.
    std::os::unix::fs::symlink("/etc/passwd", &file).unwrap();
    assert!(refusal("layout").contains("is not in the archive"));
    bench.verify();
}
