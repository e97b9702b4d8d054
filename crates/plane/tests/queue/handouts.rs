//! Inputs whose answer does not leave the server go to another container.

use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use model::TaskId;
use model::call::{Input, State};
use model::link::Order;
use model::output::Payload;
use plane::reconcile;
use prost::Message;
use store::inputs::OpenInput;
use tonic::body::Body;
use tower::Service;
use wire::client as pb;

use crate::bench::{Bench, spec, success};

impl Bench {
    /// The HTTP answer to a container that asks for inputs, its body not read yet.
    async fn ask(&self, task: &TaskId) -> Response<Body> {
        let request = pb::FunctionGetInputsRequest {
            function_id: self.function.to_string(),
            ..Default::default()
        };
        let mut message = vec![0];
        message.extend(u32::try_from(request.encoded_len()).unwrap().to_be_bytes());
        message.extend(request.encode_to_vec());
        let request = Request::post("/modal.client.ModalClient/FunctionGetInputs")
            .version(http::Version::HTTP_2)
            .header("content-type", "application/grpc")
            .body(Body::new(http_body_util::Full::new(message.into())))
            .unwrap();
        self.as_container(task).await.call(request).await.unwrap()
    }

    async fn look(&self) {
        reconcile::deadlines(&self.plane, self.plane.now()).await.unwrap();
    }
}

#[tokio::test]
async fn an_input_goes_to_another_container_if_its_answer_is_lost() {
    let mut bench = Bench::new(spec()).await;
    bench.put(0..1).await;
    let first = bench.container(false).await;
    drop(bench.ask(&first).await);
    bench.look().await;
    let Ok(Order::Stop { task, .. }) = bench.orders.try_recv() else { panic!("it is not ended") };
    assert_eq!(task, first);
    assert!(bench.claim(&first, 1).await.is_empty(), "it may know a part of the answer");
    let second = bench.container(false).await;
    let input = bench.claim(&second, 1).await.remove(0);
    assert_eq!((input.input.retry_count, input.input.lost_count), (0, 1));
    bench.plane.answer(&second, vec![(input.id, 0, success("done"))]).await.unwrap();
    bench.check(1).await;
}

#[tokio::test]
async fn an_input_stays_where_its_answer_was_taken() {
    let mut bench = Bench::new(spec()).await;
    bench.put(0..1).await;
    let task = bench.container(false).await;
    let answer = bench.ask(&task).await.into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
    bench.look().await;
    assert!(bench.orders.try_recv().is_err());
    assert_eq!(bench.inputs().await.0.len(), 1);
}

/// A container that takes inputs until there are none for a while, and leaves every now and then
/// while it asks: what is on its way to it then is not lost, and it is not used again.
async fn work(bench: &Bench, mut seed: u64) -> usize {
    let mut task = bench.container(false).await;
    let mut answered = 0;
    loop {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let patience = match seed >> 61 {
            0 => Duration::from_micros(seed >> 32 & 0xfff),
            _ => Duration::from_millis(1_500),
        };
        let ask = async { bench.ask(&task).await.into_body().collect().await.unwrap().to_bytes() };
        let Ok(body) = tokio::time::timeout(patience, ask).await else {
            if patience > Duration::from_secs(1) {
                return answered;
            }
            task = bench.container(false).await;
            continue;
        };
        let response = pb::FunctionGetInputsResponse::decode(&body[5..]).unwrap();
        for item in response.inputs {
            if item.kill_switch {
                task = bench.container(false).await;
                continue;
            }
            let id = model::InputId::parse(&item.input_id).unwrap();
            let answer = vec![(id, item.retry_count, success(&item.input_id))];
            bench.plane.answer(&task, answer).await.unwrap();
            answered += 1;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn inputs_find_their_way_past_containers_that_leave() {
    let bench = std::sync::Arc::new(Bench::new(spec()).await);
    let workers: Vec<_> = (1..=6)
        .map(|n| {
            let bench = bench.clone();
            tokio::spawn(async move { work(&bench, n).await })
        })
        .collect();
    let looks = {
        let bench = bench.clone();
        tokio::spawn(async move {
            loop {
                bench.look().await;
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
        })
    };
    let mut sent = 0;
    for n in 0..150 {
        let count = 1 + n % 4;
        bench.put(sent..sent + count).await;
        sent += count;
        tokio::time::sleep(Duration::from_millis(u64::from(n % 3) * 2)).await;
    }
    for worker in workers {
        worker.await.unwrap();
    }
    looks.abort();
    bench.check(sent as usize).await;
    let (open, done) = bench.inputs().await;
    assert!(open.is_empty(), "never answered: {open:?}");
    for done in done {
        let own = Payload::Inline(done.id.to_string().into());
        assert_eq!(done.outcome.data, Some(own), "the answer is another input's");
    }
}

/// The container leaves while its inputs are being written down for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_given_up_at_any_point_keeps_no_input() {
    let bench = std::sync::Arc::new(Bench::new(spec()).await);
    for n in 0..60_u32 {
        bench.put(n..n + 1).await;
        let task = bench.container(false).await;
        let (asking, asker) = (bench.clone(), task.clone());
        let ask = tokio::spawn(async move { drop(asking.ask(&asker).await) });
        tokio::time::sleep(Duration::from_micros(u64::from(n) * 40)).await;
        ask.abort();
        drop(ask.await);
        // What was dropped while it committed is committed by now, or never.
        drop(bench.plane.store.begin().await.unwrap());
        bench.look().await;
        let (open, _) = bench.inputs().await;
        assert!(
            matches!(
                open[..],
                [OpenInput { input: Input { state: State::Queued { .. }, .. }, .. }]
            ),
            "try {n}: a container that left keeps its input"
        );
        let other = bench.container(false).await;
        let input = bench.claim(&other, 1).await.remove(0);
        bench.plane.answer(&other, vec![(input.id, 0, success("done"))]).await.unwrap();
    }
    bench.check(60).await;
}
