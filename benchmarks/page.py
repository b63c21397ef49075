"""Turn the benchmark's JSON into a page of the book, with a figure. No number on it is typed by hand."""

import argparse
import json
import statistics
from collections import Counter
from pathlib import Path

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt
from floor import least
from matplotlib.figure import Figure
from run import HIERARCHY, SEEDS, TREE, paired_ratio

from matryoshka_mixing import figures

NAMES = {"ours": "ours", "jax": "JAX", "jax rows": "JAX, by rows", "loop": "plain loop", "saelens": "SAELens"}
PEERS = ("jax", "jax rows", "loop", "saelens")
AHEAD = {
    (HIERARCHY[1], None): 3, (HIERARCHY[1], 200): 3, (HIERARCHY[1], 4096): 3,
    (TREE[0], 200): 5, (TREE[1], 200): 5, (TREE[0], 4096): 8, (TREE[1], 4096): 8,
}  # fmt: skip
"""The issue's targets: how many times as fast as JAX; elsewhere, and in the time to the answer, once."""
WITHIN, TWICE, MANY = 3, 1.8, 4096
"""Its other ones: the largest multiple of the floor, at so many SAEs, and the gain of a second thread."""
UNCOMPARED = "No comparison with SAELens has been run for this copy of the book; `make benchmark` runs it.\n"
NOTHING = """\
# Speed

No benchmark has been run for this copy of the book. `make benchmark` runs it, in an environment of its own; then
`make book` writes this page.
"""


def number(value: float | None) -> str:
    """Three digits, with separators for thousands."""
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def times(ratio: dict | None) -> str:
    """A ratio with its range."""
    if not ratio:
        return "–"
    return f"{number(ratio['median'])} ({number(ratio['low'])}–{number(ratio['high'])})"


def values(cell: dict | None, key: str = "rate") -> list[float | None]:
    """One value a repetition; None where it failed."""
    return [run.get(key) for run in cell["runs"]] if cell else []


def median(found: list[float | None]) -> float | None:
    """Median of what was measured, None if nothing was."""
    kept = [value for value in found if value is not None]
    return statistics.median(kept) if kept else None


def shown(cell: dict | None, key: str = "rate") -> str:
    """The median of a cell with its range, or why there is none."""
    kept = [value for value in values(cell, key) if value is not None]
    if kept:
        return times({"median": statistics.median(kept), "low": min(kept), "high": max(kept)})
    errors = [run["error"] for run in cell["runs"] if "error" in run] if cell else []
    return f"failed: {errors[0]}" if errors else "not measured"


def pick(cells: list[dict], **wanted) -> list[dict]:
    """The cells that agree with what is wanted."""
    return [cell for cell in cells if all(cell.get(key) == value for key, value in wanted.items())]


def one(cells: list[dict], **wanted) -> dict | None:
    """The one such cell, if there is."""
    return next(iter(pick(cells, **wanted)), None)


def batch_name(batch: int | None) -> str:
    """How a batch is called."""
    return "exact" if batch is None else f"batch {batch:,}"


def place(cell: dict) -> str:
    """Where a cell stands."""
    plural = "s" if cell["instances"] > 1 else ""
    return f"{cell['problem']}, {batch_name(cell['batch'])}, {cell['instances']:,} SAE{plural}"


def best_jax(cells: list[dict], cell: dict) -> list[float | None]:
    """Of each repetition the fastest JAX with at most as many SAEs at once as a cell has."""
    same = {key: cell[key] for key in ("problem", "batch", "threads")}
    peers = [peer for peer in pick(cells, **same) if peer["contender"].startswith("jax")]
    runs = [values(peer) for peer in peers if peer["instances"] <= cell["instances"]]
    return [max(filter(None, each), default=None) for each in zip(*runs, strict=True)]


def against_jax(cells: list[dict], **wanted) -> list[tuple[dict, dict]]:
    """Every cell of ours in double precision with the ratio to JAX, the least first."""
    found = [
        (cell, paired_ratio(values(cell), best_jax(cells, cell)))
        for cell in pick(cells, contender="ours", dtype="float64", **wanted)
    ]
    return sorted((pair for pair in found if pair[1]), key=lambda pair: pair[1]["median"])


def places(results: dict) -> list[tuple[str, int | None]]:
    """The problems with their batches, in order."""
    return list(dict.fromkeys((cell["problem"], cell["batch"]) for cell in results["rates"]))


def verdicts(results: dict) -> list[dict]:
    """Every target with what was measured: `text`, `target`, `measured` (a ratio or None), `where`, and `met`."""
    cells, answers, found = results["rates"], results["answers"], []

    def judge(text: str, target: float, ratio: dict | None, where: str = "", most: bool = False) -> None:
        holds = ratio and (ratio["median"] <= target if most else ratio["median"] >= target)
        found.append(
            {"text": text, "target": f"at {'most' if most else 'least'} {target}", "measured": ratio, "where": where,
             "met": None if ratio is None else holds}
        )  # fmt: skip

    for problem, batch in places(results):
        pairs = against_jax(cells, problem=problem, batch=batch, threads=1)
        cell, ratio = pairs[0] if pairs else (None, None)
        text = f"{problem}, {batch_name(batch)}: ours / JAX, the least"
        judge(text, AHEAD.get((problem, batch), 1), ratio, place(cell).split(", ")[-1] if cell else "")
    for row in floors(results):
        if row["instances"] == MANY:
            text = f"{row['problem']}, {batch_name(row['batch'])}, {MANY:,} SAEs: multiple of the floor"
            judge(text, WITHIN, row["multiple"], most=True)
    gains = [(cell, gain(cells, cell)) for cell in pick(cells, contender="ours", dtype="float64", threads=2)]
    gains = [pair for pair in gains if pair[1] and pair[0]["instances"] > 1]
    cell, ratio = min(gains, key=lambda pair: pair[1]["median"], default=(None, None))
    judge("two threads / one, the least with 64 SAEs", TWICE, ratio, place(cell) if cell else "")
    for cell in pick(answers, contender="ours"):
        jax = one(answers, contender="jax", **{key: cell[key] for key in ("problem", "batch", "compiler")})
        ratio = paired_ratio(values(jax, "seconds"), values(cell, "seconds"))
        text = f"time to the answer, {cell['problem']}, {batch_name(cell['batch'])}, {cell['compiler']}: JAX / ours"
        judge(text, 1, ratio)
    return found


def gain(cells: list[dict], cell: dict) -> dict | None:
    """What a second thread gains."""
    alike = {key: cell[key] for key in ("contender", "problem", "batch", "instances", "dtype")}
    return paired_ratio(values(cell), values(one(cells, threads=1, **alike)))


def floors(results: dict) -> list[dict]:
    """The floor of every problem and batch, and ours with the most SAEs on one thread as a multiple of it."""
    found = []
    for counts in results["floors"]:
        here = {key: counts[key] for key in ("problem", "batch")}
        cells = pick(results["rates"], contender="ours", threads=1, dtype="float64", **here)
        if not cells or any("error" in speed for speed in results["speeds"]):
            continue
        cell = max(cells, key=lambda cell: cell["instances"])
        parts = {
            part: median([least(counts, speed)[part] for speed in results["speeds"]]) for part in results["speeds"][0]
        }
        total = sum(parts.values())
        multiple = paired_ratio([1 / total] * len(cell["runs"]), values(cell))
        found.append(counts | {"parts": parts, "total": total, "multiple": multiple, "instances": cell["instances"]})
    return found


def said(met: bool | None) -> str:
    """A verdict in words."""
    return {True: "**met**", False: "**not met**", None: "not measured"}[met]


def table(head: str, rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [f"| {head} |", "|" + " --- |" * (head.count("|") + 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def verdict_table(results: dict) -> str:
    """One line a target."""
    return table(
        "target | must be | measured (range) | where | verdict",
        [
            [row["text"], row["target"], times(row["measured"]), row["where"], said(row["met"])]
            for row in verdicts(results)
        ],
    )


def rate_tables(results: dict) -> str:
    """Steps a second on one thread: ours beside JAX, and beside the others."""
    cells, parts = pick(results["rates"], threads=1), []
    for problem in dict.fromkeys(cell["problem"] for cell in cells):
        rows, others = [], []
        for cell in pick(cells, problem=problem, contender="ours", dtype="float64"):
            jax = one(cells, problem=problem, contender="jax", batch=cell["batch"], instances=cell["instances"])
            ratio = paired_ratio(values(cell), best_jax(cells, cell))
            compiling = f"{number(median(values(jax, 'compile')))} s"
            rows.append(
                [batch_name(cell["batch"]), f"{cell['instances']:,}", shown(cell), shown(jax), times(ratio), compiling]
            )
        for cell in pick(cells, problem=problem):
            if cell["contender"] in ("loop", "saelens", "jax rows") or cell["dtype"] == "float32":
                ours = one(
                    cells, problem=problem, batch=cell["batch"], contender="ours", instances=64, dtype=cell["dtype"]
                )
                ratio = None if cell is ours else paired_ratio(values(ours), values(cell))
                named = [batch_name(cell["batch"]), NAMES[cell["contender"]], f"{cell['instances']:,}", cell["dtype"]]
                others.append([*named, shown(cell), times(ratio)])
        parts += [f"### {problem.capitalize()}", "", "", ""]
        parts[-2] = table("batch | SAEs at once | ours | JAX | ours / JAX at its best | JAX compiles", rows)
        if others:
            head = "batch | contender | SAEs at once | precision | steps a second | ours (64 SAEs, same precision) / it"
            parts += [table(head, others), ""]
    return "\n".join(parts)


def thread_table(results: dict) -> str:
    """What a second thread gains."""
    rows, cells = [], results["rates"]
    for cell in pick(cells, threads=2):
        if cell["contender"] != "ours" or cell["dtype"] == "float32":
            continue
        jax = one(cells, **{key: cell[key] for key in ("problem", "batch", "instances", "threads")}, contender="jax")
        ratio = paired_ratio(values(cell), best_jax(cells, cell))
        gains = times(gain(cells, cell)), times(gain(cells, jax)) if jax else "–"
        where = [cell["problem"], batch_name(cell["batch"]), f"{cell['instances']:,}"]
        rows.append([*where, shown(cell), gains[0], shown(jax), gains[1], times(ratio)])
    if not rows:
        return "Not measured."
    return table("problem | batch | SAEs | ours | / one thread | JAX | / one thread | ours / JAX at its best", rows)


def bits(results: dict) -> str:
    """What it costs to give the same bits on every CPU."""
    cells = pick(results["rates"], threads=1, dtype="float64", instances=64)
    pairs = []
    for cell in pick(cells, contender="fast"):
        ours = one(cells, contender="ours", problem=cell["problem"], batch=cell["batch"])
        if ratio := paired_ratio(values(cell), values(ours)):
            pairs.append((ratio["median"], f"{cell['problem']}, {batch_name(cell['batch'])}", ratio))
    if not pairs:
        return "Not measured."
    pairs.sort()
    said = (
        "Ours gives the same bits on every CPU, because no sum is reordered and no product contracted with a sum. "
        "Compiled with fast-math, which allows both and gives other bits on every CPU, it takes "
        f"{number(statistics.median(pair[0] for pair in pairs))} times as many steps a second in the median (64 SAEs)."
    )
    return f"{said}\n\n{table('problem | fast-math / ours', [[where, times(ratio)] for _, where, ratio in pairs])}"


def answer_table(results: dict) -> str:
    """The time to the answer."""
    rows = []
    for cell in results["answers"]:
        steps = cell["settling"].get("settled")
        compiling = median(values(cell, "compile"))
        rows.append(
            [cell["problem"], batch_name(cell["batch"]), NAMES[cell["contender"]], cell.get("compiler", "–"),
             f"{max(steps):,} steps" if steps else "–", shown(cell, "seconds"),
             f"{number(compiling)} s" if compiling else ""]
        )  # fmt: skip
    return table(
        f"problem | batch | contender | compiler | settled after | seconds for {SEEDS} seeds | of these compiling", rows
    )


def floor_table(results: dict) -> str:
    """The floor and what it is made of."""
    rows = []
    for row in floors(results):
        parts = [f"{1e9 * seconds:,.3g}" for seconds in row["parts"].values()]
        counts = [f"{row['inputs']:.3g}", f"{row['arithmetic']:,.0f}", f"{row['root']:,}"]
        multiple = f"{times(row['multiple'])} × at {row['instances']:,} SAEs"
        rows.append([row["problem"], batch_name(row["batch"]), *counts, *parts, f"{1e9 * row['total']:,.3g}", multiple])
    speed = {part: median(values({"runs": results["speeds"]}, part)) for part in results["speeds"][0]}
    measured = ", ".join(
        f"{number(value / 1e9)} of {part}" for part, value in speed.items() if isinstance(value, float)
    )
    head = (
        "problem | batch | distinct inputs | additions and products | roots, and divisions | arithmetic, ns | "
        "roots, ns | divisions, ns | draws, ns | together, ns | ours"
    )
    return f"Measured, in 10⁹ a second: {measured}.\n\n{table(head, rows)}"


def rate_figure(results: dict) -> Figure:
    """Steps a second against the number of SAEs at once: ours and JAX, one panel for each problem."""
    cells = pick(results["rates"], threads=1, dtype="float64")
    problems = list(dict.fromkeys(cell["problem"] for cell in cells))
    styles = {"ours": "-", "jax": ":"}
    figure, axes = figures.grid(len(problems), 2, (4.6, 3.4))
    for axis, problem in zip(axes, problems, strict=True):
        ends = []
        for i, batch in enumerate((None, 200, 4096)):
            for contender, style in styles.items():
                here = pick(cells, problem=problem, batch=batch, contender=contender)
                points = [(cell["instances"], median(values(cell))) for cell in here]
                points = [point for point in points if point[1]]
                if not points:
                    continue
                look = {"marker": figures.MARKERS[i], "color": figures.COLOURS[i]}
                axis.plot(*zip(*points, strict=True), style, label=f"{NAMES[contender]}, {batch_name(batch)}", **look)
                if contender == "ours":
                    ends.append((batch_name(batch), *points[-1], figures.COLOURS[i]))
        sizes = sorted({cell["instances"] for cell in pick(cells, problem=problem)})
        axis.set(xscale="log", yscale="log", xlabel="SAEs at once", ylabel="SAE-steps a second", title=problem)
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.minorticks_off()
        figures.end_labels(axis, ends)
    key = [mpl.lines.Line2D([], [], color="0.3", ls=style, label=NAMES[name]) for name, style in styles.items()]
    figure.legend(handles=key, loc="outside upper left", ncols=2, fontsize=9)
    return figure


def opening(results: dict) -> str:
    """The truth first: who is the strongest peer, where ours is least ahead, and what cannot be compared."""
    cells = pick(results["rates"], threads=1)
    fastest = Counter()
    for problem, batch in places(results):
        rates = {}
        for cell in pick(cells, problem=problem, batch=batch):
            if cell["contender"] in PEERS and (rate := median(values(cell))):
                rates[cell["contender"]] = max(rate, rates.get(cell["contender"], 0))
        if rates:
            fastest[NAMES[max(rates, key=rates.get)].split(",")[0]] += 1
    pairs = against_jax(results["rates"], threads=1)
    if not fastest or not pairs:
        return "Ours could not be held against JAX: the measurement failed."
    (name, count), (cell, ratio) = fastest.most_common(1)[0], pairs[0]
    behind = sum(pair[1]["median"] < 1 for pair in pairs)
    lead = (
        f"ours is **behind JAX in {behind} of {len(pairs)}** cells"
        if behind
        else f"ours is ahead of JAX in all {len(pairs)} cells"
    )
    least = "furthest behind" if behind else "least ahead"
    return (
        f"The strongest peer is {name}: the fastest of the others in {count} of {fastest.total()} comparisons. On one "
        f"core and in double precision {lead}. It is {least} on {place(cell)}: {times(ratio)} times as many training "
        f"steps a second as JAX; furthest ahead on {place(pairs[-1][0])}: {times(pairs[-1][1])} times. {cold(results)}"
        "Not like for like: all SAEs of JAX share one dictionary and one list of inputs, which helps JAX and not ours; "
        "on the tree JAX multiplies every sample and ours distinct inputs only; SAELens and the plain loop compute in "
        "single precision, one SAE at a time, and SAELens another loss."
    )


def cold(results: dict) -> str:
    """Who comes first to the answer where nothing was compiled before."""
    shares = []
    for cell in pick(results["answers"], contender="ours", compiler="cold"):
        jax = one(results["answers"], contender="jax", **{k: cell[k] for k in ("problem", "batch", "compiler")})
        if ratio := paired_ratio(values(cell, "seconds"), values(jax, "seconds")):
            shares.append(ratio["median"])
    if not shares:
        return ""
    span = " to ".join(dict.fromkeys(map(number, (min(shares), max(shares)))))
    return f"The first run of all, which compiles everything, takes ours {span} times as long as JAX ({SEEDS} seeds). "


def page(results: dict) -> str:
    """The page in MyST Markdown."""
    counted, gpu = [row["met"] for row in verdicts(results)], results.get("gpu")
    summary = (
        f"Of {len(counted)} targets, {counted.count(True)} are met, {counted.count(False)} are not met and "
        f"{counted.count(None)} were not measured."
    )
    card = (
        f"On {gpu['card']}, by autograd (`descend`): {gpu['instances']:,} SAEs at once, {number(gpu['rate'])} "
        "SAE-steps a second on exact states in single precision (hierarchy, widths 1 and 3)."
        if gpu and "rate" in gpu
        else "No GPU was at hand, so none was measured."
    )
    quick = "\n**A smoke test (`--quick`): the numbers below mean little.**\n" if results["quick"] else ""
    machine = table("machine | ", [[key, str(value)] for key, value in results["machine"].items()])
    bullets = {key: "\n".join(f"- {line}" for line in results[key]) for key in ("method", "unlike")}
    agreed = results["agreement"]
    same = (
        f"JAX and ours end {agreed['difference']:.0e} apart, the largest difference of a decoder's entry, after "
        f"{agreed['steps']} exact steps from the same start: they train the same."
        if "difference" in agreed
        else f"Whether JAX and ours train the same could not be checked: {agreed['error']}."
    )
    medians = "One repetition" if results["repetitions"] == 1 else f"Medians of {results['repetitions']} repetitions"
    return f"""# Speed

{opening(results)}
{quick}
{medians}, all contenders once in each; in brackets the least and the largest.
Ratios are taken within a repetition. {same} Everything here is written from `benchmarks/results.json`; `make benchmark`
measures it anew in about {results["minutes"]:.0f} minutes.

## Targets

{summary}

{verdict_table(results)}

```{{figure}} speed-rates.svg
:name: fig-speed-rates
:alt: Training steps a second against the SAEs at once, a panel a problem, a line a batch size; ours solid, JAX dotted.

Training steps of one SAE per second, on one core in double precision: ours (solid) and JAX (dotted).
{{download}}`Numbers <speed-rates.csv>`
```

## Training steps per second

One thread. Steps of one SAE: 64 SAEs that take 10 steps each make 640.

{rate_tables(results)}
## Two threads

Those of ours share out the SAEs, so one SAE alone gains nothing.

{thread_table(results)}

{card}

## What the bits cost

{bits(results)}

## Time to the answer

{SEEDS} seeds until every decoder cosine is within 1e-3 of where it ends, on one thread; of JAX and ours from the start
of a process, for which everything has to be compiled (cold) or was before (warm).

{answer_table(results)}

## How far from the floor

What a step of one SAE must at least compute (see `benchmarks/floor.py`), each part at the speed of a small loop on this
machine, one part after the other. A random number is counted for every distinct input of a sampled batch.

{floor_table(results)}

## What is not compared like for like

{bullets["unlike"]}

## How it was measured

{bullets["method"]}

{machine}
"""


def agreement(found: dict) -> str:
    """Our TopK SAEs beside SAELens's, as text and a table."""
    columns = ("loss", "gradient", "trainer", "control")
    rows = [[row["class"], row["inputs"], *(f"{row[key]:.0e}" for key in columns)] for row in found["comparisons"]]
    worst = max(row[key] for row in found["comparisons"] for key in columns[:3])
    said = (
        f"Held against SAELens {found['sae_lens']}: {found['seeds']} random SAEs of {found['latents']} latents in "
        f"{found['d_in']} dimensions, {found['rows']} inputs each, float64. The largest relative difference of a "
        f"loss or gradient is {worst:.0e}; {found['tolerance']:.0e} is allowed. "
        "The control, ours with twice the K, must differ."
    )
    head = "class | inputs | loss | gradient (autograd) | gradient (trainer) | control"
    return f"{said}\n\n{table(head, rows)}\n"


def write(source: Path, folder: Path) -> None:
    """Write `speed.md` with its figure, and `agreement.md`, into `folder`; without results, pages that say so."""
    folder.mkdir(parents=True, exist_ok=True)
    compared = source.with_name("agreement.json")
    text = agreement(json.loads(compared.read_text())) if compared.is_file() else UNCOMPARED
    (folder / "agreement.md").write_text(text)
    if not source.is_file():
        (folder / "speed.md").write_text(NOTHING)
        return
    results = json.loads(source.read_text())
    figures.use_style()
    drawn = rate_figure(results)
    drawn.savefig(folder / "speed-rates.svg", metadata={"Date": None})
    (folder / "speed-rates.csv").write_text(figures.numbers(drawn))
    plt.close("all")
    (folder / "speed.md").write_text(page(results))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="JSON file of the benchmark")
    parser.add_argument("folder", type=Path, help="where speed.md and its figures go")
    arguments = parser.parse_args()
    write(arguments.results, arguments.folder)
