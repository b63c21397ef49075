"""The chapter's parameters, and when a parent is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from matryoshka_mixing import claims
from matryoshka_mixing.features import States
from matryoshka_mixing.metrics import SILENT, Reading
from matryoshka_mixing.parameters import Chapter, given
from matryoshka_mixing.training import TrainConfig

MARGIN = 0.02
"""By how much a latent's cosine with its feature must exceed the next: one that holds two alike leads to neither."""


@dataclass(frozen=True)
class Parameters(Chapter):
    """The parameters of the chapter: those of the three-feature hierarchy, and of its runs."""

    parent_probability: float = given("parent_probability", 0.3)
    child_probability: float = given(
        "child_probability", 0.4, high=0.499, meaning="probability of each of the two children given the parent"
    )
    l1: float = given("l1", 0.03, meaning="weight of the L1 penalty, in the runs that have one")
    d_model: int = given("d_model", 20, low=8)
    n_seeds: int = given("n_seeds", 192)
    n_sweep_seeds: int = given("n_sweep_seeds", 16)
    seed: int = given("seed", 13000)
    start_noise: float = given("start_noise", 0.5)
    n_steps: int = given("n_steps", 2000)
    batch_size: int = given("batch_size", 200)
    n_grid: int = given("n_grid", 9)

    @property
    def seeds(self) -> range:
        """Those of the main runs."""
        return range(self.seed, self.seed + self.n_seeds)

    @property
    def third(self) -> range:
        """The first of them, for runs that are slow or many."""
        return self.seeds[: max(1, self.n_seeds // 3)]

    @property
    def sweep_seeds(self) -> range:
        """Those at each point of a sweep."""
        return range(self.seed, self.seed + self.n_sweep_seeds)

    @property
    def exact(self) -> TrainConfig:
        """Training on the exact loss."""
        return TrainConfig(self.n_steps)


def leads(decoder: Float[Tensor, "*instances d_sae features"], feature: int) -> Bool[Tensor, "*instances d_sae"]:
    """Whether each latent leads toward the feature: its cosine with it exceeds all others in size by `MARGIN`."""
    others = decoder.abs().clone()
    others[..., feature] = 0
    return decoder[..., feature] > others.amax(-1) + MARGIN


def kept(
    reading: Reading, states: States | Sequence[States], children: Sequence[int] = (1,)
) -> Float[Tensor, "*instances"]:
    """On which share of the inputs that hold the parent, feature 0, and a child the parent is kept, in [0, 1].

    Kept: some latent that leads toward the parent fires. That asks for more than firing: a latent that fires with the
    parent and points at the child does not keep it.

    Args:
        reading: from `metrics.read`.
        states: the data; or, for a sweep, those of each setting, as `metrics.read` takes them.
        children: numbers of the child features.
    """
    each = [states] if isinstance(states, States) else list(states)
    features = torch.stack([some.acts for some in each])[:, None]
    probs = torch.stack([some.probs for some in each])[:, None]
    if isinstance(states, States):
        features, probs = features[0, 0], probs[0, 0]
    shown = ((reading.acts > SILENT) & leads(reading.decoder, 0).unsqueeze(-2)).any(-1)
    weight = probs * (features[..., list(children)] > 0).any(-1) * (features[..., 0] > 0)
    return (shown * weight).sum(-1) / weight.sum(-1)


def told(value: float | Tensor, form: str = ".0%") -> str:
    """A number for prose, in this form ("" as in `claims.number`); NaN, which is that of no seed, is "none"."""
    value = float(value)
    return "none" if math.isnan(value) else f"{value:{form}}" if form else claims.number(value)
