"""The official Kaggle client against a server on this machine: the way to a score, and everything that can go wrong on it."""

import io
import json
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers.loopback_kaggle import KEY, TOKEN, USER, LoopbackKaggle, point_client_at

from vesuvius_kit.checks import InputNotFoundError
from vesuvius_kit.cli import main
from vesuvius_kit.io.volume import write_volume
from vesuvius_kit.kaggle import shipment as shipment_module
from vesuvius_kit.kaggle.client import KaggleClient
from vesuvius_kit.kaggle.errors import KaggleError
from vesuvius_kit.kaggle.follow import check_output, follow, submit_run
from vesuvius_kit.kaggle.push import push, push_dataset
from vesuvius_kit.kaggle.shipment import Dataset, Shipment, notebook_path, sha256_of
from vesuvius_kit.kaggle.uploads import UploadMemory

COMPETITION = "vesuvius-challenge-surface-detection"
BUNDLE, MODELS = f"{USER}/vesuvius-kit-bundle", f"{USER}/vesuvius-kit-models"
SUBMIT = f"{USER}/vesuvius-kit-submit"
SHAPE = (5, 6, 7)


def submission(shape=SHAPE, name="1407735.tif", value=1):
    """A submission.zip as bytes."""
    tiff, archive = io.BytesIO(), io.BytesIO()
    tifffile.imwrite(tiff, np.full(shape, value, np.uint8))
    with zipfile.ZipFile(archive, "w") as writer:
        writer.writestr(name, tiff.getvalue())
    return archive.getvalue()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """No credentials but those of the test."""
    folder = tmp_path / "home"
    folder.mkdir()
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY", "KAGGLE_USERNAME", "KAGGLE_KERNEL_RUN_TYPE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(folder))
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "LOCALHOST")
    return folder


@pytest.fixture
def server(tmp_path, home, monkeypatch):
    monkeypatch.setenv("KAGGLE_USERNAME", USER)
    monkeypatch.setenv("KAGGLE_KEY", KEY)
    with LoopbackKaggle(
        tmp_path / "server", output={"submission.zip": submission(), "a/b.txt": b"x", "c.txt": b"y"}
    ) as server:
        take_back = point_client_at(server)
        yield server
        take_back()


@pytest.fixture
def client(server, slept, request):
    # Short where the server hangs; elsewhere a slow machine is no fault.
    return KaggleClient(timeout_seconds=0.3 if "hang" in request.node.name else 10.0)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "data" / "test_images"
    folder.mkdir(parents=True)
    write_volume(folder / "1407735.tif", np.zeros(SHAPE, np.uint8))
    return folder


def make_dataset(folder, slug="vesuvius-kit-bundle", **contents):
    folder.mkdir(exist_ok=True)
    contents = contents or {"kit.whl": "wheel", "install.py": "print()"}
    files = {}
    for name, content in contents.items():
        name = name.replace("__", "/")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        files[name] = path
    digest = "".join(sha256_of(path)[:12] for path in files.values())
    (folder / "manifest.json").write_text(json.dumps({"digest": digest}))
    return Dataset(
        slug, "Vesuvius Kit Bundle", files | {"manifest.json": folder / "manifest.json"}, "manifest.json", digest
    )


@pytest.fixture
def checkout(tmp_path):
    folder = tmp_path / "checkout"
    for name in ("train", "submit", "explore"):
        path = notebook_path(folder, name)
        (folder / "kernels" / name).mkdir(parents=True, exist_ok=True)
        path.resolve().parent.mkdir(parents=True, exist_ok=True)
        cell = {"cell_type": "code", "source": ["print(1)\n", "print(2)"], "outputs": [], "metadata": {}}
        path.write_text(json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    return folder


@pytest.fixture
def shipment(tmp_path, checkout):
    models = make_dataset(tmp_path / "models", "vesuvius-kit-models", run__fold_0__best__checkpoint="weights" * 1000)
    return Shipment((make_dataset(tmp_path / "bundle"), models), "submit", "dataset", checkout)


@pytest.fixture
def work(tmp_path):
    return tmp_path / "work"


@pytest.fixture
def memory(work):
    return UploadMemory(work)


def files_on(server, dataset):
    version = server.state["datasets"][dataset]["versions"][-1]
    return {name: (server.folder / "blobs" / token).read_text() for name, token in version["files"].items()}


def versions_on(server, dataset):
    return len(server.state["datasets"].get(dataset, {"versions": []})["versions"])


# -- the way that works --


def test_a_shipment_becomes_data_sets_a_notebook_an_output_and_a_score(server, client, shipment, work, images):
    server.dataset_states = ["hidden", "BLOBS_RECEIVED", "READY"]
    server.kernel_states = ["QUEUED", "RUNNING", "COMPLETE"]
    server.submission_states = ["PENDING", "PENDING", "COMPLETE"]
    run = push(client, shipment, work)
    assert (run.kernel, run.version, run.url) == (SUBMIT, 1, f"https://www.kaggle.com/code/{SUBMIT}")
    assert files_on(server, BUNDLE).keys() == {"kit.whl", "install.py", "manifest.json"}
    assert files_on(server, MODELS)["run/fold_0/best/checkpoint"] == "weights" * 1000
    assert server.state["datasets"][BUNDLE]["private"] is True
    sent = server.state["kernels"][SUBMIT]["versions"][0]["request"]
    assert sent.get("enableInternet", False) is False
    assert sent["datasetDataSources"] == [BUNDLE, MODELS]
    assert sent["competitionDataSources"] == [COMPETITION]
    output = follow(client, run, work)
    assert (output / "a" / "b.txt").read_bytes() == b"x"
    assert (output / "vesuvius-kit-submit.log").read_text() == "the log\n"
    assert check_output(run, output, images) == 1
    assert submit_run(client, run, "first try") == "0.561"
    (entry,) = server.state["submissions"]
    assert (entry["kernel"], entry["description"]) == (f"{SUBMIT} v1", "first try [vesuvius-kit-submit v1]")


def test_the_same_again_sends_and_starts_nothing(server, client, shipment, work):
    run = push(client, shipment, work)
    follow(client, run, work)
    submit_run(client, run, "m")
    before = {
        method: server.count(method) for method in ("PUT", "CreateDataset", "SaveKernel", "CreateCodeSubmission", "GET")
    }
    assert push(client, shipment, work) == run
    follow(client, run, work)
    assert submit_run(client, run, "m") == "0.561"
    assert {method: server.count(method) for method in before} == before
    assert server.count("CreateDatasetVersion") == 0


def test_a_changed_file_makes_a_new_version_of_its_data_set_and_starts_the_notebook_again(
    server, client, shipment, work, tmp_path
):
    push(client, shipment, work)
    changed = make_dataset(tmp_path / "bundle", **{"kit.whl": "newer", "install.py": "print()"})
    run = push(client, Shipment((changed, shipment.datasets[1]), "submit", "dataset", shipment.checkout), work)
    assert run.version == 2
    assert (versions_on(server, BUNDLE), versions_on(server, MODELS)) == (2, 1)
    assert files_on(server, BUNDLE)["kit.whl"] == "newer"


def test_weights_that_are_there_already_need_not_be_given(server, client, shipment, work):
    alone = Shipment(shipment.datasets[:1], "submit", "dataset", shipment.checkout)
    with pytest.raises(InputNotFoundError, match="weights must be in data set papyrus/vesuvius-kit-models or given"):
        push(client, alone, work)
    run = push(client, shipment, work)
    assert push(client, alone, work) == run


def test_weights_of_the_train_notebook_are_read_anew_when_it_ran_again(server, client, shipment, work, checkout):
    train = Shipment(shipment.datasets[:1], "train", "dataset", checkout)
    reading = Shipment(shipment.datasets[:1], "submit", "train", checkout)
    with pytest.raises(
        InputNotFoundError, match="must be the output of notebook papyrus/vesuvius-kit-train, which has never"
    ):
        push(client, reading, work)
    assert server.count("SaveKernel") == 0
    push(client, train, work)
    second = push(client, reading, work)
    assert second.version == push(client, reading, work).version == 1
    notebook_path(checkout, "train").write_text('{"cells": []}')
    push(client, train, work)
    assert push(client, reading, work).version == 2


def test_an_access_token_tells_the_owner(server, slept, monkeypatch):
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    client = KaggleClient()
    assert client.owner == USER
    assert client.dataset_state(BUNDLE) is None


def test_a_large_file_goes_up_in_one_piece_and_progress_counts_to_its_end(server, client, tmp_path, memory):
    path = tmp_path / "large.bin"
    path.write_bytes(bytes(range(256)) * 40_000)
    seen = []

    def progress(steps, desc=None, unit=None):
        for step in steps:
            seen.append(step)
            yield step

    token = client.upload(path, "key", memory, progress)
    assert (server.folder / "blobs" / token).read_bytes() == path.read_bytes()
    assert seen == list(range(10))
    assert server.count("PUT") == 1


# -- credentials and secrets --


def test_without_credentials_one_line_says_how_to_get_them(home, slept, capsys, tmp_path):
    assert main(["push", "--folder", str(tmp_path / "work")]) == 2
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1].startswith(
        "vesuvius-kit: Kaggle credentials must be set: create a token at https://"
    )
    assert captured.out == ""


def test_a_key_that_kaggle_does_not_accept(server, slept, monkeypatch):
    monkeypatch.setenv("KAGGLE_KEY", "wrong-key-123456")
    with pytest.raises(KaggleError, match=r"does not accept the credentials \(HTTP 401\)"):
        KaggleClient().dataset_state(BUNDLE)


def test_an_access_token_that_is_not_valid_counts_as_none(server, slept, monkeypatch):
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("KAGGLE_API_TOKEN", "KGAT_invalid-invalid")
    with pytest.raises(InputNotFoundError, match="credentials must be set"):
        KaggleClient()


def test_tokens_in_files_are_secrets_and_names_beside_them_are_not(server, slept, home):
    (home / ".kaggle").mkdir()
    stored = {
        "refresh_token": "the-refresh-token",
        "username": "a-user-with-a-long-name",
        "scopes": ["resources.admin:*"],
    }
    (home / ".kaggle" / "credentials.json").write_text(json.dumps(stored))
    client = KaggleClient()
    assert client.scrub("the-refresh-token of a-user-with-a-long-name") == "*** of a-user-with-a-long-name"


def test_secrets_are_scrubbed(client):
    shown = client.scrub(f"key {KEY}\nAuthorization: Bearer abcdefghi at https://host/x?upload_id=secret done")
    assert shown == "key *** Authorization: Bearer *** at https://host/x?*** done"


def test_no_secret_is_shown_whatever_happens(server, client, shipment, work, caplog, capfd, monkeypatch):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("VERBOSE", "1")
    server.faults = {
        "PUT": ["reset", 503],
        "SaveKernel": [{"error": f"bad {KEY} and https://host/a?signature=hidden-value"}],
    }
    with pytest.raises(KaggleError) as caught:
        push(client, shipment, work)
    run = push(client, shipment, work)
    follow(client, run, work)
    captured = capfd.readouterr()
    shown = captured.out + captured.err + caplog.text + str(caught.value)
    tokens = [token for version in server.state["datasets"][BUNDLE]["versions"] for token in version["files"].values()]
    for secret in (KEY, "hidden-value", *tokens):
        assert secret not in shown
    assert "signature=" not in shown


# -- what goes wrong and passes --


@pytest.mark.parametrize("fault", [429, 500, 503, "reset", "hang", "garbage"])
@pytest.mark.parametrize(
    "method",
    ["GetDatasetStatus", "StartBlobUpload", "CreateDataset", "DownloadDataset", "GetKernel", "SaveKernel"],
)
def test_a_fault_that_passes_is_waited_out(server, client, shipment, work, slept, method, fault):
    server.faults = {method: [fault]}
    run = push(client, shipment, work)
    assert run.version == 1
    assert versions_on(server, BUNDLE) == versions_on(server, MODELS) == 1
    assert slept
    if fault == 429:
        assert slept[0] == 7.0


@pytest.mark.parametrize("method", ["CreateDataset", "CreateDatasetVersion", "SaveKernel", "CreateCodeSubmission"])
def test_what_was_done_and_not_answered_is_not_done_twice(server, client, shipment, work, tmp_path, method):
    server.faults = {method: ["lost"]}
    run = push(client, shipment, work)
    if method == "CreateDatasetVersion":
        changed = make_dataset(tmp_path / "bundle", **{"kit.whl": "newer"})
        run = push(client, Shipment((changed, shipment.datasets[1]), "submit", "dataset", shipment.checkout), work)
        assert versions_on(server, BUNDLE) == 2
    follow(client, run, work)
    submit_run(client, run, "m")
    assert versions_on(server, MODELS) == 1
    assert len(server.state["kernels"][SUBMIT]["versions"]) == run.version
    assert len(server.state["submissions"]) == 1
    assert server.faults[method] == []


def test_an_upload_that_breaks_half_way_goes_on_from_there(server, client, tmp_path, memory):
    path = tmp_path / "weights.bin"
    path.write_bytes(bytes(range(256)) * 4_000)
    server.faults = {"PUT": ["reset", "reset"]}
    token = client.upload(path, "key", memory)
    assert (server.folder / "blobs" / token).read_bytes() == path.read_bytes()
    starts = [body["range"] for method, body in server.calls if method == "PUT"]
    assert starts[0] == ""
    assert starts[1].startswith("bytes 512000-")
    assert starts[2].startswith("bytes 768000-")


def test_an_upload_that_broke_in_an_earlier_run_goes_on_from_there(server, client, tmp_path, work):
    dataset = make_dataset(tmp_path / "bundle", **{"a.bin": "a" * 5000, "b.bin": "b" * 5000, "x__b.bin": "b" * 5000})
    server.faults = {"PUT": [None, "reset", 400]}
    with pytest.raises(KaggleError, match=r"uploading b.bin: Kaggle answers with an error \(HTTP 400\)"):
        push_dataset(client, dataset, work)
    server.faults = {"PUT": ["reset", ...]}
    with pytest.raises(KaggleError, match=r"uploading b\.bin: the connection"):
        push_dataset(client, dataset, work)
    assert (work / "uploads.json").stat().st_mode & 0o077 == 0
    server.faults, seen = {}, len(server.calls)
    assert push_dataset(client, dataset, work) is True
    ranges = [body["range"] for method, body in server.calls[seen:] if method.startswith("PUT")]
    # a.bin is there, b.bin goes on, its twin in the folder x and the manifest are new.
    assert ranges[:2] == ["bytes */5000", "bytes */5000"]
    assert ranges[2].startswith("bytes 4")
    assert ranges[2].endswith("-4999/5000")
    assert ranges[3:] == ["", ""]
    assert files_on(server, BUNDLE)["x/b.bin"] == files_on(server, BUNDLE)["b.bin"] == "b" * 5000
    assert json.loads((work / "uploads.json").read_text()) == {}


def test_an_upload_that_kaggle_has_forgotten_starts_again(server, client, tmp_path, memory):
    path = tmp_path / "x.bin"
    path.write_bytes(b"x" * 100)
    memory.note("key", "an-old-token", f"{server.endpoint}/upload?upload_id=an-old-token-signed")
    token = client.upload(path, "key", memory)
    assert (server.folder / "blobs" / token).read_bytes() == b"x" * 100


def test_a_damaged_or_old_memory_of_uploads_is_no_obstacle(memory, work, monkeypatch):
    memory.note("key", "token", "url")
    assert memory.get("key") == ("token", "url")
    monkeypatch.setattr("vesuvius_kit.kaggle.uploads.LIFETIME_SECONDS", -1)
    assert memory.get("key") is None
    (work / "uploads.json").write_text("{")
    assert memory.get("key") is None
    memory.note("key", "token", "url")
    memory.forget("key", "other")
    assert json.loads((work / "uploads.json").read_text()) == {}


def test_a_download_that_breaks_is_fetched_again(server, client, tmp_path):
    server.faults = {"GET": ["short", 500, "reset"]}
    server.output = {"x.bin": b"12345678" * 1000}
    client.download(f"{server.endpoint}/files/{SUBMIT}/1/x.bin?signature=s", tmp_path / "x.bin")
    assert (tmp_path / "x.bin").read_bytes() == b"12345678" * 1000
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["x.bin"]


def test_a_new_version_waits_while_kaggle_processes_the_first(server, client, tmp_path, slept, work):
    dataset = make_dataset(tmp_path / "bundle")
    push_dataset(client, dataset, work)
    server.faults = {"CreateDatasetVersion": [403, 403]}
    assert push_dataset(client, make_dataset(tmp_path / "bundle", **{"kit.whl": "newer"}), work) is True
    assert versions_on(server, BUNDLE) == 2
    assert slept == [5.0, 7.5]


def test_a_data_set_that_is_still_hidden_when_the_server_hangs_is_not_created_twice(server, client, tmp_path, work):
    dataset = make_dataset(tmp_path / "bundle")
    server.dataset_states = ["hidden"] * 5 + ["BLOBS_RECEIVED", "READY"]
    server.faults = {"GetDatasetStatus": [404, "hang", "hang", "hang", "hang", "hang", "hang", ...]}
    with pytest.raises(KaggleError, match="no answer within"):
        push_dataset(client, dataset, work)
    server.faults = {}
    assert versions_on(server, BUNDLE) == 1
    assert push_dataset(client, dataset, work) is False
    assert versions_on(server, BUNDLE) == 1


# -- what goes wrong and stays --


@pytest.mark.parametrize(
    ("method", "fault", "message"),
    [
        (
            "GetDatasetStatus",
            401,
            r"the state of data set papyrus/vesuvius-kit-bundle: Kaggle does not accept the credentials",
        ),
        ("StartBlobUpload", 403, r"uploading install.py: Kaggle denies access \(HTTP 403\)"),
        ("PUT", 403, r"uploading install.py: Kaggle denies access"),
        ("CreateDataset", 401, r"creating data set .*: Kaggle does not accept the credentials \(HTTP 401\)"),
        (
            "CreateDataset",
            {"status": "error", "error": "The license is wrong"},
            "creating data set .*: The license is wrong",
        ),
        (
            "CreateDataset",
            {"code": 400, "message": "no such license"},
            r"creating data set .*\(HTTP 400\): no such license",
        ),
        ("SaveKernel", 409, r"pushing notebook .*: Kaggle reports a conflict \(HTTP 409\): as the test wants it"),
        (
            "SaveKernel",
            {"error": "Notebook title taken"},
            "pushing notebook papyrus/vesuvius-kit-submit: Notebook title taken",
        ),
        ("GetDatasetStatus", 429, r"too many requests \(HTTP 429\)"),
        ("SaveKernel", 429, r"too many requests \(HTTP 429\)"),
        ("CreateDataset", 500, r"Kaggle answers with an error \(HTTP 500\)"),
        ("SaveKernel", 500, r"Kaggle answers with an error \(HTTP 500\)"),
        ("PUT", 500, r"uploading install.py: Kaggle answers with an error \(HTTP 500\)"),
        ("PUT", "hang", "uploading install.py: no answer within 0.3 s"),
        ("SaveKernel", "hang", "pushing notebook .*: no answer within 0.3 s"),
        ("SaveKernel", "reset", "pushing notebook .*: the connection to 127.0.0.1 failed or broke"),
        ("StartBlobUpload", "garbage", "uploading install.py: 127.0.0.1 answered with a web page"),
    ],
)
def test_a_fault_that_stays_ends_in_one_line_and_the_next_run_completes(
    server, client, shipment, work, slept, method, fault, message
):
    server.faults = {method: [fault, ...]}
    with pytest.raises(KaggleError, match=message) as caught:
        push(client, shipment, work)
    assert "\n" not in str(caught.value)
    assert sum(slept) < 3600
    server.faults = {}
    assert push(client, shipment, work).version == 1
    assert versions_on(server, BUNDLE) == versions_on(server, MODELS) == 1


def test_a_server_that_is_not_there(client, server, shipment, work):
    server.__exit__()
    with pytest.raises(KaggleError, match=r"the state of data set .*: the connection to 127.0.0.1 failed or broke"):
        push(client, shipment, work)


def test_a_data_set_that_never_gets_ready(server, client, tmp_path, slept, work):
    server.dataset_states = ["BLOBS_RECEIVED"]
    dataset = make_dataset(tmp_path / "bundle")
    with pytest.raises(KaggleError, match=r"not processed after 30 minutes \(BLOBS_RECEIVED\)"):
        push_dataset(client, dataset, work)
    assert sum(slept) == pytest.approx(1800)
    server.state["datasets"][BUNDLE]["versions"][0]["states"] = ["BLOBS_RECEIVED", "READY"]
    assert push_dataset(client, dataset, work) is False


def test_a_data_set_that_kaggle_cannot_process_is_sent_again(server, client, tmp_path, work):
    server.dataset_states = ["BLOBS_RECEIVED", "FAILED"]
    dataset = make_dataset(tmp_path / "bundle")
    with pytest.raises(KaggleError, match=r"Kaggle could not process it \(FAILED\)"):
        push_dataset(client, dataset, work)
    server.dataset_states = ["READY"]
    assert push_dataset(client, dataset, work) is True
    assert versions_on(server, BUNDLE) == 2


@pytest.mark.parametrize("kind", ["Dataset", "Competition", "Kernel", "Model"])
def test_a_source_that_kaggle_does_not_accept_fails_the_push(server, client, shipment, work, kind):
    answer = {"versionNumber": 1, "url": "u", f"invalid{kind}Sources": ["someone/thing"]}
    server.faults = {"SaveKernel": [answer]}
    with pytest.raises(
        KaggleError, match=f"does not accept {kind.lower()} sources someone/thing; version 1 runs without, stop it"
    ):
        push(client, shipment, work)
    assert push(client, shipment, work).version == 1


def test_a_source_that_kaggle_left_out_is_found_even_if_the_answer_was_lost(
    server, client, shipment, work, monkeypatch
):
    from helpers import loopback_kaggle

    monkeypatch.setattr(loopback_kaggle, "COMPETITIONS", ())
    server.faults = {"SaveKernel": ["lost"]}
    with pytest.raises(KaggleError, match=f"does not accept competition sources {COMPETITION}; version 1 runs without"):
        push(client, shipment, work)
    monkeypatch.undo()


def stop_after_the_push(client, monkeypatch):
    """The process ends between Kaggle's answer and its note."""
    pushed = client.push_kernel

    def stopped(*arguments):
        pushed(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "push_kernel", stopped)


def test_a_push_that_was_stopped_before_its_answer_came_is_found_again(server, client, shipment, work, monkeypatch):
    with monkeypatch.context() as patch:
        stop_after_the_push(client, patch)
        with pytest.raises(KeyboardInterrupt):
            push(client, shipment, work)
    assert push(client, shipment, work).version == 1
    assert server.count("SaveKernel") == 1


def test_a_version_that_somebody_else_pushed_meanwhile_is_not_taken_for_ours(
    server, client, shipment, work, checkout, monkeypatch
):
    ours = notebook_path(checkout, "submit").read_text()
    server.faults = {"SaveKernel": [500, ...]}
    with pytest.raises(KaggleError):
        push(client, shipment, work)
    server.faults = {}
    notebook_path(checkout, "submit").write_text('{"cells": [{"cell_type": "code", "source": "another"}]}')
    assert push(client, shipment, work.parent / "elsewhere").version == 1
    notebook_path(checkout, "submit").write_text(ours)
    assert push(client, shipment, work).version == 2


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (
            "ERROR",
            r"notebook .* version 1 ended with an error: Your notebook was stopped; see https://.* and the log in",
        ),
        ("CANCEL_ACKNOWLEDGED", r"notebook .* version 1 was cancelled \(CANCEL_ACKNOWLEDGED\)"),
        ("CANCEL_REQUESTED", "was cancelled"),
    ],
)
def test_a_notebook_that_fails_leaves_its_log_and_may_be_started_again(server, client, shipment, work, state, message):
    server.kernel_states = ["RUNNING", state]
    run = push(client, shipment, work)
    with pytest.raises(KaggleError, match=message):
        follow(client, run, work)
    assert (work / "output" / "vesuvius-kit-submit-v1" / "vesuvius-kit-submit.log").read_text() == "the log\n"
    server.kernel_states = ["COMPLETE"]
    assert push(client, shipment, work).version == 2


def test_a_notebook_that_fails_is_reported_even_if_its_log_cannot_be_had(server, client, shipment, work):
    server.kernel_states = ["ERROR"]
    server.faults = {"ListKernelSessionOutput": [403, ...]}
    run = push(client, shipment, work)
    with pytest.raises(
        KaggleError, match=r"ended with an error: Your notebook was stopped; see .* and no log \(the output of"
    ):
        follow(client, run, work)


def test_a_notebook_that_runs_too_long_is_followed_by_the_next_call(server, client, shipment, work, slept):
    server.kernel_states = ["RUNNING"]
    run = push(client, shipment, work)
    with pytest.raises(KaggleError, match=r"still RUNNING after 2.0 h; the same command goes on waiting"):
        follow(client, run, work, wait_seconds=7200)
    assert sum(slept) == pytest.approx(7200)
    server.state["kernels"][SUBMIT]["versions"][0]["states"] = ["COMPLETE"]
    assert push(client, shipment, work) == run
    follow(client, run, work)


def test_a_version_that_is_not_known_yet_is_waited_for_but_not_for_ever(server, client, shipment, work, slept):
    run = push(client, shipment, work)
    server.faults = {"GetKernelSessionStatus": [404, 404]}
    follow(client, run, work)
    server.faults = {"GetKernelSessionStatus": [404, ...]}
    with pytest.raises(
        KaggleError, match="the state of notebook papyrus/vesuvius-kit-submit version 1: Kaggle knows no such"
    ):
        follow(client, run, work)
    assert 300 < sum(slept) < 500


def test_each_version_is_asked_for_its_own_state_and_output(server, client, shipment, work, checkout):
    first = push(client, shipment, work)
    server.kernel_states = ["ERROR"]
    notebook_path(checkout, "submit").write_text('{"cells": []}')
    push(client, shipment, work)
    assert (follow(client, first, work) / "submission.zip").is_file()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ({"log.txt": b""}, r"left no submission.zip, only log.txt, vesuvius-kit-submit.log; see https"),
        ({"submission.zip": b"<html>"}, r"left a submission that is not valid: submission must be a zip archive"),
        ({"submission.zip": submission((5, 6, 8))}, r"1407735.tif must have the image's shape \(5, 6, 7\)"),
        ({"submission.zip": submission(value=2)}, r"must hold 0 and 1 only"),
        ({"submission.zip": submission(name="7.tif")}, r"1407735.tif is missing"),
    ],
)
def test_an_output_that_is_no_submission(server, client, shipment, work, images, output, message):
    server.output = output
    run = push(client, shipment, work)
    with pytest.raises(KaggleError, match=message):
        check_output(run, follow(client, run, work), images)
    assert server.count("CreateCodeSubmission") == 0


@pytest.mark.parametrize("name", ["../outside.txt", "a/../../outside.txt", "/tmp/outside.txt"])
def test_an_output_file_cannot_lie_outside_its_folder(server, client, shipment, work, name):
    server.output = {name: b"x"}
    run = push(client, shipment, work)
    with pytest.raises(KaggleError, match="a file must not lie outside of it"):
        follow(client, run, work)
    assert not list(work.rglob("outside.txt"))


def test_a_submission_that_fails_in_the_hidden_rerun(server, client, shipment, work):
    server.submission_states = ["PENDING", "ERROR"]
    run = push(client, shipment, work)
    with pytest.raises(KaggleError, match=r"the submission of .* version 1 failed: Submission Scoring Error"):
        submit_run(client, run, "m")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (403, r"submitting papyrus/vesuvius-kit-submit version 1 to .*: Kaggle denies access \(HTTP 403\)"),
        ({"message": "You have used all your submissions today"}, "You have used all your submissions today"),
        (500, "Kaggle answers with an error"),
    ],
)
def test_a_submission_that_kaggle_refuses_can_be_repeated(server, client, shipment, work, fault, message):
    run = push(client, shipment, work)
    server.faults = {"CreateCodeSubmission": [fault, ...]}
    with pytest.raises(KaggleError, match=message):
        submit_run(client, run, "m")
    server.faults = {}
    assert submit_run(client, run, "m") == "0.561"
    assert len(server.state["submissions"]) == 1


def test_an_older_submission_is_found_behind_newer_ones(server, client, shipment, work):
    run = push(client, shipment, work)
    for number in range(5):
        submit_run(client, run, f"number {number}")
    assert submit_run(client, run, "number 0") == "0.561"
    assert len(server.state["submissions"]) == 5


# -- the command line --


@pytest.fixture
def small_bundle(tmp_path, monkeypatch):
    """Building the true bundle takes a minute; its own tests do that."""

    class Manifest:
        def __init__(self, dataset):
            self.digest = dataset.digest
            self.files = [type("File", (), {"name": name})() for name in dataset.files if name != "manifest.json"]

    def build(folder, **_):
        folder.parent.mkdir(parents=True, exist_ok=True)
        return Manifest(make_dataset(folder))

    monkeypatch.setattr(shipment_module, "build_bundle", build)


@pytest.fixture
def run_fold(tmp_path):
    from vesuvius_kit.config import RunConfig, config_to_dict
    from vesuvius_kit.models import create_model
    from vesuvius_kit.models.checkpoint import save_checkpoint

    model = create_model("unet3d", initial_filters=2, depth=1)
    state = {"config": config_to_dict(RunConfig())}
    save_checkpoint(tmp_path / "runs" / "wide" / "fold_3" / "best", model, state, config_yaml="a: 1\n")
    return tmp_path / "runs" / "wide"


@pytest.fixture
def command(server, slept, small_bundle, checkout, work, images, run_fold, monkeypatch, capsys, request):
    defaults = {"timeout_seconds": 0.3 if "hang" in request.node.name else 10.0, "max_attempts": 3}
    monkeypatch.setattr(KaggleClient.__init__, "__kwdefaults__", KaggleClient.__init__.__kwdefaults__ | defaults)

    def run(name, *arguments):
        own = ["--data", str(images.parent)] if name == "ship" else []
        words = [
            name,
            "--checkout",
            str(checkout),
            "--folder",
            str(work),
            "--checkpoints",
            str(run_fold),
            *own,
            *arguments,
        ]
        code = main(words)
        captured = capsys.readouterr()
        lines = [line for line in captured.err.splitlines() if line.startswith("vesuvius-kit:")]
        assert "Traceback" not in captured.err
        assert KEY not in captured.out + captured.err
        return code, captured.out, lines

    return run


def test_ship_from_the_command_line_to_the_score(server, command, work):
    code, out, lines = command("ship", "--submit", "--message", "by hand")
    assert (code, lines) == (0, [])
    assert out.splitlines() == [
        f"{SUBMIT} version 1: https://www.kaggle.com/code/{SUBMIT}",
        f"{work / 'output' / 'vesuvius-kit-submit-v1' / 'submission.zip'}: 1 masks, valid",
        "public score 0.561",
    ]
    names = files_on_names(server, MODELS)
    assert names == {"models.json", "wide/fold_3/best/checkpoint.safetensors", "wide/fold_3/best/config.yaml"}
    assert command("ship", "--submit", "--message", "by hand")[0] == 0
    assert len(server.state["submissions"]) == len(server.state["kernels"][SUBMIT]["versions"]) == 1


def files_on_names(server, dataset):
    return set(server.state["datasets"][dataset]["versions"][-1]["files"])


def test_the_submit_notebook_finds_the_weights_where_they_were_sent(server, command, tmp_path):
    from vesuvius_kit.kaggle.paths import find_models
    from vesuvius_kit.models.checkpoint import find_checkpoints

    command("push")
    mount = tmp_path / "input" / "datasets" / USER / "vesuvius-kit-models"
    for name, token in server.state["datasets"][MODELS]["versions"][-1]["files"].items():
        (mount / name).parent.mkdir(parents=True, exist_ok=True)
        (mount / name).write_bytes((server.folder / "blobs" / token).read_bytes())
    found = find_models(roots=[tmp_path / "input"])
    assert find_checkpoints(found) == [mount / "wide" / "fold_3" / "best" / "checkpoint.safetensors"]


def test_folds_of_two_runs_and_single_checkpoints_get_names_of_their_own(tmp_path):
    paths = [tmp_path / name for name in ("a/fold_0/best", "b/fold_0/last", "a2/x/best", "c/y/best")]
    for number, path in enumerate(paths):
        path.mkdir(parents=True)
        (path / "checkpoint.safetensors").write_bytes(bytes([number]))
    dataset = shipment_module._models_dataset(paths, tmp_path / "models")
    sent = {name: path for name, path in dataset.files.items() if name.endswith(".safetensors")}
    assert list(sent) == [
        f"{name}/best/checkpoint.safetensors" for name in ("a/fold_0", "b/fold_0", "run/fold_0", "run/fold_1")
    ]
    assert list(sent.values()) == [path / "checkpoint.safetensors" for path in paths]


def test_nnunets_folders_are_sent_as_checkpoints_of_the_kit(server, command, tmp_path, run_fold):
    from tests.helpers.nnunet_folders import write_nnunet_folder
    from vesuvius_kit.models.checkpoint import load_model
    from vesuvius_kit.models.nnunet import load_nnunet

    folder = write_nnunet_folder(tmp_path / "nnUNetTrainer__plans v2", folds=(0, 1))
    assert command("push", "--checkpoints", str(run_fold), str(folder))[0] == 0
    names = files_on_names(server, MODELS)
    sent = "nnUNetTrainer__plans_v2/fold_0/best/checkpoint.safetensors"
    assert names == {"models.json", "wide/fold_3/best/checkpoint.safetensors", "wide/fold_3/best/config.yaml", sent}
    token = server.state["datasets"][MODELS]["versions"][-1]["files"][sent]
    (tmp_path / "sent").mkdir()
    (tmp_path / "sent" / "checkpoint.safetensors").write_bytes((server.folder / "blobs" / token).read_bytes())
    assert load_model(tmp_path / "sent").record == load_nnunet(folder).record
    n_versions = len(server.state["datasets"][MODELS]["versions"])
    command("push", "--checkpoints", str(run_fold), str(folder))
    assert len(server.state["datasets"][MODELS]["versions"]) == n_versions


def test_two_nnunet_folders_of_one_name_are_kept_apart(tmp_path):
    from tests.helpers.nnunet_folders import write_nnunet_folder

    folders = [write_nnunet_folder(tmp_path / place / "results", seed=seed) for seed, place in enumerate("ab")]
    files = shipment_module.collect_models(folders, tmp_path / "models")
    assert list(files) == [f"results/fold_{number}/best/checkpoint.safetensors" for number in (0, 1)]
    first, second = (path.read_bytes() for path in files.values())
    assert first != second
    stamps = [path.stat().st_mtime_ns for path in files.values()]
    again = shipment_module.collect_models(folders, tmp_path / "models")
    assert [path.stat().st_mtime_ns for path in again.values()] == stamps


def test_the_official_launcher_runs_the_kit_against_the_server_with_the_true_bundle(tmp_path, run_fold, images):
    """What a person does who tries the README's commands without an account."""
    (tmp_path / "left").mkdir()
    (tmp_path / "left" / "submission.zip").write_bytes(submission())
    root, copy = Path(__file__).parents[2], tmp_path / "checkout"
    for name in ("vesuvius_kit", "kernels", "notebooks"):
        shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in root.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, copy / path.name)
    script = str(root / "tests" / "helpers" / "loopback_kaggle.py")
    launcher = [sys.executable, script, "run", "--folder", "state", "--output", "left", "--"]
    words = ["ship", "--checkout", str(copy), "--checkpoints", str(run_fold), "--data", str(images.parent), "--submit"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KAGGLE_")}
    done = subprocess.run(launcher + words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "public score 0.561"
    state = json.loads((tmp_path / "state" / "kaggle.json").read_text())
    names = set(state["datasets"][BUNDLE]["versions"][0]["files"])
    assert {"manifest.json", "install.py"} < names
    assert any(name.startswith("vesuvius_kit-") and name.endswith(".whl") for name in names)
    assert state["kernels"][SUBMIT]["versions"][0]["request"]["machineShape"] == "NvidiaTeslaT4"
    again = subprocess.run(launcher + words, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert "is unchanged" in again.stderr
    own = [*launcher[:-1], "--fault", 'SaveKernel={"error": "closed for today"}', "--"]
    refused = subprocess.run(
        [*own, "push", *words[1:3], "--kernel", "explore"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 1
    assert (
        refused.stderr.splitlines()[-1]
        == "vesuvius-kit: pushing notebook papyrus/vesuvius-kit-explore: closed for today"
    )


def test_push_from_the_command_line(server, command):
    assert command("push", "--kernel", "train")[:2] == (
        0,
        f"{USER}/vesuvius-kit-train version 1: https://www.kaggle.com/code/{USER}/vesuvius-kit-train\n",
    )
    assert server.count("GetKernelSessionStatus") == 0


def test_ship_of_the_train_notebook_ends_with_its_output(server, command, work):
    server.output = {"checkpoints/fold_0/best/checkpoint.safetensors": b"weights"}
    output = work / "output" / "vesuvius-kit-train-v1"
    assert command("ship", "--kernel", "train")[1].splitlines()[-1] == str(output)
    assert (output / "checkpoints" / "fold_0" / "best" / "checkpoint.safetensors").read_bytes() == b"weights"


def test_a_dry_run_shows_everything_and_changes_nothing(server, command, work, run_fold):
    code, out, _ = command("ship", "--dry-run", "--submit")
    assert code == 0
    assert f"data set {BUNDLE}: create, 3 files" in out
    assert f"data set {MODELS}: create, 3 files" in out
    assert "  wide/fold_3/best/checkpoint.safetensors" in out
    assert f"notebook {SUBMIT}: " in out
    assert "  enable_internet: false" in out
    assert "submit it" in out
    asked = {method for method, _ in server.calls}
    assert asked <= {"GetDatasetStatus", "DownloadDataset", "GetDataset", "GetKernel", "IntrospectToken"}
    assert not (work / "state.json").exists()
    command("push")
    (run_fold / "fold_3" / "best" / "config.yaml").write_text("a: 2\n")
    out = command("push", "--dry-run")[1]
    assert f"data set {BUNDLE}: unchanged, nothing to send" in out
    assert f"data set {MODELS}: new version" in out


def test_a_dry_run_needs_no_credentials(server, command, monkeypatch):
    monkeypatch.delenv("KAGGLE_KEY")
    code, out, _ = command("push", "--dry-run")
    assert code == 0
    assert "no Kaggle credentials: what is there already was not looked up" in out
    assert "data set OWNER/vesuvius-kit-bundle: create or update" in out
    assert server.calls == []


@pytest.mark.parametrize(
    ("method", "fault", "line"),
    [
        ("GetDatasetStatus", 401, "does not accept the credentials"),
        ("CreateDataset", 409, "not processed|conflict"),
        ("SaveKernel", 429, "too many requests"),
        ("SaveKernel", 500, "answers with an error"),
        ("SaveKernel", "hang", "no answer within 0.3 s"),
        ("PUT", "reset", "uploading .*: the connection to .* failed or broke"),
        ("SaveKernel", {"error": "maintenance"}, "maintenance"),
        ("SaveKernel", {"versionNumber": 1, "invalidModelSources": ["a/b"]}, "does not accept model sources a/b"),
        (
            "GetKernelSessionStatus",
            {"status": "ERROR", "failureMessage": "out of memory"},
            "ended with an error: out of memory",
        ),
        ("GetKernelSessionStatus", {"status": "CANCEL_ACKNOWLEDGED"}, "was cancelled"),
        ("ListKernelSessionOutput", {"files": []}, "left no submission.zip"),
        ("CreateCodeSubmission", 403, "denies access"),
        ("GET", 404, "fetching a_b.txt|fetching b.txt: Kaggle knows no such thing"),
    ],
)
def test_every_failure_is_one_line_exit_code_1_and_a_run_that_can_be_repeated(server, command, method, fault, line):
    import re

    server.faults = {method: [fault, ...]}
    code, _, lines = command("ship", "--submit")
    assert code == 1
    assert len(lines) == 1
    assert re.search(line, lines[0]), lines[0]
    server.faults = {}
    code, out, lines = command("ship", "--submit")
    assert (code, lines) == (0, [])
    assert out.endswith("public score 0.561\n")
    assert versions_on(server, BUNDLE) == versions_on(server, MODELS) == 1
    assert len(server.state["submissions"]) == 1


def test_a_damaged_state_file_is_named(server, command, work):
    work.mkdir()
    (work / "state.json").write_text("{")
    code, _, lines = command("push")
    assert code == 2
    assert "state.json must be JSON, got" in lines[0]
    (work / "state.json").unlink()
    assert command("push")[0] == 0


def test_ctrl_c_while_following_is_taken_up_by_the_next_run(server, command, monkeypatch):
    server.kernel_states = ["RUNNING", "COMPLETE"]

    def stop(self, seconds):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(KaggleClient, "pause", stop)
        assert command("ship")[0] == 130
    assert command("ship")[0] == 0
    assert server.count("SaveKernel") == 1


def test_bad_input_of_ship_is_found_before_anything_is_sent(server, command, tmp_path, images, checkout, monkeypatch):
    assert command("ship", "--data", str(tmp_path / "nowhere"))[0] == 2
    assert command("ship", "--wait", "soon")[2] == [
        "vesuvius-kit: --wait must look like 8h30m, 45m, 90s or 600, got 'soon'"
    ]
    assert command("ship", "--kernel", "train", "--submit")[::2] == (
        2,
        ["vesuvius-kit: --submit must go with --kernel submit, got --kernel train"],
    )
    assert command("push", "--checkpoints", str(tmp_path / "nowhere"))[0] == 2
    notebook_path(checkout, "submit").unlink()
    assert command("push")[0] == 2
    assert all(method == "IntrospectToken" for method, _ in server.calls)
