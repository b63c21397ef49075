import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from matryoshka_mixing import claims, exchange, metrics, theory
from matryoshka_mixing.chapters import real_activations as chapter
from matryoshka_mixing.chapters.real_activations import __main__ as command
from matryoshka_mixing.chapters.real_activations import data, experiments, summary, toys
from matryoshka_mixing.chapters.what_cures_it import losses
from matryoshka_mixing.sae import TRAINED, SAEConfig, random_start
from matryoshka_mixing.training import TrainConfig, descend

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def stored():
    return chapter.results(chapter.Parameters())


@pytest.fixture(scope="module")
def sizes():
    return chapter.mapped(chapter.Parameters())


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
    """Value and gradients, against `SAE.loss` on the same batch; detached deltas as chapter 11 writes them."""
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
    value, found = gradients(data.objective(x, config, size, 5, detached=kind == data.DELTAS))
    oracle = losses.deltas(config, lambda: (batch, probs))
    if kind != data.DELTAS:
        oracle = lambda some: (some.loss(batch, probs), some.loss(batch, probs, config.for_decoder))  # noqa: E731
    other, wanted = gradients(oracle)
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
        ratios = theory.unequal_ratios(0.76 * (len(data.WIDTHS) - parent), pulls)
        assert torch.allclose(row, ratios / (1 + ratios.square().sum()).sqrt(), atol=1e-9)
    assert found[3].abs().max() < 1e-9 and 0 < found[1, 0] < found[0, 0]
    alone = experiments.predicted_cosines(places[:1], detached=True)[0]  # the parent's own prefix, and no other
    ratios = theory.unequal_ratios(0.76, torch.tensor([0.08, 0.16], dtype=torch.float64))
    assert torch.allclose(alone, ratios / (1 + ratios.square().sum()).sqrt(), atol=1e-9) and (alone > found[0]).all()
    point = data.Point(children=(0.08, 0.4), widths=(1, 2, 3, 4))
    ratios = theory.unequal_ratios(4 * 0.52, torch.tensor([0.16, 0.8], dtype=torch.float64))
    wide = experiments.predicted_cosines(places[:1], point)[0]
    assert torch.allclose(wide, ratios / (1 + ratios.square().sum()).sqrt(), atol=1e-9)


def test_reading_an_sae_that_is_right():
    """Latents that are the features: own cosine 1, no lean, full recall."""
    planted = data.plant(data.rows()[:4000], 1)
    spare = random_start(SAEConfig(data.D_IN, (1000,)), [0], 1.0)[0]
    rows = torch.cat([planted.dictionary, 1e-3 * spare.W_dec])
    sae = random_start(data.config("Matryoshka"), [0])[0]
    sae = type(sae)(
        rows.T.clone(), torch.full((1024,), -1.5, dtype=torch.float64), rows, sae.b_dec, sae.config,
        torch.tensor(0.0, dtype=torch.float64),
    )  # fmt: skip
    only = data.Planted(planted.acts @ planted.dictionary, planted.acts, planted.dictionary, planted.tree)
    found = experiments.read_families(sae, only)
    assert found.own.min() > 0.999 and found.child.min() > 0.999 and found.cosines.abs().max() < 1e-3
    assert found.elsewhere.abs().max() < 1e-3
    assert found.recall_with.min() > 0.95 and found.recall_without.min() > 0.95
    assert found.places.tolist() == [[0, 0, 0]] * 8 and (found.fvu < 1).all()


def test_stored_results_are_whole_and_small(stored, sizes):
    n = len(experiments.SEEDS)
    assert stored.found["seeds"].tolist() == list(experiments.SEEDS)
    assert experiments.STORED.stat().st_size < 2e6
    for kind in data.KINDS:
        assert stored.of("planted", kind, "families.cosines").shape == (n, 8, 2)
        assert stored.of("bare", kind, "lean").shape == (n, 512)
    measures = {
        "mixing-in-real-activations": chapter.mixing_measures(stored, sizes),
        "absorption-in-real-activations": chapter.absorption_measures(stored),
        "diagnosis-in-real-activations": chapter.diagnosis_measures(stored),
    }
    gap = measures["mixing-in-real-activations"]["theory_gap_elsewhere"]
    gaps = sorted(float(np.median(sizes.theory_gap(point))) for point in experiments.POINTS)
    assert gap == pytest.approx((gaps[2] + gaps[3]) / 2)
    for claim, found in measures.items():
        for name, values in found.items():
            assert np.shape(values) in ((n,), ()) and np.isfinite(values).all(), name
        claims.judge(claims.load()[claim], found, started=n)


def test_a_part_of_what_is_stored_comes_again(sizes):
    """A small Matryoshka SAE of one seed, trained as then; another CPU rounds otherwise, and chaos does the rest."""
    seed, name = experiments.SEEDS[0], "512 latents"
    point = experiments.POINTS[name]
    planted = data.plant(data.rows(), seed, point)
    torch.set_num_threads(1)
    sae = data.fit("Matryoshka", planted.rows, seed, None, experiments.MAP_STEPS, point)
    found = experiments.read_families(sae, planted)
    before = {n: sizes.of(name, "Matryoshka", n)[0] for n in ("cosines", "fvu", "own")}
    assert np.allclose(found.fvu.numpy()[-1:], before["fvu"], atol=0.01)
    assert np.allclose(found.cosines.numpy().mean(0), before["cosines"].mean(0), atol=0.02)
    assert np.allclose(found.own.numpy().mean(), before["own"].mean(), atol=0.03)


def test_training_again_gives_results_of_the_same_form(stored, monkeypatch):
    few = data.rows()[:1100]
    monkeypatch.setattr(experiments, "rows", lambda: few)
    again = experiments.compute((3,), steps=3, progress=False)
    assert again.keys() == stored.found.keys()
    assert all(value.shape[1:] == stored.found[key].shape[1:] for key, value in again.items())


def test_a_call_that_was_stopped_goes_on_and_ends_with_the_same_bits(tmp_path, monkeypatch):
    """What is trained stands in for it: each run draws its numbers from its seed, and is counted."""
    begun = []

    def run(seed, planted, *_):
        begun.append((seed, planted))
        if begun[-1:] == fatal:
            raise KeyboardInterrupt
        return {"x": np.random.default_rng([seed, planted]).normal(size=(3, 2)), "n": np.array([seed])}

    monkeypatch.setattr(experiments, "run", run)
    fatal, folders = [], [tmp_path / name for name in ("whole", "stopped")]
    for folder in folders:
        folder.mkdir()
    whole = experiments.compute((0, 1), progress=False, folder=folders[0])
    begun, fatal = [], [(1, True)]
    with pytest.raises(KeyboardInterrupt):
        experiments.compute((0, 1), progress=False, folder=folders[1])
    begun, fatal = [], []
    again = experiments.compute((0, 1), progress=False, folder=folders[1])
    assert begun == [(1, True), (1, False)], "what was done is not done again"
    assert again.keys() == whole.keys() and all(again[key].tobytes() == whole[key].tobytes() for key in whole)


def test_a_map_of_the_same_form(sizes, monkeypatch, tmp_path):
    """At one point; a second call reads what the first has left."""
    few, name = data.rows()[:1100], "K = 16, magnitude 6"
    monkeypatch.setattr(experiments, "rows", lambda: few)
    monkeypatch.setattr(experiments, "POINTS", {name: experiments.POINTS[name]})
    again = experiments.compute_map((3,), steps=3, progress=False, folder=tmp_path)
    assert again.keys() < sizes.found.keys()
    assert all(value.shape[1:] == sizes.found[key].shape[1:] for key, value in again.items())
    monkeypatch.setattr(experiments, "run_point", None)
    second = experiments.compute_map((3,), steps=3, progress=False, folder=tmp_path)
    assert all(np.array_equal(value, again[key], equal_nan=True) for key, value in second.items())


def test_the_command_adds_to_what_is_stored(stored, tmp_path, monkeypatch, capsys):
    """One kind alone is computed; the others stay as they are."""
    path, asked = tmp_path / "r.npz", []
    old = {key: value for key, value in stored.found.items() if data.DELTAS not in key}
    experiments.store(old, path)

    def compute(seeds, steps, folder, kinds):
        asked.append((seeds, kinds))
        return {key: value for key, value in stored.found.items() if data.DELTAS in key or key == "seeds"}

    monkeypatch.setattr(command, "compute", compute)
    monkeypatch.setattr(sys, "argv", ["x", "--only", data.DELTAS, "--output", str(path)])
    command.main()
    back = experiments.stored(path)
    assert back.keys() == stored.found.keys() and asked == [(experiments.SEEDS, (data.DELTAS,))]
    assert all(np.array_equal(value, stored.found[key], equal_nan=True) for key, value in back.items())
    assert [one.name for one in tmp_path.iterdir()] == ["r.npz"]
    for wrong, said in ((["--seeds", "7"], "adds to these alone"), (["map"], "not the map")):
        monkeypatch.setattr(sys, "argv", ["x", *wrong, "--only", data.DELTAS, "--output", str(path)])
        with pytest.raises(SystemExit):
            command.main()
        assert said in capsys.readouterr().err


def test_the_map_is_whole(sizes):
    assert sizes.found["seeds"].tolist() == list(experiments.MAP_SEEDS) and experiments.MAP.stat().st_size < 1e6
    for kind in experiments.MAPPED:
        for point in experiments.POINTS:
            assert sizes.of(point, kind, "cosines").shape == (3, 8, 2)
            assert ((sizes.with_latent(point, kind) >= 0) & (sizes.with_latent(point, kind) <= 1)).all()


def test_the_map_by_hand(monkeypatch):
    """One seed, two families: the second one's latent is no inner one; one commoner child has no latent of its own."""
    monkeypatch.setattr(summary, "POINTS", {"a": None})
    found = {
        "cosines": [[[0.3, 0.4], [0.9, 0.9]]], "child": [[[0.1, 0.9], [0.1, 0.5]]], "lean": [[0.45, np.nan]],
        "leans": [[True, False]], "judged": [[True, False]], "recall_with": [[[0.5, 1], [1, 1]]],
        "recall_without": [[[1, 1], [1, np.nan]]],
    }  # fmt: skip
    sizes = summary.Map({f"a.standard.{key}": np.array(value) for key, value in found.items()})
    assert sizes.cosines("a", "standard") == pytest.approx([0.65]) and sizes.with_latent("a", "standard") == [0.5]
    assert sizes.absorbing("a", "standard") == pytest.approx([1 / 3])
    assert [x.tolist() for x in sizes.diagnosed("standard")] == [pytest.approx([0.5]), [0.45], [True]]


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


def test_the_table_by_prefix_by_hand(monkeypatch):
    """Three seeds; the second latent of the second prefix is not judged, so its numbers do not count."""
    monkeypatch.setattr(summary, "WIDTHS", (1, 3, 4))
    names = ("lean", "predicted", "leans", "along", "permuted", "chance")
    found = {f"bare.Matryoshka.{name}": np.array([[0.1, 0.2, 9.0], [0.3, 0.4, 9.0], [0.9, 0.6, 9.0]]) for name in names}
    found["bare.Matryoshka.judged"] = np.array([[True, True, False]] * 3)
    lines = chapter.shells_table(summary.Results(found | {"seeds": np.arange(3)})).splitlines()
    assert lines[2:] == [
        "| 1 to 1 | 0.300 | 0.300 | 0.30 | 0.30 | 0.30 | 0.30 |",
        "| 2 to 3 | 0.400 | 0.400 | 0.40 | 0.40 | 0.40 | 0.40 |",
    ]


def test_figures_show_the_numbers(stored):
    axes = chapter.draw_cosines(stored).axes
    offsets = axes[1].collections[1].get_offsets()[:, 0]
    assert np.allclose(offsets, stored.cosines("Matryoshka")[:, 1])
    assert len(chapter.draw_recalls(stored).axes[0].collections) == 4
    line = chapter.draw_prices(stored).axes[0].lines[2]
    assert np.allclose(line.get_ydata(), np.median(stored.of("bare", "remedy", "fvu"), 0))
    marks = axes[1].collections[-1].get_offsets()[:, 0]
    assert np.allclose(marks, stored.predicted(data.DELTAS)[:, 1])
    cloud = chapter.draw_diagnosis(stored).axes[1].collections[0].get_offsets()
    assert len(cloud) == int(stored.of("bare", "Matryoshka", "judged")[0].sum())


def test_the_map_shows_its_numbers(sizes):
    axes = chapter.draw_map(sizes).axes
    for axis, measure in zip(axes, (sizes.cosines, sizes.absorbing, sizes.with_latent), strict=True):
        assert np.allclose(axis.collections[0].get_offsets()[:, 0], measure("as above", "standard"))


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
        run.history[-1] < run.history[0] and metrics.live(run.sae.with_config(SAEConfig(128, (1024,))).encode(x)).any()
    )


def test_toys_of_the_book(monkeypatch):
    """Without noise the movement is the turn, but for a latent that dies; without a hierarchy next to nothing leans."""
    monkeypatch.setattr(toys, "NOISE", 0.0)
    some = {name: toys.TOYS[name] for name in ("three features", "a loud child", toys.INDEPENDENT)}
    found = chapter.check_toys(chapter.Parameters(n_steps=1500), some)
    family = found["three features"]["Matryoshka"]
    assert len(family.mixing) == 3 and family.mixing.min() > 0.3 and family.gap < 0.02 and family.leans.all()
    assert not found["three features"]["standard"].leans.any() and found["a loud child"]["Matryoshka"].gap > 0.1
    for one in found[toys.INDEPENDENT].values():
        assert len(one.leans) == 12 and one.leans.mean() < 0.2
    lines = chapter.toys_table(found).splitlines()
    assert lines[2].startswith("| three features | 3 | 0.") and lines[2].endswith("| 3 | 0 of 3 |") and len(lines) == 5


def test_saes_of_others(tmp_path):
    others = chapter.trained_elsewhere()
    assert list(others.found) == ["BatchTopK", "Matryoshka BatchTopK"] and len(others.about["seeds"]) == 5
    for kind, one in others.found.items():
        assert one["lean"].shape == (5, 512) and ((others.leaning(kind) >= 0) & (others.leaning(kind) <= 1)).all()
    assert chapter.others_table(others).count("\n") == 3


def test_saes_of_others_by_hand(tmp_path):
    """Of three judged latents two lean by more than chance, and one of these by too little to be told."""
    one = {
        "judged": [[1, 1, 1, 0]], "lean": [[0.3, 0.005, 0.1, 9]], "bound": [[0.1, 0.001, 0.2, 0]],
        "predicted": [[0.2, 0.1, 0.6, 9]],
    }  # fmt: skip
    about = {"seeds": [4], "latents": 8, "k": 2, "steps": 10, "sae_lens": "6"}
    arrays = about | {f"X.{key}": value for key, value in one.items()}
    np.savez(tmp_path / "s.npz", **{key: np.array(value) for key, value in arrays.items()})
    found = summary.trained_elsewhere(tmp_path / "s.npz")
    assert found.about == about and found.leaning("X") == pytest.approx([1 / 3])
    assert found.median("X", "predicted") == pytest.approx([0.2])
    line = "| X | 1 | 3 (3 to 3) | 0.33 (0.33 to 0.33) | 0.100 (0.100 to 0.100) | 0.200 (0.200 to 0.200) |"
    assert chapter.others_table(found).splitlines()[2] == line


def test_step_costs_are_ratios_within_a_round(tmp_path):
    seconds = {"plain loop": [0.5, 1.0], "compiled trainer": [1.0, 1.0]}
    (tmp_path / "told.json").write_text(json.dumps({"seconds_a_step": seconds}))
    found = summary.step_costs(tmp_path / "told.json")
    assert list(found) == ["compiled trainer"] and found["compiled trainer"].tolist() == [2.0, 1.0]
    assert chapter.spread(found["compiled trainer"]) == "1.5 (1.0 to 2.0)"
    assert {"compiled trainer", "SAELens, Matryoshka BatchTopK"} <= chapter.step_costs().keys()


def test_a_part_of_saelens_comes_again():
    """SAELens itself trains shortly again, in the benchmark's environment; and a shorter training differs."""
    python = ROOT / ".venv-benchmark/bin/python"
    if not python.is_file():
        pytest.skip("SAELens is in the benchmark's environment: make .venv-benchmark/installed")
    check = [str(python), str(ROOT / "benchmarks/gloss_saelens.py"), "check"]
    found = subprocess.run(check, env={"PYTHONPATH": str(ROOT / "src")}, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
