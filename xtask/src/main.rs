//! The developer's commands: `cargo xtask <verb>`.

fn main() -> anyhow::Result<()> {
    anyhow::bail!("usage: cargo xtask demo|test|check|bench")
}
