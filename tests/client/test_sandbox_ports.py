"""Ways into a sandbox: ports through tunnels, and connect tokens."""

import json
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request

import pytest

from serving import eventually

pytestmark = pytest.mark.usefixtures("warm")

# A server that says what it was asked, in any image with a Python.
WEB = """
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        said = (self.path + "\\n" + str(self.headers)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)
http.server.ThreadingHTTPServer(("0.0.0.0", 8080), Answer).serve_forever()
"""


def get(url: str, context=None, **headers: str) -> tuple[int, str]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, headers=named)
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.fixture
def make(modal):
    """Makes sandboxes that are ended after the test."""
    app = modal.App.lookup("sandbox-ports", create_if_missing=True)
    image, made = modal.Image.debian_slim(), []

    def create(*args: str, **settings):
        made.append(modal.Sandbox.create(*args, app=app, image=image, timeout=120, **settings))
        return made[-1]

    yield create
    for sandbox in made:
        sandbox.terminate()


def test_ports_are_reached_until_the_end(server, make):
    sandbox = make("python3", "-c", WEB, encrypted_ports=[8080, 9], unencrypted_ports=[8081])
    tunnels = sandbox.tunnels()
    context = ssl.create_default_context(cafile=server.env["PALISADE_CA_FILE"])
    context.set_alpn_protocols(["http/1.1"])
    url = tunnels[8080].url
    answer = eventually(lambda: (a := get(url + "/a", context))[0] == 200 and a, 20, "it serves")
    assert answer[1].startswith("/a\n")
    assert get(tunnels[9].url, context)[0] == 502
    assert tunnels[8081].tcp_socket[0] == "127.0.0.1"
    sandbox.terminate()
    sandbox.wait(raise_on_termination=False)
    with pytest.raises(OSError):
        socket.create_connection(tunnels[8081].tcp_socket, timeout=5)


def test_tokens_connect(server, make):
    sandbox = make("python3", "-c", WEB)
    given = sandbox.create_connect_token(user_metadata={"user": "ann"})
    bearer = f"Bearer {given.token}"

    def serves():
        answer = get(given.url + "/b?c=d", Authorization=bearer, X_Verified_User_Data="forged")
        return answer[0] == 200 and answer[1]

    said = eventually(serves, 20, "it serves")
    assert said.startswith("/b?c=d\n")
    user = next(line for line in said.splitlines() if line.lower().startswith("x-verified"))
    assert json.loads(user.split(": ", 1)[1]) == {"user": "ann"}
    assert "forged" not in said and given.token not in said
    status, said = get(f"{given.url}/e?_modal_connect_token={given.token}")
    assert (status, said.splitlines()[0]) == (200, "/e")
    assert get(given.url + "/b")[0] == 401
    other = make("python3", "-c", WEB).create_connect_token()
    assert other.url != given.url
    assert get(other.url, Authorization=bearer)[0] == 401
    empty = sandbox.create_connect_token(port=9)
    assert get(empty.url, Authorization=f"Bearer {empty.token}")[0] == 502


def test_only_those_who_are_listed_come_in(make):
    settings = {"unencrypted_ports": [8080], "inbound_cidr_allowlist": ["192.0.2.0/24"]}
    sandbox = make("python3", "-c", WEB, **settings)
    with socket.create_connection(sandbox.tunnels()[8080].tcp_socket, timeout=5) as stream:
        assert stream.recv(1) == b""


def test_an_open_connection_is_a_use(make):
    script = """
import socket
server = socket.create_server(("", 7000))
while True:
    # It closes when the peer does.
    server.accept()[0].recv(1)
"""
    sandbox = make("python3", "-c", script, unencrypted_ports=[7000], idle_timeout=3)
    address = sandbox.tunnels()[7000].tcp_socket

    def connects():
        stream = socket.create_connection(address, timeout=5)
        stream.settimeout(0.2)
        try:
            stream.recv(1)
        except TimeoutError:
            return stream
        stream.close()
        return None

    stream = eventually(connects, 2.5, "somebody listens")
    time.sleep(6)
    assert sandbox.poll() is None
    stream.close()
    eventually(lambda: sandbox.poll() is not None, 10, "it is idle")


def test_ports_are_kept_across_a_restart(fresh_server):
    server = fresh_server()
    script = f"""
import modal
app = modal.App.lookup("kept", create_if_missing=True)
sandbox = modal.Sandbox.create("python3", "-c", {WEB!r}, app=app, timeout=120,
    image=modal.Image.debian_slim(), unencrypted_ports=[8080])
given = sandbox.create_connect_token()
print(sandbox.object_id, sandbox.tunnels()[8080].tcp_socket[1], given.url, given.token)
"""
    done = server.run(sys.executable, "-c", script)
    assert done.returncode == 0, done.stdout + done.stderr + server.last_words()
    sandbox, port, url, token = done.stdout.split()
    server.restart(kill=True)
    plain = f"http://127.0.0.1:{port}/kept"
    eventually(lambda: quiet(plain) == 200, 20, "the tunnel is there again")
    assert get(url, Authorization=f"Bearer {token}")[0] == 200
    end = f"import modal; modal.Sandbox.from_id({sandbox!r}).terminate()"
    assert server.run(sys.executable, "-c", end).returncode == 0


def quiet(url: str) -> int | None:
    """The status, if somebody is there."""
    try:
        return get(url)[0]
    except OSError:
        return None
