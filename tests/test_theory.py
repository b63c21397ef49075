import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from matryoshka_mixing import metrics, theory
from matryoshka_mixing.features import family, independent, orthonormal_dictionary
from matryoshka_mixing.sae import SAE, SAEConfig, start_near
from matryoshka_mixing.train import Setting, TrainConfig, train

CASES = [(2, 0.4, 1.0), (2, 0.1, 1.0), (2, 0.4, 0.2), (3, 0.3, 5.0), (3, 0.05, 1.0), (5, 0.15, 2.0)]
family_cases = st.integers(2, 7).flatmap(
    lambda n: st.tuples(st.just(n), st.floats(0.001, 0.999 / n), st.floats(0.01, 100), st.floats(0.001, 1))
)


def vector(first, rest, n):
    return torch.tensor([first, *[rest] * n], dtype=torch.float64)


def test_numbers_of_the_default_case():
    """The numbers written down for the project before the code existed."""
    t = theory.narrow_ratio(0.4, 2)
    assert (t, *theory.parent_cosines(t, 2)) == pytest.approx((0.4254, 0.857, 0.365), abs=5e-4)
    t = theory.matryoshka_ratio(0.4, 2, 1.0)
    assert (t, *theory.parent_cosines(t, 2)) == pytest.approx((0.3660, 0.888, 0.325), abs=5e-4)
    assert theory.child_cosines(t, 2) == pytest.approx((-0.106, 0.833, -0.543), abs=6e-4)


@given(family_cases)
@settings(max_examples=200, deadline=None)
def test_closed_forms_agree_with_the_eigenvector(case):
    n, q, beta, p = case
    states = family(p, q, n).states()
    narrow = vector(*theory.parent_cosines(theory.narrow_ratio(q, n), n), n)
    assert (theory.narrow_optimum(states) - narrow).abs().max() < 1e-12
    ratio = theory.matryoshka_ratio(q, n, beta)
    optimum = theory.matryoshka_optimum(states, range(n + 1), (1, n + 1), (beta, 1.0))
    assert (optimum - vector(*theory.parent_cosines(ratio, n), n)).abs().max() < 1e-12
    child = theory.child_decoder(optimum, torch.eye(n + 1, dtype=torch.float64)[:2].sum(0))
    assert child[:3].tolist() == pytest.approx(theory.child_cosines(ratio, n), abs=1e-12)


@given(family_cases)
@settings(max_examples=200, deadline=None)
def test_children_always_undo_siblings_and_lean_away_from_the_parent_below_one_in_n(case):
    n, q, beta, _ = case
    ratio = theory.matryoshka_ratio(q, n, beta)
    parent, own, sibling = theory.child_cosines(ratio, n)
    assert ratio < 1 / n
    assert parent < 0 and sibling < 0 < own


def test_an_inner_prefix_alone_is_the_narrow_sae():
    assert theory.matryoshka_ratio(0.3, 3, 1e9) == pytest.approx(theory.narrow_ratio(0.3, 3), rel=1e-8)


@pytest.mark.parametrize(("n", "q", "beta"), CASES)
def test_trained_saes_meet_the_closed_forms(n, q, beta):
    dictionary = orthonormal_dictionary(n + 1, 20, torch.Generator().manual_seed(n))
    states, features = family(0.3, q, n).states(), range(n + 1)
    bare = {"encoder_bias": False, "decoder_bias": False}
    narrow = train(
        Setting(SAEConfig(20, (1,), **bare), states, dictionary),
        start_near(dictionary[:1], range(4)),
        TrainConfig(1500),
    )
    own, child = theory.parent_cosines(theory.narrow_ratio(q, n), n)
    found = metrics.decoder_cosines(narrow.sae, dictionary)[0, :, 0]
    assert (found - vector(own, child, n)).abs().max() < 1e-6

    config = SAEConfig(20, (1, n + 1), (beta, 1.0), **bare)
    run = train(Setting(config, states, dictionary), start_near(dictionary, range(4)), TrainConfig(2500))
    ratio = theory.matryoshka_ratio(q, n, beta)
    expected = torch.empty(n + 1, n + 1, dtype=torch.float64)
    expected[0] = vector(*theory.parent_cosines(ratio, n), n)
    parent, own, sibling = theory.child_cosines(ratio, n)
    for k in features[1:]:
        expected[k] = vector(parent, sibling, n)
        expected[k, k] = own
    assert (metrics.decoder_cosines(run.sae, dictionary)[0] - expected).abs().max() < 1e-6


def test_prefix_weights_by_hand():
    states = family(0.3, 0.4, 2).states()
    weights = theory.prefix_weights(states, ranks=(0, 2, 1), widths=(1, 2, 3), weights=(10.0, 20.0, 40.0))
    by_state = {tuple(map(int, a)): w.item() for a, w in zip(states.acts, weights, strict=True)}
    # Child 1 sits at rank 2: widths 1 and 2 miss it. Child 2 sits at rank 1: only width 1 does.
    assert by_state == {(0, 0, 0): 0, (1, 0, 0): 70, (1, 1, 0): 30, (1, 0, 1): 10}
    with pytest.raises(ValueError, match="exclusive children only"):
        theory.prefix_weights(independent([0.5] * 3).states(), range(3), (1, 3), (1.0, 1.0))


def test_one_latent_loss_is_that_of_the_sae_and_least_at_the_optimum(dictionary):
    states = family(0.3, 0.4).states()
    best = theory.narrow_optimum(states)
    directions = torch.cat(
        [best[None], torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))]
    )
    losses = theory.one_latent_loss(states, directions)
    assert (losses[1:] > losses[0]).all()
    assert torch.allclose(losses, theory.one_latent_loss(states, 7 * directions))
    row = (best @ dictionary)[None]
    sae = SAE(row.T, torch.zeros(1, dtype=torch.float64), row, torch.zeros(20, dtype=torch.float64))
    loss = sae.loss(states.inputs(dictionary), states.probs, SAEConfig(20, (1,)))
    assert losses[0].item() == pytest.approx(loss.item(), abs=1e-14)


def test_with_biases_a_direction_leaves_the_variance_across_it():
    states = independent([0.3, 0.1]).states()
    left = theory.one_latent_loss(states, torch.eye(2, dtype=torch.float64), biases=True)
    assert left.tolist() == pytest.approx([0.1 * 0.9, 0.3 * 0.7])
