"""Chapter 1: a standard SAE with one latent a feature absorbs the parent into its children's latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from matplotlib.figure import Figure
from torch import Tensor

from matryoshka_mixing import figures, metrics
from matryoshka_mixing.chapters._shared import Arm, Family, Setup
from matryoshka_mixing.chapters._shared import converged as converged
from matryoshka_mixing.chapters._shared import median_gap as median_gap
from matryoshka_mixing.features import States, family
from matryoshka_mixing.parameters import given
from matryoshka_mixing.sae import SAE, SAEConfig
from matryoshka_mixing.training import Setting


@dataclass(frozen=True)
class Parameters(Family):
    """The parameters of this chapter."""

    l1: float = given("l1", 0.03)


def set_up(p: Parameters) -> Setup:
    """The family, and a standard SAE with a latent for each feature, without biases."""
    widths = (p.n_children + 1,)
    return Setup.of(p, SAEConfig(p.d_model, widths, l1=p.l1, encoder_bias=False, decoder_bias=False))


def lean(reading: metrics.Reading) -> Float[Tensor, " seeds"]:
    """The smallest cosine of a child's latent with the parent, of each seed; about 0.71 where it is absorbed."""
    return reading.mixing.child_to_parent.amin(-1)


def live_lean(arm: Arm) -> Float[Tensor, " live"]:
    """`lean` of the live seeds."""
    return lean(arm.reading)[arm.live]


def control_lean(arm: Arm) -> Float[Tensor, " live"]:
    """The largest absolute cosine of a child's latent with the parent, of each live seed."""
    return arm.reading.mixing.child_to_parent.abs().amax(-1)[arm.live]


def absorption(arm: Arm) -> Float[Tensor, " some"]:
    """How much of the parent other latents write beside a child, in live seeds in which the parent is not missing."""
    found = arm.reading.absorption[arm.live]
    return found[~found.isnan()]


def absorbed(arm: Arm) -> Bool[Tensor, " live"]:
    """Whether each live seed meets both thresholds of the ledger: an absorption of 0.9, cosines of 0.5."""
    return ((arm.reading.absorption >= 0.9) & (lean(arm.reading) >= 0.5))[arm.live]


def complement(arm: Arm) -> Bool[Tensor, " live"]:
    """Whether the parent's latent of each live seed takes the parent away, which the decoder bias carries."""
    return (arm.reading.mixing.own[:, 0] < 0)[arm.live]


def by_hand(dictionary: Float[Tensor, "features d_in"]) -> dict[str, SAE]:
    """Two SAEs without biases that reconstruct a family with exclusive children without error, as one instance each.

    Clean: one latent a feature. Absorbed: a child's latent holds parent + child, and the parent's latent
    subtracts the children in its encoder, so that it is silent where one of them fires.
    """
    encoder, decoder = dictionary.clone(), dictionary.clone()
    encoder[0] -= dictionary[1:].sum(0)
    decoder[1:] += dictionary[0]
    b_enc, b_dec = (dictionary.new_zeros(1, size) for size in dictionary.shape)
    return {
        "clean": SAE(dictionary.T[None], b_enc, dictionary[None], b_dec),
        "absorbed": SAE(encoder.T[None], b_enc, decoder[None], b_dec),
    }


def hand_losses(setup: Setup) -> dict[str, float]:
    """The exact losses of `by_hand`, the same on all directions; without errors, they are the penalty alone."""
    directions = setup.directions(setup.seeds[:1])[0]
    x, probs = setup.states.inputs(directions), setup.states.probs
    return {name: float(sae.loss(x, probs, setup.sae)) for name, sae in by_hand(directions).items()}


def _latents(setup: Setup) -> list[str]:
    return [f"{name}'s latent" for name in setup.tree.names]


def draw_decoders(arms: Mapping[str, Arm], setup: Setup) -> Figure:
    """Decoder cosines of each arm's typical seed, latents in the order of their features."""
    panels = {}
    for kind, arm in arms.items():
        order = arm.reading.latents[arm.typical]
        panels[f"{kind}: decoder"] = arm.reading.decoder[arm.typical][order].numpy()
    return figures.heatmaps(panels, setup.tree.names, _latents(setup))


def labels(states: States, names: Sequence[str]) -> list[str]:
    """The features that are active in each state, in words."""
    active = [[names[f] for f in torch.nonzero(row).flatten().tolist()] for row in states.acts]
    return [" + ".join(some) or "nothing" for some in active]


def draw_activations(arms: Mapping[str, Arm], setup: Setup) -> Figure:
    """Activations on every state of each arm's typical seed, latents in the order of their features."""
    panels = {}
    for kind, arm in arms.items():
        order = arm.reading.latents[arm.typical]
        panels[f"{kind}: activations"] = arm.reading.acts[arm.typical][:, order].numpy()
    return figures.heatmaps(panels, _latents(setup), labels(setup.states, setup.tree.names), quantity="activation")


@dataclass(frozen=True)
class Sweep:
    """Absorption over the penalty, and over the child's probability, from one kind of start.

    Attributes:
        penalties, chances: the amounts; the points below are those of the first, then those of the second.
        rate: absorption; NaN where a latent is dead or training has not converged.
        lean: see `lean`; NaN likewise.
        n_unconverged: SAEs that have not converged.
    """

    penalties: Float[np.ndarray, " penalties"]
    chances: Float[np.ndarray, " chances"]
    rate: Float[Tensor, "points seeds"]
    lean: Float[Tensor, "points seeds"]
    n_unconverged: int


def sweep_settings(
    p: Parameters, setup: Setup
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], list[Setting]]:
    """The amounts of `Sweep`, and the settings of its points."""
    penalties = np.geomspace(0.005, 0.2, p.n_grid)
    chances = np.linspace(0.02, min(0.5, 1 / p.n_children) * 0.98, p.n_grid)
    families = [family(p.parent_probability, q, p.n_children).states() for q in chances.tolist()]
    directions = setup.directions(setup.sweep_seeds)
    settings = [Setting(replace(setup.sae, l1=penalty), setup.states, directions) for penalty in penalties]
    return penalties, chances, settings + [Setting(setup.sae, states, directions) for states in families]


def sweep(p: Parameters, setup: Setup, kind: str) -> Sweep:
    """Train both sweeps from one kind of start, for twice the chapter's steps: a small penalty settles late."""
    penalties, chances, settings = sweep_settings(p, setup)
    longer = replace(setup, exact=replace(setup.exact, steps=2 * setup.exact.steps))
    trained, parents = longer.sweep(settings, kind), setup.tree.parents()
    readings = [
        metrics.read(trained.sae[i], setting.states, setting.directions, parents) for i, setting in enumerate(settings)
    ]
    kept = torch.stack([reading.all_live for reading in readings]) & trained.converged
    rate = torch.stack([reading.absorption for reading in readings]).masked_fill(~kept, torch.nan)
    leaning = torch.stack([lean(reading) for reading in readings]).masked_fill(~kept, torch.nan)
    return Sweep(penalties, chances, rate, leaning, int((~trained.converged).sum()))


def rate_range(*sweeps: Sweep) -> tuple[float, float]:
    """The lowest and highest absorption of sweeps; NaN if no SAE is left in them."""
    every = torch.cat([one.rate.flatten() for one in sweeps])
    rates = every[~every.isnan()].tolist() or [float("nan")]
    return min(rates), max(rates)


def draw_sweeps(near: Sweep, random: Sweep) -> Figure:
    """Rate and cosine over both amounts: from near the truth filled, from random starts open."""
    first, second = slice(0, len(near.penalties)), slice(len(near.penalties), None)
    panels = []
    for rows, x, xlabel in [
        (first, near.penalties, "L1 penalty"),
        (second, near.chances, "child probability given the parent"),
    ]:
        for name, ylabel in [("rate", "absorption"), ("lean", "child's cosine with parent")]:
            points, open_points = (getattr(one, name)[rows] for one in (near, random))
            series = {"label": "", "x": x, "points": points, "open_points": open_points}
            panels.append({"xlabel": xlabel, "ylabel": ylabel, "log": rows is first, "series": [series]})
    return figures.theory_and_experiment(panels)


def draw_seeds(exact: Mapping[str, Arm], sampled: Mapping[str, Arm], biased: Arm, control: Arm) -> Figure:
    """Every live seed's `lean`, and for the control its `control_lean`."""
    strips = {f"exact, {kind}": live_lean(arm) for kind, arm in exact.items()}
    strips |= {f"sampled, {kind}": live_lean(arm) for kind, arm in sampled.items()}
    strips["decoder bias, random"] = live_lean(biased)
    strips["control: independent, random"] = control_lean(control)
    groups = {name: values.numpy() for name, values in strips.items()}
    return figures.seed_strips(groups, "cosine of a child's latent with the parent")
