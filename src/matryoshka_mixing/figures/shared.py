"""Figures that several chapters share. Every function takes numbers and returns a figure; nothing is saved here."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
import matplotlib.patheffects
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from matryoshka_mixing.figures.style import COLOURS, DIVERGING, MARKERS, SEQUENTIAL, colour, end_labels, grid
from matryoshka_mixing.metrics import Basin


def heatmaps(
    panels: Mapping[str, np.ndarray],
    columns: Sequence[str],
    rows: Sequence[str] | None = None,
    *,
    quantity: str = "cosine",
    per_row: int = 4,
    width: float = 1.9,
) -> Figure:
    """One heat map a panel, with the value in each cell.

    Args:
        panels: title of each panel and its values, shape (rows, columns); NaN cells are grey and blank.
        columns: names of the columns (the true features, mostly).
        rows: names of the rows ("latent 0", ... if None).
        quantity: "cosine" (diverging colours, -1 to 1) or anything else (sequential, from 0).
        per_row: panels in a row.
        width: of a panel, in inches, for three columns.

    Raises:
        ValueError: if a panel has not as many columns and rows as there are names.
    """
    for title, matrix in panels.items():
        shape, named = np.shape(matrix), (len(rows) if rows else len(matrix), len(columns))
        if shape != named:
            raise ValueError(
                f"panel {title!r} has shape {shape}, but {named[0]} rows and {named[1]} columns are named."
            )
    deep, across = -(-len(panels) // per_row), min(per_row, len(panels))
    tallest = max(len(matrix) for matrix in panels.values())
    size = (width * len(columns) / 3 * across + 1.4, (0.4 * tallest + 1.25) * deep)
    figure, axes = grid(len(panels), per_row, size, figsize=size)
    cosine = quantity == "cosine"
    norm = mpl.colors.Normalize(-1 if cosine else 0, 1 if cosine else _highest(panels.values()))
    scale = mpl.cm.ScalarMappable(norm, DIVERGING if cosine else SEQUENTIAL)
    for i, (axis, (title, matrix)) in enumerate(zip(axes, panels.items(), strict=True)):
        matrix = np.asarray(matrix, dtype=float)
        axis.set_facecolor("0.88")
        axis.pcolormesh(np.ma.masked_invalid(matrix), cmap=scale.cmap, norm=norm, edgecolors="white", lw=0.5)
        papers = scale.to_rgba(matrix).tolist()
        for row, column in np.argwhere(np.isfinite(matrix)):
            axis.text(
                column + 0.5, row + 0.5, _short(matrix[row, column]), color=_ink(papers[row][column]), fontsize=9,
                ha="center", va="center",
            )  # fmt: skip
        names = rows or [f"latent {k}" for k in range(len(matrix))]
        axis.set_xticks(np.arange(len(columns)) + 0.5, columns, rotation=30, ha="right")
        axis.set_yticks(np.arange(len(matrix)) + 0.5, names if i % across == 0 else [""] * len(matrix))
        axis.tick_params(length=0, labelsize=9)
        axis.spines[:].set_visible(False)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=10)
    ticks = [-1, 0, 1] if cosine else None
    figure.colorbar(scale, ax=axes, label=quantity, shrink=0.9, aspect=14, ticks=ticks, pad=0.015)
    return figure


def _highest(tables: Iterable[np.ndarray]) -> float:
    """The largest size of a finite entry; 1 where there is none but zero."""
    sizes = [np.abs(table[np.isfinite(table)]).max(initial=0.0) for table in map(np.asarray, tables)]
    return float(max(sizes, default=0.0)) or 1.0


def _short(value: float) -> str:
    """Two decimals, the same on every CPU, and never "-0.00"."""
    return f"{round(round(float(value), 9), 2) + 0.0:.2f}"


def _ink(paper: Sequence[float]) -> str:
    """The text colour, nearly black or white, that contrasts more with a colour."""
    return max(("#111111", "#ffffff"), key=lambda ink: abs(np.log(_brightness(ink) / _brightness(paper))))


def _brightness(colour: Any) -> float:
    """Relative luminance plus 0.05: the quotient of two is their contrast (WCAG 2)."""
    parts: np.ndarray = np.array(mpl.colors.to_rgb(colour))
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722]) + 0.05


def explorable(name: str, start: Mapping[str, float], dots: Sequence[Sequence[float]], **config: Any) -> str:
    """What a reader moves on the page of a chapter, as HTML: the closed forms live, trained SAEs as dots over them.

    `book/_static/explorable.js` brings it to life; without it a sentence says where it is.

    Args:
        name: of the element on the page; letters and hyphens, unique on it.
        start: values that it starts with and that the dots were trained at: `q`, `n`, `beta`, `l1`, as far as they are
            not the defaults (0.4, 2, 1, 0). The children are equal at first.
        dots: of each setting trained the amount swept, the parent's latent's cosine with a child and a child's latent's
            with its sibling; NaN where there is none.
        config: `x`, the amount swept ("q", or "blamed": a factor on the terms that mix, then `most`, its largest
            value), `controls` (which of "q", "n", "times", "beta", "l1", "blamed", "turn"), `modes` (False: no choice
            of what trains it), `notebook` (the one that its command runs).
    """
    known = [[None if np.isnan(value) else round(float(value), 4) + 0.0 for value in dot] for dot in dots]
    run = {key: value for key, value in start.items() if key != config.get("x", "q")}
    data = json.dumps({"start": dict(start), "run": run, "dots": known} | config).replace("<", "\\u003c")
    return (
        f'<div class="explorable" id="{name}"><script type="application/json">{data}</script>'
        "<p>On the page of the book, with JavaScript, this is a picture that can be moved.</p></div>"
    )


def basin_heatmaps(
    basins: Sequence[Basin],
    cosines: np.ndarray,
    live: np.ndarray,
    features: Sequence[str],
    most: int = 8,
    recovery: np.ndarray | None = None,
) -> Figure:
    """The first seed of each basin as a heat map of decoder cosines, lowest loss first.

    Args:
        basins: from `metrics.basins`, or its like; the `most` largest are drawn.
        cosines: decoder cosines of all seeds, shape (seeds, latents, features).
        live: whether each latent fires, shape (seeds, latents); rows of dead latents are grey.
        features: names of the features.
        most: how many to draw.
        recovery: of all seeds, to be written over each basin.
    """
    largest = sorted(basins, key=lambda basin: -basin.share)[:most]
    panels = []
    for i, basin in enumerate(sorted(largest, key=lambda basin: basin.loss)):
        first = basin.seeds[0]
        shown = np.where(np.asarray(live[first])[:, None], np.asarray(cosines[first]), np.nan)
        share = f"{basin.share:.0%}" if basin.share >= 0.095 else f"{basin.share:.1%}"
        title = f"{share} of seeds\nloss {basin.loss:.4f}"
        if recovery is not None:
            title = f"{i + 1}: {title}\nrecovery {float(recovery[first]):.2f}"
        panels.append((title, shown))
    titles = [title for title, _ in panels]
    numbered = {  # equal titles are told apart, so that none takes the other's place
        f"{title} ({titles[:i].count(title) + 1})" if titles.count(title) > 1 else title: shown
        for i, (title, shown) in enumerate(panels)
    }
    return heatmaps(numbered, features)


def theory_and_experiment(
    panels: Sequence[Mapping],
    per_row: int = 2,
    *,
    line: str = "theory",
    dashed: str = "",
    filled: str = "near the truth",
    hollow: str = "random starts",
) -> Figure:
    """Theory as lines, trained SAEs as points over them; each series is named beside the end of its line.

    Args:
        panels: for each panel `xlabel`, `ylabel`, optionally `log` (a logarithmic x axis) and `named` (False: no names,
            where they stand in another panel), and `series`: a list of mappings with `label`, `x`, the line's `line_x`
            and `line_y` (optional; `dashed_y` for a second one), and `points`, shape (x, seeds), drawn as the median
            with the full range of the seeds (optional `open_points` likewise, as open circles); NaN marks a seed left
            out.
        per_row: panels in a row.
        line, dashed, filled, hollow: what the key over the figure says of lines, dashed lines, filled points and open
            circles, if there are any; nothing if empty.
    """
    rows, columns = -(-len(panels) // per_row), min(per_row, len(panels))
    figure, axes = plt.subplots(rows, columns, figsize=(4.6 * columns, 3.1 * rows + 0.35), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, panel in zip(axes.flat, panels, strict=False):
        ends = []
        for i, series in enumerate(panel["series"]):
            ink = colour(series["label"], i)
            if "line_y" in series:
                axis.plot(series["line_x"], series["line_y"], color=ink, lw=1.8, zorder=1)
            if "dashed_y" in series:
                axis.plot(series["line_x"], series["dashed_y"], color=ink, lw=1.4, ls="--", zorder=1)
            for key in ("points", "open_points"):
                if key not in series:
                    continue
                look = (
                    {"fmt": MARKERS[i % len(MARKERS)], "ms": 5, "mec": "white", "mew": 0.6, "label": series["label"]}
                    if key == "points"
                    else {"fmt": "o", "ms": 10, "mfc": "none", "mew": 1}
                )
                points = np.asarray(series[key])
                kept = ~np.isnan(points).all(axis=1)
                x, points = np.asarray(series["x"])[kept], points[kept]
                middle = np.nanmedian(points, axis=1)
                spread = np.abs(np.stack([np.nanmin(points, 1), np.nanmax(points, 1)]) - middle)
                axis.errorbar(x, middle, yerr=spread, lw=1, capsize=2, color=ink, zorder=2, **look)
                if key == "points" and len(x):
                    last = int(np.argmax(x))
                    ends.append((series["label"], float(x[last]), float(middle[last]), ink))
            if ends and "line_y" in series and np.asarray(series["line_x"])[-1] > ends[-1][1]:
                ends[-1] = series["label"], float(series["line_x"][-1]), float(series["line_y"][-1]), ink
        if panel.get("log"):
            axis.set_xscale("log")
        axis.axhline(0, color="0.6", lw=0.8, zorder=0)
        axis.set(xlabel=panel["xlabel"], ylabel=panel["ylabel"])
        if panel.get("named", True):
            end_labels(axis, [end for end in ends if end[0]])
    every = [series for panel in panels for series in panel["series"]]
    _key(
        figure,
        {key: any(key in series for series in every) for key in ("line_y", "dashed_y", "points", "open_points")},
        (line, dashed, filled, hollow),
    )
    return figure


def _key(figure: Figure, used: Mapping[str, bool], words: Sequence[str]) -> None:
    """One key over a figure: of lines, dashed lines, filled points and open circles, as far as they are used."""
    looks: list[dict[str, Any]] = [
        {"lw": 1.8}, {"lw": 1.4, "ls": "--"}, {"marker": "o", "ms": 5, "ls": ""},
        {"marker": "o", "ms": 9, "mfc": "none", "ls": ""},
    ]  # fmt: skip
    handles = [
        mpl.lines.Line2D([], [], color="0.3", label=word, **look)
        for look, word, shown in zip(looks, words, used.values(), strict=True)
        if shown and word
    ]
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=4, fontsize=9)


def loss_path(
    position: np.ndarray,
    curves: Mapping[str, np.ndarray],
    marks: Mapping[str, float],
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Loss along a path between decoders; `marks` are named positions on it."""
    figure, axis = plt.subplots(figsize=(6.4, 3.6))
    for i, (label, curve) in enumerate(curves.items()):
        axis.plot(position, curve, label=label, color=COLOURS[i], ls=("-", "--", ":")[i % 3], lw=2)
    last = [(label, float(position[-1]), float(curve[-1])) for label, curve in curves.items()]
    end_labels(axis, [(*end, COLOURS[i]) for i, end in enumerate(last)])
    for label, place in marks.items():
        axis.axvline(place, color="0.5", lw=0.8, ls=":")
        axis.annotate(
            label, (place, 1), xycoords=("data", "axes fraction"), xytext=(4, -4),
            textcoords="offset points", fontsize=9, va="top",
        )  # fmt: skip
    axis.set(xlabel=xlabel, ylabel=ylabel)
    return figure


def seed_strips(
    groups: Mapping[str, np.ndarray], xlabel: str, reference: float | None = None, label: str = ""
) -> Figure:
    """Every seed as a point, one line a group, with a tick at the median; `reference` is a vertical line (theory, say).

    Colours are those of `colour`: standard SAEs and controls, told by their names, have one of their own.
    """
    figure, axis = plt.subplots(figsize=(6.9, 0.36 * len(groups) + 1.2))
    if reference is not None:
        axis.axvline(reference, color="0.3", lw=1.2, label=label, zorder=0)
    axis.axvline(0, color="0.6", lw=0.8, zorder=0)
    tick: dict[str, Any] = {"color": "0.15", "lw": 2, "label": "median"}
    jitter = np.random.default_rng(0)  # its own stream: the same figure in every run
    for i, (name, values) in enumerate(groups.items()):
        values = np.ravel(values)
        axis.scatter(values, i + jitter.uniform(-0.25, 0.25, len(values)), s=16, alpha=0.5, lw=0, color=colour(name))
        if len(values):
            axis.plot([np.median(values)] * 2, [i - 0.36, i + 0.36], **tick)
            tick.pop("label", None)  # one entry in the key
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0, ncols=2)
    axis.set_yticks(range(len(groups)), list(groups))
    axis.invert_yaxis()
    axis.set(xlabel=xlabel, ylabel="")
    return figure


def cosine_maps(panels: Mapping[str, Mapping], quantity: str, line: str = "theory") -> Figure:
    """Cosines over a plane as colours, with theory's lines drawn over them.

    Args:
        panels: title of each panel and its `x`, `y` (cell centres, evenly spaced on the axis's scale), `values` of
            shape (y, x) with NaN where nothing is known, `xlabel`, `ylabel`, and `lines`: for each line its name
            (written at its end; None: nothing is), its x and its y. Optional: `log` (both axes logarithmic) and `mark`
            (an x, and what is there).
        quantity: label of the colours.
        line: what the key over the figure says of the lines.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.3 * len(panels) + 0.6, 3.8), squeeze=False)
    # An edge in the ground's colour keeps a line visible on dark cells and on light ones, in light and dark mode.
    edge = [mpl.patheffects.withStroke(linewidth=3.6, foreground="white")]
    highest = _highest(panel["values"] for panel in panels.values())
    for axis, (title, panel) in zip(axes.flat, panels.items(), strict=True):
        axis.set_facecolor("0.85")
        if panel.get("log"):
            axis.set(xscale="log", yscale="log")
        edges = [_edges(np.asarray(panel[key]), panel.get("log", False)) for key in "xy"]
        drawn = axis.pcolormesh(
            *edges, np.asarray(panel["values"]), cmap=DIVERGING, vmin=-highest, vmax=highest, edgecolors="white", lw=0.3
        )
        for name, x, y in panel["lines"]:
            axis.plot(x, y, color="black", lw=2, label=name or line, path_effects=edge)
            if name:
                end = min(x[-1], edges[0][-1]), y[-1]
                axis.annotate(
                    name, end, (3, 0), textcoords="offset points", fontsize=9, va="center", annotation_clip=False
                )
        axis.set(xlim=edges[0][[0, -1]], ylim=edges[1][[0, -1]], xlabel=panel["xlabel"], ylabel=panel["ylabel"])
        if "mark" in panel:
            place, text = panel["mark"]
            axis.axvline(place, color="0.25", ls=":", lw=1.5)
            axis.annotate(text, (place, edges[1][0]), xytext=(4, 4), textcoords="offset points", fontsize=9)
        axis.set_title(title, fontsize=10)
    figure.colorbar(drawn, ax=axes, label=quantity, pad=0.015)
    key = mpl.lines.Line2D([], [], color="black", lw=2, label=line)
    figure.legend(handles=[key], loc="outside upper left", fontsize=9)
    return figure


def clouds(panels: Sequence[Mapping], line: str = "theory") -> Figure:
    """Clouds of points, one a pair of features in one SAE, with theory as a line through them.

    Args:
        panels: for each panel `xlabel`, `ylabel`, `groups` (of each its name, x and y values), and `curve`, the
            (x, y) points of the line.
        line: what the line is called.
    """
    figure, axes = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 4.0), squeeze=False)
    for axis, panel in zip(axes.flat, panels, strict=True):
        for i, (label, (x, y)) in enumerate(panel["groups"].items()):
            look = {"marker": MARKERS[i % len(MARKERS)], "color": COLOURS[i], "label": label}
            axis.scatter(x, y, s=16, alpha=0.5, lw=0, **look)
        axis.plot(*panel["curve"], color="black", lw=1.6)
        axis.set(xlabel=panel["xlabel"], ylabel=panel["ylabel"])
        end_labels(axis, [(line, float(panel["curve"][0][-1]), float(panel["curve"][1][-1]), "0.15")])
    key = figure.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=9, markerscale=2
    )
    for mark in filter(None, key.legend_handles):
        mark.set_alpha(1)
    return figure


def _edges(centres: np.ndarray, log: bool) -> np.ndarray:
    """Edges of cells with these centres, evenly spaced on the axis's scale."""
    places = np.log(centres) if log else centres
    half = np.diff(places).mean() / 2
    edges = np.append(places - half, places[-1] + half)
    return np.exp(edges) if log else edges
