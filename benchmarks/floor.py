"""The least that one training step of one SAE has to do: counted from the formulas, timed at this machine's speed."""

import time

import numpy as np
from problems import D_IN, Problem

STREAM = 2.0**-53


def floor(problem: Problem, size: int | None) -> dict[str, float]:
    """What a step of one SAE with both biases and an L1 penalty must do, if one thinks in features.

    With F features, d dimensions, k latents, r = k + 1 decoder rows (the bias is a row that is always on) and, summed
    over the B distinct inputs of a batch, f active features and a active latents (as many as features, if there are
    latents for them; ff, fa and so on are sums of the products):

        encoder rows, as the features see them, and their gradient from there     2 x 2 F k d
        b_dec in the encoder, and its two gradients                               3 x 2 k d
        pre-activations; their gradients, by feature                              2 f k + 2 fa
        decoder: the cheaper of
          rows: inputs less b_dec and latents, latent by latent; slopes, moments  (2 f + 10 a + 4 B) d
          products: decoder rows with features and one another, and back;         4 F r d + d r (r + 1) + 2 d r^2
            for each input their sums, and their second moments                   + 4 fa + 3 aa + a
        penalty: norms of the decoder rows, and their gradient                    2 x 2 k d
        Adam                                                                      11 for each parameter

    and a square root and a division for each of the 2 k d + k + d parameters and k norms. All prefixes cost what one
    does. A sampled batch needs a random number for each distinct input: how often it comes. What is read and written
    stays in the cache.
    """
    acts, probs = problem.states()
    there = np.ones(len(acts)) if size is None else 1 - (1 - probs) ** size  # chance to be in a batch
    features = (acts > 0).sum(1)
    latents = np.minimum(features, problem.widths[-1])
    B, f, a = there.sum(), there @ features, there @ latents
    fa, aa = there @ (features * latents), there @ (latents * latents)
    F, d, k = problem.n_features, D_IN, problem.widths[-1]
    r, parameters = k + 1, 2 * k * d + k + d
    by_rows = (2 * f + 10 * a + 4 * B) * d
    by_products = 4 * F * r * d + d * r * (r + 1) + 2 * d * r * r + 4 * fa + 3 * aa + a
    arithmetic = 4 * F * k * d + 10 * k * d + 2 * f * k + 2 * fa + min(by_rows, by_products) + 11 * parameters
    return {
        "inputs": float(B), "arithmetic": float(arithmetic), "root": parameters + k, "division": parameters + k,
        "draw": float(B) if size else 0,
    }  # fmt: skip


def speeds(cell: dict) -> dict[str, float]:
    """Operations of each kind per second on one core, in float64: the best of a few loops that stay in the cache."""
    from numba import njit

    # As the trainer is compiled: nothing reordered, nothing contracted.
    @njit(error_model="numpy")
    def arithmetic(a, out):
        for i in range(a.size):
            x = a[i]
            x = ((((x * 0.9 + 0.1) * 0.9 + 0.1) * 0.9 + 0.1) * 0.9 + 0.1) * 0.9 + 0.1
            out[i] = (((x * 0.9 + 0.1) * 0.9 + 0.1) * 0.9 + 0.1) * 0.9 + 0.1

    @njit(error_model="numpy")
    def root(a, out):
        for i in range(a.size):
            out[i] = np.sqrt(a[i])

    @njit(error_model="numpy")
    def division(a, out):
        for i in range(a.size):
            out[i] = 0.7 / a[i]

    @njit(error_model="numpy")
    def draw(a, out):  # SplitMix64
        for i in range(a.size):
            z = np.uint64(i) * np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            out[i] = np.float64(np.int64((z ^ (z >> np.uint64(31))) >> np.uint64(11))) * STREAM

    a, out, found = np.random.default_rng(0).uniform(0.5, 1.5, 1024), np.empty(1024), {}

    for loop, operations in ((arithmetic, 18), (root, 1), (division, 1), (draw, 1)):
        loop(a, out)

        @njit
        def many(a, out, times, loop=loop):
            for _ in range(times):
                loop(a, out)

        many(a, out, 1)
        taken = []
        for _ in range(7):
            before = time.perf_counter()
            many(a, out, 5000)
            taken.append(time.perf_counter() - before)
        found[loop.__name__] = operations * 5000 * a.size / min(taken)
    return found


def least(counts: dict[str, float], speed: dict[str, float]) -> dict[str, float]:
    """Seconds of each part at such speeds."""
    return {part: counts[part] / speed[part] for part in speed}
