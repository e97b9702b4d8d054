"""The comparison itself, on made-up descriptors: it goes red for each kind of difference."""

from collections.abc import Callable

import pytest
from google.protobuf import text_format
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

from conformance import Declarations, compare, compare_names, undeclared

# A parcel service: one request with a policy field in every position where one can hide.
PARCELS = """
    package: "parcels"
    message_type {
      name: "SendRequest"
      field { name: "to" number: 1 type: TYPE_STRING label: LABEL_OPTIONAL }
      field { name: "rule" number: 2 type: TYPE_MESSAGE type_name: ".parcels.Rule"
              label: LABEL_OPTIONAL }
      field { name: "note" number: 3 type: TYPE_STRING label: LABEL_OPTIONAL
              proto3_optional: true oneof_index: 1 }
      field { name: "plain" number: 4 type: TYPE_BYTES label: LABEL_OPTIONAL oneof_index: 0 }
      field { name: "sealed" number: 5 type: TYPE_BYTES label: LABEL_OPTIONAL oneof_index: 0 }
      oneof_decl { name: "content" }
      oneof_decl { name: "_note" }
    }
    message_type {
      name: "Rule"
      field { name: "weight_max" number: 1 type: TYPE_UINT32 label: LABEL_OPTIONAL }
      field { name: "speeds" number: 2 type: TYPE_ENUM type_name: ".parcels.Rule.Speed"
              label: LABEL_REPEATED }
      enum_type {
        name: "Speed"
        value { name: "SLOW" number: 0 }
        value { name: "FAST" number: 1 }
      }
    }
    message_type { name: "SendResponse" }
    service {
      name: "Post"
      method { name: "Send" input_type: ".parcels.SendRequest"
               output_type: ".parcels.SendResponse" }
      method { name: "Follow" input_type: ".parcels.SendRequest"
               output_type: ".parcels.SendResponse" server_streaming: true }
    }
"""
NAMES = ["parcels.Post/Send", "parcels.Post/Follow"]
ROOTS = ["parcels.SendRequest"]


def parcels() -> FileDescriptorProto:
    return text_format.Parse(PARCELS, FileDescriptorProto())


def declarations(change: Callable[[FileDescriptorProto], object] | None = None) -> Declarations:
    file = parcels()
    if change is not None:
        change(file)
    return Declarations.of([file])


def part(items, name: str):
    [found] = [item for item in items if item.name == name]
    return found


def message(file: FileDescriptorProto, name: str):
    return part(file.message_type, name)


def field(file: FileDescriptorProto, of: str, name: str) -> FieldDescriptorProto:
    return part(message(file, of).field, name)


def speed(file: FileDescriptorProto):
    return message(file, "Rule").enum_type[0]


def test_equal_declarations_agree() -> None:
    assert compare(declarations(), declarations()) == []
    assert undeclared(declarations(), declarations(), ROOTS) == []
    assert compare_names(NAMES, declarations()) == []


OURS_CHANGED = {
    "a number": (
        lambda file: setattr(field(file, "Rule", "weight_max"), "number", 9),
        "field parcels.Rule.weight_max: the client has no number 9",
    ),
    "a number that something else has": (
        lambda file: setattr(field(file, "SendRequest", "to"), "number", 3),
        "field parcels.SendRequest.to: name is 'to', the client's is 'note'",
    ),
    "a name": (
        lambda file: setattr(field(file, "Rule", "weight_max"), "name", "heavy"),
        "field parcels.Rule.heavy: name is 'heavy', the client's is 'weight_max'",
    ),
    "a type": (
        lambda file: setattr(
            field(file, "Rule", "weight_max"), "type", FieldDescriptorProto.TYPE_UINT64
        ),
        "field parcels.Rule.weight_max: type is 'TYPE_UINT64', the client's is 'TYPE_UINT32'",
    ),
    "a message type": (
        lambda file: setattr(field(file, "SendRequest", "rule"), "type_name", ".parcels.Law"),
        "field parcels.SendRequest.rule: type name is '.parcels.Law', "
        "the client's is '.parcels.Rule'",
    ),
    "a label": (
        lambda file: setattr(
            field(file, "Rule", "weight_max"), "label", FieldDescriptorProto.LABEL_REPEATED
        ),
        "field parcels.Rule.weight_max: label is 'LABEL_REPEATED', "
        "the client's is 'LABEL_OPTIONAL'",
    ),
    "presence": (
        lambda file: field(file, "SendRequest", "note").ClearField("proto3_optional"),
        "field parcels.SendRequest.note: optional is False, the client's is True",
    ),
    "a oneof": (
        lambda file: field(file, "SendRequest", "sealed").ClearField("oneof_index"),
        "field parcels.SendRequest.sealed: oneof is None, the client's is 'content'",
    ),
    "an enum's number": (
        lambda file: setattr(part(speed(file).value, "FAST"), "number", 4),
        "enum parcels.Rule.Speed: FAST is 4, the client's is 1",
    ),
    "an enum's name": (
        lambda file: setattr(part(speed(file).value, "FAST"), "name", "QUICK"),
        "enum parcels.Rule.Speed: the client has no value QUICK",
    ),
    "a message's name": (
        lambda file: setattr(message(file, "SendResponse"), "name", "Sent"),
        "message parcels.Sent is not one of the client's",
    ),
    "a stream": (
        lambda file: setattr(file.service[0].method[1], "server_streaming", False),
        "rpc parcels.Post/Follow: server_streaming is False, the client's is True",
    ),
    "a request type": (
        lambda file: setattr(file.service[0].method[0], "input_type", ".parcels.Rule"),
        "rpc parcels.Post/Send: input_type is '.parcels.Rule', "
        "the client's is '.parcels.SendRequest'",
    ),
    "an rpc's name": (
        lambda file: setattr(file.service[0].method[0], "name", "Post"),
        "rpc parcels.Post/Post is not one of the client's",
    ),
}


@pytest.mark.parametrize("what", OURS_CHANGED)
def test_a_difference_is_found(what: str) -> None:
    change, finding = OURS_CHANGED[what]
    assert finding in compare(declarations(change), declarations())


def add_field(file: FileDescriptorProto, of: str, name: str, number: int) -> None:
    new = message(file, of).field.add(name=name, number=number)
    new.type, new.label = FieldDescriptorProto.TYPE_BOOL, FieldDescriptorProto.LABEL_OPTIONAL


def add_lock(file: FileDescriptorProto) -> None:
    """A new message with a field, behind a new field."""
    file.message_type.add(name="Lock").field.add(name="key", number=1, type=9, label=1)
    new = message(file, "Rule").field.add(name="lock", number=8, type_name=".parcels.Lock")
    new.type, new.label = FieldDescriptorProto.TYPE_MESSAGE, FieldDescriptorProto.LABEL_OPTIONAL


THEIRS_GREW = {
    "a field at the top": (
        lambda file: add_field(file, "SendRequest", "fragile", 7),
        ["field parcels.SendRequest.fragile = 7 is not declared"],
    ),
    "a field below": (
        lambda file: add_field(file, "Rule", "signed", 7),
        ["field parcels.Rule.signed = 7 is not declared"],
    ),
    "an enum value": (
        lambda file: speed(file).value.add(name="NEVER", number=2),
        ["enum parcels.Rule.Speed: NEVER = 2 is not declared"],
    ),
    "a message": (
        add_lock,
        [
            "field parcels.Lock.key = 1 is not declared",
            "field parcels.Rule.lock = 8 is not declared",
        ],
    ),
}


@pytest.mark.parametrize("what", THEIRS_GREW)
def test_new_policy_is_found(what: str) -> None:
    grow, findings = THEIRS_GREW[what]
    assert undeclared(declarations(), declarations(grow), ROOTS) == findings
    assert compare(declarations(), declarations(grow)) == [], "only policy has to be complete"


def test_a_new_field_without_policy_is_no_finding() -> None:
    theirs = declarations(lambda file: add_field(file, "SendResponse", "cost", 1))
    assert undeclared(declarations(), theirs, ROOTS) == []


def test_a_root_that_does_not_exist_is_found() -> None:
    findings = undeclared(declarations(), declarations(), ["parcels.Nothing"])
    assert findings == ["parcels.Nothing is not one of the client's"]


def test_missing_and_stale_rows_are_found() -> None:
    assert compare_names(NAMES[:1], declarations()) == [
        "rpc parcels.Post/Follow is missing in the list"
    ]
    assert compare_names([*NAMES, "parcels.Post/Burn"], declarations()) == [
        "rpc parcels.Post/Burn is not one of the client's"
    ]
    assert compare_names([*NAMES, NAMES[0]], declarations()) == [
        "rpc parcels.Post/Send is listed twice"
    ]
