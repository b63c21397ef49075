import json
import math

import numpy as np
import pytest
import torch

from matryoshka_mixing import claims, exchange, metrics, theory
from matryoshka_mixing.chapters import real_activations as chapter
from matryoshka_mixing.chapters.real_activations import data, experiments, summary
from matryoshka_mixing.sae import TRAINED, SAEConfig, random_start
from matryoshka_mixing.training import TrainConfig, descend


@pytest.fixture(scope="module")
def stored():
    return chapter.results(chapter.Parameters())


def test_the_rows_are_as_told():
    x = data.rows()
    assert x.shape == (24_000, data.D_IN) and x.mean(0).abs().max() < 1e-4
    assert float(x.square().sum(-1).mean()) == pytest.approx(data.POWER, rel=1e-5)
    with np.load(data.HERE / "glosses.npz") as file:
        assert 0.77 < float(file["share"]) < 0.78 and len(set(file["synsets"].tolist())) == 24_000
    notice = (data.HERE / "NOTICE").read_text()
    assert "Princeton University" in notice and "Apache License" in notice


def test_what_is_planted():
    """Rates within five binomial deviations, magnitudes as told, children exclusive and only beside their parent."""
    x = data.rows()
    planted = data.plant(x, 3)
    acts, n = planted.acts, len(x)
    assert torch.allclose((planted.rows - x).double(), acts @ planted.dictionary, atol=1e-4)
    assert torch.allclose(planted.dictionary @ planted.dictionary.T, torch.eye(24, dtype=torch.float64), atol=1e-9)
    for f in range(24):
        p = data.PARENT * (1, *data.CHILDREN)[f % 3]
        assert abs(float((acts[:, f] > 0).double().mean()) - p) < 5 * math.sqrt(p * (1 - p) / n)
    on = acts.unflatten(-1, (8, 3))
    assert not ((on[..., 1] > 0) & (on[..., 2] > 0)).any() and not ((on[..., 1:] > 0).any(-1) & (on[..., 0] == 0)).any()
    sizes = acts[acts > 0]
    assert float(sizes.mean()) == pytest.approx(4, abs=0.05) and float(sizes.std()) == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("kind", data.KINDS)
def test_the_loss_is_that_of_the_sae(kind):
    """Value and gradients, against `SAE.loss` on the same batch."""
    x, config = data.rows()[:500].double(), data.config(kind)
    sae, size = random_start(config, [1], 1.0)[0], 64

    def gradients(loss):
        leaves = {name: p.clone().requires_grad_() for name, p in sae.parameters.items()}
        given = loss(type(sae)(**leaves, config=config))
        given = given if isinstance(given, tuple) else (given, given)
        parts = [torch.autograd.grad(g, [leaves[n] for n in names], retain_graph=True) for g, names in zip(
            given, (TRAINED[:2], TRAINED[2:]), strict=True)]  # fmt: skip
        return given[0].detach(), [*parts[0], *parts[1]]

    batch = x[torch.randint(len(x), (size,), generator=torch.Generator().manual_seed(5))]
    probs = torch.full((size,), 1 / size, dtype=torch.float64)
    value, found = gradients(data.objective(x, config, size, 5))
    other, wanted = gradients(lambda some: (some.loss(batch, probs), some.loss(batch, probs, config.for_decoder)))
    assert torch.allclose(value, other)
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-9)


def test_the_threshold_keeps_k_on_average():
    x = data.rows()[:3000]
    sae = data.with_threshold(random_start(data.config("Matryoshka"), [0], 1.0)[0].map(torch.Tensor.float), x)
    assert float((sae.encode(x) > 0).sum(-1).float().mean()) == pytest.approx(data.K, abs=0.01)


def test_the_equation(monkeypatch):
    """By theory's other form, with magnitudes that do not vary; a child beside its parent pulls nothing."""
    monkeypatch.setattr(experiments, "SPREAD", 0.0)
    places = torch.tensor([[0, 2, 2], [0, 1, 2], [1, 1, 2], [0, 0, 0]])
    found = experiments.predicted_cosines(places)
    for row, (parent, a, b) in zip(found, places.tolist(), strict=True):
        pulls = torch.tensor([0.08 * (a - parent), 0.16 * (b - parent)], dtype=torch.float64)
        ratios = theory.unequal_ratios(0.76 * (3 - parent), pulls)
        assert torch.allclose(row, ratios / (1 + ratios.square().sum()).sqrt(), atol=1e-9)
    assert found[3].abs().max() < 1e-9 and 0 < found[1, 0] < found[0, 0]


def test_reading_an_sae_that_is_right():
    """Latents that are the features: own cosine 1, no lean, full recall."""
    planted = data.plant(data.rows()[:4000], 1)
    spare = random_start(SAEConfig(data.D_IN, (488,)), [0], 1.0)[0]
    rows = torch.cat([planted.dictionary, 1e-3 * spare.W_dec])
    sae = random_start(data.config("Matryoshka"), [0])[0]
    sae = type(sae)(
        rows.T.clone(), torch.full((512,), -1.5, dtype=torch.float64), rows, sae.b_dec, sae.config,
        torch.tensor(0.0, dtype=torch.float64),
    )  # fmt: skip
    only = data.Planted(planted.acts @ planted.dictionary, planted.acts, planted.dictionary, planted.tree)
    found = experiments.read_families(sae, only)
    assert found.own.min() > 0.999 and found.child.min() > 0.999 and found.cosines.abs().max() < 1e-3
    assert found.recall_with.min() > 0.95 and found.recall_without.min() > 0.95
    assert found.places.tolist() == [[0, 0, 0]] * 8 and (found.fvu < 1).all()


def test_stored_results_are_whole_and_small(stored):
    assert stored.found["seeds"].tolist() == list(experiments.SEEDS)
    assert experiments.STORED.stat().st_size < 2e6
    for kind in data.KINDS:
        assert stored.of("planted", kind, "families.cosines").shape == (5, 8, 2)
        assert stored.of("bare", kind, "lean").shape == (5, 128)
    for measure in (chapter.mixing_measures, chapter.absorption_measures, chapter.diagnosis_measures):
        for name, values in measure(stored).items():
            assert values.shape == (5,) and np.isfinite(values).all(), name
    ledger = claims.load()
    for key, measure in (
        ("mixing-in-real-activations", chapter.mixing_measures),
        ("absorption-in-real-activations", chapter.absorption_measures),
        ("diagnosis-in-real-activations", chapter.diagnosis_measures),
    ):
        claims.judge(ledger[key], measure(stored), started=5)


def test_a_part_of_the_stored_results_comes_again(stored):
    """One Matryoshka SAE of one seed, trained as then; another CPU may round otherwise, and chaos does the rest."""
    seed = experiments.SEEDS[0]
    planted = data.plant(data.rows(), seed)
    torch.set_num_threads(1)
    found = experiments.read_families(data.fit("Matryoshka", planted.rows, seed), planted)
    before = {n: stored.of("planted", "Matryoshka", f"families.{n}")[0] for n in ("cosines", "fvu", "own")}
    assert np.allclose(found.fvu.numpy(), before["fvu"], atol=0.01)
    assert np.allclose(found.cosines.numpy().mean(0), before["cosines"].mean(0), atol=0.02)
    assert np.allclose(found.own.numpy().mean(), before["own"].mean(), atol=0.03)


def test_training_again_gives_results_of_the_same_form(stored, monkeypatch):
    few = data.rows()[:1500]
    monkeypatch.setattr(experiments, "rows", lambda: few)
    again = experiments.compute((3,), steps=3, progress=False)
    assert again.keys() == stored.found.keys()
    assert all(value.shape[1:] == stored.found[key].shape[1:] for key, value in again.items())


def test_store_and_read(stored, tmp_path):
    experiments.store(stored.found | {"x": np.array([0.1])}, tmp_path / "r.npz")
    back = experiments.stored(tmp_path / "r.npz")
    assert back["seeds"].tolist() == stored.found["seeds"].tolist() and back["x"].dtype == np.float32
    assert [path.name for path in tmp_path.iterdir()] == ["r.npz"]
    experiments.store({"seeds": np.arange(2)}, tmp_path / "r.npz")
    with pytest.raises(ValueError, match=r"r\.npz lacks the arrays"):
        experiments.stored(tmp_path / "r.npz")


def test_absorbing_by_hand():
    """Of two seeds, the first has one drop above 0.1 in two pairs; the second has a pair that cannot be judged."""
    beside, without = [[[0.5, 1]], [[np.nan, 0.95]]], [[[1, 1]], [[np.nan, 1]]]
    recalls = {"with": np.array(beside), "without": np.array(without)}
    found = {f"planted.standard.families.recall_{name}": values for name, values in recalls.items()}
    assert summary.Results(found | {"seeds": np.arange(2)}).absorbing("standard").tolist() == [0.5, 0.0]


def test_figures_show_the_numbers(stored):
    axes = chapter.draw_cosines(stored).axes
    offsets = axes[1].collections[1].get_offsets()[:, 0]
    assert np.allclose(offsets, stored.cosines("Matryoshka")[:, 1])
    assert len(chapter.draw_recalls(stored).axes[0].collections) == 3
    line = chapter.draw_prices(stored).axes[0].lines[2]
    assert np.allclose(line.get_ydata(), np.median(stored.of("bare", "remedy", "fvu"), 0))
    cloud = chapter.draw_diagnosis(stored).axes[1].collections[0].get_offsets()
    assert len(cloud) == int(stored.of("bare", "Matryoshka", "judged").sum())


def test_toys():
    """The movement is the mixing, without the truth; a standard SAE does not turn."""
    toys = chapter.diagnose_toys(chapter.Parameters(n_grid=3, n_steps=1500))
    assert toys.gap("Matryoshka") < 0.01 and toys.movement["Matryoshka"][-1] > 0.4
    assert np.abs(toys.movement["standard"]).max() < 0.05
    axis = chapter.draw_toys(toys).axes[0]
    assert np.allclose(axis.lines[0].get_ydata(), toys.mixing["Matryoshka"])


def test_it_goes_to_saelens_and_back(tmp_path):
    """The chapter's kind of SAE, through the files that others read."""
    x = data.rows()[:300]
    sae = data.with_threshold(random_start(data.config("Matryoshka"), [2], 1.0)[0].map(torch.Tensor.float), x)
    exchange.write_saelens(sae, tmp_path)
    back = exchange.read(tmp_path)
    assert torch.allclose(back.encode(x), sae.encode(x), atol=1e-5) and back.config.widths == data.WIDTHS


def test_descend_takes_the_objective():
    x, config = data.rows()[:500], data.config("remedy")
    start = random_start(config, [0], 1.0)[0].map(torch.Tensor.float)
    run = descend(data.objective(x, config, 64, 0), start, TrainConfig(30, 2e-3))
    assert (
        run.history[-1] < run.history[0] and metrics.live(run.sae.with_config(SAEConfig(128, (512,))).encode(x)).any()
    )


def test_saes_of_others_are_told_as_stored(tmp_path):
    others, _ = chapter.trained_elsewhere()
    assert list(others) == ["BatchTopK", "Matryoshka BatchTopK"]
    assert all(0 <= found.leaning <= found.judged <= 512 for found in others.values()), "of the inner latents"
    each = {"judged": 4, "leaning": 1, "lean": 0.5, "predicted": 0.25}
    seconds = {"plain loop": 0.5, "compiled trainer": 1.0, "SAELens, one": 0.75}
    (tmp_path / "told.json").write_text(json.dumps({"diagnosis": {"one": each}, "seconds_a_step": seconds}))
    found, cost = summary.trained_elsewhere(tmp_path / "told.json")
    assert found["one"] == summary.Elsewhere(4, 1, 0.5, 0.25, 1.5) and cost == 2.0
