"""When and how to switch to the remedy's second stage: ours beside the same with one thing changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from matryoshka_mixing import remedy
from matryoshka_mixing.chapters.what_cures_it.contestants import OURS
from matryoshka_mixing.chapters.what_cures_it.measures import measure
from matryoshka_mixing.chapters.what_cures_it.toys import KINDS, Case, Toy
from matryoshka_mixing.sae import SAE, SAEConfig

TOYS = ("three features", "unequal children", "four children", "twenty features")
"""Where it is tried: toys whose features plain training can find."""
STAGES = OURS
"""Steps in all, in stages, however they are divided."""


@dataclass(frozen=True)
class How:
    """How the remedy is trained; the defaults are ours.

    Attributes:
        before: stages of plain training; what is left of `STAGES` is shared by the second stage and the settling.
        slower: by what the learning rate is divided after the switch.
        parts: in so many equal parts the decoder's loss goes from that of the prefixes to the full one; 1: at once.
        light: whether the full reconstruction weighs as much as one prefix, in place of all together.
        bias: whether the decoder bias is trained.
        penalty: whether the penalty stays after the switch.
        second: whether there is a second stage, or settling at once.
        rounds: of settling, which share its steps.
    """

    before: float = 1.0
    slower: float = 3.0
    parts: int = 1
    light: bool = False
    bias: bool = False
    penalty: bool = True
    second: bool = True
    rounds: int = remedy.ROUNDS

    def fit(self, case: Case) -> SAE:
        """Train a case."""
        plain = replace(case.plain, decoder_bias=self.bias)
        sae = case.fit(plain, stages=self.before) if self.before else case.start(plain)
        after = plain if self.penalty else replace(plain, l1=0.0)
        left, rate = (STAGES - self.before) / 2, case.toy.training.lr / self.slower
        for part in range(self.parts if self.second else 0):
            config = self._toward(after, (part + 1) / self.parts)
            sae = case.fit(config, sae.reshape(len(sae)), stages=left / self.parts, lr=rate)
        training = case.toy.training
        short = replace(training, steps=round(left * training.steps), lr=rate, seed=case.seeds[0])
        sae = sae.with_config(after).reshape(1, len(case.seeds))
        return remedy.settle([case.setting(after)], sae, short, self.rounds)[0]

    def _toward(self, config: SAEConfig, share: float) -> SAEConfig:
        full = (*[0.0] * (len(config.widths) - 1), 1.0 if self.light else sum(config.weights))
        both = zip(config.weights, full, strict=True)
        return replace(config, decoder_weights=tuple((1 - share) * w + share * all_of_it for w, all_of_it in both))


VARIANTS: Mapping[str, How] = {
    "ours": How(),
    "switch at the start": How(before=0.0),
    "after a quarter of the plain steps": How(before=0.25),
    "after twice as many": How(before=2.0),
    "gradually, in 8 parts": How(parts=8),
    "learning rate as before": How(slower=1.0),
    "a tenth of it": How(slower=10.0),
    "a light full reconstruction": How(light=True),
    "with a decoder bias": How(bias=True),
    "no penalty after the switch": How(penalty=False),
    "no second stage": How(second=False),
    "one round of settling": How(rounds=1),
    "three rounds": How(rounds=3),
}
"""By name, ours first."""


@dataclass(frozen=True)
class Question:
    """What is decided on seeds of its own, by a rule in the ledger.

    Attributes:
        seeds: which nothing else uses.
        sampled: how many of them on a toy with sampled batches.
        variants: what is compared.
    """

    seeds: range
    sampled: int
    variants: Mapping[str, How]


QUESTIONS: Mapping[str, Question] = {
    "rounds": Question(
        range(12_000, 12_064), 30, {"three rounds": How(rounds=3), "eight rounds": How(rounds=8)}
    ),
    "switch": Question(
        range(12_100, 12_164), 64,
        {"switch once plain has settled": How(), "after a quarter of the plain steps": How(before=0.25)},
    ),
}  # fmt: skip
"""How often decoder and encoder are settled in turn, and when to switch."""


def run(
    toy: Toy, seeds: range, names: Sequence[str], variants: Mapping[str, How] = VARIANTS
) -> Float[np.ndarray, "variants seeds measures"]:
    """Those measures of every variant on a toy, from random starts, with ReLU."""
    case = Case.of(toy, "relu", seeds, kinds=KINDS[:1])
    found = [measure(case, how.fit(case)) for how in variants.values()]
    return np.stack([np.stack([some[name][0] for name in names], -1) for some in found]).astype(np.float32)
