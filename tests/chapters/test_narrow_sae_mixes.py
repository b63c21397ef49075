from dataclasses import replace

import allowed
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from matryoshka_mixing import theory
from matryoshka_mixing.chapters import narrow_sae_mixes as chapter
from matryoshka_mixing.features import without_hierarchy

P = chapter.Parameters(n_seeds=6, n_sweep_seeds=2, n_steps=300, n_grid=3, batch_size=50, d_model=6)
SETUP = chapter.set_up(P)
NAN = float("nan")


@pytest.fixture(scope="module")
def exact():
    return SETUP.fit_both()


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def with_live(arm, live):
    return replace(arm, reading=replace(arm.reading, live=torch.tensor(live)[:, None]))


@given(allowed.values(chapter.Parameters))
@settings(max_examples=25, deadline=None)
def test_every_allowed_value_can_be_set_up(values):
    p = chapter.Parameters(**values)
    setup = chapter.set_up(p)
    assert setup.seeds == range(p.seed, p.seed + p.n_seeds) and setup.sampled.seed == p.seed
    for kind in ("random", "near the truth"):
        assert setup.start(kind, setup.sweep_seeds).W_dec.isfinite().all()
    assert p.n_children in chapter.families(p)
    points, sweep = chapter.sweep_settings(p, setup)
    assert len(points) == len(sweep) == p.n_grid * len(chapter.families(p))
    shapes = [(p.n_sweep_seeds, n + 1, p.d_model) for n, _ in points]
    assert [tuple(point.dictionary.shape) for point in sweep] == shapes
    assert chapter.walk(p, setup).loss.isfinite().all()


@pytest.mark.parametrize(("name", "value"), allowed.outside(chapter.Parameters))
def test_values_outside_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} = .* It must be"):
        chapter.Parameters(**{name: value})


def test_families_need_room():
    assert chapter.families(P) == [2, 3, 5]
    assert chapter.families(chapter.Parameters(d_model=5, n_children=4, child_probability=0.2)) == [2, 3, 4]
    assert chapter.families(chapter.Parameters(d_model=3)) == [2]


def test_the_predicted_cosines_are_those_of_the_optimum(exact):
    own, child = P.cosines
    assert theory.top_eigenvector(theory.second_moment(SETUP.states)).tolist() == pytest.approx([own, child, child])
    assert exact["near the truth"].child_cosines.tolist() == pytest.approx([child] * 6, abs=1e-3)


def test_a_curve_lies_on_theory_and_a_dead_latent_is_left_out():
    trained = chapter.curve(P, SETUP, "near the truth")
    assert trained.cosines.shape == (9, 2, 6) and trained.points[0] == (2, 0.02) and trained.points[2] == (2, 0.5)
    assert 0 < trained.gap < 0.01
    silent = replace(SETUP, sae=replace(SETUP.sae, l1=10.0))
    dead = chapter.curve(P, silent, "near the truth")
    assert dead.cosines.isnan().all() and np.isnan(dead.gap)


def test_the_gap_of_a_curve_by_hand():
    own, child = theory.parent_cosines(theory.narrow_ratio(0.4, 2), 2)
    # The last column is no feature of this setting, and the second seed is dead.
    found = tensor([[[own, child + 0.2, child, 0.9], [NAN] * 4, [own - 0.1, child, child, 0.9]]])
    assert chapter.Curve([(2, 0.4)], found).gap == pytest.approx(0.2)


def test_a_curve_is_drawn_with_its_line_for_each_number_of_children():
    points, table = [(2, 0.1), (2, 0.3), (3, 0.2)], torch.arange(18.0).double().reshape(3, 2, 3) / 18
    near, random = chapter.Curve(points, table), chapter.Curve(points, table + 1)
    left, right = chapter.draw_curve(near, random).axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("cosine with each child", "cosine with the parent")
    assert {text.get_text() for text in left.texts} == {"2 children", "3 children"} and not right.texts
    filled, hollow = left.containers[0][0], left.containers[1][0]
    assert filled.get_xdata().tolist() == [0.1, 0.3]
    assert filled.get_ydata().tolist() == pytest.approx(table[:2, :, 1].mean(1).tolist())
    assert hollow.get_ydata().tolist() == pytest.approx((table[:2, :, 1].mean(1) + 1).tolist())
    line = right.lines[0]
    assert line.get_xdata()[-1] == 0.3
    assert line.get_ydata()[-1] == pytest.approx(theory.parent_cosines(theory.narrow_ratio(0.3, 2), 2)[0])


def test_latents_are_drawn_only_where_one_is_live(exact):
    arms = {"a": exact["near the truth"], "b": with_live(exact["random"], [False] * 6)}
    figure = chapter.draw_latent(arms, SETUP)
    titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
    assert titles == ["theory: decoder", "a: decoder", "a: encoder"]
    cells = [float(text.get_text()) for text in figure.axes[0].texts]
    assert cells == pytest.approx(theory.top_eigenvector(theory.second_moment(SETUP.states)).tolist(), abs=0.005)


def test_the_walk_falls_for_the_hierarchy_and_only_rises_for_the_control():
    walk = chapter.walk(P, SETUP)
    assert walk.rise < 0 < walk.saving and walk.control_saving == 0
    assert int(walk.loss.argmin()) == 100 and int(walk.control.argmin()) == 0
    # The clean parent leaves the children's power, and for the control their variance.
    independent = without_hierarchy(SETUP.tree).states()
    variance = independent.probs @ independent.acts[:, 1:].square() - (independent.probs @ independent.acts[:, 1:]) ** 2
    assert float(walk.loss[0]) == pytest.approx(0.3 * 0.8) and float(walk.control[0]) == pytest.approx(variance.sum())


def test_the_walks_numbers_by_hand():
    loss = torch.full((201,), 2.0, dtype=torch.float64)
    loss[100], loss[50] = 1.0, 2.5
    control = torch.linspace(4, 3, 201, dtype=torch.float64)
    walk = chapter.Walk(torch.linspace(0, 2, 201, dtype=torch.float64), loss, control)
    assert (walk.saving, walk.rise, walk.control_saving) == (0.5, 0.25, 0.25)
    lines = chapter.draw_walk(walk).axes[0].lines
    assert [line.get_label() for line in lines[:2]] == ["hierarchy", "independent features (control)"]
    assert lines[1].get_ydata()[-1] == 0.75


def test_what_a_seed_saves_leaves_out_the_penalty_and_the_dead(exact):
    arm = with_live(exact["near the truth"], [True] * 5 + [False])
    clean = float(chapter.walk(P, SETUP).loss[0])
    saved = chapter.loss_saving(arm, replace(SETUP, sae=replace(SETUP.sae, l1=5.0)), clean)
    assert saved.tolist() == pytest.approx(((clean - arm.loss) / clean)[:5].tolist())
    assert saved.tolist() == pytest.approx([chapter.walk(P, SETUP).saving] * 5, abs=1e-3)
    lone = float(chapter.walk(P, SETUP).control[0])
    assert not torch.allclose(
        chapter.loss_saving(arm, SETUP, lone, hierarchy=False), chapter.loss_saving(arm, SETUP, lone)
    )


def test_a_trained_control_saves_nothing_on_the_clean_parent_and_the_hierarchy_would():
    clean = float(chapter.walk(P, SETUP).control[0])
    control = SETUP.fit("random", decoder_bias=True, hierarchy=False)
    saved = chapter.loss_saving(control, SETUP, clean, hierarchy=False)
    assert len(saved) and saved.max() < 1e-3 and saved.max() > -0.01, "the best of them is the clean parent"


def test_robustness_trains_over_both_amounts():
    found = chapter.robustness(replace(P, l1=0.1), chapter.set_up(replace(P, l1=0.1)))
    assert found.rates[[0, -1]].tolist() == pytest.approx([0.001, 0.5]) and found.penalties[0] == 0.1
    assert found.by_rate.shape == found.by_penalty.shape == (3, 2, 3)
    unpenalised = chapter.robustness(P, SETUP)
    assert (unpenalised.by_penalty[0] - tensor([P.cosines[0], *[P.cosines[1]] * 2])).abs().max() < 0.01


def test_shifts_by_hand_and_their_figure():
    by_rate = tensor([[[0.9, 0.1], [0.9, 0.2]], [[0.8, 0.1], [0.9, 0.5]]])
    by_penalty = tensor([[[0.9, 0.1], [0.8, 0.2]], [[0.7, 0.1], [0.9, 0.2]]])
    found = chapter.Robustness(np.array([0.1, 0.2]), np.array([0.0, 0.3]), by_rate, by_penalty)
    assert found.rate_shift == pytest.approx(0.4) and found.penalty_shift == pytest.approx(0.2)
    left, right = chapter.draw_robustness(found, (0.85, 0.3)).axes
    assert (left.get_xscale(), right.get_xscale()) == ("log", "linear")
    assert left.lines[0].get_ydata().tolist() == [0.85, 0.85]
    assert right.containers[1][0].get_ydata().tolist() == pytest.approx([0.15, 0.15])


def test_the_control_does_not_mix_and_every_live_seed_is_a_point(exact):
    control = SETUP.fit("random", decoder_bias=True, hierarchy=False)
    assert control.foreign_cosines.max() < 0.05
    biased = with_live(exact["random"], [True, False, False, False, False, False])
    axis = chapter.draw_seeds(exact, exact, biased, control, predicted=0.5).axes[0]
    counts = [len(points.get_offsets()) for points in axis.collections]
    live, near = int(exact["random"].live.sum()), int(exact["near the truth"].live.sum())
    assert counts == [live, near, live, near, 1, len(control.foreign_cosines)]
    assert axis.lines[0].get_xdata() == [0.5, 0.5] and axis.get_xlabel() == "cosine with a child"
