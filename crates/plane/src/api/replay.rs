//! Answers of calls that must not happen twice: they are kept under the key that all attempts of
//! one logical call share, in the transaction that does what they tell of.

use prost::Message;
use store::{Tx, replays};
use wire::rpc::Unary;

use super::gate::{Cx, Member};
use super::refusal::Refusal;

/// The answer that was given to this call before.
pub(super) async fn find<R: Unary>(
    cx: &Cx<Member>,
    tx: &mut Tx,
) -> Result<Option<R::Response>, Refusal> {
    let Some(key) = key::<R>(cx) else { return Ok(None) };
    let Some(answer) = replays::get(tx, cx.scope(), &key).await? else { return Ok(None) };
    R::Response::decode(answer).map(Some).map_err(Refusal::internal)
}

/// Keeps the answer to this call.
pub(super) async fn keep<R: Unary>(
    cx: &Cx<Member>,
    tx: &mut Tx,
    answer: &R::Response,
) -> Result<(), Refusal> {
    let Some(key) = key::<R>(cx) else { return Ok(()) };
    replays::put(tx, cx.scope(), &key, &answer.encode_to_vec(), cx.now()).await?;
    Ok(())
}

/// A key of one rpc cannot fetch the answer of another.
fn key<R: Unary>(cx: &Cx<Member>) -> Option<String> {
    cx.replay_key().map(|key| format!("{}:{key}", R::NAME))
}
