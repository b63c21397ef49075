"""The problems that every contender trains on, in numpy alone: a contender imports its own library and no other."""

import itertools
from dataclasses import dataclass

import numpy as np

D_IN = 20
L1 = 0.03
STEPS, LR, BETAS, EPS, WARMUP, COOLDOWN = 3000, 0.02, (0.9, 0.999), 1e-8, 0.02, 0.6
"""The project's default schedule (`TrainConfig`): for ours, JAX and the plain loop."""
EVERY = 10
"""Steps between two looks at a decoder, where it is watched."""


@dataclass(frozen=True)
class Problem:
    """Parents with exclusive children, and independent features beside them; and an SAE for them."""

    parents: int
    parent: float
    children: int
    child: float
    loose: int
    widths: tuple[int, ...]
    loose_prob: float = 0.05

    @property
    def n_features(self) -> int:
        """Number of features."""
        return self.parents * (1 + self.children) + self.loose

    @property
    def few(self) -> bool:
        """Whether the inputs are so few that one can train on all of them at every step."""
        return self.n_features == 3

    def states(self) -> tuple[np.ndarray, np.ndarray]:
        """All inputs as activations of the features, and how likely each is."""
        child = np.eye(1 + self.children)
        child[:, 0] = 1
        family = [(np.zeros(1 + self.children), 1 - self.parent)]
        family += [(child[0], self.parent * (1 - self.children * self.child))]
        family += [(row, self.parent * self.child) for row in child[1:]]
        loose = [(np.zeros(1), 1 - self.loose_prob), (np.ones(1), self.loose_prob)]
        rows = list(itertools.product(*[family] * self.parents, *[loose] * self.loose))
        acts = np.array([np.concatenate([acts for acts, _ in row]) for row in rows])
        return acts, np.array([np.prod([prob for _, prob in row]) for row in rows])

    def dictionary(self) -> np.ndarray:
        """Orthonormal directions of the features, the same for every SAE."""
        drawn = np.random.default_rng(0).standard_normal((D_IN, self.n_features))
        return np.ascontiguousarray(np.linalg.qr(drawn)[0].T)


PROBLEMS = {
    "hierarchy, one latent": Problem(1, 0.3, 2, 0.4, 0, (1,)),
    "hierarchy, widths 1 and 3": Problem(1, 0.3, 2, 0.4, 0, (1, 3)),
    "tree, 20 latents": Problem(3, 0.15, 3, 0.2, 8, (20,)),
    "tree, 20 prefixes": Problem(3, 0.15, 3, 0.2, 8, tuple(range(1, 21))),
}


def learning_rates(steps: int, total: int = STEPS) -> np.ndarray:
    """The rates of the first `steps` updates of the schedule of `total`: `TrainConfig.learning_rate`, all at once."""
    step = np.arange(steps)
    rise = np.minimum(1.0, (step + 1) / (WARMUP * total))
    left = np.clip((total - step) / (COOLDOWN * total), 0.0, 1.0)
    return LR * rise * left * left * (3.0 - 2.0 * left)


def settled(decoders: np.ndarray, directions: np.ndarray, within: float = 1e-3) -> list[int]:
    """For each seed the step from which on all cosines with all features stay `within` of the last ones.

    Args:
        decoders: shape (looks, seeds, latents, d_in), one look every `EVERY` steps.
        directions: of the features.
        within: see above.
    """
    norms = np.linalg.norm(decoders, axis=-1, keepdims=True)
    cosines = decoders / np.maximum(norms, 1e-12) @ directions.T
    outside = np.abs(cosines - cosines[-1]).max((2, 3)) > within
    return [int(late[-1] + 1) * EVERY if len(late := np.flatnonzero(seed)) else 0 for seed in outside.T]
