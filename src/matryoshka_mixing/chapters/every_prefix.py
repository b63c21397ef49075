"""Every prefix in every batch: the original recipe on the twenty-feature tree, or on a tree of the reader's.

A reader's tree may lack what the post's has: siblings, features outside a family, pairs that theory covers. A number
that then has no value is NaN here, and comes out as words; `Toy.summary` says what is missing and why.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from scipy.stats import bootstrap
from torch import Tensor

from matryoshka_mixing import claims, figures, metrics, original
from matryoshka_mixing.chapters._shared import refuse_unfit
from matryoshka_mixing.features import FeatureTree, States, twenty_feature_tree, without_hierarchy
from matryoshka_mixing.figures import COLOURS, DIVERGING, SEQUENTIAL
from matryoshka_mixing.parameters import Chapter, given
from matryoshka_mixing.sae import SAE, TRAINED

MAIN = ("standard", "sampled", "all prefixes")
"""The arms that are trained on the page as well."""
STEERED = (
    "sampled",
    "all prefixes",
    "few prefixes",
    "sampled, moments follow",
    "sampled, sorting mended",
    "all prefixes, sorting mended",
)
"""The arms that are held against theory; the first two sort as the original does, the last two are mended."""
COMPARISONS = {
    "steered alike": "",
    "equal penalty": ", equal penalty",
    "true L0": ", true L0",
    "equal L0": ", equal L0",
}
"""The four comparisons of absorption, and how their arms' names end."""
MEDIANS = {
    "sampled_median": ("sampled", "parent_to_child"),
    "all_median": ("all prefixes", "parent_to_child"),
    "moments_median": ("sampled, moments follow", "parent_to_child"),
    "mended_median": ("sampled, sorting mended", "parent_to_child"),
    "equal_cosine": ("sampled, equal L0", "parent_to_child"),
    "control_median": ("all prefixes, independent", "parent_to_child"),
    "standard_child_to_parent": ("standard", "child_to_parent"),
    "lean_sampled": ("sampled", "child_to_parent"),
    "lean_true": ("sampled, true L0", "child_to_parent"),
    "standard_absorption": ("standard", "absorption"),
    "sampled_absorption": ("sampled", "absorption"),
    "standard_absorption_equal": ("standard, equal L0", "absorption"),
    "sampled_absorption_equal": ("sampled, equal L0", "absorption"),
    "control_absorption_median": ("standard, independent", "absorption"),
    "standard_l0": ("standard", "l0"),
    "sampled_l0": ("sampled", "l0"),
    "standard_error": ("standard", "error"),
    "sampled_error": ("sampled", "error"),
    "equal_error": ("sampled, equal L0", "error"),
    "penalty_true": ("sampled, true L0", "l1"),
    "penalty_equal": ("sampled, equal penalty", "l1"),
}
"""The medians over seeds that the page names: of which arm, and of what."""
MISSING = {
    "equal_missing": "sampled, equal L0",
    "equal_missing_standard": "standard, equal L0",
    "missing_equal": "sampled, equal penalty",
}
"""The arms whose mean number of missing features the page names."""
TINY = ("control_median", "standard_error")
"""Numbers that may be tiny, and are then said to be."""
NO_VALUE = "no value"
"""What the page says in place of a number that a tree does not have."""
MOST_HISTORIES = 6
"""More arms in one panel of histories cannot be told apart."""


@dataclass(frozen=True)
class Parameters(Chapter):
    """What a reader may change."""

    tree_path: str = given("tree_path", "")
    n_sweep_seeds: int = given("n_sweep_seeds", 16, meaning="random seeds of the run on this page")
    n_steps: int = given("n_steps", 2000, low=50, meaning="training steps of the run on this page")
    batch_size: int = given("batch_size", 200, meaning="inputs in a batch")
    seed: int = given("seed", 0, high=1e9)

    @classmethod
    def cell(cls) -> str:
        """With the quotes that the formatter asks for."""
        return super().cell().replace("''", '""')

    def needs(self) -> tuple[float, float]:
        """Of all arms on a tree of the reader's, of the main ones on the post's."""
        n, arms = read_tree(self.tree_path).n_features, 20 if self.tree_path else len(MAIN)
        saes = arms * self.n_sweep_seeds
        drawn = 2.5e-8 * self.batch_size * n
        return saes * self.n_steps * (1e-5 + drawn + 1e-8 * n**2) / 3600, (8 * 6 * 2**15 * n + 64 * saes * n**2) / 1e9

    def check_together(self) -> None:
        """Refuse trees without a family, features that never fire, and batches that may begin with nothing."""
        tree, where = read_tree(self.tree_path), f"tree_path = {self.tree_path!r}"
        refuse_unfit(tree, where)
        super().check_together()
        # The inputs are divided by a running mean norm, which a first batch without any feature leaves at 0.
        empty = max(silence(tree), silence(without_hierarchy(tree)))
        if self.n_sweep_seeds * empty**self.batch_size > 1e-6:
            enough = math.ceil(math.log(1e-6 / self.n_sweep_seeds) / math.log(empty)) if empty < 1 else math.inf
            raise ValueError(
                f"batch_size = {self.batch_size}: {empty:.2%} of the inputs hold no feature, so a first batch may hold "
                f"none. It must be at least {enough} on this tree; change it with `-p batch_size VALUE`. ({where})"
            )


def read_tree(path: str) -> FeatureTree:
    """The tree of a file, or that of the post."""
    return FeatureTree.from_json(path) if path else twenty_feature_tree()


def silence(tree: FeatureTree) -> float:
    """The chance that no feature of a tree is active, in [0, 1]."""
    shown = [1 - silence(child) for child in tree.children]
    nothing = 1 - sum(shown) if tree.mutually_exclusive_children else math.prod(1 - some for some in shown)
    own = 1 - tree.loud_probability if tree.is_read_out else 1.0
    return 1 - tree.active_prob + tree.active_prob * max(nothing, 0.0) * own


def _pairs(parents: Sequence[int | None]) -> list[tuple[int, int]]:
    """Every pair of parent and child, in the order of `metrics.Mixing`."""
    return [(p, c) for c, p in enumerate(parents) if p is not None]


@dataclass(frozen=True)
class Toy:
    """The tree and the arms that are trained on it.

    Attributes:
        p: the chapter's parameters.
        tree: the features.
        states: all inputs, or samples where they cannot be listed.
        true_l0: mean number of active features.
        absorbed_l0: the same without parents that have an active child.
        target_l0: toward which most arms are steered.
        arms: the trainings by name; "..., independent" are those on the control.
    """

    p: Parameters
    tree: FeatureTree
    states: States
    true_l0: float
    absorbed_l0: float
    target_l0: float
    arms: Mapping[str, original.Arm]

    @property
    def shown_names(self) -> list[str]:
        """The features' names as figures show them."""
        return [figures.label(name) for name in self.tree.names]

    @property
    def own(self) -> bool:
        """Whether the tree is the reader's."""
        return bool(self.p.tree_path)

    @property
    def name(self) -> str:
        """What the tree is called."""
        return (
            f"the tree of {figures.in_one_line(Path(self.p.tree_path).name)}" if self.own else "the twenty-feature tree"
        )

    @cached_property
    def parents(self) -> list[int | None]:
        """Of every feature."""
        return self.tree.parents()

    @cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """Every pair of parent and child."""
        return _pairs(self.parents)

    @cached_property
    def roots(self) -> list[int]:
        """The first ancestor of every feature, or itself; features of one root are related."""
        found: list[int] = []
        for i, parent in enumerate(self.parents):
            found.append(i if parent is None else found[parent])
        return found

    @cached_property
    def magnitudes(self) -> Float[Tensor, " features"]:
        """Mean activation of every feature when it fires."""
        return torch.tensor([node.magnitude_mean for node in self.tree if node.is_read_out], dtype=torch.float64)

    def predicted(
        self,
        alone: Float[Tensor, "*instances pairs"],
        blamed: Float[Tensor, "*instances pairs"],
        norms: Float[Tensor, "*#instances features"],
    ) -> Float[np.ndarray, "*instances pairs"]:
        """Theory's cosine of each parent with each child; NaN for a pair that theory does not cover.

        It covers families of two levels, with no parent above, whose children exclude each other and whose magnitudes
        do not vary. Arguments as for `original.predicted`.
        """
        found = original.predicted(self.states, self.parents, alone, blamed, norms * self.magnitudes).numpy().copy()
        varies = [node.magnitude_std > 0 for node in self.tree if node.is_read_out]
        for i, (parent, _) in enumerate(self.pairs):
            children = [c for p, c in self.pairs if p == parent]
            deep = self.parents[parent] is not None or any(c in self.parents for c in children)
            if deep or any(varies[f] for f in (parent, *children)):
                found[..., i] = np.nan
        return found

    @cached_property
    def covered(self) -> Bool[np.ndarray, " pairs"]:
        """Which pairs theory covers."""
        one = torch.ones(len(self.pairs), dtype=torch.float64)
        return ~np.isnan(self.predicted(one, one, torch.ones(self.tree.n_features, dtype=torch.float64)))

    def summary(self) -> str:
        """The arms; with a tree of the reader's, what it is and which numbers it cannot have."""
        lines, pairs = [textwrap.fill("arms: " + "; ".join(self.arms), 96)], len(self.pairs)
        if not self.own:
            return lines[0]
        lines.append(f"\nAll of this runs on {self.name}: {self.tree.n_features} features, {pairs} with a parent.")
        if not self.tree.can_list():
            lines.append(f"Its inputs cannot be listed; everything is measured on {len(self.states):,} samples.")
        if len({p for p, _ in self.pairs}) == pairs:
            lines.append("No child has a sibling: that cosine and its criterion have no value.")
        if not self.covered.all():
            lines.append(
                f"Theory covers {self.covered.sum()} of {pairs} pairs: those of families of two levels whose children "
                "exclude each other and whose magnitudes do not vary. The others have no prediction."
            )
        if len(set(self.roots)) == 1:
            lines.append("All features are of one family: there are no unrelated ones to hold against each other.")
        return "\n".join(lines)

    def claim(self, name: str) -> claims.Claim:
        """A claim of the ledger; with a tree of the reader's its title and scope say so."""
        claim = claims.load()[name]
        if not self.own:
            return claim
        scope = (
            f"Run on {self.name} ({self.tree.n_features} features, {len(self.pairs)} with a parent), "
            f"{self.p.n_sweep_seeds} seeds and {self.p.n_steps:,} steps; the ledger's thresholds were set for the "
            "twenty-feature tree and 40,000 steps."
        )
        return replace(claim, title=f"{claim.title}, on {self.name}", scope=scope)


def toy(p: Parameters) -> Toy:
    """Read the tree, and fix the arms by its L0."""
    tree = read_tree(p.tree_path)
    states = original.every_input(tree)
    true_l0, absorbed_l0 = original.natural_l0(states, tree.parents())
    target_l0 = 1.1 * true_l0 if p.tree_path else original.TARGET_L0
    arms = original.arms(tree.n_features, target_l0, true_l0, absorbed_l0)
    arms |= original.independent_arms({name: arms[name] for name in ("standard", "all prefixes")})
    return Toy(p, tree, states, true_l0, absorbed_l0, target_l0, arms)


@dataclass(frozen=True)
class Results:
    """What was measured in every arm, as `original.compute` returns it.

    Attributes:
        toy: on what.
        data: the numbers.
    """

    toy: Toy
    data: Mapping[str, np.ndarray]

    @property
    def seeds(self) -> list[int]:
        """The seeds."""
        return self.data["seeds"].tolist()

    def of(self, arm: str, key: str) -> Float[np.ndarray, "seeds ..."]:
        """What was measured in one arm, seeds first."""
        return self.data[key][list(self.data["names"]).index(arm)]

    def per_seed(self, arm: str, key: str = "parent_to_child") -> Float[np.ndarray, " seeds"]:
        """One number a seed in one arm, the median over pairs if it has any to give; NaN where the tree has none."""
        values = self.of(arm, key)
        if values.ndim == 1:
            return values
        return np.median(values, axis=1) if values.shape[1] else np.full(len(values), np.nan)

    def represented(self, arm: str) -> Bool[np.ndarray, "seeds pairs"]:
        """Which pairs of each seed have a represented parent."""
        return np.abs(self.of(arm, "own"))[:, [p for p, _ in self.toy.pairs]] >= original.MISSING

    def dictionary(self, seed: int) -> Float[Tensor, "features d_in"]:
        """The true directions of one seed."""
        return original.jittered_dictionary(self.toy.tree.n_features, self.toy.tree.n_features, seed)

    @cached_property
    def norms(self) -> Float[Tensor, "seeds features"]:
        """Lengths of the true directions."""
        return torch.stack([self.dictionary(seed) for seed in self.seeds]).norm(dim=-1)

    def theory(self, arm: str) -> Float[np.ndarray, "seeds pairs"]:
        """Theory's cosine for every seed and pair of one arm, from its mean prefix weights; NaN where it has none."""
        alone, blamed = (torch.from_numpy(self.of(arm, key)).double() for key in ("alone", "blamed"))
        return self.toy.predicted(alone, blamed, self.norms)


def run_here(toy: Toy) -> Results:
    """Train on this page: the main arms, or all of them on a tree of the reader's."""
    p = toy.p
    seeds = range(p.seed, p.seed + p.n_sweep_seeds)
    schedule = original.Recipe(steps=p.n_steps, batch_size=p.batch_size, seed=p.seed)
    chosen = toy.arms if toy.own else {name: toy.arms[name] for name in MAIN}
    return Results(toy, original.compute(toy.tree, seeds, schedule, chosen))


def shown(live: Results) -> Results:
    """What figures and verdicts are made from: the stored run, or the live one on a tree of the reader's."""
    return live if live.toy.own else Results(live.toy, original.load())


def kept(values: Float[np.ndarray, "*shape"]) -> Float[np.ndarray, " kept"]:
    """The values that are numbers."""
    return values[~np.isnan(values)]


def median(values: Float[np.ndarray, "*shape"]) -> float:
    """The median of those values that are numbers; NaN if none is."""
    return float(np.median(some)) if (some := kept(values)).size else math.nan


def median_interval(
    values: Float[np.ndarray, " seeds"], other: Float[np.ndarray, " seeds"] | None = None, resamples: int = 4000
) -> tuple[float, float]:
    """95% bootstrap interval over seeds (percentiles) of the median of `values`, less that of `other` if given.

    Seeds are drawn with replacement, the same for both, since a seed means the same start and batches. NaN without
    seeds.
    """
    if not len(values):
        return math.nan, math.nan
    samples = (values,) if other is None else (values, other)

    def difference(*drawn: np.ndarray, axis: int) -> np.ndarray | float:
        medians = [np.median(each, axis=axis) for each in drawn]
        return medians[0] - sum(medians[1:])

    if len(values) == 1:
        return (float(difference(*samples, axis=-1)),) * 2
    found = bootstrap(
        samples, difference, n_resamples=resamples, paired=True, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    return float(found.low), float(found.high)


def sampling_gap(results: Results) -> tuple[float, float]:
    """95% interval of the difference of the median cosines with all prefixes and with sampled ones."""
    return median_interval(results.per_seed("all prefixes"), results.per_seed("sampled"))


def in_numbers(results: Results, live: Results, against: Against) -> dict[str, float | int | str]:
    """Every number that the page names; words where it has no value."""
    toy, p, here = results.toy, results.toy.p, results is live
    which, steps = ("the run on this page", p.n_steps) if here else ("the stored run", original.Recipe.steps)
    gap, equal_gain = sampling_gap(results), gain(results, "equal L0")
    numbers: dict[str, float | int | str] = {name: median(results.per_seed(*what)) for name, what in MEDIANS.items()}
    numbers |= {name: float(results.of(arm, "missing").mean()) for name, arm in MISSING.items()}
    numbers |= {
        "n_steps": f"{p.n_steps:,}",
        "n_live": p.n_sweep_seeds,
        "origin": f"{which}, {len(results.seeds)} seeds and {steps:,} steps",
        "n_shown": len(results.seeds),
        "target_l0": toy.target_l0,
        "true_l0": toy.true_l0,
        "absorbed_l0": toy.absorbed_l0,
        "expected": median(results.theory("sampled")),
        "gap_low": gap[0],
        "gap_high": gap[1],
        "n_unjudged": int(np.isnan(equal_gain).sum()),
        "n_equal_gain": int((equal_gain >= 0.25).sum()),
        "theory_gap": against.distance(STEERED),
        "theory_correlation": against.correlation(STEERED),
        "unrelated": unrelated(results),
        "settled": f"{settled(results):,}",
        "live_sampled": round(median(live.per_seed("sampled")), 2),
        "live_all": round(median(live.per_seed("all prefixes")), 2),
    }
    for key, arms in [("original", STEERED[:2]), ("mended", STEERED[-2:])]:
        numbers[f"gap_{key}"] = against.distance(arms)
        numbers[f"correlation_{key}"] = against.correlation(arms)
        numbers[f"slope_{key}"] = against.slope(arms)
    numbers |= failures(results)
    for name, value in numbers.items():
        if not isinstance(value, float):
            continue
        if math.isnan(value):
            numbers[name] = NO_VALUE
        elif name in TINY:
            numbers[name] = claims.number(value)
    return numbers


def in_words(text: str) -> Figure:
    """In place of a figure that would be empty."""
    figure, axis = figures.grid(1, 1, (7.2, 1.0))
    axis[0].set_axis_off()
    axis[0].text(0.5, 0.5, text, ha="center", va="center", fontsize=10, wrap=True)
    return figure


def draw_mixing(results: Results, live: Results) -> Figure:
    """The parent's cosine with its children in the main arms, their controls, and those of this page.

    Each seed's median over its pairs. What other arms give stands in the table.
    """
    left_out = ("standard, e", "standard, t", "few", "sampled, m", "sampled, s", "all prefixes, s", "sampled, equal p")
    arms = [name for name in results.toy.arms if not name.startswith((*left_out, "all prefixes, equal p"))]
    strips = {f"control: {name}" if name.endswith("independent") else name: results.per_seed(name) for name in arms}
    if live is not results:
        strips |= {f"{name}, live": live.per_seed(name) for name in MAIN}
    expected = median(results.theory("sampled"))
    return figures.seed_strips(
        strips,
        "cosine of a parent's decoder with a child",
        reference=None if math.isnan(expected) else expected,
        label="theory",
    )


def first_seed(results: Results) -> dict[str, tuple[SAE, Int[Tensor, " features"]]]:
    """The main arms' SAEs of the first seed, and the latent that matches each feature."""
    found = {}
    for name in MAIN:
        parts: dict[str, Any] = {key: torch.from_numpy(results.of(name, f"first_{key}")) for key in TRAINED}
        sae = SAE(**parts)
        found[name] = sae, metrics.match(metrics.decoder_cosines(sae, results.dictionary(results.seeds[0])))
    return found


def _breaks(toy: Toy) -> list[int]:
    """Features before which a line separates families, and these from features by themselves."""
    tops = [i for i, parent in enumerate(toy.parents) if parent is None][1:]
    return [i for i in tops if toy.parents[i - 1] is not None or i in toy.parents]


def draw_cosines(results: Results) -> Figure:
    """Decoders and encoders of the first seed against the true features."""
    names, dictionary = results.toy.shown_names, results.dictionary(results.seeds[0])
    panels = {
        f"{name}: {part}": cosines(sae, dictionary)[latents].numpy()
        for part, cosines in [("decoder", metrics.decoder_cosines), ("encoder", metrics.encoder_cosines)]
        for name, (sae, latents) in first_seed(results).items()
    }
    return _images(panels, names, names, breaks=_breaks(results.toy))


def draw_activations(results: Results, per_kind: int = 40) -> Figure:
    """True features and matched latents of the first seed on a reference batch.

    Args:
        results: of all arms.
        per_kind: how many inputs that hold a child, and how many others that hold something, at most.
    """
    toy, dictionary = results.toy, results.dictionary(results.seeds[0])
    acts, children = toy.tree.sample(4000, 0), [c for _, c in toy.pairs]
    holds_child = (acts[:, children] > 0).any(-1)
    batch = torch.cat([acts[holds_child][:per_kind], acts[~holds_child & (acts > 0).any(-1)][:per_kind]])
    if not len(batch):
        return in_words("Of 4,000 sampled inputs none holds a feature: there are no activations to draw.")
    order = np.lexsort(-batch.T.numpy()[::-1])
    order = order[np.argsort(~(batch[order][:, children] > 0).any(-1).numpy(), kind="stable")]
    batch = batch[order]
    panels = {"true features": batch.T.numpy()}
    for name, (sae, latents) in first_seed(results).items():
        panels[name] = (sae.encode(batch @ dictionary) * sae.W_dec.norm(dim=-1))[:, latents].T.numpy()
    return _images(panels, toy.shown_names, quantity="activation", per_row=2, breaks=_breaks(toy))


def _images(
    panels: Mapping[str, Float[np.ndarray, "rows _"]],
    rows: Sequence[str],
    columns: Sequence[str] | None = None,
    *,
    quantity: str = "cosine",
    per_row: int = 3,
    breaks: Sequence[int] = (),
) -> Figure:
    """Large matrices as colours alone, side by side.

    Args:
        panels: title of each panel and its values.
        rows, columns: their names; columns without names are inputs.
        quantity: "cosine" (diverging colours, -1 to 1) or anything else (sequential, from 0).
        per_row: panels in a row.
        breaks: rows, and named columns, before which a line is drawn.
    """
    deep, across = -(-len(panels) // per_row), min(per_row, len(panels))
    size = (2.6 * across + 1.5, 3.3 * deep + (0.9 if columns else 0.3))
    figure, axes = figures.grid(len(panels), per_row, size, figsize=size, sharex=True, sharey=True)
    highest = 1.0 if quantity == "cosine" else max(float(np.max(matrix)) for matrix in panels.values())
    low, colours = (-1.0, DIVERGING) if quantity == "cosine" else (0.0, SEQUENTIAL)
    for axis, (title, matrix) in zip(axes, panels.items(), strict=True):
        drawn = axis.imshow(matrix, cmap=colours, vmin=low, vmax=highest, aspect="auto", interpolation="nearest")
        axis.set_title(title, fontsize=10)
        for place in breaks:
            axis.axhline(place - 0.5, color="0.45", lw=0.7)
            if columns:
                axis.axvline(place - 0.5, color="0.45", lw=0.7)
        axis.set_yticks(range(len(rows)), rows, fontsize=9)
        axis.set_xticks(range(len(columns)) if columns else [], columns or [], fontsize=9, rotation=90)
        axis.tick_params(length=0)
    if not columns:
        figure.supxlabel("inputs", fontsize=10)
    ticks = [-1, 0, 1] if quantity == "cosine" else None
    figure.colorbar(drawn, ax=figure.axes, label=quantity, shrink=0.9, aspect=18, ticks=ticks, pad=0.015)
    return figure


def table(results: Results) -> str:
    """The numbers of every arm, as an HTML table."""

    def cell(values: np.ndarray, digits: int = 2) -> str:
        """A median over seeds and its interval."""
        if not len(values := kept(values)):
            return NO_VALUE
        low, high = (round(end, digits) + 0.0 for end in median_interval(values))
        middle = round(float(np.median(values)), digits) + 0.0  # no "-0.00"
        return f"{middle:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"

    rows = {}
    for name in results.toy.arms:
        missing = results.of(name, "missing")
        keys = [("parent to child", "parent_to_child"), ("child to sibling", "child_to_sibling")]
        keys += [("child to parent", "child_to_parent"), ("absorption", "absorption"), ("L0", "l0")]
        rows[name] = {title: cell(results.per_seed(name, key)) for title, key in keys} | {
            "missing": f"{missing.mean():.1f} ({np.mean(missing > 0):.0%} of seeds)",
            "error": f"{np.median(results.of(name, 'error')):.1%}",
            "penalty": f"{np.median(results.of(name, 'l1')):.1e}",
        }
    return f'<div style="overflow-x: auto">{pd.DataFrame(rows).T.to_html()}</div>'


def gain(results: Results, comparison: str = "steered alike", arm: str = "sampled") -> Float[np.ndarray, " seeds"]:
    """How much more of the parents other latents write in the standard SAE than in an arm, seed by seed."""
    end = COMPARISONS[comparison]
    return results.of(f"standard{end}", "absorption") - results.of(arm + end, "absorption")


def draw_absorption(results: Results) -> Figure:
    """The absorption of the main arms in every comparison."""
    strips = {
        f"{name}, {label}": results.of(name + end, "absorption") for label, end in COMPARISONS.items() for name in MAIN
    }
    if not any(kept(values).size for values in strips.values()):
        return in_words("No measured input holds a parent and its child: there is no absorption to draw.")
    return figures.seed_strips(strips, "absorption")


@dataclass(frozen=True)
class Against:
    """Measured and predicted cosines of all pairs that theory covers and whose parent is represented, by arm.

    Attributes:
        toy: on what.
        cosine: the parent's cosine with the child.
        predicted: theory's.
        share: weight of the prefixes that hold the parent and miss the child, as a share of all that hold it.
    """

    toy: Toy
    cosine: Mapping[str, Float[np.ndarray, " _"]]
    predicted: Mapping[str, Float[np.ndarray, " _"]]
    share: Mapping[str, Float[np.ndarray, " _"]]

    def both(self, arms: Sequence[str]) -> Float[np.ndarray, "2 points"]:
        """Predicted and measured cosines of some arms."""
        return np.stack([np.concatenate([table[arm] for arm in arms]) for table in (self.predicted, self.cosine)])

    def distance(self, arms: Sequence[str]) -> float:
        """Median distance from theory; NaN without a pair."""
        return median(np.abs(np.diff(self.both(arms), axis=0)))

    def correlation(self, arms: Sequence[str]) -> float:
        """Correlation of measured and predicted cosines; NaN where either does not vary."""
        found = self.both(arms)
        return float(np.corrcoef(*found[::-1])[0, 1]) if found.size and np.ptp(found, axis=1).all() else math.nan

    def slope(self, arms: Sequence[str]) -> float:
        """Slope of measured on predicted cosines; NaN where the predicted do not vary."""
        found = self.both(arms)
        return float(np.polyfit(found[0], found[1], 1)[0]) if found.size and np.ptp(found[0]) else math.nan


def against_theory(results: Results, arms: Sequence[str] = STEERED) -> Against:
    """Hold every pair of the steered arms against theory."""
    cosine, predicted, share = {}, {}, {}
    for arm in arms:
        theirs = results.theory(arm)
        held = results.represented(arm) & ~np.isnan(theirs)
        cosine[arm], predicted[arm] = results.of(arm, "parent_to_child")[held], theirs[held]
        share[arm] = (results.of(arm, "blamed") / results.of(arm, "alone").clip(1e-9))[held]
    return Against(results.toy, cosine, predicted, share)


def draw_theory(against: Against) -> Figure:
    """The cosines against the blamed share, and against theory for each pair.

    The line on the left is for children that share the weight evenly, in the first family that theory covers.
    """
    toy = against.toy
    if not any(len(values) for values in against.cosine.values()):
        why = ", and no SAE represents their parents" if toy.covered.any() else ""
        return in_words(
            f"Theory covers {toy.covered.sum()} of the {len(toy.pairs)} pairs of {figures.label(toy.name, 60)}{why}: "
            "there is nothing to hold against it."
        )
    grid = torch.linspace(0, 1, 101, dtype=torch.float64)[:, None].expand(-1, len(toy.pairs))
    unit = torch.ones(toy.tree.n_features, dtype=torch.float64)
    first = int(np.argmax(toy.covered))
    even = toy.predicted(torch.ones_like(grid), grid, unit)[:, first]
    every = np.concatenate([*against.predicted.values(), *against.cosine.values(), [0.1]])
    ends = (every.min(), every.max())
    label = {"ylabel": "cosine of the parent with a child"}
    panels: list[dict] = [
        {
            "xlabel": "blamed weight / alone weight", "curve": (grid[:, 0], even),
            "groups": {arm: (against.share[arm], against.cosine[arm]) for arm in against.cosine},
        } | label,
        {
            "xlabel": "theory for each pair", "curve": (ends, ends),
            "groups": {arm: (against.predicted[arm], against.cosine[arm]) for arm in against.cosine},
        } | label,
    ]  # fmt: skip
    line = f"theory (left: {toy.shown_names[toy.pairs[first][0]]})" if toy.own else "theory"
    return figures.clouds(panels, line)


def failures(results: Results) -> dict[str, float | int]:
    """Where theory fails: how many SAEs have an L0 above the tree's, and the median distance from theory by kind."""
    arms = [name for name in results.toy.arms if not name.startswith("standard") and "independent" not in name]
    arms = [name for name in arms if "equal L0" not in name]
    away = [
        np.where(results.represented(arm), np.abs(results.of(arm, "parent_to_child") - results.theory(arm)), np.nan)
        for arm in arms
    ]
    far, strays = np.stack(away), np.stack([results.of(arm, "l0") > results.toy.true_l0 + 0.02 for arm in arms])
    equal = [i for i, arm in enumerate(arms) if arm.endswith("equal penalty")]
    return {
        "gap_true": median(far[arms.index("sampled, true L0")]),
        "gap_equal": median(far[arms.index("sampled, equal penalty")]),
        "gap_strict": median(far[~strays]),
        "gap_stray": median(far[strays]),
        "n_strict": int((~strays).sum()),
        "n_stray": int(strays.sum()),
        "n_stray_equal": int(strays[equal].sum()),
    }


def unrelated(results: Results) -> float:
    """Largest cosine in size of a parent with a feature outside its family; first seed of the Matryoshka main arms.

    NaN where all features are of one family.
    """
    heads, roots = sorted({p for p, _ in results.toy.pairs}), np.array(results.toy.roots)
    outside = roots[heads][:, None] != roots
    first, dictionary = first_seed(results), results.dictionary(results.seeds[0])
    parts = []
    for name in MAIN[1:]:
        sae, latents = first[name]
        parts.append(metrics.decoder_cosines(sae, dictionary)[latents][heads].numpy()[outside])
    return float(np.abs(np.concatenate(parts)).max(initial=0.0)) if outside.any() else math.nan


def settled(results: Results, within: float = 0.02) -> int:
    """The step from which on the sampled arm's median cosine stays near its last value."""
    middle = np.median(results.of("sampled", "child_path"), 0)
    far = np.flatnonzero(np.abs(middle - middle[-1]) > within)
    return int(results.data["steps"][far[-1] + 1 if len(far) else 0])


def draw_histories(results: Results, arms: Sequence[str] = MAIN) -> Figure:
    """Cosine, L0 and penalty in training: medians over seeds as lines, the full range as bands.

    Raises:
        ValueError: for more than `MOST_HISTORIES` arms.
    """
    if len(arms) > MOST_HISTORIES:
        raise ValueError(f"{len(arms)} arms were given; a panel holds at most {MOST_HISTORIES}. Choose some of them.")
    steps = results.data["steps"][1:]
    figure, axes = figures.grid(3, 3, (3.1, 3.4))
    for axis, (ylabel, key) in zip(
        axes, {"cosine": "child_path", "L0": "l0_path", "penalty": "l1_path"}.items(), strict=True
    ):
        for i, arm in enumerate(arms):
            values, look = results.of(arm, key)[:, 1:], {"color": COLOURS[i], "ls": ("-", "--", ":", "-.")[i % 4]}
            axis.fill_between(steps, values.min(0), values.max(0), color=COLOURS[i], alpha=0.2, lw=0)
            axis.plot(steps, np.median(values, 0), lw=1.8, label=arm, **look)
        axis.set(xlabel="step", ylabel=ylabel, yscale="log" if ylabel == "penalty" else "linear")
    last = np.median([results.of(arm, "l1_path")[:, -1] for arm in arms], 1)
    figures.end_labels(axes[-1], [(arm, float(steps[-1]), float(last[i]), COLOURS[i]) for i, arm in enumerate(arms)])
    return figure


def counted(measured: Mapping[str, float | np.ndarray]) -> tuple[dict[str, float | np.ndarray], dict[str, int]]:
    """What `claims.judge` asks for: seeds without a value are left out, and then so many were started."""
    by_seed = {name: value for name, value in measured.items() if isinstance(value, np.ndarray)}
    some = {name: kept(value) for name, value in by_seed.items()}
    started = {name: len(by_seed[name]) for name, value in some.items() if 0 < len(value) < len(by_seed[name])}
    return {**measured, **some}, started


def sampling_measured(results: Results, against: Against) -> tuple[dict, dict]:
    """The metrics of the claim that sampling is not the cause, for `claims.judge`."""
    medians = {name: median(results.per_seed(name)) for name in ("sampled", "sampled, sorting mended")}
    return counted(
        {
            "child_cosine_all_prefixes": results.per_seed("all prefixes"),
            "sampling_gap": max(abs(end) for end in sampling_gap(results)),
            "child_cosine_few_prefixes": results.per_seed("few prefixes"),
            "sibling_cosine_all_prefixes": results.per_seed("all prefixes", "child_to_sibling"),
            "sorting_gap": abs(medians["sampled, sorting mended"] - medians["sampled"]),
            "theory_gap": against.distance(["sampled", "all prefixes"]),
            "child_cosine_standard": results.per_seed("standard"),
            "control_mixing": np.abs(results.per_seed("all prefixes, independent")),
        }
    )


def absorption_measured(results: Results) -> tuple[dict, dict]:
    """The metrics of the claim that Matryoshka SAEs absorb less, for `claims.judge`."""
    l0 = [median(results.of(f"{name}, equal L0", "l0")) for name in ("standard", "sampled")]
    return counted(
        {
            "absorption_gain": gain(results),
            "absorption_gain_at_equal_penalty": gain(results, "equal penalty"),
            "absorption_gain_at_equal_l0": gain(results, "equal L0"),
            "absorption_gain_all_prefixes": gain(results, arm="all prefixes"),
            "absorption_gain_at_true_l0": gain(results, "true L0"),
            "missing_features": results.of("sampled", "missing") - results.of("standard", "missing"),
            "l0_gap": abs(l0[0] - l0[1]),
            "control_absorption": results.of("standard, independent", "absorption"),
        }
    )
