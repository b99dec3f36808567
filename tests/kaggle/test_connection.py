"""Credentials as people keep them, networks as companies run them, and that no secret leaves the connection."""

import base64
import contextlib
import json
import logging
import os
import shutil
import ssl
import subprocess
import sys
import threading
import time
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote

import pytest
import requests
from helpers.loopback_kaggle import KEY, TOKEN, USER, LoopbackKaggle, point_client_at

from vesuvius_kit.checks import InputError, InputNotFoundError
from vesuvius_kit.cli import main
from vesuvius_kit.kaggle import connection as connection_module
from vesuvius_kit.kaggle.client import KaggleClient
from vesuvius_kit.kaggle.connection import Connection
from vesuvius_kit.kaggle.credentials import LARGEST_FILE, Credential, find_credentials
from vesuvius_kit.kaggle.errors import KaggleError
from vesuvius_kit.kaggle.metadata import METADATA_NAME, find_edits, kernel_metadata, read_json_object, write_kernels
from vesuvius_kit.kaggle.push import push_notebook
from vesuvius_kit.kaggle.redaction import Redaction
from vesuvius_kit.kaggle.shipment import prepare_shipment
from vesuvius_kit.kaggle.uploads import UploadMemory

ODD = "KGAT_0123\u200b456789-the-access-token"  # a zero-width space in the middle: no token
BUNDLE = f"{USER}/vesuvius-kit-bundle"
PASSWORD = "p@ss/word-of-the-proxy"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without credentials, and an environment without any, nor proxies."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in list(os.environ):
        if name.startswith("KAGGLE") or name.lower().endswith(("_proxy", "_ca_bundle")) or name == "SSL_CERT_FILE":
            monkeypatch.delenv(name)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    return folder


@pytest.fixture
def server(tmp_path, home):
    with LoopbackKaggle(tmp_path / "server", output={"a.bin": b"12345678"}) as server:
        take_back = point_client_at(server)
        yield server
        take_back()


@pytest.fixture
def client(server, slept, monkeypatch):
    monkeypatch.setenv("KAGGLE_USERNAME", USER)
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    return KaggleClient(timeout_seconds=10.0)


def push_fails(capfd, tmp_path, code):
    """Run ``push`` with nothing to send and return the one line it ends with."""
    assert main(["push", "--folder", str(tmp_path / "work"), "--checkout", str(tmp_path)]) == code
    captured = capfd.readouterr()
    shown = captured.out + captured.err
    assert "Traceback" not in shown
    lines = [line for line in captured.err.splitlines() if line.startswith("vesuvius-kit:")]
    assert len(lines) == 1, shown
    assert not (tmp_path / "work").exists()
    return lines[0], shown


# -- A1: a token as it comes out of a file or a secret --

SURROUNDINGS = {
    "newline": "{}\n",
    "CR LF": "{}\r\n",
    "spaces and tab": " \t{} ",
    "byte order mark": "\ufeff{}",
    "zero-width space": "{}\u200b",
    "zero-width space and newline": "\u200b{}\u200b\n",
    "no-break space": "\u00a0{}\u00a0",
    "quotes": '"{}"',
    "single quotes and newline": "'{}'\n",
    "newline within quotes": '"{}\n"',
}


@pytest.mark.parametrize("around", SURROUNDINGS.values(), ids=SURROUNDINGS)
@pytest.mark.parametrize("place", ["KAGGLE_API_TOKEN", "access_token", "access_token.txt", "a file it names"])
def test_a_token_is_stripped_of_what_surrounds_it(server, slept, home, monkeypatch, place, around):
    """A1."""
    text = around.format(TOKEN)
    if place == "KAGGLE_API_TOKEN":
        monkeypatch.setenv(place, text)
    elif place.startswith("access"):
        (home / ".kaggle").mkdir()
        (home / ".kaggle" / place).write_text(text, encoding="utf-8", newline="")
    else:
        (home / "secret file").write_text(text, encoding="utf-8", newline="")
        monkeypatch.setenv("KAGGLE_API_TOKEN", f"{home / 'secret file'}\n")
    client = KaggleClient()
    assert client.owner == USER
    assert client.dataset_state(BUNDLE) is None
    assert {body.get("token") for method, body in server.calls if method == "IntrospectToken"} == {TOKEN}


@pytest.mark.parametrize("around", SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_user_name_and_key_are_stripped_too(server, slept, monkeypatch, around):
    """A1."""
    monkeypatch.setenv("KAGGLE_USERNAME", around.format(USER))
    monkeypatch.setenv("KAGGLE_KEY", around.format(KEY))
    assert KaggleClient().dataset_state(BUNDLE) is None


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_files_that_an_editor_of_windows_saved_are_read(server, slept, home, encoding):
    """C9: PowerShell writes UTF-16 with a byte order mark."""
    (home / ".kaggle").mkdir()
    (home / ".kaggle" / "kaggle.json").write_text(json.dumps({"username": USER, "key": KEY}), encoding=encoding)
    assert KaggleClient().dataset_state(BUNDLE) is None


@pytest.mark.parametrize("name", ["KAGGLE_API_TOKEN", "KAGGLE_KEY", "KAGGLE_USERNAME"])
@pytest.mark.parametrize(
    "text",
    [
        ODD,
        "KGAT_schlüssel-und-schloss",
        "KGAT_two parts-of-a-token",
        "KGAT_0123\n456789-token",
        "\udcff\udcfeKGAT_bytes-",
    ],
    ids=["zero-width", "umlaut", "space", "newline", "bytes"],
)
def test_what_no_token_can_be_counts_as_none_and_is_never_shown(
    server, slept, monkeypatch, capfd, caplog, tmp_path, name, text
):
    """A1: the reported case, a traceback whose last line printed the whole token."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("KAGGLE_USERNAME", USER)
    monkeypatch.setenv("KAGGLE_KEY", "")
    monkeypatch.setenv(name, text)
    line, shown = push_fails(capfd, tmp_path, 2)
    assert line.startswith("vesuvius-kit: Kaggle credentials must be set: create a token at https://")
    assert f"{name} holds a character that no token or name has (U+" in line
    parts = [part for part in ascii(text).replace("'", " ").replace("\\", " ").split() if len(part) > 6]
    for part in parts:
        assert part[5:] not in shown + caplog.text
    assert server.calls == []


@pytest.mark.parametrize("text", ["", " \n", '""', "\u200b"])
def test_an_empty_variable_is_one_that_is_not_set(server, slept, home, monkeypatch, text):
    """A1: a CI secret that is not defined arrives as an empty text."""
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.setenv(name, text)
    with pytest.raises(InputNotFoundError, match="credentials must be set"):
        KaggleClient()
    (home / ".kaggle").mkdir()
    (home / ".kaggle" / "kaggle.json").write_text(json.dumps({"username": USER, "key": KEY}))
    assert KaggleClient().owner == USER
    assert server.calls == []


def test_a_token_that_cannot_be_used_leaves_the_way_to_the_next_place(server, slept, home, monkeypatch, caplog):
    """A1, C9: both the variable and the file; what was passed over is said, and not sent."""
    caplog.set_level(logging.INFO)
    monkeypatch.setenv("KAGGLE_API_TOKEN", ODD)
    (home / ".kaggle").mkdir()
    (home / ".kaggle" / "kaggle.json").write_text(json.dumps({"username": USER, "key": KEY}))
    client = KaggleClient()
    assert client.dataset_state(BUNDLE) is None
    assert "KAGGLE_API_TOKEN holds a character" in caplog.text
    assert {method for method, _ in server.calls} == {"GetDatasetStatus"}


def test_a_variable_goes_before_the_file(server, slept, home, monkeypatch):
    """C9."""
    (home / ".kaggle").mkdir()
    (home / ".kaggle" / "kaggle.json").write_text("no JSON")
    monkeypatch.setenv("KAGGLE_USERNAME", USER)
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    assert KaggleClient().dataset_state(BUNDLE) is None
    (home / ".kaggle" / "kaggle.json").write_text(json.dumps({"username": "another", "key": KEY}))
    monkeypatch.setenv("KAGGLE_KEY", "")
    assert KaggleClient().owner == USER


# -- C9: malformed files --

MALFORMED = {
    "no JSON": (b"username: papyrus", "must be JSON"),
    "cut off": (b'{"username": "papyrus", "key": "the-long-secre', "must be JSON"),
    "key twice": (b'{"username": "papyrus", "key": "the-long-secret", "key": "b"}', "must be JSON with each key once"),
    "a list": (b'["papyrus", "the-long-secret"]', "must hold a JSON object with username and key, got a list"),
    "a text": (b'"the-long-secret"', "must hold a JSON object with username and key, got a str"),
    "null": (b"null", "must hold a JSON object with username and key, got a NoneType"),
    "no key": (b'{"username": "papyrus"}', "key is missing: neither KAGGLE_KEY nor"),
    "no user name": (b'{"key": "the-long-secret"}', "username is missing: neither KAGGLE_USERNAME nor"),
    "neither": (b'{"user": "papyrus"}', "must hold username and key, got neither"),
    "a number": (b'{"username": "papyrus", "key": 123456789}', "must hold key as a text, got a int"),
    "an object": (b'{"username": {"a": 1}, "key": "the-long-secret"}', "must hold username as a text, got a dict"),
    "null key": (b'{"username": "papyrus", "key": null}', "key is missing"),
    "odd key": ('{"username": "papyrus", "key": "the-long-secret\u2028x"}'.encode(), "a character that no token"),
    "no text": (b"\x80\x81\x82", "must be text in UTF-8"),
    "half of UTF-16": ('{"username": 1'.encode("utf-16")[:-1], "must be text in UTF-8"),
    "huge": (b" " * (LARGEST_FILE + 1), f"more than {LARGEST_FILE} bytes"),
    "deep": (b"[" * 60_000, "must be JSON"),
    "empty": (b"", "got none that is valid"),
}


@pytest.mark.parametrize(("content", "words"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_kaggle_json_is_one_line_that_says_what_is_wrong(
    server, slept, home, capfd, tmp_path, content, words
):
    """C9."""
    (home / ".kaggle").mkdir()
    (home / ".kaggle" / "kaggle.json").write_bytes(content)
    line, shown = push_fails(capfd, tmp_path, 2)
    assert line.startswith("vesuvius-kit: Kaggle credentials must be set")
    assert words in line
    assert "the-long-secre" not in shown
    assert server.calls == []


@pytest.mark.parametrize("name", ["kaggle.json", "access_token", "credentials.json"])
@pytest.mark.parametrize("kind", ["a folder", "no plain file", "unreadable"])
def test_what_cannot_be_read_is_named(server, slept, home, capfd, tmp_path, name, kind):
    """C9; a pipe would keep whoever opens it waiting for ever."""
    (home / ".kaggle").mkdir()
    path = home / ".kaggle" / name
    if kind == "a folder":
        path.mkdir()
    elif kind == "no plain file":
        os.mkfifo(path)
    else:
        path.write_text("{}")
        path.chmod(0)
        if os.access(path, os.R_OK):
            pytest.skip("this user may read everything")
    line, _ = push_fails(capfd, tmp_path, 2)
    assert str(path) in line
    assert (kind if kind != "unreadable" else "cannot be read (Permission denied)") in line


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"refresh_token": 5}',
        '{"refresh_token": "the-refresh-token", "access_token": "the-old-token", "access_token_expiration": "soon"}',
        '{"refresh_token": "the-refresh-token", "access_token": "the-old-token", "access_token_expiration": 7}',
        '{"refresh_token": "the-refresh\\u200b-token"}',
    ],
)
def test_a_malformed_log_in_of_the_browser_counts_as_none(server, slept, home, capfd, tmp_path, content):
    """C9."""
    (home / ".kaggle").mkdir()
    path = home / ".kaggle" / "credentials.json"
    path.write_text(content)
    server.faults = {"GenerateAccessToken": [401, ...]}
    line, shown = push_fails(capfd, tmp_path, 2)
    assert str(path) in line
    assert "the-refresh" not in shown
    assert path.read_text() == content


def test_a_log_in_of_the_browser_is_used_while_it_is_good(server, slept, home):
    (home / ".kaggle").mkdir()
    stored = {"refresh_token": "the-refresh-token", "access_token": TOKEN, "username": USER}
    path = home / ".kaggle" / "credentials.json"
    path.write_text(json.dumps(stored | {"access_token_expiration": "2999-01-01T00:00:00+00:00"}))
    assert KaggleClient().dataset_state(BUNDLE) is None
    path.write_text(json.dumps(stored | {"access_token_expiration": "2001-01-01T00:00:00"}))
    (place,) = find_credentials().places
    assert (place.token, place.refresh_token) == ("", "the-refresh-token")
    server.faults = {"GenerateAccessToken": [{"token": TOKEN, "expiresIn": "43200s"}]}
    assert KaggleClient().owner == USER


def test_a_config_folder_that_is_nowhere_is_neither_made_nor_a_traceback(server, slept, home, monkeypatch, tmp_path):
    """C9: importing the official client makes the folder; on a read-only disk that ends in a traceback."""
    # The client's import also closes standard input when it finds no credentials.
    code = """
import sys
from vesuvius_kit.kaggle.client import KaggleClient
try:
    KaggleClient()
finally:
    print(sys.stdin.read())
"""
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "no" / "where"))
    with pytest.raises(InputNotFoundError, match="credentials must be set"):
        KaggleClient()
    environment = os.environ | {"KAGGLE_CONFIG_DIR": "/dev/null/kaggle", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, input="in", capture_output=True, text=True)
    assert done.stdout == "in\n"
    assert done.stderr.splitlines()[-1].startswith("vesuvius_kit.checks.InputNotFoundError: Kaggle credentials must")
    assert not (tmp_path / "no").exists()


def test_a_credential_does_not_show_itself():
    shown = repr(Credential("x", username="me", token="the-token", key="the-key", refresh_token="the-refresh"))
    assert "me" in shown
    assert not {"the-token", "the-key", "the-refresh"} & set(shown.replace("'", " ").split())


# -- A1: nothing leaves unscrubbed --

FORMS = {
    "plain": KEY,
    "basic": base64.b64encode(f"{USER}:{KEY}".encode()).decode(),
    "base64": base64.b64encode(KEY.encode()).decode().rstrip("="),
    "token": "KGAT_of-somebody",
    "address": "https://host/x?upload_id=the-signature",
    "password": quote(PASSWORD, safe=""),
    "proxy": f"http://name:{PASSWORD}@proxy:80",
}


class Strange(Exception):
    """An exception of a library with a secret in every place it has."""

    def __init__(self, text):
        super().__init__(text, {"Authorization": text}, ValueError(text))
        self.text = text
        self.add_note(f"note {text}")

    def __str__(self):
        return f"strange\n{self.text}\r\n"

    __repr__ = __str__


def raise_nested(text):
    try:
        raise requests.exceptions.InvalidHeader(f"header value: 'Bearer {text}'")
    except requests.exceptions.InvalidHeader as error:
        raise Strange(text) from error


def raise_status(text):
    response = requests.Response()
    response.status_code, response._content = 400, json.dumps({"message": "x" * 290 + text}).encode()
    raise requests.exceptions.HTTPError(text, response=response)


def raise_odd_status(text):
    response = requests.Response()
    response.status_code, response._content = 200, json.dumps({"code": text, "message": [text]}).encode()
    raise requests.exceptions.HTTPError(text, response=response)


RAISERS = {
    "nested": raise_nested,
    "status": raise_status,
    "odd status": raise_odd_status,
    **{
        kind.__name__: lambda text, kind=kind: (_ for _ in ()).throw(kind(text))
        for kind in (
            ValueError, KeyError, TypeError, OSError, MemoryError, AssertionError, SystemExit, KaggleError, InputNotFoundError,
            requests.exceptions.ConnectionError, requests.exceptions.ProxyError, requests.exceptions.InvalidURL, ssl.SSLError,
        )
    },
}  # fmt: skip


def calls_of(client, tmp_path):
    """One call of everything that asks Kaggle."""
    (tmp_path / "x.bin").write_bytes(b"x")
    (notebook := tmp_path / "x.ipynb").write_text('{"cells": []}')
    kernel, address = f"{USER}/vesuvius-kit-submit", "http://127.0.0.1:9/x?signature=s"
    return {
        "dataset_state": lambda: client.dataset_state(BUNDLE),
        "dataset_version": lambda: client.dataset_version(BUNDLE),
        "dataset_file": lambda: client.dataset_file(BUNDLE, "manifest.json"),
        "create_dataset": lambda: client.create_dataset(BUNDLE, "A title", {"a/b": "token-of-b"}),
        "create_dataset_version": lambda: client.create_dataset_version(BUNDLE, "notes", {"a": "token-of-a"}),
        "kernel": lambda: client.kernel(kernel),
        "push_kernel": lambda: client.push_kernel(kernel_metadata("submit", USER), notebook, lambda: False),
        "kernel_state": lambda: client.kernel_state(kernel, 1),
        "kernel_output": lambda: client.kernel_output(kernel, 1),
        "submit": lambda: client.submit("a-competition", kernel, 1, "submission.zip", "text"),
        "find_submission": lambda: client.find_submission("a-competition", "text"),
        "upload": lambda: client.upload(tmp_path / "x.bin", "key", UploadMemory(tmp_path / "memory")),
        "download": lambda: client.download(address, tmp_path / "y.bin"),
    }


def chain_of(error):
    """What a traceback, or a tool that looks deeper, finds behind an exception."""
    waiting, found = [error], []
    while waiting:
        each = waiting.pop()
        if isinstance(each, BaseException) and each not in found:
            found.append(each)
            waiting += [each.__cause__, each.__context__, *each.args]
    return found


@pytest.mark.parametrize("raiser", RAISERS.values(), ids=RAISERS)
def test_no_call_lets_a_secret_out_whatever_is_raised_below(client, monkeypatch, capfd, caplog, tmp_path, raiser):
    """A1: message, repr, traceback, everything behind the exception, log and standard streams."""
    caplog.set_level(logging.DEBUG)
    client._max_attempts = 2
    client._redaction.add(PASSWORD)
    text = " and ".join(FORMS.values())

    def send(self, *_arguments, **_keywords):
        print(text)
        print(text, file=sys.stderr)
        logging.getLogger(f"a.library.{raiser}").warning("sending %s", text)
        logging.getLogger("urllib3.connectionpool").debug("%s", {"Authorization": text})
        raiser(text)

    monkeypatch.setattr(requests.Session, "send", send)
    calls = calls_of(client, tmp_path)
    for name, call in calls.items():
        with pytest.raises((KaggleError, InputError)) as caught:
            call()
        assert "\n" not in str(caught.value), name
        shown = "".join(traceback.format_exception(caught.value))
        shown += "".join(f"{each} {each!r} {vars(each)}" for each in chain_of(caught.value))
        if name in ("upload", "download"):
            capfd.readouterr()  # what these print is not of the client, and of this test alone
        for form in FORMS.values():
            assert form not in shown, (name, shown)
    captured = capfd.readouterr()
    shown = captured.out + captured.err + caplog.text
    for form in (*FORMS.values(), KEY, PASSWORD, "the-signature"):
        assert form not in shown
    assert "sending ***" in caplog.text


def test_every_public_method_that_asks_is_guarded(client, tmp_path):
    own = {name for kind in (Connection, KaggleClient) for name in vars(kind) if not name.startswith("_")}
    assert own - set(calls_of(client, tmp_path)) == {"pause", "poll", "scrub", "hide"}
    for name in calls_of(client, tmp_path):
        assert getattr(KaggleClient, name).is_redacted


def test_a_ctrl_c_leads_to_nothing_either(client, monkeypatch):
    def send(self, *_arguments, **_keywords):
        try:
            raise ValueError(KEY)
        except ValueError as error:
            raise KeyboardInterrupt(KEY) from error

    monkeypatch.setattr(requests.Session, "send", send)
    with pytest.raises(KeyboardInterrupt) as caught:
        client.dataset_state(BUNDLE)
    assert KEY not in "".join(traceback.format_exception(caught.value))


def test_records_with_a_traceback_are_scrubbed_and_the_factory_is_put_back(caplog):
    redaction, before = Redaction(), logging.getLogRecordFactory()
    redaction.add(KEY)
    with redaction.watch(), redaction.watch():
        try:
            raise ValueError(KEY)
        except ValueError:
            logging.getLogger("new").exception("failed with %s", KEY)
            logging.getLogger("new").warning("%d things", KEY)
    assert KEY not in caplog.text
    assert "ValueError: ***" in caplog.text
    assert logging.getLogRecordFactory() is before


def test_the_secrets_of_the_environment_are_known(monkeypatch):
    monkeypatch.setenv("HTTPS_PROXY", f"http://name:{quote(PASSWORD, safe='')}@proxy:3128")
    monkeypatch.setenv("SOME_API_KEY", "0f1e2d3c4b5a")
    monkeypatch.setenv("SOME_TOKEN_FILE", os.getcwd())
    redaction = Redaction()
    assert redaction.scrub(f"{PASSWORD} 0f1e2d3c4b5a {os.getcwd()}") == f"*** *** {os.getcwd()}"
    assert redaction.shows(base64.b64encode(f"name:{PASSWORD}".encode()).decode())


# -- C5 to C7: what stands between --


class Between(BaseHTTPRequestHandler):
    """A proxy, or a server that is not Kaggle."""

    def do_CONNECT(self):
        self.server.asked.append(self.path)
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        self.server.asked.append(self.path)
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = self.server.body
        self.send_response(self.server.status)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for byte in body:
                self.wfile.write(bytes([byte]))
                time.sleep(self.server.pause)

    do_GET = do_PUT = do_POST

    def log_message(self, *_):
        pass


@pytest.fixture
def between():
    """Starts a server on this machine: ``between(status, body, certificate)``."""
    started = []

    def start(status=200, body=b"<html>log in</html>", certificate=None, pause=0.0):
        server = ThreadingHTTPServer(("127.0.0.1", 0), Between)
        server.daemon_threads = True
        server.status, server.body, server.pause, server.asked = status, body, pause, []
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost that nobody trusts, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the program openssl to make a certificate")
    folder = tmp_path_factory.mktemp("certificate")
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30", "-subj", "/CN=localhost"]
    words += ["-addext", "subjectAltName=DNS:localhost"]
    files = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(["openssl", *words, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


@pytest.fixture
def push_to(home, slept, monkeypatch, capfd, tmp_path):
    """Runs ``push`` against an address and returns its one line; nothing of the kind blocked is tried twice."""
    from kagglesdk import kaggle_env

    def run(address, code=1, **variables):
        monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.LOCAL, address)
        monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))
        started = time.monotonic()
        line, shown = push_fails(capfd, tmp_path, code)
        assert time.monotonic() - started < 20
        assert TOKEN not in shown
        assert PASSWORD not in shown
        return line

    return run


def test_an_untrusted_certificate_is_named_at_once_with_what_to_set(between, certificate, push_to, slept):
    """C5."""
    address = f"https://localhost:{between(certificate=certificate).server_port}"
    line = push_to(address)
    assert "checking the credentials: the certificate of localhost is not trusted (self" in line
    assert "set REQUESTS_CA_BUNDLE to the file (PEM)" in line
    line = push_to(address, SSL_CERT_FILE=certificate[0])
    assert f"SSL_CERT_FILE ({certificate[0]}) is not read here" in line
    assert slept == []
    # Told so, it works: the page that is no answer comes through.
    assert "answered with a web page" in push_to(address, REQUESTS_CA_BUNDLE=certificate[0])


def test_a_certificate_of_another_name_is_named(between, certificate, push_to, slept):
    """C5."""
    address = f"https://127.0.0.1:{between(certificate=certificate).server_port}"
    assert "the certificate of 127.0.0.1 is not trusted (IP address mismatch" in push_to(
        address, REQUESTS_CA_BUNDLE=certificate[0]
    )
    assert slept == []


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (
            407,
            "asks for a name and a password (HTTP 407): write NAME:PASSWORD@ before its host in HTTPS_PROXY",
        ),
        (403, "does not let the connection through (HTTP 403)"),
    ],
)
def test_a_proxy_that_refuses_is_named_at_once(between, push_to, slept, status, words):
    """C6."""
    proxy = between(status)
    url = f"http://name:{quote(PASSWORD, safe='')}@127.0.0.1:{proxy.server_port}"
    line = push_to("https://api.kaggle.com", HTTPS_PROXY=url)
    assert f"the proxy of HTTPS_PROXY (127.0.0.1:{proxy.server_port}) {words}" in line
    assert (slept, proxy.asked) == ([], ["api.kaggle.com:443"])


def test_a_proxy_that_answers_for_the_server_is_named_at_once(between, push_to, slept):
    """C6, without encryption."""
    proxy = between(407, b"<html>who are you?</html>")
    line = push_to("http://api.kaggle.com", HTTP_PROXY=f"http://127.0.0.1:{proxy.server_port}")
    assert "the proxy asks for a name and a password, write NAME:PASSWORD@ before its host in HTTPS_PROXY" in line
    assert slept == []


@pytest.mark.parametrize(
    ("proxy", "words"),
    [
        (
            "http://no-such-host.invalid:80",
            "the name of the proxy of HTTPS_PROXY (no-such-host.invalid:80) cannot be resolved",
        ),
        (f"http://name:{quote(PASSWORD)}@:80:80", "the proxy of HTTPS_PROXY (:80:80) cannot be used (InvalidURL"),
        ("http://", "the proxy of HTTPS_PROXY () cannot be used (InvalidProxyURL"),
        ("gopher://127.0.0.1:9", "the proxy of HTTPS_PROXY (127.0.0.1:9) cannot be used (InvalidURL"),
    ],
)
def test_a_proxy_setting_that_cannot_work_is_named_at_once(push_to, slept, proxy, words):
    """C6."""
    assert words in push_to("https://api.kaggle.com", HTTPS_PROXY=proxy)
    assert slept == []


def test_a_proxy_that_is_down_is_waited_for_and_named(push_to, slept):
    assert "the proxy of HTTPS_PROXY (127.0.0.1:9) cannot be reached" in push_to(
        "https://api.kaggle.com", HTTPS_PROXY="http://127.0.0.1:9"
    )
    assert len(slept) == 5


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_file_of_certificates_that_is_gone_is_named_at_once(between, certificate, push_to, slept, tmp_path, variable):
    """C7."""
    address = f"https://localhost:{between(certificate=certificate).server_port}"
    gone = tmp_path / "gone.pem"
    assert f"{variable} must name a file of certificates, and {gone} is not there" in push_to(
        address, **{variable: gone}
    )
    gone.write_text("no certificate")
    assert f"{variable} must name a file of certificates (PEM) that can be read, got {gone}" in push_to(
        address, **{variable: gone}
    )
    assert slept == []


def test_a_server_that_does_not_speak_tls_is_named_at_once(between, push_to, slept):
    assert "127.0.0.1 does not speak TLS" in push_to(f"https://127.0.0.1:{between().server_port}")
    assert slept == []


def test_a_log_in_page_of_the_network_is_named(between, push_to, slept):
    """A captive portal answers everything with 200 and a page."""
    line = push_to(f"http://127.0.0.1:{between().server_port}")
    assert "127.0.0.1 answered with a web page: does this network want a log-in in the browser" in line
    assert len(slept) == 5


def test_a_name_that_cannot_be_resolved_is_named(push_to, slept):
    assert "the name no-such-host.invalid cannot be resolved: is there a network?" in push_to(
        "https://no-such-host.invalid"
    )
    assert len(slept) == 5


def test_a_page_is_taken_neither_for_an_upload_nor_for_a_download(between, client, tmp_path):
    address = f"http://127.0.0.1:{between().server_port}/x?signature=s"
    (tmp_path / "x.bin").write_bytes(b"x")
    memory = UploadMemory(tmp_path / "memory")
    memory.note("key", "token-of-x", address)
    for act in (
        lambda: client.upload(tmp_path / "x.bin", "key", memory),
        lambda: client.download(address, tmp_path / "submission.zip"),
    ):
        with pytest.raises(KaggleError, match="answered with a web page"):
            act()
    assert not (tmp_path / "submission.zip").exists()
    client.download(address, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == b"<html>log in</html>"


def test_an_answer_that_drips_ends_at_its_limit(between, push_to, monkeypatch):
    """A silence limit alone begins anew with every byte."""
    monkeypatch.setattr(connection_module, "_ANSWER_LIMIT", 2)
    defaults = {"timeout_seconds": 0.25, "max_attempts": 2}
    monkeypatch.setattr(KaggleClient.__init__, "__kwdefaults__", KaggleClient.__init__.__kwdefaults__ | defaults)
    line = push_to(f"http://127.0.0.1:{between(body=b'x' * 1000, pause=0.1).server_port}")
    assert "no answer within 0.25 s" in line


def test_the_disk_is_blamed_for_what_the_disk_did_and_the_network_for_the_rest(server, client, tmp_path):
    """An error of the network is an OSError too; it must be tried again although it comes while a file is written."""
    server.faults = {"GET": ["short", "reset"]}
    address = f"{server.endpoint}/files/{USER}/vesuvius-kit-submit/1/a.bin?signature=s"
    client.download(address, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"12345678"
    (tmp_path / "folder.bin").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*folder.bin: Is a directory"):
        client.download(address, tmp_path / "folder.bin")
    with pytest.raises(InputError, match=r"upload must be an existing file, got .*folder.bin"):
        client.upload(tmp_path / "folder.bin", "key", UploadMemory(tmp_path))


# -- files that the kit keeps, or that people edit --


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "state.json must hold a JSON object, got a list"),
        ('{"a": 1, "a": 2}', "state.json must be JSON, got 'a' twice"),
        ('{"papyrus/x": {"version": 1}}', "another entry for papyrus/x; remove it to start anew"),
        ("\udcff", "state.json must be in UTF-8"),
        ("[" * 100_000, "state.json must be JSON"),
    ],
)
def test_a_malformed_state_is_one_line(client, tmp_path, content, words):
    """C9: the same care for the kit's own files."""
    (tmp_path / "state.json").write_text(content, errors="surrogateescape")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "kernels" / "explore").mkdir(parents=True)
    (tmp_path / "notebooks" / "explore.ipynb").write_text('{"cells": []}')
    from vesuvius_kit.kaggle.shipment import Shipment

    with pytest.raises(InputError, match=words):
        push_notebook(client, Shipment((), "explore", "dataset", tmp_path), tmp_path)


@pytest.mark.parametrize(
    "content", ["[]", '{"key": 5}', '{"key": {"time": "x"}}', '{"key": {"time": 1e12}}', "[" * 99_999]
)
def test_a_malformed_memory_of_uploads_counts_as_none(tmp_path, content):
    """C9."""
    (tmp_path / "uploads.json").write_text(content)
    assert UploadMemory(tmp_path).get("key") is None


def test_an_edited_kernel_metadata_is_mentioned_and_a_malformed_one_refused(tmp_path, caplog, monkeypatch):
    """C9: a push sends the kit's own values, so an edit would be lost without a word."""
    import vesuvius_kit.kaggle.shipment as shipment_module

    write_kernels(tmp_path / "kernels", "papyrus")
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "submit.ipynb").write_text('{"cells": []}')
    path = tmp_path / "kernels" / "submit" / METADATA_NAME
    assert find_edits(path, "submit") == []
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"enable_internet": True, "extra": 1}))
    assert find_edits(path, "submit") == ["enable_internet", "extra"]

    class Stop(Exception):
        pass

    def stop(*_arguments, **_keywords):
        raise Stop

    monkeypatch.setattr(shipment_module, "build_bundle", stop)
    with pytest.raises(Stop):
        prepare_shipment(tmp_path / "work", checkout=tmp_path)
    assert "was edited (enable_internet, extra): a push sends what the kit would write there" in caplog.text
    for text in ("{", "[]", '{"id": 1, "id": 2}', "\udcff"):
        path.write_text(text, errors="surrogateescape")
        with pytest.raises(InputError, match=METADATA_NAME):
            prepare_shipment(tmp_path / "work", checkout=tmp_path)
    with pytest.raises(InputError, match=r"cannot read .*: Is a directory"):
        read_json_object(tmp_path)
