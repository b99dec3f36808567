"""What the kit asks of Kaggle: data sets, notebooks and submissions, one method for each request."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vesuvius_kit.kaggle.connection import Connection, redacted
from vesuvius_kit.kaggle.errors import KaggleError
from vesuvius_kit.kaggle.official import fill, refuse_error, request, unpack

# What cannot be seen, or is not there: Kaggle also answers 403 in the first moments of a new data set.
_ABSENT = (403, 404)
_SOURCES = {f"{kind}_sources": f"{kind}_data_sources" for kind in ("dataset", "competition", "kernel", "model")}
_PUSHED = ("language", "kernel_type", "is_private", "enable_gpu", "enable_tpu", "enable_internet", "machine_shape",
           "docker_image_pinning_type")  # fmt: skip


@dataclass(frozen=True)
class RemoteKernel:
    """The newest version (0: not told) of a notebook, what it reads but for models, and its text, perhaps formatted anew."""

    version: int
    sources: dict[str, tuple[str, ...]]
    text: str


class KaggleClient(Connection):
    """What a user may ask of Kaggle; data sets and notebooks are named ``owner/slug``."""

    @redacted
    def dataset_state(self, dataset: str) -> str | None:
        """Return ``READY``, ``FAILED``, or a state on the way of a data set's newest version; None if none is visible."""
        send = request("datasets", "GetDatasetStatus", **_split(dataset))
        answer = self._ask(f"the state of data set {dataset}", send, _ABSENT)
        return None if answer is None else answer.status.name

    @redacted
    def dataset_version(self, dataset: str) -> int:
        """Return the number of a data set's newest version; 0 if none is visible."""
        send = request("datasets", "GetDataset", **_split(dataset))
        answer = self._ask(f"the version of data set {dataset}", send, _ABSENT)
        return 0 if answer is None else answer.current_version_number or 0

    @redacted
    def dataset_file(self, dataset: str, name: str) -> bytes | None:
        """Return the content of one small file of a data set's newest version; None if there is none."""
        send = request("datasets", "DownloadDataset", **_split(dataset), file_name=name)
        content = self._ask(f"{name} of data set {dataset}", lambda kaggle: send(kaggle).content, _ABSENT)
        return None if content is None else unpack(content)

    @redacted
    def create_dataset(self, dataset: str, title: str, files: Mapping[str, str]) -> None:
        """Create a private data set from the tokens of uploaded files by their paths; the title has 6 to 50 characters."""
        owner, slug = dataset.split("/")
        about = {"owner_slug": owner, "slug": slug, "title": title, "license_name": "MIT", "is_private": True}
        send, what = request("datasets", "CreateDataset", **about, **_tree(files)), f"creating data set {dataset}"
        refuse_error(what, self._do_once(what, send, lambda: self.dataset_state(dataset) is not None))

    @redacted
    def create_dataset_version(self, dataset: str, notes: str, files: Mapping[str, str]) -> None:
        """Make uploaded files, given as to `create_dataset`, the newest version of a data set."""
        before, what = self.dataset_version(dataset), f"a new version of data set {dataset}"
        body = fill("datasets", "ApiCreateDatasetVersionRequestBody", version_notes=notes, **_tree(files))
        send = request("datasets", "CreateDatasetVersion", **_split(dataset), body=body)
        refuse_error(what, self._do_once(what, send, lambda: self.dataset_version(dataset) > before))

    @redacted
    def kernel(self, kernel: str) -> RemoteKernel | None:
        """Return what Kaggle knows of a notebook's newest version; None if none is visible."""
        send = request("kernels", "GetKernel", **_split(kernel, "user_name", "kernel_slug"))
        answer = self._ask(f"the version of notebook {kernel}", send, _ABSENT)
        if answer is None or answer.metadata is None:
            return None
        known, text = answer.metadata, answer.blob.source if answer.blob else ""
        told = {key: getattr(known, field, None) for key, field in _SOURCES.items() if key != "model_sources"}
        sources = {key: tuple(names or ()) for key, names in told.items()}
        return RemoteKernel(known.current_version_number or 0, sources, text)

    @redacted
    def push_kernel(self, metadata: Mapping[str, Any], notebook: Path, happened: Callable[[], bool]) -> Any:
        """Push a notebook, which starts it; return kagglesdk's answer, or None if it was lost and the notebook is there.

        ``metadata`` is the content of ``kernel-metadata.json``. ``happened`` says, when the answer was lost, whether the
        notebook was pushed nevertheless.
        """
        content = json.loads(notebook.read_text(encoding="utf-8"))
        for cell in content["cells"]:
            # A list of lines is allowed in a notebook, but not by the server.
            cell["source"] = "".join(cell["source"])
            if cell["cell_type"] == "code":
                cell["outputs"] = []
        fields = {key: metadata[key] for key in _PUSHED} | {field: metadata[key] for key, field in _SOURCES.items()}
        fields |= {"slug": metadata["id"], "new_title": metadata["title"], "category_ids": metadata["keywords"]}
        what = f"pushing notebook {metadata['id']}"
        answer = self._do_once(what, request("kernels", "SaveKernel", **fields, text=json.dumps(content)), happened)
        refuse_error(what, answer)
        return answer

    @redacted
    def kernel_state(self, kernel: str, version: int) -> tuple[str, str]:
        """Return the state of one version of a notebook (``QUEUED``, ``COMPLETE`` and so on) and the reason if it failed."""
        send = request("kernels", "GetKernelSessionStatus", **_label(kernel, version))
        answer = self._ask(f"the state of notebook {kernel} version {version}", send)
        return answer.status.name, self.scrub(answer.failure_message or "")

    @redacted
    def kernel_output(self, kernel: str, version: int) -> tuple[dict[str, str], str]:
        """Return the address of each file that one version of a notebook left, by its path, and the log."""
        what, urls, log = f"the output of notebook {kernel} version {version}", {}, ""
        for answer in self._pages(what, "kernels", "ListKernelSessionOutput", **_label(kernel, version)):
            urls.update({file.file_name: file.url for file in answer.files or []})
            log = log or answer.log or ""
        return urls, self.hide(log)

    @redacted
    def submit(self, competition: str, kernel: str, version: int, file_name: str, description: str) -> None:
        """Submit a file that one version of a notebook left; `find_submission` finds it by the description."""
        fields = {**_split(kernel, "kernel_owner", "kernel_slug"), "kernel_version": version, "file_name": file_name}
        fields |= {"competition_name": competition, "submission_description": description}
        what = f"submitting {kernel} version {version} to {competition}"

        def is_there() -> bool:
            return self.find_submission(competition, description) is not None

        answer = self._do_once(what, request("competitions", "CreateCodeSubmission", **fields), is_there)
        if answer is not None and not answer.ref and not is_there():
            raise KaggleError(f"{what}: {answer.message or 'refused without a reason'}", "refused")

    @redacted
    def find_submission(self, competition: str, description: str) -> Any:
        """Return the newest submission with exactly this description, kagglesdk's ApiSubmission; None if there is none."""
        what, method = f"the submissions to {competition}", "ListSubmissions"
        for answer in self._pages(what, "competitions", method, competition_name=competition):
            for submission in answer.submissions or []:
                if submission.description == description:
                    return submission
        return None

    def _pages(self, what: str, service: str, method: str, **fields: Any) -> Iterator[Any]:
        """Every answer to a request that Kaggle answers page by page."""
        token = ""
        while True:
            answer = self._ask(what, request(service, method, **fields, page_size=100, page_token=token or None))
            yield answer
            if not answer.next_page_token or answer.next_page_token == token:
                return
            token = answer.next_page_token


def _split(ref: str, owner_field: str = "owner_slug", slug_field: str = "dataset_slug") -> dict[str, Any]:
    owner, slug = ref.split("/")
    return {owner_field: owner, slug_field: slug}


def _label(kernel: str, version: int) -> dict[str, Any]:
    # A bare number is answered with 404; without a label the newest version answers for all.
    return {**_split(kernel, "user_name", "kernel_slug"), "version_label": f"v{version}"}


def _tree(files: Mapping[str, str]) -> dict[str, Any]:
    """The tokens of files by their paths as the files and directories of a request."""
    here = [fill("datasets", "ApiDatasetNewFile", token=files[name]) for name in sorted(files) if "/" not in name]
    below: dict[str, dict[str, str]] = {}
    for folder, name, token in ((*name.split("/", 1), token) for name, token in sorted(files.items()) if "/" in name):
        below.setdefault(folder, {})[name] = token
    kind = "ApiUploadDirectoryInfo"
    return {"files": here, "directories": [fill("datasets", kind, name=name, **_tree(below[name])) for name in below]}
