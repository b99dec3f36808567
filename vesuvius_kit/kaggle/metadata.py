"""The kernels' metadata: one table, from which every ``kernel-metadata.json`` comes, and the rules Kaggle states only as hints.

Kaggle's client ignores unknown keys, takes a missing ``enable_internet`` for true, prints a notice when title and slug
differ, and learns from the server alone that a source is unknown. `check_metadata` says all of it beforehand.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vesuvius_kit.checks import InputValueError, check_choice, make_folder, name_os_errors
from vesuvius_kit.io.atomic import write_atomically
from vesuvius_kit.kaggle.paths import BUNDLE_SLUG, COMPETITION_SLUG, MODELS_SLUG

PLACEHOLDER_OWNER = "OWNER"
METADATA_NAME = "kernel-metadata.json"
MODEL_ORIGINS = ("dataset", "train")
LARGEST_JSON = 1 << 24


@dataclass(frozen=True)
class Kernel:
    """One row of the table: the title as Kaggle shows it, and whether it needs the two T4 and trained weights."""

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


def kernel_metadata(name: str, owner: str = PLACEHOLDER_OWNER, *, models_from: str = "dataset") -> dict[str, Any]:
    """Return the content of ``kernel-metadata.json`` of one kernel; ``code_file`` is relative to ``kernels/<name>/``.

    ``owner`` is the user's name on Kaggle, in lower case. A kernel that needs weights finds them in the data set
    ``<owner>/vesuvius-kit-models`` (``models_from="dataset"``) or in the output of the train kernel ("train").
    """
    kernel = KERNELS[check_choice("kernel", name, KERNELS)]
    check_choice("models_from", models_from, MODEL_ORIGINS)
    if owner != PLACEHOLDER_OWNER and not re.fullmatch(_OWNER, owner):
        raise InputValueError(f"owner must be a user name in lower case, got {owner!r}")
    models = [f"{owner}/{MODELS_SLUG}"] if kernel.needs_models and models_from == "dataset" else []
    trained = [f"{owner}/{_slug_of(KERNELS['train'].title)}"] if kernel.needs_models and not models else []
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
        "dataset_sources": [f"{owner}/{BUNDLE_SLUG}", *models],
        "competition_sources": [COMPETITION_SLUG],
        "kernel_sources": trained,
        "model_sources": [],
        "keywords": [],
    }


def read_json_object(path: Path | str) -> dict[str, Any]:
    """Read a small JSON file that a person may have edited; one that holds a key twice, or no object, is refused."""
    path = Path(path)
    with name_os_errors(f"read {path}"):
        content = path.read_bytes()
    if len(content) > LARGEST_JSON:
        raise InputValueError(f"{path} must have at most {LARGEST_JSON} bytes, got {len(content)}")
    try:
        found = json.loads(content.decode("utf-8-sig"), object_pairs_hook=refuse_repeated_keys)
    except UnicodeDecodeError as error:
        raise InputValueError(f"{path} must be in UTF-8, got other bytes at {error.start}") from error
    except (ValueError, RecursionError) as error:
        raise InputValueError(f"{path} must be JSON, got {' '.join(str(error).split())}") from error
    if not isinstance(found, dict):
        raise InputValueError(f"{path} must hold a JSON object, got a {type(found).__name__}")
    return found


def refuse_repeated_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Make the dict of a JSON object whose keys differ: an ``object_pairs_hook``."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"{Counter(key for key, _ in pairs).most_common(1)[0][0]!r} twice")
    return found


def find_edits(path: Path | str, name: str) -> list[str]:
    """Return the keys that a person changed in a generated ``kernel-metadata.json``, whoever the owner is."""
    found = read_json_object(path)
    owner = str(found.get("id", PLACEHOLDER_OWNER)).partition("/")[0]
    expected = _with_owner(kernel_metadata(name), owner)
    return sorted(key for key in expected.keys() | found.keys() if found.get(key) != expected.get(key))


def write_kernels(folder: Path | str, owner: str = PLACEHOLDER_OWNER) -> list[Path]:
    """Write ``<folder>/<name>/kernel-metadata.json`` of each kernel; the same table always gives the same bytes."""
    written = [Path(folder) / name / METADATA_NAME for name in KERNELS]
    for name, path in zip(KERNELS, written, strict=True):
        make_folder(path.parent)
        with write_atomically(path) as stream:
            stream.write(json.dumps(kernel_metadata(name, owner), indent=2) + "\n")
    return written


def check_metadata(metadata: object, folder: Path | str, *, allow_placeholder: bool = False) -> list[str]:
    """Say what Kaggle would refuse, ignore or understand otherwise in the metadata in a folder: a line for each rule."""
    if not isinstance(metadata, dict):
        return [f"metadata must be a mapping, got {type(metadata).__name__}"]
    metadata = _with_owner(metadata, "owner") if allow_placeholder else metadata
    # The rules take the keys and kinds for granted.
    return list(_break_form(metadata)) or list(_break_rules(metadata, Path(folder)))


def _slug_of(title: str) -> str:
    """Kaggle's slug of a title in plain ASCII."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _with_owner(metadata: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """The metadata with an owner in place of the placeholder."""

    def fill(value: Any) -> Any:
        if isinstance(value, list):
            return [fill(item) for item in value]
        return re.sub(f"^{PLACEHOLDER_OWNER}/", f"{owner}/", value) if isinstance(value, str) else value

    return {key: fill(value) for key, value in metadata.items()}


def _break_form(metadata: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"{key} is unknown to Kaggle and would be ignored" for key in metadata if key not in _KEYS)
    yield from (f"{key} must be given" for key in (*_REQUIRED_TEXTS, *_FLAGS) if key not in metadata)
    for key, value in metadata.items():
        is_list = isinstance(value, list) and all(isinstance(item, str) for item in value)
        if key in _TEXTS and not isinstance(value, str):
            yield f"{key} must be a text, got {value!r}"
        if key in _FLAGS and not isinstance(value, bool):
            # Kaggle's client takes the text "false" for false, but any other misspelling for the default.
            yield f"{key} must be true or false, got {value!r}"
        if key in (*_SOURCES, "keywords") and not is_list:
            yield f"{key} must be a list of texts, got {value!r}"


def _break_rules(metadata: Mapping[str, Any], folder: Path) -> Iterator[str]:
    for key, choices in _CHOICES.items():
        if key in metadata and metadata[key] not in choices:
            yield f"{key} must be one of {', '.join(choices)}, got {metadata[key]!r}"
    yield from _break_names(metadata["id"], metadata["title"])
    code = folder / metadata["code_file"]
    if not metadata["code_file"] or not code.is_file():
        yield f"code_file must exist, got {code}"
    elif metadata["kernel_type"] == "notebook" and not _is_notebook(code):
        yield f"code_file must be a notebook as kernel_type says, got {code}"
    shape = metadata.get("machine_shape", "")
    if metadata["enable_gpu"] and metadata["enable_tpu"]:
        yield "enable_gpu and enable_tpu must not both be true"
    if metadata["enable_gpu"] != bool(shape):
        yield f"machine_shape must go with enable_gpu, got {shape!r} with {metadata['enable_gpu']}"
    if metadata["enable_internet"] and metadata.get("competition_sources"):
        yield "enable_internet must be false: the competition takes no submission with internet access"
    for key in _SOURCES:
        yield from _break_sources(key, metadata.get(key, []))


def _break_names(identity: str, title: str) -> Iterator[str]:
    match = re.fullmatch(rf"{_OWNER}/({_SLUG})", identity)
    if match is None:
        yield f"id must be owner/slug in lower case, got {identity!r}"
    if match and len(match[1]) < _SLUG_LENGTH["id"]:
        yield f"id must have a slug of at least {_SLUG_LENGTH['id']} characters, got {match[1]!r}"
    if match and title.isascii() and _slug_of(title) != match[1]:
        yield f"title must have the slug of the id, {match[1]!r}, got {_slug_of(title)!r}"
    if not title.isascii():
        yield f"title must be plain ASCII, got {title!r}"
    if not _TITLE_LENGTH[0] <= len(title) <= _TITLE_LENGTH[1]:
        yield f"title must have {_TITLE_LENGTH[0]} to {_TITLE_LENGTH[1]} characters, got {len(title)}"


def _break_sources(key: str, sources: list[str]) -> Iterator[str]:
    form, words = _FORMS[key]
    for source in sorted({source for source in sources if sources.count(source) > 1}):
        yield f"{key} must hold each source once, got {source!r} again"
    for source in sources:
        if not re.fullmatch(form, source):
            yield f"{key} must hold {words}, got {source!r}"
        elif key in _SLUG_LENGTH and len(source.split("/")[1]) < _SLUG_LENGTH[key]:
            yield f"{key} must hold slugs of at least {_SLUG_LENGTH[key]} characters, got {source!r}"


def _is_notebook(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and "cells" in content
