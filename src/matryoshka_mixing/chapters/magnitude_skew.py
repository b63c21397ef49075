"""A loud child: one parent and one child whose magnitudes differ.

Let a be the parent's magnitude, r a the child's, and q the child's probability given the parent. Two states hold
anything: the parent *alone* and the *sum*, parent + child. Ratios t are those of a decoder parent + t child.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import matplotlib as mpl
import matplotlib.patheffects
import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor

from matryoshka_mixing import features, figures, metrics
from matryoshka_mixing.features import FeatureTree, States
from matryoshka_mixing.figures import COLOURS, DIVERGING, MARKERS, SEQUENTIAL
from matryoshka_mixing.metrics import Reading
from matryoshka_mixing.parameters import Chapter, given
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.theory import child_decoder, second_moment, top_eigenvector
from matryoshka_mixing.training import Setting, TrainConfig, train

NAMES, PARENTS = ["parent", "child"], [None, 0]
STATES = ["nothing", "parent", "parent + child"]
ALONE, SUM = 1, 2
"""Places of the two states that hold anything."""
ABSORBED = 0.9
"""An SAE has absorbed its parent where the parent's latent is silent on this share of the child's inputs."""
LEARNED = 0.9
"""A feature is learned once this share of its expected square is reconstructed."""
MAP_DIM = 6
"""Dimensions of the input in the maps and where magnitudes vary, to save time."""
N_SORTS = 20
"""How often latents are re-sorted in the run that does so."""
HEAVY = 16
"""By how much the inner prefix's weight is raised in the run that raises it."""

Magnitudes = float | Float[np.ndarray, "..."]


@dataclass(frozen=True)
class Parameters(Chapter):
    """The parameters of the chapter. The child's probability stays below 1: the theory needs the parent alone."""

    parent_probability: float = given("parent_probability", 0.3)
    child_probability: float = given(
        "child_probability", 0.5, high=0.999, meaning="chance of the child given the parent"
    )
    parent_magnitude: float = given("parent_magnitude", 2.0)
    child_magnitude: float = given("child_magnitude", 10.0)
    inner_weight: float = given("inner_weight", 1.0)
    l1: float = given("l1", 0.2, meaning="weight of the L1 penalty, in the runs that have one")
    d_model: int = given("d_model", 20, low=20)
    n_seeds: int = given("n_seeds", 192)
    n_sweep_seeds: int = given("n_sweep_seeds", 16)
    seed: int = given("seed", 2000, high=10**9)
    start_noise: float = given("start_noise", 0.5)
    n_steps: int = given("n_steps", 2000)
    batch_size: int = given("batch_size", 200)
    n_grid: int = given("n_grid", 9)


# Theory


def skew_ratio(
    magnitude_ratio: Magnitudes, child_probability: Magnitudes, alone: float = 1.0, together: float = 1.0
) -> Magnitudes:
    """The ratio t of the best latent that fires on both states, parent + t child.

    It is the top eigenvector of the second moment in which the parent alone weighs `alone` and the sum `together`. A
    narrow SAE has weights (1, 1). In a Matryoshka SAE of widths (1, 2) and weights (beta, 1) the first latent has
    (1 + beta, beta) if the second one fires on the sum only, and (beta, 1 + beta) if it fires on the parent alone
    only: it completes one state in the outer prefix. Works elementwise.
    """
    r, q = magnitude_ratio, child_probability
    parent, both, child = alone * (1 - q) + together * q, together * q * r, together * q * r**2
    return (child - parent + ((child - parent) ** 2 + 4 * both**2) ** 0.5) / (2 * both)


def skew_turn(magnitude_ratio: Magnitudes, alone: float = 1.0, together: float = 1.0) -> Magnitudes:
    """The child probability above which the latent of `skew_ratio` is nearer to the child than to the parent (t = 1).

    `q = alone / (alone + together (r^2 - 1))`; for a narrow SAE `q r^2 = 1`, where parent and child have the same
    expected square. Outside [0, 1], as for all r < 1, it never turns. Works elementwise.
    """
    return alone / (alone + together * (magnitude_ratio**2 - 1))


def skew_crossing(magnitude_ratio: float) -> float:
    """The child probability above which completing the parent alone gives a lower loss than completing the sum.

    `q = 1 / (2 + r^2)`, where both states have the same power. The two re-weighted second moments have the same
    determinant, so the larger trace has the smaller remaining eigenvalue, whatever the inner weight.
    """
    return 1 / (2 + magnitude_ratio**2)


def skew_solutions(
    parent_probability: float,
    child_probability: float,
    parent_magnitude: float,
    child_magnitude: float,
    inner_weight: float = 1.0,
) -> dict[str, tuple[float, Float[Tensor, "2 2"]]]:
    """The solutions of a Matryoshka SAE of widths (1, 2) in which both latents fire: their loss and unit decoders.

    Each is named by the states on which the first and the second latent fire, and is a local minimum wherever both
    states have positive probability: a latent that is strictly silent on a state gets no gradient from it. Which of
    them is lowest says nothing about which is reached.

    Returns:
        For "both, sum", "both, alone", "sum, alone" and "alone, sum" the loss and the decoder, one row a latent, with
        entries along (parent, child).
    """
    p, q, beta = parent_probability, child_probability, inner_weight
    pair = pair_states(p, q, parent_magnitude, child_magnitude)
    alone, total = pair.acts[ALONE], pair.acts[SUM]
    found = {}
    for completed, name, weights in [(total, "both, sum", (1 + beta, beta)), (alone, "both, alone", (beta, 1 + beta))]:
        moment = second_moment(pair, torch.tensor((0.0, *weights), dtype=torch.float64))
        first = top_eigenvector(moment)
        found[name] = float(torch.linalg.eigvalsh(moment)[0]), torch.stack([first, child_decoder(first, completed)])
    rows = torch.stack([total / total.norm(), alone / alone.norm()])
    found["sum, alone"] = beta * p * (1 - q) * float(alone @ alone), rows
    found["alone, sum"] = beta * p * q * float(total @ total), rows.flip(0)
    return found


def absorption_saving(magnitude_ratio: float, child_probability: float) -> float:
    """Share of the L1 penalty that absorption saves a standard SAE that reconstructs both states, in [0, 1].

    `q (1 + r - sqrt(1 + r^2)) / (1 + q r)`: on the sum one latent of its length fires instead of two. It is positive
    for every r, so a loud child is not needed.
    """
    r, q = magnitude_ratio, child_probability
    return q * (1 + r - (1 + r**2) ** 0.5) / (1 + q * r)


def awaited_eigenvalues(moment: Float[Tensor, "n n"], share: float = LEARNED) -> Float[Tensor, " n"]:
    """The eigenvalue that each feature waits for until `share` of its expected square is reconstructed.

    Gradient descent from a small start learns the eigenvectors of the second moment one after the other, the largest
    eigenvalue first (Saxe et al. 2014). Once the first m are there, `sum over j > m of V_ij^2 lambda_j` is missing of
    the expected square M_ii of feature i; the feature waits for the first m that leaves at most `(1 - share) M_ii`.

    Raises:
        ValueError: if `share` is not between 0 and 1.
    """
    if not 0 < share < 1:
        raise ValueError(f"share is {share}; it must lie between 0 and 1, for example 0.9.")
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(moment))
    squares = moment.diagonal()[:, None]
    missing = squares - (vectors.square() * values).cumsum(1)
    return values[(missing <= (1 - share) * squares).int().argmax(1)]


# The setup


def pair_states(
    parent_probability: float, child_probability: float, parent_magnitude: float, child_magnitude: float
) -> States:
    """The three states of one parent with one child, in the order of `STATES`; all three even if one never occurs."""
    p, q, a, b = parent_probability, child_probability, parent_magnitude, child_magnitude
    acts = torch.tensor([[0, 0], [a, 0], [a, b]], dtype=torch.float64)
    return States(acts, torch.tensor([1 - p, p * (1 - q), p * q], dtype=torch.float64))


class Setup:
    """What the chapter's experiments share, all of it made from the parameters.

    Attributes:
        cases: states of the pair with the loud child, and of the control with both magnitudes the parent's.
        cells: states of every cell of the phase diagram over `ratios` and `chances`, row by row; `coarse` has every
            second row and column.
        law_states: pairs along two lines through the thread's case: over r at its q, and over q at its r.
        families: the child beside two quiet siblings of the parent's magnitude, and the same with nothing raised.
        trees: the post's tree with one child of the first parent raised to the thread's ratio, and as it is.
        varied: the loud pair with magnitudes that vary by each of `spreads`, relative to their mean.
        dictionary, plane, twenty: directions of parent and child, the same in `MAP_DIM` dimensions, and those of the
            post's features, of which a family takes the first four.
        kinds, small: the four SAEs of two latents, and the same in `MAP_DIM` dimensions.
        loud: the Matryoshka without a penalty on the loud case.
        heavy_name: what the run with more weight on the inner prefix is called.
        seeds, third, sweep_seeds, few: the seeds of an experiment, of a sweep's point, and some of each.
        starts, near_truth, fresh_start: of the main runs; near the truth with all seeds; and random with seeds of its
            own, to ask what is learned first.
        exact, half, gentle, sampled, batches: the usual schedule, in half the steps, at a tenth of the learning rate,
            in sampled batches, and that in half the steps.
        steps: when the main runs are looked at, about evenly in their logarithm.
        beginning: the first 300 steps of the usual schedule, or up to where its warm-up ends or its cool-down begins.
        law_schedules: plain gradient descent and Adam, both at a constant rate.
    """

    def __init__(self, p: Parameters):
        self.p, q, a, b = p, p.child_probability, p.parent_magnitude, p.child_magnitude
        self.power, self.case_ratio = a**2 + q * b**2, b / a
        self.cases = {case: pair_states(p.parent_probability, q, a, x) for case, x in [("loud", b), ("equal", a)]}
        self.ratios = 2.0 ** np.linspace(-2, 4, 4 * p.n_grid - 3)
        self.chances = np.linspace(0.02, 0.98, 2 * p.n_grid - 1)
        self.cells = [self.scaled(y, x) for y in self.chances for x in self.ratios]
        self.coarse = [self.scaled(y, x) for y in self.chances[::2] for x in self.ratios[::2]]
        self.law_states = [self.scaled(q, r) for r in np.geomspace(0.5, 8, p.n_grid)]
        self.law_states += [self.scaled(y, self.case_ratio) for y in np.linspace(0.05, 0.95, p.n_grid)]
        chances, magnitudes = (q, *[0.4 * (1 - q)] * 2), {"parent_magnitude": a, "child_magnitude": a}
        family, tree = features.family(p.parent_probability, chances, 3, **magnitudes), features.twenty_feature_tree()
        self.families = {"loud": features.retuned(family, "child 1", magnitude_mean=b), "equal": family}
        self.trees = {"loud": features.retuned(tree, "child 1.1", magnitude_mean=self.case_ratio), "equal": tree}
        self.spreads, self.varied = np.linspace(0, 0.5, max(2, p.n_grid // 2)), []
        pair = features.family(p.parent_probability, q, 1, parent_magnitude=a, child_magnitude=b)
        for spread in self.spreads:
            wider = features.retuned(pair, "parent", magnitude_std=spread * a)
            self.varied.append(features.retuned(wider, "child 1", magnitude_std=spread * b))

        self.dictionary, self.plane, self.twenty = (
            features.orthonormal_dictionary(n, d_model, torch.Generator().manual_seed(p.seed))
            for n, d_model in [(2, p.d_model), (2, MAP_DIM), (20, p.d_model)]
        )
        matryoshka = SAEConfig(p.d_model, (1, 2), (p.inner_weight, 1.0), encoder_bias=False, decoder_bias=False)
        standard = replace(matryoshka, weights=(0.0, 1.0))  # the inner prefix weighs nothing
        self.kinds = {
            "Matryoshka": matryoshka,
            "Matryoshka, penalty": replace(matryoshka, l1=p.l1),
            "standard": standard,
            "standard, penalty": replace(standard, l1=p.l1),
        }
        self.small = {kind: replace(sae, d_in=MAP_DIM) for kind, sae in self.kinds.items()}
        self.loud = Setting(matryoshka, self.cases["loud"], self.dictionary)
        self.heavy_name = f"inner prefix weighs {HEAVY * p.inner_weight:g}"

        last = p.seed + p.n_seeds
        self.seeds, self.sweep_seeds = range(p.seed, last), range(p.seed, p.seed + p.n_sweep_seeds)
        self.third, self.few = self.seeds[: max(1, p.n_seeds // 3)], self.sweep_seeds[::4]
        self.near_truth = start_near(self.dictionary, self.seeds, p.start_noise)
        random = random_start(matryoshka, self.seeds)
        self.starts = {"random": random, "near the truth": self.near_truth[: max(1, p.n_seeds // 6)]}
        fresh = range(last, last + min(3072, p.n_seeds * p.n_sweep_seeds))
        self.fresh_start = random_start(matryoshka, fresh)

        n, self.exact, self.half = p.n_steps, TrainConfig(p.n_steps), TrainConfig(max(1, p.n_steps // 2))
        self.gentle = replace(self.exact, lr=self.exact.lr / 10)
        self.sampled = replace(self.exact, batch_size=p.batch_size, seed=p.seed)
        self.batches = replace(self.sampled, steps=self.half.steps)
        self.steps, law_steps = (tuple(sorted({round(s) for s in np.geomspace(1, n, k)})) for k in (80, 100))
        warm, cool = math.ceil(self.exact.warmup * n), round((1 - self.exact.cooldown) * n)
        early = min(max(300, warm), max(1, cool))
        upto = tuple(step for step in self.steps if step <= early)
        self.beginning = TrainConfig(early, warmup=self.exact.warmup * n / early, cooldown=0, snapshots=upto)
        flat = TrainConfig(n, lr=0.002, warmup=0, cooldown=0, snapshots=law_steps)
        # With an epsilon far above every gradient the trainer's Adam is gradient descent.
        far = max(1e6, 1e4 * p.parent_probability * self.power)
        descent = replace(flat, lr=far * (0.032 / (p.parent_probability * self.power)), eps=far, betas=(0, 0.999))
        self.law_schedules = {"gradient descent": descent, "Adam": flat}

    def scaled(self, chance: float, ratio: float) -> States:
        """States of one pair with the power of the thread's case, so that only q and r differ."""
        parent = (self.power / (1 + chance * ratio**2)) ** 0.5
        return pair_states(self.p.parent_probability, chance, parent, ratio * parent)


# Measures


@dataclass(frozen=True)
class Found:
    """Trained SAEs of one setting, one a seed (or of several, one row a setting), and what they learned.

    Attributes:
        reading: of the SAEs at the end of training.
        converged: which have converged.
        path: their parameters at every snapshot, which comes first among the axes.
    """

    reading: Reading
    converged: Bool[Tensor, "*instances"]
    path: SAE

    @property
    def live(self) -> Bool[Tensor, "*instances"]:
        """Whether at least two latents fire; SAEs of two latents are then live as a whole."""
        return self.reading.live.sum(-1) >= 2

    @property
    def absorbs(self) -> Bool[Tensor, "*instances"]:
        """Whether the latent that matches the parent is silent on (nearly) all inputs with the child."""
        return self.reading.absorption >= ABSORBED

    @property
    def absorbed(self) -> Bool[Tensor, " live"]:
        """The same of each live SAE."""
        return self.absorbs[self.live]

    @property
    def rates(self) -> Float[Tensor, " live"]:
        """Share of the child's inputs on which the parent's latent is silent, in each live SAE."""
        return self.reading.absorption[self.live]

    @property
    def share(self) -> float:
        """Share of live SAEs that absorb; NaN where none is live."""
        return float(self.absorbed.double().mean())

    @property
    def tally(self) -> str:
        """The same in words."""
        return f"{int(self.absorbed.sum())} of {len(self.absorbed)}"

    @property
    def first_on_both(self) -> Bool[Tensor, "*instances"]:
        """Live SAEs whose first latent fires on both states."""
        return fires_only_on(self.reading.acts, ALONE, SUM)[..., 0] & self.live

    def acts_on_both(self) -> list[float]:
        """The first latent's median activation on the parent alone and on the sum, where it fires on both."""
        acts = self.reading.acts[..., [ALONE, SUM], 0]
        return torch.where(self.first_on_both[..., None], acts, torch.nan).nanmedian(0).values.tolist()

    def first_with(self, feature: str) -> Float[Tensor, " live"]:
        """The first latent's cosine with the parent or the child, in live SAEs."""
        return self.reading.decoder[self.live][:, 0, NAMES.index(feature)]


Runs = Mapping[tuple[str, str, str], Found]
"""The main runs by (kind, start, case)."""


def trained(settings: Sequence[Setting], start: SAE, schedule: TrainConfig) -> list[Found]:
    """Train SAEs of parent and child on their states side by side, and read each setting apart."""
    run = train(settings, start, schedule)
    readings = [metrics.read(run.sae[i], s.data, s.dictionary, PARENTS) for i, s in enumerate(settings)]
    return [Found(reading, run.converged[i], by_snapshot(run.path[i])) for i, reading in enumerate(readings)]


def trained_in_cells(sae: SAEConfig, cells: Sequence[States], dictionary: Float[Tensor, "2 d_model"], *how) -> Found:
    """Train one SAE on the states of every cell, and read all at once: axes (cells, seeds). `how` as for `trained`."""
    run = train([Setting(sae, states, dictionary) for states in cells], *how)
    return Found(metrics.read(run.sae, cells, dictionary, PARENTS), run.converged, by_snapshot(run.path))


def by_snapshot(path: SAE) -> SAE:
    """Snapshots with their axis first."""
    return path.map(lambda parameter: parameter.movedim(len(path.instances) - 1, 0))


def fires_only_on(
    acts: Float[Tensor, "*instances states d_sae"], *states: int, tolerance: float = metrics.SILENT
) -> Bool[Tensor, "*instances d_sae"]:
    """Whether each latent fires on all of these states (given by their places) and on no other."""
    wanted = torch.zeros(acts.shape[-2], 1, dtype=torch.bool)
    wanted[list(states)] = True
    return ((acts > tolerance) == wanted).all(-2)


def typical(seeds: Found) -> int:
    """The first seed of the most frequent solution, by which latent fires where, among live seeds if there are any."""
    pool = torch.nonzero(seeds.live)[:, 0]
    pool = pool if len(pool) else torch.arange(len(seeds.live))
    fires = (seeds.reading.acts[pool] > metrics.SILENT).flatten(1).int()
    _, where, counts = torch.unique(fires, dim=0, return_inverse=True, return_counts=True)
    return int(pool[(where == counts.argmax()).int().argmax()])


def explained(
    sae: SAE, states: States, dictionary: Float[Tensor, "features d_in"]
) -> Float[Tensor, "*instances features"]:
    """Share of each feature's expected square that the whole SAE reconstructs: at most 1, below 0 where it hurts.

    Args:
        sae: parameters with any leading axes.
        states: the data, in which every feature fires.
        dictionary: the true directions, orthonormal.
    """
    x = states.inputs(dictionary)
    rest = (x - sae.decode(sae.encode(x, states.probs))) @ dictionary.T
    power = states.probs @ states.acts.square()
    return 1 - (states.probs[:, None] * rest.square()).sum(-2) / power


def first_reached(
    values: Float[Tensor, "records seeds features"], steps: Sequence[int], level: float
) -> Float[Tensor, "seeds features"]:
    """The first recorded step at which a value is at least `level`; infinite where none is."""
    reached = values >= level
    when = torch.tensor(steps, dtype=torch.float64)[reached.int().argmax(0)]
    return torch.where(reached.any(0), when, torch.inf)


def resorted(sae: SAE, states: States, dictionary: Float[Tensor, "features d_in"]) -> SAE:
    """The same SAE with its latents in the order of their share in the reconstruction, largest first.

    The share is `E[acts^2] ||W_dec||^2`, by which the original code of Nabeshima (2024) re-sorts during training
    (there a running mean over batches, here exact).
    """
    acts = sae.encode(states.inputs(dictionary), states.probs)
    share = (states.probs[:, None] * acts.square()).sum(-2) * sae.W_dec.square().sum(-1)
    order = share.argsort(dim=-1, descending=True, stable=True)
    return replace(
        sae,
        W_enc=sae.W_enc.gather(-1, order[..., None, :].expand_as(sae.W_enc)),
        b_enc=sae.b_enc.gather(-1, order),
        W_dec=sae.W_dec.gather(-2, order[..., None].expand_as(sae.W_dec)),
    )


# The main runs


def main_runs(setup: Setup) -> dict[tuple[str, str, str], Found]:
    """Every kind of SAE from both kinds of start on both cases, by (kind, start, case)."""
    keys = [(kind, case) for kind in setup.kinds for case in setup.cases]
    settings = [Setting(setup.kinds[kind], setup.cases[case], setup.dictionary) for kind, case in keys]
    schedules = {"random": replace(setup.exact, snapshots=setup.steps), "near the truth": setup.exact}
    results = {}
    for start, schedule in schedules.items():
        each = zip(keys, trained(settings, setup.starts[start], schedule), strict=True)
        results |= {(kind, start, case): some for (kind, case), some in each}
    return results


def report(runs: Runs) -> str:
    """How many SAEs converged from each kind of start, and in how many of each kind both latents fire."""
    lines = []
    for chosen in dict.fromkeys(start for _, start, _ in runs):
        done = torch.cat([some.converged for (_, start, _), some in runs.items() if start == chosen])
        lines.append(f"{chosen}: {int(done.sum())} of {len(done)} SAEs converged")
    for (kind, start, case), some in runs.items():
        lines.append(f"{kind}, {start}, {case}: both latents fire in {int(some.live.sum())} of {len(some.live)}")
    return "\n".join(lines)


def gentle_run(setup: Setup) -> Found:
    """The Matryoshka on the loud case from near the truth, at a tenth of the learning rate."""
    return trained([setup.loud], setup.near_truth, setup.gentle)[0]


def sampled_runs(setup: Setup) -> dict[tuple[str, str], Found]:
    """The loud case in sampled batches, by (kind, start); near the truth at a tenth of the learning rate."""
    kinds = ("Matryoshka", "standard, penalty")
    settings = [replace(setup.loud, sae=setup.kinds[kind]) for kind in kinds]
    rates, results = {"random": setup.exact.lr, "near the truth": setup.gentle.lr}, {}
    for start, lr in rates.items():
        each = zip(kinds, trained(settings, setup.starts[start], replace(setup.sampled, lr=lr)), strict=True)
        results |= {(kind, start): some for kind, some in each}
    return results


def nearest_solutions(
    seeds: Found, solutions: Mapping[str, tuple[float, Float[Tensor, "2 2"]]]
) -> tuple[Float[Tensor, " some"], list[str]]:
    """For each SAE that is live and has converged the nearest of `skew_solutions`: its distance and name.

    The distance is the largest difference in a decoder cosine.
    """
    trained = seeds.reading.decoder[seeds.live & seeds.converged]
    nearest = torch.stack([(trained - decoder).abs().amax((-1, -2)) for _, decoder in solutions.values()]).min(0)
    return nearest.values, [list(solutions)[i] for i in nearest.indices]


def theory_check(setup: Setup, runs: Runs) -> tuple[float, dict[tuple[str, str], dict[str, int]]]:
    """Hold every Matryoshka of the main runs without a penalty against the closed forms.

    Returns:
        The largest distance (see `nearest_solutions`; NaN if no SAE qualifies), and by (case, start) how many seeds end
        in each solution.
    """
    p, largest, counts = setup.p, [], {}
    for case, states in setup.cases.items():
        a, b = states.acts[SUM].tolist()
        solutions = skew_solutions(p.parent_probability, p.child_probability, a, b, p.inner_weight)
        for start in setup.starts:
            gaps, names = nearest_solutions(runs["Matryoshka", start, case], solutions)
            largest += gaps.tolist()
            counts[case, start] = {name: names.count(name) for name in solutions}
    return max(largest, default=math.nan), counts


# What is learned first


@dataclass(frozen=True)
class Learned:
    """When live seeds have learned each feature.

    Attributes:
        when: the step at which a feature is learned, at most the last one looked at.
        share: share of each feature's expected square that is reconstructed, over training.
    """

    when: Float[Tensor, "live 2"]
    share: Float[Tensor, "records live 2"]

    @property
    def lead(self) -> Float[Tensor, " live"]:
        """The parent's step over the child's: above 1 where the child comes first."""
        return self.when[:, 0] / self.when[:, 1]


def learned(setup: Setup, seeds: Found, case: str, steps: Sequence[int]) -> Learned:
    """When the live seeds of a run on `case`, looked at after `steps`, have learned each feature."""
    share = explained(seeds.path[:, seeds.live], setup.cases[case], setup.dictionary)
    return Learned(first_reached(share, steps, LEARNED).clamp_max(steps[-1]), share)


def learned_in_main(setup: Setup, runs: Runs) -> dict[tuple[str, str], Learned]:
    """When both features are learned in the random main runs, by (kind, case)."""
    return {
        (kind, case): learned(setup, runs[kind, "random", case], case, setup.steps)
        for kind in ("Matryoshka", "standard, penalty") for case in setup.cases
    }  # fmt: skip


def fresh_run(setup: Setup) -> Found:
    """The beginning of training of the Matryoshka on the loud case, on fresh random seeds."""
    return trained([setup.loud], setup.fresh_start, setup.beginning)[0]


def begins_alone(setup: Setup) -> Bool[Tensor, " seeds"]:
    """Whether in each fresh seed some latent fires on the parent alone, and on nothing else, before any training."""
    acts = setup.fresh_start.encode(setup.cases["loud"].inputs(setup.dictionary))
    return fires_only_on(acts, ALONE).any(-1)


@dataclass(frozen=True)
class Law:
    """How well one number predicts when a feature is learned, over many settings (rows) and both features (columns).

    Attributes:
        sizes: the number.
        times: the median step over live seeds; infinite where the median seed never gets there.
        rank: Spearman's rank correlation, in which features that are never learned rank last.
        power, spread: of the best power law through the finite times, and the factor by which they scatter around it.
    """

    sizes: Float[Tensor, "settings 2"]
    times: Float[Tensor, "settings 2"]
    rank: float = math.nan
    power: float = math.nan
    spread: float = math.nan

    @classmethod
    def of(cls, sizes: Float[Tensor, "settings 2"], times: Float[Tensor, "settings 2"]) -> Law:
        """The law of these numbers and times; NaN where fewer than three different times are finite."""
        reached = times.isfinite()
        if len(times[reached].unique()) < 3:
            return cls(sizes, times)
        x, y = sizes[reached].log().numpy(), times[reached].log().numpy()
        line, rank = np.polyfit(x, y, 1), spearmanr(sizes.ravel(), times.ravel()).statistic
        return cls(sizes, times, float(rank), float(line[0]), float(np.exp((y - np.polyval(line, x)).std())))


def laws(setup: Setup) -> dict[tuple[str, str], Law]:
    """What predicts the time, in standard SAEs without a penalty, by (trainer, number)."""
    standard, results = setup.kinds["standard"], {}
    settings = [Setting(standard, states, setup.dictionary) for states in setup.law_states]
    for trainer, schedule in setup.law_schedules.items():
        rows = [torch.zeros(0, 3, 2, dtype=torch.float64)]
        each = trained(settings, random_start(standard, setup.sweep_seeds[::2]), schedule)
        for states, seeds in zip(setup.law_states, each, strict=True):
            if seeds.live.any():
                share, moment = explained(seeds.path[:, seeds.live], states, setup.dictionary), second_moment(states)
                times = first_reached(share, schedule.snapshots, LEARNED).median(0).values
                rows.append(torch.stack([moment.diagonal(), awaited_eigenvalues(moment), times])[None])
        squares, awaited, times = torch.cat(rows).unbind(1)
        results[trainer, "expected square"] = Law.of(squares, times)
        results[trainer, "awaited eigenvalue"] = Law.of(awaited, times)
    return results


# The phase diagram


def phase_runs(setup: Setup) -> dict[str, Found]:
    """The Matryoshka in every cell from both kinds of start, shape (cells, seeds).

    From near the truth at a quarter of the learning rate, so that the loud child's own latent lives.
    """
    sae, half = setup.small["Matryoshka"], setup.half
    near = start_near(setup.plane, setup.few, setup.p.start_noise)
    starts = {
        "Matryoshka, random": (random_start(sae, setup.sweep_seeds[::2]), half),
        "Matryoshka, near the truth": (near, replace(half, lr=half.lr / 4)),
    }
    return {title: trained_in_cells(sae, setup.cells, setup.plane, *how) for title, how in starts.items()}


def standard_run(setup: Setup) -> Found:
    """The standard SAE with the penalty in the coarse cells, shape (cells, seeds)."""
    sae = setup.small["standard, penalty"]
    start = random_start(sae, setup.sweep_seeds[::3])
    return trained_in_cells(sae, setup.coarse, setup.plane, start, setup.exact)


def turns(inner_weight: float) -> dict[str, tuple[Float[np.ndarray, " x"], Float[np.ndarray, " x"]]]:
    """Where the theory's three first latents turn to the child: ratios, and child probabilities at them."""
    fine, beta = np.geomspace(1.001, 16, 400), inner_weight
    weights = {
        "narrow SAE: $q r^2 = 1$ (the thread)": (1.0, 1.0),
        "Matryoshka, parent alone completed": (beta, 1 + beta),
        "Matryoshka, sum completed": (1 + beta, beta),
    }
    return {label: (fine, skew_turn(fine, *pair)) for label, pair in weights.items()}


def share_map(cells: Found) -> Float[Tensor, " cells"]:
    """Share of live seeds that absorb, in each cell; NaN where none is live."""
    share = (cells.absorbs & cells.live).sum(-1) / cells.live.sum(-1).clamp_min(1)
    return torch.where(cells.live.any(-1), share.double(), torch.nan)


def first_map(cells: Found) -> Float[Tensor, " cells"]:
    """The first latent's median cosine with the child, in each cell, over live seeds in which it fires on both."""
    return torch.where(cells.first_on_both, cells.reading.decoder[..., 0, 1], torch.nan).nanmedian(-1).values


def regions(setup: Setup) -> dict[str, Bool[Tensor, " cells"]]:
    """Which cells lie below both Matryoshka lines, between them, and above both."""
    q, r = (torch.from_numpy(grid.ravel()) for grid in np.meshgrid(setup.chances, setup.ratios, indexing="ij"))
    beta, pull = setup.p.inner_weight, q * (r**2 - 1)
    first = (1 + beta) * pull > beta * (1 - q)
    second = beta * pull > (1 + beta) * (1 - q)
    return {"below": ~first, "between": first & ~second, "above": second}


def region_shares(setup: Setup, cells: Found) -> dict[str, float]:
    """In each region the share of live seeds that absorb, and the same of those that have converged ("..._done").

    Besides the share of all seeds that are "live" and that have "converged".
    """
    shares = {"live": float(cells.live.double().mean()), "converged": float(cells.converged.double().mean())}
    for name, inside in regions(setup).items():
        chosen = inside[:, None] & cells.live
        shares[name] = float(cells.absorbs[chosen].double().mean())
        shares[f"{name}_done"] = float(cells.absorbs[chosen & cells.converged].double().mean())
    return shares


def late_shares(setup: Setup, phase: Mapping[str, Found]) -> tuple[float, float, float]:
    """The share of live seeds above both lines that do not absorb, and what they are.

    Returns:
        The share; and of these seeds, how many fire as "both, sum" does, and how many have converged.
    """
    above, rows = regions(setup)["above"][:, None], []
    for cells in phase.values():
        as_sum = cells.first_on_both & fires_only_on(cells.reading.acts, SUM)[..., 1]
        rows.append(torch.stack([~cells.absorbs, as_sum, cells.converged], -1)[above & cells.live])
    all_rows = torch.cat(rows).double()
    late = all_rows[all_rows[:, 0] == 1]
    return float(all_rows[:, 0].mean()), float(late[:, 1].mean()), float(late[:, 2].mean())


# In company, with magnitudes that vary, in another order


@dataclass(frozen=True)
class Company:
    """Share of the inputs with a child that leave its parent's latent silent, mean over live seeds.

    Attributes:
        first: by the child that is loud in the loud case.
        others: by all other children.
        live: which seeds are live.
    """

    first: float
    others: float
    live: Bool[Tensor, " seeds"]


def drawn_states(tree: FeatureTree, seed: int) -> States:
    """Four thousand inputs of a feature tree, each as a state."""
    acts = tree.sample(4000, torch.Generator().manual_seed(seed))
    return States(acts, torch.full((len(acts),), 1 / len(acts), dtype=torch.float64))


def company_rates(
    sae: SAE, states: States, dictionary: Float[Tensor, "features d_in"], above: Sequence[int | None]
) -> Company:
    """Absorption by the first child and by all others; arguments as for `metrics.read`."""
    reading = metrics.read(sae, states, dictionary, above)
    first = [parent if f == 1 else None for f, parent in enumerate(above)]
    others = [None if f == 1 else parent for f, parent in enumerate(above)]
    seen = reading.acts, reading.latents, states.acts, states.probs
    rates = [metrics.absorption(*seen, chosen, reading.mixing.own) for chosen in (first, others)]
    return Company(*(float(rate[reading.all_live].mean()) for rate in rates), reading.all_live)


def company_runs(setup: Setup) -> dict[tuple[str, str, str], Company]:
    """The loud child in a family and in the twenty-feature tree, and with nothing raised: by (place, start, case)."""
    family_sae, tree_sae = (replace(setup.loud.sae, widths=w, weights=None) for w in ((1, 4), tuple(range(1, 21))))
    noise = setup.p.start_noise
    family_settings = [Setting(family_sae, tree.states(), setup.twenty[:4]) for tree in setup.families.values()]
    tree_settings = [Setting(tree_sae, tree, setup.twenty) for tree in setup.trees.values()]
    likely_first = torch.tensor([0, 4, 8, *range(12, 20), 1, 2, 3, 5, 6, 7, 9, 10, 11])
    family_near = start_near(setup.twenty[:4], setup.sweep_seeds, noise)
    tree_near = start_near(setup.twenty[likely_first], setup.few, noise)
    runs = {
        ("family", "random"): (family_settings, random_start(family_sae, setup.third), setup.exact),
        ("family", "near the truth"): (family_settings, family_near, setup.gentle),
        ("tree", "random"): (tree_settings, random_start(tree_sae, setup.few), setup.batches),
        ("tree", "near the truth"): (tree_settings, tree_near, setup.batches),
    }
    rates = {}
    for (place, start), how in runs.items():
        saes = train(*how).sae
        for i, (case, tree) in enumerate((setup.families if place == "family" else setup.trees).items()):
            states = tree.states() if place == "family" else drawn_states(tree, setup.p.seed)
            rates[place, start, case] = company_rates(saes[i], states, setup.twenty[: tree.n_features], tree.parents())
    return rates


@dataclass(frozen=True)
class Varied:
    """SAEs trained on magnitudes that vary, one row a spread; seeds that are not live are NaN.

    Attributes:
        absorption: share of the inputs with the child that leave the parent's latent silent.
        child: absolute cosine of the child's latent with the child.
    """

    absorption: Float[Tensor, "spreads seeds"]
    child: Float[Tensor, "spreads seeds"]

    @property
    def ends(self) -> tuple[float, float]:
        """Lowest and highest absorption at the widest spread; NaN where no seed is live."""
        some = self.absorption[-1][self.absorption[-1].isfinite()]
        return (float(some.min()), float(some.max())) if len(some) else (math.nan, math.nan)


def varied_runs(setup: Setup) -> dict[str, Varied]:
    """Magnitudes that vary, in sampled batches, by the label of the runs."""
    sae, standard, n = setup.small["Matryoshka"], setup.small["standard, penalty"], len(setup.varied)
    settings = [Setting(kind, tree, setup.plane) for kind in (sae, standard) for tree in setup.varied]
    random = train(settings, random_start(sae, setup.sweep_seeds[::3]), setup.batches).sae
    near = start_near(setup.plane, setup.few, setup.p.start_noise)
    near = train(settings[:n], near, replace(setup.batches, lr=setup.gentle.lr)).sae
    saes = {
        "Matryoshka, random": random[:n],
        "Matryoshka, near the truth": near,
        "standard + penalty, random": random[n:],
    }
    inputs, results = [drawn_states(tree, setup.p.seed) for tree in setup.varied], {}
    for label, some in saes.items():
        reading = metrics.read(some, inputs, setup.plane, PARENTS)
        values = reading.absorption, reading.mixing.own[..., 1].abs()
        results[label] = Varied(*(torch.where(reading.all_live, value, torch.nan) for value in values))
    return results


def order_runs(setup: Setup, random: Found, near: Found) -> dict[tuple[str, str], Found]:
    """The loud case with another say in the order of latents, by (choice, start).

    Near the truth at a tenth of the learning rate, except where latents are re-sorted.

    Args:
        setup: of the chapter.
        random, near: the runs as above, from random starts and from near the truth, which come first.
    """
    some, results = len(setup.third), {("as above", "random"): random, ("as above", "near the truth"): near}
    heavy = replace(setup.loud, sae=replace(setup.loud.sae, weights=(HEAVY * setup.p.inner_weight, 1.0)))
    starts = [(setup.starts["random"][:some], setup.exact), (setup.starts["near the truth"], setup.gentle)]
    for start, how in zip(setup.starts, starts, strict=True):
        results[setup.heavy_name, start] = trained([heavy], *how)[0]

    segment = TrainConfig(max(1, setup.p.n_steps // N_SORTS), lr=setup.exact.lr / 4, warmup=0, cooldown=0)
    sae, twice = SAE.stack([setup.starts["random"][:some], setup.near_truth[:some]]), [setup.loud] * 2
    for _ in range(N_SORTS):
        sae = train(twice, resorted(sae, setup.cases["loud"], setup.dictionary), segment).sae
    from_random, from_truth = trained(twice, sae, setup.exact)
    results |= {("re-sorted", "random"): from_random, ("re-sorted", "near the truth"): from_truth}

    wide = replace(setup.loud.sae, widths=(2, 3), weights=None)
    settings = [replace(setup.loud, sae=replace(wide, l1=l1)) for l1 in (0.0, setup.p.l1)]
    free, penalised = trained(settings, random_start(wide, setup.third), setup.exact)
    return results | {("widths 2 and 3", "random"): free, ("widths 2 and 3, penalty", "random"): penalised}


# Figures


def draw_decoders(panels: Mapping[str, Found]) -> Figure:
    """Decoder cosines in the most frequent solution of each panel's seeds."""
    cosines = {title: some.reading.decoder[typical(some)].numpy() for title, some in panels.items()}
    return figures.heatmaps(cosines, NAMES, width=3.2)


def draw_activations(panels: Mapping[str, Found]) -> Figure:
    """Activations on every state in the most frequent solution of each panel's seeds."""
    acts = {title: some.reading.acts[typical(some)].numpy() for title, some in panels.items()}
    return figures.heatmaps(acts, ["latent 0", "latent 1"], STATES, quantity="activation", width=3.2)


def draw_shares(runs: Runs) -> Figure:
    """Share of live seeds that absorb, for every kind of SAE, case and start of the main runs."""
    kinds, starts, cases = (list(dict.fromkeys(names)) for names in zip(*runs, strict=True))
    columns = [(start, case) for case in cases for start in starts]
    shares = np.array([[runs[kind, start, case].share for start, case in columns] for kind in kinds])
    titles = [f"{case}, {start}" for start, case in columns]
    return figures.heatmaps({"share of live seeds that absorb": shares}, titles, kinds, quantity="share", width=4)


def draw_curves(
    panels: Mapping[str, Mapping[str, Float[np.ndarray, "records seeds"]]], steps: Sequence[int], ylabel: str
) -> Figure:
    """Curves over training, two panels in a row: the median over seeds with the middle half of them shaded.

    Args:
        panels: title of each panel, and in it the label of each curve and its values; without seeds it is left out.
        steps: the training steps, drawn on a logarithmic axis.
        ylabel: name of the vertical axis.
    """
    size = 4.3 * min(2, len(panels)), 2.9 * -(-len(panels) // 2) + 0.5
    figure, axes = figures.grid(len(panels), 2, (4.3, 2.9), sharex=True, sharey=True, figsize=size)
    for axis, (title, curves) in zip(axes, panels.items(), strict=True):
        for i, (label, values) in enumerate(curves.items()):
            if not values.shape[1]:
                continue
            low, middle, high = np.quantile(values, [0.25, 0.5, 0.75], axis=1)
            axis.plot(steps, middle, color=COLOURS[i], ls=("-", "--", ":")[i % 3], lw=2, label=label)
            axis.fill_between(steps, low, high, color=COLOURS[i], alpha=0.15, lw=0)
        axis.axhline(0, color="0.6", lw=0.8, zorder=0)
        axis.set(title=title, xscale="log")
    for axis in axes[-2:]:  # nothing stands below these
        axis.set_xlabel("training step")
        axis.tick_params(labelbottom=True)
    for axis in axes[::2]:
        axis.set_ylabel(ylabel)
    handles, labels = max((axis.get_legend_handles_labels() for axis in axes), key=lambda key: len(key[1]))
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=9)
    return figure


def draw_order(setup: Setup, runs: Runs) -> Figure:
    """Decoder cosines of both latents with the parent, the child and their sum, in the random main runs."""
    total = torch.nn.functional.normalize(setup.cases["loud"].acts[SUM:], dim=-1)
    targets, panels = torch.cat([torch.eye(2, dtype=torch.float64), total]), {}
    for kind in ("Matryoshka", "standard, penalty"):
        seeds = runs[kind, "random", "loud"]
        cosines = metrics.decoder_cosines(seeds.path, setup.dictionary) @ targets.T
        for feature, name in enumerate(NAMES):
            latents = seeds.reading.latents[:, feature]
            values = cosines[:, torch.arange(len(latents)), latents][:, seeds.live].movedim(-1, 0).numpy()
            panels[f"{kind}: {name}'s latent"] = dict(zip([*NAMES, "their sum"], values, strict=True))
    return draw_curves(panels, setup.steps, "decoder cosine")


def draw_learned(when: Mapping[tuple[str, str], Learned], steps: Sequence[int]) -> Figure:
    """Share of each feature's expected square that is reconstructed, over training, a panel a (kind, case)."""
    panels = {", ".join(k): dict(zip(NAMES, w.share.movedim(-1, 0).numpy(), strict=True)) for k, w in when.items()}
    return draw_curves(panels, steps, "share reconstructed")


def draw_laws(laws: Mapping[tuple[str, str], Law]) -> Figure:
    """When each feature is learned against each number, on logarithmic axes; a panel a (trainer, number)."""
    figure, axes = figures.grid(len(laws), 2, (4.3, 3.2))
    for axis, ((trainer, number), law) in zip(axes, laws.items(), strict=True):
        reached = law.times.isfinite()
        times = torch.where(reached, law.times, torch.nan).numpy()
        for i, name in enumerate(NAMES):
            look = {"marker": MARKERS[i], "color": COLOURS[i], "label": name}
            axis.scatter(law.sizes[:, i].numpy(), times[:, i], s=30, ec="white", lw=0.5, **look)
        scale = "log" if reached.any() else "linear"  # a logarithmic axis cannot be empty
        axis.set(title=f"{trainer}: rank correlation {law.rank:.2f}", xlabel=number, ylabel="step at 90%")
        axis.set(xscale=scale, yscale=scale)
        axis.legend(fontsize=9)
    return figure


def draw_maps(setup: Setup, panels: Mapping[str, Float[Tensor, " cells"]], quantity: str, *, every: int = 1) -> Figure:
    """Colour maps over the phase diagram, with the theory's turning points as lines and the thread's case as a star.

    Args:
        setup: of the chapter.
        panels: title of each panel and the value of every cell; NaN is grey.
        quantity: name of the values; one that holds "cosine" gets the diverging colours (-1 to 1), another the
            sequential ones (0 to 1).
        every: 1 for `cells`, 2 for `coarse`.
    """
    x, y, n = setup.ratios[::every], setup.chances[::every], len(panels)
    figure, axes = figures.grid(n, n, (3.9, 4.7), sharey=True, figsize=(3.9 * n + 1.2, 4.7))
    low, colours = (-1, DIVERGING) if "cosine" in quantity else (0, SEQUENTIAL)
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        axis.set_facecolor("0.8")
        axis.set_xscale("log", base=2)
        cells = np.ma.masked_invalid(values.reshape(len(y), len(x)).numpy())
        mesh = axis.pcolormesh(x, y, cells, vmin=low, vmax=1, cmap=colours, shading="nearest")
        limits = axis.get_xlim(), axis.get_ylim()
        for i, (label, (along, up)) in enumerate(turns(setup.p.inner_weight).items()):
            inside = np.where((up >= y[0]) & (up <= y[-1]), up, np.nan)
            # A white edge keeps the line visible on dark cells.
            edge = [mpl.patheffects.withStroke(linewidth=3.6, foreground="white")]
            axis.plot(along, inside, color="0.1", ls=("-", "--", ":")[i], lw=1.8, label=label, path_effects=edge)
        case, star = (setup.case_ratio, setup.p.child_probability), {"marker": "*", "ms": 13, "color": COLOURS[1]}
        axis.plot(*case, **star, mec="white", mew=1, ls="none", label="the thread's case")
        axis.set(title=title, xlabel="child's magnitude / parent's", xlim=limits[0], ylim=limits[1])
        axis.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes[0].set_ylabel("child probability given the parent")
    figure.colorbar(mesh, ax=axes, label=quantity, aspect=25, pad=0.015)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=n, fontsize=9)
    return figure


def draw_company(rates: Mapping[tuple[str, str, str], Company]) -> Figure:
    """Absorption by the loud child and by its company, a row for each place and start."""
    rows = list(dict.fromkeys((place, start) for place, start, _ in rates))
    table = [[v for case in ("loud", "equal") for v in (rates[*r, case].first, rates[*r, case].others)] for r in rows]
    columns = ["loud child", "its company", "equal: same child", "equal: the others"]
    return figures.heatmaps(
        {"absorption rate": np.array(table)}, columns, [", ".join(row) for row in rows], quantity="rate", width=4
    )


def draw_varied(spreads: Float[np.ndarray, " spreads"], runs: Mapping[str, Varied]) -> Figure:
    """Absorption, and the child's latent, against the spread of the magnitudes."""
    panels = []
    for ylabel, name in [("absorption rate", "absorption"), ("child's latent with the child", "child")]:
        series = [{"label": label, "x": spreads, "points": getattr(run, name)} for label, run in runs.items()]
        panels.append({"xlabel": "standard deviation / mean of the magnitudes", "ylabel": ylabel, "series": series})
    return figures.theory_and_experiment(panels)


def draw_options(runs: Mapping[tuple[str, str], Found]) -> Figure:
    """Share of seeds that absorb, by choice and kind of start; what was not run is grey."""
    rows, columns = (list(dict.fromkeys(names)) for names in zip(*runs, strict=True))
    shares = [[runs[row, column].share if (row, column) in runs else np.nan for column in columns] for row in rows]
    return figures.heatmaps({"share that absorbs": np.array(shares)}, columns, rows, quantity="share", width=4)
