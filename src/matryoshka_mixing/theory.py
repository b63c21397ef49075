"""What the best SAE looks like, without training one.

Assumptions throughout: no biases, penalty 0 (but in `lean_boundary`), each latent fires with its own feature and with
no other, and orthonormal features of magnitude 1 where a closed form is given.
Vectors are in feature space: entry i is the component along feature i, so that for unit vectors an entry *is*
the cosine with that feature. Derived for this project; every statement here is checked by a test.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize
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
    re-weighted by them. Arguments and errors as there.
    """
    return top_eigenvector(second_moment(states, prefix_weights(states, ranks, widths, weights, parent)))


def pattern_optimum(
    states: States,
    dictionary: Float[Tensor, "features d_in"],
    ranks: Sequence[int],
    widths: Sequence[int],
    weights: Sequence[float],
) -> Float[Tensor, "features d_in"]:
    """Decoders of the best SAE in which each latent fires with its own feature and no other; unit rows, by feature.

    Where the closed forms do not reach (three levels, any overlap, any dictionary). Given the decoders d, the best
    activations on a state solve a linear system over the features that are active there,

        sum_l min(u_k, u_l) (d_k . d_l) a_l = u_k (d_k . x),

    where u_k is the weight of the prefixes that hold latent k. What is left is minimised over d from the truth, by
    quasi-Newton steps (L-BFGS, through SciPy). Activations are free: that they are non-negative, and that one linear
    encoder can give them all, is not asked, so the loss is a lower bound on an SAE's, met where the SAE can.

    Args:
        states: the data; features that never fire get a row of zeros.
        dictionary: the true directions.
        ranks: for each feature the position of its latent (from 0).
        widths, weights: the prefixes and their weights in the loss; every latent of a firing feature must be in one.
    """
    x, firing = states.inputs(dictionary), (states.acts > 0).any(0)
    active = (states.acts > 0).to(x)[:, firing]
    held = torch.tensor([[rank < width for width in widths] for rank in ranks], dtype=x.dtype)
    reach = (held @ torch.tensor(weights, dtype=x.dtype))[firing]
    if not (reach > 0).all():
        raise ValueError(f"no prefix of widths {widths} and weights {weights} holds every latent of ranks {ranks}.")
    both, either = torch.minimum(reach[:, None], reach), active[:, :, None] * active[:, None]
    idle = torch.diag_embed(1 - active)

    def saved(flat: np.ndarray) -> tuple[float, np.ndarray]:
        rows = torch.from_numpy(flat).unflatten(0, (-1, x.shape[1])).requires_grad_()
        along = active * reach * (x @ rows.T)
        acts = torch.linalg.solve(either * both * (rows @ rows.T) + idle, along)
        loss = -(states.probs[:, None] * along * acts).sum()
        # The length of a decoder is free; this holds it near 1 and leaves the optimum as it is.
        loss = loss + (rows.square().sum(-1) - 1).square().sum()
        loss.backward()
        return loss.item(), rows.grad.flatten().numpy()

    start = torch.nn.functional.normalize(dictionary[firing], dim=-1).flatten().numpy()
    best = minimize(saved, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-16, "gtol": 1e-10})
    rows = torch.zeros_like(dictionary)
    rows[firing] = torch.nn.functional.normalize(torch.from_numpy(best.x).unflatten(0, (-1, x.shape[1])), dim=-1)
    return rows


def matryoshka_ratio(child_probability: float, n_children: int, inner_weight: float = 1.0) -> float:
    """The ratio t of the parent's decoder in a Matryoshka SAE of widths (1, n + 1) and weights (beta, 1).

    The positive root of
    `n beta q t^2 + ((1 + beta)(1 - n q) + n beta q - beta q) t - beta q = 0`
    for n exclusive children of conditional probability q. Works elementwise on arrays and tensors.
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


def budget_ratios(
    child_probability: float, n_children: int, kept: Float[Tensor, "*points"], inner_weight: float = 1.0
) -> Float[Tensor, "*points children"]:
    """The ratios t_i of the parent's decoder under BatchTopK, for a budget that keeps too little.

    For a Matryoshka SAE of widths (1, n + 1) and weights (beta, 1) with n equal exclusive children. A child's
    activations are the smallest, so they are dropped first, and one child at a time: the parent's decoder takes up what
    is dropped, and leaves still less to the child. With a share s_i of child i's activations kept, the outer prefix is
    exact on that share only, and the terms that hold the parent and miss the child weigh q (beta + 1 - s_i) in place of
    q beta. Nothing is dropped (s_i = 1: `matryoshka_ratio`) when K is the true mean L0 or more.

    Args:
        child_probability: q, of each child given the parent.
        n_children: n, at least 1.
        kept: share of all the children's activations that is kept, in [0, 1]: (K - p) / (n p q) with p the parent's
            probability.
        inner_weight: beta.

    Returns:
        t_i for every child, the best kept one first. NaN where the child to be dropped next would be larger than the
        parent on the parent alone, `2 - (u_0 + u_i)^2 > u_0^2` for the unit decoder u: then the parent's
        activations are dropped, and this theory does not speak.
    """
    left = n_children * kept[..., None] - torch.arange(n_children, dtype=torch.float64)
    pulls = child_probability * (inner_weight + 1 - left.clamp(0, 1))
    ratios = unequal_ratios((1 - n_children * child_probability) * (1 + inner_weight), pulls)
    edge = (n_children * kept).floor().clamp_max(n_children - 1).long()
    at_edge = ratios.gather(-1, edge[..., None])[..., 0]
    holds = 2 * (1 + ratios.square().sum(-1)) - (1 + at_edge).square() <= 1
    return torch.where(holds[..., None], ratios, torch.nan)


def inclusion_probabilities(chances: Sequence[float], draws: int) -> list[float]:
    """How likely each item is among `draws` drawn one after the other without replacement, with the given chances.

    Random prefixes act through their expected weights: with one weight for every drawn prefix these are the inclusion
    probabilities. Drawing without replacement is a race: item i arrives after an exponential time of rate `chances[i]`,
    and the first `draws` to arrive are in. The integral over the time of arrival is done by Gauss-Legendre.

    Raises:
        ValueError: if a chance is not above 0, there are fewer items than draws, or chances differ by far too much.
    """
    rates = np.asarray(chances, dtype=float)
    if not 0 <= draws <= len(rates) or (rates <= 0).any():
        raise ValueError(
            f"{draws} draws from {len(rates)} items with chances {list(chances)}; every chance must be above 0, "
            "and there must be at least as many items as draws."
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


def parent_cosines(ratio: float, n_children: int) -> tuple[float, float]:
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


def child_cosines(ratio: float, n_children: int) -> tuple[float, float, float]:
    """Cosines of a child's decoder with its parent, with itself and with a sibling, for a parent of ratio t.

    Up to scale: `t(nt - 1)`, `1 + nt^2 - t - t^2`, `-t(1 + t)`. The parent's is negative where t < 1/n.
    """
    t, n = ratio, n_children
    parent, own, sibling = t * (n * t - 1), 1 + n * t**2 - t - t**2, -t * (1 + t)
    norm = (parent**2 + own**2 + (n - 1) * sibling**2) ** 0.5
    return parent / norm, own / norm, sibling / norm


def lean_boundary(
    ratio: Float[Tensor, "*points"], n_children: int, inner_weight: float = 1.0
) -> tuple[Float[Tensor, "*points"], Float[Tensor, "*points"]]:
    """Where a child's cosine with its parent changes sign: child probability q and L1 penalty, along a curve.

    For a Matryoshka SAE of widths (1, n + 1) and weights (beta, 1) with n equal exclusive children, whose latents all
    stay active (half the penalty lies below what each has to write). The curve's
    parameter is the ratio t of the parent's decoder, from 0 to 1/n; below the curve (a smaller penalty) the cosine is
    negative.

    The penalty shrinks the activation a of the parent's latent on parent + child; the child's latent takes the rest,
    x - a u, whose part along the parent is 1 - a / N with N^2 = 1 + n t^2. It vanishes at a = N. Setting to 0 the
    derivatives of the loss there by a, and then by t, gives

        l1 = 2 beta t (1 - nt) / (N (beta + 1 - t (1 - nt) / (N r))),    r^2 = (1 - t)^2 + (n - 1) t^2
        q / (1 - n q) = (1 + beta) t (2 / N - l1) / (N (1 - nt) (2 beta + l1 / r))
    """
    t, n, beta = ratio, n_children, inner_weight
    norm, rest = (1 + n * t**2) ** 0.5, ((1 - t) ** 2 + (n - 1) * t**2) ** 0.5
    excess = t * (1 - n * t) / norm
    l1 = 2 * beta * excess / (beta + 1 - excess / rest)
    alone = (1 + beta) * t * (2 / norm - l1)
    with_child = norm * (1 - n * t) * (2 * beta + l1 / rest)
    return alone / (with_child + n * alone), l1


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


def starts_dead(n_children: int) -> float:
    """How likely a random latent without biases fires on no input of a family: `(1 - 2^-(n + 1)) / (n + 1)`.

    For magnitudes 1 and orthonormal features. Along the features a random encoder direction is a Gaussian vector z, and
    the latent is dead if `z0 <= 0` and `z0 + zi <= 0` for every child i. Given z0 that has probability `Phi(-z0)^n`, so
    with `u = Phi(z0)` the answer is the integral of `(1 - u)^n` from 0 to 1/2. For two children it is 7/24, the solid
    angle of a cone with dihedral angles 120, 135 and 135 degrees. Without biases such a latent never gets a gradient.
    """
    return (1 - 0.5 ** (n_children + 1)) / (n_children + 1)


def best_frame(
    moments: Float[Tensor, "latents features features"], iterations: int = 2000
) -> tuple[Float[Tensor, "latents features"], float]:
    """Orthonormal directions e_i that maximise `sum_i e_i M_i e_i`, and that maximum.

    Each step moves to the orthonormal frame nearest to the rows `M_i e_i` (their polar factor); the sum is convex, so
    it never falls. Starts at the top eigenvector of the first matrix, and for each next one at the top eigenvector
    across those before. A local maximum, which is what a solution is.

    Args:
        moments: symmetric matrices without negative eigenvalues, no more than features.
        iterations: steps; the distance from the maximum shrinks by a constant factor in each.
    """
    frame = moments.new_zeros(moments.shape[:2])
    for i, moment in enumerate(moments):
        across = torch.eye(len(moment), dtype=moment.dtype) - frame[:i].T @ frame[:i]
        frame[i] = top_eigenvector(across @ moment @ across)
    for _ in range(iterations):
        left, _, right = torch.linalg.svd(torch.einsum("ifg,ig->if", moments, frame), full_matrices=False)
        frame = left @ right
    return frame, float(torch.einsum("if,ifg,ig->", frame, moments, frame))


def family_losses(states: States, inner_weight: float = 1.0) -> tuple[dict[str, float], dict[str, float]]:
    """The losses of the solutions that have a name: of a standard SAE, and of a Matryoshka SAE of widths (1, n + 1).

    For one parent with n exclusive children. The inputs are linearly independent, so an encoder without biases can give
    every latent any activation on each of them: a solution is a table of activations with the best decoders for it.

    Standard, k live latents: what rank k leaves (Eckart and Young 1936), the sum of the least n + 1 - k eigenvalues of
    the second moment. For 2 < k < n + 1 it is only a lower bound, since activations may not be negative.

    Matryoshka, weights (beta, 1). If the first latent is dead, the rest is a standard SAE. If it fires on every input,
    and every other live latent completes one input in the outer prefix, a completed input weighs beta and another
    1 + beta, and the loss is what the top eigenvector of that re-weighted moment leaves. A latent may also be shared by
    two inputs that lean the same way: see `best_frame`.

    Latents that cancel: the children's latents span the differences between siblings and lean, ever so little, toward
    the parent alone, on which all of them fire loudly and cancel but for what it lacks. In the limit of unbounded
    activations this completes the parent alone and, of every parent + child, all but its part in the plane of the
    parent and the mean child: only that part weighs 1 + beta. No SAE attains the limit.

    Args:
        states: of one family with equal children.
        inner_weight: beta.
    """
    parent, beta = 0, inner_weight
    n, firing = states.acts.shape[1] - 1, states.acts[:, parent] > 0
    alone = firing & (states.acts.sum(-1) == states.acts[:, parent])
    pairs = [firing & (states.acts[:, child] > 0) for child in range(1, n + 1)]
    least = torch.linalg.eigvalsh(second_moment(states)).clamp_min(0).cumsum(0).flip(0).tolist() + [0.0]

    def completing(*completed: Tensor) -> float:
        weights = 1 + beta - sum(one.double() for one in completed) * firing
        return float(torch.linalg.eigvalsh(second_moment(states, weights))[:-1].sum())

    mean_child = states.acts[:, 1:].mean(-1, keepdim=True).expand(-1, n)
    plane = States(torch.cat([states.acts[:, :1], mean_child], 1), states.probs)
    in_plane = torch.linalg.eigvalsh(second_moment(plane, 1 + beta - alone.double()))[:-1].sum()
    shared = torch.stack([(1 + beta) * second_moment(states), second_moment(states, (alone | pairs[0]).double())])
    matryoshka = {
        "latents that cancel (a limit)": float(in_plane) + beta * (states.power - plane.power),
        "parent first, every child completed": completing(*pairs),
        "parent alone completed, and all children but one": completing(alone, *pairs[1:]),
        "one latent shared by parent alone and a child": (1 + beta) * states.power - best_frame(shared)[1],
        "one child completed": completing(pairs[0]),
        "parent alone completed": completing(alone),
        "first latent only": completing(),
    }
    matryoshka |= {f"first latent dead, {k} others live": beta * states.power + least[k] for k in range(n + 1)}
    return {f"{k} live": least[k] for k in range(n + 2)}, matryoshka


def absorbed_loss(states: States, l1: float) -> float:
    """The loss of a standard SAE with one latent for each input that holds something: sum of `p (l1 r - l1^2 / 4)`.

    r is the input's length; the penalty shortens its reconstruction by l1 / 2 (at most to 0). With a penalty this is
    the absorbed solution of a family with exclusive children.
    """
    length = states.acts.norm(dim=-1)
    short = (torch.tensor(l1) / 2).minimum(length)
    return float((states.probs * (short.square() + l1 * (length - short))).sum())
