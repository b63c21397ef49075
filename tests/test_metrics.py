import pytest
import torch

from matryoshka_mixing import metrics
from matryoshka_mixing.features import FeatureTree, family
from matryoshka_mixing.sae import SAE, SAEConfig, random_start

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
        for name in ("decoder", "encoder", "acts", "live", "latents", "absorption", "all_live"):
            assert torch.equal(getattr(together, name)[i], getattr(alone, name)), name


def test_a_complement_that_takes_the_parent_away_where_it_is_absent_has_absorbed_nothing():
    """The bias carries the parent; a latent of decoder -f0 fires on empty inputs alone, so silent beside children."""
    complement = SAE(
        tensor([[-1, 0, 0], [0, 1, 0], [0, 0, 1]]).T, torch.zeros(3).double(),
        tensor([[-1, 0, 0], [0, 1, 0], [0, 0, 1]]), tensor([1, 0, 0]),
    )  # fmt: skip
    states, reading = family(0.3, 0.4).states(), read(complement)
    assert torch.equal(complement.decode(reading.acts), states.inputs(torch.eye(3, dtype=torch.float64)))
    assert reading.mixing.own.tolist() == [-1, 1, 1]
    assert reading.absorption.item() == 0


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


@pytest.mark.parametrize("kind", metrics.OUTCOMES)
def test_outcomes_by_hand(kind):
    table = [[3 * value or -1 for value in row] for row in CODES[kind]]
    order = [[1, 0.3, 0.3], [0.1, 0.6, -0.7], [0.1, -0.7, 0.6]]
    if kind in ("absorbed", "first prefix dead"):
        order = [[1, 0, 0], [0.7, 0.7, 0], [0.7, 0, 0.7]]
    if kind == "child missing":  # the last latent takes child 2 away where it is absent
        order = [[0.8, 0.2, 0.5], [0.2, 0.8, -0.5], [0.3, -0.3, -0.7]]
    reading, states = read(fires_on(table, order)), family(0.3, 0.4).states()
    assert metrics.OUTCOMES[metrics.outcome(reading, states, PARENTS, (1, 3))] == kind
    standard = {"first prefix dead": "too few live"}.get(kind, kind)
    assert metrics.OUTCOMES[metrics.outcome(reading, states, PARENTS, (3,))] == standard


def test_a_complement_is_a_parent_latent_that_does_the_reverse():
    complement = SAE(
        tensor([[-1, 0, 0], [0, 1, 0], [0, 0, 1]]).T, torch.zeros(3).double(),
        tensor([[-1, 0, 0], [0, 1, 0], [0, 0, 1]]), tensor([1, 0, 0]),
    )  # fmt: skip
    states, reading = family(0.3, 0.4).states(), read(complement)
    assert metrics.assign(reading, states, PARENTS).tolist() == [0, 1, 2]
    assert metrics.OUTCOMES[metrics.outcome(reading, states, PARENTS, (1, 3))] == "parent first"


def test_a_latent_that_takes_a_child_away_is_not_assigned_to_it():
    """Two latents that cancel on the parent alone: each holds more of minus the other child than of its own."""
    pair = fires_on([[3, 3, 3], [3, 3, -1], [3, -1, 3]], [[1, 0.3, 0.3], [0.1, 0.6, -0.7], [0.1, -0.7, 0.6]])
    reading = read(pair)
    assert reading.latents.tolist() == [0, 2, 1]
    assert metrics.assign(reading, family(0.3, 0.4).states(), PARENTS).tolist() == [0, 1, 2]


def test_recovery_is_one_for_the_truth_and_counts_dead_latents_as_nothing():
    assert metrics.recovery(read(CLEAN).decoder, read(CLEAN).live) == 1
    assert metrics.recovery(read(ABSORBED).decoder, read(ABSORBED).live) == pytest.approx((1 + 2 * 0.5**0.5) / 3)
    eye = torch.eye(3, dtype=torch.float64)
    assert metrics.recovery(eye, torch.tensor([True, False, True])) == pytest.approx(2 / 3)
    assert metrics.recovery(-eye[:1], torch.tensor([True])) == pytest.approx(1 / 3), "one latent for three features"
    # The dead row would match child 1 better than the live one does.
    cosines = tensor([[1.0, 0, 0], [0, 1, 0], [0, 0.5, 0.8]])
    assert metrics.recovery(cosines, torch.tensor([True, False, True])) == pytest.approx(1.8 / 3)


def test_solutions_see_through_names_places_and_flat_directions():
    """Siblings and latents swapped, or a latent that fires on a sibling at no cost, are no other solution."""
    states, config = family(0.3, 0.4).states(), SAEConfig(3, (1, 3), l1=0.0, encoder_bias=False, decoder_bias=False)
    swapped = sae_from([[1, 0, 0], [0, 0, 1], [0, 1, 0]], [[1, 0, 0], [0, 0, 1], [0, 1, 0]])
    first = sae_from([[0, 1, 0], [1, 0, 0], [0, 0, 1]], [[0, 1, 0], [1, 0, 0], [0, 0, 1]])
    second = sae_from([[0, 0, 1], [1, 0, 0], [0, 1, 0]], [[0, 0, 1], [1, 0, 0], [0, 1, 0]])
    # On child 2 both children's latents fire, and together they write the same: c1 + (c2 - c1).
    flat = sae_from([[1, 0, 0], [0, 1, 1], [0, 0, 1]], [[1, 0, 0], [0, 1, 0], [0, -1, 1]])
    dead = sae_from([[1, 0, 0], [0, 1, 0], [0, -1, 0]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    some = SAE.stack([first, CLEAN, swapped, dead, flat, second])
    found = metrics.solutions(some, states, torch.eye(3, dtype=torch.float64), config)
    assert [(one.seeds, one.live) for one in found] == [([1, 2, 4], 3), ([3], 2), ([0, 5], 3)]
    assert [one.loss for one in found] == pytest.approx([0.24, 0.36, 0.42])
    assert [one.share for one in found] == pytest.approx([1 / 2, 1 / 6, 1 / 3])
    apart = family(0.3, [0.5, 0.3]).states()
    found = metrics.solutions(some[[0, 5]], apart, torch.eye(3, dtype=torch.float64), config)
    assert len(found) == 2, "unequal children are not alike"


def test_solutions_of_equal_loss_are_told_apart():
    """Prefix errors tell apart what loss and live latents do not: the one fails where the other does not."""
    states = family(0.5, 0.25).states()  # parent alone: 0.25; with a child: 0.125 each
    config = SAEConfig(3, (3,), l1=0.0, encoder_bias=False, decoder_bias=False)
    # Writes nothing on the parent alone (0.25 * 1); or leaves the parent out of both pairs (2 * 0.125 * 1).
    silent = sae_from([[0, 0, 0], [0, 1, 0], [0, 0, 1]], [[0, 0, 0], [1, 1, 0], [1, 0, 1]])
    part = sae_from([[1, -1, -1], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    silent.W_enc[:, 0] = tensor([1e-3, -1e-3, -1e-3])
    found = metrics.solutions(SAE.stack([silent, part]), states, torch.eye(3, dtype=torch.float64), config)
    assert len(found) == 2 and found[0].loss == pytest.approx(found[1].loss)


def test_turning_changes_the_coordinates_and_nothing_else(dictionary):
    basis = torch.linalg.qr(torch.randn(20, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(1))).Q.T
    sae = random_start(SAEConfig(20, (1, 3)), range(4))
    sae.b_dec.add_(0.1)
    turned, x = metrics.turned(sae, basis), family(0.3, 0.4).states().inputs(dictionary)
    acts = sae.encode(x)
    assert torch.allclose(turned.encode(x @ basis.T), acts)
    assert torch.allclose(turned.decode(acts), sae.decode(acts) @ basis.T)
    assert not torch.allclose(turned.decode(acts), sae.decode(acts))


def test_each_its_own_asks_for_firing_everywhere_and_nowhere_else():
    features = tensor([[0, 0], [1, 0], [1, 1]])
    right, silent, stray = [[0, 0], [2, 0], [1, 3]], [[0, 0], [2, 0], [0, 3]], [[0, 0], [2, 1], [1, 3]]
    acts, in_order = tensor([right, silent, stray]), torch.arange(2).expand(3, -1)
    assert metrics.each_its_own(acts, in_order, features).tolist() == [True, False, False]
    swapped, missing = torch.tensor([[1, 0]]), torch.tensor([[0, -1]])
    assert metrics.each_its_own(acts[:1].flip(-1), swapped, features).tolist() == [True]
    assert metrics.each_its_own(acts[:1], missing, features).tolist() == [False]


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
    from matryoshka_mixing.features import orthonormal_dictionaries

    states, directions = family(0.3, 0.4).states(), orthonormal_dictionaries(3, 3, range(5))
    saes = SAE.stack([metrics.turned(ABSORBED, basis.T.contiguous()) for basis in directions])
    reading = metrics.read(saes, states, directions, PARENTS)
    assert torch.allclose(reading.decoder, read(ABSORBED).decoder.expand(5, 3, 3)) and (reading.absorption == 1).all()


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
