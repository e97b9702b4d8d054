//! Dicts and secrets through the protocol.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on may panic")]

mod world;

use std::collections::BTreeMap;

use model::{DictId, Millis, SecretId};
use plane::{Api, expiry};
use tokio_stream::StreamExt;
use tonic::{Code, Status};
use wire::client::{self as pb, ObjectCreationType as Wish};
use wire::rpc::{self, client as names};
use world::{World, call, metadata, refused};

fn entries(pairs: &[(&str, &str)]) -> Vec<pb::DictEntry> {
    let entry = |(key, value): &(&str, &str)| pb::DictEntry {
        key: key.to_string().into(),
        value: value.to_string().into(),
    };
    pairs.iter().map(entry).collect()
}

async fn make(api: &Api, name: &str, wish: Wish, data: &[(&str, &str)]) -> Result<String, Status> {
    let request = pb::DictGetOrCreateRequest {
        deployment_name: name.into(),
        object_creation_type: wish.into(),
        data: entries(data),
        ..Default::default()
    };
    Ok(call::<names::DictGetOrCreate>(api, None, request).await?.dict_id)
}

/// A dict as its callers use it.
struct Dict {
    api: Api,
    id: String,
}

impl Dict {
    async fn new(world: &World, data: &[(&str, &str)]) -> Self {
        let id = make(&world.api(), "", Wish::Ephemeral, data).await.unwrap();
        Self { api: world.api(), id }
    }

    async fn get(&self, key: &str) -> Option<String> {
        let request = pb::DictGetRequest { dict_id: self.id.clone(), key: key.to_owned().into() };
        let answer = call::<names::DictGet>(&self.api, None, request).await.unwrap();
        assert_eq!(answer.found, answer.value.is_some());
        answer.value.map(|value| String::from_utf8(value.to_vec()).unwrap())
    }

    async fn update(&self, key: Option<&str>, pairs: &[(&str, &str)], keep: bool) -> bool {
        let request = pb::DictUpdateRequest {
            dict_id: self.id.clone(),
            updates: entries(pairs),
            if_not_exists: keep,
        };
        call::<names::DictUpdate>(&self.api, key, request).await.unwrap().created
    }

    async fn pop(&self, key: &str, of: &str) -> Option<bytes::Bytes> {
        let request = pb::DictPopRequest { dict_id: self.id.clone(), key: of.to_owned().into() };
        call::<names::DictPop>(&self.api, Some(key), request).await.unwrap().value
    }

    async fn len(&self) -> i32 {
        let request = pb::DictLenRequest { dict_id: self.id.clone() };
        call::<names::DictLen>(&self.api, None, request).await.unwrap().len
    }

    async fn contents(&self, keys: bool, values: bool) -> Vec<pb::DictEntry> {
        let request = pb::DictContentsRequest { dict_id: self.id.clone(), keys, values };
        let stream = rpc::stream::<names::DictContents>(self.api.clone(), metadata(None), request);
        let stream = stream.await.unwrap().into_inner();
        stream.map(Result::unwrap).collect().await
    }
}

#[tokio::test]
async fn names_and_first_contents() {
    let world = World::new().await;
    let api = world.api();
    let missing = make(&api, "d", Wish::Unspecified, &[]).await;
    refused(missing, Code::NotFound, "dict `d` not found");
    let id = make(&api, "d", Wish::CreateIfMissing, &[("a", "1")]).await.unwrap();
    assert_eq!(make(&api, "d", Wish::CreateIfMissing, &[("b", "2")]).await.unwrap(), id);
    let dict = Dict { api: api.clone(), id: id.clone() };
    assert_eq!((dict.get("a").await.unwrap(), dict.get("b").await), ("1".into(), None));
    let again = make(&api, "d", Wish::CreateFailIfExists, &[]).await;
    refused(again, Code::AlreadyExists, "exists already");
    let over = make(&api, "d", Wish::CreateOverwriteIfExists, &[("c", "3")]).await.unwrap();
    assert_eq!((over, dict.len().await), (id.clone(), 1));
    let other = pb::DictLenRequest { dict_id: id.clone() };
    let other = call::<names::DictLen>(&world.api_of_another(), None, other).await;
    refused(other, Code::NotFound, "not found");
    let restricted = pb::DictGetRequest { dict_id: id.clone(), key: "c".into() };
    let restricted = call::<names::DictGet>(&world.api_restricted(), None, restricted).await;
    refused(restricted, Code::Unauthenticated, "restrict_modal_access");
    let list = pb::DictListRequest::default();
    let listed = call::<names::DictList>(&api, None, list.clone()).await.unwrap().dicts;
    assert_eq!(listed.iter().map(|d| &d.name[..]).collect::<Vec<_>>(), ["d"]);
    call::<names::DictDelete>(&api, None, pb::DictDeleteRequest { dict_id: id }).await.unwrap();
    assert!(call::<names::DictList>(&api, None, list).await.unwrap().dicts.is_empty());
}

#[tokio::test]
async fn the_same_call_asked_again_changes_nothing_and_answers_the_same() {
    let world = World::new().await;
    let dict = Dict::new(&world, &[("a", "1")]).await;
    assert!(dict.update(Some("u"), &[("b", "2")], true).await);
    assert!(dict.update(Some("u"), &[("b", "2")], true).await);
    assert!(!dict.update(Some("v"), &[("b", "3")], true).await);
    assert!(dict.update(Some("w"), &[("b", "4")], false).await);
    assert!(dict.update(None, &[("b", "5")], false).await);
    // The write is not done a second time, over the later one.
    assert!(dict.update(Some("w"), &[("b", "4")], false).await);
    assert_eq!(dict.get("b").await.unwrap(), "5");
    assert_eq!(dict.pop("p", "a").await.unwrap(), "1");
    dict.update(None, &[("a", "6")], false).await;
    assert_eq!(dict.pop("p", "a").await.unwrap(), "1");
    assert_eq!(dict.get("a").await.unwrap(), "6");
    assert_eq!(dict.pop("q", "x").await, None);
    let clear = pb::DictClearRequest { dict_id: dict.id.clone() };
    call::<names::DictClear>(&dict.api, Some("c"), clear.clone()).await.unwrap();
    assert_eq!(dict.len().await, 0);
    dict.update(None, &[("a", "7")], false).await;
    call::<names::DictClear>(&dict.api, Some("c"), clear).await.unwrap();
    assert_eq!(dict.len().await, 1);
}

#[tokio::test]
async fn contents_come_whole_over_many_pages() {
    let world = World::new().await;
    let dict = Dict::new(&world, &[]).await;
    let large = "x".repeat(3 << 20);
    let mut expected = BTreeMap::new();
    for n in 0..700 {
        let value = if n % 100 == 0 { large.clone() } else { format!("v{n}") };
        expected.insert(format!("k{n}"), value);
    }
    let pairs: Vec<(&str, &str)> = expected.iter().map(|(k, v)| (&k[..], &v[..])).collect();
    dict.update(None, &pairs, false).await;
    let text = |bytes: &bytes::Bytes| String::from_utf8(bytes.to_vec()).unwrap();
    let found: BTreeMap<String, String> =
        dict.contents(true, true).await.iter().map(|e| (text(&e.key), text(&e.value))).collect();
    assert!(found == expected);
    let keys = dict.contents(true, false).await;
    assert!(keys.iter().map(|e| text(&e.key)).eq(expected.keys().cloned()));
    assert!(keys.iter().all(|e| e.value.is_empty()));
    let values = dict.contents(false, true).await;
    assert!(values.iter().map(|e| text(&e.value)).eq(expected.values().cloned()));
    assert!(values.iter().all(|e| e.key.is_empty()));
    assert_eq!(dict.len().await, 700);
}

#[tokio::test]
async fn readings_are_noted_once_an_hour_and_keep_entries() {
    let world = World::new().await;
    let dict = Dict::new(&world, &[]).await;
    let now = world.plane.now();
    let id = DictId::parse(&dict.id).unwrap();
    let used_at = async |key: &'static [u8]| {
        let mut db = world.plane.store.read().await.unwrap();
        let content = store::dicts::get(&mut db, &world.scope, &id).await.unwrap().unwrap().content;
        let long_ago = model::Time(0);
        store::dicts::entries::get(&mut db, content, key, false, long_ago)
            .await
            .unwrap()
            .map(|entry| entry.used_at)
    };
    let write = async |key: &'static str, age: Millis| {
        let mut tx = world.plane.store.begin().await.unwrap();
        let content = store::dicts::get(&mut tx, &world.scope, &id).await.unwrap().unwrap().content;
        let entry = [(key.into(), "v".into())];
        let (alive, at) = (model::Time(0), now - age);
        store::dicts::entries::update(&mut tx, content, &entry, false, alive, at).await.unwrap();
        tx.commit().await.unwrap();
    };
    let day = Millis::from_secs(24 * 3_600);
    write("fresh", Millis::from_secs(3_000)).await;
    write("stale", day).await;
    write("listed", day).await;
    write("gone", Millis(8 * day.0)).await;
    for key in ["fresh", "stale"] {
        assert!(dict.get(key).await.is_some());
    }
    assert_eq!(dict.get("gone").await, None);
    assert_eq!(used_at(b"fresh").await, Some(now - Millis::from_secs(3_000)));
    assert!(used_at(b"stale").await.unwrap() >= now);
    assert_eq!(used_at(b"listed").await, Some(now - day));
    assert_eq!(dict.contents(true, true).await.len(), 3);
    assert!(used_at(b"listed").await.unwrap() >= now);
    assert_eq!((dict.len().await, used_at(b"gone").await.is_some()), (3, true));
    expiry::sweep(&world.plane).await.unwrap();
    assert_eq!((dict.len().await, used_at(b"gone").await), (3, None));
}

#[tokio::test]
async fn what_is_too_large_is_refused_by_name() {
    let world = World::new().await;
    let dict = Dict::new(&world, &[]).await;
    let update =
        |updates| pb::DictUpdateRequest { dict_id: dict.id.clone(), updates, if_not_exists: false };
    let key = "k".repeat((64 << 10) + 1);
    let answer = call::<names::DictUpdate>(&dict.api, None, update(entries(&[(&key, "v")]))).await;
    refused(answer, Code::InvalidArgument, "key: it has 65537 bytes");
    let value = "v".repeat(96 << 20);
    let answer =
        call::<names::DictUpdate>(&dict.api, None, update(entries(&[("k", &value)]))).await;
    refused(answer, Code::InvalidArgument, "updates: an entry has");
    let many = entries(&vec![("k", "v"); 10_001]);
    let answer = call::<names::DictUpdate>(&dict.api, None, update(many)).await;
    refused(answer, Code::InvalidArgument, "10001 entries");
    assert_eq!(dict.len().await, 0);
}

#[tokio::test]
async fn secrets_are_changed_listed_and_never_shown() {
    let world = World::new().await;
    let api = world.api();
    let request = pb::SecretGetOrCreateRequest {
        deployment_name: "s".into(),
        object_creation_type: Wish::CreateFailIfExists.into(),
        env_dict: [("A".to_owned(), "hidden-1".to_owned()), ("B".into(), "hidden-2".into())].into(),
        ..Default::default()
    };
    let id = call::<names::SecretGetOrCreate>(&api, None, request).await.unwrap().secret_id;
    let set = |key: &str, value: Option<&str>| pb::secret_update_request::Update {
        key: key.into(),
        value: value.map(str::to_owned),
    };
    let update = |updates| pb::SecretUpdateRequest { secret_id: id.clone(), updates };
    let changes = update(vec![set("B", None), set("C", Some("hidden-3"))]);
    call::<names::SecretUpdate>(&api, None, changes).await.unwrap();
    let bad = call::<names::SecretUpdate>(&api, None, update(vec![set("=", Some("x"))])).await;
    refused(bad, Code::InvalidArgument, "env_dict");
    let long = "x".repeat(128 << 10);
    let bad = call::<names::SecretUpdate>(&api, None, update(vec![set("A", Some(&long))])).await;
    refused(bad, Code::InvalidArgument, "more than");
    let info = pb::SecretGetInfoRequest { secret_id: id.clone() };
    let metadata = call::<names::SecretGetInfo>(&api, None, info.clone()).await.unwrap().metadata;
    let metadata = metadata.unwrap();
    assert_eq!(
        (&metadata.keys[..], &metadata.environment_name[..]),
        (&["A".to_owned(), "C".into()][..], "main")
    );
    let other = call::<names::SecretGetInfo>(&world.api_of_another(), None, info).await;
    refused(other, Code::NotFound, "not found");
    let list = pb::SecretListRequest::default();
    let listed = call::<names::SecretList>(&api, None, list.clone()).await.unwrap();
    assert_eq!((listed.items.len(), &listed.items[0].label[..]), (1, "s"));
    assert!(!format!("{listed:?} {metadata:?}").contains("hidden"));
    let mut db = world.plane.store.read().await.unwrap();
    let stored = store::secrets::get(&mut db, &world.scope, &SecretId::parse(&id).unwrap()).await;
    assert_eq!(stored.unwrap().unwrap().env["C"], "hidden-3");
    let delete = pb::SecretDeleteRequest { secret_id: id };
    call::<names::SecretDelete>(&api, None, delete.clone()).await.unwrap();
    refused(call::<names::SecretDelete>(&api, None, delete).await, Code::NotFound, "not found");
    assert!(call::<names::SecretList>(&api, None, list).await.unwrap().items.is_empty());
}
