//! A function whose output may not be pickled: whatever its container sends, its caller is not
//! made to unpickle it.

use model::output::Payload;
use prost::Message;
use store::outcomes::{self, Wanted};
use store::{functions, tasks};
use tonic::Code;
use wire::client as pb;
use wire::client::generic_result::{DataOneof, GenericStatus};

use crate::place::{Place, Who};
use crate::scope::ask;

async fn restrict(place: &Place) {
    let function = &place.ours.cells[1].function;
    let mut tx = place.plane.store.begin().await.unwrap();
    let mut stored = functions::get_any(&mut tx, function).await.unwrap().unwrap();
    stored.spec.as_mut().unwrap().restrict_output = true;
    functions::put(&mut tx, &stored).await.unwrap();
    tx.commit().await.unwrap();
    place.plane.functions.forget(function);
}

fn result(status: GenericStatus) -> pb::GenericResult {
    pb::GenericResult {
        status: status as i32,
        exception: "it failed".into(),
        serialized_tb: "a pickle".into(),
        tb_line_cache: "a pickle".into(),
        data_oneof: Some(DataOneof::Data("a pickle".into())),
        ..Default::default()
    }
}

#[tokio::test]
async fn outputs_are_never_pickles() {
    use pb::DataFormat::{Cbor, Pickle, Unspecified};
    for (format, status, kept) in [
        (Pickle, GenericStatus::Success, false),
        (Unspecified, GenericStatus::Success, false),
        (Pickle, GenericStatus::Failure, false),
        // The client takes a failure's data for a pickle where no format is said.
        (Unspecified, GenericStatus::Failure, false),
        (Cbor, GenericStatus::Success, true),
    ] {
        let place = Place::new().await;
        restrict(&place).await;
        let cell = &place.ours.cells[1];
        let output = pb::FunctionPutOutputsItem {
            input_id: cell.input.to_string(),
            result: Some(result(status)),
            data_format: format as i32,
            ..Default::default()
        };
        let request = pb::FunctionPutOutputsRequest { outputs: vec![output], ..Default::default() };
        let case = ("FunctionPutOutputs", request.encode_to_vec());
        assert_eq!(ask(&place, Who::Restricted, &case).await.code, Code::Ok);
        let mut db = place.plane.store.read().await.unwrap();
        let done =
            outcomes::done(&mut db, &cell.call, Wanted::After(0), 1).await.unwrap().remove(0);
        assert!(done.outcome.serialized_tb.is_empty());
        assert!(done.outcome.tb_line_cache.is_empty());
        let data = done.outcome.data;
        assert_eq!(matches!(data, Some(Payload::Inline(_))), kept, "{format:?} {status:?}");
        assert!(!done.outcome.exception.is_empty() || kept);
    }
}

#[tokio::test]
async fn chunks_are_never_pickles() {
    use pb::function_call_put_data_request::CallInfo;
    let place = Place::new().await;
    restrict(&place).await;
    let cell = &place.ours.cells[1];
    for (format, code) in [
        (pb::DataFormat::Pickle, Code::InvalidArgument),
        (pb::DataFormat::Unspecified, Code::InvalidArgument),
        (pb::DataFormat::Cbor, Code::Ok),
    ] {
        let chunk = pb::DataChunk { index: 1, data_format: format as i32, ..Default::default() };
        let request = pb::FunctionCallPutDataRequest {
            call_info: Some(CallInfo::FunctionCallId(cell.call.to_string())),
            data_chunks: vec![chunk],
        };
        let case = ("FunctionCallPutDataOut", request.encode_to_vec());
        assert_eq!(ask(&place, Who::Restricted, &case).await.code, code, "{format:?}");
    }
}

/// A container that says that it could not start: what waits for the function hears it, unpickled.
#[tokio::test]
async fn the_word_of_a_failed_start_is_text() {
    let place = Place::new().await;
    restrict(&place).await;
    let cell = &place.ours.cells[1];
    // It gives back what it holds, and comes anew.
    plane::reports::ended(&place.plane, &cell.task, model::link::End::Lost).await.unwrap();
    let mut tx = place.plane.store.begin().await.unwrap();
    let mut task = tasks::get_any(&mut tx, &cell.task).await.unwrap().unwrap();
    task.id = model::TaskId::new([5; 16]);
    task.phase = tasks::Phase::Started;
    task.taken_count = 0;
    tasks::insert(&mut tx, &task).await.unwrap();
    tx.commit().await.unwrap();
    let caller = place.plane.identify_task(&task.id).await.unwrap();
    let door = plane::Transport::Door(Box::new(caller));
    let api = plane::Api::new(place.plane.clone(), place.tables.clone(), door);
    let request = pb::TaskResultRequest {
        result: Some(result(GenericStatus::Failure)),
        ..Default::default()
    };
    let metadata = tonic::metadata::MetadataMap::new();
    wire::rpc::call::<wire::rpc::client::TaskResult>(api, metadata, request).await.unwrap();
    let mut db = place.plane.store.read().await.unwrap();
    let done = outcomes::done(&mut db, &cell.call, Wanted::After(0), 1).await.unwrap().remove(0);
    assert!(done.outcome.data.is_none() && done.outcome.serialized_tb.is_empty());
    assert_eq!(done.outcome.exception, "it failed");
}
