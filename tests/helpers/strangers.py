"""Commands as another user runs them: one who owns nothing here, has no home and, on request, no network."""

import os
import shutil
import subprocess
import sys

import pytest

STRANGER = 4711


def run_as_stranger(command, *, package, temporary, home="/nonexistent", network=True, **settings):
    """Run Python with ``command`` as an ordinary user who may read everything and write into ``temporary`` alone.

    Tests that are run by an ordinary user are run as that user, for whom what is not writable is so all the same.
    """
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(map(str, [package, *settings.pop("modules", [])])),
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "NO_ALBUMENTATIONS_UPDATE": "1",
    }
    prefix = []
    if os.geteuid() == 0:
        if not sys.platform.startswith("linux") or shutil.which("setpriv") is None:
            pytest.skip("becoming another user needs Linux and setpriv")
        os.chown(temporary, STRANGER, STRANGER)
        # The right to read everything: the interpreter may lie in root's own home.
        prefix = ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups"]
        prefix += ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
        if not network:
            prefix = ["unshare", "--net", *prefix]
        tried = subprocess.run([*prefix, "true"], capture_output=True, text=True)
        if tried.returncode:
            pytest.skip(f"this machine lets no process become another user: {tried.stderr.strip()}")
    return subprocess.run(
        [*prefix, sys.executable, *map(str, command)], env=environment, capture_output=True, text=True, **settings
    )
