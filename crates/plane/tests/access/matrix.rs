//! The table against the names of all rpcs, and against its snapshot.

use std::fmt::Write;
use std::path::Path;

use plane::api::rows::client_rows;
use plane::api::table::RpcTable;

use crate::place::{EVERYBODY, Place};

#[test]
fn every_rpc_is_served_or_declined_with_a_reason() {
    assert_eq!(client_rows().missing(wire::names::CLIENT), Vec::<&str>::new());
    for row in client_rows().rows() {
        assert!(wire::names::CLIENT.contains(&row.name), "{} is no rpc of the client's", row.name);
        if let Some(reason) = row.declined() {
            assert!(reason.len() > 10, "{}: `{reason}` is no reason", row.name);
            assert!(!reason.ends_with('.'), "{}: `{reason}`: no full stop", row.name);
        }
    }
}

#[test]
fn a_missing_row_is_named() {
    assert_eq!(client_rows().missing(&["FunctionCreate", "MadeUp"]), ["MadeUp"]);
}

async fn matrix(place: &Place, table: &RpcTable) -> String {
    let mut text = String::new();
    let head = format!("{:<34}nobody  user  task  restricted", "");
    writeln!(text, "{head}").unwrap();
    for row in table.rows() {
        if let Some(reason) = row.declined() {
            writeln!(text, "{:<34}declined: {reason}", row.name).unwrap();
            continue;
        }
        let mut line = format!("{:<34}", row.name);
        for (who, width) in EVERYBODY.into_iter().zip([8, 6, 6, 0]) {
            let mark = match row.admits(place.caller(who).await) {
                Ok(()) => '✔',
                Err(_) => '·',
            };
            write!(line, "  {mark:<width$}", width = width - width.min(2)).unwrap();
        }
        writeln!(text, "{}", line.trim_end()).unwrap();
    }
    text
}

#[tokio::test]
async fn access_is_as_the_snapshot_says() {
    let place = Place::new().await;
    let mut text = String::from(
        "Who may call which rpc. A restricted container reaches the rows marked in the last\n\
         column, and in them nothing but its own inputs, outputs and blobs.\n\n",
    );
    let (service, table) = (wire::CLIENT_SERVICE, client_rows());
    writeln!(text, "{service}\n\n{}", matrix(&place, &table).await).unwrap();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("snapshots/access.txt");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &text).unwrap();
        return;
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (now, before) = (lines(&text), lines(&kept));
    let added: Vec<_> = now.iter().filter(|line| !before.contains(line)).collect();
    let gone: Vec<_> = before.iter().filter(|line| !now.contains(line)).collect();
    assert!(
        text == kept,
        "access has changed. It was:\n{gone:#?}\nIt is:\n{added:#?}\nIf that is meant, run \
         `UPDATE_SNAPSHOTS=1 cargo test -p plane --test access` and commit {}",
        path.display()
    );
}
