"""Hold `exchange` against SAELens itself: each kind of SAE out and back, the same activations and reconstructions?

Out: ours is written, and SAELens loads it. Back: SAELens saves its own class with random weights, and ours reads it.
Inputs are Gaussian. Prints the largest difference of each, relative to the largest entry; exits with 1 if one exceeds
the tolerance, or if a control (the widths, k or threshold changed) does not.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from agreement import D_IN, LATENTS, ROWS, start

from matryoshka_mixing import exchange
from matryoshka_mixing.features import FeatureTree, family, twenty_feature_tree
from matryoshka_mixing.sae import TRAINED, SAEConfig

TOLERANCE = 1e-6
KINDS = {
    "standard": SAEConfig(D_IN, (LATENTS,)),
    "TopK": SAEConfig(D_IN, (LATENTS,), activation="topk", k=3),
    "BatchTopK": SAEConfig(D_IN, (LATENTS,), activation="batchtopk", k=3),
    "Matryoshka BatchTopK": SAEConfig(D_IN, (1, 5, 10, LATENTS), activation="batchtopk", k=3),
    "JumpReLU": SAEConfig(D_IN, (LATENTS,), activation="jumprelu"),
}


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the largest entry."""
    return float((a - b).abs().max() / a.abs().max())


def out(kind: str, config: SAEConfig, seed: int, x: torch.Tensor, folder: Path) -> tuple[float, float, float]:
    """Ours, as SAELens loads it; the control keeps more or fewer latents."""
    from sae_lens import SAE as TheirSAE

    sae, generator = start(SAEConfig(D_IN, (LATENTS,)), seed), torch.Generator().manual_seed(seed)
    threshold = torch.rand(LATENTS, generator=generator, dtype=torch.float64)
    thresholds = {"batchtopk": threshold[0], "jumprelu": threshold}
    sae = replace(sae, config=config, threshold=thresholds.get(config.activation))
    exchange.write_saelens(sae, folder)
    theirs = TheirSAE.load_from_disk(folder)
    found, acts = theirs.encode(x), sae.encode(x)
    back = exchange.read_saelens(folder)
    if config.activation == "topk":  # written with unit rows
        acts = acts * sae.W_dec.norm(dim=-1)
    assert back._each[0].widths == config.widths
    wrong = x + 0.01
    return (
        max(apart(acts, found), apart(acts, back.encode(x))),
        max(apart(sae.decode(sae.encode(x)), theirs(x)), apart(theirs(x), back.decode(back.encode(x)))),
        apart(sae.decode(sae.encode(wrong)), theirs(x)),
    )


def back(kind: str, config: SAEConfig, seed: int, x: torch.Tensor, folder: Path, **options) -> tuple[float, float]:
    """Theirs, as ours reads it: saved in training and for inference."""
    import sae_lens as sl

    shared = {"d_in": D_IN, "d_sae": LATENTS, "dtype": "float64"} | options
    if kind == "standard":
        made = sl.StandardTrainingSAE(sl.StandardTrainingSAEConfig(**shared))
    elif kind == "TopK":
        made = sl.TopKTrainingSAE(sl.TopKTrainingSAEConfig(**shared, k=3))
    elif kind == "BatchTopK":
        made = sl.BatchTopKTrainingSAE(sl.BatchTopKTrainingSAEConfig(**shared, k=3))
    elif kind == "Matryoshka BatchTopK":
        widths = list(config.widths)
        made = sl.MatryoshkaBatchTopKTrainingSAE(
            sl.MatryoshkaBatchTopKTrainingSAEConfig(**shared, k=3, matryoshka_widths=widths)
        )
    else:
        made = sl.JumpReLUTrainingSAE(sl.JumpReLUTrainingSAEConfig(**shared))
    own, generator = start(SAEConfig(D_IN, (LATENTS,)), seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name in TRAINED:
            getattr(made, name).copy_(getattr(own, name))
        if kind == "JumpReLU":
            made.threshold.copy_(torch.rand(LATENTS, generator=generator, dtype=torch.float64))
        if hasattr(made, "topk_threshold"):
            made.topk_threshold.fill_(0.7)
    worst = [0.0, 0.0]
    made.save_inference_model(folder)
    theirs, ours = sl.SAE.load_from_disk(folder), exchange.read_saelens(folder, widths=config.widths)
    worst = [apart(theirs.encode(x), ours.encode(x)), apart(theirs(x), ours.decode(ours.encode(x)))]
    made.save_model(folder)
    ours = exchange.read_saelens(folder)
    probs = torch.full((len(x),), 1 / len(x), dtype=x.dtype)
    with torch.no_grad():
        found = made.encode(x)
        chosen = ours.encode(x, probs)
        worst = [max(worst[0], apart(found, chosen)), max(worst[1], apart(made.decode(found), ours.decode(chosen)))]
    assert kind != "Matryoshka BatchTopK" or ours._each[0].widths == config.widths
    return tuple(worst)


def trees() -> float:
    """How far 400,000 samples of SAELens are from each tree's own law, at most, in standard errors."""
    from sae_lens.synthetic.activation_generator import ActivationGenerator
    from sae_lens.synthetic.hierarchy import Hierarchy

    nested = FeatureTree(
        1, (FeatureTree(0.6, (FeatureTree(0.5, (FeatureTree(0.3), FeatureTree(0.6)), True),)),), False, False
    )
    worst, n = 0.0, 400_000
    for tree in (family(0.3, 0.4), family(0.5, (0.6, 0.1, 0.3), 3), twenty_feature_tree(), nested):
        data = exchange.tree_to_saelens(tree)
        again, order = exchange.tree_from_saelens(data)
        assert order == list(range(tree.n_features))
        torch.manual_seed(0)
        modifier = Hierarchy.from_dict(data["hierarchy"]).modifier
        probs = torch.tensor(data["firing_probabilities"])
        acts = ActivationGenerator(len(probs), probs, modify_activations=modifier).sample(n) > 0
        pairs = (acts.double().T @ acts.double()) / n  # of each feature and of each pair
        for law in (tree, again):
            states = law.states()
            on = (states.acts > 0).double()
            true = on.T @ (states.probs[:, None] * on)
            error = (true * (1 - true) / n).sqrt().clamp_min(1e-9)
            worst = max(worst, float(((pairs - true).abs() / error).max()))
    return worst


def main() -> None:
    """Compare all kinds; fail if any differs."""
    x = 3 * torch.randn(ROWS, D_IN, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    failed = []
    for kind, config in KINDS.items():
        with tempfile.TemporaryDirectory() as place:
            sent = [out(kind, config, seed, x, Path(place)) for seed in range(5)]
            rows = {"out": [max(row[i] for row in sent) for i in range(2)]}
            control = min(row[2] for row in sent)
            for name, options in {
                "back": {}, "back, b_dec not applied": {"apply_b_dec_to_input": False},
                "back, no rescaling": {"rescale_acts_by_decoder_norm": False},
            }.items():  # fmt: skip
                if "rescale_acts_by_decoder_norm" in options and "TopK" not in kind:
                    continue
                try:
                    found = [back(kind, config, seed, x, Path(place), **options) for seed in range(5)]
                except ValueError as error:
                    print(f"{kind:21} {name}: refused: {str(error).split(': ', 1)[1][:90]}...")
                    failed += [kind] if "rescale_acts_by_decoder_norm" not in options else []
                    continue
                rows[name] = [max(row[i] for row in found) for i in range(2)]
        for name, (acts, reconstruction) in rows.items():
            print(f"{kind:21} {name:24} activations {acts:.0e}  reconstruction {reconstruction:.0e}")
        print(f"{kind:21} {'control':24} {control:.0e}")
        failed += [kind] if max(max(row) for row in rows.values()) > TOLERANCE or control <= TOLERANCE else []
    off = trees()
    print(f"trees: firing of features and pairs at most {off:.1f} standard errors from the law")
    if failed or off > 5:
        sys.exit(f"these differ: {failed or 'trees'}")


if __name__ == "__main__":
    main()
