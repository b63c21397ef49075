"""The losses of the remedies that the compiled trainer does not know, each from its formula; autograd does the rest.

An objective maps SAEs with one leading axis to one loss each, or to two, of which the second is the decoder's. In all,
x are the inputs, p their weights, a the activations, d_k the decoder's rows, x_m the reconstruction of prefix m.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from matryoshka_mixing.chapters.what_cures_it.toys import Case
from matryoshka_mixing.metrics import SILENT
from matryoshka_mixing.sae import SAE, SAEConfig, largest_of_batch
from matryoshka_mixing.training import TrainConfig, descend

Objective = Callable[[SAE], Tensor | tuple[Tensor, Tensor]]
Rows = tuple[Tensor, Tensor]
"""Inputs (instances, rows, d_in) and their weights (instances, rows), or (rows,) for all instances."""
EPSILON = 1e-4
"""What is added to a loss before its logarithm is taken, or to an error before its root, as a share of E||x||^2."""


def batches(case: Case) -> Callable[[], Rows]:
    """A function that gives the inputs of the next step: all states, or a new sample for every seed."""
    if not case.toy.sampled:
        fixed = case.rows()
        return lambda: fixed
    size, tree, generator = case.toy.training.batch_size, case.toy.tree, torch.Generator().manual_seed(case.seeds[0])
    assert size is not None  # toys that are sampled have one

    def drawn() -> Rows:
        number, kinds = len(case.seeds), len(case.kinds)
        acts, probs = merged(tree.sample(number * size, generator).reshape(number, size, -1))
        return acts.repeat(kinds, 1, 1) @ case.dictionary, probs.repeat(kinds, 1)

    return drawn


def merged(
    acts: Float[Tensor, "instances rows features"],
) -> tuple[Float[Tensor, "instances kinds features"], Float[Tensor, "instances kinds"]]:
    """Each instance's different rows and their shares; rows of share 0 fill up those that have fewer kinds.

    The same loss from a third of the rows: in a batch of a tree most inputs come several times.
    """
    instances, rows, features = acts.shape
    mixed = acts @ torch.rand(features, dtype=acts.dtype, generator=torch.Generator().manual_seed(0))
    ordered, places = mixed.sort(-1)
    first = torch.ones_like(places)
    first[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).long()
    kind = first.cumsum(-1) - 1
    shape = instances, int(kind.max()) + 1
    probs = acts.new_zeros(shape).scatter_add_(-1, kind, acts.new_full((instances, rows), 1 / rows))
    which = places.new_zeros(shape).scatter_(-1, kind, places)
    return acts.gather(1, which.unsqueeze(-1).expand(*shape, features)), probs


Firing = tuple[Tensor, Tensor]
"""Activations before anything is dropped, and the share of a row's inputs on which each is kept."""


def firing(sae: SAE, config: SAEConfig, x: Tensor, probs: Tensor) -> Firing:
    """What fires on each row; the share is one 1 for all with ReLU, which keeps everything."""
    acts = torch.relu((x - sae.b_dec.unsqueeze(-2)) @ sae.W_enc + sae.b_enc.unsqueeze(-2))
    if config.activation == "relu":
        return acts, acts.new_ones(())
    assert config.activation == "batchtopk" and config.k is not None  # what this chapter has
    sizes = acts.detach() * sae.W_dec.detach().norm(dim=-1).unsqueeze(-2)
    k = x.new_full(acts.shape[:-2], config.k)
    return acts, largest_of_batch(sizes, k, probs.expand(acts.shape[:-1]))


def each(
    sae: SAE, config: SAEConfig, x: Tensor, given: Firing
) -> tuple[Float[Tensor, "instances prefixes rows"], Float[Tensor, "instances prefixes rows"]]:
    """Error and penalty of each prefix on each row, as `SAE.loss` has them; each prefix adds to the one before.

    With BatchTopK an activation a may be kept on a share s of a row's inputs. The mean of their errors is the error of
    the mean, s a, and s (1 - s) a^2 ||d||^2.
    """
    acts, share = given
    lengths = acts * sae.W_dec.norm(dim=-1).unsqueeze(-2)
    apart = share * (1 - share) * lengths.square() if share.ndim else None
    sizes, kept = config.l1 * share * lengths, acts * share if share.ndim else acts
    left, before, errors, paid = x - sae.b_dec.unsqueeze(-2), 0, [], []
    for width in config.widths:
        left = left - kept[..., before:width] @ sae.W_dec[..., before:width, :]
        error = left.square().sum(-1)
        errors.append(error if apart is None else error + apart[..., :width].sum(-1))
        paid.append(sizes[..., :width].sum(-1))
        before = width
    return torch.stack(errors, -2), torch.stack(paid, -2)


def total(
    sae: SAE, config: SAEConfig, x: Tensor, probs: Tensor, given: Firing | None = None
) -> Float[Tensor, " instances"]:
    """The loss of an SAE of this configuration, `SAE.loss`; `given` is its `firing`, if that is known."""
    errors, paid = each(sae, config, x, given or firing(sae, config, x, probs))
    return (x.new_tensor(config.weights) * (probs.unsqueeze(-2) * (errors + paid)).sum(-1)).sum(-1)


def neighbours(sae: SAE) -> tuple[Float[Tensor, "*instances d_sae"], Tensor]:
    """Each decoder row's largest cosine with another row (0 if none is above 0), and which row that is."""
    rows = normalize(sae.W_dec, dim=-1)
    cosines = rows @ rows.mT - 3 * torch.eye(rows.shape[-2], dtype=rows.dtype)
    value, index = cosines.max(-1)
    return value.clamp_min(0), index


def alike(sae: SAE) -> Float[Tensor, "*instances"]:
    """OrtSAE's penalty: mean over k of max(0, max over j != k of cos(d_k, d_j))^2."""
    return neighbours(sae)[0].square().mean(-1)


def ortsae(config: SAEConfig, weight: float, rows: Callable[[], Rows]) -> Objective:
    """OrtSAE: loss + weight * mean over k of max(0, max over j != k of cos(d_k, d_j))^2 (arXiv 2509.22033)."""

    def loss(sae: SAE) -> Tensor:
        return total(sae, config, *rows()) + weight * alike(sae)

    return loss


def with_ortsae(config: SAEConfig, weight: float, rows: Callable[[], Rows]) -> Objective:
    """A Matryoshka SAE's loss and OrtSAE's penalty, which weighs against all prefixes together."""

    def loss(sae: SAE) -> Tensor:
        return total(sae, config, *rows()) + sum(config.weights) * weight * alike(sae)

    return loss


def split_with_ortsae(config: SAEConfig, weight: float, rows: Callable[[], Rows]) -> Objective:
    """The remedy's second stage with OrtSAE's penalty: the prefixes train the encoder, `ortsae` the decoder."""
    full = replace(config, widths=config.widths[-1:], weights=(sum(config.weights),))

    def loss(sae: SAE) -> tuple[Tensor, Tensor]:
        x, probs = rows()
        given = firing(sae, config, x, probs)
        apart = sum(config.weights) * weight * alike(sae)
        return total(sae, config, x, probs, given), total(sae, full, x, probs, given) + apart

    return loss


def c2r(config: SAEConfig, weight: float, rows: Callable[[], Rows]) -> Objective:
    """C2R: loss + weight * mean over k of cos(d_k, d_n)^2 (||a_k|| + ||a_n||), n the row nearest to k.

    The norm is over the batch, here the root of the mean square; only cosines above 0 count. As in its authors' code
    (arXiv 2606.30609).
    """

    def loss(sae: SAE) -> Tensor:
        x, probs = rows()
        acts, share = given = firing(sae, config, x, probs)
        # A latent that never fires has no gradient of its norm at 0.
        norms = ((probs.unsqueeze(-1) * share * acts.square()).sum(-2) + 1e-12).sqrt()
        value, index = neighbours(sae)
        both = norms + norms.gather(-1, index)
        return total(sae, config, x, probs, given) + weight * (value.square() * both).mean(-1)

    return loss


def deltas(config: SAEConfig, rows: Callable[[], Rows]) -> Objective:
    """Detached deltas: sum over blocks of E ||x - sg(x_before) - own part||^2 + l1 of the block's own latents."""

    def loss(sae: SAE) -> Tensor:
        x, probs = rows()
        acts, share = firing(sae, config, x, probs)
        lengths = acts * sae.W_dec.norm(dim=-1).unsqueeze(-2)
        kept, apart = acts * share, share * (config.l1 * lengths + (1 - share) * lengths.square())
        left, total, before = x - sae.b_dec.unsqueeze(-2), torch.zeros_like(sae.b_dec[..., 0]), 0
        for width, weight in zip(config.widths, config.weights, strict=True):
            left = left - kept[..., before:width] @ sae.W_dec[..., before:width, :]
            own = left.square().sum(-1) + apart[..., before:width].sum(-1)
            total, left, before = total + weight * (probs * own).sum(-1), left.detach(), width
        return total

    return loss


def logarithm(config: SAEConfig, rows: Callable[[], Rows]) -> Objective:
    """The sum over prefixes of w_m log(L_m + epsilon): each prefix's loss in its own units."""

    def loss(sae: SAE) -> Tensor:
        x, probs = rows()
        power = (probs * x.square().sum(-1)).sum(-1)
        errors, paid = each(sae, config, x, firing(sae, config, x, probs))
        losses = (probs.unsqueeze(-2) * (errors + paid)).sum(-1)
        return (torch.tensor(config.weights) * (losses + EPSILON * power.unsqueeze(-1)).log()).sum(-1)

    return loss


def unsquared(config: SAEConfig, rows: Callable[[], Rows]) -> Objective:
    """Inner prefixes pay E ||x - x_m||, the full width E ||x - x_n||^2: a large miss of an inner one weighs less."""

    def loss(sae: SAE) -> Tensor:
        x, probs = rows()
        errors, paid = each(sae, config, x, firing(sae, config, x, probs))
        probs = probs.unsqueeze(-2)
        power = (probs * x.square().sum(-1).unsqueeze(-2)).sum(-1, keepdim=True)
        inner = (errors[..., :-1, :] + EPSILON * power).sqrt()
        all_of_them = torch.cat([inner, errors[..., -1:, :]], -2) + paid
        return (torch.tensor(config.weights) * (probs * all_of_them).sum(-1)).sum(-1)

    return loss


def availability(config: SAEConfig, least: float, rows: Callable[[], Rows]) -> Objective:
    """Stochastic availability: latent k is kept with chance c_k, from 1 evenly down to `least`, and scaled by 1 / c_k.

    The mean over the draws is exact: E ||x - x_n||^2 + sum over k of (1 / c_k - 1) E a_k^2 ||d_k||^2, a ridge that
    grows with the rank. One prefix, the full width.
    """
    one = replace(config, widths=config.widths[-1:], weights=(1.0,))
    keep = torch.linspace(1, least, config.d_sae, dtype=torch.float64)

    def loss(sae: SAE) -> Tensor:
        x, probs = rows()
        acts, share = given = firing(sae, one, x, probs)
        spread = (probs.unsqueeze(-1) * share * acts.square()).sum(-2) * sae.W_dec.square().sum(-1)
        return total(sae, one, x, probs, given) + ((1 / keep - 1) * spread).sum(-1)

    return loss


def gated(config: SAEConfig, rows: Callable[[], Rows]) -> Objective:
    """Gating by input: in the term of prefix m, the decoder learns only from inputs on which nothing outside m fires.

    The encoder's loss is the plain one. The relative of the remedy that needs no second set of weights: on those inputs
    prefix and full reconstruction are the same.
    """

    def loss(sae: SAE) -> tuple[Tensor, Tensor]:
        x, probs = rows()
        acts, share = given = firing(sae, config, x, probs)
        fires = (acts * share).detach() > SILENT
        inside = torch.stack([~fires[..., width:].any(-1) for width in config.widths], -2).to(x)
        errors, paid = each(sae, config, x, given)
        weighed = torch.tensor(config.weights).unsqueeze(-1) * probs.unsqueeze(-2) * (errors + paid)
        return weighed.sum((-1, -2)), (inside * weighed).sum((-1, -2))

    return loss


def pursue(
    sae: SAE, x: Float[Tensor, "*instances rows d_in"], steps: int
) -> tuple[Float[Tensor, "*instances rows d_sae"], Float[Tensor, "*instances rows d_in"]]:
    """Matching pursuit with unit decoder rows: activations, and what is left of x - b_dec (arXiv 2506.03093).

    At each step the row with the largest product with what is left takes its part, if that is above 0.
    """
    rows = normalize(sae.W_dec, dim=-1)
    left = x - sae.b_dec.unsqueeze(-2)
    acts = left.new_zeros(*left.shape[:-1], rows.shape[-2])
    for _ in range(steps):
        products = (left @ rows.mT).relu()
        best = torch.zeros_like(products).scatter_(-1, products.argmax(-1, keepdim=True), 1.0) * products
        acts, left = acts + best, left - best @ rows
    return acts, left


def matching_pursuit(steps: int, rows: Callable[[], Rows]) -> Objective:
    """MP-SAE: E ||what is left||^2 after so many steps; the encoder is the decoder."""

    def loss(sae: SAE) -> Tensor:
        x, probs = rows()
        return (probs * pursue(sae, x, steps)[1].square().sum(-1)).sum(-1)

    return loss


def fit(
    case: Case, objective: Objective, stages: float, start: SAE | None = None, lr: float | None = None
) -> SAE:  # fmt: skip
    """Descend an objective for so many stages' steps, with its biases as the plain SAE has them.

    Args:
        case: what to train on.
        objective: what to descend.
        stages: how many times the toy's steps to take.
        start: initial parameters; None: those of the case.
        lr: learning rate; None: the toy's.
    """
    config = case.plain
    start = case.start() if start is None else start
    toy: TrainConfig = case.toy.training
    training = replace(toy, steps=round(stages * toy.steps), lr=lr or toy.lr, records=1)
    return descend(objective, start, training, held={} if config.decoder_bias else {"b_dec": ...}).sae
