import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matryoshka_mixing.chapters import firing_rates as chapter
from matryoshka_mixing.chapters.firing_rates import Moves, Parameters, Rates, Wider, curve, predicted
from matryoshka_mixing.theory import matryoshka_ratio

TINY = Parameters(n_seeds=8, n_sweep_seeds=2, n_grid=3, n_steps=500)


@pytest.fixture(scope="module")
def toy():
    return chapter.toy(TINY)


@st.composite
def values(draw):
    """Every value lies in its declared range; together they need not fit."""
    return {
        name: draw(
            st.integers(int(one.low), int(min(one.high, one.low + 40)))
            if one.whole and name != "seed"
            else st.integers(0, int(one.high))
            if one.whole
            else st.floats(one.low, one.high)
        )
        for name, one in Parameters.described().items()
    }


@settings(max_examples=60, deadline=None)
@given(values())
def test_whatever_passes_can_be_set_up(chosen):
    fits = chosen["child_probability"] * chosen["n_children"] <= 1 and chosen["d_model"] > chosen["n_children"]
    if not fits:
        with pytest.raises(ValueError, match=r"at most 1 is possible|no room for"):
            Parameters(**chosen)
        return
    p = Parameters(**chosen)
    toy = chapter.toy(p)
    rates = [(p.parent_probability, p.child_probability), (p.parent_probability / 300, 1e-6)]
    for setting in toy.settings(rates, toy.few):
        assert float(setting.data.probs.sum()) == pytest.approx(1)
        assert setting.data.inputs(setting.dictionary).isfinite().all()
    assert 0 < predicted(p.child_probability, p.n_children, p.inner_weight) < 1
    assert (len(toy.seeds), len(toy.few)) == (p.n_seeds, p.n_sweep_seeds) and toy.seeds[0] == toy.few[0] == p.seed


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 8}, r"d_model = 8: .* It must be a whole number from 9 to 1000"),
        ({"d_model": 12, "n_children": 12, "child_probability": 0.05}, "no room for 13 orthogonal features"),
        ({"child_probability": 0.6}, r"child_probability = 0.6: .* It must be a number from 1e-06 to 0.5"),
        ({"child_probability": 0.4, "n_children": 3}, "at most 1 is possible"),
        ({"n_grid": 2}, "n_grid = 2"),
        ({"start_noise": 1e300}, "start_noise = 1e[+]300"),
        ({"inner_weight": 0.0}, "inner_weight = 0.0"),
        ({"seed": 1 << 64}, "seed = 18446744073709551616"),
    ],
)
def test_what_cannot_run_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Parameters(**changes)


def test_for_a_rare_child_theory_is_proportional_to_its_rate():
    rare = np.array([1e-5, 2e-5])
    assert curve(rare, 2, 1.0) == pytest.approx(rare / 2, rel=1e-3)
    assert curve(rare, 4, 3.0) == pytest.approx(rare * 3 / 4, rel=1e-3)


def test_a_seed_draws_its_own_directions(toy):
    for n in (2, 8):
        drawn = toy.directions(toy.few, n)
        assert torch.allclose(drawn @ drawn.mT, torch.eye(n + 1, dtype=torch.float64).expand(2, -1, -1))
    assert torch.equal(drawn[:, :3], toy.directions(toy.few)) and not torch.allclose(drawn[0], drawn[1])
    first, second = toy.settings([(0.3, 0.4), (0.001, 0.4)], toy.few)
    assert torch.equal(first.dictionary, drawn[:, :3]) and float(second.data.probs[1:].sum()) == pytest.approx(0.001)


def test_the_map_is_level_along_the_parents_rate(toy):
    rates = chapter.sweep_rates(toy)
    assert rates.bare.shape == rates.biased.shape == (3, 3)
    assert rates.theory_gap < 1e-4
    theirs = torch.tensor(curve(rates.child, 2, 1.0))[:, None].expand(3, 3)
    assert torch.allclose(rates.bare, theirs, rtol=0, atol=1e-4)
    assert 0 <= rates.converged <= 1 and rates.bias_rise > 0.001, "biases matter where the parent is common"
    assert float((rates.biased - rates.bare)[:, 0].abs().max()) < 0.001


def test_saes_that_do_not_fire_as_theory_assumes_are_not_held_against_it():
    many = {"n_children": 12, "child_probability": 0.05}
    lost = Parameters(n_sweep_seeds=1, n_grid=3, n_steps=1, start_noise=10, **many)
    assert math.isnan(chapter.sweep_rates(chapter.toy(lost)).theory_gap)


def test_the_map_is_drawn_with_contours_where_theory_has_them():
    table = torch.full((3, 3), 0.2, dtype=torch.float64)
    rates = Rates(np.geomspace(1e-4, 0.5, 3), np.geomspace(0.01, 0.49, 3), table, table + 0.05, 0.0, 1.0)
    assert rates.bias_rise == pytest.approx(0.05)
    figure = chapter.draw_rates(rates, TINY)
    assert [axis.get_title() for axis in figure.axes[:2]] == ["no biases", "with biases"]
    contours = [line for line in figure.axes[0].lines if line.get_color() == "black"]
    heights = [line.get_ydata()[0] for line in contours]
    assert curve(np.array(heights), 2, 1.0) == pytest.approx(chapter.CONTOURS, rel=0.01)
    assert [t.get_text() for t in figure.axes[0].texts] == [*map("{:g}".format, chapter.CONTOURS), "dense"]


def test_a_rarer_child_is_mixed_in_less_and_a_rarer_family_as_much(toy):
    moves = chapter.make_moves(toy)
    assert abs(moves.drop("near the truth", "rarer family")) < 1e-3
    t = [matryoshka_ratio(q, 2) for q in (0.4, 0.05)]
    theirs = 1 - (t[1] / (1 + 2 * t[1] ** 2) ** 0.5) / (t[0] / (1 + 2 * t[0] ** 2) ** 0.5)
    assert moves.drop("near the truth", "rarer child") == pytest.approx(theirs, abs=1e-3)
    assert set(moves.cosines) == {"near the truth", "random", "sampled, near the truth", "large batches, random"}
    assert all(len(found["default"]) <= 8 for found in moves.cosines.values())


def moves_of(default, other):
    return Moves({"random": {"default": torch.tensor(default).double(), "rarer child": torch.tensor(other).double()}})


def test_drops_are_shares_of_the_median():
    assert moves_of([0.4, 0.2, 0.9], [0.1]).drop("random", "rarer child") == pytest.approx(0.75)
    assert moves_of([0.4], [0.4]).drop("random", "rarer child") == 0
    for default, other in [([], [0.1]), ([0.4], []), ([0.0], [0.1])]:
        assert math.isnan(moves_of(default, other).drop("random", "rarer child"))


def test_every_live_seed_is_a_point():
    axis = chapter.draw_moves(moves_of([0.4, 0.2], []), TINY).axes[0]
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["default, random", "rarer child, random"]
    assert [len(points.get_offsets()) for points in axis.collections] == [2, 0]
    assert axis.lines[0].get_xdata()[0] == pytest.approx(predicted(0.4, 2, 1.0))


def test_more_children_share_the_mixing(toy):
    wider = chapter.widen(toy)
    assert wider.theory_gap(TINY) < 0.01
    for n in chapter.COUNTS:
        assert torch.allclose(wider.whole[n], n**0.5 * wider.one[n], rtol=0, atol=0.01)
    assert (wider.one[8] < wider.one[2]).all() and (wider.whole[8] < wider.whole[2]).all()


def test_the_distance_from_theory_is_that_of_the_farthest_median():
    totals = np.array([0.2, 0.6])
    theirs = torch.tensor(curve(totals / 2, 2, 1.0))[:, None]
    off = torch.tensor([[0.0], [0.1]], dtype=torch.float64)
    assert Wider(totals, {2: theirs}, {2: 2**0.5 * theirs}).theory_gap(TINY) == pytest.approx(0, abs=1e-12)
    assert Wider(totals, {2: theirs}, {2: 2**0.5 * theirs - off}).theory_gap(TINY) == pytest.approx(0.1)


def test_both_panels_have_a_line_and_points_for_every_count():
    values = {n: torch.full((2, 3), 0.1 * n, dtype=torch.float64) for n in (2, 4)}
    figure = chapter.draw_wider(Wider(np.array([0.2, 0.6]), values, values), TINY)
    assert [axis.get_ylabel() for axis in figure.axes] == ["parent's cosine with one child", "length of the mixed part"]
    for axis in figure.axes:
        assert {text.get_text() for text in axis.texts} == {"2 children", "4 children"}
        assert axis.containers[1][0].get_ydata() == pytest.approx([0.4, 0.4])


def test_independent_features_are_not_mixed(toy):
    found = chapter.control(toy)
    assert 1 <= len(found) <= len(toy.seeds) and float(found.max()) < 0.1
