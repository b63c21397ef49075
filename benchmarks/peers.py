"""What people use: a plain PyTorch loop, and SAELens with its own toy training."""

import contextlib
import time

import numpy as np
import torch
from problems import BETAS, D_IN, EPS, EVERY, L1, PROBLEMS, STEPS, Problem, learning_rates, settled

from matryoshka_mixing.sae import SAEConfig, random_start

SAELENS = {"lr": 0.003, "warm_up": 0.02, "decay": 0.6}
"""Adam rate of SAELens, and the shares of the steps with linear warm-up and linear decay to 0."""
torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))])  # its first use imports much more


class Enough(Exception):
    """Raised by a look at the decoder, to leave the training."""


def draw(problem: Problem, n: int) -> torch.Tensor:
    """A batch of feature activations, as one would write it in plain PyTorch (float32)."""
    parents = torch.rand(n, problem.parents, 1) < problem.parent
    edges = problem.child * torch.arange(problem.children)
    spot = torch.rand(n, problem.parents, 1)
    children = parents & (spot >= edges) & (spot < edges + problem.child)
    loose = torch.rand(n, problem.loose) < problem.loose_prob
    return torch.cat([torch.cat([parents, children], -1).flatten(1), loose], 1).float()


def loop(problem: Problem, batch: int, seed: int, look) -> None:
    """One SAE, autograd, torch.optim.Adam, a fresh batch each step; `look` sees the decoder every `EVERY` steps."""
    torch.manual_seed(seed)
    directions = torch.from_numpy(problem.dictionary()).float()
    start = random_start(SAEConfig(D_IN, problem.widths), [seed])[0]
    W_enc, b_enc, W_dec, b_dec = (torch.nn.Parameter(p.float()) for p in start.parameters.values())
    optimiser = torch.optim.Adam([W_enc, b_enc, W_dec, b_dec], betas=BETAS, eps=EPS)
    for step, rate in enumerate(learning_rates(STEPS)):
        if step % EVERY == 0:
            look(step, W_dec)
        optimiser.param_groups[0]["lr"] = float(rate)
        x = draw(problem, batch) @ directions
        acts = torch.relu((x - b_dec) @ W_enc + b_enc)
        penalty = acts * W_dec.norm(dim=-1)
        loss = 0
        for width in problem.widths:
            error = (x - b_dec - acts[:, :width] @ W_dec[:width]).square().sum(-1)
            loss = loss + (error + L1 * penalty[:, :width].sum(-1)).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def saelens(problem: Problem, batch: int, seed: int, look) -> None:
    """SAELens' schedule; `look` sees the decoder every `EVERY` steps."""
    from sae_lens import (
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
    )
    from sae_lens.synthetic import ActivationGenerator, FeatureDictionary, HierarchyNode, hierarchy_modifier
    from sae_lens.synthetic.training import train_toy_sae

    torch.manual_seed(seed)
    # There, exclusive children fire independently first and one of those that fire is kept.
    before = 1 - (1 - problem.children * problem.child) ** (1 / problem.children)
    size, roots, firing = 1 + problem.children, [], []
    for p in range(problem.parents):
        children = [HierarchyNode(p * size + c) for c in range(1, size)]
        roots.append(HierarchyNode(p * size, children=children, mutually_exclusive_children=True))
        firing += [problem.parent] + [before] * problem.children
    data = ActivationGenerator(
        problem.n_features,
        torch.tensor(firing + [problem.loose_prob] * problem.loose),
        modify_activations=hierarchy_modifier(roots),
    )
    directions = FeatureDictionary(problem.n_features, D_IN, bias=False, initializer=None)
    directions.feature_vectors.data = torch.from_numpy(problem.dictionary()).float()
    k = problem.widths[-1]
    if len(problem.widths) == 1:
        sae = StandardTrainingSAE(StandardTrainingSAEConfig(d_in=D_IN, d_sae=k, l1_coefficient=L1))
    else:
        acts, probs = problem.states()
        sae = MatryoshkaBatchTopKTrainingSAE(
            MatryoshkaBatchTopKTrainingSAEConfig(
                d_in=D_IN, d_sae=k, k=float(probs @ acts.sum(1)), matryoshka_widths=list(problem.widths)
            )
        )
    train_toy_sae(
        sae,
        directions,
        data,
        training_samples=STEPS * batch,
        batch_size=batch,
        lr=SAELENS["lr"],
        lr_warm_up_steps=round(SAELENS["warm_up"] * STEPS),
        lr_decay_steps=round(SAELENS["decay"] * STEPS),
        n_snapshots=STEPS // EVERY - 1,
        snapshot_fn=lambda run: look(run.n_training_steps, run.sae.W_dec),
    )


TRAINERS = {"loop": loop, "saelens": saelens}


def run(cell: dict, seed: int, look) -> None:
    """Train one SAE until `look` has had enough."""
    with contextlib.suppress(Enough):
        TRAINERS[cell["contender"]](PROBLEMS[cell["problem"]], cell["batch"], seed, look)


def rate(cell: dict) -> dict:
    """Training steps of one SAE per second, the first 20 left out."""
    marks = []

    def look(step, _):
        if step >= 20:
            marks.append((step, time.perf_counter()))
            if len(marks) > 2 and marks[-1][1] - marks[0][1] > cell["aim"]:
                raise Enough

    run(cell, 0, look)
    (first, began), (last, ended) = marks[0], marks[-1]
    return {"rate": (last - first) / (ended - began), "steps": last - first}


def settling(cell: dict) -> dict:
    """The step at which the schedule has settled, for each of a few seeds."""
    seen = {}
    for seed in cell["seeds"]:
        run(
            cell, seed, lambda step, decoder: seen.setdefault(step, []).append(decoder.detach().double().numpy().copy())
        )
    decoders = np.array(list(seen.values()))
    return {"settled": settled(decoders, PROBLEMS[cell["problem"]].dictionary())}


def answer(cell: dict) -> dict:
    """Seconds for all seeds until the settled step, from those of one seed."""

    def look(step, _):
        if step >= cell["steps"]:
            raise Enough

    before = time.perf_counter()
    run(cell, cell["seed"], look)
    return {"seconds": (time.perf_counter() - before) * cell["n_seeds"]}
