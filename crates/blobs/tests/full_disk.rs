//! A full disk, as root sees it: a small tmpfs in a mount namespace of this test's own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::Command;

use blobs::{Error, Expected, Local};
use bytes::Bytes;

/// Runs the test's own binary again inside a fresh mount namespace with a 1 MiB tmpfs, so that
/// the mount is gone when the process is.
#[test]
fn a_full_disk_is_an_error_by_name_and_leaves_no_draft() {
    if let Some(dir) = std::env::var_os("PALISADE_TEST_FULL_DISK") {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(fill(std::path::PathBuf::from(dir)));
    }
    let dir = tempfile::tempdir().unwrap();
    let script =
        "mount -t tmpfs -o size=1M palisade-test \"$PALISADE_TEST_FULL_DISK\" && exec \"$0\"";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .arg(std::env::current_exe().unwrap())
        .env("PALISADE_TEST_FULL_DISK", dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

async fn fill(dir: std::path::PathBuf) {
    let store = Local::open(&dir).await.unwrap();
    let error = store.put_bytes(Bytes::from(vec![1; 2 << 20]), Expected::default()).await;
    assert!(matches!(error.unwrap_err(), Error::Full { .. }));
    assert!(std::fs::read_dir(dir.join("tmp")).unwrap().next().is_none());
    store.put_bytes("small".into(), Expected::default()).await.unwrap();
}
