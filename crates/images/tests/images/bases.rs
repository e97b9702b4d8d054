//! Base images out of Debian packages behave like the official ones of their names.

use super::{BASE, BUILDER, output};

/// Behaves like the official image of its name.
fn check_python(reference: &str, minor: u8) {
    let mut log = Vec::new();
    let image = BUILDER.base(reference, &mut |bytes| log.extend_from_slice(bytes)).unwrap();
    assert_eq!(image.python, Some((3, minor)));
    assert!(image.config.env("PYTHON_VERSION").unwrap().starts_with(&format!("3.{minor}.")));
    let commands = "python --version; python3 --version; \
        for c in python pip pip3; do command -v $c; done; \
        python -c 'import ssl, sqlite3, ctypes, lzma, bz2'; \
        python -c 'import zoneinfo; zoneinfo.ZoneInfo(\"Europe/Paris\")'; \
        pip --version";
    let said = output(&image, commands);
    assert_eq!(said.matches(&format!("Python 3.{minor}.")).count(), 2, "{said}");
    assert!(
        said.contains("/usr/local/bin/python\n/usr/local/bin/pip\n/usr/local/bin/pip3"),
        "{said}"
    );
    assert!(said.contains(&format!("(python 3.{minor})")), "{said}");

    let said = output(
        &image,
        "pip install --no-cache-dir six; python -c 'import six; print(six)'; \
        python -m venv /opt/v; /opt/v/bin/pip --version; \
        pip install --upgrade pip; pip --version",
    );
    assert!(said.contains("/usr/local/lib/python3"), "{said}");
    assert!(said.contains("from /opt/v/lib/"), "{said}");

    let diff = BUILDER.store().diff(image.layers[0]);
    let host = std::fs::read_to_string("/etc/hostname").unwrap();
    for path in ["etc/hostname", "etc/resolv.conf", "etc/hosts"] {
        assert_eq!(std::fs::read_to_string(diff.join(path)).unwrap(), "", "{host}");
    }
    assert!(!diff.join("etc/apt/apt.conf.d/99mmdebstrap").exists());
    assert!(!diff.join("etc/apt/sources.list").exists());
    assert!(std::fs::read_dir(diff.join("dev")).unwrap().next().is_none());
    BUILDER.store().verify(image.layers[0]).unwrap();
    let size = BUILDER.store().size(image.layers[0]).unwrap();
    assert!(size.bytes < 200 << 20, "{size:?}");
}

#[test]
fn bookworm_has_python_3_11() {
    check_python(BASE, 11);
}

#[test]
fn trixie_has_python_3_13() {
    check_python("python:3.13.3-slim-bookworm", 13);
}

#[test]
fn sid_has_python_3_14() {
    check_python("python:3.14-slim", 14);
}

#[test]
fn a_small_debian_has_apt() {
    let image = BUILDER.base("debian:bookworm-slim", &mut |_| {}).unwrap();
    assert_eq!(image.python, None);
    let said = output(
        &image,
        "apt-get update -qq; apt-get install -qqy jq >/dev/null 2>&1; \
        jq --version; useradd -m someone; id -un someone; ls /var/cache/apt/archives",
    );
    assert!(said.contains("jq-1"), "{said}");
    assert!(said.contains("\nsomeone\n") && !said.contains(".deb"), "{said}");
}

#[test]
fn nothing_is_the_base_of_scratch() {
    assert_eq!(BUILDER.base("scratch", &mut |_| {}).unwrap(), images::Image::default());
}
