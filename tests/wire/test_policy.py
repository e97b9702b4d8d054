"""Every field of a definition is honoured, harmless or refused by its name: policy.py says which,
and the server is asked."""

import asyncio
import re

import pytest
from grpclib.exceptions import GRPCError
from modal_proto import api_pb2

import raw_client
from conformance import POLICY_ROOTS
from policy import FUNCTION, IMAGE, SANDBOX, verdict
from sandbox_kit import sandbox

pytestmark = pytest.mark.timeout(300)

# A number that no message of the client has.
MADE_UP = 18_999
SECONDS_MAX = 30
# What is said of a sandbox whose definition is in order.
STARTED = "could not be started"
# Names of rpcs that make or change something.
MAKES = re.compile("Create|Publish|Update|BindParams|Set[A-Z]|Deploy$")
# Those of them that carry data and define nothing.
DATA = {
    "BlobCreate": "a length and two hashes of bytes that follow",
    "DictUpdate": "entries",
}
# The command router's names have it in front of them here.
ROUTER_PACKAGE = "modal.task_command_router."
# As deep as definitions are nested before they repeat themselves.
DEPTH_MAX = 5


def leaves(descriptor, at=()):
    """Each field below a message, as a chain of field descriptors that ends at a plain value."""
    for field in descriptor.fields:
        chain = (*at, field)
        nested = field.message_type
        plain = nested is None or nested.GetOptions().map_entry
        if plain or nested in [one.message_type for one in at] or len(chain) > DEPTH_MAX:
            yield chain
        else:
            yield from leaves(nested, chain)


def path_of(chain) -> str:
    return ".".join(field.name for field in chain)


def values_of(field) -> list[tuple[str, object]]:
    """Values of a field that are not its default, each with the name it has in policy.py."""
    if field.message_type is not None:
        return [("", None)]
    if field.enum_type is not None:
        values = field.enum_type.values
        return [(value.name, value.number) for value in values if value.number != 0]
    by_type = {
        field.CPPTYPE_BOOL: True,
        field.CPPTYPE_STRING: b"x" if field.type == field.TYPE_BYTES else "x",
        field.CPPTYPE_FLOAT: 1.0,
        field.CPPTYPE_DOUBLE: 1.0,
    }
    return [("", by_type.get(field.cpp_type, 1))]


def put(message, chain, value) -> None:
    """Sets the field at the end of a chain; in lists on the way, of their first item."""
    for field in chain[:-1]:
        message = getattr(message, field.name)
        if field.is_repeated:
            message = message[0] if message else message.add()
        else:
            message.SetInParent()
    last = chain[-1]
    if last.message_type is not None and last.message_type.GetOptions().map_entry:
        entry = getattr(message, last.name)
        key = "x" if last.message_type.fields_by_name["key"].type == last.TYPE_STRING else 1
        content = last.message_type.fields_by_name["value"]
        if content.message_type is not None:
            entry[key].SetInParent()
        else:
            entry[key] = "x" if content.type == content.TYPE_STRING else 1
    elif last.message_type is not None:
        inner = getattr(message, last.name)
        inner.add() if last.is_repeated else inner.SetInParent()
    elif last.is_repeated:
        getattr(message, last.name).append(value)
    else:
        setattr(message, last.name, value)


def findings(server, rpc: str, table, make, given) -> list[str]:
    """Sends one request for each value of each field; says what is not as the table has it."""
    request = make(0)
    cases = []
    for chain in leaves(request.DESCRIPTOR):
        path = path_of(chain)
        for name, value in values_of(chain[-1]):
            cases.append((path, name, chain, given.get(path, value)))
    used = set()

    async def ask_all():
        found = []
        async with raw_client.stub(server) as service:
            for number, (path, name, chain, value) in enumerate(cases, 1):
                this = verdict(table, path, name)
                at = f"{path}={name}" if name else path
                if this is None:
                    found.append(f"{at}: nobody has decided what becomes of it")
                    continue
                used.add(id(this))
                sent = make(number)
                put(sent, chain, value)
                call = getattr(service, rpc)(sent, metadata=raw_client.metadata(server))
                try:
                    await asyncio.wait_for(call, SECONDS_MAX)
                except GRPCError as error:
                    text = f"{error.status.name} {error.message}"
                    # A sandbox that was taken, and whose program is not there.
                    taken = error.status.value == raw_client.CONFLICT and STARTED in text
                    if this.kind != "refused" and taken:
                        continue
                    if this.kind != "refused":
                        found.append(f"{at}: it is {this.kind}, but refused: {text}")
                    elif error.status.value != raw_client.INVALID or this.name not in text:
                        found.append(f"{at}: {this.name!r} is not in the refusal: {text}")
                else:
                    if this.kind == "refused":
                        found.append(f"{at}: it is accepted, and ignored")
        return found

    found = asyncio.run(ask_all())
    return found + [f"{key}: no field has it" for key, one in table.items() if id(one) not in used]


@pytest.mark.parametrize("path", ["function.made_up", "function.resources.made_up", "made_up"])
def test_nobody_has_decided_on_a_field_that_is_new(path):
    assert verdict(FUNCTION, path, "") is None


def test_what_is_refused_is_refused_with_all_below():
    assert verdict(FUNCTION, "function.webhook_config.made_up", "").name == "webhook_config"


@pytest.fixture(scope="module")
def parts(warm):
    """Ids of things that a definition can name."""
    app = raw_client.ask(warm, "AppGetOrCreate", api_pb2.AppGetOrCreateRequest(
        app_name="policy",
        object_creation_type=api_pb2.OBJECT_CREATION_TYPE_CREATE_IF_MISSING,
    ))
    secret = raw_client.ask(warm, "SecretGetOrCreate", api_pb2.SecretGetOrCreateRequest(
        object_creation_type=api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP,
        env_dict={"A": "b"}, app_id=app.app_id,
    ))
    mount = raw_client.ask(warm, "MountGetOrCreate", api_pb2.MountGetOrCreateRequest(
        object_creation_type=api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP,
        app_id=app.app_id,
    ))
    login = raw_client.ask(warm, "SecretGetOrCreate", api_pb2.SecretGetOrCreateRequest(
        object_creation_type=api_pb2.OBJECT_CREATION_TYPE_ANONYMOUS_OWNED_BY_APP,
        env_dict={"REGISTRY_USERNAME": "a", "REGISTRY_PASSWORD": "b"}, app_id=app.app_id,
    ))
    found = {"app": app.app_id, "secret": secret.secret_id, "mount": mount.mount_id}
    yield found | {"login": login.secret_id, "image": built()}
    raw_client.ask(warm, "AppStop", api_pb2.AppStopRequest(
        app_id=app.app_id, source=api_pb2.APP_STOP_SOURCE_CLI,
    ))


def built() -> str:
    """The image that the warm function has."""
    import modal

    with modal.App("policy-image").run() as app:
        return modal.Image.debian_slim().build(app).object_id


def test_fields_of_functions(warm, parts):
    def make(number):
        request = api_pb2.FunctionCreateRequest(app_id=parts["app"])
        request.function.module_name = "nothing"
        request.function.function_name = f"function-{number}"
        request.function.image_id = parts["image"]
        request.function.definition_type = api_pb2.Function.DEFINITION_TYPE_FILE
        request.function.function_type = api_pb2.Function.FUNCTION_TYPE_FUNCTION
        return request

    existing = raw_client.ask(warm, "FunctionCreate", make(0)).function_id
    given = {
        "app_id": parts["app"],
        "existing_function_id": existing,
        "function.mount_ids": parts["mount"],
        "function.image_id": parts["image"],
        "function.secret_ids": parts["secret"],
        # One container, or one function, would be no alternative to anything.
        "function._experimental_group_size": 2,
        "function._experimental_fabric_size": 2,
        # It must allow what is asked for beside it.
        "function.autoscaler_settings.max_containers": 4,
        "function.resources.memory_mb_max": 64,
    }
    assert findings(warm, "FunctionCreate", FUNCTION, make, given) == []


def test_fields_of_images(warm, parts):
    def make(number):
        request = api_pb2.ImageGetOrCreateRequest(app_id=parts["app"], builder_version="2025.06")
        request.image.base_images.add(docker_tag="base", image_id=parts["image"])
        request.image.dockerfile_commands.extend(["FROM base", f"ENV NUMBER={number}"])
        return request

    given = {
        "app_id": parts["app"],
        "builder_version": "2025.06",
        "image.base_images.image_id": parts["image"],
        "image.base_images.docker_tag": "base",
        "image.secret_ids": parts["secret"],
        "image.context_mount_id": parts["mount"],
        "image.image_registry_config.secret_id": parts["login"],
        "image.dockerfile_commands": "ENV FURTHER=1",
    }
    assert findings(warm, "ImageGetOrCreate", IMAGE, make, given) == []


@pytest.mark.log_allows("a sandbox could not be started")
def test_fields_of_sandboxes(warm, parts):
    def make(_number):
        request = api_pb2.SandboxCreateV2Request(app_id=parts["app"])
        request.definition.image_id = parts["image"]
        # They end by themselves, and many fit the machine at a time.
        request.definition.timeout_secs = 1
        request.definition.resources.milli_cpu = 1
        request.definition.resources.memory_mb = 32
        return request

    given = {
        "app_id": parts["app"],
        "definition.image_id": parts["image"],
        "definition.mount_ids": parts["mount"],
        "definition.secret_ids": parts["secret"],
        "secret_sources.secret_id": parts["secret"],
        "definition.workdir": "/",
        "definition.resources.memory_mb_max": 64,
        "definition.inbound_cidr_allowlist": "192.0.2.0/24",
    }
    assert findings(warm, "SandboxCreateV2", SANDBOX, make, given) == []


def tag(number: int, wire_type: int) -> bytes:
    """The head of a field, as a variable-length number."""
    rest, head = (number << 3) | wire_type, bytearray()
    while rest > 0x7F:
        head.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*head, rest])


def defining() -> list[str]:
    """The rpcs that make or change something, by their names, and those that are known to."""
    service = api_pb2.DESCRIPTOR.services_by_name["ModalClient"]
    by_name = {method.name for method in service.methods if MAKES.search(method.name)}
    roots = {root.removeprefix("modal.client.").removesuffix("Request") for root in POLICY_ROOTS}
    return sorted(by_name - DATA.keys() | roots)


@pytest.fixture(scope="module")
def router(warm, modal):
    """What opens the command router of a sandbox."""
    with sandbox(modal) as made:
        request = api_pb2.SandboxGetCommandRouterAccessRequest(sandbox_id=made.object_id)
        access = raw_client.ask(warm, "SandboxGetCommandRouterAccess", request)
        yield {"service": raw_client.ROUTER, "authorization": f"Bearer {access.jwt}"}


@pytest.mark.parametrize("rpc", defining())
def test_a_field_that_a_newer_client_may_have_is_refused(warm, rpc, request):
    name = rpc.removeprefix(ROUTER_PACKAGE)
    more = request.getfixturevalue("router") if name != rpc else {}
    status, text = raw_client.send(warm, name, tag(MADE_UP, 0) + b"\x01", **more)
    if status == raw_client.UNIMPLEMENTED:
        assert "is not served" in text, text
        return
    assert status == raw_client.INVALID and f"#{MADE_UP}" in text, (status, text)


@pytest.mark.parametrize("field", ["function", "image", "definition"])
def test_it_is_refused_deep_inside(warm, field):
    number = {"function": 1, "image": 2, "definition": 2}[field]
    inner = tag(MADE_UP, 0) + b"\x01"
    body = tag(number, 2) + bytes([len(inner)]) + inner
    rpc = {
        "function": "FunctionCreate",
        "image": "ImageGetOrCreate",
        "definition": "SandboxCreateV2",
    }[field]
    status, text = raw_client.send(warm, rpc, body)
    assert status == raw_client.INVALID and f"{field}.#{MADE_UP}" in text, (status, text)
