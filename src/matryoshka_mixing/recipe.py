"""How the original toy was trained (Nabeshima 2024, code at commit cc61c6e): steering, sampled prefixes, sorting.

What is kept from there: Adam's settings and schedule, gradient clipping, inputs normalised by a running mean norm, the
penalty's ramp and steering, the law of the prefixes, the sorting of latents, jittered norms of the features. One thing
differs: here the encoder subtracts the decoder bias, as everywhere in this package. Both forms can represent the same
functions; the paths of training differ.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm import tqdm

from matryoshka_mixing import metrics, theory
from matryoshka_mixing.features import (
    FeatureTree,
    States,
    orthonormal_dictionary,
    twenty_feature_tree,
    without_hierarchy,
)
from matryoshka_mixing.sae import SAE, SAEConfig
from matryoshka_mixing.training import Setting, TrainConfig, _Adam, _Chunk, _recorded, _Source

STORED = Path(__file__).with_name("every_prefix.npz")
"""What `python -m matryoshka_mixing.recipe` wrote: every arm in full length."""
TARGET_L0 = 1.2338
"""Mean L0 toward which the original steers its penalty; the tree's own is 1.12."""
MISSING = 0.5
"""A feature whose latent has a smaller cosine with it, or is dead, is not represented (our default)."""
SIDE_BY_SIDE = 4
"""Seeds trained at once, each in every arm (about what fits a cache)."""


@dataclass(frozen=True)
class Recipe(TrainConfig):
    """The original schedule, each part a share of the steps, so that it can be run shorter.

    Attributes:
        warmup: share of the steps in which the rate rises linearly from 0.
        cooldown: share of the steps, at the end, in which it falls linearly to `final_lr` times its peak.
        final_lr: see there.
        clip: longest gradient of one SAE; longer ones are shortened to it.
        norm_memory: what the running mean of the inputs' norm keeps at each step; it starts at 0, uncorrected.
        ramp: share of the steps in which the penalty rises linearly from 0 to its starting value.
        steering: how far the logarithm of the penalty could go if all steps steered it one way.
        sort_memory: what the running mean of the latents' squared contributions keeps at each step.
    """

    steps: int = 40_000
    lr: float = 0.03
    betas: tuple[float, float] = (0.5, 0.9375)
    warmup: float = 0.0025
    cooldown: float = 0.2
    batch_size: int = 200
    records: int = 50
    final_lr: float = 0.1
    clip: float = 1.0
    norm_memory: float = 0.99
    ramp: float = 0.2
    steering: float = 12.0
    sort_memory: float = 0.95

    def learning_rate(self, step: int) -> float:
        """Learning rate of update number `step` (from 0)."""
        warm, cool = self.warmup * self.steps, self.cooldown * self.steps
        rise = min(1.0, step / warm) if warm else 1.0
        left = min(1.0, (self.steps - step) / cool) if cool else 1.0
        return self.lr * rise * (self.final_lr + (1 - self.final_lr) * left)


@dataclass(frozen=True)
class Arm:
    """One of several trainings that see the same batches from the same start.

    Attributes:
        weights: of each prefix, for widths 1 to the number of latents; with `drawn`, the chance that one draw takes it.
        drawn: how many shorter prefixes are drawn at each step, without replacement; the full width joins them and all
            weigh the same. 0: all prefixes of `weights`, in every batch.
        sort: whether the latents are re-sorted at every step, loudest first.
        mean_follows: whether the running mean by which they are sorted moves along with them (in the original code it
            does not).
        moments_follow: whether the optimiser's moments do (there they are meant to, and do not).
        l1: the penalty after its ramp, in units of normalised inputs.
        target_l0: mean L0 toward which the penalty is then steered; None leaves it there.
    """

    weights: tuple[float, ...]
    drawn: int = 0
    sort: bool = True
    mean_follows: bool = False
    moments_follow: bool = False
    l1: float = 0.2
    target_l0: float | None = TARGET_L0

    @property
    def expected(self) -> tuple[float, ...]:
        """Expected weight of each prefix; random prefixes act through it."""
        if not self.drawn:
            return self.weights
        share = 1 / (self.drawn + 1)
        return *(share * p for p in theory.inclusion_probabilities(self.weights[:-1], self.drawn)), share


def arms(
    latents: int = 20, target_l0: float = TARGET_L0, true_l0: float = 1.12, absorbed_l0: float = 0.85
) -> dict[str, Arm]:
    """The arms of the experiment by name.

    Args:
        latents: their number in each SAE, at least 4.
        target_l0: where the penalty is steered in most arms.
        true_l0: the tree's own mean L0, for the arms steered there.
        absorbed_l0: its mean L0 if no parent's latent fires beside a child's, likewise.
    """
    law = np.diff(np.sqrt(np.arange(latents + 1) / latents))  # the original's; the last entry is not drawn
    few = {latents // 4, latents // 2, latents}
    standard = Arm((0.0,) * (latents - 1) + (1.0,), sort=False, target_l0=target_l0)
    sampled = Arm(tuple(law.tolist()), drawn=min(9, latents - 1), target_l0=target_l0)
    every = Arm((1 / latents,) * latents, target_l0=target_l0)
    fixed = replace(every, weights=tuple(float(m in few) / len(few) for m in range(1, latents + 1)))
    follow = {"moments_follow": True, "mean_follows": True}
    main = {"standard": standard, "sampled": sampled, "all prefixes": every}
    return {
        **main,
        "few prefixes": fixed,
        "sampled, moments follow": replace(sampled, moments_follow=True),
        "sampled, sorting mended": replace(sampled, **follow),
        "all prefixes, sorting mended": replace(every, **follow),
        **{f"{name}, equal penalty": replace(arm, target_l0=None) for name, arm in main.items()},
        **{f"{name}, true L0": replace(arm, target_l0=true_l0) for name, arm in main.items()},
        **{f"{name}, equal L0": replace(arm, target_l0=absorbed_l0) for name, arm in main.items()},
    }


@dataclass(frozen=True)
class Toys:
    """What `fit` returns. The first axes are (arms, seeds).

    Attributes:
        sae: the parameters, in units of the features (the normalisation of the inputs is undone).
        dictionary: each seed's directions, with jittered norms.
        l1: the final penalty, in units of the features.
        together: mean expected weight of the prefixes that hold both of two latents, over the cool-down; latents change
            places when they are sorted, and are followed here.
        steps: the recorded steps.
        l0: mean L0 of the batches since the record before, shape (records, arms, seeds).
        penalty: the penalty at each record, in units of the features, shape (records, arms, seeds).
        child_cosine: median cosine of a parent's decoder with a child's direction at each record, likewise.
    """

    sae: SAE
    dictionary: Float[Tensor, "seeds features d_in"]
    l1: Float[Tensor, "arms seeds"]
    together: Float[Tensor, "arms seeds d_sae d_sae"]
    steps: list[int]
    l0: Float[Tensor, "records arms seeds"]
    penalty: Float[Tensor, "records arms seeds"]
    child_cosine: Float[Tensor, "records arms seeds"]


def original_start(latents: int, d_in: int, seed: int) -> SAE:
    """The original's random start: Gaussian encoder of variance 1/d_in, decoder a tenth of its unit directions."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(latents, d_in, dtype=torch.float64, generator=generator) / d_in**0.5
    return SAE(
        W_enc=rows.T.contiguous(),
        b_enc=rows.new_zeros(latents),
        W_dec=0.1 * torch.nn.functional.normalize(rows, dim=-1),
        b_dec=rows.new_zeros(d_in),
    )


def jittered_dictionary(n_features: int, d_in: int, seed: int, jitter: float = 0.05) -> Float[Tensor, "features d_in"]:
    """Orthogonal directions whose norms are 1 + jitter N(0, 1), drawn once for a seed."""
    generator = torch.Generator().manual_seed(seed)
    directions = orthonormal_dictionary(n_features, d_in, generator)
    return directions * (1 + jitter * torch.randn(n_features, 1, dtype=torch.float64, generator=generator))


def fit(
    tree: FeatureTree,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    recipe: Recipe = Recipe(),
    *,
    parents: Sequence[int | None] | None = None,
    until: int | None = None,
    dtype: torch.dtype = torch.float64,
    progress: bool = False,
) -> Toys:
    """Train every arm from every seed: a seed names the start, the directions, the batches and the drawn prefixes.

    Args:
        tree: the features; inputs have as many dimensions.
        arms: what is trained side by side.
        seeds: as said.
        recipe: the schedule.
        parents: whose pairs the history follows; the tree's own by default.
        until: stop after so many steps of the schedule.
        dtype: in what precision to train; float32 takes half the time.
        progress: show a progress bar.
    """
    parents = tree.parents() if parents is None else parents
    parts = []
    with tqdm(total=len(seeds) * len(arms) * (until or recipe.steps), disable=not progress, unit="SAE-step") as bar:
        for low in range(0, len(seeds), SIDE_BY_SIDE):
            run = _Toys(tree, arms, seeds[low : low + SIDE_BY_SIDE], recipe, dtype)
            parts.append(run.fit_toys(parents, until or recipe.steps, bar.update))
    whole = {
        name: torch.cat([getattr(part, name) for part in parts], dim=axis)
        for name, axis in {"dictionary": 0, "l1": 1, "together": 1, "l0": 2, "penalty": 2, "child_cosine": 2}.items()
    }
    sae = SAE.join([part.sae for part in parts], partial(torch.cat, dim=1))
    return Toys(sae=sae, steps=parts[0].steps, **whole)


class _Toys(_Chunk):
    """All arms for some seeds: the trainer's loss and gradient, between the steps of the recipe."""

    def __init__(
        self,
        tree: FeatureTree,
        arms: Sequence[Arm],
        seeds: Sequence[int],
        recipe: Recipe,
        dtype: torch.dtype = torch.float64,
    ):
        n, self.arms, self.seeds = tree.n_features, arms, seeds
        k = len(arms[0].weights)
        if len({(arm.weights, arm.drawn) for arm in arms if arm.drawn}) > 1:
            raise ValueError("arms trained side by side share their drawn prefixes; give all of them one law.")
        widths, eye = tuple(range(1, k + 1)), torch.eye(n, dtype=torch.float64)
        self.source = _Source(Setting(SAEConfig(n, (1,)), tree, eye), recipe, torch.float64)
        members = [(SAEConfig(n, widths, arm.expected), self.source, seed) for arm in arms for seed in seeds]
        starts = [original_start(k, n, seed) for _ in arms for seed in seeds]
        start = SAE.join(starts)
        super().__init__(members, start, recipe, {"device": "cpu", "dtype": dtype})
        self.dictionary = torch.stack([jittered_dictionary(n, n, seed) for seed in seeds])

        def each(values: list) -> Tensor:
            return torch.from_numpy(np.array(values).repeat(len(seeds)))

        self.l1 = each([arm.l1 for arm in arms])
        self.target = each([float("nan") if arm.target_l0 is None else arm.target_l0 for arm in arms])
        self.sorts = each([arm.sort for arm in arms])[:, None]
        self.mean_follows = each([arm.sort and arm.mean_follows for arm in arms])[:, None]
        self.moments_follow = each([arm.sort and arm.moments_follow for arm in arms])[:, None]
        # Weight of the prefixes that hold both of two latents, in expectation; where drawn, it changes at every step.
        self.both = self.twice_both[:, 1:, 1:].double() / 2
        self.reach = self.twice_reach[:, 1:, 0] / 2
        self.drawn = each([arm.drawn > 0 for arm in arms])
        self.norm = torch.zeros(len(seeds), dtype=torch.float64)
        self.loudness = torch.zeros(len(members), k, dtype=dtype)
        self.place_of_rank = torch.arange(k).repeat(len(members), 1)  # who holds each rank, by its first rank

    def draws(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each step: inputs, (seeds, rows, ...), their weights, and the drawn prefixes' reach, (seeds, latents)."""
        streams = [[np.random.default_rng((self.config.seed, seed, i)) for seed in self.seeds] for i in (0, 1)]
        size, n = self.config.batch_size, len(self.seeds)
        steps = max(1, (1 << 14) // size)
        law = next((arm for arm in self.arms if arm.drawn), None)
        while True:
            acts, counts = zip(*(self.source.rows(stream, steps) for stream in streams[0]), strict=True)
            # (seeds, rows, steps, ...), with rows of weight 0 where a seed has fewer
            acts, counts = (torch.nn.utils.rnn.pad_sequence(some, batch_first=True) for some in (acts, counts))
            acts, probs = acts.movedim(2, 0), counts.movedim(2, 0).double() / size
            reach = [drawn_reach(law, stream, steps) for stream in streams[1]] if law else [np.zeros((steps, 1))] * n
            for x, share, held in zip(acts, probs, torch.from_numpy(np.stack(reach, 1)), strict=True):
                yield torch.cat([x[..., :-1] @ self.dictionary, x[..., -1:]], -1), share, held

    @torch.inference_mode()
    def fit_toys(self, parents: Sequence[int | None], until: int, advance) -> Toys:
        """Train, and measure on the way."""
        recipe, n_arms, k = self.config, len(self.arms), self.sae.d_sae
        adam, recorded = _Adam(self.theta, recipe), {step for step in _recorded(recipe) if step < until}
        ramp, cool = recipe.ramp * recipe.steps, (1 - recipe.cooldown) * recipe.steps
        together, watched = torch.zeros_like(self.both), 0
        history, l0_since, since = [], torch.zeros_like(self.l1), 0
        for step, (x, probs, reach) in zip(range(until), self.draws(), strict=False):
            norms = (probs * x[..., :-1].norm(dim=-1)).sum(-1)
            self.norm.lerp_(norms, 1 - recipe.norm_memory)
            x[..., :-1] *= self.scale[:, None, None]
            if self.drawn.any():
                self.hold(reach)
            ramped = self.l1 * min(1.0, step / ramp) if ramp else self.l1
            self.penalty = ramped[:, None].to(self.reach) * self.reach
            probs = probs.to(self.reach).repeat(n_arms, 1)
            self.loss_and_gradient(x.to(probs).repeat(n_arms, 1, 1), probs, want_loss=False)
            l0 = ((self.acts > 0) * probs[:, None]).sum((1, 2)).double()
            loudness = self.moments.diagonal(dim1=1, dim2=2)[:, 1:] * self.norms_squared
            length = self.gradient.flatten(1).norm(dim=-1)[:, None, None]
            self.gradient.mul_((recipe.clip / (length + 1e-6)).clamp_max(1))
            adam.step(self.gradient, step)
            if step >= ramp:
                way = (l0 >= self.target).double() - (l0 < self.target).double()
                self.l1 *= 1 + way * recipe.steering / recipe.steps
            self.sort(adam, loudness)
            l0_since, since = l0_since + l0, since + 1
            if step >= cool and step % 10 == 0:
                rank = self.place_of_rank.argsort(-1)
                wide = self.both.gather(1, rank[:, :, None].expand_as(self.both))
                together, watched = together + wide.gather(2, rank[:, None].expand_as(self.both)), watched + 1
            if step in recorded:
                by_arm = self.by_arm(self.result()).map(Tensor.double)
                pairs = enumerate(self.dictionary)
                cosines = torch.stack([metrics.decoder_cosines(by_arm[:, i], truth) for i, truth in pairs], 1)
                mix = metrics.mixing(cosines, metrics.match(cosines), parents)
                penalty = self.in_features(ramped)
                history.append((l0_since.view(n_arms, -1) / since, penalty, mix.parent_to_child.median(-1).values))
                l0_since, since = torch.zeros_like(l0), 0
            if (step + 1) % 100 == 0:
                advance(100 * len(self.members))
        holder = self.place_of_rank
        together = together.gather(1, holder[:, :, None].expand_as(together))
        together = together.gather(2, holder[:, None].expand_as(together)) / max(watched, 1)
        sae, scale = self.by_arm(self.result()).map(Tensor.double), self.scale[:, None]
        return Toys(
            SAE(sae.W_enc * scale[..., None], sae.b_enc, sae.W_dec / scale[..., None], sae.b_dec / scale),
            self.dictionary,
            self.in_features(self.l1),
            together.view(n_arms, -1, k, k),
            sorted(recorded),
            *(torch.stack(column) for column in zip(*history, strict=True)),
        )

    @property
    def scale(self) -> Tensor:
        """By what each seed's inputs are multiplied."""
        return self.sae.d_in**0.5 / self.norm

    def in_features(self, l1: Tensor) -> Tensor:
        """A penalty in units of the features, (arms, seeds)."""
        return l1.view(len(self.arms), -1) / self.scale

    def by_arm(self, sae: SAE) -> SAE:
        """With axes (arms, seeds)."""
        return sae.map(lambda parameter: parameter.unflatten(0, (len(self.arms), -1)))

    def hold(self, reach: Tensor) -> None:
        """Take these drawn prefixes for the next step; `reach` is the weight of those that hold each latent."""
        held = torch.nn.functional.pad(reach.to(self.reach), (1, 0), value=1.0).repeat(
            int(self.drawn.sum()) // len(reach), 1
        )
        self.reach[self.drawn] = held[:, 1:]
        self.twice_reach[self.drawn], self.minus_twice_reach[self.drawn] = 2 * held[..., None], -2 * held[..., None]
        self.twice_both[self.drawn] = 2 * torch.minimum(held[:, :, None], held[:, None])

    def sort(self, adam: _Adam, loudness: Tensor) -> None:
        """Sort the latents by the running mean of their squared contribution, loudest first, ties as they stand."""
        k = self.sae.d_sae
        self.loudness.lerp_(loudness, 1 - self.config.sort_memory)
        ranks = torch.arange(k).expand_as(self.loudness)
        order = torch.where(self.sorts, self.loudness.argsort(dim=-1, descending=True, stable=True), ranks)
        self.place_of_rank = self.place_of_rank.gather(1, order)
        self.loudness = self.loudness.gather(1, torch.where(self.mean_follows, order, ranks))
        along = order.where(self.moments_follow, ranks)
        for buffer, moved in [(self.theta, order), (adam.mean, along), (adam.square, along)]:
            rows = torch.cat([moved, torch.full_like(moved[:, :1], k), moved + k + 1], 1)
            buffer.copy_(buffer.gather(1, rows[..., None].expand_as(buffer)))


def drawn_reach(arm: Arm, stream: np.random.Generator, steps: int) -> Float[np.ndarray, "steps d_sae"]:
    """For each step the weight of the drawn prefixes that hold each latent.

    The `drawn` largest of log-chances plus Gumbel noise are a draw without replacement.
    """
    chances = np.log(arm.weights[:-1])
    keys = chances + stream.gumbel(size=(steps, len(chances)))
    weights = np.zeros((steps, len(arm.weights)))
    np.put_along_axis(weights, keys.argsort(1)[:, -arm.drawn :], 1 / (arm.drawn + 1), axis=1)
    weights[:, -1] = 1 / (arm.drawn + 1)
    return weights[:, ::-1].cumsum(1)[:, ::-1]


def every_input(tree: FeatureTree, n: int = 1 << 15) -> States:
    """All states of a tree, or `n` samples of it where they are too many to list."""
    if tree.can_list():
        return tree.states()
    acts = tree.sample(n, torch.Generator().manual_seed(0))
    return States(acts, torch.full((n,), 1 / n, dtype=torch.float64))


def measure(
    toys: Toys, states: States, parents: Sequence[int | None], progress: bool = False
) -> dict[str, Float[np.ndarray, "arms seeds ..."]]:
    """The numbers of the chapter for every SAE, on all `states`; pairs are ordered as in `metrics.Mixing`.

    Returns:
        `own`, `parent_to_child`, `child_to_sibling`, `child_to_parent`: decoder cosines; `absorption`: share of the
        inputs with parent and child on which the parent's latent is silent; `l0`; `error`: squared error of the full
        width as a share of E||x||^2; `missing`: features not represented; `dead`: latents that never fire; `l1`: the
        final penalty; and for each pair of parent and child `alone` and `blamed`, the mean weight of the prefixes that
        hold the parent, and that hold the parent and miss the child.
    """
    pairs = [(p, c) for c, p in enumerate(parents) if p is not None]
    truth = states.acts.clone()
    for p, c in pairs:
        truth[:, c] *= truth[:, p] > 0
    rows: dict[str, list] = {}
    shape = toys.l1.shape
    for arm, seed in tqdm(np.ndindex(*shape), total=toys.l1.numel(), disable=not progress, unit="SAE"):
        sae, dictionary = toys.sae[arm, seed], toys.dictionary[seed]
        x = states.inputs(dictionary)
        acts, decoder = sae.encode(x), metrics.decoder_cosines(sae, dictionary)
        latents = metrics.match(decoder)
        mix = metrics.mixing(decoder, latents, parents)
        rest = (x - sae.decode(acts)).square().sum(-1)
        own, live = mix.own, metrics.live(acts)
        together = toys.together[arm, seed]
        alone = together.diagonal()[latents]
        blamed = alone[:, None] - together[latents][:, latents]
        found = {
            **vars(mix),
            "absorption": metrics.absorption(acts, latents, truth, states.probs, parents, own),
            "l0": states.probs @ (acts > metrics.SILENT).double().sum(-1),
            "error": states.probs @ rest / (states.probs @ x.square().sum(-1)),
            "missing": ((own.abs() < MISSING) | ~live[latents]).sum(),
            "dead": (~live).sum(),
            "l1": toys.l1[arm, seed],
            "alone": torch.stack([alone[p] for p, _ in pairs]),
            "blamed": torch.stack([blamed[p, c] for p, c in pairs]),
        }
        for name, value in found.items():
            rows.setdefault(name, []).append(np.asarray(value, dtype=float))
    return {name: np.stack(values).reshape(*shape, *values[0].shape) for name, values in rows.items()}


def predicted(
    states: States,
    parents: Sequence[int | None],
    alone: Float[Tensor, "*instances pairs"],
    blamed: Float[Tensor, "*instances pairs"],
    norms: Float[Tensor, "*#instances features"],
) -> Float[Tensor, "*instances pairs"]:
    """Theory's cosine of each parent's decoder with each of its children, as `theory.matryoshka_optimum` has it.

    Args:
        states: the data; children that fire together have no prediction (NaN).
        parents: from `FeatureTree.parents`.
        alone, blamed: weights of prefixes, from `measure`.
        norms: length of each feature's direction, which is 1 but for the jitter.
    """
    fires, pairs = states.acts > 0, [(p, c) for c, p in enumerate(parents) if p is not None]
    found = torch.full_like(blamed, torch.nan)
    for parent in {p for p, _ in pairs}:
        where = [i for i, (p, _) in enumerate(pairs) if p == parent]
        children = [pairs[i][1] for i in where]
        beside = fires[:, parent, None] & fires[:, children]
        if (beside.sum(-1) > 1).any():
            continue
        by_itself = states.probs @ (fires[:, parent] & ~beside.any(-1)).double()
        pull = states.probs @ beside.double() * blamed[..., where]
        size, sizes = norms[..., parent], norms[..., children]
        moment = blamed.new_zeros(*blamed.shape[:-1], len(where) + 1, len(where) + 1)
        moment[..., 0, 0] = (by_itself * alone[..., where[0]] + pull.sum(-1)) * size.square()
        moment[..., 0, 1:] = moment[..., 1:, 0] = pull * size[..., None] * sizes
        moment[..., 1:, 1:] = torch.diag_embed(pull * sizes.square())
        found[..., where] = torch.linalg.eigh(moment).eigenvectors[..., 1:, -1].abs()
    return found


def natural_l0(states: States, parents: Sequence[int | None]) -> tuple[float, float]:
    """Mean number of active features, and of those without an active child: what is left if parents are absorbed."""
    fires = (states.acts > 0).double()
    above = fires.clone()
    for child, parent in enumerate(parents):
        if parent is not None:
            above[:, parent] *= 1 - fires[:, child]
    return float(states.probs @ fires.sum(-1)), float(states.probs @ above.sum(-1))


def compute(
    tree: FeatureTree,
    seeds: Sequence[int],
    recipe: Recipe,
    chosen: Mapping[str, Arm],
    dtype: torch.dtype = torch.float64,
    progress: bool = False,
) -> dict[str, np.ndarray]:
    """Train and measure the chosen arms on a tree, and arms called "..., independent" on its control.

    The control's features fire independently and as often; its pairs are those of the tree.
    """
    if not any(parent is not None for parent in tree.parents()):
        raise ValueError("no feature of the tree has a child; the measures are of parents and their children.")
    found: dict[str, list] = {}
    for control in (False, True):
        some = {name: arm for name, arm in chosen.items() if name.endswith(", independent") == control}
        if not some:
            continue
        data = without_hierarchy(tree) if control else tree
        toys = fit(data, list(some.values()), seeds, recipe, parents=tree.parents(), dtype=dtype, progress=progress)
        parts = measure(toys, every_input(data), tree.parents(), progress)
        history = {"l0_path": toys.l0, "l1_path": toys.penalty, "child_path": toys.child_cosine}
        parts |= {name: values.movedim(0, -1).numpy() for name, values in history.items()}
        parts |= {f"first_{name}": value[:, 0].numpy() for name, value in toys.sae.parameters.items()}
        for name, value in {"names": np.array(list(some)), **parts}.items():
            found.setdefault(name, []).append(value)
    return {name: np.concatenate(values) for name, values in found.items()} | {
        "steps": np.array(toys.steps),
        "seeds": np.array(list(seeds)),
    }


def independent_arms(chosen: Mapping[str, Arm]) -> dict[str, Arm]:
    """Arms for the control, on features that fire independently."""
    return {f"{name}, independent": arm for name, arm in chosen.items()}


def load(path: str | Path = STORED) -> dict[str, np.ndarray]:
    """What `main` wrote."""
    with np.load(path) as data:
        return dict(data)


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m matryoshka_mixing.recipe [--seeds 16] [--steps 40000] [--jobs 2] [--output FILE]`.

    Train and measure every arm in float32, and store the numbers, with all parameters of the first seed.
    """
    parser = argparse.ArgumentParser(prog="python -m matryoshka_mixing.recipe", description=main.__doc__)
    parser.add_argument("--seeds", type=int, default=16)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--output", type=Path, default=STORED)
    options = parser.parse_args(arguments)
    groups = [range(low, min(low + SIDE_BY_SIDE, options.seeds)) for low in range(0, options.seeds, SIDE_BY_SIDE)]
    with ProcessPoolExecutor(options.jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        parts = list(pool.map(stored_arms, groups, [options.steps] * len(groups)))
    np.savez_compressed(options.output, **joined(parts))


def stored_arms(seeds: Sequence[int], steps: int) -> dict[str, np.ndarray]:
    """What is stored, for some seeds."""
    chosen = arms()
    chosen |= independent_arms({name: chosen[name] for name in ("standard", "all prefixes")})
    return compute(twenty_feature_tree(), seeds, Recipe(steps=steps), chosen, torch.float32, progress=True)


def joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Results for several seeds as one; parameters of the first seed alone."""
    once = {"names", "steps"} | {name for name in parts[0] if name.startswith("first_")}
    shared = {name: parts[0][name] for name in sorted(once)}
    seeds = {"seeds": np.concatenate([part["seeds"] for part in parts])}
    rest = set(parts[0]) - set(shared) - set(seeds)
    return shared | seeds | {n: np.concatenate([part[n] for part in parts], 1).astype(np.float32) for n in sorted(rest)}


if __name__ == "__main__":
    main()
