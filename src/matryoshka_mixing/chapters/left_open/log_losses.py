"""The logarithm of each prefix's loss, which the thread's simplified experiment leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.figure import Figure
from torch import Tensor

from matryoshka_mixing import figures, metrics, theory
from matryoshka_mixing.chapters._shared import KINDS
from matryoshka_mixing.chapters.left_open.data import Parameters
from matryoshka_mixing.features import States, family, orthonormal_dictionaries, without_hierarchy
from matryoshka_mixing.figures import COLOURS
from matryoshka_mixing.metrics import Reading
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.training import Setting, TrainConfig, descend, train

RANDOM, NEAR = KINDS
WIDTHS = (1, 3)
FORMS = ("sum", "log, penalty inside", "log, penalty outside", "log, no penalty", "log, sampled batches")
"""The losses that are compared; the sum has the penalty, and the sampled form has it inside."""
NEAREST = 36
"""Seeds near the truth at most: as few as can show a share above 0.9, as all end alike."""


def log_loss(
    sae: SAE,
    x: Float[Tensor, "*instances states d_in"],
    probs: Float[Tensor, "*#instances states"],
    inside: Float[Tensor, "*#instances"],
    outside: Float[Tensor, "*#instances"],
) -> Float[Tensor, "*instances"]:
    """Sum over both prefixes of `log(E ||x - x_m||^2 + inside P_m) + outside P_m`, with P_m the penalty's sum of sizes.

    The same as from `SAE.errors` and `SAE.penalties`, which encode once for each of them.
    """
    acts, first = sae.encode(x), WIDTHS[0]
    sizes = acts * sae.W_dec.norm(dim=-1).unsqueeze(-2)
    inner = x - sae.decode(acts, first)
    outer = inner - acts[..., first:] @ sae.W_dec[..., first:, :]
    errors = torch.stack([inner.square().sum(-1), outer.square().sum(-1)], -1)
    sums = torch.stack([sizes[..., :first].sum(-1), sizes.sum(-1)], -1)
    errors, sums = ((probs[..., None] * some).sum(-2) for some in (errors, sums))
    return ((errors + inside[..., None] * sums).log() + outside[..., None] * sums).sum(-1)


def prefix_losses(
    sae: SAE, x: Float[Tensor, "*instances states d_in"], states: States, l1: float
) -> Float[Tensor, "*instances prefixes"]:
    """The loss of each prefix, penalty included."""
    return (states.probs * (sae.errors(x, WIDTHS) + l1 * sae.penalties(x, WIDTHS))).sum(-1)


@dataclass(frozen=True)
class Arm:
    """SAEs trained on one form of the loss from one kind of start, one a seed.

    Attributes:
        sae: the parameters.
        reading: what they hold.
    """

    sae: SAE
    reading: Reading

    @property
    def mixing(self) -> Float[Tensor, " seeds"]:
        """The first latent's mean cosine with a child, of every seed."""
        return self.reading.decoder[:, 0, 1:].mean(-1)

    @property
    def live(self) -> Tensor:
        """Whether all latents fire."""
        return self.reading.all_live


@dataclass(frozen=True)
class Found:
    """All arms, and what they are held against.

    Attributes:
        arms: by form and start.
        control: the log, penalty inside, on independent features, with a decoder bias, from near the truth.
        reweighted: decoder cosines from near the truth under a sum with each prefix weighed by the inverse of the loss
            it ended with under the log.
        weight: that weight of the inner prefix, with the outer one's as the unit, of every seed.
    """

    arms: Mapping[tuple[str, str], Arm]
    control: Reading
    reweighted: Float[Tensor, "seeds d_sae features"]
    weight: Float[Tensor, " seeds"]

    @property
    def reweighting_gap(self) -> float:
        """The largest difference of a decoder cosine from that under the re-weighted sum."""
        return float((self.reweighted - self.arms[FORMS[1], NEAR].reading.decoder).abs().max())

    def left(self, form: str) -> Float[Tensor, " live"]:
        """The mixing under a form over that under the sum, from near the truth, where both are live."""
        some, plain = self.arms[form, NEAR], self.arms[FORMS[0], NEAR]
        return (some.mixing / plain.mixing)[some.live & plain.live]

    def rise(self, form: str = FORMS[1]) -> Float[Tensor, " judged"]:
        """How much more each seed absorbs than under the sum, from random starts; a form may have fewer seeds.

        Of those seeds that are live under both, and whose parent some latent represents under both.
        """
        some, plain = self.arms[form, RANDOM], self.arms[FORMS[0], RANDOM]
        n = len(some.sae)
        more = some.reading.absorption - plain.reading.absorption[:n]
        return more[some.live & plain.live[:n] & ~more.isnan()]


def schedule(p: Parameters) -> TrainConfig:
    """Half of the usual steps, as autograd is slow."""
    return TrainConfig(max(1, p.n_steps // 2))


def run(p: Parameters) -> Found:
    """Train every form from near the truth; from random starts the sum, and two forms of the log; and the control.

    The log without a penalty, on which no criterion hangs, has a third of the random seeds.
    """
    tree = family(p.parent_probability, p.child_probability)
    states, lone = tree.states(), without_hierarchy(tree).states()
    seeds, fewer = {RANDOM: p.seeds, NEAR: p.seeds[:NEAREST]}, len(p.third)
    dictionary = {kind: orthonormal_dictionaries(3, p.d_model, some) for kind, some in seeds.items()}
    plain = SAEConfig(p.d_model, WIDTHS, l1=p.l1, encoder_bias=False, decoder_bias=False)
    near = start_near(dictionary[NEAR], seeds[NEAR], p.start_noise)
    begun = {RANDOM: random_start(plain, seeds[RANDOM]), NEAR: near.with_config(plain)}
    arms = {}
    for kind, start in begun.items():
        trained = train(Setting(plain, states, dictionary[kind]), start, schedule(p))
        arms[FORMS[0], kind] = read(trained.sae[0], states, dictionary[kind])
    starts = {(form, NEAR): (dictionary[NEAR], begun[NEAR]) for form in FORMS[1:]}
    starts[FORMS[1], RANDOM] = dictionary[RANDOM], begun[RANDOM]
    starts[FORMS[3], RANDOM] = dictionary[RANDOM][:fewer], begun[RANDOM][:fewer]
    ended = under_log(p, states, [(form, *start) for (form, _), start in starts.items()])
    for sae, (key, (directions, _)) in zip(ended, starts.items(), strict=True):
        arms[key] = read(sae, states, directions)
    losses = prefix_losses(arms[FORMS[1], NEAR].sae, states.inputs(dictionary[NEAR]), states, p.l1)
    weight = losses[:, 1] / losses[:, 0]
    again = reweighted(p, plain, states, dictionary[NEAR], weight, begun[NEAR])
    return Found(arms, independent(p, lone), again, weight)


def under_log(p: Parameters, states: States, runs: Sequence[tuple[str, Tensor, SAE]]) -> list[SAE]:
    """Train SAEs under forms of the log, all side by side.

    Args:
        p: the parameters.
        states: the data.
        runs: of each its form, the directions and the start, with the axis (seeds,).
    """
    ends = np.cumsum([len(start) for _, _, start in runs])
    inside, outside = torch.zeros(2, ends[-1], dtype=torch.float64)
    sampled = torch.zeros(ends[-1], dtype=torch.bool)
    for (form, _, start), end in zip(runs, ends, strict=True):
        own = slice(end - len(start), end)
        inside[own], outside[own] = p.l1 * (form in (FORMS[1], FORMS[4])), p.l1 * (form == FORMS[2])
        sampled[own] = form == FORMS[4]
    x = states.inputs(torch.cat([dictionary for _, dictionary, _ in runs]))
    # One multinomial draw of counts is one batch.
    draws = np.random.default_rng(p.seed)
    exact = states.probs.expand(int(ends[-1]), -1)

    def objective(sae: SAE) -> Tensor:
        probs = exact.clone()
        counts = draws.multinomial(p.batch_size, states.probs.numpy(), size=int(sampled.sum()))
        probs[sampled] = torch.from_numpy(counts / p.batch_size)
        return log_loss(sae, x, probs, inside, outside)

    start = SAE.cat([start for _, _, start in runs])
    found = descend(objective, start, schedule(p), held={"b_enc": ..., "b_dec": ...}).sae
    return [found[end - len(start) : end] for (_, _, start), end in zip(runs, ends, strict=True)]


def read(sae: SAE, states: States, dictionary: Float[Tensor, "seeds 3 d_model"]) -> Arm:
    """What the SAEs of one arm hold."""
    reading = metrics.read(sae, states, dictionary, [None, 0, 0])
    return Arm(sae, reading)


def independent(p: Parameters, states: States) -> Reading:
    """The control: the log on independent features, from near the truth and with a decoder bias."""
    seeds = p.sweep_seeds
    dictionary = orthonormal_dictionaries(3, p.d_model, seeds)
    x, penalty = states.inputs(dictionary), torch.full((1,), p.l1, dtype=torch.float64)
    start = start_near(dictionary, seeds, p.start_noise)
    found = descend(
        lambda sae: log_loss(sae, x, states.probs, penalty, 0 * penalty), start, schedule(p), held={"b_enc": ...}
    )
    return metrics.read(found.sae, states, dictionary, [None] * 3)


def reweighted(
    p: Parameters,
    config: SAEConfig,
    states: States,
    dictionary: Float[Tensor, "seeds 3 d_model"],
    weight: Float[Tensor, " seeds"],
    start: SAE,
) -> Float[Tensor, "seeds 3 3"]:
    """Decoder cosines under the sum with each seed's own weight of the inner prefix."""
    settings = [Setting(replace(config, weights=(float(w), 1.0)), states, dictionary[i]) for i, w in enumerate(weight)]
    begun = SAE.stack([start[i : i + 1] for i in range(len(weight))])
    return metrics.decoder_cosines(train(settings, begun, schedule(p)).sae, dictionary[:, None])[:, 0]


def next_weight(weight: float, child_probability: float, n_children: int = 2) -> float:
    """The inner prefix's weight under the log, where the losses are those that a given weight leads to; no penalty.

    With ratio t of the parent's decoder (`theory.matryoshka_ratio`) the outer prefix is left with the parent alone,
    `(1 - n q) n t^2 / (1 + n t^2)` of the parent's probability, and the inner one besides with
    `n q (2 - (1 + t)^2 / (1 + n t^2))`. The log weighs each by the inverse of its loss. A fixed point would give back
    the weight.
    """
    q, n = child_probability, n_children
    t = theory.matryoshka_ratio(q, n, weight)
    outer = (1 - n * q) * n * t**2 / (1 + n * t**2)
    return float(outer / (outer + n * q * (2 - (1 + t) ** 2 / (1 + n * t**2))))


def largest_return(child_probabilities: np.ndarray, n_children: int = 2) -> float:
    """The largest `next_weight` over its weight, for weights from 1e-4 to 1e4; below 1 no weight is a fixed point."""
    weights = np.geomspace(1e-4, 1e4, 161)
    return max(next_weight(w, q, n_children) / w for w in weights for q in child_probabilities)


def interval(rise: Float[Tensor, " judged"], draws: int = 2000) -> str:
    """The 95% bootstrap interval of the mean of `Found.rise` in words, also where there is no seed."""
    if not len(rise):
        return "no value"
    picks = np.random.default_rng(0).integers(len(rise), size=(draws, len(rise)))
    low, high = np.quantile(rise.numpy()[picks].mean(1), [0.025, 0.975])
    return f"{low:.2f} to {high:.2f}"


def draw(found: Found) -> Figure:
    """The parent's cosine with its children from near the truth, and absorption from random starts."""
    figure, axes = figures.grid(2, 2, (4.65, 3.2))
    jitter = np.random.default_rng(0)
    left = {form: found.arms[form, NEAR].mixing for form in FORMS}
    arms = {form: found.arms[form, RANDOM] for form in FORMS if (form, RANDOM) in found.arms}
    right = {form: judged(arm) for form, arm in arms.items()}
    for axis, values in zip(axes, (left, right), strict=True):
        axis.axvline(0, color="0.6", lw=0.8, zorder=0)
        for i, seeds in enumerate(values.values()):
            up = i + jitter.uniform(-0.25, 0.25, len(seeds))
            axis.scatter(seeds, up, s=14, alpha=0.45, lw=0, color=COLOURS[0])
            if len(seeds):
                axis.plot([float(seeds.mean())] * 2, [i - 0.38, i + 0.38], color="black", lw=2)
        axis.set_yticks(range(len(values)), list(values))
        axis.invert_yaxis()
    axes[0].set(xlabel="parent's cosine with a child (truth 0)", title="from near the truth")
    axes[1].set(xlabel="absorption", title="from random starts, judged seeds")
    return figure


def judged(arm: Arm) -> Float[Tensor, " judged"]:
    """The absorption of those seeds that are live and whose parent some latent represents."""
    absorption = arm.reading.absorption
    return absorption[arm.live & ~absorption.isnan()]


def measured(found: Found) -> dict[str, object]:
    """The metrics of the claim `log-of-losses`."""
    free = found.arms[FORMS[3], NEAR]
    return {
        "mixing_left": found.left(FORMS[1]),
        "absorption_rise": found.rise(),
        "reweighting_gap": found.reweighting_gap,
        "cosine_without_penalty": free.mixing[free.live],
        "mixing_left_outside": found.left(FORMS[2]),
        "mixing_left_sampled": found.left(FORMS[4]),
        "control_mixing": found.control.decoder[found.control.all_live][:, 0].abs().sort(-1).values[:, -2],
    }


def started(p: Parameters) -> dict[str, int]:
    """How many seeds were started for each metric."""
    near = len(p.seeds[:NEAREST])
    same = ("mixing_left", "cosine_without_penalty", "mixing_left_outside", "mixing_left_sampled")
    return dict.fromkeys(same, near) | {"absorption_rise": p.n_seeds, "control_mixing": p.n_sweep_seeds}
