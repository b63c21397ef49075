"""The original's schedule, and the arms of the experiment: what is trained, how, with which prefixes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from matryoshka_mixing import theory
from matryoshka_mixing.training import TrainConfig

TARGET_L0 = 1.2338
"""Mean L0 toward which the original steers its penalty; the tree's own is 1.12."""


@dataclass(frozen=True)
class Recipe:
    """The original schedule, each part a share of the steps, so that it can be run shorter.

    Attributes:
        steps: number of updates.
        batch_size: inputs in a batch, at least 1.
        seed: seeds batches and prefixes, together with the number of each seed.
        records: how many points of the history to keep.
        lr, betas: Adam's peak learning rate and decay rates.
        clip: longest gradient of one SAE; longer ones are shortened to it.
        warmup: share of the steps in which the rate rises linearly from 0.
        cooldown: share of the steps, at the end, in which it falls linearly to `final_lr` times its peak.
        final_lr: see there, in [0, 1].
        norm_memory: what the running mean of the inputs' norm keeps at each step, in [0, 1); it starts at 0,
            uncorrected.
        ramp: share of the steps in which the penalty rises linearly from 0 to its starting value.
        steering: how far the logarithm of the penalty could go if all steps steered it one way; below `steps`.
        sort_memory: what the running mean of the latents' squared contributions keeps at each step, in [0, 1).

    Raises:
        ValueError: naming the value, and what is allowed.
    """

    steps: int = 40_000
    batch_size: int = 200
    seed: int = 0
    records: int = 50
    lr: float = 0.03
    betas: tuple[float, float] = (0.5, 0.9375)
    clip: float = 1.0
    warmup: float = 0.0025
    cooldown: float = 0.2
    final_lr: float = 0.1
    norm_memory: float = 0.99
    ramp: float = 0.2
    steering: float = 12.0
    sort_memory: float = 0.95

    def __post_init__(self) -> None:
        self.training  # noqa: B018, the trainer checks what is its own
        checks = [
            ("final_lr", 0 <= self.final_lr <= 1, "a share in [0, 1]"),
            ("norm_memory", 0 <= self.norm_memory < 1, "a share in [0, 1)"),
            ("ramp", 0 <= self.ramp <= 1, "a share in [0, 1]"),
            ("steering", 0 <= self.steering < self.steps, f"at least 0 and below the number of steps, {self.steps}"),
            ("sort_memory", 0 <= self.sort_memory < 1, "a share in [0, 1)"),
        ]
        for name, holds, allowed in checks:
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {allowed}.")

    @cached_property
    def training(self) -> TrainConfig:
        """What of it the trainer knows; its learning rates are other ones."""
        shared = ("steps", "batch_size", "seed", "records", "lr", "betas", "clip", "warmup", "cooldown")
        return TrainConfig(**{name: getattr(self, name) for name in shared})

    def learning_rate(self, step: int) -> float:
        """Learning rate of update number `step` (from 0)."""
        warm, cool = self.warmup * self.steps, self.cooldown * self.steps
        rise = min(1.0, step / warm) if warm else 1.0
        left = min(1.0, (self.steps - step) / cool) if cool else 1.0
        return self.lr * rise * (self.final_lr + (1 - self.final_lr) * left)


FULL_LENGTH = Recipe()
"""The recipe as the original has it."""


@dataclass(frozen=True)
class Arm:
    """One of several trainings that see the same batches from the same start.

    Attributes:
        weights: of each prefix, for widths 1 to the number of latents; with `drawn`, the chance that one draw takes it.
        drawn: how many shorter prefixes are drawn at each step, without replacement; the full width joins them and all
            weigh the same. 0: all prefixes of `weights`, in every batch.
        sort: whether the latents are re-sorted at every step, loudest first.
        mean_follows: whether the running mean by which they are sorted moves along with them (in the original code it
            does not).
        moments_follow: whether the optimiser's moments do (there they are meant to, and do not).
        l1: the penalty after its ramp, at least 0, in units of normalised inputs.
        target_l0: mean L0 toward which the penalty is then steered; None leaves it there.

    Raises:
        ValueError: naming the value, and what is allowed.
    """

    weights: tuple[float, ...]
    drawn: int = 0
    sort: bool = True
    mean_follows: bool = False
    moments_follow: bool = False
    l1: float = 0.2
    target_l0: float | None = TARGET_L0

    def __post_init__(self) -> None:
        if not self.weights or not any(self.weights) or any(not 0 <= w < math.inf for w in self.weights):
            raise ValueError(
                f"weights are {self.weights}; give one finite weight of at least 0 for each latent, not all of them 0."
            )
        if not 0 <= self.drawn < len(self.weights) or (self.drawn and not all(self.weights[:-1])):
            raise ValueError(
                f"drawn is {self.drawn}; of {len(self.weights)} prefixes from 0 to all shorter ones can be drawn, and "
                "each of them must then have a chance above 0."
            )
        if not 0 <= self.l1 < math.inf:
            raise ValueError(f"l1 is {self.l1}; it must be a finite number of at least 0.")
        if self.target_l0 is not None and not 0 <= self.target_l0 < math.inf:
            raise ValueError(f"target_l0 is {self.target_l0}; it must be a finite number of at least 0, or None.")

    @cached_property
    def expected(self) -> tuple[float, ...]:
        """Expected weight of each prefix; random prefixes act through it."""
        if not self.drawn:
            return self.weights
        share = 1 / (self.drawn + 1)
        return *(share * p for p in theory.inclusion_probabilities(self.weights[:-1], self.drawn)), share


def arms(
    latents: int = 20, target_l0: float = TARGET_L0, true_l0: float = 1.12, absorbed_l0: float = 0.85
) -> dict[str, Arm]:
    """The arms of the experiment by name.

    Args:
        latents: their number in each SAE, at least 1.
        target_l0: where the penalty is steered in most arms.
        true_l0: the tree's own mean L0, for the arms steered there.
        absorbed_l0: its mean L0 if no parent's latent fires beside a child's, likewise.

    Raises:
        ValueError: if there are no latents.
    """
    if latents < 1:
        raise ValueError(f"latents is {latents}; an SAE needs at least 1.")
    law = np.diff(np.sqrt(np.arange(latents + 1) / latents))  # the original's; the last entry is not drawn
    few = {max(1, latents // 4), max(1, latents // 2), latents}
    standard = Arm((0.0,) * (latents - 1) + (1.0,), sort=False, target_l0=target_l0)
    sampled = Arm(tuple(law.tolist()), drawn=min(9, latents - 1), target_l0=target_l0)
    every = Arm((1 / latents,) * latents, target_l0=target_l0)
    fixed = replace(every, weights=tuple(float(m in few) / len(few) for m in range(1, latents + 1)))
    follow: dict[str, Any] = {"moments_follow": True, "mean_follows": True}
    main = {"standard": standard, "sampled": sampled, "all prefixes": every}
    return {
        **main,
        "few prefixes": fixed,
        "sampled, moments follow": replace(sampled, moments_follow=True),
        "sampled, sorting mended": replace(sampled, **follow),
        "all prefixes, sorting mended": replace(every, **follow),
        **{f"{name}, equal penalty": replace(arm, target_l0=None) for name, arm in main.items()},
        **{f"{name}, true L0": replace(arm, target_l0=true_l0) for name, arm in main.items()},
        **{f"{name}, equal L0": replace(arm, target_l0=absorbed_l0) for name, arm in main.items()},
    }


def independent_arms(chosen: Mapping[str, Arm]) -> dict[str, Arm]:
    """Arms for the control, on features that fire independently."""
    return {f"{name}, independent": arm for name, arm in chosen.items()}
