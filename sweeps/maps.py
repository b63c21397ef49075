"""Maps of where a verdict holds, from the tables of sweeps; and the page of the book that shows them.

`python sweeps/maps.py` writes the page and its figures from the tables in `sweeps/stored`.
"""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Iterator, Mapping, Sequence
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
from matryoshka_mixing._commands import replacing, write_text

STORED = design.ROOT / "sweeps/stored"
PAGE = design.ROOT / "book/where_it_holds.md"
COSTS = design.ROOT / "book/sweep_costs.md"
FIGURES = design.ROOT / "book/_static"
INK = {"supported": 2, "refuted": 3, "mixed": 1, "inconclusive": 7}
"""Each verdict's place in `figures.COLOURS`."""
WORDS = {
    "parent_probability": "parent's probability",
    "child_probability": "child's probability",
    "child_magnitude": "child's magnitude",
    "inner_weight": "inner prefix's weight",
    "l1": "L1 penalty",
    "d_model": "input's dimension",
    "start_noise": "noise of near starts",
    "batch_size": "batch size",
}
"""What the page calls the parameters that sweeps move."""
WHY_NONE = {
    "06_every_prefix": "what could move is the tree, a file; the numbers of this chapter are the size of its run",
    "10_how_far": "the chapter is a sweep itself, over all that its family can be",
    "11_what_cures_it": "its verdicts stand on a stored run, all remedies on all toys",
    "12_real_activations": "its verdicts stand on stored runs of real activations, ten minutes a seed",
}
"""Why a chapter has no stored sweep."""


ledger = functools.cache(claims.load)
"""The claims, read once."""


def words(name: str) -> str:
    """A parameter's name as the page writes it."""
    return WORDS.get(name, name.replace("_", " "))


def title(claim: str) -> str:
    """How a claim is called on every page."""
    return ledger()[claim].title


def key(claim: str) -> claims.Criterion:
    """The criterion that stands for a claim on a map: its first decisive one."""
    return next(c for c in ledger()[claim].criteria if c.role == "decisive")


@dataclass(frozen=True)
class Found:
    """What a sweep found about one claim.

    Attributes:
        claim: its id.
        chapter: the notebook.
        varied: the parameters that the sweep moves, in the chapter's order.
        home: the chapter's own values of these.
        runs: a row for each run, with all parameters, `verdict`, `key` (the value of the claim's first decisive
            metric), `core` (whether all decisive criteria and controls are met), `control` (which control is not met:
            "none", "convergence" or "another") and `why` (the first criterion that is not met and how many others are
            not, in words).

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
        missed = rows[rows["outcome"] != "met"]
        core = ~runs.index.isin(missed.loc[missed["role"] != "supporting", "run"])
        why = missed.groupby("run")["metric"].agg(lambda missing: _told(claim, list(missing)))
        controls = missed[missed["role"] == "control"]
        unconverged = runs.index.isin(controls.loc[controls["metric"] == "converged", "run"])
        control = np.where(unconverged, "convergence", np.where(runs.index.isin(controls["run"]), "another", "none"))
        why = why.reindex(runs.index).fillna("")
        runs = runs.assign(key=metrics[key(claim).metric], core=core, control=control, why=why)
        varied = tuple(name for name in known.described() if runs[name].nunique() > 1)
        return cls(claim, chapter, varied, {name: getattr(known(), name) for name in varied}, runs)

    @functools.cached_property
    def here(self) -> pd.DataFrame:
        """The run at the chapter's own values of all that is varied, if there is one: one row, or none."""
        return self.runs[(self.runs[list(self.varied)] == pd.Series(self.home)).all(axis=1)]

    @functools.cached_property
    def at_home(self) -> str | None:
        """The verdict there."""
        return None if self.here.empty else self.here["verdict"].iloc[0]

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
            `turned` and `tried`, their numbers, and `span`, how far the key number moves over all of its values.
        """
        rows = {}
        for name in self.varied:
            line = self.along(name)
            away = line[line[name] != self.home[name]]
            turned, span = int((away["verdict"] != self.at_home).sum()), line["key"].max() - line["key"].min()
            rows[name] = {"changed": turned / len(away), "turned": turned, "tried": len(away), "span": span}
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


def numbers(found: Found) -> pd.DataFrame:
    """What a figure shows of a claim: its parameters, verdict, number and reason, a row a run."""
    shown = found.runs[[*found.varied, "verdict", "key", "control", "why"]]
    return shown.sort_values(list(found.varied)).assign(claim=found.claim, metric=key(found.claim).metric)


def _log(values: pd.Series) -> bool:
    """Whether an axis with these values is logarithmic."""
    return bool(values.min() > 0 and values.max() / values.min() > 20)


def _place(values: pd.Series, of: pd.Series) -> pd.Series:
    low, high = values.min(), values.max()
    return np.log(of / low) / np.log(high / low) if _log(values) else (of - low) / (high - low)


def _told(claim: str, missing: Sequence[str]) -> str:
    """The first criterion that is not met, in the ledger's words, and how many others are not."""
    first, *others = [c for c in ledger()[claim].criteria if c.metric in missing]
    return f"“{first.says}”" + (f" and {len(others)} more" if others else "")


# Figures


HATCHES = {"convergence": "///", "another": "..."}
"""How a cell shows which control is not met, where one is not."""
HATCH_INK = "#00000055"


def _cell(axis: Axes, x: float, y: float, run: pd.Series, text: str = "", home: bool = False) -> None:
    verdict, control = run["verdict"], run["control"]
    colour = figures.COLOURS[INK[verdict]]
    axis.add_patch(mpl.patches.Rectangle((x - 0.46, y - 0.42), 0.92, 0.84, color=colour, alpha=0.45, lw=0))
    if control in HATCHES:
        hatched = {"hatch": HATCHES[control], "ec": HATCH_INK, "lw": 0}
        axis.add_patch(mpl.patches.Rectangle((x - 0.46, y - 0.42), 0.92, 0.84, fill=False, **hatched))
    if home:
        axis.add_patch(mpl.patches.Rectangle((x - 0.46, y - 0.42), 0.92, 0.84, fill=False, ec="black", lw=1.8))
    shown = f"{claims.BADGES[verdict]}\n{text}" if text else claims.BADGES[verdict]
    axis.text(x, y, shown, ha="center", va="center", fontsize=9)


def _short(value: float) -> str:
    """A number for a cell: two digits; nothing for none, 0 for what is as good as that."""
    return "" if pd.isna(value) else "0" if abs(value) < 1e-5 else f"{value:.2g}"


def _key(figure: Figure, shown: Sequence[Found]) -> None:
    """One key for a figure: what occurs of verdicts and missed controls, and the frame of the chapter's own values."""
    patch = mpl.patches.Patch
    verdicts, controls = ({value for found in shown for value in found.runs[of]} for of in ("verdict", "control"))
    handles = [
        patch(color=figures.COLOURS[place], alpha=0.45, lw=0, label=f"{claims.BADGES[name]} {name}")
        for name, place in INK.items()
        if name in verdicts
    ]
    handles += [
        patch(fill=False, hatch=hatch, ec=HATCH_INK, lw=0, label=f"control not met: {name}")
        for name, hatch in HATCHES.items()
        if name in controls
    ]
    handles.append(patch(fill=False, ec="black", lw=1.8, label="the chapter's own value"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9)


def draw_map(found: Found) -> Figure:
    """Verdict and key number over the plane of the two varied parameters."""
    x, y = found.varied
    columns, rows = sorted(found.runs[x].unique()), sorted(found.runs[y].unique())
    figure, (axis,) = figures.grid(1, 1, (0.78 * len(columns) + 1.2, 0.56 * len(rows) + 1.3))
    for _, run in found.runs.iterrows():
        place, home = (columns.index(run[x]), rows.index(run[y])), all(run[n] == found.home[n] for n in (x, y))
        _cell(axis, *place, run, _short(run["key"]), home)
    axis.set(xlim=(-0.5, len(columns) - 0.5), ylim=(-0.5, len(rows) - 0.5), xlabel=words(x), ylabel=words(y))
    axis.set_xticks(range(len(columns)), [f"{value:g}" for value in columns])
    axis.set_yticks(range(len(rows)), [f"{value:g}" for value in rows])
    _key(figure, [found])
    return figure


ACROSS = 22
"""How many cells of the overview stand side by side at most."""


def _in_rows(names: Sequence[str], wide: Mapping[str, int]) -> list[list[str]]:
    """The parameters in rows of at most `ACROSS` cells, in order."""
    rows: list[list[str]] = [[]]
    for name in names:
        if rows[-1] and sum(wide[other] + 1 for other in [*rows[-1], name]) > ACROSS:
            rows.append([])
        rows[-1].append(name)
    return rows


def draw_overview(screens: Sequence[Found]) -> Figure:
    """Claims by parameters: the verdicts at each parameter's values, from low to high, moved alone."""
    moved = {name for found in screens for name in found.varied}
    names = [name for name in WORDS if name in moved] + sorted(moved - set(WORDS))
    wide = {name: max(len(found.along(name)) for found in screens if name in found.varied) for name in names}
    rows = _in_rows(names, wide)
    figure, axes = figures.grid(len(rows), 1, (8.6, 0.34 * len(screens) + 0.6))
    for axis, row in zip(axes, rows, strict=True):
        left = 0
        for name in row:
            axis.text(left - 0.4, -0.75, words(name), fontsize=9, va="bottom")
            for y, found in enumerate(screens):
                line = found.along(name) if name in found.varied else found.runs[:0]
                for x, (_, run) in enumerate(line.iterrows(), left):
                    _cell(axis, x, y, run, home=run[name] == found.home[name])
            left += wide[name] + 1
        axis.set(xlim=(-0.5, ACROSS), ylim=(len(screens) - 0.5, -1.6), xticks=[])
        axis.set_yticks(
            range(len(screens)), [textwrap.fill(title(found.claim), 32) for found in screens], fontsize=9, linespacing=1
        )
        axis.tick_params(length=0)
        for side in axis.spines.values():
            side.set_visible(False)
    _key(figure, screens)
    return figure


# The page


def stored(kind: str) -> Iterator[tuple[str, Found]]:
    """The stored sweeps whose names end like this, claim by claim in the book's order: their names, what they found.

    Raises:
        ValueError: if a map leaves out the chapter's own point, from which the nearest flip is counted.
    """
    tables = {path.stem: pd.read_csv(path, keep_default_na=True) for path in sorted(STORED.glob(f"*_{kind}.csv"))}
    for name, table in sorted(tables.items(), key=lambda item: item[1]["chapter"].iloc[0]):
        for claim in ledger():
            if claim in set(table["claim"]):
                found = Found.of(table, claim)
                if kind == "map" and found.here.empty:
                    raise ValueError(f"{name} has no run at the chapter's own point, {found.home}; add it to the grid.")
                yield name, found


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _reach(found: Found, name: str) -> str:
    """How far one parameter can move alone, such as `(0.02) 0.1–0.4 (0.5)`: in brackets where the verdict changes."""
    if name not in found.varied:
        return ""
    far = found.reach(name)
    span = f"{far['low']:g}–{far['high']:g}" if far["low"] != far["high"] else f"{far['low']:g}"
    before, after = (f"({far[side]:g})" if far[side] is not None else "" for side in ("below", "above"))
    return " ".join(part for part in (before, span, after) if part)


def reach_table(screens: Sequence[Found]) -> str:
    """Claims by parameters: how far each can move alone before the verdict changes."""
    names = [name for name in WORDS if any(name in found.varied for found in screens)]
    rows = [[f"{title(f.claim)}: *{f.at_home}*", *(_reach(f, name) for name in names)] for f in screens]
    return _table(["claim", *(words(name) for name in names)], rows)


def plane_of(screen: Found, planes: Sequence[Found]) -> Found | None:
    """The map of a claim: of those that there are, the one over what the screening puts first."""
    order = list(screen.screened().index)
    own = [plane for plane in planes if plane.claim == screen.claim]
    return min(own, key=lambda plane: sorted(order.index(name) for name in plane.varied), default=None)


def moved(found: Found, run: pd.Series) -> str:
    """What of a run is not the chapter's own, in words."""
    return ", ".join(f"{words(name)} {run[name]:g}" for name in found.varied if run[name] != found.home[name])


def flip_lines(found: Found, which: str = "") -> str:
    """The nearest run with another verdict, why it is another, and its command."""
    run = found.flip()
    if run is None:
        return f"In all {len(found.runs)} runs the verdict is *{found.at_home}*: no run flips it."
    reason = f"; not met: {run['why']}" if run["why"] else ""
    return (
        f"The nearest run{which} with another verdict, {moved(found, run)}, is *{run['verdict']}*{reason}.\n\n"
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


def core_line(found: Found) -> str:
    """In how many mixed runs the claim itself holds, and only support for it is missing; empty where in none."""
    mixed = found.runs[found.runs["verdict"] == "mixed"]
    if not mixed["core"].any():
        return ""
    return (
        f" In {mixed['core'].sum()} of the {len(mixed)} mixed runs all that is decisive is met, and what fails is a "
        "supporting criterion, such as a closed form that does not know of the parameter."
    )


def screen_line(screen: Found) -> str:
    """What the screening found, in one sentence: how often each parameter changes the verdict."""
    order = screen.screened()
    turns = [
        f"{words(str(name))} (at {row['turned']:g} of {row['tried']:g} values)"
        for name, row in order.iterrows()
        if row["turned"]
    ]
    runs = f"In the screening, {len(screen.runs)} runs that move one parameter each"
    if not turns:
        return f"{runs}, none changes the verdict; what moves the number most is the {words(str(order.index[0]))}."
    others = "; no other does" if len(turns) < len(order) else ""
    return f"{runs}, the verdict changes with {', '.join(turns)}{others}."


def command_line(found: Found) -> str:
    """The parameters that all runs of a sweep share and that differ from the chapter's own."""
    known = design.parameters_of(found.chapter)()
    fixed = [f"{n} {found.runs[n].iloc[0]:g}" for n in type(known).described() if n not in found.varied
             and found.runs[n].iloc[0] != getattr(known, n)]  # fmt: skip
    return ", ".join(fixed)


def section(screen: Found, plane: Found | None, spaces: Sequence[Found]) -> str:
    """What the sweeps found about one claim."""
    parts = [f"### {title(screen.claim)}\n", screen_line(screen)]
    if screen.at_home == "inconclusive":
        why = screen.here["why"].iloc[0]
        parts.append(f"At the chapter's own values runs of this size decide nothing (not met: {why}).")
    if plane is None:
        cost = f"It has no map. A run took {screen.runs['cpu_seconds'].median():.1f} seconds of one core."
        parts.append(f"{cost}\n\n{flip_lines(screen)}\n")
    else:
        x, y = plane.varied
        first = list(screen.screened().index[:2])
        which = "the two that matter most" if set(first) == {x, y} else "on a grid shared with other claims"
        parts.append(f"""{{numref}}`fig-where-{plane.claim}` crosses {words(x)} and {words(y)}, {which}.

```{{figure}} _static/where-{plane.claim}.svg
:name: fig-where-{plane.claim}
:alt: A plane of {words(x)} and {words(y)} with one cell a run, coloured and signed by verdict; a number stands in each.

The verdict on *{title(plane.claim)}* over {words(x)} and {words(y)}. The number (a median where there are seeds) is
that of “{key(plane.claim).says}”. All else is the chapter's own, but {command_line(plane)}.
{{download}}`Numbers <_static/where-{plane.claim}.csv>`
```

On this grid: {share_line(plane)}.{core_line(plane)}

{flip_lines(plane)}
""")  # fmt: skip
        if plane.flip() is None and screen.flip() is not None:
            parts.append(flip_lines(screen, " of the screening") + "\n")
    for space in spaces:
        if space.claim == screen.claim:
            ranges = ", ".join(f"{words(n)} {space.runs[n].min():g} to {space.runs[n].max():g}" for n in space.varied)
            shares = share_line(space, random=True)
            parts.append(f"Over the space of all of them ({len(space.runs)} random runs; {ranges}): {shares}.\n")
    return "\n".join(parts)


def summary(screens: Sequence[Found], chosen: Mapping[str, Found | None]) -> str:
    """A row a claim: the verdict at home, what matters most, the share of the map, the nearest flip of both."""
    rows = []
    for screen in screens:
        plane = chosen[screen.claim]
        where = plane if plane and plane.flip() is not None else screen
        run = where.flip()
        share = "" if plane is None else f"{plane.share()[0]} of {plane.share()[1]}"
        over = "no map" if plane is None else " × ".join(map(words, plane.varied))
        flip = "none found" if run is None else f"{moved(where, run)}: *{run['verdict']}*"
        rows.append([title(screen.claim), f"*{screen.at_home}*", over, share, flip])
    return _table(["claim", "in a run of the sweep's size", "map over", "supported in", "nearest other verdict"], rows)


def without(screens: Sequence[Found]) -> str:
    """The tested claims that no stored sweep moves, and why."""
    swept = {found.claim for found in screens}
    rows = [
        [claim.title, f"{{doc}}`../notebooks/{claim.notebook}`", WHY_NONE.get(claim.notebook, "not swept yet")]
        for name, claim in ledger().items()
        if claim.notebook and name not in swept
    ]
    return _table(["claim", "chapter", "why there is no sweep"], rows)


NOTHING = """\
# Where it holds

No sweep is stored with this copy. {doc}`sweeps` says how to run one; put its table into `sweeps/stored` and call
`python sweeps/maps.py` to write this page.
"""


def page() -> str:
    """The page in MyST Markdown, from the stored tables alone."""
    if not any(stored("screen")):
        return NOTHING
    screens, planes, spaces = (list(stored(kind)) for kind in ("screen", "map", "space"))
    names = list(dict.fromkeys(name for name, _ in [*screens, *planes, *spaces]))
    total = sum(len(pd.read_csv(STORED / f"{name}.csv")["run"].unique()) for name in names)
    overview = [found for _, found in screens]
    chosen = {found.claim: plane_of(found, [plane for _, plane in planes]) for found in overview}
    every = pd.concat([found.runs for _, found in [*screens, *planes, *spaces]])
    open_ones = every[every["verdict"] == "inconclusive"]
    unconverged = (open_ones["control"] == "convergence").sum()
    parts = [f"""# Where it holds

A verdict holds at one set of parameters. This page moves them: {total:,} runs of whole notebooks, each judged by the
same thresholds as its chapter. First each parameter was moved alone, to three other values: a screening. Its every run
is in {{numref}}`fig-where-overview`.

```{{figure}} _static/where-overview.svg
:name: fig-where-overview
:alt: A row for each claim, a group of cells for each parameter, from its lowest value up, with the verdict's sign.

Claims by parameters: the verdict at each value of a parameter moved alone, from the lowest on the left to the highest.
Empty: not a parameter of that chapter. {{download}}`Numbers <_static/where-overview.csv>`
```

To be that many, the runs are smaller than the chapters' own, and mostly shorter. So a share of seeds is more often
undecided, and many SAEs have not converged: {unconverged} of the {len(open_ones)} verdicts *inconclusive* miss the
control that asks for it (hatched). Either leaves a verdict open also where a chapter, with its seeds and steps,
decides. So it is with the nearest other verdict of *The standard SAE absorbs*: in twice its steps
{{doc}}`../notebooks/01_standard_sae_absorbs` finds complete absorption there. {{doc}}`sweeps` says how to run such
sweeps, and what they cost.

## Maps, and the nearest other verdict

Then the two parameters that matter most were crossed on a grid. *Matter most* means that the verdict changes at the
largest share of the values tried, and among equals that the number behind the verdict moves farthest. Claims of one
chapter share its runs, and may share a map.

{summary(overview, chosen)}

*Nearest* is measured on the axes of the map (of the screening, where the map has no other verdict), each from 0 to 1
over its values (on a log scale where they span a factor above 20 and none is 0).

## How far each parameter can move

The values up to which the verdict stays, as far as was tried; in brackets the first at which it changes.

{reach_table(overview)}

## Claim by claim
"""]  # fmt: skip
    parts += [section(found, chosen[found.claim], [space for _, space in spaces]) for found in overview]
    parts.append(f"## Claims that no sweep moves\n\n{without(overview)}\n")
    parts.append(f"""## How to make it again

```bash
for sweep in {" ".join(names)}; do
    make sweep SWEEP=$sweep && cp _build/sweeps/$sweep/table.csv sweeps/stored/$sweep.csv
done
python sweeps/maps.py
```

The last line writes this page and its figures from the tables in `sweeps/stored`, in which every number is found.
""")
    return "\n".join(parts)


def costs() -> str:
    """What a run costs, by stored sweep, in MyST Markdown."""
    if not any(STORED.glob("*.csv")):
        return "No sweep is stored with this copy.\n"
    rows, every = [], []
    for path in sorted(STORED.glob("*.csv")):
        runs = pd.read_csv(path).query("status == 'done'").drop_duplicates("run")
        seconds, memory = runs["cpu_seconds"], runs["memory_mb"]
        spans = [f"{v.median():.{n}f} ({v.min():.{n}f}–{v.max():.{n}f})" for v, n in ((seconds, 1), (memory, 0))]
        size = f"{runs['n_seeds'].iloc[0]} seeds, {runs['n_steps'].iloc[0]:,} steps"
        rows.append([f"`{path.stem}`", size, len(runs), *spans, f"{1000 * seconds.median() / 3600:.1f}"])
        every.append(seconds)
    head = ["sweep", "a run's size", "runs", "seconds on one core", "memory, MB", "hours on one core for a thousand"]
    seconds = pd.concat(every)
    return f"{_table(head, rows)}\n\nIn all {len(seconds):,} runs, {seconds.sum() / 60:.0f} minutes of one core.\n"


def main() -> None:
    """Write the page, the table of costs and the figures, each in one move."""
    mpl.use("agg")
    figures.use_style()
    mpl.rcParams |= {"svg.hashsalt": "where it holds", "svg.fonttype": "none"}
    screens = [found for _, found in stored("screen")]
    drawn = {"where-overview": draw_overview(screens)} if screens else {}
    planes = [found for _, found in stored("map")]
    behind = {"where-overview": pd.concat([numbers(found) for found in screens])} if screens else {}
    for found in screens:
        if plane := plane_of(found, planes):
            name = f"where-{found.claim}"
            drawn[name], behind[name] = draw_map(plane), numbers(plane)
    for name, figure in drawn.items():
        with replacing(FIGURES / f"{name}.svg") as draft:
            figure.savefig(draft, format="svg", metadata={"Date": None})
        behind[name].to_csv(FIGURES / f"{name}.csv", index=False)
    for path, text in ((PAGE, page()), (COSTS, costs())):
        write_text(path, text)
    print(f"written: {PAGE.relative_to(design.ROOT)} and {len(drawn)} figures")


if __name__ == "__main__":
    main()
