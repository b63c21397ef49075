from dataclasses import replace

import allowed
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from matryoshka_mixing import claims, metrics
from matryoshka_mixing.chapters import standard_sae_absorbs as chapter

P = chapter.Parameters(n_seeds=5, n_sweep_seeds=2, n_steps=400, n_grid=3, l1=0.1, batch_size=50)
SETUP = chapter.set_up(P)
FIRST = SETUP.directions(SETUP.seeds[:1])[0]
HALF = 2**-0.5


@pytest.fixture(scope="module")
def exact():
    return SETUP.fit_both()


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def arm(sae):
    """An arm of a single seed, the first, with this SAE."""
    reading = metrics.read(sae, SETUP.states, FIRST, SETUP.tree.parents())
    return replace(replace(SETUP, seeds=range(1)).fit("random"), reading=reading)


@given(allowed.values(chapter.Parameters))
@settings(max_examples=25, deadline=None)
def test_every_allowed_value_can_be_set_up(values):
    p = chapter.Parameters(**values)
    setup = chapter.set_up(p)
    assert len(setup.seeds) == p.n_seeds and setup.seeds[0] == setup.sampled.seed == p.seed
    for kind in ("random", "near the truth"):
        assert setup.start(kind, setup.sweep_seeds).W_dec.isfinite().all()
    points = chapter.sweep_settings(p, setup)[2]
    assert len(points) == 2 * p.n_grid and all(point.data.probs.sum() == pytest.approx(1) for point in points)


@pytest.mark.parametrize(("name", "value"), allowed.outside(chapter.Parameters))
def test_values_outside_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} = .* It must be"):
        chapter.Parameters(**{name: value})


def test_values_that_do_not_fit_together_are_refused():
    with pytest.raises(ValueError, match="at most 1 is possible"):
        chapter.Parameters(n_children=3)
    with pytest.raises(ValueError, match="leaves no room for 5 orthogonal features"):
        chapter.Parameters(n_children=4, child_probability=0.2, d_model=4)


@pytest.mark.parametrize(("n", "q"), [(2, 0.4), (2, 0.5), (5, 0.1)])
def test_both_saes_made_by_hand_are_exact_and_the_absorbed_one_is_cheaper(n, q):
    setup = chapter.set_up(chapter.Parameters(n_children=n, child_probability=q, l1=0.1, parent_probability=0.3))
    directions = setup.directions([0])[0]
    x = setup.states.inputs(directions)
    for sae in chapter.by_hand(directions).values():
        assert (sae.decode(sae.encode(x)) - x).abs().max() < 1e-12
    alone, with_child = 0.1 * 0.3 * (1 - n * q), 0.1 * 0.3 * n * q
    losses = chapter.hand_losses(setup)
    assert losses["clean"] == pytest.approx(alone + 2 * with_child)
    assert losses["absorbed"] == pytest.approx(alone + 2**0.5 * with_child)


def test_what_is_made_by_hand_reads_as_what_it_is():
    hand = chapter.by_hand(FIRST)
    clean, absorbed = arm(hand["clean"]), arm(hand["absorbed"])
    assert chapter.live_lean(clean).tolist() == pytest.approx([0], abs=1e-12)
    assert chapter.live_lean(absorbed).tolist() == pytest.approx([HALF])
    assert (chapter.absorbed(clean).tolist(), chapter.absorbed(absorbed).tolist()) == ([False], [True])
    turned = replace(hand["clean"], W_dec=hand["clean"].W_dec * tensor([-1, 1, 1])[:, None])
    assert chapter.complement(clean).tolist() == [False] and chapter.complement(arm(turned)).tolist() == [True]
    uneven = replace(hand["clean"], W_dec=hand["clean"].W_dec - tensor([0, 1, 0])[:, None] * FIRST[0])
    assert chapter.control_lean(arm(uneven)).tolist() == pytest.approx([HALF])
    assert chapter.live_lean(arm(uneven)).tolist() == pytest.approx([-HALF])


def test_dead_seeds_are_left_out(exact):
    dead = replace(exact["random"], reading=replace(exact["random"].reading, live=torch.zeros(5, 3, dtype=torch.bool)))
    for look in (chapter.live_lean, chapter.control_lean, chapter.absorbed, chapter.complement):
        assert look(dead).shape == (0,)
    assert len(chapter.draw_decoders({"dead": dead}, SETUP).axes) == 2


def test_a_penalty_makes_the_sae_absorb_and_the_control_does_not(exact):
    near, control = exact["near the truth"], SETUP.fit("near the truth", decoder_bias=True, hierarchy=False)
    assert near.live.all() and chapter.absorbed(near).all()
    assert chapter.control_lean(control).max() < 0.1
    measured = {
        "absorption_rate": near.reading.absorption,
        "child_to_parent": chapter.live_lean(near),
        "absorption_rate_near_truth": near.reading.absorption,
        "absorption_rate_with_bias": np.ones(192),
        "sampled_gap": 0.0,
        "control_child_to_parent": chapter.control_lean(control),
        "converged": chapter.converged(exact),
    }
    outcomes = claims.judge(claims.load()["full-width-absorbs"], measured).outcomes
    assert [o.passed for o in outcomes[:3]] == [5, 5, 5]


def test_a_sweep_leaves_out_what_has_not_converged():
    setup = replace(SETUP, exact=replace(SETUP.exact, steps=1))
    swept = chapter.sweep(P, setup, "near the truth")
    assert swept.rate.shape == swept.lean.shape == (6, 2) and swept.n_unconverged == 12
    assert swept.rate.isnan().all() and swept.lean.isnan().all()
    assert np.isnan(chapter.rate_range(swept)).all()
    setup = replace(SETUP, exact=replace(SETUP.exact, tolerance=1e9))
    swept = chapter.sweep(P, setup, "near the truth")
    assert swept.n_unconverged == 0 and not swept.rate.isnan().any() and (swept.rate[2] > 0.9).all()


def test_a_sweep_varies_one_thing_at_a_time():
    penalties, chances, points = chapter.sweep_settings(P, SETUP)
    assert [point.sae.l1 for point in points] == [*penalties, 0.1, 0.1, 0.1]
    found = [float(point.data.probs[point.data.acts[:, 1] > 0]) for point in points]
    assert found == pytest.approx([0.12, 0.12, 0.12, *(0.3 * chances)])


def made_up(shift):
    table = tensor([[0.1, 0.2], [0.2, 0.3], [0.3, 0.4], [float("nan")] * 2, [0.5, 0.6], [0.6, 0.7]])
    return chapter.Sweep(np.array([0.01, 0.1, 1.0]), np.array([0.1, 0.2, 0.3]), table + shift, -table, 2)


def test_the_range_of_rates_and_the_figure_of_sweeps():
    near, random = made_up(0.0), made_up(0.25)
    assert chapter.rate_range(near, random) == pytest.approx((0.1, 0.95))
    axes = chapter.draw_sweeps(near, random).axes
    assert [axis.get_xscale() for axis in axes] == ["log", "log", "linear", "linear"]
    assert [axis.get_ylabel() for axis in axes] == ["absorption", "child's cosine with parent"] * 2
    filled, hollow = (container[0] for container in axes[2].containers)
    assert filled.get_xdata().tolist() == [0.2, 0.3] and filled.get_ydata().tolist() == pytest.approx([0.55, 0.65])
    assert hollow.get_ydata().tolist() == pytest.approx([0.8, 0.9]) and hollow.get_markerfacecolor() == "none"


def test_latents_are_drawn_in_the_order_of_their_features():
    absorbed = chapter.by_hand(FIRST)["absorbed"]
    shuffled = absorbed.map(lambda t: t[..., [2, 0, 1]] if t.shape[-1] == 3 else t)
    shuffled = replace(shuffled, W_dec=absorbed.W_dec[:, [2, 0, 1]])
    arms = {"one": arm(shuffled)}
    axis = chapter.draw_decoders(arms, SETUP).axes[0]
    cells = np.array([float(t.get_text()) for t in axis.texts]).reshape(3, 3)
    assert cells.tolist() == [[1, 0, 0], [0.71, 0.71, 0], [0.71, 0, 0.71]]
    assert [t.get_text() for t in axis.get_yticklabels()] == ["parent's latent", "child 1's latent", "child 2's latent"]
    axis = chapter.draw_activations(arms, SETUP).axes[0]
    rows = np.array([float(t.get_text()) for t in axis.texts]).reshape(4, 3)
    assert rows.tolist() == [[0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]]
    assert axis.get_title() == "one: activations" and axis.get_yticklabels()[1].get_text() == "parent"


def test_every_live_seed_is_a_point(exact):
    figure = chapter.draw_seeds(exact, exact, exact["random"], exact["near the truth"])
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["exact, random", "exact, near the truth", "sampled, random", "sampled, near the truth",
                     "decoder bias, random", "control: independent, random"]  # fmt: skip
    counts = [len(points.get_offsets()) for points in figure.axes[0].collections]
    live, near = int(exact["random"].live.sum()), int(exact["near the truth"].live.sum())
    assert counts == [live, near, live, near, live, near]
