"""A loud child: one parent and one child whose magnitudes differ.

Let a be the parent's magnitude, r a the child's, and q the child's probability given the parent. Two states hold
anything: the parent *alone* and the *sum*, parent + child.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace

import matplotlib as mpl
import matplotlib.patheffects
import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor

from matryoshka_mixing import claims, features, figures, metrics
from matryoshka_mixing.features import States
from matryoshka_mixing.figures import COLOURS, DIVERGING, SEQUENTIAL
from matryoshka_mixing.parameters import Chapter, given
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.theory import child_decoder, second_moment, top_eigenvector
from matryoshka_mixing.training import Setting, TrainConfig, train

NAMES, PARENTS = ["parent", "child"], [None, 0]
STATES = ["nothing", "parent", "parent + child"]
ALONE, SUM = 1, 2
"""Places of the two states that hold anything."""
ABSORBED = 0.9
"""An SAE has absorbed its parent from this much of it on; see `metrics.Reading.absorption`."""
LEARNED = 0.9
"""A feature is learned once this share of its expected square is reconstructed."""
HEAVY = 16
"""By how much the inner prefix's weight is raised in the run that raises it."""
SLOWER, LONGER = 8, 16
"""How many times the usual steps runs at a tenth of the learning rate take, from random starts and near the truth."""
SPREAD = 0.5
"""Standard deviation of the magnitudes over their mean, where they vary."""

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
    seed: int = given("seed", 2000)
    start_noise: float = given("start_noise", 0.5)
    n_steps: int = given("n_steps", 2000)
    batch_size: int = given("batch_size", 200)
    n_grid: int = given("n_grid", 9)


# Theory


def skew_turn(magnitude_ratio: Magnitudes, alone: float = 1.0, together: float = 1.0) -> Magnitudes:
    """The child probability above which a latent that fires on both states is nearer to the child than to the parent.

    Its best decoder is the top eigenvector of the second moment in which the parent alone weighs `alone` and the sum
    `together`. A narrow SAE has weights (1, 1). In a Matryoshka SAE of widths (1, 2) and weights (beta, 1) the first
    latent has (1 + beta, beta) if the second one fires on the sum only, and (beta, 1 + beta) if it fires on the parent
    alone only: it completes one state in the outer prefix.

    `q = alone / (alone + together (r^2 - 1))`; for a narrow SAE `q r^2 = 1`, where parent and child have the same
    expected square. Outside [0, 1], as for all r < 1, it never turns. Works elementwise.
    """
    return alone / (alone + together * (magnitude_ratio**2 - 1))


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


def awaited_eigenvalues(moment: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
    """The eigenvalue that each feature waits for until it is `LEARNED`.

    Gradient descent from a small start learns the eigenvectors of the second moment one after the other, the largest
    eigenvalue first (Saxe et al. 2014). Once the first m are there, `sum over j > m of V_ij^2 lambda_j` is missing of
    the expected square M_ii of feature i; the feature waits for the first m that leaves little enough.
    """
    values, vectors = (part.flip(-1) for part in torch.linalg.eigh(moment))
    squares = moment.diagonal()[:, None]
    missing = squares - (vectors.square() * values).cumsum(1)
    return values[(missing <= (1 - LEARNED) * squares).int().argmax(1)]


# The setup


def pair_states(
    parent_probability: float, child_probability: float, parent_magnitude: float, child_magnitude: float
) -> States:
    """The three states of one parent with one child, in the order of `STATES`; all three even if one never occurs."""
    p, q, a, b = parent_probability, child_probability, parent_magnitude, child_magnitude
    acts = torch.tensor([[0, 0], [a, 0], [a, b]], dtype=torch.float64)
    return States(acts, torch.tensor([1 - p, p * (1 - q), p * q], dtype=torch.float64))


class Setup:
    """What the chapter's experiments share, all of it made from the parameters `p`.

    Attributes:
        cases: states of the pair with the loud child, and of the control with both magnitudes the parent's.
        power, case_ratio: of the loud case: E||x||^2 given the parent, and the child's magnitude over its parent's.
        cells: states of every cell of the phase diagram over `ratios` and `chances`, row by row.
        law_states: pairs along two lines through the thread's case: over r at its q, and over q at its r.
        kinds: the four SAEs of two latents.
        seeds, third, sixth: the seeds of an experiment, and the first of them.
        fresh: seeds of their own, to ask what is learned first.
        sweep_seeds: those of a sweep's point.
        exact, gentle, sampled: the usual schedule, at a tenth of the learning rate, and in sampled batches.
        steps: when the main runs are looked at, about evenly in their logarithm.
        beginning: the first 300 steps of the usual schedule, or up to where its warm-up ends or its cool-down begins.
        law_schedules: gradient descent and Adam, both at a constant rate.
    """

    def __init__(self, p: Parameters):
        self.p, q, a, b = p, p.child_probability, p.parent_magnitude, p.child_magnitude
        self.power, self.case_ratio = a**2 + q * b**2, b / a
        self.cases = {case: pair_states(p.parent_probability, q, a, x) for case, x in [("loud", b), ("equal", a)]}
        self.ratios = 2.0 ** np.linspace(-2, 4, 3 * p.n_grid - 2)
        self.chances = np.linspace(0.02, 0.98, 2 * p.n_grid - 1)
        self.cells = [self.scaled(y, x) for y in self.chances for x in self.ratios]
        self.law_states = [self.scaled(q, r) for r in np.geomspace(0.5, 8, p.n_grid)]
        self.law_states += [self.scaled(y, self.case_ratio) for y in np.linspace(0.05, 0.95, p.n_grid)]
        matryoshka = SAEConfig(p.d_model, (1, 2), (p.inner_weight, 1.0), encoder_bias=False, decoder_bias=False)
        standard = replace(matryoshka, weights=(0.0, 1.0))  # the inner prefix weighs nothing
        self.kinds = {
            "Matryoshka": matryoshka,
            "Matryoshka, penalty": replace(matryoshka, l1=p.l1),
            "standard": standard,
            "standard, penalty": replace(standard, l1=p.l1),
        }
        last = p.seed + p.n_seeds
        self.seeds, self.sweep_seeds = range(p.seed, last), range(p.seed, p.seed + p.n_sweep_seeds)
        self.third, self.sixth = (self.seeds[: max(1, p.n_seeds // n)] for n in (3, 6))
        self.fresh = range(last, last + min(3072, p.n_seeds * p.n_sweep_seeds))
        n, self.exact = p.n_steps, TrainConfig(p.n_steps)
        self.gentle = replace(self.exact, lr=self.exact.lr / 10)
        self.sampled = replace(self.exact, batch_size=p.batch_size, seed=p.seed)
        self.steps, law_steps = (tuple(sorted({round(s) for s in np.geomspace(1, n, k)})) for k in (80, 100))
        warm, cool = math.ceil(self.exact.warmup * n), round((1 - self.exact.cooldown) * n)
        early = min(max(300, warm), max(1, cool))
        upto = tuple(step for step in self.steps if step <= early)
        self.beginning = TrainConfig(early, warmup=self.exact.warmup * n / early, cooldown=0, snapshots=upto)
        flat = TrainConfig(n, lr=0.002, warmup=0, cooldown=0, snapshots=law_steps)
        descent = replace(flat, lr=0.032 / (p.parent_probability * self.power), optimiser="gd")
        self.law_schedules = {"gradient descent": descent, "Adam": flat}

    def scaled(self, chance: float, ratio: float) -> States:
        """States of one pair with the power of the thread's case, so that only q and r differ."""
        parent = (self.power / (1 + chance * ratio**2)) ** 0.5
        return pair_states(self.p.parent_probability, chance, parent, ratio * parent)

    def begun(self, sae: SAEConfig, start: str, seeds: Sequence[int]) -> tuple[SAE, Float[Tensor, "seeds 2 d_model"]]:
        """SAEs before training, "random" or "near the truth" with the parent first, and each seed's own directions."""
        dictionary = features.orthonormal_dictionaries(2, self.p.d_model, seeds)
        if start == "random":
            return random_start(sae, seeds), dictionary
        return start_near(dictionary, seeds, self.p.start_noise), dictionary

    def fit(
        self, pairs: Sequence[tuple[SAEConfig, States]], start: str, seeds: Sequence[int], how: TrainConfig
    ) -> Found:
        """Train each SAE on its states from every seed, and read them: axes (pairs, seeds)."""
        begun, dictionary = self.begun(pairs[0][0], start, seeds)
        return trained([Setting(sae, states, dictionary) for sae, states in pairs], begun, how)


# Measures


@dataclass(frozen=True)
class Found:
    """Trained SAEs and what they learned, with axes (settings, seeds), or (seeds,) of one setting.

    Attributes:
        decoder: cosines of each latent with each feature.
        acts: activations on every state.
        absorption: how much of the parent other latents write beside the child; NaN where the parent is missing.
        converged: whether training has converged.
        path: the SAEs at every snapshot, which are the last axis.
        dictionary: directions of parent and child.
    """

    decoder: Float[Tensor, "*instances d_sae 2"]
    acts: Float[Tensor, "*instances states d_sae"]
    absorption: Float[Tensor, "*instances"]
    converged: Bool[Tensor, "*instances"]
    path: SAE
    dictionary: Float[Tensor, "*instances 2 d_model"]

    def __getitem__(self, setting: int) -> Found:
        """What was found in one setting."""
        return Found(**{field.name: getattr(self, field.name)[setting] for field in fields(self)})

    @property
    def live(self) -> Bool[Tensor, "*instances"]:
        """Whether at least two latents fire; SAEs of two latents are then live as a whole."""
        return metrics.live(self.acts).sum(-1) >= 2

    @property
    def absorbs(self) -> Bool[Tensor, "*instances"]:
        """Whether the parent is absorbed: other latents write (nearly) all of it beside the child."""
        return self.absorption >= ABSORBED

    @property
    def rates(self) -> Float[Tensor, " live"]:
        """The absorption of each live SAE in which the parent is not missing."""
        return self.absorption[self.live & ~self.absorption.isnan()]

    @property
    def share(self) -> float:
        """Share of live SAEs that absorb; NaN where none is live."""
        return float(self.absorbs[self.live].double().mean())

    @property
    def tally(self) -> str:
        """The same in words."""
        return f"{int((self.absorbs & self.live).sum())} of {int(self.live.sum())}"

    @property
    def first_on_both(self) -> Bool[Tensor, "*instances"]:
        """Live SAEs whose first latent fires on both states."""
        return fires_only_on(self.acts, ALONE, SUM)[..., 0] & self.live

    def first_with(self, feature: str) -> Float[Tensor, " live"]:
        """The first latent's cosine with the parent or the child, in live SAEs."""
        return self.decoder[self.live][:, 0, NAMES.index(feature)]


Runs = Mapping[tuple[str, str, str], Found]
"""The main runs by (kind, start, case)."""


def trained(settings: Sequence[Setting], start: SAE, how: TrainConfig) -> Found:
    """Train SAEs of parent and child on dictionaries that all settings share, and read them."""
    run, dictionary = train(settings, start, how), settings[0].directions
    reading = metrics.read(run.sae, [setting.states for setting in settings], dictionary, PARENTS)
    each = dictionary.expand(len(settings), *dictionary.shape)
    return Found(reading.decoder, reading.acts, reading.absorption, run.converged, run.path, each)


def fires_only_on(
    acts: Float[Tensor, "*instances states d_sae"], *states: int, tolerance: float = metrics.SILENT
) -> Bool[Tensor, "*instances d_sae"]:
    """Whether each latent fires on all of these states (given by their places) and on no other."""
    wanted = torch.zeros(acts.shape[-2], 1, dtype=torch.bool)
    wanted[list(states)] = True
    return ((acts > tolerance) == wanted).all(-2)


def told(value: float | Tensor, form: str = ".0%") -> str:
    """A number for prose, in this form ("" as in `claims.number`); NaN, which is that of no seed, is "none"."""
    value = float(value)
    return "none" if math.isnan(value) else f"{value:{form}}" if form else claims.number(value)


def part(holds: Bool[Tensor, " some"]) -> str:
    """How many of some seeds, in words: "3 of 4"."""
    return f"{int(holds.sum())} of {len(holds)}"


def typical(seeds: Found) -> int:
    """The first seed of the most frequent solution, by which latent fires where, among live seeds if there are any."""
    pool = torch.nonzero(seeds.live)[:, 0]
    pool = pool if len(pool) else torch.arange(len(seeds.live))
    fires = (seeds.acts[pool] > metrics.SILENT).flatten(1).int()
    _, where, counts = torch.unique(fires, dim=0, return_inverse=True, return_counts=True)
    return int(pool[(where == counts.argmax()).int().argmax()])


# The main runs


def main_runs(setup: Setup) -> dict[tuple[str, str, str], Found]:
    """Every kind of SAE from both kinds of start on both cases, by (kind, start, case)."""
    keys = [(kind, case) for kind in setup.kinds for case in setup.cases]
    pairs = [(setup.kinds[kind], setup.cases[case]) for kind, case in keys]
    found = {
        "random": setup.fit(pairs, "random", setup.seeds, replace(setup.exact, snapshots=setup.steps)),
        "near the truth": setup.fit(pairs, "near the truth", setup.sixth, setup.exact),
    }
    return {(kind, start, case): some[i] for start, some in found.items() for i, (kind, case) in enumerate(keys)}


def report(runs: Runs) -> str:
    """How many SAEs of each kind converged, and in how many both latents fire."""
    return "\n".join(
        f"{', '.join(key)}: {int(some.converged.sum())} of {len(some.live)} converged, {int(some.live.sum())} live"
        for key, some in runs.items()
    )


def least_converged(runs: Runs, *others: Found) -> float:
    """The share of SAEs that have converged: of the main runs together, or of another run if it is less there."""
    main = torch.cat([some.converged for some in runs.values()])
    return min(float(converged.double().mean()) for converged in (main, *(some.converged for some in others)))


def gentle_run(setup: Setup) -> Found:
    """The Matryoshka on the loud case from near the truth, at a tenth of the learning rate, until it converges."""
    how = replace(setup.gentle, steps=LONGER * setup.p.n_steps)
    return setup.fit([(setup.kinds["Matryoshka"], setup.cases["loud"])], "near the truth", setup.third, how)[0]


def slow_run(setup: Setup) -> tuple[Found, tuple[int, ...], int]:
    """The Matryoshka on the loud case from random starts, at a tenth of the learning rate.

    At the usual rate many latents die in training, most of them in seeds that would not absorb.

    Returns:
        What was found, the steps at which the SAEs were looked at, and in how many seeds both latents fire before
        training.
    """
    n, sae, states = SLOWER * setup.p.n_steps, setup.kinds["Matryoshka"], setup.cases["loud"]
    steps = tuple(sorted({round(s) for s in np.geomspace(1, n, 80)}))
    begun, dictionary = setup.begun(sae, "random", setup.seeds)
    firing = metrics.live(begun.encode(states.inputs(dictionary))).all(-1)
    how = replace(setup.gentle, steps=n, snapshots=steps)
    return setup.fit([(sae, states)], "random", setup.seeds, how)[0], steps, int(firing.sum())


def sampled_runs(setup: Setup) -> dict[tuple[str, str], Found]:
    """The loud case in sampled batches, by (kind, start); near the truth at a tenth of the learning rate."""
    kinds, results = ("Matryoshka", "standard, penalty"), dict[tuple[str, str], Found]()
    pairs = [(setup.kinds[kind], setup.cases["loud"]) for kind in kinds]
    slowly = replace(setup.sampled, lr=setup.gentle.lr)
    for start, seeds, how in [("random", setup.seeds, setup.sampled), ("near the truth", setup.sixth, slowly)]:
        found = setup.fit(pairs, start, seeds, how)
        results |= {(kind, start): found[i] for i, kind in enumerate(kinds)}
    return results


def theory_check(setup: Setup, runs: Runs) -> tuple[float, dict[str, dict[str, int]]]:
    """Hold every Matryoshka of the main runs without a penalty that is live and has converged against `skew_solutions`.

    Returns:
        The largest difference in a decoder cosine from the nearest solution (NaN if no SAE qualifies), and by case how
        many random seeds end in each.
    """
    p, largest, counts = setup.p, [], {}
    for case, states in setup.cases.items():
        a, b = states.acts[SUM].tolist()
        solutions = skew_solutions(p.parent_probability, p.child_probability, a, b, p.inner_weight)
        for start in ("near the truth", "random"):
            some = runs["Matryoshka", start, case]
            ours = some.decoder[some.live & some.converged]
            gaps = torch.stack([(ours - decoder).abs().amax((-1, -2)) for _, decoder in solutions.values()])
            largest += gaps.amin(0).tolist()
        counts[case] = {name: int((gaps.argmin(0) == i).sum()) for i, name in enumerate(solutions)}
    return max(largest, default=math.nan), counts


# What is learned first


def explained(
    sae: SAE, states: States, dictionary: Float[Tensor, "*#instances 2 d_model"]
) -> Float[Tensor, "*instances 2"]:
    """Share of each feature's expected square that the whole SAE reconstructs: at most 1, below 0 where it hurts."""
    x = states.inputs(dictionary)
    rest = (x - sae.decode(sae.encode(x, states.probs))) @ dictionary.mT
    return 1 - (states.probs[:, None] * rest.square()).sum(-2) / (states.probs @ states.acts.square())


def learned(seeds: Found, states: States) -> Float[Tensor, "live records 2"]:
    """What is `explained` at every snapshot in the live seeds of one setting, which has these states."""
    return explained(seeds.path[seeds.live], states, seeds.dictionary[seeds.live][:, None])


def when_learned(share: Float[Tensor, "live records 2"], steps: Sequence[int]) -> Float[Tensor, "live 2"]:
    """The first of the snapshots' steps at which a feature is `LEARNED`; the last one, if it never is."""
    reached = share >= LEARNED
    when = torch.tensor(steps, dtype=torch.float64)[reached.int().argmax(1)]
    return torch.where(reached.any(1), when, float(steps[-1]))


def leads(when: Float[Tensor, "live 2"]) -> Float[Tensor, " live"]:
    """The parent's step over the child's: above 1 where the child comes first."""
    return when[:, 0] / when[:, 1]


def learned_in_main(setup: Setup, runs: Runs) -> dict[tuple[str, str], Float[Tensor, "live records 2"]]:
    """What is `learned` after each of `steps` in the random main runs, by (kind, case)."""
    return {
        (kind, case): learned(runs[kind, "random", case], states)
        for kind in ("Matryoshka", "standard, penalty") for case, states in setup.cases.items()
    }  # fmt: skip


def fresh_run(setup: Setup) -> tuple[Found, Bool[Tensor, " seeds"]]:
    """The beginning of training of the Matryoshka on the loud case, on fresh random seeds.

    Returns:
        What was found, and in which seeds some latent fires on the parent alone, and on nothing else, before training.
    """
    sae, states = setup.kinds["Matryoshka"], setup.cases["loud"]
    begun, dictionary = setup.begun(sae, "random", setup.fresh)
    alone = fires_only_on(begun.encode(states.inputs(dictionary)), ALONE).any(-1)
    return trained([Setting(sae, states, dictionary)], begun, setup.beginning)[0], alone


def descent_run(setup: Setup) -> Found:
    """The Matryoshka on the loud case from random starts, by gradient descent at a constant rate."""
    how = setup.law_schedules["gradient descent"]
    return setup.fit([(setup.kinds["Matryoshka"], setup.cases["loud"])], "random", setup.seeds, how)[0]


def order(seeds: Found, states: States, steps: Sequence[int]) -> tuple[Float[Tensor, " live"], Float[Tensor, " late"]]:
    """By how much the child comes first in each live seed (see `leads`), and the absorption where it does not."""
    lead = leads(when_learned(learned(seeds, states), steps))
    late = seeds.absorption[seeds.live][lead <= 1]
    return lead, late[~late.isnan()]


def laws(setup: Setup) -> dict[tuple[str, str], float]:
    """How well two numbers predict when a feature is learned, in standard SAEs without a penalty.

    Returns:
        By trainer and number ("expected square", "awaited eigenvalue") Spearman's rank correlation with the median step
        over live seeds, in which features that are never learned rank last; NaN where fewer than three steps differ.
    """
    results, pairs = {}, [(setup.kinds["standard"], states) for states in setup.law_states]
    for trainer, how in setup.law_schedules.items():
        found, rows = setup.fit(pairs, "random", setup.sweep_seeds, how), [torch.zeros(3, 0)]
        for i, states in enumerate(setup.law_states):
            if len(when := when_learned(learned(found[i], states), how.snapshots)):
                moment = second_moment(states)
                rows.append(torch.stack([when.median(0).values, moment.diagonal(), awaited_eigenvalues(moment)]))
        times, *numbers = torch.cat(rows, 1).numpy().round(9)  # so that no tie hangs on the last digits
        for name, sizes in zip(("expected square", "awaited eigenvalue"), numbers, strict=True):
            results[trainer, name] = spearmanr(sizes, times).statistic if len(set(times)) > 2 else math.nan
    return results


# The phase diagram


def phase_runs(setup: Setup) -> dict[str, Found]:
    """The Matryoshka from both kinds of start, and the standard SAE with the penalty, in every cell: (cells, seeds).

    From near the truth at a tenth of the learning rate, so that the loud child's own latent lives.
    """
    few = setup.sweep_seeds[::4]
    matryoshka, standard = (
        [(setup.kinds[kind], states) for states in setup.cells] for kind in ("Matryoshka", "standard, penalty")
    )
    return {
        "Matryoshka, random": setup.fit(matryoshka, "random", setup.sweep_seeds, setup.exact),
        "Matryoshka, near the truth": setup.fit(matryoshka, "near the truth", few, setup.gentle),
        "standard + penalty, random": setup.fit(standard, "random", few, setup.exact),
    }


def turns(inner_weight: float) -> dict[str, tuple[Float[np.ndarray, " x"], Float[np.ndarray, " x"]]]:
    """Where the theory's three first latents turn to the child: ratios, and child probabilities at them."""
    fine, beta = np.geomspace(1.001, 16, 400), inner_weight
    weights = {
        "narrow SAE: q r² = 1 (the thread)": (1.0, 1.0),
        "Matryoshka, parent alone completed": (beta, 1 + beta),
        "Matryoshka, sum completed": (1 + beta, beta),
    }
    return {label: (fine, np.asarray(skew_turn(fine, *pair))) for label, pair in weights.items()}


def share_map(cells: Found) -> Float[Tensor, " cells"]:
    """Share of live seeds that absorb, in each cell; NaN where none is live."""
    share = (cells.absorbs & cells.live).sum(-1) / cells.live.sum(-1).clamp_min(1)
    return torch.where(cells.live.any(-1), share.double(), torch.nan)


def first_map(cells: Found) -> Float[Tensor, " cells"]:
    """The first latent's median cosine with the child, in each cell, over live seeds in which it fires on both."""
    return torch.where(cells.first_on_both, cells.decoder[..., 0, 1], torch.nan).nanmedian(-1).values


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


# In company, with magnitudes that vary, with other prefixes


def silenced(
    sae: SAE, states: States, dictionary: Float[Tensor, "*#seeds features d_in"], above: Sequence[int | None]
) -> Float[Tensor, "live 2"]:
    """Share of the inputs with the first child, and of those with any other, that leave their parent's latent silent.

    One row a live seed; NaN where there is no other child. Arguments as for `metrics.read`.
    """
    reading = metrics.read(sae, states, dictionary, above)
    first = torch.tensor([f == 1 for f, parent in enumerate(above) if parent is not None])
    rates = [reading.edges.mean(reading.edges.silent.masked_fill(left, torch.nan)) for left in (~first, first)]
    return torch.stack(rates, -1)[reading.all_live]


def company_runs(setup: Setup) -> dict[str, Float[Tensor, "live 2"]]:
    """What is `silenced` elsewhere, in sampled batches from random starts.

    In the post's "tree" with one child of the first parent raised to the case's ratio, and as it is ("tree, equal").
    In the pair with magnitudes that vary: in the Matryoshka ("varied"), in the standard SAE with the penalty ("varied,
    standard").
    """
    p, a, b, pair = setup.p, setup.p.parent_magnitude, setup.p.child_magnitude, setup.kinds["Matryoshka"]
    twenty, wide = features.twenty_feature_tree(), replace(pair, widths=tuple(range(1, 21)), weights=())
    law = features.family(p.parent_probability, p.child_probability, 1, parent_magnitude=a, child_magnitude=b)
    for name, magnitude in [("parent", a), ("child 1", b)]:
        law = features.retuned(law, name, magnitude_std=SPREAD * magnitude)
    runs = {
        "tree": (wide, features.retuned(twenty, "child 1.1", magnitude_mean=setup.case_ratio)),
        "tree, equal": (wide, twenty),
        "varied": (pair, law),
        "varied, standard": (setup.kinds["standard, penalty"], law),
    }
    results = {}
    for name, (sae, tree) in runs.items():
        dictionary = features.orthonormal_dictionaries(tree.n_features, p.d_model, setup.sweep_seeds)
        run = train(Setting(sae, tree, dictionary), random_start(sae, setup.sweep_seeds), setup.sampled)
        acts = tree.sample(4000, p.seed)
        states = States(acts, torch.full((len(acts),), 1 / len(acts), dtype=torch.float64))
        results[name] = silenced(run.sae[0], states, dictionary, tree.parents())
    return results


def order_runs(setup: Setup) -> dict[str, Found]:
    """The loud case with more weight on the inner prefix ("heavy"), or with "two" latents in it, from random starts."""
    sae, states = setup.kinds["Matryoshka"], setup.cases["loud"]
    weighed = [(replace(sae, weights=(HEAVY * setup.p.inner_weight, 1.0)), states)]
    wide = [(replace(sae, widths=(2, 3), weights=(), l1=l1), states) for l1 in (0.0, setup.p.l1)]
    heavy, two = (setup.fit(pairs, "random", setup.third, setup.exact) for pairs in (weighed, wide))
    return {"heavy": heavy[0], "two": two[0], "two, penalty": two[1]}


# Figures


def draw_typical(panels: Mapping[str, Found], quantity: str) -> Figure:
    """Decoder cosines ("cosine"), or the "activation" on every state, in each panel's most frequent solution."""
    chosen = {title: (some, typical(some)) for title, some in panels.items()}
    if quantity == "cosine":
        return figures.heatmaps({t: some.decoder[i].numpy() for t, (some, i) in chosen.items()}, NAMES, width=2.95)
    acts = {title: some.acts[i].numpy() for title, (some, i) in chosen.items()}
    return figures.heatmaps(acts, ["latent 0", "latent 1"], STATES, quantity=quantity, width=2.95)


def draw_shares(runs: Runs) -> Figure:
    """Share of live seeds that absorb, for every kind of SAE, case and start of the main runs."""
    kinds, starts, cases = (list(dict.fromkeys(names)) for names in zip(*runs, strict=True))
    columns = [(start, case) for case in cases for start in starts]
    shares = np.array([[runs[kind, start, case].share for start, case in columns] for kind in kinds])
    titles = [f"{case}, {start}" for start, case in columns]
    return figures.heatmaps({"share of live seeds that absorb": shares}, titles, kinds, quantity="share", width=4)


def draw_learned(when: Mapping[tuple[str, str], Float[Tensor, "live records 2"]], steps: Sequence[int]) -> Figure:
    """Share of each feature that is reconstructed after these steps: medians over live seeds, the middle half shaded.

    A panel a (kind, case), two in a row; it is empty where no seed is live.
    """
    figure, axes = figures.grid(len(when), 2, (4.3, 3.1), sharex=True, sharey=True)
    for axis, (title, share) in zip(axes, when.items(), strict=True):
        for i, name in enumerate(NAMES):
            look = {"color": COLOURS[i], "ls": ("-", "--")[i], "lw": 2, "label": name}
            if not len(share):
                axis.plot([], [], **look)
                continue
            low, middle, high = np.quantile(share[..., i].numpy(), [0.25, 0.5, 0.75], axis=0).round(6)
            axis.plot(steps, middle, **look)
            axis.fill_between(steps, low, high, color=COLOURS[i], alpha=0.15, lw=0)
        axis.axhline(0, color="0.6", lw=0.8, zorder=0)
        axis.set(title=", ".join(title), xscale="log", xlim=(steps[0] / 1.3, 1.3 * steps[-1]))
    for axis in axes[-2:]:
        axis.set_xlabel("training step")
    for axis in axes[::2]:
        axis.set_ylabel("share reconstructed")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower left", ncols=2, fontsize=9)
    return figure


def draw_maps(setup: Setup, panels: Mapping[str, Float[Tensor, " cells"]], quantity: str) -> Figure:
    """Colour maps over the phase diagram, with the theory's turning points as lines and the thread's case as a star.

    Args:
        setup: of the chapter.
        panels: title of each panel and the value of every cell; NaN is grey.
        quantity: name of the values; one that holds "cosine" gets the diverging colours (-1 to 1), another the
            sequential ones (0 to 1).
    """
    x, y, n = setup.ratios, setup.chances, len(panels)
    figure, axes = figures.grid(n, n, (2.7, 3.8), sharey=True, figsize=(2.7 * n + 1.2, 3.8))
    low, colours = (-1, DIVERGING) if "cosine" in quantity else (0, SEQUENTIAL)
    for axis, (title, values) in zip(axes, panels.items(), strict=True):
        axis.set_facecolor("0.8")
        axis.set_xscale("log", base=2)
        cells = np.ma.masked_invalid(values.reshape(len(y), len(x)).numpy().round(6))
        mesh = axis.pcolormesh(x, y, cells, vmin=low, vmax=1, cmap=colours, shading="nearest")
        limits = axis.get_xlim(), axis.get_ylim()
        for i, (label, (along, up)) in enumerate(turns(setup.p.inner_weight).items()):
            inside = np.where((up >= y[0]) & (up <= y[-1]), up, np.nan)
            # A white edge keeps the line visible on dark cells.
            edge = [mpl.patheffects.withStroke(linewidth=3.6, foreground="white")]
            axis.plot(along, inside, color="0.15", ls=("-", "--", ":")[i], lw=1.8, label=label, path_effects=edge)
        case, star = (setup.case_ratio, setup.p.child_probability), {"marker": "*", "ms": 13, "color": COLOURS[1]}
        axis.plot(*case, **star, mec="white", mew=1, ls="none", label="the thread's case")
        axis.set(title=title, xlabel="child's magnitude / parent's", xlim=limits[0], ylim=limits[1])
        axis.xaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    axes[0].set_ylabel("child probability given the parent")
    figure.colorbar(mesh, ax=axes, label=quantity, aspect=25, pad=0.015)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=n, fontsize=9)
    return figure
