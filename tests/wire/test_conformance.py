"""The declarations of crates/wire agree with the client package of the running Python."""

import os
import subprocess
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from modal_proto import api_pb2, task_command_router_pb2

from conformance import (
    POLICY_ROOTS,
    Declarations,
    compare,
    compare_names,
    reachable,
    undeclared,
)
from older_clients import VERSIONS, python_of

# What is served for older clients, and the newest has not any more.
DROPPED = [
    "modal.client.ModalClient/ContainerFilesystemExecGetOutput",
    "modal.client.ContainerFilesystemExecGetOutputRequest",
    "modal.client.FilesystemRuntimeOutputBatch",
    "modal.client.SystemErrorMessage",
    "modal.client.SystemErrorCode",
]

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD_SECONDS_MAX = 900

# The declarations come from a program that may have to be built first.
pytestmark = pytest.mark.timeout(BUILD_SECONDS_MAX + 60)

# Messages that hold policy, wherever they are used; the roots must lead to each of them.
POLICY_MESSAGES = """
    AutoscalerSettings BuildFunction CloudBucketMount Function FunctionData FunctionOptions
    FunctionRetryPolicy GPUConfig HTTPConfig Image ImageRegistryConfig MethodDefinition
    NetworkAccess OutboundPolicy PTYInfo Probe Resources Sandbox Schedule SchedulerPlacement
    SharedVolumeMount VolumeMount WebhookConfig
""".split()


def declared(*arguments: str) -> bytes:
    """What the crate's `descriptors` example writes."""
    # All of the workspace, as its tests are built: then nothing is left to compile here.
    build = ["cargo", "build", "--quiet", "--workspace", "--examples"]
    options = {"cwd": REPOSITORY, "timeout": BUILD_SECONDS_MAX, "capture_output": True}
    done = subprocess.run(build, check=False, **options)
    assert done.returncode == 0, done.stderr.decode()
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    program = target / "debug/examples/descriptors"
    done = subprocess.run([program, *arguments], check=False, **options)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture(scope="module")
def our_files() -> FileDescriptorSet:
    return FileDescriptorSet.FromString(declared())


@pytest.fixture(scope="module")
def ours(our_files: FileDescriptorSet) -> Declarations:
    return Declarations.of(our_files.file)


@pytest.fixture(scope="module")
def older() -> Declarations:
    """What the newest of the older clients declares."""
    script = "import sys; from modal_proto import api_pb2 as api; " \
             "sys.stdout.buffer.write(api.DESCRIPTOR.serialized_pb)"
    done = subprocess.run([python_of(VERSIONS[-1]), "-c", script], capture_output=True, check=True)
    return Declarations.of([FileDescriptorProto.FromString(done.stdout)])


@pytest.fixture(scope="module")
def theirs(older: Declarations) -> Declarations:
    modules = (api_pb2, task_command_router_pb2)
    newest = Declarations.of(
        FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb) for module in modules
    )
    return newest.completed(older, DROPPED)


def test_declarations_agree(ours: Declarations, theirs: Declarations) -> None:
    assert len(ours.rpcs) > 80, "the descriptor set is not complete"
    assert compare(ours, theirs) == []


def test_every_rpc_is_listed(theirs: Declarations) -> None:
    assert compare_names(declared("names").decode().split(), theirs) == []


def test_policy_is_declared_completely(ours: Declarations, theirs: Declarations) -> None:
    assert undeclared(ours, theirs, POLICY_ROOTS) == []


def test_the_roots_lead_to_all_policy(theirs: Declarations) -> None:
    covered = reachable(theirs, POLICY_ROOTS)
    assert [name for name in POLICY_MESSAGES if f"modal.client.{name}" not in covered] == []


def test_a_changed_number_is_found(our_files: FileDescriptorSet, theirs: Declarations) -> None:
    """On the real declarations: the flag that restricts a function, moved by one."""
    changed = FileDescriptorSet()
    changed.CopyFrom(our_files)
    [untrusted] = [
        item
        for file in changed.file
        for message in file.message_type
        if message.name == "Function"
        for item in message.field
        if item.name == "untrusted"
    ]
    untrusted.number += 1
    mine = Declarations.of(changed.file)
    assert any("modal.client.Function.untrusted" in line for line in compare(mine, theirs))
    assert undeclared(mine, theirs, POLICY_ROOTS) == [
        "field modal.client.Function.untrusted = 68 is not declared"
    ]


def test_every_number_counts(ours: Declarations, theirs: Declarations) -> None:
    """Each number that we declare, moved: it is found, whichever it is."""
    seen = 0
    for name, message in ours.messages.items():
        for item in message.field:
            changed = type(message)()
            changed.CopyFrom(message)
            [moved] = [one for one in changed.field if one.number == item.number]
            moved.number = item.number + 1
            mine = Declarations(messages={name: changed})
            assert any(f"{name}.{item.name}" in line for line in compare(mine, theirs)), item.name
            seen += 1
    assert seen > 900, "these are not all of our fields"


@pytest.mark.parametrize("name", POLICY_MESSAGES)
def test_a_field_that_the_client_gains_is_found(
    ours: Declarations, theirs: Declarations, name: str
) -> None:
    full = f"modal.client.{name}"
    grown = Declarations(dict(theirs.messages), theirs.enums, theirs.rpcs)
    grown.messages[full] = type(theirs.messages[full])()
    grown.messages[full].CopyFrom(theirs.messages[full])
    grown.messages[full].field.add(name="no_leaving_the_house", number=9_999, type=8, label=1)
    assert undeclared(ours, grown, POLICY_ROOTS) == [
        f"field {full}.no_leaving_the_house = 9999 is not declared"
    ]


def test_a_value_that_the_client_gains_is_found(ours: Declarations, theirs: Declarations) -> None:
    full = "modal.client.NetworkAccess.NetworkAccessType"
    grown = Declarations(theirs.messages, dict(theirs.enums), theirs.rpcs)
    grown.enums[full] = type(theirs.enums[full])()
    grown.enums[full].CopyFrom(theirs.enums[full])
    grown.enums[full].value.add(name="ONLY_ON_SUNDAYS", number=77)
    assert undeclared(ours, grown, POLICY_ROOTS) == [
        f"enum {full}: ONLY_ON_SUNDAYS = 77 is not declared"
    ]


@pytest.mark.parametrize("missing", ["FunctionCreate", "TaskExecStart"])
def test_a_missing_row_is_found(theirs: Declarations, missing: str) -> None:
    names = declared("names").decode().split()
    [finding] = compare_names([one for one in names if not one.endswith(f"/{missing}")], theirs)
    assert finding.endswith(f"/{missing} is missing in the list")
