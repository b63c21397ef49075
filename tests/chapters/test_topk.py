"""The chapter on TopK: the theory of a small budget, its experiments at tiny size, its figures from made-up data."""

from dataclasses import replace

import allowed
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matryoshka_mixing import claims, metrics, theory
from matryoshka_mixing.chapters import topk
from matryoshka_mixing.chapters.topk import NEAR, RANDOM
from matryoshka_mixing.features import family, orthonormal_dictionaries, twenty_feature_tree
from matryoshka_mixing.sae import SAEConfig, start_near
from matryoshka_mixing.training import Setting, TrainConfig, train

TINY = {"n_seeds": 9, "n_sweep_seeds": 2, "n_steps": 3, "n_grid": 4, "batch_size": 5, "start_noise": 0.1}
family_cases = st.integers(2, 7).flatmap(
    lambda n: st.tuples(st.just(n), st.floats(0.001, 0.999 / n), st.floats(0.01, 100))
)


@pytest.fixture(scope="module")
def toy():
    return topk.Toy.of(topk.Parameters(**TINY))


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


# Parameters


@given(allowed.values(topk.Parameters))
@settings(max_examples=25, deadline=None)
def test_every_allowed_value_makes_a_toy(values):
    p = topk.Parameters(**values)
    toy = topk.Toy.of(p)
    assert toy.true_l0 == pytest.approx(p.parent_probability * (1 + p.n_children * p.child_probability))
    for sae in [*toy.saes.values(), *map(topk.as_standard, toy.saes.values())]:
        Setting(sae, toy.states, toy.directions(2))
    assert toy.exact.steps == toy.batches.steps and toy.batches.seed == p.seed
    for start in toy.starts(2).values():
        assert start.W_enc.shape == (2, p.d_model, p.n_children + 1) and start.W_enc.isfinite().all()
    assert topk.predicted_cosines(toy, tensor(toy.true_l0)).isfinite().all()


@pytest.mark.parametrize(("name", "value"), allowed.outside(topk.Parameters))
def test_values_outside_a_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} = .*It must be"):
        topk.Parameters(**{name: value})


def test_there_is_room_for_the_twenty_feature_tree():
    with pytest.raises(ValueError, match=r"d_model = 12: .* twenty-feature tree. It must be a whole number from 20"):
        topk.Parameters(d_model=12)


# Theory


@given(family_cases)
@settings(max_examples=40, deadline=None)
def test_a_budget_that_keeps_all_is_no_budget_and_one_that_keeps_none_makes_a_narrow_sae(case):
    n, q, beta = case
    whole, none = (topk.budget_ratios(q, n, torch.tensor([s]).double(), beta)[0] for s in (1.0, 0.0))
    assert torch.allclose(whole, torch.full_like(whole, theory.matryoshka_ratio(q, n, beta)), rtol=1e-9)
    narrow = torch.full_like(none, theory.narrow_ratio(q, n))
    assert none.isnan().all() or torch.allclose(none, narrow, rtol=1e-9)


@pytest.mark.parametrize(
    ("n", "q", "beta", "share"), [(2, 0.4, 1.0, 0.9), (2, 0.4, 1.0, 0.5), (2, 0.2, 3.0, 0.6), (4, 0.2, 1.0, 0.8)]
)
def test_trained_batchtopk_saes_meet_the_theory_of_a_small_budget(n, q, beta, share):
    p = 0.3
    states, dictionary = family(p, q, n).states(), orthonormal_dictionaries(n + 1, 8, range(6))
    k = p + share * n * p * q
    sae = SAEConfig(8, (1, n + 1), (beta, 1.0), 0.0, False, False, activation="batchtopk", k=k)
    run = train(Setting(sae, states, dictionary), start_near(dictionary, range(6), 0.05), TrainConfig(2000))
    ratios = topk.budget_ratios(q, n, torch.tensor([share]).double(), beta)[0]
    expected = torch.cat([torch.ones(1).double(), ratios.sort().values]) / (1 + ratios.square().sum()).sqrt()
    found = metrics.decoder_cosines(run.sae, dictionary)[0, :, 0]
    found = torch.cat([found[:, :1], found[:, 1:].sort(-1).values], -1)
    assert torch.allclose(found, expected.expand_as(found), rtol=0, atol=1e-6)


def test_the_theory_of_a_small_budget_is_silent_where_the_parent_would_be_dropped():
    kept = torch.tensor([0.0, 0.3, 0.45, 0.5, 0.8, 1.0]).double()
    assert topk.budget_ratios(0.4, 2, kept).isnan().all(-1).tolist() == [False, True, True, False, False, False]


def test_with_a_sufficient_budget_both_children_have_the_cosine_of_the_relu_chapter(toy):
    ratio = theory.matryoshka_ratio(0.4, 2)
    budgets = tensor([0.5, 0.9, 1.0, 2.0]) * toy.true_l0
    found = topk.predicted_cosines(toy, budgets)
    assert found[0].isnan().all(), "both children are short of budget"
    assert found[1, 0] < theory.parent_cosines(ratio, 2)[1] < found[1, 1], "the child that is dropped is mixed in more"
    assert torch.allclose(found[2:], torch.full((2, 2), theory.parent_cosines(ratio, 2)[1]).double())


def test_tree_cosines_take_the_ranks_that_the_latents_ended_with():
    parents = twenty_feature_tree().parents()
    order = [0, 4, 8, *range(12, 20), 1, 2, 3, 5, 6, 7, 9, 10, 11]
    cosines = torch.eye(20, dtype=torch.float64)[order]
    early = cosines[[11, *range(1, 11), 0, *range(12, 20)]]  # the first child in its parent's place
    faint = torch.where(cosines > 0, 0.79, 0.1)
    predicted, measured = topk.tree_cosines(torch.stack([cosines, early, faint]), parents)
    predicted, measured = predicted.view(3, 9), measured.view(3, 9)
    states = family(0.15, 0.2, 3).states()
    expected = theory.matryoshka_optimum(states, [0, 11, 12, 13], range(1, 21), [1.0] * 20)[1:]
    assert torch.allclose(predicted[0, :3], expected)
    assert measured[0].eq(0).all()
    ratios = theory.unequal_ratios(0.4 * 9, tensor([0, 0.2, 0.4]))  # a child that comes in early pulls no more
    assert torch.allclose(predicted[1, 1:3], (ratios / (1 + ratios.square().sum()).sqrt())[1:])
    assert measured[1].isnan().tolist() == predicted[1].isnan().tolist() == [True] + [False] * 8
    assert predicted[2].isnan().all() and measured[2].isnan().all()


# Sweep


def arm(fires, own, to_children, absorption, loss):
    return topk.Arm(torch.tensor(fires), torch.tensor(own), *map(tensor, (to_children, absorption, loss)))


def made_up():
    """Three points, two seeds; the parent of the second is silent at the last point."""
    close = arm(
        [[True, True], [True, True], [True, False]],
        [[True, False], [True, True], [True, False]],
        [[[0.1, 0.2], [0.9, 0.9]], [[0.3, 0.2], [0.2, 0.4]], [[0.25, 0.35], [0.7, 0.7]]],
        [[1.0, 0.0], [0.0, 0.0], [0.6, 1.0]],
        [[0.3, 0.4], [0.1, 0.1], [0.1, 0.9]],
    )
    dead = replace(close, fires=torch.zeros(3, 2, dtype=torch.bool))
    arms = {("Matryoshka", NEAR): close, ("Matryoshka", RANDOM): close, ("standard", NEAR): dead}
    curve = np.array([[0.5, 0.1, 0.3], [2.0, 0.2, 0.2]])
    return topk.Sweep(np.array([0.5, 1.0, 2.0]), tensor([[0.1, 0.2], [0.2, 0.3], [0.25, 0.3]]), curve, arms)


def test_numbers_of_a_sweep_by_hand():
    swept = made_up()
    assert swept.theory_gap(0.5) == swept.theory_gap(1) == pytest.approx(0.1)  # 0.4 against 0.3 at the second point
    assert swept.theory_gap(1.5) == pytest.approx(0.05)
    assert np.isnan(swept.theory_gap(3))
    assert swept.least_median(0.5) == pytest.approx(0.15), "torch's median is the lower one of two"
    assert swept.least_median(1.5) == pytest.approx(0.3)
    absorbing = swept.absorbing()
    assert absorbing["Matryoshka_near_below"] == 0.5 and absorbing["Matryoshka_random_above"] == pytest.approx(1 / 3)
    assert np.isnan(absorbing["standard_near_below"]), "no seed whose parent fires"


def test_the_figure_of_the_sweep():
    axes = topk.draw_sweep(made_up()).axes
    assert [axis.get_ylabel() for axis in axes] == [
        *["parent's cosine with a child"] * 2,
        "share that absorbs",
        "loss / E||x||²",
    ]
    best, least = axes[0].containers
    assert best.lines[0].get_ydata().tolist() == pytest.approx([0.5, 0.2, 0.25])  # 0.5: median of 0.1 and 0.9
    assert least.lines[0].get_ydata().tolist() == pytest.approx([0.55, 0.35, 0.35])
    assert axes[0].lines[0].get_ydata().tolist() == [0.1, 0.2], "theory"
    labels = [{text.get_text().replace("\n", " ") for text in axis.texts} for axis in axes]
    assert labels[1:] == [
        {"Matryoshka, random"},
        {f"Matryoshka, {start}" for start in (NEAR, RANDOM)},  # the standard SAE's parent never fires
        {f"Matryoshka, {NEAR}"},
    ]
    assert axes[2].containers[0].lines[0].get_ydata().tolist() == pytest.approx([0.5, 0, 1])


def test_the_sweep_goes_from_half_to_twice_the_true_l0(toy):
    swept = topk.sweep(toy)
    assert swept.shares.tolist() == [0.5, 1, 1.5, 2]
    assert set(swept.arms) == {(kind, start) for kind in ("Matryoshka", "standard") for start in (NEAR, RANDOM)}
    assert swept.close.to_children.shape == (4, 2, 2) and swept.arms["standard", RANDOM].fires.shape == (4, 8)
    whole = swept.curve[swept.curve[:, 0] >= 1]
    assert np.ptp(whole[:, 1:]) < 1e-9 and np.isnan(swept.curve[0, 1:]).all()
    assert (swept.close.loss[0] > swept.close.loss[3] + 0.01).all(), "half of the budget costs"


# TopK, and the comparison


def test_the_best_topk_sae_is_shown_or_nothing_where_all_have_dead_latents(toy):
    panels = topk.best_topk(toy, ks=(1, 2))
    assert list(panels) == ["Matryoshka, K = 1", "Matryoshka, K = 2", "standard, K = 1", "standard, K = 2"]
    directions, starts = toy.directions(9), toy.starts(9)[RANDOM]
    run = train(Setting(toy.saes["TopK"], toy.states, directions), starts, toy.exact)
    reading = metrics.read(run.sae[0], toy.states, directions, toy.tree.parents())
    lowest = min((seed for seed in range(9) if reading.all_live[seed]), key=lambda seed: run.loss[0, seed])
    assert panels["Matryoshka, K = 2"].tolist() == pytest.approx(reading.decoder[lowest].numpy())
    first = toy.chosen.seed + int((~reading.all_live).int().argmax())
    dead = topk.Toy.of(replace(toy.chosen, n_seeds=1, seed=first))
    assert np.isnan(topk.best_topk(dead, ks=(2,))["Matryoshka, K = 2"]).all()


def reading_of(toy, decoder, dead=False):
    """One seed whose latents fire with their features and have these decoders, one row a latent."""
    directions = toy.directions(1)
    sae = start_near(directions, [0], 0.0)
    sae.W_dec[0] = tensor(decoder) @ directions[0]
    if dead:
        sae.W_enc[0, :, 2] *= -1
    return metrics.read(sae, toy.states, directions, toy.tree.parents())


def comparison(toy):
    mixed = reading_of(toy, [[0.8, 0.6, 0.0], [0.0, 1.0, 0.0], [0.0, -0.6, 0.8]])
    dead = reading_of(toy, np.eye(3).tolist(), dead=True)
    readings = {(name, start): mixed for name in toy.saes for start in (NEAR, RANDOM)}
    return topk.Comparison(readings | {("ReLU", RANDOM): dead, ("BatchTopK, sampled", NEAR): mixed}, 1.0)


def test_numbers_of_the_comparison_by_hand(toy):
    compared = comparison(toy)
    assert compared.mean()["TopK, random"].tolist() == pytest.approx([0.3])
    assert compared.least("TopK").tolist() == pytest.approx([0.0])
    assert compared.siblings("BatchTopK").tolist() == pytest.approx([0.0]), "the larger of 0 and -0.6"
    counts = compared.counts()
    assert (counts["n_live_topk"], counts["n_live_relu"]) == (1, 0)
    assert counts["median_topk"] == pytest.approx(0.3) and counts["siblings_topk"] == 0
    assert np.isnan(counts["median_relu"]) and np.isnan(counts["siblings_relu"]), "no live seed"


def test_the_figure_of_the_comparison(toy):
    axis = topk.draw_comparison(toy, comparison(toy)).axes[0]
    assert len(axis.get_yticklabels()) == 9 and axis.get_xlabel() == "cosine with a child"
    theory_line = theory.parent_cosines(theory.matryoshka_ratio(0.4, 2), 2)[1]
    assert axis.lines[0].get_xdata() == pytest.approx([theory_line] * 2)
    assert [len(strip.get_offsets()) for strip in axis.collections] == [1, 0] + [1] * 7


def test_the_figure_of_the_tree():
    values = {(start, k): (tensor([0.1, k]), tensor([0.2, np.nan])) for start in (NEAR, RANDOM) for k in topk.FACTORS}
    trees = topk.TreeRuns(2.0, values)
    assert trees.medians(NEAR, 0.9) == pytest.approx((0.1, 0.2))
    axes = topk.draw_tree(trees).axes
    assert [axis.get_ylabel() for axis in axes] == ["measured, near the truth", "measured, random"]
    assert [group.get_label() for group in axes[0].collections] == ["K = 0.9 L0", "K = 1 L0", "K = 1.5 L0"]


def test_a_tiny_run_gives_the_ledger_what_it_asks_for(toy):
    compared, trees, control = topk.compare(toy), topk.twenty_features(toy), topk.control_mixing(toy)
    assert len(compared.readings) == 9 and compared.readings["TopK", RANDOM].live.shape == (36, 3)
    assert compared.readings["TopK", NEAR].live.shape == (9, 3)
    assert trees.l0 == pytest.approx(3 * 0.15 * 1.6 + 8 * 0.05)
    assert len(trees.points) == 6 and trees.points[NEAR, 1.0][0].shape == (18,)
    assert list(control) == ["BatchTopK", "TopK"]
    assert all(len(found) == 9 and (found < 0.2).all() for found in control.values()), "near the truth"
    values, started = topk.measured(toy, topk.sweep(toy), compared, trees, control)
    verdict = claims.judge(claims.load()["topk-too"], values, started)
    counts = {outcome.criterion.metric: outcome.started for outcome in verdict.outcomes}
    assert counts["topk_random"] == 36 and counts["topk_near_truth"] == 9 == counts["siblings_near_truth"]
    assert values["sampled_gap"] > 0
