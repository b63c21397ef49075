from dataclasses import replace

import numpy as np
import pytest
import torch

from matryoshka_mixing import metrics, recipe, theory
from matryoshka_mixing.features import States, family, independent, twenty_feature_tree
from matryoshka_mixing.recipe import Arm, Recipe, _Toys, arms, drawn_reach, fit
from matryoshka_mixing.sae import SAE, TRAINED, SAEConfig

SHORT = Recipe(steps=400, warmup=0.05, ramp=0.05)
"""Rounding errors of 1e-16 grow to 1e-7 in 40 steps, of which 20 are past the ramp, and to 1e-5 in 120."""
NAMES = ["standard", "sampled", "all prefixes", "sampled, moments follow", "sampled, sorting mended"]
CHOSEN = [arms()[name] for name in NAMES]


@pytest.fixture(scope="module")
def post():
    return twenty_feature_tree()


def prefix_weights(reach):
    """The weight of each prefix, from that of all prefixes that hold a latent."""
    return reach - torch.cat([reach[1:], reach.new_zeros(1)])


def test_all_twenty_prefixes_cost_one_and_agree_with_the_plain_loop_over_them(post):
    run = _Toys(post, CHOSEN, [0, 1], SHORT)
    run.theta += 0.3 * torch.randn(run.theta.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    run.theta *= (run.trained > 0) | (run.theta == 0)
    x, probs, reach = next(run.draws())
    run.hold(reach)
    run.penalty = 0.1 * run.reach
    x, probs = x.repeat(len(CHOSEN), 1, 1), probs.repeat(len(CHOSEN), 1)
    with torch.inference_mode():
        loss = run.loss_and_gradient(x, probs)
    leaves = run.result().map(lambda parameter: parameter.clone().requires_grad_())
    for i in range(len(loss)):
        weights = tuple(prefix_weights(run.reach[i]).clamp_min(0).tolist())
        expected = leaves[i].loss(x[i, :, :-1], probs[i], SAEConfig(20, tuple(range(1, 21)), weights, l1=0.1))
        assert float(loss[i]) == pytest.approx(expected.item(), abs=1e-12)
        expected.backward()
    assert torch.allclose(run.gradient[:, :20, :-1].mT, leaves.W_enc.grad, rtol=0, atol=1e-12)
    assert torch.allclose(run.gradient[:, 21:, :-1], leaves.W_dec.grad, rtol=0, atol=1e-12)
    assert torch.allclose(run.gradient[:, 20, :-1], leaves.b_dec.grad, rtol=0, atol=1e-12)
    assert torch.allclose(run.gradient[:, :20, -1], leaves.b_enc.grad, rtol=0, atol=1e-12)


def by_a_plain_loop(tree, arm, seed, schedule, until):
    """The recipe once more, one SAE at a time, with autograd and torch's own Adam and clipping."""
    n = tree.n_features
    sae = recipe.original_start(n, n, seed).map(lambda parameter: parameter.clone().requires_grad_())
    parameters = list(sae.parameters.values())
    adam = torch.optim.Adam(parameters, lr=1.0, betas=schedule.betas)
    norm, loudness, l1 = 0.0, torch.zeros(n, dtype=torch.float64), arm.l1
    batches = _Toys(tree, [arm], [seed], schedule).draws()
    for step in range(until):
        x, probs, reach = (tensor[0] for tensor in next(batches))
        x = x[:, :-1]
        norm = schedule.norm_memory * norm + (1 - schedule.norm_memory) * float(probs @ x.norm(dim=-1))
        x = x * n**0.5 / norm
        ramped = l1 * min(1.0, step / (schedule.ramp * schedule.steps))
        weights = tuple(prefix_weights(reach).clamp_min(0).tolist()) if arm.drawn else arm.weights
        adam.param_groups[0]["lr"] = schedule.learning_rate(step)
        adam.zero_grad()
        sae.loss(x, probs, SAEConfig(n, tuple(range(1, n + 1)), weights, l1=ramped)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, schedule.clip)
        with torch.no_grad():
            acts = sae.encode(x)
            l0 = float(probs @ (acts > 0).double().sum(-1))
            size = probs @ (acts * sae.W_dec.norm(dim=-1)).square()
        adam.step()
        if step >= schedule.ramp * schedule.steps and arm.target_l0 is not None:
            l1 *= 1 + (1 if l0 >= arm.target_l0 else -1) * schedule.steering / schedule.steps
        loudness = schedule.sort_memory * loudness + (1 - schedule.sort_memory) * size
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
    return sae.map(torch.Tensor.detach), norm, l1


def test_the_recipe_agrees_with_a_plain_loop_of_its_parts(post):
    until = 40
    toys = fit(post, CHOSEN, [3], SHORT, until=until)
    for i, arm in enumerate(CHOSEN):
        plain, norm, l1 = by_a_plain_loop(post, arm, 3, SHORT, until)
        scale = 20**0.5 / norm
        found = toys.sae[i, 0]
        assert torch.allclose(found.W_enc, plain.W_enc * scale, rtol=0, atol=1e-6), NAMES[i]
        assert torch.allclose(found.b_enc, plain.b_enc, rtol=0, atol=1e-6)
        assert torch.allclose(found.W_dec, plain.W_dec / scale, rtol=0, atol=1e-6)
        assert torch.allclose(found.b_dec, plain.b_dec / scale, rtol=0, atol=1e-6)
        assert float(toys.l1[i, 0]) == pytest.approx(l1 / scale, abs=1e-9)


def test_seeds_do_not_depend_on_company_and_float32_is_close(post):
    both, alone = (fit(post, CHOSEN[:2], seeds, SHORT, until=60) for seeds in ([0, 1], [1]))
    single = fit(post, CHOSEN[:2], [1], SHORT, until=60, dtype=torch.float32)
    for name in both.sae.parameters:
        assert torch.allclose(getattr(both.sae, name)[:, 1:], getattr(alone.sae, name), rtol=0, atol=1e-8)
        assert torch.allclose(getattr(single.sae, name), getattr(alone.sae, name), rtol=0, atol=1e-3)
    assert not torch.equal(both.dictionary[0], both.dictionary[1])


def test_the_schedule_of_the_original():
    schedule = Recipe()
    rates = [schedule.learning_rate(step) for step in (0, 50, 100, 31_999, 36_000, 40_000)]
    assert rates == pytest.approx([0, 0.015, 0.03, 0.03, 0.0165, 0.003])
    assert schedule.steering / schedule.steps == pytest.approx(0.0003)


def test_the_law_of_the_prefixes():
    arm, steps = arms()["sampled"], 20_000
    reach = drawn_reach(arm, np.random.default_rng(0), steps)
    weights = reach - np.pad(reach[:, 1:], ((0, 0), (0, 1)))
    drawn = weights > 0.05
    assert np.allclose(weights[drawn], 0.1) and (drawn.sum(1) == 10).all() and drawn[:, -1].all()
    chance = 10 * np.array(arm.expected)
    assert chance[:3] == pytest.approx([0.9558, 0.7497, 0.6559], abs=1e-4), (
        "checked against draws of numpy's own choice"
    )
    assert np.abs(drawn.mean(0) - chance).max() < 5 * (0.25 / steps) ** 0.5
    assert sum(arm.expected) == pytest.approx(1)


def test_the_few_prefixes_and_the_rest_weigh_one():
    for arm in arms(8).values():
        assert len(arm.weights) == 8 and sum(arm.weights) == pytest.approx(1)


def test_the_tree_of_the_post(post):
    states = post.states()
    assert post.n_features == 20 and post.parents().count(None) == 11 and len(states) == 5**3 * 2**8
    # Three families of 0.15 (1 + 0.6) and eight features of 0.05.
    assert float(states.probs @ states.acts.sum(1)) == pytest.approx(1.12)


def toys_of(sae, dictionary, together=None):
    """One SAE as if it had been trained."""
    k = sae.W_dec.shape[0]
    together = torch.ones(k, k).double() if together is None else together
    return recipe.Toys(
        SAE(*(value[None, None] for value in sae.parameters.values())), dictionary[None], torch.zeros(1, 1).double(),
        together[None, None], [0], *(torch.zeros(1, 1, 1).double(),) * 3,
    )  # fmt: skip


def test_what_is_measured_on_hand_made_saes(post):
    truth = recipe.jittered_dictionary(20, 20, 0)
    zeros = torch.zeros(20).double()
    encoder = (truth / truth.square().sum(-1, keepdim=True)).T
    clean = SAE(encoder, zeros, truth, zeros)
    found = recipe.measure(toys_of(clean, truth), post.states(), post.parents())
    assert found["own"] == pytest.approx(1) and found["l0"] == pytest.approx(1.12)
    assert [float(found[name][0, 0]) for name in ("absorption", "missing", "dead")] == [0, 0, 0]
    assert found["error"] == pytest.approx(0, abs=1e-20) and found["parent_to_child"] == pytest.approx(0, abs=1e-9)
    assert found["alone"] == pytest.approx(1) and found["blamed"] == pytest.approx(0)

    absorbing, encoder = truth.clone(), encoder.clone()
    for child, parent in enumerate(post.parents()):
        if parent is not None:
            absorbing[child] += truth[parent]
            encoder[:, parent] -= encoder[:, child]
    found = recipe.measure(toys_of(SAE(encoder, zeros, absorbing, zeros), truth), post.states(), post.parents())
    assert found["absorption"] == pytest.approx(1) and found["l0"] == pytest.approx(0.85)
    assert found["child_to_parent"] == pytest.approx(0.5**0.5, abs=0.1) and found["error"] == pytest.approx(
        0, abs=1e-20
    )

    hidden = SAE(encoder, zeros - 10 * torch.eye(20)[0].double(), absorbing, zeros)
    found = recipe.measure(toys_of(hidden, truth), post.states(), post.parents())
    assert [float(found[name][0, 0]) for name in ("missing", "dead")] == [1, 1]


def test_the_predicted_cosines_are_those_of_the_top_eigenvector():
    tree, weights = family(0.3, [0.1, 0.2, 0.3], 3), (0.4, 0.1, 0.2, 0.3)
    states = tree.states()
    optimum = theory.matryoshka_optimum(states, range(4), (1, 2, 3, 4), weights)
    alone, blamed = torch.ones(3).double(), torch.tensor([0.4, 0.5, 0.7], dtype=torch.float64)
    found = recipe.predicted(states, tree.parents(), alone, blamed, torch.ones(4).double())
    assert found.numpy() == pytest.approx(optimum[1:].numpy(), abs=1e-12)
    louder = recipe.predicted(
        states, tree.parents(), alone, blamed, torch.tensor([1.0, 1.0, 1.0, 1.1], dtype=torch.float64)
    )
    assert louder[2] > found[2]
    loose = family(0.3, 0.4, 3, exclusive=False)
    none = recipe.predicted(loose.states(), loose.parents(), alone, blamed, torch.ones(4).double())
    assert none.isnan().all()


def test_how_many_features_are_active_if_parents_are_absorbed(post):
    assert recipe.natural_l0(post.states(), post.parents()) == pytest.approx((1.12, 0.85))


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
    states = recipe.every_input(many, 5000)
    assert isinstance(states, States) and len(states) == 5000
    assert float((states.probs @ states.acts).mean()) == pytest.approx(0.3, abs=0.01)
    toys = fit(many, CHOSEN[:1], [0], SHORT, parents=twenty_feature_tree().parents(), until=20)
    assert toys.sae.W_dec.isfinite().all() and toys.child_cosine.isfinite().all()


def test_arms_of_different_laws_are_refused(post):
    law = Arm((0.5,) * 20, drawn=3)
    with pytest.raises(ValueError, match="share their drawn prefixes"):
        fit(post, [arms()["sampled"], law], [0], SHORT, until=1)


@pytest.fixture(scope="module")
def stored():
    return recipe.load()


def test_what_is_stored_is_what_its_parameters_measure(stored, post):
    """All parameters of the first seed are stored; every number of that seed is computed again from them."""
    names = [str(name) for name in stored["names"] if not name.endswith("independent")]
    parameters = (torch.from_numpy(stored[f"first_{key}"][: len(names), None]) for key in TRAINED)
    zeros = torch.zeros(len(names), 1).double()
    toys = recipe.Toys(
        SAE(*parameters), recipe.jittered_dictionary(20, 20, int(stored["seeds"][0]))[None], zeros,
        zeros[..., None, None].expand(-1, -1, 20, 20), [0], *(zeros[None],) * 3,
    )  # fmt: skip
    found = recipe.measure(toys, post.states(), post.parents())
    for key in set(found) - {"l1", "alone", "blamed"}:
        assert found[key][:, 0] == pytest.approx(stored[key][: len(names), 0], abs=1e-5), key


def test_what_is_stored_began_with_these_starts_directions_and_batches(stored, post):
    """Later steps amplify rounding errors, so that only the first can be compared from machine to machine."""
    chosen = arms()
    assert list(stored["names"][: len(chosen)]) == list(chosen)
    begun = fit(post, list(chosen.values()), stored["seeds"].tolist(), until=1)
    for key, values in [("l0_path", begun.l0), ("child_path", begun.child_cosine)]:
        assert values[0].numpy() == pytest.approx(stored[key][: len(chosen), :, 0], abs=1e-5), key


def test_parts_join_along_the_seeds():
    part = {"names": np.array(["a"]), "steps": np.arange(3), "seeds": np.array([0]), "l0": np.ones((1, 1))}
    whole = recipe.joined([part, part | {"seeds": np.array([1]), "l0": np.zeros((1, 1))}])
    assert whole["seeds"].tolist() == [0, 1] and whole["l0"][0].tolist() == [1, 0]


def test_a_tree_without_children_is_refused():
    with pytest.raises(ValueError, match="no feature of the tree has a child"):
        recipe.compute(independent([0.3, 0.2]), [0], SHORT, arms(4))
