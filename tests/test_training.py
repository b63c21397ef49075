"""`train` by the compiled step against `descend` by autograd, over every combination of what can be trained."""

import _thread
import itertools
import math
import random
import threading
import time
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matryoshka_mixing import _abreast, training
from matryoshka_mixing.features import FeatureTree, States, family, independent, orthonormal_dictionary
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.training import BRIEF, THREADS, Setting, TrainConfig, descend, objective, train

BARE = SAEConfig(20, (1, 3), encoder_bias=False, decoder_bias=False)
MANY = independent([0.3, 0.2, 0.15, 0.1, 0.1, 0.05, 0.05])
"""A tree with 128 states."""
VARYING = FeatureTree(1.0, tuple(FeatureTree(0.3, magnitude_std=0.1) for _ in range(3)), is_read_out=False)
SEEDS = 2
KERNELS = {"side by side": _abreast.MOST_ROWS, "one at a time": 0}
"""Up to how many features and latents a ReLU SAE is trained side by side with others; with 0 none is."""

ACTIVATIONS = [("relu", None), ("topk", 1), ("topk", 2), ("batchtopk", 0.33), ("batchtopk", 1.2)]
PREFIXES = [((3,), (1.0,), (0.3,)), ((1, 3), (0.5, 2.0), (0.0, 1.5)), ((1, 2, 3), (1.0, 0.0, 3.0), (0.2, 0.4, 1.0))]
OPTIONS = {
    "activation": ACTIVATIONS,
    "prefixes": PREFIXES,
    "l1": [0.0, 0.1],
    "biases": list(itertools.product([False, True], repeat=2)),
    "two_sets_of_weights": [False, True],
    "terms": ["none", "one set", "two sets"],
    "dense": [False, True],
    "held": [False, True],
    "own_dictionaries": [False, True],
}
TABLE = [dict(zip(OPTIONS, values, strict=True)) for values in itertools.product(*OPTIONS.values())]


@cache
def states_and_dictionaries():
    """What the rows share: making it anew for each of thousands takes longer than the comparison."""
    dictionaries = torch.stack([orthonormal_dictionary(3, 20, seed) for seed in range(SEEDS)])
    return family(0.3, 0.4).states(), dictionaries, start_near(dictionaries[0], range(SEEDS), noise=0.8)


def setting_of(options):
    """The setting that a row of the table describes, and a start in which everything is somewhere."""
    (activation, k), (widths, weights, others) = options["activation"], options["prefixes"]
    config = SAEConfig(
        20,
        widths,
        weights,
        options["l1"],
        *options["biases"],
        activation=activation,
        k=k,
        decoder_weights=others if options["two_sets_of_weights"] else None,
    )
    states, dictionaries, start = states_and_dictionaries()
    dictionary, start = dictionaries[0], start.map(torch.clone)
    generator = torch.Generator().manual_seed(0)
    terms = torch.rand(2, len(widths), len(states), dtype=torch.float64, generator=generator)
    terms = {"none": {}, "one set": {"terms": terms[0]}, "two sets": {"terms": terms[0], "decoder_terms": terms[1]}}
    start.W_enc.mul_(1.3)  # else a latent that fires alone is just right, and Adam scales up the rounding of a zero
    start.b_enc.add_(0.1 * options["biases"][0] * torch.randn(SEEDS, 3, dtype=torch.float64, generator=generator))
    start.b_dec.add_(0.1 * options["biases"][1] * torch.randn(SEEDS, 20, dtype=torch.float64, generator=generator))
    if options["dense"]:
        states, dictionary = States(states.inputs(dictionary), states.probs), None
    elif options["own_dictionaries"]:
        dictionary = dictionaries
    held = {"b_dec": ..., "W_dec": 0, "W_enc": np.s_[:, 1]} if options["held"] else {}
    return Setting(config, states, dictionary, **terms[options["terms"]], held=held), start.with_config(config)


def by_autograd(setting, start, config):
    """The same by `descend`: an index into one SAE's parameter becomes one into those of all seeds."""
    indices = {name: index if isinstance(index, tuple) else (index,) for name, index in setting.held.items()}
    held = {name: (slice(None), *index) for name, index in indices.items()}
    for name, trained in (("b_enc", setting.sae.encoder_bias), ("b_dec", setting.sae.decoder_bias)):
        if not trained:
            held[name] = ...
    loss, power = objective(setting, range(SEEDS), config)
    return descend(loss, start, config, held=held, scale=power)


def test_the_objective_refuses_an_sae_that_activates_otherwise():
    """The start's configuration says how it activates: a plain start would train another SAE than the setting's."""
    config, directions = SAEConfig(6, (1, 3), activation="batchtopk", k=0.5), orthonormal_dictionary(3, 6, 0)
    loss, _ = objective(Setting(config, family(0.3, 0.4).states(), directions), range(2), TrainConfig(3))
    start = start_near(directions, range(2))
    with pytest.raises(ValueError, match=r"with relu and k None, and the setting's has batchtopk and k 0.5; start"):
        descend(loss, start, TrainConfig(3))
    assert descend(loss, start.with_config(config), TrainConfig(3)).sae.one_config == config


def differences(ours, other):
    """How far two runs lie apart, in every field."""
    pairs = [(getattr(ours.sae, name)[0], getattr(other.sae, name)) for name in other.sae.parameters]
    pairs += [(getattr(ours.path, name)[0], getattr(other.path, name)) for name in other.path.parameters]
    pairs += [(ours.loss[0], other.loss), (ours.grad_norm[0], other.grad_norm), (ours.history[:, 0], other.history)]
    return max(float((a - b).abs().max()) for a, b in pairs if a.numel())


STEP = TrainConfig(1, lr=1.0, warmup=0, cooldown=0, optimiser="gd")
"""One step of gradient descent at rate 1 shows the gradient itself."""


def loss_and_gradient(setting, start):
    """By autograd of the readable loss: of W_enc and b_enc from the first loss, of W_dec and b_dec from the second."""
    leaves = {name: parameter.clone().requires_grad_() for name, parameter in start.parameters.items()}
    losses = objective(setting, range(SEEDS), STEP)[0](replace(start, **leaves))
    losses = losses if isinstance(losses, tuple) else (losses, losses)
    each = dict.fromkeys(losses)  # one alone, where both are the same
    parts = {loss: torch.autograd.grad(loss.sum(), list(leaves.values()), retain_graph=True) for loss in each}
    gradient = dict(zip(leaves, (*parts[losses[0]][:2], *parts[losses[1]][2:]), strict=True))
    for name, index in setting.held.items():
        for part in gradient[name]:
            part[index] = 0
    for name, trained in (("b_enc", setting.sae.encoder_bias), ("b_dec", setting.sae.decoder_bias)):
        gradient[name] *= trained
    return losses[0], gradient


@pytest.fixture(params=KERNELS)
def either_kernel(request, monkeypatch):
    """Small ReLU SAEs on listed states are trained by the one or the other."""
    monkeypatch.setattr(_abreast, "MOST_ROWS", KERNELS[request.param])


@pytest.mark.usefixtures("shapes_unchecked", "either_kernel")
@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_loss_and_gradient_are_those_of_autograd_for_every_combination(activation):
    if activation[0] != "relu" and _abreast.MOST_ROWS:
        pytest.skip("other activations are trained by one kernel alone")
    rows = [row for row in TABLE if row["activation"] == activation and not (row["dense"] and row["own_dictionaries"])]
    assert len(rows) == 864
    for row in rows:
        setting, start = setting_of(row)
        ours, (loss, gradient) = train(setting, start, STEP), loss_and_gradient(setting, start)
        assert (ours.history[0, 0] - loss).abs().max() <= 1e-10, row
        for name, expected in gradient.items():
            found = start.parameters[name] - ours.sae.parameters[name][0]
            assert (found - expected).abs().max() <= 1e-10, (name, row)
        assert gradient["W_dec"].abs().max() > 1e-3, "there is something to compare"


@pytest.mark.usefixtures("shapes_unchecked", "either_kernel")
@pytest.mark.parametrize("optimiser", ["adam", "gd"])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_fifty_steps_are_those_of_autograd(optimiser, clip):
    schedule = TrainConfig(
        50, optimiser=optimiser, clip=clip, lr=0.02 if optimiser == "adam" else 0.2, snapshots=(7, 50)
    )
    aside = [row for row in TABLE if row["activation"] == ("relu", None) and not row["dense"]]
    for row in random.Random(f"{optimiser} {clip}").sample(aside if _abreast.MOST_ROWS else TABLE, 25):
        setting, start = setting_of(row)
        assert differences(train(setting, start, schedule), by_autograd(setting, start, schedule)) <= 1e-8, row


def few(seeds):
    """Settings whose SAEs are trained side by side, of 4 and 128 states, with many seeds' own dictionaries."""
    own = torch.stack([orthonormal_dictionary(3, 20, seed) for seed in range(seeds)])
    every = SAEConfig(20, (1, 2, 3), l1=0.02)
    return [
        Setting(BARE, family(0.3, 0.4).states(), own),
        Setting(every, family(0.3, 0.4).states(), own, held={"W_dec": 0}),
        Setting(replace(every, decoder_weights=(0.0, 1.0, 2.0)), MANY.states(), orthonormal_dictionary(7, 20, 1)),
        Setting(every, MANY, orthonormal_dictionary(7, 20, 1)),
    ]


@pytest.mark.parametrize("batch_size", [None, 3, 50, 500])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_the_two_kernels_draw_and_train_the_same(batch_size, clip, monkeypatch):
    """Every field, for more SAEs than stand side by side; the loss and its square roots round differently."""
    start = random_start(BARE, range(7))
    sweep = [setting for setting in few(7) if batch_size or isinstance(setting.data, States)]
    schedule = TrainConfig(30, batch_size=batch_size, snapshots=(7, 30), clip=clip, optimiser="gd", lr=0.2)
    assert {training._kind(setting) for setting in sweep} == {training._SideBySide}
    ours = train(sweep, start, schedule)
    monkeypatch.setattr(_abreast, "MOST_ROWS", 0)
    assert {training._kind(setting) for setting in sweep} == {training._Job}
    other = train(sweep, start, schedule)
    for i in range(len(sweep)):
        for name in ours.sae.parameters:
            assert torch.allclose(getattr(ours.path[i], name), getattr(other.path[i], name), rtol=0, atol=1e-12), name
    for name in ("loss", "grad_norm", "history"):
        assert torch.allclose(getattr(ours, name), getattr(other, name), rtol=0, atol=1e-12), name


def any_setting(seed):
    """A small setting of ReLU SAEs on listed states, a start and a schedule, all drawn."""
    draws = np.random.default_rng(seed)
    d_in, d_sae, features = (int(draws.integers(1, most)) for most in (11, 8, 10))
    seeds, states = int(draws.integers(1, 10)), int(draws.choice([1, 2, 3, 5, 64, 65, 130, 256]))
    acts = draws.normal(size=(states, features)) * (draws.random((states, features)) < draws.choice([0.1, 0.5, 1]))
    probs = draws.random(states) * (draws.random(states) < 0.8)
    probs[draws.integers(states)] += 0.1
    widths = sorted(draws.choice(np.arange(1, d_sae), draws.integers(0, d_sae), replace=False).tolist()) + [d_sae]

    def weights():
        found = draws.random(len(widths)) * (draws.random(len(widths)) < 0.7)
        return (*found[:-1].tolist(), float(found[-1]) + 0.2)

    two = weights() if draws.integers(2) else None
    biases = {"encoder_bias": bool(draws.integers(2)), "decoder_bias": bool(draws.integers(2))}
    config = SAEConfig(d_in, tuple(widths), weights(), draws.choice([0, 0.1]), **biases, decoder_weights=two)
    terms = {
        name: torch.from_numpy(draws.random((len(widths), states)))
        for name in ("terms", "decoder_terms")
        if draws.integers(2)
    }
    own = (seeds,) if draws.integers(2) else ()
    held = {"b_dec": ..., "W_dec": 0, "W_enc": np.s_[:, d_sae - 1]} if draws.integers(2) else {}
    shapes = (seeds, d_in, d_sae), (seeds, d_sae), (seeds, d_sae, d_in), (seeds, d_in)
    start = SAE(*(torch.from_numpy(0.5 * draws.normal(size=shape)) for shape in shapes), config=config)
    start.W_dec[0, draws.integers(d_sae)] *= draws.integers(2)  # a row of zeros has no direction
    start.W_enc[-1] *= draws.integers(2)
    setting = Setting(
        config,
        States(torch.from_numpy(acts), torch.from_numpy(probs / probs.sum())),
        torch.from_numpy(draws.normal(size=(*own, features, d_in))),
        **terms,
        held=held,
    )
    steps, adam = int(draws.choice([1, 7, 20, 63, 64, 65])), bool(draws.integers(2))
    schedule = TrainConfig(
        steps,
        lr=0.01,
        eps=1e-3,
        optimiser="adam" if adam else "gd",
        batch_size=[None, 1, 5, 50, 700][draws.integers(5)],
        clip=[0.3, 5.0, None][draws.integers(2 + adam)],  # plain descent can run away, and comes to nothing then
        snapshots=tuple(sorted({1, steps})),
    )
    return setting, start, schedule


@given(seed=st.integers(0, 1 << 32))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_any_small_setting_is_trained_alike_by_both_kernels_and_in_any_company(seed):
    setting, start, schedule = any_setting(seed)
    ours = train(setting, start, schedule)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_abreast, "MOST_ROWS", 0)
        other = train(setting, start, schedule)
    assert training._kind(setting) is training._SideBySide
    pairs = [(getattr(a.path, name), getattr(b.path, name)) for a, b in [(ours, other)] for name in a.sae.parameters]
    pairs += [(ours.loss, other.loss), (ours.history, other.history)]
    assert max(float(((a - b).abs() / (1 + b.abs())).max()) for a, b in pairs) < 1e-10
    for n in {1, len(start) - 1} - {0}:
        dictionary = setting.directions[:n] if setting.directions.ndim == 3 else setting.directions
        fewer = train(replace(setting, dictionary=dictionary), start[:n], schedule)
        assert torch.equal(fewer.path.W_enc, ours.path.W_enc[:, :n])
        assert torch.equal(fewer.path.W_dec, ours.path.W_dec[:, :n])
        assert torch.equal(fewer.path.b_dec, ours.path.b_dec[:, :n])
        assert torch.equal(fewer.loss, ours.loss[:, :n]) and torch.equal(fewer.history, ours.history[..., :n])


def test_one_that_overflows_leaves_those_beside_it_alone():
    """An input too large to be squared is rare: of eight SAEs some draw it, and only their losses are infinite."""
    config = SAEConfig(5, (2,))
    acts, probs = torch.eye(5).double(), torch.tensor([0.3, 0.3, 0.2, 0.1, 0.1], dtype=torch.float64)
    acts[4] *= 1e200
    setting = Setting(config, States(acts, probs), torch.eye(5).double())
    start, schedule = random_start(config, range(8)), TrainConfig(4, batch_size=5, lr=1e-3)
    together = train(setting, start, schedule).history[:, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_abreast, "MOST_ROWS", 0)
        one_by_one = train(setting, start, schedule).history[:, 0]
    finite = one_by_one.isfinite()
    assert 0 < finite[0].sum() < 8 and torch.equal(together[0].isfinite(), finite[0])
    unhurt = finite.all(0)
    assert unhurt.any() and torch.allclose(together[:, unhurt], one_by_one[:, unhurt], rtol=0, atol=1e-12)
    assert torch.equal(train(setting, start[:1], schedule).history[0, 0], together[0, :1])


@pytest.mark.parametrize("batch_size", [None, 50])
def test_those_side_by_side_do_not_see_one_another(batch_size):
    """To the last bit, with one of all latents at rest, and one that runs away."""
    start = random_start(BARE, range(7))
    start.W_enc[1] = 0.0
    start.W_dec[2] *= 1e6
    for setting in few(7)[2:]:
        if batch_size is None and not isinstance(setting.data, States):
            continue
        schedule = TrainConfig(40, batch_size=batch_size, snapshots=(40,))
        together = train(setting, start, schedule)
        assert together.sae.W_dec.isfinite().all()
        for seeds in range(1, 7):
            fewer = train(setting, start[:seeds], schedule)
            assert torch.equal(fewer.sae.W_dec[0], together.sae.W_dec[0, :seeds])
            assert torch.equal(fewer.loss[0], together.loss[0, :seeds])
            assert torch.equal(fewer.grad_norm[0], together.grad_norm[0, :seeds])
        if batch_size is None:
            assert torch.equal(train(setting, start[[6, 2, 5]], schedule).sae.W_enc, together.sae.W_enc[:, [6, 2, 5]])


def test_a_wrong_weight_would_be_seen():
    """The comparison can fail: autograd with another prefix weight is far off."""
    setting, start = setting_of(TABLE[0] | {"prefixes": PREFIXES[1]})
    wrong = replace(setting, sae=replace(setting.sae, weights=(0.5, 2.001)))
    found = start.W_dec - train(setting, start, STEP).sae.W_dec[0]
    assert (found - loss_and_gradient(setting, start)[1]["W_dec"]).abs().max() <= 1e-10
    assert (found - loss_and_gradient(wrong, start)[1]["W_dec"]).abs().max() > 1e-4


def test_adam_is_torchs_own(tree, dictionary):
    config, schedule = SAEConfig(20, (1, 3), l1=0.03), TrainConfig(200)
    start, states = start_near(dictionary, range(2), noise=0.5), tree.states()
    run = train(Setting(config, states, dictionary), start, schedule)
    for i in range(2):
        sae = start[i].with_config(config).map(lambda parameter: parameter.clone().requires_grad_())
        optimiser = torch.optim.Adam(sae.parameters.values(), betas=schedule.betas, eps=schedule.eps)
        for step in range(schedule.steps):
            optimiser.param_groups[0]["lr"] = schedule.learning_rate(step)
            optimiser.zero_grad()
            sae.loss(states.inputs(dictionary), states.probs).backward()
            optimiser.step()
        for name, parameter in sae.parameters.items():
            assert torch.allclose(getattr(run.sae, name)[0, i], parameter, rtol=0, atol=1e-9), name


def test_single_precision_follows_double(tree, dictionary):
    config, start = SAEConfig(20, (1, 3), l1=0.03), start_near(dictionary, range(4), noise=0.5)
    double = train(Setting(config, tree.states(), dictionary), start, TrainConfig(100))
    single = train(Setting(config, tree.states(), dictionary), start, TrainConfig(100), dtype=torch.float32)
    assert single.sae.W_dec.dtype == single.loss.dtype == torch.float32
    assert 1e-9 < (single.sae.W_dec - double.sae.W_dec).abs().max() < 1e-4


# Nothing depends on company


def company():
    """Settings that differ in everything but sizes, with 4, 4, 128, 3 and uncountably many states."""
    first, seventh = orthonormal_dictionary(3, 20, 0), orthonormal_dictionary(7, 20, 1)
    inputs = torch.randn(3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rows = States(inputs, torch.tensor([0.2, 0.3, 0.5]).double())
    every = tuple(SAEConfig(20, (1, 2, 3), activation=a, k=k, l1=0.02) for a, k in ACTIVATIONS)
    return [
        Setting(BARE, family(0.3, 0.4).states(), first),
        Setting(every[0], family(0.3, 0.4).states(), first, held={"b_enc": ...}, drawn=1),
        Setting(every[2], MANY.states(), seventh),
        Setting(every[4], rows),
        Setting(replace(BARE, widths=(3,), weights=()), MANY, seventh),
        Setting(every[3], VARYING, torch.stack([orthonormal_dictionary(3, 20, seed) for seed in range(SEEDS)])),
    ]


def assert_same(ours, other):
    """Every field, to the last bit."""
    for name in ours.sae.parameters:
        assert torch.equal(getattr(ours.sae, name), getattr(other.sae, name)), name
        assert torch.equal(getattr(ours.path, name), getattr(other.path, name)), name
    for name in ("loss", "grad_norm", "converged", "history"):
        assert torch.equal(getattr(ours, name), getattr(other, name)), name
    if ours.sae.threshold is not None:
        assert torch.allclose(ours.sae.threshold, other.sae.threshold, rtol=0, atol=0, equal_nan=True)


def test_threads_do_not_draw_each_others_prefixes():
    config = SAEConfig(20, tuple(range(1, 9)))
    setting = Setting(config, independent([0.2] * 8), orthonormal_dictionary(8, 20, 0), drawn=3)
    start, schedule = random_start(config, range(8)), TrainConfig(1000, batch_size=20)
    assert_same(train(setting, start, schedule), train(setting, start, schedule, threads=4))


@pytest.mark.parametrize(("jobs", "seeds", "threads"), [(1, 1, 1), (3, 64, 1), (1, 4096, 2), (7, 5, 3), (200, 1, 2)])
def test_shares_hold_every_sae_once_in_few_calls_and_end_small(jobs, seeds, threads):
    shares = list(training._shares(list(range(jobs)), seeds, threads))
    saes = [(job, seed) for job, first, last in shares for seed in range(first, last)]
    assert saes == list(itertools.product(range(jobs), range(seeds)))
    assert len(shares) <= jobs + 2 * threads * (2 + math.log(jobs * seeds)), "as a share is 1 / (2 threads) of the rest"
    assert all(last - first == 1 for _, first, last in shares[-threads:])


def test_shares_are_whole_groups_of_those_side_by_side():
    class Job:
        side_by_side = 4

    shares = list(training._shares([Job()] * 3, 39, 2))
    assert [(first, last) for _, first, last in shares if first % 4 or (last % 4 and last != 39)] == []
    assert sum(last - first for _, first, last in shares) == 3 * 39


def test_every_thread_trains_and_the_steps_of_all_are_counted():
    trained, names = [], set()

    class Job:
        def room(self):
            return ()

        def fit(self, first, last, room, done):
            names.add(threading.current_thread().name)
            trained.extend(range(first, last))
            time.sleep(0.01)
            done[0] += 1000 * (last - first)

    training._run([Job()], 64, 1000, 2, False)
    assert sorted(trained) == list(range(64)) and len(names) == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interruption_stops_within_one_sae(threads, tree, dictionary):
    """All of them would take half a minute."""
    setting, start = Setting(BARE, tree.states(), dictionary), random_start(BARE, range(64))
    schedule = TrainConfig(1_000_000)
    train(setting, start[:1], TrainConfig(1))  # compiled before
    threading.Timer(0.3, _thread.interrupt_main).start()
    before = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        train(setting, start, schedule, threads=threads)
    assert time.perf_counter() - before < 10


@pytest.mark.parametrize("batch_size", [None, 50, 3])
def test_results_do_not_depend_on_company_or_threads_to_the_last_bit(batch_size):
    sweep = [setting for setting in company() if batch_size or not isinstance(setting.data, FeatureTree)]
    schedule = TrainConfig(70, batch_size=batch_size, snapshots=(3, 70))
    start = random_start(BARE, range(SEEDS))
    together = train(sweep, start, schedule)
    assert_same(together, train(sweep, start, schedule, threads=3))
    for i, setting in enumerate(sweep):
        alone = train(setting, start, schedule)
        assert torch.equal(together.sae[i].W_dec, alone.sae.W_dec[0]) and torch.equal(together.loss[i], alone.loss[0])
        assert torch.equal(together.grad_norm[i], alone.grad_norm[0])
        assert torch.equal(together.history[:, i], alone.history[:, 0])
        assert torch.equal(together.path[i].W_enc, alone.path.W_enc[0])
        assert together.sae[i].config == setting.sae
        if not isinstance(setting.dictionary, torch.Tensor) or setting.dictionary.ndim == 2:
            assert torch.equal(train(setting, start[:2], schedule).sae.W_dec, alone.sae.W_dec[:, :2])


def test_a_prefix_of_weight_zero_trains_like_the_standard_sae_to_the_last_bit(tree, dictionary):
    start, schedule = random_start(BARE, range(8)), TrainConfig(300)
    runs = [
        train(Setting(replace(BARE, widths=w, weights=b), tree.states(), dictionary), start, schedule)
        for w, b in [((3,), (1.0,)), ((1, 3), (0.0, 1.0))]
    ]
    assert torch.equal(runs[0].sae.W_dec, runs[1].sae.W_dec) and torch.equal(runs[0].loss, runs[1].loss)


def test_k_of_all_latents_is_relu(tree, dictionary, monkeypatch):
    monkeypatch.setattr(_abreast, "MOST_ROWS", 0)  # else ReLU has a kernel of its own, which rounds differently
    start, schedule = random_start(BARE, range(8)), TrainConfig(150)
    relu = train(Setting(BARE, tree.states(), dictionary), start, schedule).sae.W_dec
    for activation in ("topk", "batchtopk"):
        kept = replace(BARE, activation=activation, k=3)
        assert torch.equal(train(Setting(kept, tree.states(), dictionary), start, schedule).sae.W_dec, relu)


@pytest.mark.parametrize("setting", company()[:4], ids=lambda setting: setting.sae.activation)
def test_the_final_loss_of_sampled_training_is_that_of_all_states(setting):
    setting = replace(setting, drawn=0)
    run = train(setting, random_start(BARE, range(SEEDS)), TrainConfig(5, batch_size=20))
    x = setting.data.acts if setting.dictionary is None else setting.data.inputs(setting.dictionary)
    assert torch.allclose(run.loss[0], run.sae[0].loss(x, setting.data.probs), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("activation", "k"), ACTIVATIONS)
def test_the_budget_spans_all_states_however_many_there_are(activation, k):
    """2,048 states: a batch that is taken in parts would have a budget for each part."""
    states = independent([0.5, 0.4] + [0.1] * 9).states()
    assert len(states) == 2048
    directions = orthonormal_dictionary(11, 20, 0)
    config = SAEConfig(20, (1, 3), l1=0.1, activation=activation, k=k)
    setting = Setting(config, states, directions)
    run = train(setting, random_start(config, range(SEEDS)), TrainConfig(5))
    other = by_autograd(setting, random_start(config, range(SEEDS)), TrainConfig(5))
    assert torch.allclose(run.loss[0], run.sae[0].loss(states.inputs(directions), states.probs), rtol=0, atol=1e-12)
    assert torch.allclose(run.grad_norm[0], other.grad_norm, rtol=0, atol=1e-9)


def test_batchtopk_finds_its_threshold(tree, dictionary):
    """On one input at a time the threshold keeps what the budget keeps of all states, the entry on the edge included.

    Not only where something is left: at the true L0 all is kept that fires, and rounding may not decide.
    """
    states, true_l0 = tree.states(), float(tree.firing_probabilities().sum())
    x = states.inputs(dictionary)
    for k, batch_size in ((0.45, None), (0.45, 4000), (true_l0, None), (1.0, None)):
        config = SAEConfig(20, (1, 3), activation="batchtopk", k=k)
        run = train(
            Setting(config, states, dictionary),
            start_near(dictionary, range(8)),
            TrainConfig(1500, batch_size=batch_size),
        )
        sae = run.sae[0]
        batch, single = sae.encode(x, states.probs), torch.cat([sae.encode(row[None]) for row in x], 1)
        assert torch.equal(batch, single) and (batch > 0).any()
        if batch_size is None:
            assert torch.allclose(sae.with_threshold(x, states.probs).threshold, sae.threshold, rtol=0, atol=1e-12)


# Sampling


@pytest.mark.parametrize("batch_size", [400, 3])
def test_sampled_batches_centre_on_the_exact_solution(batch_size, tree, dictionary):
    start = start_near(dictionary, range(48), noise=0.1)
    setting = Setting(BARE, tree.states(), dictionary)
    exact = train(setting, start, TrainConfig(1500)).sae.W_dec[0, :, 0]
    schedule = TrainConfig(1500, batch_size=batch_size, lr=0.02 if batch_size > 3 else 0.004)
    sampled = train(setting, start, schedule).sae.W_dec[0, :, 0]
    cosines = torch.nn.functional.cosine_similarity(exact, sampled)
    assert cosines.min() > (0.999 if batch_size > 3 else 0.97)
    assert cosines.min() < 1 - 1e-9, "batches were not sampled at all"


def test_drawn_prefixes_act_through_their_expected_weights():
    """Their mean gradient is that of the expected weights (four prefixes, two of three shorter ones drawn)."""
    from matryoshka_mixing.theory import inclusion_probabilities

    chances = (0.5, 0.3, 0.2)
    expected = (*(p / 3 for p in inclusion_probabilities(chances, 2)), 1 / 3)
    states, dictionary = family(0.3, 0.3, 3).states(), orthonormal_dictionary(4, 20, 0)
    config = SAEConfig(20, (1, 2, 3, 4), (*chances, 1.0))
    start = start_near(dictionary, [0] * 6000, noise=0.3)
    drawn = train(Setting(config, states, dictionary, drawn=2), start, STEP)
    mean = train(Setting(replace(config, weights=expected), states, dictionary), start[:1], STEP)
    gradients = (start.W_dec - drawn.sae.W_dec[0]).flatten(1)
    error = (gradients.mean(0) - (start.W_dec[:1] - mean.sae.W_dec[0]).flatten()).abs()
    spread = gradients.std(0) / len(gradients) ** 0.5
    assert (error <= 5.5 * spread + 1e-12).all() and spread.max() > 1e-4


def test_a_list_of_probabilities_samples_as_it_trains():
    tree, dictionary = family(0.3, [0.5, np.float64(0.2)]), orthonormal_dictionary(3, 20, 0)
    run = train(Setting(BARE, tree, dictionary), random_start(BARE, range(2)), TrainConfig(20, batch_size=10))
    assert run.loss.isfinite().all()


# The schedule, the bar, the refusals


def test_schedule_warms_up_and_cools_down_to_nothing():
    config = TrainConfig(1000, lr=0.5, warmup=0.1, cooldown=0.5)
    rates = np.array([config.learning_rate(step) for step in range(1000)])
    assert rates[0] == pytest.approx(0.5 / 100) and rates[100:500] == pytest.approx(0.5) and rates[-1] < 1e-5
    assert (np.diff(rates[500:]) <= 0).all() and rates[750] == pytest.approx(0.25)
    assert TrainConfig(10, warmup=0.8, cooldown=0.2).learning_rate(7) == pytest.approx(0.02)


def test_progress_bar_shows_only_when_asked(tree, dictionary, capsys):
    setting, start = Setting(BARE, tree.states(), dictionary), start_near(dictionary, range(2))
    train(setting, start, TrainConfig(150))
    assert capsys.readouterr().err == ""
    train(setting, start, TrainConfig(150), progress=True)
    assert "300/300" in capsys.readouterr().err


def test_report_says_what_did_not_converge(tree, dictionary):
    setting = Setting(BARE, tree.states(), dictionary)
    assert train(setting, start_near(dictionary, range(3)), TrainConfig(3000)).report() == "3 of 3 SAEs converged"
    assert (
        train(setting, start_near(dictionary, range(3)), TrainConfig(3))
        .report()
        .startswith("0 of 3 SAEs converged; the")
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"lr": 0.0}, "lr is 0.0; it must be above 0"),
        ({"betas": (0.9, 1.0)}, r"betas is \(0.9, 1.0\)"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1, or None"),
        ({"warmup": 0.6, "cooldown": 0.6}, "cooldown is 0.6; .* with warmup at most 1"),
        ({"tolerance": 0.0}, "tolerance is 0.0"),
        ({"seed": -1}, "seed is -1; it must be at least 0"),
        ({"seed": 10**20}, "below 2"),
        ({"snapshots": (5, 2)}, "whole numbers from 1 to 3000 that strictly increase"),
        ({"snapshots": (0,)}, "whole numbers from 1 to 3000 that strictly increase"),
        ({"snapshots": (3001,)}, "whole numbers from 1 to 3000 that strictly increase"),
        ({"snapshots": (3, 3)}, "whole numbers from 1 to 3000 that strictly increase"),
        ({"clip": 0.0}, "clip is 0.0; it must be above 0, or None"),
    ],
)
def test_bad_schedules(change, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**change)


@pytest.mark.parametrize(
    ("name", "index"), [("W_dec", 3), ("W_dec", np.s_[0, 20]), ("b_enc", "all"), ("b_dec", np.s_[0, 0]), ("W_enc", 1.0)]
)
def test_what_is_held_must_be_there(name, index, tree, dictionary):
    with pytest.raises(ValueError, match=f"held\\['{name}'\\] is .*; for shape"):
        Setting(BARE, tree.states(), dictionary, held={name: index})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dictionary": torch.zeros(2, 20)}, r"the dictionary has shape \(2, 20\); for 3 features"),
        ({"dictionary": None}, "without a dictionary the data must be States whose rows are inputs of 20 numbers"),
        ({"dictionary": torch.full((3, 20), torch.nan)}, "not finite"),
        ({"terms": torch.ones(2, 3)}, r"terms have shape \(2, 3\); .* one for each prefix and state: \(2, 4\)"),
        ({"terms": -torch.ones(2, 4)}, "at least 0"),
        ({"drawn": 2}, "drawn is 2; it must be from 0 to the 1 shorter prefixes"),
        ({"drawn": 1, "terms": torch.ones(2, 4)}, "drawn prefixes go neither with terms"),
        ({"held": {"W_out": ...}}, r"held names \['W_out'\]"),
    ],
)
def test_bad_settings(change, message, tree, dictionary):
    with pytest.raises(ValueError, match=message):
        Setting(**({"sae": BARE, "data": tree.states(), "dictionary": dictionary} | change))


def test_bad_sweeps_and_starts(tree, dictionary):
    setting, start = Setting(BARE, tree.states(), dictionary), start_near(dictionary, range(2))
    with pytest.raises(ValueError, match="no settings were given"):
        train([], start)
    with pytest.raises(ValueError, match="must share d_in and the number of latents"):
        train([setting, replace(setting, sae=replace(BARE, widths=(2, 4)))], start)
    with pytest.raises(ValueError, match=r"start.W_enc has shape \(1, 2, 20, 1\)"):
        train(setting, start_near(dictionary[:1], range(2)))
    with pytest.raises(ValueError, match="zero seeds"):
        train(setting, start[:0])
    with pytest.raises(ValueError, match="can only be sampled"):
        train(replace(setting, data=tree), start)
    with pytest.raises(ValueError, match="dictionaries for 3 seeds, but start holds 2"):
        train(replace(setting, dictionary=dictionary.expand(3, 3, 20)), start)
    with pytest.raises(ValueError, match=r"dtype is torch.float16; it must be torch.float64 or torch.float32"):
        train(setting, start, dtype=torch.float16)
    with pytest.raises(ValueError, match="threads is 0"):
        train(setting, start, threads=0)


@pytest.mark.parametrize("given", ["0", "two", "", "-1", "1.5"])
def test_a_wrong_number_of_threads_in_the_environment_is_named(given, tree, dictionary, monkeypatch):
    monkeypatch.setenv(THREADS, given)
    with pytest.raises(ValueError, match=f"{THREADS} is {given}; it must be at least 1"):
        train(Setting(BARE, tree.states(), dictionary), start_near(dictionary, [0]), TrainConfig(1))


def test_the_environment_says_on_how_many_threads(tree, dictionary, monkeypatch):
    """Eight SAEs of many steps are trained by two threads; with none asked for, by one; an argument goes first."""
    used = set()
    fit = _abreast.fit
    monkeypatch.setattr(_abreast, "fit", lambda *given: (used.add(threading.get_ident()), time.sleep(0.2), fit(*given)))
    setting, start = Setting(BARE, tree.states(), dictionary), start_near(dictionary, range(8))
    for told, asked, threads in [(None, None, 1), ("2", None, 2), ("2", 1, 1)]:
        used.clear()
        monkeypatch.delenv(THREADS, raising=False)
        if told:
            monkeypatch.setenv(THREADS, told)
        train(setting, start, TrainConfig(BRIEF), threads=asked)
        assert len(used) == threads


def test_a_dictionary_in_single_precision_is_taken(tree, dictionary):
    start, single = random_start(BARE, range(2)), dictionary.float()
    runs = [train(Setting(BARE, tree.states(), d), start, TrainConfig(30)).sae.W_dec for d in (single.double(), single)]
    assert torch.equal(*runs)


# descend


@pytest.mark.parametrize("activation", ["relu", "topk", "batchtopk"])
@pytest.mark.parametrize("batch_size", [None, 50])
def test_another_device_goes_through_descend(activation, batch_size, tree, dictionary, monkeypatch):
    """On the CPU by its own road, since no GPU need be here: the same exact results, and samples of the same law."""
    config = replace(BARE, l1=0.1, activation=activation, k=None if activation == "relu" else 1)
    settings = [
        Setting(config, tree.states(), dictionary),
        Setting(config, tree.states(), dictionary, held={"W_dec": 0}),
    ]
    start, schedule = random_start(config, range(4)), TrainConfig(60, batch_size=batch_size, snapshots=(9,))
    ours = train(settings, start, schedule)
    each = training.fitting(settings, start, schedule, torch.float64)
    other = training._train_by_autograd(settings, each, schedule, "cpu", torch.float64, False)
    assert other.sae.instances == ours.sae.instances and other.path.instances == ours.path.instances
    assert other.history.shape == ours.history.shape and other.sae.config == ours.sae.config
    x = tree.states().inputs(dictionary)
    exact = torch.stack([other.sae[i].loss(x, tree.states().probs) for i in range(2)])
    assert torch.allclose(other.loss, exact, rtol=0, atol=1e-12), "the last word is exact on states"
    if batch_size is None:
        assert torch.allclose(other.sae.W_dec, ours.sae.W_dec, rtol=0, atol=1e-8)
        assert torch.allclose(other.grad_norm, ours.grad_norm, rtol=0, atol=1e-8)


def test_descend_leaves_alone_what_is_held():
    dictionary = orthonormal_dictionary(3, 20, 0)
    states, config = family(0.3, 0.4).states(), SAEConfig(20, (1, 3))
    start, x = random_start(config, range(4)), states.inputs(dictionary)
    held = {"b_enc": ..., "W_dec": np.s_[..., 0, :]}
    run = descend(lambda sae: sae.loss(x, states.probs), start, TrainConfig(50), held=held)
    assert torch.equal(run.sae.b_enc, start.b_enc) and torch.equal(run.sae.W_dec[:, 0], start.W_dec[:, 0])
    assert not torch.equal(run.sae.W_dec[:, 1], start.W_dec[:, 1]) and not torch.equal(run.sae.b_dec, start.b_dec)


def test_descend_refuses_what_it_cannot_use():
    start = random_start(SAEConfig(4, (2,)), range(3))
    with pytest.raises(ValueError, match=r"held names \['W_out'\]; the parameters of an SAE are \['W_enc'"):
        descend(lambda sae: sae.b_dec.sum(-1), start, held={"W_out": ...})
    with pytest.raises(ValueError, match=r"gave shape \(\) for instances of shape \(3,\); sum over states"):
        descend(lambda sae: sae.W_dec.square().sum(), start, TrainConfig(2))


def test_independent_features_are_recovered_where_a_hierarchy_is_mixed(tree, dictionary):
    """The negative control of the whole report, and proof that it can fail: the same test on the hierarchy."""
    from matryoshka_mixing.features import without_hierarchy

    narrow = SAEConfig(20, (1,), encoder_bias=False, decoder_bias=True)
    for data, mixed in [(without_hierarchy(tree), False), (tree, True)]:
        start = start_near(dictionary[:1], range(8))
        run = train(Setting(narrow, data.states(), dictionary), start, TrainConfig(1500))
        foreign = torch.nn.functional.normalize(run.sae.W_dec[0, :, 0], dim=-1) @ dictionary[1:].T
        assert (foreign.abs() > 0.1).all() if mixed else (foreign.abs() < 1e-6).all()


def test_snapshots_are_what_a_shorter_run_returns(tree, dictionary):
    setting, start = Setting(BARE, tree.states(), dictionary), random_start(BARE, range(5))
    schedule = {"warmup": 0, "cooldown": 0}
    run = train([setting] * 2, start, TrainConfig(20, snapshots=(3, 20), **schedule))
    assert run.path.instances == (2, 5, 2)
    for i, steps in enumerate((3, 20)):
        short = train([setting] * 2, start, TrainConfig(steps, **schedule)).sae
        assert all(torch.equal(run.path[:, :, i].parameters[name], short.parameters[name]) for name in short.parameters)
    assert train(setting, start, TrainConfig(5)).path.instances == (1, 5, 0)


def test_settings_of_one_configuration_keep_their_axis(tree, dictionary):
    setting = Setting(BARE, tree.states(), dictionary)
    run = train([setting, setting], random_start(BARE, range(5)), TrainConfig(3))
    assert run.sae.instances == (2, 5) and isinstance(run.sae, SAE) and run.sae.config == BARE


def test_a_threshold_does_not_outlive_the_training_that_found_it(tree, dictionary):
    """What `descend` trains on is no longer the SAE whose threshold it was."""
    config = SAEConfig(20, (1, 3), activation="batchtopk", k=0.5)
    states, x = tree.states(), tree.states().inputs(dictionary)
    trained = train(Setting(config, states, dictionary), random_start(config, range(2)), TrainConfig(5)).sae[0]
    assert trained.threshold is not None
    found = descend(lambda sae: sae.loss(x, states.probs), trained, TrainConfig(2, snapshots=(1,)))
    assert found.sae.threshold is None and found.path.threshold is None and found.sae.config == config


@pytest.mark.parametrize("device", [None, torch.device("cpu"), "cpu"])
def test_the_cpu_by_any_name_is_the_compiled_trainer(device, tree, dictionary):
    config = SAEConfig(20, (1, 3))
    given = Setting(config, tree.states(), dictionary), random_start(config, range(2)), TrainConfig(5, batch_size=8)
    assert torch.equal(train(*given, device=device).sae.W_dec, train(*given).sae.W_dec)
