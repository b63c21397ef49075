"""The toy of a thousand features: what it is, what theory expects of it, and that its page is what is stored."""

import math

import numpy as np
import pandas as pd
import pytest
import thousand
import torch

from matryoshka_mixing import theory
from matryoshka_mixing.sae import start_near


@pytest.fixture(scope="module")
def tree():
    return thousand.thousand_features()


def test_the_tree_is_as_told(tree):
    parents, rates = tree.parents(), tree.firing_probabilities()
    assert tree.n_features == 1000 and parents.count(None) == 40
    assert sum(p is not None and parents[p] is None for p in parents) == 160
    assert rates[0] == 0.5 and rates[25] == 0.25 and rates[1] == pytest.approx(0.5 * 0.384)
    zipf = [0.5 * (1 - 0.2) / sum(1 / n for n in range(1, 5)) / n for n in range(1, 5)]
    assert [float(rates[1 + 6 * n]) for n in range(4)] == pytest.approx(zipf)
    assert rates[2] == pytest.approx(0.5 * 0.384 * 0.16)
    ranks = thousand.ranks_by_rate(tree)
    assert sorted(ranks) == list(range(1000))
    assert all(ranks[parent] < ranks[child] for child, parent in enumerate(parents) if parent is not None)


def test_theory_agrees_with_the_closed_form_where_the_root_leans_little():
    """A child with its leaves is a family by itself, beside a root that stands in all prefixes."""
    ranks = list(range(25))
    late = [0, 1, *range(10, 15), *range(2, 10), *range(15, 25)]  # the first child's leaves miss the first prefix of 3
    pulls = torch.full((5,), 0.16, dtype=torch.float64)
    ratios = theory.unequal_ratios(0.2 * 3, pulls)
    expected = float(ratios[0] / (1 + ratios.square().sum()).sqrt())
    assert thousand.predicted(late, (7, 15, 25))[1, 2] == pytest.approx(expected, abs=0.01)
    assert expected > 0.1, "or this compares nothing with nothing"
    assert max(map(abs, thousand.predicted(ranks, (25,)).values())) < 1e-4, "a standard SAE has no reason to lean"


def test_reading_an_sae_that_is_the_truth_and_one_that_leans(tree, monkeypatch):
    """On the truth nothing leans; a latent with a fifth of its child added leans by 1 / sqrt(26), less the overlap."""
    monkeypatch.setattr(thousand, "TESTED", 300)
    directions, ranks = torch.eye(1000, dtype=torch.float64), thousand.ranks_by_rate(tree)
    sae = start_near(directions, [0], 0.0, order=np.argsort(ranks).tolist())[0]
    found = thousand.read(sae, tree, directions, ranks)
    assert len(found) == 960 and found[["cosine", "stranger"]].abs().max().max() < 1e-9
    assert found["with_child"].dropna().min() == 1
    sae.W_dec[ranks[0]] += 0.2 * directions[1]
    sae.W_enc[:, ranks[0]] -= directions[1]
    found = thousand.read(sae, tree, directions, ranks).set_index(["parent", "child"])
    assert found.loc[(0, 1), "cosine"] == pytest.approx(0.2 / math.sqrt(1.04)) and found["cosine"].sum() < 0.2
    assert found.loc[(0, 1), "with_child"] == 0 and found.loc[(0, 1), "alone"] == 1


def test_latents_of_a_start_at_random_are_found_wherever_they_stand():
    """The truth in another order; one latent lies between two features of others."""
    directions, order = torch.eye(1000, dtype=torch.float64), np.random.default_rng(0).permutation(1000)
    sae = start_near(directions, [0], 0.0, order=order.tolist())[0]
    sae.W_dec[order.tolist().index(1)] = directions[2] + directions[3]
    assert thousand.ranks_found(sae, directions) == [
        1000 if feature == 1 else order.tolist().index(feature) for feature in range(1000)
    ]


def test_what_is_stored_is_whole_and_theory_comes_again(tree):
    table = pd.read_csv(thousand.FOLDER / "edges.csv")
    assert set(table["arm"]) == {arm.name for arm in thousand.ARMS} and len(table) == 3 * 960 + 710 + 706
    ranks = thousand.ranks_by_rate(tree)[:50]
    rows = table[(table["arm"] == thousand.ARMS[0].name) & (table["parent"] < 50)].set_index(["parent", "child"])
    again = thousand.predicted(ranks, thousand.WIDTHS)
    assert len(again) == len(rows) == 48
    assert all(abs(rows.loc[edge, "predicted"] - value) < 1e-4 for edge, value in again.items())


def test_the_page_is_what_the_stored_edges_give():
    assert thousand.PAGE.read_text(encoding="utf-8") == thousand.page(), "run: python sweeps/thousand.py"
    assert thousand.FIGURE.is_file() and thousand.FIGURE.with_suffix(".csv").is_file()
