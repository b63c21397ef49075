"""The figures of this chapter. Every function takes numbers and returns a figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.optimize import linear_sum_assignment

from matryoshka_mixing import figures
from matryoshka_mixing.chapters.what_cures_it.contestants import contestants
from matryoshka_mixing.chapters.what_cures_it.page import (
    NEAR,
    OURS,
    PLAIN,
    RANDOM,
    STANDARD,
    Page,
    Stored,
    Theory,
    walk,
)
from matryoshka_mixing.figures import COLOURS, MARKERS, SEQUENTIAL

GROUPS = ("baseline", "published", "idea", "earlier chapters", "relative", "ours")
"""Kinds of remedies, in the order of the key."""
LOOK = {group: {"marker": MARKERS[i], "color": COLOURS[i]} for i, group in enumerate(GROUPS)}


COLUMN = 0.74
"""Where names stand in `frontier`, as a cosine."""
COVERED = 0.01
"""How near another point lies that covers one; the lower one is drawn larger."""


def frontier(stored: Stored, activation: str = "relu", toy: str | None = None) -> Figure:
    """Mixing against absorption, a point a remedy: random starts and starts near the truth.

    Over all toys, dots on a line are balanced weights with every base that was tried, on the seeds of the trials.

    Args:
        stored: the stored run.
        activation: one of `toys.ACTIVATIONS`.
        toy: of one toy; None: the mean over all.
    """
    figure, axes = figures.grid(2, 2, (4.6, 5.4), sharex=True, sharey=True)
    for axis, kind, title in zip(axes, (RANDOM, NEAR), ("random starts", "near the truth"), strict=True):
        mixing, absorption = (stored.means(name, kind, activation) for name in ("mixing", "absorption"))
        x, y = (table.mean(axis=1) if toy is None else table[toy] for table in (mixing, absorption))
        names = list(contestants())
        for i, (name, some) in enumerate(contestants().items()):
            covered = (np.hypot(x[names[i + 1 :]] - x[name], y[names[i + 1 :]] - y[name]) < COVERED).any()
            size = 110 if some.group == "ours" or covered else 34
            axis.scatter(x[name], y[name], s=size, lw=0.6, edgecolor="white", zorder=3, label=name, **LOOK[some.group])
        if toy is None:
            axis.plot(*walk(stored, kind, activation).T, ".:", color=LOOK["published"]["color"], ms=4, lw=1, zorder=1)
        axis.set(title=title, xlabel="largest mixing (cosine)", xlim=(-0.04, 1.1), ylim=(-0.05, 1.07))
        axis.set_xticks(np.arange(4) / 5)
        _labels(axis, names, x.to_numpy(), y.to_numpy())
    axes[0].set_ylabel("absorption")
    _key(figure)
    return figure


def _key(figure: Figure) -> None:
    marks = [Line2D([], [], ls="", label=group, **look) for group, look in LOOK.items()]
    figure.legend(handles=marks, loc="outside upper center", ncols=len(marks), fontsize=9, handletextpad=0.1)


def _labels(axis: Axes, names: Sequence[str], x: np.ndarray, y: np.ndarray, gap: float = 0.045) -> None:
    """Names in a column to the right of the points, each with its point's mark and a line to it; no two lines cross."""
    shown = np.flatnonzero(np.isfinite(x + y))
    height = -np.inf
    places = np.array([height := max(each, height + gap) for each in np.sort(y[shown])])
    over = max(0.0, max(places, default=0.0) - 1.03)
    places -= over * (places - places.min()) / max(1e-9, np.ptp(places))
    # Of all ways to share out the places, the one with the shortest lines has no two that cross.
    lengths = np.hypot(COLUMN - x[shown, None], places - y[shown, None])
    for i, place in zip(shown.tolist(), linear_sum_assignment(lengths)[1], strict=True):
        look = LOOK[contestants()[names[i]].group]
        line = {"arrowstyle": "-", "color": look["color"], "lw": 0.6, "alpha": 0.6, "shrinkA": 0, "shrinkB": 2}
        axis.annotate("", (x[i], y[i]), (COLUMN, places[place]), arrowprops=line)
        # Not in the data's own coordinates: a mark of the key is none of the numbers behind the figure.
        within = (axis.transData + axis.transAxes.inverted()).transform((COLUMN, 0))[0]
        axis.plot(within, places[place], ms=5, mew=0, transform=axis.get_yaxis_transform(), **look)
        weight = "bold" if names[i] == OURS else "normal"
        axis.text(COLUMN + 0.03, places[place], names[i], fontsize=9, va="center", color="0.2", weight=weight)


def clean(stored: Stored, activation: str = "relu") -> Figure:
    """Share of clean seeds, a row a remedy and a column a toy, from both kinds of start."""
    figure, axes = figures.grid(2, 2, (4.4, 5.8), sharey=True)
    for axis, kind, title in zip(axes, (RANDOM, NEAR), ("random starts", "near the truth"), strict=True):
        table = stored.means("clean", kind, activation)
        drawn = axis.pcolormesh(table.to_numpy(), cmap=SEQUENTIAL, vmin=0, vmax=1, edgecolors="white", lw=0.5)
        for row, column in zip(*np.nonzero(table.to_numpy()), strict=True):
            share = table.iat[row, column]
            axis.text(column + 0.5, row + 0.5, f"{share:.0%}", ha="center", va="center", fontsize=9,
                      color="white" if share > 0.6 else "0.1", in_layout=False)  # fmt: skip
        axis.set_xticks(np.arange(table.shape[1]) + 0.5, list(table.columns), rotation=35, ha="right", fontsize=9)
        axis.set_yticks(np.arange(len(table)) + 0.5, list(table.index), fontsize=9)
        axis.set_title(title)
        axis.tick_params(length=0)
        axis.spines[:].set_visible(False)
    axes[0].invert_yaxis()
    figure.colorbar(drawn, ax=axes, label="share of clean seeds", shrink=0.6, aspect=20, pad=0.01)
    return figure


def recovered(stored: Stored, names: Sequence[str] = (STANDARD, PLAIN, OURS)) -> Figure:
    """Features recovered at a cosine of .95 from random starts, by toy and activation; bars are seeds' quartiles."""
    figure, axes = figures.grid(2, 2, (4.6, 3.4), sharey=True)
    for axis, activation, title in zip(axes, ("relu", "batchtopk"), ("ReLU with L1", "BatchTopK"), strict=True):
        for i, name in enumerate(names):
            values = [stored.seeds(name, toy, "recovered95", RANDOM, activation) for toy in stored.toys]
            middle = [v.mean() for v in values]
            low, high = ([np.quantile(v, q) for v in values] for q in (0.25, 0.75))
            place = np.arange(len(values)) + 0.2 * (i - 1)
            spread = np.abs(np.array([np.minimum(low, middle), np.maximum(high, middle)]) - middle)
            axis.errorbar(place, middle, yerr=spread, label=name, **_line(name))
        axis.set_xticks(range(len(stored.toys)), stored.toys, rotation=35, ha="right", fontsize=9)
        axis.set(title=title, ylim=(-0.03, 1.03))
    axes[0].set_ylabel("share of features recovered")
    axes[-1].legend(fontsize=9, loc="upper left")
    return figure


def _line(name: str) -> dict[str, Any]:
    look = LOOK[contestants()[name].group]
    hollow = {"mfc": "none"} if name == STANDARD else {}
    return {"fmt": look["marker"], "color": look["color"], "ms": 7, "capsize": 2, "lw": 1, **hollow}


def price(stored: Stored) -> Figure:
    """FVU of the first prefix and of the full width near the truth, by toy."""
    figure, axes = figures.grid(2, 2, (4.6, 3.4))
    for axis, place, title in zip(axes, (0, -1), ("first prefix", "full width"), strict=True):
        for i, name in enumerate((STANDARD, PLAIN, OURS)):
            tables = [stored.prefixes[toy, "relu"][stored.remedies.index(name), NEAR, :, place] for toy in stored.toys]
            values = [max(float(np.median(table)), 1e-6) for table in tables]
            look = _line(name)
            axis.plot(np.arange(len(values)) + 0.15 * (i - 1), values, look.pop("fmt"), ls="", label=name,
                      **{key: look[key] for key in ("color", "ms", "mfc") if key in look})  # fmt: skip
        axis.set_xticks(range(len(stored.toys)), stored.toys, rotation=35, ha="right", fontsize=9)
        axis.set(title=title, ylabel="FVU")
    axes[1].set_yscale("log")
    axes[1].yaxis.set_major_formatter("{x:g}")
    axes[1].yaxis.set_minor_formatter("")
    axes[0].set_ylim(bottom=0)
    axes[0].legend(fontsize=9)
    return figure


def decoders(page: Page) -> Figure:
    """Decoder cosines of one random seed: plain, the reader's remedy, ours."""
    names = dict.fromkeys((PLAIN, page.p.remedy, OURS))
    return figures.heatmaps({name: page.decoder(name) for name in names}, page.names)


def settling(theory: Theory) -> Figure:
    """The child's lean on its parent after every round, over theory's halving."""
    rounds = np.arange(len(theory.leans))
    panel = {
        "xlabel": "rounds of settling", "ylabel": "child's cosine with its parent", "series": [
            {"label": "least squares, then the encoder alone", "x": rounds, "line_x": rounds,
             "line_y": theory.predicted, "points": theory.leans[:, None]}
        ],
    }  # fmt: skip
    return figures.theory_and_experiment([panel], 1)
