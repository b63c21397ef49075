"""Snapshots of training, one feature of a tree retuned, and the post's tree."""

import pytest
import torch

from matryoshka_mixing.features import family, orthonormal_dictionary, retuned, twenty_feature_tree
from matryoshka_mixing.sae import SAEConfig, random_start
from matryoshka_mixing.training import Setting, TrainConfig, train

PLANE = orthonormal_dictionary(2, 6, torch.Generator().manual_seed(0))


def test_snapshots_are_what_a_shorter_run_returns():
    config = SAEConfig(6, (1, 2))
    setting, start = Setting(config, family(0.3, 0.5, 1).states(), PLANE), random_start(config, range(5))
    schedule = {"warmup": 0, "cooldown": 0}
    run = train([setting] * 2, start, TrainConfig(20, snapshots=(3, 20), **schedule))
    assert run.path.W_enc.shape == (2, 2, 5, 6, 2)
    for i, steps in enumerate((3, 20)):
        short = train([setting] * 2, start, TrainConfig(steps, **schedule))
        assert all(
            torch.equal(a[i], b)
            for a, b in zip(run.path.parameters.values(), short.sae.parameters.values(), strict=True)
        )
    assert train(setting, start, TrainConfig(5)).path.W_enc.shape == (0, 1, 5, 6, 2)


@pytest.mark.parametrize("snapshots", [(0,), (21,), (5, 3), (3, 3)])
def test_bad_snapshots_are_refused(snapshots):
    with pytest.raises(ValueError, match="whole numbers from 1 to 20 that strictly increase"):
        TrainConfig(20, snapshots=snapshots)


def test_one_feature_of_a_tree_is_retuned():
    tree = retuned(family(0.3, 0.2, 3, parent_magnitude=2.0), "child 2", magnitude_mean=7.0, magnitude_std=0.5)
    assert [node.magnitude_mean for node in tree if node.is_read_out] == [2.0, 1.0, 7.0, 1.0]
    assert [node.magnitude_std for node in tree if node.is_read_out] == [0.0, 0.0, 0.5, 0.0]
    with pytest.raises(ValueError, match="0 features are called 'child 9'"):
        retuned(tree, "child 9", magnitude_mean=1.0)


def test_the_posts_tree():
    tree = twenty_feature_tree()
    assert tree.n_features == 20 and tree.parents().count(None) == 11
    acts = tree.sample(200_000, torch.Generator().manual_seed(0))
    # Three families of 0.15 (1 + 0.6) and eight features of 0.05.
    assert float(acts.sum(1).mean()) == pytest.approx(1.12, abs=0.01)
