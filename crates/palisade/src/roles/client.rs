//! `palisade client`: the client's packages from a folder of wheels.

use anyhow::Result;

use super::image::absolute;
use crate::admin::{self, Request};
use crate::config::{Client, ClientCommand};
use crate::data::Data;

/// Runs the command.
pub(crate) fn run(client: &Client) -> Result<()> {
    let ClientCommand::Import { path, data, json } = &client.command;
    let request = Request::ImportClient { path: absolute(path)? };
    let done = admin::ask(&Data::of(&data.data_dir), request)?;
    admin::tell(&done, *json, || format!("{} wheels are there now", done["wheels"]));
    Ok(())
}
