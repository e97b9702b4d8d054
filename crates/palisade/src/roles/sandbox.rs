//! `palisade sandbox`: sandboxes from the command line.

use std::io::Write;

use anyhow::{Result, bail};
use wire::client as pb;
use wire::client::generic_result::GenericStatus as Status;
use wire::rpc::client as rpc;

use crate::calls::{Calls, refused};
use crate::config::{Sandbox, SandboxCommand};
use crate::data::Data;
use crate::say;

/// Seconds for which one look at a sandbox's output waits for more.
const FOLLOW_SECS: f32 = 50.0;

/// Runs the command.
pub(crate) fn run(sandbox: &Sandbox) -> Result<()> {
    runtime()?.block_on(async {
        match &sandbox.command {
            SandboxCommand::List { all, json, data } => {
                list(&Calls::open(&Data::of(&data.data_dir)).await?, *all, *json).await
            }
            SandboxCommand::Logs { sandbox, follow, data } => {
                logs(&Calls::open(&Data::of(&data.data_dir)).await?, sandbox, *follow).await
            }
            SandboxCommand::Terminate { sandboxes, all, data } => {
                let calls = Calls::open(&Data::of(&data.data_dir)).await?;
                terminate(&calls, sandboxes, *all).await
            }
        }
    })
}

/// What a command needs that only asks the server.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// Seconds since the Unix epoch.
pub(super) fn now_secs() -> f64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap_or_default().as_secs_f64()
}

/// A length of time for people: the largest unit that is one at least.
pub(super) fn age(secs: f64) -> String {
    let units = [(86_400.0, "d"), (3_600.0, "h"), (60.0, "min")];
    let unit = units.into_iter().find(|(length, _)| secs >= *length);
    let (length, unit) = unit.unwrap_or((1.0, "s"));
    format!("{:.0} {unit}", (secs / length).floor().max(0.0))
}

/// How a sandbox is, in a few words.
fn state(info: &pb::SandboxInfo) -> String {
    let task = info.task_info.as_ref();
    let Some(result) = task.and_then(|task| task.result.as_ref()) else {
        let started = task.is_some_and(|task| task.started_at > 0.0);
        return if started { "running".into() } else { "starting".into() };
    };
    match result.status() {
        Status::Success | Status::Failure => format!("exited {}", result.exitcode),
        Status::Terminated => "terminated".into(),
        Status::Timeout => "timed out".into(),
        Status::IdleTimeout => "idle".into(),
        Status::KernelOomKill => "out of memory".into(),
        Status::InitFailure => "not started".into(),
        _ => "lost".into(),
    }
}

async fn list(calls: &Calls, all: bool, json: bool) -> Result<()> {
    if !json {
        say(format!("{:27} {:20} {:14} {:>8}  app", "sandbox", "name", "state", "age"));
    }
    for info in calls.sandboxes(all).await? {
        if json {
            let task = info.task_info.clone().unwrap_or_default();
            let tags: serde_json::Map<_, _> = info
                .tags
                .iter()
                .map(|tag| (tag.tag_name.clone(), tag.tag_value.clone().into()))
                .collect();
            say(serde_json::json!({
                "id": info.id, "name": Some(&info.name).filter(|name| !name.is_empty()),
                "app_id": info.app_id, "container_id": task.id, "state": state(&info),
                "exit_code": task.result.as_ref().map(|result| result.exitcode), "tags": tags,
                "created_at": info.created_at, "timeout_secs": info.timeout_secs,
            }));
            continue;
        }
        let age = age(now_secs() - info.created_at);
        let state = state(&info);
        say(format!("{:27} {:20} {state:14} {age:>8}  {}", info.id, info.name, info.app_id));
    }
    Ok(())
}

/// Prints what a sandbox's entrypoint has printed: each stream to the one of the same name.
async fn logs(calls: &Calls, sandbox: &str, follow: bool) -> Result<()> {
    let mut request = pb::SandboxGetLogsRequest {
        sandbox_id: sandbox.to_owned(),
        timeout: if follow { FOLLOW_SECS } else { 0.0 },
        ..pb::SandboxGetLogsRequest::default()
    };
    loop {
        let mut batches = calls.stream::<rpc::SandboxGetLogs>(request.clone()).await?;
        while let Some(batch) = batches.message().await.map_err(|status| refused(&status))? {
            for item in batch.items {
                let is_output = item.file_descriptor() == pb::FileDescriptor::Stdout;
                let mut stream: Box<dyn Write> = match is_output {
                    true => Box::new(std::io::stdout()),
                    false => Box::new(std::io::stderr()),
                };
                stream.write_all(item.data.as_bytes())?;
                stream.flush()?;
            }
            request.last_entry_id = batch.entry_id;
            if batch.eof {
                return Ok(());
            }
        }
        if !follow {
            return Ok(());
        }
    }
}

async fn terminate(calls: &Calls, sandboxes: &[String], all: bool) -> Result<()> {
    let mut ids = sandboxes.to_vec();
    if all {
        ids.extend(calls.sandboxes(false).await?.into_iter().map(|info| info.id));
    } else if ids.is_empty() {
        bail!("name the sandboxes that are to end, or say --all");
    }
    let mut failures = 0;
    for sandbox_id in ids {
        let request = pb::SandboxTerminateRequest { sandbox_id: sandbox_id.clone() };
        match calls.call::<rpc::SandboxTerminateV2>(request).await {
            Ok(_) => say(sandbox_id),
            Err(error) => {
                crate::say_error(&error);
                failures += 1;
            }
        }
    }
    if failures > 0 {
        bail!("{failures} of them could not be ended");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        for (secs, want) in
            [(-1.0, "0 s"), (59.9, "59 s"), (60.0, "1 min"), (7_199.0, "1 h"), (200_000.0, "2 d")]
        {
            assert_eq!(age(secs), want);
        }
    }
}
