"""The recipe's step, compiled: the trainer's draw, gradient and update, and what this recipe does between them.

Each part has its own small tuple of arrays. As in `_kernel`, everything is done in a fixed order, so that a seed gives
the same bits on every CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from matryoshka_mixing._batches import draw, draw_prefixes
from matryoshka_mixing._kernel import Loss, dot, fill, gradient, move
from matryoshka_mixing._lanes import LANES, bare, load, splat, store
from matryoshka_mixing._random import OPTIONS

WATCHED = 10
"""Who shares prefixes with whom is looked at once in so many steps."""
TIE = 1e-9
"""A batch whose L0 is nearer to the target has reached it: as a sum of shares it may be rounded either way."""


class One(NamedTuple):
    """One SAE.

    Attributes:
        theta: its parameters, laid out as `_kernel.Shape` says; trained in place.
        batches, prefixes: its random streams.
        done: counts steps; a second entry above 0 asks to stop.
    """

    theta: np.ndarray
    batches: np.ndarray
    prefixes: np.ndarray
    done: np.ndarray


class Normaliser(NamedTuple):
    """Multiplies the inputs by `length` / a running mean of their norm. Its state is `norm`.

    An input is a sum of directions, so it is the directions that are scaled; they are orthogonal, so squares add.

    Attributes:
        norm: the running mean, which starts at 0 and is not corrected for that; then the latest factor.
        memory: what the mean keeps at each step.
        length: the norm that inputs get.
        squares: squared length of each direction.
        dictionary, across: the directions as `_kernel.Room` has them, as they are.
    """

    norm: np.ndarray
    memory: float
    length: float
    squares: np.ndarray
    dictionary: np.ndarray
    across: np.ndarray


class Steering(NamedTuple):
    """The penalty: it rises linearly, then grows or shrinks after each batch, to bring its L0 to a target.

    Attributes:
        l1: the penalty that the ramp ends at, and from there on the penalty, in units of normalised inputs.
        ramp: number of steps in which it rises from 0.
        rate: by what share of itself it then moves at each step; 0: not at all.
        target: mean L0.
    """

    l1: np.ndarray
    ramp: float
    rate: float
    target: float


class Sorting(NamedTuple):
    """Sorts the latents by a running mean of their squared contribution, loudest first, ties as they stand.

    Attributes:
        loudness: the running mean for each rank.
        now: mean squared contribution of each latent in the last batch.
        order: which rank moves to each rank.
        holder: who holds each rank, named by its first rank.
        memory: what the mean keeps at each step.
        sorts: whether latents are sorted.
        mean_follows, moments_follow: whether the running mean, and Adam's moments, move along with them.
    """

    loudness: np.ndarray
    now: np.ndarray
    order: np.ndarray
    holder: np.ndarray
    memory: float
    sorts: bool
    mean_follows: bool
    moments_follow: bool


class Record(NamedTuple):
    """What is kept on the way.

    Attributes:
        recorded: whether each step is recorded.
        l0, penalty: of each record: the mean L0 of the batches since the record before, and the penalty in units of the
            features.
        path: the parameters after each recorded step, one after the other.
        watched_from: from which step on `together` is summed.
        reach: expected weight of the prefixes that hold each rank.
        together: sum of the expected weights of the prefixes that hold both of two latents, named by their first ranks.
        watched: in how many steps.
    """

    recorded: np.ndarray
    l0: np.ndarray
    penalty: np.ndarray
    path: np.ndarray
    watched_from: float
    reach: np.ndarray
    together: np.ndarray
    watched: np.ndarray


@njit(**OPTIONS)
def normalise(normaliser, shape, batch, n, room):
    """Scale the directions for this batch; returns by how much."""
    start, feature, value, mean = batch.start, batch.feature, batch.value, 0.0
    for row in range(n):
        state, square = batch.state[row], 0.0
        for i in range(start[state], start[state + 1]):
            square += value[i] * value[i] * normaliser.squares[feature[i]]
        mean += batch.weight[row] * np.sqrt(square)
    normaliser.norm[0] = normaliser.memory * normaliser.norm[0] + (1.0 - normaliser.memory) * mean
    # Without any feature so far there is nothing to scale.
    scale = normaliser.length / normaliser.norm[0] if normaliser.norm[0] > 0.0 else 1.0
    normaliser.norm[1] = scale
    factor = splat(room.dictionary, scale)
    for c in range(0, shape.features * shape.row, LANES):
        store(room.dictionary, c, factor * load(normaliser.dictionary, c))
    for c in range(0, shape.d_in * shape.width, LANES):
        store(room.across, c, factor * load(normaliser.across, c))
    return scale


@njit(**OPTIONS)
def with_penalty(loss, l1):
    """The loss with another weight of the penalty."""
    return Loss(
        loss.reach, loss.reach_decoder, loss.two, loss.stride, l1, loss.activation, loss.k, loss.encoder_bias,
        loss.decoder_bias, loss.widths, loss.chances, loss.prefixes, loss.drawn,
    )  # fmt: skip


@njit(**OPTIONS)
def penalty(steering, step):
    """The penalty of a step."""
    return steering.l1[0] * min(1.0, step / steering.ramp) if steering.ramp > 0.0 else steering.l1[0]


@njit(**OPTIONS)
def steer(steering, step, l0):
    """Move the penalty, where the L0 of this step's batch was `l0`."""
    if step >= steering.ramp:
        steering.l1[0] *= 1.0 + steering.rate if l0 > steering.target - TIE else 1.0 - steering.rate


@njit(**OPTIONS)
def mean_l0(batch, n, room):
    """Mean number of active latents in a batch."""
    found = 0.0
    for row in range(n):
        found += batch.weight[row] * (room.begin[row + 1] - room.begin[row])
    return found


@njit(**OPTIONS)
def listen(sorting, theta, shape, batch, n, room):
    """Mean squared contribution of each latent in a batch: E a^2 times the squared norm of its decoder row."""
    for k in range(shape.d_sae):
        sorting.now[k] = 0.0
    for row in range(n):
        for i in range(room.begin[row], room.begin[row + 1]):
            act = room.act[i]
            sorting.now[room.latent[i]] += batch.weight[row] * act * act
    for k in range(shape.d_sae):
        place = shape.decoder + k * shape.row
        sorting.now[k] *= dot(theta, place, theta, place, shape.row)


@njit(**OPTIONS)
def rank(sorting, latents):
    """Bring the running mean up to date and find the order; returns whether any latent changes its place."""
    changes = False
    for k in range(latents):
        sorting.loudness[k] = sorting.memory * sorting.loudness[k] + (1.0 - sorting.memory) * sorting.now[k]
        i = k
        while i > 0 and sorting.loudness[sorting.order[i - 1]] < sorting.loudness[k]:
            sorting.order[i] = sorting.order[i - 1]
            i -= 1
        sorting.order[i] = k
        changes |= i < k
    return changes


@njit(**OPTIONS)
def carry(values, begin, width, order, n):
    """Put n rows of numbers in a new order, in place: row order[i] comes to be row i."""
    for i in range(n):
        source = order[i]
        while source < i:  # what stood there was exchanged before, and is where that went
            source = order[source]
        if source != i:
            here, there = begin + i * width, begin + source * width
            for c in range(width):
                values[here + c], values[there + c] = values[there + c], values[here + c]


@njit(**OPTIONS)
def carry_latents(values, shape, order):
    """The same for the latents of an array laid out like the parameters."""
    carry(values, 0, shape.row, order, shape.d_sae)
    carry(values, shape.decoder, shape.row, order, shape.d_sae)
    carry(values, shape.b_enc, 1, order, shape.d_sae)


@njit(**OPTIONS)
def sort(sorting, theta, shape, room):
    """Sort the latents, and what moves along with them."""
    if not sorting.sorts or not rank(sorting, shape.d_sae):
        return
    carry_latents(theta, shape, sorting.order)
    carry(sorting.holder, 0, 1, sorting.order, shape.d_sae)
    if sorting.mean_follows:
        carry(sorting.loudness, 0, 1, sorting.order, shape.d_sae)
    if sorting.moments_follow:
        carry_latents(room.mean, shape, sorting.order)
        carry_latents(room.square, shape, sorting.order)


@njit(**OPTIONS)
def watch(record, holder, latents):
    """Add what prefixes two latents share: those that hold the later of them."""
    for i in range(latents):
        for j in range(latents):
            record.together[holder[i] * latents + holder[j]] += record.reach[max(i, j)]
    record.watched[0] += 1


@njit(**OPTIONS)
def run(one, shape, loss, inputs, batch, size, optimiser, room, normaliser, steering, sorting, record):
    """Train one SAE by the recipe.

    Args:
        one: the SAE.
        shape, loss, inputs, optimiser: as in `_kernel.fit`, but that the penalty is that of `steering`.
        batch, room: room for a batch of `size` inputs, and for a step.
        normaliser, steering, sorting, record: the recipe's parts.
    """
    one, loss, inputs, optimiser = bare(one), bare(loss), bare(inputs), bare(optimiser)
    batch, room = bare(batch), bare(room)
    normaliser, steering, sorting, record = bare(normaliser), bare(steering), bare(sorting), bare(record)
    fill(room.mean, shape.size)
    fill(room.square, shape.size)
    at, since, l0_since = 0, 0, 0.0
    for step in range(optimiser.steps):
        n = draw(batch, inputs, size, one.batches)
        if loss.drawn:
            draw_prefixes(loss, shape.d_sae, one.prefixes, room.left)
        scale = normalise(normaliser, shape, batch, n, room)
        l1 = penalty(steering, step)
        gradient(one.theta, shape, with_penalty(loss, l1), inputs, batch, n, room, False)
        l0 = mean_l0(batch, n, room)
        if sorting.sorts:
            listen(sorting, one.theta, shape, batch, n, room)
        move(one.theta, room, optimiser, step)
        steer(steering, step, l0)
        sort(sorting, one.theta, shape, room)
        if step >= record.watched_from and step % WATCHED == 0:
            watch(record, sorting.holder, shape.d_sae)
        l0_since += l0
        since += 1
        if record.recorded[step]:
            record.l0[at] = l0_since / since
            record.penalty[at] = l1 / scale
            for i in range(shape.size):
                record.path[at * shape.size + i] = one.theta[i]
            at, since, l0_since = at + 1, 0, 0.0
        if step % 64 == 63:
            one.done[0] += 64
            if one.done[1]:
                return
    one.done[0] += optimiser.steps % 64
