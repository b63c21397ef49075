"""Maps of where a verdict holds, from the tables of sweeps; and the page of the book that shows them.

`python sweeps/maps.py` writes the page and its figures from the tables in `sweeps/stored`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import design
import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import binomtest

from matryoshka_mixing import claims, figures

STORED = design.ROOT / "sweeps/stored"
PAGE = design.ROOT / "book/where_it_holds.md"
COSTS = design.ROOT / "book/sweep_costs.md"
FIGURES = design.ROOT / "book/_static"
INK = {"supported": 2, "refuted": 3, "mixed": 1, "inconclusive": 7}
"""Each verdict's place in `figures.COLOURS`."""


def key_metric(claim: str) -> str:
    """The metric that stands for a claim on a map: its first decisive one."""
    return next(c.metric for c in claims.load()[claim].criteria if c.role == "decisive")


@dataclass(frozen=True)
class Found:
    """What a sweep found about one claim.

    Attributes:
        claim: its id.
        chapter: the notebook.
        varied: the parameters that the sweep moves, in the chapter's order.
        home: the chapter's own values of these.
        runs: a row for each run, with all parameters, `verdict`, `key` (the value of the claim's first decisive
            metric) and `why` (the criteria that were not met).

    Raises:
        ValueError: if the table holds no verdict on the claim.
    """

    claim: str
    chapter: str
    varied: tuple[str, ...]
    home: dict[str, float]
    runs: pd.DataFrame

    @classmethod
    def of(cls, table: pd.DataFrame, claim: str) -> Found:
        """Read one claim from a table that `gather` wrote."""
        rows = table[table["claim"] == claim]
        if rows.empty:
            raise ValueError(
                f"the table holds no verdict on {claim}; it has {sorted(table['claim'].dropna().unique())}."
            )
        chapter = rows["chapter"].iloc[0]
        known = design.parameters_of(chapter)
        runs = rows.drop_duplicates("run").set_index("run")
        metrics = rows.pivot(index="run", columns="metric", values="value")
        missed = rows[rows["outcome"] != "met"].groupby("run")["metric"].agg(", ".join)
        runs = runs.assign(key=metrics[key_metric(claim)], why=missed.reindex(runs.index).fillna(""))
        varied = tuple(name for name in known.described() if runs[name].nunique() > 1)
        return cls(claim, chapter, varied, {name: getattr(known(), name) for name in varied}, runs)

    @property
    def at_home(self) -> str | None:
        """The verdict at the chapter's own values of all that is varied, if there is such a run."""
        here = self.runs[(self.runs[list(self.varied)] == pd.Series(self.home)).all(axis=1)]
        return None if here.empty else here["verdict"].iloc[0]

    def along(self, name: str) -> pd.DataFrame:
        """The runs in which no other varied parameter has left home, in the order of this one's values."""
        others = [other for other in self.varied if other != name]
        here = (self.runs[others] == pd.Series(self.home)[others]).all(axis=1)
        return self.runs[here].sort_values(name)

    def share(self, verdict: str = "supported") -> tuple[int, int, float, float]:
        """Runs with a verdict, all runs, and the 95% Wilson interval of the share."""
        count, total = int((self.runs["verdict"] == verdict).sum()), len(self.runs)
        interval = binomtest(count, total).proportion_ci(method="wilson")
        return count, total, interval.low, interval.high

    def screened(self) -> pd.DataFrame:
        """How much each parameter matters, moved alone: the most telling first.

        Returns:
            By parameter: `changed`, the share of its values away from home at which the verdict is not that at home,
            and `span`, how far the key number moves over all of its values.
        """
        rows = {}
        for name in self.varied:
            line = self.along(name)
            away = line[line[name] != self.home[name]]
            span = line["key"].max() - line["key"].min()
            rows[name] = {"changed": (away["verdict"] != self.at_home).mean(), "span": span}
        return pd.DataFrame(rows).T.sort_values(["changed", "span"], ascending=False, kind="stable")

    def reach(self, name: str) -> dict[str, float | None]:
        """How far one parameter can move alone before the verdict changes.

        Returns:
            `low` and `high`, the farthest values on either side up to which the verdict stays; `below` and `above`, the
            first ones at which it does not, None where none was met.
        """
        line, home = self.along(name), self.home[name]
        stays = line["verdict"] == self.at_home
        found: dict[str, float | None] = {}
        for last, first, side in (
            ("low", "below", line[line[name] <= home].iloc[::-1]),
            ("high", "above", line[line[name] >= home]),
        ):
            kept = stays[side.index].cummin()
            found[last] = side[name][kept].iloc[-1]
            found[first] = None if kept.all() else side[name][~kept].iloc[0]
        return found

    def places(self) -> pd.DataFrame:
        """Every run's varied parameters, from 0 to 1 over the values that occur; on a log scale if they span it."""
        return pd.DataFrame({name: _place(self.runs[name], self.runs[name]) for name in self.varied})

    def flip(self) -> pd.Series | None:
        """The run nearest to home, in `places`, whose verdict is not that at home; None if there is none."""
        other = self.runs[self.runs["verdict"] != self.at_home]
        home = {name: _place(self.runs[name], pd.Series([self.home[name]])).iloc[0] for name in self.varied}
        distance = ((self.places() - pd.Series(home)) ** 2).sum(axis=1) ** 0.5
        return None if other.empty else other.loc[distance[other.index].idxmin()]

    def command(self, run: pd.Series) -> str:
        """The papermill command of one run: what is not the chapter's own value."""
        known = design.parameters_of(self.chapter)()
        given = [f"-p {name} {run[name]:g}" for name in type(known).described() if run[name] != getattr(known, name)]
        return " ".join([f"papermill notebooks/{self.chapter}.ipynb out.ipynb", *given])


def _log(values: pd.Series) -> bool:
    """Whether an axis with these values is logarithmic."""
    return bool(values.min() > 0 and values.max() / values.min() > 20)


def _place(values: pd.Series, of: pd.Series) -> pd.Series:
    low, high = values.min(), values.max()
    return np.log(of / low) / np.log(high / low) if _log(values) else (of - low) / (high - low)


# Figures


def _cell(axis: Axes, x: float, y: float, verdict: str, text: str = "", home: bool = False) -> None:
    colour = figures.COLOURS[INK[verdict]]
    axis.add_patch(mpl.patches.Rectangle((x - 0.46, y - 0.42), 0.92, 0.84, color=colour, alpha=0.45, lw=0))
    if home:
        axis.add_patch(mpl.patches.Rectangle((x - 0.46, y - 0.42), 0.92, 0.84, fill=False, ec="black", lw=1.8))
    axis.text(x, y, f"{claims.BADGES[verdict]}\n{text}" if text else claims.BADGES[verdict], ha="center", va="center")


def _key(figure: Figure, verdicts: Sequence[str]) -> None:
    """One key for a figure: the verdicts that occur, and the frame of the chapter's own values."""
    patch = mpl.patches.Patch
    handles = [
        patch(color=figures.COLOURS[place], alpha=0.45, lw=0, label=f"{claims.BADGES[name]} {name}")
        for name, place in INK.items()
        if name in set(verdicts)
    ]
    handles.append(patch(fill=False, ec="black", lw=1.8, label="the chapter's own value"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)


def draw_map(found: Found) -> Figure:
    """Verdict and key number over the plane of the two varied parameters."""
    x, y = found.varied
    columns, rows = sorted(found.runs[x].unique()), sorted(found.runs[y].unique())
    figure, (axis,) = figures.grid(1, 1, (1.05 * len(columns) + 1.6, 0.72 * len(rows) + 1.5))
    for _, run in found.runs.iterrows():
        place, home = (columns.index(run[x]), rows.index(run[y])), all(run[n] == found.home[n] for n in (x, y))
        _cell(axis, *place, run["verdict"], "" if pd.isna(run["key"]) else claims.number(run["key"]), home)
    axis.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.5, len(rows) - 0.5), xlabel=x, ylabel=y)
    axis.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    axis.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    _key(figure, found.runs["verdict"])
    return figure


def draw_overview(screens: Sequence[Found]) -> Figure:
    """Claims by parameters: the verdict at each value of each parameter, moved alone."""
    names = list(dict.fromkeys(name for found in screens for name in found.varied))
    most = max(len(found.along(name)) for found in screens for name in found.varied)
    figure, axes = figures.grid(len(names), 3, (0.62 * most, 0.62 * len(screens) + 1.0), sharey=True)
    for axis, name in zip(axes, names, strict=True):
        values = sorted({value for found in screens if name in found.varied for value in found.along(name)[name]})
        for row, found in enumerate(screens):
            if name in found.varied:
                for _, run in found.along(name).iterrows():
                    _cell(axis, values.index(run[name]), row, run["verdict"], home=run[name] == found.home[name])
        axis.set(xlim=(-0.5, most - 0.5), ylim=(len(screens) - 0.5, -0.5))
        axis.set_title(name, fontsize=10, loc="left")
        axis.set_xticks(range(len(values)), [f"{value:g}" for value in values], fontsize=9)
        axis.set_yticks(range(len(screens)), [found.claim for found in screens], fontsize=9)
        axis.tick_params(length=0)
        for side in axis.spines.values():
            side.set_visible(False)
    _key(figure, [verdict for found in screens for verdict in found.runs["verdict"]])
    return figure


# The page


def stored(kind: str) -> Iterator[tuple[str, Found]]:
    """The stored sweeps whose names end like this, claim by claim: the sweep's name, and what it found."""
    for path in sorted(STORED.glob(f"*_{kind}.csv")):
        table = pd.read_csv(path, keep_default_na=True)
        for claim in claims.load():
            if claim in set(table["claim"]):
                yield path.stem, Found.of(table, claim)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def reach_table(screens: Sequence[Found]) -> str:
    """Parameters by claims: how far each can move alone before the verdict changes."""
    rows = []
    for name in dict.fromkeys(name for found in screens for name in found.varied):
        cells = []
        for found in screens:
            if name not in found.varied:
                cells.append("")
                continue
            far = found.reach(name)
            turns = [f"{far[side]:g}" for side in ("below", "above") if far[side] is not None]
            span = f"{far['low']:g} to {far['high']:g}" if far["low"] != far["high"] else f"{far['low']:g} only"
            cells.append(span + (f"; turns at {' and '.join(turns)}" if turns else ""))
        rows.append([f"`{name}`", *cells])
    return _table(["parameter", *(f"`{found.claim}`: *{found.at_home}*" for found in screens)], rows)


def flip_lines(found: Found) -> str:
    """The nearest run with another verdict, why it is another, and its command."""
    run = found.flip()
    if run is None:
        return f"In all {len(found.runs)} runs the verdict is *{found.at_home}*: no run flips it."
    moved = ", ".join(f"`{name}` {run[name]:g}" for name in found.varied if run[name] != found.home[name])
    return (
        f"The nearest run with another verdict has {moved}: *{run['verdict']}*, since `{run['why']}` is not met.\n\n"
        f"```bash\n{found.command(run)}\n```"
    )


def share_line(found: Found, random: bool = False) -> str:
    """The share of a sweep's runs with each verdict; with its interval where the runs are a random draw."""
    parts = []
    for verdict in INK:
        count, total, low, high = found.share(verdict)
        if count:
            interval = f" (95% interval of the share: {low:.2f} to {high:.2f})" if random else ""
            parts.append(f"{verdict} in {count} of {total}{interval}")
    return "; ".join(parts)


def command_line(found: Found) -> str:
    """The parameters that all runs of a sweep share and that differ from the chapter's own."""
    known = design.parameters_of(found.chapter)()
    fixed = [f"{n} {found.runs[n].iloc[0]:g}" for n in type(known).described() if n not in found.varied
             and found.runs[n].iloc[0] != getattr(known, n)]  # fmt: skip
    return ", ".join(fixed)


NOTHING = """\
# Where it holds

No sweep is stored with this copy. {doc}`sweeps` says how to run one; put its table into `sweeps/stored` and call
`python sweeps/maps.py` to write this page.
"""


FEW = """
It is a small sample of that space: some chapters, one parameter at a time; no interactions without a map."""


def page() -> str:
    """The page in MyST Markdown, from the stored tables alone."""
    if not any(stored("screen")):
        return NOTHING
    screens, planes, spaces = (list(stored(kind)) for kind in ("screen", "map", "space"))
    names = list(dict.fromkeys(name for name, _ in [*screens, *planes, *spaces]))
    total = sum(len(pd.read_csv(STORED / f"{name}.csv")["run"].unique()) for name in names)
    overview = [found for _, found in screens]
    few = FEW if total < 1000 else ""
    parts = [f"""# Where it holds

A verdict holds at one set of parameters. This page moves them: {total} runs of whole notebooks, each judged by the same
thresholds as the chapter. It is written by `python sweeps/maps.py` from the tables in `sweeps/stored`, which
`make sweep` gathered ({{doc}}`sweeps` says how, and what a thousand runs cost). The runs are smaller than the chapters'
own, so a share of seeds is more often undecided, and the verdict then *inconclusive*.{few}

## How far each parameter can move

Each parameter was moved alone, from the chapter's own values. {{numref}}`fig-where-overview` shows every run.

```{{figure}} _static/where-overview.svg
:name: fig-where-overview
:alt: One panel for each parameter, with a row for each claim and a cell for each value, coloured and signed by verdict.

The verdict on each claim at each value of each parameter, moved alone. Empty: not a parameter of that chapter, or not
tried.
```

{reach_table(overview)}

Values up to which the verdict stays, as far as was tried, and the first at which it turns.
"""]  # fmt: skip
    for _, found in planes:
        screen = next((other for _, other in screens if other.claim == found.claim), None)
        parts.append(f"## {claims.load()[found.claim].title}\n")
        if screen:
            rows = [
                [f"`{n}`", f"{row['changed']:.0%}", f"{row['span']:.3g}"] for n, row in screen.screened().iterrows()
            ]
            head = ["parameter, alone", "values at which the verdict changes", "how far the key number moves"]
            parts.append(f"The screening ({len(screen.runs)} runs):\n\n{_table(head, rows)}\n")
        x, y = found.varied
        parts.append(f"""Two of them are crossed in {{numref}}`fig-where-{found.claim}`.

```{{figure}} _static/where-{found.claim}.svg
:name: fig-where-{found.claim}
:alt: A plane of {x} and {y} with one cell a run, coloured and signed by verdict; the key number stands in each.

The verdict on `{found.claim}` over `{x}` and `{y}`, and its key number, `{key_metric(found.claim)}` (a median).
All else is the chapter's own, but {command_line(found)}.
```

On this plane: {share_line(found)}.

{flip_lines(found)}
""")  # fmt: skip
        for _, space in spaces:
            if space.claim == found.claim:
                ranges = ", ".join(f"`{n}` {space.runs[n].min():g} to {space.runs[n].max():g}" for n in space.varied)
                shares = share_line(space, random=True)
                parts.append(f"Over the space of all of them ({len(space.runs)} random runs; {ranges}): {shares}.\n")
    commands = "\n".join(
        f"make sweep SWEEP={name} && cp _build/sweeps/{name}/table.csv sweeps/stored/{name}.csv" for name in names
    )
    parts.append(f"## How to make it again\n\n```bash\n{commands}\npython sweeps/maps.py\n```\n")
    return "\n".join(parts)


def costs() -> str:
    """What a run costs, by stored sweep, in MyST Markdown."""
    if not any(STORED.glob("*.csv")):
        return "No sweep is stored with this copy.\n"
    rows = []
    for path in sorted(STORED.glob("*.csv")):
        runs = pd.read_csv(path).query("status == 'done'").drop_duplicates("run")
        seconds, memory = runs["cpu_seconds"], runs["memory_mb"]
        spans = [f"{v.median():.0f} ({v.min():.0f}–{v.max():.0f})" for v in (seconds, memory)]
        size = f"{runs['n_seeds'].iloc[0]} seeds, {runs['n_steps'].iloc[0]:,} steps"
        rows.append([f"`{path.stem}`", size, len(runs), *spans, f"{1000 * seconds.median() / 3600:.1f}"])
    head = ["sweep", "a run's size", "runs", "seconds on one core", "memory, MB", "hours on one core for a thousand"]
    return _table(head, rows) + "\n"


def main() -> None:
    """Write the page, the table of costs and the figures, each in one move."""
    mpl.use("agg")
    figures.use_style()
    mpl.rcParams |= {"svg.hashsalt": "where it holds", "svg.fonttype": "none"}
    screens = [found for _, found in stored("screen")]
    drawn = {"where-overview": draw_overview(screens)} if screens else {}
    drawn |= {f"where-{found.claim}": draw_map(found) for _, found in stored("map")}
    for name, figure in drawn.items():
        draft = FIGURES / f".{name}.partial"
        figure.savefig(draft, format="svg", metadata={"Date": None})
        draft.replace(FIGURES / f"{name}.svg")
    for path, text in ((PAGE, page()), (COSTS, costs())):
        draft = path.with_name(f".{path.name}.partial")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    print(f"written: {PAGE.relative_to(design.ROOT)} and {len(drawn)} figures")


if __name__ == "__main__":
    main()
