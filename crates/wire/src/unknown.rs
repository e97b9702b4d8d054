//! Finds what a message carries that is not declared here.
//!
//! A decoder skips fields that it does not know. In a definition that would be dangerous: a newer
//! client could ask for a restriction and be answered as if it were in force. So definitions are
//! searched before they are decoded, and refused by the names found.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use prost::bytes::Bytes;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage as _, Value,
};

use crate::limits::UNKNOWN_FIELDS_MAX;

/// Why a message could not be searched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such message in this crate.
    #[error("message {message} is not declared here")]
    Undeclared {
        /// The name that was asked for.
        message: String,
    },
    /// The bytes are no such message.
    #[error("cannot decode a {message}: {source}")]
    Malformed {
        /// The name that was asked for.
        message: String,
        /// What the decoder says.
        source: prost::DecodeError,
    },
}

/// A field that older clients have and the newest has not.
struct Retired {
    message: &'static str,
    number: u32,
    name: &'static str,
    /// It promises the user nothing, so it may be skipped.
    skipped: bool,
}

const fn skipped(message: &'static str, number: u32, name: &'static str) -> Retired {
    Retired { message, number, name, skipped: true }
}

const fn refused(message: &'static str, number: u32, name: &'static str) -> Retired {
    Retired { message, number, name, skipped: false }
}

/// From the descriptors of the clients 1.0.5, 1.2.6 and 1.4.3, for messages that are declared here
/// and that a client sends.
#[rustfmt::skip]
const RETIRED: &[Retired] = &[
    skipped("modal.client.AppGetByDeploymentNameRequest", 1, "namespace"),
    skipped("modal.client.ClassGetRequest", 3, "namespace"),
    skipped("modal.client.DictGetOrCreateRequest", 2, "namespace"),
    skipped("modal.client.Function", 54, "use_function_id"),
    skipped("modal.client.Function", 55, "use_method_name"),
    refused("modal.client.Function", 70, "_experimental_proxy_ip"),
    skipped("modal.client.FunctionCallGetDataRequest", 4, "use_gapless_read"),
    skipped("modal.client.FunctionData", 16, "use_function_id"),
    skipped("modal.client.FunctionData", 17, "use_method_name"),
    refused("modal.client.FunctionData", 24, "_experimental_proxy_ip"),
    skipped("modal.client.FunctionGetInputsRequest", 3, "max_values"),
    skipped("modal.client.FunctionGetInputsRequest", 5, "average_call_time"),
    skipped("modal.client.FunctionGetRequest", 3, "namespace"),
    skipped("modal.client.FunctionHandleMetadata", 40, "use_function_id"),
    skipped("modal.client.FunctionPrecreateRequest", 6, "use_function_id"),
    skipped("modal.client.FunctionPrecreateRequest", 7, "use_method_name"),
    skipped("modal.client.QueueGetOrCreateRequest", 2, "namespace"),
    skipped("modal.client.SecretGetOrCreateRequest", 2, "namespace"),
    refused("modal.client.SharedVolumeMount", 4, "allow_cross_region"),
];

/// The declarations of this crate, decoded once.
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(crate::FILE_DESCRIPTOR_SET)
        .expect("the build wrote a valid descriptor set")
});

/// The paths of what an encoded message carries and its declaration does not know, for people to
/// read: `function.volume_mounts[0].#9` is a field number that is not declared, and
/// `function.definition_type = 7` a value that the declared enum does not have. Empty for a message
/// that is understood completely. At most [`UNKNOWN_FIELDS_MAX`] paths.
///
/// `message` is a full name, such as `modal.client.FunctionCreateRequest`.
///
/// # Errors
/// If the message is not declared here or the bytes are no such message.
pub fn fields(message: &str, bytes: impl Into<Bytes>) -> Result<Vec<String>, Error> {
    let descriptor = POOL
        .get_message_by_name(message)
        .ok_or_else(|| Error::Undeclared { message: message.into() })?;
    let decoded = DynamicMessage::decode(descriptor, bytes.into())
        .map_err(|source| Error::Malformed { message: message.into(), source })?;
    let mut found = Vec::new();
    search(&decoded, "", &mut found);
    Ok(found)
}

/// [`fields`] of a message type.
///
/// # Errors
/// As [`fields`].
pub fn fields_of<M: prost::Name>(bytes: impl Into<Bytes>) -> Result<Vec<String>, Error> {
    fields(&M::full_name(), bytes)
}

/// Adds the paths of one message, which itself stands at `at`. The depth is bounded by the
/// decoder's.
fn search(message: &DynamicMessage, at: &str, found: &mut Vec<String>) {
    let name = message.descriptor().full_name().to_owned();
    let numbers: BTreeMap<u32, ()> =
        message.unknown_fields().map(|field| (field.number(), ())).collect();
    for number in numbers.into_keys() {
        match RETIRED.iter().find(|field| field.message == name && field.number == number) {
            Some(field) if field.skipped => {}
            Some(field) => add(join(at, field.name), found),
            None => add(join(at, &format!("#{number}")), found),
        }
    }
    for (field, value) in message.fields() {
        search_value(&field, value, &join(at, field.name()), found);
    }
}

fn search_value(field: &FieldDescriptor, value: &Value, at: &str, found: &mut Vec<String>) {
    if found.len() >= UNKNOWN_FIELDS_MAX {
        return;
    }
    match value {
        Value::Message(message) => search(message, at, found),
        Value::EnumNumber(number) => {
            let kind = if field.is_map() { map_value_kind(field) } else { field.kind() };
            if kind.as_enum().is_some_and(|kind| kind.get_value(*number).is_none()) {
                add(format!("{at} = {number}"), found);
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                search_value(field, item, &format!("{at}[{index}]"), found);
            }
        }
        Value::Map(entries) => {
            let entries: BTreeMap<String, &Value> =
                entries.iter().map(|(key, value)| (key_text(key), value)).collect();
            for (key, value) in entries {
                search_value(field, value, &format!("{at}[{key}]"), found);
            }
        }
        _ => {}
    }
}

fn map_value_kind(field: &FieldDescriptor) -> Kind {
    match field.kind().as_message() {
        Some(entry) => entry.map_entry_value_field().kind(),
        None => field.kind(),
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => format!("{key:?}"),
    }
}

fn join(at: &str, name: &str) -> String {
    if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") }
}

fn add(path: String, found: &mut Vec<String>) {
    if found.len() < UNKNOWN_FIELDS_MAX {
        found.push(path);
    }
}
