//! `palisade image`: the images that were built. Reads the database beside a running server.

use anyhow::{Result, bail};
use store::{Store, images};

use crate::config::{Image, ImageCommand};
use crate::data::Data;
use crate::say;

/// Images in one list.
const LIST_MAX: u32 = 1_000;

/// Runs the command.
pub(crate) fn run(image: &Image) -> Result<()> {
    let ImageCommand::List { data, json } = &image.command;
    let path = Data::of(&data.data_dir).path("palisade.db");
    if !path.exists() {
        bail!("there is no database at {}: was a server ever started there?", path.display());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(list(&path, *json))
}

async fn list(path: &std::path::Path, json: bool) -> Result<()> {
    let store = Store::open(path).await?;
    let images = images::list(&mut *store.read().await?, LIST_MAX).await?;
    if !json {
        say(format!("{:26} {:9} {:7} {:>6}  commands", "image", "state", "python", "layers"));
    }
    for image in images {
        let content = image.content.unwrap_or_default();
        let python = content.python.map(|(major, minor)| format!("{major}.{minor}"));
        let state = format!("{:?}", image.phase).to_lowercase();
        if json {
            say(serde_json::json!({
                "id": image.id, "state": state, "python": python, "layers": content.layers,
                "commands": image.build.commands, "builder_version": image.builder_version,
                "created_at_ms": image.created_at, "failure": image.failure,
            }));
            continue;
        }
        let commands: String = image.build.commands.join("; ").chars().take(60).collect();
        let python = python.unwrap_or_default();
        let layers = content.layers.len();
        say(format!("{:26} {state:9} {python:7} {layers:>6}  {commands}", image.id.as_str()));
    }
    store.close().await;
    Ok(())
}
