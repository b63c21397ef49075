"""What the best SAE looks like, without training one.

Assumptions throughout: penalty 0, no biases, orthonormal features of magnitude 1 where a closed form is given.
Vectors are in feature space: entry i is the component along feature i, so that for unit vectors an entry *is*
the cosine with that feature. Derived for this project; every statement here is checked by a test.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from matryoshka_mixing.features import States


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


def narrow_optimum(states: States) -> Float[Tensor, " features"]:
    """Decoder of the best SAE with one latent: the top eigenvector of the second moment.

    A one-latent SAE is a rank-one reconstruction with non-negative activations; Eckart and Young (1936) give the
    optimum without the sign constraint, and the optimum meets the constraint.
    """
    return top_eigenvector(second_moment(states))


def narrow_ratio(child_probability: float, n_children: int) -> float:
    """The ratio t of the best one-latent decoder, parent + t (sum of the children).

    The positive root of `n q t^2 + (1 - q) t - q = 0` for n exclusive children of conditional probability q.
    The parent's own probability does not appear. Works elementwise on arrays and tensors.
    """
    q, n = child_probability, n_children
    return 2 * q / ((1 - q) + ((1 - q) ** 2 + 4 * n * q**2) ** 0.5)


def prefix_weights(
    states: States, ranks: Sequence[int], widths: Sequence[int], weights: Sequence[float], parent: int = 0
) -> Float[Tensor, " states"]:
    """How much each state pulls on the parent's decoder.

    That is the total weight of the prefixes that hold the parent's latent and miss the latent of the child that
    is active (for the parent alone: of all prefixes that hold it).

    Args:
        states: states of one family with exclusive children.
        ranks: for each feature the position of its latent (from 0).
        widths, weights: the prefixes and their weights in the loss.
        parent: number of the parent feature.

    Raises:
        ValueError: if more than one child is active in some state (no closed theory there).
    """
    pull = torch.zeros(len(states), dtype=torch.float64)
    for i, acts in enumerate(states.acts):
        others = [f for f in torch.nonzero(acts).flatten().tolist() if f != parent]
        if len(others) > 1:
            raise ValueError(
                f"state {i} has {len(others)} features active beside feature {parent}; the theory covers "
                "exclusive children only. Use a family with mutually exclusive children."
            )
        first_out = min((ranks[f] for f in others), default=max(widths))
        for width, weight in zip(widths, weights, strict=True):
            if ranks[parent] < width <= first_out and acts[parent] > 0:
                pull[i] += weight
    return pull


def matryoshka_optimum(
    states: States, ranks: Sequence[int], widths: Sequence[int], weights: Sequence[float], parent: int = 0
) -> Float[Tensor, " features"]:
    """Decoder of the parent's latent once the children's latents are there.

    A prefix that holds the active child reconstructs parent + child exactly, whatever the parent's decoder is.
    What still shapes it are the prefixes of `prefix_weights`: it is the top eigenvector of the second moment
    re-weighted by them. Arguments and errors as there.
    """
    return top_eigenvector(second_moment(states, prefix_weights(states, ranks, widths, weights, parent)))


def matryoshka_ratio(child_probability: float, n_children: int, inner_weight: float = 1.0) -> float:
    """The ratio t of the parent's decoder in a Matryoshka SAE of widths (1, n + 1) and weights (beta, 1).

    The positive root of
    `n beta q t^2 + ((1 + beta)(1 - n q) + n beta q - beta q) t - beta q = 0`
    for n exclusive children of conditional probability q. Works elementwise on arrays and tensors.
    """
    q, n, beta = child_probability, n_children, inner_weight
    linear = (1 + beta) * (1 - n * q) + (n - 1) * beta * q
    return 2 * beta * q / (linear + (linear**2 + 4 * n * (beta * q) ** 2) ** 0.5)


def parent_cosines(ratio: float, n_children: int) -> tuple[float, float]:
    """Cosines of parent + t (sum of children) with the parent and with each child."""
    norm = (1 + n_children * ratio**2) ** 0.5
    return 1 / norm, ratio / norm


def child_decoder(
    parent_decoder: Float[Tensor, " features"], state: Float[Tensor, " features"]
) -> Float[Tensor, " features"]:
    """Unit decoder of the child's latent: what the parent's latent leaves of parent + child.

    The inner prefix, where the parent's latent stands alone, fixes its activation to the projection of the
    input on its (unit) decoder; the outer prefix is then exact if the child's latent holds the rest.
    """
    rest = state - (state @ parent_decoder) * parent_decoder
    return rest / rest.norm()


def child_cosines(ratio: float, n_children: int) -> tuple[float, float, float]:
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


# One parent of magnitude a and one child of magnitude b = r a and probability q given the parent. Two states hold
# something: the parent *alone*, a f0, and the *sum*, a f0 + b f1.


def skew_ratio(magnitude_ratio: float, child_probability: float, alone: float = 1.0, together: float = 1.0) -> float:
    """The ratio t of the best latent that fires on both states, parent + t child.

    It is the top eigenvector of the second moment in which the parent alone weighs `alone` and the sum `together`. A
    narrow SAE has weights (1, 1). In a Matryoshka SAE of widths (1, 2) and weights (beta, 1) the first latent has
    (1 + beta, beta) if the second one fires on the sum only, and (beta, 1 + beta) if it fires on the parent alone
    only: it completes one state in the outer prefix. Works elementwise on arrays and tensors.
    """
    r, q = magnitude_ratio, child_probability
    parent, both, child = alone * (1 - q) + together * q, together * q * r, together * q * r**2
    return (child - parent + ((child - parent) ** 2 + 4 * both**2) ** 0.5) / (2 * both)


def skew_turn(magnitude_ratio: float, alone: float = 1.0, together: float = 1.0) -> float:
    """The child probability above which the latent of `skew_ratio` is nearer to the child than to the parent (t = 1).

    `q = alone / (alone + together (r^2 - 1))`; for a narrow SAE `q r^2 = 1`, where parent and child have the same
    expected square. Outside [0, 1], as for all r < 1, it never turns. Works elementwise.
    """
    return alone / (alone + together * (magnitude_ratio**2 - 1))


def skew_crossing(magnitude_ratio: float) -> float:
    """The child probability above which completing the parent alone gives a lower loss than completing the sum.

    `q = 1 / (2 + r^2)`, where both states have the same power. The two re-weighted second moments have the same
    determinant, so the larger trace has the smaller remaining eigenvalue, whatever the inner weight.
    """
    return 1 / (2 + magnitude_ratio**2)


def skew_solutions(
    parent_probability: float,
    child_probability: float,
    parent_magnitude: float,
    child_magnitude: float,
    inner_weight: float = 1.0,
) -> dict[str, tuple[float, Float[Tensor, "2 2"]]]:
    """The solutions of a Matryoshka SAE of widths (1, 2) in which both latents fire: their loss and unit decoders.

    Each is named by the states on which the first and the second latent fire, and is a local minimum wherever both
    states have positive probability: a latent that is strictly silent on a state gets no gradient from it. Which of
    them is lowest says nothing about which is reached.

    Returns:
        For "both, sum", "both, alone", "sum, alone" and "alone, sum" the loss and the decoder, one row a latent, with
        entries along (parent, child).
    """
    p, q, beta = parent_probability, child_probability, inner_weight
    alone = torch.tensor([parent_magnitude, 0.0], dtype=torch.float64)
    total = torch.tensor([parent_magnitude, child_magnitude], dtype=torch.float64)
    pair = States(torch.stack([alone, total]), torch.tensor([p * (1 - q), p * q], dtype=torch.float64))
    found = {}
    for completed, name, weights in [(total, "both, sum", (1 + beta, beta)), (alone, "both, alone", (beta, 1 + beta))]:
        moment = second_moment(pair, torch.tensor(weights, dtype=torch.float64))
        first = top_eigenvector(moment)
        found[name] = float(torch.linalg.eigvalsh(moment)[0]), torch.stack([first, child_decoder(first, completed)])
    rows = torch.stack([total / total.norm(), alone / alone.norm()])
    found["sum, alone"] = beta * p * (1 - q) * float(alone @ alone), rows
    found["alone, sum"] = beta * p * q * float(total @ total), rows.flip(0)
    return found


def absorption_saving(magnitude_ratio: float, child_probability: float) -> float:
    """Share of the L1 penalty that absorption saves a standard SAE that reconstructs both states, in [0, 1].

    `q (1 + r - sqrt(1 + r^2)) / (1 + q r)`: on the sum one latent of its length fires instead of two. It is positive
    for every r, so a loud child is not needed. Works elementwise.
    """
    r, q = magnitude_ratio, child_probability
    return q * (1 + r - (1 + r**2) ** 0.5) / (1 + q * r)
