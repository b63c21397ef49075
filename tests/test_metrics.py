from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matryoshka_mixing import metrics
from matryoshka_mixing.chapters import basins
from matryoshka_mixing.features import FeatureTree, States, family, independent, orthonormal_dictionaries
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.training import Setting, TrainConfig, train

PARENTS = [None, 0, 0]


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def sae_from(encoder_rows, decoder_rows):
    """An SAE in three dimensions whose features are the axes."""
    return SAE(
        tensor(encoder_rows).T,
        torch.zeros(len(encoder_rows)).double(),
        tensor(decoder_rows),
        torch.zeros(3).double(),
    )


CLEAN = sae_from([[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
ABSORBED = sae_from([[1, -1, -1], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [1, 1, 0], [1, 0, 1]])


def read(sae):
    return metrics.read(sae, family(0.3, 0.4).states(), torch.eye(3, dtype=torch.float64), PARENTS)


def test_a_clean_sae_reads_as_clean():
    reading = read(CLEAN)
    assert torch.equal(reading.decoder, torch.eye(3, dtype=torch.float64))
    assert torch.equal(reading.encoder, torch.eye(3, dtype=torch.float64))
    assert reading.latents.tolist() == [0, 1, 2]
    assert reading.absorption.item() == 0 and reading.all_live.item()
    for pairs in (
        reading.mixing.parent_to_child,
        reading.mixing.child_to_sibling,
        reading.mixing.child_to_parent,
    ):
        assert pairs.tolist() == [0, 0]
    assert reading.mixing.own.tolist() == [1, 1, 1]


def test_an_absorbed_sae_reads_as_absorbed():
    reading = read(ABSORBED)
    assert reading.absorption.item() == 1
    assert reading.mixing.child_to_parent.tolist() == pytest.approx([0.5**0.5] * 2)
    assert reading.latents.tolist() == [0, 1, 2]


def test_absorption_counts_inputs_by_their_probability():
    half = sae_from([[1, -1, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    states = family(0.3, [0.6, 0.2]).states()
    reading = metrics.read(half, states, torch.eye(3, dtype=torch.float64), PARENTS)
    assert reading.absorption.item() == pytest.approx(0.75)


def test_a_sweep_is_read_at_once_as_its_settings_are_one_by_one():
    sweep = [family(0.3, chances, child_magnitude=size).states() for chances, size in [([0.6, 0.2], 2.0), (0.4, 1.0)]]
    half = sae_from([[1, -1, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    saes = SAE.stack([SAE.stack([CLEAN, half, ABSORBED]), SAE.stack([half, CLEAN, CLEAN])])
    together = metrics.read(saes, sweep, torch.eye(3, dtype=torch.float64), PARENTS)
    assert together.absorption.tolist() == [pytest.approx([0, 0.75, 1]), pytest.approx([0.5, 0, 0])]
    for i, states in enumerate(sweep):
        alone = metrics.read(saes[i], states, torch.eye(3, dtype=torch.float64), PARENTS)
        for name in ("decoder", "encoder", "acts", "live", "latents", "assigned", "absorption", "all_live"):
            assert torch.equal(getattr(together, name)[i], getattr(alone, name)), name
        for name, value in vars(alone.edges).items():
            assert torch.equal(getattr(together.edges, name)[i], value), name


def test_one_states_for_a_sweep_is_that_of_each_setting():
    states, directions = family(0.3, 0.4).states(), orthonormal_dictionaries(3, 20, range(4))
    configs = [SAEConfig(20, (1, 3), l1=l1) for l1 in (0.0, 0.01, 0.1)]
    start = start_near(directions, range(4), 0.5)
    saes = SAE.stack([start.with_config(config) for config in configs]).map(lambda p: p + 0.01 * p.square())
    one, each = (metrics.read(saes, some, directions, PARENTS) for some in (states, [states] * 3))
    assert one.acts.shape == (3, 4, 4, 3)
    for name in ("decoder", "encoder", "acts", "live", "latents", "assigned", "absorption", "all_live"):
        assert torch.equal(getattr(one, name), getattr(each, name)), name
    for i, reading in enumerate(metrics.read(sae, states, directions, PARENTS) for sae in saes):
        assert torch.equal(one.assigned[i], reading.assigned) and torch.allclose(one.acts[i], reading.acts)


@given(st.lists(st.none() | st.integers(-2, 4), min_size=2, max_size=4))
@settings(max_examples=80)
def test_what_is_no_list_of_parents_is_refused_everywhere(parents):
    states, eye = family(0.3, 0.4).states(), torch.eye(3, dtype=torch.float64)
    acts, latents = ABSORBED.encode(states.acts), torch.arange(3)
    seen = states.acts, states.probs, eye, parents
    calls = (
        lambda: metrics.mixing(eye, latents, parents),
        lambda: metrics.assign(ABSORBED, acts, *seen),
        lambda: metrics.edges(ABSORBED, acts, latents, *seen),
        lambda: metrics.read(ABSORBED, states, eye, parents),
    )
    for call in calls:
        if len(parents) == 3 and all(p is None or 0 <= p < child for child, p in enumerate(parents)):
            call()
            continue
        with pytest.raises(
            ValueError, match=r"parents hold .* None where it has no parent.* come before their children"
        ):
            call()


def test_a_tree_stands_for_its_parents():
    tree, states, eye = family(0.3, 0.4), family(0.3, 0.4).states(), torch.eye(3, dtype=torch.float64)
    one, other = (metrics.read(ABSORBED, states, eye, some) for some in (tree, tree.parents()))
    assert torch.equal(one.assigned, other.assigned) and torch.equal(one.edges.partial, other.edges.partial)
    assert torch.equal(one.mixing.child_to_sibling, other.mixing.child_to_sibling)


THREE, FOUR = family(0.3, 0.4).states(), family(0.3, 0.3, 3).states()


@pytest.mark.parametrize(
    ("axes", "states", "shape", "message"),
    [
        ((4,), THREE, (3, 4, 20), "dictionary has shape"),
        ((4,), THREE, (4, 20, 3), "dictionary has shape"),
        ((4,), THREE, (4, 4, 20), "dictionary has shape"),
        ((4,), THREE, (3, 19), "dictionary has shape"),
        ((4,), THREE, (1, 4, 3, 20), "dictionary has shape"),
        ((), THREE, (1, 3, 20), "dictionary has shape"),
        ((2, 4), THREE, (2, 3, 20), "dictionary has shape"),
        ((2, 4), THREE, (4, 1, 3, 20), "dictionary has shape"),
        ((2, 4), [THREE] * 2, (2, 3, 20), "dictionary has shape"),
        ((2, 2, 4), THREE, (4, 3, 20), "dictionary has shape"),
        ((4,), FOUR, (3, 20), "for 4 features and d_in 20 it must be"),
        ((2, 4), [THREE] * 3, (3, 20), "given for 3 settings"),
        ((2, 4), [THREE, FOUR], (3, 20), "given for 2 settings"),
        ((4,), [THREE] * 4, (3, 20), "given for 4 settings"),
        ((), [THREE], (3, 20), "given for 1 settings"),
        ((2, 4), [], (3, 20), "give States, such as"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_is_read(axes, states, shape, message):
    sae = start_near(orthonormal_dictionaries(3, 20, [0])[0], range(16))[: max(1, torch.Size(axes).numel())]
    with pytest.raises(ValueError, match=message):
        metrics.read(sae.reshape(*axes), states, torch.ones(shape, dtype=torch.float64), PARENTS)


COMPLEMENT = SAE(
    tensor([[-1, 0, 0], [0, 1, 0], [0, 0, 1]]).T, torch.zeros(3).double(),
    tensor([[-1, 0, 0], [0, 1, 0], [0, 0, 1]]), tensor([1, 0, 0]),
)  # fmt: skip
"""The bias carries the parent; a latent of decoder -f0 fires on empty inputs alone, so silent beside children."""

EDGES = {
    # Worked by hand on family(0.3, 0.4): the parent alone .2, with each child .4 of its inputs. Child 1, then child 2.
    "clean": (CLEAN, {"represented": [1, 1], "carried": [0, 0], "partial": [0, 0], "recall_without": [1, 1]}),
    "absorbed": (
        ABSORBED,
        {"represented": [0, 0], "carried": [1, 1], "partial": [1, 1], "recall_without": [1 / 3, 1 / 3]},
    ),
    "one child absorbs": (
        sae_from([[1, -1, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [1, 1, 0], [0, 0, 1]]),
        {"represented": [0, 1], "carried": [1, 0], "partial": [1, 0], "recall_without": [1, 1 / 3]},
    ),
    "a small firing is left": (  # beside child 1 the parent's latent writes .55 of the parent, the child's .45
        sae_from([[1, -0.45, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0.45, 1, 0], [0, 0, 1]]),
        {"represented": [1, 1], "carried": [0, 0], "partial": [0.45, 0], "recall_without": [1, 1]},
    ),
    "shrunk by a penalty": (  # everything at .8 of its size: as absorbed as before
        sae_from([[0.8, -0.8, 0], [0, 0.8, 0], [0, 0, 0.8]], [[1, 0, 0], [1, 1, 0], [0, 0, 1]]),
        {"represented": [0, 1], "carried": [1, 0], "partial": [1, 0], "recall_without": [1, 1 / 3]},
    ),
    "silent and lost": (  # nobody writes the parent beside child 1: dropped, not absorbed
        sae_from([[1, -1, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        {"represented": [0, 1], "carried": [0, 0], "partial": [0, 0], "recall_without": [1, 1 / 3]},
    ),
    "overshoots, and the child undoes it": (  # mixing, not absorption
        sae_from([[1.2, 0.2, 0.2], [0, 1, 0], [0, 0, 1]], [[1, 0.3, 0.3], [-0.2, 1, -0.3], [-0.2, -0.3, 1]]),
        {"represented": [1, 1], "carried": [0, 0], "partial": [0, 0], "recall_without": [1, 1]},
    ),
    "complement": (COMPLEMENT, {"represented": [1, 1], "carried": [0, 0], "partial": [0, 0], "recall_without": [1, 1]}),
}


@pytest.mark.parametrize("name", EDGES)
def test_edges_by_hand(name):
    sae, wanted = EDGES[name]
    edges = read(sae).edges
    for share, values in wanted.items():
        assert getattr(edges, share).tolist() == pytest.approx(values), share
    assert edges.judged.all() and not edges.missing.any() and edges.weight.tolist() == pytest.approx([0.12, 0.12])
    assert edges.complement.tolist() == [name == "complement"] * 2
    assert edges.silent.tolist() == pytest.approx([1 - value for value in wanted["represented"]])
    assert torch.equal(edges.recall_with, edges.represented)
    assert edges.gap.tolist() == pytest.approx(
        [without - beside for without, beside in zip(wanted["recall_without"], wanted["represented"], strict=True)]
    )
    assert read(sae).absorption.item() == pytest.approx(sum(wanted["partial"]) / 2)


@pytest.mark.parametrize(("held", "stands"), [(0.5, True), (0.49, False)])
def test_a_complement_stands_for_its_feature_where_the_bias_holds_at_least_half_of_it(held, stands):
    edges = read(replace(COMPLEMENT, b_dec=tensor([held, 0, 0]))).edges
    assert edges.complement.tolist() == [stands] * 2 and edges.missing.tolist() == [not stands] * 2


def test_a_latent_that_fires_only_where_its_parent_is_absent_leaves_the_parent_missing():
    """It points to the parent, and fires with a loose feature that never comes with it."""
    tree = FeatureTree(1.0, (*family(0.3, 0.4).children, FeatureTree(0.5)), True, is_read_out=False)
    rows = torch.eye(4, dtype=torch.float64)
    sae = SAE(rows[[3, 1, 2]].T.clone(), torch.zeros(3).double(), rows[:3].clone(), torch.zeros(4).double())
    reading = metrics.read(sae, tree.states(), rows, tree.parents())
    assert reading.assigned.tolist() == [0, 1, 2, -1] and reading.all_live
    assert reading.edges.missing.all() and reading.edges.represented.isnan().all() and reading.absorption.isnan()


def test_a_missing_parent_leaves_nothing_to_judge():
    """No latent, a dead one, one that points away with no bias to hold the parent, one of too small a cosine."""
    children = [[0, 1, 0], [0, 0, 1]]
    weak = sae_from([[1, -1, 0], *children], [[0.4, 0.9, 0], [1, 1, 0], [0, 0, 1]])
    none = sae_from(children, children)
    dead = sae_from([[-1, 0, 0], *children], [[1, 0, 0], *children])
    away = sae_from([[1, 0, 0], *children], [[-1, 0, 0], *children])
    for sae in (weak, none, dead, away):
        edges = read(sae).edges
        assert edges.missing.all() and not edges.judged.any()
        assert edges.partial.isnan().all() and edges.gap.isnan().all()
        assert read(sae).absorption.isnan() and read(sae).assigned[0] == -1


def test_a_parent_that_is_represented_nowhere_is_missing():
    """It never fires alone, and its latent never beside a child."""
    edges = metrics.read(ABSORBED, family(0.3, 0.5).states(), torch.eye(3, dtype=torch.float64), PARENTS).edges
    assert edges.missing.all()


def test_an_edge_that_never_fires_cannot_be_judged_and_weighs_nothing():
    tree = FeatureTree(1.0, (family(0.3, [0.4, 0.0]),), is_read_out=False)
    reading = metrics.read(ABSORBED, tree.states(), torch.eye(3, dtype=torch.float64), PARENTS)
    assert reading.edges.judged.tolist() == [True, False] and reading.absorption == 1


def test_what_fires_decides_beside_a_loud_child():
    """Each latent fires with its own feature; the first one, on all of the parent, leans to the child."""
    sae = SAE(
        tensor([[1.0, 0.0], [5.0, 1.0]]), torch.zeros(2).double(), tensor([[0.2, 0.98], [-0.98, 0.2]]),
        torch.zeros(2).double(),
    )  # fmt: skip
    states = family(0.3, 0.5, 1, parent_magnitude=2.0, child_magnitude=10.0).states()
    reading = metrics.read(sae, states, torch.eye(2, dtype=torch.float64), [None, 0])
    assert reading.latents.tolist() == [1, 0], "by cosines alone"
    assert reading.assigned.tolist() == [0, 1] and reading.edges.represented == 1 and reading.absorption == 0
    assert basins.OUTCOMES[basins.outcome(reading, states, [None, 0], (1, 2))] == "parent first"
    silent = replace(sae, W_enc=tensor([[-1.0, 1.0], [2.0, -0.3]]))  # the sum; and the parent alone, pointing away
    assert metrics.read(silent, states, torch.eye(2, dtype=torch.float64), [None, 0]).edges.missing.all()
    silent = replace(silent, W_dec=tensor([[0.2, 0.98], [0.98, -0.2]]))
    reading = metrics.read(silent, states, torch.eye(2, dtype=torch.float64), [None, 0])
    assert reading.edges.carried == 1 and reading.absorption == 1
    assert basins.OUTCOMES[basins.outcome(reading, states, [None, 0], (1, 2))] == "absorbed"


def test_independent_children_that_carry_nearly_half_are_counted_in_part():
    """A standard SAE with a tiny penalty: its parent's latent is silent only where all three children fire."""
    children = tuple(FeatureTree(0.15, id=f"child {i}") for i in range(3))
    tree = FeatureTree(1.0, (FeatureTree(0.25, children, id="parent"),), is_read_out=False)
    config, seeds = SAEConfig(20, (4,), l1=0.003, encoder_bias=False, decoder_bias=False), range(4)
    directions = orthonormal_dictionaries(4, 20, seeds)
    start = start_near(directions, seeds, 0.5)
    run = train(Setting(config, tree.states(), directions), start, TrainConfig(3000))
    edges = metrics.read(run.sae[0], tree.states(), directions, tree.parents()).edges
    assert (edges.mean(edges.silent) < 0.03).all(), "where all three fire: .15 squared"
    assert edges.mean(edges.partial).tolist() == pytest.approx([0.45] * 4, abs=0.02)


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_edges_of_states_and_of_sampled_inputs_agree(activation):
    states = family(0.3, 0.4).states()
    rows = torch.repeat_interleave(states.acts, (states.probs * 100).round().long(), 0)
    config = SAEConfig(3, (3,), activation=activation, k=1 if activation == "topk" else 0.54, encoder_bias=False)
    louder = sae_from([[1, -0.2, -0.2], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [1, 1, 0], [0, 0, 1]])
    sae = replace(louder, config=config)
    exact = metrics.read(sae, states, torch.eye(3, dtype=torch.float64), PARENTS)
    sampled = metrics.read(sae, States(rows, torch.full((100,), 0.01)), torch.eye(3, dtype=torch.float64), PARENTS)
    assert len(rows) == 100
    for name, value in vars(exact.edges).items():
        assert torch.allclose(getattr(sampled.edges, name).double(), value.double(), equal_nan=True), name
    # The child's latent is kept, the parent's dropped: carried by child 1's latent, lost beside child 2.
    if activation == "topk":
        assert exact.edges.carried.tolist() == [1, 0] and exact.edges.represented.tolist() == [0, 0]


def test_matching_is_one_to_one_and_takes_the_sign_as_it_comes():
    cosines = tensor(
        [
            [[0.9, 0.8, 0.0], [0.8, 0.1, 0.0], [0.0, 0.0, -1.0]],
            [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]],
        ]
    )
    assert metrics.match(cosines).tolist() == [[1, 0, 2], [2, 1, 0]]
    assert metrics.match(cosines[0, :1]).tolist() == [0, -1, -1]


def test_mixing_pairs_by_hand():
    cosines = tensor([[1.0, 0.2, 0.3], [0.4, 1.0, 0.5], [0.6, 0.7, 1.0]])
    mix = metrics.mixing(cosines, torch.arange(3), PARENTS)
    assert mix.parent_to_child.tolist() == [0.2, 0.3]
    assert mix.child_to_sibling.tolist() == [0.5, 0.7]
    assert mix.child_to_parent.tolist() == [0.4, 0.6]
    missing = metrics.mixing(cosines, torch.tensor([0, 1, -1]), PARENTS)
    assert missing.own[:2].tolist() == [1, 1] and missing.own[2].isnan()
    assert missing.child_to_parent[1].isnan() and missing.child_to_parent[0] == 0.4
    assert metrics.mixing(cosines, torch.arange(3), [None] * 3).child_to_parent.shape == (0,)


def test_dead_latents():
    dead = sae_from([[1, 0, 0], [0, -1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert read(dead).live.tolist() == [True, False, True]
    assert not read(dead).all_live


def test_encoder_cosines_leave_out_what_no_input_reaches():
    dictionary = torch.eye(3, 5, dtype=torch.float64)
    column = tensor([[3.0, 4.0, 0.0, 100.0, 0.0]]).T
    sae = SAE(column, torch.zeros(1).double(), column.T.clone(), torch.zeros(5).double())
    assert metrics.encoder_cosines(sae, dictionary)[0].tolist() == pytest.approx([0.6, 0.8, 0.0])


def test_basins_group_by_loss_and_live_latents():
    loss = tensor([0.5, 0.1, 0.100001, 0.1, 0.5])
    live = torch.tensor([[1, 1], [1, 1], [1, 1], [1, 0], [1, 1]]).bool()
    found = metrics.basins(loss, live, power=1.0)
    assert len(metrics.basins(loss / 1000, live, power=0.001)) == len(found), "rarer data, same basins"
    assert [(basin.seeds, basin.live, basin.share) for basin in found] == [
        ([1, 2], 2, 0.4),
        ([3], 1, 0.2),
        ([0, 4], 2, 0.4),
    ]
    assert [basin.loss for basin in found] == pytest.approx([0.1, 0.1, 0.5])


CODES = {
    "parent first": [[1, 1, 1], [0, 1, 0], [0, 0, 1]],
    "with strays": [[1, 1, 1], [1, 1, 0], [1, 0, 1]],
    "absorbed": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "child missing": [[1, 1, 1], [0, 1, 0], [1, 0, 0]],
    "too few live": [[1, 1, 1], [0, 1, 0], [0, 0, 0]],
    "first prefix dead": [[0, 0, 0], [1, 1, 1], [0, 1, 0]],
}
"""Who fires on the parent alone, parent + child 1, parent + child 2: an example of each kind of outcome."""


def fires_on(table, decoder_rows):
    """An SAE whose latents have these activations on the three inputs; they are linearly independent."""
    alone, first, second = tensor(table).unbind(-1)
    return sae_from(torch.stack([alone, first - alone, second - alone], -1).tolist(), decoder_rows)


@pytest.mark.parametrize("kind", basins.OUTCOMES)
def test_outcomes_by_hand(kind):
    table = [[3 * value or -1 for value in row] for row in CODES[kind]]
    order = [[1, 0.3, 0.3], [0.1, 0.6, -0.7], [0.1, -0.7, 0.6]]
    if kind in ("absorbed", "first prefix dead"):
        order = [[1, 0, 0], [0.7, 0.7, 0], [0.7, 0, 0.7]]
    if kind == "child missing":  # the last latent takes child 2 away where it is absent
        order = [[0.8, 0.2, 0.5], [0.2, 0.8, -0.5], [0.3, -0.3, -0.7]]
    reading, states = read(fires_on(table, order)), family(0.3, 0.4).states()
    assert basins.OUTCOMES[basins.outcome(reading, states, PARENTS, (1, 3))] == kind
    standard = {"first prefix dead": "too few live"}.get(kind, kind)
    assert basins.OUTCOMES[basins.outcome(reading, states, PARENTS, (3,))] == standard


def test_a_complement_is_a_parent_latent_that_does_the_reverse():
    states, reading = family(0.3, 0.4).states(), read(COMPLEMENT)
    assert reading.assigned.tolist() == [0, 1, 2]
    assert basins.OUTCOMES[basins.outcome(reading, states, PARENTS, (1, 3))] == "parent first"


def test_a_latent_that_takes_a_child_away_is_not_assigned_to_it():
    """Two latents that cancel on the parent alone: each holds more of minus the other child than of its own."""
    pair = fires_on([[3, 3, 3], [3, 3, -1], [3, -1, 3]], [[1, 0.3, 0.3], [0.1, 0.6, -0.7], [0.1, -0.7, 0.6]])
    reading = read(pair)
    assert reading.latents.tolist() == [0, 2, 1]
    assert reading.assigned.tolist() == [0, 1, 2]


def test_recovery_is_one_for_the_truth_and_counts_dead_latents_as_nothing():
    assert basins.recovery(read(CLEAN).decoder, read(CLEAN).live) == 1
    assert basins.recovery(read(ABSORBED).decoder, read(ABSORBED).live) == pytest.approx((1 + 2 * 0.5**0.5) / 3)
    eye = torch.eye(3, dtype=torch.float64)
    assert basins.recovery(eye, torch.tensor([True, False, True])) == pytest.approx(2 / 3)
    assert basins.recovery(-eye[:1], torch.tensor([True])) == pytest.approx(1 / 3), "one latent for three features"
    # The dead row would match child 1 better than the live one does.
    cosines = tensor([[1.0, 0, 0], [0, 1, 0], [0, 0.5, 0.8]])
    assert basins.recovery(cosines, torch.tensor([True, False, True])) == pytest.approx(1.8 / 3)


def test_each_its_own_asks_for_firing_everywhere_and_nowhere_else():
    features = tensor([[0, 0], [1, 0], [1, 1]])
    right, silent, stray = [[0, 0], [2, 0], [1, 3]], [[0, 0], [2, 0], [0, 3]], [[0, 0], [2, 1], [1, 3]]
    acts, in_order = tensor([right, silent, stray]), torch.arange(2).expand(3, -1)
    assert metrics.each_its_own(acts, in_order, features).tolist() == [True, False, False]
    swapped, missing = torch.tensor([[1, 0]]), torch.tensor([[0, -1]])
    assert metrics.each_its_own(acts[:1].flip(-1), swapped, features).tolist() == [True]
    assert metrics.each_its_own(acts[:1], missing, features).tolist() == [False]


def test_a_latent_that_stands_for_nothing_takes_no_feature_from_one_that_does():
    """An absorbed parent's latent, a little off, beside a latent of no feature that fires where it does."""
    decoder = [[1, 0.2, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [0.1, 0, 0, 1]]
    encoder = [[1, -1, -1, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0.5, -1, -1, 0]]
    sae = SAE(tensor(encoder).T.contiguous(), torch.zeros(4).double(), tensor(decoder), torch.zeros(4).double())
    states = family(0.3, 0.4).states()
    x = torch.nn.functional.pad(states.acts, (0, 1))
    directions = torch.eye(4, dtype=torch.float64)[:3]
    assigned = metrics.assign(sae, sae.encode(x), states.acts, states.probs, directions, PARENTS)
    assert assigned.tolist() == [0, 1, 2]


def test_leading_axes_are_instances():
    """Two axes of SAEs at once give what each gives alone; what is not above the tolerance is silent."""
    draw = torch.Generator().manual_seed(0)
    features = tensor([[0, 0], [1, 0], [1, 1]])
    acts = torch.rand(2, 3, 3, 2, dtype=torch.float64, generator=draw)
    acts[0, 1], acts[1, 2, 0, 0] = features, metrics.SILENT
    latents = torch.arange(2).expand(2, 3, 2)
    together = metrics.each_its_own(acts, latents, features)
    alone = [[metrics.each_its_own(acts[i, j], latents[i, j], features) for j in range(3)] for i in range(2)]
    assert together.tolist() == [[bool(one) for one in row] for row in alone] and together[0, 1]
    assert not metrics.firing(acts, latents)[1, 2, 0, 0]


def test_how_long_the_directions_are_does_not_matter():
    rows = tensor([[2, 0, 0], [0.5, 0.5, 0], [0, 1, 3]])
    sae = sae_from([[1, 0.2, 0], [0, 1, 0.3], [0.4, 0, 1]], [[1, 0.2, 0], [0, 1, 0.3], [0.4, 0, 1]])
    unit = torch.nn.functional.normalize(rows, dim=-1)
    for cosines in (metrics.encoder_cosines, metrics.decoder_cosines):
        assert torch.allclose(cosines(sae, rows), cosines(sae, unit), rtol=0, atol=1e-12)


def test_dead_latents_stand_for_nothing():
    """Rows e0, e0, e1, e2, the first dead: nothing is absorbed, and the second latent is the parent's."""
    sae = SAE(
        tensor([[0, 1, 0, 0], [0, -1, 1, 0], [0, -1, 0, 1]]) + tensor([[0, 0, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]]),
        tensor([-1, 0, 0, 0]),
        tensor([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        torch.zeros(3).double(),
    )
    reading = metrics.read(sae, family(0.3, 0.4).states(), torch.eye(3, dtype=torch.float64), PARENTS)
    assert reading.live.tolist() == [False, True, True, True] and reading.latents.tolist() == [1, 2, 3]
    assert reading.absorption.item() == 0 and reading.mixing.own.tolist() == [1, 1, 1]


def test_a_feature_without_a_live_latent_is_missing_not_absorbed():
    sae = sae_from([[0, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    reading = read(sae)
    assert sorted(reading.latents.tolist()) == [-1, 1, 2] and reading.mixing.own.isnan().sum() == 1
    assert reading.absorption.isnan()


def test_single_precision_is_read_like_double():
    states, single = family(0.3, 0.4).states(), CLEAN.map(lambda parameter: parameter.float())
    for sae in (CLEAN, single):
        for dictionary in (torch.eye(3), torch.eye(3).double()):
            assert metrics.read(sae, states, dictionary, PARENTS).absorption.item() == 0


def test_each_seed_is_read_on_its_own_directions():
    states, directions = family(0.3, 0.4).states(), orthonormal_dictionaries(3, 3, range(5))
    back = directions.mT  # to coordinates in which the directions of a seed are its features
    saes = SAE.stack([replace(ABSORBED, W_enc=b @ ABSORBED.W_enc, W_dec=ABSORBED.W_dec @ b.T) for b in back])
    reading = metrics.read(saes, states, directions, PARENTS)
    assert torch.allclose(reading.decoder, read(ABSORBED).decoder.expand(5, 3, 3))
    assert reading.absorption.tolist() == pytest.approx([1] * 5)


def test_pairs_come_with_names_and_grandparents():
    below = FeatureTree(0.5, (FeatureTree(0.5, id="c"),), id="b"), FeatureTree(0.1, id="d")
    tree = FeatureTree(1.0, (FeatureTree(0.5, below, id="a"),), is_read_out=False)
    cosines = torch.arange(16.0).reshape(1, 4, 4) / 16
    frame = metrics.labelled(cosines, torch.tensor([[0, 1, -1, 3]]), tree)
    assert len(frame) == 12 and set(frame.stands_for) == {"a", "b", "d"}
    asked = {(row.stands_for, row.feature): (row.relation, row.cosine) for row in frame.itertuples()}
    assert asked["a", "c"] == ("grandchild", 2 / 16) and asked["a", "d"] == ("child", 3 / 16)
    assert asked["b", "a"] == ("parent", 4 / 16) and asked["b", "d"] == ("sibling", 7 / 16)
    assert asked["d", "c"] == ("unrelated", 14 / 16) and asked["d", "d"] == ("itself", 15 / 16)


def test_features_without_a_tree_are_named_by_number():
    cosines = torch.eye(3)[None]
    frame = metrics.labelled(cosines, torch.tensor([[0, 1, 2]]), [None, 0, None])
    assert set(frame.stands_for) == {"feature 0", "feature 1", "feature 2"}
    with pytest.raises(ValueError, match="parents hold 2 for 3 features"):
        metrics.labelled(cosines, torch.tensor([[0, 1, 2]]), [None, 0])


def test_dependent_directions_have_no_edges():
    """More features than dimensions: what a row holds of each is not defined, however good the SAE."""
    directions = torch.nn.functional.normalize(
        torch.randn(3, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64), dim=-1
    )
    states = family(0.3, 0.4).states()
    sae = SAE(directions.T[None], torch.zeros(1, 3).double(), directions[None], torch.zeros(1, 2).double())
    reading = metrics.read(sae, states, directions, [None, 0, 0])
    assert reading.edges.missing.all() and not reading.edges.judged.any() and reading.absorption.isnan().all()
    assert torch.isfinite(reading.decoder).all() and (reading.latents >= 0).any()
    upright = torch.eye(3, dtype=torch.float64)
    two, none = upright[None].repeat(2, 1, 1), torch.zeros(2, 3).double()
    both = SAE(two, none, two.clone(), none.clone())
    flat = torch.stack([upright, upright.clone()])
    flat[1, 2] = flat[1, 1]
    assert metrics.read(both, states, flat, [None, 0, 0]).edges.missing.tolist() == [[False] * 2, [True] * 2]


def test_a_leaf_has_no_latent_that_does_not_hold_it():
    """What is left over stands for nothing, though `match` gives it to somebody."""
    states, upright = family(0.3, 0.4).states(), torch.eye(4, dtype=torch.float64)
    rows = upright[[0, 1, 3]]
    sae = SAE(rows.T[None].clone(), torch.tensor([[0.0, 0.0, 0.5]]).double(), rows[None], torch.zeros(1, 4).double())
    reading = metrics.read(sae, states, upright[:3], [None, 0, 0])
    assert reading.latents.tolist() == [[0, 1, 2]] and reading.assigned.tolist() == [[0, 1, -1]]


@pytest.mark.parametrize(
    ("written", "carried", "partial"),
    [(1.0, 1, 1), (0.5, 1, 1), (0.49, 0, 0.49 / 0.5), (0.2, 0, 0.2 / 0.5), (0.0, 0, 0)],
)
def test_how_much_of_a_silent_parent_is_written(written, carried, partial):
    """At least half is carried; a part is told against half of the parent, where all write less than that."""
    sae = sae_from([[1, -1, -1], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [written, 1, 0], [written, 0, 1]])
    edges = read(sae).edges
    assert edges.silent.tolist() == [1, 1] and edges.carried.tolist() == [carried] * 2
    assert edges.partial.tolist() == pytest.approx([partial] * 2)


def test_without_a_hierarchy_there_are_no_edges_for_any_seed():
    states, directions = independent([0.2, 0.3]).states(), torch.eye(2, dtype=torch.float64)
    saes = random_start(SAEConfig(2, (2,)), range(3))
    edges = metrics.read(saes, states, directions, [None, None]).edges
    assert edges.represented.shape == edges.missing.shape == (3, 0)


def test_pairs_are_told_of_more_latents_than_features():
    cosines = torch.tensor([[[0.1, 0.9], [0.2, 0.3], [0.8, 0.4]]])
    frame = metrics.labelled(cosines, torch.tensor([[2, 0]]), [None, 0])
    asked = {(row.latent, row.relation): row.cosine for row in frame.itertuples()}
    assert asked == pytest.approx({(2, "itself"): 0.8, (2, "child"): 0.4, (0, "parent"): 0.1, (0, "itself"): 0.9})
