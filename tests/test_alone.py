"""One command at a time in a folder; and after Ctrl-C only our own lines are shown."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ALONE = Path(__file__).resolve().parents[1] / "scripts/alone.py"
IMPORTING = """
import sys, time
print("began", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("[book] interrupted", file=sys.stderr)
    raise
"""


def test_a_traceback_of_a_program_that_was_interrupted_is_not_shown(tmp_path):
    """As of one that was still at its imports; what it says itself is shown."""
    command = [sys.executable, str(ALONE), str(tmp_path / "lock"), sys.executable, "-c", IMPORTING]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **pipes)
    assert process.stdout.readline() == "began\n"
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGINT and said == "[book] interrupted\n"


def test_a_traceback_of_a_program_that_failed_is_shown(tmp_path):
    command = [sys.executable, str(ALONE), str(tmp_path / "lock"), sys.executable, "-c", "1 / 0"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 1 and "ZeroDivisionError" in found.stderr
