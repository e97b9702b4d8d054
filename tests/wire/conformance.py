"""Compares protocol declarations of ours with the descriptors of a client package.

Everything here works on plain descriptor protos, so that the comparison itself can be tested on
made-up ones. Each check returns findings as sentences; no findings means agreement.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
)

# The requests whose content is a promise to the user. With everything they can hold they must be
# declared completely: what is not declared cannot be refused by its name.
POLICY_ROOTS = (
    "modal.client.FunctionPrecreateRequest",
    "modal.client.FunctionCreateRequest",
    "modal.client.FunctionBindParamsRequest",
    "modal.client.FunctionUpdateSchedulingParamsRequest",
    "modal.client.ClassCreateRequest",
    "modal.client.ImageGetOrCreateRequest",
    "modal.client.ImagePublishRequest",
    "modal.client.MountGetOrCreateRequest",
    "modal.client.EnvironmentCreateRequest",
    "modal.client.EnvironmentGetOrCreateRequest",
    "modal.client.SecretGetOrCreateRequest",
    "modal.client.SecretUpdateRequest",
    "modal.client.QueueGetOrCreateRequest",
    "modal.client.DictGetOrCreateRequest",
    "modal.client.AppCreateRequest",
    "modal.client.AppGetOrCreateRequest",
    "modal.client.AppPublishRequest",
    "modal.client.SandboxCreateRequest",
    "modal.client.SandboxCreateV2Request",
    "modal.client.SandboxTagsSetRequest",
    "modal.client.SandboxSetNameRequest",
    "modal.client.SandboxCreateConnectTokenRequest",
    "modal.client.SandboxSnapshotFsRequest",
    "modal.client.ContainerExecRequest",
    "modal.client.ContainerFilesystemExecRequest",
    "modal.task_command_router.TaskExecStartRequest",
    "modal.task_command_router.TaskSetNetworkAccessRequest",
    "modal.task_command_router.TaskSnapshotFilesystemRequest",
    "modal.task_command_router.TaskSnapshotDirectoryRequest",
    "modal.task_command_router.TaskMountDirectoryRequest",
)


@dataclass
class Declarations:
    """Messages, enums and rpcs by their full names: "package.Outer", "package.Service/Rpc"."""

    messages: dict[str, DescriptorProto] = field(default_factory=dict)
    enums: dict[str, EnumDescriptorProto] = field(default_factory=dict)
    rpcs: dict[str, MethodDescriptorProto] = field(default_factory=dict)

    @classmethod
    def of(cls, files: Iterable[FileDescriptorProto]) -> "Declarations":
        """Everything in `files` but Google's own types."""
        found = cls()
        for file in files:
            if file.package.startswith("google."):
                continue
            found._add_types(file.package, file.message_type, file.enum_type)
            for service in file.service:
                for rpc in service.method:
                    found.rpcs[f"{file.package}.{service.name}/{rpc.name}"] = rpc
        return found

    def completed(self, older: "Declarations", names: Iterable[str]) -> "Declarations":
        """The same with `names`, which only an older client has."""
        whole = Declarations(dict(self.messages), dict(self.enums), dict(self.rpcs))
        for name in names:
            kinds = ("messages", "enums", "rpcs")
            [kind] = [kind for kind in kinds if name in getattr(older, kind)]
            assert name not in getattr(self, kind), f"the newest client has {name}, too"
            getattr(whole, kind)[name] = getattr(older, kind)[name]
        return whole

    def _add_types(self, scope, messages, enums) -> None:
        for enum in enums:
            self.enums[f"{scope}.{enum.name}"] = enum
        for message in messages:
            self.messages[f"{scope}.{message.name}"] = message
            self._add_types(f"{scope}.{message.name}", message.nested_type, message.enum_type)


def compare(ours: Declarations, theirs: Declarations) -> list[str]:
    """What we declare otherwise than the client does. What only the client has is no finding."""
    return [
        *_compare_messages(ours, theirs),
        *_compare_enums(ours, theirs),
        *_compare_rpcs(ours, theirs),
    ]


def _compare_messages(ours: Declarations, theirs: Declarations) -> Iterator[str]:
    for name, message in ours.messages.items():
        if name not in theirs.messages:
            yield f"message {name} is not one of the client's"
            continue
        other = theirs.messages[name]
        if message.options.map_entry != other.options.map_entry:
            yield f"message {name} is a map entry on one side only"
        numbers = {theirs_field.number: theirs_field for theirs_field in other.field}
        for ours_field in message.field:
            at = f"{name}.{ours_field.name}"
            if ours_field.number not in numbers:
                yield f"field {at}: the client has no number {ours_field.number}"
                continue
            mine = _facts(message, ours_field)
            client = _facts(other, numbers[ours_field.number])
            for fact, value in mine.items():
                if value != client[fact]:
                    yield f"field {at}: {fact} is {value!r}, the client's is {client[fact]!r}"


def _facts(message: DescriptorProto, item: FieldDescriptorProto) -> dict[str, object]:
    """What both sides must say alike of a field. The oneof behind an `optional` is left out."""
    in_oneof = item.HasField("oneof_index") and not item.proto3_optional
    return {
        "name": item.name,
        "type": FieldDescriptorProto.Type.Name(item.type),
        "type name": item.type_name,
        "label": FieldDescriptorProto.Label.Name(item.label),
        "optional": item.proto3_optional,
        "oneof": message.oneof_decl[item.oneof_index].name if in_oneof else None,
        "packed": item.options.packed if item.options.HasField("packed") else None,
    }


def _compare_enums(ours: Declarations, theirs: Declarations) -> Iterator[str]:
    for name, enum in ours.enums.items():
        if name not in theirs.enums:
            yield f"enum {name} is not one of the client's"
            continue
        values = {value.name: value.number for value in theirs.enums[name].value}
        for value in enum.value:
            if value.name not in values:
                yield f"enum {name}: the client has no value {value.name}"
            elif values[value.name] != value.number:
                yield (
                    f"enum {name}: {value.name} is {value.number}, "
                    f"the client's is {values[value.name]}"
                )


def _compare_rpcs(ours: Declarations, theirs: Declarations) -> Iterator[str]:
    for name, rpc in ours.rpcs.items():
        if name not in theirs.rpcs:
            yield f"rpc {name} is not one of the client's"
            continue
        other = theirs.rpcs[name]
        for fact in ("input_type", "output_type", "client_streaming", "server_streaming"):
            if getattr(rpc, fact) != getattr(other, fact):
                yield (
                    f"rpc {name}: {fact} is {getattr(rpc, fact)!r}, "
                    f"the client's is {getattr(other, fact)!r}"
                )


def undeclared(ours: Declarations, theirs: Declarations, roots: Iterable[str]) -> list[str]:
    """Fields and enum values of the client's, in or below `roots`, that we do not declare."""
    findings: list[str] = []
    waiting = list(roots)
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or name.startswith("google."):
            continue
        seen.add(name)
        if name in theirs.enums:
            findings += _undeclared_values(name, ours, theirs)
        elif name in theirs.messages:
            mine = ours.messages.get(name, DescriptorProto())
            known = {item.number for item in mine.field}
            for item in theirs.messages[name].field:
                if item.number not in known:
                    findings.append(f"field {name}.{item.name} = {item.number} is not declared")
                if item.type_name:
                    waiting.append(item.type_name.removeprefix("."))
        else:
            findings.append(f"{name} is not one of the client's")
    return sorted(findings)


def _undeclared_values(name: str, ours: Declarations, theirs: Declarations) -> list[str]:
    mine = ours.enums.get(name, EnumDescriptorProto())
    known = {value.number for value in mine.value}
    return [
        f"enum {name}: {value.name} = {value.number} is not declared"
        for value in theirs.enums[name].value
        if value.number not in known
    ]


def reachable(theirs: Declarations, roots: Iterable[str]) -> set[str]:
    """The messages and enums that `roots` can hold, with themselves."""
    waiting, seen = list(roots), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in theirs.messages:
            waiting += [
                item.type_name.removeprefix(".")
                for item in theirs.messages[name].field
                if item.type_name
            ]
    return seen


def compare_names(listed: Iterable[str], theirs: Declarations) -> list[str]:
    """Rpcs of the client that `listed` ("package.Service/Rpc") lacks, and the reverse."""
    listed = list(listed)
    missing = sorted(theirs.rpcs.keys() - set(listed))
    stale = sorted(set(listed) - theirs.rpcs.keys())
    twice = sorted({name for name in listed if listed.count(name) > 1})
    return [
        *(f"rpc {name} is missing in the list" for name in missing),
        *(f"rpc {name} is not one of the client's" for name in stale),
        *(f"rpc {name} is listed twice" for name in twice),
    ]
