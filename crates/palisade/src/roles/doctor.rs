//! `palisade doctor`: what this machine offers, what follows from it, and how to get the rest.
//! Facts are gathered first, by reading and by trying; the judgement is a pure function of them.

mod facts;
mod points;
mod report;
mod trials;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::Doctor;
use crate::say;
use facts::Facts;
use report::Report;

/// Runs the command: success if functions can run here, failure if they cannot.
pub(crate) fn run(doctor: &Doctor) -> ExitCode {
    match look(doctor) {
        Ok(Some(facts)) => {
            let report = Report::of(&facts);
            say(if doctor.json { report.json() } else { report.text() });
            if report.can_run() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Ok(None) => {
            crate::say_error(&anyhow::anyhow!("interrupted; what was tried is undone"));
            ExitCode::FAILURE
        }
        Err(error) => {
            crate::say_error(&error);
            ExitCode::FAILURE
        }
    }
}

/// Gathers the facts; none if somebody wanted it to end. What is under way is undone first.
fn look(doctor: &Doctor) -> Result<Option<Facts>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let dir = doctor.data.data_dir.clone();
    let facts = runtime.block_on(async move {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut terminate, mut interrupt) =
            (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        let told = stop.clone();
        let mut work = tokio::task::spawn_blocking(move || Facts::gather(&dir, &told));
        let facts = tokio::select! {
            facts = &mut work => facts?,
            _ = terminate.recv() => { stop.store(true, Ordering::Relaxed); work.await? }
            _ = interrupt.recv() => { stop.store(true, Ordering::Relaxed); work.await? }
        };
        Ok::<_, anyhow::Error>((!stop.load(Ordering::Relaxed)).then_some(facts))
    })?;
    Ok(facts)
}
