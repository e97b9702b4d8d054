//! No item of a queue is lost or given twice, whenever its taker goes away.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod world;

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use plane::expiry;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::transport::Endpoint;
use wire::client as pb;
use wire::rpc::{self, Rpc, client as names};
use world::{Queue, World, call, metadata, texts};

const LONG: Duration = Duration::from_secs(20);

type Answer = Pin<Box<dyn Future<Output = http::Response<Body>> + Send>>;

/// The HTTP request of a get, so that its answer can be read in part.
fn raw_get(queue: &Queue, key: Option<&str>, n: i32) -> Answer {
    use prost::Message;
    let message = queue.get_request("", n, Duration::from_secs(1)).encode_to_vec();
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    let mut request = http::Request::post(<names::QueueGet as Rpc>::PATH)
        .version(http::Version::HTTP_2)
        .header("content-type", "application/grpc");
    if let Some(key) = key {
        request = request.header("x-idempotency-key", key);
    }
    let body = Body::new(http_body_util::Full::new(bytes::Bytes::from(frame)));
    let answer = GrpcService::call(&mut queue.api.clone(), request.body(body).unwrap());
    Box::pin(async move { answer.await.unwrap() })
}

async fn settled(world: &World) {
    world.plane.settle().await.unwrap();
}

#[tokio::test]
async fn answers_that_nobody_reads_to_their_end_go_back() {
    let world = World::new().await;
    let queue = world.queue().await;
    queue.put(&["a", "b", "c"]).await;
    // The answer is dropped unread.
    drop(raw_get(&queue, None, 2).await);
    settled(&world).await;
    assert_eq!(queue.peek().await, ["a", "b", "c"]);
    // It is read, but for the trailers.
    let mut body = raw_get(&queue, Some("k"), 2).await.into_body();
    assert!(body.frame().await.unwrap().unwrap().is_data());
    assert_eq!(queue.peek().await, ["c"]);
    drop(body);
    settled(&world).await;
    assert_eq!(queue.peek().await, ["a", "b", "c"]);
    // The same key takes what stands in front now.
    assert_eq!(queue.get(Some("k"), 1, LONG).await, ["a"]);
    settled(&world).await;
    assert_eq!(queue.peek().await, ["b", "c"]);
}

#[tokio::test]
async fn a_second_attempt_takes_the_answer_over_from_the_first() {
    let world = World::new().await;
    let queue = world.queue().await;
    queue.put(&["a", "b"]).await;
    // The first answer hangs in a connection that is not known to be broken yet.
    let hanging = raw_get(&queue, Some("k"), 1).await;
    assert_eq!(queue.get(Some("k"), 1, LONG).await, ["a"]);
    drop(hanging);
    settled(&world).await;
    assert_eq!(queue.peek().await, ["b"]);
}

#[tokio::test]
async fn an_item_that_goes_back_wakes_who_waits() {
    let world = World::new().await;
    let queue = world.queue().await;
    queue.put(&["a"]).await;
    let answer = raw_get(&queue, None, 1).await;
    let settling = tokio::spawn(plane::claims::run(world.plane.clone()));
    let waiting = queue.get(None, 1, LONG);
    let leaving = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        drop(answer);
        std::time::Instant::now()
    };
    let (got, left_at) = tokio::join!(waiting, leaving);
    assert_eq!(got, ["a"]);
    assert!(left_at.elapsed() < Duration::from_millis(1_500), "{:?}", left_at.elapsed());
    world.plane.close();
    settling.await.unwrap();
}

#[tokio::test]
async fn what_was_on_its_way_when_the_server_died_is_there_again() {
    let world = World::new().await;
    let queue = world.queue().await;
    queue.put(&["a", "b", "c"]).await;
    assert_eq!(queue.get(Some("sent"), 1, LONG).await, ["a"]);
    settled(&world).await;
    let _on_its_way = raw_get(&queue, Some("k"), 1).await;
    assert_eq!(queue.peek().await, ["c"]);
    let world = world.restarted().await;
    let queue = Queue { api: world.api(), id: queue.id };
    expiry::sweep(&world.plane).await.unwrap();
    assert_eq!(queue.peek().await, ["b", "c"]);
    // And what was sent is kept for whoever did not get it.
    assert_eq!(queue.get(Some("sent"), 1, LONG).await, ["a"]);
    assert_eq!(queue.get(Some("k"), 1, LONG).await, ["b"]);
}

/// One caller's life: it takes items in one of many ways, and says what it really got.
async fn caller(queue: Queue, received: Arc<Mutex<Vec<String>>>, seed: u64) {
    let (how, n) = (seed % 4, i32::try_from(seed / 4 % 3).unwrap() + 1);
    let key = seed.to_string();
    let key = (!seed.is_multiple_of(5)).then_some(key.as_str());
    let patience = Duration::from_micros(seed * 7_919 % 20_000);
    match how {
        // It stays.
        0 => {
            let got = queue.get(key, n, Duration::from_secs(1)).await;
            received.lock().unwrap().extend(got);
        }
        // It leaves at some moment.
        1 => {
            let get = queue.get(key, n, Duration::from_secs(1));
            if let Ok(got) = tokio::time::timeout(patience, get).await {
                received.lock().unwrap().extend(got);
            }
        }
        // It leaves with the answer before it, read in part or not at all.
        2 => {
            let Ok(answer) = tokio::time::timeout(patience, raw_get(&queue, key, n)).await else {
                return;
            };
            if seed.is_multiple_of(3) {
                let _ = answer.into_body().frame().await;
            }
        }
        // Its first attempt hangs, the second one is answered.
        _ => {
            let first = tokio::time::timeout(patience, raw_get(&queue, key, n)).await;
            if key.is_some() {
                let got = queue.get(key, n, Duration::from_secs(1)).await;
                received.lock().unwrap().extend(got);
            }
            drop(first);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn callers_that_leave_at_any_moment_lose_nothing_and_get_nothing_twice() {
    const ITEMS: usize = 600;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let world = World::new().await;
    let queue = world.queue().await;
    let settling = tokio::spawn(plane::claims::run(world.plane.clone()));
    let received = Arc::new(Mutex::new(Vec::new()));
    let mut callers = Vec::new();
    for n in 0..ITEMS {
        queue.put(&[&format!("{n:04}")]).await;
        let own_seed = seed.wrapping_add(n as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20;
        callers.push(tokio::spawn(caller(queue.clone(), received.clone(), own_seed)));
    }
    for caller in callers {
        caller.await.unwrap();
    }
    settled(&world).await;
    let left = queue.peek().await;
    assert!(left.is_sorted(), "what is left is out of order: {left:?}");
    assert_eq!(usize::try_from(queue.len().await).unwrap(), left.len());
    let mut all = received.lock().unwrap().clone();
    assert!(all.len() > ITEMS / 10, "only {} items were received", all.len());
    all.extend(queue.get_now(i32::MAX).await);
    all.sort();
    let expected: Vec<String> = (0..ITEMS).map(|n| format!("{n:04}")).collect();
    assert_eq!(all, expected);
    world.plane.close();
    settling.await.unwrap();
}

/// A server on loopback, as callers meet it over the network.
async fn serve(world: &World) -> (Endpoint, tokio::task::JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let api = world.api();
    let server = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = TowerToHyperService::new(api.clone());
            connections.spawn(async move {
                let builder = Builder::new(TokioExecutor::new());
                let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (Endpoint::from_shared(format!("http://{address}")).unwrap(), server)
}

#[tokio::test]
async fn a_caller_that_leaves_its_connection_while_it_waits_takes_nothing() {
    let world = World::new().await;
    let queue = world.queue().await;
    let (endpoint, server) = serve(&world).await;
    for connection_stays in [true, false] {
        let channel = endpoint.connect().await.unwrap();
        let request = queue.get_request("", 1, LONG);
        let get = rpc::call::<names::QueueGet>(channel.clone(), metadata(None), request);
        assert!(tokio::time::timeout(Duration::from_millis(200), get).await.is_err());
        let channel = connection_stays.then_some(channel);
        // The server hears of it.
        tokio::time::sleep(Duration::from_millis(300)).await;
        queue.put(&["a"]).await;
        let request = queue.get_request("", 1, LONG);
        let answer: pb::QueueGetResponse = match channel {
            Some(channel) => rpc::call::<names::QueueGet>(channel, metadata(None), request)
                .await
                .unwrap()
                .into_inner(),
            None => call::<names::QueueGet>(&queue.api, None, request).await.unwrap(),
        };
        assert_eq!(texts(answer.values), ["a"]);
    }
    settled(&world).await;
    assert_eq!(queue.len().await, 0);
    server.abort();
    let _ = server.await;
}

/// An answer that is larger than what the network takes at once, and a caller that ends in its
/// midst: the rest cannot be sent, so the items go back.
#[tokio::test]
async fn a_caller_that_ends_in_the_midst_of_a_large_answer_takes_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let world = World::new().await;
    let queue = world.queue().await;
    let item = "x".repeat(1 << 20);
    for _ in 0..3 {
        queue.put(&[&item[..]; 16]).await;
    }
    let (endpoint, server) = serve(&world).await;
    let address = endpoint.uri().authority().unwrap().to_string();
    // A proxy that stops passing bytes on to the caller after the first ones.
    let proxy = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxied = Endpoint::from_shared(format!("http://{}", proxy.local_addr().unwrap())).unwrap();
    let proxying = tokio::spawn(async move {
        let (caller, _) = proxy.accept().await.unwrap();
        let server = tokio::net::TcpStream::connect(address).await.unwrap();
        let ((mut from_caller, mut to_caller), (mut from_server, mut to_server)) =
            (caller.into_split(), server.into_split());
        let up = async { tokio::io::copy(&mut from_caller, &mut to_server).await.map(drop) };
        let down = async {
            let mut passed = 0;
            let mut buffer = vec![0; 4_096];
            while passed < 100_000 {
                let n = from_server.read(&mut buffer).await?;
                to_caller.write_all(&buffer[..n]).await?;
                passed += n;
            }
            // From here on nothing is read, until the caller ends.
            std::future::pending::<std::io::Result<()>>().await
        };
        let _ = tokio::select! { end = up => end, end = down => end };
    });
    let channel = proxied.initial_stream_window_size(64 << 20);
    let channel = channel.initial_connection_window_size(64 << 20).connect().await.unwrap();
    let request = queue.get_request("", 48, LONG);
    let get = rpc::call::<names::QueueGet>(channel.clone(), metadata(None), request);
    assert!(tokio::time::timeout(Duration::from_secs(2), get).await.is_err());
    assert_eq!(queue.len().await, 0);
    drop(channel);
    proxying.await.unwrap();
    for _ in 0..50 {
        settled(&world).await;
        if queue.len().await == 48 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(queue.len().await, 48);
    server.abort();
    let _ = server.await;
}
