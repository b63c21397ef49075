"""SAEs of other libraries. `benchmarks/exchange.py` holds the same against SAELens itself, in its own environment."""

import json
import pickle
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from matryoshka_mixing import SAE, FeatureTree, SAEConfig, Setting, exchange, family, random_start, train
from matryoshka_mixing.training import TrainConfig, descend

D, N = 5, 7
CONFIGS = {
    "relu": SAEConfig(D, (N,)),
    "topk": SAEConfig(D, (N,), activation="topk", k=2),
    "batchtopk": SAEConfig(D, (2, 4, N), (1, 2, 3), activation="batchtopk", k=2.5),
    "jumprelu": SAEConfig(D, (N,), activation="jumprelu"),
}


def made(kind, seed=0):
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    threshold = {"batchtopk": torch.tensor(0.4, dtype=torch.float64), "jumprelu": normal(N).abs()}.get(kind)
    tensors = normal(D, N), normal(N) / 4, normal(N, D), normal(D) / 4
    return SAE(*tensors, config=CONFIGS[kind], threshold=threshold)


@pytest.fixture
def x():
    return 2 * torch.randn(50, D, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


def jumps(acts, threshold):
    return torch.where(acts > threshold, acts, 0)


# JumpReLU


def test_jumprelu_by_hand():
    config = SAEConfig(1, (2,), activation="jumprelu")
    sae = SAE(
        torch.tensor([[1.0, 1.0]]), torch.zeros(2), torch.tensor([[1.0], [2.0]]), torch.zeros(1), config,
        torch.tensor([0.5, -1.0]),
    )  # fmt: skip
    x = torch.tensor([[0.5], [0.6], [-0.2]])
    assert sae.encode(x).tolist() == torch.tensor([[0, 0.5], [0.6, 0.6], [0, 0]]).tolist()
    assert torch.allclose(sae.errors(x, [2])[0], torch.tensor([0.25, 1.44, 0.04]))
    first = sae.first(1)
    assert first.threshold.tolist() == [0.5] and first.encode(x).tolist() == sae.encode(x)[:, :1].tolist()


def test_jumprelu_instances_save_and_config(tmp_path, x):
    one, two = made("jumprelu"), made("jumprelu", 1)
    both = SAE.stack([one, two])
    assert torch.equal(both.encode(x)[1], two.encode(x))
    assert torch.equal(both[1].threshold, two.threshold)
    both.save(tmp_path / "both.safetensors")
    assert torch.equal(SAE.load(tmp_path / "both.safetensors").encode(x), both.encode(x))
    wider = one.with_config(replace(CONFIGS["jumprelu"], widths=(2, N), weights=()))
    assert torch.equal(wider.encode(x), one.encode(x))
    assert one.with_config(CONFIGS["relu"]).threshold is None


def test_jumprelu_refusals():
    with pytest.raises(ValueError, match="needs the threshold of each latent"):
        made("relu").with_config(CONFIGS["jumprelu"])
    with pytest.raises(ValueError, match="threshold has shape"):
        replace(made("jumprelu"), threshold=torch.tensor(1.0, dtype=torch.float64))
    with pytest.raises(ValueError, match="keep them apart"):
        SAE.stack([made("relu"), made("relu")]).with_config((CONFIGS["relu"], CONFIGS["jumprelu"]))
    with pytest.raises(ValueError, match="above a threshold; leave k out"):
        SAEConfig(D, (N,), activation="jumprelu", k=2)
    tree = family(0.3, 0.4)
    setting = Setting(SAEConfig(3, (N,), activation="jumprelu"), tree.states(), torch.eye(3))
    with pytest.raises(ValueError, match="does not train JumpReLU"):
        train(setting, random_start(SAEConfig(3, (N,)), [0]), TrainConfig(steps=1))


def test_descend_takes_jumprelu_with_its_thresholds_held(x):
    sae, probs = made("jumprelu"), torch.full((50,), 1 / 50, dtype=torch.float64)
    run = descend(lambda some: some.loss(x, probs), sae, TrainConfig(steps=20, lr=0.01))
    assert run.loss < sae.loss(x, probs) and torch.equal(run.sae.threshold, sae.threshold)


# SAELens


@pytest.mark.parametrize("kind", CONFIGS)
def test_saelens_round_trip(kind, tmp_path, x):
    sae = made(kind)
    exchange.write_saelens(sae, tmp_path / "sae", {"model_name": "toy"})
    found = exchange.read(tmp_path / "sae")
    acts = sae.encode(x) * (sae.W_dec.norm(dim=-1) if kind == "topk" else 1)
    assert torch.allclose(found.encode(x), acts, rtol=0, atol=1e-12)
    assert torch.allclose(found.decode(found.encode(x)), sae.decode(sae.encode(x)), rtol=0, atol=1e-12)
    assert (found.config.widths, found.config.weights) == (sae.config.widths, sae.config.weights)
    config = json.loads((tmp_path / "sae/cfg.json").read_text())
    assert config["metadata"]["model_name"] == "toy"
    assert sorted(path.name for path in (tmp_path / "sae").iterdir()) == ["cfg.json", "sae_weights.safetensors"]


def stored(folder, kind, changes=None, tensors=None):
    """A folder as SAELens writes it."""
    sae = made("jumprelu")
    weights = dict(sae.parameters) | ({"threshold": sae.threshold} if kind == "jumprelu" else {}) | (tensors or {})
    folder.mkdir(exist_ok=True)
    config = {"architecture": kind, "d_in": D, "d_sae": N, "metadata": {"sae_lens_version": "6.54.12"}}
    (folder / "cfg.json").write_text(json.dumps(config | (changes or {})))
    save_file(
        {n: t.clone().contiguous() for n, t in weights.items() if t is not None}, folder / "sae_weights.safetensors"
    )
    return sae


def test_bias_that_is_not_applied_to_the_input(tmp_path, x):
    sae = stored(tmp_path, "standard", {"apply_b_dec_to_input": False})
    found = exchange.read(tmp_path)
    assert torch.allclose(found.encode(x), torch.relu(x @ sae.W_enc + sae.b_enc), atol=1e-12)


def test_scaled_inputs_are_folded_in(tmp_path, x):
    sae = stored(tmp_path, "jumprelu", {"normalize_activations": "expected_average_only_in"})
    found = exchange.read(tmp_path, scale=3.0)
    acts = jumps(torch.relu((3 * x - sae.b_dec) @ sae.W_enc + sae.b_enc), sae.threshold)
    assert torch.allclose(found.encode(x), acts, atol=1e-12)
    assert torch.allclose(found.decode(acts), sae.decode(acts) / 3, atol=1e-12)
    with pytest.raises(ValueError, match="give it as scale"):
        exchange.read(tmp_path)


def test_saved_in_training(tmp_path, x):
    """BatchTopK: activations times decoder norm, against the threshold; prefixes from the configuration."""
    threshold = torch.tensor(0.4, dtype=torch.float64)
    sae = stored(tmp_path, "matryoshka_batchtopk", {"k": 2, "matryoshka_widths": [2, N]}, {"topk_threshold": threshold})
    found = exchange.read(tmp_path)
    sizes = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc) * sae.W_dec.norm(dim=-1)
    assert torch.allclose(found.encode(x), jumps(sizes, 0.4), atol=1e-12)
    assert found.config.widths == (2, N) and found.config.k == 2
    assert (found.encode(x, torch.full((50,), 0.02, dtype=torch.float64)) > 0).sum() == 100


def test_prefixes_can_be_given(tmp_path):
    stored(tmp_path, "jumprelu")
    assert exchange.read(tmp_path).config.widths == (N,)
    assert exchange.read(tmp_path, widths=(1, 3, N)).config.widths == (1, 3, N)


def test_half_precision_is_widened(tmp_path):
    sae = made("relu").map(lambda p: p.to(torch.bfloat16))
    stored(tmp_path, "standard", None, sae.parameters)
    assert exchange.read(tmp_path).W_dec.dtype == torch.float32


def test_before_version_six(tmp_path, x):
    unit = made("topk")
    rows = unit.W_dec / unit.W_dec.norm(dim=-1, keepdim=True)
    stored(tmp_path, "standard", {"metadata": None, "activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}})
    save_file(unit.parameters | {"W_dec": rows}, tmp_path / "sae_weights.safetensors")
    found = exchange.read(tmp_path)
    assert found.config.activation == "topk" and ((found.encode(x) > 0).sum(-1) <= 2).all()


@pytest.mark.parametrize(
    ("kind", "changes", "tensors", "match"),
    [
        ("gated", {}, {}, "the architecture is 'gated'; what can be read is"),
        ("jumprelu_transcoder", {}, {}, "transcoder"),
        ("standard", {"d_out": 4}, {}, "transcoder"),
        ("standard", {"finetuning_scaling_factor": True}, {}, "fold it into W_dec"),
        ("standard", {"normalize_activations": "layer_norm"}, {}, "Do that to your rows"),
        ("standard", {"d_sae": 9}, {}, "belong to different SAEs, or one is damaged"),
        ("standard", {}, {"W_enc": torch.ones(D, N - 1)}, "W_enc has shape"),
        ("standard", {}, {"W_dec": torch.ones(N)}, r"W_dec has shape \(7,\)"),
        ("standard", {}, {"b_dec": None}, r"lacks the tensors \['b_dec'\]"),
        ("standard", {}, {"extra": torch.ones(1)}, r"has \['extra'\]"),
        ("standard", {}, {"b_enc": torch.full((N,), torch.nan)}, "b_enc holds NaN"),
        ("standard", {}, {"b_enc": torch.ones(N, dtype=torch.int64)}, "int64; it must hold floating-point"),
        ("topk", {"k": 2}, {}, "decoder rows have lengths from"),
        ("topk", {"k": 99, "rescale_acts_by_decoder_norm": True}, {}, "k is 99 for 7 latents"),
    ],
)
def test_what_cannot_be_read(kind, changes, tensors, match, tmp_path):
    stored(tmp_path, kind, changes, tensors)
    with pytest.raises(ValueError, match=match) as caught:
        exchange.read(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_needless_scale(tmp_path):
    stored(tmp_path, "standard")
    with pytest.raises(ValueError, match="inputs were not multiplied"):
        exchange.read(tmp_path, scale=2.0)


def test_damaged_files(tmp_path):
    stored(tmp_path, "standard")
    weights = tmp_path / "sae_weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cut short or damaged"):
        exchange.read(tmp_path)
    weights.write_bytes(pickle.dumps({"W_enc": 1}))
    with pytest.raises(ValueError, match="pickle under another name"):
        exchange.read(tmp_path)
    torch.save({"W_enc": torch.ones(2)}, weights)
    with pytest.raises(ValueError, match="pickle under another name"):
        exchange.read(weights)
    (tmp_path / "cfg.json").write_text('{"architecture": "stan')
    with pytest.raises(ValueError, match="not valid JSON: Unterminated string"):
        exchange.read(tmp_path)
    (tmp_path / "cfg.json").write_text("[]")
    with pytest.raises(ValueError, match="must hold an object"):
        exchange.read(tmp_path)


def test_a_header_that_begins_like_a_pickle_is_read(tmp_path):
    """The length of a safetensors header may be 0x80 in its first byte."""
    for pad in range(200):
        save_file({"x" * (pad + 1): torch.ones(1)}, tmp_path / "a.safetensors")
        if (tmp_path / "a.safetensors").read_bytes()[0] == 0x80:
            break
    assert (tmp_path / "a.safetensors").read_bytes()[0] == 0x80
    assert len(exchange._safetensors(tmp_path / "a.safetensors")) == 1


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="write one at a time"):
        exchange.write_saelens(SAE.stack([made("relu")] * 2), tmp_path / "no")
    with pytest.raises(ValueError, match="no threshold"):
        exchange.write_saelens(replace(made("batchtopk"), threshold=None), tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_an_interrupted_write_leaves_what_stood_there(tmp_path, monkeypatch):
    exchange.write_saelens(made("relu"), tmp_path)
    before = load_file(tmp_path / "sae_weights.safetensors")
    monkeypatch.setattr(exchange.json, "dumps", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        exchange.write_saelens(made("relu", 1), tmp_path)
    assert torch.equal(load_file(tmp_path / "sae_weights.safetensors")["W_enc"], before["W_enc"])
    assert len(list(tmp_path.iterdir())) == 2


# dictionary_learning


def linear(sae, bias="bias"):
    """The tensors by the names that torch.nn.Linear layers give them."""
    return {
        "encoder.weight": sae.W_enc.T, "encoder.bias": sae.b_enc, "decoder.weight": sae.W_dec.T, bias: sae.b_dec,
    }  # fmt: skip


def unit(kind):
    sae = made(kind)
    return replace(sae, W_dec=sae.W_dec / sae.W_dec.norm(dim=-1, keepdim=True))


def theirs(sae, x):
    return torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc)


def test_dictionary_learning_reads_each_class(tmp_path, x):
    path, beside = tmp_path / "ae.pt", tmp_path / "config.json"
    sae = made("relu")
    torch.save(linear(sae), path)
    assert torch.allclose(exchange.read(tmp_path).encode(x), theirs(sae, x))
    torch.save(linear(sae, "decoder.bias"), path)  # AutoEncoderNew
    assert torch.allclose(exchange.read(path).encode(x), torch.relu(x @ sae.W_enc + sae.b_enc))

    sae, extra = unit("topk"), {"k": torch.tensor(2), "threshold": torch.tensor(0.3)}
    torch.save(linear(sae, "b_dec") | extra, path)
    with pytest.raises(ValueError, match="give activation='topk' or 'batchtopk'"):
        exchange.read(path)
    found = exchange.read(path, activation="topk").encode(x)
    acts = theirs(sae, x)
    assert torch.allclose(found, jumps(acts, acts.sort(dim=-1).values[:, -3:-2]))
    beside.write_text(json.dumps({"trainer": {"dict_class": "BatchTopKSAE"}}))
    assert torch.allclose(exchange.read(path).encode(x), jumps(acts, 0.3))

    beside.write_text(json.dumps({"trainer": {"dict_class": "MatryoshkaBatchTopKSAE"}}))
    torch.save(sae.parameters | extra | {"group_sizes": torch.tensor([2, 2, 3])}, path)
    found = exchange.read(path)
    assert found.config.widths == (2, 4, 7) and torch.allclose(found.encode(x), jumps(acts, 0.3))

    beside.unlink()
    sae = made("jumprelu")
    torch.save(sae.parameters | {"threshold": sae.threshold}, path)
    acts = jumps(torch.relu(x @ sae.W_enc + sae.b_enc), sae.threshold)
    assert torch.allclose(exchange.read(path).encode(x), acts)
    save_file(sae.parameters | {"threshold": sae.threshold}, tmp_path / "ae.safetensors")
    assert torch.allclose(exchange.read_dictionary_learning(tmp_path / "ae.safetensors").encode(x), acts)


@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("own", [True, False])
def test_weights_alone_are_read_whatever_the_file_is_called(ending, own, tmp_path, x):
    path, sae = tmp_path / f"own{ending}", made("relu")
    tensors = {name: t.contiguous() for name, t in (sae.parameters if own else linear(sae)).items()}
    save_file(tensors, path) if ending == ".safetensors" else torch.save(tensors, path)
    found = exchange.read(path, widths=(2, N))
    assert torch.allclose(found.encode(x), theirs(sae, x)) and found.config.widths == (2, N)
    tensors = {name: t for name, t in tensors.items() if name not in ("b_enc", "encoder.bias")}
    save_file(tensors, path) if ending == ".safetensors" else torch.save(tensors, path)
    with pytest.raises(ValueError, match=r"own.*lacks the tensors"):
        exchange.read(path)
    if ending != ".safetensors":
        torch.save({"W_enc": Bomb()}, path)
        with pytest.raises(ValueError, match="names code to run"):
            exchange.read(path)


def test_saelens_weights_without_their_configuration_are_not_guessed_at(tmp_path):
    """A JumpReLU SAE of SAELens subtracts its bias, one of dictionary_learning does not; the tensors are alike."""
    stored(tmp_path, "jumprelu")
    (tmp_path / "cfg.json").unlink()
    with pytest.raises(ValueError, match=r"no cfg\.json beside it"):
        exchange.read(tmp_path / "sae_weights.safetensors")


@pytest.mark.parametrize("activation", ["topk", "batchtopk"])
def test_k_can_be_given_where_the_file_has_none(activation, tmp_path, x):
    path, sae = tmp_path / "own.pt", unit("topk")
    extra = {"threshold": torch.tensor(0.3)} if activation == "batchtopk" else {}
    torch.save(sae.parameters | extra, path)
    found = exchange.read(path, activation=activation, k=2)
    assert (found.config.activation, found.config.k) == (activation, 2)
    with pytest.raises(ValueError, match="the file holds no k; give k too"):
        exchange.read(path, activation=activation)
    with pytest.raises(ValueError, match="give activation='topk' or 'batchtopk'"):
        exchange.read(path, k=2)
    for k in (torch.tensor(2), torch.tensor([2, 3])):
        torch.save(sae.parameters | extra | {"k": k}, path)
        with pytest.raises(ValueError, match="must be one number; leave your own k"):
            exchange.read(path, activation=activation, **({"k": 2} if k.ndim == 0 else {}))


ENDING_EARLY = {"k": torch.tensor(2), "group_sizes": torch.tensor([2, 4])}


@pytest.fixture(params=["SAELens", "SAELens with widths", "SAE.save", "weights alone", "dictionary_learning"])
def file_of_each_kind(request, tmp_path):
    sae, path = made("relu"), tmp_path / "own.safetensors"
    if request.param.startswith("SAELens"):
        stored(tmp_path, "standard", {"matryoshka_widths": [2]} if "widths" in request.param else {})
        return tmp_path
    if request.param == "SAE.save":
        sae.save(path)
    elif request.param == "weights alone":
        save_file(sae.parameters, path)
    else:
        path = tmp_path / "ae.pt"
        torch.save(linear(unit("relu")) | {"threshold": torch.tensor(0.3), **ENDING_EARLY}, path)
    return path


def test_given_widths_take_the_place_of_those_of_the_file(file_of_each_kind):
    assert exchange.read(file_of_each_kind, widths=(2, N)).config.widths == (2, N)


@pytest.mark.parametrize("widths", [(2,), (2, N - 1), (2, N + 1)])
def test_widths_that_do_not_end_with_the_latents_are_at_fault(widths, file_of_each_kind):
    with pytest.raises(ValueError, match=r"widths are \(2.*the last must be the SAE's 7 latents") as caught:
        exchange.read(file_of_each_kind, widths=widths)
    assert str(file_of_each_kind) in str(caught.value)


def test_widths_of_the_file_that_do_not_end_with_the_latents(tmp_path):
    stored(tmp_path, "batchtopk", {"k": 5, "matryoshka_widths": [2]}, {"topk_threshold": torch.tensor(0.4)})
    with pytest.raises(ValueError, match="the last must be the SAE's 7 latents"):
        exchange.read(tmp_path)
    assert exchange.read(tmp_path, widths=(2, N)).config.k == 5


class Bomb:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('this ran')",))


def test_dictionary_learning_never_runs_code(tmp_path):
    path = tmp_path / "ae.pt"
    torch.save({"W_enc": Bomb()}, path)
    with pytest.raises(ValueError, match="names code to run"):
        exchange.read(path)
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="names code to run"):
        exchange.read(path)


def test_dictionary_learning_refusals(tmp_path):
    path, beside = tmp_path / "ae.pt", tmp_path / "config.json"
    torch.save(made("relu").parameters, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:200])
    with pytest.raises(ValueError, match="damaged"):
        exchange.read(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="damaged"):
        exchange.read(path)
    torch.save([torch.ones(2)], path)
    with pytest.raises(ValueError, match="no state_dict"):
        exchange.read(path)
    path.write_bytes(whole)
    for name, match in [("GatedAutoEncoder", "gated"), ("IdentityDict", "its class is 'IdentityDict'")]:
        beside.write_text(json.dumps({"trainer": {"dict_class": name}}))
        with pytest.raises(ValueError, match=match):
            exchange.read(path)


def test_paths(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        exchange.read(tmp_path / "no")
    with pytest.raises(ValueError, match="neither"):
        exchange.read(tmp_path)
    made("relu").save(tmp_path / "own.safetensors")
    assert torch.equal(exchange.read(tmp_path / "own.safetensors").W_enc, made("relu").W_enc)


# Trees


def test_exclusive_children_by_hand():
    """Two that fire by p and r: the first is left with p (1 - r) + p r / 2."""
    assert exchange._after_exclusion([0.4, 0.5]) == pytest.approx([0.4 * 0.75, 0.5 * 0.8])
    assert exchange._after_exclusion([1, 1, 1]) == pytest.approx([1 / 3] * 3)
    for probs in ([0.2, 0.2, 0.2], [0.9, 0.05], [0.5, 0.5], [0.7, 0.3], [0.1] * 9):
        assert exchange._after_exclusion(exchange._before_exclusion(probs)) == pytest.approx(probs, abs=1e-6)


def test_trees_there_and_back():
    inner = FeatureTree(0.5, (FeatureTree(0.3, id="a"), FeatureTree(0.6, id="b")), True, magnitude_mean=2, id="c")
    tree = FeatureTree(1, (FeatureTree(0.4, (inner,), True, id="top"), FeatureTree(0.2, id="e")), is_read_out=False)
    data = exchange.tree_to_saelens(tree)
    assert data["firing_probabilities"][:2] == [0.4, 0.5] and data["mean_firing_magnitudes"] == [1, 2, 1, 1, 1]
    assert [root["feature_index"] for root in data["hierarchy"]["roots"]] == [0, 4]
    assert not data["hierarchy"]["roots"][0]["mutually_exclusive_children"]  # one child excludes none
    found, order = exchange.tree_from_saelens(data)
    assert order == [0, 1, 2, 3, 4] and found.names == tree.names and found.parents() == tree.parents()
    a, b = tree.states(), found.states()
    assert torch.equal(a.acts, b.acts) and torch.allclose(a.probs, b.probs, atol=1e-6)


def test_features_outside_the_hierarchy_and_in_another_order():
    data = {
        "hierarchy": {"roots": [{"feature_index": 2, "children": [{"feature_index": 0}]}]},
        "firing_probabilities": [0.5, 0.1, 0.3],
    }
    tree, order = exchange.tree_from_saelens(data)
    assert order == [2, 0, 1] and tree.parents() == [None, 0, None]
    assert tree.firing_probabilities().tolist() == pytest.approx([0.3, 0.15, 0.1])


@pytest.mark.parametrize(
    ("node", "match"),
    [
        ({"feature_index": 3}, "not among 2"),
        ({"feature_index": 0, "children": [{"feature_index": 0}]}, "comes twice"),
        ({"feature_index": 0, "scale_children_by_parent": True}, "scaled by its noise"),
        ({"mutually_exclusive_children": True, "children": [{"children": []}, {"feature_index": 1}]}, "unclear"),
    ],
)
def test_trees_that_cannot_be_read(node, match):
    data = {"hierarchy": {"roots": [node]}, "firing_probabilities": [0.5, 0.5], "std_firing_magnitudes": [1, 1]}
    with pytest.raises(ValueError, match=match):
        exchange.tree_from_saelens(data)


def test_trees_that_cannot_be_written():
    group = FeatureTree(0.5, (FeatureTree(0.5),), is_read_out=False)
    with pytest.raises(ValueError, match=r"active_prob 0\.5"):
        exchange.tree_to_saelens(FeatureTree(1, (group,), is_read_out=False))
    group = FeatureTree(1, (FeatureTree(0.5, (), is_read_out=False), FeatureTree(0.5)), True, is_read_out=False)
    with pytest.raises(ValueError, match="does not exclude"):
        exchange.tree_to_saelens(group)


def test_what_cannot_be_written_is_said_and_leaves_nothing(tmp_path):
    sae = random_start(SAEConfig(4, (3,)), [0])[0]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="file is a file; give the folder"):
        exchange.write_saelens(sae, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    with pytest.raises(ValueError, match="the metadata cannot be written as JSON"):
        exchange.write_saelens(sae, tmp_path / "new", metadata={"when": object()})
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_says_where_its_weights_are(tmp_path):
    torch.save({"model": {"W_dec": torch.zeros(3, 4)}, "step": 7}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match=r"Under \['model'\] it holds others; save the one with the weights"):
        exchange.read(tmp_path / "checkpoint.pt")
