"""Measure how fast many SAEs train, against what people use; write one JSON file.

Every contender is measured in processes of its own, one after the other, all of them once in each repetition, so that
the ratios of a repetition are paired. A contender that fails is recorded with its error.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

from contenders import D_IN, PROBLEMS
from floor import floor

HERE = Path(__file__).parent
HIERARCHY = ["hierarchy, one latent", "hierarchy, widths 1 and 3"]
TREE = ["tree, 20 latents", "tree, 20 prefixes"]
SEEDS = 64

METHOD = [
    "Training steps only: imports, set-up and warm-up are outside. For the peers, the clock runs between two steps of "
    "one training, the first 20 left out. For ours it is a call with many steps less a call with one, so that set-up "
    "and the last evaluation cancel. Ours draws batches for many steps in one go, and never for more than are timed.",
    "SAEs at once are those of one call. The trainer works through them in groups that fit into a cache.",
    "Peak memory is that of the whole process, its libraries included.",
    "Time to the answer: an untimed pass records the cosines of all decoder rows with all true features every 10 "
    "steps of the whole schedule, and finds the step from which on all stay within 1e-3 of their last values; the "
    "latest of the seeds watched counts (all 64 of ours, two of a peer). The timed pass runs that many steps of the "
    "same schedule. A peer's time for 64 seeds is 64 times that of one seed, a new one in each repetition. Ours is one "
    "whole call, set-up included.",
    "Sampled runs use batches of 200 here, the plain loop and ours with the project's default optimiser settings, ours "
    "in double precision, its default. SAELens runs with Adam at 0.003 (of 0.003 and 0.02 the one that settled sooner "
    "in a trial), 2% linear warm-up and a linear decay over the last 60% of 3000 steps.",
]
UNLIKE = [
    "SAELens has no Matryoshka SAE with an L1 penalty. With several widths its only one is measured, BatchTopK with k "
    "at the true number of active features: another loss, and another answer.",
    "SAELens clips gradients, counts dead latents and shows a progress bar; the plain loop and ours do not.",
    "SAELens fires exclusive children independently and keeps one of those that fire; their probabilities are "
    "corrected so that features fire as often as in the tree.",
    "The peers compute in single precision, ours in single or double precision as marked; ratios are in single "
    "precision unless marked.",
    "A batch of ours, drawn afresh for every SAE and step, is held as its distinct inputs and how often each was "
    "drawn: the same distribution and the same loss, with less arithmetic. On the hierarchy that is one multinomial "
    "draw of the counts of all inputs. On the tree, the likeliest inputs are drawn as counts and the others one by "
    "one; the table of the floor says how many differ. The peers multiply every sample of the batch, as people do; a "
    "plain loop that did the same would gain likewise. The tree's list of inputs is made once and not timed.",
    "Ours exact has no batch: it trains on the expected loss. It stands beside the sampled ones because it reaches "
    "the same answer, and only where the states are few.",
    "The plain loop uses torch.optim.Adam as it comes; ours calls the fused kernel that Adam offers as an option.",
    "Peers could run as many processes as there are cores; ours could, too. Each is measured in one process.",
]


def paired_ratio(ours: list[float | None], peer: list[float | None]) -> dict[str, float] | None:
    """Median, least and largest of the ratios ours / peer within each repetition; None without any pair."""
    ratios = [a / b for a, b in zip(ours, peer, strict=False) if a and b]
    if not ratios:
        return None
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "pairs": len(ratios)}


class Worker:
    """A process that imports a contender's libraries once and measures each cell in a fork of itself."""

    def __init__(self, library: str, threads: int):
        one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        environment = os.environ | one | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled"}
        command = [sys.executable, HERE / "contenders.py", str(threads), library]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)

    def measure(self, cell: dict) -> dict:
        """What came of a cell: numbers, or an error."""
        try:
            self.process.stdin.write(json.dumps(cell) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            return {"error": f"the worker ended with status {self.process.wait()}"}


def plan_steps(quick: bool) -> list[dict]:
    """Question (a): every cell, in the order in which a repetition measures them."""
    cells = []
    for problem in HIERARCHY + TREE[: 1 if quick else 2]:
        for batch in (200,) if quick else (200, 4096):
            for threads in (1,) if quick else (1, 2):
                common = {"measure": "steps", "problem": problem, "batch": batch, "threads": threads}
                for peer in ("saelens", "loop"):
                    steps = 240 if batch == 200 else 120 if problem in HIERARCHY else 60
                    if quick:
                        steps = 60
                    cells.append(common | {"contender": peer, "instances": 1, "dtype": "float32", "steps": steps})
                for contender, dtype in (("ours", "float32"), ("ours", "float64"), ("ours exact", "float64")):
                    if contender == "ours exact" and batch != 200:
                        continue  # it has no batch size: once is enough
                    for instances in (1, 256) if quick else (1, 16, 256, 4096) if threads == 1 else (256, 4096):
                        cell = common | {"contender": contender, "instances": instances, "dtype": dtype}
                        cell["aim"] = 0.1 if quick else 0.3
                        if contender == "ours exact":
                            cell["batch"] = None
                        cells.append(cell | reservations(cell))
    return cells


def reservations(cell: dict) -> dict:
    """Which cells are left out or measured once, and why."""
    if cell["problem"] not in TREE:
        return {}
    if cell["contender"] == "ours exact":
        return {"skipped": "the tree has 32,000 states, too many to train on all at every step"}
    if cell["instances"] == 4096 and (cell["dtype"] == "float64" or cell["threads"] == 2):
        return {"skipped": "to save time: measured in single precision on one thread only"}
    return {"once": True} if cell["instances"] == 4096 else {}


def plan_answer(quick: bool) -> list[dict]:
    """Question (b): every cell; the number of steps comes from the untimed pass."""
    return [
        {"contender": contender, "problem": problem, "threads": threads, "batch": 200, "n_seeds": SEEDS}
        | ({"once": True} if threads > 1 else {})
        for problem in HIERARCHY[: 1 if quick else 2]
        for threads in ((1,) if quick else (1, 2))
        for contender in ("saelens", "loop", "ours", "ours exact")
    ]


def plan_scaling(quick: bool) -> list[dict]:
    """One thing varied at a time."""
    base = {"measure": "scaling", "instances": 256, "rows": 4, "d_in": 20, "latents": 3, "aim": 0.05 if quick else 0.3}
    axes = {
        "instances": ({}, (1, 8, 64, 512, 4096)),
        "latents": ({"d_in": 64, "instances": 64}, (3, 6, 12, 24, 48)),
        "d_in": ({"instances": 64}, (8, 16, 32, 64, 128)),
        "rows": ({"instances": 64}, (4, 16, 64, 256, 1024)),
    }
    return [
        base | fixed | {axis: value, "axis": axis}
        for axis, (fixed, values) in axes.items()
        for value in (values[::4] if quick else values)
    ]


def machine() -> dict:
    """Processor, cores and versions; nothing that names the machine."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    found = {"processor": names[0] if names else platform.processor() or platform.machine(), "cores": os.cpu_count()}
    found |= {"system": platform.system(), "Python": platform.python_version()}
    for name in ("torch", "numpy", "sae-lens", "matryoshka-mixing"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    git = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found["commit"] = subprocess.run(git, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found["commit"] = "unknown"
    return found


def library(contender: str) -> str:
    """The worker that a contender needs."""
    return contender if contender in ("saelens", "loop") else "ours"


def benchmark(repetitions: int, quick: bool, minutes: float) -> dict:
    """Run everything."""
    began, workers = time.monotonic(), {}

    def measure(cell: dict, name: str = "") -> dict:
        key = library(cell.get("contender", "ours")), cell.get("threads", 1)
        if key not in workers:
            workers[key] = Worker(*key)
        print(f"[benchmark] {time.monotonic() - began:4.0f} s  {name}  {describe(cell)}", flush=True)
        return workers[key].measure(cell)

    steps, answers, scaling = plan_steps(quick), plan_answer(quick), plan_scaling(quick)
    for cell in steps + answers:
        cell["runs"] = []
    peaks = {threads: [] for threads in ((1,) if quick else (1, 2))}

    # An untimed pass for question (b); the answer does not depend on the number of threads.
    settled = {}
    for cell in answers:
        key = cell["contender"], cell["problem"]
        if key not in settled:
            asked = {k: v for k, v in cell.items() if k != "runs"} | {"measure": "settling"}
            # All seeds of ours are watched in one go; for the peers that would take many minutes.
            seeds = range(SEEDS) if key[0].startswith("ours") else range(1 if quick else 2)
            settled[key] = measure(asked | {"seeds": list(seeds)}, "to settle")
        cell["settling"] = settled[key]

    done = 0
    for repetition in range(repetitions):
        # The scaling still has to fit in.
        if done and (time.monotonic() - began) * (done + 1) / done > 60 * minutes - 30:
            print(f"[benchmark] no time for more than {done} repetition(s) in {minutes:g} minutes", flush=True)
            break
        for threads, runs in peaks.items():
            runs.append(measure({"measure": "peak", "threads": threads}))
        for cell in steps:
            if "skipped" in cell or ("once" in cell and repetition):
                continue
            asked = {k: v for k, v in cell.items() if k != "runs"}
            cell["runs"].append(measure(asked, f"{repetition + 1}/{repetitions}"))
        for cell in answers:
            if "once" in cell and repetition:
                continue
            if "error" in cell["settling"]:
                cell["runs"].append(cell["settling"])
                continue
            asked = {k: v for k, v in cell.items() if k not in ("runs", "settling")}
            asked |= {"measure": "answer", "steps": max(cell["settling"]["settled"]), "seed": repetition}
            cell["runs"].append(measure(asked, f"{repetition + 1}/{repetitions}"))
        done += 1
    for cell in scaling:
        cell["run"] = measure(cell)
    gpu = measure({"measure": "gpu", "problem": HIERARCHY[1], "instances": 100_000, "aim": 2})
    for worker in workers.values():
        worker.process.stdin.close()
        worker.process.wait()
    return {
        "quick": quick,
        "repetitions": done,
        "machine": machine(),
        "method": METHOD,
        "unlike": UNLIKE,
        "peaks": peaks,
        "floors": floors(),
        "steps": steps,
        "answers": answers,
        "scaling": scaling,
        "gpu": gpu if gpu.get("card") else None,
        "minutes": (time.monotonic() - began) / 60,
    }


def floors() -> list[dict]:
    """The floor of every cell with 4,096 SAEs."""
    found = []
    for name, problem in PROBLEMS.items():
        for batch in (200, 4096):
            rows = problem.distinct(batch)
            for dtype, size in (("float32", 4), ("float64", 8)):
                least = floor(rows, D_IN, problem.widths[-1], size, name in HIERARCHY)
                found.append({"problem": name, "batch": batch, "dtype": dtype, "rows": rows} | least)
    return found


def describe(cell: dict) -> str:
    """A cell in a line."""
    shown = ("measure", "contender", "problem", "batch", "instances", "dtype", "threads", "axis", "rows", "d_in")
    return ", ".join(str(cell[key]) for key in (*shown, "latents") if cell.get(key) is not None)


def main() -> None:
    """Parse the command line, measure, write the results in one move."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "results.json", help="JSON file to write")
    parser.add_argument("--repetitions", type=int, help="of every timed cell (default: 3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="a smoke test: few cells, one repetition")
    parser.add_argument("--minutes", type=float, default=15, help="no repetition is begun that would end after these")
    args = parser.parse_args()
    repetitions = args.repetitions or (1 if args.quick else 3)
    if repetitions < 1:
        parser.error(f"--repetitions is {repetitions}; it must be at least 1.")
    results = benchmark(repetitions, args.quick, args.minutes)
    draft = args.output.with_name(args.output.name + ".tmp")
    draft.write_text(json.dumps(results, indent=1) + "\n")
    draft.replace(args.output)
    failed = sum("error" in run for cell in results["steps"] + results["answers"] for run in cell["runs"])
    print(f"[benchmark] {results['minutes']:.1f} min, {failed} failed measurement(s); written to {args.output.name}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("[benchmark] interrupted; the results are as they were")
