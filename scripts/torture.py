"""Kill, starve and crowd `make book`, and see that it comes right: `make torture`.

Works in copies of this checkout under a temporary folder. Most cases use a small book of two notebooks that last and
compute nothing, so that many kills fit into half an hour; the whole book, its notebooks as committed, is cut off while
it is rendered. What was tried and what came of it goes to benchmarks/torture.json as it goes, by part; the page *How it
was tested* shows it. As root on Linux, disks are really full and really read-only; elsewhere the file says that this
was not tried.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from matryoshka_mixing._commands import write_text

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv/bin/python"
SHORT = """# %% [markdown]
# # It lasts
#
# And computes nothing: to kill it costs no machine's time.

# %% tags=["parameters"]
n_seeds = 1
n_sweep_seeds = 1
n_steps = 100
n_grid = 3

# %%
import time

# %%
for step in range(20):
    time.sleep(0.1)
    print(step, n_steps)
"""
CHAPTER = '''"""A chapter that computes nothing."""

from dataclasses import dataclass

from matryoshka_mixing.parameters import Chapter, given


@dataclass(frozen=True)
class Parameters(Chapter):
    """Those of the profiles."""

    n_seeds: int = given("n_seeds", 1)
    n_sweep_seeds: int = given("n_sweep_seeds", 1)
    n_steps: int = given("n_steps", 100)
    n_grid: int = given("n_grid", 3)
'''
NAMES = ("98_short", "99_short")
SMALL = {
    "_toc.yml": "format: jb-book\nroot: book/index\nchapters:\n" + "".join(f"- file: notebooks/{n}\n" for n in NAMES),
    "book/index.md": "# A small book\n\nIts notebooks last, and compute nothing.\n",
    "src/matryoshka_mixing/chapters/short.py": CHAPTER,
    "tests/test_decisive.py": "FAILS = {}\n",
} | {f"notebooks/{name}.py": SHORT for name in NAMES}
"""What stands in the place of the book's pages and chapters: file -> text."""
BOOK = ["make", "--no-print-directory", "PROFILE=quick", "book"]
ALL_OF_IT = ["make", "--no-print-directory", "site"]
PUBLISH = [str(PYTHON), "scripts/alone.py", "_build/.lock", str(PYTHON), "scripts/render.py", "publish", "_build/quick"]
PUBLISH.append("_build/html")
ODD = 'a b\'s "ü" $x;#名'
WAYS = {
    "an end by signal (SIGTERM)": (signal.SIGTERM, False),
    "Ctrl-C": (signal.SIGINT, True),
    "a power cut (SIGKILL of the group)": (signal.SIGKILL, True),
}
"""How a run ends: by which signal, and whether the whole group gets it."""


def git(folder: Path, *command: str) -> str:
    """What a call of git in the folder says."""
    whole = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "core.hooksPath=/dev/null", *command]
    return subprocess.run(whole, cwd=folder, check=True, text=True, capture_output=True).stdout


def copy(folder: Path, small: bool = True) -> Path:
    """A clone of this checkout with what is changed in it, and its environment; with the small book in it, if asked."""
    git(ROOT, "clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder))
    for name in filter(None, git(ROOT, "ls-files", "-mo", "--exclude-standard", "-z").split("\0")):
        source, target = ROOT / name, folder / name
        if source.is_file() and not source.is_symlink():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    if small:
        for path in [*(folder / "notebooks").glob("[0-9][0-9]_*"), folder / "benchmarks/results.json"]:
            path.unlink()
        for name, text in SMALL.items():
            (folder / name).write_text(text)
    (folder / ".venv").symlink_to(ROOT / ".venv")
    with (folder / ".git/info/exclude").open("a") as file:
        file.write("/.venv\n")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "x", "--allow-empty")
    for name in ("requirements.txt", "pyproject.toml"):  # older than what is installed
        os.utime(folder / name, (1, 1))  # make takes 0 for no file
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


def end(process, timeout=1800):
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


def site_of(folder):
    """Every file of the published site and its bytes, without the mark of when it was rendered."""
    site = folder / "_build/html"
    return {str(p.relative_to(site)): p.read_bytes() for p in site.rglob("*") if p.is_file() and p.name != ".rendered"}


def other_files(found, wanted):
    """In which files two sites differ; nothing is good."""
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


def afresh(folder):
    """Take away what was executed and rendered; the published site stays."""
    for path in (folder / "_build").glob("[a-z]*"):
        if path.name not in ("html", "matplotlib"):
            shutil.rmtree(path)


def in_one_line(said):
    """Whether a failure is told without a traceback, in a few lines."""
    return "Traceback (most recent" not in said and len(said.strip().splitlines()) <= 12


class Tried:
    """The table, written after every entry; parts that are not tried now stay as they were."""

    def __init__(self, output: Path):
        self.output, self.part = output, ""
        found = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {}
        self.parts: dict[str, list[dict]] = found.get("parts", {})

    def begin(self, part: str) -> None:
        """Start a part: its entries are made anew."""
        self.part, self.parts[part] = part, []

    def add(self, what, tries, wrong, came):
        """One kind of case: how often it was tried, what went wrong, what came of it in words; no folder is named."""
        wrong = [re.sub(r"(?<![\w.])/[\w./@-]*/", "…/", each) for each in wrong]
        row = {"what": what, "tries": tries, "failed": len(wrong), "outcome": came, "wrong": wrong[:5]}
        self.parts[self.part].append(row)
        print(f"[torture] {what}: {tries - len(wrong)} of {tries} right. {'; '.join(wrong[:2])[:600]}", flush=True)
        ordered = {part: self.parts[part] for part in PARTS if part in self.parts}
        write_text(self.output, json.dumps({"parts": ordered}, indent=1, ensure_ascii=False) + "\n")


class Small:
    """A copy with the small book, made and published once; what a whole run looks like, and how long it lasts."""

    def __init__(self, home: Path):
        self.folder = copy(home / "small" / "checkout")
        began = time.monotonic()
        said, status = end(start(BOOK, self.folder))
        assert status == 0, said
        self.lasts, self.site = time.monotonic() - began, site_of(self.folder)
        assert len(self.site) > 20 and {f"notebooks/{name}.html" for name in NAMES} <= self.site.keys()

    def wrong_after(self, said: str, status: int) -> list[str]:
        """What is wrong after a run that should have ended well."""
        found = [] if status == 0 else [f"it failed: {said[-600:]}"]
        if other := other_files(site_of(self.folder), self.site):
            found.append(f"other files in the site: {other[:5]}")
        if changed := git(self.folder, "status", "--porcelain"):
            found.append(f"the tree is not clean: {changed}")
        return found


def kills(tried, small, options, draw):
    """`make book` is ended at random moments, in notebooks and in rendering; the next run gives the same site."""
    folder = small.folder
    for way, (number, grouped) in WAYS.items():
        wrong, rendering = [], 0
        for _ in range(options.times):
            said, after = ended_early(small, number, grouped, draw)
            rendering += "rendering…" in said
            if left := kernels_of(folder):
                after.append(f"{len(left)} kernels are left")
                for pid in left:
                    os.kill(int(pid), signal.SIGKILL)
            if "Traceback" in said:
                after.append(f"a traceback: {said[-600:]}")
            if other := other_files(site_of(folder), small.site):
                after.append(f"the site that was there is not whole: {other[:5]}")
            after += small.wrong_after(*end(start(BOOK, folder)))
            wrong += ["; ".join(after)] if after else []
        tried.add(
            f"make book: {way} at a random moment, {options.times - rendering} times while notebooks ran and "
            f"{rendering} while the book was rendered; then again", options.times, wrong,
            "no kernel is left, git sees nothing, the old site stays; the next run gives the same bytes",
        )  # fmt: skip


def ended_early(small, number, grouped, draw):
    """Start afresh and end `make book` at a random moment; what it said, and what is wrong with that."""
    share = draw.uniform(0.03, 0.97)
    while True:
        afresh(small.folder)
        process = start(BOOK, small.folder)
        try:
            process.wait(share * small.lasts)
        except subprocess.TimeoutExpired:
            break
        end(process)
        share *= 0.7  # faster than the run that was timed: it was through
    (os.killpg if grouped else os.kill)(process.pid, number)
    said, status = end(process)
    time.sleep(3)  # a kernel looks once a second whether its parent lives
    return said, [] if status else ["it said that it ended well"]


def whole(tried, small, options, draw):
    """The whole book, its notebooks as committed, is cut off while it is rendered."""
    folder, wrong = copy(small.folder.parents[1] / "whole" / "checkout", small=False), []
    times = max(1, options.times // 2)
    began = time.monotonic()
    said, status = end(start(ALL_OF_IT, folder))
    assert status == 0, said
    lasts, site = time.monotonic() - began, site_of(folder)
    for _ in range(times):
        (folder / "_build/committed/rendered").unlink(missing_ok=True)
        process = start(ALL_OF_IT, folder)
        time.sleep(draw.uniform(0.2, 0.8) * lasts)
        os.killpg(process.pid, signal.SIGKILL)
        end(process)
    said, status = end(start(ALL_OF_IT, folder))
    if status or (other := other_files(site_of(folder), site)):
        wrong.append(said[-600:] if status else f"other files: {other[:5]}")
    if changed := git(folder, "status", "--porcelain"):
        wrong.append(f"the tree is not clean: {changed}")
    tried.add(
        f"make site, the whole book with its notebooks as committed: {times} power cuts one after the other while it "
        "was rendered, then again", times, wrong, "the same bytes of every page",
    )  # fmt: skip


def publishing(tried, small, options, draw):
    """A site is put into place, or not; after a kill the next call puts it there whole."""
    folder, wrong = small.folder, []
    for _ in range(options.times):
        many_pages(folder)
        process = start(PUBLISH, folder)
        time.sleep(draw.uniform(0.1, 1.5))
        os.killpg(process.pid, signal.SIGKILL)
        end(process)
        said, status = end(start(PUBLISH, folder))
        if status or len(list((folder / "_build/html").glob("*.html"))) != 3001:
            wrong.append(f"the site is not whole: {said[-300:]}")
    tried.add(
        "a power cut at a random moment while a site of 3,001 pages is put into place, then again", options.times,
        wrong, "a whole site",
    )  # fmt: skip


def many_pages(folder):
    """A rendered site, made up of many small pages, as `render.py build` leaves it."""
    built = folder / "_build/quick/_build/html"
    shutil.rmtree(built, ignore_errors=True)
    built.mkdir(parents=True)
    for number in range(3000):
        (built / f"{number}.html").write_text(f"page {number}" * 200)
    (built / "index.html").write_text("index")
    (folder / "_build/quick/rendered").write_text(f"quick {time.time_ns()}\n")


def company(tried, small, options, draw):
    """Of two runs in one checkout the second waits, says so, and both end well."""
    wrong, times = [], 3
    for _ in range(times):
        afresh(small.folder)
        both = start(BOOK, small.folder), start(BOOK, small.folder)
        ends = [end(process) for process in both]
        after = [said[-300:] for said, status in ends if status] or small.wrong_after("", 0)
        if sum("waiting for another make" in said for said, _ in ends) != 1:
            after.append(f"none, or both, said that it waits: {ends}")
        wrong += ["; ".join(after)] if after else []
    tried.add("make book, two at once in one checkout", times, wrong, "the second waits, says so, and both end well")


def in_a_namespace(script, folder, command, **changes):
    """Run a command after `script` has changed the mounts, for itself alone."""
    return end(start(["unshare", "-m", "sh", "-c", f'{script} && exec "$@"', "sh", *command], folder, **changes))


def room(path):
    """Kilobytes that a folder takes on a file system in memory."""
    return sum(4 * -(-entry.stat().st_size // 4096) for entry in path.rglob("*") if entry.is_file())


def places(tried, small, options, draw):
    """Disks that are full or read-only, a home that cannot be written, a path of odd signs."""
    folder = small.folder
    afresh(folder)
    said, status = end(start(BOOK, folder))
    assert status == 0, said
    if os.geteuid() == 0 and shutil.which("unshare"):
        full_disks(tried, folder)
        wrong = []
        script = f"mount --bind '{folder}' '{folder}' && mount -o remount,ro,bind '{folder}' && cd '{folder}'"
        for command in (BOOK, PUBLISH):
            said, status = in_a_namespace(script, folder, command)
            if status == 0 or not in_one_line(said):
                wrong.append(said[-600:])
        tried.add("a checkout that is read-only: make book, and the last step alone", 2, wrong, "one clear line")
    else:
        tried.add("a full disk, a checkout that is read-only (not tried: this needs root on Linux)", 0, [], "not tried")
    wrong = []
    for variable in ({"HOME": "/dev/null"}, {"HOME": "/proc", "XDG_CACHE_HOME": "/proc/x"}):
        afresh(folder)
        said, status = end(start(BOOK, folder, env=variable))
        after = small.wrong_after(said, status)
        if after and not (status and in_one_line(said)):
            wrong.append(f"{variable}: {'; '.join(after)}")
    tried.add("a home that cannot be written", 2, wrong, "it works, with the same bytes, or one clear line")
    odd = copy(folder.parents[1] / "odd" / ODD)
    said, status = end(start(BOOK, odd))
    other = other_files(site_of(odd), small.site)
    wrong = [] if status == 0 and not other else [f"{other[:5]} {said[-600:]}"]
    tried.add(f"a path with blanks, quotes and other scripts ({ODD})", 1, wrong, "it works, with the same bytes")


def full_disks(tried, folder):
    """`make book` where the disk ends: in the first notebook, in rendering, in putting the site into place."""
    executed, built, site = (folder / f"_build/{part}" for part in ("quick/notebooks", "quick", "html"))
    base, rendered = room(executed) + room(folder / "_build/matplotlib"), room(built) - room(executed)
    sizes = {
        "before the first notebook is written": 8,
        "while the book is rendered": base + rendered // 2,
        "while the site is put into place": base + rendered + room(site) // 2,
    }
    wrong = []
    for when, size in sizes.items():
        shown = "ls _build/quick/notebooks 2>/dev/null | grep -c '^9._short.ipynb$'"
        command = ["sh", "-c", f'"$@"; status=$?; echo "kept: $({shown})"; exit $status', "sh", *BOOK]
        said, status = in_a_namespace(f"mount -t tmpfs -o size={size}k none _build", folder, command)
        if status == 0 or not in_one_line(said) or (size > 8 and f"kept: {len(NAMES)}" not in said):
            wrong.append(f"{when}: {said[-900:]}")
    tried.add(
        f"make book on a disk that is full {', or '.join(sizes)}", len(sizes), wrong,
        "one clear line; the executed notebooks stay",
    )  # fmt: skip


def resumed(tried, small, options, draw):
    """Long computations that are stored, killed and called again until they are through, hold the same bits."""
    recipe = ["matryoshka_mixing.original", "--seeds", "3", "--steps", "300", "--jobs", "1"]
    training = ["matryoshka_mixing.chapters.real_activations", "--seeds", "0", "1", "--steps", "2"]
    for what, command in {"the stored run of the recipe": recipe, "training on real activations": training}.items():
        home, wrong, times = small.folder.parents[1] / command[0], [], 2
        home.mkdir()
        base = [str(PYTHON), "-m", *command, "--output"]
        began = time.monotonic()
        said, status = end(start([*base, str(home / "whole.npz")], small.folder))
        lasts = time.monotonic() - began
        assert status == 0, said
        for number in range(times):
            output, cut = home / f"{number}.npz", 0
            while not output.exists() and cut < 20:
                process = start([*base, str(output)], small.folder)
                try:
                    process.wait(draw.uniform(0.5, 0.9) * lasts)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL if cut else signal.SIGINT)
                    cut += 1
                said, _ = end(process)
                if "Traceback" in said:
                    wrong.append(f"a traceback: {said[-600:]}")
            if not output.exists() or not same_arrays(home / "whole.npz", output) or len(list(home.iterdir())) > 2:
                wrong.append(f"other bits, or parts left over: {[path.name for path in home.iterdir()]}")
            output.unlink(missing_ok=True)
        tried.add(
            f"{what}, ended by Ctrl-C, then killed, and called again until it was through",
            times,
            wrong,
            "the same bits",
        )


def same_arrays(one: Path, other: Path) -> bool:
    """Whether two files of arrays hold the same bits."""
    import numpy as np

    with np.load(one) as a, np.load(other) as b:
        return a.files == b.files and all(a[key].tobytes() == b[key].tobytes() for key in a.files)


def corners(tried, small, options, draw):
    """Values on the edge of what is allowed: every chapter runs to its end, and says nothing that is no number."""
    command = [str(PYTHON), str(ROOT / "tests/torture/corners.py"), *options.notebooks]
    lines = []
    with subprocess.Popen(command, text=True, stdout=subprocess.PIPE, cwd=ROOT) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
            lines += [line.strip()] if line.startswith(("OK", "FAIL")) else []
    wrong = [line for line in lines if line.startswith("FAIL")]
    wrong += [f"the runs ended early: {process.returncode}"] if process.returncode else []
    tried.add(
        "values and trees on the edge of what is allowed, in the notebooks that take them (few seeds and steps)",
        len(lines), wrong, "every notebook runs to its end; no NaN in words, no empty figure, no verdict from nothing",
    )  # fmt: skip


PARTS = {
    "kills": kills,
    "whole": whole,
    "publishing": publishing,
    "company": company,
    "places": places,
    "resumed": resumed,
    "corners": corners,
}
"""What is tried, in the order of the table."""


def main() -> None:
    """Try everything; the last line says how it went."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="some of it alone")
    parser.add_argument("--times", type=int, default=7, help="kills of each kind (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments (default: %(default)s)")
    parser.add_argument("--notebooks", nargs="*", default=[], help="on the edge of what is allowed; default: all")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/torture.json", help="table to write")
    options = parser.parse_args()
    if not (ROOT / ".venv/installed").is_file():  # the copies share the environment, and must not install into it
        sys.exit("[torture] nothing is installed yet: run 'make lint' first")
    # Started in the background, this ignores Ctrl-C, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    draw, tried, small = random.Random(options.seed), Tried(options.output), None
    with tempfile.TemporaryDirectory(prefix="torture-") as name:
        for part in options.parts:
            if part != "corners" and small is None:
                small = Small(Path(name))
            tried.begin(part)
            PARTS[part](tried, small, options, draw)
    failed = sum(row["failed"] for part in options.parts for row in tried.parts[part])
    sys.exit(f"[torture] {failed} went wrong; see {options.output}" if failed else 0)


if __name__ == "__main__":
    main()
