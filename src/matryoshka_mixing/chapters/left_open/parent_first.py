"""A parent that is learned before its child: does it stay?

Two states hold anything: the parent alone, and parent + child. Let r be the child's magnitude over the parent's, and q
the child's probability given the parent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import matplotlib as mpl
import matplotlib.patheffects
import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

from matryoshka_mixing import figures, metrics
from matryoshka_mixing.chapters.left_open.data import Parameters, kept, told
from matryoshka_mixing.features import FeatureTree, States, family, independent, orthonormal_dictionaries, retuned
from matryoshka_mixing.figures import SEQUENTIAL
from matryoshka_mixing.sae import SAE, SAEConfig, random_start
from matryoshka_mixing.training import Setting, TrainConfig, train

PARENT, CHILD = 2.0, 10.0
"""Magnitudes in the thread's case."""
CHANCE = 0.5
"""The child's probability given the parent in the thread's case."""
STARTS = ("parent learned", "child learned", "random")
"""What the first latent holds before training; the second one is random."""
SLOWER = 0.1
"""The learning rate, as a share of the usual one: at that one the loud child's own latent dies near the truth."""


@dataclass(frozen=True)
class Runs:
    """SAEs trained from one start, one a seed.

    Attributes:
        live: whether both latents fire.
        absorption: how much of the parent other latents write beside the child, as everywhere; NaN where the parent is
            missing.
        kept: share of the child's inputs on which the parent keeps its direction: a latent leads toward it and fires.
        with_parent: whether the first latent fires on all of the parent's inputs, and on no others.
        converged: whether training has converged.
    """

    live: Bool[Tensor, "*settings seeds"]
    absorption: Float[Tensor, "*settings seeds"]
    kept: Float[Tensor, "*settings seeds"]
    with_parent: Bool[Tensor, "*settings seeds"]
    converged: Bool[Tensor, "*settings seeds"]

    @property
    def judged(self) -> Float[Tensor, " judged"]:
        """`absorption` in the live seeds that have one."""
        return self.absorption[self.live & ~self.absorption.isnan()]

    @property
    def spared_share(self) -> float:
        """Share of the judged seeds whose absorption is at most 10%; NaN where there is none."""
        return float((self.judged <= 0.1).double().mean())

    @property
    def values(self) -> Float[Tensor, " live"]:
        """`kept` in the live seeds."""
        return self.kept[self.live]

    @property
    def share(self) -> float:
        """Share of live seeds that keep its direction on at least 90% of the child's inputs; NaN where none is live."""
        return float((self.values >= 0.9).double().mean())

    @property
    def firing_share(self) -> float:
        """Share of live seeds whose first latent fires just as the parent does; NaN where none is live."""
        return float(self.with_parent[self.live].double().mean())


def pair(chance: float, ratio: float, p: Parameters) -> FeatureTree:
    """One parent with one child, of the power that the thread's case has."""
    power = PARENT**2 + CHANCE * CHILD**2
    parent = (power / (1 + chance * ratio**2)) ** 0.5
    return family(p.parent_probability, chance, 1, parent_magnitude=parent, child_magnitude=ratio * parent)


def cases(p: Parameters) -> dict[str, FeatureTree]:
    """The thread's case, and the same with both magnitudes the parent's."""
    return {
        name: family(p.parent_probability, CHANCE, 1, parent_magnitude=PARENT, child_magnitude=magnitude)
        for name, magnitude in (("loud", CHILD), ("quiet", PARENT))
    }


def alone(p: Parameters, magnitude: float) -> FeatureTree:
    """Two independent features as frequent as parent and child; the second one of this magnitude."""
    tree = independent([p.parent_probability, p.parent_probability * CHANCE])
    return retuned(retuned(tree, "feature 0", magnitude_mean=PARENT), "feature 1", magnitude_mean=magnitude)


def config(p: Parameters, decoder_bias: bool = False) -> SAEConfig:
    """A Matryoshka SAE of widths 1 and 2, without penalty and encoder bias."""
    return SAEConfig(p.d_model, (1, 2), encoder_bias=False, decoder_bias=decoder_bias)


def begun(kind: str, dictionary: Float[Tensor, "seeds 2 d_model"], p: Parameters, seeds: Sequence[int]) -> SAE:
    """SAEs before training: random, but the first latent is the learned feature's direction, in encoder and decoder."""
    start = random_start(config(p), seeds)
    if kind == "random":
        return start
    learned = dictionary[:, STARTS.index(kind)]
    W_enc, W_dec = start.W_enc.clone(), start.W_dec.clone()
    W_enc[:, :, 0], W_dec[:, 0] = learned, learned
    return replace(start, W_enc=W_enc, W_dec=W_dec)


def fit(
    trees: Sequence[FeatureTree],
    kind: str,
    p: Parameters,
    seeds: Sequence[int],
    *,
    sampled: bool = False,
    decoder_bias: bool = False,
) -> Runs:
    """Train on each tree of two features from one kind of start; axes (trees, seeds)."""
    dictionary = orthonormal_dictionaries(2, p.d_model, seeds)
    states: list[States] = [tree.states() for tree in trees]
    schedule = TrainConfig(p.n_steps, lr=SLOWER * p.exact.lr)
    if sampled:
        schedule = replace(schedule, batch_size=p.batch_size, seed=p.seed)
    settings = [Setting(config(p, decoder_bias), some, dictionary) for some in states]
    run = train(settings, begun(kind, dictionary, p, seeds), schedule)
    reading = metrics.read(run.sae, states, dictionary, [None, 0])
    holds = torch.stack([some.acts[:, 0] > 0 for some in states])[:, None]
    with_parent = ((reading.acts[..., 0] > metrics.SILENT) == holds).all(-1)
    return Runs(reading.all_live, reading.absorption, kept(reading, states), with_parent, run.converged)


def main_runs(p: Parameters) -> dict[tuple[str, str], Runs]:
    """Both cases from every kind of start, by (case, start); a third of the seeds from random ones."""
    found: dict[tuple[str, str], Runs] = {}
    for kind in STARTS:
        seeds = p.third if kind == STARTS[2] else p.seeds
        found |= {(case, kind): one(fit([tree], kind, p, seeds)) for case, tree in cases(p).items()}
    return found


def sampled_runs(p: Parameters) -> dict[str, Runs]:
    """Both cases from a learned parent in sampled batches."""
    return {case: one(fit([tree], STARTS[0], p, p.third, sampled=True)) for case, tree in cases(p).items()}


def one(runs: Runs) -> Runs:
    """The runs of the only setting."""
    return Runs(**{name: tensor[0] for name, tensor in vars(runs).items()})


def controls(p: Parameters) -> dict[str, Runs]:
    """The first of two independent features learned before the other, with a decoder bias, by the other's loudness."""
    return {
        name: one(fit([alone(p, magnitude)], STARTS[0], p, p.seeds, decoder_bias=True))
        for name, magnitude in (("quiet", PARENT), ("loud", CHILD))
    }


def table(runs: Mapping[tuple[str, str], Runs]) -> str:
    """Markdown: for each case and start the live seeds, and the shares of them that spare or keep the parent."""
    lines = ["| child | first latent starts as | live seeds | not absorbed | direction kept | fires as the parent |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for (case, kind), some in runs.items():
        live = f"{int(some.live.sum())} of {len(some.live)}"
        start = kind if kind == "random" else f"the {kind.split()[0]}"
        shares = " | ".join(told(share) for share in (some.spared_share, some.share, some.firing_share))
        lines.append(f"| {case} | {start} | {live} | {shares} |")
    return "\n".join(lines)


# The plane of magnitude ratio and child probability


def turn(ratio: Float[np.ndarray, " n"], alone: float, together: float) -> Float[np.ndarray, " n"]:
    """The child probability above which a latent that fires on both states leans to the child; above 1 it never does.

    `q = alone / (alone + together (r^2 - 1))` with the weights of the two states. They are (2, 1) if the second latent
    completes parent + child in the outer prefix, and (1, 2) if it completes the parent alone.
    """
    below = alone + together * (np.asarray(ratio) ** 2 - 1)
    return np.where(below > 0, alone / np.where(below > 0, below, 1), np.inf)


@dataclass(frozen=True)
class Plane:
    """What became of a parent that was learned first, over ratios (x) and chances (y).

    Attributes:
        ratios, chances: the axes.
        runs: with axes (chances times ratios, seeds), row by row.
    """

    ratios: Float[np.ndarray, " x"]
    chances: Float[np.ndarray, " y"]
    runs: Runs

    @property
    def shares(self) -> Float[np.ndarray, "y x"]:
        """Share of live seeds that keep the parent; NaN where none is live."""
        live, keeps = self.runs.live.double(), (self.runs.kept >= 0.9) & self.runs.live
        return (keeps.sum(-1) / live.sum(-1)).reshape(len(self.chances), -1).numpy()

    @property
    def predicted(self) -> Float[np.ndarray, "y x"]:
        """1 left of both turning lines, 0 right of both, NaN between them."""
        low, high = (turn(self.ratios, *weights) for weights in ((1, 2), (2, 1)))
        y = self.chances[:, None]
        return np.where(y < low, 1.0, np.where(y > high, 0.0, np.nan))

    @property
    def agreement(self) -> float:
        """Share of live seeds outside both lines that end as predicted."""
        wanted = torch.from_numpy(self.predicted).flatten()[:, None].expand_as(self.runs.live)
        asked = self.runs.live & ~wanted.isnan()
        return float((((self.runs.kept >= 0.9) == (wanted > 0.5)) & asked).sum() / asked.sum())


def plane(p: Parameters) -> Plane:
    """Train from a learned parent at every point, from half of the usual seeds."""
    ratios, chances = 2.0 ** np.linspace(-1, 3, p.n_grid), np.linspace(0.06, 0.94, p.n_grid)
    trees = [pair(float(y), float(x), p) for y in chances for x in ratios]
    return Plane(ratios, chances, fit(trees, STARTS[0], p, p.sweep_seeds[: max(1, p.n_sweep_seeds // 2)]))


def draw_plane(found: Plane) -> Figure:
    """The share that keeps the parent, with both turning lines and the two cases."""
    figure, (axis,) = figures.grid(1, 1, (7.2, 4.4))
    axis.set_facecolor("0.85")
    steps = np.log2(found.ratios[1] / found.ratios[0]) / 2, np.diff(found.chances)[0] / 2
    x = np.log2(found.ratios)
    x, y = np.append(x - steps[0], x[-1] + steps[0]), np.append(found.chances - steps[1], found.chances[-1] + steps[1])
    drawn = axis.pcolormesh(2.0**x, y, found.shares, cmap=SEQUENTIAL, vmin=0, vmax=1, edgecolors="white", lw=0.4)
    fine = np.geomspace(2 ** x[0], 2 ** x[-1], 400)
    edge = [mpl.patheffects.withStroke(linewidth=3.6, foreground="white")]  # visible on dark cells and on light ones
    card = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": "none", "alpha": 0.85}
    # The lines meet at both ends: each is named beside its middle.
    for weights, style, label, up, side in [
        ((2, 1), "-", "completes parent + child", 0.33, "left"), ((1, 2), "--", "completes the parent", 0.14, "right"),
    ]:  # fmt: skip
        line = turn(fine, *weights)
        axis.plot(fine, line, color="black", ls=style, lw=1.8, label=f"second latent {label}", path_effects=edge)
        place = fine[np.abs(line - up).argmin()], up
        off = {"left": 6, "right": -6}[side]
        axis.annotate(
            f"second latent\n{label}", place, (off, 0), textcoords="offset points", fontsize=9, color="black",
            ha=side, va="center", linespacing=1.0, bbox=card,
        )  # fmt: skip
    for ratio, name in ((1.0, "quiet"), (CHILD / PARENT, "loud")):
        axis.plot(ratio, CHANCE, "o", color="#d55e00", mec="white", ms=8)
        axis.annotate(
            name, (ratio, CHANCE), xytext=(8, -4), textcoords="offset points", fontsize=10, color="black", bbox=card
        )
    axis.set(xscale="log", xlim=(2 ** x[0], 2 ** x[-1]), ylim=(y[0], y[-1]))
    axis.set_xticks([0.5, 1, 2, 4, 8], ["0.5", "1", "2", "4", "8"])
    axis.minorticks_off()
    axis.set(xlabel="child's magnitude / parent's magnitude", ylabel="child's probability given the parent")
    figure.colorbar(drawn, ax=axis, label="share that keeps the parent's direction")
    return figure


def measured(
    p: Parameters,
    runs: Mapping[tuple[str, str], Runs],
    sampled: Mapping[str, Runs],
    found: Plane,
    independent: Mapping[str, Runs],
) -> dict[str, object]:
    """The metrics of the claim `parent-first-stays`."""
    learned = {case: runs[case, STARTS[0]] for case in cases(p)}
    return {
        "absorption_quiet": learned["quiet"].judged,
        "absorption_loud": learned["loud"].judged,
        "kept_quiet": learned["quiet"].values,
        "kept_loud": learned["loud"].values,
        "side_agreement": found.agreement,
        "sampled_gap": max(abs(some.share - sampled[case].share) for case, some in learned.items()),
        "control_absorption": runs["loud", STARTS[1]].judged,
        "control_kept": independent["quiet"].values,
        "converged": float(torch.cat([some.converged for some in learned.values()]).double().mean()),
    }
