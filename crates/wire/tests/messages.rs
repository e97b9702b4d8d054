//! What the generated messages look like where others depend on it.

use prost::Message as _;
use prost_types::Any;
use wire::client::{AppState, Function, FunctionData, RpcRetryPolicy, RpcStatus};

/// The client looks only at the last part of the url.
#[test]
fn details_of_an_error_are_named_for_the_client() {
    let policy = RpcRetryPolicy { retry_after_secs: 0.5 };
    let detail = Any::from_msg(&policy).expect("it encodes");
    assert_eq!(detail.type_url, "type.modal.com/modal.client.RPCRetryPolicy");
    let status = RpcStatus { code: 8, message: "busy".into(), details: vec![detail] };
    let decoded = RpcStatus::decode(&*status.encode_to_vec()).expect("it decodes");
    assert_eq!(decoded.details[0].to_msg::<RpcRetryPolicy>().expect("a policy"), policy);
}

/// Recipes and definitions are hashed in their encoded form: maps must not shuffle them.
#[test]
fn maps_encode_in_one_order() {
    let options = |keys: &[&str]| Function {
        experimental_options: keys.iter().map(|key| ((*key).into(), String::new())).collect(),
        ..Default::default()
    };
    let forwards = options(&["a", "b", "c", "d", "e", "f"]).encode_to_vec();
    let backwards = options(&["f", "e", "d", "c", "b", "a"]).encode_to_vec();
    assert_eq!(forwards, backwards);
}

/// The two flags that restrict a function, by the bytes that a client sends.
#[test]
fn the_flags_of_a_restricted_function() {
    let one = Function::decode(&[0xa0, 0x04, 0x01][..]).expect("it decodes");
    assert!(one.untrusted, "field 68");
    let many = FunctionData::decode(&[0xd8, 0x01, 0x01][..]).expect("it decodes");
    assert!(many.untrusted, "field 27");
}

#[test]
fn enum_values_lose_their_prefix() {
    assert_eq!(AppState::try_from(2), Ok(AppState::Detached));
    assert_eq!(AppState::Detached.as_str_name(), "APP_STATE_DETACHED");
}
