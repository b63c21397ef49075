"""Measure how fast many SAEs train, against what people use; write one JSON file.

Every contender has a process of its own, which stays: it imports and compiles once, and measures cell after cell. A
repetition measures all cells once, the contenders of a cell one after the other, so that ratios are paired. A
contender that fails is recorded with its error.
"""

# Why not pyperf: it takes all values of one benchmark before those of the next, each batch of them in a new process, so
# contenders would not alternate within a repetition, and each of some 200 cells would import and compile anew (several
# seconds each). What is left to do, a pipe and a clock, is less code than its settings would be.

import argparse
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

from floor import floor
from problems import PROBLEMS

from matryoshka_mixing._commands import write_text

HERE = Path(__file__).parent
HIERARCHY = ["hierarchy, one latent", "hierarchy, widths 1 and 3"]
TREE = ["tree, 20 latents", "tree, 20 prefixes"]
SEEDS = 64
SIZES = {1: {True: (1, 64, 512, 4096), False: (1, 16, 64)}, 2: {True: (64, 4096), False: (64,)}}
"""SAEs at once on so many threads, where the inputs are few, and where they are many."""

METHOD = [
    "Training steps only: imports, compilation, set-up and warm-up are outside. For the peers, the clock runs between "
    "two steps of one training, the first 20 left out. For JAX it is one call of a compiled function that takes about "
    "0.3 s, or 0.6 s where two threads are measured as well; compilation is told apart. For ours it is a call of as "
    "long less a call with one step, so that set-up and the last evaluation cancel; its SAEs were trained for 300 "
    "steps before, as the cost of ours depends on how many latents are active (on the tree the first steps of a "
    "training cost up to twice as much); that of the others does not.",
    "SAEs at once are those of one call. Where JAX is faster with fewer at once, it could train them in turns: a ratio "
    "is always to the fastest JAX of the same repetition with at most as many SAEs at once.",
    "A process for one thread stays on one core, one for two on two. JAX is told to use no other thread, and shares "
    "its SAEs out over two CPU devices where it has two cores.",
    "Time to the answer: an untimed pass records the cosines of all decoder rows with all true features every 10 "
    "steps of the whole schedule, and finds the step from which on all stay within 1e-3 of their last values; the "
    "latest of the seeds watched counts (all 64 of ours and of JAX, two of a peer). The timed pass runs that many "
    "steps of the same schedule. For ours and JAX the clock runs from the start of a process to its answer, with "
    "imports and compilation: with an empty folder for what the compiler keeps (cold), and with that of an earlier "
    "process (warm). A peer's time is 64 times that of one seed, a new one in each repetition, without its imports.",
    "Batches are of 200 there. The plain loop, JAX and ours have the project's default optimiser and schedule. SAELens "
    "runs with Adam at 0.003 (of 0.003 and 0.02 the one that settled sooner in a trial), 2% linear warm-up and a "
    "linear decay over the last 60% of 3000 steps.",
]
UNLIKE = [
    "JAX and ours train the same SAEs on the same loss with the same optimiser, in double precision. All SAEs share "
    "one dictionary and one list of inputs; ours would cost the same if each had its own, JAX more.",
    "A batch of ours, drawn afresh for every SAE and step, is held as its distinct inputs and how often each was "
    "drawn: the same distribution and the same loss, with less arithmetic. JAX does so on the hierarchy, where all "
    "inputs fit into one array; on the tree it draws sample by sample from the same list, by an alias table, and "
    "multiplies every one; ours draws how often the likeliest come, and the rest in that way. “JAX, by rows” does "
    "neither: it draws feature by feature, as people do. The plain loop and SAELens, too.",
    "Ours trains the SAEs of the hierarchy four at a time: a single one takes as long as four.",
    "The list of the tree's 32,000 inputs is made once and not timed.",
    "SAELens has no Matryoshka SAE with an L1 penalty. With several widths its only one is measured, BatchTopK with k "
    "at the true number of active features: another loss, and another answer.",
    "SAELens clips gradients, counts dead latents and shows a progress bar; the others do not. It fires exclusive "
    "children independently and keeps one of those that fire; their probabilities are corrected so that features fire "
    "as often as in the tree.",
    "SAELens and the plain loop compute in single precision and train one SAE; they are measured on one thread only.",
]


def paired_ratio(above: list[float | None], below: list[float | None]) -> dict[str, float] | None:
    """Median, least and largest of the ratios within each repetition; None without any pair."""
    ratios = [a / b for a, b in zip(above, below, strict=False) if a and b]
    if not ratios:
        return None
    return {"median": statistics.median(ratios), "low": min(ratios), "high": max(ratios), "pairs": len(ratios)}


class Worker:
    """A process that measures one contender's cells; see `worker`."""

    def __init__(self, contender: str, threads: int):
        command, pipe = [sys.executable, HERE / "worker.py", contender, str(threads)], subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)

    def measure(self, cell: dict) -> dict:
        """What came of a cell: numbers, or an error."""
        try:
            self.process.stdin.write(json.dumps(cell) + "\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline())
        except (BrokenPipeError, json.JSONDecodeError):
            return {"error": f"the worker ended with status {self.process.wait()}"}


def afresh(cell: dict, kept: str) -> dict:
    """Seconds from the start of a process to the answer; `kept` is the folder of what compilers keep."""
    keep = {"NUMBA_CACHE_DIR": kept, "JAX_COMPILATION_CACHE_DIR": kept}
    keep |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1"}
    command = [sys.executable, HERE / "worker.py", cell["contender"], str(cell["threads"]), json.dumps(cell)]
    before = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | keep) as process:
        line = process.stdout.readline()
        seconds = time.perf_counter() - before
    return {"seconds": seconds} | json.loads(line or '{"error": "the process ended without an answer"}')


def batches(problem: str) -> list[int | None]:
    """The batches of a problem; None: all its inputs at every step."""
    return [None, 200, 4096] if PROBLEMS[problem].few else [200, 4096]


def plan_rates(quick: bool) -> list[dict]:
    """Every cell of the rates, in the order in which a repetition measures them."""
    cells, allowed = [], (1,) if quick else (1, 2)
    for name in (HIERARCHY[1], TREE[0]) if quick else PROBLEMS:
        for batch in batches(name)[: 2 if quick else None]:
            common = {"measure": "rate", "problem": name, "batch": batch, "threads": 1}
            common |= {"dtype": "float64", "aim": 0.1 if quick else 0.3}
            for instances in (1, 64) if quick else SIZES[1][PROBLEMS[name].few]:
                # One thread and two, one right after the other, in longer calls: machines change their pace, and some
                # threads start late.
                both = 2 in allowed and instances in SIZES[2][PROBLEMS[name].few]
                for threads in allowed if both else (1,):
                    more = {"instances": instances, "threads": threads} | ({"aim": 0.6} if both else {})
                    cells += [common | more | {"contender": who} for who in ("ours", "jax")]
            cells.append(common | {"contender": "fast", "instances": 64})
            if batch:
                single = common | {"dtype": "float32"}
                cells.append(single | {"contender": "ours", "instances": 64})
                cells += [single | {"contender": who, "instances": 1} for who in ("loop", "saelens")]
                cells.append(common | {"contender": "jax rows", "instances": 16})
    return cells


def plan_answers(quick: bool) -> list[dict]:
    """Every cell of the time to the answer; the number of steps comes from the untimed pass."""
    cells = []
    for name in HIERARCHY[1:] if quick else HIERARCHY:
        common = {"measure": "answer", "problem": name, "batch": 200, "threads": 1, "n_seeds": SEEDS}
        for batch in (None, 200):
            for state in ("warm",) if name == HIERARCHY[0] else ("cold", "warm"):  # compiling does not depend on it
                cells += [common | {"batch": batch, "contender": who, "compiler": state} for who in ("ours", "jax")]
        cells += [common | {"contender": who} for who in ("loop", "saelens")]
    return cells


def machine() -> dict:
    """Processor, cores and versions; nothing that names the machine."""
    info = Path("/proc/cpuinfo")
    names = re.findall(r"model name\s*: (.*)", info.read_text()) if info.exists() else []
    found = {"processor": names[0] if names else platform.processor() or platform.machine(), "cores": os.cpu_count()}
    found |= {"system": platform.system(), "Python": platform.python_version()}
    for name in ("numpy", "numba", "jax", "torch", "sae-lens"):
        try:
            found[name] = metadata.version(name).split("+")[0]
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    git = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found["commit"] = subprocess.run(git, cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found["commit"] = "unknown"
    return found


def benchmark(repetitions: int, quick: bool, minutes: float) -> dict:
    """Run everything."""
    began, workers = time.monotonic(), {}

    def say(what: str) -> None:
        print(f"[benchmark] {time.monotonic() - began:4.0f} s  {what}", flush=True)

    def measure(cell: dict, **more) -> dict:
        asked = {key: value for key, value in cell.items() if key not in ("runs", "settling")} | more
        key = asked["contender"].removesuffix(" rows"), asked.get("threads", 1)
        if key not in workers:
            workers[key] = Worker(*key)
        return workers[key].measure(asked)

    rates, answers, speeds = plan_rates(quick), plan_answers(quick), []
    for cell in rates + answers:
        cell["runs"] = []
    agreement = agree(measure)
    say(f"JAX and ours: {agreement}")

    # An untimed pass for the time to the answer.
    settled = {}
    for cell in answers:
        key = cell["contender"], cell["problem"], cell["batch"]
        if key not in settled:
            # All seeds of ours are watched in one go; for the peers that would take many minutes.
            seeds = range(SEEDS) if key[0] in ("ours", "jax") else range(1 if quick else 2)
            settled[key] = measure(cell, measure="settling", seeds=list(seeds))
            say(f"to settle: {describe(cell)}")
        cell["settling"] = settled[key]

    with tempfile.TemporaryDirectory() as kept:
        for cell in answers:
            if cell.get("compiler") == "warm" and "settled" in cell["settling"]:
                afresh(cell | {"steps": max(cell["settling"]["settled"])}, kept)
        first, done = time.monotonic(), 0
        for repetition in range(repetitions):
            # The first repetition compiles.
            if done and (time.monotonic() - began) + (time.monotonic() - first) / done > 60 * minutes:
                say(f"no time for another repetition, after {done}, in {minutes:g} minutes")
                break
            speeds.append(measure({"measure": "speeds", "contender": "machine"}))
            for cell in rates:
                cell["runs"].append(measure(cell))
                say(f"{repetition + 1}/{repetitions}  {describe(cell)}")
            for cell in answers:
                if "error" in cell["settling"]:
                    cell["runs"].append(cell["settling"])
                    continue
                asked = {key: value for key, value in cell.items() if key not in ("runs", "settling")}
                asked |= {"steps": max(cell["settling"]["settled"]), "seed": repetition}
                if "compiler" not in cell:
                    cell["runs"].append(measure(asked))
                elif cell["compiler"] == "warm":
                    cell["runs"].append(afresh(asked, kept))
                else:
                    with tempfile.TemporaryDirectory() as empty:
                        cell["runs"].append(afresh(asked, empty))
                say(f"{repetition + 1}/{repetitions}  {describe(cell)}")
            done += 1
    gpu = {"measure": "gpu", "contender": "ours", "problem": HIERARCHY[1], "batch": None, "instances": 100_000}
    gpu = measure(gpu | {"threads": 1, "dtype": "float32", "device": "cuda", "aim": 2})
    for worker in workers.values():
        worker.process.stdin.close()
        worker.process.wait()
    return {
        "quick": quick,
        "repetitions": done,
        "minutes": (time.monotonic() - began) / 60,
        "machine": machine(),
        "method": METHOD,
        "unlike": UNLIKE,
        "agreement": agreement,
        "speeds": speeds,
        "floors": floors(),
        "rates": rates,
        "answers": answers,
        "gpu": gpu if gpu.get("card") else None,
    }


def agree(measure) -> dict:
    """The largest difference between decoders of JAX and of ours after a few exact steps from the same start."""
    steps, worst = 200, 0.0
    for name in HIERARCHY:
        asked = {"measure": "trained", "problem": name, "steps": steps}
        ours = measure(asked | {"contender": "ours"})
        jax = measure(asked | {"contender": "jax", "start": ours.get("start")})
        if "error" in jax:
            return {"steps": steps, "error": jax["error"]}
        worst = max(worst, largest_difference(ours["W_dec"], jax["W_dec"]))
    return {"steps": steps, "difference": worst}


def largest_difference(a, b) -> float:
    """Between nested lists of one shape."""
    if isinstance(a, list):
        return max(map(largest_difference, a, b))
    return abs(a - b) if math.isfinite(a - b) else math.inf


def floors() -> list[dict]:
    """What a step has to do, for every problem and batch."""
    return [
        {"problem": name, "batch": batch} | floor(problem, batch)
        for name, problem in PROBLEMS.items()
        for batch in batches(name)
    ]


def describe(cell: dict) -> str:
    """A cell in a line."""
    shown = ("measure", "contender", "problem", "batch", "instances", "dtype", "threads", "compiler")
    return ", ".join(str(cell[key]) for key in shown if cell.get(key) is not None)


def main() -> None:
    """Parse the command line, measure, write the results in one move."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE / "results.json", help="JSON file to write")
    parser.add_argument("--repetitions", type=int, help="of every timed cell (default: 3; 1 with --quick)")
    parser.add_argument("--quick", action="store_true", help="a smoke test: few cells, one repetition")
    parser.add_argument("--minutes", type=float, default=45, help="no repetition is begun that would end after these")
    args = parser.parse_args()
    repetitions = args.repetitions or (1 if args.quick else 3)
    if repetitions < 1:
        parser.error(f"--repetitions is {repetitions}; it must be at least 1.")
    results = benchmark(repetitions, args.quick, args.minutes)
    write_text(args.output, json.dumps(results, indent=1) + "\n")
    failed = sum("error" in run for cell in results["rates"] + results["answers"] for run in cell["runs"])
    print(f"[benchmark] {results['minutes']:.1f} min, {failed} failed measurement(s); written to {args.output.name}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("[benchmark] interrupted; the results are as they were")
