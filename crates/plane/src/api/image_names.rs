//! Names of images.

use store::environments::Environment;
use store::image_names::{self, Named, Publication, Wanted};
use store::images::Phase;
use store::{Db, Scope};
use wire::client as pb;

use super::gate::{Cx, Member};
use super::refusal::Refusal;
use super::{environments, images};
use crate::limits::IMAGE_NAMES_LISTED_MAX;

/// Characters of a name and of a tag, as in Docker's references.
const NAME_CHARS_MAX: usize = 128;

/// Comes after every place in the list of a name's publications.
const END: u64 = u64::MAX >> 1;

/// A name, taken apart and with its environment found.
struct Name {
    environment: Environment,
    /// `name:tag`.
    name: String,
}

/// Takes `environment/name:tag` apart; the tag is `latest` where none is given.
async fn read(db: &mut Db, scope: &Scope, field: &str, tag: &str) -> Result<Name, Refusal> {
    let (in_name, rest) = match tag.rsplit_once('/') {
        Some((environment, rest)) => (Some(environment), rest),
        None => (None, tag),
    };
    let (name, tag) = rest.split_once(':').unwrap_or((rest, "latest"));
    for (part, text) in [("name", name), ("tag", tag)] {
        let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !starts || !text.chars().all(is_part) || text.len() > NAME_CHARS_MAX {
            let text: String = text.chars().take(80).collect();
            let why = format!(
                "`{text}` is no {part} of an image: use 1 to {NAME_CHARS_MAX} letters, digits, \
                 dashes, underscores and dots, and begin with a letter or digit"
            );
            return Err(Refusal::invalid("tag", why));
        }
    }
    let environment = environments::find(db, scope, in_name.unwrap_or(field)).await?;
    Ok(Name { environment, name: format!("{name}:{tag}") })
}

fn unknown(name: &Name) -> Refusal {
    let Name { environment, name } = name;
    let text = format!(
        "image `{name}` not found in environment `{}`: publish one under that name first",
        environment.name
    );
    Refusal::NotFound(text)
}

/// The publication that counts.
async fn newest(db: &mut Db, scope: &Scope, name: &Name) -> Result<Option<Publication>, Refusal> {
    let environment = &name.environment.id;
    let newest = image_names::publications(db, scope, environment, &name.name, END, 1);
    Ok(newest.await?.pop())
}

/// The image that has a name now.
pub(super) async fn get(
    cx: Cx<Member>,
    req: pb::ImageGetByTagRequest,
) -> Result<pb::ImageGetByTagResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let name = read(&mut db, cx.scope(), &req.environment_name, &req.tag).await?;
    let newest = newest(&mut db, cx.scope(), &name).await?.ok_or_else(|| unknown(&name))?;
    Ok(pb::ImageGetByTagResponse { image_id: newest.image.into() })
}

/// Gives an image a name.
pub(super) async fn publish(
    cx: Cx<Member>,
    req: pb::ImagePublishRequest,
) -> Result<pb::ImagePublishResponse, Refusal> {
    if req.allow_public {
        let why = "a name is for its workspace: there is nobody else here";
        return Err(Refusal::invalid("allow_public", why));
    }
    let mut tx = cx.plane.store.begin().await?;
    let image = images::find(&cx, &mut tx, &req.image_id).await?;
    if image.phase != Phase::Ready {
        let text = format!("image `{}` is not built: only one that is gets a name", image.id);
        return Err(Refusal::Conflict(text));
    }
    let name = read(&mut tx, cx.scope(), &req.environment_name, &req.tag).await?;
    // A request that is sent again changes nothing.
    let publication = match newest(&mut tx, cx.scope(), &name).await? {
        Some(newest) if newest.image == image.id => newest,
        Some(_) | None => {
            let publication = Publication {
                seq: 0,
                revision: format!("ir-{}", hex::encode(cx.plane.bits())),
                name: name.name,
                image: image.id,
                at: cx.now(),
            };
            let environment = &name.environment.id;
            image_names::publish(&mut tx, cx.scope(), environment, &publication).await?;
            publication
        }
    };
    tx.commit().await?;
    let Publication { image, revision, .. } = publication;
    Ok(pb::ImagePublishResponse { image_id: image.into(), revision_id: revision })
}

fn page(asked: u32) -> u32 {
    match asked {
        0 => IMAGE_NAMES_LISTED_MAX,
        asked => asked.min(IMAGE_NAMES_LISTED_MAX),
    }
}

/// The names of an environment.
pub(super) async fn list(
    cx: Cx<Member>,
    req: pb::ImageListTagsRequest,
) -> Result<pb::ImageListTagsResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let environment = environments::find(&mut db, cx.scope(), &req.environment_name).await?;
    let wanted = Wanted { prefix: req.tag_prefix, after: req.page_token, image: req.image_id };
    let most = page(req.max_objects);
    let mut found =
        image_names::list(&mut db, cx.scope(), &environment.id, &wanted, most + 1).await?;
    let is_last = found.len() <= most as usize;
    found.truncate(most as usize);
    let next_page_token = match found.last() {
        Some(last) if !is_last => last.newest.name.clone(),
        Some(_) | None => String::new(),
    };
    let item = |Named { newest, first_at }| pb::ImageListTagsItem {
        tag: newest.name,
        image_id: newest.image.into(),
        revision_id: newest.revision,
        created_at: first_at.as_secs_f64(),
        updated_at: newest.at.as_secs_f64(),
        last_published_by: String::new(),
    };
    let items = found.into_iter().map(item).collect();
    Ok(pb::ImageListTagsResponse { items, next_page_token, environment_name: environment.name })
}

/// The publications of a name, newest first.
pub(super) async fn publications(
    cx: Cx<Member>,
    req: pb::ImageTagRevisionsRequest,
) -> Result<pb::ImageTagRevisionsResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let Name { environment, name } =
        read(&mut db, cx.scope(), &req.environment_name, &req.tag).await?;
    let before = match req.page_token.as_str() {
        "" => END,
        token => token.parse().map_err(|_| {
            Refusal::invalid("page_token", "it is none of this list: begin without one")
        })?,
    };
    let (scope, most) = (cx.scope(), page(req.max_objects));
    let found = image_names::publications(&mut db, scope, &environment.id, &name, before, most);
    let found = found.await?;
    let next_page_token = match found.last() {
        Some(last) if found.len() == most as usize => last.seq.to_string(),
        Some(_) | None => String::new(),
    };
    let item = |publication: Publication| pb::ImageTagRevisionsItem {
        image_id: publication.image.into(),
        revision_id: publication.revision,
        created_at: publication.at.as_secs_f64(),
        published_by: String::new(),
    };
    let items = found.into_iter().map(item).collect();
    let environment_name = environment.name;
    Ok(pb::ImageTagRevisionsResponse { items, next_page_token, tag: name, environment_name })
}

/// Forgets a name; its images stay.
pub(super) async fn delete(cx: Cx<Member>, req: pb::ImageNameDeleteRequest) -> Result<(), Refusal> {
    let mut tx = cx.plane.store.begin().await?;
    let name = read(&mut tx, cx.scope(), "", &req.tag).await?;
    let environment = &name.environment.id;
    if !image_names::delete(&mut tx, cx.scope(), environment, &name.name).await? {
        return Err(unknown(&name));
    }
    tx.commit().await?;
    Ok(())
}
