"""The parameters of the notebooks: one name for one thing everywhere, and what each may be.

A chapter declares its parameters once, as a frozen dataclass whose fields come from `given`::

    @dataclass(frozen=True)
    class Parameters(Chapter):
        child_probability: float = given("child_probability", 0.4)
        d_model: int = given("d_model", 20, low=9)

From it come the notebook's `parameters` cell with its comments, the check of what papermill injects, and the table on
the page about rerunning.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch

from matryoshka_mixing.features import FeatureTree, orthonormal_dictionary, part_of_one

MOST_HOURS, MOST_GIGABYTES = 5.0, 8.0
"""How many hours of one core, and how much memory, a notebook begins to use without being urged (our defaults)."""
INSIST = "MATRYOSHKA_INSIST"
"""The environment variable that, when set, lets more begin."""

_PLAIN = (bool, int, float, complex, str, bytes, list, tuple, dict, set, type(None))
_IPYTHON = {"In", "Out"}


@dataclass(frozen=True)
class Parameter:
    """What a parameter means and what it may be.

    Attributes:
        meaning: in a few words, with the unit where there is one.
        low, high: the allowed range, both ends included.
        whole: whether it must be a whole number.
        tree_file: whether it is the path of a tree file, or empty, instead of a number.
        choices: the words that it may be, if it is a word instead of a number.
    """

    meaning: str
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    tree_file: bool = False
    choices: tuple[str, ...] = ()

    @property
    def allowed(self) -> str:
        """The range in words."""
        if self.tree_file:
            return "the path of a JSON file, or empty"
        if self.choices:
            return f"one of {len(self.choices)} words, such as {self.choices[0]} or {self.choices[-1]}"
        kind = "a whole number" if self.whole else "a number"
        if self.high == math.inf:
            return f"{kind} of at least {_plain(self.low)}"
        return f"{kind} from {_plain(self.low)} to {_plain(self.high)}"

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError, with what is allowed and what to do, if the value is not."""
        if self.tree_file:
            if not isinstance(value, str) or (value and ("\0" in value or not os.path.isfile(value))):
                raise ValueError(f"{name} = {_short(value)}: no such file. It must be {self.allowed}.")
            if value:
                FeatureTree.from_json(value)
            return
        if self.choices:
            if value not in self.choices:
                every = ", ".join(self.choices)
                raise ValueError(f"{name} = {_short(value)}: {self.meaning}. It must be one of these: {every}.")
            return
        number = isinstance(value, int if self.whole else (int, float)) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:  # NaN and infinities are outside of every range
            raise ValueError(
                f"{name} = {_short(value)}: {self.meaning}. It must be {self.allowed}; change it "
                f"with `-p {name} VALUE`."
            )


def _short(value: object) -> str:
    """A value as Python writes it, cut where it is long."""
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:79]}…"


def _plain(number: float) -> str:
    """A bound as people write it."""
    return str(int(number)) if number == int(number) and abs(number) < 1e12 else f"{number:g}"


PARAMETERS = {
    "parent_probability": Parameter("probability that the parent fires", 1e-6, 1),
    "child_probability": Parameter("probability of each child given the parent", 1e-6, 1),
    "parent_magnitude": Parameter("activation of the parent when it fires", 1e-3, 1e3),
    "child_magnitude": Parameter("activation of the child when it fires", 1e-3, 1e3),
    "n_children": Parameter("number of mutually exclusive children", 2, 12, whole=True),
    "l1": Parameter("weight of the L1 penalty", 0, 10),
    "inner_weight": Parameter("weight of the inner prefix in the loss (the outer one has weight 1)", 0.001, 1000),
    "d_model": Parameter("dimension of the input", 1, 1000, whole=True),
    "n_seeds": Parameter("random seeds for each experiment", 1, 10_000, whole=True),
    "n_sweep_seeds": Parameter("random seeds at each point of a sweep", 1, 10_000, whole=True),
    "n_trained": Parameter("seeds to train again", 0, 1000, whole=True),
    "seed": Parameter("number of the first seed", 0, 1_000_000_000, whole=True),
    "start_noise": Parameter("noise of the starts near the truth, relative to the length of a feature", 0, 10),
    "n_steps": Parameter("training steps", 1, 1_000_000, whole=True),
    "batch_size": Parameter("inputs in a batch, in the sampled runs", 1, 1_000_000, whole=True),
    "n_grid": Parameter("points on the axis of each sweep", 3, 1000, whole=True),
    "remedy": Parameter("remedy beside plain Matryoshka", choices=("ours",)),
    "tree_path": Parameter("tree file of your own, in place of that of the chapter", tree_file=True),
}
"""What the names mean in every chapter; a chapter may narrow a range or sharpen a meaning for itself."""


def given(name: str, default: Any, **changes: Any) -> Any:
    """A field of a chapter's `Parameters`: its default, and what `PARAMETERS` says of the name, with changes."""
    return field(default=default, metadata={"parameter": replace(PARAMETERS[name], **changes)})


Own = TypeVar("Own", bound="Chapter")


@dataclass(frozen=True)
class Chapter:
    """The parameters of one chapter; see the module's docstring. Values are checked on construction.

    Raises:
        ValueError: naming the value, what is allowed, and what to do.
    """

    def __post_init__(self) -> None:
        for name, parameter in self.described().items():
            parameter.check(name, getattr(self, name))
        self.check_together()

    def needs(self) -> tuple[float, float]:
        """Hours of one core, and gigabytes of memory, that are asked for, roughly; some chapters count their own.

        Some runs of all seeds, two of them on sampled batches, and some maps of a few seeds.
        """
        sizes = {"n_steps": 1, "n_seeds": 0, "n_grid": 1, "n_sweep_seeds": 0, "d_model": 20, "batch_size": 0}
        value = sizes | {"n_children": 2} | dataclasses.asdict(self)
        saes = 8 * value["n_seeds"] + value["n_grid"] ** 2 * value["n_sweep_seeds"]
        each = 2e-6 * max(1, value["d_model"] / 20)
        drawn = 4e-8 * 2 * value["n_seeds"] * value["batch_size"]
        held = 4 * 8 * 3 * (value["n_children"] + 1) * value["d_model"]
        return value["n_steps"] * (saes * each + drawn) / 3600, saes * held / 1e9

    def check_together(self) -> None:
        """Raise ValueError where values that are fine alone do not fit together. Chapters extend it."""
        values = dataclasses.asdict(self)
        if {"parent_probability", "child_probability", "n_children"} <= set(values) and not values.get("tree_path"):
            chance, n = values["child_probability"], values["n_children"]
            if n * chance > 1 + 1e-9:
                fewer = int(1 / chance + 1e-9)
                hint = f", or n_children to {fewer} or less" if fewer >= self.described()["n_children"].low else ""
                raise ValueError(
                    f"n_children = {n} and child_probability = {chance}: the children are mutually exclusive, and "
                    f"their probabilities sum to {n * chance:g}; at most 1 is possible. Lower child_probability to "
                    f"{part_of_one(n):g} or less{hint}."
                )
            if "d_model" in values:
                orthonormal_dictionary(n + 1, values["d_model"], torch.Generator())
        hours, gigabytes = self.needs()
        if (hours > MOST_HOURS or gigabytes > MOST_GIGABYTES) and not os.environ.get(INSIST):
            counts = [f"{key} = {values[key]}" for key in values if key.startswith(("n_", "d_model", "batch"))]
            counts += [f"tree_path = {values['tree_path']!r}"] if values.get("tree_path") else []
            raise ValueError(
                f"{', '.join(counts)}: together some {hours:,.1f} hours of one core and {gigabytes:,.1f} GB of memory; "
                f"at most {MOST_HOURS:g} hours and {MOST_GIGABYTES:g} GB are begun unasked. Lower one of them, or set "
                f"{INSIST}=1 to insist."
            )

    @classmethod
    def described(cls) -> dict[str, Parameter]:
        """Every parameter of the chapter by name."""
        return {entry.name: entry.metadata["parameter"] for entry in fields(cls)}

    @classmethod
    def of(cls: type[Own], namespace: Mapping[str, object]) -> Own:
        """The parameters that a notebook holds: pass `globals()` before anything else is assigned.

        papermill accepts a misspelt name, or one of another chapter, and ignores it; here it is an error.
        """
        known = cls.described()
        for name, value in namespace.items():
            if name.startswith("_") or name in _IPYTHON or name in known or not isinstance(value, _PLAIN):
                continue
            close = difflib.get_close_matches(name.lower(), known, n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            elsewhere = "a parameter of other chapters" if name in PARAMETERS else "not a parameter of this chapter"
            raise ValueError(
                f"{name} = {_short(value)} is {elsewhere}. {hint}The parameters here are {', '.join(known)}."
            )
        return cls(**{name: namespace[name] for name in known if name in namespace})

    @classmethod
    def cell(cls) -> str:
        """The notebook's `parameters` cell: names, defaults, and in comments what they mean and may be."""
        return "\n".join(
            f"{entry.name} = {json.dumps(entry.default)}  # {parameter.meaning}: {parameter.allowed}"
            for entry, parameter in zip(fields(cls), cls.described().values(), strict=True)
        )

    @classmethod
    def table(cls) -> str:
        """The same as a Markdown table."""
        rows = [
            f"| `{entry.name}` | `{entry.default!r}` | {parameter.meaning} | {parameter.allowed} |"
            for entry, parameter in zip(fields(cls), cls.described().values(), strict=True)
        ]
        return "\n".join(["| parameter | default | meaning | allowed |", "| --- | --- | --- | --- |", *rows]) + "\n"
