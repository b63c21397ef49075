"""Random numbers that are the same on every CPU: a counter, whole-number mixing, and sums in a fixed order.

PyTorch's normal numbers, and any QR decomposition, differ in their last digit from one CPU to another, and training
carries that on. Every stream here starts at a key of its own, so a seed draws the same in any company.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numba import njit
from torch import Tensor


def _forget_stale_code() -> None:
    """Remove cached machine code that is older than a source it was made from.

    numba looks at the file of a function alone, and the compiled functions of these files call each other.
    """
    here = Path(__file__).parent
    sources = [here / f"{name}.py" for name in ("_random", "_lanes", "_batches", "_kernel", "_abreast")]
    newest = max((path.stat().st_mtime for path in sources if path.is_file()), default=0.0)
    for path in [*here.glob("__pycache__/*.nbi"), *here.glob("*/__pycache__/*.nbi")]:
        with suppress(OSError):
            if path.stat().st_mtime < newest:
                path.unlink()


_forget_stale_code()

OPTIONS = {"cache": True, "nogil": True, "error_model": "numpy"}
"""How everything is compiled: no fast-math, so that no sum is reordered and nothing contracted."""
INSIDE = OPTIONS | {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}
"""Of functions that compiled code alone calls: what would let Python call them takes a second or two to compile."""
INNER = INSIDE | {"forceinline": True}
"""Of those that are called in one place: a call with all their arguments costs as much as an input does."""

DICTIONARY, START, NOISE, BATCHES, PREFIXES = range(5)
"""What a stream is for, as its last number: the directions of a seed have nothing to do with its start."""


def stream(*numbers: int) -> np.ndarray:
    """The stream of these numbers (at least 0): its counter, to be passed to `uniform` and `normal`."""
    return np.random.SeedSequence(numbers).generate_state(1, np.uint64)


@njit(**OPTIONS)
def uniform(counter):
    """The next number of a stream, uniform in [0, 1): SplitMix64 (Steele, Lea and Flood 2014), its upper 53 bits."""
    counter[0] += np.uint64(0x9E3779B97F4A7C15)
    z = counter[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return np.float64(np.int64(z >> np.uint64(11))) * 2.0**-53


@njit(**OPTIONS)
def logarithm(x):
    """ln(x) of a number in (0, 1], to about 1e-15, from products and sums alone.

    x = 2^-k y with y in [1/sqrt(2), sqrt(2)]; ln y = 2 artanh((y - 1) / (y + 1)).
    """
    halvings = 0
    while x < 0.7071067811865476:
        x *= 2.0
        halvings += 1
    z = (x - 1.0) / (x + 1.0)
    square, power, series = z * z, 1.0, 0.0
    for i in range(13):
        series += power / (2 * i + 1)
        power *= square
    return 2.0 * z * series - halvings * 0.6931471805599453


@njit(**OPTIONS)
def normal(counter):
    """A standard normal number: the polar method (Marsaglia and Bray 1964), one of each pair."""
    while True:
        x, y = 2.0 * uniform(counter) - 1.0, 2.0 * uniform(counter) - 1.0
        s = x * x + y * y
        if 0.0 < s < 1.0:
            return x * np.sqrt(-2.0 * logarithm(s) / s)


@njit(**OPTIONS)
def _fill(counter, flat):
    for i in range(len(flat)):
        flat[i] = normal(counter)


def normals(shape: tuple[int, ...], *numbers: int) -> Float[Tensor, ...]:
    """Standard normal numbers of the stream of these numbers, float64."""
    flat = np.empty(int(np.prod(shape)))
    _fill(stream(*numbers), flat)
    return torch.from_numpy(flat.reshape(shape))


@njit(**OPTIONS)
def _lengths(rows, found):
    for i in range(rows.shape[0]):
        squares = 0.0
        for j in range(rows.shape[1]):
            squares += rows[i, j] * rows[i, j]
        found[i] = np.sqrt(squares)


def lengths(rows: Float[Tensor, "*rows n"]) -> Float[Tensor, "*rows 1"]:
    """Euclidean length of each row, summed from left to right."""
    flat = np.ascontiguousarray(rows.reshape(-1, rows.shape[-1]).numpy())
    found = np.empty(len(flat))
    _lengths(flat, found)
    return torch.from_numpy(found).reshape(*rows.shape[:-1], 1)


@njit(**OPTIONS)
def _orthonormalise(rows):
    for i in range(rows.shape[0]):
        for _ in range(2):  # twice is enough
            for j in range(i):
                along = 0.0
                for c in range(rows.shape[1]):
                    along += rows[i, c] * rows[j, c]
                for c in range(rows.shape[1]):
                    rows[i, c] -= along * rows[j, c]
        squares = 0.0
        for c in range(rows.shape[1]):
            squares += rows[i, c] * rows[i, c]
        for c in range(rows.shape[1]):
            rows[i, c] /= np.sqrt(squares)


def orthonormal(n: int, d: int, *numbers: int) -> Float[Tensor, "n d"]:
    """Random orthonormal rows, n of d numbers (n at most d): Gaussian rows after Gram and Schmidt, uniform over all."""
    rows = normals((n, d), *numbers).numpy()
    _orthonormalise(rows)
    return torch.from_numpy(rows)
