"""The figures of the chapter."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from matryoshka_mixing import figures
from matryoshka_mixing.chapters.real_activations.data import (
    CHILDREN,
    DELTAS,
    KINDS,
    MATRYOSHKA,
    REMEDY,
    STANDARD,
    WIDTHS,
)
from matryoshka_mixing.chapters.real_activations.experiments import MAPPED, POINTS
from matryoshka_mixing.chapters.real_activations.summary import BARE, DROP, OWN_POINT, Map, Results
from matryoshka_mixing.chapters.real_activations.toys import Toys

COLOUR = {kind: figures.colour(kind, 4) for kind in KINDS}
MARK = {STANDARD: "s", MATRYOSHKA: "o", REMEDY: "D", DELTAS: "^"}


def _strip(axis, rows: dict[str, np.ndarray]) -> None:
    """Every seed a point, one line a kind of SAE."""
    for i, (kind, values) in enumerate(rows.items()):
        spread = np.linspace(-0.15, 0.15, len(values))
        axis.scatter(values, i + spread, 26, color=COLOUR[kind], marker=MARK[kind])
    axis.set_yticks(range(len(rows)), list(rows))
    axis.set_ylim(len(rows) - 0.5, -0.5)


def draw_cosines(found: Results) -> Figure:
    """The parent's latent's cosine with each child, per seed, and what the equation says."""
    figure, axes = figures.grid(2, 2, (4.4, 2.5), sharex=True, sharey=True)
    for i, (axis, q) in enumerate(zip(axes, CHILDREN, strict=True)):
        _strip(axis, {kind: found.cosines(kind)[:, i] for kind in KINDS})
        for kind in (MATRYOSHKA, DELTAS):
            says = found.predicted(kind)[:, i]
            rows = KINDS.index(kind) + np.linspace(-0.15, 0.15, len(says))
            axis.scatter(says, rows, 90, color="black", marker="|")
            if i == 0 and kind == MATRYOSHKA:
                right = max(says.max(), found.cosines(kind)[:, i].max())
                axis.annotate("ticks: the equation", (right, KINDS.index(kind)), (8, 0), textcoords="offset points",
                              fontsize=9, va="center")  # fmt: skip
        axis.axvline(0, color="0.7", linewidth=0.8)
        axis.set(xlabel="cosine with the child", title=f"a child of {q:g} given the parent")
    return figure


def draw_recalls(found: Results) -> Figure:
    """How much less often the parent's latent fires beside a child: every pair of every seed."""
    figure, axes = figures.grid(1, 1, (7.2, 2.4))
    generator = np.random.default_rng(0)  # its own stream: the same figure in every run
    for i, kind in enumerate(KINDS):
        gaps = found.gaps(kind).ravel()
        spread = generator.uniform(-0.25, 0.25, len(gaps))
        axes[0].scatter(gaps, i + spread, 16, color=COLOUR[kind], marker=MARK[kind], alpha=0.6, linewidth=0)
    axes[0].axvline(DROP, color="0.3", linewidth=1, linestyle=":")
    axes[0].set_yticks(range(len(KINDS)), KINDS)
    axes[0].set_ylim(len(KINDS) - 0.5, -0.5)
    axes[0].set(xlabel="recall of the parent without the child, less that with it")
    return figure


def draw_map(found: Map) -> Figure:
    """Other sizes, a line a point: mixing with the equation's marks, pairs absorbed, children with a latent."""
    figure, axes = figures.grid(3, 3, (2.8, 2.8), sharey=True)
    points = (OWN_POINT, *POINTS)
    for i, point in enumerate(points):
        for kind in MAPPED:
            cosines = found.cosines(point, kind)
            up = i + (-0.18 if kind == STANDARD else 0.18) + np.linspace(-0.1, 0.1, len(cosines))
            panels = cosines, found.absorbing(point, kind), found.with_latent(point, kind)
            for axis, values in zip(axes, panels, strict=True):
                axis.scatter(values, up, 18, color=COLOUR[kind], marker=MARK[kind], label=kind if i == 0 else None)
            if kind == MATRYOSHKA:
                label = "the equation" if i == 0 else None
                says = found.cosines(point, kind, "predicted")
                axes[0].scatter(says, up, 60, color="black", marker="|", label=label)
    axes[0].set_yticks(range(len(points)), points)
    axes[0].set_ylim(len(points) - 0.5, -0.5)
    axes[0].axvline(0, color="0.7", linewidth=0.8)
    axes[0].set(xlabel="cosine with the commoner child")
    for axis, label in zip(axes[1:], ("pairs absorbed", "with a latent"), strict=True):
        axis.set(xlabel=label, xlim=(-0.05, 1.05), xticks=[0, 0.5, 1], xticklabels=["0", ".5", "1"])
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=9, loc="outside upper left", ncols=3)
    return figure


def draw_prices(found: Results) -> Figure:
    """What each prefix leaves unexplained, without planted families."""
    figure, axes = figures.grid(1, 1, (5.6, 3.2))
    ends = []
    for kind in KINDS:
        shares = np.median(found.of(BARE, kind, "fvu"), 0)
        places = range(len(WIDTHS)) if kind != STANDARD else [len(WIDTHS) - 1]
        line = "-" if kind != STANDARD else ""
        axes[0].plot(places, shares[list(places)], line, color=COLOUR[kind], marker=MARK[kind], label=kind)
        ends.append((kind, places[-1], float(shares[places[-1]]), COLOUR[kind]))
    axes[0].set_xticks(range(len(WIDTHS)), [str(width) for width in WIDTHS])
    axes[0].set(xlabel="latents of the prefix", ylabel="unexplained share", ylim=(0, None))
    figures.end_labels(axes[0], ends)
    return figure


def draw_diagnosis(found: Results) -> Figure:
    """Bare activations: along later latents or not (left), and the lean against the predicted one (right)."""
    figure, axes = figures.grid(2, 2, (4.6, 3.4))
    bins = np.linspace(-1, 1, 41).tolist()
    for kind, name, style in (
        (MATRYOSHKA, "along", {"linewidth": 2}), (MATRYOSHKA, "permuted", {"linestyle": ":", "linewidth": 1.5}),
        (STANDARD, "along", {"linewidth": 1.5}),
    ):  # fmt: skip
        values = found.of(BARE, kind, name)[found.of(BARE, kind, "judged") > 0]
        label = kind if name == "along" else f"{kind}, permuted"
        axes[0].hist(values, bins, histtype="step", color=COLOUR[kind], label=label, **style)
    axes[0].set(xlabel="cosine of movement and pull", ylabel="inner latents, all seeds")
    axes[0].legend(fontsize=9, loc="upper left", handlelength=1.2)
    judged = found.of(BARE, MATRYOSHKA, "judged") > 0
    predicted, lean = (found.of(BARE, MATRYOSHKA, name)[judged] for name in ("predicted", "lean"))
    axes[1].scatter(predicted, lean, 8, color=COLOUR[MATRYOSHKA], alpha=0.5)
    ends = axes[1].get_xlim()
    axes[1].plot(ends, ends, color="black", linewidth=0.8)
    axes[1].set(xlabel="predicted lean", ylabel="lean toward later latents")
    return figure


def draw_toys(toys: Toys) -> Figure:
    """What the diagnosis finds against what is mixed, where the truth is known."""
    figure, axes = figures.grid(1, 1, (5.6, 3.4))
    ends = []
    for i, kind in enumerate(toys.mixing):
        colour = figures.COLOURS[(0, 1, 7)[i]]
        axes[0].plot(toys.probabilities, toys.mixing[kind], color=colour, linewidth=1.5)
        axes[0].scatter(toys.probabilities, toys.movement[kind], 28, color=colour, marker="osD"[i], label=kind)
        ends.append((kind, float(toys.probabilities[-1]), float(toys.mixing[kind][-1]), colour))
    axes[0].set(xlabel="probability of a child given the parent", ylabel="sine: true (lines), found (points)")
    figures.end_labels(axes[0], ends)
    return figure
