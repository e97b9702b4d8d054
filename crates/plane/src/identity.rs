//! Who a client is: its token, checked against the hash that is kept.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use http::HeaderMap;
use model::{TaskId, WorkspaceId};
use sha2::{Digest, Sha256};
use store::{Scope, tasks, tokens};

use crate::Plane;
use crate::api::gate::{Caller, Task, User};
use crate::api::refusal::Refusal;
use crate::limits::TOKENS_CACHED_MAX;

/// Tokens that were found good, by the hash of id and secret.
#[derive(Debug, Default)]
pub struct Tokens(Mutex<HashMap<[u8; 32], WorkspaceId>>);

/// The hash under which a token's secret is kept.
pub fn secret_hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Whether two hashes are equal, in a time that does not tell where they differ.
fn equal(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

impl Plane {
    /// The client that a request's headers name.
    pub(crate) async fn identify(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (Some(id), Some(secret)) = (text("x-modal-token-id"), text("x-modal-token-secret"))
        else {
            return Ok(Caller::Nobody(
                "no token was sent: run `eval \"$(palisade env)\"` on the server's machine first",
            ));
        };
        let mut key = Sha256::new();
        key.update((id.len() as u64).to_be_bytes());
        key.update(id.as_bytes());
        key.update(secret.as_bytes());
        let key: [u8; 32] = key.finalize().into();
        let known = {
            let cached = self.tokens.0.lock().unwrap_or_else(PoisonError::into_inner);
            cached.get(&key).cloned()
        };
        let workspace = match known {
            Some(workspace) => workspace,
            None => {
                let stored = tokens::get(&mut *self.store.read().await?, id).await?;
                let good = stored.filter(|(_, hash)| equal(hash, &secret_hash(secret)));
                let Some((workspace, _)) = good else {
                    return Ok(Caller::Nobody(
                        "the token is not valid here: run `eval \"$(palisade env)\"` on the \
                         server's machine to get the one that is",
                    ));
                };
                let mut cached = self.tokens.0.lock().unwrap_or_else(PoisonError::into_inner);
                if cached.len() >= TOKENS_CACHED_MAX {
                    cached.clear();
                }
                cached.insert(key, workspace.clone());
                workspace
            }
        };
        Ok(Caller::User(User { scope: Scope { workspace } }))
    }

    /// The container that a door belongs to. An ended one is nobody.
    pub async fn identify_task(&self, id: &TaskId) -> Result<Caller, store::Error> {
        let task = tasks::get_any(&mut *self.store.read().await?, id).await?;
        let Some(task) = task.filter(|task| task.phase < tasks::Phase::Ended) else {
            return Ok(Caller::Nobody("this container has ended"));
        };
        let restricted = task.restricted;
        let task = Task {
            scope: Scope { workspace: task.workspace },
            id: task.id,
            app: task.app,
            function: task.function,
            restricted,
        };
        Ok(if restricted { Caller::Restricted(task) } else { Caller::Task(task) })
    }
}
