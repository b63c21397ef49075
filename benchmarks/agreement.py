"""Hold our TopK and BatchTopK against SAELens's classes: same weights, same inputs, same losses and gradients?

Both compute in float64 and by autograd; our trainer's gradients, derived by hand, are held against SAELens's as well.
Writes one JSON file; exits with 1 if anything differs by more than the tolerance.
"""

import argparse
import json
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch

from matryoshka_mixing._commands import write_text
from matryoshka_mixing.features import States, orthonormal_dictionary, twenty_feature_tree
from matryoshka_mixing.sae import SAE, TRAINED, SAEConfig, random_start
from matryoshka_mixing.training import Setting, TrainConfig, train

TOLERANCE = 1e-5
D_IN, LATENTS, ROWS, SEEDS = 20, 20, 500, 10
KINDS = {
    "TopK": SAEConfig(D_IN, (LATENTS,), activation="topk", k=3),
    "BatchTopK": SAEConfig(D_IN, (LATENTS,), activation="batchtopk", k=1.12),
    "Matryoshka BatchTopK": SAEConfig(D_IN, (1, 5, 10, LATENTS), activation="batchtopk", k=1.12),
}


def inputs(name: str, generator: torch.Generator) -> torch.Tensor:
    """A batch: rows of the twenty-feature tree, many of them equal, or Gaussian ones."""
    if name == "Gaussian":
        return torch.randn(ROWS, D_IN, generator=generator, dtype=torch.float64)
    return twenty_feature_tree().sample(ROWS, generator) @ orthonormal_dictionary(LATENTS, D_IN, generator)


def start(config: SAEConfig, seed: int) -> SAE:
    """Random weights and biases, with decoder norms that differ, so that the choice by norm is tested."""
    sae, generator = random_start(config, [seed])[0], torch.Generator().manual_seed(1000 + seed)
    scale = 0.1 + 2 * torch.rand(LATENTS, 1, generator=generator, dtype=torch.float64)
    noise = [0.1 * torch.randn(n, generator=generator, dtype=torch.float64) for n in (LATENTS, D_IN)]
    return replace(sae, W_dec=scale * sae.W_dec, b_enc=noise[0], b_dec=noise[1])


def theirs(config: SAEConfig, sae: SAE, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Loss and gradients of SAELens's class with these weights."""
    from sae_lens import (
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )
    from sae_lens.saes.sae import TrainStepInput

    shared = {"d_in": D_IN, "d_sae": LATENTS, "k": config.k, "dtype": "float64", "apply_b_dec_to_input": True}
    if len(config.widths) > 1:
        made = MatryoshkaBatchTopKTrainingSAE(
            MatryoshkaBatchTopKTrainingSAEConfig(**shared, matryoshka_widths=list(config.widths))
        )
    elif config.activation == "batchtopk":
        made = BatchTopKTrainingSAE(BatchTopKTrainingSAEConfig(**shared))
    else:
        made = TopKTrainingSAE(TopKTrainingSAEConfig(**shared))
    with torch.no_grad():
        for name in TRAINED:
            getattr(made, name).copy_(getattr(sae, name))
    step = TrainStepInput(x, coefficients={}, dead_neuron_mask=None, n_training_steps=0, is_logging_step=False)
    loss = made.training_forward_pass(step).loss
    loss.backward()
    return loss.detach(), {name: getattr(made, name).grad for name in TRAINED}


def ours(config: SAEConfig, sae: SAE, x: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The same from `SAE.loss`, as it is written for reading."""
    leaves = SAE(**{n: p.clone().requires_grad_() for n, p in sae.parameters.items()}, config=config)
    loss = leaves.loss(x, torch.full((len(x),), 1 / len(x), dtype=x.dtype))
    loss.backward()
    return loss.detach(), {name: parameter.grad for name, parameter in leaves.parameters.items()}


def trained(
    config: SAEConfig, sae: SAE, x: torch.Tensor, features: bool
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The same from one step of gradient descent by the trainer, with rate 1: from where to where it goes.

    `features`: whether the inputs are given as features with directions, or as they are.
    """
    states = States(x, torch.full((len(x),), 1 / len(x), dtype=x.dtype))
    setting = Setting(config, states, torch.eye(D_IN, dtype=x.dtype) if features else None)
    run = train(setting, sae.map(lambda p: p[None]), TrainConfig(1, 1.0, warmup=0, cooldown=0, optimiser="gd"))
    return run.history[0, 0, 0], {name: p - run.sae.parameters[name][0, 0] for name, p in sae.parameters.items()}


def compare() -> list[dict]:
    """For each class and kind of input the largest difference over seeds, relative to the largest entry there.

    The control is the smallest difference in loss when ours keeps more: it must be far above the tolerance.
    """
    found = []
    for kind, config in KINDS.items():
        for data in ("tree", "Gaussian"):
            row = {"class": kind, "inputs": data, "loss": 0.0, "gradient": 0.0, "trainer": 0.0, "control": 1.0}
            for seed in range(SEEDS):
                x = inputs(data, torch.Generator().manual_seed(seed))
                sae = start(config, seed)
                loss, gradient = theirs(config, sae, x)
                wrong, _ = ours(replace(config, k=2 * config.k), sae, x)
                row["control"] = min(row["control"], float((loss - wrong).abs() / loss))
                for name, (other, other_gradient) in (
                    ("gradient", ours(config, sae, x)),
                    ("trainer", trained(config, sae, x, features=data == "tree")),
                ):
                    row["loss"] = max(row["loss"], float((loss - other).abs() / loss))
                    for key, value in gradient.items():
                        apart = float((value - other_gradient[key]).abs().max() / value.abs().max())
                        row[name] = max(row[name], apart)
            found.append(row)
    return found


def main() -> None:
    """Compare, write the result in one move, and fail if anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path(__file__).with_name("agreement.json"), help="file to write")
    options = parser.parse_args()
    rows = compare()
    setup = {"sae_lens": version("sae-lens"), "torch": version("torch").split("+")[0], "tolerance": TOLERANCE}
    setup |= {"d_in": D_IN, "latents": LATENTS, "rows": ROWS, "seeds": SEEDS}
    write_text(options.output, json.dumps(setup | {"comparisons": rows}, indent=1) + "\n")
    for row in rows:
        print(row)
    if any(row["control"] <= TOLERANCE for row in rows):
        sys.exit("the control agrees too: this comparison cannot fail")
    if any(row[key] > TOLERANCE for row in rows for key in ("loss", "gradient", "trainer")):
        sys.exit(f"our SAEs and SAELens's differ by more than {TOLERANCE:g}")


if __name__ == "__main__":
    main()
