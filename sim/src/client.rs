//! A client that calls functions through the protocol, and remembers what it was promised.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
use model::{AppId, CallId, FunctionId, ImageId, InputId, Time};
use plane::api::gate::{Caller, User};
use plane::{Api, Transport};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use wire::client as pb;
use wire::rpc::{Unary, client as rpc};

use crate::chance::Chance;
use crate::run::Run;

/// What a function is, as its author last said.
#[derive(Debug, Clone)]
pub struct Kind {
    /// Its app.
    pub app: AppId,
    /// Its name.
    pub name: String,
    /// Its containers take one input each.
    pub single_use: bool,
    /// Its containers, at most.
    pub max_containers: u32,
    /// Its containers, at least.
    pub min_containers: u32,
    /// Inputs of one container at the same time.
    pub max_inputs: u32,
    /// Inputs of one batch; 0 for none.
    pub batch_max: u32,
    /// Time of one attempt.
    pub timeout_secs: u32,
    /// Attempts after the first.
    pub retries: u32,
    /// Memory that a container reserves.
    pub memory_mib: u32,
    /// Whether its containers have no network. Each new definition changes it.
    pub blocked: bool,
}

impl Kind {
    /// A function of chance.
    pub fn new(chance: &mut Chance, app: AppId, n: u32) -> Self {
        let number = |chance: &mut Chance, n| u32::try_from(chance.within(1..n)).unwrap_or(1);
        let single_use = chance.one_in(3);
        let batched = !single_use && chance.one_in(4);
        let max_containers = number(chance, 6);
        Self {
            app,
            name: format!("f{n}"),
            single_use,
            max_containers,
            min_containers: if chance.one_in(4) { 1 } else { 0 },
            max_inputs: if single_use || batched { 1 } else { number(chance, 4) },
            batch_max: if batched { number(chance, 5) } else { 0 },
            timeout_secs: 2 + number(chance, 20),
            retries: u32::try_from(chance.within(0..3)).unwrap_or(0),
            memory_mib: 64 * number(chance, 8),
            blocked: false,
        }
    }

    /// Inputs that one of its containers may hold.
    pub fn room(&self) -> u32 {
        self.max_inputs.max(1) * self.batch_max.max(1)
    }

    fn definition(&self, image: &ImageId) -> pb::Function {
        pb::Function {
            function_name: self.name.clone(),
            image_id: image.to_string(),
            timeout_secs: self.timeout_secs,
            startup_timeout_secs: 60,
            single_use_containers: self.single_use,
            max_concurrent_inputs: self.max_inputs,
            batch_max_size: self.batch_max,
            block_network: self.blocked,
            retry_policy: Some(pb::FunctionRetryPolicy {
                retries: self.retries,
                initial_delay_ms: 700,
                max_delay_ms: 5_000,
                backoff_coefficient: 2.0,
            }),
            resources: Some(pb::Resources {
                memory_mb: self.memory_mib,
                milli_cpu: 100,
                ..Default::default()
            }),
            autoscaler_settings: Some(pb::AutoscalerSettings {
                min_containers: Some(self.min_containers),
                max_containers: Some(self.max_containers),
                scaledown_window: Some(3),
                ..Default::default()
            }),
            ..Default::default()
        }
    }
}

/// A call, and what the server has acknowledged of it.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its function.
    pub function: FunctionId,
    /// Acknowledged inputs.
    pub inputs: BTreeMap<u32, InputId>,
    /// When the end of all of it was acknowledged.
    pub cancelled: Option<Time>,
}

fn items(indexes: &[u32]) -> Vec<pb::FunctionPutInputsItem> {
    let item = |index: &u32| pb::FunctionPutInputsItem {
        idx: i32::try_from(*index).unwrap_or(0),
        input: Some(pb::FunctionInput {
            args_oneof: Some(pb::function_input::ArgsOneof::Args(index.to_string().into())),
            data_format: 1,
            ..Default::default()
        }),
        ..Default::default()
    };
    indexes.iter().map(item).collect()
}

fn acknowledged(
    inputs: &mut BTreeMap<u32, InputId>,
    items: Vec<pb::FunctionPutInputsResponseItem>,
) -> Result<()> {
    for item in items {
        let id = InputId::parse(&item.input_id)?;
        let index = u32::try_from(item.idx)?;
        let kept = inputs.entry(index).or_insert_with(|| id.clone());
        ensure!(*kept == id, "replay: index {index} is {kept} and {id}");
    }
    Ok(())
}

impl Run {
    /// Calls an rpc as the owner of everything. In runs that overlap, other things happen at the
    /// same time.
    pub async fn call<R: Unary>(
        &self,
        key: u64,
        request: R::Request,
    ) -> Result<R::Response, Status> {
        let user = Caller::User(User { scope: self.scope.clone() });
        let door = Transport::Door(Box::new(user));
        let api = Api::new(self.plane.clone(), self.tables.clone(), door);
        let mut metadata = MetadataMap::new();
        if let Ok(key) = format!("{key:016x}").parse() {
            metadata.insert("x-idempotency-key", key);
        }
        let call = Box::pin(wire::rpc::call::<R>(api, metadata, request));
        let (answer, meanwhile) = tokio::join!(call, self.meanwhile(key));
        meanwhile.map_err(|error| Status::internal(format!("meanwhile: {error:#}")))?;
        Ok(answer?.into_inner())
    }

    /// Defines a function, or defines it again.
    pub async fn define(
        &mut self,
        kind: Kind,
        existing: Option<&FunctionId>,
    ) -> Result<FunctionId> {
        let request = pb::FunctionCreateRequest {
            function: Some(kind.definition(&self.image)),
            app_id: kind.app.to_string(),
            existing_function_id: existing.map(ToString::to_string).unwrap_or_default(),
            ..Default::default()
        };
        let key = self.chance.bits();
        let made = self.call::<rpc::FunctionCreate>(key, request).await?;
        let id = FunctionId::parse(&made.function_id)?;
        self.kinds.insert(id.clone(), kind);
        Ok(id)
    }

    /// Begins a call. Sometimes the answer is lost and the client asks again.
    pub async fn begin_call(&mut self) -> Result<()> {
        let functions: Vec<_> = self.kinds.keys().cloned().collect();
        let Some(function) = self.chance.pick(&functions).cloned() else { return Ok(()) };
        let count = u32::try_from(self.chance.within(0..7))?;
        let indexes: Vec<u32> = (0..count).collect();
        let request = pb::FunctionMapRequest {
            function_id: function.to_string(),
            function_call_type: pb::FunctionCallType::Map as i32,
            pipelined_inputs: items(&indexes),
            ..Default::default()
        };
        let key = self.chance.bits();
        let stopped = self.stopped.contains(&self.kinds[&function].app);
        let made = match self.call::<rpc::FunctionMap>(key, request.clone()).await {
            Ok(made) => made,
            Err(status) if stopped && status.code() == Code::FailedPrecondition => return Ok(()),
            Err(status) => bail!("a call was refused: {status}"),
        };
        ensure!(!stopped, "stopped: an app that has ended takes a call");
        let mut asked = Asked { function, inputs: BTreeMap::new(), cancelled: None };
        acknowledged(&mut asked.inputs, made.pipelined_inputs)?;
        if self.chance.one_in(4) {
            let again = self.call::<rpc::FunctionMap>(key, request).await?;
            ensure!(again.function_call_id == made.function_call_id, "replay: a second call");
            acknowledged(&mut asked.inputs, again.pipelined_inputs)?;
        }
        ensure!(asked.inputs.len() == indexes.len(), "replay: {:?}", asked.inputs);
        let call = CallId::parse(&made.function_call_id)?;
        self.note(format!("call {call} of {} with {count} inputs", asked.function));
        self.asked.insert(call, asked);
        Ok(())
    }

    /// Adds inputs to a call, some of which may be there already.
    pub async fn add_inputs(&mut self) -> Result<()> {
        let calls: Vec<_> = self.asked.keys().cloned().collect();
        let Some(call) = self.chance.pick(&calls).cloned() else { return Ok(()) };
        let from = u32::try_from(self.chance.within(0..8))?;
        let indexes: Vec<u32> = (from..from + 3).collect();
        let request = pb::FunctionPutInputsRequest {
            function_call_id: call.to_string(),
            inputs: items(&indexes),
            ..Default::default()
        };
        let key = self.chance.bits();
        let answer = self.call::<rpc::FunctionPutInputs>(key, request).await;
        let Some(asked) = self.asked.get_mut(&call) else { return Ok(()) };
        match answer {
            Ok(_) if asked.cancelled.is_some() => bail!("cancel: {call} takes inputs again"),
            Ok(answer) => acknowledged(&mut asked.inputs, answer.inputs),
            Err(status) if asked.cancelled.is_some() => {
                ensure!(status.code() == Code::FailedPrecondition, "{status}");
                Ok(())
            }
            Err(status) => bail!("inputs were refused: {status}"),
        }
    }

    /// Cancels a call.
    pub async fn cancel_call(&mut self) -> Result<()> {
        let calls: Vec<_> = self.asked.keys().cloned().collect();
        let Some(call) = self.chance.pick(&calls).cloned() else { return Ok(()) };
        let request = pb::FunctionCallCancelRequest {
            function_call_id: call.to_string(),
            terminate_containers: self.chance.one_in(2),
            ..Default::default()
        };
        let key = self.chance.bits();
        self.call::<rpc::FunctionCallCancel>(key, request).await?;
        self.note(format!("cancelled {call}"));
        let now = self.plane.now();
        if let Some(asked) = self.asked.get_mut(&call) {
            asked.cancelled.get_or_insert(now);
        }
        Ok(())
    }

    /// Defines a function again, with other walls.
    pub async fn redefine(&mut self) -> Result<()> {
        let functions: Vec<_> = self.kinds.keys().cloned().collect();
        let Some(function) = self.chance.pick(&functions).cloned() else { return Ok(()) };
        let mut kind = self.kinds[&function].clone();
        if self.stopped.contains(&kind.app) {
            return Ok(());
        }
        kind.blocked = !kind.blocked;
        self.note(format!("defined {function} again: blocked {}", kind.blocked));
        let again = self.define(kind, Some(&function)).await?;
        ensure!(again == function, "a new id for an old function");
        Ok(())
    }

    /// Ends an app.
    pub async fn stop_app(&mut self, app: &AppId) -> Result<()> {
        let request = pb::AppStopRequest { app_id: app.to_string(), ..Default::default() };
        let key = self.chance.bits();
        self.call::<rpc::AppStop>(key, request).await?;
        self.note(format!("stopped {app}"));
        self.stopped.insert(app.clone());
        let now = self.plane.now();
        for asked in self.asked.values_mut() {
            if self.kinds[&asked.function].app == *app {
                asked.cancelled.get_or_insert(now);
            }
        }
        Ok(())
    }
}
