"""The chapter's figures: each takes what was trained and what theory says, and returns a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from matryoshka_mixing import figures, metrics
from matryoshka_mixing.chapters.how_far.data import Parameters
from matryoshka_mixing.chapters.how_far.expectation import Expected, closed_forms, own_firing, pair_theory
from matryoshka_mixing.chapters.how_far.experiments import (
    BaseCase,
    Effect,
    Explored,
    Pairs,
    Sampled,
    by_size,
    extent,
    kept,
    own_cosines,
)

SHORT = ("parent's latent with a child", "child's with a sibling", "child's with the parent")


def draw_ranges(effects: Mapping[str, Effect], reference: float) -> Figure:
    """How far each factor moves the parent's cosine with a child: from its lowest to its highest median.

    Rows are ordered by the length of their bar, longest on top; each end is marked with the amount that gives it
    ("steady" where it moves by less than 0.005). A thin line below the bar does the same for random starts.

    Args:
        effects: by name; NaN is left out.
        reference: the default's value, as a dashed line.
    """
    order = by_size(effects)
    figure, (axis,) = figures.grid(1, 1, (6.9, 0.27 * len(effects) + 1.0))
    axis.axvline(0, color="0.75", lw=0.8, zorder=0)
    axis.axvline(reference, color="0.25", lw=1.2, ls="--", zorder=0, label="default")
    for place, effect in enumerate(effects[name] for name in order):
        looks = [
            (effect.near[:, 0], 0.0, 7.0, figures.colour("parent's with a child"), "near the truth"),
            (effect.random[:, 0], 0.33, 2.0, "0.35", "random starts"),
        ]
        for values, down, width, ink, label in looks:
            if np.isnan(values).all():
                continue
            ends = np.round([np.nanmin(values), np.nanmax(values)], 6)
            axis.plot(
                ends, [place + down] * 2, color=ink, lw=width, solid_capstyle="butt", marker="|", ms=width + 3, mew=1.5,
                label=label if label not in axis.get_legend_handles_labels()[1] else None,
            )  # fmt: skip
        _name_ends(axis, effect.near[:, 0], effect.amounts, place)
    axis.margins(x=0.12)
    axis.set(ylim=(len(order) - 0.4, -0.6), xlabel="cosine of the parent's latent with a child")
    axis.tick_params(axis="y", length=0)
    axis.set_yticks(range(len(order)), order, fontsize=9)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper left", ncols=3, fontsize=9)
    return figure


def _name_ends(axis: Axes, values: np.ndarray, amounts: Sequence[str], place: int) -> None:
    """Write the amounts that give the lowest and the highest value beside the ends of a bar."""
    if np.isnan(values).all():
        return
    values = np.round(values, 4)  # of equal ones the first, on every machine
    low, high = int(np.nanargmin(values)), int(np.nanargmax(values))
    texts = [(low, "right", -5, amounts[low]), (high, "left", 5, amounts[high])]
    for end, side, gap, text in texts if extent(values) >= 0.005 else [(high, "left", 5, "steady")]:
        axis.annotate(
            text, (values[end], place), xytext=(gap, 0), fontsize=9, textcoords="offset points", ha=side, va="center"
        )


def _panel(
    explored: Explored,
    xlabel: str,
    chosen: Sequence[int] = (0, 1, 2),
    line: np.ndarray | None = None,
    ylabel: str = "decoder cosine",
    **more: object,
) -> dict:
    """A panel of some of the three mixings over a factor's amounts, with theory's line if there is one."""
    amounts, wild = explored.factor.amounts, explored.random_medians
    series = [
        {"label": SHORT[i], "x": amounts, "points": explored.near[..., i], "open_points": wild[:, [i]]}
        | ({} if line is None else {"line_x": amounts, "line_y": line[:, i]})
        for i in chosen
    ]
    return {"xlabel": xlabel, "ylabel": ylabel, "series": series} | more


def _of_pairs(label: str, explored: Explored, theory: Expected, pairs: slice | list[int] = slice(None)) -> dict:
    """Some pairs of parent and child of one factor, trained and by theory, as one series."""
    return {
        "label": label,
        "points": torch.stack([table.parent_to_child[:, pairs].nanmean(-1) for table in explored.tables]),
        "x": explored.factor.amounts,
        "line_x": explored.factor.amounts,
        "line_y": torch.stack([table.parent_to_child[0, pairs].nanmean() for table in theory.tables]),
    }


def _levels(explored: Explored, theory: Expected) -> list[dict]:
    """The mixings across three levels, each as one series."""
    dictionary, grandchildren = explored.factor.settings[0].directions, [2, 3, 5, 6]
    upper = _of_pairs("parent's latent with a child", explored, theory, [0, 3])
    deeper = _of_pairs("child's latent with a grandchild", explored, theory, [1, 2, 4, 5])
    lines = torch.stack([rows[0] @ dictionary[0].T for rows in theory.decoders])
    cosines = metrics.decoder_cosines(explored.run.sae, dictionary[None, : explored.near.shape[1]])
    trained = cosines[..., 0, grandchildren].mean(-1)
    across = {"points": trained, "line_y": lines[:, grandchildren].mean(-1)}
    return [upper, deeper, upper | {"label": "parent's latent with a grandchild"} | across]


def draw_children(explored: Mapping[str, Explored], theories: Mapping[str, Expected], p: Parameters) -> Figure:
    """How the children fire: overlap, unequal children, a third level, many children."""
    name, between, unequal = "overlap of children", "a prefix between the children", "unequal children"
    overlap = _panel(explored[name], "probability of both children given the parent", line=theories[name].line)
    overlap["series"].append(
        _of_pairs("parent's, with a prefix between the children", explored[between], theories[between])
    )
    children = [
        _of_pairs(label, explored[unequal], theories[unequal], [i])
        for i, label in enumerate(["commoner child", "rarer child"])
    ]
    fits = own_firing(explored[unequal])
    for series in children:
        series["open_points"] = series["points"].masked_fill(fits, torch.nan)
        series["points"] = series["points"].masked_fill(~fits, torch.nan)
    q, many = p.child_probability, ("number of children", "children, each as likely")
    labels = (f"together as likely as two ({2 * q:.2g})", f"each as likely ({q / 5:.2g})")
    one_of_many = [_of_pairs(f, explored[n], theories[n]) for f, n in zip(labels, many, strict=True)]
    levels = _levels(explored["a third level"], theories["a third level"])
    grandchild, ylabel = "probability of a grandchild given its parent", "parent's latent with a child"
    ratio = "how much likelier the commoner child is"
    return figures.theory_and_experiment(
        [
            overlap,
            {"xlabel": ratio, "log": True, "ylabel": ylabel, "series": children},
            {"xlabel": grandchild, "ylabel": "decoder cosine", "series": levels},
            {"xlabel": "number of children", "ylabel": "parent's latent with one child", "series": one_of_many},
        ]
    )


def draw_features(
    explored: Mapping[str, Explored],
    leaning: Expected,
    bound: Float[np.ndarray, "amounts 3"],
    eigen: Float[np.ndarray, " amounts"],
) -> Figure:
    """Magnitudes and directions: spread magnitudes, a common cosine, and twelve features in few dimensions.

    Args:
        explored: the factors.
        leaning: theory of the cosine of features.
        bound: the three mixings by `pattern_optimum` for spread magnitudes.
        eigen: the parent's cosine with a child by `eigen_line` there.
    """
    spread = _panel(explored["spread of magnitudes"], "standard deviation of magnitudes / mean", line=bound)
    spread["series"][0]["dashed_y"] = eigen
    crowding, excess = explored["dimensions for 12 features"], "cosine, excess over the true one"
    recovery = [
        {"label": label, "x": crowding.factor.amounts, "points": own.mean(-1)}
        for label, own in zip(["parents' latents", "children's latents"], own_cosines(crowding), strict=True)
    ]
    shared = "dimensions that 12 features share"
    return figures.theory_and_experiment(
        [
            spread,
            _panel(explored["cosine of features"], "cosine between any two features", line=leaning.line, ylabel=excess),
            _panel(crowding, shared, ylabel=excess),
            {"xlabel": shared, "ylabel": "cosine with the own feature", "series": recovery},
        ],
        dashed="eigenvector",
    )


def draw_model(explored: Mapping[str, Explored], weight: Expected, p: Parameters) -> Figure:
    """The model: inner weight (with its theory), latents to spare, inner width, L1 penalty."""
    narrow, base = closed_forms(p)
    wider = _panel(explored["number of latents"], "number of latents", chosen=(0, 1))
    wider["series"][0] |= {"line_x": [3, 8], "line_y": [narrow] * 2, "dashed_y": [base] * 2}
    widths = [
        {"label": label, "x": explored[name].factor.amounts, "points": explored[name].near[..., 0]}
        for label, name in [("3 latents", "inner width"), ("6 latents", "inner width of 6")]
    ]
    ylabel = "parent's latent with a child"
    return figures.theory_and_experiment(
        [
            _panel(explored["inner weight"], "weight of the inner prefix", line=weight.line, log=True),
            wider,
            {"xlabel": "latents in the inner prefix", "ylabel": ylabel, "series": widths},
            _panel(explored["L1 penalty"], "L1 penalty"),
        ],
        line="theory (more latents: of the narrow SAE)",
        dashed="of the default",
    )


def draw_pairs(pairs: Sequence[Pairs], p: Parameters) -> Figure:
    """The first latent's cosine with the other of two features, against their correlation; one panel each."""
    labels, panels = ["Matryoshka, widths 1 and 2", "narrow, one latent"], []
    for some in pairs:
        fine = np.linspace(some.correlations[0], 0.9, 201)
        series = [
            {
                "label": label, "x": some.correlations, "points": some.near[i],
                "open_points": some.random[i].nanmedian(1, keepdim=True).values, "line_x": fine,
                "line_y": [pair_theory(p, rho, biased=some.biased, narrow=bool(i)) for rho in fine],
            }
            for i, label in enumerate(labels)
        ]  # fmt: skip
        ylabel = f"first latent with the other, {'decoder bias' if some.biased else 'no bias'}"
        panels.append({"xlabel": "correlation of two features", "ylabel": ylabel, "series": series})
    return figures.theory_and_experiment(panels)


def draw_strips(
    many: Mapping[str, BaseCase],
    sampled: Mapping[str, Sampled],
    controls: Mapping[str, torch.Tensor],
    reference: float,
) -> Figure:
    """Every live seed's cosine of the first latent with another feature: base case, sampled batches, control."""
    strips = {f"base case, {kind}": kept(case.mixings[:, 0]) for kind, case in many.items()}
    strips |= {f"sampled, {label}": case.values for label, case in sampled.items()}
    strips |= {f"control, {kind}": values for kind, values in controls.items()}
    label = "cosine of the first latent with another feature"
    shown = {name: values.numpy() for name, values in strips.items()}
    return figures.seed_strips(shown, label, reference=reference, label="theory, base case")
