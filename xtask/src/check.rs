//! `cargo xtask check`: formatting, clippy and the rules of the house.

use anyhow::Result;

use crate::tidy;
use crate::workspace::{Workspace, cargo};

/// Runs all checks, the quick ones first.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    workspace.run(cargo().args(["fmt", "--all", "--", "--check"]))?;
    tidy::run(workspace)?;
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    workspace.run(cargo().args(clippy))
}
