"""Run a command while no other of its kind runs in this folder: `python scripts/alone.py LOCK COMMAND ...`.

A second one waits, and says so. What was interrupted ends in one line.
"""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path


def held(lock):
    """Return the open file of the lock, once it is ours; the lock falls with the process, however it ends."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    file = lock.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        print(f"[make] waiting for another make in this folder (process {file.read().strip() or '?'})…", flush=True)
        fcntl.flock(file, fcntl.LOCK_EX)
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def run(command):
    """Run the command and return its exit status; once it is stopped, only our own lines are shown, which begin with [.

    What is left out are the complaints of make, and tracebacks of programs that were still at their imports.
    """
    stopped = []
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")

    def stop(number, frame):
        stopped.append(number)
        if number == signal.SIGTERM:  # make passes it on; an interruption from the keyboard reaches all by itself
            process.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    for line in process.stderr:
        if not stopped or line.startswith("["):
            sys.stderr.write(line)
            sys.stderr.flush()
    status = process.wait()
    return 128 + stopped[0] if stopped else status


if __name__ == "__main__":
    try:
        with held(Path(sys.argv[1])):
            sys.exit(run(sys.argv[2:]))
    except KeyboardInterrupt:
        sys.exit("[make] interrupted")
    except OSError as error:
        sys.exit(f"[make] FAILED: {error}; the folder must be one that can be written")
