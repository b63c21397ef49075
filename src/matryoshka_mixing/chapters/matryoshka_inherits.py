"""Chapter 3: a Matryoshka SAE of widths 1 and n + 1 inherits the mixing of the narrow SAE inside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from matplotlib.figure import Figure
from torch import Tensor

from matryoshka_mixing import figures, metrics, theory
from matryoshka_mixing.chapters import _shared
from matryoshka_mixing.chapters._shared import Arm, Family, Setup, Walk, steps_to
from matryoshka_mixing.chapters._shared import converged as converged
from matryoshka_mixing.chapters._shared import median_gap as median_gap
from matryoshka_mixing.features import States, family
from matryoshka_mixing.parameters import given
from matryoshka_mixing.sae import SAEConfig
from matryoshka_mixing.training import Setting, Trained

COSINES = (
    "parent's latent with the parent",
    "parent's latent with a child",
    "child's latent with the parent",
    "child's latent with its child",
    "child's latent with a sibling",
)
"""The five decoder cosines that describe a solution, in the order in which everything here lists them."""


@dataclass(frozen=True)
class Parameters(Family):
    """The parameters of this chapter."""

    inner_weight: float = given("inner_weight", 1.0)


def set_up(p: Parameters) -> Setup:
    """The family, and a Matryoshka SAE whose inner prefix is one latent, without biases."""
    widths, weights = (1, p.n_children + 1), (p.inner_weight, 1.0)
    return Setup.of(p, SAEConfig(p.d_model, widths, weights, l1=p.l1, encoder_bias=False, decoder_bias=False))


def predicted(child_probability: float, inner_weight: float, n_children: int) -> list[float]:
    """Theory's value of each of `COSINES`."""
    ratio = theory.matryoshka_ratio(child_probability, n_children, inner_weight)
    return [*theory.parent_cosines(ratio, n_children), *theory.child_cosines(ratio, n_children)]


def same_as_near(random: Arm, near: Arm, power: float) -> Bool[Tensor, " seeds"]:
    """Whether each random seed is live and has the median loss of the seeds from near the truth.

    `power` is E||x||^2; see `metrics.same_loss`.
    """
    return random.live & metrics.same_loss(random.loss, near.loss.median(), power)


def below_near(random: Arm, near: Arm, power: float) -> Bool[Tensor, " seeds"]:
    """Whether each random seed ends at a lower loss than that; arguments as for `same_as_near`."""
    clean = near.loss.median()
    return (random.loss < clean) & ~metrics.same_loss(random.loss, clean, power)


def selective(
    acts: Float[Tensor, "*instances states d_sae"],
    latents: Int[Tensor, "*instances features"],
    features: Float[Tensor, "states features"],
) -> Bool[Tensor, "*instances features"]:
    """Whether each feature's latent fires only on inputs that hold the feature.

    Without a penalty a child's latent may fire on a sibling at no cost, and the children's decoders are then
    not unique.

    Args:
        acts: activations of the latents on every state.
        latents: from `metrics.match`; a feature without a latent is not selective.
        features: activations of the true features on the same states.
    """
    index = latents.clamp_min(0).unsqueeze(-2).expand(*acts.shape[:-1], latents.shape[-1])
    stray = (acts.gather(-1, index) > metrics.SILENT) & (features == 0)
    return ~stray.any(-2) & (latents >= 0)


@dataclass(frozen=True)
class Found:
    """What the SAEs of a sweep hold.

    Attributes:
        cosines: each of `COSINES`, shape (points, seeds, pairs of features).
        selective: whether every latent fires only with its own feature, as theory assumes.
        loss: final loss.
    """

    cosines: list[Float[Tensor, "points seeds _"]]
    selective: Bool[Tensor, "points seeds"]
    loss: Float[Tensor, "points seeds"]


def read_sweep(trained: Trained, settings: Sequence[Setting], parents: Sequence[int | None]) -> Found:
    """Read the five cosines of every trained SAE of a sweep whose settings share their directions."""
    decoder = metrics.decoder_cosines(trained.sae, settings[0].directions)
    latents = metrics.match(decoder)
    mix = metrics.mixing(decoder, latents, parents)
    cosines = [decoder[..., :1, 0], mix.parent_to_child, mix.child_to_parent, mix.own[..., 1:], mix.child_to_sibling]
    alone = []
    for i, setting in enumerate(settings):
        acts = trained.sae[i].encode(setting.inputs)
        alone.append(selective(acts, latents[i], setting.states.acts).all(-1))
    return Found(cosines, torch.stack(alone), trained.loss)


@dataclass(frozen=True)
class Sweep:
    """The sweep over the child's probability, and then that over the weight of the inner prefix.

    Attributes:
        chances, betas: the amounts.
        theory: each of `COSINES` at every point, predicted.
        near, random: found from near the truth and from random starts.
        power: E||x||^2 at every point.
    """

    chances: Float[np.ndarray, " chances"]
    betas: Float[np.ndarray, " betas"]
    theory: Float[Tensor, "cosines points"]
    near: Found
    random: Found
    power: Float[Tensor, " points"]

    @property
    def theory_gap(self) -> float:
        """The largest distance of a selective seed's cosine from theory, near the truth; NaN if none is selective."""
        gaps = [
            (values - line[:, None, None]).abs()[self.near.selective]
            for values, line in zip(self.near.cosines, self.theory, strict=True)
        ]
        return max((float(gap.max()) for gap in gaps if gap.numel()), default=float("nan"))

    @property
    def parent_gap(self) -> float:
        """The largest distance of a parent's latent's cosine from theory, over all seeds near the truth."""
        pairs = zip(self.near.cosines[:2], self.theory[:2], strict=True)
        return max(float((values - line[:, None, None]).abs().max()) for values, line in pairs)

    @property
    def loss_spread(self) -> float:
        """The largest distance of a loss from its point's median, over all seeds near the truth."""
        return float((self.near.loss - self.near.loss.median(1, keepdim=True).values).abs().max())

    @property
    def reached(self) -> Bool[Tensor, "points seeds"]:
        """Whether each random seed is selective and has the median loss of those from near the truth."""
        median = self.near.loss.median(1, keepdim=True).values
        return self.random.selective & metrics.same_loss(self.random.loss, median, self.power[:, None])


def sweep_points(p: Parameters) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], list[tuple[float, float]]]:
    """The amounts of `Sweep`, and child probability and inner weight at each of its points."""
    chances = np.linspace(0.02, min(0.5, 1 / p.n_children) * 0.98, p.n_grid)
    betas = np.geomspace(0.1, 10, p.n_grid)
    points = [(q, p.inner_weight) for q in chances.tolist()]
    return chances, betas, points + [(p.child_probability, beta) for beta in betas.tolist()]


def sweep_settings(p: Parameters, setup: Setup) -> list[Setting]:
    """The settings at `sweep_points`."""
    directions = setup.directions(setup.sweep_seeds)
    return [
        Setting(
            replace(setup.sae, weights=(beta, 1.0)),
            family(p.parent_probability, q, p.n_children).states(),
            directions,
        )
        for q, beta in sweep_points(p)[2]
    ]


def sweep(p: Parameters, setup: Setup) -> Sweep:
    """Train both sweeps from both kinds of start."""
    chances, betas, points = sweep_points(p)
    settings, parents = sweep_settings(p, setup), setup.tree.parents()
    near, random = setup.sweep(settings), setup.sweep(settings, "random")
    return Sweep(
        chances,
        betas,
        torch.tensor([predicted(q, beta, p.n_children) for q, beta in points], dtype=torch.float64).T,
        read_sweep(near, settings, parents),
        read_sweep(random, settings, parents),
        torch.tensor([setting.states.power for setting in settings], dtype=torch.float64),
    )


def draw_sweep(found: Sweep, p: Parameters) -> Figure:
    """Theory as lines; filled points from near the truth, open ones from random starts that reach the same."""
    n, split = p.n_children, len(found.chances)
    fine_q, fine_beta = np.linspace(0.001, found.chances[-1], 200), np.geomspace(0.1, 10, 200)
    by_q = np.array([predicted(q, p.inner_weight, n) for q in fine_q]).T
    by_beta = np.array([predicted(p.child_probability, beta, n) for beta in fine_beta]).T
    left = found.chances, fine_q, by_q, "child probability given the parent"
    right = found.betas, fine_beta, by_beta, "weight of the inner prefix"
    near = [torch.where(found.near.selective, values[..., 0], torch.nan) for values in found.near.cosines]
    random = [torch.where(found.reached, values[..., 0], torch.nan) for values in found.random.cosines]
    panels = []
    for chosen in ((0, 1), (2, 3, 4)):
        for rows, (x, line_x, lines, xlabel) in [(slice(0, split), left), (slice(split, None), right)]:
            series = [
                {"label": COSINES[i], "x": x, "line_x": line_x, "line_y": lines[i]}
                | {"points": near[i][rows], "open_points": random[i][rows]}
                for i in chosen
            ]
            panels.append({"xlabel": xlabel, "ylabel": "decoder cosine", "log": x is found.betas, "series": series})
    return figures.theory_and_experiment(panels)


def explorable(found: Sweep, p: Parameters) -> str:
    """The picture that a reader moves, as HTML; its dots are medians of the selective seeds from near the truth."""
    split, chosen = len(found.chances), found.near.selective
    columns = [
        torch.where(chosen, found.near.cosines[i][..., 0], torch.nan)[:split].nanmedian(1).values for i in (1, 4)
    ]
    dots = np.stack([found.chances, *columns], 1).tolist()
    start = {"q": p.child_probability, "n": p.n_children, "beta": p.inner_weight, "l1": p.l1}
    return figures.explorable("matryoshka-explorable", start, dots, notebook="03_matryoshka_inherits")


def optimum(setup: Setup) -> Float[Tensor, "d_sae features"]:
    """Theory's decoder of every latent, from the states: the parent's, then what it leaves to each child's."""
    parent = theory.matryoshka_optimum(setup.states, range(setup.sae.d_sae), setup.sae.widths, setup.sae.weights)
    one = torch.eye(setup.sae.d_sae, dtype=torch.float64)
    return torch.stack([parent, *(theory.child_decoder(parent, one[0] + child) for child in one[1:])])


def draw_latents(arm: Arm, setup: Setup) -> Figure:
    """Cosines of decoder and encoder in the arm's typical seed, beside theory's decoder."""
    panels = {"theory: decoder": optimum(setup).numpy(), "trained: decoder": arm.reading.decoder[arm.typical].numpy()}
    panels["trained: encoder"] = arm.reading.encoder[arm.typical].numpy()
    return figures.heatmaps(panels, setup.tree.names)


def walk(p: Parameters, setup: Setup) -> Walk:
    """What is left of the loss from the clean parent to the mixed one, and on.

    The children's latents make the outer prefix exact on every input that holds a child.
    """
    weights = theory.prefix_weights(setup.states, range(setup.sae.d_sae), setup.sae.widths, setup.sae.weights)
    ratio = theory.matryoshka_ratio(p.child_probability, p.n_children, p.inner_weight)
    position, decoders = steps_to(ratio, p.n_children)
    pull = setup.states.probs * weights
    pulled = States(setup.states.acts, pull / pull.sum())
    return Walk(position, pull.sum() * theory.one_latent_loss(pulled, decoders))


def draw_walk(found: Walk) -> Figure:
    """The loss along the walk, relative to its start."""
    return _shared.draw_walk(found.position, {"widths 1 and n + 1": found.loss})


def penalties(p: Parameters) -> Float[np.ndarray, " penalties"]:
    """Penalties from the chapter's own upwards."""
    return p.l1 + np.linspace(0, 0.2, p.n_grid)


def penalised(p: Parameters, setup: Setup) -> list[Float[Tensor, "penalties seeds _"]]:
    """Each of `COSINES` over `penalties`, trained from near the truth; shapes as in `Found`."""
    directions = setup.directions(setup.sweep_seeds)
    settings = [Setting(replace(setup.sae, l1=l1), setup.states, directions) for l1 in penalties(p)]
    return read_sweep(setup.sweep(settings), settings, setup.tree.parents()).cosines


def draw_penalised(cosines: Sequence[Float[Tensor, "penalties seeds _"]], p: Parameters) -> Figure:
    """The mixings of `penalised` as points, theory without a penalty as flat lines."""
    x, flat = penalties(p), predicted(p.child_probability, p.inner_weight, p.n_children)
    panels = []
    for chosen in ((1, 4), (2,)):
        series = [
            {"label": COSINES[i], "x": x, "line_x": x, "line_y": np.full(len(x), flat[i])}
            | {"points": cosines[i].flatten(1)}
            for i in chosen
        ]
        panels.append({"xlabel": "L1 penalty", "ylabel": "decoder cosine", "series": series})
    return figures.theory_and_experiment(panels)


def sibling_cosines(arm: Arm) -> Float[Tensor, " live"]:
    """The largest cosine of a child's latent with a sibling, of every live seed."""
    return arm.reading.mixing.child_to_sibling[arm.live].amax(-1)


def recovery(arm: Arm) -> Float[Tensor, " live"]:
    """The smallest cosine of a feature's latent with the feature, of every live seed."""
    return arm.reading.mixing.own[arm.live].amin(-1)


def draw_seeds(
    exact: Mapping[str, Arm], sampled: Mapping[str, Arm], biased: Arm, control: Mapping[str, Arm], reference: float
) -> Figure:
    """Every live seed's cosine of the first latent with a child (of the control's with a foreign feature)."""
    strips = {f"exact, {kind}": arm.child_cosines for kind, arm in exact.items()}
    strips |= {f"sampled, {kind}": arm.child_cosines for kind, arm in sampled.items()}
    strips["decoder bias, near the truth"] = biased.child_cosines_either_sign
    strips |= {f"control, {kind}": arm.foreign_cosines for kind, arm in control.items()}
    label = "cosine of the first latent with a child"
    groups = {name: values.numpy() for name, values in strips.items()}
    return figures.seed_strips(groups, label, reference=reference, label="theory")
