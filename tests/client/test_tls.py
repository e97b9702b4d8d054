"""TLS: how the server is reached beyond loopback, by its own certificate or an operator's."""

import json
import os
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import certifi
import pytest

from serving import BINARY, MODAL

ADDRESS = "10.77.7.1"


@pytest.fixture
def elsewhere():
    """A network namespace with an address that is not a loopback address."""
    name = f"pal-elsewhere-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    for words in (["link", "set", "lo", "up"], ["address", "add", f"{ADDRESS}/32", "dev", "lo"]):
        subprocess.run(["ip", "-n", name, *words], check=True)
    yield ["nsenter", f"--net=/run/netns/{name}", "--"]
    subprocess.run(["ip", "netns", "delete", name], check=True)


def fetch(server, url: str, **variables: str):
    """Asks for a URL as a program does that uses the system's CAs."""
    script = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], timeout=10).status)"
    return server.run(sys.executable, "-c", script, url, **variables)


def trusting(folder: Path, ca: str) -> str:
    """A copy of the package certifi, to whose CAs one is added as `palisade env` says."""
    shutil.copytree(Path(certifi.__file__).parent, folder / "certifi")
    with (folder / "certifi" / "cacert.pem").open("ab") as bundle:
        bundle.write(Path(ca).read_bytes())
    return str(folder)


def serve(tmp_path, *flags: str):
    command = [str(BINARY), "serve", "--data-dir", str(tmp_path / "refused"), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=30)


def test_the_client_works_over_tls(fresh_server, elsewhere, tmp_path):
    server = fresh_server(prefix=elsewhere, host=ADDRESS)
    assert server.url.startswith(f"https://{ADDRESS}:")
    assert server.env["MODAL_SERVER_URL"] == server.url
    path = trusting(tmp_path, server.env["PALISADE_CA_FILE"])
    # Its argument travels as a blob.
    app = ["tests/client/apps/big_app.py", "--mib", "5"]
    done = server.run(MODAL, "run", *app, PYTHONPATH=path, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr + server.last_words()


def test_beyond_loopback_plaintext_is_refused(fresh_server, elsewhere):
    server = fresh_server(images=False, prefix=elsewhere, host=ADDRESS)
    plain = server.url.replace("https:", "http:")
    done = fetch(server, plain)
    assert "HTTP Error 400" in done.stderr, done.stderr
    # The route is missing, but the certificate is trusted.
    assert "HTTP Error 4" in fetch(server, server.url + "/blobs/none").stderr
    system = ssl.get_default_verify_paths().openssl_cafile
    done = fetch(server, server.url + "/blobs/none", SSL_CERT_FILE=system)
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr, done.stderr
    # Others that this machine trusts are trusted still.
    bundle = Path(server.env["SSL_CERT_FILE"]).read_text().count("BEGIN CERTIFICATE")
    assert bundle > 1 + len(ssl.create_default_context().get_ca_certs()) // 2

    command = [str(BINARY), "env", "--json", "--data-dir", str(server.data_dir)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["PALISADE_CA_FILE"] == server.env["PALISADE_CA_FILE"]
    assert "certifi" in done.stderr


@pytest.mark.log_allows("--insecure: whoever sees the traffic has the token")
def test_insecure_takes_both(fresh_server, elsewhere):
    flags = ["--insecure", "--host", "palisade.test"]
    server = fresh_server(images=False, prefix=elsewhere, host=ADDRESS, flags=flags, start=False)
    with server.log.open("a") as log:
        process = subprocess.Popen(
            server.command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        line = process.stdout.readline()
        assert "http://palisade.test:" in line, line + server.last_words()
        port = line.split("palisade.test:")[1].split()[0]
        for url in (f"http://{ADDRESS}:{port}/blobs/none", f"https://{ADDRESS}:{port}/blobs/none"):
            bundle = str(server.data_dir / "tls" / "bundle.pem")
            done = fetch(server, url, SSL_CERT_FILE=bundle)
            assert "HTTP Error 4" in done.stderr, done.stderr
    finally:
        process.terminate()
        process.communicate(timeout=30)


def test_loopback_takes_both(server):
    assert server.url.startswith("http://127.0.0.1:")
    assert "SSL_CERT_FILE" not in server.env
    context = ssl.create_default_context(cafile=server.env["PALISADE_CA_FILE"])
    url = server.url.replace("http://", "https://") + "/blobs/none"
    for one in (server.url + "/blobs/none", url, url.replace("127.0.0.1", "localhost")):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(one, timeout=10, context=context)


def test_a_certificate_of_the_operators_is_shown(fresh_server, tmp_path):
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    words = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    words += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]
    files = ["-keyout", str(key), "-out", str(cert)]
    subprocess.run(["openssl", *words, *files], check=True, capture_output=True)
    flags = ["--tls-cert", str(cert), "--tls-key", str(key)]
    server = fresh_server(images=False, flags=flags)
    assert "PALISADE_CA_FILE" not in server.env
    url = server.url.replace("http://127.0.0.1", "https://localhost") + "/blobs/none"
    with pytest.raises(urllib.error.HTTPError):
        context = ssl.create_default_context(cafile=cert)
        urllib.request.urlopen(url, timeout=10, context=context)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tls-cert", "/etc/hostname"], "--tls-key"),
        (["--tls-cert", "/none.pem", "--tls-key", "/none.key"], "/none.pem"),
        (["--tls-cert", "/etc/hostname", "--tls-key", "/none.key"], "holds no certificate"),
        (["--host", "http://example.org"], "--host http://example.org"),
    ],
)
def test_what_cannot_be_served_is_named(tmp_path, flags, said):
    done = serve(tmp_path, "--listen", "127.0.0.1:0", *flags)
    assert done.returncode != 0
    assert said in done.stderr, done.stderr
