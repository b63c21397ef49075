import json
import re
from dataclasses import replace

import allowed
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from matryoshka_mixing import theory
from matryoshka_mixing.chapters import matryoshka_inherits as chapter
from matryoshka_mixing.features import family

P = chapter.Parameters(n_seeds=6, n_sweep_seeds=2, n_steps=400, n_grid=3, batch_size=50, d_model=6)
SETUP = chapter.set_up(P)
NAN = float("nan")


@pytest.fixture(scope="module")
def exact():
    return SETUP.fit_both()


@pytest.fixture(scope="module")
def swept():
    return chapter.sweep(P, replace(SETUP, exact=replace(SETUP.exact, steps=2000)))


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def expected_decoder(child_probability, inner_weight, n_children):
    """Every latent's predicted cosine with every feature, the parent first."""
    parent, to_child, to_parent, own, sibling = chapter.predicted(child_probability, inner_weight, n_children)
    matrix = np.full((n_children + 1, n_children + 1), sibling)
    matrix[0], matrix[:, 0] = to_child, to_parent
    np.fill_diagonal(matrix, own)
    matrix[0, 0] = parent
    return matrix


@given(allowed.values(chapter.Parameters))
@settings(max_examples=25, deadline=None)
def test_every_allowed_value_can_be_set_up(values):
    p = chapter.Parameters(**values)
    setup = chapter.set_up(p)
    assert setup.seeds == range(p.seed, p.seed + p.n_seeds) and setup.sampled.seed == p.seed
    for kind in ("random", "near the truth"):
        assert setup.start(kind, setup.sweep_seeds).W_dec.isfinite().all()
    assert len(chapter.sweep_settings(p, setup)) == 2 * p.n_grid and len(chapter.penalties(p)) == p.n_grid
    expected = expected_decoder(p.child_probability, p.inner_weight, p.n_children)
    assert np.abs(chapter.optimum(setup).numpy() - expected).max() < 1e-5
    assert chapter.walk(p, setup).loss.isfinite().all()


@pytest.mark.parametrize(("name", "value"), allowed.outside(chapter.Parameters))
def test_values_outside_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} = .* It must be"):
        chapter.Parameters(**{name: value})


def test_selective_latents_by_hand():
    states = family(0.3, 0.4).states()  # nothing, parent, parent + child 2, parent + child 1
    clean, matched = states.acts, torch.arange(3)
    assert chapter.selective(clean, matched, states.acts).tolist() == [True, True, True]
    stray = clean.clone()
    stray[states.acts[:, 2] > 0, 1] = 0.5  # child 1's latent fires on child 2
    assert chapter.selective(stray, matched, states.acts).tolist() == [True, False, True]
    assert chapter.selective(clean * 0, matched, states.acts).all()  # one that never fires does not stray
    swapped = clean[:, [1, 0, 2]]
    both = chapter.selective(torch.stack([swapped, clean]), torch.tensor([[1, 0, 2], [0, -1, 2]]), states.acts)
    assert both.tolist() == [[True, True, True], [True, False, True]]


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_every_expected_decoder_is_a_unit_vector_and_that_of_the_states(beta):
    p = chapter.Parameters(n_children=3, child_probability=0.2, inner_weight=beta)
    expected = expected_decoder(0.2, beta, 3)
    assert np.linalg.norm(expected, axis=1) == pytest.approx([1] * 4)
    assert np.abs(chapter.optimum(chapter.set_up(p)).numpy() - expected).max() < 1e-12
    assert dict(zip(chapter.COSINES, chapter.predicted(0.2, beta, 3), strict=True)) == pytest.approx(
        {
            "parent's latent with the parent": expected[0, 0],
            "parent's latent with a child": expected[0, 1],
            "child's latent with the parent": expected[1, 0],
            "child's latent with its child": expected[1, 1],
            "child's latent with a sibling": expected[1, 2],
        }
    )


def test_training_from_near_the_truth_finds_theory(exact):
    near = exact["near the truth"]
    assert near.child_cosines.tolist() == pytest.approx([float(chapter.optimum(SETUP)[0, 1])] * 6, abs=0.01)
    assert (chapter.sibling_cosines(near) < 0).all() and (chapter.recovery(near) < 0.99).all()
    assert chapter.same_as_near(near, near, SETUP.states.power).all()


def test_seeds_that_reach_the_same_are_live_and_as_low(exact):
    near = exact["near the truth"]
    loss, live = near.loss.clone(), torch.ones(6, 3, dtype=torch.bool)
    loss[0], live[1, 2] = loss[0] + 2e-4 * SETUP.states.power, False
    random = replace(near, trained=replace(near.trained, loss=loss[None]), reading=replace(near.reading, live=live))
    assert chapter.same_as_near(random, near, SETUP.states.power).tolist() == [False, False, True, True, True, True]
    assert not chapter.below_near(random, near, SETUP.states.power).any()
    loss[3] -= 3e-4 * SETUP.states.power
    assert chapter.below_near(random, near, SETUP.states.power).tolist() == [False] * 3 + [True, False, False]
    dead = replace(near, reading=replace(near.reading, live=~live.any() & live))
    assert chapter.sibling_cosines(dead).shape == chapter.recovery(dead).shape == (0,)


def test_a_sweep_finds_theory_wherever_it_is_selective(swept):
    assert swept.power.tolist() == pytest.approx([0.3 * (1 + 2 * q) for q in [*swept.chances, 0.4, 0.4, 0.4]])
    assert [values.shape[2] for values in swept.near.cosines] == [1, 2, 2, 2, 2]
    assert swept.near.selective.any() and swept.theory_gap < 0.02 and swept.parent_gap < 0.02
    assert swept.loss_spread < 1e-3
    assert (swept.reached <= swept.random.selective).all()


def made_up(shift=0.0, selective=((True, False), (True, True), (False, False), (True, True))):
    """A sweep of two chances and two weights, whose cosines lie `shift` beside theory in the second seed."""
    chances, betas = np.array([0.1, 0.3]), np.array([0.5, 2.0])
    lines = tensor([chapter.predicted(*point, 2) for point in [(0.1, 1.0), (0.3, 1.0), (0.4, 0.5), (0.4, 2.0)]]).T
    cosines = [line[:, None, None] + tensor([0, shift])[:, None] for line in lines]
    loss = tensor([[1.0, 1.5]] * 4)
    found = chapter.Found(cosines, torch.tensor(selective), loss)
    return chapter.Sweep(chances, betas, lines, found, found, torch.ones(4).double())


def test_gaps_by_hand():
    found = made_up(0.125)
    assert found.theory_gap == pytest.approx(0.125) and found.parent_gap == pytest.approx(0.125)
    assert found.loss_spread == 0.5
    only_first = made_up(0.125, ((True, False),) * 4)
    assert only_first.theory_gap == pytest.approx(0, abs=1e-15) and only_first.parent_gap == pytest.approx(0.125)
    assert np.isnan(made_up(0.125, ((False, False),) * 4).theory_gap)


def test_random_seeds_are_shown_where_they_reach_the_same_loss():
    assert made_up().reached.tolist() == [[True, False], [True, False], [False, False], [True, False]]


def test_the_sweep_is_drawn_over_both_amounts():
    axes = chapter.draw_sweep(made_up(), P).axes
    assert [axis.get_xscale() for axis in axes] == ["linear", "log"] * 2
    assert [len(axis.texts) for axis in axes] == [2, 2, 3, 3]
    filled, hollow = axes[1].containers[0][0], axes[1].containers[1][0]
    assert filled.get_xdata().tolist() == hollow.get_xdata().tolist() == [2.0]  # none is selective at 0.5
    own = pytest.approx([chapter.predicted(0.4, 2.0, 2)[0]])
    assert filled.get_ydata().tolist() == own and hollow.get_ydata().tolist() == own
    line = axes[0].lines[0]
    assert line.get_xdata()[-1] == 0.3 and line.get_ydata()[-1] == pytest.approx(chapter.predicted(0.3, 1.0, 2)[0])


def test_what_a_reader_moves_holds_the_selective_seeds():
    found = made_up(selective=((False, True), (False, False), (True, True), (True, True)))
    data = json.loads(re.search(r"json\">(\{.*\})<", chapter.explorable(found, P))[1])
    first = [float(found.near.cosines[i][0, 1, 0]) for i in (1, 4)]
    assert data["dots"] == [[0.1, *(pytest.approx(value, abs=1e-4) for value in first)], [0.3, None, None]]
    assert data["start"] == {"q": 0.4, "n": 2, "beta": 1.0, "l1": 0.0} and "q" not in data["run"]


def test_the_typical_seed_is_drawn_beside_theory(exact):
    figure = chapter.draw_latents(exact["near the truth"], SETUP)
    assert [a.get_title() for a in figure.axes[:3]] == ["theory: decoder", "trained: decoder", "trained: encoder"]
    cells = [[float(text.get_text()) for text in axis.texts] for axis in figure.axes[:2]]
    assert cells[0] == pytest.approx(expected_decoder(0.4, 1.0, 2).flatten(), abs=0.0051)


def test_the_walk_ends_at_the_loss_of_the_trained_sae(exact):
    walk = chapter.walk(P, SETUP)
    assert int(walk.loss.argmin()) == 100
    assert float(walk.loss[100]) == pytest.approx(float(exact["near the truth"].loss.min()), abs=1e-4)
    # By hand: parent alone in both prefixes, parent + child in the inner one.
    alone, child = 0.3 * 0.2, 0.3 * 0.8
    clean = theory.matryoshka_ratio(0.4, 2) * tensor([0, 1, 1]) + tensor([1, 0, 0])
    unit = clean / clean.norm()
    errors = [1 - float(unit @ tensor(state)) ** 2 / sum(state) for state in ([1, 0, 0], [1, 1, 0])]
    assert float(walk.loss[100]) == pytest.approx(2 * alone * errors[0] + child * 2 * errors[1])
    axis = chapter.draw_walk(walk).axes[0]
    assert axis.lines[0].get_ydata()[100] == pytest.approx(1 - walk.saving)


def test_a_penalty_turns_the_childrens_lean():
    p = replace(P, l1=0.05)
    cosines = chapter.penalised(p, chapter.set_up(p))
    assert chapter.penalties(p).tolist() == pytest.approx([0.05, 0.15, 0.25])
    assert cosines[2][-1].median() > cosines[2][0].median()
    left, right = chapter.draw_penalised(cosines, p).axes
    assert [len(axis.containers) for axis in (left, right)] == [2, 1] and right.get_xlabel() == "L1 penalty"
    assert right.lines[0].get_ydata().tolist() == [chapter.predicted(0.4, 1.0, 2)[2]] * 3
    assert right.containers[0][0].get_ydata().tolist() == pytest.approx(
        [np.median(values) for values in cosines[2].flatten(1).numpy()]
    )


def test_every_live_seed_is_a_point(exact):
    control = SETUP.fit_both(decoder_bias=True, hierarchy=False)
    assert control["near the truth"].foreign_cosines.max() < 0.1
    axis = chapter.draw_seeds(exact, exact, exact["random"], control, 0.25).axes[0]
    live, near = int(exact["random"].live.sum()), int(exact["near the truth"].live.sum())
    counts = [len(points.get_offsets()) for points in axis.collections]
    assert counts == [live, near, live, near, live, *(int(arm.live.sum()) for arm in control.values())]
    assert axis.get_yticklabels()[-1].get_text() == "control, near the truth"
    assert list(axis.lines[0].get_xdata()) == [0.25, 0.25]
