"""The training step for small SAEs, compiled: four SAEs of one setting side by side, one in each lane of `Lanes`.

Where inputs are few, a step costs what is done once and for all inputs, and that is done in one go here. With the rows
F_f of the dictionary, D_0 = b_dec, D_j = W_dec_j, E_j = W_enc_j, inputs x = sum of v_f F_f, activations a_j (a_0 = 1),
the weight w of an input, and u_j the weight of the prefixes that hold latent j (all hold b_dec; two latents are both in
those that hold the later one):

    (1) once a step: F_f . E_j, F_f . D_j, D_i . D_j, D_0 . E_j
    (2) pre_j = sum of v_f F_f . E_j + b_enc_j - D_0 . E_j,  a = relu(pre)
    (3) R_j = u_j (x - sum over i <= j of a_i D_i) - sum over i > j of u_i a_i D_i: `_kernel`'s (4)
        d loss / d a_j = -2 R_j . D_j + l1 u_j ||D_j||, a sum of products (1)
    (4) d loss / d D_j = -2 sum of w a_j R_j + l1 (sum of w u_j a_j) D_j / ||D_j|| for j > 0
        d loss / d D_0 = -2 sum of w R_0 - sum of (d loss / d pre_j) E_j
        d loss / d E_j = sum of (d loss / d pre_j) (x - D_0),  d loss / d b_enc_j = sum of d loss / d pre_j

So (4) is a matrix times the rows F, D, E. Its entries, `Room.coefs`, are summed over the inputs, in a few operations
each: nothing but the first and last part of a step is as long as a row. `_kernel` goes through the rows for every
input, which is the better way where SAEs or inputs are large, and where every SAE has inputs of its own.

Each lane is rounded by itself, a latent that is at rest adds zeros, and inputs are taken in the order of their states:
what comes of an SAE does not depend on the other lanes. (Where its own numbers overflow, zero times infinity is none:
which of its parameters are infinite and which are no numbers can then depend on who is beside it.)
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from matryoshka_mixing import _kernel
from matryoshka_mixing._batches import draw
from matryoshka_mixing._lanes import (
    HALF,
    any_above,
    at,
    bare,
    keep,
    load_four,
    lowest_bit,
    root,
    splat_four,
    store,
)
from matryoshka_mixing._random import INNER, INSIDE, OPTIONS

ABREAST = HALF
"""SAEs side by side."""
BLOCK = 4
"""Products and sums of so many rows, or numbers of a row, are taken at once, so that none has to wait for itself."""
MOST_ROWS, MOST_STATES = 24, 256
"""Features and latents together, and states; with more, SAEs meet so many different latents that lanes lie idle."""
WORD = 64
"""Bits of a whole number."""


class Plan(NamedTuple):
    """Where everything lies: rows F_0, F_1, ..., D_0, D_1, ..., E_1, E_2, ..., then b_enc; four SAEs at every place.

    Attributes:
        features, d_sae, d_in: numbers of features, latents and dimensions.
        row: numbers in a row, padded.
        columns: entries in a line of the tables of products and of coefficients: one for each row, padded.
        b_enc, size: where that begins, and the length of all.
        total: the length of an SAE in the layout of `_kernel.Shape`.
        here, there, parameters: place of every parameter, here and in that layout, and their number.
        moving, moves: places here of those that are trained, and their number.
    """

    features: int
    d_sae: int
    d_in: int
    row: int
    columns: int
    b_enc: int
    size: int
    total: int
    here: np.ndarray
    there: np.ndarray
    parameters: int
    moving: np.ndarray
    moves: int

    @classmethod
    def of(cls, shape: _kernel.Shape, optimiser: _kernel.Optimiser) -> Plan:
        """The plan for SAEs of this shape, of which the optimiser moves those parameters that are free."""
        d_in, d_sae, features = shape.d_in, shape.d_sae, shape.features
        row, columns = -(-d_in // BLOCK) * BLOCK, -(-(features + 1 + 2 * d_sae) // BLOCK) * BLOCK
        b_enc = columns * row  # beyond the last row are a few of zeros, which blocks run into
        rows = (features + np.arange(1 + 2 * d_sae))[:, None] * row + np.arange(d_in)
        here = np.append(rows, b_enc + np.arange(d_sae))
        begins = shape.row * np.arange(d_sae)
        begins = np.concatenate([[shape.b_dec], shape.decoder + begins, begins])
        there = np.append(begins[:, None] + np.arange(d_in), shape.b_enc + np.arange(d_sae))
        moving = here[(optimiser.free[there] > 0) & (there < optimiser.trained)]
        sizes = features, d_sae, d_in, row, columns, b_enc, b_enc + d_sae, shape.size
        return cls(*sizes, here, there, len(here), moving, len(moving))


class Room(NamedTuple):
    """What four SAEs need while they are trained: arrays of four numbers at each place, if nothing else is said.

    Attributes:
        rows: the dictionary and the parameters, laid out as `Plan` says.
        gradient, mean, square: of every parameter: gradient, and Adam's moments.
        products: inner products of rows: lines D_0, D_1, ..., E_1, ..., a column for each row.
        coefs: by what each row (column) is multiplied in the gradient of another (line).
        weight: of every state; 0 for those that no batch holds.
        state: those that any does, one number each.
        marks: a bit for each state, while it is looked which.
        active: numbers of the decoder rows that an input meets in any lane: 0 and those of active latents.
        act: activation of every decoder row; of D_0 1.
        norm: of the decoder's rows.
        scalar: four numbers for the time being.
    """

    rows: np.ndarray
    gradient: np.ndarray
    mean: np.ndarray
    square: np.ndarray
    products: np.ndarray
    coefs: np.ndarray
    weight: np.ndarray
    state: np.ndarray
    marks: np.ndarray
    active: np.ndarray
    act: np.ndarray
    norm: np.ndarray
    scalar: np.ndarray


def make_room(plan: Plan, states: int, dtype: type) -> Room:
    """Room for four SAEs on inputs of so many states."""
    lines, latents = (1 + 2 * plan.d_sae) * plan.columns, plan.d_sae + 1

    def zeros(size: int) -> np.ndarray:
        return np.zeros(ABREAST * size, dtype)

    return Room(
        *(zeros(plan.size) for _ in range(4)), zeros(lines), zeros(lines), zeros(states), np.zeros(states, np.int64),
        np.zeros(-(-states // WORD), np.int64), np.zeros(latents, np.int64), zeros(latents), zeros(latents), zeros(1),
    )  # fmt: skip


@njit(**INSIDE)
def get(a, i):
    """The four numbers at place i."""
    return load_four(a, ABREAST * i)


@njit(**INSIDE)
def put(a, i, lanes):
    """Four numbers to place i."""
    store(a, ABREAST * i, lanes)


@njit(**INSIDE)
def add(a, i, lanes):
    """Four numbers more at place i."""
    store(a, ABREAST * i, load_four(a, ABREAST * i) + lanes)


@njit(**INNER)
def multiply(plan, room, row, line, n):
    """Equation (1): the inner products of a row with the first n rows, into a line of the table."""
    rows, size = room.rows, plan.row
    for c in range(0, n, BLOCK):
        s0 = splat_four(rows, 0.0)
        s1, s2, s3 = s0, s0, s0
        for i in range(plan.d_in):
            x, place = get(rows, row * size + i), c * size + i
            s0 = s0 + x * get(rows, place)
            s1 = s1 + x * get(rows, place + size)
            s2 = s2 + x * get(rows, place + 2 * size)
            s3 = s3 + x * get(rows, place + 3 * size)
        place = line * plan.columns + c
        put(room.products, place, s0)
        put(room.products, place + 1, s1)
        put(room.products, place + 2, s2)
        put(room.products, place + 3, s3)


@njit(**INNER)
def activate(plan, room, inputs, state):
    """Equation (2) of one input: lists the decoder rows that it meets in any lane; returns how many."""
    rows = room.rows
    begin, end, n = inputs.start[state], inputs.start[state + 1], 1
    for k in range(plan.d_sae):
        line = (1 + plan.d_sae + k) * plan.columns
        pre = get(rows, plan.b_enc + k) - get(room.products, line + plan.features)
        for i in range(begin, end):
            pre = pre + splat_four(rows, inputs.value[i]) * get(room.products, line + inputs.feature[i])
        pre = keep(pre, get(room.weight, state))  # a lane whose batch holds no such input is at rest
        put(room.act, 1 + k, keep(pre, pre))
        if any_above(pre):
            room.active[n] = 1 + k
            n += 1
    return n


@njit(**INNER)
def slope_of(plan, room, loss, reach, number, active, weight, rest):
    """Equation (3): d loss / d pre of an active latent of one input, from what latents up to it leave, times D_j."""
    rows, j, act = room.act, room.active[number], get(room.act, room.active[number])
    toward = splat_four(rows, reach[j]) * rest
    for other in range(number + 1, active):
        i = room.active[other]
        later = splat_four(rows, reach[i]) * get(room.act, i)
        toward = toward - later * get(room.products, i * plan.columns + plan.features + j)
    penalty = splat_four(rows, loss.l1 * reach[j]) * get(room.norm, j)
    return keep(weight * (penalty - splat_four(rows, 2.0) * toward), act)


@njit(**INNER)
def add_input(plan, room, loss, inputs, state, active):
    """What one input adds to the coefficients of equation (4)."""
    rows, columns, features, d_sae = room.rows, plan.columns, plan.features, plan.d_sae
    reach, reach_decoder = at(loss.reach, state * loss.stride), at(loss.reach_decoder, state * loss.stride)
    begin, end, weight = inputs.start[state], inputs.start[state + 1], get(room.weight, state)
    for number in range(active):
        j, rest = room.active[number], splat_four(rows, 0.0)
        pull, line = splat_four(rows, -2.0 * reach_decoder[j]) * weight * get(room.act, j), j * columns
        for i in range(begin, end):
            place, value = line + inputs.feature[i], splat_four(rows, inputs.value[i])
            rest = rest + value * get(room.products, place)
            add(room.coefs, place, value * pull)
        for other in range(number + 1):
            i = room.active[other]
            place, value = line + features + i, get(room.act, i)
            rest = rest - value * get(room.products, place)
            put(room.coefs, place, get(room.coefs, place) - value * pull)
        if j == 0:
            continue
        slope = slope_of(plan, room, loss, reach, number, active, weight, rest)
        line = (d_sae + j) * columns
        for i in range(begin, end):
            add(room.coefs, line + inputs.feature[i], splat_four(rows, inputs.value[i]) * slope)
        put(room.coefs, line + features, get(room.coefs, line + features) - slope)
        if loss.two:
            slope = slope_of(plan, room, loss, reach_decoder, number, active, weight, rest)
        place = features + d_sae + j
        put(room.coefs, place, get(room.coefs, place) - slope)


@njit(**INNER)
def measure(plan, room, loss, inputs, state):
    """The loss on one input, as the squares that `_kernel` sums, and its ||x||^2; both times its weight."""
    rows, size, features, d_sae = room.rows, plan.row, plan.features, plan.d_sae
    reach, zero = at(loss.reach, state * loss.stride), splat_four(room.rows, 0.0)
    squares, power = zero, zero
    for i in range(plan.d_in):
        x = zero
        for f in range(inputs.start[state], inputs.start[state + 1]):
            x = x + splat_four(rows, inputs.value[f]) * get(rows, inputs.feature[f] * size + i)
        power, rest = power + x * x, x
        for j in range(1 + d_sae):  # all, since which are active in some lane depends on who is there
            rest = rest - get(room.act, j) * get(rows, (features + j) * size + i)
            alone = reach[j] - (reach[j + 1] if j < d_sae else 0.0)
            squares = squares + splat_four(rows, alone) * rest * rest
    for j in range(1, 1 + d_sae):
        squares = squares + splat_four(rows, loss.l1 * reach[j]) * get(room.act, j) * get(room.norm, j)
    weight = get(room.weight, state)
    return keep(weight * squares, weight), keep(weight * power, weight)


@njit(**INNER)
def combine(plan, room, line, n):
    """Equation (4): the first n rows times a line of coefficients, into the gradient of a row."""
    rows, size = room.rows, plan.row
    for i in range(0, size, BLOCK):
        s0 = splat_four(rows, 0.0)
        s1, s2, s3 = s0, s0, s0
        for c in range(n):
            factor, place = get(room.coefs, line * plan.columns + c), c * size + i
            s0 = s0 + factor * get(rows, place)
            s1 = s1 + factor * get(rows, place + 1)
            s2 = s2 + factor * get(rows, place + 2)
            s3 = s3 + factor * get(rows, place + 3)
        place = (plan.features + line) * size + i
        put(room.gradient, place, s0)
        put(room.gradient, place + 1, s1)
        put(room.gradient, place + 2, s2)
        put(room.gradient, place + 3, s3)


@njit(**INNER)
def gradient(plan, room, loss, inputs, n, want):
    """The gradient on n states, left in `room`; returns the loss and E||x||^2, if those are wanted."""
    rows, columns, features, d_sae = room.rows, plan.columns, plan.features, plan.d_sae
    zero, one = splat_four(rows, 0.0), splat_four(rows, 1.0)
    found, power = zero, zero
    for line in range(1, 1 + 2 * d_sae):
        multiply(plan, room, features + line, line, features + (1 + line if line <= d_sae else 1))
    for j in range(1, 1 + d_sae):
        if loss.l1 > 0.0:
            put(room.norm, j, root(get(room.products, j * columns + features + j)))
    for i in range((1 + 2 * d_sae) * columns):
        put(room.coefs, i, zero)
    put(room.act, 0, one)
    for i in range(n):
        state = room.state[i]
        active = activate(plan, room, inputs, state)
        add_input(plan, room, loss, inputs, state, active)
        if want:
            squares, size = measure(plan, room, loss, inputs, state)
            found, power = found + squares, power + size
    for j in range(1, 1 + d_sae):
        line = j * columns + features
        for i in range(j):
            put(room.coefs, i * columns + features + j, get(room.coefs, line + i))
        if loss.l1 > 0.0:  # by D_0 stands twice the sum of w u a; a row of zeros has no direction, and is not divided
            norm = get(room.norm, j)
            norm = norm + (one - keep(one, norm))
            add(room.coefs, line + j, splat_four(rows, 0.5 * loss.l1) * get(room.coefs, line) / norm)
        put(room.gradient, plan.b_enc + j - 1, zero - get(room.coefs, (d_sae + j) * columns + features))
    for line in range(0 if loss.decoder_bias else 1, 1 + 2 * d_sae):
        combine(plan, room, line, features + 1 + (2 * d_sae if line == 0 else d_sae if line <= d_sae else 0))
    return found, power


@njit(**INNER)
def length(plan, room):
    """The length of the gradient."""
    squares = splat_four(room.gradient, 0.0)
    for m in range(plan.moves):
        g = get(room.gradient, plan.moving[m])
        squares = squares + g * g
    return root(squares)


@njit(**INNER)
def move(plan, room, optimiser, step):
    """One update."""
    theta, moving = room.rows, plan.moving
    if optimiser.clip < np.inf:
        put(room.scalar, 0, length(plan, room))
        for lane in range(ABREAST):
            room.scalar[lane] = min(1.0, optimiser.clip / (room.scalar[lane] + 1e-6))
        shorter = get(room.scalar, 0)
        for m in range(plan.moves):
            put(room.gradient, moving[m], get(room.gradient, moving[m]) * shorter)
    rate = splat_four(theta, optimiser.rates[step])
    if not optimiser.adam:
        for m in range(plan.moves):
            put(theta, moving[m], get(theta, moving[m]) - rate * get(room.gradient, moving[m]))
        return
    beta1, rest1 = splat_four(theta, optimiser.beta1), splat_four(theta, 1.0 - optimiser.beta1)
    beta2, rest2 = splat_four(theta, optimiser.beta2), splat_four(theta, 1.0 - optimiser.beta2)
    scale, eps = splat_four(theta, optimiser.scales[step]), splat_four(theta, optimiser.eps)
    for m in range(plan.moves):
        i = moving[m]
        g = get(room.gradient, i)
        mean = beta1 * get(room.mean, i) + rest1 * g
        square = beta2 * get(room.square, i) + rest2 * (g * g)
        put(room.mean, i, mean)
        put(room.square, i, square)
        put(theta, i, get(theta, i) - rate * mean / (root(square) * scale + eps))


@njit(**INNER)
def draw_all(room, inputs, batch, size, streams, lanes):
    """A batch for each SAE: writes the states that any has, in order, and their weights; returns their number."""
    for lane in range(lanes):
        for i in range(draw(batch, inputs, size, at(streams, lane))):
            state = batch.state[i]
            room.weight[ABREAST * state + lane] = batch.weight[i]
            room.marks[state // WORD] |= 1 << (state % WORD)
    n = 0
    for word in range(-(-inputs.n_states // WORD)):
        marks = room.marks[word]
        room.marks[word] = 0
        while marks != 0:
            room.state[n] = WORD * word + lowest_bit(marks)
            n += 1
            marks &= marks - 1
    return n


@njit(**INNER)
def take_all(room, inputs):
    """All states with their probabilities; returns their number."""
    for state in range(inputs.n_states):
        room.state[state] = state
        put(room.weight, state, splat_four(room.weight, inputs.probs[state]))
    return inputs.n_states


@njit(**INNER)
def forget(room, n):
    """A batch's weights are 0 again."""
    for i in range(n):
        put(room.weight, room.state[i], splat_four(room.weight, 0.0))


@njit(**INNER)
def take_parameters(plan, room, many, first, lanes):
    """Parameters and dictionaries of the SAEs from `first` on, into their lanes; the last one fills those left."""
    for lane in range(ABREAST):
        number = first + min(lane, lanes - 1)
        for i in range(plan.parameters):
            room.rows[ABREAST * plan.here[i] + lane] = many.theta[number * plan.total + plan.there[i]]
        begin = number % many.dictionaries * plan.features * plan.d_in
        for f in range(plan.features):
            for i in range(plan.d_in):
                room.rows[ABREAST * (f * plan.row + i) + lane] = many.dictionary[begin + f * plan.d_in + i]
    for i in range(plan.size):
        put(room.mean, i, splat_four(room.mean, 0.0))
        put(room.square, i, splat_four(room.square, 0.0))


@njit(**INNER)
def give_parameters(plan, room, lane, theta):
    """Those of one SAE, in the layout of `_kernel.Shape`."""
    for i in range(plan.parameters):
        theta[plan.there[i]] = room.rows[ABREAST * plan.here[i] + lane]


@njit(**OPTIONS)
def fit(many, first, last, plan, loss, inputs, batch, size, exact, optimiser, room, done):
    """Train the SAEs from number `first` on and before `last`, four at a time.

    Args:
        many: the SAEs, as `_kernel.Many`.
        first, last: which of them.
        plan, room: from `Plan.of` and `make_room`.
        loss, inputs, batch, size, exact, optimiser, done: as for `_kernel.fit`.
    """
    plan, many, loss, inputs, optimiser = bare(plan), bare(many), bare(loss), bare(inputs), bare(optimiser)
    batch, room = bare(batch), bare(room)
    for group in range(first, last, ABREAST):
        lanes, n = min(ABREAST, last - group), 0
        take_parameters(plan, room, many, group, lanes)
        record, snapshot = 0, 0
        if size == 0:
            n = take_all(room, inputs)
        for step in range(optimiser.steps + 1):  # in the last, nothing moves: the final loss
            end = step == optimiser.steps
            if size and not end:
                n = draw_all(room, inputs, batch, size, at(many.streams, group), lanes)
            elif size and exact:
                n = take_all(room, inputs)
            recorded = 0 if end else many.recorded[step]
            found, power = gradient(plan, room, loss, inputs, n, end or recorded & 1 > 0)
            if end:
                break
            if recorded & 1:
                put(room.scalar, 0, found)
                for lane in range(lanes):
                    many.history[(group + lane) * many.records + record] = room.scalar[lane]
                record += 1
            move(plan, room, optimiser, step)
            if recorded & 2:
                for lane in range(lanes):
                    begin = ((group + lane) * many.snapshots + snapshot) * plan.total
                    give_parameters(plan, room, lane, at(many.path, begin))
                snapshot += 1
            if size and (exact or step + 1 < optimiser.steps):  # a tree's last batch serves the final loss
                forget(room, n)
            if step % 64 == 63:
                done[0] += 64 * lanes
                if done[1]:
                    return
        done[0] += optimiser.steps % 64 * lanes
        long = length(plan, room)
        for lane in range(lanes):
            put(room.scalar, 0, found)
            many.final[3 * (group + lane)] = room.scalar[lane]
            put(room.scalar, 0, power)
            size_of_inputs = max(float(room.scalar[lane]), 1e-300)
            put(room.scalar, 0, long)
            many.final[3 * (group + lane) + 1] = room.scalar[lane] / size_of_inputs
            give_parameters(plan, room, lane, at(many.theta, (group + lane) * plan.total))
        forget(room, n)
