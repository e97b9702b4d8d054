//! Output is cut to size at its old end.

use bytes::Bytes;
use model::{AppId, FunctionId, TaskId, Time};
use store::{Store, logs};

#[tokio::test]
async fn the_oldest_output_goes_first_and_leaves_a_word() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("palisade.db")).await.unwrap();
    let (app, other) = (AppId::new([1; 16]), AppId::new([2; 16]));
    let mut tx = store.begin().await.unwrap();
    for n in 0..20_u8 {
        let entry = logs::Entry {
            seq: 0,
            app: if n % 2 == 0 { app.clone() } else { other.clone() },
            function: Some(FunctionId::new([1; 16])),
            task: TaskId::new([1; 16]),
            stream: 1,
            at: Time(u64::from(n)),
            data: Bytes::from(vec![b'a' + n; 10]),
        };
        logs::append(&mut tx, &entry).await.unwrap();
    }
    assert!(!logs::trim(&mut tx, &app, 100, "cut", 3).await.unwrap(), "it is small enough");
    assert!(logs::trim(&mut tx, &app, 45, "cut", 3).await.unwrap());
    let left = logs::after(&mut tx, &app, 0, 100).await.unwrap();
    let texts: Vec<_> = left.iter().map(|entry| entry.data.clone()).collect();
    let line = |n: u8| Bytes::from(vec![b'a' + n; 10]);
    assert_eq!(texts, [Bytes::from("cut"), line(12), line(14), line(16), line(18)]);
    assert_eq!(left[0].stream, 3);
    assert!(left.windows(2).all(|two| two[0].seq < two[1].seq));
    assert_eq!(logs::after(&mut tx, &other, 0, 100).await.unwrap().len(), 10, "not its own");
}
