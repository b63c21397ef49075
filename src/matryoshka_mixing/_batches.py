"""Where batches come from, in compiled code: states with their probabilities, draws from them, or from a tree's law.

A batch is a list of distinct inputs with weights that sum to 1, each a short list of features and their activations (or
a row of numbers, where there is no dictionary). A seed draws the same in any company, on any CPU (see `_random`).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from matryoshka_mixing._random import INSIDE, OPTIONS, normal, uniform
from matryoshka_mixing.features import FeatureTree, States

FAINT = 1e-18
"""A number of inputs that is so much less likely than the likeliest one never comes: random numbers have 53 bits."""
COLUMNS = 7
"""Numbers that describe a node of a tree; see `tree_nodes`."""


class Inputs(NamedTuple):
    """The inputs of a setting, as flat arrays.

    Attributes:
        start: where each state's features begin, one entry more than states.
        feature, value: the active features of all states, one state after the other, and their activations.
        rows: the states as rows of numbers (states x padded d_in), where there is no dictionary; else empty.
        probs: probability of each state.
        counted: the likeliest states, in order, of which is drawn how often a batch holds them.
        table, least: for each of them, and 1, 2, 4, ... inputs that are in none before it: where the alias table of how
            many of these are in it begins, and the number that its first entry stands for.
        count_cut, count_other: those tables, as the next two.
        cut, other: alias table (Walker 1977; Vose 1991) of the rest, which are drawn one by one: a state keeps a draw
            below its cut, else the other has it.
        n_counted, levels: how many states are counted, and how many tables each of them has.
        alone: the state that has the rest, where all others are counted; else -1.
        nodes: of a tree whose states are not listed, in order: what `tree_nodes` says, flat; else empty.
        n_states, n_nodes: how many there are.
    """

    start: np.ndarray
    feature: np.ndarray
    value: np.ndarray
    rows: np.ndarray
    probs: np.ndarray
    counted: np.ndarray
    table: np.ndarray
    least: np.ndarray
    count_cut: np.ndarray
    count_other: np.ndarray
    cut: np.ndarray
    other: np.ndarray
    n_counted: int
    levels: int
    alone: int
    nodes: np.ndarray
    n_states: int
    n_nodes: int


class Batch(NamedTuple):
    """Room for one batch.

    Attributes:
        state: number of each distinct input.
        weight: its share of the batch.
        count: how often each state was drawn so far; zeros between batches.
        start, feature, value: those of `Inputs`, or of the inputs drawn from a tree.
        shared: one uniform number for each node of a tree, which its exclusive children share.
    """

    state: np.ndarray
    weight: np.ndarray
    count: np.ndarray
    start: np.ndarray
    feature: np.ndarray
    value: np.ndarray
    shared: np.ndarray


def state_inputs(states: States, dense: bool, width: int, dtype: type, size: int) -> Inputs:
    """The arrays of listed states, for batches of `size` (0: all states).

    `dense` where the states are the inputs themselves, then padded to `width` numbers.
    """
    acts, probs = states.acts.double().numpy(), states.probs.double().numpy()
    rows = np.zeros(0, dtype)
    if dense:
        padded = np.zeros((len(acts), width), dtype)
        padded[:, : acts.shape[1]] = acts
        rows, acts = padded.ravel(), np.zeros((len(acts), 0))
    state, feature = map(np.ascontiguousarray, np.nonzero(acts))
    start = np.concatenate([[0], np.bincount(state, minlength=len(acts)).cumsum()])
    likely = np.argsort(-probs, kind="stable")
    # What a count costs grows with the batch, as its table outgrows the cache; from about here on it costs less.
    counted = likely[4 * size * probs[likely] >= size**0.5][: len(probs) - 1] if size else likely[:0]
    alone = likely[-1] if len(counted) == len(probs) - 1 else -1
    rest = probs.copy()
    rest[counted] = 0.0
    cut, other, levels = np.zeros(len(probs)), np.zeros(len(probs), np.int64), size.bit_length()
    alias_table(rest if rest.any() else probs, cut, other)
    tables = count_tables(probs, likely, len(counted), levels)
    return Inputs(
        start, feature, acts[state, feature], rows, probs, counted, *tables, cut, other, len(counted), levels, alone,
        np.zeros(0), len(probs), 0,
    )  # fmt: skip


def tree_inputs(tree: FeatureTree, dtype: type) -> Inputs:
    """The arrays of a tree whose states are drawn by its own law."""
    none, number, nodes = np.zeros(0, np.int64), np.zeros(0), tree_nodes(tree)
    return Inputs(
        none, none, number, np.zeros(0, dtype), number, none, none, none, number, none, number, none, 0, 0, -1,
        nodes.ravel(), 0, len(nodes),
    )  # fmt: skip


def room(inputs: Inputs, batch_size: int, n_features: int) -> Batch:
    """Room for batches of so many inputs (0: all states, with their probabilities)."""
    states, none = inputs.n_states, np.zeros(0, np.int64)
    if inputs.n_nodes:
        held = batch_size * n_features
        lists = np.zeros(batch_size + 1, np.int64), np.zeros(held, np.int64), np.zeros(held)
        return Batch(np.arange(batch_size), np.zeros(batch_size), none, *lists, np.zeros(inputs.n_nodes))
    lists = inputs.start, inputs.feature, inputs.value
    if not batch_size:
        return Batch(np.arange(states), inputs.probs.copy(), none, *lists, np.zeros(0))
    most = min(batch_size, states) + 1  # one more, which `draw_states` may write to
    return Batch(np.zeros(most, np.int64), np.zeros(most), np.zeros(states, np.int64), *lists, np.zeros(0))


@njit(**OPTIONS)
def alias_table(probs, cut, other):
    """For draws from given probabilities in one step each (Vose 1991): writes cuts in [0, 1], and who has the rest."""
    n, whole = len(probs), 0.0
    for p in probs:
        whole += p
    scaled, waiting = np.empty(n), np.empty(n, np.int64)
    low, high = 0, n  # those below 1 wait at the front of `waiting`, the others at its back
    for i in range(n):
        scaled[i], cut[i], other[i] = probs[i] / whole * n, 1.0, i
        if scaled[i] < 1.0:
            waiting[low] = i
            low += 1
        else:
            high -= 1
            waiting[high] = i
    while low > 0 and high < n:
        low -= 1
        small, large = waiting[low], waiting[high]
        cut[small], other[small] = scaled[small], large
        scaled[large] -= 1.0 - scaled[small]
        if scaled[large] < 1.0:
            high += 1
            waiting[low] = large
            low += 1


@njit(**OPTIONS)
def binomial(n, p, chances):
    """How likely each number of n inputs is, up to a factor; returns the first that is not faint, and the last + 1."""
    likeliest = min(int((n + 1) * p), n)
    low, high, chances[likeliest] = likeliest, likeliest + 1, 1.0
    while low > 0 and chances[low] > FAINT:
        low -= 1
        chances[low] = chances[low + 1] * (low + 1) / (n - low) * (1.0 - p) / p
    while high <= n and chances[high - 1] > FAINT:
        chances[high] = chances[high - 1] * (n - high + 1) / high * p / (1.0 - p)
        high += 1
    return low, high


@njit(**OPTIONS)
def count_tables(probs, likely, counted, levels):
    """Alias tables of binomial numbers: of 2^j inputs in none of the states before, how many are in each (`Inputs`).

    A binomial number of n inputs is the sum of those of the powers of 2 that make n, so that a batch of any size costs
    a few draws a state.
    """
    left = np.zeros(len(likely) + 1)
    for i in range(len(likely) - 1, -1, -1):  # the smallest first
        left[i] = left[i + 1] + probs[likely[i]]
    chances = np.empty((1 << levels) + 1)
    table, least = np.zeros(counted * levels + 1, np.int64), np.zeros(counted * levels, np.int64)
    cut, other = np.zeros(0), np.zeros(0, np.int64)
    for fill in (False, True):  # first how long they are
        if fill:
            cut, other = np.zeros(table[-1]), np.zeros(table[-1], np.int64)
        for i in range(counted):
            p = probs[likely[i]] / left[i]
            for j in range(levels):
                number = i * levels + j
                low, high = binomial(1 << j, p, chances)
                least[number], table[number + 1] = low, table[number] + high - low
                if fill:
                    part = slice(table[number], table[number + 1])
                    alias_table(chances[low:high], cut[part], other[part])
    return table, least, cut, other


def tree_nodes(tree: FeatureTree) -> np.ndarray:
    """A tree as rows of numbers, parents before children.

    The columns: number of the node after its subtree; the lowest and highest uniform number with which it fires; the
    node whose number it shares with its exclusive siblings (-1: a number of its own); its feature (-1: not read out);
    mean and standard deviation of its magnitude.
    """
    rows: list[list[float]] = []
    features = 0

    def visit(node: FeatureTree, low: float, shares: int) -> None:
        nonlocal features
        here = len(rows)
        feature = features if node.is_read_out else -1
        features += node.is_read_out
        magnitude = node.magnitude_mean, node.magnitude_std
        rows.append([0, low, low + node.active_prob, shares, feature, *magnitude])
        edge = 0.0
        for child in node.children:
            visit(child, edge, here if node.mutually_exclusive_children else -1)
            edge += child.active_prob if node.mutually_exclusive_children else 0.0
        rows[here][0] = len(rows)

    visit(tree, 0.0, -1)
    return np.array(rows)


@njit(**INSIDE)
def draw_states(batch, inputs, size, stream):
    """Draw `size` states with replacement: how often each of the likeliest, then the rest one by one.

    The distinct ones are listed in the order in which they came, with their shares.
    """
    left, distinct = size, 0
    for i in range(inputs.n_counted):
        count = 0
        for j in range(inputs.levels):
            if left >> j & 1:
                number = i * inputs.levels + j
                first, length = inputs.table[number], inputs.table[number + 1] - inputs.table[number]
                u = uniform(stream) * length
                entry = min(int(u), length - 1)
                other = inputs.count_other[first + entry]
                entry = other if u - entry >= inputs.count_cut[first + entry] else entry
                count += inputs.least[number] + entry
        batch.state[distinct], batch.weight[distinct] = inputs.counted[i], count / size
        distinct += count > 0
        left -= count
    if inputs.alone >= 0:
        if left > 0:
            batch.state[distinct], batch.weight[distinct] = inputs.alone, left / size
        return distinct + (left > 0)
    one_by_one = distinct
    for _ in range(left):
        u = uniform(stream) * inputs.n_states
        state = min(int(u), inputs.n_states - 1)
        other = inputs.other[state]  # read in any case: a choice costs less than a branch that is hard to foresee
        state = other if u - state >= inputs.cut[state] else state
        batch.state[distinct] = state
        distinct += batch.count[state] == 0
        batch.count[state] += 1
    for i in range(one_by_one, distinct):
        state = batch.state[i]
        batch.weight[i] = batch.count[state] / size
        batch.count[state] = 0
    return distinct


@njit(**INSIDE)
def draw_tree(batch, inputs, size, stream):
    """Draw `size` inputs by the law of a tree, node by node, each with an equal share."""
    held = 0
    for row in range(size):
        batch.weight[row] = 1.0 / size
        batch.start[row] = held
        node = 0
        while node < inputs.n_nodes:
            place = node * COLUMNS
            shares = int(inputs.nodes[place + 3])
            u = uniform(stream) if shares < 0 else batch.shared[shares]
            if not inputs.nodes[place + 1] <= u < inputs.nodes[place + 2]:
                node = int(inputs.nodes[place])
                continue
            feature = int(inputs.nodes[place + 4])
            if feature >= 0:
                magnitude, spread = inputs.nodes[place + 5], inputs.nodes[place + 6]
                if spread > 0.0:
                    magnitude = max(magnitude + spread * normal(stream), 0.0)
                batch.feature[held], batch.value[held] = feature, magnitude
                held += magnitude > 0.0
            batch.shared[node] = uniform(stream)
            node += 1
    batch.start[size] = held
    return size


@njit(**OPTIONS)
def draw(batch, inputs, size, stream):
    """The next batch; how many distinct inputs it holds. Size 0: all states with their probabilities."""
    if size == 0:
        return inputs.n_states
    if inputs.n_nodes:
        return draw_tree(batch, inputs, size, stream)
    return draw_states(batch, inputs, size, stream)


@njit(**OPTIONS)
def draw_prefixes(loss, latents, stream, left):
    """Draw some of the shorter prefixes without replacement; with the full one, all weigh the same.

    Args:
        loss: a `_kernel.Loss`; its `reach` and `reach_decoder` are written.
        latents: their number.
        stream: random numbers.
        left: room for the chances of the prefixes that are not drawn yet.
    """
    share, shorter = 1.0 / (loss.drawn + 1), loss.prefixes - 1
    for k in range(latents):
        loss.reach[k] = 0.0
    loss.reach[latents] = share
    for m in range(shorter):
        left[m] = loss.chances[m]
    for _ in range(loss.drawn):
        rest = 0.0
        for m in range(shorter):
            rest += left[m]
        u, chosen = uniform(stream) * rest, -1
        for m in range(shorter):
            if left[m] > 0.0:
                chosen = m
                u -= left[m]
                if u < 0.0:
                    break
        left[chosen] = 0.0
        loss.reach[loss.widths[chosen]] += share
    for k in range(latents - 1, -1, -1):
        loss.reach[k] += loss.reach[k + 1]
    for k in range(latents + 1):
        loss.reach_decoder[k] = loss.reach[k]
