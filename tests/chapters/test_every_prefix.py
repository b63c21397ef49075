import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matryoshka_mixing import claims, figures, original
from matryoshka_mixing.chapters import every_prefix as chapter
from matryoshka_mixing.chapters.every_prefix import Against, Parameters, Results
from matryoshka_mixing.features import FeatureTree, family


def leaf(chance, name, **options):
    return FeatureTree(chance, id=name, **options)


def household(*children, exclusive=True, name="parent", **options):
    return FeatureTree(0.3, children, exclusive, id=name, **options)


def grove(*families):
    return FeatureTree(1.0, families, is_read_out=False)


PAIR = leaf(0.4, "a"), leaf(0.4, "b")
TREES = {
    "single family": grove(household(*PAIR)),
    "overlapping children": grove(household(*PAIR, exclusive=False)),
    "one child": grove(household(leaf(0.4, "a"))),
    "chain": grove(household(FeatureTree(0.5, (leaf(0.5, "leaf"),), id="middle"))),
    "loose": grove(household(*PAIR), leaf(0.1, "loose"), leaf(0.2, "looser")),
    "varying": grove(household(leaf(0.4, "a", magnitude_std=0.2), leaf(0.4, "b")), leaf(0.1, "loose")),
    "overlapping first": grove(household(*PAIR, exclusive=False), household(leaf(0.3, "c"), name="second")),
    "always on": replace(household(leaf(0.5, "a"), leaf(0.5, "b")), active_prob=1.0),
}
LACKS = {
    "single family": {"strangers"},
    "overlapping children": {"strangers", "theory"},
    "one child": {"strangers", "siblings"},
    "chain": {"strangers", "siblings", "theory"},
    "loose": set(),
    "varying": {"theory"},
    "overlapping first": set(),
    "always on": {"strangers"},
}
"""What no number can be had of."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("trees")


def parameters(tree, folder, **options):
    path = folder / "my_tree.json"
    tree.to_json(path)
    return Parameters(tree_path=str(path), **{"n_sweep_seeds": 1, "n_steps": 50, "batch_size": 100} | options)


def text_of(figure):
    return [t.get_text() for axis in figure.axes for t in axis.texts]


@pytest.mark.parametrize("name", TREES)
def test_every_tree_runs_and_what_it_lacks_is_said(name, folder):
    toy = chapter.toy(parameters(TREES[name], folder))
    live = chapter.run_here(toy)
    results, lacks = chapter.shown(live), LACKS[name]
    assert results is live, "nothing stored is used"
    summary = toy.summary()
    assert "the tree of my_tree.json" in summary
    assert ("No child has a sibling" in summary) == ("siblings" in lacks)
    assert ("Theory covers 0 of" in summary) == ("theory" in lacks)
    assert ("there are no unrelated ones" in summary) == ("strangers" in lacks)
    assert ("samples" in summary) == (name == "varying")

    against = chapter.against_theory(results)
    numbers = chapter.in_numbers(results, live, against)
    assert numbers["origin"] == "the run on this page, 1 seeds and 50 steps"
    assert "nan" not in repr(numbers) and len(numbers) == 55
    without = {key for key, value in numbers.items() if value == chapter.NO_VALUE}
    assert ("expected" in without) == ("theory" in lacks) and ("unrelated" in without) == ("strangers" in lacks)
    judged = {key for key in numbers if "absorption" in key}  # one seed and few steps: an arm may miss every parent
    known = {key for key in numbers if re.match("expected|gap|theory|correlation|slope", key)}
    assert without - {"unrelated"} - judged <= known
    missing = sum(bool(np.isnan(results.of(arm, "absorption")).all()) for arm in toy.arms)
    table = chapter.table(results)
    no_value = ("siblings" in lacks) * len(toy.arms) + missing
    assert "nan" not in table.lower() and table.count("<td>no value</td>") == no_value

    theirs = chapter.draw_theory(against)
    drawn = [theirs, chapter.draw_mixing(results, live), chapter.draw_absorption(results)]
    if name in ("always on", "varying"):
        drawn += [draw(results) for draw in (chapter.draw_cosines, chapter.draw_activations, chapter.draw_histories)]
    for figure in drawn:
        assert any(axis.has_data() or axis.texts for axis in figure.axes), "no empty figure"
    assert any("Theory covers 0 of" in text for text in text_of(theirs)) == ("theory" in lacks)

    for claim, measured in [
        ("not-sampling", chapter.sampling_measured(results, against)),
        ("improves-on-standard", chapter.absorption_measured(results)),
    ]:
        verdict = claims.judge(toy.claim(claim), *measured)
        assert "the tree of my_tree.json" in verdict.headline() and "nan" not in verdict._html()
        outcomes = {o.criterion.metric: o for o in verdict.outcomes}
        if claim == "not-sampling":
            sibling = outcomes["sibling_cosine_all_prefixes"].text()
            assert (sibling == "no seed gave a value") == ("siblings" in lacks)
            held = len(against.cosine["sampled"]) + len(against.cosine["all prefixes"])
            assert (outcomes["theory_gap"].text() == "no seed gave a value") == (held == 0)
            assert held == 0 or "theory" not in lacks


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 50), st.integers(50, 10**6), st.integers(1, 500), st.integers(0, 10**9))
def test_whatever_passes_can_be_set_up(folder, n_sweep_seeds, n_steps, batch_size, seed):
    chosen = {"n_sweep_seeds": n_sweep_seeds, "n_steps": n_steps, "batch_size": batch_size, "seed": seed}
    nothing = (0.85**3) * 0.95**8
    if n_sweep_seeds * nothing**batch_size > 1e-6:
        with pytest.raises(ValueError, match=f"batch_size = {batch_size}: .* at least"):
            Parameters(**chosen)
        return
    Parameters(**chosen)
    toy = chapter.toy(parameters(TREES["loose"], folder, **chosen | {"batch_size": batch_size + 40}))
    assert set(chapter.MAIN) | set(chapter.STEERED) <= set(toy.arms)
    assert original.jittered_dictionary(5, 5, seed + n_sweep_seeds - 1).isfinite().all()
    original.Recipe(steps=n_steps, batch_size=batch_size, seed=seed)


@st.composite
def nodes(draw, depth=2):
    children = draw(st.lists(nodes(depth - 1), max_size=2)) if depth else []
    exclusive = sum(child.active_prob for child in children) <= 1 and draw(st.booleans())
    return FeatureTree(
        draw(st.floats(0, 1)), tuple(children), exclusive, draw(st.booleans()), draw(st.sampled_from([0.0, 1.0, 2.0])),
        draw(st.sampled_from([0.0, 0.5])),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(nodes())
def test_every_tree_that_passes_can_be_set_up(folder, tree):
    try:
        p = parameters(tree, folder)
    except ValueError as error:
        assert re.search(
            "no feature has a child|can never fire|too seldom to be|have magnitudes outside|It must be at least",
            str(error),
        )
        return
    toy = chapter.toy(p)
    assert len(toy.covered) == len(toy.pairs) >= 1 and 0 < toy.absorbed_l0 <= toy.true_l0 < math.inf
    assert "the tree of my_tree.json" in toy.summary()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_steps": 49}, "n_steps = 49: .* from 50"),
        ({"seed": 1 << 64}, "seed = 18446744073709551616"),
        ({"tree_path": "none.json"}, "no such file"),
        ({"batch_size": 18}, r"batch_size = 18: 40.74% of the inputs .* at least 19 on this tree"),
    ],
)
def test_what_cannot_run_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Parameters(**changes)
    Parameters(batch_size=19)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (grove(leaf(0.3, "a"), leaf(0.3, "b")), "no feature has a child"),
        (grove(household(leaf(0.4, "a"), leaf(0.0, "ghost"))), "ghost can never fire"),
        (grove(household(leaf(0.4, "a"), magnitude_mean=0.0)), "parent can never fire"),
        (grove(replace(household(*PAIR), active_prob=1e-4)), "99.99% of the inputs hold no feature"),
    ],
)
def test_trees_that_cannot_run_are_refused(tree, message, folder):
    with pytest.raises(ValueError, match=message):
        parameters(tree, folder)


def test_the_parameter_cell_is_formatted():
    assert Parameters.cell().startswith('tree_path = ""  # tree file of your own')


def test_how_often_nothing_fires():
    for tree in [*TREES.values(), family(0.3, 0.4), FeatureTree(0.5, PAIR, True, is_read_out=False)]:
        acts = tree.sample(20_000, 0)
        assert chapter.silence(tree) == pytest.approx(float((acts == 0).all(-1).double().mean()), abs=0.02)
    assert chapter.silence(grove(household(*PAIR), leaf(0.1, "c"))) == pytest.approx(0.7 * 0.9)


def test_theory_knows_magnitudes_and_leaves_out_what_it_does_not_cover(folder):
    one = torch.ones(2, dtype=torch.float64)
    plain, loud = (
        chapter.toy(parameters(grove(household(leaf(0.4, "a", magnitude_mean=size), leaf(0.4, "b"))), folder))
        for size in (1.0, 2.0)
    )
    # Parent + a of length 2 is the top eigenvector's largest part: the moment by hand, alone and blamed weights 1.
    p, qa, qb = 0.3, 0.12, 0.12
    moment = np.array([[p, 2 * qa, qb], [2 * qa, 4 * qa, 0], [qb, 0, qb]])
    expected = np.abs(np.linalg.eigh(moment)[1][1:, -1])
    assert loud.predicted(one, one, torch.ones(3).double()) == pytest.approx(expected)
    assert plain.predicted(one, one, torch.ones(3).double())[0] < expected[0]
    mixed = chapter.toy(parameters(TREES["overlapping first"], folder))
    assert mixed.covered.tolist() == [False, False, True]


def made_up(toy, **changes):
    """Results of every arm in three seeds, small numbers all through; `changes` by key."""
    names, k, n, rng = list(toy.arms), 3, toy.tree.n_features, np.random.default_rng(0)
    siblings = sum(toy.parents[i] == toy.parents[j] is not None for i in range(n) for j in range(n) if i != j)
    shapes = {
        "own": (n,), "parent_to_child": (len(toy.pairs),), "child_to_sibling": (siblings,),
        "child_to_parent": (len(toy.pairs),), "alone": (len(toy.pairs),), "blamed": (len(toy.pairs),),
        "absorption": (), "l0": (), "error": (), "missing": (), "dead": (), "l1": (),
        "l0_path": (4,), "l1_path": (4,), "child_path": (4,),
    }  # fmt: skip
    data = {key: rng.uniform(0.6, 0.9, (len(names), k, *shape)) for key, shape in shapes.items()}
    truth = np.tile(original.jittered_dictionary(n, n, 0).numpy(), (len(names), 1, 1))
    data |= {"first_W_enc": truth.swapaxes(1, 2), "first_W_dec": truth}
    data |= {"first_b_enc": np.zeros((len(names), n)), "first_b_dec": np.zeros((len(names), n))}
    data |= {"names": np.array(names), "seeds": np.arange(k), "steps": np.array([0, 10, 20, 30])}
    return Results(toy, data | changes)


@pytest.fixture(scope="module")
def post():
    return chapter.toy(Parameters(n_sweep_seeds=1, n_steps=50))


@pytest.fixture(scope="module")
def stored(post):
    return chapter.shown(Results(post, {}))


def test_the_stored_run_is_shown_for_the_tree_of_the_post(post, stored):
    assert (
        post.summary().replace("\n", " ") == "arms: " + "; ".join(post.arms)
        and post.claim("not-sampling") == claims.load()["not-sampling"]
    )
    assert post.covered.all() and len(post.pairs) == 9
    assert stored.theory("sampled").shape == (32, 9)
    live = chapter.run_here(post)
    assert list(live.data["names"]) == list(chapter.MAIN)
    numbers = chapter.in_numbers(stored, live, chapter.against_theory(stored))
    assert numbers["origin"] == "the stored run, 32 seeds and 40,000 steps" and numbers["n_steps"] == "50"
    assert chapter.NO_VALUE not in numbers.values() and isinstance(numbers["standard_error"], str)
    labels = [t.get_text() for t in chapter.draw_mixing(stored, live).axes[0].get_yticklabels()]
    assert labels[-3:] == [f"{name}, live" for name in chapter.MAIN]
    assert not any(label.startswith(("standard, equal", "standard, true")) for label in labels)


def test_medians_over_pairs_and_seeds(post):
    values = np.zeros((len(post.arms), 3, 9))
    values[1] = np.arange(9) + np.array([[0.0], [10.0], [20.0]])
    results = made_up(post, parent_to_child=values)
    assert results.per_seed("sampled").tolist() == [4, 14, 24]
    none = made_up(post, child_to_sibling=np.zeros((len(post.arms), 3, 0)))
    assert np.isnan(none.per_seed("sampled", "child_to_sibling")).all()
    assert chapter.median(np.array([np.nan, 1.0, 3.0])) == 2 and math.isnan(chapter.median(np.array([np.nan])))


def test_the_interval_of_a_median_covers_it_as_often_as_it_says():
    rng, truth, hits = np.random.default_rng(1), 0.0, 0
    for _ in range(200):
        low, high = chapter.median_interval(rng.normal(truth, 1, 30), resamples=400)
        hits += low <= truth <= high
    assert 180 <= hits <= 199
    values = np.arange(9.0)
    assert chapter.median_interval(values, values) == (0, 0), "paired: a seed is drawn for both"
    assert chapter.median_interval(values + 0.5, values) == (0.5, 0.5)
    assert chapter.median_interval(values[:1]) == (0, 0)
    assert all(math.isnan(end) for end in chapter.median_interval(values[:0]))


def test_distance_correlation_and_slope_by_hand(post):
    def of(cosine, predicted):
        tables = [{"a": np.array(values), "b": np.array([])} for values in (cosine, predicted)]
        return Against(post, *tables, tables[1])

    line = of([0.1, 0.3, 0.5], [0.1, 0.2, 0.3])
    assert line.distance("ab") == pytest.approx(0.1)
    assert (line.correlation("ab"), line.slope("ab")) == pytest.approx((1, 2))
    for values in ([], [0.2], [0.2, 0.2]):
        same = of(values, values)
        assert math.isnan(same.correlation("a")) and math.isnan(same.slope("a"))
    assert math.isnan(line.distance("b")) and of([0.2], [0.3]).distance("a") == pytest.approx(0.1)


def test_only_pairs_with_a_represented_parent_are_held_against_theory(post):
    own = np.ones((len(post.arms), 3, 20))
    own[:, 0, 0] = 0.4  # the first parent, of three children, is missing in the first seed
    against = chapter.against_theory(made_up(post, own=own))
    assert {len(values) for values in against.cosine.values()} == {3 * 9 - 3}
    hidden = chapter.against_theory(made_up(post, own=0 * own))
    assert math.isnan(hidden.distance(chapter.STEERED))
    [text] = text_of(chapter.draw_theory(hidden))
    assert "Theory covers 9 of the 9 pairs of the twenty-feature tree" in text


def test_theory_is_a_line_through_both_clouds(post):
    left, right = chapter.draw_theory(chapter.against_theory(made_up(post))).axes
    assert len(left.collections) == len(right.collections) == len(chapter.STEERED)
    assert right.lines[0].get_xdata().tolist() == right.lines[0].get_ydata().tolist()
    assert left.lines[0].get_ydata()[0] == pytest.approx(0, abs=1e-9) and len(left.lines[0].get_xdata()) == 101


def test_the_gain_is_that_of_the_standard_sae_seed_by_seed(post):
    absorption = np.zeros((len(post.arms), 3))
    absorption[0], absorption[1] = [0.9, 0.8, np.nan], [0.1, 0.2, 0.3]
    results = made_up(post, absorption=absorption)
    assert chapter.gain(results)[:2] == pytest.approx([0.8, 0.6])
    values, started = chapter.absorption_measured(results)
    assert values["absorption_gain"] == pytest.approx([0.8, 0.6])
    assert started == {"absorption_gain": 3, "absorption_gain_all_prefixes": 3}
    nothing = made_up(post, absorption=np.full((len(post.arms), 3), np.nan))
    assert "no absorption to draw" in text_of(chapter.draw_absorption(nothing))[0]
    assert chapter.in_numbers(nothing, nothing, chapter.against_theory(nothing))["n_unjudged"] == 3


def test_absorption_has_a_strip_for_every_comparison(stored):
    axis = chapter.draw_absorption(stored).axes[0]
    labels = [t.get_text() for t in axis.get_yticklabels()]
    assert len(labels) == 12 and labels[0] == "standard, steered alike" and labels[-1] == "all prefixes, equal L0"
    assert axis.get_xlabel() == "absorption"


def test_cosines_share_one_scale_and_lines_separate_families(post):
    figure = chapter.draw_cosines(made_up(post))
    images = [axis.images[0] for axis in figure.axes[:6]]
    assert all(image.get_clim() == (-1, 1) and image.get_cmap().name == figures.DIVERGING for image in images)
    assert [axis.get_title() for axis in figure.axes[:4:3]] == ["standard: decoder", "standard: encoder"]
    assert np.allclose(images[0].get_array().shape, 20)
    assert [tick.get_text() for tick in figure.axes[0].get_yticklabels()] == post.tree.names
    # Before the second and third family and the first loner, across and down.
    assert [line.get_ydata()[0] for line in figure.axes[0].lines[::2]] == [3.5, 7.5, 11.5]


def test_activations_begin_with_inputs_that_hold_a_child(post, folder):
    figure = chapter.draw_activations(made_up(post), per_kind=5)
    true = figure.axes[0].images[0].get_array()
    children = [c for _, c in post.pairs]
    assert true.shape == (20, 10) and true[children][:, :5].any(0).all() and not true[children][:, 5:].any()
    assert figure.axes[0].images[0].get_clim()[0] == 0 and len(figure.axes) == 5
    rare = chapter.toy(parameters(grove(replace(household(*PAIR), active_prob=2e-5)), folder, batch_size=10**6))
    assert "there are no activations to draw" in text_of(chapter.draw_activations(made_up(rare)))[0]


def test_unrelated_features_are_those_of_other_roots(folder):
    toy = chapter.toy(parameters(grove(*TREES["chain"].children, leaf(0.1, "loose")), folder))
    parts = np.tile(np.eye(4), (len(toy.arms), 1, 1))
    parts[1, 0, 2] = parts[1, 1, 0] = 0.9  # a grandchild and a parent are related
    parts[2, 1, 3] = -0.3
    directions = torch.nn.functional.normalize(original.jittered_dictionary(4, 4, 0), dim=-1).numpy()
    found = chapter.unrelated(made_up(toy, first_W_dec=parts @ directions))
    assert found == pytest.approx(0.3 / (1 + 0.3**2) ** 0.5)


def test_the_step_from_which_the_cosine_stays(post):
    path = np.tile([0.0, 0.5, 0.19, 0.2], (len(post.arms), 3, 1))
    assert chapter.settled(made_up(post, child_path=path)) == 20
    assert chapter.settled(made_up(post, child_path=0 * path)) == 0


def test_histories_are_medians_over_seeds_and_few_enough_to_tell_apart(post):
    path = np.tile(np.array([[[1.0, 2.0, 3.0, 4.0]], [[1.0, 3.0, 4.0, 5.0]], [[1.0, 9.0, 9.0, 9.0]]]), (1, 1, 1))
    path = np.broadcast_to(path[:, 0], (len(post.arms), 3, 4))
    results = made_up(post, l0_path=path)
    figure = chapter.draw_histories(results)
    assert [axis.get_ylabel() for axis in figure.axes] == ["cosine", "L0", "penalty"]
    assert [axis.get_yscale() for axis in figure.axes] == ["linear", "linear", "log"]
    assert [line.get_ydata().tolist() for line in figure.axes[1].lines] == [[3, 4, 5]] * 3
    most = list(post.arms)[: chapter.MOST_HISTORIES]
    looks = {(line.get_color(), line.get_linestyle()) for line in chapter.draw_histories(results, most).axes[0].lines}
    assert len(looks) == len(most)
    with pytest.raises(ValueError, match="11 arms were given; a panel holds at most 6"):
        chapter.draw_histories(results, list(post.arms)[:11])
