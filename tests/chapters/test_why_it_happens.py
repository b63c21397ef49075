import json
import re
from dataclasses import replace

import allowed
import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from matryoshka_mixing import metrics, theory
from matryoshka_mixing.chapters import why_it_happens as chapter
from matryoshka_mixing.chapters.why_it_happens import Parameters, Run
from matryoshka_mixing.features import family
from matryoshka_mixing.sae import SAE, random_start
from matryoshka_mixing.training import Setting

SMALL = {"d_model": 6, "n_seeds": 8, "n_sweep_seeds": 2, "n_grid": 3}


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def make(**changes):
    return chapter.set_up(Parameters(**SMALL | changes))


@pytest.fixture(scope="module")
def setup():
    """The default family, with enough steps to converge near the truth."""
    return make(n_steps=1200)


@pytest.fixture(scope="module")
def main_runs(setup):
    return setup.fit(setup.near), setup.fit(setup.random)


def as_run(setup, sae):
    """SAEs with one axis, the seeds, as if they had been trained."""
    dictionary = setup.directions[: len(sae), : setup.tree.n_features]
    setting = Setting(setup.sae, setup.states, dictionary)
    loss = sae.loss(setup.states.inputs(dictionary), setup.states.probs, setup.sae)
    return Run([setting], sae[None], loss[None], torch.ones(1, len(sae)) > 0)


def axis_saes(setup, *decoders):
    """SAEs with these decoders in feature space, whose latents fire with their own features."""
    decoders, dictionary = tensor(decoders), setup.directions[: len(decoders), :3]
    encoder = torch.eye(3, dtype=torch.float64).expand_as(decoders)
    return SAE(
        (encoder @ dictionary).mT,
        torch.zeros(len(decoders), 3).double(),
        decoders @ dictionary,
        torch.zeros(len(decoders), 6).double(),
    )


def turned(setup, *saes):
    """SAEs in feature space, each turned to the directions of its seed."""
    dictionary = setup.directions[: len(saes), : setup.tree.n_features]
    encoder, decoder = (torch.stack([getattr(sae, name) for sae in saes]) for name in ("W_enc", "W_dec"))
    b_enc, b_dec = encoder.new_zeros(len(saes), encoder.shape[-1]), encoder.new_zeros(len(saes), setup.p.d_model)
    return SAE(dictionary.mT @ encoder, b_enc, decoder @ dictionary, b_dec)


def labels(axis):
    """The names at the ends of a panel's lines, from the lowest to the highest."""
    return [text.get_text().replace("\n", " ") for text in axis.texts]


# The parameters and the set-up


@pytest.mark.parametrize(("name", "value"), allowed.outside(Parameters))
def test_values_outside_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} = .* It must be"):
        Parameters(**{name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_model": 6, "n_children": 6, "child_probability": 0.1}, "leaves no room for 7 orthogonal features"),
        ({"n_children": 3}, "sum to 1.2; at most 1 is possible"),
        ({"l1": -0.1}, "l1 = -0.1: weight of the L1 penalty in the runs that test for absorption"),
    ],
)
def test_values_that_do_not_fit_together_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Parameters(**change)


def test_terms_of_the_default_case():
    setup = make(inner_weight=2.0)
    # States in order: nothing, parent alone, with child 2, with child 1.
    assert torch.allclose(setup.terms, tensor([[1.4, 0.12, 0.24, 0.24], [0.7, 0.06, 0.12, 0.12]]))
    assert setup.blamed.tolist() == [[False, False, True, True], [False] * 4]
    assert setup.omega.tolist() == [0, 3, 2, 2]
    assert (len(setup.near), len(setup.random)) == (2, 24)
    assert [len(start) for start in setup.tried.values()] == [2, 4] and setup.exact.steps == 2000
    alone, blamed = chapter.arrow(theory.second_moment(setup.states, setup.omega))
    assert [float(alone), *blamed.tolist()] == pytest.approx([0.18, 0.24, 0.24])


def test_one_seed_of_everything():
    setup = make(n_seeds=1, n_sweep_seeds=1, n_steps=1)
    assert [len(start) for start in (setup.near, setup.random, *setup.tried.values())] == [1, 3, 1, 1]
    assert len(setup.close(3)) == 1
    many = make(n_seeds=1, n_sweep_seeds=5)
    assert len(many.directions) == 5 and len(many.close(6, 5)) == 5, "a sweep may have more seeds"


def test_every_seed_has_directions_of_its_own_and_starts_near_them():
    setup = make(seed=7)
    each = setup.directions
    assert torch.allclose(each @ each.mT, torch.eye(6).double().expand(24, 6, 6))
    assert (each[:1] - each[1:]).abs().amax((-2, -1)).min() > 0.01
    assert torch.equal(each[3:5], make(seed=10, n_seeds=4).directions[:2]), "a seed draws the same in any company"
    exact = setup.near_truth(4, 0.0, 3)
    assert torch.allclose(metrics.decoder_cosines(exact, each[:4, :3]), torch.eye(3).double())
    run = setup.fit(setup.near)
    assert torch.equal(run.settings[0].dictionary, each[:2, :3])


def test_changes_of_a_fit_go_to_the_sae_and_to_the_setting():
    setup = make(n_steps=3)
    half = setup.states
    run = setup.fit(setup.close(4), {"l1": 0.5, "data": family(0.3, 0.2, 3).states()}, {"weights": (2.0, 0.5)} | {
        "data": family(0.3, 0.3, 3).states(), "held": {"W_dec": 0}}, lr=0.1)  # fmt: skip
    assert [one.sae.l1 for one in run.settings] == [0.5, 0] and run.settings[1].sae.weights == (2, 0.5)
    assert all(one.sae.widths == (1, 4) and not one.sae.decoder_bias for one in run.settings)
    assert torch.equal(run.sae.W_dec[1, :, 0], setup.close(4).W_dec[:, 0]) and setup.states is half
    assert run.cosines.shape == (2, 2, 4, 4) and len(run[:1].settings) == len(run[:1].loss) == 1


def everything(p):
    """Every experiment of the chapter, drawn."""
    setup = chapter.set_up(p)
    uneven, config = chapter.uneven_family(p, torch.Generator().manual_seed(p.seed))
    omega = theory.prefix_weights(uneven, range(6), config.widths, config.weights)
    theory.unequal_ratios(*chapter.arrow(theory.second_moment(uneven, omega)))
    near, random = setup.fit(setup.near), setup.fit(setup.random)
    groups = chapter.group_pulls(setup, chapter.balance(setup, near)[0][0])
    chapter.draw_balance(groups, setup.tree.names)
    factors = torch.linspace(0, 4, p.n_grid, dtype=torch.float64)
    dosed = chapter.dose(setup, factors)
    chapter.draw_doses(setup, factors, chapter.read_doses(setup, dosed))
    chapter.dose_explorable(setup, factors, dosed["near"])
    changes, possible = chapter.removals(setup)
    _, without = chapter.intervene(setup, changes)
    chapter.draw_removed(without)
    chapter.kept([by_kind["near"] for by_kind in without.values()], possible)
    runs, reach = chapter.intervene(setup, chapter.reaches(setup))
    _, others = chapter.intervene(setup, chapter.penalised(setup, changes))
    chapter.silent(*(by_kind["near"] for by_kind in others.values()))
    mixtures = chapter.held_levels(p.n_grid, p.n_children)
    held = chapter.hold(setup, setup.sweep["near"], mixtures, p.l1)
    chapter.held_gap(held, mixtures)
    drawn = [chapter.draw_reach(runs["near"], reach, setup.tree.names), chapter.draw_held(held, mixtures)]
    drawn += [chapter.draw_ranks(chapter.by_rank(setup))]
    drawn += [chapter.draw_signs(chapter.map_unequal(setup), chapter.map_penalty(setup), p.inner_weight)]
    drawn += [chapter.draw_leans(chapter.lean_curves(setup)[0])]
    chapter.rare_children(setup)
    chapter.drift(setup, setup.read(random.sae[0]))
    limits = chapter.break_assumptions(setup)
    gaps = [chapter.farthest(panel) for panel in limits.values()]
    drawn += [chapter.draw_limits(limits, *chapter.noisier(setup, float(near.loss.median())), 0.5)]
    return groups, gaps, drawn


@given(allowed.values(Parameters))
@settings(max_examples=20, deadline=None)
def test_the_set_up_is_built_from_every_value_that_is_allowed(values):
    p = Parameters(**values)
    setup = chapter.set_up(p)
    assert setup.states.probs.sum() == pytest.approx(1)
    assert len(setup.random) == 3 * p.n_seeds
    assert setup.sweep["near"].W_enc.shape == (p.n_sweep_seeds, p.d_model, p.n_children + 1)
    changes, possible = chapter.removals(setup)
    assert all((change["terms"] >= 0).all() for change in changes.values()) and all(0 <= s <= 1 for s in possible)
    assert (theory.unequal_ratios(*chapter.arrow(theory.second_moment(setup.states, setup.omega))) >= 0).all()
    uneven, config = chapter.uneven_family(p, torch.Generator())
    assert uneven.acts.shape[1] == config.d_sae == 6
    assert len(chapter.held_levels(p.n_grid, p.n_children)) == 2 * p.n_grid


SURE = {"parent_probability": 1.0, "child_probability": 0.25, "n_children": 4, "inner_weight": 1e3}
DEAD = {"l1": 10.0, "start_noise": 10.0, "parent_probability": 1e-6, "child_probability": 1e-6, "inner_weight": 0.001}


@pytest.mark.parametrize("extreme", [SURE | {"start_noise": 0.0, "l1": 0.0}, DEAD])
def test_every_experiment_runs_at_the_ends_of_what_is_allowed(extreme):
    p = Parameters(**SMALL | {"n_seeds": 1, "n_sweep_seeds": 1, "n_steps": 1} | extreme)
    groups, gaps, drawn = everything(p)
    assert len(groups) == p.n_children + 3 and len(gaps) == 4
    shown = [text.get_text() for figure in drawn for text in figure.findobj(mpl.text.Text)]
    assert not [text for text in shown if "nan" in text.lower()]


# The derivation


def test_the_sides_of_an_equation_are_compared_at_their_worst(capsys):
    chapter.both_sides("it", tensor([1.0, 2.0]), tensor([1.0, 2.5]))
    chapter.both_sides("it", tensor([1.0]), 1.0)
    assert capsys.readouterr().out.splitlines() == [
        "it: largest difference 0.500",
        "it: largest difference below 1e-08",
    ]


def test_the_completed_sae_is_exact_in_the_outer_prefix_and_its_loss_the_reduced_one(setup):
    acts, probs = setup.states.acts, setup.states.probs
    for v, loss in [(tensor([1, 0, 0]), 0.24), (tensor([0.48, 0.6, 0.64]), None)]:
        sae = chapter.completed(v)
        assert sae.errors(acts, setup.sae.widths)[1, setup.blamed[0]].max() < 1e-14
        reduced = chapter.reduced_loss(setup.states, setup.omega, v)
        assert sae.loss(acts, probs, setup.sae) == pytest.approx(float(reduced))
        assert loss is None or reduced == pytest.approx(loss), "the inner prefix misses each child: 0.3 * 0.8"
    assert torch.allclose(chapter.completed(tensor([1, 0, 0])).W_dec, torch.eye(3).double())


def test_decoders_by_theory_agree_with_the_closed_forms():
    ratio = 0.3
    decoders = chapter.all_decoders(tensor([[ratio] * 3, [0.0] * 3]))
    lines = chapter.three_lines(ratio, 3)
    assert [float(decoders[0, i, j]) for i, j in ((0, 1), (1, 2), (1, 0))] == pytest.approx(lines)
    assert torch.allclose(decoders[1], torch.eye(4, dtype=torch.float64)), "a clean parent has clean children"


# The blamed terms


def test_doses_follow_theory_and_nothing_is_mixed_without_blamed_terms(setup):
    factors = tensor([0.0, 1.0, 4.0])
    runs = chapter.dose(setup, factors)
    near = runs["near"]
    mixed = theory.parent_cosines(theory.matryoshka_ratio(0.4, 2), 2)[1]
    parents = near.cosines[..., 0, 1]
    assert parents[0].abs().max() < 1e-3 and parents[1].tolist() == pytest.approx([mixed] * 2, abs=1e-3)
    points, open_points = chapter.read_doses(setup, {"near": near, "random": near})
    assert points[:, 1:].isfinite().all() and torch.equal(points.nan_to_num(9), open_points.nan_to_num(9))
    decoders = chapter.dosed_decoders(setup, factors)
    expected = torch.stack([decoders[1:, 0, 1], decoders[1:, 1, 2], decoders[1:, 1, 0]])
    assert torch.allclose(points[:, 1:], expected[..., None], atol=1e-3)
    _, off = chapter.read_doses(setup, {"near": near, "random": replace(near, loss=near.loss + 1e-3)})
    assert off.isnan().all(), "another loss"
    figure = chapter.draw_doses(setup, factors, [points, open_points])
    assert [labels(axis) for axis in figure.axes] == [
        [chapter.COSINES[0]],
        sorted(chapter.COSINES[1:], key=labels(figure.axes[1]).index),
    ]
    first, second = (axis.containers[0][0].get_xdata().tolist() for axis in figure.axes)
    assert (first, second) == ([0, 1, 4], [1, 4]), "no child's decoder without blamed terms"
    ends = [axis.lines[0].get_xydata()[-1].tolist() for axis in figure.axes]
    assert ends == [[4, pytest.approx(float(decoders[-1, i, j]))] for i, j in ((0, 1), (1, 2))]
    data = json.loads(re.search(r"json\">(\{.*\})<", chapter.dose_explorable(setup, factors, near))[1])
    assert (data["x"], data["most"], data["notebook"]) == ("blamed", 4, "04_why_it_happens")
    assert data["dots"][0][::2] == [0, None], "without blamed terms a child's decoder is not unique"
    for (factor, *mixed), decoder in zip(data["dots"][1:], decoders[1:], strict=True):
        assert factor in (1, 4) and mixed == pytest.approx([float(decoder[0, 1]), float(decoder[1, 2])], abs=2e-3)


def test_a_dose_without_an_sae_that_keeps_the_assumption_is_drawn_empty(setup):
    run = setup.fit(setup.sweep["near"], {}, {})
    silent = replace(run, sae=run.sae.map(torch.zeros_like))
    points = chapter.read_doses(setup, {"near": silent, "random": silent})
    assert points[0].isnan().all()
    assert len(chapter.draw_doses(setup, tensor([0.0, 1.0]), points).axes) == 2


def test_pulls_are_minus_the_gradient_of_each_term():
    """Of all terms together, and of one with all others left out: against autograd, which knows no formula."""
    setup = make(n_children=3, child_probability=0.2, inner_weight=0.7)
    start = random_start(setup.sae, [0, 1, 2], decoder_norm=0.7)
    x = setup.states.inputs(setup.directions[:3, :4])
    parts = chapter.balance(setup, as_run(setup, start))[0]
    for some in [torch.ones(2, 5), *torch.eye(10).reshape(10, 2, 5)]:
        decoder = start.W_dec.clone().requires_grad_()
        replace(start, W_dec=decoder).loss(x, setup.states.probs, terms=some.double()).sum().backward()
        expected = -(decoder.grad[:, :1] @ setup.directions[:3, :4].mT)[:, 0]
        assert torch.allclose((parts * some[..., None]).sum((1, 2)), expected, atol=1e-14)
    assert parts.abs().max() > 0.01


def test_pulls_balance_at_the_solution_and_only_blamed_terms_pull_toward_a_child(setup):
    best = theory.matryoshka_optimum(setup.states, range(3), setup.sae.widths, setup.sae.weights)
    parts, share, imbalance = chapter.balance(setup, as_run(setup, turned(setup, chapter.completed(best))))
    assert imbalance < 1e-12 and share.tolist() == pytest.approx([1])
    groups = chapter.group_pulls(setup, parts[0])
    assert torch.allclose(sum(groups.values()), parts[0].sum((0, 1))), "every term is in one group"
    assert groups["outer prefix on parent + child"].abs().max() < 1e-14
    blamed = groups["blamed: inner prefix on parent + child 1"]
    a = float(best[0] + best[1])
    expected = 2 * 0.12 * a * (tensor([1, 1, 0]) - a * best)
    assert torch.allclose(blamed, expected) and blamed[1] > 0 > blamed[2]


def test_a_seed_in_which_nothing_pulls_toward_a_child_has_no_share(setup):
    silent = axis_saes(setup, torch.eye(3).tolist()).map(torch.zeros_like)
    _, share, imbalance = chapter.balance(setup, as_run(setup, silent))
    assert len(share) == 0 and np.isnan(imbalance)


def test_bars_of_the_balance_are_stacked_to_either_side():
    groups = {"one": tensor([1.0, -1.0]), "two": tensor([2.0, -3.0]), "three": tensor([-3.0, 4.0])}
    axis = chapter.draw_balance(groups, ["parent", "child"]).axes[0]
    bars = [(bar.get_x(), bar.get_width()) for bar in axis.patches]
    assert bars == [(0, 1), (0, -1), (1, 2), (-1, -3), (0, -3), (0, 4)]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["along parent", "along child"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["one", "two", "three"] and len(
        {bar.get_hatch() for bar in axis.patches}
    ) == 3


def test_controls_remove_what_the_blamed_terms_weigh_where_they_can(setup):
    changes, possible = chapter.removals(setup)
    assert possible == pytest.approx([1, 1])
    without, same_inputs, evenly = (change["terms"] for change in changes.values())
    for factors in (without, same_inputs, evenly):
        assert (setup.terms * (1 - factors)).sum() == pytest.approx(0.24)
    assert without.tolist() == [[1, 1, 0, 0], [1] * 4]
    assert same_inputs.flatten().tolist() == pytest.approx([1] * 6 + [0, 0])
    assert evenly[0].tolist() == [1, pytest.approx(1 / 3), 1, 1], "0.24 of 0.36"
    assert evenly[1].tolist() == [1] + [pytest.approx(1 / 3)] * 3
    changes, possible = chapter.removals(make(inner_weight=3.0))
    assert possible[0] == pytest.approx(1 / 3) and possible[1] == pytest.approx((0.24 + 0.24) / 0.72)
    assert changes["control: same inputs, outer prefix"]["terms"][1, 2:].tolist() == [0, 0]


def test_dead_seeds_are_left_out_and_controls_that_are_too_light_decide_nothing(setup):
    mixed = [[0.8, 0.6, 0], [0, 1, 0], [0, -0.6, 0.8]]
    sae = axis_saes(setup, mixed, [[0.6, 0, -0.8], *mixed[1:]], mixed)
    sae.W_enc[2, :, 1] *= -1
    reading = setup.read(sae)
    assert reading.all_live.tolist() == [True, True, False]
    assert chapter.mixed_in(reading).tolist() == pytest.approx([0.6, 0.8])
    assert chapter.siblings(reading)[0] == pytest.approx(0.6)
    assert chapter.siblings(reading, in_size=False)[0] == pytest.approx(0)
    other = setup.read(axis_saes(setup, *[[[1, 0, 0], [0, 1, 0], [0, 0, 1]]] * 3))
    assert chapter.kept([reading, other], [1, 1]).tolist() == pytest.approx([0, -0.8])
    assert len(chapter.kept([reading, other], [1, 0.9])) == 0
    dead = setup.read(sae[2:])
    assert len(chapter.mixed_in(dead)) == len(chapter.siblings(dead)) == 0
    axis = chapter.draw_removed({"a": {"near": reading, "random": dead}}).axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["a, near the truth", "a, random"]
    assert [len(points.get_offsets()) for points in axis.collections] == [2, 0]


def test_the_largest_of_what_is_kept():
    values, kept = tensor([[1.0, 5.0], [3.0, 2.0]]), torch.tensor([[True, False], [True, True]])
    assert (chapter.largest(values), chapter.largest(values, kept)) == (5, 3)
    assert np.isnan(chapter.largest(values, kept & False))


def test_what_is_told_of_what_is_known():
    values = tensor([0.25, float("nan"), 0.5, 1.0])
    assert [chapter.told(values), chapter.told(values, torch.max, "+.1f")] == ["0.500", "+1.0"]
    assert chapter.told(1e-12) == "below 1e-08" and chapter.told(float("nan")) == "not known"
    assert chapter.told(values[:0], torch.min) == "not known"


def test_the_middle_seed_is_the_first_of_those_that_agree():
    losses = tensor([[0.3, 0.1, 0.2 + 1e-14, 0.2, 0.2 - 1e-14], [5, 4, 3, 2, 1]])
    assert chapter.middle(losses).tolist() == [3, 2] and chapter.middle(losses[0, :1]) == 0


def test_without_blamed_terms_absorption_comes_back():
    setup = make(n_steps=600, l1=0.1)
    changes = chapter.reaches(setup)
    runs, reach = chapter.intervene(setup, changes)
    assert list(reach) == ["everything", "nothing", "encoder only", "decoder only"]
    (start,) = setup.fit(setup.near, {"l1": 0.1}).sae
    assert torch.equal(runs["near"].sae.W_dec[0], start.W_dec), "reaching everything changes nothing"
    assert torch.equal(changes["encoder only"]["terms"], changes["everything"]["terms"])
    assert torch.equal(changes["encoder only"]["decoder_terms"], chapter.scaled(setup.blamed, 0))

    absorbed = {name: chapter.absorption(readings["near"]) for name, readings in reach.items()}
    assert all(len(found) for found in absorbed.values())
    # Of the parent, other latents write a little even where its own latent carries it: see `metrics.edges`.
    assert absorbed["everything"].max() < 0.01 and absorbed["encoder only"].max() < 0.25
    assert min(absorbed["nothing"].min(), absorbed["decoder only"].min()) > 0.9
    removals, possible = chapter.removals(setup)
    penalised = chapter.penalised(setup, removals)
    assert [change["l1"] for change in penalised.values()] == [0.1] * 3
    _, others = chapter.intervene(setup, penalised)
    blamed, *controls = [readings["near"] for readings in others.values()]
    assert torch.allclose(chapter.absorption(blamed), absorbed["nothing"]), "the same intervention"
    assert possible == [1, 1] and chapter.silent(blamed).min() > 0.9 and chapter.silent(*controls).max() == 0
    assert len(chapter.silent(*controls)) == len(controls[0].all_live)
    assert torch.equal(chapter.silent(controls[0], blamed), chapter.silent(blamed)), "the larger counts"
    figure = chapter.draw_reach(runs["near"], reach, setup.tree.names)
    assert figure.axes[0].get_title().startswith("reach everything\nabsorption 0.01 (random ")
    dead = {kind: setup.read(start.map(torch.zeros_like)) for kind in chapter.KINDS}
    title = chapter.draw_reach(runs["near"], dict.fromkeys(reach, dead), setup.tree.names).axes[0].get_title()
    assert title.endswith("absorption not known (random not known)")


# The parent's decoder held


def test_levels_to_hold_by_hand():
    assert chapter.held_levels(2, 3).tolist() == [[0, 0, 0], [1, 1, 1], [0, 0, 0], [1, pytest.approx(1 / 3)] + [1 / 3]]


def test_siblings_are_undone_only_if_the_held_parent_is_mixed(setup):
    mixtures = tensor([[0.0, 0.0], [0.5, 0.2]])
    start = setup.close(3)
    run = chapter.hold(setup, start, mixtures, l1=0.01)
    parents = run.cosines[..., 0, :]
    assert torch.allclose(parents, chapter.unit_parent(mixtures)[:, None].expand_as(parents)), "held"
    assert run.sae.W_dec[..., 0, :].norm(dim=-1).flatten().tolist() == pytest.approx([1] * 4)
    undone = setup.read(run.sae).mixing.child_to_sibling
    assert undone[0].abs().max() < 1e-4 and (undone[1] < -0.2).all()
    free = chapter.hold(setup, start, mixtures[1:])
    assert chapter.held_gap(free, mixtures[1:]) < 1e-3 and free.keeps_a4().any()


def test_held_saes_are_held_against_the_formula(setup):
    mixtures = chapter.held_levels(3, 2)[1:]  # without a clean parent the first time
    exact = SAE.stack([turned(setup, chapter.completed(u)) for u in chapter.unit_parent(mixtures)])
    setting = Setting(setup.sae, setup.states, setup.directions[:1, :3])
    some = torch.zeros(5, 1).double()
    run = Run([setting] * 5, exact, some, some == 0)
    assert run.keeps_a4().all() and chapter.held_gap(run, mixtures) < 1e-12
    mute = Run([setting] * 5, exact.map(torch.zeros_like), some, some == 0)
    assert not mute.keeps_a4().any() and np.isnan(chapter.held_gap(mute, mixtures))
    four = [0, 1, 2, 4]
    figure = chapter.draw_held(Run([setting] * 4, exact[four], some[four], some[four] == 0), mixtures[four])
    assert [axis.get_xlabel() for axis in figure.axes] == [
        "held ratio t of child 1 (all equal)",
        "held ratio t of child 1 (others a third)",
    ]
    formula = chapter.all_decoders(mixtures[four])
    assert figure.axes[0].lines[0].get_ydata().tolist() == formula[:2, 1, 2].tolist()


def test_later_children_are_mixed_in_more_and_sampled_prefixes_less_steeply(setup):
    every, some = chapter.by_rank(setup)
    full_line, drawn_line = every["line_y"], some["line_y"]
    assert (np.diff(full_line) > 0).all() and (np.diff(drawn_line) > 0).all()
    assert full_line[-1] - full_line[0] > drawn_line[-1] - drawn_line[0]
    full, drawn = every["points"].T, some["points"].T
    assert full.shape == (2, 5) and chapter.largest((full - full_line).abs(), ~full.isnan()) < 1e-3
    assert (drawn.median(0).values - drawn_line).abs().max() < 0.05
    none = [every | {"points": every["points"] * torch.nan}, some]
    assert len(chapter.draw_ranks(none).axes[0].containers[0][0].get_xdata()) == 0, "no seed keeps A4"
    axis = chapter.draw_ranks([every, some]).axes[0]
    assert set(labels(axis)) == {"all prefixes", "sampled prefixes"}
    assert axis.lines[0].get_xdata().tolist() == [1, 2, 3, 4, 5]


# The cosine with the parent


@pytest.mark.parametrize(("n", "beta"), [(2, 1.0), (2, 0.3), (3, 2.0)])
def test_a_childs_cosine_with_its_parent_vanishes_on_the_boundary_and_has_either_sign_beside_it(n, beta):
    setup = make(n_steps=3000, start_noise=0.25)
    chances, penalties = (some.tolist() for some in chapter.lean_boundary(tensor([0.2, 0.5, 0.8]) / n, n, beta))
    run = setup.fit(
        setup.close(n + 1),
        *(
            {"weights": (beta, 1.0), "l1": factor * l1, "data": family(0.3, q, n).states()}
            for factor in (0.8, 1.0, 1.2)
            for q, l1 in zip(chances, penalties, strict=True)
        ),
    )
    leans = run.cosines[..., 1:, 0].unflatten(0, (3, 3))
    assert leans[1].abs().max() < 1e-6
    assert (leans[0] < -1e-4).all() and (leans[2] > 1e-4).all()


@pytest.mark.parametrize("beta", [0.2, 1.0, 5.0])
def test_on_the_line_of_unequal_children_the_first_has_no_part_of_the_parent(beta):
    shares = torch.stack(chapter.unequal_boundary(beta), -1)
    assert len(shares) > 50 and (shares > 0).all() and (shares.sum(-1) < 1).all()
    t = theory.unequal_ratios((1 + beta) * (1 - shares.sum(-1)), beta * shares)
    assert torch.allclose(t[:, 0], t.square().sum(-1), atol=1e-10)


def test_the_maps_have_the_predicted_signs(setup):
    unequal, penalty = chapter.map_unequal(setup), chapter.map_penalty(setup)
    assert unequal.agreement == 1 and unequal.gap < 1e-3 and unequal.run.keeps_a4().any()
    # Rows are the sibling: a rare child of a common sibling leans toward the parent, a common one away.
    assert unequal.leans[-1, 0] > 0.005 and unequal.leans[0, -1] < 0 and np.isnan(unequal.leans[-1, -1])
    assert penalty.agreement > 0.9 and penalty.leans.shape == (5, 5)
    assert penalty.leans[0, 2] < 0 < penalty.leans[-1, 2], "a penalty turns the sign"
    figure = chapter.draw_signs(unequal, penalty, 1.0)
    assert [axis.get_ylabel() for axis in figure.axes[:2]] == ["probability of its sibling", "L1 penalty"]
    assert np.ma.getdata(figure.axes[1].collections[0].get_array()).shape == (5, 5)
    line = figure.axes[0].lines[0].get_xydata()
    assert np.allclose(line, torch.stack(chapter.unequal_boundary(1.0), -1))


def test_children_lean_away_from_their_parent_by_theory(setup):
    (*by_total, by_weight), gaps = chapter.lean_curves(setup)
    assert [series["label"] for series in by_total] == [f"{n} children" for n in range(2, 6)]
    assert max(gaps[0], gaps[1], gaps[4]) < 1e-3
    assert all((series["line_y"] < 0).all() for series in by_total)
    lowest = [series["line_y"].min() for series in by_total]
    assert lowest == sorted(lowest), "less deep for more children"
    left, right = chapter.draw_leans([*by_total, by_weight]).axes
    assert set(labels(left)) == {series["label"] for series in by_total} and right.get_xscale() == "log"
    middle = by_weight["points"].median(-1).values.tolist()
    assert right.containers[0][0].get_ydata().tolist() == pytest.approx(middle)


def test_a_rare_child_leans_toward_its_parent_and_a_common_one_away():
    run, expected = chapter.rare_children(make(n_seeds=48, n_steps=1200))
    leans, fires = run.cosines[0, :, 1:, 0], run.keeps_a4()[0]
    assert expected[1] > 0.01 > 0 > expected[0]
    assert fires.any() and (leans - expected)[fires].abs().max() < 1e-3


# Limits


def test_the_farthest_median_leaves_out_what_is_missing():
    points = [[[1.0, 2.0, np.nan], [np.nan] * 3], [[0.0, 0.0, 9.0], [1.0, 1.0, 1.0]]]
    lines = [[1.0, 7.0], [0.0, 3.0]]
    series = [{"points": p, "line_y": line} for p, line in zip(points, lines, strict=True)]
    assert chapter.farthest({"series": series}) == 2
    assert np.isnan(chapter.farthest({"series": [{"points": [[np.nan] * 3], "dashed_y": [0.0]}]}, "dashed_y"))


def test_without_a_broken_assumption_the_input_space_says_what_the_closed_form_says(setup):
    pair = Setting(setup.sae, family(0.3, 0.4).states(), setup.directions[:2, :3])
    expected = chapter.three_lines(theory.matryoshka_ratio(0.4, 2), 2)
    assert chapter.in_input_space(pair) == pytest.approx(expected)


def test_limits_start_at_theory_and_the_dashed_lines_hold(setup, main_runs):
    limits = chapter.break_assumptions(setup)
    assert list(limits) == ["penalty", "overlap", "oblique", "biases"]
    for key in ("penalty", "overlap", "oblique"):
        starts = [{"points": s["points"][:1], "line_y": s["line_y"][:1]} for s in limits[key]["series"]]
        assert chapter.farthest({"series": starts}) < 1e-3
    for key in ("overlap", "oblique"):
        assert chapter.farthest(limits[key], "dashed_y") < 0.02  # slow where children overlap
    assert chapter.farthest(limits["penalty"]) > 0.03 and "dashed_y" not in limits["penalty"]["series"][0]
    near, random = main_runs
    noises, shares = chapter.noisier(setup, float(near.loss.median()))
    assert noises.tolist() == pytest.approx([0.25, 1.625, 3]) and shares[0] == 1
    assert chapter.noisier(setup, -1.0)[1].tolist() == [0, 0, 0]
    reading = setup.read(random.sae[0])
    drift = chapter.drift(setup, reading)
    same = metrics.same_loss(random.loss[0], near.loss.median(), setup.states.power)[reading.all_live]
    assert (drift[same] < 0.05).all() and (drift[~same] > 0.01).all() and len(drift) == reading.all_live.sum()
    figure = chapter.draw_limits(limits, noises, shares, 0.25)
    drawn = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_xlabel() for axis in drawn][:2] == ["L1 penalty", "share of a child's inputs with its sibling"]
    assert [len([line for line in axis.lines if line.get_ls() == "--"]) for axis in drawn] == [0, 3, 3, 0, 1]
    assert re.search("noise of the start", drawn[-1].get_xlabel())


def test_the_worst_run_counts(main_runs):
    near, _ = main_runs
    half = replace(near, converged=torch.tensor([[True, False]]))
    assert chapter.converged(replace(near, converged=torch.tensor([[True, True]])), half) == 0.5
