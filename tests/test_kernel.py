"""The compiled step: the same bits on every CPU, batches of the right law, and the pieces that can be held by hand."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matryoshka_mixing import _batches, _kernel, _random
from matryoshka_mixing.features import (
    FeatureTree,
    States,
    family,
    independent,
    orthonormal_dictionary,
    twenty_feature_tree,
)
from matryoshka_mixing.sae import SAEConfig, largest_of_batch, random_start
from matryoshka_mixing.training import Setting, TrainConfig, train

MANY = independent([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05])
DIGESTS = {
    "float64": "5be4f58558c880a77597b77a22e77ccfab09533086e81aca2bff2422c493751a",
    "float32": "212708b024b92f1ca4bee1a2331c77bea8af019fae63e4855782c0c16e463adc",
}
"""Of the parameters that `runs` trains; made on one CPU, the same on all."""
CPUS = {
    "as it is": {},
    "generic": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
    "AVX2 and FMA": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma,+avx,+sse4.2"},
    "another BLAS": {
        "MKL_CBWR": "COMPATIBLE",
        "ATEN_CPU_CAPABILITY": "default",
        "OPENBLAS_CORETYPE": "Prescott",
        "NUMBA_CPU_NAME": "nehalem",
        "NUMBA_CPU_FEATURES": "+sse4.2,+popcnt",
    },
}
"""Four kinds of CPU, by what numba, PyTorch and NumPy are told."""


def runs(dtype):
    """Parameters after training in every way there is: activations, exact and sampled, drawn prefixes, a tree's law."""
    varying = FeatureTree(1.0, tuple(FeatureTree(0.3, magnitude_std=0.2) for _ in range(3)), is_read_out=False)
    three, twenty = orthonormal_dictionary(3, 20, 1), orthonormal_dictionary(20, 20, 2)
    small = [
        SAEConfig(20, (1, 2, 3), l1=0.03, activation=a, k=k)
        for a, k in [("relu", None), ("topk", 1), ("batchtopk", 0.5)]
    ]
    tree = SAEConfig(20, tuple(range(1, 21)), l1=0.03)
    found = []
    for batch_size in (None, 37):
        sweep = [Setting(config, family(0.3, 0.4).states(), three) for config in small]
        sweep += [Setting(small[0], varying, three)] if batch_size else []
        start = random_start(small[0], range(5))
        for optimiser in ("adam", "gd"):
            schedule = TrainConfig(150, batch_size=batch_size, optimiser=optimiser, clip=0.5)
            found.append(train(sweep, start, schedule, dtype=dtype))
    setting = Setting(tree, twenty_feature_tree(), twenty, drawn=9)
    found.append(train(setting, random_start(tree, range(2)), TrainConfig(60, batch_size=200), dtype=dtype))
    return found


def digest(dtype):
    whole = hashlib.sha256()
    for run in runs(getattr(torch, dtype)):
        for tensor in (*run.sae.parameters.values(), run.loss, run.grad_norm, run.history):
            whole.update(np.ascontiguousarray(tensor.numpy()).tobytes())
    return whole.hexdigest()


@pytest.mark.parametrize("cpu", CPUS)
def test_the_same_bits_on_every_cpu(cpu, request):
    """A kind has a cache of its own, kept from one run of the tests to the next; `make elsewhere` uses that of one."""
    kinds = list(DIGESTS) if cpu in ("as it is", "generic") else ["float64"]
    code = f"import json, test_kernel as t; print(json.dumps({{d: t.digest(d) for d in {kinds}}}))"
    there = os.environ | CPUS[cpu] | {"PYTHONPATH": os.pathsep.join(sys.path)}
    if "MKL_CBWR" not in CPUS[cpu] and CPUS[cpu]:
        there["NUMBA_CACHE_DIR"] = str(request.config.cache.mkdir(f"numba-{cpu.replace(' ', '-')}"))
    done = subprocess.run([sys.executable, "-c", code], env=there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {kind: DIGESTS[kind] for kind in kinds}


def test_the_digest_sees_one_bit():
    run = runs(torch.float64)[0]
    run.sae.W_dec[0, 0, 0, 0] = torch.nextafter(run.sae.W_dec[0, 0, 0, 0], torch.tensor(2.0).double())
    before = digest("float64")
    assert before == DIGESTS["float64"]
    whole = hashlib.sha256(np.ascontiguousarray(run.sae.W_dec.numpy()).tobytes()).hexdigest()
    again = hashlib.sha256(np.ascontiguousarray(runs(torch.float64)[0].sae.W_dec.numpy()).tobytes()).hexdigest()
    assert whole != again


# Adam


def optimiser(free, adam=True, steps=1000, trained=None):
    return _kernel.Optimiser.of(
        np.full(steps, 0.02), adam, 0.9, 0.999, 1e-8, np.inf, free, False, len(free) if trained is None else trained
    )


def test_what_corrects_adams_moments_is_worked_out_before_to_the_last_bit():
    found, power1, power2 = optimiser(np.ones(8)), 1.0, 1.0
    for step in range(1000):
        power1, power2 = power1 * 0.9, power2 * 0.999
        assert found.rates[step] == 0.02 / (1.0 - power1) and found.scales[step] == 1.0 / np.sqrt(1.0 - power2)
    assert (optimiser(np.ones(8), adam=False).rates == 0.02).all()


@given(st.lists(st.booleans(), min_size=1, max_size=9), st.integers(0, 9))
@settings(deadline=None)
def test_adam_goes_where_parameters_are_free_and_nowhere_else(blocks, trained):
    """Four numbers at a time, two such blocks at once; the last may come twice, which changes nothing."""
    free = np.repeat(np.array(blocks + [False] * (len(blocks) % 2), float), _kernel.HALF)
    free[1::4] = 0
    found = optimiser(free, trained=min(8 * trained, len(free)))
    wanted = [4 * i for i, block in enumerate(blocks) if block and i < 2 * trained]
    assert sorted(set(found.blocks)) == wanted and len(found.blocks) == found.n_blocks == len(wanted) + len(wanted) % 2


# Batches


def batches(data, size, number, seed=0):
    """Features of each input and its weight, of so many batches: shape (batches, inputs) of (acts, weights)."""
    n = data.acts.shape[1] if isinstance(data, States) else data.n_features
    if isinstance(data, States):
        inputs = _batches.state_inputs(data, False, 8, np.float64, size)
    else:
        inputs = _batches.tree_inputs(data, np.float64)
    room, stream = _batches.room(inputs, size, n), _random.stream(seed, _random.BATCHES)
    for _ in range(number):
        held = _batches.draw(room, inputs, size, stream)
        acts = np.zeros((held, n))
        source = room if inputs.n_nodes else inputs
        starts, features, values = source.start, source.feature, source.value
        for row in range(held):
            part = slice(starts[room.state[row]], starts[room.state[row] + 1])
            acts[row, features[part]] = values[part]
        yield acts, room.weight[:held].copy(), room.state[:held].copy()


@pytest.mark.parametrize("by_law", [False, True])
def test_batches_follow_the_law_of_the_tree(by_law):
    """Each state comes with its probability and each batch is full, whether states are drawn or the tree is."""
    size, number, states = 100, 1500, MANY.states()
    powers = 2 ** np.arange(7)
    counts = np.zeros((number, 128))
    for i, (acts, weights, distinct) in enumerate(batches(MANY if by_law else states, size, number)):
        assert weights.sum() == pytest.approx(1) and (weights > 0).all()
        assert by_law or len(set(distinct)) == len(distinct) < size
        np.add.at(counts[i], (acts @ powers).astype(int), size * weights)
    p = np.zeros(128)
    p[(states.acts.numpy() @ powers).astype(int)] = states.probs
    spread = np.sqrt(p * (1 - p) * size)
    assert (np.abs(counts.mean(0) - size * p) < 5.5 * spread / number**0.5).all()
    common = p > 0.01
    assert np.allclose(counts.std(0)[common], spread[common], rtol=0.15)
    expected = -np.sqrt(p[0] * p[1] / (1 - p[0]) / (1 - p[1]))
    assert np.corrcoef(counts[:, 0], counts[:, 1])[0, 1] == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("size", [50, 200, 4096])
@pytest.mark.parametrize("rest", [0, 1, 5])
def test_batches_follow_the_multinomial_law(size, rest):
    """Means, variances and covariances of how often each state is drawn, and whole distributions of the counts.

    The likely states are drawn as counts, and those of a `rest` one by one; the fourth never comes.
    """
    from scipy.stats import binom

    p = np.concatenate([np.array([0.45, 0.05, 0.3, 0.0, 0.2]) * (1 - 0.002 * rest), np.full(rest, 0.002)])
    states = States(torch.eye(len(p)), torch.from_numpy(p))
    inputs = _batches.state_inputs(states, False, 8, np.float64, size)
    assert list(inputs.counted[:4]) == [0, 2, 4, 1] and inputs.n_counted == len(inputs.counted) == 4
    assert inputs.alone == (-1 if rest else 3)
    number = 20_000
    counts = np.zeros((number, len(p)))
    for i, (acts, weights, distinct) in enumerate(batches(states, size, number)):
        assert len(set(distinct)) == len(distinct) and (acts.argmax(1) == distinct).all()
        counts[i, distinct] = size * weights
    assert (counts.sum(1).round(9) == size).all() and not counts[:, 3].any()
    spread = np.sqrt(size * p * (1 - p))
    assert (np.abs(counts.mean(0) - size * p) <= 5.5 * spread / number**0.5).all()
    expected = size * (np.diag(p) - np.outer(p, p))
    assert (np.abs(np.cov(counts.T) - expected) <= 5.5 * np.outer(spread, spread) * (2 / number) ** 0.5 + 1e-9).all()
    for state in set(range(len(p))) - {3}:
        for k in np.quantile(counts[:, state], [0.1, 0.5, 0.9]).astype(int):
            share, law = (counts[:, state].round() <= k).mean(), binom.cdf(k, size, p[state])
            assert abs(share - law) <= 5.5 * np.sqrt(law * (1 - law) / number)


def test_the_law_of_a_tree_with_everything():
    """Exclusive children, children of children, an unread leaf, probabilities of 0 and 1, magnitudes that vary."""
    deep = FeatureTree(0.5, (FeatureTree(0.3, magnitude_mean=2.0), FeatureTree(0.6)), True)
    wide = FeatureTree(0.4, (FeatureTree(1.0), FeatureTree(0.0), FeatureTree(0.7, (deep,), is_read_out=False)))
    tree = FeatureTree(0.9, (wide, FeatureTree(0.2, magnitude_mean=0.4, magnitude_std=0.3)), is_read_out=False)
    acts = np.concatenate([acts for acts, _, _ in batches(tree, 1000, 60)])
    listed = FeatureTree(0.9, (wide, FeatureTree(0.2)), is_read_out=False).states()
    fires, n = listed.acts.numpy() > 0, len(acts)
    found = {
        tuple(row): count / n
        for row, count in zip(*np.unique(acts[:, :-1] > 0, axis=0, return_counts=True), strict=True)
    }
    first = np.unique(fires[:, :-1], axis=0)
    for row in first:
        p = listed.probs.numpy()[(fires[:, :-1] == row).all(1)].sum()
        assert abs(found.get(tuple(row), 0.0) - p) < 5.5 * np.sqrt(p * (1 - p) / n)
    assert set(found) <= {tuple(row) for row in first}
    loud = acts[:, -1][acts[:, -1] > 0]
    # A normal number of mean .4 and deviation .3, where it is above 0.
    from scipy.stats import truncnorm

    law = truncnorm(-4 / 3, np.inf, 0.4, 0.3)
    assert abs(loud.mean() - law.mean()) < 5.5 * law.std() / np.sqrt(len(loud))
    assert loud.std() == pytest.approx(law.std(), rel=0.05)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=60).filter(lambda p: sum(p) > 0.01))
@settings(deadline=None)
def test_an_alias_table_holds_the_probabilities(weights):
    p = np.array(weights) / sum(weights)
    cut, other = np.zeros(len(p)), np.zeros(len(p), np.int64)
    _batches.alias_table(p, cut, other)
    held = cut.copy()
    np.add.at(held, other, 1 - cut)
    assert np.allclose(held / len(p), p, rtol=0, atol=1e-12) and (cut >= 0).all() and (cut <= 1 + 1e-12).all()


@pytest.mark.parametrize("size", [5, 50])
def test_the_state_that_has_the_rest_comes_as_often_as_it_should(size):
    """Where all others are counted."""
    p, number = np.array([0.3, 0.3, 0.05, 0.2, 0.15]), 20_000
    states = States(torch.eye(5), torch.from_numpy(p))
    assert _batches.state_inputs(states, False, 8, np.float64, size).alone == 2
    counts = np.zeros((number, 5))
    for i, (_, weights, distinct) in enumerate(batches(states, size, number)):
        counts[i, distinct] = size * weights
    spread = np.sqrt(size * p * (1 - p))
    assert (np.abs(counts.mean(0) - size * p) <= 5.5 * spread / number**0.5).all()
    assert np.allclose(counts.std(0), spread, rtol=0.05)


@given(st.integers(0, 12), st.floats(1e-3, 0.999))
@settings(deadline=None)
def test_a_table_of_counts_holds_the_binomial_law(levels, p):
    from scipy.stats import binom

    likely = np.argsort([-p, p - 1], kind="stable")
    probs = np.array([p, 1 - p])
    table, least, cut, other = _batches.count_tables(probs, likely, 2, levels)
    assert len(table) == 2 * levels + 1 and len(cut) == table[-1]
    for number in range(2 * levels):
        part, n = slice(table[number], table[number + 1]), 1 << number % levels
        held, length = cut[part].copy(), table[number + 1] - table[number]
        np.add.at(held, other[part], 1 - cut[part])
        law = np.zeros(n + 1)
        law[least[number] : least[number] + length] = held / length
        chance = probs[likely[0]] if number < levels else 1.0
        assert np.allclose(law, binom.pmf(np.arange(n + 1), n, chance), rtol=0, atol=1e-11)


@given(
    st.lists(st.sampled_from([0.0, 1e-12, 1e-4, 0.01, 0.3, 1.0]), min_size=1, max_size=300).filter(any),
    st.integers(1, 5000), st.integers(0, 99),
)  # fmt: skip
@settings(deadline=None)
def test_a_batch_is_full_of_inputs_that_can_come(weights, size, seed):
    """Whatever the law and the size: each input once, with whole counts that sum to the size."""
    p = np.array(weights) / sum(weights)
    states = States(torch.eye(len(p)), torch.from_numpy(p))
    inputs = _batches.state_inputs(states, False, 8, np.float64, size)
    room, stream = _batches.room(inputs, size, len(p)), _random.stream(seed)
    for _ in range(3):
        held = _batches.draw(room, inputs, size, stream)
        state, counts = room.state[:held], room.weight[:held] * size
        assert len(set(state)) == held <= min(size, len(p)) and (p[state] > 0).all()
        assert counts.sum() == pytest.approx(size) and np.allclose(counts, counts.round()) and (counts > 0.5).all()
        assert not room.count.any()


# BatchTopK


@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 9), st.floats(0.01, 1.2), st.booleans())
@settings(deadline=None, max_examples=200)
def test_quickselect_keeps_what_sorting_keeps(seed, rows, latents, share, ties):
    """Also with equal sizes: then the first entries are kept."""
    draws = np.random.default_rng(seed)
    acts = np.maximum(draws.normal(size=(rows, latents)), 0)
    acts = np.ceil(2 * acts) if ties else acts
    norms, weights = np.ones(latents) if ties else draws.uniform(0.5, 2, latents), draws.dirichlet(np.ones(rows))
    k = share * latents
    shape = _kernel.Shape.of(4, latents, 1)
    room = _kernel.make_room(shape, rows, 1, np.float64)
    row, latent = map(np.ascontiguousarray, np.nonzero(acts))
    room.norms[:] = norms
    room.begin[: rows + 1] = np.concatenate([[0], np.bincount(row, minlength=rows).cumsum()])
    room.latent[: len(row)], room.act[: len(row)] = latent, acts[row, latent]
    states = States(torch.zeros(rows, 1), torch.from_numpy(weights))
    batch = _batches.room(_batches.state_inputs(states, False, 8, np.float64, 0), 0, 1)
    _kernel.keep_largest_of_batch(room, batch, rows, k)
    sizes = torch.from_numpy(acts * norms)
    wanted = largest_of_batch(sizes, torch.tensor(k, dtype=torch.float64), torch.from_numpy(weights)).numpy()
    assert np.allclose(room.share[: len(row)], wanted[row, latent], rtol=0, atol=1e-9)
    kept, dropped = ((acts * norms)[(acts > 0) & where] for where in (wanted > 0, wanted == 0))
    largest = dropped.max() if len(dropped) else 0.0
    assert room.bound[1] == pytest.approx((kept.min() + largest) / 2 if len(kept) else largest)
