//! What no client sends: unknown paths, other methods, broken frames. Each gets a clean refusal,
//! and the server serves the next request as if nothing had been.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{Method, Version};
use http_body::Frame;
use http_body_util::StreamBody;
use plane::api::gate::RESTRICTED;
use prost::Message;
use tonic::Code;
use wire::client as pb;

use crate::place::{EVERYBODY, Place, Who};
use crate::raw::{endless, frame, pieces, request, send};

const AT_ONCE: Duration = Duration::from_secs(10);

fn path(name: &str) -> String {
    format!("/{}/{name}", wire::CLIENT_SERVICE)
}

async fn still_serves(place: &Place) {
    let headers = place.headers(Who::User);
    let hello = request(&path("ClientHello"), &headers, pieces(vec![frame(&[])]));
    let answer = send(place.api(Who::User).await, hello, AT_ONCE).await.unwrap();
    assert_eq!(answer.code, Code::Ok, "{answer:?}");
}

#[tokio::test]
async fn unknown_paths() {
    let place = Place::new().await;
    let paths = [
        "/",
        "//",
        "/modal.client.ModalClient",
        "/modal.client.ModalClient/",
        "/modal.client.ModalClient/Nope",
        "/modal.client.ModalClient/appcreate",
        "/modal.client.ModalClient/AppCreate/",
        "/modal.client.ModalClient/AppCreate/more",
        "/modal.client.ModalClient//AppCreate",
        "/modal.client.ModalClient/%41ppCreate",
        "/modal.client.ModalClient/../modal.client.ModalClient/AppCreate",
        "/modal.client.Modalclient/AppCreate",
        "/ModalClient/AppCreate",
        "/modal.task_command_router.TaskCommandRouter/AppCreate",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/grpc.health.v1.Health/Check",
        "/internal/FunctionGetInputs",
    ];
    for who in EVERYBODY {
        for path in paths {
            let body = endless(vec![frame(b"anything")]);
            let request = request(path, &place.headers(who), body);
            let answer = send(place.api(who).await, request, AT_ONCE).await.unwrap();
            match who {
                Who::Nobody => assert_eq!(answer.code, Code::Unauthenticated, "{path}"),
                Who::User | Who::Task => assert_eq!(answer.code, Code::Unimplemented, "{path}"),
                Who::Restricted => {
                    assert_eq!(answer.code, Code::Unauthenticated, "{path}");
                    assert_eq!(answer.text, RESTRICTED);
                }
            }
        }
    }
    still_serves(&place).await;
}

#[tokio::test]
async fn what_is_not_grpc_over_http_2() {
    let place = Place::new().await;
    for who in EVERYBODY {
        let headers = place.headers(who);
        let plain = || request(&path("ClientHello"), &headers, pieces(vec![frame(&[])]));
        let mut get = plain();
        *get.method_mut() = Method::GET;
        let mut old = plain();
        *old.version_mut() = Version::HTTP_11;
        let mut untyped = plain();
        untyped.headers_mut().remove("content-type");
        let mut form = plain();
        form.headers_mut().insert("content-type", "text/plain".parse().unwrap());
        let mut web = plain();
        web.headers_mut().insert("content-type", "application/grpc-web".parse().unwrap());
        let cases = [(get, 405), (old, 505), (untyped, 415), (form, 415), (web, 415)];
        for (request, status) in cases {
            let answer = send(place.api(who).await, request, AT_ONCE).await.unwrap();
            assert_eq!(answer.http_status, status, "{who:?}: {answer:?}");
            assert_ne!(answer.code, Code::Ok, "{who:?}");
        }
        let mut proto = plain();
        proto.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
        let answer = send(place.api(who).await, proto, AT_ONCE).await.unwrap();
        let welcome = who != Who::Nobody;
        assert_eq!(answer.code == Code::Ok, welcome, "{who:?}: {answer:?}");
    }
}

/// Bodies that are no message, at every row that is open to somebody.
#[tokio::test(flavor = "multi_thread")]
async fn broken_messages() {
    let place = Place::new().await;
    for who in [Who::User, Who::Task, Who::Restricted] {
        let caller = place.caller(who).await;
        let (api, headers) = (place.api(who).await, place.headers(who));
        let rows = place.tables.iter().flat_map(|table| table.rows());
        let open = rows.filter(|row| row.declined().is_none());
        for row in open.filter(|row| row.admits(caller.clone()).is_ok()) {
            let path = path(row.name);
            for garbage in [&b"\xff\xff\xff\xff\xff\xff"[..], b"\x0a\xff", b"\x0b", b"\x07\x00"] {
                let body = pieces(vec![frame(garbage)]);
                let answer = send(api.clone(), request(&path, &headers, body), AT_ONCE).await;
                let answer = answer.unwrap_or_else(|| panic!("{}: no answer", row.name));
                let known = [Code::InvalidArgument, Code::NotFound];
                assert!(known.contains(&answer.code), "{}: {answer:?}", row.name);
            }
        }
    }
    still_serves(&place).await;
}

fn announced(bytes: u32, flag: u8, data: &[u8]) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(flag);
    frame.put_u32(bytes);
    frame.put_slice(data);
    frame.freeze()
}

#[tokio::test]
async fn broken_frames() {
    let place = Place::new().await;
    let headers = place.headers(Who::User);
    let hello = frame(&[]);
    let trailing = Bytes::from([&hello[..], b"rubbish that is no frame"].concat());
    let twice = Bytes::from([&hello[..], &hello[..]].concat());
    let cases: Vec<(&str, Vec<Bytes>)> = vec![
        ("nothing", vec![]),
        ("half a head", vec![Bytes::from_static(&[0, 0])]),
        ("half a message", vec![announced(100, 0, b"short")]),
        ("a compressed message", vec![announced(3, 1, b"abc")]),
        ("an unknown flag", vec![announced(3, 7, b"abc")]),
        ("a message over the limit", vec![announced(u32::MAX, 0, b"abc")]),
        ("one over the limit by a byte", vec![announced((100 << 20) + 1, 0, b"abc")]),
        ("rubbish behind the message", vec![trailing]),
        ("two messages", vec![twice]),
    ];
    for (what, sent) in cases {
        let request = request(&path("EnvironmentList"), &headers, pieces(sent));
        let answer = send(place.api(Who::User).await, request, AT_ONCE).await;
        let answer = answer.unwrap_or_else(|| panic!("{what}: no answer"));
        assert_ne!(answer.code, Code::Ok, "{what}: {answer:?}");
        assert_ne!(answer.code, Code::PermissionDenied, "{what}");
    }
    // What is announced over the limit is refused before it is sent.
    let sent = vec![announced(u32::MAX, 0, b"abc")];
    let over = request(&path("EnvironmentList"), &headers, endless(sent));
    let answer = send(place.api(Who::User).await, over, AT_ONCE).await.unwrap();
    assert_eq!(answer.code, Code::OutOfRange);
    // A connection that breaks in the middle.
    let broken = StreamBody::new(futures::stream::iter([
        Ok(Frame::data(announced(100, 0, b"abc"))),
        Err(std::io::Error::other("the connection is gone")),
    ]));
    let request = request(&path("EnvironmentList"), &headers, broken);
    let answer = send(place.api(Who::User).await, request, AT_ONCE).await.unwrap();
    assert_ne!(answer.code, Code::Ok);
    still_serves(&place).await;
}

/// Well-formed messages with values that no client sends.
#[tokio::test(flavor = "multi_thread")]
async fn absurd_values() {
    let place = Place::new().await;
    let ours = &place.ours;
    let cell = &ours.cells[0];
    let call = cell.call.to_string();
    let outputs = |timeout: f32, last: &str, most: i32, range: Option<(i32, i32)>| {
        let request = pb::FunctionGetOutputsRequest {
            function_call_id: call.clone(),
            timeout,
            last_entry_id: last.into(),
            max_values: most,
            start_idx: range.map(|range| range.0),
            end_idx: range.map(|range| range.1),
            ..Default::default()
        };
        ("FunctionGetOutputs", request.encode_to_vec())
    };
    let id = |text: &str| {
        let request = pb::AppHeartbeatRequest { app_id: text.into() };
        ("AppHeartbeat", request.encode_to_vec())
    };
    let blob = |content_length: i64, hash: &str| {
        let request = pb::BlobCreateRequest {
            content_length,
            content_sha256_base64: hash.into(),
            ..Default::default()
        };
        ("BlobCreate", request.encode_to_vec())
    };
    let inputs = |idx: i32| {
        let input = pb::FunctionInput::default();
        let item = pb::FunctionPutInputsItem { idx, input: Some(input), ..Default::default() };
        let request = pb::FunctionPutInputsRequest {
            function_call_id: call.clone(),
            inputs: vec![item],
            ..Default::default()
        };
        ("FunctionPutInputs", request.encode_to_vec())
    };
    let cases = [
        (outputs(f32::NAN, "0-0", 0, None), Some(Code::Ok)),
        (outputs(-1.0, "x-y-z", -5, None), Some(Code::Ok)),
        (outputs(0.0, "99999999999999999999999-0", i32::MAX, None), Some(Code::Ok)),
        (outputs(f32::NEG_INFINITY, "", i32::MIN, None), Some(Code::Ok)),
        // It waits for as long as any poll may.
        (outputs(1e9, "0-0", 0, None), None),
        (outputs(f32::MAX, "0-0", 0, None), Some(Code::Ok)),
        (outputs(0.0, "0-0", 0, Some((5, 1))), Some(Code::InvalidArgument)),
        (outputs(0.0, "0-0", 0, Some((-5, -1))), Some(Code::InvalidArgument)),
        (outputs(0.0, "0-0", 0, Some((0, i32::MAX))), Some(Code::Ok)),
        (id(""), Some(Code::NotFound)),
        (id("ap-"), Some(Code::NotFound)),
        (id("ap-\0"), Some(Code::NotFound)),
        (id("ap-' OR 1=1 --"), Some(Code::NotFound)),
        (id(&"ap-x".repeat(100_000)), Some(Code::NotFound)),
        (id(cell.call.as_str()), Some(Code::NotFound)),
        (blob(-1, ""), Some(Code::InvalidArgument)),
        (blob(i64::MAX, ""), Some(Code::ResourceExhausted)),
        (blob(1, "not base64"), Some(Code::InvalidArgument)),
        (blob(1, "AAAA"), Some(Code::InvalidArgument)),
        (inputs(-1), Some(Code::InvalidArgument)),
        (inputs(i32::MIN), Some(Code::InvalidArgument)),
    ];
    for ((name, message), code) in cases {
        let body = pieces(vec![frame(&message)]);
        let request = request(&path(name), &place.headers(Who::User), body);
        let most = if code.is_some() { AT_ONCE } else { Duration::from_millis(200) };
        let answer = send(place.api(Who::User).await, request, most).await;
        let text = format!("{name} {:?}: {answer:?}", &message[..message.len().min(80)]);
        assert_eq!(answer.map(|answer| answer.code), code, "{text}");
    }
    still_serves(&place).await;
}

/// A container that asks for more than a request may hold, or for a wait without end.
#[tokio::test(flavor = "multi_thread")]
async fn absurd_wishes_of_a_container() {
    let place = Place::new().await;
    let cell = &place.ours.cells[1];
    let outputs = (0..5_000).map(|n| pb::FunctionPutOutputsItem {
        input_id: InputIds::nth(n),
        result: Some(pb::GenericResult { status: 1, ..Default::default() }),
        ..Default::default()
    });
    let outputs =
        pb::FunctionPutOutputsRequest { outputs: outputs.collect(), ..Default::default() };
    let chunk = pb::DataChunk { index: 1, ..Default::default() };
    let chunks = pb::FunctionCallPutDataRequest {
        call_info: Some(pb::function_call_put_data_request::CallInfo::FunctionCallId(
            cell.call.to_string(),
        )),
        data_chunks: vec![chunk; 100_000],
    };
    let wait = pb::FunctionGetInputsRequest {
        function_id: cell.function.to_string(),
        batch_max_size: u32::MAX,
        batch_linger_ms: u64::MAX,
        ..Default::default()
    };
    let cases = [
        ("FunctionPutOutputs", outputs.encode_to_vec(), Some(Code::ResourceExhausted)),
        ("FunctionCallPutDataOut", chunks.encode_to_vec(), Some(Code::ResourceExhausted)),
        // It is held, like every wait for work.
        ("FunctionGetInputs", wait.encode_to_vec(), None),
    ];
    for (name, message, code) in cases {
        let body = pieces(vec![frame(&message)]);
        let request = request(&path(name), &place.headers(Who::Restricted), body);
        let most = if code.is_some() { AT_ONCE } else { Duration::from_millis(300) };
        let answer = send(place.api(Who::Restricted).await, request, most).await;
        assert_eq!(answer.as_ref().map(|answer| answer.code), code, "{name}: {answer:?}");
    }
    still_serves(&place).await;
}

struct InputIds;

impl InputIds {
    fn nth(n: u32) -> String {
        format!("in-{n:022}")
    }
}
