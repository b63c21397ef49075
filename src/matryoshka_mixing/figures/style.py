"""The one style of all figures, and the grid of panels that they are drawn on."""

from __future__ import annotations

import sys
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from matryoshka_mixing.figures.numbers import numbers

THEME = mpl.rc_params_from_file(Path(__file__).with_name("seaborn.mplstyle"), use_default_template=False)
COLOURS: list[Any] = [to_rgb(each) for each in THEME["axes.prop_cycle"].by_key()["color"]]
MARKERS = "osD^vP"
QUANTITIES: dict[str, Any] = {
    "parent's with a child": COLOURS[0], "with a child": COLOURS[0], "with each child": COLOURS[0],
    "child's with a sibling": COLOURS[3], "child 1's with child 2": COLOURS[3],
    "child's with the parent": COLOURS[2], "child 1's with the parent": COLOURS[2],
    "parent's with the parent": "0.45", "child's with its child": "0.45", "with the parent": "0.45",
    "standard": "0.45", "Matryoshka": COLOURS[0], "remedy": COLOURS[2], "ours": COLOURS[2], "control": COLOURS[1],
}  # fmt: skip
"""The one colour of each quantity and of each kind of SAE in the whole book, by how its name begins."""
DIVERGING = "RdBu_r"
"""The one colour map for cosines, centred on zero."""
SEQUENTIAL = "Greens"
"""The one colour map for activations, from zero."""


def use_style() -> None:
    """Set the style of all figures; call once in a notebook, whose figures are then shown as `pictures`.

    Formats that are chosen afterwards (`%config InlineBackend.figure_formats = [...]`) go first.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and hasattr(shell, "kernel"):
        if "inline" in mpl.get_backend():  # no window is there, for which each figure would be drawn once more
            plt.switch_backend(mpl.get_backend())  # else the first figure does, and connects what is now taken away
            plt.uninstall_repl_displayhook()
        # In place of the inline backend's own, which lay a figure out anew for each format, and crop it.
        shell.run_line_magic("config", "InlineBackend.figure_formats = set()")
        shell.display_formatter.mimebundle_formatter.for_type(Figure, _shown)
    # A name in a script that the font lacks: the vector's text is shown by the reader's own fonts.
    warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
    mpl.rcParams |= THEME | {
        "figure.dpi": 110,
        "savefig.dpi": 110,
        "figure.constrained_layout.use": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": "medium",
        "legend.frameon": False,
        "svg.fonttype": "none",
        "svg.hashsalt": "matryoshka-mixing",  # otherwise ids are drawn anew in every run
    }


def _shown(figure: Figure) -> dict[str, str]:
    from matplotlib_inline.config import InlineBackend

    return {} if InlineBackend.instance().figure_formats else pictures(figure)


def pictures(figure: Figure) -> dict[str, str]:
    """A figure as a notebook holds it: the vector for the book, with its text as text, a bitmap and the `numbers`.

    Not every viewer of notebooks shows vectors. The figure is laid out once for both, and nothing is cropped. An empty
    figure has no pictures.
    """
    from IPython.core.pylabtools import print_figure  # a tool of the book, not of the package

    engine = figure.get_layout_engine()
    figure.draw_without_rendering()
    try:
        # None means what these settings say, also where printing puts it back.
        with plt.rc_context({"figure.constrained_layout.use": False, "figure.autolayout": False}):
            figure.set_layout_engine(None)
            vector = print_figure(figure, "svg", bbox_inches=None)
            bitmap = print_figure(figure, "png", bbox_inches=None, base64=True)
    finally:
        if engine is not None:
            figure.set_layout_engine(engine)
    found = {"image/svg+xml": vector, "image/png": bitmap, "text/csv": numbers(figure)}
    return {kind: data for kind, data in found.items() if data is not None}


def colour(name: str, other: int = 0) -> Any:
    """The colour that a quantity or a kind of SAE has in the whole book; for other names one of `COLOURS`.

    Args:
        name: such as "parent's latent with a child" or "standard, random".
        other: number of the colour for a name without one of its own.
    """
    short = name.replace(" latent", "")
    known = [key for key in QUANTITIES if short.startswith(key)]
    return QUANTITIES[max(known, key=len)] if known else COLOURS[other % len(COLOURS)]


def end_labels(axis: Axes, ends: Sequence[tuple[str, float, float, Any]], height: float = 170.0) -> None:
    """Write names beside the ends of their lines, where names at the same place do not cover each other.

    Args:
        axis: with its limits as they will be.
        ends: of each line its name, the x and y of its end, and its colour.
        height: about how tall the axis is, in points.
    """
    axis.get_ylim()  # settles the limits, which a scale that follows the data leaves open till then
    ends = sorted(ends, key=lambda end: (end[1], end[2]))
    texts = [textwrap.fill(name, 18) for name, *_ in ends]
    within = axis.transData - axis.transAxes
    wanted = [within.transform((x, y))[1] * height for _, x, y, _ in ends]
    places = list(wanted)
    for _ in range(100):  # neighbours at the same place push each other apart, but not down to the axis's own numbers
        places = [max(place, 5.5 * (1 + text.count("\n")) - 4) for place, text in zip(places, texts, strict=True)]
        for i in range(len(ends) - 1):
            tall = 11.0 * (2 + texts[i].count("\n") + texts[i + 1].count("\n")) / 2 + 2
            lack = tall - (places[i + 1] - places[i])
            if lack > 0 and ends[i][1] == ends[i + 1][1]:
                places[i], places[i + 1] = places[i] - lack / 2, places[i + 1] + lack / 2
    for text, place, at, (_, x, y, ink) in zip(texts, places, wanted, ends, strict=True):
        axis.annotate(
            text, (x, y), xytext=(7, round(place - at, 1)), textcoords="offset points", color=ink, fontsize=9,
            va="center", annotation_clip=False, linespacing=1.0,
        )  # fmt: skip


def in_one_line(name: str, longest: int = 40) -> str:
    """A name of somebody else's, such as a tree file's, in one line of text and not too long.

    What is no visible sign, such as a line break or a mark that turns the direction of writing, becomes a blank.

    Args:
        name: any text.
        longest: how many characters are shown at most; what is cut away is marked.
    """
    shown = "".join(char if char.isprintable() else " " for char in name)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def label(name: str, longest: int = 24) -> str:
    """The same as text of a figure, where no sign is mathematics. Every name that is not ours passes through here."""
    return in_one_line(name, longest).replace("$", r"\$")


def grid(n: int, per_row: int, size: tuple[float, float], **options) -> tuple[Figure, list[Axes]]:
    """A figure of `n` panels, `per_row` in a row, and their axes in reading order; places left over stay empty.

    Args:
        n: number of panels, at least 1.
        per_row: panels in a row, at least 1; fewer panels make a narrower figure.
        size: width and height of one panel, in inches.
        options: for `matplotlib.pyplot.subplots`, such as `sharex`, or `figsize` where the size is not a multiple.
    """
    deep, across = -(-n // per_row), min(per_row, n)
    options = {"figsize": (size[0] * across, size[1] * deep), **options}
    figure, axes = plt.subplots(deep, across, squeeze=False, **options)
    for axis in axes.flat[n:]:
        axis.set_visible(False)
    return figure, list(axes.flat[:n])
