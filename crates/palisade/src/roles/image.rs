//! `palisade image`: the images that were built, and those that come from elsewhere. The list is
//! read from the database beside a running server.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use store::{Store, images};

use crate::admin::{self, Request};
use crate::config::{Image, ImageCommand};
use crate::data::Data;
use crate::say;

/// Images in one list.
const LIST_MAX: u32 = 1_000;

/// Runs the command.
pub(crate) fn run(image: &Image) -> Result<()> {
    match &image.command {
        ImageCommand::List { data, json } => {
            let path = Data::of(&data.data_dir).path("palisade.db");
            if !path.exists() {
                bail!("there is no database at {}: was a server ever started?", path.display());
            }
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(list(&path, *json))
        }
        ImageCommand::Import { path, name, steps, data, json } => {
            let path = absolute(path)?;
            let request = Request::ImportImages { path, name: name.clone(), steps: *steps };
            let done = admin::ask(&Data::of(&data.data_dir), request)?;
            admin::tell(&done, *json, || {
                let names: Vec<_> = strings(&done["names"]).collect();
                format!("imported {}; {} build steps", names.join(", "), done["steps"])
            });
            Ok(())
        }
        ImageCommand::Export { path, images, data, json } => {
            let request = Request::ExportImages { path: absolute(path)?, images: images.clone() };
            let done = admin::ask(&Data::of(&data.data_dir), request)?;
            admin::tell(&done, *json, || {
                format!("exported {} images of {} layers", done["images"], done["layers"])
            });
            Ok(())
        }
        ImageCommand::Verify { data, json } => {
            let done = admin::ask(&Data::of(&data.data_dir), Request::VerifyImages)?;
            let changed: Vec<_> = strings(&done["changed"]).collect();
            admin::tell(&done, *json, || format!("{} layers are sound", done["sound"]));
            if !changed.is_empty() {
                bail!(
                    "{} layers are not what their names say: stop the server, remove them from \
                     worker/images/layers, and run what needs them again",
                    changed.len()
                );
            }
            Ok(())
        }
        ImageCommand::Prune { keep, data, json } => {
            let request = Request::PruneImages { keep_bytes: *keep };
            let done = admin::ask(&Data::of(&data.data_dir), request)?;
            let mib = |what: &str| done[what].as_u64().unwrap_or_default() >> 20;
            admin::tell(&done, *json, || {
                format!(
                    "removed {} layers of {} images: {} MiB; {} MiB are left",
                    done["layers"],
                    done["images"],
                    mib("freed_bytes"),
                    mib("left_bytes")
                )
            });
            Ok(())
        }
    }
}

/// The server has another folder of work than whoever types.
pub(super) fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).with_context(|| format!("cannot find {}", path.display()))
}

fn strings(value: &serde_json::Value) -> impl Iterator<Item = &str> {
    value.as_array().into_iter().flatten().filter_map(serde_json::Value::as_str)
}

async fn list(path: &Path, json: bool) -> Result<()> {
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
