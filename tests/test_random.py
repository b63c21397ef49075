import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from matryoshka_mixing import _random

BOUND = 5.5
"""Standard errors that a correct generator may be off by."""


@given(st.floats(1e-300, 1.0))
def test_the_logarithm_is_right_to_the_last_digits(x):
    assert _random.logarithm(x) == pytest.approx(math.log(x), rel=1e-15, abs=2e-15)


def test_uniform_numbers_fill_the_interval_evenly():
    counter = _random.stream(7)
    drawn = torch.tensor([_random.uniform(counter) for _ in range(50_000)])
    counts = torch.histc(drawn, 50, 0, 1)
    assert drawn.min() >= 0 and drawn.max() < 1
    chi_squared = ((counts - 1000) ** 2 / 1000).sum().item()
    assert abs(chi_squared - 49) < BOUND * math.sqrt(2 * 49)


@pytest.mark.parametrize("purpose", [_random.DICTIONARY, _random.START, _random.NOISE])
def test_normal_numbers_have_the_moments_of_a_normal_law_within_and_across_streams(purpose):
    drawn = torch.stack([_random.normals((50,), seed, purpose) for seed in range(4000)])
    for axis, n in ((None, drawn.numel()), (0, len(drawn))):
        for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            found = (drawn**power).mean() if axis is None else (drawn**power).mean(axis)
            assert ((found - mean).abs() < BOUND * math.sqrt(variance / n)).all(), (axis, power)
    neighbours = (drawn[:, 1:] * drawn[:, :-1]).mean()
    assert neighbours.abs() < BOUND / math.sqrt(drawn[:, 1:].numel())


def test_streams_for_different_purposes_have_nothing_in_common():
    one, other = _random.normals((20_000,), 3, _random.DICTIONARY), _random.normals((20_000,), 3, _random.START)
    assert (one * other).mean().abs() < BOUND / math.sqrt(20_000)
    assert torch.equal(one, _random.normals((20_000,), 3, _random.DICTIONARY))


@pytest.mark.parametrize(("n", "d"), [(1, 1), (3, 20), (20, 20), (50, 64)])
def test_rows_are_orthonormal_and_point_anywhere(n, d):
    rows = torch.stack([_random.orthonormal(n, d, seed) for seed in range(300)])
    assert torch.allclose(rows @ rows.mT, torch.eye(n, dtype=torch.float64).expand(300, n, n), rtol=0, atol=1e-14)
    assert (rows.mean(0).abs() < BOUND * math.sqrt(1 / d / 300)).all()


def test_lengths():
    rows = torch.tensor([[[3.0, 4.0], [0.0, 0.0]]]).double()
    assert _random.lengths(rows).tolist() == [[[5.0], [0.0]]]
