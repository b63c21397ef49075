"""What is measured on each seed: planted families, and the diagnosis with and without them."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from matryoshka_mixing import metrics, plain, theory
from matryoshka_mixing.chapters.real_activations.data import (
    CHILDREN,
    FAMILIES,
    HERE,
    KINDS,
    MATRYOSHKA,
    REMEDY,
    SPREAD,
    STANDARD,
    WIDTHS,
    Planted,
    fit,
    plant,
    rows,
)
from matryoshka_mixing.diagnose import Diagnosis, diagnose
from matryoshka_mixing.sae import SAE

STORED = HERE / "results.npz"
SEEDS = (100, 101, 102, 103, 104)
"""The seeds of the stored results; each draws directions, firing, magnitudes, start and batches."""
DIAGNOSED = ("movement", "chance", "along", "permuted", "lean", "bound", "predicted", "agreement", "leans", "judged")


def predicted_cosines(places: Int[Tensor, "families three"]) -> Float[Tensor, "families children"]:
    """Cosines of a parent's latent with its children, by the re-weighted second moment of its family.

    A parent's latent in prefix i is drawn by every prefix that holds it and misses the child (`theory.unequal_ratios`,
    with magnitudes that vary by `SPREAD`).

    Args:
        places: number of the first prefix that holds the latent of parent, rare child and commoner child.
    """
    found = []
    for parent, *children in places.tolist():
        holds = len(WIDTHS) - parent
        alone = (1 - sum(CHILDREN)) * holds
        pulls = [q * max(child - parent, 0) for q, child in zip(CHILDREN, children, strict=True)]
        moment = torch.zeros(3, 3, dtype=torch.float64)
        moment[0, 0] = (alone + sum(pulls)) * (1 + SPREAD**2)
        for i, pull in enumerate(pulls, start=1):
            moment[i, i] = pull * (1 + SPREAD**2)
            moment[0, i] = moment[i, 0] = pull
        found.append(theory.top_eigenvector(moment)[1:])
    return torch.stack(found)


@dataclass(frozen=True)
class Families:
    """What one SAE made of the planted families; the last axis of each is the children, a rare and a commoner one.

    Attributes:
        cosines: of the parent's latent with each child, shape (families, children).
        predicted: the same by theory, for a Matryoshka SAE with latents in these prefixes.
        own: cosine of the parent's latent with the parent, shape (families,).
        child: cosine of each child's latent with the child.
        places: number of the prefix that each latent first is in, shape (families, three).
        recall_with, recall_without: share of the parent's inputs with and without the child on which its latent fires;
            NaN where the edge cannot be judged.
        partial: how much of the parent other latents write beside the child.
        fvu: fraction of variance unexplained by each prefix.
    """

    cosines: Tensor
    predicted: Tensor
    own: Tensor
    child: Tensor
    places: Tensor
    recall_with: Tensor
    recall_without: Tensor
    partial: Tensor
    fvu: Tensor


def read_families(sae: SAE, planted: Planted) -> Families:
    """Measure one SAE against what was planted."""
    sae, x = sae.map(Tensor.double), planted.rows.double()
    acts, parents = sae.encode(x), planted.tree.parents()
    probs = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
    decoder = metrics.decoder_cosines(sae, planted.dictionary)
    latents = metrics.match(decoder, metrics.live(acts))
    held = decoder[latents].unflatten(0, (FAMILIES, 3)).unflatten(-1, (FAMILIES, 3))
    held = held[torch.arange(FAMILIES), :, torch.arange(FAMILIES)]  # of each family its own features
    places = torch.bucketize(latents, torch.tensor(WIDTHS), right=True).reshape(FAMILIES, 3)
    edges = metrics.edges(sae, acts, latents, planted.acts, probs, planted.dictionary, parents)
    power = (x - x.mean(0)).square().sum()
    fvu = torch.stack([(x - sae.decode(acts, width)).square().sum() / power for width in WIDTHS])

    def each(share: Tensor) -> Tensor:
        return share.reshape(FAMILIES, len(CHILDREN))

    return Families(
        held[:, 0, 1:], predicted_cosines(places), held[:, 0, 0], held[:, [1, 2], [1, 2]], places,
        each(edges.recall_with), each(edges.recall_without), each(edges.partial), fvu,
    )  # fmt: skip


def switched(before: SAE, after: SAE, found: Diagnosis, seed: int) -> tuple[Tensor, Tensor]:
    """Cosine of what the remedy changed in each inner decoder with the refit's movement; and with another latent's."""
    inner = len(found.movement)
    units = [torch.nn.functional.normalize(w[:inner].double(), dim=-1) for w in (before.W_dec, after.W_dec)]
    refit = torch.nn.functional.normalize(found.refitted[:inner], dim=-1)

    def across(rows: Tensor) -> Tensor:
        return torch.nn.functional.normalize(rows - (rows * units[0]).sum(-1, keepdim=True) * units[0], dim=-1)

    change, movement = across(units[1]), across(refit)
    order = torch.randperm(inner, generator=torch.Generator().manual_seed(seed))
    return (change * movement).sum(-1), (change * across(refit[order])).sum(-1)


def run(seed: int, planted: bool = True, steps: int | None = None) -> dict[str, np.ndarray]:
    """Train one SAE of each kind and measure all; names are `kind.measure`.

    Args:
        seed: draws everything.
        planted: whether families are planted; without, only the diagnosis is made.
        steps: of the first training; None: the chapter's.
    """
    data = plant(rows(), seed) if planted else replace(plant(rows(), seed), rows=rows())
    found: dict[str, np.ndarray] = {}
    saes: dict[str, SAE] = {}
    for kind in KINDS:
        start = saes[MATRYOSHKA] if kind == REMEDY else None
        saes[kind] = sae = fit(kind, data.rows, seed, start, steps)
        diagnosis = diagnose(sae, data.rows, widths=WIDTHS if kind == STANDARD else None, seed=seed)
        for name in DIAGNOSED:
            found[f"{kind}.{name}"] = getattr(diagnosis, name).numpy()
        found[f"{kind}.fvu"] = np.array(diagnosis.fvu_prefixes)
        if kind == MATRYOSHKA:
            before = diagnosis
        if kind == REMEDY:
            found["switch.cosine"], found["switch.control"] = (
                values.numpy() for values in switched(saes[MATRYOSHKA], sae, before, seed)
            )
        if planted:
            for name, value in vars(read_families(sae, data)).items():
                found[f"{kind}.families.{name}"] = value.numpy()
    return found


def compute(
    seeds: tuple[int, ...] = SEEDS, steps: int | None = None, progress: bool = True, folder: Path | None = None
) -> dict[str, np.ndarray]:
    """Every seed, with families and without; names begin with `planted.` or `bare.`, the first axis is the seeds.

    With a `folder`, each run is kept there in the precision of the results, and a call that was stopped goes on.
    """
    from tqdm import tqdm

    found = {}
    jobs = [(name, seed) for seed in seeds for name in ("planted", "bare")]
    parts: dict[str, list] = {"planted": [], "bare": []}
    for name, seed in tqdm(jobs, disable=not progress, unit="seed"):
        path = folder and folder / f"{name}.{seed}.{steps or 'all'}.npz"
        if path is None or not path.is_file():
            one = run(seed, name == "planted", steps)
            if path is not None:
                store(one, path)
        parts[name].append(one if path is None else plain.read_arrays(path))
    for name, each in parts.items():
        for key in each[0]:
            found[f"{name}.{key}"] = np.stack([one[key] for one in each])
    return found | {"seeds": np.array(seeds)}


def store(found: dict[str, np.ndarray], path: Path = STORED) -> None:
    """Write the results in one move, in half the precision."""
    small: dict[str, Any] = {key: v.astype(np.float32) if v.dtype == np.float64 else v for key, v in found.items()}
    draft = path.with_name(f".{path.name}.{os.getpid()}.npz")
    try:
        np.savez_compressed(draft, **small)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def stored(path: Path = STORED) -> dict[str, np.ndarray]:
    """What `store` wrote."""
    kinds = [f"planted.{kind}.families.cosines" for kind in KINDS] + [f"bare.{kind}.lean" for kind in KINDS]
    return plain.read_arrays(path, {"seeds": kinds})
