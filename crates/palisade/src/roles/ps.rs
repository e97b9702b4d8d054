//! `palisade ps`: the containers that live, those of functions and of sandboxes.

use std::collections::BTreeMap;

use anyhow::Result;
use wire::client as pb;
use wire::rpc::client as rpc;

use super::sandbox::{age, now_secs, runtime};
use crate::calls::Calls;
use crate::config::Ps;
use crate::data::Data;
use crate::say;

/// Prints the containers.
pub(crate) fn run(ps: &Ps) -> Result<()> {
    runtime()?.block_on(async {
        let calls = Calls::open(&Data::of(&ps.data.data_dir)).await?;
        let sandboxes = calls.sandboxes(false).await?;
        let sandboxes: BTreeMap<_, _> = sandboxes
            .into_iter()
            .map(|one| (one.task_info.as_ref().map(|task| task.id.clone()), one))
            .collect();
        let mut tasks = Vec::new();
        for environment_name in calls.environments().await? {
            let request = pb::TaskListRequest { environment_name, app_id: String::new() };
            tasks.extend(calls.call::<rpc::TaskList>(request).await?.tasks);
        }
        tasks.sort_by(|a, b| b.enqueued_at.total_cmp(&a.enqueued_at));
        if !ps.json {
            say(format!("{:27} {:25} {:>8}  app", "container", "sandbox", "age"));
        }
        for task in tasks {
            let sandbox = sandboxes.get(&Some(task.task_id.clone()));
            print(ps.json, &task, sandbox);
        }
        Ok(())
    })
}

fn print(json: bool, task: &pb::TaskStats, sandbox: Option<&pb::SandboxInfo>) {
    if json {
        say(serde_json::json!({
            "id": task.task_id, "app_id": task.app_id, "app": task.app_description,
            "sandbox_id": sandbox.map(|sandbox| &sandbox.id),
            "sandbox_name": sandbox.map(|sandbox| &sandbox.name).filter(|name| !name.is_empty()),
            "created_at": task.enqueued_at,
            "started_at": Some(task.started_at).filter(|at| *at > 0.0),
        }));
        return;
    }
    let age = age(now_secs() - task.enqueued_at);
    let sandbox = sandbox.map(|sandbox| sandbox.id.as_str()).unwrap_or_default();
    say(format!("{:27} {sandbox:25} {age:>8}  {}", task.task_id, task.app_description));
}
