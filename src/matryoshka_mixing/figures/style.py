"""The one style of all figures, and the grid of panels that they are drawn on."""

from __future__ import annotations

import sys
import warnings

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
    # A name in a script that the font lacks: the vector's text is shown by the reader's own fonts.
    warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
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
