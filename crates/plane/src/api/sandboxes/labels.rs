//! What sandboxes are called: labels, and names that come later.

use std::collections::BTreeMap;

use store::sandboxes::{self, Phase};
use wire::client as pb;

use super::{definition, find};
use crate::api::gate::{Cx, Member};
use crate::api::refusal::Refusal;

/// Labels in the wire's form.
pub(super) fn tag_list(tags: &BTreeMap<String, String>) -> Vec<pb::SandboxTag> {
    let tag = |(tag_name, tag_value): (&String, &String)| pb::SandboxTag {
        tag_name: tag_name.clone(),
        tag_value: tag_value.clone(),
    };
    tags.iter().map(tag).collect()
}

/// Replaces the labels.
pub(in crate::api) async fn set_tags(
    cx: Cx<Member>,
    req: pb::SandboxTagsSetRequest,
) -> Result<(), Refusal> {
    let tags = definition::tags(&req.tags)?;
    let mut tx = cx.plane.store.begin().await?;
    let sandbox = find(&mut tx, cx.scope(), &req.sandbox_id).await?;
    sandboxes::set_tags(&mut tx, &sandbox.id, &tags).await?;
    tx.commit().await?;
    Ok(())
}

/// The labels.
pub(in crate::api) async fn get_tags(
    cx: Cx<Member>,
    req: pb::SandboxTagsGetRequest,
) -> Result<pb::SandboxTagsGetResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let sandbox = find(&mut db, cx.scope(), &req.sandbox_id).await?;
    Ok(pb::SandboxTagsGetResponse { tags: tag_list(&sandbox.tags) })
}

/// Names a running sandbox that has no name. The same name again changes nothing.
pub(in crate::api) async fn set_name(
    cx: Cx<Member>,
    req: pb::SandboxSetNameRequest,
) -> Result<pb::SandboxSetNameResponse, Refusal> {
    definition::check_sandbox_name(&req.name)?;
    let mut tx = cx.plane.store.begin().await?;
    let sandbox = find(&mut tx, cx.scope(), &req.sandbox_id).await?;
    if sandbox.phase == Phase::Ended {
        let text = format!("sandbox `{}` has ended: it cannot be named", sandbox.id);
        return Err(Refusal::Conflict(text));
    }
    match sandbox.name {
        Some(name) if name == req.name => return Ok(pb::SandboxSetNameResponse {}),
        Some(name) => {
            let text = format!("sandbox `{}` has the name `{name}` already", sandbox.id);
            return Err(Refusal::Conflict(text));
        }
        None => {}
    }
    let app = &sandbox.app;
    if sandboxes::by_name(&mut tx, cx.scope(), app, &req.name, false).await?.is_some() {
        let text = format!("another sandbox of this app runs under the name `{}`", req.name);
        return Err(Refusal::Exists(text));
    }
    sandboxes::set_name(&mut tx, &sandbox.id, &req.name).await?;
    tx.commit().await?;
    Ok(pb::SandboxSetNameResponse {})
}
