"""Kill, starve and crowd what `make book` does, and see that it comes right: `make torture`.

Works in copies of this checkout under a temporary folder, on the quick profile, and writes what was tried and what came
of it to benchmarks/torture.json, which the page *How it was tested* shows. As root on Linux, disks are really full and
really read-only; elsewhere these cases are left out, and the file says so.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv/bin/python"
NOTEBOOK = "99_short"
SHORT = """# %% tags=["parameters"]
n_steps = 2000  # training steps

# %%
import time

import matplotlib.pyplot as plt

# %%
for step in range(20):
    time.sleep(0.1)
    print(step, n_steps)

# %%
figure = plt.figure()
line = plt.plot(range(9))
"""
"""A notebook that lasts and computes nothing: killing it costs no machine's time."""
OUTPUT = f"_build/quick/notebooks/{NOTEBOOK}.ipynb"
EXECUTE = ["make", "--no-print-directory", "PROFILE=quick", OUTPUT]
PUBLISH = [str(PYTHON), "scripts/alone.py", "_build/.lock", str(PYTHON), "scripts/render.py", "publish", "_build/quick"]
PUBLISH.append("_build/html")
ODD = 'a b\'s "ü" $x;#名'


def copy(folder: Path) -> Path:
    """A clone of this checkout with what is changed in it, and its environment."""
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder)], check=True)
    changed = subprocess.run(
        ["git", "ls-files", "--modified", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        text=True,
        capture_output=True,
    ).stdout
    for name in filter(None, changed.split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_file() and not source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    subprocess.run(["git", "-C", str(folder), "add", "-A"], check=True)
    user = ["-c", "user.name=t", "-c", "user.email=t@t"]
    subprocess.run(["git", "-C", str(folder), *user, "commit", "-qm", "x", "--allow-empty"], check=True)
    (folder / "notebooks" / f"{NOTEBOOK}.py").write_text(SHORT)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    for name in ("requirements.txt", "pyproject.toml"):  # older than what is installed
        os.utime(folder / name, (1, 1))  # make takes 0 for no file
    with (folder / ".git/info/exclude").open("a") as file:
        file.write(f"/.venv\n/notebooks/{NOTEBOOK}.*\n")
    return folder


def start(command, folder, **changes):
    """Start a command in a group of its own."""
    env = (
        os.environ | {"PYTHONPATH": str(folder / "src"), "TMPDIR": str(folder.parent / "tmp")} | changes.pop("env", {})
    )
    (folder.parent / "tmp").mkdir(exist_ok=True)
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command,
        cwd=folder,
        env=env,
        stdout=pipe,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        **changes,
    )


def end(process, timeout=900):
    """What a command said, and its status."""
    said, _ = process.communicate(timeout=timeout)
    return said, process.returncode


def kernels_of(folder):
    """Processes that still run below the folder's temporary one: kernels of notebooks."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "ipykernel" in command and str(folder.parent / "tmp") in command:
            found.append(path.parent.name)
    return found


def untouched(folder):
    """What git sees as changed; nothing is good."""
    done = subprocess.run(["git", "status", "--porcelain"], cwd=folder, text=True, capture_output=True, check=True)
    return done.stdout


class Tried:
    """The table."""

    def __init__(self, output):
        self.output, self.rows = output, []

    def add(self, what, tries, wrong, came):
        """One kind of case: how often it was tried, what went wrong, what came of it in words."""
        self.rows.append({"what": what, "tries": tries, "failed": len(wrong), "outcome": came, "wrong": wrong[:5]})
        print(f"[torture] {what}: {tries - len(wrong)} of {tries} right. {'; '.join(wrong[:2])[:300]}", flush=True)
        draft = self.output.with_suffix(".tmp")
        draft.write_text(json.dumps({"cases": self.rows}, indent=1) + "\n")
        draft.replace(self.output)


def kill_while_executing(tried, home, times, draw):
    """Signals, and power cuts, while a notebook runs; the next run gives the bytes of one that was left alone."""
    folder = copy(home / "killed" / "checkout")
    said, status = end(start(EXECUTE, folder))
    assert status == 0, said
    whole = (folder / OUTPUT).read_bytes()
    began = time.monotonic()
    (folder / OUTPUT).unlink()
    end(start(EXECUTE, folder))
    lasts = time.monotonic() - began
    for name, number, grouped in (
        ("an end by signal (SIGTERM)", signal.SIGTERM, False),
        ("Ctrl-C", signal.SIGINT, True),
        ("a power cut (SIGKILL of the group)", signal.SIGKILL, True),
    ):
        wrong = []
        for _ in range(times):
            (folder / OUTPUT).unlink(missing_ok=True)
            process = start(EXECUTE, folder)
            time.sleep(draw.uniform(0.05, 0.95) * lasts)
            (os.killpg if grouped else os.kill)(process.pid, number)
            said, _ = end(process)
            time.sleep(3)  # a kernel looks once a second whether its parent lives
            if left := kernels_of(folder):
                wrong.append(f"{len(left)} kernels are left")
                for pid in left:
                    os.kill(int(pid), signal.SIGKILL)
            if "Traceback" in said:
                wrong.append(f"a traceback: {said[-300:]}")
            if (folder / OUTPUT).exists() and (folder / OUTPUT).read_bytes() != whole:
                wrong.append("half an output")
        said, status = end(start(EXECUTE, folder))
        if status or (folder / OUTPUT).read_bytes() != whole:
            wrong.append(f"the next run gave other bytes, or failed: {said[-300:]}")
        if untouched(folder):
            wrong.append(f"the tree is not clean: {untouched(folder)}")
        tried.add(
            f"{name} at a random moment while a notebook runs, then again", times, wrong,
            "no kernel and no half a file is left, git sees nothing; the next run gives the same bytes",
        )  # fmt: skip
    return folder, whole


def site(folder):
    """A rendered site, made up of many small pages, as `render.py build` leaves it."""
    built = folder / "_build/quick/_build/html"
    built.mkdir(parents=True, exist_ok=True)
    for number in range(3000):
        (built / f"{number}.html").write_text(f"page {number}" * 200)
    (built / "index.html").write_text("index")
    (folder / "_build/quick/rendered").write_text(f"quick {time.time_ns()}\n")


def kill_while_publishing(tried, folder, times, draw):
    """A site is put into place, or not; after a kill the next call puts it there whole."""
    wrong = []
    for _ in range(times):
        site(folder)
        process = start(PUBLISH, folder)
        time.sleep(draw.uniform(0.1, 1.5))
        os.killpg(process.pid, signal.SIGKILL)
        end(process)
        said, status = end(start(PUBLISH, folder))
        if status or len(list((folder / "_build/html").glob("*.html"))) != 3001:
            wrong.append(f"the site is not whole: {said[-300:]}")
    tried.add(
        "a power cut at a random moment while the site is put into place, then again", times, wrong, "a whole site"
    )


def two_at_once(tried, folder, times):
    """The second of two waits, says so, and both end well."""
    wrong = []
    for _ in range(times):
        site(folder)
        first, second = start(PUBLISH, folder), start(PUBLISH, folder)
        ends = [end(first), end(second)]
        if any(status for _, status in ends):
            wrong.append(f"one died: {ends}")
    slow = [str(PYTHON), "scripts/alone.py", "_build/.lock", "sleep", "3"]
    first = start(slow, folder)
    time.sleep(1.5)
    said, status = end(start([*slow[:3], "true"], folder))
    if status or "waiting for another make" not in said:
        wrong.append(f"it did not say that it waits: {said}")
    end(first)
    tried.add("two at once in one checkout", times + 1, wrong, "the second waits, says so, and ends well")


def in_a_namespace(script, folder, command, **changes):
    """Run a command after `script` has changed the mounts, for itself alone."""
    return end(start(["unshare", "-m", "sh", "-c", f'{script} && exec "$@"', "sh", *command], folder, **changes))


def in_one_line(said):
    """Whether a failure is told without a traceback, in a few lines."""
    return "Traceback (most recent" not in said and len(said.strip().splitlines()) <= 12


def places(tried, home, folder, whole):
    """Disks that are full or read-only, a home that cannot be written, a path of odd signs."""
    if os.geteuid() == 0 and shutil.which("unshare"):
        wrong = []
        for size in ("8k", "64k"):
            shutil.rmtree(folder / "_build")
            (folder / "_build").mkdir()
            said, status = in_a_namespace(f"mount -t tmpfs -o size={size} none _build", folder, EXECUTE)
            if (size == "8k" and status == 0) or not in_one_line(said):
                wrong.append(f"{size}: {said[-600:]}")
        site(folder)
        script = "cp -r _build ../kept && mount -t tmpfs -o size=20m none _build && cp -r ../kept/. _build"
        said, status = in_a_namespace(script, folder, PUBLISH)
        if status == 0 or not in_one_line(said):
            wrong.append(f"publishing: {said[-600:]}")
        tried.add("a full disk", 3, wrong, "one clear line where it does not fit; what was there stays")
        shutil.rmtree(folder / "_build")
        wrong = []
        script = f"mount --bind '{folder}' '{folder}' && mount -o remount,ro,bind '{folder}' && cd '{folder}'"
        for command in (EXECUTE, PUBLISH):
            said, status = in_a_namespace(script, folder, command)
            if status == 0 or not in_one_line(said):
                wrong.append(said[-600:])
        tried.add("a checkout that is read-only", 2, wrong, "one clear line")
    else:
        tried.add("a full disk, a checkout that is read-only (not tried: this needs root on Linux)", 0, [], "not tried")
    wrong = []
    for variable in ({"HOME": "/dev/null"}, {"HOME": "/proc", "XDG_CACHE_HOME": "/proc/x"}):
        said, status = end(start(EXECUTE, folder, env=variable))
        worked = status == 0 and (folder / OUTPUT).read_bytes() == whole
        if not worked and not (status and in_one_line(said)):
            wrong.append(f"{variable}: {said[-600:]}")
        (folder / OUTPUT).unlink(missing_ok=True)
    tried.add("a home that cannot be written", 2, wrong, "it works, with the same bytes, or one clear line")
    odd = copy(home / "odd" / ODD)
    said, status = end(start(EXECUTE, odd))
    wrong = [] if status == 0 and (odd / OUTPUT).read_bytes() == whole else [said[-600:]]
    tried.add(f"a path with blanks, quotes and other scripts ({ODD})", 1, wrong, "it works, with the same bytes")


def resumed(tried, home, times, draw):
    """The stored run of the recipe, killed and called again until it is through, holds the bits of one left alone."""
    import numpy as np

    folder, wrong = home / "stored", []
    folder.mkdir()
    base = [
        str(PYTHON),
        "-m",
        "matryoshka_mixing.original",
        "--seeds",
        "3",
        "--steps",
        "300",
        "--jobs",
        "1",
        "--output",
    ]
    where = home / "killed" / "checkout"
    began = time.monotonic()
    said, status = end(start([*base, str(folder / "whole.npz")], where))
    lasts = time.monotonic() - began
    assert status == 0, said
    for number in range(times):
        output = folder / f"{number}.npz"
        for _ in range(20):
            process = start([*base, str(output)], where)
            try:
                process.wait(draw.uniform(0.5, 0.9) * lasts)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
            end(process)
            if output.exists():
                break
        with np.load(folder / "whole.npz") as one, np.load(output) as other:
            same = one.files == other.files and all(np.array_equal(one[k], other[k], equal_nan=True) for k in one.files
                                                    if one[k].dtype.kind != "U")  # fmt: skip
        if not same or list(folder.glob("*.seeds")):
            wrong.append("other bits, or parts left over")
    tried.add("the stored run of the recipe, killed and called again until done", times, wrong, "the same bits")


def corners(tried, chosen):
    """Values on the edge of what is allowed: every chapter runs to its end, and says nothing that is no number."""
    script = ROOT / "tests/torture/corners.py"
    done = subprocess.run([str(PYTHON), str(script), *chosen], text=True, stdout=subprocess.PIPE, cwd=ROOT)
    lines = [line for line in done.stdout.splitlines() if line.startswith(("OK", "FAIL"))]
    wrong = [line for line in lines if line.startswith("FAIL")]
    tried.add(
        "values and trees on the edge of what is allowed, in the notebooks that take them", len(lines), wrong,
        "every notebook runs to its end; no NaN in words, no empty figure, no verdict from nothing",
    )  # fmt: skip


def main() -> None:
    """Try everything; the last line says how it went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=7, help="kills of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: %(default)s)")
    parser.add_argument("--notebooks", nargs="*", default=[], help="on the edge of what is allowed; default: all")
    parser.add_argument(
        "--light", action="store_true", help="leave out what computes: resumed runs, and values on the edge"
    )
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/torture.json", help="table to write")
    options = parser.parse_args()
    if not (ROOT / ".venv/installed").is_file():  # the copies share the environment, and must not install into it
        sys.exit("[torture] nothing is installed yet: run 'make lint' first")
    draw, tried = random.Random(options.seed), Tried(options.output)
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        home = Path(name)
        folder, whole = kill_while_executing(tried, home, options.times, draw)
        kill_while_publishing(tried, folder, options.times, draw)
        two_at_once(tried, folder, 3)
        places(tried, home, folder, whole)
        if not options.light:
            resumed(tried, home, 2, draw)
    if not options.light:
        corners(tried, options.notebooks)
    failed = sum(row["failed"] for row in tried.rows)
    sys.exit(f"[torture] {failed} went wrong; see {options.output}" if failed else 0)


if __name__ == "__main__":
    main()
