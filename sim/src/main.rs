//! Runs seeds: `cargo run -p sim -- 17 18` runs these, and tells how each went.

use anyhow::{Context, Result};

#[expect(clippy::print_stdout, reason = "this is what the program is for")]
fn main() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for seed in std::env::args().skip(1) {
        let seed = seed.parse().with_context(|| format!("`{seed}` is no seed"))?;
        let summary = runtime.block_on(sim::run::run(seed))?;
        println!("seed {seed}: {summary:?}");
    }
    Ok(())
}
