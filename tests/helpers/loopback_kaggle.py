"""A small Kaggle on this machine: what the official client asks is answered as Kaggle answers it, faults included.

In a test: ``with LoopbackKaggle(folder) as server``, `point_client_at` it, give it ``faults``.
By hand, one command of the kit against a server that keeps its state in a folder::

    python tests/loopback_kaggle.py run --folder state --output output -- push --kernel explore

or the server alone, for a client started with KAGGLE_API_ENVIRONMENT=LOCALHOST (which means port 80)::

    python tests/loopback_kaggle.py serve --folder state --output output --port 80
"""

import argparse
import base64
import json
import os
import secrets
import socket
import struct
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

KEY = "0123456789abcdef-the-key"
TOKEN = "KGAT_0123456789-the-access-token"
USER = "papyrus"
COMPETITIONS = ("vesuvius-challenge-surface-detection",)


class Answer(Exception):
    """Ends a request with a status of HTTP and a message."""

    def __init__(self, status, message="", **headers):
        self.status, self.message, self.headers = status, message, headers


class LoopbackKaggle:
    """The server and its state.

    ``faults`` maps a method of the API (or ``PUT`` and ``GET`` for uploads and downloads) to what happens on its next calls,
    in turn: an int is a status of HTTP, ``"reset"`` breaks the connection (half-way through an upload), ``"lost"`` does what
    was asked and breaks it then, ``"hang"`` never answers, ``"garbage"`` answers with a page of HTML, a dict is the answer.
    A list that ends with ``...`` repeats what stands before it for ever.
    """

    def __init__(self, folder, port=0, output=None, slow=False):
        self.folder = Path(folder)
        (self.folder / "blobs").mkdir(parents=True, exist_ok=True)
        self.output = output if output is not None else {"submission.zip": b"no zip"}
        self.dataset_states = ["hidden", "BLOBS_RECEIVED", "READY"] if slow else ["READY"]
        self.kernel_states = ["QUEUED", "RUNNING", "RUNNING", "COMPLETE"] if slow else ["COMPLETE"]
        self.submission_states = ["PENDING", "PENDING", "COMPLETE"] if slow else ["COMPLETE"]
        self.failure_message = "Your notebook was stopped"
        self.score = "0.561"
        self.page_size = 2
        self.faults = {}
        self.calls = []
        self.released = threading.Event()
        self._lock = threading.RLock()
        self._file = self.folder / "kaggle.json"
        empty = {"datasets": {}, "kernels": {}, "submissions": [], "blobs": {}}
        self.state = json.loads(self._file.read_text()) if self._file.exists() else empty
        handler = type("BoundHandler", (_Handler,), {"kaggle": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def serve_forever(self):
        self._server.serve_forever()

    def count(self, method):
        """How often a method was called."""
        return sum(name == method for name, _ in self.calls)

    def next_fault(self, method):
        with self._lock:
            waiting = self.faults.get(method, [])
            if not waiting:
                return None
            if waiting[-1] is ...:
                return waiting[0] if len(waiting) == 2 else waiting.pop(0)
            return waiting.pop(0)

    def call(self, method, body, user):
        """What the API answers, as a dict or bytes; raises Answer for a refusal."""
        with self._lock:
            answer = getattr(self, f"_{method}")(body, user)
            self._file.write_text(json.dumps(self.state, indent=1))
            return answer

    # -- uploads --

    def _StartBlobUpload(self, body, user):
        if not body.get("name") or body.get("type") != "DATASET":
            raise Answer(400, "name and type must be given")
        token = secrets.token_urlsafe(24)
        self.state["blobs"][token] = {"name": body["name"], "size": body.get("contentLength", 0), "complete": False}
        (self.folder / "blobs" / token).write_bytes(b"")
        # As at Google, the address is the right to write there.
        return {"token": token, "createUrl": f"{self.endpoint}/upload?upload_id={token}-signed"}

    def put(self, token, content_range, stream, length, half):
        """One PUT of the resumable protocol; returns the status and how many bytes are here."""
        with self._lock:
            blob = self.state["blobs"].get(token)
        if blob is None:
            raise Answer(404, "no such upload")
        path = self.folder / "blobs" / token
        start = path.stat().st_size
        if content_range.startswith("bytes */"):
            return (200 if blob["complete"] else 308), start
        start = int(content_range.removeprefix("bytes ").split("-")[0]) if content_range else 0
        data = stream.read(length // 2 if half else length)
        with open(path, "r+b") as file:
            file.seek(start)
            file.truncate()
            file.write(data)
        if half:
            return None, start + len(data)
        if path.stat().st_size != blob["size"]:
            raise Answer(400, f"{path.stat().st_size} bytes came, {blob['size']} were announced")
        with self._lock:
            blob["complete"] = True
            self._file.write_text(json.dumps(self.state, indent=1))
        return 200, blob["size"]

    # -- data sets --

    def _CreateDataset(self, body, user):
        ref = f"{body['ownerSlug']}/{body['slug']}"
        self._check_owner(body["ownerSlug"], user)
        if not 6 <= len(body["title"]) <= 50 or not 6 <= len(body["slug"]) <= 50:
            return {"status": "error", "error": "The title and the slug must have 6 to 50 characters"}
        if ref in self.state["datasets"]:
            return {
                "status": "error",
                "error": f'The requested title "{body["title"]}" is already in use by a dataset.',
            }
        self.state["datasets"][ref] = {"private": body.get("isPrivate", False), "title": body["title"], "versions": []}
        self._add_version(ref, body, "Initial release")
        return {"ref": f"/{ref}", "url": f"https://www.kaggle.com/datasets/{ref}", "status": "ok"}

    def _CreateDatasetVersion(self, body, user):
        ref = f"{body['ownerSlug']}/{body['datasetSlug']}"
        self._check_owner(body["ownerSlug"], user)
        known = self.state["datasets"].get(ref)
        if known is None or known["versions"][-1]["states"][0] not in ("READY", "FAILED"):
            raise Answer(403, "Permission 'datasets.update' was denied")
        self._add_version(ref, body["body"], body["body"].get("versionNotes", ""))
        return {"ref": f"/{ref}", "url": f"https://www.kaggle.com/datasets/{ref}", "status": "ok"}

    def _add_version(self, ref, tree, notes):
        files = {}
        pending = [("", tree)]
        while pending:
            prefix, folder = pending.pop()
            for file in folder.get("files", []):
                blob = self.state["blobs"].get(file["token"])
                if blob is None or not blob["complete"]:
                    raise Answer(400, "a file was never uploaded")
                files[prefix + blob["name"]] = file["token"]
            pending += [(f"{prefix}{each['name']}/", each) for each in folder.get("directories", [])]
        self.state["datasets"][ref]["versions"].append(
            {"files": files, "notes": notes, "states": list(self.dataset_states)}
        )

    def _dataset(self, body, visible=True):
        ref = f"{body['ownerSlug']}/{body['datasetSlug']}"
        known = self.state["datasets"].get(ref)
        if known is None:
            raise Answer(404, "Dataset not found")
        if visible and known["versions"][0]["states"][0] == "hidden":
            raise Answer(403, "Permission 'datasets.get' was denied")
        return known

    def _GetDatasetStatus(self, body, user):
        known = self._dataset(body, visible=False)
        states = known["versions"][-1]["states"]
        state = states.pop(0) if len(states) > 1 else states[0]
        if state == "hidden":
            raise Answer(403, "Permission 'datasets.get' was denied")
        return {"status": state}

    def _GetDataset(self, body, user):
        known = self._dataset(body)
        ref = f"{body['ownerSlug']}/{body['datasetSlug']}"
        return {"ref": ref, "title": known["title"], "currentVersionNumber": len(known["versions"])}

    def _DownloadDataset(self, body, user):
        known = self._dataset(body)
        ready = [version for version in known["versions"] if version["states"][0] == "READY"]
        if not ready or body["fileName"] not in ready[-1]["files"]:
            raise Answer(404, "File not found")
        return (self.folder / "blobs" / ready[-1]["files"][body["fileName"]]).read_bytes()

    # -- notebooks --

    def _SaveKernel(self, body, user):
        ref = body["slug"]
        self._check_owner(ref.split("/")[0], user)
        json.loads(body["text"])
        datasets = self.state["datasets"]
        known = {
            "Dataset": lambda name: name in datasets and datasets[name]["versions"][-1]["states"][0] == "READY",
            "Competition": lambda name: name in COMPETITIONS,
            "Kernel": lambda name: name in self.state["kernels"],
            "Model": lambda name: False,
        }
        left_out, kept = {}, {}
        for kind, exists in known.items():
            given = body.get(f"{kind.lower()}DataSources", [])
            kept[f"{kind.lower()}DataSources"] = [name for name in given if exists(name)]
            left_out[f"invalid{kind}Sources"] = [name for name in given if not exists(name)]
        kernel = self.state["kernels"].setdefault(ref, {"versions": []})
        request = {key: value for key, value in body.items() if key != "text"} | kept
        kernel["versions"].append({"request": request, "states": list(self.kernel_states)})
        number = len(kernel["versions"])
        (self.folder / f"{ref.replace('/', '-')}-v{number}.ipynb").write_text(body["text"])
        url = f"https://www.kaggle.com/code/{ref}"
        return {"ref": f"/code/{ref}", "url": url, "versionNumber": number, "kernelId": 1, **left_out}

    def _kernel_version(self, body):
        versions = self.state["kernels"].get(f"{body['userName']}/{body['kernelSlug']}", {"versions": []})["versions"]
        label = body.get("versionLabel", f"v{len(versions)}")
        number = int(label[1:]) if label[:1] == "v" else 0
        if not 1 <= number <= len(versions):
            raise Answer(404, "Not found")
        return number, versions[number - 1]

    def _GetKernel(self, body, user):
        ref = f"{body['userName']}/{body['kernelSlug']}"
        if ref not in self.state["kernels"]:
            raise Answer(403, "Permission 'kernels.get' was denied")
        number, version = self._kernel_version(body)
        request = version["request"]
        sources = {key: value for key, value in request.items() if key.endswith("DataSources")}
        text = (self.folder / f"{ref.replace('/', '-')}-v{number}.ipynb").read_text()
        return {"metadata": {"ref": ref, "currentVersionNumber": number, **sources}, "blob": {"source": text}}

    def _GetKernelSessionStatus(self, body, user):
        _, version = self._kernel_version(body)
        states = version["states"]
        state = states.pop(0) if len(states) > 1 else states[0]
        return {"status": state} | ({"failureMessage": self.failure_message} if state == "ERROR" else {})

    def files_of(self, ref, number):
        if isinstance(self.output, dict):
            return self.output
        root = Path(self.output)
        return {
            path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
        }

    def _ListKernelSessionOutput(self, body, user):
        number, version = self._kernel_version(body)
        ref = f"{body['userName']}/{body['kernelSlug']}"
        names = sorted(self.files_of(ref, number)) if version["states"][0] == "COMPLETE" else []
        start = int(body.get("pageToken") or 0)
        end = start + min(self.page_size, body.get("pageSize", 20))
        files = [
            {
                "fileName": name,
                "url": f"{self.endpoint}/files/{ref}/{number}/{quote(name)}?signature={secrets.token_hex(8)}",
            }
            for name in names[start:end]
        ]
        return {"files": files, "log": "the log\n", "nextPageToken": str(end) if end < len(names) else ""}

    # -- submissions --

    def _CreateCodeSubmission(self, body, user):
        if body["competitionName"] not in COMPETITIONS:
            raise Answer(404, "Competition not found")
        ref = f"{body['kernelOwner']}/{body['kernelSlug']}"
        versions = self.state["kernels"].get(ref, {"versions": []})["versions"]
        number = body.get("kernelVersion", 0)
        if not 1 <= number <= len(versions) or versions[number - 1]["states"][0] != "COMPLETE":
            raise Answer(400, "The notebook version must have completed")
        if body["fileName"] not in self.files_of(ref, number):
            raise Answer(400, "The notebook left no such file")
        number_of = len(self.state["submissions"]) + 1
        self.state["submissions"].append(
            {
                "ref": number_of,
                "description": body.get("submissionDescription", ""),
                "fileName": body["fileName"],
                "kernel": f"{ref} v{number}",
                "states": list(self.submission_states),
            }
        )
        return {"message": "Successfully submitted to Vesuvius Challenge - Surface Detection", "ref": number_of}

    def _ListSubmissions(self, body, user):
        if body["competitionName"] not in COMPETITIONS:
            raise Answer(404, "Competition not found")
        listed = []
        for each in reversed(self.state["submissions"]):
            states = each["states"]
            state = states.pop(0) if len(states) > 1 else states[0]
            row = {name: each[name] for name in ("ref", "description", "fileName")} | {"status": state}
            if state == "COMPLETE":
                row["publicScore"] = self.score
            if state == "ERROR":
                row["errorDescription"] = "Submission Scoring Error"
            listed.append(row)
        start = int(body.get("pageToken") or 0)
        end = start + self.page_size
        return {"submissions": listed[start:end], "nextPageToken": str(end) if end < len(listed) else ""}

    # -- users --

    def _IntrospectToken(self, body, user):
        if body.get("token") != TOKEN:
            return {"active": False}
        return {"active": True, "username": USER}

    def user_of(self, header):
        kind, _, value = header.partition(" ")
        if kind == "Bearer" and value == TOKEN:
            return USER
        if kind == "Basic":
            name, _, key = base64.b64decode(value).decode().partition(":")
            if key == KEY:
                return name
        return None

    def _check_owner(self, owner, user):
        if owner != user:
            raise Answer(403, f"Permission denied for {owner}")


class _Handler(BaseHTTPRequestHandler):
    kaggle = None

    def log_message(self, *_):
        pass

    def do_POST(self):
        method = self.path.rsplit("/", 1)[-1]
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        self._serve(method, body, lambda: self._api(method, body))

    def _api(self, method, body):
        user = self.kaggle.user_of(self.headers.get("Authorization", ""))
        if user is None and method != "IntrospectToken":
            raise Answer(401, "Unauthenticated")
        return self.kaggle.call(method, body, user)

    def do_PUT(self):
        token = urlsplit(self.path).query.removeprefix("upload_id=").removesuffix("-signed")
        asked = self.headers.get("Content-Range", "")
        length = int(self.headers.get("Content-Length") or 0)

        def put(half=False):
            status, held = self.kaggle.put(token, asked, self.rfile, length, half)
            if status == 308:
                raise Answer(308, **({"Range": f"bytes=0-{held - 1}"} if held else {}))
            return {}

        # A question after a break is answered: a fault is meant for an upload.
        self._serve(
            "PUT" if not asked.startswith("bytes */") else "PUT?", {"range": asked}, put, halve=lambda: put(half=True)
        )

    def do_GET(self):
        def get():
            _, _, owner, slug, number, *name = urlsplit(self.path).path.split("/")
            return self.kaggle.files_of(f"{owner}/{slug}", int(number))[unquote("/".join(name))]

        self._serve("GET", {}, get)

    def _serve(self, method, body, act, halve=None):
        self.kaggle.calls.append((method, body))
        fault = self.kaggle.next_fault(method)
        try:
            if fault == "hang":
                self.kaggle.released.wait(30)
                return
            if fault == "reset":
                if halve is not None:
                    halve()
                return self._break()
            if fault == "garbage":
                return self._send(200, b"<html>maintenance</html>", {"Content-Type": "text/html"})
            if isinstance(fault, dict):
                return self._send_json(200, fault)
            if isinstance(fault, int):
                raise Answer(fault, "as the test wants it", **({"Retry-After": "7"} if fault == 429 else {}))
            answer = act()
            if fault == "lost":
                return self._break()
            if isinstance(answer, bytes):
                if fault == "short":
                    self.send_response(200)
                    self.send_header("Content-Length", str(len(answer)))
                    self.end_headers()
                    self.wfile.write(answer[: len(answer) // 2])
                    return
                return self._send(200, answer, {"Content-Type": "application/octet-stream"})
            self._send_json(200, answer)
        except Answer as refusal:
            self._send_json(refusal.status, {"code": refusal.status, "message": refusal.message}, refusal.headers)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _break(self):
        # Closing with a pending linger of 0 seconds sends a reset instead of a polite end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.wfile = self.rfile = open(os.devnull, "r+b")  # noqa: SIM115
        self.close_connection = True

    def _send_json(self, status, content, headers=()):
        self._send(status, json.dumps(content).encode(), {"Content-Type": "application/json", **dict(headers)})

    def _send(self, status, content, headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


def point_client_at(server):
    """Send what the official client asks of LOCALHOST to a server. Returns a function that takes it back."""
    from kagglesdk import kaggle_env

    known = kaggle_env._env_to_endpoint
    before = known[kaggle_env.KaggleEnv.LOCAL]
    known[kaggle_env.KaggleEnv.LOCAL] = server.endpoint
    return lambda: known.update({kaggle_env.KaggleEnv.LOCAL: before})


def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    own, command = arguments, []
    if "--" in arguments:
        own, command = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("mode", choices=["run", "serve"])
    parser.add_argument("--folder", type=Path, required=True, help="keeps data sets, notebooks and submissions")
    parser.add_argument("--output", type=Path, help="folder of the files that every notebook leaves")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--slow", action="store_true", help="take several questions to get ready, as Kaggle does")
    parser.add_argument("--fault", action="append", default=[], help="METHOD=FAULT for ever: SaveKernel=500, PUT=reset")
    given = parser.parse_args(own)
    server = LoopbackKaggle(given.folder, given.port, given.output, given.slow)
    for fault in given.fault:
        method, _, value = fault.partition("=")
        server.faults[method] = [
            value if value in ("reset", "lost", "hang", "garbage", "short") else json.loads(value),
            ...,
        ]
    if given.mode == "serve":
        print(f"{server.endpoint} as {USER}, key {KEY} or token {TOKEN}", flush=True)
        server.serve_forever()
        return 0
    home = (given.folder / "home").absolute()
    home.mkdir(parents=True, exist_ok=True)
    os.environ |= {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "HOME": str(home), "KAGGLE_CONFIG_DIR": str(home)}
    os.environ |= {"KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY}
    os.environ.pop("KAGGLE_API_TOKEN", None)
    with server:
        point_client_at(server)
        from vesuvius_kit.cli import main as run_kit

        return run_kit(command)


if __name__ == "__main__":
    sys.exit(main())
