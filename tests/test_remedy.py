"""The remedy: its configuration, its least squares, and its stages."""

from dataclasses import replace

import pytest
import torch

from matryoshka_mixing import metrics, remedy
from matryoshka_mixing.features import family, orthonormal_dictionaries, orthonormal_dictionary
from matryoshka_mixing.sae import SAE, SAEConfig, random_start, start_near
from matryoshka_mixing.training import Setting, TrainConfig, train

TREE = family(0.3, 0.4)
STATES = TREE.states()


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_decoder_sees_the_full_reconstruction_as_heavily_as_all_prefixes_together():
    config = remedy.full_decoder(SAEConfig(6, (1, 2, 5), (0.5, 2.0, 1.0), l1=0.1))
    assert config.weights == (0.5, 2.0, 1.0) and config.decoder_weights == (0.0, 0.0, 3.5)
    with pytest.raises(ValueError, match=r"widths are \(3,\); the remedy is for an SAE with at least 2 prefixes"):
        remedy.full_decoder(SAEConfig(6, (3,)))


@pytest.mark.parametrize("decoder_bias", [False, True])
def test_refit_is_least_squares_and_leaves_the_firing(decoder_bias):
    config = SAEConfig(5, (2, 4), decoder_bias=decoder_bias)
    start = random_start(config, range(3))
    sae = replace(start, b_enc=start.b_enc + 0.3, b_dec=0.1 * decoder_bias * drawn(3, 5, seed=1))
    x, probs = drawn(3, 40, 5, seed=2), torch.rand(40, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    probs = probs / probs.sum()
    fitted = remedy.refit(sae, x, probs)
    assert (fitted.encode(x) - sae.encode(x)).abs().max() < 1e-12
    for i in range(3):
        acts = sae[i].encode(x[i])
        known = torch.cat([acts, torch.ones(40, 1, dtype=torch.float64)], 1) if decoder_bias else acts
        root = probs.sqrt()[:, None]
        best = torch.linalg.lstsq(known * root, x[i] * root).solution
        assert (fitted.W_dec[i] - best[:4]).abs().max() < 1e-9
        assert (fitted.b_dec[i] - (best[4] if decoder_bias else 0)).abs().max() < 1e-9


def test_refit_leaves_dead_latents_and_what_is_exact_already():
    directions = orthonormal_dictionary(3, 6, 0)
    x = STATES.inputs(directions)
    sae = start_near(directions, [0], 0.0).with_config(SAEConfig(6, (1, 3), decoder_bias=False))
    exact = replace(sae, b_enc=torch.zeros(1, 3, dtype=torch.float64))
    assert (remedy.refit(exact, x, STATES.probs).W_dec - exact.W_dec).abs().max() < 1e-12
    dead = replace(exact, b_enc=torch.tensor([[0.0, -9.0, 0.0]], dtype=torch.float64))
    assert torch.equal(remedy.refit(dead, x, STATES.probs).W_dec[0, 1], dead.W_dec[0, 1])


def test_with_one_bias_alone_refit_moves_neither():
    config = SAEConfig(5, (2, 4), encoder_bias=False)
    start = random_start(config, range(2))
    fitted = remedy.refit(start, drawn(40, 5, seed=2) + 1)
    assert torch.equal(fitted.b_enc, start.b_enc) and torch.equal(fitted.b_dec, start.b_dec)
    assert not torch.equal(fitted.W_dec, start.W_dec)
    directions = orthonormal_dictionary(3, 6, 0)
    setting = Setting(SAEConfig(6, (1, 3), encoder_bias=False), STATES, directions)
    settled = remedy.remedied(setting, start_near(directions, [0]), TrainConfig(20), rounds=2).settled
    assert (settled.b_enc == 0).all()


def test_fewer_steps_than_rounds_are_one_each(monkeypatch):
    taken = []
    setting = Setting(SAEConfig(6, (1, 3)), STATES, orthonormal_dictionary(3, 6, 0))
    monkeypatch.setattr(remedy, "train", lambda *given, **_: taken.append(given[2].steps) or train(*given))
    remedy.settle(setting, random_start(setting.sae, [0]), TrainConfig(2), 3)
    assert taken == [1, 1, 1]


def test_drawn_prefixes_are_refused_before_anything_is_trained():
    setting = Setting(SAEConfig(6, (1, 2, 3), (0.5, 0.25, 0.25)), STATES, orthonormal_dictionary(3, 6, 0), drawn=1)
    with pytest.raises(ValueError, match="set drawn to 0 and give each prefix the weight that it has on average"):
        remedy.remedied(setting, random_start(setting.sae, [0]), TrainConfig(10**9))


@pytest.mark.parametrize("name", ["W_dec", "b_dec", "b_enc"])
def test_what_least_squares_would_move_cannot_be_held(name):
    setting = Setting(SAEConfig(6, (1, 3)), STATES, orthonormal_dictionary(3, 6, 0), held={name: 0})
    start = random_start(setting.sae, [0])
    for call in (remedy.remedied, remedy.settle):
        with pytest.raises(ValueError, match=rf"holds \['{name}'\], which least squares would move"):
            call(setting, start, TrainConfig(10**9))


def test_refit_takes_other_precisions_and_refuses_what_is_no_row():
    sae, x = random_start(SAEConfig(6, (3,)), [0])[0], drawn(50, 6)
    narrow = remedy.refit(sae.map(torch.Tensor.float), x)
    assert narrow.W_dec.dtype == torch.float32
    for bad in (x[:0], torch.full((4, 6), torch.nan)):
        with pytest.raises(ValueError, match="at least one row, of finite numbers"):
            remedy.refit(sae, bad)


def test_refit_takes_equal_weights_for_none_and_one_configuration():
    config = SAEConfig(4, (1, 3))
    sae, x = random_start(config, range(2)), drawn(30, 4)
    even = torch.full((30,), 1 / 30, dtype=torch.float64)
    assert (remedy.refit(sae, x).W_dec - remedy.refit(sae, x, even).W_dec).abs().max() < 1e-12
    choosing = sae.with_config(SAEConfig(4, (1, 3), activation="batchtopk", k=1.5)).with_threshold(x, even)
    none = remedy.refit(choosing, x)
    assert torch.allclose(none.threshold, none.with_threshold(x, even).threshold), "k of the inputs, not of twice them"
    with pytest.raises(ValueError, match="2 configurations; select along the first axis first"):
        remedy.refit(sae.with_config((config, replace(config, l1=0.1))), x)


def test_the_stages_are_two_calls_of_train_and_least_squares():
    config = SAEConfig(6, (1, 3), l1=0.03, decoder_bias=False)
    directions = orthonormal_dictionaries(3, 6, range(4))
    setting, training = Setting(config, STATES, directions), TrainConfig(50)
    start = start_near(directions, range(4), 0.3)
    stages = remedy.remedied(setting, start, training, rounds=1)
    after = replace(training, lr=training.lr / 3)
    plain = train(setting, start, training).sae
    split = train(replace(setting, sae=remedy.full_decoder(config)), plain, after).sae
    assert torch.equal(stages.plain.W_dec, plain.W_dec) and torch.equal(stages.split.W_dec, split.W_dec)
    first = remedy.refit(split[0], STATES.inputs(directions), STATES.probs)
    held = replace(setting, held={"W_dec": ..., "b_dec": ...})
    alone = train(held, first.reshape(1, 4), after).sae[0]
    assert torch.equal(alone.W_dec, first.W_dec) and not torch.equal(alone.W_enc, first.W_enc)
    last = remedy.refit(alone, STATES.inputs(directions), STATES.probs)
    assert torch.equal(stages.settled[0].W_dec, last.W_dec)
    none = remedy.remedied(setting, start, training, rounds=0)
    assert torch.equal(none.settled[0].W_dec, first.W_dec)
    with pytest.raises(ValueError, match="rounds is -1; it must be at least 0"):
        remedy.remedied(setting, start, training, rounds=-1)


def test_a_tree_is_refitted_on_samples_and_settings_may_differ():
    config = SAEConfig(6, (1, 3), l1=0.03)
    directions = orthonormal_dictionaries(3, 6, range(2))
    settings = [Setting(replace(config, l1=l1), TREE, directions) for l1 in (0.01, 0.03)]
    training = TrainConfig(5, batch_size=20)
    stages = remedy.remedied(settings, start_near(directions, range(2), 0.3), training, rounds=1)
    assert stages.settled.instances == (2, 2) and stages.settled.W_dec.isfinite().all()
    # Samples that are alike are one row, and the fit is that of all of them.
    acts = TREE.sample(remedy.ROWS, torch.Generator().manual_seed(0))
    x, probs = remedy._rows(settings[1])
    assert x.shape == (2, 4, 6) and float(probs.sum()) == pytest.approx(1)
    fitted, whole = remedy.refit(stages.split[1], x, probs), remedy.refit(stages.split[1], acts @ directions)
    assert (fitted.W_dec - whole.W_dec).abs().max() < 1e-10 and (fitted.b_dec - whole.b_dec).abs().max() < 1e-10
    chosen = replace(settings[1], sae=SAEConfig(6, (1, 3), activation="batchtopk", k=0.5))
    assert remedy._rows(chosen)[0].shape == (2, remedy.ROWS, 6), "it chooses among samples"


def test_settling_takes_what_train_takes_and_keeps_every_seed():
    """A setting alone or several, SAEs of all of them or of each, single or double precision; else an error."""
    config, training = SAEConfig(6, (1, 3), l1=0.03), TrainConfig(30)
    directions = orthonormal_dictionaries(3, 6, range(4))
    settings = [Setting(replace(config, l1=l1), STATES, directions) for l1 in (0.01, 0.03)]
    start = start_near(directions, range(4), 0.3)
    both = remedy.settle(settings, start, training, 2)
    assert both.instances == (2, 4)
    for i, setting in enumerate(settings):
        for given in (start, start.reshape(1, 4), start.map(torch.Tensor.float).map(torch.Tensor.double)):
            alone = remedy.settle(setting, given, training, 2)
            assert alone.instances == (1, 4) and (alone[0].W_dec - both[i].W_dec).abs().max() < 1e-6
    single = remedy.settle(settings[0], start.map(torch.Tensor.float), training, 2)
    assert single.W_dec.dtype is torch.float64 and single.instances == (1, 4)
    assert remedy.settle(settings[0].__class__(config, STATES, directions[0]), start[0], training).instances == (1, 1)
    with pytest.raises(ValueError, match="rounds is -1; it must be at least 0"):
        remedy.settle(settings, start, training, -1)
    with pytest.raises(ValueError, match="with or without a leading 2"):
        remedy.settle(settings, SAE.stack([start] * 3), training)


@pytest.mark.parametrize("batch_size", [None, 100])
def test_a_batchtopk_sae_keeps_of_single_inputs_what_it_keeps_of_all_after_every_stage(batch_size):
    directions = orthonormal_dictionaries(3, 20, range(8))
    config = SAEConfig(20, (1, 3), activation="batchtopk", k=float(TREE.firing_probabilities().sum()))
    training = TrainConfig(1000, batch_size=batch_size)
    stages = remedy.remedied(Setting(config, STATES, directions), start_near(directions, range(8), 0.3), training)
    x = STATES.inputs(directions)
    for sae in (stages.settled[0], remedy.refit(stages.plain[0], x, STATES.probs)):
        assert torch.equal(sae.encode(x), sae.encode(x, STATES.probs))


def test_near_the_truth_it_leaves_neither_mixing_nor_absorption():
    directions = orthonormal_dictionaries(3, 8, range(6))
    config = SAEConfig(8, (1, 3), l1=0.03, decoder_bias=False)
    start = start_near(directions, range(6), 0.3)
    stages = remedy.remedied(Setting(config, STATES, directions), start, TrainConfig(1500))
    plain, settled = (
        metrics.read(sae[0], STATES, directions, TREE.parents()) for sae in (stages.plain, stages.settled)
    )
    assert plain.mixing.parent_to_child.min() > 0.3
    for part in ("parent_to_child", "child_to_sibling", "child_to_parent"):
        assert getattr(settled.mixing, part).abs().max() < 0.02
    assert settled.absorption.max() < 0.02 and settled.mixing.own.min() > 0.999
