//! The rules of the house that no compiler knows: `cargo xtask tidy`.

mod hosts;
mod rules;
mod tree;
mod walls;

use anyhow::{Result, bail};

use crate::workspace::Workspace;

/// What is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
struct Finding {
    place: String,
    what: String,
}

impl Finding {
    fn new(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self { place: place.into(), what: what.into() }
    }
}

/// Checks all rules and fails if one is broken; what is only large is told.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let files = tree::files(&workspace.root)?;
    let hosts = hosts::of_this_machine();
    let mut findings = walls::broken(&workspace.metadata)?;
    for file in &files {
        findings.extend(rules::broken(file));
        findings.extend(hosts::named(file, &hosts));
        if let Some(warning) = rules::large(file) {
            println!("warning: {}: {}", warning.place, warning.what);
        }
    }
    for finding in &findings {
        println!("{}: {}", finding.place, finding.what);
    }
    if !findings.is_empty() {
        bail!("{} rules of the house are broken: see the lines above", findings.len());
    }
    println!("tidy: {} files are in order", files.len());
    Ok(())
}
