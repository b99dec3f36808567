"""Execute one notebook and save it with its outputs: a program of its own, run by an interpreter that need not have the kit.

``python execute.py NOTEBOOK SAVED TIMEOUT_SECONDS`` runs the notebook in the current folder with the current environment. Exit
code 0, or 1 when a cell failed; the saved notebook holds its error.
"""

import re
import sys
import tempfile
from pathlib import Path


def execute_notebook(source: Path | str, saved: Path | str, timeout_seconds: float) -> str:
    """Run a notebook in a fresh kernel of this interpreter, in the current folder, and save it with its outputs.

    The limit is for each cell. Returns "", or the error of the cell that failed, its last line first.
    """
    import nbformat
    from jupyter_client.manager import KernelManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

    notebook = nbformat.read(source, as_version=4)  # type: ignore[no-untyped-call] # it claims to be typed
    # This interpreter rather than a kernel installed under the name python3; sockets of files rather than of a network.
    sockets = tempfile.TemporaryDirectory(prefix="kernel_")
    manager = KernelManager(transport="ipc", ip=f"{sockets.name}/socket", kernel_name="python3")
    kernel = manager.kernel_spec
    assert kernel is not None, "every manager has the kernel python3"
    kernel.argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    client = NotebookClient(notebook, km=manager, timeout=timeout_seconds)
    try:
        client.execute()
        return ""
    except CellExecutionError as error:
        colours = re.compile(r"\x1b\[[0-9;]*m")
        return f"{error.ename}: {error.evalue}\n{colours.sub('', error.traceback)}"
    except (CellTimeoutError, DeadKernelError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)
        sockets.cleanup()
        nbformat.write(notebook, saved)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    failure = execute_notebook(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]))
    print(failure, file=sys.stderr)
    sys.exit(1 if failure else 0)
