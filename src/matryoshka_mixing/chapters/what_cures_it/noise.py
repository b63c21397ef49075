"""Where the remedy ends: inputs with noise that the penalty is too small for."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from matryoshka_mixing import _random, metrics, remedy
from matryoshka_mixing.features import FeatureTree, States, orthonormal_dictionary
from matryoshka_mixing.sae import SAEConfig, start_near
from matryoshka_mixing.training import Setting, TrainConfig

FAMILIES, D_IN, ROWS, SEEDS = 4, 24, 1500, 3
"""Families of a parent (probability .12) and two exclusive children (.35 and .25 given it), in so many noisy rows."""
NOISE = 0.02
"""Standard deviation of the noise in every number of a row; a feature has length 1."""
RATIOS = (0.5, 1.0, 2.5)
"""The penalty over the noise."""
TRAINING = TrainConfig(1500, lr=0.01, batch_size=200)


def own_cosines(noise: float = NOISE, ratios: Sequence[float] = RATIOS, seeds: int = SEEDS) -> pd.DataFrame:
    """The mean cosine of inner latents with their own parents, from near the truth, after each of the three stages.

    Args:
        noise: see `NOISE`; above 0.
        ratios: of the penalty to the noise, a line each.
        seeds: of the start and the batches; all see the same rows, as an SAE on activations would.
    """
    family = FeatureTree(0.12, (FeatureTree(0.35), FeatureTree(0.25)), True)
    tree = FeatureTree(1.0, (family,) * FAMILIES, is_read_out=False)
    directions, order = orthonormal_dictionary(tree.n_features, D_IN, 0), tree.by_level()
    rows = tree.sample(ROWS, 0) @ directions + noise * _random.normals((ROWS, D_IN), 0, _random.NOISE)
    data = States(rows, torch.full((ROWS,), 1 / ROWS, dtype=torch.float64))
    start = start_near(directions, range(seeds), 0.3, order=order)
    settings = [Setting(SAEConfig(D_IN, (FAMILIES, tree.n_features), l1=noise * ratio), data) for ratio in ratios]
    stages, parents = remedy.remedied(settings, start, TRAINING), order[:FAMILIES]

    def own(sae) -> list[float]:
        cosines = metrics.decoder_cosines(sae, directions)[..., range(FAMILIES), parents]
        return cosines.mean((-2, -1)).tolist()

    index = pd.Index(ratios, name="penalty / noise")
    found = {"plain": own(stages.plain), "split": own(stages.split), "ours": own(stages.settled)}
    return pd.DataFrame(found, index=index)
