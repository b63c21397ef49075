"""Training the factors and reading what came out; the theory that covers most of them; the numbers that are judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from matryoshka_mixing import metrics
from matryoshka_mixing.chapters.how_far.data import (
    Factor,
    Parameters,
    correlated_pair,
    first_seeds,
    pair_sae,
    pair_settings,
)
from matryoshka_mixing.features import States, family, retuned
from matryoshka_mixing.metrics import Mixing
from matryoshka_mixing.sae import SAE, random_start, start_near
from matryoshka_mixing.training import Setting, TrainConfig, Trained, descend, train

KINDS = ("parent_to_child", "child_to_sibling", "child_to_parent")
"""The three mixings, in the order of every last axis of length 3 here."""
LEAST = 3
"""Live random seeds without which a median says nothing (our default)."""
STARTS = ("near the truth", "random")


def depths(parents: Sequence[int | None]) -> list[int]:
    """How many ancestors each feature has. `parents` as from `FeatureTree.parents`, parents before their children."""
    found: list[int] = []
    for parent in parents:
        found.append(0 if parent is None else found[parent] + 1)
    return found


def match_by_level(
    cosines: Float[Tensor, "*instances d_sae features"], parents: Sequence[int | None], levels: Sequence[int]
) -> Int[Tensor, "*instances features"]:
    """As `match`, but features without a parent take latents of the first level, their children of the next, and so on.

    In a Matryoshka SAE that names the parent's latent by its place, not by its direction, which keeps one and the
    same latent in view however mixed it is.

    Args:
        cosines: from `decoder_cosines`; a feature whose column is NaN gets no latent.
        parents: from `FeatureTree.parents`.
        levels: where each level's latents end, such as (1, 3) for one parent and two children; latents beyond the
            last level stand for nothing.
    """
    level = torch.bucketize(torch.arange(cosines.shape[-2]), torch.tensor(levels), right=True)
    may = (level[:, None] == torch.tensor(depths(parents))) & ~cosines.isnan()
    latents = metrics.match(torch.where(may, cosines.abs() + 1, 0.0))
    chosen = may.gather(-2, latents.clamp_min(0).unsqueeze(-2)).squeeze(-2)
    return latents.masked_fill(~chosen, -1)


def excess_mixing(
    sae: SAE,
    states: States,
    dictionary: Float[Tensor, "*#instances features d_in"],
    parents: Sequence[int | None],
    levels: Sequence[int],
) -> Mixing:
    """The mixings of an SAE, less the cosines that the true features have with each other.

    With an orthonormal dictionary it is `mixing`, of latents named by `match_by_level` (arguments as there and for
    `read`). A latent with a negative cosine with its own feature is read with the opposite sign. Features that never
    fire are NaN, and so is everything about an SAE in which the latent of another feature is dead.
    """
    absent = ~(states.acts > 0).any(0)
    cosines = metrics.decoder_cosines(sae, dictionary).masked_fill(absent, torch.nan)
    latents = match_by_level(cosines, parents, levels)
    live = metrics.live(sae.encode(states.inputs(dictionary), states.probs))
    fires = live.gather(-1, latents.clamp_min(0)) & (latents >= 0)
    dead = ~(fires | absent).all(-1, keepdim=True)
    rows = cosines.gather(-2, latents.clamp_min(0)[..., None].expand(*latents.shape, len(parents)))
    rows = rows * rows.diagonal(dim1=-2, dim2=-1).sign()[..., None]
    rows = rows.masked_fill(dead[..., None], torch.nan).masked_fill(absent[:, None], torch.nan)
    directions = normalize(dictionary, dim=-1)
    truth = directions @ directions.mT
    truth.diagonal(dim1=-2, dim2=-1).zero_()
    return metrics.mixing(rows - truth, torch.arange(len(parents)).expand(latents.shape), parents)


def levels_of(setting: Setting, parents: Sequence[int | None]) -> tuple[int, ...]:
    """Where each level's latents end: as many as it has features; the last level has all that some prefix weighs."""
    found = depths(parents)
    ends = [sum(depth <= level for depth in found) for level in range(max(found))]
    weighed = zip(setting.sae.widths, setting.sae.weights, strict=True)
    return (*ends, max(width for width, weight in weighed if weight))


def places(parents: Sequence[int | None]) -> tuple[list[int], list[int]]:
    """The features level by level, and the position of each in that order, which is its latent's near the truth."""
    order = np.argsort(depths(parents), kind="stable")
    return order.tolist(), np.argsort(order, kind="stable").tolist()


def starts(
    settings: Sequence[Setting], parents: Sequence[int | None], seeds: Sequence[int], noise: float | None
) -> SAE:
    """Starts near the truth of every setting with this much noise, axes (settings, seeds); or random ones if None.

    Random ones are the same for every setting and have the axis (seeds,). Latents to spare start at random beside those
    near the truth. The settings have directions for as many seeds.
    """
    if noise is None:
        return random_start(settings[0].sae, seeds)
    found, order = [], places(parents)[0]
    for setting in settings:
        start, near = random_start(setting.sae, seeds), start_near(setting.directions, seeds, noise, order=order)
        start.W_enc[..., : len(parents)], start.W_dec[:, : len(parents)] = near.W_enc, near.W_dec
        found.append(start)
    return SAE.stack([one.with_config(settings[0].sae) for one in found])


def measure(sae: SAE, settings: Sequence[Setting], parents: Sequence[int | None]) -> list[Mixing]:
    """The excess mixings of all seeds, one table a setting; the SAE's axes are (settings, seeds)."""
    return [
        excess_mixing(sae[i], setting.states, setting.directions, parents, levels_of(setting, parents))
        for i, setting in enumerate(settings)
    ]


def three(tables: Sequence[Mixing], factor: Factor) -> Float[Tensor, "amounts seeds 3"]:
    """The mean over pairs of each of the three mixings."""
    means = [
        torch.stack([getattr(table, kind)[..., factor.pairs].nanmean(-1) for kind in KINDS], -1) for table in tables
    ]
    return torch.stack(means)


def medians(table: Float[Tensor, "amounts seeds 3"], least: int = 1) -> Float[np.ndarray, "amounts 3"]:
    """Medians over live seeds; NaN where there are fewer than `least`."""
    enough = (~table[..., 0].isnan()).sum(-1) >= least
    return torch.where(enough[:, None], table.nanmedian(1).values, torch.nan).numpy()


def kept(values: Float[Tensor, " seeds"]) -> Float[Tensor, " live"]:
    """The values that are not NaN."""
    return values[~values.isnan()]


def extent(values: Float[np.ndarray, " amounts"]) -> float:
    """Highest less lowest value, NaN left out; 0 where all are."""
    known = values[~np.isnan(values)]
    return float(np.ptp(known)) if len(known) else 0.0


@dataclass(frozen=True)
class Effect:
    """What a factor does to the three mixings: medians over live seeds.

    Attributes:
        amounts: in words.
        near: from near the truth.
        random: from random starts, at the amounts that have them.
    """

    amounts: list[str]
    near: Float[np.ndarray, "amounts 3"]
    random: Float[np.ndarray, "some 3"]

    @property
    def moves(self) -> float:
        """How far it moves the parent's cosine with a child, from near the truth."""
        return extent(self.near[:, 0])


def by_size(effects: Mapping[str, Effect]) -> list[str]:
    """The names, the largest effect first; effects that are the same to four digits keep their order."""
    return sorted(effects, key=lambda name: -round(effects[name].moves, 4))


@dataclass(frozen=True)
class Explored:
    """A factor and the SAEs that were trained on it.

    Attributes:
        factor: what was varied.
        run: from near the truth, with axes (settings, seeds).
        tables: its mixings, one table a setting.
        near: their means.
        ends: numbers of the amounts that have random starts too.
        random: the means there.
    """

    factor: Factor
    run: Trained
    tables: list[Mixing]
    near: Float[Tensor, "amounts seeds 3"]
    ends: list[int]
    random: Float[Tensor, "ends random_seeds 3"]

    @property
    def effect(self) -> Effect:
        """Its medians."""
        names = [amount if isinstance(amount, str) else f"{amount:.2g}" for amount in self.factor.amounts]
        return Effect(names, medians(self.near), medians(self.random, LEAST))

    @property
    def random_medians(self) -> Float[np.ndarray, "amounts 3"]:
        """Medians of live random seeds, NaN at the amounts that have none."""
        full = np.full((len(self.factor.amounts), 3), np.nan)
        full[self.ends] = self.effect.random
        return full


def fit(
    settings: Sequence[Setting],
    parents: Sequence[int | None],
    seeds: Sequence[int],
    noise: float | None,
    training: TrainConfig,
) -> tuple[Trained, list[Mixing]]:
    """Train settings from the first of their seeds (see `starts`), and measure them."""
    some = [first_seeds(setting, len(seeds)) for setting in settings]
    run = train(some, starts(some, parents, seeds, noise), training)
    return run, measure(run.sae, some, parents)


def explore(factor: Factor, p: Parameters) -> Explored:
    """Train it near the truth at every amount and, if ranked, from random starts at some.

    These are the lowest, the middle and the highest amount, or all where amounts are names.
    """
    run, tables = fit(factor.settings, factor.parents, p.near_seeds, p.start_noise, p.exact)
    near, n = three(tables, factor), len(factor.amounts)
    if not factor.ranked:
        return Explored(factor, run, tables, near, [], near[:0])
    ends = list(range(n)) if isinstance(factor.amounts[0], str) else sorted({0, n // 2, n - 1})
    _, wild = fit([factor.settings[i] for i in ends], factor.parents, p.random_seeds, None, p.exact)
    return Explored(factor, run, tables, near, ends, three(wild, factor))


VARIANTS: dict[str, dict[str, float]] = {
    "tied": {"tied": 1},
    "tied, norm 1": {"tied": 1, "unit": 1},
    "0.15": {"log": 0.15},
    "0.3": {"log": 0.3},
}
"""Variants of the base case whose losses `train` does not know: tied weights, a logarithmic penalty."""


def switch(key: str) -> Float[Tensor, "variants 1 1"]:
    """What each variant has of one thing."""
    return torch.tensor([float(variant.get(key, 0)) for variant in VARIANTS.values()]).double()[:, None, None]


def as_varied(sae: SAE) -> SAE:
    """The parameters that count in each variant, none of which has biases; the SAE's axes are (variants, seeds)."""
    lengths = sae.W_dec.norm(dim=-1, keepdim=True)
    W_dec = sae.W_dec / torch.where(switch("unit")[..., None] > 0, lengths, 1)
    W_enc = torch.where(switch("tied")[..., None] > 0, W_dec.mT, sae.W_enc)
    return SAE(W_enc, sae.b_enc, W_dec, sae.b_dec)


def varied_loss(sae: SAE, base: Setting) -> Float[Tensor, "variants seeds"]:
    """The loss of each variant on the base case, with `log * 0.1 * sum_k log(1 + acts_k ||W_dec_k|| / 0.1)` a prefix.

    Source of the penalty: Candes, Wakin and Boyd 2008.
    """
    sae, x, probs = as_varied(sae), base.inputs[None], base.states.probs
    sizes = sae.encode(x) * sae.W_dec.norm(dim=-1).unsqueeze(-2)
    costs = (0.1 * torch.log1p(sizes / 0.1)).cumsum(-1)[..., [0, 2]].mT
    terms = sae.errors(x, (1, 3)) + switch("log")[..., None] * costs
    return base.sae.weights[0] * terms[..., 0, :] @ probs + terms[..., 1, :] @ probs


def explore_variants(p: Parameters, base: Setting, plain: Explored) -> dict[str, Effect]:
    """Tied weights and the logarithmic penalty, by name, in half as many steps; `plain` begins with the base case."""
    near_seeds, random_seeds = p.near_seeds, p.random_seeds[: 2 * p.n_sweep_seeds]
    sides = [(near_seeds, p.start_noise), (random_seeds, None)]
    own = [first_seeds(base, len(seeds)) for seeds, _ in sides]
    begin = [starts([one] * len(VARIANTS), (None, 0, 0), *side) for one, side in zip(own, sides, strict=True)]
    begin[1] = SAE.stack([begin[1]] * len(VARIANTS))
    both = replace(base, dictionary=torch.cat([one.directions for one in own]))
    objective = partial(varied_loss, base=both)
    # Autograd is slow, and half of the steps are enough.
    half = TrainConfig(max(1, p.n_steps // 2))
    start = SAE.stack([SAE.cat([one[i] for one in begin]) for i in range(len(VARIANTS))])
    run = descend(objective, start, half, held={"b_enc": ..., "b_dec": ...}, scale=base.states.power)
    alike = Factor(list(VARIANTS), [both] * len(VARIANTS))
    found = three(measure(as_varied(run.sae), alike.settings, alike.parents), alike)

    def effect(chosen: Sequence[str], names: Sequence[str]) -> Effect:
        rows = found[[alike.amounts.index(one) for one in chosen]]
        near = np.concatenate([medians(plain.near[:1]), medians(rows[:, : len(near_seeds)])])
        wild = np.concatenate([medians(plain.random[:1], LEAST), medians(rows[:, len(near_seeds) :], LEAST)])
        return Effect(list(names), near, wild)

    ties, logs = ("tied", "tied, norm 1"), ("0.15", "0.3")
    return {"tied weights": effect(ties, ("free", *ties)), "log penalty": effect(logs, ("0", *logs))}


@dataclass(frozen=True)
class BaseCase:
    """The base case in many seeds from one kind of start: the run, and the three mixings of each seed."""

    run: Trained
    mixings: Float[Tensor, "seeds 3"]


def train_base(p: Parameters, base: Setting) -> dict[str, BaseCase]:
    """The base case by kind of start."""
    found = {}
    for kind, noise in zip(STARTS, (p.start_noise, None), strict=True):
        one = Factor(["base"], [base])
        run, tables = fit([base], one.parents, p.seeds, noise, p.exact)
        found[kind] = BaseCase(run, three(tables, one)[0])
    return found


def own_cosines(
    explored: Explored,
) -> tuple[Float[Tensor, "amounts seeds parents"], Float[Tensor, "amounts seeds children"]]:
    """The cosine of each feature's latent with the feature itself: of those without a parent, and of the others."""
    own = torch.stack([table.own for table in explored.tables])
    first = torch.tensor([parent is None for parent in explored.factor.parents])
    return own[..., first], own[..., ~first]


@dataclass(frozen=True)
class Pairs:
    """Two correlated features without hierarchy, learned with or without a decoder bias.

    The first axis of the values is the SAE: Matryoshka of widths 1 and 2, then narrow. Values are from `other_cosine`.

    Attributes:
        biased: whether there is a decoder bias.
        correlations: of the features' firing.
        near, random: from near the truth, and from random starts.
    """

    biased: bool
    correlations: Float[np.ndarray, " points"]
    near: Float[Tensor, "2 points seeds"]
    random: Float[Tensor, "2 points seeds"]


def other_cosine(sae: SAE, settings: Sequence[Setting]) -> Float[Tensor, "settings seeds"]:
    """The first latent's cosine with the feature that it holds less of, if all weighed latents fire (else NaN).

    The sign is such that the cosine with the other feature is positive; the SAE's axes are (settings, seeds).
    """
    found = []
    for i, s in enumerate(settings):
        used = 2 if s.sae.weights[1] else 1
        cosines = metrics.decoder_cosines(sae[i], s.directions)[:, 0]
        more = cosines.gather(1, cosines.abs().argmax(1, keepdim=True))[:, 0]
        less = cosines.gather(1, cosines.abs().argmin(1, keepdim=True))[:, 0]
        fires = metrics.live(sae[i].encode(s.inputs))[:, :used].all(-1)
        found.append(torch.where(fires, less * more.sign(), torch.nan))
    return torch.stack(found)


def explore_pairs(p: Parameters, base: Setting, biased: bool) -> Pairs:
    """Train both SAEs at every correlation, from near the truth and from random starts."""
    (correlations, settings), seeds = pair_settings(p, base, biased), p.near_seeds
    near = start_near(settings[0].directions, seeds, p.start_noise)
    wild = random_start(settings[0].sae, seeds)
    values = [other_cosine(train(settings, start, p.exact).sae, settings) for start in (near, wild)]
    return Pairs(biased, correlations, *(table.unflatten(0, (2, -1)) for table in values))


def train_control(p: Parameters, base: Setting) -> dict[str, Tensor]:
    """Two independent features, with a decoder bias: `other_cosine` in live seeds, by kind of start."""
    two, sae = base.directions[: p.n_seeds, :2], pair_sae(p, biased=True)
    independent = Setting(sae, correlated_pair(p.likely, 0.0), two)
    begin = (start_near(two, p.seeds, p.start_noise), random_start(sae, p.seeds))
    return {
        kind: kept(other_cosine(train(independent, start, p.exact).sae, [independent])[0])
        for kind, start in zip(STARTS, begin, strict=True)
    }


@dataclass(frozen=True)
class Sampled:
    """A case trained on sampled batches, beside the same on exact states; the parent's mean cosine with a child."""

    values: Float[Tensor, " live"]
    exact: Float[Tensor, " seeds"]

    @property
    def gap(self) -> float:
        """How far the medians lie apart; NaN where no seed is live."""
        return abs(float(self.values.median() - self.exact.nanmedian()))


def train_sampled(
    p: Parameters, base: Setting, exact: BaseCase, explored: Mapping[str, Explored]
) -> dict[str, Sampled]:
    """The base case and the far ends of some factors on sampled batches; magnitudes that vary are truly normal."""
    far = {
        "overlap": ("overlap of children", -1), "unequal": ("unequal children", -1),
        "cosine": ("cosine of features", -1), "inner weight 0.1": ("inner weight", 0),
    }  # fmt: skip
    settings = [base] + [explored[name].factor.settings[end] for name, end in far.values()]
    noisy = TrainConfig(p.n_steps, batch_size=p.batch_size, seed=p.seed)
    spread, parents = explored["spread of magnitudes"], (None, 0, 0)
    normal = family(p.parent_probability, p.child_probability)
    for name in normal.names:
        normal = retuned(normal, name, magnitude_std=float(spread.factor.amounts[-1]))
    _, tables = fit(settings, parents, p.near_seeds, p.start_noise, noisy)
    # Measured on states with the same moments: inputs that cannot be listed.
    some = first_seeds(base, len(p.near_seeds))
    run = train(replace(some, data=normal), starts([some], parents, p.near_seeds, p.start_noise), noisy)
    tables += measure(run.sae, [replace(some, data=spread.factor.settings[-1].data)], parents)
    beside = [exact.mixings[:, 0], *(explored[name].near[end, :, 0] for name, end in far.values())]
    beside.append(spread.near[-1, :, 0])
    return {
        label: Sampled(kept(table.parent_to_child.mean(-1)), values)
        for label, table, values in zip(["base case", *far, "normal magnitudes"], tables, beside, strict=True)
    }


def lowest(effects: Mapping[str, Effect], start: str) -> dict[str, float]:
    """The lowest median of the parent's cosine with a child over each factor's range; factors without one left out.

    Args:
        effects: by name.
        start: which medians: "near" or "random".
    """
    found = {name: getattr(effect, start)[:, 0] for name, effect in effects.items()}
    return {name: float(np.nanmin(values)) for name, values in found.items() if not np.isnan(values).all()}


def small_factors(effects: Mapping[str, Effect], below: float = 0.1) -> str:
    """The factors that bring the lowest median of the parent's cosine with a child below so much, and from where."""
    lows = {words: lowest(effects, start) for start, words in (("near", "near the truth"), ("random", "random starts"))}
    found = {name: [words for words in lows if lows[words].get(name, below) < below] for name in effects}
    return "; ".join(f"{name} (from {' and '.join(words)})" for name, words in found.items() if words) or "none"


def highest_sibling(effects: Mapping[str, Effect]) -> dict[str, float]:
    """The highest median of a child's cosine with its sibling, from near the truth; factors without one left out."""
    found = {name: effect.near[:, 1] for name, effect in effects.items()}
    return {name: float(np.nanmax(values)) for name, values in found.items() if not np.isnan(values).all()}


def effect_measures(judged: Mapping[str, Effect], base_cosine: float) -> dict[str, float]:
    """The ledger's metrics of the factors' effects; NaN where no seed gave a value.

    Args:
        judged: the factors that are judged.
        base_cosine: theory's cosine of the parent's latent with a child in the base case.
    """
    found = {"largest_sibling_cosine_near_truth": max(highest_sibling(judged).values(), default=np.nan)}
    for start, suffix in (("near", "_near_truth"), ("random", "")):
        lows = lowest(judged, start)
        found["smallest_child_cosine" + suffix] = min(lows.values(), default=np.nan)
        positive = float(np.mean([low >= 0.01 for low in lows.values()])) if lows else np.nan
        found["share_of_factors_with_the_sign" + suffix] = positive
        found["gain_from_more_latents" + suffix] = lows.get("number of latents", np.nan) - base_cosine
    return found


def effect_table(effects: Mapping[str, Effect]) -> pd.DataFrame:
    """The lowest and highest medians of every factor in words, the largest effect first."""

    def span(values: np.ndarray) -> str:
        known = values[~np.isnan(values)]
        return f"{known.min():.2f} to {known.max():.2f}" if len(known) else "no live seed"

    rows = {
        name: {
            "amounts": f"{effect.amounts[0]} to {effect.amounts[-1]}",
            "near the truth": span(effect.near[:, 0]),
            "random starts": span(effect.random[:, 0]),
            "sibling": span(effect.near[:, 1]),
            "parent": span(effect.near[:, 2]),
        }
        for name, effect in effects.items()
    }
    return pd.DataFrame(rows).T.loc[by_size(effects)]
