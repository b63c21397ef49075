"""The remedies that are held against each other, each with its formula and source, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from matryoshka_mixing import remedy
from matryoshka_mixing.chapters.what_cures_it import losses
from matryoshka_mixing.chapters.what_cures_it.toys import Case
from matryoshka_mixing.sae import SAE, SAEConfig

BY_AUTOGRAD = (
    "detached deltas", "log loss", "unsquared inner loss", "OrtSAE", "C2R", "matching pursuit", "availability",
    "gated by input", "OrtSAE after plain", "C2R after plain", "Matryoshka with OrtSAE", "split with OrtSAE",
)  # fmt: skip
"""Remedies that the compiled trainer does not know."""
STAGES, OURS = 2.0, 3.0
"""How many times the toy's steps every remedy takes, and ours (our default)."""
DEEPEST = 4
"""Steps of matching pursuit: no input of a toy holds many more features."""
K_FACTORS = (0.6, 0.8, 1.0, 1.25, 1.6)
"""K in units of the true mean L0, among which the decoder's cosines choose; the penalties in units of the case's."""


@dataclass(frozen=True)
class Contestant:
    """A remedy.

    Attributes:
        name: in the table and the figure.
        group: "baseline", "published", "idea" (of the field, without a paper that we know), "earlier chapters",
            "relative" or "ours".
        formula: what is trained, in Markdown.
        source: keys of the references, or "" for one of this report.
        cost: what it takes beside its steps, whose time `costs` measures; "" for nothing.
        fit: trains it on a case, with one number of `values` if there are any.
        values: of its one free number, among which the best for each toy is chosen on other seeds.
        stages: how many times the toy's steps it takes.
    """

    name: str
    group: str
    formula: str
    source: str
    cost: str
    fit: Callable[..., SAE]
    values: tuple[float, ...] = ()
    stages: float = STAGES

    @property
    def slow(self) -> bool:
        """Whether it is trained by autograd, and so takes a hundred times as long a step."""
        return self.name in BY_AUTOGRAD


def standard(case: Case) -> SAE:
    """One prefix, the full width."""
    return case.fit(one_prefix(case.plain), stages=STAGES)


def one_prefix(config: SAEConfig) -> SAEConfig:
    """The same SAE without Matryoshka."""
    return replace(config, widths=config.widths[-1:], weights=(1.0,))


def plain(case: Case) -> SAE:
    """Matryoshka as it is: the sum over the prefixes."""
    return case.fit(case.plain, stages=STAGES)


def balanced(case: Case, base: float) -> SAE:
    """Inner weights as a power law: base to the number of longer prefixes."""
    longer = range(len(case.plain.widths) - 1, -1, -1)
    return case.fit(replace(case.plain, weights=tuple(base**i for i in longer)), stages=STAGES)


def every_prefix(case: Case) -> SAE:
    """All widths, in every batch."""
    return case.fit(replace(case.plain, widths=tuple(range(1, case.plain.d_sae + 1)), weights=()), stages=STAGES)


def random_prefixes(case: Case) -> SAE:
    """At each step up to 9 shorter prefixes by a truncated Pareto law, and the full width (as the post's code)."""
    latents = case.plain.d_sae
    law = np.diff(np.sqrt(np.arange(latents + 1) / latents))
    config = replace(case.plain, widths=tuple(range(1, latents + 1)), weights=tuple(law.tolist()))
    return case.fit(config, stages=STAGES, drawn=min(9, latents // 2))


def wider(case: Case) -> SAE:
    """Every inner prefix holds one latent more (at most all but one)."""
    most = case.plain.d_sae - 1
    inner = sorted({min(width + 1, most) for width in case.plain.widths[:-1]})
    weights = (case.plain.weights[0],) * len(inner) + case.plain.weights[-1:]
    return case.fit(replace(case.plain, widths=(*inner, case.plain.d_sae), weights=weights), stages=STAGES)


def spare(case: Case) -> SAE:
    """Half as many latents again in the last block."""
    latents = case.plain.d_sae + (case.plain.d_sae + 1) // 2
    return case.fit(replace(case.plain, widths=(*case.plain.widths[:-1], latents)), stages=STAGES)


def right_l0(case: Case) -> SAE:
    """Standard SAEs over K (or the penalty); of each seed that whose decoder rows have the smallest mean |cosine|."""
    base = one_prefix(case.plain)
    others = [
        replace(base, k=min(base.k * factor, base.d_sae)) if base.k else replace(base, l1=base.l1 * factor)
        for factor in K_FACTORS
    ]
    runs = [case.fit(other, stages=STAGES) for other in others]
    best = torch.stack([mean_cosine(run) for run in runs]).argmin(0)
    picked = SAE.stack([run.with_config(base) for run in runs])
    parameters = {name: value[best, torch.arange(len(best))] for name, value in picked.parameters.items()}
    return SAE(**parameters, config=base)


def mean_cosine(sae: SAE) -> Tensor:
    """The mean absolute cosine between different decoder rows (arXiv 2508.16560)."""
    rows = normalize(sae.W_dec, dim=-1)
    cosines, n = (rows @ rows.mT).abs(), rows.shape[-2]
    return (cosines.sum((-1, -2)) - cosines.diagonal(dim1=-1, dim2=-2).sum(-1)) / (n * (n - 1))


def by_autograd(objective: Callable[..., losses.Objective]) -> Callable[..., SAE]:
    """A remedy that descends an objective of the case's plain SAE."""

    def fit(case: Case, *value: float) -> SAE:
        return losses.fit(case, objective(case.plain, *value, losses.batches(case)), STAGES)

    return fit


def on_standard(objective: Callable[..., losses.Objective]) -> Callable[..., SAE]:
    """The same of the SAE without Matryoshka."""

    def fit(case: Case, *value: float) -> SAE:
        return losses.fit(case, objective(one_prefix(case.plain), *value, losses.batches(case)), STAGES)

    return fit


def after_plain(objective: Callable[..., losses.Objective], prefixes: bool = False) -> Callable[..., SAE]:
    """Plain first, as ours; then an objective of the SAE, with its prefixes or without, at the rate of our stages."""

    def fit(case: Case, *value: float) -> SAE:
        settled = case.fit(case.plain)
        loss = objective(case.plain if prefixes else one_prefix(case.plain), *value, losses.batches(case))
        return losses.fit(case, loss, OURS - 1, settled.reshape(len(settled)), case.toy.training.lr / 3)

    return fit


def standard_after_plain(case: Case) -> SAE:
    """Plain first; then the full reconstruction trains decoder and encoder."""
    lr = case.toy.training.lr / 3
    fitted = case.fit(one_prefix(case.plain), case.fit(case.plain), stages=OURS - 1, lr=lr)
    return fitted.with_config(case.plain)


def gated(case: Case) -> SAE:
    """Plain first, then the decoder gated by input."""
    settled = case.fit(case.plain)
    after = losses.gated(case.plain, losses.batches(case))
    return losses.fit(case, after, STAGES - 1, settled.reshape(len(settled)))


def pursuit(case: Case) -> SAE:
    """Matching pursuit; what is returned has unit rows, and its encoder is to be left out of account."""
    found = losses.fit(case, losses.matching_pursuit(DEEPEST, losses.batches(case)), STAGES)
    return replace(found, W_dec=normalize(found.W_dec, dim=-1), config=one_prefix(case.plain))


def refitted(case: Case) -> SAE:
    """A finished plain SAE, whose decoder is refitted."""
    return remedy.refit(plain(case), *case.rows())


def from_scratch(case: Case) -> SAE:
    """The second stage alone."""
    return case.fit(remedy.full_decoder(case.plain), stages=STAGES).with_config(case.plain)


def second_stage(case: Case) -> SAE:
    """Plain, then the full reconstruction trains the decoder; not settled."""
    lr = case.toy.training.lr / 3
    return case.fit(remedy.full_decoder(case.plain), case.fit(case.plain), lr=lr).with_config(case.plain)


def ours(case: Case) -> SAE:
    """The remedy: plain, split, settled."""
    training = replace(case.toy.training, seed=case.seeds[0])
    return remedy.remedied(case.setting(case.plain), case.start(), training).settled[0]


@lru_cache
def contestants() -> Mapping[str, Contestant]:
    """All of them by name, in the order of the table."""
    listed = [
        Contestant("standard", "baseline", "one prefix", "", "", standard),
        Contestant("plain Matryoshka", "baseline", r"$\sum_m L_m$", "bussmann2025matryoshka", "", plain),
        Contestant("random prefixes", "published", r"drawn $L_m$", "nabeshima2024matryoshka", "", random_prefixes),
        Contestant("every prefix", "published", r"$\sum_{m=1}^n L_m$", "nabeshima2024matryoshka", "", every_prefix),
        Contestant(
            "balanced weights",
            "published",
            r"$\sum_m \beta^{n-m} L_m$",
            "chanin2025hedging",
            "a search",
            balanced,
            (0.03, 0.1, 0.25, 0.5, 2.0),
        ),
        Contestant(
            "detached deltas",
            "published",
            "earlier blocks stop-gradiented",
            "chanin2025hedging",
            "",
            by_autograd(losses.deltas),
        ),
        Contestant("log loss", "idea", r"$\sum_m \log L_m$", "", "", by_autograd(losses.logarithm)),
        Contestant(
            "unsquared inner loss",
            "idea",
            r"inner $E\lVert x - x_m\rVert$",
            "",
            "",
            by_autograd(losses.unsquared),
        ),
        Contestant(
            "OrtSAE",
            "published",
            r"$+\gamma\,\mathrm{mean}_k \max_j \cos^2$",
            "korznikov2025ortsae",
            "a search",
            on_standard(losses.ortsae),
            (0.01, 0.1, 1.0),
        ),
        Contestant(
            "C2R",
            "published",
            r"$+\gamma\,\mathrm{mean}_k \cos^2 (\lVert a_k\rVert + \lVert a_j\rVert)$",
            "jin2026c2r",
            "a search",
            on_standard(losses.c2r),
            (0.01, 0.1, 1.0),
        ),
        Contestant(
            "matching pursuit",
            "published",
            "greedy, tied",
            "costa2025matching",
            "a pass for each firing latent",
            pursuit,
        ),
        Contestant(
            "availability",
            "idea",
            r"$+\sum_k (1/c_k - 1)\, E a_k^2 \lVert d_k\rVert^2$",
            "",
            "a search",
            by_autograd(losses.availability),
            (0.9, 0.5, 0.1),
        ),
        Contestant(
            "right L0", "published", r"K of least mean $\lvert\cos\rvert$", "chanin2025sparse", "a search", right_l0
        ),
        Contestant("wider inner prefix", "earlier chapters", "one latent more inside", "", "", wider),
        Contestant("spare latents", "earlier chapters", r"$n + \lceil n/2 \rceil$ latents", "", "more latents", spare),
        Contestant("refit of plain", "relative", "decoder refitted at the end", "", "a solve", refitted),
        Contestant("gated by input", "relative", "decoder learns where nothing outside fires", "", "", gated),
        Contestant("split from scratch", "relative", "second stage alone", "", "", from_scratch),
        Contestant("split alone", "relative", "plain, then second stage", "", "", second_stage),
        Contestant(
            "standard after plain", "relative", "plain, then one prefix", "", "", standard_after_plain, stages=OURS
        ),
        Contestant(
            "OrtSAE after plain", "relative", "plain, then OrtSAE", "", "a search", after_plain(losses.ortsae),
            (0.01, 0.1, 1.0), OURS,
        ),
        Contestant(
            "C2R after plain", "relative", "plain, then C2R", "", "a search", after_plain(losses.c2r), (0.01, 0.1, 1.0),
            OURS,
        ),
        Contestant(
            "Matryoshka with OrtSAE", "relative", "plain, then with OrtSAE's penalty", "", "a search",
            after_plain(losses.with_ortsae, prefixes=True), (0.01, 0.1, 1.0), OURS,
        ),
        Contestant(
            "split with OrtSAE", "ours", "plain, then split with OrtSAE's penalty", "", "a search",
            after_plain(losses.split_with_ortsae, prefixes=True), (0.01, 0.1, 1.0), OURS,
        ),
        Contestant("ours", "ours", "plain, split, settled", "", "some solves", ours, stages=OURS),
    ]  # fmt: skip
    return {contestant.name: contestant for contestant in listed}
