"""Send a shipment to Kaggle, each step safe to repeat.

What is there already is asked of Kaggle, not remembered: a data set carries a manifest with the hash of every file. Only which
notebook version belongs to which content is kept in a small file, since Kaggle cannot tell.
"""

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vesuvius_kit.checks import InputNotFoundError
from vesuvius_kit.console import Progress, no_progress
from vesuvius_kit.kaggle.client import KaggleClient, RemoteKernel
from vesuvius_kit.kaggle.errors import KaggleError
from vesuvius_kit.kaggle.metadata import kernel_metadata
from vesuvius_kit.kaggle.shipment import Dataset, Shipment, notebook_path, sha256_of
from vesuvius_kit.kaggle.uploads import Memory, UploadMemory

logger = logging.getLogger(__name__)

STATE_NAME = "state.json"
DATASET_WAIT_SECONDS = 1800.0


@dataclass(frozen=True)
class KernelRun:
    """One version, from 1, of a notebook on Kaggle, ``owner/slug``, and its page."""

    kernel: str
    version: int
    url: str

    @property
    def slug(self) -> str:
        """The notebook's name without its owner."""
        return self.kernel.split("/")[1]

    def __str__(self) -> str:
        return f"notebook {self.kernel} version {self.version}"


def describe_shipment(shipment: Shipment, client: KaggleClient | None = None) -> list[str]:
    """Return the lines that say what `push` would send; asks Kaggle, at most, what it holds, and nobody without a client."""
    owner = client.owner if client else "OWNER"
    lines = []
    for dataset in shipment.datasets:
        ref = f"{owner}/{dataset.slug}"
        size = sum(path.stat().st_size for path in dataset.files.values())
        digest, action = dataset.digest[:12], "create or update" if client is None else "new version"
        if client and client.dataset_state(ref) is None:
            action = "create"
        elif client and _is_held(client, ref, dataset):
            action = "unchanged, nothing to send"
        lines.append(f"data set {ref}: {action}, {len(dataset.files)} files, {size / 1e6:.1f} MB, {digest}")
        lines += [f"  {name}  {path.stat().st_size} bytes" for name, path in sorted(dataset.files.items())]
    metadata = kernel_metadata(shipment.kernel, owner, models_from=shipment.models_from)
    lines.append(f"notebook {metadata['id']}: {notebook_path(shipment.checkout, shipment.kernel)}")
    return lines + [f"  {key}: {json.dumps(value)}" for key, value in metadata.items()]


def push(
    client: KaggleClient, shipment: Shipment, folder: Path | str, *, progress: Progress = no_progress
) -> KernelRun:
    """Send data sets that have changed, wait until they are processed, and push the notebook, which starts it.

    ``folder`` keeps `STATE_NAME`, by which a repeated call finds the version that runs already. After a `KaggleError` the same
    call goes on from there.
    """
    for dataset in shipment.datasets:
        push_dataset(client, dataset, folder, progress=progress)
    # A missing source is found by Kaggle only after it has started the notebook.
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
    return push_notebook(client, shipment, folder)


def push_dataset(
    client: KaggleClient, dataset: Dataset, folder: Path | str, *, progress: Progress = no_progress
) -> bool:
    """Make a private data set hold what it shall and wait until Kaggle has processed it; return whether anything was sent."""
    ref = f"{client.owner}/{dataset.slug}"
    state = client.dataset_state(ref)
    if state not in (None, "READY", "FAILED"):
        state = _wait_for_dataset(client, ref, progress)
    if state == "READY" and _is_held(client, ref, dataset):
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
        if _wait_for_dataset(client, ref, progress) is None:
            raise
        return push_dataset(client, dataset, folder, progress=progress)
    memory.forget(*keys.values())
    _wait_for_dataset(client, ref, progress, dataset)
    logger.info("data set %s is ready", ref)
    return True


def _create_version(
    client: KaggleClient, ref: str, dataset: Dataset, tokens: Mapping[str, str], progress: Progress
) -> None:
    """A new version; Kaggle denies it (403) while it still processes another."""
    for waited in client.poll(dataset.slug, DATASET_WAIT_SECONDS, 5, 30, progress):
        try:
            return client.create_dataset_version(ref, f"content {dataset.digest[:12]}", tokens)
        except KaggleError as error:
            is_ready = waited > 120 and client.dataset_state(ref) == "READY"
            if error.status != 403 or is_ready or waited >= DATASET_WAIT_SECONDS:
                raise


def _wait_for_dataset(client: KaggleClient, ref: str, progress: Progress, content: Dataset | None = None) -> str | None:
    """Wait until the newest version is processed and, if ``content`` is given, holds it; return its state."""
    state = None
    for _ in client.poll(ref.split("/")[1], DATASET_WAIT_SECONDS, 5, 30, progress):
        state = client.dataset_state(ref)
        if state == "READY" and (content is None or _is_held(client, ref, content)):
            return state
        if state in ("FAILED", "DELETED") and content is None:
            return state
        if state in ("FAILED", "DELETED"):
            raise KaggleError(f"data set {ref}: Kaggle could not process it ({state})")
    if state is None and content is None:
        return None
    minutes = f"{DATASET_WAIT_SECONDS / 60:.0f} minutes"
    raise KaggleError(f"data set {ref}: not processed after {minutes} ({state or 'not visible'})")


def _is_held(client: KaggleClient, ref: str, dataset: Dataset) -> bool:
    """Whether the data set on Kaggle has the digest of this one."""
    content = client.dataset_file(ref, dataset.manifest_name)
    try:
        return content is not None and json.loads(content).get("digest") == dataset.digest
    except (ValueError, AttributeError, RecursionError):
        return False  # somebody else's file of that name


def push_notebook(client: KaggleClient, shipment: Shipment, folder: Path | str) -> KernelRun:
    """Push a notebook, see `push`, unless that very content runs or has run already; refuse one that lacks a source."""
    metadata = kernel_metadata(shipment.kernel, client.owner, models_from=shipment.models_from)
    kernel, notebook = metadata["id"], notebook_path(shipment.checkout, shipment.kernel)
    # It is a new run, too, if what it reads has a new version.
    read: list[Any] = [client.dataset_version(ref) for ref in metadata["dataset_sources"]]
    read += [known and known.version for known in map(client.kernel, metadata["kernel_sources"])]
    content = json.dumps([metadata, sha256_of(notebook), read], sort_keys=True)
    fingerprint = hashlib.sha256(content.encode()).hexdigest()
    state = _state(folder)
    noted = state.read().get(kernel, {})
    remote = client.kernel(kernel)
    if noted.get("fingerprint") == fingerprint and remote is not None:
        run = KernelRun(kernel, noted["version"], noted["url"])
        if not run.version and _is_newer(remote, noted["before"], notebook):
            # An earlier run was stopped between pushing and hearing of it.
            run = KernelRun(kernel, remote.version, run.url)
            _accept(state, noted, run, _left_out(metadata, remote))
        if run.version:
            logger.info("notebook %s version %d holds this content already", kernel, run.version)
            return run
    url, before = f"https://www.kaggle.com/code/{kernel}", 0 if remote is None else remote.version
    noted = {"fingerprint": fingerprint, "before": before, "version": 0, "url": url}
    state.write(state.read() | {kernel: noted})
    try:
        answer = client.push_kernel(metadata, notebook, lambda: _is_newer(client.kernel(kernel), before, notebook))
    except KaggleError as error:
        if error.kind == "refused":
            state.forget(kernel)
        raise
    version = answer.version_number if answer is not None else 0
    remote = None if version else client.kernel(kernel)
    if answer is None:
        left_out = _left_out(metadata, remote)
    else:
        url = answer.url or url
        # Kaggle only mentions what it did not accept, and runs the notebook without it.
        kinds = ("dataset_sources", "competition_sources", "kernel_sources", "model_sources", "tags")
        left_out = {kind.replace("_", " "): getattr(answer, f"invalid_{kind}") for kind in kinds}
    run = KernelRun(kernel, remote.version if remote else version, url)
    _accept(state, noted, run, left_out)
    logger.info("%s is pushed: %s", run, run.url)
    return run


def _accept(state: Memory, noted: Mapping[str, Any], run: KernelRun, left_out: Mapping[str, Sequence[str]]) -> None:
    """Note a version that runs; one that lacks a source must not be taken for a good one, now or later."""
    text = "; ".join(f"{name} {', '.join(values)}" for name, values in left_out.items() if values)
    if text:
        state.forget(run.kernel)
        message = f"Kaggle does not accept {text}; version {run.version} runs without, stop it at {run.url}"
        raise KaggleError(f"pushing notebook {run.kernel}: {message}", "refused")
    state.write(state.read() | {run.kernel: {**noted, "version": run.version, "url": run.url}})


def _left_out(metadata: Mapping[str, Any], remote: RemoteKernel | None) -> dict[str, list[str]]:
    """The sources that were asked for and are not there."""
    sources = remote.sources if remote else {}
    return {key.replace("_", " "): sorted(set(metadata[key]) - set(there)) for key, there in sources.items()}


def _is_newer(remote: RemoteKernel | None, before: int, notebook: Path) -> bool:
    """Whether Kaggle's newest version came after ``before`` and has the code of ``notebook``."""
    newer = remote if remote and remote.version > before else None
    return newer is not None and _cells(newer.text) == _cells(notebook.read_text(encoding="utf-8"))


def _cells(text: str) -> list[tuple[str, str]] | None:
    """Kind and source of each cell: what is left of a notebook however it was formatted; None if it is none."""
    try:
        cells = json.loads(text)["cells"]
        return [(cell["cell_type"], "".join(cell["source"]).strip()) for cell in cells]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def forget_run(folder: Path | str, kernel: str) -> None:
    """Let the next push start a new version of a notebook even if its content is the same."""
    _state(folder).forget(kernel)


def _state(folder: Path | str) -> Memory:
    return Memory(Path(folder) / STATE_NAME, {"fingerprint": str, "url": str, "before": int, "version": int})
