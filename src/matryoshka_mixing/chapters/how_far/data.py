"""What is varied, before anything is trained: the parameters, unusual features, and every factor with its settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matryoshka_mixing.features import (
    FeatureTree,
    States,
    equal_cosine_dictionary,
    family,
    orthonormal_dictionaries,
    orthonormal_dictionary,
    overlapping,
)
from matryoshka_mixing.parameters import Chapter, given
from matryoshka_mixing.sae import SAEConfig
from matryoshka_mixing.training import Setting, TrainConfig

BARE: dict[str, Any] = {"encoder_bias": False, "decoder_bias": False}
OF_THE_MODEL = (
    "L1 penalty", "log penalty", "number of latents", "biases", "tied weights", "K of BatchTopK / true L0"
)  # fmt: skip
"""The factors of the model, but for the inner prefix's weight and width."""


@dataclass(frozen=True)
class Parameters(Chapter):
    """The parameters of this chapter."""

    parent_probability: float = given("parent_probability", 0.3)
    child_probability: float = given(
        # Two exclusive children; and short enough for one line of the notebook's parameter cell.
        "child_probability", 0.4, high=0.5, meaning="probability of a child given the parent"
    )  # fmt: skip
    inner_weight: float = given("inner_weight", 1.0)
    d_model: int = given("d_model", 20, low=11)
    n_seeds: int = given("n_seeds", 192)
    n_sweep_seeds: int = given("n_sweep_seeds", 16)
    seed: int = given("seed", 7000)
    start_noise: float = given("start_noise", 0.5)
    n_steps: int = given("n_steps", 2000)
    batch_size: int = given("batch_size", 200)
    n_grid: int = given("n_grid", 9)

    @property
    def seeds(self) -> range:
        """The seeds of the base case and of the control."""
        return self.seeds_from(self.n_seeds)

    @property
    def near_seeds(self) -> range:
        """The seeds of the starts near the truth, at each amount of a factor."""
        return self.seeds_from(self.n_sweep_seeds)

    @property
    def random_seeds(self) -> range:
        """The seeds of the random starts, at each amount that has them."""
        return self.seeds_from(3 * self.n_sweep_seeds)

    def seeds_from(self, n: int) -> range:
        """The first `n` seeds."""
        return range(self.seed, self.seed + n)

    @property
    def exact(self) -> TrainConfig:
        """Training on the exact expected loss."""
        return TrainConfig(self.n_steps)

    @property
    def likely(self) -> float:
        """How often each of two features without hierarchy fires."""
        return min(self.parent_probability, 0.5)


def correlated_pair(probability: float, correlation: float) -> States:
    """Two equally likely features without hierarchy, whose firing has the given correlation.

    P(both) = p^2 + correlation p (1 - p), so the lowest possible correlation is -p / (1 - p), or -(1 - p) / p where
    p is above a half. States of probability 0 (up to rounding) are left out.

    Raises:
        ValueError: if no joint distribution has this correlation.
    """
    p = probability
    if not 0 < p < 1 or not (lowest := -min(p / (1 - p), (1 - p) / p)) - 1e-12 <= correlation <= 1:
        allowed = f"from {lowest:g} to 1" if 0 < p < 1 else "in [-1, 1]"
        raise ValueError(
            f"correlation is {correlation} for probability {p}; the probability must lie between 0 and 1, and the "
            f"correlation {allowed}."
        )
    both = p**2 + correlation * p * (1 - p)
    acts = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], dtype=torch.float64)
    probs = torch.tensor([1 - 2 * p + both, p - both, p - both, both], dtype=torch.float64)
    kept = probs > 1e-12
    return States(acts[kept], probs[kept])


def spread_magnitudes(states: States, spread: float) -> States:
    """Each active feature's magnitude takes three values, independently: mean, mean +- sqrt(3) standard deviations.

    With probabilities 2/3, 1/6 and 1/6 these are the Gauss-Hermite points: all moments up to the fifth are those of a
    normal distribution, so second moments are exact. A state with k active features becomes 3^k states.

    Args:
        states: the states with each feature at its mean.
        spread: standard deviation relative to the mean, from 0 to below 1 / sqrt(3), where a magnitude would reach 0.

    Raises:
        ValueError: if `spread` is outside its range.
    """
    if not 0 <= spread < 3**-0.5:
        raise ValueError(
            f"spread is {spread}; it must be at least 0 and below {3**-0.5:.4f}, or a magnitude reaches 0."
        )
    if spread == 0:
        return states
    factors = torch.tensor([1 - 3**0.5 * spread, 1, 1 + 3**0.5 * spread], dtype=torch.float64)
    shares = torch.tensor([1 / 6, 2 / 3, 1 / 6], dtype=torch.float64)
    rows, probs = [], []
    for acts, prob in zip(states.acts, states.probs, strict=True):
        table, chances = acts[None], prob[None]
        for feature in torch.nonzero(acts).flatten().tolist():
            table = table.repeat_interleave(3, 0)
            table[:, feature] *= factors.repeat(len(chances))
            chances = (chances[:, None] * shares).flatten()
        rows.append(table)
        probs.append(chances)
    return States(torch.cat(rows), torch.cat(probs))


def crowded_dictionary(n_features: int, rank: int, d_model: int, seed: int) -> Float[Tensor, "features d_model"]:
    """Random unit directions in a random subspace of dimension `rank`, one row a feature, float64.

    With `rank` below `n_features` there are more features than dimensions. A random pair has a cosine of mean 0 and
    standard deviation 1 / sqrt(rank).

    Raises:
        ValueError: if `rank` is not from 1 to `d_model`.
    """
    frame = orthonormal_dictionary(rank, d_model, seed)
    each = torch.cat([orthonormal_dictionary(1, rank, n_features * seed + i) for i in range(n_features)])
    # Summed one by one: a matrix product is not the same to the last bit on every CPU.
    return sum(part[:, None] * direction for part, direction in zip(each.T, frame, strict=True))


def first_seeds(setting: Setting, n: int) -> Setting:
    """The setting with the directions of its first `n` seeds alone."""
    return replace(setting, dictionary=setting.directions[:n])


@dataclass(frozen=True)
class Factor:
    """One thing that is varied alone.

    Attributes:
        amounts: how much of it, in order; numbers, or names.
        settings: one for each amount, which train together, with the directions of the random seeds.
        parents: of the features, as from `FeatureTree.parents`.
        pairs: which of the pairs of a kind count in the mean.
        ranked: whether it has a row in the ranked figure; else it is one more line in a panel.
        covered: whether `pattern_optimum` is the theory of it.
    """

    amounts: list
    settings: list[Setting]
    parents: tuple[int | None, ...] = (None, 0, 0)
    pairs: slice | list[int] = field(default_factory=lambda: slice(None))
    ranked: bool = True
    covered: bool = True


def vary(base: Setting, amounts: Sequence | np.ndarray, make: Callable[..., dict], **more: Any) -> Factor:
    """A factor whose setting at each amount is the base case with `make(amount)` changed."""
    plain = np.asarray(amounts).tolist()
    return Factor(plain, [replace(base, **make(amount)) for amount in plain], **more)


def base_case(p: Parameters) -> Setting:
    """One parent, two exclusive children, orthonormal directions, widths 1 and 3, no penalty and no biases.

    It has directions for all seeds that any experiment takes.
    """
    dictionary = orthonormal_dictionaries(3, p.d_model, p.seeds_from(max(p.n_seeds, len(p.random_seeds))))
    states = family(p.parent_probability, p.child_probability).states()
    return Setting(SAEConfig(p.d_model, (1, 3), (p.inner_weight, 1.0), **BARE), states, dictionary)


def data_factors(p: Parameters, base: Setting) -> dict[str, Factor]:
    """Rates, overlap, unequal children, spread magnitudes and leaning features, by name."""
    base, rate, q, n = first_seeds(base, len(p.random_seeds)), p.parent_probability, p.child_probability, p.n_grid
    overlaps = np.linspace(0, 0.9 * q, n)
    between = replace(base.sae, widths=(1, 2, 3), weights=(p.inner_weight, 1.0, 1.0))

    def split(ratio: float) -> States:
        """Two unequal children with the same total."""
        return family(rate, (2 * q * ratio / (1 + ratio), 2 * q / (1 + ratio))).states()

    def leaning(cosine: float) -> Tensor:
        """Three features with the same cosine between every two, for every seed in a frame of its own."""
        return torch.stack([equal_cosine_dictionary(3, cosine, p.d_model, seed) for seed in p.random_seeds])

    return {
        "child's probability": vary(
            base, np.geomspace(min(0.05, q / 2), 0.49, n), lambda c: {"data": family(rate, c).states()}
        ),
        "parent's probability": vary(
            base, np.geomspace(0.001, 0.9, n), lambda often: {"data": family(often, q).states()}
        ),
        "overlap of children": vary(base, overlaps, lambda both: {"data": overlapping(rate, q, both)}),
        "unequal children": vary(base, np.geomspace(1, 16, n), lambda ratio: {"data": split(ratio)}),
        # Theory gives a bound only.
        "spread of magnitudes": vary(
            base, np.linspace(0, 0.5, n), lambda s: {"data": spread_magnitudes(base.states, s)}, covered=False
        ),
        "cosine of features": vary(base, np.linspace(0, 0.3, n), lambda c: {"dictionary": leaning(c)}),
        "a prefix between the children": vary(
            base, overlaps, lambda both: {"data": overlapping(rate, q, both), "sae": between}, ranked=False
        ),
    }


def dynasty(p: Parameters, chance: float) -> FeatureTree:
    """A parent, two exclusive children, and two exclusive grandchildren of each, of probability `chance` each."""
    branch = FeatureTree(p.child_probability, (FeatureTree(chance),) * 2, True)
    return FeatureTree(1.0, (FeatureTree(p.parent_probability, (branch, branch), True),), is_read_out=False)


def brood(p: Parameters, n: int, chance: float, dictionary: Float[Tensor, "seeds 11 d_model"]) -> Setting:
    """One parent with n of ten children; the others never fire and their latents are in no prefix that weighs."""
    widths = (1, *range(3, 12))
    weights = (p.inner_weight, *(float(width == n + 1) for width in widths[1:]))
    some = family(p.parent_probability, [chance] * n + [0.0] * (10 - n), 10)
    return Setting(SAEConfig(p.d_model, widths, weights, **BARE), some.states(), dictionary)


def tree_factors(p: Parameters) -> dict[str, Factor]:
    """A third level, many children, and four families in ever fewer dimensions, by name."""
    q, n, seeds = p.child_probability, p.n_grid, p.random_seeds
    lower = np.linspace(0.05, 0.49, n).tolist()
    eleven = orthonormal_dictionaries(11, p.d_model, seeds)
    deep = SAEConfig(p.d_model, (1, 3, 7), (p.inner_weight, 0.5, 0.5), **BARE)
    levels = [Setting(deep, dynasty(p, chance).states(), eleven[:, :7]) for chance in lower]
    counts = sorted({round(count) for count in np.linspace(2, 10, n)})
    ten = (None, *[0] * 10)
    ranks = sorted({round(rank) for rank in np.geomspace(6, p.d_model, n)}, reverse=True)
    households = FeatureTree(1.0, family(p.parent_probability / 4, q).children * 4, True, is_read_out=False)
    crowd, four = households.states(), SAEConfig(p.d_model, (4, 12), (p.inner_weight, 1.0), **BARE)
    crowds = [
        Setting(four, crowd, torch.stack([crowded_dictionary(12, rank, p.d_model, seed) for seed in seeds]))
        for rank in ranks
    ]
    return {
        # Its pairs are the two upper ones.
        "a third level": Factor(lower, levels, tuple(dynasty(p, 0.1).parents()), pairs=[0, 3]),
        "number of children": Factor(counts, [brood(p, k, 2 * q / k, eleven) for k in counts], ten),
        "children, each as likely": Factor(counts, [brood(p, k, q / 5, eleven) for k in counts], ten, ranked=False),
        "dimensions for 12 features": Factor(ranks, crowds, tuple(households.parents()), covered=False),
    }


def model_factors(p: Parameters, base: Setting) -> dict[str, Factor]:
    """Inner weight, L1 penalty, biases, K of BatchTopK, latents to spare and wider inner prefixes, by name."""
    base = first_seeds(base, len(p.random_seeds))
    true_l0 = p.parent_probability * (1 + 2 * p.child_probability)

    def shaped(inner: int, outer: int) -> dict[str, SAEConfig]:
        """Other widths: every width is a prefix, and all but two have weight 0."""
        chosen = {inner: p.inner_weight} | {outer: 1.0}
        weights = tuple(chosen.get(width, 0.0) for width in range(1, 9))
        return {"sae": SAEConfig(p.d_model, tuple(range(1, 9)), weights, **BARE)}

    def budget(share: float) -> dict[str, SAEConfig]:
        """BatchTopK whose K is a share of the true mean L0."""
        return {"sae": replace(base.sae, activation="batchtopk", k=min(3.0, share * true_l0))}

    def biased(which: str) -> dict[str, SAEConfig]:
        """The base case with the biases of that name."""
        own: dict[str, Any] = {f"{part}_bias": which in (part, "both") for part in ("encoder", "decoder")}
        return {"sae": replace(base.sae, **own)}

    # A penalty, biases, a budget and spare latents are beyond the theory; with an inner prefix of 2 the children's
    # decoders are not unique.
    return {
        "inner weight": vary(
            base, np.geomspace(0.1, 10, p.n_grid), lambda w: {"sae": replace(base.sae, weights=(w, 1.0))}
        ),
        "L1 penalty": vary(
            base, np.linspace(0, 0.3, p.n_grid), lambda l1: {"sae": replace(base.sae, l1=l1)}, covered=False
        ),
        "biases": vary(base, ["none", "encoder", "decoder", "both"], biased, covered=False),
        "K of BatchTopK / true L0": vary(base, np.linspace(0.8, 2, p.n_grid), budget, covered=False),
        "number of latents": vary(base, range(3, 9), lambda width: shaped(1, width), covered=False),
        "inner width": vary(base, [1, 2], lambda width: shaped(width, 3), covered=False),
        "inner width of 6": vary(base, [1, 2, 3], lambda width: shaped(width, 6), ranked=False, covered=False),
    }


def pair_settings(p: Parameters, base: Setting, biased: bool) -> tuple[np.ndarray, list[Setting]]:
    """Two features whose firing is correlated, learned by a Matryoshka SAE of widths 1 and 2, and by one latent.

    Settings have the directions of the first `n_sweep_seeds` seeds.

    Returns:
        The correlations, and the settings: first all of the Matryoshka SAE, then all of the narrow one, which is the
        same with weight 0 for its outer prefix.
    """
    correlations = np.linspace(-p.likely / (1 - p.likely), 0.9, p.n_grid)
    sae = pair_sae(p, biased)
    saes = [sae, replace(sae, weights=(1.0, 0.0))]
    data = [correlated_pair(p.likely, rho) for rho in correlations]
    two = base.directions[: p.n_sweep_seeds, :2]
    return correlations, [Setting(sae, states, two) for sae in saes for states in data]


def pair_sae(p: Parameters, biased: bool) -> SAEConfig:
    """The Matryoshka SAE for two features, with or without a decoder bias."""
    return SAEConfig(p.d_model, (1, 2), (p.inner_weight, 1.0), encoder_bias=False, decoder_bias=biased)
