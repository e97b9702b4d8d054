//! Pulls one image into a store: `pull DIR NAME`. What `cargo xtask bench pull` times.

use std::path::PathBuf;
use std::sync::Arc;

use images::{Builder, LayerStore};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(dir), Some(name)) = (arguments.next(), arguments.next()) else {
        return Err("usage: pull DIR NAME".into());
    };
    let store = Arc::new(LayerStore::open(PathBuf::from(dir))?);
    Builder::new(store).base(&name, &mut |_| {})?;
    Ok(())
}
