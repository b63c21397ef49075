import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from matryoshka_mixing import features
from matryoshka_mixing.features import (
    FeatureTree,
    States,
    equal_cosine_dictionary,
    family,
    independent,
    orthonormal_dictionaries,
    orthonormal_dictionary,
    overlapping,
    part_of_one,
    retuned,
    twenty_feature_tree,
    without_hierarchy,
)

BOUND = 1e-9
"""Chance that a correct sampler is told off, per comparison."""


def leaf(p, **more):
    return {"active_prob": p, **more}


ORIGINAL_FAMILY = leaf(
    0.15,
    mutually_exclusive_children=True,
    children=[leaf(0.2), leaf(0.2), leaf(0.2), leaf(0.4, is_read_out=False)],
)
ORIGINAL_TREE = leaf(1.0, is_read_out=False, children=[ORIGINAL_FAMILY] * 3 + [leaf(0.05)] * 8)


@st.composite
def trees(draw, depth=2):
    exclusive = draw(st.booleans())
    n = draw(st.integers(0, 3)) if depth else 0
    children = [draw(trees(depth=depth - 1)) for _ in range(n)]
    if exclusive and children:
        total = sum(child.active_prob for child in children)
        children = [
            FeatureTree(c.active_prob / max(1, total), c.children, c.mutually_exclusive_children, c.is_read_out)
            for c in children
        ]
    readable = draw(st.booleans()) or depth == 2
    return FeatureTree(draw(st.floats(0, 1)), tuple(children), exclusive, is_read_out=readable)


@given(trees())
@settings(max_examples=60, deadline=None)
def test_state_probabilities_sum_to_one_and_match_samples(tree):
    states = tree.states()
    assert states.probs.sum().item() == pytest.approx(1, abs=1e-12)
    assert len(states) <= tree.count_states()
    assert len(torch.unique(states.acts, dim=0)) == len(states)
    n = 4000
    sample = tree.sample(n, 1)
    for state, p in zip(states.acts, states.probs.clamp(0, 1), strict=True):
        count = int((sample == state).all(1).sum())
        assert binom.cdf(count, n, p) > BOUND and binom.sf(count - 1, n, p) > BOUND


@given(trees(), st.lists(trees(depth=1), max_size=3))
@settings(max_examples=30, deadline=None)
def test_children_come_in_any_sequence(child, more):
    trees = [FeatureTree(1.0, kind([child, *more])) for kind in (tuple, list, iter)]
    assert trees[0] == trees[1] == trees[2] and trees[0].children == (child, *more)


@given(st.integers(1, 2000))
def test_the_share_that_is_advised_is_one_that_so_many_may_have(n):
    assert 1 - n * 1e-6 - 1e-9 < n * part_of_one(n) <= 1
    assert len(family(0.3, part_of_one(n), n).names) == n + 1


@pytest.mark.parametrize(
    ("seeds", "message"), [([], "no seeds were given"), ([3, -1], "seeds hold -1; a seed must be")]
)
def test_dictionaries_need_seeds(seeds, message):
    with pytest.raises(ValueError, match=message):
        orthonormal_dictionaries(3, 20, seeds)


def test_three_feature_hierarchy_by_hand(tree):
    states = tree.states()
    expected = {(0, 0, 0): 0.7, (1, 0, 0): 0.06, (1, 1, 0): 0.12, (1, 0, 1): 0.12}
    found = {tuple(map(int, acts)): p.item() for acts, p in zip(states.acts, states.probs, strict=True)}
    assert found == pytest.approx(expected, abs=1e-15)
    assert tree.parents() == [None, 0, 0]


def test_the_original_tree_file_reads_and_has_the_known_rates(tmp_path):
    path = tmp_path / "tree.json"
    path.write_text(json.dumps(ORIGINAL_TREE))
    tree = FeatureTree.from_json(path)
    assert tree.n_features == 20
    states = tree.states()
    assert len(states) == 5**3 * 2**8
    assert (states.probs @ (states.acts > 0).double()).sum().item() == pytest.approx(1.12, abs=1e-12)
    assert tree.parents()[:5] == [None, 0, 0, 0, None]


def test_json_round_trip_and_an_interrupted_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "tree.json"
    tree = family(0.3, [0.2, 0.5], parent_magnitude=2.0, child_magnitude=10.0)
    tree.to_json(path)
    assert FeatureTree.from_json(path) == tree
    monkeypatch.setattr(FeatureTree, "to_dict", lambda self: {"active_prob": object()})
    with pytest.raises(TypeError):
        family(0.1, 0.1).to_json(path)
    assert FeatureTree.from_json(path) == tree


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (
            leaf(1.0, children=[leaf(0.5), {"is_read_out": True}]),
            r"root.children\[1\]: 'active_prob' is a required property",
        ),
        (
            leaf(1.0, children=[leaf(0.5, children=[leaf("0.2")])]),
            r"root.children\[0\].children\[0\].active_prob: '0.2' is not of type 'number'",
        ),
        (leaf(1.0, children=[leaf(1.5)]), r"root.children\[0\].active_prob: 1.5 is greater than the maximum of 1"),
        (
            leaf(1.0, children=[leaf(0.5, magnitude_std=-1)]),
            r"root.children\[0\].magnitude_std: -1 is less than the minimum of 0",
        ),
        (leaf(1.0, children={}), r"root.children: {} is not of type 'array'"),
        (leaf(1.0, children=[3]), r"root.children\[0\]: 3 is not of type 'object'"),
        (leaf(True), r"root.active_prob: True is not of type 'number'"),
        (leaf(1.0, colour="red"), r"root: Additional properties are not allowed \('colour' was unexpected\)"),
        (
            leaf(1.0, mutually_exclusive_children=True, children=[leaf(0.6), leaf(0.6)]),
            r"root: .*sum to 1.2; at most 1",
        ),
        (leaf(1.0, is_binary=False), r"root.is_binary: .*give magnitude_mean and magnitude_std instead"),
        ([], r"root: \[\] is not of type 'object'"),
    ],
)
def test_malformed_trees_name_the_node(data, where):
    with pytest.raises(ValueError, match=where):
        FeatureTree.from_dict(data)


def test_a_file_that_is_not_json_is_named(tmp_path):
    path = tmp_path / "broken.json"
    path.write_text("{")
    with pytest.raises(ValueError, match=r"broken.json is not valid JSON"):
        FeatureTree.from_json(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"active_prob": NaN}', "NaN is no number"),
        ('{"active_prob": 1e999}', "Infinity|inf"),
        ('{"active_prob": 1', "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"active_prob": 1, "active_prob": 0.5}', "active_prob stands twice in one node"),
        ('{"active_prob": 1, "magnitude_mean": 1e308}', "root.magnitude_mean: 1e.308 is greater than the maximum"),
        ('{"active_prob": 1}' + " " * 10_000_000, "such a file may have 10,000,000 at most"),
        ('{"active_prob": 1, "children": [' * 40 + '{"active_prob": 1}' + "]}" * 40, "more than 32 levels deep"),
    ],
    ids=lambda text: text[:20],
)
def test_files_that_are_no_trees(text, message, tmp_path):
    path = tmp_path / "tree.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        FeatureTree.from_json(path)


def test_a_byte_order_mark_is_read_over(tmp_path):
    path = tmp_path / "tree.json"
    path.write_text(json.dumps(ORIGINAL_TREE), encoding="utf-8-sig")
    assert FeatureTree.from_json(path).n_features == 20


def test_features_by_level():
    deep = FeatureTree(0.3, (FeatureTree(0.5, (FeatureTree(0.2),)), FeatureTree(0.4)))
    tree = FeatureTree(1.0, (deep, FeatureTree(0.1)), is_read_out=False)
    assert tree.parents() == [None, 0, 1, 0, None] and tree.by_level() == [0, 4, 1, 3, 2]


def test_leaves_that_are_not_read_out_make_no_states():
    """The original author's second tree: three independent children each, and a leaf that is not read out."""
    parent = FeatureTree(0.15, (*[FeatureTree(0.2)] * 3, FeatureTree(0.4, is_read_out=False)))
    tree = FeatureTree(1.0, (*[parent] * 3, *[FeatureTree(0.05)] * 3), is_read_out=False)
    assert tree.count_states() == 9**3 * 2**3 == len(tree.states())
    assert without_hierarchy(tree).n_features == 15


@pytest.mark.parametrize(
    ("acts", "probs", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0.5, 0.6]), "probs sum to 1.1"),
        (torch.zeros(2, 3), torch.tensor([1.5, -0.5]), "the smallest is -0.5"),
        (torch.full((1, 3), torch.nan), torch.ones(1), "not finite"),
        (torch.zeros(0, 3), torch.zeros(0), "at least one state"),
    ],
)
def test_states_that_make_no_sense_are_refused(acts, probs, message):
    with pytest.raises(ValueError, match=message):
        States(acts, probs)


def test_bad_probabilities_and_families():
    for p in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=r"must lie in \[0, 1\]"):
            FeatureTree(p)
    with pytest.raises(ValueError, match=r"'parent' has 3 mutually exclusive children .* sum to 1.2; .*0.333333"):
        family(0.3, 0.4, 3)
    family(0.3, 0.4, 3, exclusive=False)
    with pytest.raises(ValueError, match="at least 1 child"):
        family(0.3, 0.4, 0)
    with pytest.raises(ValueError, match="2 child probabilities were given for 3 children"):
        family(0.3, [0.1, 0.2], 3)


def test_too_many_states_says_how_many():
    tree = independent([0.5] * 20)
    with pytest.raises(ValueError, match="up to 1048576 states, more than the limit of 65536"):
        tree.states()
    assert len(independent([0.5] * 4).states(limit=16 + 1)) == 16
    assert not tree.can_list() and tree.can_list(limit=2**20) and independent([0.5] * 4).can_list()
    with pytest.raises(ValueError, match="infinitely many states"):
        FeatureTree(0.5, magnitude_std=0.1).states()
    assert not FeatureTree(1.0, magnitude_std=0.1).can_list()
    assert FeatureTree(1.0, is_read_out=False, magnitude_std=0.1).can_list()


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        (independent([1.0] * 40), 1),
        (independent([0.0] * 40), 1),
        (independent([1.0, 0.0] * 20 + [0.5]), 2),
        (FeatureTree(0.5, tuple(FeatureTree(0.5, is_read_out=False) for _ in range(40))), 2),
        (FeatureTree(1.0, (FeatureTree(0.0, independent([0.5] * 40).children), FeatureTree(0.5)), False, False), 2),
        (FeatureTree(0.5, tuple(FeatureTree(0.02, is_read_out=False) for _ in range(40)), True), 2),
    ],
)
def test_what_never_varies_costs_no_states(tree, expected):
    """What can be listed by its count is listed in a moment: 2^40 rows would not be."""
    assert tree.can_list()
    states = tree.states()
    assert len(states) == expected and states.acts.shape[1] == tree.n_features
    assert torch.allclose(states.probs @ (states.acts > 0).double(), tree.firing_probabilities())


@pytest.mark.parametrize(
    "tree",
    [FeatureTree(1.0, is_read_out=False), FeatureTree(0.3, (FeatureTree(0.5, is_read_out=False),), is_read_out=False)],
)
def test_a_tree_of_which_nothing_is_read_out_has_no_inputs(tree):
    for ask in (tree.states, lambda: tree.sample(10, 0)):
        with pytest.raises(ValueError, match="no feature of the tree is read out"):
            ask()


def test_states_take_what_a_model_gives():
    graph = torch.rand(4, 2, dtype=torch.float32, requires_grad=True) * 2
    states = States(graph, torch.full((4,), 0.25))
    assert not states.acts.requires_grad and states.acts.dtype == torch.float64


def test_sampled_magnitudes_have_the_stated_mean_and_spread():
    sample = FeatureTree(1.0, magnitude_mean=5.0, magnitude_std=0.5).sample(20_000, 0)
    assert sample.mean().item() == pytest.approx(5, abs=6 * 0.5 / 20_000**0.5)
    assert sample.std().item() == pytest.approx(0.5, abs=0.02)


def test_sampling_follows_its_generator(tree):
    first, second = (tree.sample(100, 3) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, tree.sample(100, 4))


def test_without_hierarchy_keeps_the_rates_and_drops_the_dependence(tree):
    states = without_hierarchy(tree).states()
    assert len(states) == 8
    rates = states.probs @ states.acts
    assert torch.allclose(rates, torch.tensor([0.3, 0.12, 0.12], dtype=torch.float64))
    joint = (states.acts * states.probs[:, None]).T @ states.acts
    assert joint[0, 1].item() == pytest.approx(0.3 * 0.12)


@pytest.mark.parametrize("exclusive", [True, False])
def test_firing_probabilities_are_those_of_the_states(exclusive):
    grandchild = FeatureTree(0.5, magnitude_mean=3.0)
    hidden = FeatureTree(0.8, (FeatureTree(0.25), grandchild), is_read_out=False)
    mute = FeatureTree(0.2, (FeatureTree(0.5),), magnitude_mean=0.0)
    tree = FeatureTree(0.9, (FeatureTree(0.3, (grandchild,)), hidden, mute), is_read_out=False)
    if exclusive:
        tree = replace(
            tree, mutually_exclusive_children=True, children=(tree.children[0], replace(hidden, active_prob=0.4))
        )
    states = tree.states()
    assert tree.firing_probabilities().tolist() == pytest.approx((states.probs @ (states.acts > 0).double()).tolist())
    if not exclusive:
        assert tree.firing_probabilities().tolist() == pytest.approx([0.27, 0.135, 0.18, 0.36, 0, 0.09])


def test_firing_probabilities_of_a_tree_that_cannot_be_listed():
    """A normal magnitude with mean 1 and deviation 1 is clipped to 0 with probability 0.1587."""
    tree = FeatureTree(1.0, (FeatureTree(0.5, magnitude_std=1.0), *[FeatureTree(0.4)] * 40), is_read_out=False)
    assert not tree.can_list()
    assert tree.firing_probabilities().tolist() == pytest.approx([0.5 * 0.8413447, *[0.4] * 40])
    shares = (tree.sample(20_000, 0) > 0).double().mean(0)
    assert (shares - tree.firing_probabilities()).abs().max() < 5 * (0.25 / 20_000) ** 0.5
    assert without_hierarchy(tree).firing_probabilities().tolist() == pytest.approx([0.42067236, *[0.4] * 40])


def test_dictionary_is_orthonormal_and_needs_room():
    directions = orthonormal_dictionary(5, 8, torch.Generator().manual_seed(0))
    assert torch.allclose(directions @ directions.T, torch.eye(5, dtype=torch.float64), atol=1e-14)
    with pytest.raises(
        ValueError, match=r"d_model is 2, which leaves no room for 3 orthogonal features; .* at least 3"
    ):
        orthonormal_dictionary(3, 2, torch.Generator())


def table(states):
    return {tuple(map(int, a)): pytest.approx(float(p)) for a, p in zip(states.acts, states.probs, strict=True)}


def test_the_power_of_states_by_hand():
    """0.3 (0.2 * 2^2 + 0.8 * (2^2 + 3^2)): a quiet parent, and a child that is louder than it."""
    tree = family(0.3, 0.8, 1, parent_magnitude=2.0, child_magnitude=3.0)
    assert tree.states().power == pytest.approx(0.3 * (0.2 * 4 + 0.8 * 13))


def test_as_many_nodes_as_are_allowed_are_read(monkeypatch):
    monkeypatch.setattr(features, "MOST_NODES", 4)
    data = {"active_prob": 1, "children": [{"active_prob": 0.1}] * 3}
    assert len(list(FeatureTree.from_dict(data))) == 4
    data["children"] = [*data["children"], {"active_prob": 0.1}]
    with pytest.raises(ValueError, match="more than 4 nodes"):
        FeatureTree.from_dict(data)


@pytest.mark.parametrize(("n", "share"), [(1, 1.0), (3, 0.333333), (4, 0.25), (7, 0.142857)])
def test_a_share_is_rounded_down_to_six_digits(n, share):
    assert part_of_one(n) == share


@given(st.integers(1, 6), st.floats(0.01, 0.99))
@settings(max_examples=30)
def test_every_two_directions_have_the_cosine_that_was_asked_for(n, within):
    lowest = -1 / (n - 1) if n > 1 else -1.0
    cosine = lowest + within * (1 - lowest)
    rows = equal_cosine_dictionary(n, cosine, 7, 0)
    expected = torch.full((n, n), cosine, dtype=torch.float64).fill_diagonal_(1)
    assert torch.allclose(rows @ rows.T, expected, atol=1e-12)
    for bad in (lowest - 1e-6, 1.0):
        with pytest.raises(ValueError, match="independent directions can have every pairwise cosine only between"):
            equal_cosine_dictionary(n, bad, 7, 0)


@pytest.mark.parametrize("both", [0.19, 0.61])
def test_two_common_children_cannot_but_meet(both):
    """Of 0.6 each, they are together at least 0.2 of the time, and at most 0.6."""
    for allowed in (0.2, 0.6):
        assert float(overlapping(0.5, 0.6, allowed).probs.sum()) == pytest.approx(1)
    with pytest.raises(ValueError, match=r"both from 0\.2 to 0\.6"):
        overlapping(0.5, 0.6, both)


def test_overlapping_children_by_hand():
    found = overlapping(0.5, 0.4, 0.1)
    assert table(found) == {(0, 0, 0): 0.5, (1, 0, 0): 0.15, (1, 1, 0): 0.15, (1, 0, 1): 0.15, (1, 1, 1): 0.05}
    assert table(overlapping(0.3, 0.4, 0)) == table(family(0.3, 0.4).states())
    assert table(overlapping(0.3, 0.4, 0.16)) == table(family(0.3, 0.4, exclusive=False).states())
    assert table(overlapping(0.3, 0.4, 0.4)) == {(0, 0, 0): 0.7, (1, 0, 0): 0.18, (1, 1, 1): 0.12}, (
        "nested: one feature"
    )
    with pytest.raises(ValueError, match=r"both is 0\.5 .* both from 0 to 0\.4"):
        overlapping(0.3, 0.4, 0.5)
    with pytest.raises(ValueError, match=r"both is 0 .* both from 0\.6 to 0\.8"):
        overlapping(0.3, 0.8, 0)


def test_one_feature_of_a_tree_is_retuned():
    tree = retuned(family(0.3, 0.2, 3, parent_magnitude=2.0), "child 2", magnitude_mean=7.0, magnitude_std=0.5)
    assert [node.magnitude_mean for node in tree if node.is_read_out] == [2.0, 1.0, 7.0, 1.0]
    assert [node.magnitude_std for node in tree if node.is_read_out] == [0.0, 0.0, 0.5, 0.0]
    with pytest.raises(ValueError, match="0 features are called 'child 9'"):
        retuned(tree, "child 9", magnitude_mean=1.0)


def test_the_posts_tree():
    tree = twenty_feature_tree()
    assert tree.n_features == 20 and tree.parents().count(None) == 11
    acts = tree.sample(200_000, 0)
    # Three families of 0.15 (1 + 0.6) and eight features of 0.05.
    assert float(acts.sum(1).mean()) == pytest.approx(1.12, abs=0.01)


def test_a_feature_is_called_by_its_id_or_its_number():
    below = FeatureTree(0.5, (FeatureTree(0.5, id="b"), FeatureTree(0.5)), is_read_out=False, id="unseen")
    assert FeatureTree(1.0, (FeatureTree(0.3), below)).names == ["feature 0", "feature 1", "b", "feature 3"]
