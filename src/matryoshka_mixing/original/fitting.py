"""Training every arm from every seed: what a seed draws, and the recipe's parts around the trainer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matryoshka_mixing import _batches, _kernel, _random, metrics, training
from matryoshka_mixing.features import FeatureTree, orthonormal_dictionary
from matryoshka_mixing.original import _loop
from matryoshka_mixing.original.recipe import FULL_LENGTH, Arm, Recipe
from matryoshka_mixing.sae import SAE, SAEConfig
from matryoshka_mixing.training import Setting


@dataclass(frozen=True, eq=False)
class Toys:
    """What `fit` returns. The first axes are (arms, seeds).

    Attributes:
        sae: the SAEs, in units of the features (the normalisation of the inputs is undone); their configuration holds
            the expected weights of the prefixes, and no penalty, which differs from seed to seed.
        dictionary: each seed's directions, with jittered norms.
        l1: the final penalty, in units of the features.
        together: mean expected weight of the prefixes that hold both of two latents, over the cool-down; latents change
            places when they are sorted, and are followed here.
        steps: the recorded steps.
        l0: mean L0 of the batches since the record before, shape (records, arms, seeds).
        penalty: the penalty at each record, in units of the features, shape (records, arms, seeds).
        child_cosine: median cosine of a parent's decoder with a child's direction at each record, likewise; NaN without
            children.
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
    rows = _random.normals((latents, d_in), seed, _random.START) / math.sqrt(d_in)
    return SAE(
        W_enc=rows.T.contiguous(),
        b_enc=rows.new_zeros(latents),
        W_dec=0.1 * (rows / _random.lengths(rows)),
        b_dec=rows.new_zeros(d_in),
        config=SAEConfig(d_in, (latents,)),
    )


def jittered_dictionary(n_features: int, d_in: int, seed: int, jitter: float = 0.05) -> Float[Tensor, "features d_in"]:
    """Orthogonal directions whose norms are 1 + jitter N(0, 1), drawn once for a seed."""
    norms = 1 + jitter * _random.normals((n_features, 1), seed, _random.NOISE)
    return norms * orthonormal_dictionary(n_features, d_in, seed)


def fit(
    tree: FeatureTree,
    arms: Sequence[Arm],
    seeds: Sequence[int],
    recipe: Recipe = FULL_LENGTH,
    *,
    parents: Sequence[int | None] | None = None,
    until: int | None = None,
    threads: int | None = None,
    progress: bool = False,
) -> Toys:
    """Train every arm from every seed: a seed names the start, the directions, the batches and the drawn prefixes.

    Args:
        tree: the features; inputs have as many dimensions.
        arms: what is trained; all on the same batches.
        seeds: as said, at least 0.
        recipe: the schedule.
        parents: whose pairs the history follows; the tree's own by default.
        until: stop after so many steps of the schedule.
        threads: as for `training.train`.
        progress: show a progress bar.

    Returns:
        `Toys`. An SAE is the same to the last bit whatever is trained beside it, on any number of threads, on any CPU.

    Raises:
        ValueError: naming what does not fit, and what is allowed.
    """
    threads = training.threads_of(threads)
    arms, seeds, until = list(arms), [int(seed) for seed in seeds], recipe.steps if until is None else until
    if not arms or len({len(arm.weights) for arm in arms}) > 1:
        raise ValueError(f"{len(arms)} arms were given; give at least 1, and all with as many latents.")
    if not seeds or min(seeds) < 0:
        raise ValueError(f"seeds are {seeds}; give at least 1, each a whole number of at least 0.")
    if not 1 <= until <= recipe.steps:
        raise ValueError(f"until is {until}; it may be 1 to {recipe.steps}.")
    bench = _Bench(tree, len(arms[0].weights), seeds, recipe, until)
    runs = [_Run(bench, arm) for arm in arms]
    training._run(runs, len(seeds), until, threads, progress)
    parents = tree.parents() if parents is None else parents

    def together(values: list) -> Tensor:
        return torch.from_numpy(np.array(values))

    return Toys(
        SAE.stack([run.sae() for run in runs]),
        bench.dictionary,
        together([run.l1[:, 0] / run.norm[:, 1] for run in runs]),
        together([run.shared() for run in runs]),
        np.flatnonzero(bench.recorded).tolist(),
        together([run.l0.T for run in runs]).movedim(0, 1),
        together([run.penalty.T for run in runs]).movedim(0, 1),
        torch.stack([run.child_cosines(parents) for run in runs], 1),
    )


class _Bench:
    """What all arms of some seeds share: a trainer with its starts, directions and inputs, and the schedule."""

    def __init__(self, tree: FeatureTree, latents: int, seeds: list[int], recipe: Recipe, until: int):
        n = tree.n_features
        self.tree, self.latents, self.seeds, self.recipe = tree, latents, seeds, recipe
        self.dictionary = torch.stack([jittered_dictionary(n, n, seed) for seed in seeds])
        start = SAE.stack([SAE.stack([original_start(latents, n, seed) for seed in seeds])])
        self.trainer = training._Job(self.setting(Arm((1.0,) * latents)), start, 0, recipe.training, np.float64)
        rates = np.array([recipe.learning_rate(step) for step in range(until)])
        self.optimiser = self.trainer.optimiser.at(rates)
        self.recorded = self.trainer.recorded[:until]

    def setting(self, arm: Arm) -> Setting:
        """An arm as the trainer has it; it knows neither sorting nor steering."""
        return Setting(self.config(arm.weights), self.tree, self.dictionary, drawn=arm.drawn)

    def config(self, weights: tuple[float, ...]) -> SAEConfig:
        """An SAE with every prefix."""
        return SAEConfig(self.tree.n_features, tuple(range(1, self.latents + 1)), weights)

    def normaliser(self, seed: int, norm: np.ndarray) -> _loop.Normaliser:
        """The inputs' normaliser; the directions of the seed of that number are laid out as in `_kernel.Room`."""
        shape = self.trainer.shape
        rows = self.trainer.dictionary[seed].reshape(shape.features, shape.d_in)
        dictionary = np.zeros((shape.features, shape.row))
        across = np.zeros((shape.d_in, shape.width))
        dictionary[:, : shape.d_in], across[:, : shape.features] = rows, rows.T
        squares = _random.lengths(self.dictionary[seed])[:, 0].square().numpy()
        length = math.sqrt(shape.d_in)
        return _loop.Normaliser(norm, self.recipe.norm_memory, length, squares, dictionary.ravel(), across.ravel())


class _Run:
    """All seeds of one arm: what is trained and kept."""

    def __init__(self, bench: _Bench, arm: Arm):
        self.bench, self.arm, seeds, latents = bench, arm, len(bench.seeds), bench.latents
        records, self.theta = int(bench.recorded.sum()), bench.trainer.theta.copy()
        self.loss = training._loss(bench.setting(arm))
        self.reach = np.ascontiguousarray(np.cumsum(arm.expected[::-1])[::-1])
        self.norm, self.l1 = np.zeros((seeds, 2)), np.full((seeds, 1), float(arm.l1))
        self.holder = np.tile(np.arange(latents), (seeds, 1))
        self.l0, self.penalty = np.zeros((seeds, records)), np.zeros((seeds, records))
        self.path = np.zeros((seeds, records, bench.trainer.shape.size))
        self.together, self.watched = np.zeros((seeds, latents, latents)), np.zeros((seeds, 1), np.int64)

    def room(self) -> tuple:
        """What one thread needs to train these SAEs, one after the other."""
        trainer, latents = self.bench.trainer, self.bench.latents
        batch = _batches.room(trainer.inputs, trainer.size, trainer.shape.features)
        room = _kernel.make_room(trainer.shape, len(batch.state), latents, np.float64)
        # Drawn prefixes are written into the loss.
        loss = self.loss._replace(reach=self.loss.reach.copy(), reach_decoder=self.loss.reach_decoder.copy())
        return batch, room, loss

    def fit(self, first: int, last: int, room: tuple, done: np.ndarray) -> None:
        """Train the seeds from that number on and before the last."""
        for seed in range(first, last):
            if not done[1]:
                self.fit_one(seed, room, done)

    def fit_one(self, seed: int, room: tuple, done: np.ndarray) -> None:
        """Train the seed of that number; it takes so long that a call of its own costs nothing."""
        bench, arm, recipe, (batch, step, loss) = self.bench, self.arm, self.bench.recipe, room
        trainer, latents, name = bench.trainer, bench.latents, bench.seeds[seed]
        streams = [_random.stream(recipe.seed, name, part) for part in (_random.BATCHES, _random.PREFIXES)]
        steers = arm.target_l0 is not None
        _loop.run(
            _loop.One(self.theta[seed], streams[0], streams[1], done),
            trainer.shape, loss, trainer.inputs, batch, trainer.size, bench.optimiser, step,
            bench.normaliser(seed, self.norm[seed]),
            _loop.Steering(
                self.l1[seed], recipe.ramp * recipe.steps, steers * recipe.steering / recipe.steps,
                float(arm.target_l0 or 0.0),
            ),
            _loop.Sorting(
                np.zeros(latents), np.zeros(latents), np.arange(latents), self.holder[seed], recipe.sort_memory,
                arm.sort, arm.mean_follows, arm.moments_follow,
            ),
            _loop.Record(
                bench.recorded, self.l0[seed], self.penalty[seed], self.path[seed].reshape(-1),
                (1 - recipe.cooldown) * recipe.steps, self.reach, self.together[seed].reshape(-1), self.watched[seed],
            ),
        )  # fmt: skip

    def sae(self) -> SAE:
        """The SAEs, in units of the features."""
        sae = self.bench.trainer.sae(self.theta).with_config(self.bench.config(self.arm.expected))
        scale = torch.from_numpy(self.norm[:, 1])[:, None]
        return replace(
            sae, W_enc=sae.W_enc * scale[..., None], W_dec=sae.W_dec / scale[..., None], b_dec=sae.b_dec / scale
        )

    def shared(self) -> Float[np.ndarray, "seeds d_sae d_sae"]:
        """`Toys.together` of this arm."""
        means = self.together / np.maximum(self.watched, 1)[..., None]
        return np.stack([mean[np.ix_(who, who)] for mean, who in zip(means, self.holder, strict=True)])

    def child_cosines(self, parents: Sequence[int | None]) -> Float[Tensor, "records seeds"]:
        """`Toys.child_cosine` of this arm."""
        found = []
        for path, dictionary in zip(self.path, self.bench.dictionary, strict=True):
            cosines = metrics.decoder_cosines(self.bench.trainer.sae(path), dictionary)
            pairs = metrics.mixing(cosines, metrics.match(cosines), parents).parent_to_child
            found.append(pairs.median(-1).values if pairs.shape[-1] else pairs.new_full(pairs.shape[:-1], math.nan))
        return torch.stack(found, -1)
