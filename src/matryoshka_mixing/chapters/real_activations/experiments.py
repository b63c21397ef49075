"""What is measured on each seed: planted families, the diagnosis with and without them, and a map of other sizes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from matryoshka_mixing import metrics, plain, theory
from matryoshka_mixing._commands import write_arrays
from matryoshka_mixing.chapters.real_activations.data import (
    BASE,
    CHILDREN,
    DELTAS,
    FAMILIES,
    HERE,
    KINDS,
    MATRYOSHKA,
    REMEDY,
    SPREAD,
    STANDARD,
    WIDTHS,
    Planted,
    Point,
    fit,
    plant,
    rows,
)
from matryoshka_mixing.diagnose import Diagnosis, diagnose
from matryoshka_mixing.sae import SAE

STORED = HERE / "results.npz"
SEEDS = tuple(range(200, 210))
"""The seeds of the stored results; each draws directions, firing, magnitudes, start and batches."""
DIAGNOSED = ("movement", "chance", "along", "permuted", "lean", "bound", "predicted", "agreement", "leans", "judged")

MAP = HERE / "map.npz"
POINTS = {
    "as above": BASE,
    "K = 16": Point(k=16),
    "magnitude 6": Point(magnitude=6.0),
    "K = 16, magnitude 6": Point(k=16, magnitude=6.0),
    "a child of .4": Point(children=(0.08, 0.4)),
    "512 latents": Point(widths=(32, 128, 512)),
}
"""What the map moves, from the chapter's own point."""
MAPPED, MAP_STEPS, MAP_SEEDS = (STANDARD, MATRYOSHKA), 2000, SEEDS[:3]
"""What is trained at each, for how many steps (as many as the chapter's), and on which seeds."""
READ = ("cosines", "predicted", "own", "child", "places", "recall_with", "recall_without")
"""What is kept of `Families` there."""


def predicted_cosines(
    places: Int[Tensor, "families three"], point: Point = BASE, detached: bool = False
) -> Float[Tensor, "families children"]:
    """Cosines of a parent's latent with its children, by the re-weighted second moment of its family.

    A parent's latent in prefix i is drawn by every prefix that holds it and misses the child (`theory.unequal_ratios`,
    with magnitudes that vary by `SPREAD`); with detached deltas by prefix i alone.

    Args:
        places: number of the first prefix that holds the latent of parent, rare child and commoner child.
        point: what was planted and trained.
        detached: for detached deltas.
    """
    found = []
    for parent, *children in places.tolist():
        holds = 1 if detached else len(point.widths) - parent
        alone = (1 - sum(point.children)) * holds
        missing = [min(max(child - parent, 0), holds) for child in children]
        pulls = [q * prefixes for q, prefixes in zip(point.children, missing, strict=True)]
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
        predicted: the same by theory, for a Matryoshka SAE (or detached deltas) with latents in these prefixes.
        own: cosine of the parent's latent with the parent, shape (families,).
        elsewhere: the same with the commoner children of the other families, mean over them.
        child: cosine of each child's latent with the child.
        places: number of the prefix that each latent first is in, shape (families, three).
        recall_with, recall_without: share of the parent's inputs with and without the child on which its latent fires
            (the one that `metrics.assign` gives it); NaN where the edge cannot be judged.
        partial: how much of the parent other latents write beside the child.
        fvu: fraction of variance unexplained by each prefix.
        latents: numbers of the latents of parent, rare and commoner child, shape (families, three); -1: none.
    """

    cosines: Tensor
    predicted: Tensor
    own: Tensor
    elsewhere: Tensor
    child: Tensor
    places: Tensor
    recall_with: Tensor
    recall_without: Tensor
    partial: Tensor
    fvu: Tensor
    latents: Tensor


def read_families(sae: SAE, planted: Planted, detached: bool = False) -> Families:
    """Measure one SAE against what was planted; `detached` says how it was trained."""
    point, widths = planted.point, planted.point.widths
    sae, x = sae.map(Tensor.double), planted.rows.double()
    acts, parents = sae.encode(x), planted.tree.parents()
    probs = torch.full((len(x),), 1 / len(x), dtype=torch.float64)
    decoder = metrics.decoder_cosines(sae, planted.dictionary)
    latents = metrics.match(decoder, metrics.live(acts))
    held = decoder[latents].unflatten(0, (FAMILIES, 3)).unflatten(-1, (FAMILIES, 3))
    commoner = held[:, 0, :, 2]
    elsewhere = (commoner.sum(-1) - commoner.diagonal()) / (FAMILIES - 1)
    held = held[torch.arange(FAMILIES), :, torch.arange(FAMILIES)]  # of each family its own features
    places = torch.bucketize(latents, torch.tensor(widths), right=True).reshape(FAMILIES, 3)
    seen = planted.acts, probs, planted.dictionary, parents
    edges = metrics.edges(sae, acts, metrics.assign(sae, acts, *seen), *seen)
    power = (x - x.mean(0)).square().sum()
    fvu = torch.stack([(x - sae.decode(acts, width)).square().sum() / power for width in widths])

    def each(share: Tensor) -> Tensor:
        return share.reshape(FAMILIES, len(CHILDREN))

    return Families(
        held[:, 0, 1:], predicted_cosines(places, point, detached), held[:, 0, 0], elsewhere, held[:, [1, 2], [1, 2]],
        places,
        each(edges.recall_with), each(edges.recall_without), each(edges.partial), fvu,
        latents.reshape(FAMILIES, 3),
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


def run(
    seed: int, planted: bool = True, steps: int | None = None, kinds: tuple[str, ...] = KINDS
) -> dict[str, np.ndarray]:
    """Train one SAE of each kind and measure all; names are `kind.measure`.

    Args:
        seed: draws everything.
        planted: whether families are planted; without, only the diagnosis is made.
        steps: of the first training; None: the chapter's.
        kinds: of SAEs; the remedy goes on from the Matryoshka SAE.
    """
    data = plant(rows(), seed) if planted else replace(plant(rows(), seed), rows=rows())
    found: dict[str, np.ndarray] = {}
    saes: dict[str, SAE] = {}
    for kind in kinds:
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
            for name, value in vars(read_families(sae, data, kind == DELTAS)).items():
                if name != "latents":  # which tell nothing without the SAE
                    found[f"{kind}.families.{name}"] = value.numpy()
    return found


def run_point(name: str, seed: int, steps: int = MAP_STEPS) -> dict[str, np.ndarray]:
    """Train a standard and a Matryoshka SAE at one of the `POINTS`; names are `kind.measure`.

    `lean`, `leans` and `judged` are those of the diagnosis at each family's parent's latent: NaN, or false, where it is
    not an inner one.
    """
    point = POINTS[name]
    planted, inner = plant(rows(), seed, point), point.widths[-2]
    found: dict[str, np.ndarray] = {}
    for kind in MAPPED:
        sae = fit(kind, planted.rows, seed, None, steps, point)
        families = read_families(sae, planted)
        diagnosis = diagnose(sae, planted.rows, widths=point.widths, seed=seed)
        for measure in READ:
            found[f"{kind}.{measure}"] = getattr(families, measure).numpy()
        found[f"{kind}.fvu"] = families.fvu[-1:].numpy()
        parents = families.latents[:, 0]
        is_inner = (parents >= 0) & (parents < inner)
        at = parents.clamp(0, inner - 1)
        found[f"{kind}.lean"] = torch.where(is_inner, diagnosis.lean[at], torch.nan).numpy()
        for measure in ("leans", "judged"):
            found[f"{kind}.{measure}"] = (getattr(diagnosis, measure)[at] & is_inner).numpy()
    return found


def compute(
    seeds: tuple[int, ...] = SEEDS, steps: int | None = None, progress: bool = True, folder: Path | None = None,
    kinds: tuple[str, ...] = KINDS,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Every seed, with families and without; names begin with `planted.` or `bare.`, the first axis is the seeds.

    With a `folder`, each run is kept there in the precision of the results, and a call that was stopped goes on.
    """

    def one(name: str, seed: int) -> dict[str, np.ndarray]:
        return run(seed, name == "planted", steps, kinds)

    few = "" if kinds == KINDS else ".".join(kinds)
    return _each(one, ("planted", "bare"), seeds, progress, folder, f"{few}{steps or 'all'}")


def compute_map(
    seeds: tuple[int, ...] = MAP_SEEDS, steps: int = MAP_STEPS, progress: bool = True, folder: Path | None = None
) -> dict[str, np.ndarray]:
    """Every one of the `POINTS`, as `compute`; names begin with the point's."""

    def one(name: str, seed: int) -> dict[str, np.ndarray]:
        return run_point(name, seed, steps)

    return _each(one, tuple(POINTS), seeds, progress, folder, f"{steps}")


def _each(
    one: Callable[[str, int], dict[str, np.ndarray]], names: tuple[str, ...], seeds: tuple[int, ...], progress: bool,
    folder: Path | None, tag: str,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Every name with every seed; with a folder, what is there already is read."""
    from tqdm import tqdm

    parts: dict[str, list] = {name: [] for name in names}
    for seed, name in tqdm([(seed, name) for seed in seeds for name in names], disable=not progress, unit="run"):
        path = folder and folder / f"{name}.{seed}.{tag}.npz"
        if path is None:
            parts[name].append(one(name, seed))
            continue
        if not path.is_file():
            store(one(name, seed), path)
        parts[name].append(plain.read_arrays(path))
    found = {f"{name}.{key}": np.stack([run[key] for run in each]) for name, each in parts.items() for key in each[0]}
    return found | {"seeds": np.array(seeds)}


def store(found: dict[str, np.ndarray], path: Path = STORED) -> None:
    """Write the results in one move, in half the precision."""
    small: dict[str, Any] = {key: v.astype(np.float32) if v.dtype == np.float64 else v for key, v in found.items()}
    write_arrays(path, small)


def stored(path: Path = STORED, kinds: tuple[str, ...] = KINDS) -> dict[str, np.ndarray]:
    """What `store` wrote, which must hold these kinds of SAEs."""
    names = [f"planted.{kind}.families.cosines" for kind in kinds] + [f"bare.{kind}.lean" for kind in kinds]
    return plain.read_arrays(path, {"seeds": names})


def stored_map(path: Path = MAP) -> dict[str, np.ndarray]:
    """What `store` wrote of a map."""
    cosines = [f"{name}.{kind}.cosines" for name in POINTS for kind in MAPPED]
    return plain.read_arrays(path, {"seeds": cosines})
