//! Whoever waits is woken by what he waits for. Sleepers also look by themselves from time to
//! time, so a wake-up that is lost costs a second or two, each time: the best of a few tries is
//! taken, since a busy machine may delay some of them.

use std::time::{Duration, Instant};

use futures::StreamExt;
use model::link::{End, LogLine, Order, Report, Stream};
use model::{TaskId, Time};
use plane::api::gate::{Caller, User};
use plane::api::rows::client_rows;
use plane::{Api, Transport};
use tonic::metadata::MetadataMap;
use wire::client as pb;
use wire::rpc::client as rpc;

use crate::bench::{Bench, spec, success};

/// Shorter than the time after which a sleeper looks by himself (2 s).
const WOKEN: Duration = Duration::from_millis(1_200);

/// How long a sleeper may take to fall asleep.
const ASLEEP: Duration = Duration::from_millis(200);

const TRIES: usize = 4;

impl Bench {
    pub(crate) fn as_user(&self) -> Api {
        let user = Caller::User(User { scope: self.scope.clone() });
        self.api(user)
    }

    pub(crate) async fn as_container(&self, task: &TaskId) -> Api {
        self.api(self.plane.identify_task(task).await.unwrap())
    }

    pub(crate) fn api(&self, caller: Caller) -> Api {
        let tables = std::sync::Arc::new([client_rows()]);
        Api::new(self.plane.clone(), tables, Transport::Door(Box::new(caller)))
    }

    fn get_inputs(&self) -> pb::FunctionGetInputsRequest {
        pb::FunctionGetInputsRequest {
            function_id: self.function.to_string(),
            ..Default::default()
        }
    }
}

/// How long `sleeper` went on after `ring` was done.
async fn woken<T>(sleeper: impl Future<Output = T>, ring: impl Future<Output = ()>) -> Duration {
    let rung = async {
        tokio::time::sleep(ASLEEP).await;
        ring.await;
        Instant::now()
    };
    let slept = async {
        sleeper.await;
        Instant::now()
    };
    let (slept, rung) = tokio::join!(slept, rung);
    slept.saturating_duration_since(rung)
}

async fn best(what: &str, mut attempt: impl AsyncFnMut(usize) -> Duration) {
    let mut times = Vec::new();
    for n in 0..TRIES {
        let time = attempt(n).await;
        if time < WOKEN {
            return;
        }
        times.push(time);
    }
    panic!("{what}: it was never woken: {times:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_woken_by_an_input() {
    let bench = Bench::new(spec()).await;
    best("an input", async |n| {
        let task = bench.container(false).await;
        let api = bench.as_container(&task).await;
        let request = bench.get_inputs();
        let ask = wire::rpc::call::<rpc::FunctionGetInputs>(api, MetadataMap::new(), request);
        let n = u32::try_from(n).unwrap();
        woken(ask, async { drop(bench.put(n..n + 1).await) }).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_woken_when_it_is_to_go_home() {
    let bench = Bench::new(spec()).await;
    best("the end of the container", async |_| {
        let task = bench.container(false).await;
        let api = bench.as_container(&task).await;
        let request = bench.get_inputs();
        let ask = wire::rpc::call::<rpc::FunctionGetInputs>(api, MetadataMap::new(), request);
        let mut kills = plane::endings::Kills::default();
        kills.add(task, model::Millis(2_000));
        woken(ask, async { bench.plane.end_tasks(kills).await.unwrap() }).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_woken_by_an_output() {
    let bench = Bench::new(spec()).await;
    best("an output", async |n| {
        let n = u32::try_from(n).unwrap();
        bench.put(n..n + 1).await;
        let task = bench.container(false).await;
        let input = bench.claim(&task, 1).await.remove(0).id;
        let request = pb::FunctionGetOutputsRequest {
            function_call_id: bench.call.to_string(),
            timeout: 50.0,
            last_entry_id: format!("{n}-0"),
            ..Default::default()
        };
        let api = bench.as_user();
        let ask = wire::rpc::call::<rpc::FunctionGetOutputs>(api, MetadataMap::new(), request);
        let answers = vec![(input, 0, success("done"))];
        woken(ask, async { bench.plane.answer(&task, answers).await.unwrap() }).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_is_woken_by_a_cancel() {
    let bench = Bench::new(spec()).await;
    bench.put(0..10).await;
    let task = bench.container(false).await;
    bench.claim(&task, 1).await;
    let api = bench.as_container(&task).await;
    let request = pb::ContainerHeartbeatRequest::default();
    let beat = wire::rpc::call::<rpc::ContainerHeartbeat>(api, MetadataMap::new(), request);
    // A heartbeat does not look by itself at all: it would be held for 12 s.
    let time = woken(beat, async {
        bench.plane.cancel_call(&bench.call, false).await.unwrap();
    });
    assert!(time.await < Duration::from_secs(6), "it was not woken");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_is_woken_by_a_line() {
    let bench = Bench::new(spec()).await;
    let task = bench.container(false).await;
    best("a line", async |n| {
        let request = pb::AppGetLogsRequest {
            app_id: bench.app.to_string(),
            timeout: 50.0,
            last_entry_id: format!("{n}-0"),
            ..Default::default()
        };
        let api = bench.as_user();
        let stream = wire::rpc::stream::<rpc::AppGetLogs>(api, MetadataMap::new(), request);
        let mut stream = stream.await.unwrap().into_inner();
        let line = LogLine {
            task: task.clone(),
            stream: Stream::Stdout,
            at: Time(1),
            data: "a line".into(),
        };
        let take = async {
            plane::reports::take(&bench.plane, &[Report::Log(line)]).await;
        };
        woken(stream.next(), take).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_woken_by_a_chunk() {
    let bench = Bench::new(spec()).await;
    bench.put(0..1).await;
    let task = bench.container(false).await;
    bench.claim(&task, 1).await;
    best("a chunk", async |n| {
        use pb::{function_call_get_data_request as get, function_call_put_data_request as put};
        let call = bench.call.to_string();
        let n = u64::try_from(n).unwrap();
        let request = pb::FunctionCallGetDataRequest {
            call_info: Some(get::CallInfo::FunctionCallId(call.clone())),
            last_index: n,
        };
        let user = bench.as_user();
        let stream =
            wire::rpc::stream::<rpc::FunctionCallGetDataOut>(user, MetadataMap::new(), request);
        let mut stream = stream.await.unwrap().into_inner();
        let chunk = pb::DataChunk { index: n + 1, ..Default::default() };
        let request = pb::FunctionCallPutDataRequest {
            call_info: Some(put::CallInfo::FunctionCallId(call)),
            data_chunks: vec![chunk],
        };
        let container = bench.as_container(&task).await;
        let put = async {
            let metadata = MetadataMap::new();
            let put = wire::rpc::call::<rpc::FunctionCallPutDataOut>(container, metadata, request);
            put.await.unwrap();
        };
        woken(stream.next(), put).await
    })
    .await;
}

/// The loops as the server runs them: an input gets a container, an end gets another one.
#[tokio::test(flavor = "multi_thread")]
async fn the_scheduler_is_woken_by_inputs_and_ends() {
    let mut bench = Bench::new(spec()).await;
    let scheduling = tokio::spawn(plane::scheduler::run(bench.plane.clone()));
    let deadlines = tokio::spawn(plane::reconcile::run_deadlines(bench.plane.clone()));
    let mut times = Vec::new();
    for (index, _) in (0..).zip(0..TRIES) {
        tokio::time::sleep(ASLEEP).await;
        bench.put(index..index + 1).await;
        let began = Instant::now();
        let Some(Order::Start(spec)) = bench.orders.recv().await else { panic!("no start") };
        times.push(began.elapsed());
        tokio::time::sleep(ASLEEP).await;
        plane::reports::ended(&bench.plane, &spec.task, End::Lost).await.unwrap();
        let began = Instant::now();
        let Some(Order::Start(spec)) = bench.orders.recv().await else { panic!("no start") };
        times.push(began.elapsed());
        // The input is answered, so that the next one needs a container of its own.
        let mut tx = bench.plane.store.begin().await.unwrap();
        let ready = store::tasks::Phase::Ready;
        store::tasks::advance(&mut tx, &spec.task, ready, bench.plane.now()).await.unwrap();
        tx.commit().await.unwrap();
        let input = bench.claim(&spec.task, 1).await.remove(0);
        let answers = vec![(input.id, input.input.retry_count, success("done"))];
        bench.plane.answer(&spec.task, answers).await.unwrap();
        plane::reports::ended(&bench.plane, &spec.task, End::Lost).await.unwrap();
    }
    bench.plane.close();
    let both = async { tokio::join!(scheduling, deadlines) };
    tokio::time::timeout(Duration::from_secs(5), both)
        .await
        .expect("a loop does not end")
        .0
        .unwrap();
    let (inputs, ends): (Vec<_>, Vec<_>) = times.chunks(2).map(|pair| (pair[0], pair[1])).unzip();
    assert!(inputs.iter().min() < Some(&WOKEN), "inputs: {inputs:?}");
    assert!(ends.iter().min() < Some(&WOKEN), "ends: {ends:?}");
}
