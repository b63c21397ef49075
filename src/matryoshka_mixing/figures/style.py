"""The one style of all figures, and the grid of panels that they are drawn on."""

from __future__ import annotations

import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = sns.color_palette("colorblind")
MARKERS = "osD^vP"
DIVERGING = "RdBu_r"
"""The one colour map for cosines, centred on zero."""
SEQUENTIAL = "Greens"
"""The one colour map for activations, from zero."""


def use_style() -> None:
    """Set the style of all figures; call once in a notebook."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        # Notebooks crop figures by default, which draws each one twice; constrained layout leaves nothing to crop.
        shell.run_line_magic("config", "InlineBackend.print_figure_kwargs = {'bbox_inches': None}")
        # The book takes the vector, with its text as text; other viewers of a notebook take what they can show.
        shell.run_line_magic("config", "InlineBackend.figure_formats = {'png', 'svg'}")
    sns.set_theme(context="notebook", style="ticks", palette="colorblind")
    mpl.rcParams |= {
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


def label(name: str, longest: int = 24) -> str:
    """A name of somebody else's, such as a tree file's, as text of a figure: one line, not too long, never mathematics.

    Args:
        name: any text.
        longest: how many characters are shown at most; what is cut away is marked.
    """
    shown = "".join(char if char.isprintable() else " " for char in name)
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    return shown.replace("$", r"\$")


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
