//! Dicts: maps that clients and containers share. Keys and values are the client's own bytes; equal
//! keys are equal bytes.

use bytes::Bytes;
use futures::{Stream, TryStreamExt, stream};
use model::{DictId, Time};
use store::dicts::entries::{self, Entry, Page};
use store::dicts::{self, Content, Dict, NewDict};
use store::{Db, Scope, Tx};
use wire::client::{self as pb, ObjectCreationType as Wish};
use wire::rpc::client as rpc;

use super::environments;
use super::gate::{Cx, Member};
use super::objects::{creation_info, list_page, named};
use super::refusal::Refusal;
use super::replay;
use crate::Plane;
use crate::limits::{
    DICT_COUNTED_MAX, DICT_ENTRY_BYTES_MAX, DICT_ENTRY_KEPT, DICT_KEY_BYTES_MAX,
    DICT_PAGE_BYTES_MAX, DICT_PAGE_ENTRIES_MAX, DICT_READ_NOTED_EVERY, DICT_UPDATES_MAX,
};

/// Finds a dict of the caller's.
async fn find(db: &mut Db, scope: &Scope, id: &str) -> Result<Dict, Refusal> {
    let found = dicts::get(db, scope, &DictId::parse(id)?).await?;
    found.ok_or_else(|| Refusal::not_found("dict", id))
}

/// Entries that have not been used since are gone.
fn alive(now: Time) -> Time {
    now - DICT_ENTRY_KEPT
}

fn check_key(key: &Bytes) -> Result<(), Refusal> {
    if key.len() <= DICT_KEY_BYTES_MAX {
        return Ok(());
    }
    let why = format!("it has {} bytes: use at most {DICT_KEY_BYTES_MAX}", key.len());
    Err(Refusal::invalid("key", why))
}

fn check_entries(
    field: &'static str,
    entries: Vec<pb::DictEntry>,
) -> Result<Vec<(Bytes, Bytes)>, Refusal> {
    if entries.len() > DICT_UPDATES_MAX {
        let why = format!(
            "{} entries are too many for one request: write at most {DICT_UPDATES_MAX} at a time",
            entries.len()
        );
        return Err(Refusal::invalid(field, why));
    }
    let check = |entry: pb::DictEntry| {
        check_key(&entry.key)?;
        let bytes = entry.key.len() + entry.value.len();
        if bytes > DICT_ENTRY_BYTES_MAX {
            let why = format!("an entry has {bytes} bytes: it may have {DICT_ENTRY_BYTES_MAX}");
            return Err(Refusal::invalid(field, why));
        }
        Ok((entry.key, entry.value))
    };
    entries.into_iter().map(check).collect()
}

fn metadata(dict: &Dict) -> pb::DictMetadata {
    pb::DictMetadata {
        name: dict.name.clone().unwrap_or_default(),
        creation_info: Some(creation_info(dict.created_at)),
    }
}

/// The dict of a name, or a new one with its first content; an ephemeral one has no name.
pub(super) async fn get_or_create(
    cx: Cx<Member>,
    req: pb::DictGetOrCreateRequest,
) -> Result<pb::DictGetOrCreateResponse, Refusal> {
    let wish = req.object_creation_type();
    let name = named(wish, &req.deployment_name)?;
    let data = check_entries("data", req.data)?;
    let mut tx = cx.plane.store.begin().await?;
    if let Some(answer) = replay::find::<rpc::DictGetOrCreate>(&cx, &mut tx).await? {
        return Ok(answer);
    }
    let environment = environments::find(&mut tx, cx.scope(), &req.environment_name).await?;
    let found = match &name {
        Some(name) => dicts::by_name(&mut tx, cx.scope(), &environment.id, name).await?,
        None => None,
    };
    let dict = match (found, wish) {
        (Some(_), Wish::CreateFailIfExists) => {
            return Err(Refusal::Exists(format!("dict `{}` exists already", req.deployment_name)));
        }
        (Some(mut dict), Wish::CreateOverwriteIfExists) => {
            dicts::clear(&mut tx, &mut dict).await?;
            fill(&cx, &mut tx, &dict, &data).await?;
            dict
        }
        (Some(dict), _) => dict,
        (None, Wish::Unspecified) => {
            return Err(Refusal::not_found("dict", &req.deployment_name));
        }
        (None, _) => {
            let id = DictId::new(cx.plane.bits());
            let environment = environment.id;
            let new = NewDict { id, environment, name, created_at: cx.now() };
            let dict = dicts::insert(&mut tx, cx.scope(), new).await?;
            fill(&cx, &mut tx, &dict, &data).await?;
            dict
        }
    };
    let metadata = Some(metadata(&dict));
    let answer = pb::DictGetOrCreateResponse { dict_id: dict.id.into(), metadata };
    if wish != Wish::Unspecified {
        replay::keep::<rpc::DictGetOrCreate>(&cx, &mut tx, &answer).await?;
    }
    tx.commit().await?;
    Ok(answer)
}

async fn fill(
    cx: &Cx<Member>,
    tx: &mut Tx,
    dict: &Dict,
    data: &[(Bytes, Bytes)],
) -> Result<(), Refusal> {
    entries::update(tx, dict.content, data, false, alive(cx.now()), cx.now()).await?;
    Ok(())
}

/// What is known of a dict.
pub(super) async fn get_by_id(
    cx: Cx<Member>,
    req: pb::DictGetByIdRequest,
) -> Result<pb::DictGetByIdResponse, Refusal> {
    let dict = find(&mut *cx.plane.store.read().await?, cx.scope(), &req.dict_id).await?;
    let metadata = Some(metadata(&dict));
    Ok(pb::DictGetByIdResponse { dict_id: dict.id.into(), metadata })
}

/// An ephemeral dict's client lives.
pub(super) async fn heartbeat(
    cx: Cx<Member>,
    req: pb::DictHeartbeatRequest,
) -> Result<(), Refusal> {
    let mut tx = cx.plane.store.begin().await?;
    let dict = find(&mut tx, cx.scope(), &req.dict_id).await?;
    dicts::beat(&mut tx, &dict.id, cx.now()).await?;
    tx.commit().await?;
    Ok(())
}

/// The named dicts of an environment, newest first.
pub(super) async fn list(
    cx: Cx<Member>,
    req: pb::DictListRequest,
) -> Result<pb::DictListResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let environment = environments::find(&mut db, cx.scope(), &req.environment_name).await?;
    let (before, most) = list_page(req.pagination.as_ref(), cx.now());
    let found = dicts::list(&mut db, cx.scope(), &environment.id, before, most).await?;
    let info = |dict: Dict| pb::dict_list_response::DictInfo {
        name: dict.name.clone().unwrap_or_default(),
        created_at: dict.created_at.as_secs_f64(),
        metadata: Some(metadata(&dict)),
        dict_id: dict.id.into(),
    };
    let dicts = found.into_iter().map(info).collect();
    Ok(pb::DictListResponse { dicts, environment_name: environment.name })
}

/// Deletes a dict with all that is in it.
pub(super) async fn delete(cx: Cx<Member>, req: pb::DictDeleteRequest) -> Result<(), Refusal> {
    let mut tx = cx.plane.store.begin().await?;
    if replay::find::<rpc::DictDelete>(&cx, &mut tx).await?.is_some() {
        return Ok(());
    }
    let dict = find(&mut tx, cx.scope(), &req.dict_id).await?;
    dicts::delete(&mut tx, &dict).await?;
    replay::keep::<rpc::DictDelete>(&cx, &mut tx, &()).await?;
    tx.commit().await?;
    Ok(())
}

/// Notes that entries were read, if that was not noted lately: else every reading would write.
async fn note_read(plane: &Plane, content: Content, read: &[Entry]) -> Result<(), store::Error> {
    let now = plane.now();
    let before = now - DICT_READ_NOTED_EVERY;
    let stale = |entry: &&Entry| entry.used_at < before;
    let (Some(first), Some(last)) = (read.iter().find(stale), read.iter().rfind(stale)) else {
        return Ok(());
    };
    let mut tx = plane.store.begin().await?;
    entries::touch(&mut tx, content, &first.key, &last.key, before, now).await?;
    tx.commit().await
}

async fn read_entry(
    cx: &Cx<Member>,
    id: &str,
    key: &Bytes,
    with_value: bool,
) -> Result<Option<Entry>, Refusal> {
    check_key(key)?;
    let (content, entry) = {
        let mut db = cx.plane.store.read().await?;
        let dict = find(&mut db, cx.scope(), id).await?;
        let alive = alive(cx.now());
        (dict.content, entries::get(&mut db, dict.content, key, with_value, alive).await?)
    };
    note_read(&cx.plane, content, entry.as_slice()).await?;
    Ok(entry)
}

/// Reads one value.
pub(super) async fn get(
    cx: Cx<Member>,
    req: pb::DictGetRequest,
) -> Result<pb::DictGetResponse, Refusal> {
    let entry = read_entry(&cx, &req.dict_id, &req.key, true).await?;
    Ok(pb::DictGetResponse { found: entry.is_some(), value: entry.map(|entry| entry.value) })
}

/// Whether there is such a key.
pub(super) async fn contains(
    cx: Cx<Member>,
    req: pb::DictContainsRequest,
) -> Result<pb::DictContainsResponse, Refusal> {
    let entry = read_entry(&cx, &req.dict_id, &req.key, false).await?;
    Ok(pb::DictContainsResponse { found: entry.is_some() })
}

/// Writes entries. The same call asked again does not write over what came between.
pub(super) async fn update(
    cx: Cx<Member>,
    req: pb::DictUpdateRequest,
) -> Result<pb::DictUpdateResponse, Refusal> {
    let updates = check_entries("updates", req.updates)?;
    let mut tx = cx.plane.store.begin().await?;
    let dict = find(&mut tx, cx.scope(), &req.dict_id).await?;
    if let Some(answer) = replay::find::<rpc::DictUpdate>(&cx, &mut tx).await? {
        return Ok(answer);
    }
    let (now, keep) = (cx.now(), req.if_not_exists);
    let created = entries::update(&mut tx, dict.content, &updates, keep, alive(now), now).await?;
    let answer = pb::DictUpdateResponse { created };
    replay::keep::<rpc::DictUpdate>(&cx, &mut tx, &answer).await?;
    tx.commit().await?;
    Ok(answer)
}

/// Takes a value out. The same call asked again gets the same value.
pub(super) async fn pop(
    cx: Cx<Member>,
    req: pb::DictPopRequest,
) -> Result<pb::DictPopResponse, Refusal> {
    check_key(&req.key)?;
    let mut tx = cx.plane.store.begin().await?;
    let dict = find(&mut tx, cx.scope(), &req.dict_id).await?;
    if let Some(answer) = replay::find::<rpc::DictPop>(&cx, &mut tx).await? {
        return Ok(answer);
    }
    let value = entries::pop(&mut tx, dict.content, &req.key, alive(cx.now())).await?;
    let answer = pb::DictPopResponse { found: value.is_some(), value };
    if answer.found {
        replay::keep::<rpc::DictPop>(&cx, &mut tx, &answer).await?;
        tx.commit().await?;
    }
    Ok(answer)
}

/// Number of entries, counted up to a limit.
pub(super) async fn len(
    cx: Cx<Member>,
    req: pb::DictLenRequest,
) -> Result<pb::DictLenResponse, Refusal> {
    let mut db = cx.plane.store.read().await?;
    let dict = find(&mut db, cx.scope(), &req.dict_id).await?;
    let len = entries::len(&mut db, dict.content, DICT_COUNTED_MAX, alive(cx.now())).await?;
    Ok(pb::DictLenResponse { len: i32::try_from(len).unwrap_or(i32::MAX) })
}

/// Removes all entries.
pub(super) async fn clear(cx: Cx<Member>, req: pb::DictClearRequest) -> Result<(), Refusal> {
    let mut tx = cx.plane.store.begin().await?;
    let mut dict = find(&mut tx, cx.scope(), &req.dict_id).await?;
    if replay::find::<rpc::DictClear>(&cx, &mut tx).await?.is_some() {
        return Ok(());
    }
    dicts::clear(&mut tx, &mut dict).await?;
    replay::keep::<rpc::DictClear>(&cx, &mut tx, &()).await?;
    tx.commit().await?;
    Ok(())
}

/// Streams all entries, a page at a time. What is written meanwhile may be among them or not;
/// clearing the dict ends the stream early.
pub(super) async fn contents(
    cx: Cx<Member>,
    req: pb::DictContentsRequest,
) -> Result<impl Stream<Item = Result<pb::DictEntry, Refusal>> + Send + 'static, Refusal> {
    let dict = find(&mut *cx.plane.store.read().await?, cx.scope(), &req.dict_id).await?;
    let (keys, values) = (req.keys, req.values);
    let content = dict.content;
    let page = Page { values, most: DICT_PAGE_ENTRIES_MAX, bytes_max: DICT_PAGE_BYTES_MAX };
    let pages = stream::try_unfold(None, move |last: Option<Bytes>| {
        let plane = cx.plane.clone();
        async move {
            let found = {
                let mut db = plane.store.read().await?;
                let alive = alive(plane.now());
                entries::page(&mut db, content, last.as_deref(), page, alive).await?
            };
            let Some(end) = found.last().map(|entry| entry.key.clone()) else {
                return Ok::<_, Refusal>(None);
            };
            note_read(&plane, content, &found).await?;
            let entry = move |entry: Entry| pb::DictEntry {
                key: if keys { entry.key } else { Bytes::new() },
                value: entry.value,
            };
            Ok(Some((stream::iter(found.into_iter().map(entry).map(Ok)), Some(end))))
        }
    });
    Ok(pages.try_flatten())
}
