//! A restricted container that tries everything: other containers' inputs, calls and blobs are
//! not there for it, and what the store holds of others stays as it is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use model::call::State;
use plane::blobs::Door;
use prost::Message;
use sqlx::Row;
use store::inputs;
use tonic::Code;
use wire::client as pb;

use crate::place::{Cell, Place, Who};
use crate::raw::{frame, pieces, request, send};
use crate::scope::{ask, foreign_to_container};

type Dump = BTreeMap<String, BTreeSet<String>>;

/// Every row of every table, as text.
async fn dump(place: &Place) -> Dump {
    let mut db = place.plane.store.read().await.unwrap();
    let tables = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'";
    let tables = sqlx::query(tables).fetch_all(&mut *db).await.unwrap();
    let mut dump = Dump::new();
    for table in tables {
        let table: String = table.get(0);
        let columns = sqlx::query("SELECT name FROM pragma_table_info($1)").bind(&table);
        let columns = columns.fetch_all(&mut *db).await.unwrap();
        let quoted = columns.iter().map(|column| format!("quote({})", column.get::<String, _>(0)));
        let quoted = quoted.collect::<Vec<_>>().join(" || ' ' || ");
        let rows = sqlx::AssertSqlSafe(format!("SELECT {quoted} FROM {table}"));
        let rows = sqlx::query(rows).fetch_all(&mut *db).await.unwrap();
        dump.insert(table, rows.iter().map(|row| row.get::<String, _>(0)).collect());
    }
    dump
}

/// Rows that differ, but for what is the container's own.
fn changed(before: &Dump, after: &Dump, own: &[&str]) -> Vec<String> {
    let mut changed = Vec::new();
    for (table, rows) in after {
        for row in rows.symmetric_difference(&before[table]) {
            if table != "logs" && !own.iter().any(|id| row.contains(id)) {
                changed.push(format!("{table}: {row}"));
            }
        }
    }
    changed
}

fn names_of(cell: &Cell) -> [&str; 3] {
    [cell.task.as_str(), cell.call.as_str(), cell.input.as_str()]
}

/// Outputs for inputs of others, which are dropped without a word.
fn forged_outputs(cells: &[&Cell]) -> Vec<u8> {
    let outputs = cells.iter().map(|cell| pb::FunctionPutOutputsItem {
        input_id: cell.input.to_string(),
        result: Some(pb::GenericResult {
            status: pb::generic_result::GenericStatus::Success as i32,
            data_oneof: Some(pb::generic_result::DataOneof::Data("forged".into())),
            ..Default::default()
        }),
        data_format: pb::DataFormat::Pickle as i32,
        ..Default::default()
    });
    let outputs = outputs.collect();
    pb::FunctionPutOutputsRequest { outputs, ..Default::default() }.encode_to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restricted_container_changes_nothing_of_others() {
    let place = Place::new().await;
    let ours = &place.ours;
    let before = dump(&place).await;

    // Every rpc with nothing, and with rubbish.
    let (api, headers) = (place.api(Who::Restricted).await, place.headers(Who::Restricted));
    for name in wire::names::CLIENT.iter().chain(wire::names::ROUTER) {
        for service in [wire::CLIENT_SERVICE, wire::ROUTER_SERVICE] {
            for message in [&b""[..], b"\x0a\x05ap-ab", b"\xff"] {
                let path = format!("/{service}/{name}");
                let request = request(&path, &headers, pieces(vec![frame(message)]));
                send(api.clone(), request, Duration::from_millis(40)).await;
            }
        }
    }
    // What its neighbours in the workspace own, and what another workspace owns.
    let neighbours = [&ours.cells[0], &ours.cells[2], &place.theirs.cells[1]];
    for neighbour in neighbours {
        for case in foreign_of(neighbour, &ours.cells[1]) {
            let answer = ask(&place, Who::Restricted, &case).await;
            assert_eq!(answer.code, Code::NotFound, "{}: {answer:?}", case.0);
        }
    }
    for case in foreign_to_container(ours, &place.theirs) {
        let answer = ask(&place, Who::Restricted, &case).await;
        assert_eq!(answer.code, Code::NotFound, "{}: {answer:?}", case.0);
    }
    // A client's blob of its own workspace.
    let blob =
        pb::BlobGetRequest { blob_id: ours.blob.to_string(), ..Default::default() }.encode_to_vec();
    assert_eq!(ask(&place, Who::Restricted, &("BlobGet", blob)).await.code, Code::NotFound);
    let forged = ("FunctionPutOutputs", forged_outputs(&neighbours));
    assert_eq!(ask(&place, Who::Restricted, &forged).await.code, Code::Ok);

    let after = dump(&place).await;
    let own = names_of(&ours.cells[1]);
    assert_eq!(changed(&before, &after, &own), Vec::<String>::new());
    let mut db = place.plane.store.read().await.unwrap();
    for neighbour in neighbours {
        let input = inputs::open(&mut db, &neighbour.input).await.unwrap().unwrap();
        assert!(matches!(input.input.state, State::Running { .. }));
    }
}

/// The requests of [`foreign_to_container`] for a container of the same workspace.
fn foreign_of(neighbour: &Cell, own: &Cell) -> Vec<(&'static str, Vec<u8>)> {
    use pb::function_call_put_data_request::CallInfo;
    let data = pb::FunctionCallGetDataRequest {
        call_info: Some(pb::function_call_get_data_request::CallInfo::FunctionCallId(
            neighbour.call.to_string(),
        )),
        ..Default::default()
    };
    let chunk = pb::DataChunk {
        index: 1,
        data_oneof: Some(pb::data_chunk::DataOneof::DataBlobId(neighbour.result.to_string())),
        ..Default::default()
    };
    let chunks = |call: &model::CallId, chunk: pb::DataChunk| pb::FunctionCallPutDataRequest {
        call_info: Some(CallInfo::FunctionCallId(call.to_string())),
        data_chunks: vec![chunk],
    };
    let inline = pb::DataChunk { index: 1, ..Default::default() };
    vec![
        (
            "BlobGet",
            pb::BlobGetRequest { blob_id: neighbour.result.to_string(), ..Default::default() }
                .encode_to_vec(),
        ),
        (
            "BlobGet",
            pb::BlobGetRequest { blob_id: neighbour.argument.to_string(), ..Default::default() }
                .encode_to_vec(),
        ),
        ("FunctionCallGetDataIn", data.encode_to_vec()),
        ("FunctionCallPutDataOut", chunks(&neighbour.call, inline).encode_to_vec()),
        ("FunctionCallPutDataOut", chunks(&own.call, chunk).encode_to_vec()),
        ("FunctionGetInputs", get_inputs(neighbour)),
    ]
}

fn get_inputs(cell: &Cell) -> Vec<u8> {
    let function_id = cell.function.to_string();
    pb::FunctionGetInputsRequest { function_id, ..Default::default() }.encode_to_vec()
}

/// What is its own is there: the blob that its input carries, the one that it made, its call.
#[tokio::test(flavor = "multi_thread")]
async fn a_restricted_container_reaches_its_own() {
    let place = Place::new().await;
    let own = &place.ours.cells[1];
    for blob in [&own.argument, &own.result] {
        let request =
            pb::BlobGetRequest { blob_id: blob.to_string(), ..Default::default() }.encode_to_vec();
        let answer = ask(&place, Who::Restricted, &("BlobGet", request)).await;
        assert_eq!(answer.code, Code::Ok, "{answer:?}");
    }
    let output = ("FunctionPutOutputs", forged_outputs(&[own]));
    assert_eq!(ask(&place, Who::Restricted, &output).await.code, Code::Ok);
    let mut db = place.plane.store.read().await.unwrap();
    assert!(inputs::open(&mut db, &own.input).await.unwrap().is_none());
}

/// Blobs behind a door: the token is not enough.
#[tokio::test]
async fn a_blobs_token_opens_nothing_behind_another_door() {
    let place = Place::new().await;
    let ours = &place.ours;
    let token = async |id: &model::BlobId| {
        let mut db = place.plane.store.read().await.unwrap();
        store::blobs::get(&mut db, &ours.scope, id).await.unwrap().unwrap().token
    };
    let opens = async |id: &model::BlobId, door: &Door| {
        place.plane.download(&token(id).await, door).await.is_ok()
    };
    let (one, two) = (&ours.cells[1], &ours.cells[2]);
    let (of_one, of_two) = (Door::Restricted(one.task.clone()), Door::Restricted(two.task.clone()));
    assert!(opens(&one.argument, &of_one).await);
    assert!(opens(&one.result, &of_one).await);
    assert!(!opens(&one.argument, &of_two).await);
    assert!(!opens(&one.result, &of_two).await);
    assert!(!opens(&ours.blob, &of_one).await);
    // An open container fetches whatever BlobGet gives it: results of functions that it called.
    let of_ours = Door::Workspace(ours.scope.workspace.clone());
    assert!(opens(&one.result, &of_ours).await);
    assert!(opens(&ours.blob, &of_ours).await);
    let of_theirs = Door::Workspace(place.theirs.scope.workspace.clone());
    assert!(!opens(&one.result, &of_theirs).await);
}

/// What a container may keep in blobs is limited in bytes, however small each blob is.
#[tokio::test(flavor = "multi_thread")]
async fn blobs_of_a_container_are_limited() {
    use base64::Engine;
    let place = Place::new().await;
    let create = |content_length: i64| {
        let hash = base64::engine::general_purpose::STANDARD.encode([0_u8; 32]);
        let request = pb::BlobCreateRequest {
            content_length,
            content_sha256_base64: hash,
            ..Default::default()
        };
        ("BlobCreate", request.encode_to_vec())
    };
    // The place allows payloads of 1 MiB, 16 of them for each container.
    let mut made = 0;
    while ask(&place, Who::Restricted, &create(1 << 20)).await.code == Code::Ok {
        made += 1;
        assert!(made <= 16, "a container announced more than it may keep");
    }
    assert!(made >= 14, "only {made}");
    let place = Place::new().await;
    let mut made = 0;
    while ask(&place, Who::Restricted, &create(0)).await.code == Code::Ok {
        made += 1;
        assert!(made <= 1_000, "a container announces empty blobs without end");
    }
}

/// What a container may stream beside its calls is limited, in large chunks and in empty ones.
#[tokio::test(flavor = "multi_thread")]
async fn chunks_of_a_container_are_limited() {
    use pb::function_call_put_data_request::CallInfo;
    for (bytes, chunks, most) in [(1 << 20, 1, 16), (0, 10_000, 7)] {
        let place = Place::new().await;
        let call = &place.ours.cells[1].call;
        let mut index = 0;
        let mut taken = 0;
        loop {
            let chunk = |n: u64| pb::DataChunk {
                index: index + n,
                data_oneof: Some(pb::data_chunk::DataOneof::Data(vec![0; bytes].into())),
                ..Default::default()
            };
            let request = pb::FunctionCallPutDataRequest {
                call_info: Some(CallInfo::FunctionCallId(call.to_string())),
                data_chunks: (1..=chunks).map(chunk).collect(),
            };
            index += chunks;
            let case = ("FunctionCallPutDataOut", request.encode_to_vec());
            match ask(&place, Who::Restricted, &case).await.code {
                Code::Ok => taken += 1,
                code => break assert_eq!(code, Code::ResourceExhausted),
            }
            assert!(taken <= most, "a container streams without end");
        }
        assert!(taken > 0, "it may not stream at all");
    }
}
