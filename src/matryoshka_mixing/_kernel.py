"""The training step, compiled: one SAE, many steps, everything it needs in the cache.

With the active latents j of an input x, their activations a_j, and u_j the weight of the prefixes that hold latent j
(u_0 that of all prefixes, which all hold b_dec):

    (1) pre = (x - b_dec) @ W_enc + b_enc,  a = relu(pre), of which TopK or BatchTopK keep the largest
    (2) r_j = x - b_dec - sum of a_i W_dec_i over the active i < j: what the latents before j leave
    (3) loss = sum over prefixes of w_m ||x - x_m||^2 = sum over j of (u_j - u_n) ||r_n||^2, n the active one after j
    (4) R_j = sum over prefixes that hold j of w_m (x - x_m) = R_n + (u_j - u_n) r_n
    (5) d loss / d a_j = -2 R_j . W_dec_j + l1 u_j ||W_dec_j||
    (6) d loss / d W_dec_j = -2 a_j R_j + l1 u_j a_j W_dec_j / ||W_dec_j||
        d loss / d b_dec = -2 R_0 - W_enc (d loss / d pre)
    (7) d loss / d W_enc = (x - b_dec) (d loss / d pre)',  d loss / d b_enc = d loss / d pre

So all prefixes together cost what one does, and an input costs its active features and latents. BatchTopK keeps the
entry on the edge of its budget on a share s of a row's inputs: a_j is then the mean s a, and its own square has the
mean s a^2 instead of s^2 a^2. Where the encoder and the decoder have different prefix weights, R is kept twice.

Everything is done in a fixed order (see `_lanes`): the same seed gives the same bits on every CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from matryoshka_mixing._batches import draw, draw_prefixes
from matryoshka_mixing._lanes import (
    HALF,
    LANES,
    at,
    bare,
    load,
    load_halves,
    padded,
    root,
    splat,
    store,
    store_halves,
    total,
)
from matryoshka_mixing._random import INNER, INSIDE, OPTIONS

RELU, TOPK, BATCHTOPK = 0, 1, 2
EDGE = 1e-6
"""A share of a row below this counts as none, and above one less this as all (as in `sae`)."""
THRESHOLD_MEMORY = 0.99
"""What the running mean of BatchTopK's threshold keeps at each step (SAELens's default)."""


class Shape(NamedTuple):
    """Sizes, and where the parameters lie in their flat array: rows of W_enc^T and W_dec, then b_dec and b_enc.

    Attributes:
        d_in, d_sae, features: numbers of dimensions, latents and features (0 features: inputs are rows of numbers).
        row: numbers in a row of d_in, padded.
        line: numbers in a line of d_sae, padded.
        width: numbers in a row of features, padded.
        decoder, b_dec, b_enc, size: where these parts begin, and the length of all.
    """

    d_in: int
    d_sae: int
    features: int
    row: int
    line: int
    width: int
    decoder: int
    b_dec: int
    b_enc: int
    size: int

    @classmethod
    def of(cls, d_in: int, d_sae: int, features: int) -> Shape:
        """The shape of an SAE on inputs with so many features (0: rows of numbers)."""
        row, line = padded(d_in), padded(d_sae)
        decoder, b_dec = d_sae * row, 2 * d_sae * row
        b_enc = b_dec + row
        return cls(d_in, d_sae, features, row, line, padded(features), decoder, b_dec, b_enc, b_enc + line)


class Loss(NamedTuple):
    """What is minimised.

    Attributes:
        reach, reach_decoder: u of the module's docstring for the gradients of encoder and decoder, flat: one line of
            d_sae + 1 numbers, or one for each state.
        two: whether these differ.
        stride: d_sae + 1 where each state has a line, else 0.
        l1: weight of the penalty.
        activation: `RELU`, `TOPK` or `BATCHTOPK`.
        k: how many activations of an input are kept, on average.
        encoder_bias, decoder_bias: whether they are trained.
        widths, chances, prefixes, drawn: where `drawn` shorter prefixes are drawn at each step, the widths of all, the
            chance of each at the first draw, and their number.
    """

    reach: np.ndarray
    reach_decoder: np.ndarray
    two: bool
    stride: int
    l1: float
    activation: int
    k: float
    encoder_bias: bool
    decoder_bias: bool
    widths: np.ndarray
    chances: np.ndarray
    prefixes: int
    drawn: int


class Optimiser(NamedTuple):
    """How parameters move: Adam (Kingma and Ba 2015), or plain gradient descent.

    Attributes:
        rates: the learning rate of each step; Adam's divided by 1 - beta1^(step + 1).
        scales: of each step 1 / sqrt(1 - beta2^(step + 1)); read by Adam alone.
        adam: whether it is Adam.
        beta1, beta2, eps: Adam's.
        clip: the longest gradient; longer ones are shortened to it.
        free: 1 for each parameter that may move, 0 for those that are held.
        any_held: whether any is held; else `free` is not read.
        steps: their number.
        trained: parameters from here on never move.
        blocks: where four parameters begin of which any is free, for Adam: a row of 20 numbers, padded to 24, has five
            such blocks and no sixth. The last comes twice where their number would be odd.
        n_blocks: their number.
    """

    rates: np.ndarray
    scales: np.ndarray
    adam: bool
    beta1: float
    beta2: float
    eps: float
    clip: float
    free: np.ndarray
    any_held: bool
    steps: int
    trained: int
    blocks: np.ndarray
    n_blocks: int

    @classmethod
    def of(cls, rates, adam, beta1, beta2, eps, clip, free, any_held, trained) -> Optimiser:
        """What follows from these is worked out."""
        blocks = HALF * np.flatnonzero(free[:trained].reshape(-1, HALF).any(1))
        blocks = np.append(blocks, blocks[len(blocks) - len(blocks) % 2 :])
        return cls(
            rates, rates, adam, beta1, beta2, eps, clip, free, any_held, len(rates), trained, blocks, len(blocks)
        ).at(rates)

    def at(self, rates: np.ndarray) -> Optimiser:
        """The same at other learning rates, one for each step; what corrects Adam's moments is worked out here."""
        if not self.adam:
            return self._replace(rates=rates, scales=np.ones(0), steps=len(rates))
        # Powers as products, one after the other: a power is rounded differently from one system to another.
        left1, left2 = (1 - np.cumprod(np.full(len(rates), beta)) for beta in (self.beta1, self.beta2))
        return self._replace(rates=rates / left1, scales=1 / np.sqrt(left2), steps=len(rates))


class Room(NamedTuple):
    """What one SAE needs while it is trained; made once and used for one SAE after the other.

    Attributes:
        gradient, mean, square: of every parameter: gradient, and Adam's moments.
        dictionary, across: the features' directions, one row each, and the same transposed.
        seen: W_enc in terms of the features (features x line), or transposed (d_in x line).
        base: b_enc - b_dec @ W_enc.
        pre: pre-activations of one input.
        norms: of the decoder's rows.
        begin: where each input's active latents begin in the next arrays.
        latent, act, share: the active latents of all inputs, their activations, and the share that is kept.
        order: of the entries, for BatchTopK.
        jump, jump_decoder, mean_act, pull, place: of each active latent of an input: u_j - u_next, twice, s a, -2 s a
            times the input's weight, and where its decoder row begins.
        toward: R . W_dec of each active latent of an input, in lanes, twice.
        by_feature: d loss / d pre, by features (features x line).
        slope, slope_decoder: sum of d loss / d pre over the inputs, for the encoder and for b_dec.
        own: by what each decoder row is multiplied in its gradient.
        left: for the draw of prefixes.
        bound: running mean of BatchTopK's threshold, then the threshold of the last batch.
    """

    gradient: np.ndarray
    mean: np.ndarray
    square: np.ndarray
    dictionary: np.ndarray
    across: np.ndarray
    seen: np.ndarray
    base: np.ndarray
    pre: np.ndarray
    norms: np.ndarray
    begin: np.ndarray
    latent: np.ndarray
    act: np.ndarray
    share: np.ndarray
    order: np.ndarray
    jump: np.ndarray
    jump_decoder: np.ndarray
    mean_act: np.ndarray
    pull: np.ndarray
    place: np.ndarray
    toward: np.ndarray
    by_feature: np.ndarray
    slope: np.ndarray
    slope_decoder: np.ndarray
    own: np.ndarray
    left: np.ndarray
    bound: np.ndarray


def make_room(shape: Shape, inputs: int, prefixes: int, dtype: type) -> Room:
    """Room for batches of at most so many distinct inputs."""
    seen, entries = (shape.features or shape.d_in) * shape.line, inputs * shape.d_sae + 1

    def zeros(*size: int) -> np.ndarray:
        return np.zeros(size, dtype)

    return Room(
        *(zeros(shape.size) for _ in range(3)),
        dictionary=zeros(shape.features * shape.row),
        across=zeros(shape.d_in * shape.width),
        seen=zeros(seen),
        base=zeros(shape.line),
        pre=zeros(shape.line),
        norms=zeros(shape.d_sae),
        begin=np.zeros(inputs + 1, np.int64),
        latent=np.zeros(entries, np.int64),
        act=zeros(entries),
        share=np.ones(entries),
        order=np.zeros(entries, np.int64),
        jump=np.zeros(shape.d_sae),
        jump_decoder=np.zeros(shape.d_sae),
        mean_act=np.zeros(shape.d_sae),
        pull=np.zeros(shape.d_sae),
        place=np.zeros(shape.d_sae, np.int64),
        toward=zeros(2 * shape.d_sae * LANES),
        by_feature=zeros(shape.features * shape.line),
        slope=zeros(shape.line),
        slope_decoder=zeros(shape.line),
        own=np.zeros(shape.d_sae),
        left=np.zeros(prefixes),
        bound=np.zeros(2),
    )


@njit(**INSIDE)
def dot(a, i, b, j, n):
    """The inner product of a[i:i+n] and b[j:j+n]; n is a multiple of `LANES`."""
    sums = load(a, i) * load(b, j)
    for c in range(LANES, n, LANES):
        sums = sums + load(a, i + c) * load(b, j + c)
    return total(sums)


@njit(**INSIDE)
def add(a, i, scale, b, j, n):
    """a[i:i+n] += scale * b[j:j+n]."""
    factor = splat(a, scale)
    for c in range(0, n, LANES):
        store(a, i + c, load(a, i + c) + factor * load(b, j + c))


@njit(**INSIDE)
def fill(a, n):
    """a[:n] = 0; n is a multiple of `LANES`."""
    for c in range(0, n, LANES):
        store(a, c, splat(a, 0.0))


@njit(**INNER)
def project(theta, shape, room, dense):
    """Equation (1), what all inputs share: the encoder as the features see it, and its constant part."""
    width = shape.width
    for k in range(shape.d_sae):
        row = k * shape.row
        if dense:
            for i in range(shape.d_in):
                room.seen[i * shape.line + k] = theta[row + i]
        for f in range(0, width, LANES):
            even, odd = splat(theta, 0.0), splat(theta, 0.0)  # two sums at once, as each has to wait for itself
            for i in range(0, shape.d_in - 1, 2):
                even = even + splat(theta, theta[row + i]) * load(room.across, i * width + f)
                odd = odd + splat(theta, theta[row + i + 1]) * load(room.across, (i + 1) * width + f)
            if shape.d_in % 2:
                i = shape.d_in - 1
                even = even + splat(theta, theta[row + i]) * load(room.across, i * width + f)
            store(room.toward, 0, even + odd)
            for lane in range(min(LANES, shape.features - f)):
                room.seen[(f + lane) * shape.line + k] = room.toward[lane]
        room.base[k] = theta[shape.b_enc + k] - dot(theta, row, theta, shape.b_dec, shape.row)


@njit(**INNER)
def activate(theta, shape, loss, inputs, batch, n, room, dense):
    """Equation (1) for every input of a batch."""
    held = 0
    for row in range(n):
        state = batch.state[row]
        room.begin[row] = held
        for c in range(0, shape.line, LANES):
            sums = load(room.base, c)
            if dense:
                for i in range(shape.d_in):
                    x = inputs.rows[state * shape.row + i]
                    sums = sums + splat(theta, x) * load(room.seen, i * shape.line + c)
            else:
                for i in range(batch.start[state], batch.start[state + 1]):
                    seen = load(room.seen, batch.feature[i] * shape.line + c)
                    sums = sums + splat(theta, batch.value[i]) * seen
            store(room.pre, c, sums)
        for k in range(shape.d_sae):
            room.latent[held], room.act[held] = k, room.pre[k]
            held += room.pre[k] > 0.0
        if loss.activation == TOPK:
            held = keep_largest(room, room.begin[row], held, int(loss.k))
    room.begin[n] = held
    if loss.activation == BATCHTOPK:
        keep_largest_of_batch(room, batch, n, loss.k)


@njit(**INSIDE)
def keep_largest(room, low, high, k):
    """TopK: of the entries from low to high keep the k with the largest a ||W_dec||, of equal ones the first."""
    for _ in range(high - low - k):
        worst = low
        for i in range(low, high):
            if room.act[i] * room.norms[room.latent[i]] <= room.act[worst] * room.norms[room.latent[worst]]:
                worst = i
        for i in range(worst, high - 1):
            room.latent[i], room.act[i] = room.latent[i + 1], room.act[i + 1]
        high -= 1
    return high


@njit(**INSIDE)
def before(room, i, j):
    """Whether entry i comes before entry j: by a ||W_dec||, of equal ones the first."""
    a, b = room.act[i] * room.norms[room.latent[i]], room.act[j] * room.norms[room.latent[j]]
    return a > b or (a == b and i < j)


@njit(**OPTIONS)
def keep_largest_of_batch(room, batch, n, k):
    """BatchTopK: keep the largest entries until their weights add up to k, the one on the edge in part.

    Quickselect (Hoare 1961) by weight. The entries' weights come from `batch`; `room.share` is what is kept of each.
    The threshold is the middle between the smallest that is kept and the largest that is not, 0 where none is left.
    """
    high = room.begin[n]
    for row in range(n):
        for i in range(room.begin[row], room.begin[row + 1]):
            room.order[i] = i
            room.share[i] = batch.weight[row]  # for now
    low, budget, smallest, largest = 0, k, -1, -1
    while low < high:
        first, middle, last = room.order[low], room.order[(low + high) // 2], room.order[high - 1]
        pivot = first  # unless another is the median of the three
        if before(room, middle, first) == before(room, first, last):
            pivot = first
        elif before(room, first, middle) == before(room, middle, last):
            pivot = middle
        else:
            pivot = last
        edge, weight = low, 0.0
        place = low
        for i in range(low, high):
            entry = room.order[i]
            if entry == pivot:
                place = i
            elif before(room, entry, pivot):
                if room.order[edge] == pivot:
                    place = i
                room.order[i], room.order[edge] = room.order[edge], entry
                weight += room.share[entry]
                edge += 1
        if weight >= budget:
            for i in range(edge, high):
                room.share[room.order[i]] = 0.0
                if largest < 0 or before(room, room.order[i], largest):
                    largest = room.order[i]
            high = edge
            continue
        budget -= weight
        for i in range(low, edge):
            room.share[room.order[i]] = 1.0
            if smallest < 0 or before(room, smallest, room.order[i]):
                smallest = room.order[i]
        room.order[place], room.order[edge] = room.order[edge], pivot
        share = min(max(budget / max(room.share[pivot], 1e-300), 0.0), 1.0)
        share = 1.0 if share > 1.0 - EDGE else 0.0 if share < EDGE else share
        budget -= room.share[pivot]
        room.share[pivot] = share
        if share > 0.0:
            smallest = pivot
        if budget <= 0.0:
            for i in range(edge + (share > 0.0), high):
                room.share[room.order[i]] = 0.0
                if largest < 0 or before(room, room.order[i], largest):
                    largest = room.order[i]
            break
        low = edge + 1
    bound = room.act[largest] * room.norms[room.latent[largest]] if largest >= 0 else 0.0
    if smallest >= 0:
        bound = (bound + room.act[smallest] * room.norms[room.latent[smallest]]) / 2.0
    room.bound[1] = bound


@njit(**INNER)
def gradient(theta, shape, loss, inputs, batch, n, room, want):
    """The gradient on the first n inputs of a batch, left in `room`; returns the loss.

    `want`: whether the loss is wanted; else what is returned means nothing.
    """
    dense, line, row_size = shape.features == 0, shape.line, shape.row
    if loss.l1 > 0.0 or loss.activation != RELU:
        for k in range(shape.d_sae):
            place = shape.decoder + k * row_size
            room.norms[k] = max(np.sqrt(dot(theta, place, theta, place, row_size)), 1e-30)
    project(theta, shape, room, dense)
    activate(theta, shape, loss, inputs, batch, n, room, dense)
    fill(room.gradient, shape.size)
    fill(room.by_feature, shape.features * line)
    fill(room.slope, line)
    fill(room.slope_decoder, line)
    for k in range(shape.d_sae):
        room.own[k] = 0.0
    value = every_input(theta, shape, loss, inputs, batch, n, room, want)
    for k in range(shape.d_sae):
        place = k * row_size
        if room.own[k] != 0.0:
            add(room.gradient, shape.decoder + place, room.own[k], theta, shape.decoder + place, row_size)  # (6)
        if not dense:  # (7)
            for c in range(0, row_size, LANES):
                sums = load(room.gradient, place + c)
                for f in range(shape.features):
                    factor = splat(theta, room.by_feature[f * line + k])
                    sums = sums + factor * load(room.dictionary, f * row_size + c)
                store(room.gradient, place + c, sums)
        if loss.decoder_bias:
            add(room.gradient, place, -room.slope[k], theta, shape.b_dec, row_size)  # (7)
            add(room.gradient, shape.b_dec, -room.slope_decoder[k], theta, place, row_size)  # (6)
        if loss.encoder_bias:
            room.gradient[shape.b_enc + k] = room.slope[k]
    return value


@njit(**INNER)
def every_input(theta, shape, loss, inputs, batch, n, room, want):
    """Equations (2) to (7) for the first n inputs of a batch, one after the other; returns the loss."""
    found = 0.0
    for row in range(n):
        state, weight, line, size = batch.state[row], batch.weight[row], shape.line, shape.row
        begin, end, dense = room.begin[row], room.begin[row + 1], shape.features == 0
        reach = state * loss.stride
        start, feature, value = batch.start, batch.feature, batch.value
        if begin == end and not (dense or loss.decoder_bias or start[state] < start[state + 1]):
            continue  # an empty input, met by nothing
        later, later_decoder, active = 0.0, 0.0, end - begin
        for j in range(active - 1, -1, -1):
            k, act = room.latent[begin + j], room.share[begin + j] * room.act[begin + j]
            u, u_decoder = loss.reach[reach + 1 + k], loss.reach_decoder[reach + 1 + k]
            room.mean_act[j], room.pull[j], room.place[j] = act, -2.0 * weight * act, shape.decoder + k * size
            room.jump[j], room.jump_decoder[j] = u - later, u_decoder - later_decoder
            later, later_decoder = u, u_decoder
        last, last_decoder = loss.reach[reach] - later, loss.reach_decoder[reach] - later_decoder
        squares = splat(theta, 0.0)
        for c in range(0, size, LANES):
            rest = splat(theta, 0.0) - load(theta, shape.b_dec + c)
            if dense:
                rest = rest + load(inputs.rows, state * size + c)
            else:
                for i in range(start[state], start[state + 1]):
                    rest = rest + splat(theta, value[i]) * load(room.dictionary, feature[i] * size + c)
            for j in range(active):  # (2)
                rest = rest - splat(theta, room.mean_act[j]) * load(theta, room.place[j] + c)
            held = splat(theta, 0.0)
            held_decoder = held
            for j in range(active - 1, -1, -1):
                place = room.place[j] + c
                decoder, part = load(theta, place), splat(theta, room.jump[j]) * rest
                if want:
                    squares = squares + part * rest  # (3)
                held = held + part  # (4)
                toward = held * decoder
                if c > 0:
                    toward = toward + load(room.toward, 2 * j * LANES)
                store(room.toward, 2 * j * LANES, toward)
                if loss.two:
                    held_decoder = held_decoder + splat(theta, room.jump_decoder[j]) * rest
                    toward = held_decoder * decoder
                    if c > 0:
                        toward = toward + load(room.toward, (2 * j + 1) * LANES)
                    store(room.toward, (2 * j + 1) * LANES, toward)
                else:
                    held_decoder = held
                store(
                    room.gradient, place, load(room.gradient, place) + splat(theta, room.pull[j]) * held_decoder
                )  # (6)
                rest = rest + splat(theta, room.mean_act[j]) * decoder
            if want:
                squares = squares + splat(theta, last) * rest * rest
            if loss.decoder_bias:
                held_decoder = held_decoder + splat(theta, last_decoder) * rest
                place = shape.b_dec + c
                store(
                    room.gradient, place, load(room.gradient, place) + splat(theta, -2.0 * weight) * held_decoder
                )  # (6)
        value_of_loss = float(total(squares))
        for j in range(active):
            i = begin + j
            k, act, share = room.latent[i], room.act[i], room.share[i]
            if share == 0.0:
                continue
            u, u_decoder = loss.reach[reach + 1 + k], loss.reach_decoder[reach + 1 + k]
            norm, edge = room.norms[k], act * (1.0 - share)
            slope = -2.0 * total(load(room.toward, 2 * j * LANES)) + loss.l1 * u * norm  # (5)
            slope += 2.0 * u * edge * norm * norm
            slope *= weight * share
            value_of_loss += u * (loss.l1 * share * act * norm + share * act * edge * norm * norm)
            room.slope[k] += slope
            if dense:
                add(room.gradient, k * size, slope, inputs.rows, state * size, size)  # (7)
            else:
                for f in range(start[state], start[state + 1]):
                    room.by_feature[feature[f] * line + k] += value[f] * slope
            if loss.two:
                slope = -2.0 * total(load(room.toward, (2 * j + 1) * LANES)) + loss.l1 * u_decoder * norm
                slope += 2.0 * u_decoder * edge * norm * norm
                slope *= weight * share
            room.slope_decoder[k] += slope
            if loss.l1 > 0.0:
                room.own[k] += weight * u_decoder * loss.l1 * share * act / norm  # (6)
            room.own[k] += 2.0 * weight * u_decoder * share * act * edge
        found += weight * value_of_loss
    return found


@njit(**INNER)
def move(theta, room, optimiser, step):
    """One update."""
    g = room.gradient
    if optimiser.any_held:
        for c in range(0, optimiser.trained, LANES):
            store(g, c, load(g, c) * load(optimiser.free, c))
    if optimiser.clip < np.inf:
        length = np.sqrt(dot(g, 0, g, 0, optimiser.trained))
        shorter = splat(theta, min(1.0, optimiser.clip / (length + 1e-6)))
        for c in range(0, optimiser.trained, LANES):
            store(g, c, load(g, c) * shorter)
    if not optimiser.adam:
        add(theta, 0, -optimiser.rates[step], g, 0, optimiser.trained)
        return
    beta1, rest1 = splat(theta, optimiser.beta1), splat(theta, 1.0 - optimiser.beta1)
    beta2, rest2 = splat(theta, optimiser.beta2), splat(theta, 1.0 - optimiser.beta2)
    rate, scale = splat(theta, optimiser.rates[step]), splat(theta, optimiser.scales[step])
    eps = splat(theta, optimiser.eps)
    for block in range(0, optimiser.n_blocks, 2):
        i, j = optimiser.blocks[block], optimiser.blocks[block + 1]
        now = load_halves(g, i, j)
        mean = beta1 * load_halves(room.mean, i, j) + rest1 * now
        square = beta2 * load_halves(room.square, i, j) + rest2 * (now * now)
        store_halves(room.mean, i, j, mean)
        store_halves(room.square, i, j, square)
        store_halves(theta, i, j, load_halves(theta, i, j) - rate * mean / (root(square) * scale + eps))


@njit(**INNER)
def place_dictionary(dictionary, shape, room):
    """The features' directions, as rows and transposed."""
    for f in range(shape.features):
        for i in range(shape.d_in):
            direction = dictionary[f * shape.d_in + i]
            room.dictionary[f * shape.row + i] = direction
            room.across[i * shape.width + f] = direction


@njit(**INNER)
def power(shape, inputs, batch, n, room):
    """E||x||^2 of a batch."""
    found = 0.0
    for row in range(n):
        state, squares = batch.state[row], splat(room.gradient, 0.0)
        for c in range(0, shape.row, LANES):
            x = splat(room.gradient, 0.0)
            if shape.features == 0:
                x = load(inputs.rows, state * shape.row + c)
            for i in range(batch.start[state], batch.start[state + 1]):
                direction = load(room.dictionary, batch.feature[i] * shape.row + c)
                x = x + splat(room.gradient, batch.value[i]) * direction
            squares = squares + x * x
        found += batch.weight[row] * total(squares)
    return found


class Many(NamedTuple):
    """SAEs that share a setting: their parameters and random streams, and what is kept of their training.

    Attributes:
        theta: the parameters of each, laid out as `Shape` says; trained in place.
        dictionary: the features' directions (features x d_in) of each, or of all.
        dictionaries: how many there are.
        streams: the random stream of each.
        recorded: of each step whether the loss is kept (1), the parameters after it (2), or both (3).
        history: gets the losses of each.
        path: gets those parameters of each.
        records, snapshots: how many losses and parameters of each are kept.
        final: gets of each the final loss, gradient norm / E||x||^2, and BatchTopK's threshold.
    """

    theta: np.ndarray
    dictionary: np.ndarray
    dictionaries: int
    streams: np.ndarray
    recorded: np.ndarray
    history: np.ndarray
    path: np.ndarray
    records: int
    snapshots: int
    final: np.ndarray


@njit(**OPTIONS)
def fit(many, first, last, shape, loss, inputs, batch, whole, size, exact, optimiser, room, done):
    """Train the SAEs from number `first` on and before `last`, one after the other.

    Args:
        many: the SAEs.
        first, last: which of them.
        shape, loss, inputs, optimiser: what is trained, on what, and how.
        batch: room for a batch of `size` inputs (0: all states), from `_batches.room`.
        whole: all states with their probabilities, for the final loss where it is `exact`; else `batch` itself.
        size, exact: see there.
        room: from `make_room`.
        done: counts steps; a second entry above 0 asks to stop.
    """
    many, loss, inputs, optimiser = bare(many), bare(loss), bare(inputs), bare(optimiser)
    batch, whole, room = bare(batch), bare(whole), bare(room)
    for number in range(first, last):
        theta, stream = at(many.theta, number * shape.size), at(many.streams, number)
        record, snapshot, n = number * many.records, number * many.snapshots * shape.size, 0
        dictionary = number % many.dictionaries * shape.features * shape.d_in
        place_dictionary(at(many.dictionary, dictionary), shape, room)
        fill(room.mean, shape.size)
        fill(room.square, shape.size)
        for step in range(optimiser.steps + 1):  # in the last, nothing moves: the final loss
            end = step == optimiser.steps
            if not end:
                n = draw(batch, inputs, size, stream)
                if loss.drawn:
                    draw_prefixes(loss, shape.d_sae, stream, room.left)
            elif exact:
                n = inputs.n_states
            used = whole if end and exact else batch
            want = end or many.recorded[step] & 1 > 0
            value = gradient(theta, shape, loss, inputs, used, n, room, want)
            if end:
                break
            if want:
                many.history[record] = value
                record += 1
            if loss.activation == BATCHTOPK:
                bound = room.bound[0] if step else room.bound[1]
                room.bound[0] = THRESHOLD_MEMORY * bound + (1.0 - THRESHOLD_MEMORY) * room.bound[1]
            move(theta, room, optimiser, step)
            if many.recorded[step] & 2:
                for i in range(shape.size):
                    many.path[snapshot + i] = theta[i]
                snapshot += shape.size
            if step % 64 == 63:
                done[0] += 64
                if done[1]:
                    return
        done[0] += optimiser.steps % 64
        many.final[3 * number] = value
        if optimiser.any_held:
            for i in range(optimiser.trained):
                room.gradient[i] *= optimiser.free[i]
        size_of_inputs = max(power(shape, inputs, used, n, room), 1e-300)
        many.final[3 * number + 1] = np.sqrt(dot(room.gradient, 0, room.gradient, 0, shape.size)) / size_of_inputs
        many.final[3 * number + 2] = room.bound[0] if size else room.bound[1]
