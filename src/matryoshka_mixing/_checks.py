"""Values as users give them, of Python's, NumPy's or PyTorch's types, as Python's own; or an error in words."""

from __future__ import annotations

import operator
from numbers import Integral
from typing import Any

import numpy as np


def whole(name: str, value: Any) -> int:
    """A whole number, however it comes (Python's or NumPy's); booleans and fractions are refused."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{name} holds {value!r}; it must be a whole number.") from None


def several(name: str, values: Any, what: str) -> tuple:
    """Values, however they come, as a tuple; where only one is given the error says `what` there should be."""
    try:
        return tuple(values)
    except TypeError:
        raise ValueError(f"{name} are {values!r}; give {what}.") from None


def seed_numbers(seeds: Any) -> tuple[int, ...]:
    """Seeds as whole numbers, at least one."""
    given = several("seeds", seeds, "the number of each, such as range(64)")
    if not (numbers := tuple(whole("seeds", seed) for seed in given)):
        raise ValueError("no seeds were given; give at least 1, such as range(1).")
    if min(numbers) < 0:
        raise ValueError(f"seeds hold {min(numbers)}; a seed must be at least 0.")
    return numbers


def flag(name: str, value: Any) -> bool:
    """True or false, of Python or NumPy; other things, which Python would take for one of them, are refused."""
    if not isinstance(value, bool | np.bool_):
        raise ValueError(f"{name} is {repr(value)[:80]}; it must be True or False.")
    return bool(value)


def number(name: str, value: Any) -> int | float:
    """A number as Python's own, however it comes; text and booleans are refused."""
    try:
        if isinstance(value, bool | str):
            raise TypeError
        return int(value) if isinstance(value, Integral) else float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} is {repr(value)[:80]}; it must be a number.") from None
