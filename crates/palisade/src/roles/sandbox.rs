//! `palisade sandbox`: sandboxes from the command line.

mod exec;

use std::io::Write;
use std::process::ExitCode;

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

/// Runs the command; the code is that of a program that was run in a sandbox.
pub(crate) fn run(sandbox: Sandbox) -> Result<ExitCode> {
    runtime()?.block_on(async {
        match sandbox.command {
            SandboxCommand::List { all, json, data } => {
                list(&Calls::open(&Data::of(&data.data_dir)).await?, all, json).await?;
            }
            SandboxCommand::Exec(wanted) => {
                let calls = Calls::open(&Data::of(&wanted.data.data_dir)).await?;
                let id = find(&calls, &wanted.sandbox).await?;
                return exec::run(&calls, &id, wanted).await;
            }
            SandboxCommand::Logs { sandbox, follow, data } => {
                let calls = Calls::open(&Data::of(&data.data_dir)).await?;
                logs(&calls, find(&calls, &sandbox).await?, follow).await?;
            }
            SandboxCommand::Terminate { sandboxes, all, data } => {
                let calls = Calls::open(&Data::of(&data.data_dir)).await?;
                terminate(&calls, &sandboxes, all).await?;
            }
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// The id of a sandbox that is given by its id, or as APP/NAME.
async fn find(calls: &Calls, given: &str) -> Result<String> {
    let Some((app_name, sandbox_name)) = given.split_once('/') else {
        return Ok(given.to_owned());
    };
    let request = pb::SandboxGetFromNameRequest {
        sandbox_name: sandbox_name.to_owned(),
        app_name: app_name.to_owned(),
        ..pb::SandboxGetFromNameRequest::default()
    };
    Ok(calls.call::<rpc::SandboxGetFromNameV2>(request).await?.sandbox_id)
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
async fn logs(calls: &Calls, sandbox_id: String, follow: bool) -> Result<()> {
    let mut request = pb::SandboxGetLogsRequest {
        sandbox_id,
        timeout: if follow { FOLLOW_SECS } else { 0.0 },
        ..pb::SandboxGetLogsRequest::default()
    };
    loop {
        let mut batches = calls.stream::<rpc::SandboxGetLogs>(request.clone()).await?;
        while let Some(batch) = batches.message().await.map_err(|status| refused(&status))? {
            for item in batch.items {
                let is_output = item.file_descriptor() == pb::FileDescriptor::Stdout;
                print(!is_output, item.data.as_bytes())?;
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

/// Prints what a program has printed.
fn print(is_stderr: bool, data: &[u8]) -> Result<()> {
    let mut stream: Box<dyn Write> = match is_stderr {
        true => Box::new(std::io::stderr()),
        false => Box::new(std::io::stdout()),
    };
    stream.write_all(data)?;
    Ok(stream.flush()?)
}

async fn terminate(calls: &Calls, sandboxes: &[String], all: bool) -> Result<()> {
    let mut ids = Vec::new();
    for given in sandboxes {
        ids.push(find(calls, given).await?);
    }
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
