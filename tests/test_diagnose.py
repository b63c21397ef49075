"""The diagnosis, where the truth is known: does the refit's movement equal the mixing, and when does it not?"""

import json
import math
import pickle
import re
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some
from safetensors.torch import save_file

import matryoshka_mixing as mm
from matryoshka_mixing import exchange, metrics
from matryoshka_mixing.diagnose import __main__ as command
from matryoshka_mixing.diagnose import batches, files, in_one, label_edges, memory, page
from matryoshka_mixing.remedy import remedied
from matryoshka_mixing.training import TrainConfig

D_IN = 12


def drawn_rows(n, d):
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def sampled(tree, directions, n, noise=0.0, seed=0):
    draw = torch.Generator().manual_seed(seed)
    acts = tree.sample(n, draw)
    spread = noise * torch.randn(n, directions.shape[1], generator=draw, dtype=torch.float64)
    return acts @ directions + spread, acts > 0


def trained(tree, config, seed=0, order=None):
    directions = mm.orthonormal_dictionary(tree.n_features, config.d_in, seed)
    start = mm.start_near(directions if order is None else directions[order], [seed], 0.2)
    run = mm.train(mm.Setting(config, tree.states(), directions), start, TrainConfig(1500))
    return run.sae[0, 0], directions


def toy(child=0.4, n=2, inner_weight=1.0, **changes):
    tree = mm.family(0.3, child, n)
    config = mm.SAEConfig(
        D_IN, (1, n + 1), (inner_weight, 1.0), **{"encoder_bias": False, "decoder_bias": False} | changes
    )
    return tree, *trained(tree, config)


@pytest.mark.parametrize(("child", "n", "weight"), [(0.4, 2, 1.0), (0.2, 2, 1.0), (0.2, 4, 0.5)])
def test_movement_is_the_mixing_and_is_predicted(child, n, weight):
    """Without noise the refit finds the parent itself, so its turn is the angle between latent and parent."""
    tree, sae, directions = toy(child, n, weight)
    x, _ = sampled(tree, directions, 3000)
    found = mm.diagnose(sae, x, ridge=1e-9)
    mixed = math.sqrt(1 - float(metrics.decoder_cosines(sae, directions)[0, 0]) ** 2)
    assert float(found.movement[0]) == pytest.approx(mixed, abs=1e-4)
    assert float(found.predicted[0]) == pytest.approx(mixed, abs=0.01)  # the sample's children are not quite equal
    assert float(found.along[0]) > 0.95 and float(found.agreement[0]) > 0.95 and bool(found.leans[0])
    refitted = found.refitted[0] / found.refitted[0].norm() @ directions.T
    assert float(refitted[0]) == pytest.approx(1, abs=1e-6) and found.fvu_refitted < 1e-9 < found.fvu


def test_partners_are_the_children():
    tree, sae, directions = toy()
    found = mm.diagnose(sae, sampled(tree, directions, 3000)[0], ridge=1e-9)
    assert {partner.latent for partner in found.partners[0]} == {1, 2}
    for partner in found.partners[0]:
        assert 0.5 < partner.together < 0.8 and partner.cosine > partner.refitted + 0.2
    assert "Of 1 inner latents 1 lean" in found.words and re.search(
        r"Most lean latents 0 \(0.\d+, toward [12], [12]\)", found.words
    )
    assert "By prefix" not in found.words and "the change from cosine to refitted counts" in found.words


def test_at_most_three_partners_are_told_the_strongest_first():
    tree, sae, directions = toy(0.15, 5)
    found = mm.diagnose(sae, sampled(tree, directions, 3000)[0])
    told = [partner.latent for partner in found.partners[0]]
    assert len(told) == 3 and set(told) < {1, 2, 3, 4, 5}


def test_one_draw_and_one_row_at_a_time_will_do():
    tree, sae, directions = toy()
    x = sampled(tree, directions, 300)[0]
    found = mm.diagnose(sae, x, draws=1, batch=1)
    assert found.draws == 1 and torch.allclose(found.lean, mm.diagnose(sae, x, draws=1).lean)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_unit_of_activations_does_not_matter(scale):
    tree, sae, directions = toy()
    x = sampled(tree, directions, 1000, 0.02)[0]
    scaled = replace(sae, b_enc=scale * sae.b_enc, b_dec=scale * sae.b_dec)
    one, other = mm.diagnose(sae, x), mm.diagnose(scaled, scale * x)
    assert torch.allclose(one.lean, other.lean) and one.fvu == pytest.approx(other.fvu) and other.leans.all()


def test_the_remedy_does_not_lean():
    """Refitted, the SAE stands where the remedy leads: the full reconstruction alone."""
    tree, sae, directions = toy()
    x, _ = sampled(tree, directions, 3000, 0.05)
    found = mm.diagnose(sae, x, ridge=1e-9)
    refitted = replace(sae, W_dec=found.refitted)
    again = mm.diagnose(refitted, x)
    assert float(again.movement[0]) < 0.1 * float(found.movement[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_a_decoder_that_is_a_fit_already_is_not_judged_by_how_it_turns(dtype):
    """The plain SAE turns, the settled one cannot, and only its finding says that this means nothing."""
    tree, sae, directions = toy(encoder_bias=True, decoder_bias=True)
    x, _ = sampled(tree, directions, 2000, 0.05)
    setting = mm.Setting(replace(sae.one_config, l1=0.02), mm.States(x, torch.full((2000,), 1 / 2000)))
    stages = remedied(setting, mm.SAE.stack([sae]), TrainConfig(100))
    said = "that no latent moves says nothing"
    for name in ("plain", "split", "settled"):
        found = mm.diagnose(getattr(stages, name)[0, 0].map(lambda p: p.to(dtype)), x)
        assert found.fitted == (name == "settled") == (said in found.words) == found.to_dict()["fitted"], name
    other = mm.diagnose(stages.settled[0, 0], sampled(tree, directions, 2000, 0.05, seed=1)[0])
    assert not other.fitted and other.movement[0] < 0.05  # on other rows it turns as by chance


def topic(n=6):
    """Features that fire together without a hierarchy."""
    children = tuple(mm.FeatureTree(0.5) for _ in range(n))
    return mm.FeatureTree(1.0, (mm.FeatureTree(0.2, children, is_read_out=False),), is_read_out=False)


@pytest.mark.parametrize("l1", [0.03, 0.1, 0.2])
def test_what_a_penalty_turns_is_no_lean(l1):
    """A standard SAE has no prefixes. Its penalty is found without being told, and explains all of its leans."""
    sae, directions = trained(topic(), mm.SAEConfig(D_IN, (6,), l1=l1))
    x = sampled(topic(), directions, 8000, 0.02)[0]
    found = mm.diagnose(sae, x, widths=(2, 4, 6))
    assert not found.leans.any() and not found.opposite.any() and found.l1 == l1 and not found.explained
    assert re.search(r"median lean: 0 to 1: 0 of 2 \(0.\d+\); 2 to 3: 0 of 2 ", found.words)
    assert torch.allclose(found.by_penalty, found.lean, rtol=0.2, atol=5e-4)
    assert found.shrinkage == pytest.approx(l1, rel=0.05) and f"the L1 penalty of {l1:g} makes" in found.words
    unknown = mm.diagnose(sae, x, widths=(2, 4, 6), l1=0)
    assert unknown.explained == int(unknown.leans.sum()) and bool(unknown.explained) == (l1 > 0.05)
    assert ("shrink as under an L1 penalty of" in unknown.words) == (l1 > 0.05)


def test_a_matryoshka_sae_with_a_penalty_still_leans():
    tree, sae, directions = toy(l1=0.1, encoder_bias=True)
    found = mm.diagnose(sae, sampled(tree, directions, 3000, 0.02)[0])
    assert found.leans.all() and found.by_penalty[0] < 0.25 * found.lean[0] and not found.opposite.any()


def test_what_shorter_prefixes_bend_in_the_bias_is_made_up_for():
    """With a bias, loose features after the first prefix turn a little, as predicted, and lean toward none."""
    family = mm.FeatureTree(0.15, (mm.FeatureTree(0.3), mm.FeatureTree(0.3)), True)
    tree = mm.FeatureTree(1.0, (family, *[mm.FeatureTree(0.1)] * 6), is_read_out=False)
    order, found = [0, 3, 4, 5, 6, 1, 2, 7, 8], {}
    for bias in (True, False):
        config = mm.SAEConfig(D_IN, (1, 5, 9), decoder_bias=bias)
        sae, directions = trained(tree, config, order=order)
        found[bias] = mm.diagnose(sae, sampled(tree, directions, 6000, 0.02)[0])
    assert found[True].opposite.tolist() == [False] + [True] * 4 and not found[True].leans[1:].any()
    assert found[True].movement[1:].max() < 0.1 < found[True].movement[0]
    assert "what shorter prefixes bend in the bias" in found[True].words and not found[False].opposite.any()


def test_what_it_takes_is_told_before_anything_is_read():
    """What NumPy holds at its height is what is told, to a third; and the examples of the docstring are its own."""
    x = drawn_rows(700, 8)
    sae = mm.random_start(mm.SAEConfig(8, (150, 600)), [0])[0]
    mm.diagnose(sae, x, draws=1, batch=64)  # what is imported and compiled at first is no part of it
    for draws in (1, 19):
        tracemalloc.start()
        mm.diagnose(sae, x, draws=draws, batch=64)
        most = tracemalloc.get_traced_memory()[1] / 1e9
        tracemalloc.stop()
        assert most == pytest.approx(memory(600, 8, draws), rel=0.33)
    told = sys.modules["matryoshka_mixing.diagnose"].__doc__
    assert f"{memory(8192, 768):.0f} GB for 8,192" in told and f"{memory(32768, 768):.0f} GB for 32,768" in told


def test_a_complement_turns_the_other_way():
    """By hand: silent where the family is, which the bias holds; the children's latents do not fire beside it."""
    tree, p = mm.family(0.3, 0.4), mm.orthonormal_dictionary(3, D_IN, 0)
    config = mm.SAEConfig(D_IN, (1, 3))
    setting = mm.Setting(config, tree.states(), p)
    mean = p[0] + 0.4 * (p[1] + p[2])
    rows = torch.stack([-mean, 0.6 * p[1] - 0.4 * p[2], 0.6 * p[2] - 0.4 * p[1]])
    bias = mean.clone()
    by_hand = mm.SAE(
        torch.stack([-p[0], p[1], p[2]], 1), torch.tensor([1.0, 0, 0]).double(), rows, bias, config
    )  # fmt: skip
    sae = mm.train(setting, by_hand, TrainConfig(1500)).sae[0, 0]
    assert metrics.decoder_cosines(sae, p)[0, 0] < -0.8
    found = mm.diagnose(sae, sampled(tree, p, 3000)[0])
    assert found.opposite.tolist() == [True] and not found.leans.any()
    assert found.movement[0] > 0.3 and found.agreement[0] > 0.95 and "as complements do" in found.words
    # Where it stands between the two, it turns by that share of what is predicted, of which half is asked.
    for share, opposite in ((0.4, False), (0.6, True)):
        between = replace(sae, W_dec=found.refitted + share * (sae.W_dec - found.refitted))
        there = mm.diagnose(between, sampled(tree, p, 3000)[0])
        assert there.opposite.tolist() == [opposite], share
    standard = mm.train(replace(setting, sae=mm.SAEConfig(D_IN, (3,))), by_hand, TrainConfig(1500)).sae[0, 0]
    assert not mm.diagnose(standard, sampled(tree, p, 3000)[0], widths=(1, 3)).opposite.any()


@pytest.fixture(scope="module")
def forest():
    """Three families and five loose features, all parents before all children."""

    def family(q):
        return mm.FeatureTree(0.15, tuple(mm.FeatureTree(q) for _ in range(2)), True)

    tree = mm.FeatureTree(
        1, (family(0.2), family(0.3), family(0.4), *(mm.FeatureTree(0.1) for _ in range(2))), is_read_out=False
    )
    parents = tree.parents()
    order = [i for i, p in enumerate(parents) if p is None] + [i for i, p in enumerate(parents) if p is not None]
    return tree, order


def test_a_forest(forest):
    """Parents lean, as far as they mix; loose features do not. And a standard SAE's latents do not lean."""
    tree, order = forest
    n, inner = tree.n_features, 5
    sae, directions = trained(tree, mm.SAEConfig(D_IN, (inner, n), activation="batchtopk", k=1.0), 1, order)
    x, _ = sampled(tree, directions, 6000)
    cosines = metrics.decoder_cosines(sae, directions)[:, order]
    mixed = (1 - cosines.diagonal()[:inner].square()).clamp_min(0).sqrt()
    found = mm.diagnose(sae, x)
    assert found.leans.tolist() == [True] * 3 + [False] * 2
    most = found.lean[:3].argsort(descending=True).tolist()
    assert list(found.partners) == most and all(1 <= len(some) <= 3 for some in found.partners.values())
    assert (
        "Of 5 inner latents 3 lean toward later latents that fire with them; by chance up to 0.25 would" in found.words
    )
    assert "; by chance up to 0.5 would" in mm.diagnose(sae, x, draws=9).words
    assert (found.movement[:3] - mixed[:3]).abs().max() < 0.05
    assert (found.predicted[:3] - found.lean[:3]).abs().max() < 0.05
    standard, directions = trained(tree, mm.SAEConfig(D_IN, (n,), l1=0.02), 1, order)
    found = mm.diagnose(standard, sampled(tree, directions, 6000)[0], widths=(inner, n))
    assert not found.leans.any() and found.median("movement") < 0.01


def false_alarms(widths, **changes):
    """Share of latents that lean, over SAEs of independent features with noise in the rows."""
    tree, leaning, judged, worst = mm.independent([0.1] * 8), 0, 0, 0.0
    for seed in range(8):
        sae, directions = trained(tree, mm.SAEConfig(D_IN, widths, **changes), seed)
        found = mm.diagnose(sae, sampled(tree, directions, 2000, 0.1, seed)[0], widths=(4, 8), seed=seed)
        leaning, judged = leaning + int(found.leans.sum()), judged + int(found.judged.sum())
        worst = max(worst, float(found.lean.max()))
    return leaning / judged, judged, worst


def test_false_alarms_on_independent_features():
    """By chance one in 20; a standard SAE leans nowhere, a Matryoshka SAE a little (features meet by chance)."""
    rate, judged, worst = false_alarms((8,), l1=0.02)
    assert judged >= 30 and rate <= 0.15 and worst < 0.05
    rate, judged, worst = false_alarms((4, 8), l1=0.02)
    assert judged >= 30 and worst < 0.08


def test_absorption_is_not_seen_without_labels():
    """A standard SAE that absorbs is at its optimum; labels show whose latent is silent, and who carries the parent."""
    tree = mm.family(0.3, 0.4)
    directions = mm.orthonormal_dictionary(3, D_IN, 0)
    sae = mm.SAE(  # parent alone, parent + child, parent + other child
        torch.stack([directions[0] - directions[1] - directions[2], directions[1], directions[2]], 1),
        torch.zeros(3, dtype=torch.float64),
        torch.stack([directions[0], directions[0] + directions[1], directions[0] + directions[2]]),
        torch.zeros(D_IN, dtype=torch.float64),
    )
    x, holds = sampled(tree, directions, 3000)
    assert (x - sae.decode(sae.encode(x))).abs().max() < 1e-9
    found = mm.diagnose(sae, x, widths=(1, 3), labels=holds.numpy(), hierarchy=[None, 0, 0], names=["parent", "a", "b"])
    assert float(found.movement[0]) < 0.01 and not found.leans.any()
    for edge, carrier in zip(found.edges, (1, 2), strict=True):
        assert (edge.parent, edge.latent, edge.carrier) == ("parent", 0, carrier)
        assert edge.recall_with == 0 and 0.3 < edge.gap < 1 and edge.partial == pytest.approx(1, abs=0.01)
    assert "in 2 the parent's latent fires less often" in found.words


def test_labels_of_a_matryoshka_sae():
    tree, sae, directions = toy()
    x, holds = sampled(tree, directions, 3000, 0.02)
    for edge in label_edges(sae, x, holds, [None, 0, 0]):
        assert edge.latent == 0 and edge.recall_with == edge.recall_without == 1 and edge.gap == 0
        assert edge.own > 0.85 and edge.cosine == pytest.approx(0.325, abs=0.02)  # the truth, by the labels alone
        assert edge.parent == "feature 0" and edge.rows == int((holds[:, int(edge.child[-1])]).sum())


def test_rows_of_another_kind_and_too_few_are_doubted():
    tree, sae, directions = toy()
    x = sampled(tree, directions, 3000, 0.02)[0]
    assert "unexplained. Are they" not in mm.diagnose(sae, x).words and "are few" not in mm.diagnose(sae, x).words
    noise = torch.randn(3000, D_IN, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for other in (x + noise[0], noise):
        words = mm.diagnose(sae, other).words
        assert words.startswith("The SAE leaves") and "the layer, the scale, the centring?" in words
    big = mm.random_start(mm.SAEConfig(D_IN, (8, 64)), [0])[0]
    assert "300 rows are few for 64 latents: by chance a lean reaches" in mm.diagnose(big, noise[:300]).words
    assert "are few" not in mm.diagnose(big, noise[:640]).words


def test_batches_and_sources_do_not_matter(tmp_path):
    tree, sae, directions = toy()
    x, _ = sampled(tree, directions, 1000, 0.1)
    one, many = mm.diagnose(sae, x), mm.diagnose(sae, x, batch=77)
    assert torch.allclose(one.lean, many.lean) and one.fvu == pytest.approx(many.fvu)
    np.save(tmp_path / "x.npy", x.numpy())
    assert torch.allclose(mm.diagnose(sae, files.activations(tmp_path / "x.npy")).lean, one.lean)


@settings(max_examples=25)
@given(ends=some.lists(some.integers(0, 300), max_size=5).map(sorted), batch=some.sampled_from([64, 77, 300, 4096]))
def test_rows_in_parts_are_one_array(ends, batch):
    """Wherever they are cut, empty parts and mixed kinds too: the same batches bit for bit, and the same finding."""
    tree, sae, directions = toy_once()
    x, holds = sampled(tree, directions, 300, 0.1)
    parts = [x[a:b] for a, b in zip([0, *ends], [*ends, 300], strict=True)]
    mixed = [part.numpy() if i % 2 else part for i, part in enumerate(parts)]
    options = {"labels": holds, "hierarchy": [None, 0, 0], "batch": batch, "draws": 2}
    one, cut = mm.diagnose(sae, x, **options), mm.diagnose(sae, mixed, **options)
    assert torch.allclose(one.lean, cut.lean) and torch.allclose(one.refitted, cut.refitted) and len(cut.edges) == 2
    for (first, a), (other, b) in zip(*(batches(in_one(r), batch, x.dtype) for r in (x, mixed)), strict=True):
        assert first == other and torch.equal(a, b)


def test_latents_that_fire_seldom_are_not_judged():
    tree, sae, directions = toy()
    dead = replace(sae, b_enc=sae.b_enc - torch.tensor([100.0, 0, 0], dtype=torch.float64))
    found = mm.diagnose(dead, sampled(tree, directions, 500)[0])
    assert not found.judged.any() and not found.leans.any() and "give more rows" in found.words
    json.dumps(found.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("change", "options", "match"),
    [
        ({"x": torch.zeros(100, 5)}, {}, r"shape \(100, 5\); for this SAE it must be \(rows, 12\)"),
        ({"x": torch.zeros(2, D_IN)}, {}, "2 rows are too few to refit 3 latents"),
        ({"x": torch.zeros(100, D_IN, dtype=torch.int64)}, {}, "activations are torch.int64"),
        ({"x": torch.ones(100, D_IN)}, {}, "all rows are equal"),
        ({"x": []}, {}, "empty list"),
        ({"x": [torch.ones(100, D_IN), torch.ones(9, 5)]}, {}, r"part 1 of the activations has shape \(9, 5\), and"),
        ({"x": [torch.ones(D_IN)] * 9}, {}, r"part 0 of the activations has shape \(12,\)"),
        ({"x": [torch.ones(60, D_IN), np.ones((60, D_IN), int)]}, {}, "activations are int64"),
        ({"nan": (17, 3)}, {}, "row 17, column 3 of the activations is not finite"),
        ({}, {"widths": (1, 2)}, "the last must be the SAE's 3 latents"),
        ({}, {"widths": (3,)}, "Give widths: its own"),
        ({}, {"ridge": 0}, "ridge is 0; it must be finite and above 0"),
        ({}, {"draws": 0}, "draws is 0; it must be at least 1"),
        ({}, {"seed": -1}, "seed is -1; it must be at least 0"),
        ({}, {"labels": np.ones((200, 1))}, "labels and hierarchy belong together"),
        ({}, {"labels": np.ones((9, 1)), "hierarchy": [None]}, r"labels have shape \(9, 1\)"),
        ({}, {"labels": np.full((200, 1), 2), "hierarchy": [None]}, "must be true or false"),
        ({}, {"labels": np.ones((200, 1)), "hierarchy": [None]}, "feature 0 is on 200 of 200 rows"),
        ({}, {"labels": np.eye(200)[:, :2], "hierarchy": [1, None]}, "parents must come before"),
        ({}, {"labels": np.eye(200)[:, :2], "hierarchy": [None, 0]}, "a child implies its parent"),
    ],
)
def test_bad_input_is_refused_in_words(change, options, match):
    _, sae, directions = toy_once()
    x = change.get("x", sampled(mm.family(0.3, 0.4), directions, 200)[0].clone())
    if "nan" in change:
        x[change["nan"]] = torch.nan
    with pytest.raises(ValueError, match=match):
        mm.diagnose(sae, x, **options)


_ONCE = []


def toy_once():
    if not _ONCE:
        _ONCE.append(toy())
    return _ONCE[0]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"labels": torch.zeros(3, 2), "hierarchy": [None, 0]}, "labels have shape"),
        ({"labels": torch.zeros(400, 2), "hierarchy": [None, 0]}, "is on 0 of 400 rows"),
        (
            {"labels": torch.eye(2).repeat(200, 1), "hierarchy": [None, None], "names": ["a"]},
            "1 names were given for 2",
        ),
    ],
)
def test_labels_are_looked_at_before_the_rows(options, match, monkeypatch):
    monkeypatch.setattr(sys.modules["matryoshka_mixing.diagnose"], "_collect", None)
    with pytest.raises(ValueError, match=match):
        mm.diagnose(toy()[1], torch.randn(400, D_IN), **options)


def test_where_nothing_can_lean_the_words_say_so():
    """No inner latent fires with a later one: later ones are dead, or TopK keeps one alone."""
    tree, sae, directions = toy()
    x, _ = sampled(tree, directions, 500)
    still = replace(sae, b_enc=torch.tensor([0.0, -9.0, -9.0], dtype=torch.float64))
    single = replace(sae, config=mm.SAEConfig(D_IN, (1, 3), activation="topk", k=1))
    for each in (still, single):
        found = mm.diagnose(each, x)
        assert "ever fires beside a later one, so none can lean" in found.words and not found.leans.any()
        assert json.dumps(found.to_dict())


def test_a_last_prefix_without_weight_is_refused():
    sae = toy()[1]
    for weights in ({"weights": (1.0, 0.0)}, {"weights": (1.0, 1.0), "decoder_weights": (1.0, 0.0)}):
        with pytest.raises(ValueError, match=r"the last of the prefixes .* has weight 0"):
            mm.diagnose(replace(sae, config=replace(sae.one_config, **weights)), torch.randn(400, D_IN))


@pytest.mark.parametrize("decoder", [None, (3.0, 1.0, 2.0)])
def test_prefixes_without_weight_are_left_out(decoder):
    tree, sae, directions = toy()
    x, _ = sampled(tree, directions, 500)
    heavy = replace(sae, config=mm.SAEConfig(D_IN, (1, 2, 3), (0, 1, 1), decoder_weights=decoder))
    light = replace(sae, config=mm.SAEConfig(D_IN, (2, 3), decoder_weights=decoder and decoder[1:]))
    found = mm.diagnose(heavy, x)
    assert found.widths == (2, 3) and found.lean[0] > 0.05
    for name in ("lean", "predicted", "bound"):
        assert torch.allclose(getattr(found, name), getattr(mm.diagnose(light, x), name), equal_nan=True)
    for weights in ((0, 1), (0, 0, 1)):
        config = mm.SAEConfig(D_IN, (1, 2, 3)[-len(weights) :], weights)
        with pytest.raises(ValueError, match=r"one alone has a weight above 0"):
            mm.diagnose(replace(sae, config=config), x)
        assert mm.diagnose(replace(sae, config=config), x, widths=config.widths).widths == config.widths


def test_activations_may_carry_a_graph():
    tree, sae, directions = toy()
    x, _ = sampled(tree, directions, 500)
    assert torch.equal(mm.diagnose(sae, x.clone().requires_grad_()).lean, mm.diagnose(sae, x).lean)


def test_many_saes_and_silence_are_refused():
    tree, sae, directions = toy_once()
    x, _ = sampled(tree, directions, 200)
    with pytest.raises(ValueError, match="diagnose one at a time"):
        mm.diagnose(mm.SAE.stack([sae, sae]), x)
    for l1 in (-1, math.inf):
        with pytest.raises(ValueError, match="l1"):
            mm.diagnose(sae, x, l1=l1)
    with pytest.raises(ValueError, match="no latent fires"):
        mm.diagnose(replace(sae, b_enc=sae.b_enc - 100), x)


# Files and the command


def test_files_of_every_kind(tmp_path):
    x = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", a=x, b=x + 1)
    save_file({"acts": torch.from_numpy(x)}, tmp_path / "x.safetensors")
    torch.save(torch.from_numpy(x).requires_grad_(), tmp_path / "x.pt")
    torch.save({"a": torch.from_numpy(x), "b": [1, 2]}, tmp_path / "named.pth")
    torch.save(torch.from_numpy(x), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    pandas.DataFrame(x, columns=list("abc")).to_parquet(tmp_path / "x.parquet")
    pandas.DataFrame({"row": list(x)}).to_parquet(tmp_path / "lists.parquet")
    for name, key in (
        ("x.npy", None),
        ("x.npz", "a"),
        ("x.safetensors", None),
        ("x.pt", None),
        ("named.pth", "a"),
        ("old.pt", None),
        ("x.parquet", None),
        ("lists.parquet", None),
    ):
        found = files.activations(tmp_path / name, key)
        assert found.shape == (4, 3) and len(found) == 4
        assert np.array_equal(np.asarray(found[1:3]), x[1:3]), name
    with pytest.raises(ValueError, match=r"it holds \['a', 'b'\]; say which"):
        files.activations(tmp_path / "x.npz")
    (tmp_path / "x.csv").write_text("1")
    with pytest.raises(ValueError, match="no file of a known kind"):
        files.activations(tmp_path / "x.csv")
    for key, says in ((None, r"it holds \['a', 'b'\]; say which"), ("b", r"it holds a list, no \(dense\) tensor")):
        with pytest.raises(ValueError, match=says):
            files.activations(tmp_path / "named.pth", key)
    torch.save(torch.eye(3).to_sparse(), tmp_path / "sparse.pt")
    with pytest.raises(ValueError, match="it holds a Tensor, no"):
        files.activations(tmp_path / "sparse.pt")
    (tmp_path / "code.pt").write_bytes(pickle.dumps(print))
    with pytest.raises(ValueError, match="It was not unpickled"):
        files.activations(tmp_path / "code.pt")
    for name in ("x.npy", "x.safetensors", "x.pt", "old.pt"):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:70])
        with pytest.raises(ValueError, match="cannot be read as activations"):
            files.activations(tmp_path / name)


@pytest.mark.parametrize("values", [np.array([{}]), np.array([1, None]), np.zeros(3, [("a", float), ("b", object)])])
def test_objects_are_called_objects(values, tmp_path):
    np.save(tmp_path / "o.npy", values, allow_pickle=True)
    (tmp_path / "h.json").write_text('{"0": null}')
    for read in (
        lambda path: files.activations(path),
        lambda path: files.labels(path, tmp_path / "h.json"),
        lambda path: files.activations([path, path]),
    ):
        with pytest.raises(ValueError, match=r"o\.npy holds Python objects, which are not unpickled") as caught:
            read(tmp_path / "o.npy")
        assert "damaged" not in str(caught.value)


SAVE = {
    ".npy": np.save,
    ".npz": lambda path, x: np.savez(path, x=x),
    ".safetensors": lambda path, x: save_file({"x": torch.from_numpy(x)}, path),
    ".pt": lambda path, x: torch.save(torch.from_numpy(x), path),
    ".parquet": lambda path, x: pandas.DataFrame(x, columns=list("abc")).to_parquet(path),
}


@pytest.mark.parametrize("ending", SAVE)
def test_shards_of_every_kind_in_numeric_order(ending, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    whole = np.arange(180.0).reshape(60, 3)
    order = ["x_0_9", "x_0_10", "x_2_0", *(f"x_10_{i}" for i in range(2, 4)), "x_10_11"]
    for name, part in zip(order, whole.reshape(6, 10, 3), strict=True):
        SAVE[ending](folder / f"{name}{ending}", part.copy())
    (folder / "notes.txt").touch()
    (folder / f"._x_0_9{ending}").touch()
    for given_paths in (folder, [folder / f"{name}{ending}" for name in order]):
        found = files.activations(given_paths)
        assert found.shape == (60, 3) and len(found) == 60
        assert np.array_equal(np.concatenate([np.asarray(found[i : i + 7]) for i in range(0, 60, 7)]), whole)
    np.save(folder / "odd.npy", whole[:, :2])
    match = r"odd\.npy has shape \(60, 2\), and the first" if ending == ".npy" else "of the kinds"
    with pytest.raises(ValueError, match=match):
        files.activations([folder / f"x_0_9{ending}", folder / "odd.npy"] if ending == ".npy" else folder)
    with pytest.raises(ValueError, match="no file and no folder"):
        files.activations(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"of the kinds \[\]"):
        files.activations(tmp_path / "empty")


def test_many_shards_are_not_held_open(tmp_path):
    for i in range(50):
        np.save(tmp_path / f"{i}.npy", np.full((3, 2), float(i)))
    found = files.activations(tmp_path)
    assert found[:].tolist() == [[float(i)] * 2 for i in range(50) for _ in range(3)]
    assert sum("shard" in str(link.resolve()) or ".npy" in str(link.resolve()) for link in open_files()) <= 2


def open_files():
    return [link for link in Path("/proc/self/fd").iterdir() if link.exists()]


def test_labels_and_hierarchies(tmp_path):
    frame = pandas.DataFrame({"dog": [1, 0], "animal": [1, 1], "other": [0, 1]})
    frame.to_csv(tmp_path / "l.csv", index=False)
    frame.to_parquet(tmp_path / "l.parquet")
    np.save(tmp_path / "l.npy", frame.to_numpy())
    (tmp_path / "h.json").write_text('{"dog": "animal", "animal": null}')
    for name in ("l.csv", "l.parquet"):
        table, parents, names = files.labels(tmp_path / name, tmp_path / "h.json")
        assert (table.tolist(), parents, names) == ([[1, 1], [1, 0]], [None, 0], ["animal", "dog"])
    (tmp_path / "n.json").write_text('{"0": "1"}')
    assert files.labels(tmp_path / "l.npy", tmp_path / "n.json")[1:] == ([None, 0], ["1", "0"])
    for text, match in (
        ('{"cat": null}', r"names \['cat'\], which are no columns"),
        ('{"dog": "animal", "animal": "dog"}', "own ancestor"),
        ("[1]", "must hold an object"), ("{", "not valid JSON"),
    ):  # fmt: skip
        (tmp_path / "h.json").write_text(text)
        with pytest.raises(ValueError, match=match):
            files.labels(tmp_path / "l.csv", tmp_path / "h.json")
    with pytest.raises(ValueError, match="labels come as"):
        files.labels(tmp_path / "l.txt", tmp_path / "h.json")


def test_the_command_from_saelens_to_a_page(tmp_path, capsys):
    tree, sae, directions = toy_once()
    x, holds = sampled(tree, directions, 2000, 0.05)
    exchange.write_saelens(sae, tmp_path / "<sae>")
    np.save(tmp_path / "x.npy", x.numpy())
    pandas.DataFrame(holds.numpy(), columns=["p", "a", "b"]).to_parquet(tmp_path / "l.parquet")
    (tmp_path / "h.json").write_text('{"p": null, "a": "p", "b": "p"}')
    arguments = [str(tmp_path / "<sae>"), str(tmp_path / "x.npy"), "--output", str(tmp_path / "out"), "--quiet"]
    more = ["--labels", str(tmp_path / "l.parquet"), "--hierarchy", str(tmp_path / "h.json")]
    assert command.main([*arguments, *more]) == 0
    assert "Of 1 inner latents 1 lean" in capsys.readouterr().out
    data = json.loads((tmp_path / "out/diagnosis.json").read_text())
    assert data["widths"] == [1, 3] and data["leans"] == [True] and len(data["edges"]) == 2
    text = (tmp_path / "out/diagnosis.html").read_text()
    assert "&lt;sae&gt;" in text and "<svg role" in text and "http-equiv" not in text and "src=" not in text
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["diagnosis.html", "diagnosis.json"]
    assert command.main([*arguments, "--labels", "x.npy"]) == 2
    assert command.main([str(tmp_path), str(tmp_path / "x.npy")]) == 2
    assert "error: " in capsys.readouterr().err


def ran(capsys, *arguments):
    code = command.main([*map(str, arguments), "--quiet"])
    said = capsys.readouterr()
    return code, said.err or said.out


def test_the_command_takes_weights_alone_and_shards(tmp_path, capsys):
    """Each by all that its kind needs: TopK by activation and k, prefixes by widths, rows by files or their folder."""
    tree, sae, directions = toy_once()
    x, _ = sampled(tree, directions, 2000, 0.05)
    (tmp_path / "x").mkdir()
    for i in range(12):
        np.save(tmp_path / f"x/{i}.npy", x[i::12].numpy())
    rows = [tmp_path / f"x/{i}.npy" for i in range(12)]
    where = ("--output", tmp_path / "out", "--widths", 1, 3)
    for ending, save in ((".pth", torch.save), (".safetensors", save_file)):
        path = tmp_path / f"own{ending}"
        save(sae.parameters, path)
        texts = {ran(capsys, path, *given_rows, *where)[1] for given_rows in (rows, [tmp_path / "x"])}
        assert len(texts) == 1 and "Of 1 inner latents 1 lean" in texts.pop()
    unit = sae.parameters | {"W_dec": torch.nn.functional.normalize(sae.W_dec, dim=-1)}
    torch.save(unit, tmp_path / "top.pt")
    torch.save(unit | {"k": torch.tensor(2)}, tmp_path / "with_k.pt")
    assert "give activation='topk'" in ran(capsys, tmp_path / "with_k.pt", *rows, *where)[1]
    texts = [
        ran(capsys, tmp_path / name, *rows, *where, "--activation", "topk", *more)
        for name, more in (("with_k.pt", ()), ("top.pt", ("--k", 2)))
    ]
    assert texts[0] == texts[1] and texts[0][0] == 0


def test_widths_of_the_command_take_the_place_of_those_of_the_file(tmp_path, capsys):
    tree, sae, directions = toy_once()
    exchange.write_saelens(sae, tmp_path / "sae", {"matryoshka_widths": [1]})
    np.save(tmp_path / "x.npy", sampled(tree, directions, 500)[0].numpy())
    given_paths = (tmp_path / "sae", tmp_path / "x.npy", "--output", tmp_path)
    code, said = ran(capsys, *given_paths)
    assert code == 2 and "widths are (1,); the last must be the SAE's 3 latents" in said
    assert ran(capsys, *given_paths, "--widths", 1, 3)[0] == 0


def test_the_command_by_its_name():
    found = subprocess.run(
        [sys.executable, "-W", "error", "-m", "matryoshka_mixing.diagnose", "--help"], capture_output=True, text=True
    )
    assert found.returncode == 0 and "ACTIVATIONS" in found.stdout.upper() and not found.stderr


def test_the_figure_shows_the_numbers():
    tree, sae, directions = toy_once()
    found = mm.diagnose(sae, sampled(tree, directions, 1000, 0.05)[0])
    figure = page.draw(found)
    points = figure.axes[1].collections[1].get_offsets()
    assert points.tolist() == [[float(found.predicted[0]), float(found.lean[0])]]
    none = replace(found, leans=found.leans & False, partners={})
    assert "None leans by more than chance" in page.html(none, "x")
    told = page.html(found, "x")
    assert "0.05 would lean by chance" in told and f"from {found.fvu:.3f} to {found.fvu_refitted:.3f}.</li>" in told
    assert told.count("(fire together") == len(found.partners[0])
    one, many = found.partners[0][:1], page.NAMED + 3
    arrays = {name: value.expand(many) for name, value in vars(found).items() if getattr(value, "ndim", 0) == 1}
    crowd = replace(found, partners=dict.fromkeys(range(many), one), **arrays)
    assert page.html(crowd, "x").count("(fire together") == page.NAMED and len(crowd.to_dict()["partners"]) == many
