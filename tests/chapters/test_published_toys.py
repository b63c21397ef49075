from dataclasses import replace

import allowed
import numpy as np
import pytest
import torch
from hypothesis import given, settings

from matryoshka_mixing import claims
from matryoshka_mixing.chapters import published_toys as chapter

P = chapter.Parameters(n_seeds=6, n_sweep_seeds=2, n_steps=600, n_grid=5, batch_size=50, d_model=6)


@pytest.fixture(scope="module")
def singles():
    return chapter.singles(replace(P, n_steps=1500))


@pytest.fixture(scope="module")
def balances():
    return chapter.balances(replace(P, n_steps=1500))


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


@given(allowed.values(chapter.Parameters))
@settings(max_examples=15, deadline=None)
def test_every_allowed_value_can_be_set_up(values):
    p = chapter.Parameters(**values)
    assert 1 <= len(p.main) <= 40 and p.main[0] == p.sweep_seeds[0] == p.seed
    assert p.schedule(True).batch_size == p.batch_size and p.schedule(False).batch_size is None
    for toy in chapter.TOYS.values():
        assert float(chapter.two_features(p.parent_probability, toy).probs.sum()) == pytest.approx(1)


@pytest.mark.parametrize(("name", "value"), allowed.outside(chapter.Parameters))
def test_values_outside_are_refused(name, value):
    with pytest.raises(ValueError, match=f"^{name} = .* It must be"):
        chapter.Parameters(**{name: value})


@pytest.mark.parametrize(
    ("name", "beside", "alone"),
    [("independent", 0.2, 0.2), ("hierarchical", 0.2, 0), ("correlated", 0.2, 0.1), ("anti-correlated", 0.1, 0.2)],
)
def test_the_second_feature_fires_as_published(name, beside, alone):
    states = chapter.two_features(0.25, chapter.TOYS[name])
    first, second = states.acts.T > 0
    assert float(states.probs[first].sum()) == pytest.approx(0.25)
    assert float(states.probs[first & second].sum()) == pytest.approx(0.25 * beside)
    assert float(states.probs[~first & second].sum()) == pytest.approx(0.75 * alone)


def test_signs_are_the_published_ones(singles):
    near = {name: singles[name, chapter.NEAR, False] for name in chapter.TOYS}
    assert near["independent"].second.abs().max() < 1e-3
    assert (near["independent"].bias[:, 1] - 0.2).abs().max() < 1e-3
    assert (near["hierarchical"].second > 0.1).all() and (near["correlated"].second > 0.1).all()
    assert (near["anti-correlated"].second < -0.05).all()


def test_tables_and_strips_show_what_was_found(singles):
    table = chapter.table(singles).splitlines()
    assert len(table) == 2 + len(chapter.TOYS)
    near = singles["hierarchical", chapter.NEAR, False]
    assert f"| {float(near.second.median()):.3f} |" in table[3] and table[3].startswith(
        "| hierarchical | 0.001 | positive |"
    )
    axis = chapter.draw_singles(singles).axes[0]
    shown = axis.collections[3].get_offsets()[:, 0]  # the second toy, near the truth
    assert shown.tolist() == pytest.approx(near.second.tolist())
    assert chapter.median(tensor([])) == "–"


def test_random_starts_on_the_second_feature_are_left_out():
    single = chapter.Single(
        tensor([[0.9, 0.1], [0.1, 0.9], [-0.9, 0.1], [0.8, -0.3]]), tensor([[0, 0]] * 4),
        torch.tensor([True, True, True, False]), torch.ones(4, dtype=torch.bool),
    )  # fmt: skip
    assert single.on_first.tolist() == [0.1] and single.second.tolist() == [0.1, 0.9, 0.1]


def test_a_crossing_is_where_the_line_meets_zero():
    weights = np.array([0.1, 0.2, 0.4])
    assert float(chapter.crossing(weights, tensor([-1, 1, 2]))) == pytest.approx(0.1 * 2**0.5)
    assert float(chapter.crossing(weights, tensor([-2, -1, 1]))) == pytest.approx(0.2 * 2**0.5)
    assert (
        chapter.crossing(weights, tensor([1, 2, 3])).isnan() and chapter.crossing(weights, tensor([1, 0, -1])).isnan()
    )


def made_up(encoder, weights=(0.1, 0.2, 0.4)):
    encoder = tensor(encoder)[:, None].expand(-1, 2, -1)
    all_true = torch.ones(encoder.shape[:2], dtype=torch.bool)
    return chapter.Balance(np.array(weights), encoder, encoder, all_true, all_true, all_true)


def test_the_best_weight_lies_between_the_points():
    equal = made_up([[-0.1, -0.1, -0.1], [0.1, 0.1, 0.1], [0.2, 0.2, 0.2]])
    weight, left = equal.best
    assert weight == pytest.approx(0.1 * 2**0.5, rel=1e-3) and left < 1e-3
    assert equal.crossings.tolist() == pytest.approx([0.1 * 2**0.5] * 2)
    unequal = made_up([[-0.2, -0.1, 0.0], [-0.1, 0.1, 0.2], [0.0, 0.2, 0.4]])
    weight, left = unequal.best  # -0.2 and 0 run to -0.1 and 0.2: alike in size two thirds of the way
    assert weight == pytest.approx(0.1 * 2 ** (2 / 3), rel=1e-3) and left == pytest.approx(0.4 / 3, abs=1e-3)
    assert chapter.worst_at(unequal, 0.2) == pytest.approx(0.2)
    dead = replace(equal, live=~equal.live)
    assert dead.of_children.isnan().all()


def test_equal_children_balance_together_and_unequal_ones_apart(balances):
    equal, unequal = balances["equal"], balances["unequal"]
    assert equal.encoder.shape == (9, 6, 3) and balances["random"].encoder.shape == (1, 6, 3)
    assert abs(float(equal.crossings.nanmedian()) - chapter.PUBLISHED) < 0.05
    low, middle, high = unequal.child_crossings.tolist()[::-1]
    assert low < middle < high and high > 3 * low
    assert equal.best[1] < unequal.best[1]


def test_the_balance_is_drawn_from_its_medians(balances):
    left, right = chapter.draw_balance(balances, P).axes[:2]
    some = balances["unequal"]
    kept = torch.where(some.live & some.leads, some.encoder[..., 0], torch.nan)
    wanted = np.nanmedian(kept.numpy(), axis=1)
    assert left.get_xscale() == "log" and right.lines[0].get_ydata().tolist() == pytest.approx(wanted.tolist())


def test_every_metric_of_the_claim_is_measured(singles, balances):
    measured = chapter.measured(singles, balances)
    verdict = claims.judge(claims.load()["published-toys"], measured)
    outcomes = {outcome.criterion.metric: outcome.outcome for outcome in verdict.outcomes}
    assert outcomes["sampled_gap"] in ("met", "failed") and outcomes["converged"] == "met"
    for changed, wanted in (({"independent": np.full(64, 0.5)}, "mixed"), ({"converged": 0.0}, "inconclusive")):
        assert claims.judge(claims.load()["published-toys"], measured | changed).verdict == wanted
