"""What the kit asks of Kaggle: data sets, notebooks and submissions, one method for each request.

The requests and responses are those of the official client (kagglesdk); `vesuvius_kit.kaggle.connection` sends them.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

from vesuvius_kit.kaggle.connection import Connection, discreet
from vesuvius_kit.kaggle.errors import KaggleError


@dataclass(frozen=True)
class RemoteKernel:
    """The newest version of a notebook, as Kaggle tells it.

    Parameters
    ----------
    version : int
        Its number; 0 if Kaggle does not say.
    sources : dict of str to tuple of str
        What it reads, by the keys of ``kernel-metadata.json``.
    text : str
        The notebook itself, which Kaggle may have formatted anew.
    """

    version: int
    sources: dict
    text: str


class KaggleClient(Connection):
    """What a user may ask of Kaggle; constructed as a `vesuvius_kit.kaggle.connection.Connection`."""

    @discreet
    def dataset_state(self, dataset):
        """Return the processing state of a data set's newest version.

        Parameters
        ----------
        dataset : str
            ``owner/slug``.

        Returns
        -------
        str or None
            ``READY``, ``FAILED``, or a state on the way; None if the user cannot see such a data set, which is also Kaggle's
            answer (403) in the first moments of a new one.
        """
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetStatusRequest

        request = ApiGetDatasetStatusRequest()
        request.owner_slug, request.dataset_slug = dataset.split("/")
        answer = self._ask(
            f"the state of data set {dataset}",
            lambda kaggle: kaggle.datasets.dataset_api_client.get_dataset_status(request),
            absent=(403, 404),
        )
        return None if answer is None else answer.status.name

    @discreet
    def dataset_version(self, dataset):
        """Return the number of a data set's newest version.

        Parameters
        ----------
        dataset : str
            ``owner/slug``.

        Returns
        -------
        int
            0 if the user cannot see such a data set.
        """
        from kagglesdk.datasets.types.dataset_api_service import ApiGetDatasetRequest

        request = ApiGetDatasetRequest()
        request.owner_slug, request.dataset_slug = dataset.split("/")
        answer = self._ask(
            f"the version of data set {dataset}",
            lambda kaggle: kaggle.datasets.dataset_api_client.get_dataset(request),
            absent=(403, 404),
        )
        return 0 if answer is None else answer.current_version_number or 0

    @discreet
    def dataset_file(self, dataset, name):
        """Return the content of one small file of a data set's newest version.

        Parameters
        ----------
        dataset : str
            ``owner/slug``.
        name : str
            The file's name.

        Returns
        -------
        bytes or None
            None if there is no such file, or no such data set.
        """
        from kagglesdk.datasets.types.dataset_api_service import ApiDownloadDatasetRequest

        request = ApiDownloadDatasetRequest()
        request.owner_slug, request.dataset_slug = dataset.split("/")
        request.file_name = name
        answer = self._ask(
            f"{name} of data set {dataset}",
            lambda kaggle: kaggle.datasets.dataset_api_client.download_dataset(request).content,
            absent=(403, 404),
        )
        if answer is not None and answer[:4] == b"PK\x03\x04":
            # Kaggle sends some files packed.
            with zipfile.ZipFile(io.BytesIO(answer)) as archive:
                return archive.read(archive.namelist()[0])
        return answer

    @discreet
    def create_dataset(self, dataset, title, files):
        """Create a private data set from uploaded files.

        Parameters
        ----------
        dataset : str
            ``owner/slug``.
        title : str
            6 to 50 characters.
        files : dict of str to str
            Token of each file by its path within the data set.
        """
        from kagglesdk.datasets.types.dataset_api_service import ApiCreateDatasetRequest

        request = ApiCreateDatasetRequest()
        request.owner_slug, request.slug = dataset.split("/")
        request.title = title
        request.license_name = "MIT"
        request.is_private = True
        _fill_tree(request, files)
        self._write_dataset(
            f"creating data set {dataset}",
            lambda kaggle: kaggle.datasets.dataset_api_client.create_dataset(request),
            lambda: self.dataset_state(dataset) is not None,
        )

    @discreet
    def create_dataset_version(self, dataset, notes, files):
        """Make uploaded files the newest version of a data set.

        Parameters
        ----------
        dataset : str
            ``owner/slug``.
        notes : str
            Shown beside the version.
        files : dict of str to str
            Token of each file by its path within the data set.
        """
        from kagglesdk.datasets.types.dataset_api_service import (
            ApiCreateDatasetVersionRequest,
            ApiCreateDatasetVersionRequestBody,
        )

        before = self.dataset_version(dataset)
        request = ApiCreateDatasetVersionRequest()
        request.owner_slug, request.dataset_slug = dataset.split("/")
        request.body = ApiCreateDatasetVersionRequestBody()
        request.body.version_notes = notes
        _fill_tree(request.body, files)
        self._write_dataset(
            f"a new version of data set {dataset}",
            lambda kaggle: kaggle.datasets.dataset_api_client.create_dataset_version(request),
            lambda: self.dataset_version(dataset) > before,
        )

    def _write_dataset(self, what, send, happened):
        answer = self._do_once(what, send, happened)
        if answer is not None and (answer.error or (answer.status or "").lower() == "error"):
            raise KaggleError(self.scrub(f"{what}: {answer.error or 'refused without a reason'}"), kind="refused")

    @discreet
    def kernel(self, kernel):
        """Return what Kaggle knows of a notebook's newest version.

        Parameters
        ----------
        kernel : str
            ``owner/slug``.

        Returns
        -------
        RemoteKernel or None
            None if the user cannot see such a notebook.
        """
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelRequest

        request = ApiGetKernelRequest()
        request.user_name, request.kernel_slug = kernel.split("/")
        answer = self._ask(
            f"the version of notebook {kernel}",
            lambda kaggle: kaggle.kernels.kernels_api_client.get_kernel(request),
            absent=(403, 404),
        )
        if answer is None or answer.metadata is None:
            return None
        known = answer.metadata
        sources = {
            "dataset_sources": tuple(known.dataset_data_sources or ()),
            "competition_sources": tuple(known.competition_data_sources or ()),
            "kernel_sources": tuple(known.kernel_data_sources or ()),
        }
        return RemoteKernel(known.current_version_number or 0, sources, answer.blob.source if answer.blob else "")

    @discreet
    def push_kernel(self, kernel, folder, happened):
        """Push a notebook, which starts it.

        Parameters
        ----------
        kernel : str
            ``owner/slug``, as in the metadata.
        folder : str or Path
            Holds ``kernel-metadata.json`` and the notebook.
        happened : callable
            Called without arguments when the answer was lost: whether the notebook was pushed nevertheless.

        Returns
        -------
        kagglesdk ApiSaveKernelResponse or None
            None if the notebook was pushed and the answer was lost.

        Raises
        ------
        KaggleError
            Kaggle refused.
        """
        what = f"pushing notebook {kernel}"
        answer = self._do_once(what, lambda _: self._api.kernels_push(str(folder)), happened)
        if answer is not None and answer.error:
            raise KaggleError(self.scrub(f"{what}: {answer.error}"), kind="refused")
        return answer

    @discreet
    def kernel_state(self, kernel, version):
        """Return the state of one version of a notebook and the reason if it failed.

        Parameters
        ----------
        kernel : str
            ``owner/slug``.
        version : int
            As `push_kernel` returned it.

        Returns
        -------
        state : str
            ``QUEUED``, ``RUNNING``, ``COMPLETE``, ``ERROR``, ``CANCEL_ACKNOWLEDGED`` and so on.
        reason : str
        """
        from kagglesdk.kernels.types.kernels_api_service import ApiGetKernelSessionStatusRequest

        request = ApiGetKernelSessionStatusRequest()
        request.user_name, request.kernel_slug = kernel.split("/")
        # A bare number is answered with 404; without a label the newest version answers for all.
        request.version_label = f"v{version}"
        answer = self._ask(
            f"the state of notebook {kernel} version {version}",
            lambda kaggle: kaggle.kernels.kernels_api_client.get_kernel_session_status(request),
        )
        return answer.status.name, self.scrub(answer.failure_message or "")

    @discreet
    def kernel_output(self, kernel, version):
        """Return where the files that one version of a notebook left can be fetched, and its log.

        Parameters
        ----------
        kernel : str
            ``owner/slug``.
        version : int
            As `push_kernel` returned it.

        Returns
        -------
        urls : dict of str to str
            Address of each file by its path within the output.
        log : str
        """
        from kagglesdk.kernels.types.kernels_api_service import ApiListKernelSessionOutputRequest

        urls, log, token = {}, "", ""
        while True:
            request = ApiListKernelSessionOutputRequest()
            request.user_name, request.kernel_slug = kernel.split("/")
            request.version_label = f"v{version}"
            request.page_size = 100
            if token:
                request.page_token = token
            answer = self._ask(
                f"the output of notebook {kernel} version {version}",
                lambda kaggle, request=request: kaggle.kernels.kernels_api_client.list_kernel_session_output(request),
            )
            urls.update({file.file_name: file.url for file in answer.files or []})
            log = log or answer.log or ""
            if not answer.next_page_token or answer.next_page_token == token:
                return urls, self.hide(log)
            token = answer.next_page_token

    @discreet
    def submit(self, competition, kernel, version, file_name, description):
        """Submit the output of one version of a notebook to a code competition.

        Parameters
        ----------
        competition : str
            Its slug.
        kernel : str
            ``owner/slug``.
        version : int
            As `push_kernel` returned it.
        file_name : str
            The file that the notebook leaves.
        description : str
            Shown beside the submission; `find_submission` finds it again by it.
        """
        what = f"submitting {kernel} version {version} to {competition}"
        answer = self._do_once(
            what,
            lambda _: self._api.competition_submit_code(
                file_name, description, competition, kernel, version, quiet=True
            ),
            lambda: self.find_submission(competition, description) is not None,
        )
        if answer is not None and not answer.ref and self.find_submission(competition, description) is None:
            raise KaggleError(self.scrub(f"{what}: {answer.message or 'refused without a reason'}"), kind="refused")

    @discreet
    def find_submission(self, competition, description):
        """Return the newest submission with a description.

        Parameters
        ----------
        competition : str
            Its slug.
        description : str
            Exactly as it was given to `submit`.

        Returns
        -------
        kagglesdk ApiSubmission or None
            With ``status.name`` (``PENDING``, ``COMPLETE``, ``ERROR``), ``public_score``, ``error_description``.
        """
        from kagglesdk.competitions.types.competition_api_service import ApiListSubmissionsRequest

        token = ""
        while True:
            request = ApiListSubmissionsRequest()
            request.competition_name = competition
            request.page_size = 100
            if token:
                request.page_token = token
            answer = self._ask(
                f"the submissions to {competition}",
                lambda kaggle, request=request: kaggle.competitions.competition_api_client.list_submissions(request),
            )
            for submission in answer.submissions or []:
                if submission.description == description:
                    return submission
            if not answer.next_page_token or answer.next_page_token == token:
                return None
            token = answer.next_page_token


def _fill_tree(request, files):
    """Put tokens into a request's files and directories."""
    from kagglesdk.datasets.types.dataset_api_service import ApiDatasetNewFile, ApiUploadDirectoryInfo

    folders = {(): request}
    for name, token in sorted(files.items()):
        *parents, _ = Path(name).parts
        for depth in range(1, len(parents) + 1):
            key = tuple(parents[:depth])
            if key not in folders:
                folder = ApiUploadDirectoryInfo()
                folder.name = key[-1]
                folder.files, folder.directories = [], []
                above = folders[key[:-1]]
                above.directories = [*(above.directories or []), folder]
                folders[key] = folder
        entry = ApiDatasetNewFile()
        entry.token = token
        owner = folders[tuple(parents)]
        owner.files = [*(owner.files or []), entry]
