"""The numbers behind a figure, as a table that a reader can take along."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.collections import LineCollection, PathCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

HEAD = ("panel", "series", "x", "y", "value")
MOST = 5000
"""Rows that are written at most."""

Row = tuple[str, str, Any, Any, Any]


def numbers(figure: Figure) -> str:
    """What a figure draws, as CSV with the columns of `HEAD`: a row a point, bar or cell, four digits each.

    Names stand in the place of numbers where an axis has names. `value` is that of a cell's colour.
    """
    file = io.StringIO()
    table = csv.writer(file, lineterminator="\n")
    table.writerow(HEAD)
    rows = (
        row for axis in figure.axes if axis.get_visible() and axis.get_label() != "<colorbar>" for row in drawn(axis)
    )
    for _, row in zip(range(MOST), rows, strict=False):
        table.writerow([_short(value) for value in row])
    return file.getvalue()


def drawn(axis: Axes) -> Iterator[Row]:
    """The rows of one panel: lines, clouds, ranges, cells, images and bars."""
    panel = axis.get_title() or axis.get_ylabel() or axis.get_xlabel()
    names = _names(axis.xaxis), _names(axis.yaxis)

    def at(x: float, y: float) -> tuple[Any, Any]:
        return names[0].get(round(x), x) if names[0] else x, names[1].get(round(y), y) if names[1] else y

    owners = {id(line): one.get_label() for one in axis.containers if hasattr(one, "lines") for line in [one.lines[0]]}
    for i, line in enumerate(axis.lines):
        series = str(owners.get(id(line)) or line.get_label())
        if line.get_transform() == axis.transData:
            series = f"line {i + 1}" if series.startswith("_") else series
            for x, y in zip(np.ravel(line.get_xdata()), np.ravel(line.get_ydata()), strict=True):
                yield panel, series, *at(float(x), float(y)), ""
    for drawing in axis.collections:
        series = str(drawing.get_label())
        series = "" if series.startswith("_") else series
        if isinstance(drawing, PathCollection):
            for x, y in np.ma.filled(np.ma.asarray(drawing.get_offsets(), float), np.nan):
                if np.isfinite([x, y]).all():
                    yield panel, series, *at(float(x), float(y)), ""
        elif isinstance(drawing, LineCollection):
            for part in drawing.get_segments():
                for x, y in part:
                    yield panel, f"{series} range".strip(), *at(float(x), float(y)), ""
        elif isinstance(drawing, QuadMesh):
            corners = np.asarray(drawing.get_coordinates())
            middles = (corners[:-1, :-1] + corners[1:, 1:]) / 2
            across, down = ({round(place - 0.5): name for place, name in some.items()} for some in names)
            values = np.ma.filled(np.ma.asarray(drawing.get_array(), float), np.nan).reshape(middles.shape[:2])
            for place, value in np.ndenumerate(values):
                x, y = middles[place]
                row, column = place
                yield panel, series, across.get(column, x), down.get(row, y), value
    for image in axis.images:
        for (row, column), value in np.ndenumerate(np.ma.filled(np.ma.asarray(image.get_array(), float), np.nan)):
            yield panel, "", *at(column, row), value
    bars = [patch for patch in axis.patches if isinstance(patch, Rectangle)]
    upright = len({round(bar.get_width(), 9) for bar in bars}) == 1
    for bar in bars:
        x, y = bar.get_x() + bar.get_width() / 2, bar.get_y() + bar.get_height() / 2
        yield panel, "", *at(x, y), bar.get_height() if upright else bar.get_width()


def _names(axis: Axis) -> dict[float, str]:
    """What the ticks of an axis are called, by their places, where these are words and no numbers."""
    ticks = {
        float(place): label.get_text() for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
    }
    words = any(re.search(r"[a-z]", re.sub(r"mathdefault|times", "", text)) for text in ticks.values())
    return ticks if words else {}


def _short(value: Any) -> str:
    return value if isinstance(value, str) else f"{value + 0.0:.4g}" if np.isfinite(value) else ""
