"""What a step of each remedy costs in plain PyTorch, in units of a step of plain Matryoshka.

A step is the loss and its gradient, without the optimiser, which is the same for all. Remedies take turns, so that a
busy machine slows all of them alike. Prefixes are summed block by block: each adds to the one before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from matryoshka_mixing.chapters.what_cures_it import losses
from matryoshka_mixing.chapters.what_cures_it.contestants import DEEPEST, contestants
from matryoshka_mixing.chapters.what_cures_it.toys import Case, toys
from matryoshka_mixing.metrics import SILENT
from matryoshka_mixing.sae import SAE

PLAIN, EVERY, RANDOM = "plain Matryoshka", "every prefix", "random prefixes"
WIDTHS = 64, 128, 256, 512, 1024
"""Prefixes of the SAE that is timed (our default)."""
TURNS = 9
"""How often every remedy takes its turn, after one to warm up (our default)."""


def ratios(steps: Mapping[str, Callable[[], object]], turns: int = TURNS) -> dict[str, float]:
    """The median over turns of each step's processor time, as a share of plain Matryoshka's in the same turn."""
    found: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(turns + 1):
        took = {name: _seconds(step) for name, step in steps.items()}
        for name in found if turn else ():
            found[name].append(took[name] / took[PLAIN])
    return {name: median(values) for name, values in found.items()}


def _seconds(step: Callable[[], object]) -> float:
    before = time.process_time()
    step()
    return time.process_time() - before


def compiled(updates: int = 300) -> dict[str, Callable[[], object]]:
    """Short fits by this package's compiled trainer, on the twenty-feature tree with sampled batches."""
    toy = toys()["twenty features"]
    case = Case.of(replace(toy, training=replace(toy.training, steps=updates)), "relu", range(4), kinds=("random",))
    return {name: partial(contestants()[name].fit, case) for name in (PLAIN, EVERY, RANDOM)}


@dataclass(frozen=True)
class Plain:
    """An SAE in plain PyTorch, and a batch.

    Attributes:
        x: inputs, shape (batch, d_in).
        leaves: W_enc, b_enc, W_dec, b_dec, which require their gradient.
        widths: of the prefixes.
        l1: weight of the penalty.
    """

    x: Tensor
    leaves: tuple[Tensor, Tensor, Tensor, Tensor]
    widths: tuple[int, ...]
    l1: float = 0.03

    @classmethod
    def random(cls, d_in: int, widths: tuple[int, ...], batch: int) -> Plain:
        """Random inputs and parameters, in single precision."""
        generator, n = torch.Generator().manual_seed(0), widths[-1]
        shapes = (d_in, n), (n,), (n, d_in), (d_in,)
        leaves = [torch.randn(shape, generator=generator) / d_in**0.5 for shape in shapes]
        W_enc, b_enc, W_dec, b_dec = (leaf.requires_grad_() for leaf in leaves)
        return cls(torch.randn(batch, d_in, generator=generator), (W_enc, b_enc, W_dec, b_dec), widths)

    def acts(self) -> Tensor:
        """Activations, shape (batch, d_sae)."""
        W_enc, b_enc, _, b_dec = self.leaves
        return torch.relu((self.x - b_dec) @ W_enc + b_enc)

    def still(self) -> tuple[Tensor, Tensor]:
        """The decoder and its bias, without their gradient."""
        return self.leaves[2].detach(), self.leaves[3].detach()

    def prefixes(
        self, acts: Tensor, widths: Sequence[int], cut: Callable[[Tensor], Tensor] = lambda left: left,
        rows: tuple[Tensor, Tensor] | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:  # fmt: skip
        """Each prefix's squared error and penalty on every input; `cut` is applied to what a block leaves to the next.

        `rows` are the decoder and its bias, if not the SAE's own.
        """
        W_dec, b_dec = rows or self.leaves[2:]
        left, paid, sizes, before = self.x - b_dec, acts.new_zeros(len(acts)), acts * W_dec.norm(dim=-1), 0
        for width in widths:
            left = left - acts[:, before:width] @ W_dec[before:width]
            paid = paid + sizes[:, before:width].sum(-1)
            yield left.square().sum(-1), self.l1 * paid
            left, paid, before = cut(left), cut(paid), width

    def total(self, widths: Sequence[int], **how: Any) -> Tensor:
        """The sum of the prefixes' losses."""
        return self.mean(self.prefixes(self.acts(), widths, **how))

    @staticmethod
    def mean(terms: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        """The sum of errors and penalties, each the mean over inputs."""
        return torch.stack([(error + paid).mean() for error, paid in terms]).sum()

    def full(self) -> Tensor:
        """The loss of the full width alone."""
        return self.total(self.widths[-1:])

    def step(self, objective: Callable[[], Tensor]) -> None:
        """A loss and its gradient."""
        torch.autograd.grad(objective(), self.leaves, allow_unused=True)


def steps(d_in: int = 256, widths: tuple[int, ...] = WIDTHS, batch: int = 512) -> dict[str, Callable[[], None]]:
    """A step of every remedy, by name; of those in `SAME` the other's."""
    sae, n = Plain.random(d_in, widths, batch), widths[-1]
    spare = Plain.random(d_in, (*widths[:-1], n + n // 2), batch)
    wider = tuple(width + 1 for width in widths[:-1]) + widths[-1:]
    drawn = np.random.default_rng(0)

    def random_prefixes() -> Tensor:
        law = np.diff(np.sqrt(np.arange(n) / (n - 1)))
        inner = sorted((1 + drawn.choice(n - 1, 9, replace=False, p=law)).tolist())
        return sae.total((*inner, n))

    def logarithm() -> Tensor:
        return torch.stack([(error + paid).mean().log() for error, paid in sae.prefixes(sae.acts(), widths)]).sum()

    def unsquared() -> Tensor:
        *inner, last = sae.prefixes(sae.acts(), widths)
        return sae.mean([*((error.sqrt(), paid) for error, paid in inner), last])

    def similar(norms: bool) -> Tensor:
        W_enc, b_enc, W_dec, b_dec = sae.leaves
        value, index = losses.neighbours(SAE(W_enc, b_enc, W_dec, b_dec))
        if not norms:
            return sae.full() + value.square().mean()
        lengths = sae.acts().norm(dim=0)
        return sae.full() + (value.square() * (lengths + lengths[index])).mean()

    def pursuit() -> Tensor:
        W_enc, b_enc, W_dec, b_dec = sae.leaves
        return losses.pursue(SAE(W_enc, b_enc, W_dec, b_dec), sae.x, DEEPEST)[1].square().sum(-1).mean()

    def availability() -> Tensor:
        keep, acts = torch.linspace(1, 0.5, n), sae.acts()
        error, paid = next(sae.prefixes(acts, widths[-1:]))
        return (error + paid).mean() + ((1 / keep - 1) * acts.square().mean(0) * sae.leaves[2].square().sum(-1)).sum()

    def gated() -> Tensor:
        encoder = sae.total(widths, rows=sae.still())
        acts = sae.acts().detach()
        inside = [~(acts[:, width:] > SILENT).any(-1) for width in widths]
        each = zip(inside, sae.prefixes(acts, widths), strict=True)
        return encoder + sae.mean((some * error, some * paid) for some, (error, paid) in each)

    def split(apart: bool = False) -> Tensor:
        W_enc, b_enc, W_dec, b_dec = sae.leaves
        encoder = sae.total(widths, rows=sae.still())
        acts = torch.relu((sae.x - b_dec) @ W_enc.detach() + b_enc.detach())
        error, paid = next(sae.prefixes(acts, widths[-1:]))
        loss = encoder + len(widths) * (error + paid).mean()
        return loss + losses.alike(SAE(W_enc, b_enc, W_dec, b_dec)) if apart else loss

    def both() -> Tensor:
        W_enc, b_enc, W_dec, b_dec = sae.leaves
        return sae.total(widths) + losses.alike(SAE(W_enc, b_enc, W_dec, b_dec))

    objectives: dict[str, Callable[[], Tensor]] = {
        "standard": sae.full, PLAIN: lambda: sae.total(widths), RANDOM: random_prefixes,
        EVERY: lambda: sae.total(range(1, n + 1)), "detached deltas": lambda: sae.total(widths, cut=Tensor.detach),
        "log loss": logarithm, "unsquared inner loss": unsquared, "OrtSAE": lambda: similar(False),
        "C2R": lambda: similar(True), "matching pursuit": pursuit, "availability": availability,
        "wider inner prefix": lambda: sae.total(wider), "spare latents": lambda: spare.total(spare.widths),
        "gated by input": gated, "Matryoshka with OrtSAE": both, "split with OrtSAE": lambda: split(True),
        "ours": split,
    }  # fmt: skip
    return {
        name: partial((spare if name == "spare latents" else sae).step, objective)
        for name, objective in objectives.items()
    }


SAME = {
    "balanced weights": PLAIN, "refit of plain": PLAIN, "right L0": "standard", "split from scratch": "ours",
    "split alone": "ours", "standard after plain": "standard", "OrtSAE after plain": "OrtSAE", "C2R after plain": "C2R",
}  # fmt: skip
"""Remedies whose step is another's."""


def measured() -> dict[str, np.ndarray]:
    """What is stored: `costs` of every remedy, and `compiled_costs` of plain, every and random prefixes."""
    found, fast = ratios(steps()), ratios(compiled())
    return {
        "costs": np.array([found[SAME.get(name, name)] for name in contestants()]),
        "compiled_costs": np.array(list(fast.values())),
    }
