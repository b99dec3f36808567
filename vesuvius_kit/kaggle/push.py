"""Send a shipment to Kaggle, each step safe to repeat.

What is there already is asked of Kaggle, not remembered: a data set carries a manifest with the hash of every file. Only which
notebook version belongs to which content is kept in a small file, since Kaggle cannot tell.
"""

import hashlib
import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vesuvius_kit.checks import InputNotFoundError, InputValueError, make_folder
from vesuvius_kit.console import no_progress
from vesuvius_kit.io.volume import write_atomically
from vesuvius_kit.kaggle.errors import KaggleError
from vesuvius_kit.kaggle.metadata import METADATA_NAME, kernel_metadata, read_json_object
from vesuvius_kit.kaggle.shipment import notebook_path, sha256_of
from vesuvius_kit.kaggle.uploads import UploadMemory

logger = logging.getLogger(__name__)

STATE_NAME = "state.json"
DATASET_WAIT_SECONDS = 1800.0


@dataclass(frozen=True)
class KernelRun:
    """One version of a notebook on Kaggle.

    Parameters
    ----------
    kernel : str
        ``owner/slug``.
    version : int
        From 1.
    url : str
        Its page.
    """

    kernel: str
    version: int
    url: str


def describe_shipment(shipment, client=None):
    """Return the lines that say what `push` would send; asks Kaggle, at most, what it holds.

    Parameters
    ----------
    shipment : Shipment
        What would be sent.
    client : KaggleClient, optional
        Without one, nobody is asked and the owner stays open.

    Returns
    -------
    list of str
    """
    owner = client.owner if client else "OWNER"
    lines = []
    for dataset in shipment.datasets:
        ref = f"{owner}/{dataset.slug}"
        size = sum(path.stat().st_size for path in dataset.files.values())
        action = "create or update" if client is None else _intention(client, ref, dataset)
        lines.append(
            f"data set {ref}: {action}, {len(dataset.files)} files, {size / 1e6:.1f} MB, {dataset.digest[:12]}"
        )
        lines += [f"  {name}  {path.stat().st_size} bytes" for name, path in sorted(dataset.files.items())]
    metadata = kernel_metadata(shipment.kernel, owner, models_from=shipment.models_from)
    lines.append(f"notebook {metadata['id']}: {notebook_path(shipment.checkout, shipment.kernel)}")
    lines += [f"  {key}: {json.dumps(value)}" for key, value in metadata.items()]
    return lines


def _intention(client, ref, dataset):
    if client.dataset_state(ref) is None:
        return "create"
    return "unchanged, nothing to send" if _remote_digest(client, ref, dataset) == dataset.digest else "new version"


def push(client, shipment, folder, *, progress=no_progress):
    """Send data sets that have changed, wait until they are processed, and push the notebook, which starts it.

    Parameters
    ----------
    client : KaggleClient
        Whose data sets and notebook they become.
    shipment : Shipment
        What to send.
    folder : str or Path
        Keeps `STATE_NAME`, by which a repeated call finds the version that runs already.
    progress : callable
        See `vesuvius_kit.console`.

    Returns
    -------
    KernelRun

    Raises
    ------
    KaggleError
        Kaggle refused or failed; the same call goes on from there.
    InputNotFoundError
        The notebook needs weights that nobody has uploaded.
    """
    for dataset in shipment.datasets:
        push_dataset(client, dataset, folder, progress=progress)
    _check_models(client, shipment)
    return push_notebook(client, shipment, folder)


def _check_models(client, shipment):
    """A missing source is found by Kaggle only after it has started the notebook."""
    metadata = kernel_metadata(shipment.kernel, client.owner, models_from=shipment.models_from)
    sent = {f"{client.owner}/{dataset.slug}" for dataset in shipment.datasets}
    for ref in metadata["dataset_sources"]:
        if ref not in sent and client.dataset_state(ref) is None:
            raise InputNotFoundError(f"weights must be in data set {ref} or given as checkpoints, got neither")
    for ref in metadata["kernel_sources"]:
        if client.kernel(ref) is None:
            raise InputNotFoundError(
                f"weights must be the output of notebook {ref}, which has never run: push it first"
            )


def push_dataset(client, dataset, folder, *, progress=no_progress) -> bool:
    """Make a data set on Kaggle hold what it shall, and wait until Kaggle has processed it.

    Parameters
    ----------
    client : KaggleClient
        Whose data set it becomes; it is private.
    dataset : Dataset
        What it shall hold.
    folder : str or Path
        Keeps what is known of uploads that were begun.
    progress : callable
        See `vesuvius_kit.console`.

    Returns
    -------
    bool
        Whether anything was sent.

    Raises
    ------
    KaggleError
        Kaggle refused or failed, or did not finish within half an hour.
    """
    ref = f"{client.owner}/{dataset.slug}"
    state = client.dataset_state(ref)
    if state not in (None, "READY", "FAILED"):
        state = _wait_for_dataset(client, ref, progress)
    if state == "READY" and _remote_digest(client, ref, dataset) == dataset.digest:
        logger.info("data set %s is unchanged", ref)
        return False
    memory = UploadMemory(folder)
    keys = {name: f"{ref}/{name} {sha256_of(path)}" for name, path in sorted(dataset.files.items())}
    tokens = {name: client.upload(dataset.files[name], key, memory, progress) for name, key in keys.items()}
    try:
        if state is None:
            client.create_dataset(ref, dataset.title, tokens)
        else:
            _create_version(client, ref, dataset, tokens, progress)
    except KaggleError as error:
        if error.kind == "refused":
            memory.forget(*keys.values())
        if state is not None or (error.status != 409 and "already in use" not in str(error)):
            raise
        # It exists and cannot be seen yet: an earlier run made it, and Kaggle still processes it.
        logger.info("%s", error)
        _wait_for_dataset(client, ref, progress, unseen=error)
        return push_dataset(client, dataset, folder, progress=progress)
    memory.forget(*keys.values())
    _wait_for_dataset(client, ref, progress, dataset)
    logger.info("data set %s is ready", ref)
    return True


def _create_version(client, ref, dataset, tokens, progress):
    """A new version; Kaggle denies it (403) while it still processes another."""
    for waited in client.poll(dataset.slug, DATASET_WAIT_SECONDS, 5, 30, progress):
        try:
            return client.create_dataset_version(ref, f"content {dataset.digest[:12]}", tokens)
        except KaggleError as error:
            if error.status != 403 or (waited > 120 and client.dataset_state(ref) == "READY"):
                raise
            denied = error
    raise denied


def _wait_for_dataset(client, ref, progress, dataset=None, unseen=None):
    """Wait until the newest version is processed and, if ``dataset`` is given, holds its content; return the state."""
    state = None
    for _ in client.poll(ref.split("/")[1], DATASET_WAIT_SECONDS, 5, 30, progress):
        state = client.dataset_state(ref)
        if state == "READY" and (dataset is None or _remote_digest(client, ref, dataset) == dataset.digest):
            return state
        if state in ("FAILED", "DELETED"):
            if dataset is None:
                return state
            raise KaggleError(f"data set {ref}: Kaggle could not process it ({state})")
    if unseen is not None and state is None:
        raise unseen
    raise KaggleError(
        f"data set {ref}: not processed after {DATASET_WAIT_SECONDS / 60:.0f} minutes ({state or 'not visible'})"
    )


def _remote_digest(client, ref, dataset):
    content = client.dataset_file(ref, dataset.manifest_name)
    try:
        return None if content is None else json.loads(content).get("digest")
    except (ValueError, AttributeError, RecursionError):
        # Somebody else's file of that name: not ours, so it differs.
        return None


def push_notebook(client, shipment, folder) -> KernelRun:
    """Push a notebook unless that very content runs or has run already.

    Parameters
    ----------
    client : KaggleClient
        Whose notebook it becomes.
    shipment : Shipment
        Which notebook, and the data it reads.
    folder : str or Path
        Keeps `STATE_NAME`.

    Returns
    -------
    KernelRun

    Raises
    ------
    KaggleError
        Kaggle refused, or left out a source that the notebook names.
    """
    metadata = kernel_metadata(shipment.kernel, client.owner, models_from=shipment.models_from)
    kernel, notebook = metadata["id"], notebook_path(shipment.checkout, shipment.kernel)
    content = json.dumps([metadata, sha256_of(notebook), _versions_read(client, metadata)], sort_keys=True)
    fingerprint = hashlib.sha256(content.encode()).hexdigest()
    noted = _read_state(folder).get(kernel, {})
    remote = client.kernel(kernel)
    if noted.get("fingerprint") == fingerprint and remote is not None:
        run = KernelRun(kernel, noted["version"], noted["url"])
        if not run.version and _is_newer(remote, noted["before"], notebook):
            # An earlier run was stopped between pushing and hearing of it.
            run = _accept(
                client, folder, noted, KernelRun(kernel, remote.version, run.url), _left_out(metadata, remote)
            )
        if run.version:
            logger.info("notebook %s version %d holds this content already", kernel, run.version)
            return run
    url, before = f"https://www.kaggle.com/code/{kernel}", 0 if remote is None else remote.version
    noted = {"fingerprint": fingerprint, "before": before, "version": 0, "url": url}
    _note(folder, kernel, noted)
    try:
        answer = _send_notebook(client, metadata, notebook, lambda: _is_newer(client.kernel(kernel), before, notebook))
    except KaggleError as error:
        if error.kind == "refused":
            forget_run(folder, kernel)
        raise
    if answer is None:
        remote = client.kernel(kernel)
        run, left_out = KernelRun(kernel, remote.version, url), _left_out(metadata, remote)
    else:
        version = answer.version_number or client.kernel(kernel).version
        run = KernelRun(kernel, version, answer.url or url)
        # Kaggle only mentions what it did not accept, and runs the notebook without it.
        left_out = {
            "dataset sources": answer.invalid_dataset_sources,
            "competition sources": answer.invalid_competition_sources,
            "kernel sources": answer.invalid_kernel_sources,
            "model sources": answer.invalid_model_sources,
            "tags": answer.invalid_tags,
        }
    run = _accept(client, folder, noted, run, left_out)
    logger.info("notebook %s version %d is pushed: %s", kernel, run.version, run.url)
    return run


def _send_notebook(client, metadata, notebook, happened):
    """Push a notebook from a folder of its own, as the official client wants it."""
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copy(notebook, Path(scratch) / notebook.name)
        text = json.dumps({**metadata, "code_file": notebook.name})
        (Path(scratch) / METADATA_NAME).write_text(text, encoding="utf-8")
        return client.push_kernel(metadata["id"], scratch, happened)


def _accept(client, folder, noted, run, left_out):
    """Note a version that runs; one that lacks a source must not be taken for a good one, now or later."""
    text = "; ".join(f"{name} {', '.join(values)}" for name, values in left_out.items() if values)
    if text:
        forget_run(folder, run.kernel)
        message = f"Kaggle does not accept {text}; version {run.version} runs without, stop it at {run.url}"
        raise KaggleError(client.scrub(f"pushing notebook {run.kernel}: {message}"), kind="refused")
    _note(folder, run.kernel, {**noted, "version": run.version, "url": run.url})
    return run


def _left_out(metadata, remote):
    """The sources that were asked for and are not there."""
    return {key.replace("_", " "): sorted(set(metadata[key]) - set(there)) for key, there in remote.sources.items()}


def _is_newer(remote, before, notebook):
    """Whether Kaggle's newest version came after ``before`` and has the code of ``notebook``."""
    if remote is None or remote.version <= before:
        return False
    return _cells(remote.text) == _cells(notebook.read_text(encoding="utf-8"))


def _cells(text):
    """Kind and source of each cell: what is left of a notebook however it was formatted; None if it is none."""
    try:
        cells = json.loads(text)["cells"]
        return [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in cells]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _versions_read(client, metadata):
    """The versions of what a notebook reads: it is a new run if one of them is new."""
    datasets = {ref: client.dataset_version(ref) for ref in metadata["dataset_sources"]}
    kernels = {ref: client.kernel(ref) for ref in metadata["kernel_sources"]}
    return [datasets, {ref: None if known is None else known.version for ref, known in kernels.items()}]


def forget_run(folder, kernel) -> None:
    """Let the next push start a new version of a notebook even if its content is the same.

    Parameters
    ----------
    folder : str or Path
        Keeps `STATE_NAME`.
    kernel : str
        ``owner/slug``.
    """
    _note(folder, kernel, None)


def _read_state(folder):
    path = Path(folder) / STATE_NAME
    if not path.exists():
        return {}
    state = read_json_object(path)
    for kernel, entry in state.items():
        kinds = {"fingerprint": str, "url": str, "before": int, "version": int}
        if not isinstance(entry, dict) or not all(isinstance(entry.get(key), kind) for key, kind in kinds.items()):
            raise InputValueError(
                f"{path} must be as the kit wrote it, got another entry for {kernel}; remove it to start anew"
            )
    return state


def _note(folder, kernel, entry):
    state = _read_state(folder)
    state.pop(kernel, None)
    if entry is not None:
        state[kernel] = entry
    make_folder(folder)
    with write_atomically(Path(folder) / STATE_NAME) as stream:
        json.dump(state, stream, indent=1, sort_keys=True)
