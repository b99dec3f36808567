"""The kernels' metadata: one table, from which every ``kernel-metadata.json`` comes, and the rules Kaggle states only as hints.

Kaggle's client ignores unknown keys, takes a missing ``enable_internet`` for true, prints a notice when title and slug
differ, and learns from the server alone that a source is unknown. `check_metadata` says all of it beforehand.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from vesuvius_kit.checks import InputValueError, check_choice, make_folder, name_os_errors
from vesuvius_kit.io.volume import write_atomically
from vesuvius_kit.kaggle.paths import BUNDLE_SLUG, COMPETITION_SLUG, MODELS_SLUG

PLACEHOLDER_OWNER = "OWNER"
METADATA_NAME = "kernel-metadata.json"
MODEL_ORIGINS = ("dataset", "train")
LARGEST_JSON = 1 << 24


@dataclass(frozen=True)
class Kernel:
    """One row of the table: what differs between the kernels.

    Parameters
    ----------
    title : str
        As Kaggle shows it; its slug is the kernel's.
    needs_gpu : bool
        Whether the session has the two T4.
    needs_models : bool
        Whether trained weights are mounted.
    """

    title: str
    needs_gpu: bool
    needs_models: bool


KERNELS = {
    "train": Kernel("Vesuvius kit train", needs_gpu=True, needs_models=False),
    "submit": Kernel("Vesuvius kit submit", needs_gpu=True, needs_models=True),
    "explore": Kernel("Vesuvius kit explore", needs_gpu=False, needs_models=False),
}

_REQUIRED_TEXTS = ("id", "title", "code_file", "language", "kernel_type")
_TEXTS = (*_REQUIRED_TEXTS, "machine_shape", "docker_image", "docker_image_pinning_type")
_FLAGS = ("is_private", "enable_gpu", "enable_tpu", "enable_internet")
_SOURCES = ("dataset_sources", "competition_sources", "kernel_sources", "model_sources")
_KEYS = (*_TEXTS, *_FLAGS, *_SOURCES, "keywords", "id_no")
_CHOICES = {
    "language": ("python", "r", "rmarkdown"),
    "kernel_type": ("script", "notebook"),
    "docker_image_pinning_type": ("original", "latest"),
    "machine_shape": ("NvidiaTeslaT4", ""),  # two of them; every other shape is retired or not for this competition
}
_OWNER = r"[a-z0-9]+(?:[_-][a-z0-9]+)*"
_SLUG = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_FORMS = {
    "dataset_sources": (rf"{_OWNER}/{_SLUG}(?:/\d+)?", "owner/slug or owner/slug/version"),
    "competition_sources": (_SLUG, "a competition's slug"),
    "kernel_sources": (rf"{_OWNER}/{_SLUG}(?:/\d+)?", "owner/slug or owner/slug/version"),
    "model_sources": (rf"{_OWNER}/{_SLUG}/[A-Za-z0-9]+/{_SLUG}/\d+", "owner/model/framework/variation/version"),
}
_TITLE_LENGTH = (5, 50)
_SLUG_LENGTH = {"id": 5, "kernel_sources": 5, "dataset_sources": 6}


def kernel_metadata(name: str, owner: str = PLACEHOLDER_OWNER, *, models_from: str = "dataset") -> dict:
    """Return the metadata of one kernel.

    Parameters
    ----------
    name : str
        "train", "submit" or "explore".
    owner : str
        The user's name on Kaggle, in lower case.
    models_from : str
        Where a kernel that needs weights finds them: "dataset", ``<owner>/vesuvius-kit-models``; "train", the output of the
        train kernel.

    Returns
    -------
    dict
        The content of ``kernel-metadata.json``; ``code_file`` is relative to ``kernels/<name>/``.

    Raises
    ------
    InputValueError
        There is no such kernel, no such origin, or the owner is no user name.
    """
    kernel = KERNELS[check_choice("kernel", name, KERNELS)]
    check_choice("models_from", models_from, MODEL_ORIGINS)
    if owner != PLACEHOLDER_OWNER and not re.fullmatch(_OWNER, owner):
        raise InputValueError(f"owner must be a user name in lower case, got {owner!r}")
    datasets = [f"{owner}/{BUNDLE_SLUG}"]
    kernels = []
    if kernel.needs_models and models_from == "dataset":
        datasets.append(f"{owner}/{MODELS_SLUG}")
    elif kernel.needs_models:
        kernels.append(f"{owner}/{_slug_of(KERNELS['train'].title)}")
    return {
        "id": f"{owner}/{_slug_of(kernel.title)}",
        "title": kernel.title,
        "code_file": f"../../notebooks/{name}.ipynb",
        "language": "python",
        "kernel_type": "notebook",
        "is_private": True,
        "enable_gpu": kernel.needs_gpu,
        "enable_tpu": False,
        "enable_internet": False,
        "machine_shape": "NvidiaTeslaT4" if kernel.needs_gpu else "",
        "docker_image_pinning_type": "latest",
        "dataset_sources": datasets,
        "competition_sources": [COMPETITION_SLUG],
        "kernel_sources": kernels,
        "model_sources": [],
        "keywords": [],
    }


def read_json_object(path) -> dict:
    """Read a small JSON file that a person may have edited.

    Parameters
    ----------
    path : str or Path
        The file, in UTF-8 with or without a byte order mark.

    Returns
    -------
    dict

    Raises
    ------
    InputOSError
        It cannot be read.
    InputValueError
        It is not JSON, holds a key twice, or something other than an object.
    """
    path = Path(path)
    with name_os_errors(f"read {path}"):
        content = path.read_bytes()
    if len(content) > LARGEST_JSON:
        raise InputValueError(f"{path} must have at most {LARGEST_JSON} bytes, got {len(content)}")
    try:
        found = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_refuse_repetition)
    except UnicodeDecodeError as error:
        raise InputValueError(f"{path} must be in UTF-8, got other bytes at {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise InputValueError(f"{path} must be JSON, got {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise InputValueError(f"{path} must hold a JSON object, got a {type(found).__name__}")
    return found


def _refuse_repetition(pairs):
    found = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"{key!r} twice")
        found[key] = value
    return found


def find_edits(path, name: str) -> list[str]:
    """Say what a person changed in a generated ``kernel-metadata.json``; a push sends the table's own values.

    Parameters
    ----------
    path : str or Path
        The file.
    name : str
        "train", "submit" or "explore".

    Returns
    -------
    list of str
        The keys that differ, whoever the owner is; empty when none does.

    Raises
    ------
    InputError
        The file cannot be read, see `read_json_object`.
    """
    found, expected = read_json_object(path), kernel_metadata(name)
    owner = found["id"].partition("/")[0] if isinstance(found.get("id"), str) else PLACEHOLDER_OWNER
    expected = _with_owner(expected, owner)
    return sorted(key for key in expected.keys() | found.keys() if found.get(key) != expected.get(key))


def write_kernels(folder, owner: str = PLACEHOLDER_OWNER) -> list[Path]:
    """Write every kernel's metadata.

    Parameters
    ----------
    folder : str or Path
        Such as ``kernels``; made if needed.
    owner : str
        The user's name on Kaggle; in the repository a placeholder stands for it.

    Returns
    -------
    list of pathlib.Path
        ``<folder>/<name>/kernel-metadata.json`` of each kernel; the same table always gives the same bytes.

    Raises
    ------
    InputValueError
        The owner is no user name.
    """
    written = []
    for name in KERNELS:
        text = json.dumps(kernel_metadata(name, owner), indent=2) + "\n"
        path = Path(folder) / name / METADATA_NAME
        make_folder(path.parent)
        with write_atomically(path) as stream:
            stream.write(text)
        written.append(path)
    return written


def check_metadata(metadata, folder, *, allow_placeholder: bool = False) -> list[str]:
    """Say what Kaggle would refuse, ignore or understand otherwise in a kernel's metadata.

    Parameters
    ----------
    metadata : dict
        The content of ``kernel-metadata.json``.
    folder : str or Path
        The folder of that file, which ``code_file`` is relative to.
    allow_placeholder : bool
        Whether the placeholder may stand for the owner, as it does in the repository.

    Returns
    -------
    list of str
        One line for each rule that is broken; empty when all hold.
    """
    if not isinstance(metadata, dict):
        return [f"metadata must be a mapping, got {type(metadata).__name__}"]
    if allow_placeholder:
        metadata = _with_owner(metadata, "owner")
    problems = [f"{key} is unknown to Kaggle and would be ignored" for key in metadata if key not in _KEYS]
    problems += [f"{key} must be given" for key in (*_REQUIRED_TEXTS, *_FLAGS) if key not in metadata]
    problems += _wrong_kinds(metadata)
    if problems:
        return problems  # the rules below take the kinds for granted
    problems = [
        f"{key} must be one of {', '.join(choices)}, got {metadata[key]!r}"
        for key, choices in _CHOICES.items()
        if key in metadata and metadata[key] not in choices
    ]
    problems += _wrong_name(metadata)
    problems += _wrong_code(metadata, Path(folder))
    problems += _wrong_machine(metadata)
    for key in _SOURCES:
        problems += _wrong_sources(key, metadata.get(key, []))
    return problems


def _slug_of(title: str) -> str:
    """Kaggle's slug of a title in plain ASCII."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _with_owner(metadata, owner):
    """The metadata with an owner in place of the placeholder."""

    def fill(value):
        return re.sub(f"^{PLACEHOLDER_OWNER}/", f"{owner}/", value) if isinstance(value, str) else value

    return {
        key: [fill(item) for item in value] if isinstance(value, list) else fill(value)
        for key, value in metadata.items()
    }


def _wrong_kinds(metadata):
    problems = []
    for key, value in metadata.items():
        if key in _TEXTS and not isinstance(value, str):
            problems.append(f"{key} must be a text, got {value!r}")
        elif key in _FLAGS and not isinstance(value, bool):
            # Kaggle's client takes the text "false" for false, but any other misspelling for the default.
            problems.append(f"{key} must be true or false, got {value!r}")
        elif key in (*_SOURCES, "keywords") and not (
            isinstance(value, list) and all(isinstance(item, str) for item in value)
        ):
            problems.append(f"{key} must be a list of texts, got {value!r}")
    return problems


def _wrong_name(metadata):
    identity, title = metadata["id"], metadata["title"]
    match = re.fullmatch(rf"({_OWNER})/({_SLUG})", identity)
    problems = []
    if match is None:
        problems.append(f"id must be owner/slug in lower case, got {identity!r}")
    else:
        slug = match.group(2)
        if len(slug) < _SLUG_LENGTH["id"]:
            problems.append(f"id must have a slug of at least {_SLUG_LENGTH['id']} characters, got {slug!r}")
        if title.isascii() and _slug_of(title) != slug:
            problems.append(f"title must have the slug of the id, {slug!r}, got {_slug_of(title)!r}")
    if not title.isascii():
        problems.append(f"title must be plain ASCII, got {title!r}")
    if not _TITLE_LENGTH[0] <= len(title) <= _TITLE_LENGTH[1]:
        problems.append(f"title must have {_TITLE_LENGTH[0]} to {_TITLE_LENGTH[1]} characters, got {len(title)}")
    return problems


def _wrong_code(metadata, folder):
    code = folder / metadata["code_file"]
    if not metadata["code_file"] or not code.is_file():
        return [f"code_file must exist, got {code}"]
    if metadata["kernel_type"] != "notebook":
        return []
    try:
        content = json.loads(code.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict) or "cells" not in content:
        return [f"code_file must be a notebook as kernel_type says, got {code}"]
    return []


def _wrong_machine(metadata):
    problems = []
    shape = metadata.get("machine_shape", "")
    if metadata["enable_gpu"] and metadata["enable_tpu"]:
        problems.append("enable_gpu and enable_tpu must not both be true")
    if metadata["enable_gpu"] != bool(shape):
        problems.append(f"machine_shape must go with enable_gpu, got {shape!r} with {metadata['enable_gpu']}")
    if metadata["enable_internet"] and metadata.get("competition_sources"):
        problems.append("enable_internet must be false: the competition takes no submission with internet access")
    return problems


def _wrong_sources(key, sources):
    form, words = _FORMS[key]
    problems = [
        f"{key} must hold each source once, got {source!r} again"
        for source in sorted(set(sources))
        if sources.count(source) > 1
    ]
    for source in sources:
        if not re.fullmatch(form, source):
            problems.append(f"{key} must hold {words}, got {source!r}")
        elif key in _SLUG_LENGTH and len(source.split("/")[1]) < _SLUG_LENGTH[key]:
            problems.append(f"{key} must hold slugs of at least {_SLUG_LENGTH[key]} characters, got {source!r}")
    return problems
