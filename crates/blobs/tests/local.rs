//! The local store as its callers see it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io;

use blobs::{Digest, Error, Expected, Local};
use bytes::Bytes;
use futures::stream;

async fn open() -> (tempfile::TempDir, Local) {
    let dir = tempfile::tempdir().unwrap();
    let store = Local::open(dir.path()).await.unwrap();
    (dir, store)
}

fn tmp_is_empty(dir: &tempfile::TempDir) -> bool {
    std::fs::read_dir(dir.path().join("tmp")).unwrap().next().is_none()
}

#[tokio::test]
async fn what_goes_in_comes_out_under_its_digest() {
    let (dir, store) = open().await;
    let body = Bytes::from(vec![7; 1 << 20]);
    let expected = Expected { digest: Some(Digest::of(&body)), len: Some(1 << 20) };
    let stored = store.put_bytes(body.clone(), expected).await.unwrap();
    assert_eq!(stored.digest, Digest::of(&body));
    assert_eq!(stored.len, 1 << 20);
    assert_eq!(store.stat(stored.digest).await.unwrap(), Some(1 << 20));
    assert_eq!(store.get_bytes(stored.digest, 1 << 20).await.unwrap(), body);
    assert_eq!(std::fs::read(store.path(stored.digest)).unwrap(), body);
    assert_eq!(store.list().await.unwrap(), [stored.digest]);
    assert!(tmp_is_empty(&dir));
}

#[tokio::test]
async fn md5_is_that_of_the_whole_body() {
    let (_dir, store) = open().await;
    let chunks = stream::iter([Ok(Bytes::from("hello ")), Ok(Bytes::from("world"))]);
    let stored = store.put(chunks, Expected::default()).await.unwrap();
    assert_eq!(stored.md5_hex, "5eb63bbbe01eeed093cb22bb8f5acdc3");
}

#[tokio::test]
async fn a_wrong_digest_names_both_and_keeps_nothing() {
    let (dir, store) = open().await;
    let (wanted, came) = (Digest::of(b"wanted"), Digest::of(b"came"));
    let expected = Expected { digest: Some(wanted), len: None };
    let error = store.put_bytes("came".into(), expected).await.unwrap_err().to_string();
    assert!(error.contains(&wanted.to_string()) && error.contains(&came.to_string()), "{error}");
    assert!(store.list().await.unwrap().is_empty());
    assert!(tmp_is_empty(&dir));
}

#[tokio::test]
async fn a_wrong_length_keeps_nothing() {
    let (dir, store) = open().await;
    for len in [3, 5] {
        let expected = Expected { digest: None, len: Some(len) };
        let error = store.put_bytes("four".into(), expected).await.unwrap_err();
        assert!(matches!(error, Error::WrongLength { found: 4, .. }), "{error}");
    }
    assert!(tmp_is_empty(&dir));
}

#[tokio::test]
async fn the_limit_holds_while_the_bytes_come() {
    let dir = tempfile::tempdir().unwrap();
    let store = Local::open_limited(dir.path(), 10).await.unwrap();
    let endless = stream::repeat_with(|| Ok(Bytes::from_static(b"1234")));
    let error = store.put(endless, Expected::default()).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { max: 10 }), "{error}");
    assert!(tmp_is_empty(&dir));
}

#[tokio::test]
async fn a_source_that_breaks_keeps_nothing() {
    let (dir, store) = open().await;
    let chunks = stream::iter([Ok(Bytes::from("half")), Err(io::Error::other("gone"))]);
    let error = store.put(chunks, Expected::default()).await.unwrap_err();
    assert!(matches!(error, Error::Source(_)), "{error}");
    assert!(tmp_is_empty(&dir));
}

#[tokio::test]
async fn a_caller_that_stops_waiting_leaves_nothing() {
    let (dir, store) = open().await;
    let never = stream::pending::<io::Result<Bytes>>();
    let put = store.put(never, Expected::default());
    let waited = tokio::time::timeout(std::time::Duration::from_millis(50), put).await;
    assert!(waited.is_err());
    assert!(tmp_is_empty(&dir));
}

#[tokio::test]
async fn the_same_bytes_at_the_same_time_are_stored_once() {
    let (dir, store) = open().await;
    let body = Bytes::from(vec![3; 300_000]);
    let puts = (0..16).map(|_| store.put_bytes(body.clone(), Expected::default()));
    for stored in futures::future::join_all(puts).await {
        assert_eq!(stored.unwrap().digest, Digest::of(&body));
    }
    assert_eq!(store.list().await.unwrap().len(), 1);
    assert!(tmp_is_empty(&dir));
}

#[tokio::test]
async fn leftovers_go_away_when_the_store_is_opened() {
    let (dir, store) = open().await;
    drop(store);
    std::fs::write(dir.path().join("tmp/half"), "half").unwrap();
    Local::open(dir.path()).await.unwrap();
    assert!(tmp_is_empty(&dir));
}

#[tokio::test]
async fn what_is_not_there_is_said_by_name() {
    let (_dir, store) = open().await;
    let digest = Digest::of(b"nowhere");
    let error = store.get_bytes(digest, 1).await.unwrap_err();
    assert!(error.to_string().contains(&digest.to_string()), "{error}");
    assert_eq!(store.stat(digest).await.unwrap(), None);
    assert!(!store.remove(digest).await.unwrap());
}

#[tokio::test]
async fn a_removed_blob_can_still_be_read_by_who_has_it_open() {
    use tokio::io::AsyncReadExt as _;
    let (_dir, store) = open().await;
    let stored = store.put_bytes("bytes".into(), Expected::default()).await.unwrap();
    let (_, mut file) = store.get(stored.digest).await.unwrap();
    assert!(store.remove(stored.digest).await.unwrap());
    let mut text = String::new();
    file.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "bytes");
}

#[tokio::test]
async fn a_blob_larger_than_what_memory_may_take_is_refused() {
    let (_dir, store) = open().await;
    let stored = store.put_bytes("12345".into(), Expected::default()).await.unwrap();
    let error = store.get_bytes(stored.digest, 4).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { max: 4 }), "{error}");
}
