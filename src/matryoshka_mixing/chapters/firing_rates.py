"""How often must features fire? Both rates of one family, the parent's and the child's, swept in exact training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from matryoshka_mixing import figures, metrics, theory
from matryoshka_mixing.features import family, orthonormal_dictionaries, without_hierarchy
from matryoshka_mixing.parameters import Chapter, given
from matryoshka_mixing.sae import SAEConfig, random_start, start_near
from matryoshka_mixing.training import Setting, TrainConfig, Trained, train

COUNTS = (2, 4, 8)
"""Numbers of children that share one probability of any child."""
LARGER = 20
"""By how much the largest batches are larger: a family that is 300 times rarer than the default is in nearly all."""
CONTOURS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
"""Cosines at which theory's contours are drawn."""


@dataclass(frozen=True)
class Parameters(Chapter):
    """What a reader may change; `d_model` must hold the largest family of `COUNTS` and the chapter's own."""

    parent_probability: float = given("parent_probability", 0.3)
    child_probability: float = given(
        "child_probability", 0.4, high=0.5, meaning="probability of each child given the parent, at most 1/n_children"
    )
    n_children: int = given("n_children", 2)
    inner_weight: float = given("inner_weight", 1.0)
    d_model: int = given("d_model", 20, low=max(COUNTS) + 1, meaning="dimension of the input, at least n_children + 1")
    n_seeds: int = given("n_seeds", 192)
    n_sweep_seeds: int = given("n_sweep_seeds", 16)
    seed: int = given("seed", 0)
    start_noise: float = given("start_noise", 0.5)
    n_steps: int = given("n_steps", 2000)
    batch_size: int = given("batch_size", 200)
    n_grid: int = given("n_grid", 9)


@dataclass(frozen=True)
class Toy:
    """Everything that is fixed before training. A seed draws directions, start and batches.

    Attributes:
        p: the chapter's parameters.
        sae: the Matryoshka SAE without biases.
        seeds: for single experiments.
        few: at each point of a sweep.
    """

    p: Parameters
    sae: SAEConfig
    seeds: range
    few: range

    def directions(self, seeds: range, n_children: int | None = None) -> Float[Tensor, "seeds features d_in"]:
        """Each seed's directions of the family, or of one with so many children."""
        return orthonormal_dictionaries((n_children or self.p.n_children) + 1, self.p.d_model, seeds)

    def settings(self, rates: list[tuple[float, float]], seeds: range, sae: SAEConfig | None = None) -> list[Setting]:
        """The family at each of these pairs of probabilities, on the seeds' directions."""
        directions = self.directions(seeds)
        return [Setting(sae or self.sae, family(*pair, self.p.n_children).states(), directions) for pair in rates]

    @property
    def exact(self) -> TrainConfig:
        """Training on the exact expected loss."""
        return TrainConfig(self.p.n_steps)


def toy(p: Parameters) -> Toy:
    """Fix the SAE and the seeds."""
    return Toy(
        p=p,
        sae=SAEConfig(p.d_model, (1, p.n_children + 1), (p.inner_weight, 1.0), encoder_bias=False, decoder_bias=False),
        seeds=range(p.seed, p.seed + p.n_seeds),
        few=range(p.seed, p.seed + p.n_sweep_seeds),
    )


def predicted(child_probability: float, n_children: int, inner_weight: float) -> float:
    """The parent's cosine with one child by theory."""
    return theory.parent_cosines(theory.matryoshka_ratio(child_probability, n_children, inner_weight), n_children)[1]


def curve(
    child_probabilities: Float[np.ndarray, " points"], n_children: int, inner_weight: float
) -> Float[np.ndarray, " points"]:
    """`predicted` at every point."""
    return np.array([predicted(q, n_children, inner_weight) for q in child_probabilities.tolist()])


@dataclass(frozen=True)
class Rates:
    """The parent's cosine with a child (mean over children, median over seeds) over both probabilities.

    Attributes:
        parent, child: the probabilities.
        bare, biased: the cosines, of SAEs without and with biases.
        theory_gap: largest distance of an SAE without biases from theory, among those whose latents fire with their
            own features and no others; NaN if there are none.
        converged: share of the SAEs without biases that have converged.
    """

    parent: Float[np.ndarray, " x"]
    child: Float[np.ndarray, " y"]
    bare: Float[Tensor, "y x"]
    biased: Float[Tensor, "y x"]
    theory_gap: float
    converged: float

    @property
    def bias_rise(self) -> float:
        """By how much biases raise the cosine, at most."""
        return float((self.biased - self.bare).max())


def sweep_rates(toy: Toy) -> Rates:
    """Train from near the truth at every pair of probabilities."""
    p, n = toy.p, toy.p.n_children
    parent, child = np.geomspace(1e-4, 0.5, p.n_grid), np.geomspace(0.01, 0.98 / n, p.n_grid)
    cells = [(rare, q) for q in child.tolist() for rare in parent.tolist()]
    start = start_near(toy.directions(toy.few), toy.few, p.start_noise / 5)
    settings = toy.settings(cells, toy.few)
    bare = train(settings, start, toy.exact)
    with_biases = replace(toy.sae, encoder_bias=True, decoder_bias=True)
    biased = train(toy.settings(cells, toy.few, with_biases), start, toy.exact)
    truth = torch.from_numpy(curve(child, n, p.inner_weight).repeat(p.n_grid))[:, None]
    found, with_bias = (_to_children(run, settings[0].directions).mean(-1) for run in (bare, biased))
    far = (found - truth).abs()[_fires_as_assumed(bare, settings)]
    bare_map, biased_map = (values.median(-1).values.view(p.n_grid, -1) for values in (found, with_bias))
    gap, converged = float(far.max()) if len(far) else float("nan"), float(bare.converged.double().mean())
    return Rates(parent, child, bare_map, biased_map, gap, converged)


def _to_children(run: Trained, directions: Tensor) -> Float[Tensor, "settings seeds children"]:
    """The first latent's cosine with every child; near the truth it is the parent's latent."""
    return metrics.decoder_cosines(run.sae, directions)[..., 0, 1:]


def _fires_as_assumed(run: Trained, settings: list[Setting]) -> Tensor:
    """Whether every latent fires with its own feature and with no other, shape (settings, seeds)."""
    found = []
    for i, setting in enumerate(settings):
        acts = run.sae[i].encode(setting.inputs)
        in_order = torch.arange(acts.shape[-1]).expand(len(acts), -1)
        found.append(metrics.each_its_own(acts, in_order, setting.states.acts))
    return torch.stack(found)


def draw_rates(rates: Rates, p: Parameters) -> Figure:
    """Both maps, with theory's contours, which are level; right of the dotted line a latent counts as dense."""
    fine = np.geomspace(0.005, 1 / p.n_children, 2000)
    lines: list[tuple] = []
    for level in CONTOURS:
        reached = fine[curve(fine, p.n_children, p.inner_weight) >= level]
        if 0 < len(reached) < len(fine):
            lines.append((f"{level:g}", [1e-5, 1], [reached[0]] * 2))
    shared = {
        "x": rates.parent, "y": rates.child, "log": True, "lines": lines, "mark": (0.1, "dense"),
        "xlabel": "probability that the parent fires", "ylabel": "child's probability given the parent",
    }  # fmt: skip
    panels = {
        "no biases": shared | {"values": rates.bare.numpy()},
        "with biases": shared | {"values": rates.biased.numpy()},
    }
    return figures.cosine_maps(panels, "parent's cosine with a child", "theory's contours, with their cosines")


@dataclass(frozen=True)
class Moves:
    """The first latent's cosine with a child, mean over children, in the live seeds of every run.

    Attributes:
        cosines: by the run ("near the truth", "random", "sampled, near the truth", "large batches, random"), then by
            the move ("default", "rarer family", "rarer child").
    """

    cosines: Mapping[str, Mapping[str, Float[Tensor, " _"]]]

    def drop(self, run: str, move: str) -> float:
        """By what share the median falls from the default; NaN without a live seed in either."""
        default = float(self.cosines[run]["default"].median())
        return 1 - float(self.cosines[run][move].median()) / default if default else float("nan")


def make_moves(toy: Toy) -> Moves:
    """Make the family 300 times rarer, or each child 8 times rarer beside its parent; exact and in sampled batches."""
    p = toy.p
    moves = {
        "default": (p.parent_probability, p.child_probability),
        "rarer family": (p.parent_probability / 300, p.child_probability),
        "rarer child": (p.parent_probability, p.child_probability / 8),
    }
    settings, directions = toy.settings(list(moves.values()), toy.seeds), toy.directions(toy.seeds)
    near = start_near(directions, toy.seeds, p.start_noise)
    random, sampled = random_start(toy.sae, toy.seeds), replace(toy.exact, batch_size=p.batch_size, seed=p.seed)
    runs = {
        "near the truth": (near, toy.exact),
        "random": (random, toy.exact),
        "sampled, near the truth": (near, sampled),
        "large batches, random": (random, replace(sampled, batch_size=LARGER * p.batch_size)),
    }
    cosines: dict[str, dict[str, Tensor]] = {}
    for name, (start, config) in runs.items():
        run = train(settings, start, config)
        mixed = _to_children(run, directions).mean(-1)
        cosines[name] = {move: mixed[i, _all_live(run, i, settings[i])] for i, move in enumerate(moves)}
    return Moves(cosines)


def _all_live(run: Trained, i: int, setting: Setting) -> Tensor:
    """Whether every latent fires on some state, for each seed of one setting."""
    return metrics.live(run.sae[i].encode(setting.inputs)).all(-1)


def draw_moves(moves: Moves, p: Parameters) -> Figure:
    """Every live seed as a point, with theory's cosine at the default probabilities."""
    strips = {f"{move}, {run}": found[move].numpy() for run, found in moves.cosines.items() for move in found}
    theirs = predicted(p.child_probability, p.n_children, p.inner_weight)
    return figures.seed_strips(strips, "cosine with a child", reference=theirs, label="theory")


@dataclass(frozen=True)
class Wider:
    """What is mixed in where more children share the probability that some child fires.

    Attributes:
        totals: that probability.
        one: for each number of children the parent's cosine with one child, mean over children.
        whole: the length of all that is mixed in.
    """

    totals: Float[np.ndarray, " points"]
    one: Mapping[int, Float[Tensor, "points seeds"]]
    whole: Mapping[int, Float[Tensor, "points seeds"]]

    def theory_gap(self, p: Parameters) -> float:
        """Largest distance of a median over seeds from theory."""
        gaps = []
        for found, power in [(self.one, 0), (self.whole, 0.5)]:
            for n, values in found.items():
                theirs = n**power * curve(self.totals / n, n, p.inner_weight)
                gaps.append(float(np.abs(values.median(-1).values.numpy() - theirs).max()))
        return max(gaps)


def widen(toy: Toy) -> Wider:
    """Train families of `COUNTS` children from near the truth, over the probability that some child fires."""
    p, totals = toy.p, np.linspace(0.05, 0.95, toy.p.n_grid)
    one, whole = {}, {}
    for n in COUNTS:
        config, directions = replace(toy.sae, widths=(1, n + 1)), toy.directions(toy.few, n)
        settings = [
            Setting(config, family(p.parent_probability, some / n, n).states(), directions) for some in totals.tolist()
        ]
        run = train(settings, start_near(directions, toy.few, p.start_noise / 5), toy.exact)
        found = _to_children(run, directions)
        one[n], whole[n] = found.mean(-1), found.norm(dim=-1)
    return Wider(totals, one, whole)


def draw_wider(wider: Wider, p: Parameters) -> Figure:
    """One child and all that is mixed in, against theory."""
    fine = np.linspace(0.001, 0.999, 200)
    panels = []
    for ylabel, found, power in [
        ("parent's cosine with one child", wider.one, 0),
        ("length of the mixed part", wider.whole, 0.5),
    ]:
        series = [
            {
                "label": f"{n} children", "x": wider.totals, "points": values,
                "line_x": fine, "line_y": n**power * curve(fine / n, n, p.inner_weight),
            }
            for n, values in found.items()
        ]  # fmt: skip
        panels.append({"xlabel": "probability of any child given the parent", "ylabel": ylabel, "series": series})
    return figures.theory_and_experiment(panels)


def control(toy: Toy) -> Float[Tensor, " live"]:
    """The first latent's largest cosine but one in size, on independent features as rare as the rarest family's.

    A decoder bias is trained. One value for each live seed.
    """
    p, directions = toy.p, toy.directions(toy.seeds)
    rare = without_hierarchy(family(p.parent_probability / 300, p.child_probability, p.n_children)).states()
    setting = Setting(replace(toy.sae, decoder_bias=True), rare, directions)
    run = train(setting, start_near(directions, toy.seeds, p.start_noise), toy.exact)
    cosines = metrics.decoder_cosines(run.sae[0], directions)[_all_live(run, 0, setting), 0]
    return cosines.abs().sort().values[:, -2]
