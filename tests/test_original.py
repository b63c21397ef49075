import hashlib
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_kernel import CPUS

from matryoshka_mixing import _batches, _kernel, _random, metrics, original, theory
from matryoshka_mixing.features import FeatureTree, States, family, independent, twenty_feature_tree, without_hierarchy
from matryoshka_mixing.original import Arm, Recipe, Toys, _loop, arms, fit, stored
from matryoshka_mixing.original.measures import EDGES
from matryoshka_mixing.sae import SAE, TRAINED, SAEConfig

SHORT = Recipe(steps=400, warmup=0.05, ramp=0.05, records=400)
"""Rounding errors of 1e-16 grow to 1e-7 in 40 steps, of which 20 are past the ramp."""
NAMES = ["standard", "sampled", "all prefixes", "sampled, moments follow", "sampled, sorting mended"]
CHOSEN = [arms()[name] for name in NAMES]

GRANDCHILD = FeatureTree(0.4, (FeatureTree(0.5, (FeatureTree(0.5),)), FeatureTree(0.3)), True)
TREES = {
    "magnitudes vary": (*family(0.3, 0.25, 3).children, FeatureTree(0.2, magnitude_std=0.3)),
    "too many states": (*family(0.3, 0.25, 3).children, *[FeatureTree(0.2)] * 17),
    "one family, of two features": family(0.4, 0.5, 1).children,
    "independent children, and an unread leaf": (
        *family(0.3, 0.2, 3, exclusive=False).children, FeatureTree(0.4, is_read_out=False),
    ),
    "grandchildren": (GRANDCHILD, FeatureTree(0.1)),
}  # fmt: skip
TREES = {name: FeatureTree(1.0, children, is_read_out=False) for name, children in TREES.items()}
TREES["one family, the root read out"] = FeatureTree(0.5, (FeatureTree(0.4), FeatureTree(0.3)), True)


@pytest.fixture(scope="module")
def post():
    return twenty_feature_tree()


def batches(tree, recipe, seed):
    """The batches that a seed draws: activations of the features (rows, features), and the rows' weights."""
    stream, n = _random.stream(recipe.seed, seed, _random.BATCHES), tree.n_features
    listed = tree.states() if tree.can_list() else None
    size = recipe.batch_size
    inputs = (
        _batches.state_inputs(listed, False, 0, np.float64, size) if listed else _batches.tree_inputs(tree, np.float64)
    )
    room = _batches.room(inputs, size, n)
    while True:
        rows = _batches.draw(room, inputs, size, stream)
        if listed:
            acts = listed.acts[room.state[:rows]]
        else:
            acts = torch.zeros(rows, n, dtype=torch.float64)
            for row in range(rows):
                for i in range(room.start[row], room.start[row + 1]):
                    acts[row, room.feature[i]] = room.value[i]
        yield acts, torch.tensor(room.weight[:rows])


def drawn_prefixes(arm, recipe, seed):
    """The weights of the prefixes that a seed draws."""
    stream, n = _random.stream(recipe.seed, seed, _random.PREFIXES), len(arm.weights)
    reach, law = np.zeros(n + 1), np.array(arm.weights)
    loss = _kernel.Loss(
        reach, reach.copy(), False, 0, 0.0, _kernel.RELU, 0.0, True, True, np.arange(1, n + 1), law, n, arm.drawn
    )
    while True:
        _batches.draw_prefixes(loss, n, stream, np.zeros(n))
        yield tuple((reach[1:] - np.append(reach[2:], 0)).clip(0).tolist())


def by_a_plain_loop(tree, arm, seed, recipe, until):
    """The recipe once more, with autograd and torch's Adam: SAE, scale of inputs, penalty, L0 of each step."""
    n = tree.n_features
    dictionary = original.jittered_dictionary(n, n, seed)
    sae = original.original_start(n, n, seed).map(lambda parameter: parameter.clone().requires_grad_())
    parameters = list(sae.parameters.values())
    adam = torch.optim.Adam(parameters, lr=1.0, betas=recipe.betas)
    norm, loudness, l1, ramp, history = 0.0, torch.zeros(n, dtype=torch.float64), arm.l1, recipe.ramp * recipe.steps, []
    prefixes = drawn_prefixes(arm, recipe, seed)
    for step, (acts, probs) in zip(range(until), batches(tree, recipe, seed), strict=False):
        x = acts @ dictionary
        norm = recipe.norm_memory * norm + (1 - recipe.norm_memory) * float(probs @ x.norm(dim=-1))
        x = x * n**0.5 / norm
        weights = next(prefixes) if arm.drawn else arm.weights
        config = SAEConfig(n, tuple(range(1, n + 1)), weights, l1=l1 * min(1.0, step / ramp))
        adam.param_groups[0]["lr"] = recipe.learning_rate(step)
        adam.zero_grad()
        sae.loss(x, probs, config).backward()
        torch.nn.utils.clip_grad_norm_(parameters, recipe.clip)
        with torch.no_grad():
            acts = sae.encode(x)
            l0 = float(probs @ (acts > 0).double().sum(-1))
            size = probs @ (acts * sae.W_dec.norm(dim=-1)).square()
        adam.step()
        if step >= ramp and arm.target_l0 is not None:
            l1 *= 1 + (1 if l0 > arm.target_l0 - 1e-9 else -1) * recipe.steering / recipe.steps
        loudness = recipe.sort_memory * loudness + (1 - recipe.sort_memory) * size
        history.append(l0)
        if arm.sort:
            order = loudness.argsort(descending=True, stable=True)
            moved = [(sae.W_enc.data, 1), (sae.b_enc.data, 0), (sae.W_dec.data, 0)]
            if arm.moments_follow:
                states = [adam.state[parameter] for parameter in (sae.W_enc, sae.b_enc, sae.W_dec)]
                moved += [
                    (s[k], axis) for s, (_, axis) in zip(states, moved, strict=True) for k in ("exp_avg", "exp_avg_sq")
                ]
            for tensor, axis in moved:
                tensor.copy_(tensor.index_select(axis, order))
            if arm.mean_follows:
                loudness = loudness[order]
    return sae.map(torch.Tensor.detach), n**0.5 / norm, l1, history


@pytest.mark.parametrize(("name", "tree"), [*((name, None) for name in NAMES), ("sampled", "magnitudes vary")])
def test_the_recipe_agrees_with_a_plain_loop_of_its_parts(name, tree, post):
    until, tree, arm = 40, TREES[tree] if tree else post, arms(TREES[tree].n_features if tree else 20)[name]
    toys = fit(tree, [arm], [3], SHORT, until=until)
    plain, scale, l1, history = by_a_plain_loop(tree, arm, 3, SHORT, until)
    found = toys.sae[0, 0]
    assert toys.l0[:, 0, 0].numpy() == pytest.approx(history, abs=1e-12)
    assert torch.allclose(found.W_enc / scale, plain.W_enc, rtol=0, atol=1e-6)
    assert torch.allclose(found.b_enc, plain.b_enc, rtol=0, atol=1e-6)
    assert torch.allclose(found.W_dec * scale, plain.W_dec, rtol=0, atol=1e-6)
    assert torch.allclose(found.b_dec * scale, plain.b_dec, rtol=0, atol=1e-6)
    assert float(toys.l1[0, 0]) == pytest.approx(l1 / scale, abs=1e-12) and l1 != arm.l1


def test_no_two_of_those_arms_are_the_same(post):
    decoders = fit(post, CHOSEN, [3], SHORT, until=40).sae.W_dec[:, 0]
    gaps = torch.cdist(decoders.flatten(1), decoders.flatten(1)).fill_diagonal_(torch.inf)
    assert gaps.min() > 1e-3


def test_rows_are_carried_to_their_places():
    stream = np.random.default_rng(0)
    for n in (1, 2, 3, 8, 20):
        for _ in range(50):
            order, values = stream.permutation(n), stream.normal(size=5 + 3 * n)
            expected = np.append(values[:5], values[5:].reshape(n, 3)[order].ravel())
            _loop.carry(values, 5, 3, order, n)
            assert (values == expected).all()


def test_a_batch_at_the_target_has_reached_it_however_its_shares_are_rounded():
    for size, target in [(170, 0.85), (224, 1.12)]:
        for order in (np.arange(size), np.arange(size)[::-1]):
            for shares in ([1 / 200] * size, (order % 7 + 1.0) / (order % 7 + 1.0).sum() * target):
                l1 = np.ones(1)
                _loop.steer(_loop.Steering(l1, 0.0, 0.25, target), 0, float(np.cumsum(shares)[-1]))
                assert l1[0] == 1.25
    for step, l0, expected in [(9, 2.0, 1.0), (10, 2.0, 1.25), (10, 0.845, 0.75)]:
        l1 = np.ones(1)
        _loop.steer(_loop.Steering(l1, 10.0, 0.25, 0.85), step, l0)
        assert l1[0] == expected


def test_an_sae_is_the_same_in_any_company_and_on_any_number_of_threads(post):
    both, alone = (
        fit(post, CHOSEN[:3], [0, 1], SHORT, until=200, threads=2),
        fit(post, CHOSEN[1:2], [1], SHORT, until=200),
    )
    for name in TRAINED:
        assert torch.equal(getattr(both.sae[1, 1], name), getattr(alone.sae[0, 0], name))
    for name in ("l0", "penalty", "child_cosine"):
        assert torch.equal(getattr(both, name)[:, 1, 1], getattr(alone, name)[:, 0, 0])
    assert torch.equal(both.together[1, 1], alone.together[0, 0])
    assert not torch.equal(both.dictionary[0], both.dictionary[1])


def test_arms_of_a_seed_begin_alike_and_other_recipe_seeds_draw_other_batches(post):
    toys, other = (fit(post, CHOSEN, [0], recipe, until=1) for recipe in (SHORT, replace(SHORT, seed=1)))
    assert (toys.l0 == toys.l0[:, :1]).all() and not torch.equal(toys.l0, other.l0)
    assert torch.equal(toys.dictionary, other.dictionary)


def test_a_start_has_nothing_to_do_with_the_directions():
    start, truth = original.original_start(20, 20, 0), original.jittered_dictionary(20, 20, 0)
    assert metrics.decoder_cosines(start, truth).abs().max() < 0.8
    gram = truth @ truth.T
    assert torch.allclose(gram, torch.diag(gram.diagonal()), atol=1e-14)
    norms = torch.cat([original.jittered_dictionary(20, 20, seed).norm(dim=-1) for seed in range(50)])
    assert float(norms.mean()) == pytest.approx(1, abs=0.005) and float(norms.std()) == pytest.approx(0.05, rel=0.1)


def test_the_schedule_of_the_original():
    schedule = Recipe()
    rates = [schedule.learning_rate(step) for step in (0, 50, 100, 31_999, 36_000, 40_000)]
    assert rates == pytest.approx([0, 0.015, 0.03, 0.03, 0.0165, 0.003])
    assert schedule.steering / schedule.steps == pytest.approx(0.0003)


def test_the_law_of_the_prefixes():
    arm, steps = arms()["sampled"], 20_000
    prefixes = drawn_prefixes(arm, SHORT, 0)
    weights = np.array([next(prefixes) for _ in range(steps)])
    drawn = weights > 0.05
    assert np.allclose(weights[drawn], 0.1) and (drawn.sum(1) == 10).all() and drawn[:, -1].all()
    chance = 10 * np.array(arm.expected)
    assert chance[:3] == pytest.approx([0.9558, 0.7497, 0.6559], abs=1e-4), (
        "checked against draws of numpy's own choice"
    )
    assert np.abs(drawn.mean(0) - chance).max() < 5 * (0.25 / steps) ** 0.5
    assert sum(arm.expected) == pytest.approx(1)


@pytest.mark.parametrize("latents", [1, 2, 3, 4, 8, 20])
def test_weights_add_up_to_one_however_few_latents_there_are(latents):
    for arm in arms(latents).values():
        assert (
            len(arm.weights) == latents
            and sum(arm.weights) == pytest.approx(1)
            and sum(arm.expected) == pytest.approx(1)
        )
    few = [m + 1 for m, weight in enumerate(arms(latents)["few prefixes"].weights) if weight]
    assert few == {1: [1], 2: [1, 2], 3: [1, 3], 4: [1, 2, 4], 8: [2, 4, 8], 20: [5, 10, 20]}[latents]


def test_the_tree_of_the_post(post):
    states = post.states()
    assert post.n_features == 20 and post.parents().count(None) == 11 and len(states) == 5**3 * 2**8
    # Three families of 0.15 (1 + 0.6) and eight features of 0.05.
    assert float(states.probs @ states.acts.sum(1)) == pytest.approx(1.12)


@pytest.mark.parametrize("name", TREES)
def test_every_tree_trains_in_every_arm_and_its_control_too(name):
    tree = TREES[name]
    chosen = arms(tree.n_features, 1.2, 1.0, 0.8)
    chosen |= original.independent_arms({key: chosen[key] for key in ("standard", "sampled", "few prefixes")})
    found = original.compute(tree, [0, 1], replace(SHORT, steps=60, records=5), chosen)
    assert found["l0"].shape == (len(chosen), 2) and (found["l0"] > 0).any(1).all()
    n, pairs = tree.n_features, sum(parent is not None for parent in tree.parents())
    assert found["own"].shape == (len(chosen), 2, n) and found["parent_to_child"].shape == (len(chosen), 2, pairs)
    assert found["child_path"].shape == (len(chosen), 2, 5)
    for key, values in found.items():
        judged = key in (*EDGES, "absorption")  # NaN where a parent is missing
        assert values.dtype.kind == "U" or np.isfinite(values).all() or judged, key


def test_batches_of_nothing_change_nothing():
    """Without any feature in any batch so far there is no norm to divide by, and nothing to learn."""
    rare = FeatureTree(1.0, family(1e-9, 0.5).children, is_read_out=False)
    toys = fit(rare, [arms(3)["sampled"]], [0], replace(SHORT, batch_size=2), until=30)
    assert torch.equal(toys.sae.W_enc[0, 0], original.original_start(3, 3, 0).W_enc.index_select(1, torch.arange(3)))
    assert (toys.l0 == 0).all()


def toys_of(sae, dictionary, together=None):
    """One SAE as if it had been trained."""
    k = sae.W_dec.shape[0]
    together = torch.ones(k, k).double() if together is None else together
    sae = SAE(*(value[None, None] for value in sae.parameters.values()), sae.config)
    none = torch.zeros(1, 1, 1).double()
    return Toys(sae, dictionary[None], none[0], together[None, None], [0], none, none, none)


def test_what_is_measured_on_hand_made_saes(post):
    truth, config = original.jittered_dictionary(20, 20, 0), SAEConfig(20, (20,))
    zeros = torch.zeros(20).double()
    encoder = (truth / truth.square().sum(-1, keepdim=True)).T
    clean = SAE(encoder, zeros, truth, zeros, config)
    found = original.measure(toys_of(clean, truth), post.states(), post.parents())
    assert found["own"] == pytest.approx(1) and found["l0"] == pytest.approx(1.12)
    assert found["absorption"] == pytest.approx(0, abs=1e-9) and found["missing"] == found["dead"] == 0
    assert found["error"] == pytest.approx(0, abs=1e-20) and found["parent_to_child"] == pytest.approx(0, abs=1e-9)
    assert found["alone"] == pytest.approx(1) and found["blamed"] == pytest.approx(0)

    absorbing, encoder = truth.clone(), encoder.clone()
    for child, parent in enumerate(post.parents()):
        if parent is not None:
            absorbing[child] += truth[parent]
            encoder[:, parent] -= encoder[:, child]
    absorbed = SAE(encoder, zeros, absorbing, zeros, config)
    found = original.measure(toys_of(absorbed, truth), post.states(), post.parents())
    assert found["absorption"] == pytest.approx(1) and found["l0"] == pytest.approx(0.85)
    assert found["child_to_parent"] == pytest.approx(0.5**0.5, abs=0.1) and found["error"] == pytest.approx(
        0, abs=1e-20
    )

    hidden = SAE(encoder, zeros - 10 * torch.eye(20)[0].double(), absorbing, zeros, config)
    found = original.measure(toys_of(hidden, truth), post.states(), post.parents())
    assert [float(found[name][0, 0]) for name in ("missing", "dead")] == [1, 1]


def test_features_without_a_latent_are_missing(tree):
    truth, zeros = original.jittered_dictionary(3, 3, 0), torch.zeros(2).double()
    encoder = (truth / truth.square().sum(-1, keepdim=True)).T
    two = SAE(encoder[:, :2], zeros, truth[:2], torch.zeros(3).double(), SAEConfig(3, (2,)))
    found = original.measure(toys_of(two, truth), tree.states(), tree.parents())
    assert found["missing"] == 1 and np.isnan(found["own"][0, 0]).tolist() == [False, False, True]
    assert np.isnan(found["blamed"][0, 0]).tolist() == [False, True]
    alone, blamed = (torch.from_numpy(found[key]) for key in ("alone", "blamed"))
    theirs = original.predicted(tree.states(), tree.parents(), alone, blamed, truth.norm(dim=-1))
    assert theirs.isnan().all()


def test_the_predicted_cosines_are_those_of_the_top_eigenvector():
    tree, weights = family(0.3, [0.1, 0.2, 0.3], 3), (0.4, 0.1, 0.2, 0.3)
    states = tree.states()
    optimum = theory.matryoshka_optimum(states, range(4), (1, 2, 3, 4), weights)
    alone, blamed = torch.ones(3).double(), torch.tensor([0.4, 0.5, 0.7], dtype=torch.float64)
    found = original.predicted(states, tree.parents(), alone, blamed, torch.ones(4).double())
    assert found.numpy() == pytest.approx(optimum[1:].numpy(), abs=1e-12)
    louder = torch.tensor([1.0, 1.0, 1.0, 1.1], dtype=torch.float64)
    assert original.predicted(states, tree.parents(), alone, blamed, louder)[2] > found[2]
    loose = family(0.3, 0.4, 3, exclusive=False)
    none = original.predicted(loose.states(), loose.parents(), alone, blamed, torch.ones(4).double())
    assert none.isnan().all()


def test_how_many_features_are_active_if_parents_are_absorbed(post):
    assert original.natural_l0(post.states(), post.parents()) == pytest.approx((1.12, 0.85))


def test_what_latents_share_follows_them_through_the_sorting(post):
    """With a sort that hardly moves at the end, what is shared is that of the final ranks."""
    mended = replace(arms()["all prefixes"], mean_follows=True, moments_follow=True)
    toys = fit(post, [mended], [0], replace(SHORT, sort_memory=0.9999))
    ranks = torch.arange(20.0).double()
    expected = (20 - torch.maximum(ranks[:, None], ranks)) / 20
    assert torch.allclose(toys.together[0, 0], expected, rtol=0, atol=0.1)
    assert metrics.match(toys.together[0, 0]).unique().numel() == 20


def test_trees_too_large_to_list_are_sampled():
    many = independent([0.3] * 20)
    states = original.every_input(many, 5000)
    assert isinstance(states, States) and len(states) == 5000
    assert float((states.probs @ states.acts).mean()) == pytest.approx(0.3, abs=0.01)
    toys = fit(many, CHOSEN[:1], [0], SHORT, until=20)
    assert toys.sae.W_dec.isfinite().all() and toys.child_cosine.isnan().all()
    toys = fit(many, CHOSEN[:1], [0], SHORT, parents=twenty_feature_tree().parents(), until=20)
    assert toys.child_cosine.isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Recipe(steps=0), "steps is 0"),
        (lambda: Recipe(batch_size=0), "batch_size is 0"),
        (lambda: Recipe(cooldown=1.5), "cooldown is 1.5"),
        (lambda: Recipe(steps=12), "below the number of steps, 12"),
        (lambda: Recipe(norm_memory=1.0), "norm_memory is 1.0"),
        (lambda: Recipe(sort_memory=-0.1), "sort_memory is -0.1"),
        (lambda: Recipe(final_lr=2.0), "final_lr is 2.0"),
        (lambda: Recipe(ramp=-0.1), "ramp is -0.1"),
        (lambda: Arm(()), "at least 0 for each latent"),
        (lambda: Arm((1.0, -1.0)), "at least 0 for each latent"),
        (lambda: Arm((0.0, 1.0), drawn=1), "a chance above 0"),
        (lambda: Arm((1.0, 1.0), drawn=2), "drawn is 2"),
        (lambda: Arm((1.0,), l1=-1.0), "l1 is -1.0"),
        (lambda: Arm((1.0,), target_l0=-1.0), "target_l0 is -1.0"),
        (lambda: arms(0), "latents is 0"),
        (lambda: fit(family(0.3, 0.4), [], [0]), "0 arms were given"),
        (lambda: fit(family(0.3, 0.4), [Arm((1.0,)), Arm((1.0, 1.0))], [0]), "all with as many latents"),
        (lambda: fit(family(0.3, 0.4), [Arm((1.0,))], []), "seeds are"),
        (lambda: fit(family(0.3, 0.4), [Arm((1.0,))], [-1]), "seeds are"),
        (lambda: fit(family(0.3, 0.4), [Arm((1.0,))], [0], until=0), "until is 0"),
        (lambda: fit(family(0.3, 0.4), [Arm((1.0,))], [0], threads=0), "threads is 0"),
        (lambda: original.compute(independent([0.3, 0.2]), [0], SHORT, arms(2)), "no feature of the tree has a child"),
    ],
)
def test_what_makes_no_sense_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


TINY = Recipe(steps=20, records=3)
"""What the tests of storing train."""


class Counted:
    """`compute`, which notes the seeds it is asked for, and is interrupted at one of them."""

    def __init__(self, fatal=None):
        self.seeds, self.fatal, self.compute = [], fatal, original.compute

    def __call__(self, tree, seeds, *rest, **options):
        self.seeds += seeds
        if seeds == [self.fatal]:
            raise KeyboardInterrupt
        return self.compute(tree, seeds, *rest, **options)


def test_a_run_that_was_interrupted_goes_on_and_ends_with_the_same_file(tmp_path, monkeypatch):
    tree, chosen = family(0.3, 0.4), arms(3)
    chosen |= original.independent_arms({"standard": chosen["standard"]})
    whole, output, waiting = tmp_path / "whole.npz", tmp_path / "parts.npz", tmp_path / "parts.npz.seeds"
    stored.store(whole, tree, range(3), TINY, chosen)
    monkeypatch.setattr(stored, "compute", Counted(fatal=1))
    with pytest.raises(KeyboardInterrupt):
        stored.store(output, tree, range(3), TINY, chosen)
    assert not output.exists() and [path.name for path in waiting.iterdir()] == ["0.npz"]
    monkeypatch.setattr(stored, "compute", counted := Counted())
    stored.store(output, tree, range(3), TINY, chosen, threads=2)
    assert counted.seeds == [1, 2]
    assert output.read_bytes() == whole.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["parts.npz", "whole.npz"]


def test_seeds_of_another_run_and_damaged_ones_are_computed_anew(tmp_path, monkeypatch):
    tree, chosen, output = family(0.3, 0.4), {"standard": arms(3)["standard"]}, tmp_path / "run.npz"
    waiting = tmp_path / "run.npz.seeds"
    monkeypatch.setattr(stored, "compute", Counted(fatal=1))
    with pytest.raises(KeyboardInterrupt):
        stored.store(output, tree, range(2), replace(TINY, steps=21), chosen)
    (waiting / "1.npz").write_bytes((waiting / "0.npz").read_bytes()[:100])
    monkeypatch.setattr(stored, "compute", counted := Counted())
    stored.store(output, tree, range(2), TINY, chosen)
    assert counted.seeds == [0, 1] and not waiting.exists()
    found = original.load(output)
    assert found["steps"].tolist() == [0, 10, 19] and found["seeds"].tolist() == [0, 1]
    assert (found["l0"][:, :1] == original.compute(tree, [0], TINY, chosen)["l0"].astype(np.float32)).all()


def test_the_command_writes_where_it_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = stored.STORED.read_bytes()
    original.main(["--seeds", "1", "--steps", "20", "--jobs", "1"])
    assert [path.name for path in tmp_path.iterdir()] == ["every_prefix.npz"] and stored.STORED.read_bytes() == before
    found = original.load("every_prefix.npz")
    assert list(found["names"]) == list(original.load()["names"])
    assert {key: value.shape[2:] for key, value in found.items() if value.ndim > 2 and "path" not in key} == {
        key: value.shape[2:] for key, value in original.load().items() if value.ndim > 2 and "path" not in key
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds is 0"),
        (["--jobs", "0"], "--jobs 0"),
        (["--steps", "0"], "steps is 0"),
        (["--steps", "12"], "below the number of steps"),
        (["--output", "nowhere/run.npz"], "cannot be written"),
        (["--output", "."], "cannot be written"),
        (["--seeds", "few"], "invalid int value"),
    ],
)
def test_the_command_refuses_before_it_starts(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        original.main(arguments)
    assert exit.value.code == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def run():
    return original.load()


def test_what_is_stored_is_plain_and_in_full_length(run):
    assert list(run["names"]) == list(stored.stored_arms()) and len(run["seeds"]) == 32
    assert run["steps"][-1] == Recipe.steps - 1 and len(run["steps"]) == Recipe.records
    finite = [
        np.isfinite(values).all()
        for key, values in run.items()
        if values.dtype.kind == "f" and key not in (*EDGES, "absorption")
    ]
    assert all(finite) and all((np.nan_to_num(run[key]) <= 1).all() for key in EDGES)


def test_what_is_stored_is_what_its_parameters_measure(run, post):
    """All parameters of the first seed are stored; every number of that seed is computed again from them."""
    names = [str(name) for name in run["names"] if not name.endswith("independent")]
    parameters = (torch.from_numpy(run[f"first_{key}"][: len(names), None]) for key in TRAINED)
    zeros, none = torch.zeros(len(names), 1).double(), torch.zeros(1, len(names), 1).double()
    toys = Toys(
        SAE(*parameters, SAEConfig(20, (20,))), original.jittered_dictionary(20, 20, int(run["seeds"][0]))[None], zeros,
        zeros[..., None, None].expand(-1, -1, 20, 20), [0], none, none, none,
    )  # fmt: skip
    found = original.measure(toys, post.states(), post.parents())
    for key in set(found) - {"l1", "alone", "blamed"}:
        assert found[key][:, 0] == pytest.approx(run[key][: len(names), 0], abs=1e-5, nan_ok=True), key


BEGUN = ("sampled", "standard", "all prefixes, independent")
"""The arms whose beginning is compared."""


def beginning(name, seed, until):
    """The first steps of an arm of the stored run."""
    tree = twenty_feature_tree()
    data = without_hierarchy(tree) if "independent" in name else tree
    return fit(data, [stored.stored_arms()[name]], [seed], parents=tree.parents(), until=until)


def digest(until):
    """Of all that training leaves behind, bit by bit."""
    whole = hashlib.sha256()
    for toys in (beginning(name, 7, until) for name in BEGUN):
        for tensor in (*toys.sae.parameters.values(), toys.l0, toys.penalty):
            whole.update(tensor.numpy().tobytes())
    return whole.hexdigest()


@pytest.mark.parametrize("name", BEGUN)
def test_what_is_stored_began_as_it_begins_here(name, run):
    """The first records of a seed, the same to the last bit on every CPU."""
    seed, until = 7, int(run["steps"][1]) + 1
    begun, row = beginning(name, int(run["seeds"][seed]), until), (list(run["names"]).index(name), seed, slice(2))
    assert begun.steps == run["steps"][:2].tolist()
    assert begun.l0[:, 0, 0].float().tolist() == run["l0_path"][row].tolist()
    assert begun.penalty[:, 0, 0].float().tolist() == run["l1_path"][row].tolist()
    assert begun.child_cosine[:, 0, 0].tolist() == pytest.approx(run["child_path"][row].tolist(), abs=1e-6)


def test_the_same_bits_on_another_cpu(request):
    """What numba, PyTorch and NumPy do on an older one; its compiled code is kept for the next run of the tests."""
    there = os.environ | CPUS["another BLAS"] | {"PYTHONPATH": os.pathsep.join(sys.path)}
    there["NUMBA_CACHE_DIR"] = str(request.config.cache.mkdir("numba-another-BLAS"))
    code = "import test_original as t; print(t.digest(817))"
    done = subprocess.run([sys.executable, "-c", code], env=there, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == digest(817)


def test_parts_join_along_the_seeds():
    part = {"names": np.array(["a"]), "steps": np.arange(3), "seeds": np.array([0]), "l0": np.ones((1, 1))}
    whole = stored.joined([part, part | {"seeds": np.array([1]), "l0": np.zeros((1, 1))}])
    assert whole["seeds"].tolist() == [0, 1] and whole["l0"][0].tolist() == [1, 0]
