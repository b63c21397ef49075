"""Turn the benchmark's JSON into a page of the book, with two figures. No number on it is typed by hand."""

import argparse
import json
import statistics
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from run import HIERARCHY, SEEDS, TREE, paired_ratio

from matryoshka_mixing import plotting

NAMES = {"saelens": "SAELens", "loop": "plain loop", "ours": "ours", "ours exact": "ours, exact"}
PEERS = ("saelens", "loop")
TARGETS = {"saelens": 300, "loop": 100, "tree": 10, "answer": 200, "floor": 5}
"""The issue's targets: least ratios to the peers, and the largest multiple of the floor."""
UNCOMPARED = "No comparison with SAELens has been run for this copy of the book; `make benchmark` runs it.\n"
NOTHING = """\
# Speed

No benchmark has been run for this copy of the book. `make benchmark` runs it, in an environment of its own; then
`make book` writes this page.
"""


def number(value: float) -> str:
    """Three digits, with separators for thousands."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def values(runs: list[dict], key: str) -> list[float | None]:
    """One value a repetition; None where it failed."""
    return [run.get(key) for run in runs]


def median(found: list[float | None]) -> float | None:
    """Median of what was measured, None if nothing was."""
    kept = [value for value in found if value is not None]
    return statistics.median(kept) if kept else None


def failure(cell: dict) -> str | None:
    """Why a cell has no number, or None."""
    if "skipped" in cell:
        return f"not measured: {cell['skipped']}"
    errors = [run["error"] for run in cell["runs"] if "error" in run]
    if errors and len(errors) == len(cell["runs"]):
        return f"failed: {errors[0]}"
    return None if cell["runs"] else "not measured"


def pick(cells: list[dict], **wanted) -> list[dict]:
    """The cells that agree with what is wanted."""
    return [cell for cell in cells if all(cell.get(key) == value for key, value in wanted.items())]


def verdicts(results: dict) -> list[dict]:
    """Every target with what was measured: `text`, `target`, `ratio` (or None), `why`, and `met`."""
    found = []
    for problem in HIERARCHY + TREE:
        for batch in (200, 4096):
            here = pick(results["steps"], problem=problem, batch=batch, threads=1, dtype="float32")
            ours = [cell for cell in pick(here, contender="ours") if cell["instances"] >= 256]
            peers = pick(here, contender="saelens") + pick(here, contender="loop")
            if not peers:
                continue
            if problem in HIERARCHY:
                for peer in peers:
                    name = f"{problem}, batch {batch:,}: ours / {NAMES[peer['contender']]}"
                    found.append(against(name, TARGETS[peer["contender"]], ours, peer, "rate"))
            else:
                found.append(best(f"{problem}, batch {batch:,}: ours / best peer", TARGETS["tree"], ours, peers))
    for problem in HIERARCHY:
        here = pick(results["answers"], problem=problem, threads=1)
        peers = pick(here, contender="saelens") + pick(here, contender="loop")
        for contender in ("ours", "ours exact"):
            ours = pick(here, contender=contender)
            if ours:
                name = f"time to the answer, {problem}: best peer / {NAMES[contender]}"
                found.append(best(name, TARGETS["answer"], ours, peers, "seconds"))
    return found


def best(name: str, target: float, ours: list[dict], peers: list[dict], key: str = "rate") -> dict:
    """Against the fastest peer that did not fail."""
    compared = [against(name, target, ours, peer, key) for peer in peers]
    good = [one for one in compared if one["ratio"]]
    if not good:
        return compared[0]
    least = min(good, key=lambda one: one["ratio"]["median"])
    broken = [peer for peer in peers if failure(peer)]
    least["why"] = "; ".join(f"{NAMES[peer['contender']]} {failure(peer)}" for peer in broken)
    return least


def against(name: str, target: float, ours: list[dict], peer: dict, key: str) -> dict:
    """The least ratio of ours (at each number of SAEs) to one peer."""
    # More steps a second are better, and fewer seconds.
    turn = (lambda v: v) if key == "rate" else (lambda v: None if v is None else 1 / v)
    theirs = [turn(v) for v in values(peer["runs"], key)]
    ratios = [paired_ratio([turn(v) for v in values(cell["runs"], key)], theirs) for cell in ours]
    ratios = [ratio for ratio in ratios if ratio]
    ratio = min(ratios, key=lambda r: r["median"]) if ratios else None
    why = "; ".join(
        [f"{NAMES[cell['contender']]} {failure(cell)}" for cell in [peer, *ours] if not ratio and failure(cell)]
    )
    met = None if ratio is None else ratio["median"] >= target
    return {"text": name, "target": target, "ratio": ratio, "met": met, "why": why}


def floors(results: dict) -> list[dict]:
    """Ours at 4,096 SAEs as a multiple of the floor, on one thread."""
    peaks, found = results["peaks"]["1"], []
    for least in results["floors"]:
        key = {k: least[k] for k in ("problem", "batch", "dtype")}
        cells = pick(results["steps"], contender="ours", threads=1, instances=4096, **key)
        rate = median(values(cells[0]["runs"], "rate")) if cells else None
        speed, copy = median(values(peaks, key["dtype"])), median(values(peaks, "copy"))
        if rate is None or speed is None or copy is None:
            continue
        parts = {"arithmetic": least["operations"] / speed, "memory": least["bytes"] / copy}
        bound = max(parts, key=parts.get)
        found.append(least | {"bound": bound, "seconds": parts[bound], "multiple": 1 / (rate * parts[bound])})
    return found


def said(met: bool | None) -> str:
    """A verdict in words."""
    return {True: "**met**", False: "**not met**", None: "not measured"}[met]


def verdict_table(results: dict) -> str:
    """One line a target."""
    rows = ["| target | at least | measured | range | verdict |", "| --- | --- | --- | --- | --- |"]
    for one in verdicts(results):
        ratio, why = one["ratio"], f" ({one['why']})" if one["why"] else ""
        shown = (number(ratio["median"]), f"{number(ratio['low'])}–{number(ratio['high'])}") if ratio else ("–", "–")
        rows.append(f"| {one['text']} | {one['target']} | {shown[0]} | {shown[1]} | {said(one['met'])}{why} |")
    for one in floors(results):
        name = f"{one['problem']}, batch {one['batch']:,}, {one['dtype']}: multiple of the floor"
        met = one["multiple"] <= TARGETS["floor"]
        rows.append(f"| {name} | at most {TARGETS['floor']} | {one['multiple']:.3g} | | {said(met)} |")
    return "\n".join(rows)


def step_tables(results: dict) -> str:
    """Steps per second, one table for each problem, batch size and number of threads."""
    parts = []
    places = {(c["problem"], c["threads"]): None for c in results["steps"]}
    for problem, threads in places:
        for batch in (200, 4096):
            here = pick(results["steps"], problem=problem, threads=threads)
            if not pick(here, batch=batch):
                continue
            here = [cell for cell in here if cell["batch"] in (batch, None)]
            plural = "s" if threads > 1 else ""
            parts.append(f"### {problem.capitalize()}, batch {batch:,}, {threads} thread{plural}\n")
            head = "SAE-steps a second | × SAELens (range) | × plain loop (range) | peak memory"
            parts.append(f"| contender | SAEs at once | precision | {head} |\n" + "| --- " * 7 + "|")
            for cell in here:
                parts[-1] += "\n" + step_row(cell, [pick(here, contender=peer) for peer in PEERS])
            parts.append("")
    return "\n".join(parts)


def step_row(cell: dict, peers: list[list[dict]]) -> str:
    """A contender's line."""
    row = f"| {NAMES[cell['contender']]} | {cell['instances']:,} | {cell['dtype']} |"
    if why := failure(cell):
        return f"{row} {why} | | | |"
    rates = values(cell["runs"], "rate")
    row += f" {number(median(rates))} |"
    for peer in peers:
        ratio = paired_ratio(rates, values(peer[0]["runs"], "rate")) if peer and peer[0] is not cell else None
        one = ratio and ratio["pairs"] == 1
        span = "one run" if one else ratio and f"{number(ratio['low'])}–{number(ratio['high'])}"
        row += f" {number(ratio['median'])} ({span}) |" if ratio else " |"
    return f"{row} {median(values(cell['runs'], 'peak_memory')) / 1e6:,.0f} MB |"


def answer_table(results: dict) -> str:
    """Question (b)."""
    rows = [
        f"| problem | threads | contender | settled after | seconds for {SEEDS} seeds | range | seeds timed |",
        "| --- " * 7 + "|",
    ]
    for cell in results["answers"]:
        row = f"| {cell['problem']} | {cell['threads']} | {NAMES[cell['contender']]} |"
        if why := failure(cell):
            rows.append(f"{row} {why} | | | |")
            continue
        seconds = [value for value in values(cell["runs"], "seconds") if value is not None]
        timed = sum(run.get("timed", 0) for run in cell["runs"]) if cell["contender"] in PEERS else SEEDS
        steps = f"{max(cell['settling']['settled']):,} steps"
        span = f"{number(min(seconds))}–{number(max(seconds))}"
        rows.append(f"{row} {steps} | {number(median(seconds))} | {span} | {timed} |")
    return "\n".join(rows)


def floor_table(results: dict) -> str:
    """The floor and what sets it."""
    rows = [
        "| problem | batch | distinct inputs | precision | operations | bytes | least time for a step of one SAE | "
        "set by | ours |",
        "| --- " * 9 + "|",
    ]
    for one in floors(results):
        count = f"{one['operations']:,} | {one['bytes']:,} | {one['seconds'] * 1e9:,.3g} ns"
        place = f"{one['problem']} | {one['batch']:,} | {one['rows']:,} | {one['dtype']}"
        rows.append(f"| {place} | {count} | {one['bound']} | {one['multiple']:.3g} × |")
    return "\n".join(rows)


def ratio_figure(found: list[dict]) -> Figure:
    """Every measured ratio with its range, and its target."""
    kept = [one for one in found if one["ratio"]]
    figure, axis = plt.subplots(figsize=(8.6, 0.36 * len(kept) + 1.4))
    for y, one in enumerate(reversed(kept)):
        ratio, colour = one["ratio"], plotting.COLOURS[0 if one["met"] else 1]
        span = [[ratio["median"] - ratio["low"]], [ratio["high"] - ratio["median"]]]
        marker = "o" if one["met"] else "s"
        axis.errorbar(ratio["median"], y, xerr=span, fmt=marker, ms=6, capsize=2, color=colour, lw=1.2)
        axis.plot(one["target"], y, marker="|", ms=15, mew=2, color="0.2", ls="")
    axis.plot([], [], "o", color=plotting.COLOURS[0], label="met")
    axis.plot([], [], "s", color=plotting.COLOURS[1], label="not met")
    axis.plot([], [], "|", ms=12, mew=2, color="0.2", label="target")
    axis.set_yticks(range(len(kept)), [one["text"] for one in reversed(kept)], fontsize=8.5)
    axis.set(xscale="log", xlabel="times as fast (median and range of the repetitions)")
    axis.grid(axis="x", color="0.9", lw=0.8)
    axis.legend(fontsize=9, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    return figure


AXES = {"instances": "SAEs at once", "latents": "latents", "d_in": "dimension", "rows": "states"}


def series(results: dict, axis: str, key: str) -> tuple[list, list]:
    """Positions and values along one axis of the scaling, failed ones left out."""
    cells = [cell for cell in pick(results["scaling"], axis=axis) if key in cell["run"]]
    return [cell[axis] for cell in cells], [cell["run"][key] for cell in cells]


def scaling_figure(results: dict) -> Figure:
    """Time of a step against each size, and memory against the number of SAEs."""
    figure, axes = plt.subplots(2, 3, figsize=(9.6, 5.6))
    every = [1e6 * value for axis in AXES for value in series(results, axis, "seconds")[1]] or [1]
    fixed = {
        "instances": "4 states, 20 dimensions, 3 latents",
        "latents": "4 states, 64 dimensions, 64 SAEs",
        "d_in": "4 states, 3 latents, 64 SAEs",
        "rows": "20 dimensions, 3 latents, 64 SAEs",
    }
    for i, (panel, (axis, label)) in enumerate(zip(axes.flat, AXES.items(), strict=False)):
        x, seconds = series(results, axis, "seconds")
        panel.plot(x, [1e6 * value for value in seconds], marker=plotting.MARKERS[i], color=plotting.COLOURS[i])
        # One scale for all, so that the panels can be compared.
        panel.set(yscale="log", ylim=(min(every) / 1.5, max(every) * 1.5), ylabel="µs a step of one SAE")
        ticks_at(panel, x, label)
        panel.set_title(fixed[axis], fontsize=9)
    if turn := turning_point(results):
        axes[0, 0].axvline(turn, color="0.4", lw=1, ls="--")
        axes[0, 0].text(turn, max(every), " overhead gives way\n to arithmetic", fontsize=8, va="top")
    x, memory = series(results, "instances", "peak_memory")
    axes[1, 1].plot(x, [value / 1e6 for value in memory], marker="P", color=plotting.COLOURS[4])
    axes[1, 1].set(ylabel="peak memory, MB")
    ticks_at(axes[1, 1], x, "SAEs at once")
    axes[1, 1].set_title("whole process", fontsize=9)
    axes[1, 2].set_visible(False)
    return figure


def ticks_at(panel, x: list[int], label: str) -> None:
    """A logarithmic axis that names the measured values and nothing else."""
    panel.set(xscale="log", xlabel=label)
    panel.set_xticks(x, [f"{value:,}" for value in x])
    panel.minorticks_off()


def turning_point(results: dict) -> float | None:
    """Number of SAEs at which a step's overhead equals its arithmetic: it costs about overhead + n x arithmetic."""
    x, seconds = series(results, "instances", "seconds")
    return seconds[0] * x[0] / min(seconds) if x else None


def scaling_finding(results: dict) -> str:
    """What the scaling says, in two sentences."""
    x, seconds = series(results, "instances", "seconds")
    _, memory = series(results, "instances", "peak_memory")
    if len(x) < 2:
        return "The scaling could not be measured."
    each = (memory[-1] - memory[0]) / (x[-1] - x[0]) / 1e3
    return (
        f"A step costs one SAE {number(seconds[0] * 1e6)} µs alone and {number(min(seconds) * 1e6)} µs in company; "
        f"overhead gives way to arithmetic at about {number(turning_point(results))} SAEs. "
        f"From {x[0]:,} to {x[-1]:,} SAEs the peak memory grows by {each:.1f} kB an SAE."
    )


def page(results: dict) -> str:
    """The page in MyST Markdown."""
    found = verdicts(results)
    counted = [one["met"] for one in found]
    summary = (
        f"Of {len(found)} targets against the peers, {counted.count(True)} are met, {counted.count(False)} are not met "
        f"and {counted.count(None)} were not measured."
    )
    gpu = results.get("gpu")
    card = (
        f"On {gpu['card']}: {gpu['instances']:,} SAEs at once, {number(gpu['rate'])} SAE-steps a second on exact "
        "states in single precision (hierarchy, widths 1 and 3)."
        if gpu
        else "No GPU was at hand, so none was measured."
    )
    quick = "\n**A smoke test (`--quick`): the numbers below mean little.**\n" if results["quick"] else ""
    machine = "\n".join(f"| {key} | {value} |" for key, value in results["machine"].items())
    bullets = {key: "\n".join(f"- {line}" for line in results[key]) for key in ("method", "unlike")}
    figure = "\n".join(
        [
            "```{figure} speed-ratios.png",
            ":name: fig-speed-ratios",
            ":alt: Each comparison as a point with its range on a logarithmic axis, beside a mark at its target; "
            f"{counted.count(True)} points lie at or beyond their marks, {counted.count(False)} short of them.",
            "",
            f"{summary} One thread; the lowest of the ratios with 256 or more SAEs at once.",
            "```",
        ]
    )
    drawn = figure if any(one["ratio"] for one in found) else ""
    return f"""# Speed

{summary}
{quick}
Median of {results["repetitions"]} repetition(s), all contenders once in each, but for the longest measurements, which
were made in the first only; ranges are the least and largest of the
ratios within a repetition. Everything here is written from `benchmarks/results.json`; `make benchmark` measures it
anew in about {results["minutes"]:.0f} minutes.

{verdict_table(results)}

{drawn}

## Time to the answer

{SEEDS} seeds on the three-feature hierarchy until every decoder cosine is within 1e-3 of where it ends.

{answer_table(results)}

## How far from the floor

What a step must at least compute and move for the distinct inputs of its batch (a mean), at this machine's own speed in
one large product and one large copy; ours with 4,096 SAEs at once on one thread. What stays in the cache need not be
moved, so a multiple may lie below 1; the random numbers that draw a batch are not counted.

{floor_table(results)}

## Scaling

```{{figure}} speed-scaling.png
:name: fig-speed-scaling
:alt: Time for a step of one SAE against the number of SAEs, latents, dimensions and states, and peak memory against the
  number of SAEs, on logarithmic axes. The time falls with the number of SAEs and then levels off.

{scaling_finding(results)} Exact states, double precision, one thread.
```

{card}

## Training steps per second

{step_tables(results)}

## Tried and left out

These were measured while the trainer was written, and are not part of the benchmark.

- `torch.compile` of the step: the compiled step was slower than the one on buffers made beforehand, and compiling took
  longer than most sweeps.
- Stopping SAEs that have converged: on exact states most of the SAE-steps could be saved, but a small sweep does not
  wait for arithmetic, its slowest SAE sets the time, and the cool-down would end elsewhere for each SAE.
- Newton's method (damped, on the exact loss) after a start with Adam: a dozen iterations reach the optimum, and take
  as long as all the steps of Adam that they replace, or longer; from too early a start, some end at another one.

## What is not compared like for like

{bullets["unlike"]}

## How it was measured

{bullets["method"]}

| machine | |
| --- | --- |
{machine}
"""


def agreement(found: dict) -> str:
    """Our TopK SAEs beside SAELens's, as text and a table."""
    columns = ("loss", "gradient", "trainer", "control")
    rows = [
        f"| {row['class']} | {row['inputs']} | " + " | ".join(f"{row[key]:.0e}" for key in columns) + " |"
        for row in found["comparisons"]
    ]
    worst = max(row[key] for row in found["comparisons"] for key in columns[:3])
    said = (
        f"Held against SAELens {found['sae_lens']}: {found['seeds']} random SAEs of {found['latents']} latents in "
        f"{found['d_in']} dimensions, {found['rows']} inputs each, float64. The largest relative difference of a "
        f"loss or gradient is {worst:.0e}; {found['tolerance']:.0e} is allowed. "
        "The control, ours with twice the K, must differ."
    )
    head = ["| class | inputs | loss | gradient (autograd) | gradient (trainer) | control |", "|" + " --- |" * 6]
    return "\n".join([said, "", *head, *rows, ""])


def write(source: Path, folder: Path) -> None:
    """Write `speed.md` with its figures, and `agreement.md`, into `folder`; without results, pages that say so."""
    folder.mkdir(parents=True, exist_ok=True)
    compared = source.with_name("agreement.json")
    text = agreement(json.loads(compared.read_text())) if compared.is_file() else UNCOMPARED
    (folder / "agreement.md").write_text(text)
    if not source.is_file():
        (folder / "speed.md").write_text(NOTHING)
        return
    results = json.loads(source.read_text())
    plotting.use_style()
    if any(one["ratio"] for one in verdicts(results)):
        ratio_figure(verdicts(results)).savefig(folder / "speed-ratios.png")
    scaling_figure(results).savefig(folder / "speed-scaling.png")
    plt.close("all")
    (folder / "speed.md").write_text(page(results))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="JSON file of the benchmark")
    parser.add_argument("folder", type=Path, help="where speed.md and its figures go")
    arguments = parser.parse_args()
    write(arguments.results, arguments.folder)
