//! The client's packages as a layer.

use blobs::Digest;
use images::{Client, Image};

use super::chroot::Chroot;
use super::{BUILDER, base, output};

/// The layer of a client, over a base with its Python.
fn layer(client: &Client, base: &Image) -> Digest {
    let mut log = Vec::new();
    let mut say = |bytes: &[u8]| log.extend_from_slice(bytes);
    let layer = client.layer(&BUILDER, base, &Chroot::new(), &mut say);
    layer.unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&log)))
}

#[test]
fn the_clients_packages_go_over_any_image_with_its_python() {
    let client = Client::new("1.6.4", "2025.06", (3, 11)).unwrap();
    let layer = layer(&client, &base());
    let diff = BUILDER.store().diff(layer);
    let mut names: Vec<_> =
        std::fs::read_dir(&diff).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["__modal", "pkg"]);
    assert!(diff.join("pkg/modal/__pycache__/_container_entrypoint.cpython-311.pyc").exists());
    BUILDER.store().verify(layer).unwrap();

    let mut image = base();
    image.layers.push(layer);
    let said = output(
        &image,
        "export PYTHONPATH=/root:/pkg; python -c 'import modal, aiohttp; \
        print(modal.__version__, modal.__file__, aiohttp.__file__)'; \
        PYTHONPATH= pip install --quiet aiohttp; \
        python -c 'import aiohttp; print(aiohttp.__file__)'",
    );
    assert!(said.contains("1.6.4 /pkg/modal/__init__.py /__modal/deps/aiohttp/"), "{said}");
    assert!(said.contains("/usr/local/lib/python3.11/dist-packages/aiohttp"), "{said}");

    let again = client.layer(&BUILDER, &base(), &Chroot::new(), &mut |_| {}).unwrap();
    assert_eq!(again, layer);
    let other = Client::new("1.6.4", "2025.06", (3, 13)).unwrap();
    let error = other.layer(&BUILDER, &base(), &Chroot::new(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("Python 3.13"), "{error}");
}

#[test]
fn every_client_and_python_that_is_served_has_packages() {
    let check = |version: &str, builder: &str, minor: u8| {
        let base = BUILDER.base(&format!("python:3.{minor}-slim"), &mut |_| {}).unwrap();
        let client = Client::new(version, builder, (3, minor)).unwrap();
        let mut image = base.clone();
        image.layers.push(layer(&client, &base));
        let code = "import modal, modal._container_entrypoint; print(modal.__version__)";
        let said = output(&image, &format!("PYTHONPATH=/root:/pkg python -c '{code}'"));
        assert_eq!(said.trim(), version);
    };
    check("1.6.4", "2025.06", 13);
    check("1.6.4", "2025.06", 14);
    check("1.4.3", "2025.06", 11);
    check("1.2.6", "2025.06", 11);
    check("1.0.5", "2024.10", 11);
}

#[test]
fn a_list_that_the_client_lacks_is_an_error_that_names_those_it_has() {
    let client = Client::new("1.6.4", "1999.01", (3, 11)).unwrap();
    let mut log = Vec::new();
    let mut say = |bytes: &[u8]| log.extend_from_slice(bytes);
    let error = client.layer(&BUILDER, &base(), &Chroot::new(), &mut say).unwrap_err().to_string();
    assert!(error.contains("the client 1.6.4 fails by exit code 1"), "{error}");
    let log = String::from_utf8_lossy(&log).into_owned();
    assert!(log.contains("1999.01; it has") && log.contains("2025.06"), "{log}");
}
