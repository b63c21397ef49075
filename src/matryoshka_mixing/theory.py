"""What the best SAE looks like, without training one.

Assumptions, where nothing else is said: no biases, penalty 0, each latent fires with its own feature and with
no other, and orthonormal features of magnitude 1 where a closed form is given.
Vectors are in feature space: entry i is the component along feature i, so that for unit vectors an entry *is*
the cosine with that feature. Derived for this project; every statement here is checked by a test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from matryoshka_mixing.features import States

Number = TypeVar("Number", float, np.ndarray)
"""A number, or an array of them, element by element."""


def second_moment(
    states: States, weights: Float[Tensor, " states"] | None = None
) -> Float[Tensor, "features features"]:
    """E[a a^T] over the states' feature activations, each state also weighed by `weights` if given."""
    probs = states.probs if weights is None else states.probs * weights
    return (states.acts * probs[:, None]).T @ states.acts


def top_eigenvector(matrix: Float[Tensor, "n n"]) -> Float[Tensor, " n"]:
    """Unit eigenvector of the largest eigenvalue, signed so that its entries sum to a positive number.

    For a second moment of non-negative activations all entries are non-negative (Perron and Frobenius), which
    is why a ReLU latent can use it: every state projects onto it non-negatively.
    """
    vector = torch.linalg.eigh(matrix).eigenvectors[:, -1]
    return vector * (1 if vector.sum() >= 0 else -1)


def narrow_ratio(child_probability: Number, n_children: int) -> Number:
    """The ratio t of the best one-latent decoder, parent + t (sum of the children).

    The positive root of `n q t^2 + (1 - q) t - q = 0` for n exclusive children of conditional probability q: a
    one-latent SAE is a rank-one reconstruction, best along the top eigenvector of the second moment (Eckart and Young
    1936), which meets the constraint that activations are non-negative. The parent's own probability does not appear.
    For 0 <= n q <= 1, which is not checked. Works elementwise on arrays and tensors.
    """
    q, n = child_probability, n_children
    return 2 * q / ((1 - q) + ((1 - q) ** 2 + 4 * n * q**2) ** 0.5)


def prefix_weights(
    states: States, ranks: Sequence[int], widths: Sequence[int], weights: Sequence[float], parent: int = 0
) -> Float[Tensor, " states"]:
    """How much each state pulls on the parent's decoder.

    That is the total weight of the prefixes that hold the parent's latent and miss the latent of the child that
    is active (for the parent alone: of all prefixes that hold it). At most two children may be active together, and
    they must come in together.

    Args:
        states: states of one family, or of several of which one fires at a time.
        ranks: for each feature the position of its latent (from 0).
        widths, weights: the prefixes and their weights in the loss.
        parent: number of the parent feature.

    Raises:
        ValueError: where the theory does not hold: if a prefix of some weight holds a child's latent and not its
            parent's, or one of two children that fire together and not the other, or if three fire together.
    """
    pull = torch.zeros(len(states), dtype=torch.float64)
    for i, acts in enumerate(states.acts):
        if acts[parent] == 0:
            continue
        others = [f for f in torch.nonzero(acts).flatten().tolist() if f != parent]
        first_out = min((ranks[f] for f in others), default=max(widths))
        all_in = max((ranks[f] for f in others), default=first_out)
        if len(others) > 2:
            raise ValueError(
                f"in state {i} features {others} fire together beside feature {parent}; the theory covers at most two "
                "at a time. Use mutually exclusive children."
            )
        for width, weight in zip(widths, weights, strict=True):
            if weight and first_out < width <= max(all_in, ranks[parent]):
                raise ValueError(
                    f"in state {i} features {[parent, *others]} fire, and the prefix of width {width} holds a latent "
                    f"of {others} without that of {parent} or of the others; the theory does not cover that. "
                    "Let the parent's latent come first, and children that fire together come in together."
                )
            if ranks[parent] < width <= first_out:
                pull[i] += weight
    return pull


def matryoshka_optimum(
    states: States, ranks: Sequence[int], widths: Sequence[int], weights: Sequence[float], parent: int = 0
) -> Float[Tensor, " features"]:
    """Decoder of the parent's latent once the children's latents are there.

    A prefix that holds the active child reconstructs parent + child exactly, whatever the parent's decoder is.
    What still shapes it are the prefixes of `prefix_weights`: it is the top eigenvector of the second moment
    re-weighted by them. Arguments and errors as there, and a ValueError if none of them shapes it.
    """
    pull = prefix_weights(states, ranks, widths, weights, parent)
    if not (states.probs * pull).any():
        raise ValueError(
            f"no prefix holds the latent of feature {parent} on an input that it does not reconstruct exactly, so "
            "nothing shapes its decoder. Give a prefix that leaves a child out, or states with the parent alone."
        )
    return top_eigenvector(second_moment(states, pull))


def matryoshka_ratio(child_probability: Number, n_children: int, inner_weight: float | Number = 1.0) -> Number:
    """The ratio t of the parent's decoder in a Matryoshka SAE of widths (1, n + 1) and weights (beta, 1).

    The positive root of
    `n beta q t^2 + ((1 + beta)(1 - n q) + n beta q - beta q) t - beta q = 0`
    for n exclusive children of conditional probability q, 0 <= n q <= 1, which is not checked. Works elementwise on
    arrays and tensors.
    """
    q, n, beta = child_probability, n_children, inner_weight
    linear = (1 + beta) * (1 - n * q) + (n - 1) * beta * q
    return 2 * beta * q / (linear + (linear**2 + 4 * n * (beta * q) ** 2) ** 0.5)


def unequal_ratios(
    alone: Float[Tensor, "*#points"] | float, pulls: Float[Tensor, "*#points children"]
) -> Float[Tensor, "*points children"]:
    """The ratios t_i of the parent's decoder, parent + sum of t_i child_i, for children that pull unequally.

    The re-weighted second moment is an arrow: parent alone weighs `alone`, parent + child i weighs `pulls[i]`. Its top
    eigenvector has `t_i = pull_i / (lambda - pull_i)`, where lambda is the largest root of
    `lambda = alone + sum pull_i + sum pull_i^2 / (lambda - pull_i)`, found here by bisection. A child that pulls more
    is mixed in more: a commoner one, and a later one, which more prefixes miss.

    Args:
        alone: total weight of the parent-alone terms, at least 0, not all weights 0.
        pulls: weight of each child's terms that hold the parent and miss the child, at least 0.
    """
    alone = torch.as_tensor(alone, dtype=torch.float64)
    total = alone + pulls.sum(-1)
    low, high = torch.broadcast_tensors(2 * pulls.amax(-1), total + pulls.sum(-1))
    for _ in range(100):
        middle = (low + high) / 2
        above = middle >= total + (pulls.square() / (middle[..., None] - pulls)).sum(-1)
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return pulls / (high[..., None] - pulls)


def inclusion_probabilities(chances: Sequence[float], draws: int) -> list[float]:
    """How likely each item is among `draws` drawn one after the other without replacement, with the given chances.

    Random prefixes act through their expected weights: with one weight for every drawn prefix these are the inclusion
    probabilities. Drawing without replacement is a race: item i arrives after an exponential time of rate `chances[i]`,
    and the first `draws` to arrive are in. The integral over the time of arrival is done by Gauss-Legendre.

    Raises:
        ValueError: if a chance is not above 0, there are fewer items than draws, or chances differ by far too much.
    """
    rates = np.asarray(chances, dtype=float)
    if not 0 <= draws <= len(rates) or not len(rates) or not ((rates > 0) & np.isfinite(rates)).all():
        raise ValueError(
            f"{draws} draws from {len(rates)} items with chances {list(chances)}; every chance must be above 0 and "
            "finite, and there must be at least as many items as draws, and at least one."
        )
    rates = rates / rates.min()
    nodes, node_weights = np.polynomial.legendre.leggauss(400)
    waiting = (nodes + 1) / 2  # exp(-time): the chance that an item of rate 1 has not arrived
    found = []
    for i, rate in enumerate(rates):
        arrived = np.zeros((draws + 1, len(waiting)))  # chance of each number of other items so far
        arrived[0] = 1
        for gone in 1 - waiting ** np.delete(rates, i)[:, None]:
            arrived[1:] = arrived[1:] * (1 - gone) + arrived[:-1] * gone
            arrived[0] *= 1 - gone
        found.append(float(node_weights @ (rate * waiting ** (rate - 1) * arrived[:draws].sum(0)) / 2))
    if abs(sum(found) - draws) > 1e-6:
        raise ValueError(
            f"the chances {list(chances)} differ by too much for the integral; their ratio is {rates.max():.0e}."
        )
    return found


def parent_cosines(ratio: Number, n_children: int) -> tuple[Number, Number]:
    """Cosines of parent + t (sum of children) with the parent and with each child."""
    norm = (1 + n_children * ratio**2) ** 0.5
    return 1 / norm, ratio / norm


def child_decoder(
    parent_decoder: Float[Tensor, "*#points features"], state: Float[Tensor, "*#points features"]
) -> Float[Tensor, "*points features"]:
    """Unit decoder of the child's latent: what the parent's latent leaves of parent + child.

    The inner prefix, where the parent's latent stands alone, fixes its activation to the projection of the
    input on its (unit) decoder; the outer prefix is then exact if the child's latent holds the rest. For child i of a
    parent of ratios t that is, up to scale, `(sum t_j^2 - t_i) / (1 + sum t_j^2)` of the parent and
    `-t_j (1 + t_i) / (1 + sum t_j^2)` of sibling j: never toward a sibling, and against the parent where
    `t_i > sum t_j^2`.
    """
    rest = state - (state * parent_decoder).sum(-1, keepdim=True) * parent_decoder
    return rest / rest.norm(dim=-1, keepdim=True)


def child_cosines(ratio: Number, n_children: int) -> tuple[Number, Number, Number]:
    """Cosines of a child's decoder with its parent, with itself and with a sibling, for a parent of ratio t.

    Up to scale: `t(nt - 1)`, `1 + nt^2 - t - t^2`, `-t(1 + t)`. The parent's is negative where t < 1/n.
    """
    t, n = ratio, n_children
    parent, own, sibling = t * (n * t - 1), 1 + n * t**2 - t - t**2, -t * (1 + t)
    norm = (parent**2 + own**2 + (n - 1) * sibling**2) ** 0.5
    return parent / norm, own / norm, sibling / norm


def one_latent_loss(
    states: States, directions: Float[Tensor, "*points features"], biases: bool = False
) -> Float[Tensor, "*points"]:
    """Loss of a one-latent SAE with each given decoder direction and the best non-negative activations.

    Args:
        states: the data.
        directions: decoders, of any non-zero length.
        biases: allow the best decoder bias as well (the inputs are then centred, and the activation
            is any number, since a bias can shift it): the variance that the direction leaves.
    """
    unit = directions / directions.norm(dim=-1, keepdim=True)
    acts = states.acts - (states.probs @ states.acts if biases else 0)
    projected = unit @ acts.T
    caught = projected if biases else projected.clamp_min(0)
    power = (states.probs[:, None] * acts.square()).sum()
    return power - (states.probs * caught.square()).sum(-1)
