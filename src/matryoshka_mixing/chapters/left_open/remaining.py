"""Shorter questions: "exactly" the same mixing, the floor of the loss, what absorption is left, one of two, rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from scipy.stats import binom, binomtest, fisher_exact

from matryoshka_mixing import figures, metrics, original, theory
from matryoshka_mixing.chapters.left_open import parent_first
from matryoshka_mixing.chapters.left_open.data import Parameters, told
from matryoshka_mixing.features import FeatureTree, family, orthonormal_dictionaries
from matryoshka_mixing.figures import COLOURS
from matryoshka_mixing.sae import SAEConfig, random_start, start_near
from matryoshka_mixing.training import Setting, train

CHILDREN = 5
"""Children of the family whose loss is followed over the number of latents."""
RARE = 0.02
"""Each child's probability given the parent, where children are rare."""


def bare(p: Parameters, widths: Sequence[int], **changes) -> SAEConfig:
    """An SAE without biases and, unless changes say so, without a penalty."""
    return replace(SAEConfig(p.d_model, tuple(widths), encoder_bias=False, decoder_bias=False), **changes)


# "Exactly how we saw it"


@dataclass(frozen=True)
class Limits:
    """The first latent's cosine with a child, over the weight of the inner prefix.

    Attributes:
        weights: of the inner prefix; the outer one has 1.
        theory: the closed form there.
        trained: from near the truth, shape (weights, seeds).
        spare: with a fourth latent at weight 1, of which the start is the parent's direction as well.
        narrow: the closed form of one latent alone.
    """

    weights: Float[np.ndarray, " weights"]
    theory: Float[np.ndarray, " weights"]
    trained: Float[np.ndarray, "weights seeds"]
    spare: Float[np.ndarray, " seeds"]
    narrow: float

    @property
    def at_one(self) -> float:
        """The closed form at the weight nearest to 1."""
        return float(self.theory[np.abs(np.log(self.weights)).argmin()])

    @property
    def own(self) -> float:
        """The first latent's cosine with the parent there: with two children alike it is a matter of length."""
        return (1 - 2 * self.at_one**2) ** 0.5


def limits(p: Parameters) -> Limits:
    """Train the three-feature hierarchy at every weight, and with a spare latent."""
    tree, q, seeds = family(p.parent_probability, p.child_probability), p.child_probability, p.sweep_seeds
    weights = np.geomspace(0.01, 100, 2 * p.n_grid - 1)
    dictionary = orthonormal_dictionaries(3, p.d_model, seeds)
    settings = [Setting(bare(p, (1, 3), weights=(float(w), 1.0)), tree.states(), dictionary) for w in weights]
    run = train(settings, start_near(dictionary, seeds, p.start_noise), p.exact)
    found = metrics.decoder_cosines(run.sae, dictionary)[:, :, 0, 1:].mean(-1)
    four = start_near(dictionary[:, [0, 1, 2, 0]], seeds, p.start_noise)
    spare = train(Setting(bare(p, (1, 4)), tree.states(), dictionary), four, p.exact)
    return Limits(
        weights,
        np.array([theory.parent_cosines(theory.matryoshka_ratio(q, 2, w), 2)[1] for w in weights]),
        found.numpy(),
        metrics.decoder_cosines(spare.sae[0], dictionary)[:, 0, 1:].mean(-1).numpy(),
        float(theory.parent_cosines(theory.narrow_ratio(q, 2), 2)[1]),
    )


def draw_limits(found: Limits) -> Figure:
    """Theory and trained SAEs over the weight, below the narrow SAE's line; the spare latent beside weight 1."""
    name = "Matryoshka, widths 1 and 3"
    series = {"label": name, "x": found.weights, "points": found.trained}
    series |= {"line_x": found.weights, "line_y": found.theory}
    spare = {"label": "with a spare latent, widths 1 and 4", "x": np.ones(1), "points": found.spare[None]}
    label = "first latent's cosine with a child"
    figure = figures.theory_and_experiment(
        [
            {
                "xlabel": "weight of the inner prefix",
                "ylabel": label,
                "log": True,
                "series": [series, spare],
                "named": False,
            }
        ]
    )
    axis = figure.axes[0]
    axis.axhline(found.narrow, color="black", lw=1.4, ls="--")
    axis.annotate("narrow SAE", (found.weights[0], found.narrow), xytext=(2, 4), textcoords="offset points", fontsize=9)
    axis.set_ylim(-0.01, found.narrow * 1.2)
    figures.end_labels(axis, [(name, found.weights[-1], found.theory[-1], COLOURS[0])])
    axis.annotate(
        "with a spare latent", (1, float(np.median(found.spare))), (-7, -9), textcoords="offset points", fontsize=9,
        color=COLOURS[1], ha="right", va="center",
    )  # fmt: skip
    return figure


# "An SAE with fewer latents always has to accept some error"


@dataclass(frozen=True)
class Floor:
    """What SAEs with one prefix and no penalty leave unexplained, over the number of latents, as shares of E||x||^2.

    Attributes:
        latents: their numbers.
        trained: every random seed's loss, shape (latents, seeds).
        bound: that of the best subspace of so many dimensions, which no SAE can beat.
        clean: that of the parent and so many of its children as are left, each by itself.
    """

    latents: list[int]
    trained: Float[np.ndarray, "latents seeds"]
    bound: Float[np.ndarray, " latents"]
    clean: Float[np.ndarray, " latents"]

    @property
    def least(self) -> Float[np.ndarray, " latents"]:
        """The lowest loss of any seed."""
        return self.trained.min(1)


def floor(p: Parameters) -> Floor:
    """Train standard SAEs of one to as many latents as features, on one parent with five children."""
    q = 2 * p.child_probability / CHILDREN
    states = family(p.parent_probability, q, CHILDREN).states()
    dictionary, latents = orthonormal_dictionaries(CHILDREN + 1, p.d_model, p.third), list(range(1, CHILDREN + 2))
    trained = []
    for k in latents:
        config = bare(p, (k,))
        run = train(Setting(config, states, dictionary), random_start(config, p.third), p.exact)
        trained.append(run.loss[0].numpy() / states.power)
    values = torch.linalg.eigvalsh(theory.second_moment(states)).flip(0).clamp_min(0)
    bound = 1 - values.cumsum(0).numpy() / states.power
    left = [p.parent_probability * q * (CHILDREN + 1 - k) / states.power for k in latents]
    return Floor(latents, np.stack(trained), bound.clip(0), np.array(left))


def draw_floor(found: Floor) -> Figure:
    """The three curves over the number of latents."""
    figure, (axis,) = figures.grid(1, 1, (6.4, 3.6))
    axis.plot(found.latents, found.clean, "--", color=COLOURS[1], label="clean features")
    axis.plot(found.latents, found.bound, color="black", label="no SAE can be lower")
    axis.plot(found.latents, found.least, "o", color=COLOURS[0], ms=7, label="best of the random seeds")
    axis.set(xlabel="latents", ylabel="squared error / E||x||²", ylim=(-0.01, None))
    axis.set_xticks(found.latents)
    place: dict[str, Any] = {"textcoords": "offset points", "fontsize": 9}
    axis.annotate("clean features", (found.latents[1], found.clean[1]), (10, 4), color=COLOURS[1], **place)
    below = place | {"ha": "right", "va": "top"}
    axis.annotate("line: no SAE can be lower", (found.latents[2], found.bound[2]), (-10, -6), **below)
    axis.annotate("best of the random seeds", (found.latents[2], found.bound[2]), (-10, -19), color=COLOURS[0], **below)
    return figure


# "We should not expect it to completely fix absorption"


@dataclass(frozen=True)
class Left:
    """What becomes of the parent beside its children, over all seeds, those with dead latents included.

    Attributes:
        absorbed: mean absorption from random starts, of the seeds in which some latent represents the parent; NaN if
            none does.
        missing: share of the seeds in which none does.
        near_absorbed, near_missing: the same from near the truth.
    """

    absorbed: float
    missing: float
    near_absorbed: float
    near_missing: float

    @property
    def near_lost(self) -> float:
        """How much of the parent is absorbed or missing from near the truth."""
        return self.near_missing + (1 - self.near_missing) * (0.0 if self.near_missing == 1 else self.near_absorbed)


def settings_left(p: Parameters) -> dict[str, tuple[SAEConfig, FeatureTree]]:
    """The SAEs and hierarchies of the table, by name."""
    q = p.child_probability
    tree, rare = family(p.parent_probability, q), family(p.parent_probability, RARE)
    true_l0 = float(tree.firing_probabilities().sum())
    pairs = parent_first.cases(p)
    return {
        "the three-feature hierarchy": (bare(p, (1, 3)), tree),
        "with the penalty": (bare(p, (1, 3), l1=p.l1), tree),
        "loud child": (bare(p, (1, 2)), pairs["loud"]),
        "rare children": (bare(p, (1, 3)), rare),
        "rare children, penalty": (bare(p, (1, 3), l1=p.l1), rare),
        "one latent too few": (bare(p, (1, 2)), tree),
        "BatchTopK at 0.6 of the true L0": (bare(p, (1, 3), activation="batchtopk", k=0.6 * true_l0), tree),
        "TopK, K = 1": (bare(p, (1, 3), activation="topk", k=1), tree),
        "the standard SAE, penalty": (bare(p, (3,), l1=p.l1), tree),
    }


def absorption_left(p: Parameters) -> dict[str, Left]:
    """Train every row of the table from both kinds of start."""
    found, seeds = {}, p.third
    for name, (config, tree) in settings_left(p).items():
        states, parents = tree.states(), tree.parents()
        dictionary = orthonormal_dictionaries(tree.n_features, p.d_model, seeds)
        setting = Setting(config, states, dictionary)
        absorption: dict[str, torch.Tensor] = {}
        for kind, start in (
            ("random", random_start(config, seeds)),
            ("near", start_near(dictionary[:, : config.d_sae], seeds, p.start_noise)),
        ):
            reading = metrics.read(train(setting, start, p.exact).sae[0], states, dictionary, parents)
            absorption[kind] = reading.absorption
        each = [(float(one.nanmean()), float(one.isnan().double().mean())) for one in absorption.values()]
        found[name] = Left(*each[0], *each[1])
    return found


def table_left(found: Mapping[str, Left]) -> str:
    """Markdown: one row a setting."""
    lines = ["| Matryoshka SAE | absorbed, random starts | missing | absorbed, near the truth | missing |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for name, left in found.items():
        random, near = (
            f"{told(left.absorbed)} | {left.missing:.0%}",
            f"{told(left.near_absorbed)} | {left.near_missing:.0%}",
        )
        lines.append(f"| {name} | {random} | {near} |")
    return "\n".join(lines)


# "For the first run the Matryoshka didn't represent one of the features"


@dataclass(frozen=True)
class Misses:
    """How many seeds of the stored run miss a feature, and how likely one of two is then.

    Attributes:
        missed, total: seeds that miss any feature, and all seeds.
    """

    missed: int
    total: int

    @property
    def interval(self) -> tuple[float, float]:
        """95% Wilson interval of the share."""
        found = binomtest(self.missed, self.total).proportion_ci(method="wilson")
        return max(0.0, float(found.low)), float(found.high)

    @property
    def at_least_one_of_two(self) -> tuple[float, float]:
        """Chance that at least one of two runs misses a feature, at the share's and at its interval's upper end."""
        most_likely, most = (float(binom.sf(0, 2, share)) for share in (self.missed / self.total, self.interval[1]))
        return most_likely, most

    @property
    def compared(self) -> float:
        """Fisher's exact test, one-sided: how often one of two and these would differ so by chance."""
        return float(fisher_exact([[1, 1], [self.missed, self.total - self.missed]], alternative="greater").pvalue)


def misses() -> dict[str, Misses]:
    """Of the stored run's arms with every prefix in every batch, by name: the post's recipe, and two that differ."""
    stored = original.load()
    found = dict(zip(stored["names"].tolist(), stored["missing"], strict=True))
    names = ("all prefixes", "all prefixes, sorting mended", "all prefixes, true L0")
    return {name: Misses(int((found[name] > 0).sum()), len(found[name])) for name in names}


# "Hard to say anything concrete about the firing probabilities of features in real LLMs"

GEMMA_SCOPE = {"latents": 16384, "least": 22, "most": 445}
"""The published SAEs of width 16k on the residual stream after layer 12 of Gemma 2 2B: latents, and mean L0 from the
sparsest to the densest (Lieberum et al. 2024, as their folders are named)."""


def mean_rates() -> tuple[float, float]:
    """The mean firing rate of a latent in the sparsest and in the densest of these SAEs: mean L0 over latents."""
    return GEMMA_SCOPE["least"] / GEMMA_SCOPE["latents"], GEMMA_SCOPE["most"] / GEMMA_SCOPE["latents"]
