//! Sandboxes, as clients hold them. The rpcs with and without `V2` do the same; an id says by its
//! length which of them its client calls (modal 1.6.4).

mod access;
mod create;
mod definition;
mod execs;
mod file_output;
mod files;
mod inside;
mod labels;
mod life;
mod lists;
mod network;
mod outcome;
mod snapshot;
mod streams;

use model::SandboxId;
use store::sandboxes::{self, Sandbox};
use store::{Db, Scope};

use super::refusal::Refusal;

pub(super) use access::{connect_token, router_access, task_router_access, tunnels};
pub(super) use create::{create, create_v2};
pub(super) use execs::{exec, exec_output, exec_put_input, exec_wait};
pub(super) use files::{filesystem_exec, filesystem_output};
pub(super) use labels::{get_tags, set_name, set_tags};
pub(super) use life::{from_name, task_id, terminate, wait};
pub(super) use lists::list;
pub(super) use outcome::result;
pub(super) use snapshot::snapshot_fs;
pub(super) use streams::{get_logs, write_stdin};

/// Finds a sandbox of the caller's.
pub(super) async fn find(db: &mut Db, scope: &Scope, id: &str) -> Result<Sandbox, Refusal> {
    let found = sandboxes::get(db, scope, &SandboxId::parse(id)?).await?;
    found.ok_or_else(|| Refusal::not_found("sandbox", id))
}
