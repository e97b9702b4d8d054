//! The finder of undeclared fields, on messages put together by hand.

use prost::Message as _;
use prost::encoding;
use wire::client::function_data::RankedFunction;
use wire::client::{
    AppCreateRequest, Function, FunctionCreateRequest, FunctionData, GenericPayloadType,
    MethodDefinition, Resources, VolumeMount,
};
use wire::limits::UNKNOWN_FIELDS_MAX;
use wire::rpc::{Rpc, client};
use wire::unknown::{self, Error};

/// A field number that no message uses.
const NOBODYS: u32 = 1_999;

/// `message`, encoded, with one more number at its end.
fn with_number(message: &impl prost::Message, number: u32) -> Vec<u8> {
    let mut bytes = message.encode_to_vec();
    encoding::uint64::encode(number, &7, &mut bytes);
    bytes
}

/// A message whose field `number` is the message `inner`.
fn holding(number: u32, inner: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encoding::bytes::encode(number, &inner.to_vec(), &mut bytes);
    bytes
}

/// A function definition with the given encoded function.
fn found_in_function(function: &[u8]) -> Vec<String> {
    unknown::fields_of::<FunctionCreateRequest>(holding(1, function)).expect("it decodes")
}

#[test]
fn a_message_that_is_understood_has_none() {
    let request = FunctionCreateRequest {
        function: Some(Function {
            untrusted: true,
            resources: Some(Resources { memory_mb: 64, ..Default::default() }),
            volume_mounts: vec![VolumeMount { sub_path: Some("a".into()), ..Default::default() }],
            method_definitions: [("m".into(), MethodDefinition::default())].into(),
            definition_type: 2,
            ..Default::default()
        }),
        function_data: Some(FunctionData {
            ranked_functions: vec![RankedFunction { rank: 1, function: Some(Function::default()) }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let found = unknown::fields_of::<FunctionCreateRequest>(request.encode_to_vec());
    assert_eq!(found.expect("it decodes"), Vec::<String>::new());
}

#[test]
fn at_the_top() {
    let bytes = with_number(&AppCreateRequest::default(), NOBODYS);
    let found = unknown::fields("modal.client.AppCreateRequest", bytes).expect("it decodes");
    assert_eq!(found, ["#1999"]);
}

#[test]
fn nested_and_repeated() {
    let mount = with_number(&VolumeMount::default(), NOBODYS);
    let mut function = Function::default().encode_to_vec();
    function.extend(holding(33, &VolumeMount::default().encode_to_vec()));
    function.extend(holding(33, &mount));
    function.extend(holding(9, &with_number(&Resources::default(), NOBODYS)));
    assert_eq!(
        found_in_function(&function),
        ["function.resources.#1999", "function.volume_mounts[1].#1999"]
    );
}

#[test]
fn in_the_values_of_a_map() {
    let mut entry = Vec::new();
    encoding::string::encode(1, &"m".to_owned(), &mut entry);
    entry.extend(holding(2, &with_number(&MethodDefinition::default(), NOBODYS)));
    assert_eq!(
        found_in_function(&holding(74, &entry)),
        [r#"function.method_definitions["m"].#1999"#]
    );
}

#[test]
fn in_every_ranked_function() {
    let ranked = holding(2, &with_number(&Function::default(), NOBODYS));
    let request = holding(9, &holding(18, &ranked));
    let found = unknown::fields_of::<FunctionCreateRequest>(request).expect("it decodes");
    assert_eq!(found, ["function_data.ranked_functions[0].function.#1999"]);
}

#[test]
fn a_value_that_the_enum_lacks() {
    let function = Function {
        definition_type: 77,
        supported_output_formats: vec![4, 99],
        ..Default::default()
    };
    assert_eq!(
        found_in_function(&function.encode_to_vec()),
        ["function.definition_type = 77", "function.supported_output_formats[1] = 99"]
    );
}

#[test]
fn fields_of_older_clients() {
    let harmless = with_number(&Function::default(), 54);
    assert_eq!(found_in_function(&harmless), Vec::<String>::new());
    // A proxy address is a promise: it is named, not skipped.
    let promise = with_number(&Function::default(), 70);
    assert_eq!(found_in_function(&promise), ["function._experimental_proxy_ip"]);
    // The number is only retired in that one message.
    let elsewhere = holding(9, &with_number(&Resources::default(), 54));
    assert_eq!(found_in_function(&elsewhere), ["function.resources.#54"]);
}

#[test]
fn the_list_ends_at_its_limit() {
    let mut bytes = Vec::new();
    for number in 0..2 * UNKNOWN_FIELDS_MAX {
        encoding::uint64::encode(NOBODYS + number as u32, &1, &mut bytes);
    }
    assert_eq!(found_in_function(&bytes).len(), UNKNOWN_FIELDS_MAX);
}

#[test]
fn what_cannot_be_searched_is_an_error() {
    assert!(matches!(
        unknown::fields("modal.client.Nothing", Vec::new()),
        Err(Error::Undeclared { message }) if message == "modal.client.Nothing"
    ));
    let cut = &with_number(&AppCreateRequest::default(), NOBODYS)[..1];
    assert!(matches!(
        unknown::fields_of::<AppCreateRequest>(cut.to_vec()),
        Err(Error::Malformed { .. })
    ));
    // A type within a type within a type …: an error, not the end of the stack.
    let deep =
        (0..500).fold(GenericPayloadType::default().encode_to_vec(), |inner, _| holding(2, &inner));
    assert!(matches!(unknown::fields_of::<GenericPayloadType>(deep), Err(Error::Malformed { .. })));
}

/// Some rpcs take the empty message: it is known, and anything in it is not.
#[test]
fn in_the_empty_message() {
    assert_eq!(unknown::fields_of::<()>(Vec::new()).expect("it decodes"), Vec::<String>::new());
    assert_eq!(unknown::fields_of::<()>(with_number(&(), NOBODYS)).expect("it decodes"), ["#1999"]);
}

/// `unknown` must be able to search whatever a row of the table receives.
#[test]
fn requests_are_found_by_their_rust_type() {
    type Request = <client::FunctionMap as Rpc>::Request;
    let bytes = with_number(&Request::default(), NOBODYS);
    assert_eq!(unknown::fields_of::<Request>(bytes).expect("it decodes"), ["#1999"]);
}
