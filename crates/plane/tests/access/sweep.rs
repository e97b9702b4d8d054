//! Every rpc as everybody: whoever may not enter is refused before the body is read, whoever may
//! is not refused by the gate.

use std::time::Duration;

use bytes::Bytes;
use tonic::Code;

use crate::place::{EVERYBODY, Place, Who};
use crate::raw::{endless, frame, pieces, request, send};

/// A refusal comes at once.
const AT_ONCE: Duration = Duration::from_secs(5);

/// An answer may be held; that it is held says that the gate was passed.
const HELD: Duration = Duration::from_millis(150);

/// Paths and names of every rpc of the control plane. The command router's stand in the worker.
fn rpcs() -> Vec<(String, &'static str)> {
    let path = |name: &&'static str| (format!("/{}/{name}", wire::CLIENT_SERVICE), *name);
    wire::names::CLIENT.iter().map(path).collect()
}

/// What a caller hears at a row that is closed to it.
fn refused(who: Who, declined: bool) -> Code {
    match who {
        Who::Nobody | Who::Restricted => Code::Unauthenticated,
        Who::User | Who::Task if declined => Code::Unimplemented,
        Who::User | Who::Task => Code::PermissionDenied,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closed_rows_refuse_at_once_and_open_ones_do_not() {
    let place = Place::new().await;
    for who in EVERYBODY {
        let (api, headers) = (place.api(who).await, place.headers(who));
        for (path, name) in rpcs() {
            let row = place.tables.iter().find_map(|table| table.row(&path)).unwrap();
            let declined = row.declined().is_some();
            let open = !declined && row.admits(place.caller(who).await).is_ok();
            if open {
                let body = pieces(vec![frame(&[])]);
                let answer = send(api.clone(), request(&path, &headers, body), HELD).await;
                let code = answer.map(|answer| answer.code);
                // The handshake alone lets everybody in, to tell him what is wrong.
                let welcome = who == Who::Nobody && name == "ClientHello";
                let refusals = [Some(Code::Unauthenticated), Some(Code::PermissionDenied)];
                assert_eq!(refusals.contains(&code), welcome, "{name} as {who:?}: {code:?}");
                continue;
            }
            // None of these bodies ever ends; the second announces 4 GiB.
            let huge = Bytes::from_static(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]);
            for sent in [vec![], vec![huge], vec![Bytes::from_static(b"\xff\xff")]] {
                let request = request(&path, &headers, endless(sent));
                let answer = send(api.clone(), request, AT_ONCE).await;
                let answer = answer.unwrap_or_else(|| panic!("{name} as {who:?} waits"));
                assert_eq!(answer.code, refused(who, declined), "{name} as {who:?}: {answer:?}");
                assert!(!answer.text.is_empty(), "{name} as {who:?}");
                if who == Who::Restricted {
                    assert!(answer.text.contains("restricted"), "{name}: {}", answer.text);
                }
            }
        }
    }
}

/// The rpcs that a restricted container's life needs, and no more.
#[tokio::test]
async fn a_restricted_container_reaches_what_its_life_needs_and_no_more() {
    let place = Place::new().await;
    let caller = place.caller(Who::Restricted).await;
    let rows = place.tables.iter().flat_map(|table| table.rows());
    let open = rows.filter(|row| row.declined().is_none());
    let open = open.filter(|row| row.admits(caller.clone()).is_ok());
    let names: Vec<_> = open.map(|row| row.name).collect();
    let expected = [
        "BlobCreate",
        "BlobGet",
        "ClientHello",
        "ContainerHeartbeat",
        "ContainerHello",
        "FunctionCallGetDataIn",
        "FunctionCallPutDataOut",
        "FunctionGetDynamicConcurrency",
        "FunctionGetInputs",
        "FunctionPutOutputs",
        "TaskResult",
    ];
    assert_eq!(names, expected);
}

/// Headers change nothing at a door: the socket says who calls.
#[tokio::test]
async fn headers_are_not_looked_at_behind_a_door() {
    let place = Place::new().await;
    let api = place.api(Who::Restricted).await;
    let path = format!("/{}/AppList", wire::CLIENT_SERVICE);
    let headers = place.headers(Who::User);
    let answer = send(api, request(&path, &headers, pieces(vec![frame(&[])])), AT_ONCE).await;
    assert_eq!(answer.unwrap().code, Code::Unauthenticated);
}

/// A wrong secret, another token's secret, and no secret are nobody.
#[tokio::test]
async fn only_a_token_with_its_own_secret_opens() {
    let place = Place::new().await;
    let path = format!("/{}/AppList", wire::CLIENT_SERVICE);
    let (id, secret) = &place.ours.token;
    let other = &place.theirs.token.1;
    let halves = [
        (Some(id.as_str()), Some(secret.as_str()), Code::Ok),
        (Some(id), Some(other), Code::Unauthenticated),
        (Some(id), Some(""), Code::Unauthenticated),
        (Some(id), None, Code::Unauthenticated),
        (None, Some(secret), Code::Unauthenticated),
        (Some("ak-none"), Some(secret), Code::Unauthenticated),
        // The first, again: what was refused before must not have changed what is remembered.
        (Some(id), Some(secret), Code::Ok),
    ];
    for (id, secret, code) in halves {
        let mut headers = place.headers(Who::Nobody);
        if let Some(id) = id {
            headers.insert("x-modal-token-id", id.parse().unwrap());
        }
        if let Some(secret) = secret {
            headers.insert("x-modal-token-secret", secret.parse().unwrap());
        }
        let body = pieces(vec![frame(&[])]);
        let api = place.api(Who::User).await;
        let answer = send(api, request(&path, &headers, body), AT_ONCE).await.unwrap();
        assert_eq!(answer.code, code, "{id:?} {secret:?}");
    }
}
