//! Requests that name another workspace's queues, dicts and secrets.

use wire::client as pb;

use crate::place::Tenant;
use crate::scope::{Case, case};

/// What deletes comes last: the owner's own requests must find what the others name.
pub(crate) fn foreign(theirs: &Tenant) -> Vec<Case> {
    let mut cases = queues(theirs.queue.as_str());
    cases.extend(dicts(theirs.dict.as_str()));
    cases.extend(secrets(theirs));
    cases
}

fn queues(id: &str) -> Vec<Case> {
    let queue_id = || id.to_owned();
    let (n_values, partition_key) = (1, bytes::Bytes::new());
    let values = vec![bytes::Bytes::from_static(b"item")];
    vec![
        case("QueueHeartbeat", pb::QueueHeartbeatRequest { queue_id: queue_id() }),
        case(
            "QueuePut",
            pb::QueuePutRequest { queue_id: queue_id(), values, ..Default::default() },
        ),
        case(
            "QueueGet",
            pb::QueueGetRequest { queue_id: queue_id(), n_values, partition_key, timeout: 0.0 },
        ),
        case("QueueLen", pb::QueueLenRequest { queue_id: queue_id(), ..Default::default() }),
        case(
            "QueueNextItems",
            pb::QueueNextItemsRequest { queue_id: queue_id(), ..Default::default() },
        ),
        case("QueueClear", pb::QueueClearRequest { queue_id: queue_id(), ..Default::default() }),
        case("QueueGetById", pb::QueueGetByIdRequest { queue_id: queue_id() }),
        case("QueueDelete", pb::QueueDeleteRequest { queue_id: queue_id() }),
    ]
}

fn dicts(id: &str) -> Vec<Case> {
    let dict_id = || id.to_owned();
    let key = || bytes::Bytes::from_static(b"key");
    let value = bytes::Bytes::from_static(b"value");
    let updates = vec![pb::DictEntry { key: key(), value }];
    vec![
        case("DictHeartbeat", pb::DictHeartbeatRequest { dict_id: dict_id() }),
        case(
            "DictUpdate",
            pb::DictUpdateRequest { dict_id: dict_id(), updates, if_not_exists: false },
        ),
        case("DictGet", pb::DictGetRequest { dict_id: dict_id(), key: key() }),
        case("DictContains", pb::DictContainsRequest { dict_id: dict_id(), key: key() }),
        case("DictLen", pb::DictLenRequest { dict_id: dict_id() }),
        case(
            "DictContents",
            pb::DictContentsRequest { dict_id: dict_id(), keys: true, values: true },
        ),
        case("DictPop", pb::DictPopRequest { dict_id: dict_id(), key: key() }),
        case("DictClear", pb::DictClearRequest { dict_id: dict_id() }),
        case("DictGetById", pb::DictGetByIdRequest { dict_id: dict_id() }),
        case("DictDelete", pb::DictDeleteRequest { dict_id: dict_id() }),
    ]
}

/// Of rows without an id: an environment that only they have.
fn secrets(theirs: &Tenant) -> Vec<Case> {
    let secret_id = || theirs.secret.to_string();
    let environment_name = || theirs.environment.clone();
    vec![
        case("SecretGetInfo", pb::SecretGetInfoRequest { secret_id: secret_id() }),
        case(
            "SecretUpdate",
            pb::SecretUpdateRequest { secret_id: secret_id(), ..Default::default() },
        ),
        case("SecretDelete", pb::SecretDeleteRequest { secret_id: secret_id() }),
        case(
            "SecretList",
            pb::SecretListRequest { environment_name: environment_name(), ..Default::default() },
        ),
        case(
            "QueueList",
            pb::QueueListRequest { environment_name: environment_name(), ..Default::default() },
        ),
        case(
            "DictList",
            pb::DictListRequest { environment_name: environment_name(), ..Default::default() },
        ),
        case(
            "QueueGetOrCreate",
            pb::QueueGetOrCreateRequest {
                environment_name: environment_name(),
                deployment_name: "new".into(),
                object_creation_type: pb::ObjectCreationType::CreateIfMissing as i32,
            },
        ),
        case(
            "DictGetOrCreate",
            pb::DictGetOrCreateRequest {
                environment_name: environment_name(),
                deployment_name: "new".into(),
                object_creation_type: pb::ObjectCreationType::CreateIfMissing as i32,
                ..Default::default()
            },
        ),
    ]
}
