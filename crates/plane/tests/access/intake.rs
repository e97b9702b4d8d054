//! What one container sends is held within limits, and nobody else waits for it.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use http_body::Frame;
use http_body_util::StreamBody;
use tonic::Code;

use crate::place::{Place, Who};
use crate::raw::{frame, pieces, request, send};

const AT_ONCE: Duration = Duration::from_secs(10);

fn path(name: &str) -> String {
    format!("/{}/{name}", wire::CLIENT_SERVICE)
}

/// A body that announces a large message and sends it slowly: it counts what was taken of it.
fn slow(
    announced: u32,
    taken: Arc<AtomicUsize>,
) -> StreamBody<impl futures::Stream<Item = Result<Frame<Bytes>, Infallible>> + Send + 'static> {
    let mut head = BytesMut::new();
    head.put_u8(0);
    head.put_u32(announced);
    let head = futures::stream::once(async move { Ok(Frame::data(head.freeze())) });
    let piece = Bytes::from(vec![0; 64 << 10]);
    let mut left = announced as usize - 1;
    let rest = futures::stream::iter(std::iter::from_fn(move || {
        let len = left.min(piece.len());
        left -= len;
        (len > 0).then(|| {
            taken.fetch_add(len, Ordering::SeqCst);
            Ok(Frame::data(piece.slice(..len)))
        })
    }));
    StreamBody::new(head.chain(rest).chain(futures::stream::pending()))
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_held_up_to_a_limit() {
    let place = Place::new().await;
    let (api, headers) = (place.api(Who::Restricted).await, place.headers(Who::Restricted));
    let taken = Arc::new(AtomicUsize::new(0));
    let mut sending = tokio::task::JoinSet::new();
    for _ in 0..40 {
        let body = slow(20 << 20, taken.clone());
        let request = request(&path("FunctionPutOutputs"), &headers, body);
        sending.spawn(send(api.clone(), request, Duration::from_secs(60)));
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let bytes = taken.load(Ordering::SeqCst);
    assert!(bytes > 0, "nothing was taken");
    assert!(bytes <= 33 << 20, "{bytes} bytes of one container are held");
    // Others are served meanwhile: its neighbours behind their doors, and clients.
    for who in [Who::Task, Who::User] {
        let hello = request(&path("ClientHello"), &place.headers(who), pieces(vec![frame(&[])]));
        let answer = send(place.api(who).await, hello, AT_ONCE).await.unwrap();
        assert_eq!(answer.code, Code::Ok);
    }
    // Once they are given up, there is room again.
    sending.shutdown().await;
    let hello = request(&path("ClientHello"), &headers, pieces(vec![frame(&[])]));
    assert_eq!(send(api, hello, AT_ONCE).await.unwrap().code, Code::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_held_up_to_a_limit() {
    let place = Place::new().await;
    let (api, headers) = (place.api(Who::Restricted).await, place.headers(Who::Restricted));
    let hello = || request(&path("ClientHello"), &headers, pieces(vec![frame(&[])]));
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..600 {
        let body = crate::raw::endless(vec![]);
        let request = request(&path("TaskResult"), &headers, body);
        waiting.spawn(send(api.clone(), request, Duration::from_secs(60)));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(send(api.clone(), hello(), Duration::from_millis(200)).await.is_none());
    // Closed doors are refused all the same, and others do not wait.
    let closed = request(&path("AppCreate"), &headers, crate::raw::endless(vec![]));
    let answer = send(api.clone(), closed, AT_ONCE).await.unwrap();
    assert_eq!(answer.code, Code::Unauthenticated);
    let other = request(&path("ClientHello"), &place.headers(Who::Task), pieces(vec![frame(&[])]));
    assert_eq!(send(place.api(Who::Task).await, other, AT_ONCE).await.unwrap().code, Code::Ok);
    waiting.shutdown().await;
    assert_eq!(send(api, hello(), AT_ONCE).await.unwrap().code, Code::Ok);
}

/// A message in pieces of any size arrives whole.
#[tokio::test]
async fn messages_arrive_whole_however_they_are_cut() {
    use prost::Message;
    let place = Place::new().await;
    let name = "x".repeat(300);
    let request_of = wire::client::AppHeartbeatRequest { app_id: format!("ap-{name}") };
    let whole = frame(&request_of.encode_to_vec());
    for size in [1, 2, 4, 5, 6, 7, 100, whole.len()] {
        let cut = whole.chunks(size).map(Bytes::copy_from_slice).collect();
        let headers = place.headers(Who::User);
        let request = request(&path("AppHeartbeat"), &headers, pieces(cut));
        let answer = send(place.api(Who::User).await, request, AT_ONCE).await.unwrap();
        assert_eq!(answer.code, Code::NotFound, "{answer:?}");
        assert!(answer.text.contains("xxxxx"), "{answer:?}");
    }
}
