from itertools import product

import pytest
import torch
from jaxtyping import TypeCheckError
from safetensors.torch import save_file

from matryoshka_mixing.features import orthonormal_dictionaries, orthonormal_dictionary
from matryoshka_mixing.sae import SAE, SAEConfig, largest, largest_of_batch, random_start, start_near


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


def two_by_two():
    """Two latents in two dimensions, small enough to work by hand."""
    return SAE(
        W_enc=tensor([[1.0, 0.0], [0.0, 2.0]]),
        b_enc=tensor([0.0, -1.0]),
        W_dec=tensor([[1.0, 0.0], [3.0, 4.0]]),
        b_dec=tensor([1.0, 0.0]),
    )


def test_hand_worked_loss():
    # x = (3, 1): x - b_dec = (2, 1); pre = (2, 1); acts = (2, 1).
    # Prefix 1: (1, 0) + 2 (1, 0) = (3, 0), error 1, penalty 2 * 1 = 2.
    # Prefix 2: (3, 0) + 1 (3, 4) = (6, 4), error 9 + 9 = 18, penalty 2 + 1 * 5 = 7.
    # x = (0, 0): x - b_dec = (-1, 0); pre = (-1, -1); acts = 0; both prefixes (1, 0), error 1, penalty 0.
    x, probs = tensor([[3.0, 1.0], [0.0, 0.0]]), tensor([0.25, 0.75])
    assert two_by_two().encode(x).tolist() == [[2.0, 1.0], [0.0, 0.0]]
    assert two_by_two().decode(two_by_two().encode(x), 1).tolist() == [[3.0, 0.0], [1.0, 0.0]]
    matryoshka = SAEConfig(2, (1, 2), weights=(0.5, 2.0), l1=0.1)
    expected = 0.25 * (0.5 * (1 + 0.2) + 2 * (18 + 0.7)) + 0.75 * (0.5 + 2)
    assert two_by_two().loss(x, probs, matryoshka).item() == pytest.approx(expected, abs=1e-14)
    assert two_by_two().loss(x, probs, SAEConfig(2, (2,))).item() == pytest.approx(0.25 * 18 + 0.75, abs=1e-14)


def test_one_prefix_of_full_width_is_the_standard_sae_to_the_last_digit():
    config = SAEConfig(20, (3,), l1=0.03)
    sae = random_start(config, range(4))
    x, probs = torch.rand(7, 20, dtype=torch.float64), torch.full((7,), 1 / 7, dtype=torch.float64)
    acts = torch.relu(x @ sae.W_enc)
    error = (x - acts @ sae.W_dec).square().sum(-1)
    penalty = (acts * sae.W_dec.norm(dim=-1).unsqueeze(-2)).sum(-1)
    assert torch.equal(sae.loss(x, probs, config), (probs * (error + 0.03 * penalty)).sum(-1))
    two = SAEConfig(20, (1, 3), weights=(0.0, 1.0), l1=0.03)
    assert torch.equal(sae.loss(x, probs, config), sae.loss(x, probs, two))


def test_weights_default_to_one_a_prefix():
    assert SAEConfig(4, (1, 2, 4)).weights == (1.0, 1.0, 1.0)
    assert SAEConfig(4, (1, 2, 4)).d_sae == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"widths": (3, 1)}, r"widths are \(3, 1\).*strictly increase"),
        ({"widths": (1, 1)}, "strictly increase"),
        ({"widths": ()}, "strictly increase"),
        ({"widths": (0, 2)}, "from 1 up"),
        ({"widths": (True, 3)}, "widths holds True; it must be a whole number"),
        ({"weights": (1.0,)}, r"weights are \(1.0,\) for widths \(1, 3\); give one"),
        ({"weights": (1.0, -2.0)}, "at least 0 for each"),
        ({"weights": (0.0, 0.0)}, "at least one must be above 0"),
        ({"weights": (0.5, float("nan"))}, "give one finite weight"),
        ({"decoder_weights": ()}, r"decoder_weights are \(\) for widths \(1, 3\); give one"),
        ({"l1": -0.1}, "l1 is -0.1; a penalty must be"),
        ({"l1": float("nan")}, "l1 is nan"),
        ({"d_in": 0}, "d_in is 0"),
        ({"k": 1}, "k is 1, but a ReLU SAE keeps every activation"),
        ({"activation": "topk"}, "k is None for 3 latents; topk keeps above 0 and at most all"),
        ({"activation": "topk", "k": 1.5}, "k is 1.5; topk keeps a whole number"),
        ({"activation": "batchtopk", "k": 4}, "k is 4 for 3 latents"),
        ({"activation": "batchtopk", "k": 0.0}, "k is 0.0 for 3 latents"),
    ],
)
def test_bad_configurations(change, message):
    with pytest.raises(ValueError, match=message):
        SAEConfig(**({"d_in": 20, "widths": (1, 3)} | change))


@pytest.mark.parametrize("held", ["[]", '{"d_in": 3}', "3", '["x"]', "null"])
def test_a_configuration_that_is_none_is_refused(held, tmp_path):
    sae = random_start(SAEConfig(4, (1, 3)), [0])
    save_file({k: v.contiguous() for k, v in sae.parameters.items()}, tmp_path / "x.safetensors", {"config": held})
    with pytest.raises(ValueError, match=r"x\.safetensors holds no SAE that SAE\.save wrote"):
        SAE.load(tmp_path / "x.safetensors")


def test_starts_need_seeds_that_fit():
    many = orthonormal_dictionaries(3, 20, range(5))
    for start in (lambda: random_start(SAEConfig(4, (3,)), []), lambda: start_near(many, [])):
        with pytest.raises(ValueError, match="no seeds were given"):
            start()
    for seeds in ([0], range(3)):
        with pytest.raises(ValueError, match=f"directions are given for 5 seeds, but there are {len(seeds)}"):
            start_near(many, seeds)
    assert start_near(many, range(5)).instances == (5,)


@pytest.mark.parametrize("width", [0, -1, 3, 9])
def test_prefixes_that_there_are_not_are_refused_everywhere(width):
    sae, x = two_by_two(), tensor([[3.0, 1.0]])
    for act in (
        lambda: sae.first(width),
        lambda: sae.decode(sae.encode(x), width),
        lambda: sae.errors(x, (1, width)),
        lambda: sae.penalties(x, (width,)),
    ):
        with pytest.raises(ValueError, match=f"width is {width}; it must be from 1 to the 2 latents"):
            act()


@pytest.mark.parametrize("types", list(product([torch.float32, torch.float64, torch.int64], repeat=4)), ids=str)
def test_an_sae_has_one_floating_type(types):
    given = {k: p.to(kind) for (k, p), kind in zip(two_by_two().parameters.items(), types, strict=True)}
    if set(types) in ({torch.float32}, {torch.float64}):
        assert SAE(**given).W_dec.dtype == types[0]
        return
    # Whole numbers are no `Float` to the tests' shape checks either.
    with pytest.raises((ValueError, TypeCheckError)) as error:
        SAE(**given)
    assert isinstance(error.value, TypeCheckError) or "they must have one floating type" in str(error.value)


NOWHERE = {"zero": 0.0, "NaN": float("nan"), "infinite": float("inf"), "too small": 1e-300, "too large": 1e300}


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("kind", NOWHERE)
def test_a_start_needs_directions_that_point_somewhere(kind, many):
    directions = orthonormal_dictionaries(3, 20, range(2))
    directions[1, 2] *= NOWHERE[kind]
    with pytest.raises(ValueError, match="directions hold a row that is not finite, or of length 0"):
        start_near(directions if many else directions[1], range(2), order=[2, 0])


@pytest.mark.parametrize("noise", [-1.0, -1e-9, float("nan"), float("inf"), -float("inf")])
def test_a_start_needs_a_noise_and_a_norm_that_are_sizes(noise):
    for name, start in (
        ("noise", lambda: start_near(orthonormal_dictionary(3, 20, 0), [0], noise)),
        ("decoder_norm", lambda: random_start(SAEConfig(4, (3,)), [0], noise)),
    ):
        with pytest.raises(ValueError, match=f"{name} is {noise}; .* a finite number of at least 0"):
            start()


def test_topk_keeps_the_largest_of_each_input():
    sizes = tensor([[[3.0, 1.0, 2.0], [0.0, 5.0, 5.0]]])
    assert largest(sizes, tensor([1.0])).tolist() == [[[1, 0, 0], [0, 1, 0]]]
    assert largest(sizes, tensor([2.0])).tolist() == [[[1, 0, 1], [0, 1, 1]]]


def test_batchtopk_spends_its_budget_on_the_largest():
    # In order: 5 (mass 0.75), 4 (0.75), 3 (0.25), 2 (0.25), ...
    sizes, probs = tensor([[[3.0, 1.0, 2.0], [0.0, 5.0, 4.0]]]), tensor([[0.25, 0.75]])
    for k, expected in [
        (0.75, [[0, 0, 0], [0, 1, 0]]),
        (1.5, [[0, 0, 0], [0, 1, 1]]),
        (1.6, [[0.4, 0, 0], [0, 1, 1]]),
        (0.3, [[0, 0, 0], [0, 0.4, 0]]),
        (3.0, [[1, 1, 1], [1, 1, 1]]),
    ]:
        share = largest_of_batch(sizes, tensor([k]), probs)[0]
        assert torch.allclose(share, tensor(expected), rtol=0, atol=1e-12), k
        assert (probs[0, :, None] * share).sum().item() == pytest.approx(k, abs=1e-12)


def test_what_counts_is_the_activation_times_the_decoder_norm():
    """Else an SAE could cheat: small decoders, large activations."""
    config = SAEConfig(2, (2,), activation="topk", k=1)
    sae = two_by_two().with_config(config)
    x = tensor([[3.0, 1.0]])  # acts (2, 1), decoder norms 1 and 5
    assert sae.encode(x).tolist() == [[0.0, 1.0]]


def test_hand_worked_losses_of_topk_and_batchtopk():
    # As in test_hand_worked_loss: on (3, 1) the whole SAE has error 18, its first latent alone 1, the second alone
    # (3, 1) - (4, 4): 10, none (3, 1) - (1, 0): 5. On (0, 0) nothing fires and the error is 1.
    x, probs = tensor([[3.0, 1.0], [0.0, 0.0]]), tensor([0.25, 0.75])

    def loss(activation, k, **more):
        config = SAEConfig(2, (2,), activation=activation, k=k, **more)
        return two_by_two().with_config(config).loss(x, probs, config).item()

    assert loss("topk", 1) == pytest.approx(0.25 * 10 + 0.75, abs=1e-14)
    assert loss("topk", 2) == loss("batchtopk", 2) == pytest.approx(0.25 * 18 + 0.75, abs=1e-14)
    assert loss("batchtopk", 0.25) == pytest.approx(0.25 * 10 + 0.75, abs=1e-14)
    # A budget of 0.1 lets the second latent fire on two fifths of the inputs (3, 1).
    assert loss("batchtopk", 0.1) == pytest.approx(0.25 * (0.4 * 10 + 0.6 * 5) + 0.75, abs=1e-14)
    assert loss("batchtopk", 0.1, l1=0.1) == pytest.approx(0.25 * (0.4 * 10.5 + 0.6 * 5) + 0.75, abs=1e-14)


@pytest.mark.parametrize("k", [0.3, 0.9, 1.37])
def test_a_state_stands_for_many_equal_rows(k):
    """BatchTopK over states with probabilities is BatchTopK over a batch of rows in those shares."""
    config = SAEConfig(20, (1, 3), (0.5, 2.0), 0.1, activation="batchtopk", k=k)
    sae = random_start(config, range(5))
    x = torch.rand(4, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.3
    counts = torch.tensor([100, 300, 250, 350])
    rows = x.repeat_interleave(counts, 0)
    states = sae.loss(x, counts.double() / 1000, config)
    batch = sae.loss(rows, torch.full((1000,), 1e-3, dtype=torch.float64), config)
    assert torch.allclose(states, batch, rtol=0, atol=1e-9)
    kept = (sae.encode(rows, torch.full((1000,), 1e-3, dtype=torch.float64)) > 0).double().sum(-1).mean(-1)
    positive = (replaced(sae, "relu").encode(rows) > 0).double().sum(-1).mean(-1)
    assert torch.allclose(kept, positive.clamp_max(k), rtol=0, atol=1e-9)
    assert (positive > k).any()


def replaced(sae, activation):
    return sae.with_config(SAEConfig(20, (1, 3), activation=activation))


def several():
    """Three SAEs of each of two configurations."""
    topk, batchtopk = SAEConfig(4, (1, 3), activation="topk", k=2), SAEConfig(4, (3,), activation="batchtopk", k=1.2)
    return SAE.stack([random_start(topk, range(3)), random_start(batchtopk, range(3, 6))])


def test_selecting_and_joining_keep_the_configuration():
    both = several()
    assert both.instances == (2, 3) and len(both) == 2 and isinstance(both.config, tuple)
    assert both[1].config.activation == "batchtopk" and both[1].config.k == 1.2 and both[1].instances == (3,)
    assert both[:, 1].config == both.config and both[0, 2].config == both.config[0] and both[0, 2].instances == ()
    assert torch.equal(both[[1, 0]].W_enc[0], both.W_enc[1]) and both[[1, 0]].config == both.config[::-1]
    assert both[both.b_enc[..., 0] == 0].instances == (6,)
    assert SAE.stack([both[0], both[0]]).config == both.config[0]
    assert SAE.cat([both[0], both[1]]).config == (both.config[0],) * 3 + (both.config[1],) * 3
    assert SAE.cat([both, both]).instances == (4, 3)
    assert random_start(SAEConfig(4, (3,)), range(3))[1:].config.k is None


def test_mixed_configurations_encode_and_lose_as_each_by_itself():
    both, x = several(), torch.randn(5, 4, dtype=torch.float64)
    probs = torch.full((5,), 0.2, dtype=torch.float64)
    for given in (x, x.expand(2, 3, 5, 4), x.expand(1, 1, 5, 4)):
        acts, loss = both.encode(given, probs), both.loss(given, probs)
        for i in range(2):
            assert torch.equal(acts[i], both[i].encode(x, probs)) and torch.equal(loss[i], both[i].loss(x, probs))


@pytest.mark.parametrize("index", [3, (0, 0, 0), (0, 5), 0.5, "a"])
def test_an_index_that_means_no_instance_is_refused(index):
    with pytest.raises((IndexError, TypeError)):
        several()[index]


def test_a_single_sae_has_nothing_to_select():
    with pytest.raises(IndexError, match="a single SAE"):
        two_by_two()[0]
    with pytest.raises(TypeError, match="no length"):
        len(two_by_two())
    with pytest.raises(ValueError, match="differ in configuration along more than"):
        several()[torch.tensor([[0, 1]]), 1]
    with pytest.raises(ValueError, match="differ in configuration along more than"):
        several().reshape(3, 2)


def test_settings_may_be_rearranged_where_alike_ones_stay_together():
    four = SAE.cat([several()[:1], several()[:1], several()[1:], several()[1:]])
    square = four.reshape(2, 2, -1)
    assert square.instances == (2, 2, 3) and square.config == several().config
    assert torch.equal(square.W_enc.flatten(0, 1), four.W_enc) and square[1].config == several().config[1]


def test_shapes_that_do_not_fit_are_refused():
    good = two_by_two().parameters
    for name, shape in [("W_enc", (2, 3)), ("b_enc", (3,)), ("W_dec", (3, 2)), ("b_dec", (3,))]:
        with pytest.raises((ValueError, TypeCheckError), match=r"must be|Type-check error"):
            SAE(**good | {name: torch.zeros(shape, dtype=torch.float64)})
    with pytest.raises(ValueError, match="W_enc has shape"):
        SAE(**good, config=SAEConfig(2, (3,)))
    with pytest.raises(ValueError, match="2 configurations for instances"):
        SAE(**good, config=(SAEConfig(2, (2,)), SAEConfig(2, (1, 2))))


def test_inputs_of_more_axes_are_not_taken_for_instances():
    sae = random_start(SAEConfig(4, (3,)), range(3))
    with pytest.raises(ValueError, match="Flatten other axes into the rows"):
        sae.encode(torch.zeros(3, 5, 7, 4, dtype=torch.float64))
    with pytest.raises(ValueError, match="Flatten other axes into the rows"):
        sae[0].encode(torch.zeros(5, 7, 4, dtype=torch.float64))


def test_batchtopk_without_a_batch_needs_a_threshold():
    sae = random_start(SAEConfig(4, (3,), activation="batchtopk", k=1), range(2))
    with pytest.raises(ValueError, match="chooses within a batch: give probs"):
        sae.encode(torch.zeros(1, 4, dtype=torch.float64))


def test_the_first_latents_are_an_sae():
    config = SAEConfig(20, (1, 2, 5), (0.5, 1.0, 2.0), activation="topk", k=4, decoder_weights=(0.0, 1.0, 3.0))
    sae = random_start(config, range(2))
    cut = sae.first(3)
    assert cut.config == SAEConfig(
        20, (1, 2, 3), (0.5, 1.0, 2.0), activation="topk", k=3, decoder_weights=(0.0, 1.0, 3.0)
    )
    assert torch.equal(cut.W_dec, sae.W_dec[:, :3]) and sae.first(1).config.weights == (3.5,)
    with pytest.raises(ValueError, match="width is 6; it must be from 1 to the 5 latents"):
        sae.first(6)


def test_saved_saes_come_back_whole_and_one_of_many_saves_one(tmp_path):
    many = random_start(SAEConfig(20, (1, 3), (0.5, 1.0), 0.1, activation="batchtopk", k=1.5), range(256))
    path = tmp_path / "sae.safetensors"
    many[17].save(path)
    assert path.stat().st_size < 3000 and list(tmp_path.iterdir()) == [path]
    back = SAE.load(path)
    assert back.config == many.config and all(
        torch.equal(back.parameters[n], many[17].parameters[n]) for n in back.parameters
    )
    several().save(path)
    assert SAE.load(path).config == several().config and torch.equal(SAE.load(path).W_enc, several().W_enc)


@pytest.mark.parametrize("damage", ["truncated", "empty", "pickle", "no config", "other shape"])
def test_damaged_files_are_named(damage, tmp_path):
    import pickle

    from safetensors.torch import save_file

    path = tmp_path / "sae.safetensors"
    two_by_two().save(path)
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "pickle":
        path.write_bytes(pickle.dumps({"W_enc": 1}))
    elif damage == "no config":
        save_file(two_by_two().parameters, path)
    else:
        save_file(
            {**two_by_two().parameters, "b_enc": torch.zeros(3)}, path, {"config": '[{"d_in": 2, "widths": [2]}]'}
        )
    with pytest.raises(Exception, match=r"holds no SAE that .* wrote, or is damaged"):
        SAE.load(path)


def test_starts_depend_on_their_seed_alone(dictionary):
    config = SAEConfig(20, (1, 3))
    alone, company = random_start(config, [5]), random_start(config, [3, 5, 9])
    assert torch.equal(alone.W_enc[0], company.W_enc[1])
    assert torch.equal(start_near(dictionary, [5]).W_dec[0], start_near(dictionary, [3, 5]).W_dec[1])


def test_random_start_has_unit_encoders_and_a_decoder_a_tenth_of_them():
    sae = random_start(SAEConfig(20, (1, 3)), range(3))
    assert torch.allclose(sae.W_enc.norm(dim=-2), torch.ones(3, 3, dtype=torch.float64))
    assert torch.allclose(sae.W_dec, 0.1 * sae.W_enc.transpose(-1, -2))
    assert not sae.b_enc.any() and not sae.b_dec.any()


def test_noise_of_a_near_start_is_relative_to_the_length(dictionary):
    for scale in (1.0, 10.0):
        sae = start_near(scale * dictionary, range(400), noise=0.5)
        lengths = (sae.W_dec - scale * dictionary).norm(dim=-1) / scale
        assert lengths.mean().item() == pytest.approx(
            0.5 * 0.9876, abs=0.01
        )  # E|z| of 20 normal numbers is .9876 sqrt(20)
    clean = start_near(dictionary, [0], noise=0.0)
    assert torch.allclose(clean.encode(dictionary), torch.eye(3, dtype=torch.float64), atol=1e-14)
    with pytest.raises(ValueError, match="noise is -1"):
        start_near(dictionary, [0], noise=-1.0)


def test_a_start_near_the_truth_takes_features_in_another_order():
    dictionary, order = orthonormal_dictionary(5, 8, 0), [0, 4, 1]
    near = start_near(dictionary, [0, 1], order=order)
    assert torch.equal(near.W_dec, start_near(dictionary[order], [0, 1]).W_dec)
    each = start_near(torch.stack([dictionary, dictionary.flip(0)]), [0, 1], noise=0.0, order=order)
    assert torch.equal(each.W_dec[1], dictionary.flip(0)[order])
    for wrong in ([0, 5], [0, 0], [-1]):
        with pytest.raises(ValueError, match=r"order is .* some of the 5 directions, each once"):
            start_near(dictionary, [0], order=wrong)


def test_the_one_configuration_of_all_instances():
    narrow, wide = SAEConfig(6, (1, 3)), SAEConfig(6, (2, 3))
    assert random_start(narrow, [0, 1]).one_config == narrow
    both = SAE.stack([random_start(config, [0]) for config in (narrow, wide)])
    assert both[1].one_config == wide
    with pytest.raises(ValueError, match="2 configurations"):
        _ = both.one_config


def test_an_sae_without_a_threshold_is_not_read_in_the_company_of_one_that_has_it():
    config = SAEConfig(4, (3,), activation="batchtopk", k=1.0)
    one, other = random_start(config, range(2))
    x = torch.eye(4, dtype=torch.float64)
    both = SAE.stack([one.with_threshold(x, torch.full((4,), 0.25)), other])
    assert both[0].encode(x).shape == (4, 3)
    for sae in (both, both[1]):
        with pytest.raises(ValueError, match="a BatchTopK SAE chooses within a batch: give probs"):
            sae.encode(x)


def test_a_configuration_that_is_nested_too_deep_is_damage(tmp_path):
    sae = random_start(SAEConfig(4, (3,)), [0])[0]
    save_file(dict(sae.parameters), tmp_path / "sae.safetensors", {"config": "[" * 100_000})
    with pytest.raises(ValueError, match="or is damaged"):
        SAE.load(tmp_path / "sae.safetensors")


def test_a_threshold_is_the_middle_between_what_is_kept_and_what_is_not():
    """Sizes 4, 3, 2, 1 of four inputs with one latent each; half of the smallest where all are kept."""
    eye = torch.eye(4, dtype=torch.float64)
    for k, expected in ((0.5, 2.5), (0.25, 3.5), (1.0, 0.5)):
        config = SAEConfig(4, (4,), activation="batchtopk", k=k)
        sae = SAE(eye, 0 * eye[0], eye, 0 * eye[0], config).with_threshold(
            torch.diag(torch.tensor([4.0, 3.0, 2.0, 1.0])).double(), torch.full((4,), 0.25).double()
        )
        assert float(sae.threshold) == expected


@pytest.mark.parametrize("axes", [(), (2,)])
@pytest.mark.parametrize(
    "configs",
    [
        (SAEConfig(4, (3,)), SAEConfig(4, (3,), activation="topk", k=1)),
        (SAEConfig(4, (3,), activation="topk", k=2), SAEConfig(4, (3,), activation="topk", k=1)),
        (SAEConfig(4, (3,), activation="batchtopk", k=0.5), SAEConfig(4, (3,), activation="batchtopk", k=1.5)),
    ],
)
def test_saes_of_several_configurations_encode_as_each_alone(configs, axes):
    """On rows that all share, and where each setting and each SAE has rows of its own."""
    draw = torch.Generator().manual_seed(0)
    start = random_start(configs[0], range(4)).reshape(2, 2)
    saes = SAE.stack([start[i].with_config(config) for i, config in enumerate(configs)])
    x = torch.randn(*axes, *axes, 7, 4, dtype=torch.float64, generator=draw)
    probs = torch.rand(*axes, *axes, 7, dtype=torch.float64, generator=draw)
    probs = probs / probs.sum(-1, keepdim=True)
    found = saes.encode(x, probs)
    for i, j in product(range(2), repeat=2):
        own = (x[i, j], probs[i, j]) if axes else (x, probs)
        assert torch.allclose(found[i, j], saes[i, j].encode(*own)) and (found[i, j] > 0).any()
    first = saes[:, 0]  # of each configuration one, and rows of its own
    alone = first.encode(x[:, 0], probs[:, 0]) if axes else first.encode(x, probs)
    assert torch.equal(alone, found[:, 0])
    with pytest.raises(ValueError, match="along the first axis alone; index the settings first"):
        SAE.stack([saes, saes])


def test_a_threshold_belongs_to_the_configuration_it_was_found_for():
    config, eye = SAEConfig(4, (4,), activation="batchtopk", k=1.0), torch.eye(4, dtype=torch.float64)
    found = SAE(eye, 0 * eye[0], eye, 0 * eye[0], config).with_threshold(eye, torch.full((4,), 0.25).double())
    assert found.threshold is not None and found.with_config(SAEConfig(4, (4,))).threshold is None
    assert found.with_config(config).threshold is None
    jumps = SAEConfig(4, (4,), activation="jumprelu")
    kept = SAE(eye, 0 * eye[0], eye, 0 * eye[0], jumps, threshold=eye[0]).with_config(
        SAEConfig(4, (2, 4), activation="jumprelu")
    )
    assert torch.equal(kept.threshold, eye[0])
