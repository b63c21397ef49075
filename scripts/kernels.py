"""How the kernels of notebooks are started: one way for `make`, for the tests and for nbval.

Jupyter looks for free TCP ports, lets go of them and tells the kernel to take them, so that two kernels started at the
same moment can be told the same one, and one of them dies. Here each kernel is reached through files in a folder of
its own. And the surroundings of a kernel that would show in its outputs are the project's, not the reader's.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import weakref
from importlib.metadata import version
from pathlib import Path

import zmq
from jupyter_client import AsyncKernelManager, KernelManager

MATPLOTLIB = Path(__file__).parent.parent / "_build" / "matplotlib" / version("matplotlib")


def surroundings(given=os.environ):
    """Return the environment variables of a kernel.

    Matplotlib's settings and caches lie in the project: a reader's own settings would change the figures, and
    where the home folder cannot be written, or the fonts must first be listed, a warning would stand in an output.
    """
    env = dict(given)
    env["SOURCE_DATE_EPOCH"] = "0"  # Matplotlib would write the time into a vector figure
    env.pop("MPLBACKEND", None)  # set to anything, it makes the figures vanish from the outputs
    if "MPLCONFIGDIR" not in env and _prepared(MATPLOTLIB):
        env["MPLCONFIGDIR"] = str(MATPLOTLIB)
    return env


def _prepared(folder):
    """Make `folder` one where Matplotlib finds its list of fonts; say whether it is one now."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    if os.access(folder, os.W_OK) and not any(folder.glob("fontlist-*.json")):
        command = [sys.executable, "-c", "import matplotlib.font_manager"]
        done = subprocess.run(command, env=os.environ | {"MPLCONFIGDIR": str(folder)}, capture_output=True)
        if done.returncode:  # a full disk, say: the kernel goes without
            return False
    return os.access(folder, os.W_OK)


class _Private:
    """A kernel manager whose sockets are files in a folder of its own, where the system and the length allow it."""

    def __init__(self, **given):
        folder = tempfile.mkdtemp(prefix="kernel-")
        if zmq.has("ipc") and len(os.fsencode(f"{folder}/kernel-ipc-5")) <= zmq.IPC_PATH_MAX_LEN:
            given |= {"transport": "ipc", "connection_file": f"{folder}/kernel.json"}
        super().__init__(**given)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)

    def start_kernel(self, *, env=None, **given):
        """Start the kernel, with the project's `surroundings`."""
        return super().start_kernel(env=surroundings(os.environ if env is None else env), **given)


class Private(_Private, KernelManager):
    """For nbval."""


class AsyncPrivate(_Private, AsyncKernelManager):
    """For papermill."""
