"""Initialisation and basins: which solutions random seeds end in, and whether the lowest loss is the cleanest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from scipy.stats import chi2_contingency, spearmanr
from torch import Tensor

from matryoshka_mixing import claims, features, figures, metrics, theory
from matryoshka_mixing.features import FeatureTree, States, orthonormal_dictionaries
from matryoshka_mixing.figures import COLOURS, MARKERS, end_labels, grid
from matryoshka_mixing.metrics import Basin, Reading
from matryoshka_mixing.parameters import Chapter, given
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.training import Setting, TrainConfig, Trained, train

EXTRAS = (0, 1, 2, 4)
"""Latents beyond one a feature."""
SHOWN = 12
"""How many solutions are drawn."""
OPTIMISERS = ("Adam", "gradient descent")


@dataclass(frozen=True)
class Parameters(Chapter):
    """The parameters of this chapter."""

    parent_probability: float = given("parent_probability", 0.3)
    child_probability: float = given("child_probability", 0.4)
    n_children: int = given("n_children", 2)
    inner_weight: float = given("inner_weight", 1.0)
    l1: float = given("l1", 0.03, meaning="weight of the L1 penalty of the main runs")
    d_model: int = given("d_model", 20, low=3, meaning="dimension of the input, with room for parent and children")
    n_seeds: int = given("n_seeds", 192, meaning="random seeds; the main run starts twelve times as many")
    n_sweep_seeds: int = given(
        "n_sweep_seeds", 16, meaning="a quarter of the seeds at a point of a sweep, or dictionaries"
    )
    seed: int = given("seed", 6000)
    start_noise: float = given("start_noise", 0.5)
    n_steps: int = given("n_steps", 2000)
    batch_size: int = given("batch_size", 200)
    n_grid: int = given("n_grid", 9, meaning="sweeps of penalty, learning rate and start have half as many points")


# Theory


def starts_dead(n_children: int) -> float:
    """How likely a random latent without biases fires on no input of a family: `(1 - 2^-(n + 1)) / (n + 1)`.

    For magnitudes 1 and orthonormal features. Along the features a random encoder direction is a Gaussian vector z, and
    the latent is dead if `z0 <= 0` and `z0 + zi <= 0` for every child i. Given z0 that has probability `Phi(-z0)^n`, so
    with `u = Phi(z0)` the answer is the integral of `(1 - u)^n` from 0 to 1/2. For two children it is 7/24, the solid
    angle of a cone with dihedral angles 120, 135 and 135 degrees. Without biases such a latent never gets a gradient.
    """
    return (1 - 0.5 ** (n_children + 1)) / (n_children + 1)


def best_frame(
    moments: Float[Tensor, "latents features features"], iterations: int = 2000
) -> tuple[Float[Tensor, "latents features"], float]:
    """Orthonormal directions e_i that maximise `sum_i e_i M_i e_i`, and that maximum.

    Each step moves to the orthonormal frame nearest to the rows `M_i e_i` (their polar factor); the sum is convex, so
    it never falls. Starts at the top eigenvector of the first matrix, and for each next one at the top eigenvector
    across those before. A local maximum, which is what a solution is.

    Args:
        moments: symmetric matrices without negative eigenvalues, no more than features.
        iterations: steps; the distance from the maximum shrinks by a constant factor in each.
    """
    frame = moments.new_zeros(moments.shape[:2])
    for i, moment in enumerate(moments):
        across = torch.eye(len(moment), dtype=moment.dtype) - frame[:i].T @ frame[:i]
        frame[i] = theory.top_eigenvector(across @ moment @ across)
    for _ in range(iterations):
        left, _, right = torch.linalg.svd(torch.einsum("ifg,ig->if", moments, frame), full_matrices=False)
        frame = left @ right
    return frame, float(torch.einsum("if,ifg,ig->", frame, moments, frame))


def family_losses(states: States, inner_weight: float = 1.0) -> tuple[dict[str, float], dict[str, float]]:
    """The losses of the solutions that have a name: of a standard SAE, and of a Matryoshka SAE of widths (1, n + 1).

    For one parent with n exclusive children. The inputs are linearly independent, so an encoder without biases can give
    every latent any activation on each of them: a solution is a table of activations with the best decoders for it.

    Standard, k live latents: what rank k leaves (Eckart and Young 1936), the sum of the least n + 1 - k eigenvalues of
    the second moment. For 2 < k < n + 1 it is only a lower bound, since activations may not be negative.

    Matryoshka, weights (beta, 1). If the first latent is dead, the rest is a standard SAE. If it fires on every input,
    and every other live latent completes one input in the outer prefix, a completed input weighs beta and another
    1 + beta, and the loss is what the top eigenvector of that re-weighted moment leaves. A latent may also be shared by
    two inputs that lean the same way: see `best_frame`.

    Latents that cancel: the children's latents span the differences between siblings and lean, ever so little, toward
    the parent alone, on which all of them fire loudly and cancel but for what it lacks. In the limit of unbounded
    activations this completes the parent alone and, of every parent + child, all but its part in the plane of the
    parent and the mean child: only that part weighs 1 + beta. No SAE attains the limit.

    Args:
        states: of one family with equal children.
        inner_weight: beta.
    """
    parent, beta = 0, inner_weight
    n, firing = states.acts.shape[1] - 1, states.acts[:, parent] > 0
    alone = firing & (states.acts.sum(-1) == states.acts[:, parent])
    pairs = [firing & (states.acts[:, child] > 0) for child in range(1, n + 1)]
    least = torch.linalg.eigvalsh(theory.second_moment(states)).clamp_min(0).cumsum(0).flip(0).tolist() + [0.0]

    def completing(*completed: Tensor) -> float:
        weights = 1 + beta - sum(one.double() for one in completed) * firing
        return float(torch.linalg.eigvalsh(theory.second_moment(states, weights))[:-1].sum())

    mean_child = states.acts[:, 1:].mean(-1, keepdim=True).expand(-1, n)
    plane = States(torch.cat([states.acts[:, :1], mean_child], 1), states.probs)
    in_plane = torch.linalg.eigvalsh(theory.second_moment(plane, 1 + beta - alone.double()))[:-1].sum()
    shared = torch.stack(
        [(1 + beta) * theory.second_moment(states), theory.second_moment(states, (alone | pairs[0]).double())]
    )
    matryoshka = {
        "latents that cancel (a limit)": float(in_plane) + beta * (states.power - plane.power),
        "parent first, every child completed": completing(*pairs),
        "parent alone completed, and all children but one": completing(alone, *pairs[1:]),
        "one latent shared by parent alone and a child": (1 + beta) * states.power - best_frame(shared)[1],
        "one child completed": completing(pairs[0]),
        "parent alone completed": completing(alone),
        "first latent only": completing(),
    }
    matryoshka |= {f"first latent dead, {k} others live": beta * states.power + least[k] for k in range(n + 1)}
    return {f"{k} live": least[k] for k in range(n + 2)}, matryoshka


# Experiments


@dataclass(frozen=True)
class Toy:
    """What the experiments start from: one parent with exclusive children. Every seed has directions of its own.

    Attributes:
        chosen: the parameters.
        tree: the features.
    """

    chosen: Parameters
    tree: FeatureTree

    @classmethod
    def of(cls, chosen: Parameters) -> Toy:
        """The toy with these parameters."""
        return cls(chosen, features.family(chosen.parent_probability, chosen.child_probability, chosen.n_children))

    @cached_property
    def states(self) -> States:
        """All inputs."""
        return self.tree.states()

    @property
    def n_points(self) -> int:
        """Points of the sweeps of penalty, learning rate and start."""
        return (self.chosen.n_grid + 1) // 2

    @property
    def both(self) -> tuple[SAEConfig, SAEConfig]:
        """The Matryoshka SAE and the standard SAE, with the penalty and without biases.

        The standard SAE is the Matryoshka SAE whose inner prefix weighs nothing.
        """
        p, widths = self.chosen, (1, self.tree.n_features)
        matryoshka = SAEConfig(p.d_model, widths, (p.inner_weight, 1.0), p.l1, encoder_bias=False, decoder_bias=False)
        return matryoshka, replace(matryoshka, weights=(0.0, 1.0))

    @property
    def exact(self) -> TrainConfig:
        """How to train on the exact loss."""
        return TrainConfig(self.chosen.n_steps)

    @property
    def optimisers(self) -> dict[str, TrainConfig]:
        """Adam and gradient descent, by `OPTIMISERS`.

        The rate of descent is the inverse of the curvature of a decoder row whose latent carries all of the input; very
        long gradients are shortened, so that nothing overflows. Neither depends on the coordinates.
        """
        rate = 0.5 / ((1 + self.chosen.inner_weight) * self.states.power)
        descent = replace(self.exact, optimiser="gd", lr=rate, clip=1.0)
        return dict(zip(OPTIMISERS, (self.exact, descent), strict=True))

    @cached_property
    def named_losses(self) -> dict[str, dict[str, float]]:
        """`family_losses`, by kind of SAE."""
        return dict(zip(("standard", "Matryoshka"), family_losses(self.states, self.chosen.inner_weight), strict=True))

    def seeds(self, n: int) -> range:
        """The first `n` seeds."""
        return range(self.chosen.seed, self.chosen.seed + n)

    def directions(self, n: int) -> Float[Tensor, "seeds features d_model"]:
        """The features' directions, for each of the first `n` seeds its own."""
        return orthonormal_dictionaries(self.tree.n_features, self.chosen.d_model, self.seeds(n))


def recovery(
    decoder: Float[Tensor, "*instances d_sae features"], live_latents: Bool[Tensor, "*instances d_sae"]
) -> Float[Tensor, "*instances"]:
    """How well an SAE recovers the truth, from 0 to 1: each feature's latent's absolute cosine with it, on average.

    Dead latents are left out before latents are matched to features, and a feature without a latent counts as 0. For
    orthonormal features no SAE has more than 1, and only the true directions (or their opposites) have 1.

    Args:
        decoder: from `metrics.decoder_cosines`.
        live_latents: from `metrics.live`.
    """
    latents, shown = metrics.match(decoder, live_latents), decoder.abs()
    own = shown.gather(-2, latents.clamp_min(0).unsqueeze(-2)).squeeze(-2)
    return (own * (latents >= 0)).mean(-1)


OUTCOMES = (
    "parent first",
    "with strays",
    "absorbed",
    "child missing",
    "too few live",
    "first prefix dead",
)
"""The kinds of outcome that `outcome` tells apart."""


def outcome(
    reading: Reading, states: States, parents: Sequence[int | None], widths: Sequence[int]
) -> Int[Tensor, "*instances"]:
    """Which kind of solution each SAE is, as a position in `OUTCOMES`: the last of these that applies.

    - *parent first*: every feature's latent fires wherever its feature does; a child's latent besides fires at most
      on its siblings, and a parent's nowhere.
    - *with strays*: the same, but a latent fires on other inputs too, such as two children's on the parent alone.
    - *child missing*: some feature's latent does not fire everywhere its feature does.
    - *absorbed*: that, and on at least half of the inputs with a child the parent is carried by other latents, its own
      being silent (see `metrics.Edges`).
    - *too few live*: fewer live latents than features.
    - *first prefix dead*: no latent of the first prefix is live. A standard SAE has one prefix, so all are dead.

    Latents are assigned by `metrics.assign`. Where a parent's latent is a complement, firing and silence change places.

    Args:
        reading: from `metrics.read`.
        states: the data.
        parents: from `FeatureTree.parents`.
        widths: the prefixes that are trained.
    """
    latents = reading.assigned
    own = metrics.mixing(reading.decoder, latents, parents).own
    has_children = torch.tensor([f in parents for f in range(len(parents))])
    fires = metrics.firing(reading.acts, latents) ^ ((own < 0) & has_children).unsqueeze(-2)
    present = states.acts > 0
    groups = [
        [i for i, other in enumerate(parents) if i == f or other == parent is not None]
        for f, parent in enumerate(parents)
    ]
    allowed = torch.stack([present[:, group].any(-1) for group in groups], -1)
    covers = ((fires & (latents >= 0).unsqueeze(-2)) | ~present).all(-2).all(-1)
    strays = (fires & ~allowed).any(-2).any(-1)
    carried = reading.edges.mean(reading.edges.carried) >= 0.5 - 1e-9
    kind = torch.where(covers, strays.long(), torch.where(carried, 2, 3))
    kind = torch.where(reading.live.sum(-1) < len(parents), 4, kind)
    return torch.where(reading.live[..., : widths[0]].any(-1), kind, 5)


def shares_of(kind: Int[Tensor, " seeds"]) -> Float[np.ndarray, " kinds"]:
    """Share of the seeds in each of `OUTCOMES`."""
    return np.bincount(kind, minlength=len(OUTCOMES)) / len(kind)


@dataclass(frozen=True)
class Found:
    """What the seeds of one setting found.

    Attributes:
        sae: the trained SAEs, without latents beyond the last prefix that weighs anything (they are never trained).
        directions: of the features, of each seed its own.
        loss, converged: of each seed.
        reading: from `metrics.read`.
        recovery: how well each seed recovers the features, from 0 to 1.
        kind: its kind of outcome, as a position in `OUTCOMES`.
    """

    sae: SAE
    directions: Float[Tensor, "seeds features d_model"]
    loss: Float[Tensor, " seeds"]
    converged: Bool[Tensor, " seeds"]
    reading: Reading
    recovery: Float[Tensor, " seeds"]
    kind: Int[Tensor, " seeds"]

    @classmethod
    def all(
        cls, run: Trained, directions: Float[Tensor, "seeds features d_model"], data: States, tree: FeatureTree
    ) -> list[Found]:
        """Measure what was trained, one for each setting."""
        found = []
        for sae, loss, converged in zip(run.sae, run.loss, run.converged, strict=True):
            used = [
                width for width, weight in zip(sae.one_config.widths, sae.one_config.weights, strict=True) if weight
            ]
            sae = sae.first(used[-1])
            reading = metrics.read(sae, data, directions, tree.parents())
            clean = recovery(reading.decoder, reading.live)
            kind = outcome(reading, data, tree.parents(), used)
            found.append(cls(sae, directions, loss, converged, reading, clean, kind))
        return found

    @property
    def shares(self) -> Float[np.ndarray, " kinds"]:
        """Share of the seeds of each kind."""
        return shares_of(self.kind)

    def share(self, kind: str) -> float:
        """Share of the seeds of one kind."""
        return float(self.shares[OUTCOMES.index(kind)])

    @property
    def lowest(self) -> int:
        """The first seed of lowest loss."""
        return int(self.loss.round(decimals=9).argsort(stable=True)[0])

    @property
    def gap(self) -> float:
        """How far the recovery of the lowest loss lies below the best."""
        return float(self.recovery.max() - self.recovery[self.lowest])

    @property
    def correlation(self) -> float:
        """Rank correlation of loss and recovery; NaN where either is the same in all seeds."""
        if len(self.loss.unique()) < 2 or len(self.recovery.unique()) < 2:
            return math.nan
        return float(spearmanr(self.loss, self.recovery).statistic)

    def below(self, loss: float, power: float) -> Bool[Tensor, " seeds"]:
        """Whether each seed lies below this loss, by more than the same solution may (see `metrics.same_loss`)."""
        return self.loss < loss - 1e-4 * power


def explore(
    toy: Toy,
    configs: Sequence[SAEConfig],
    n: int,
    training: TrainConfig | None = None,
    near: bool = False,
    norms: Sequence[float] = (0.1,),
) -> list[Found]:
    """Train every configuration from the first `n` seeds, in one call.

    Args:
        toy: the data.
        configs: of the same shape.
        n: how many seeds.
        training: exact, if None.
        near: start near the truth.
        norms: norm of the decoder's rows at a random start, for all configurations or for each.
    """
    seeds, directions = toy.seeds(n), toy.directions(n)
    if near:
        start = start_near(directions, seeds, toy.chosen.start_noise)
    else:
        starts = [random_start(configs[0], seeds, float(norm)) for norm in norms]
        start = SAE.stack(starts) if len(starts) > 1 else starts[0]
    run = train([Setting(config, toy.states, directions) for config in configs], start, training or toy.exact)
    return Found.all(run, directions, toy.states, toy.tree)


def arm_configs(toy: Toy) -> dict[str, SAEConfig]:
    """The four main arms by title: each kind of SAE with the penalty, then without. If it is 0, both are the same."""
    again = " again" if toy.chosen.l1 == 0 else ""
    arms = {}
    for kind, config in zip(("Matryoshka", "standard"), toy.both, strict=True):
        arms[f"{kind}, penalty {toy.chosen.l1:g}"] = config
        arms[f"{kind}, penalty 0{again}"] = replace(config, l1=0.0)
    return arms


def with_biases(configs: Sequence[SAEConfig], encoder: bool, decoder: bool) -> list[SAEConfig]:
    """The same configurations with these biases trained."""
    return [replace(config, encoder_bias=encoder, decoder_bias=decoder) for config in configs]


@dataclass(frozen=True)
class MainRuns:
    """The main runs.

    Attributes:
        arms: by title, in the order of `arm_configs`.
        biased: with a decoder bias, by title: Matryoshka, then standard.
        near: the arms from near the truth, which are the reference.
        solutions: of each arm, lowest loss first.
    """

    arms: dict[str, Found]
    biased: dict[str, Found]
    near: dict[str, Found]
    solutions: dict[str, list[Basin]]

    def reference(self, arm: str) -> float:
        """Median loss of the reference."""
        return float(self.near[arm].loss.median())

    def report(self) -> str:
        """How many seeds converged, in how many solutions, a line for each arm."""
        return "\n".join(
            f"{name}: {int(found.converged.sum())} of {len(found.loss)} seeds converged, "
            f"in {len(self.solutions[name])} solutions; all latents fire in {int(found.reading.all_live.sum())}"
            for name, found in self.arms.items()
        )


def main_runs(toy: Toy) -> MainRuns:
    """Train the arms: all seeds in the first, a quarter in the others, a sixth with a decoder bias."""
    configs, n = arm_configs(toy), toy.chosen.n_seeds
    ordered = list(configs.values())
    found = explore(toy, ordered[:1], 12 * n) + explore(toy, ordered[1:], 3 * n)
    arms = dict(zip(configs, found, strict=True))
    near = dict(zip(configs, explore(toy, ordered, 2 * toy.chosen.n_sweep_seeds, near=True), strict=True))
    biased = explore(toy, with_biases(toy.both, False, True), 2 * n)
    titles = ("Matryoshka, decoder bias", "standard, decoder bias")
    grouped = {
        name: solutions(found.sae, toy.states, found.directions, found.sae.one_config) for name, found in arms.items()
    }
    return MainRuns(arms, dict(zip(titles, biased, strict=True)), near, grouped)


def solutions(
    sae: SAE,
    states: States,
    dictionary: Float[Tensor, "*#seeds features d_in"],
    config: SAEConfig,
    tolerance: float = 0.01,
) -> list[Basin]:
    """Groups seeds that found the same solution; lowest loss first.

    Two SAEs count as the same solution if they have as many live latents in the first prefix and in all, the same loss
    (see `metrics.same_loss`), and every prefix has the same squared error on every input. So latents may change places
    within a prefix, directions in which nothing changes (a latent that fires on a sibling at no cost) do not matter,
    and inputs that are alike (as probable and as long: siblings) may change places.

    Args:
        sae: parameters with one leading axis, the seeds.
        states: the data. Where inputs are alike for another reason than that siblings are, more may be merged.
        dictionary: the true directions, of all seeds or of each its own.
        config: the SAEs' configuration; prefixes of weight 0 are left out.
        tolerance: how far two errors may lie apart, as a share of the longest input's square (our default).
    """
    x, trained = states.inputs(dictionary), [w > 0 for w in config.weights]
    widths = [width for width, used in zip(config.widths, trained, strict=True) if used]
    loss, fires = sae.loss(x, states.probs, config), metrics.live(sae.encode(x, states.probs))
    alive = torch.stack([fires[:, :width].sum(-1) for width in widths], -1)
    lengths = x.square().sum(-1).reshape(-1, len(states))[0]  # alike on all dictionaries
    tables = sae.errors(x, widths, states.probs).mT / lengths.max()
    alike = torch.stack([states.probs, lengths], -1).mul(1e9).round().unique(dim=0, return_inverse=True)[1]
    for group in alike.unique():
        rows = torch.nonzero(alike == group).flatten()
        for table in tables:
            keys = [table[row].mul(100).round().tolist() for row in rows.tolist()]
            table[rows] = table[rows[sorted(range(len(keys)), key=keys.__getitem__)]]

    def same(seed: int, first: int) -> bool:
        return (
            torch.equal(alive[seed], alive[first])
            and bool(metrics.same_loss(loss[seed], loss[first], states.power))
            and bool((tables[seed] - tables[first]).abs().max() <= tolerance)
        )

    return metrics.grouped(loss, fires.sum(-1), same)


def shown(basins: Sequence[Basin]) -> list[Basin]:
    """The most frequent solutions, lowest loss first."""
    return sorted(sorted(basins, key=lambda one: -one.share)[:SHOWN], key=lambda one: one.loss)


def draw_solutions(found: Found, basins: Sequence[Basin], names: Sequence[str]) -> Figure:
    """The most frequent solutions as heat maps of decoder cosines."""
    decoder, live = found.reading.decoder.numpy(), found.reading.live.numpy()
    return figures.basin_heatmaps(shown(basins), decoder, live, names, SHOWN, found.recovery.numpy())


def solutions_table(toy: Toy, found: Found, basins: Sequence[Basin]) -> str:
    """What each solution of at least half a percent of the seeds does, and that of lowest loss, as HTML.

    Mixings are means over pairs and over the solution's seeds; blank where a latent is dead.
    """
    parents, reading, rows = toy.tree.parents(), found.reading, []
    mixing = metrics.mixing(reading.decoder, reading.assigned, parents)
    mixes = {
        "parent to child": mixing.parent_to_child,
        "child to sibling": mixing.child_to_sibling,
        "child to parent": mixing.child_to_parent,
        "absorption": reading.absorption,
    }
    for one in basins:
        if one.share < 0.005 and one is not basins[0]:
            continue
        whole, mine = one.live >= len(parents), one.seeds
        row = {
            "loss": one.loss,
            "share": one.share,
            "converged": float(found.converged[mine].double().mean()),
            "live": one.live,
            "recovery": float(found.recovery[mine].median()),
        }
        row |= {name: float(torch.nanmean(pairs[mine])) if whole else np.nan for name, pairs in mixes.items()}
        rows.append(row | {"kind": OUTCOMES[int(found.kind[mine].mode().values)]})
    style = pd.DataFrame(rows).style.hide(axis="index").format(precision=3, na_rep="")
    style = style.format("{:.4f}", subset=["loss"]).format("{:.1%}", subset=["share"])
    return style.set_uuid("basins").to_html()


def absorbed_loss(states: States, l1: float) -> float:
    """The loss of a standard SAE with one latent for each input that holds something: sum of `p (l1 r - l1^2 / 4)`.

    r is the input's length; the penalty shortens its reconstruction by l1 / 2 (at most to 0). With a penalty this is
    the absorbed solution of a family with exclusive children.
    """
    length = states.acts.norm(dim=-1)
    short = length.clamp_max(l1 / 2)
    return float((states.probs * (short.square() + l1 * (length - short))).sum())


def theory_losses(toy: Toy, config: SAEConfig) -> dict[str, float]:
    """The losses that theory names for a configuration: at penalty 0 all, with the penalty the absorbed one."""
    kind = "Matryoshka" if config.weights[0] else "standard"
    if config.l1 == 0:
        return toy.named_losses[kind]
    return {"absorbed": absorbed_loss(toy.states, config.l1)} if kind == "standard" else {}


def named(found: Found, losses: Mapping[str, float], power: float) -> pd.DataFrame:
    """How many seeds reach each loss that theory names, and how far from it they lie (median), NaN where none does."""
    rows = []
    for words, loss in losses.items():
        mine = found.loss[metrics.same_loss(found.loss, loss, power)]
        gap = float((mine - loss).abs().median()) if len(mine) else np.nan
        rows.append([words, loss, len(mine) / len(found.loss), gap])
    return pd.DataFrame(rows, columns=["solution", "loss in theory", "share of seeds", "median distance"])


def named_table(tables: Mapping[str, pd.DataFrame]) -> str:
    """Tables of `named`, by kind of SAE, as one in HTML."""
    table = pd.concat([part.assign(SAE=kind) for kind, part in tables.items()])
    table = table.reset_index(drop=True)[["SAE", *table.columns[:-1]]]
    style = table.style.hide(axis="index").format({"loss in theory": "{:.4f}", "share of seeds": "{:.1%}"})
    style = style.format(lambda gap: "" if np.isnan(gap) else claims.number(gap), subset=["median distance"])
    return style.set_uuid("named").to_html()


@dataclass(frozen=True)
class Circles:
    """The solutions of one arm.

    Attributes:
        loss, share: of each solution.
        low, high: range of the recovery of its seeds.
        ticks: losses that theory names.
        reference: loss and recovery of the solution from near the truth.
    """

    loss: Float[np.ndarray, " solutions"]
    share: Float[np.ndarray, " solutions"]
    low: Float[np.ndarray, " solutions"]
    high: Float[np.ndarray, " solutions"]
    ticks: list[float]
    reference: tuple[float, float]


def circles(toy: Toy, runs: MainRuns) -> dict[str, Circles]:
    """The solutions of every arm, by its title."""
    drawn = {}
    for name, config in arm_configs(toy).items():
        basins, near = runs.solutions[name], runs.near[name]
        recovery = [runs.arms[name].recovery[one.seeds] for one in basins]
        drawn[name] = Circles(
            loss=np.array([one.loss for one in basins]),
            share=np.array([one.share for one in basins]),
            low=np.array([float(values.min()) for values in recovery]),
            high=np.array([float(values.max()) for values in recovery]),
            ticks=list(theory_losses(toy, config).values()),
            reference=(max(0.0, runs.reference(name)), float(near.recovery.median())),
        )
    return drawn


def loss_and_recovery(panels: Mapping[str, Circles]) -> Figure:
    """Every solution as a circle whose area is its share of the seeds, over loss and recovery.

    The circle sits at the middle of the range of recovery; what theory names is drawn along the bottom.
    """
    figure, axes = grid(len(panels), 2, (4.5, 3.5), sharey=True)
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        # Losses that theory puts at 0 come out as noise of either sign.
        loss = np.where(np.abs(panel.loss) < 1e-8, 0, panel.loss)
        axis.vlines(loss, panel.low, panel.high, color=COLOURS[0], lw=1.5)
        look = {"s": 12 + 1500 * panel.share, "color": COLOURS[0], "alpha": 0.45, "ec": "0.2", "lw": 0.8}
        axis.scatter(loss, (panel.low + panel.high) / 2, label="random", **look)
        axis.plot(*panel.reference, "*", ms=11, color=COLOURS[1], mec="0.1", mew=0.6, label="near the truth")
        axis.plot(
            panel.ticks, [0.02] * len(panel.ticks), "|", color="0.15", ms=14, mew=1.3, label="theory",
            transform=axis.get_xaxis_transform(),
        )  # fmt: skip
        lowest = int(loss.argmin())
        axis.annotate(
            "lowest", (loss[lowest], panel.low[lowest]), xytext=(0, -22), textcoords="offset points", fontsize=9,
            ha="left" if loss[lowest] < 0.01 else "center", arrowprops={"arrowstyle": "-", "lw": 0.8, "color": "0.3"},
        )  # fmt: skip
        axis.set_xscale("symlog", linthresh=0.01, linscale=0.4)
        axis.set(title=title, ylim=(-0.08, 1.05))
        axis.xaxis.set_major_locator(mpl.ticker.FixedLocator([0, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5, 1, 2, 5]))
        axis.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
        axis.xaxis.set_minor_locator(mpl.ticker.NullLocator())
        edge = [*loss, panel.reference[0]]
        axis.set_xlim(-0.002 if min(edge) < 0.01 else 0.8 * min(edge), 1.3 * max(edge))
        axis.set_xlabel("loss")
    for axis in axes[::2]:
        axis.set_ylabel("recovery")
    handles, labels = axes[0].get_legend_handles_labels()
    legend = figure.legend(handles, labels, loc="outside lower left", ncols=3, fontsize=9)
    first: Any = legend.legend_handles[0]
    first.set_sizes([80])
    return figure


def best_of(
    loss: Float[Tensor, " seeds"],
    values: Float[Tensor, " seeds"],
    counts: Sequence[int],
    tie: float = 1e-7,
) -> Float[Tensor, " counts"]:
    """What to expect of a value when of k runs the one of lowest loss is kept, for each k in `counts`.

    Exact over all ways to draw k of the N seeds, none twice: the seed of rank i (from 0) is the lowest of the k with
    probability `C(N - 1 - i, k - 1) / C(N, k)`. Among runs of equal loss each is kept as often.

    Args:
        loss: of every seed.
        values: what is asked of the run that is kept; 0 or 1 gives a probability.
        counts: how many runs, each from 1 to the number of seeds.
        tie: losses this close together count as equal.

    Raises:
        ValueError: if a count is outside its range.
    """
    n = len(loss)
    if wrong := [k for k in counts if not 1 <= k <= n]:
        raise ValueError(f"counts holds {wrong}; of {n} seeds from 1 to {n} can be drawn.")
    order = torch.argsort(loss, stable=True)
    group = (loss[order].diff() > tie).cumsum(0)
    group = torch.cat([group.new_zeros(1), group])
    values = values[order].double()
    sums = torch.zeros(n, dtype=torch.float64).index_add_(0, group, values)
    values = (sums / torch.bincount(group, minlength=n).clamp_min(1))[group]
    ranks = torch.arange(n, dtype=torch.float64)
    expected = []
    for k in counts:
        # The chance that all k lie beyond rank i falls by the factor (N - i - k) / (N - i) from one rank to the next.
        beyond = torch.cumprod(((n - ranks - k) / (n - ranks)).clamp_min(0), 0)
        chance = torch.cat([torch.ones(1, dtype=torch.float64), beyond[:-1]]) - beyond
        expected.append((chance * values).sum())
    return torch.stack(expected)


@dataclass(frozen=True)
class Kept:
    """What to expect of a value when of k runs the one of lowest loss is kept.

    Attributes:
        counts: k, in increasing order.
        values: the expectation at each.
    """

    counts: list[int]
    values: Float[Tensor, " counts"]

    @classmethod
    def of(cls, loss: Float[Tensor, " seeds"], values: Float[Tensor, " seeds"]) -> Kept:
        """From one value a seed: at the powers of two up to 256, or up to the number of seeds."""
        counts = [2**i for i in range(9) if 2**i <= len(loss)]
        return cls(counts, best_of(loss, values, counts))

    def at(self, k: int) -> float:
        """The value for k runs, or for as many of the counts below as there are."""
        return float(self.values[max(i for i, count in enumerate(self.counts) if count <= k)])

    @property
    def peak(self) -> int:
        """The count of the highest value."""
        return self.counts[int(self.values.argmax())]


def kept_recovery(runs: MainRuns) -> dict[str, Kept]:
    """The recovery of the run that is kept, in every arm and with a decoder bias."""
    return {name: Kept.of(found.loss, found.recovery) for name, found in (runs.arms | runs.biased).items()}


def kept_chances(toy: Toy, runs: MainRuns) -> dict[str, Kept]:
    """The chance of three things in the run that is kept, in the first arm."""
    name, main = next(iter(runs.arms.items()))
    chances = {
        "no latent dead": main.reading.all_live,
        "parent first": main.kind == OUTCOMES.index("parent first"),
        "loss below the reference": main.below(runs.reference(name), toy.states.power),
    }
    return {label: Kept.of(main.loss, holds.double()) for label, holds in chances.items()}


def best_of_curves(panels: Mapping[str, Mapping[str, Kept]]) -> Figure:
    """What is kept of k runs: for each panel (its name labels the axis) the curves by their labels."""
    figure, axes = grid(len(panels), 1, (5.9, 3.6))
    for axis, (ylabel, curves) in zip(axes, panels.items(), strict=True):
        for i, (label, kept) in enumerate(curves.items()):
            look = {"color": COLOURS[i % len(COLOURS)], "marker": MARKERS[i % 6], "ls": ("-", "--", ":", "-.")[i % 4]}
            axis.plot(kept.counts, kept.values, lw=1.8, ms=5, label=label, **look)
        ends = [(label, float(kept.counts[-1]), float(kept.values[-1])) for label, kept in curves.items()]
        end_labels(axis, [(*end, COLOURS[i % len(COLOURS)]) for i, end in enumerate(ends)], height=210)
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%d"))
        axis.set(xlabel="runs k, of which the lowest loss is kept", ylabel=ylabel)
    return figure


@dataclass(frozen=True)
class Sweep:
    """Both SAEs at several amounts of one factor.

    Attributes:
        xlabel: the factor's name.
        amounts: its amounts, in words.
        matryoshka, standard: what the seeds found at each.
    """

    xlabel: str
    amounts: list[str]
    matryoshka: list[Found]
    standard: list[Found]

    @classmethod
    def of(cls, xlabel: str, amounts: list[str], found: list[Found]) -> Sweep:
        """From what the Matryoshka SAE found at every amount, and then the standard one."""
        return cls(xlabel, amounts, found[: len(amounts)], found[len(amounts) :])

    def converged(self, point: int) -> float:
        """Share of all SAEs at one amount that converged."""
        done = torch.cat([self.matryoshka[point].converged, self.standard[point].converged])
        return float(done.double().mean())

    def bars(self, suffix: str = "") -> dict[str, Bars]:
        """A panel of bars for each SAE, titled with its name and the suffix."""
        parts = {"Matryoshka": self.matryoshka, "standard": self.standard}
        return {
            kind + suffix: Bars(self.xlabel, self.amounts, np.stack([found.shares for found in part]))
            for kind, part in parts.items()
        }


def sweep_extra(toy: Toy) -> Sweep:
    """Over the number of extra latents in the outer prefix; all numbers train in one call."""
    n = toy.tree.n_features
    wide = (1, *[n + extra for extra in EXTRAS])
    configs = [
        replace(kind, widths=wide, weights=(kind.weights[0], *[float(other == extra) for other in EXTRAS]))
        for kind in toy.both
        for extra in EXTRAS
    ]
    return Sweep.of(
        "extra latents", [str(extra) for extra in EXTRAS], explore(toy, configs, 4 * toy.chosen.n_sweep_seeds)
    )


def sweep_penalty(toy: Toy) -> Sweep:
    """Over the penalty, from 0 to 0.2."""
    penalties = np.linspace(0, 0.2, toy.n_points)
    configs = [replace(kind, l1=float(penalty)) for kind in toy.both for penalty in penalties]
    return Sweep.of(
        "L1 penalty", [f"{penalty:g}" for penalty in penalties], explore(toy, configs, 4 * toy.chosen.n_sweep_seeds)
    )


def sweep_rate(toy: Toy) -> Sweep:
    """Over the peak learning rate, from 0.001 to 0.1: one for a call."""
    rates = np.geomspace(0.001, 0.1, toy.n_points)
    pairs = [explore(toy, toy.both, 4 * toy.chosen.n_sweep_seeds, replace(toy.exact, lr=float(rate))) for rate in rates]
    return Sweep("learning rate", [f"{rate:.2g}" for rate in rates], *map(list, zip(*pairs, strict=True)))


def sweep_norm(toy: Toy) -> Sweep:
    """Over the norm of the decoder's rows at the start, from 0.01 to 1, the encoder's being 1."""
    norms = np.geomspace(0.01, 1, toy.n_points)
    found = explore(
        toy, [kind for kind in toy.both for _ in norms], 4 * toy.chosen.n_sweep_seeds, norms=[*norms, *norms]
    )
    return Sweep.of("decoder norm at the start", [f"{norm:.2g}" for norm in norms], found)


def sweep_biases(toy: Toy, runs: MainRuns) -> Sweep:
    """Over which biases are trained, and last with sampled batches and none."""
    bare, half = list(runs.arms.values())[::2], max(1, toy.chosen.n_seeds // 2)
    encoder, both = (explore(toy, with_biases(toy.both, True, decoder), half) for decoder in (False, True))
    sampling = replace(toy.exact, batch_size=toy.chosen.batch_size, seed=toy.chosen.seed)
    sampled = explore(toy, toy.both, half, sampling)
    pairs = [bare, encoder, list(runs.biased.values()), both, sampled]
    names = ["none", "enc.", "dec.", "both", "sampled"]
    return Sweep("trained biases", names, *map(list, zip(*pairs, strict=True)))


def sampled_shift(biases: Sweep) -> float:
    """How far sampled batches move a share of Matryoshka seeds at most, on the same seeds; see `sweep_biases`."""
    exact, sampled = biases.matryoshka[0], biases.matryoshka[-1]
    return float(np.abs(sampled.shares - shares_of(exact.kind[: len(sampled.kind)])).max())


def sweep_table(*sweeps: Sweep) -> pd.DataFrame:
    """What the Matryoshka SAE's seeds end in, and the share of all SAEs that converged, at every amount of sweeps."""
    rows, kinds = {}, ("parent first", "too few live", "first prefix dead")
    for sweep in sweeps:
        for point, (amount, found) in enumerate(zip(sweep.amounts, sweep.matryoshka, strict=True)):
            shares = {kind: f"{found.share(kind):.0%}" for kind in kinds}
            rows[f"{sweep.xlabel} {amount}"] = shares | {"converged": f"{sweep.converged(point):.0%}"}
    return pd.DataFrame(rows).T


@dataclass(frozen=True)
class Bars:
    """One panel of stacked bars.

    Attributes:
        xlabel: label of the axis.
        names: of the bars.
        shares: share of the seeds in each of `OUTCOMES`.
    """

    xlabel: str
    names: list[str]
    shares: Float[np.ndarray, "bars kinds"]


def stacked_shares(panels: Mapping[str, Bars], width: float = 4.3, across: int = 2) -> Figure:
    """What the seeds end in, as stacked bars; kinds that never occur are left out of the legend.

    Args:
        panels: by title.
        width: of a panel, in inches.
        across: panels in a row.
    """
    n = len(panels)
    size = width * min(across, n), 3 * -(-n // across) + 0.8
    figure, axes = grid(n, across, (width, 3), figsize=size, sharey=True)
    # Dark to light, so that neighbours differ in grey as well as in hue.
    colours = [COLOURS[i] for i in (0, 2, 3, 8, 9)] + [(0.85, 0.85, 0.85)]
    hatches = ("", "..", "//", "", "\\\\", "xx")
    used = np.max([panel.shares.max(0) for panel in panels.values()], axis=0) > 0
    box = {"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.85}
    middle: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 9, "color": "0.1", "bbox": box}
    for axis, (title, panel) in zip(axes, panels.items(), strict=True):
        bars, floor = np.arange(len(panel.names)), np.zeros(len(panel.names))
        for i in np.flatnonzero(used):
            height, look = panel.shares[:, i], {"color": colours[i], "hatch": hatches[i], "ec": "0.25", "lw": 0.6}
            axis.bar(bars, height, 0.8, bottom=floor, label=OUTCOMES[i], **look)
            for bar in np.flatnonzero(height >= 0.08).tolist():
                axis.text(bar, floor[bar] + height[bar] / 2, f"{height[bar]:.0%}", **middle)
            floor = floor + height
        axis.set_xticks(bars, panel.names, fontsize=9)
        axis.set(title=title, xlabel=panel.xlabel, ylim=(0, 1))
    for axis in axes[::across]:
        axis.set_ylabel("share of seeds")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower left", ncols=3, fontsize=9)
    return figure


def kinds_by_dictionary(toy: Toy) -> dict[str, Int[Tensor, "dictionaries starts"]]:
    """The kinds of outcome of the Matryoshka SAE from many starts on each of several dictionaries, by optimiser.

    Both optimisers have the same starts; no start is used twice.
    """
    p, matryoshka, found = toy.chosen, toy.both[0], {}
    shape = p.n_sweep_seeds, p.n_seeds
    start = random_start(matryoshka, toy.seeds(shape[0] * shape[1])).reshape(*shape)
    directions = toy.directions(p.n_sweep_seeds)
    for name, training in toy.optimisers.items():
        run = train([Setting(matryoshka, toy.states, one) for one in directions], start, training)
        reading = metrics.read(run.sae, toy.states, directions[:, None], toy.tree.parents())
        found[name] = outcome(reading, toy.states, toy.tree.parents(), matryoshka.widths)
    return found


def dictionary_p_value(kinds: Int[Tensor, "dictionaries starts"], kind: str) -> float:
    """A chi-squared test of one kind or not against the dictionary; NaN for one dictionary, or one outcome."""
    mine = (kinds == OUTCOMES.index(kind)).sum(-1).numpy()
    table = np.stack([mine, kinds.shape[1] - mine])
    testable = len(kinds) > 1 and (table.sum(1) > 0).all()
    return float(chi2_contingency(table).pvalue) if testable else math.nan


def dictionary_part(kinds: Int[Tensor, "dictionaries starts"], kind: str) -> float:
    """Part of the variance of a kind's share between dictionaries that is the dictionary's, from 0 to 1.

    The rest is what so many random starts on one dictionary let a share p vary by, p (1 - p) / n. NaN where shares do
    not vary, or cannot.
    """
    shares, n = (kinds == OUTCOMES.index(kind)).double().mean(1), kinds.shape[1]
    if len(shares) < 2 or n < 2 or not shares.var() > 0:
        return math.nan
    return max(0.0, 1 - float((shares * (1 - shares) / (n - 1)).mean() / shares.var()))


def dictionary_table(kinds: Mapping[str, Int[Tensor, "dictionaries starts"]]) -> pd.DataFrame:
    """Least and largest share of two kinds over the dictionaries, the dictionary's part, and the test, by optimiser."""
    rows = {}
    for optimiser, table in kinds.items():
        for kind in OUTCOMES[:2]:
            shares = (table == OUTCOMES.index(kind)).double().mean(1)
            part, p_value = dictionary_part(table, kind), dictionary_p_value(table, kind)
            rows[f"{optimiser}: {kind}"] = {
                "shares": f"{shares.min():.1%} to {shares.max():.1%}",
                "the dictionary's part": "not known" if math.isnan(part) else f"{part:.0%}",
                "p value": "not tested" if math.isnan(p_value) else claims.number(p_value),
            }
    return pd.DataFrame(rows).T


def turned(sae: SAE, basis: Float[Tensor, "*#instances d_in d_in"]) -> SAE:
    """The same SAE in the coordinates of an orthonormal basis, one row a direction.

    Its inputs are then the old ones times the basis transposed, so that with a basis that begins with the true
    directions the features are the first axes: SAEs trained on different dictionaries can be read together.
    """
    back = basis.transpose(-1, -2)
    b_dec = (sae.b_dec.unsqueeze(-2) @ back).squeeze(-2)
    return replace(sae, W_enc=basis @ sae.W_enc, W_dec=sae.W_dec @ back, b_dec=b_dec)


def turned_spread(toy: Toy) -> dict[str, Float[Tensor, " starts"]]:
    """How far the final losses of a start lie apart that is turned along with the dictionary, by optimiser."""
    p, matryoshka = toy.chosen, toy.both[0]
    relative = random_start(matryoshka, toy.seeds(min(12, p.n_seeds)))
    bases = orthonormal_dictionaries(p.d_model, p.d_model, toy.seeds(p.n_sweep_seeds))
    # Turned by the transposed basis, the coordinates of the features become those of the inputs.
    start = SAE.stack([turned(relative, basis.T.contiguous()) for basis in bases])
    settings = [Setting(matryoshka, toy.states, basis[: toy.tree.n_features]) for basis in bases]
    losses = {name: train(settings, start, training).loss for name, training in toy.optimisers.items()}
    return {name: values.amax(0) - values.amin(0) for name, values in losses.items()}


def live_at_start(toy: Toy) -> Bool[Tensor, "seeds latents"]:
    """Whether each latent of the main seeds fires on any input before the first step."""
    n = 12 * toy.chosen.n_seeds
    return metrics.live(random_start(toy.both[0], toy.seeds(n)).encode(toy.states.inputs(toy.directions(n))))


def control(toy: Toy) -> Found:
    """Matryoshka SAEs with a decoder bias on independent features that fire as often."""
    n, (config, _) = toy.chosen.n_seeds, with_biases(toy.both, False, True)
    lone, directions = features.without_hierarchy(toy.tree), toy.directions(n)
    states = lone.states()
    run = train(Setting(config, states, directions), random_start(config, toy.seeds(n)), toy.exact)
    return Found.all(run, directions, states, lone)[0]


def measured(runs: MainRuns, control: Found) -> dict[str, object]:
    """What the ledger asks of the claim: a value for every metric."""
    main, free, plain, _ = runs.arms.values()
    n_blocks = len(main.loss) // 8
    losses, recovery = (values[: 8 * n_blocks].view(n_blocks, 8) for values in (main.loss, main.recovery))
    lowest = losses.round(decimals=9).argsort(dim=1, stable=True)[:, :1]
    chosen = recovery.gather(1, lowest)[:, 0]
    return {
        "recovery_gap": main.gap,
        "shortfall_in_blocks_of_8": recovery.amax(1) - chosen,
        "rank_correlation": main.correlation,
        "gain_from_8_runs": Kept.of(main.loss, main.recovery).at(8) - float(main.recovery.mean()),
        "recovery_gap_without_penalty": free.gap,
        "recovery_gap_with_decoder_bias": next(iter(runs.biased.values())).gap,
        "recovery_gap_of_the_standard": plain.gap,
        "control_recovery_gap": control.gap,
        "control_shortfall_of_a_blind_choice": recovery.amax(1) - recovery[:, 0],
        "converged": float(main.converged.double().mean()),
    }
