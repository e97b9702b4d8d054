//! Images that a function's run makes (the client's `Image.run_function`): the builder calls the
//! function once, and what its container leaves in its files becomes the image's last layer.
//!
//! The call is kept like any other, so a server that is killed goes on with it.

use std::sync::Arc;

use model::output::{Outcome, Payload, Status};
use model::spec::{FunctionBuild, ImageContent};
use model::{CallId, FunctionId, Time};
use store::calls::{self, Call};
use store::images::{self, Image, Phase};
use store::inputs::{self, Carried};
use store::outcomes::{self, Wanted};
use store::{Hint, Scope, Tx, functions, tasks};

use crate::Plane;
use crate::api::{CALL_SYNC, CALL_UNARY};
use crate::endings::Kills;
use crate::submission::Submitted;

/// What to do once the transaction is committed.
#[derive(Debug)]
pub(crate) struct Begun {
    submitted: Submitted,
    kills: Kills,
}

impl Plane {
    /// Calls the function that makes an image; or says why it cannot be called.
    pub(crate) async fn begin_function_build(
        self: &Arc<Self>,
        tx: &mut Tx,
        image: &Image,
        build: &FunctionBuild,
    ) -> Result<Result<Begun, String>, store::Error> {
        let now = self.now();
        let gone = || Ok(Err("the app that asked for it has ended: run it again".to_owned()));
        let mut kills = Kills::default();
        if let Some(earlier) = &image.call {
            let open = inputs::open_of_call(tx, earlier).await?;
            kills = self.cancel(tx, open, "its image is built again", true, now).await?;
        }
        let scope = Scope { workspace: image.workspace.clone() };
        let Some(function) = functions::get(tx, &scope, &build.function).await? else {
            return gone();
        };
        let call = Call {
            id: CallId::new(self.bits()),
            workspace: image.workspace.clone(),
            app: function.app.clone(),
            function: function.id.clone(),
            kind: CALL_UNARY,
            invocation: CALL_SYNC,
            created_at: now,
            input_count: 1,
            done_count: 0,
            cancelled_at: None,
        };
        if !calls::insert(tx, &call, None).await? {
            return gone();
        }
        images::set_call(tx, &image.id, &call.id, &function.id).await?;
        images::set_phase(tx, &image.id, Phase::Building).await?;
        let carried = Carried {
            args: Payload::Inline(build.args.clone()),
            data_format: build.data_format,
            method_name: String::new(),
        };
        let submitted = self.submit(tx, &call, vec![(0, carried)], 1, now).await?;
        Ok(Ok(Begun { submitted, kills }))
    }

    /// Looks after images whose function has answered, or never will, with no container left to
    /// report it.
    pub(crate) async fn settle_function_builds(&self) -> Result<(), store::Error> {
        let all = images::function_builds(&mut *self.store.read().await?).await?;
        for function in all {
            let mut tx = self.store.begin().await?;
            if tasks::alive_of_function(&mut tx, &function).await?.is_empty() {
                settle(&mut tx, &function, None, self.now()).await?;
            }
            tx.commit().await?;
        }
        Ok(())
    }

    /// Goes on with what was begun, once it is committed.
    pub(crate) async fn go_on(&self, begun: Begun) -> Result<(), store::Error> {
        let _ids = begun.submitted.deliver();
        self.end_tasks(begun.kills).await
    }
}

/// Looks what became of the image that a function's run makes, if it makes one: `kept` are the
/// files of a container that ended well; without it, a container ended and left none.
pub(crate) async fn settle(
    tx: &mut Tx,
    function: &FunctionId,
    kept: Option<&Result<ImageContent, String>>,
    now: Time,
) -> Result<(), store::Error> {
    let Some(image) = images::built_by(tx, function).await? else { return Ok(()) };
    let Some(call) = &image.call else { return Ok(()) };
    let done = outcomes::done(tx, call, Wanted::After(0), 1).await?.pop();
    // Not done: another container tries, or the end of this one is reported next.
    let Some(done) = done else { return Ok(()) };
    let wanted = image.build.function.as_ref().map(|build| &build.function);
    let result = match (failure(&done.outcome), kept) {
        // Its caller went away, and another who asked for the same waits: his own function runs.
        (Some(_), _) if done.outcome.status == Status::Terminated && wanted != Some(function) => {
            images::set_phase(tx, &image.id, Phase::Waiting).await?;
            tx.ring(Hint::Builds);
            return Ok(());
        }
        (Some(failure), _) => Err(failure),
        (None, Some(kept)) => kept.clone(),
        (None, None) => {
            tracing::info!(image = %image.id, "what a function left is lost: it runs again");
            images::set_phase(tx, &image.id, Phase::Waiting).await?;
            tx.ring(Hint::Builds);
            return Ok(());
        }
    };
    images::finish(tx, &image.id, &result, now).await?;
    tx.ring(Hint::Image(image.id));
    tx.ring(Hint::Builds);
    tx.ring(Hint::Schedule);
    Ok(())
}

/// Why a run makes no image.
fn failure(outcome: &Outcome) -> Option<String> {
    match outcome.status {
        Status::Success => None,
        Status::Failure
        | Status::Terminated
        | Status::Timeout
        | Status::InitFailure
        | Status::InternalFailure => Some(match outcome.traceback.as_str() {
            "" => outcome.exception.clone(),
            traceback => format!("{}\n{traceback}", outcome.exception),
        }),
    }
}
