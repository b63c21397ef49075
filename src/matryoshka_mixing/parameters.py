"""The parameters of the notebooks: one name for one thing everywhere, and what each may be."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from matryoshka_mixing.features import FeatureTree, family, orthonormal_dictionary


@dataclass(frozen=True)
class Parameter:
    """What a parameter means and what it may be.

    Attributes:
        meaning: in a few words, with the unit where there is one.
        low, high: the allowed range, both ends included.
        whole: whether it must be a whole number.
        tree_file: whether it is the path of a tree file, or empty, instead of a number.
    """

    meaning: str
    low: float = -math.inf
    high: float = math.inf
    whole: bool = False
    tree_file: bool = False

    @property
    def allowed(self) -> str:
        """The range in words."""
        if self.tree_file:
            return "the path of a JSON file, or empty"
        kind = "a whole number" if self.whole else "a number"
        return (
            f"{kind} of at least {self.low:g}"
            if self.high == math.inf
            else (f"{kind} from {self.low:g} to {self.high:g}")
        )


PARAMETERS = {
    "parent_probability": Parameter("probability that the parent fires", 1e-6, 1),
    "child_probability": Parameter("probability of each child given the parent", 1e-6, 1),
    "parent_magnitude": Parameter("activation of the parent when it fires", 1e-3, 1e3),
    "child_magnitude": Parameter("activation of the child when it fires", 1e-3, 1e3),
    "n_children": Parameter("number of mutually exclusive children", 2, 12, whole=True),
    "l1": Parameter("weight of the L1 penalty", 0),
    "inner_weight": Parameter("weight of the inner prefix in the loss (the outer one has weight 1)", 0.001),
    "d_model": Parameter("dimension of the input", 1, whole=True),
    "n_seeds": Parameter("random seeds for each experiment", 1, whole=True),
    "n_sweep_seeds": Parameter("random seeds at each point of a sweep", 1, whole=True),
    "seed": Parameter("number of the first seed", 0, whole=True),
    "start_noise": Parameter("noise of the starts near the truth, relative to a feature's length", 0),
    "n_steps": Parameter("training steps", 1, whole=True),
    "batch_size": Parameter("inputs in a batch, in the sampled runs", 1, whole=True),
    "n_grid": Parameter("points on the axis of each sweep", 3, whole=True),
    "tree_path": Parameter("a tree file of your own, in place of the chapter's", tree_file=True),
}


def check(namespace: Mapping[str, object]) -> None:
    """Check the parameters of a notebook: pass `globals()` right after the parameters cell.

    papermill accepts a misspelt name and ignores it; here it is an error.

    Raises:
        ValueError: naming the value, what is allowed, and what to do.
    """
    plain = (bool, int, float, str, list, type(None))
    for name, value in namespace.items():
        if name.startswith("_") or not name.islower() or not isinstance(value, plain):
            continue
        if name not in PARAMETERS:
            close = difflib.get_close_matches(name, PARAMETERS, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"The parameters are {', '.join(PARAMETERS)}."
            raise ValueError(f"{name} = {value!r} is not a parameter of these notebooks. {hint}")
        parameter = PARAMETERS[name]
        if parameter.tree_file:
            _check_tree(name, value)
            continue
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        fits = number and parameter.low <= value <= parameter.high
        if not fits or (parameter.whole and not isinstance(value, int)):
            raise ValueError(
                f"{name} = {value!r}: {parameter.meaning}. It must be {parameter.allowed}; "
                f"change it with `-p {name} VALUE`."
            )
    # Values that are fine alone may not fit together; the constructors say why.
    if {"parent_probability", "child_probability", "n_children"} <= set(namespace):
        tree = family(*(namespace[key] for key in ("parent_probability", "child_probability", "n_children")))
        if "d_model" in namespace:
            orthonormal_dictionary(tree.n_features, namespace["d_model"], torch.Generator())


def _check_tree(name: str, value: object) -> None:
    if not isinstance(value, str) or (value and not Path(value).is_file()):
        raise ValueError(f"{name} = {value!r}: no such file. It must be {PARAMETERS[name].allowed}.")
    if value:
        FeatureTree.from_json(value)


def table() -> str:
    """All parameters as a Markdown table, for the page on rerunning."""
    rows = [f"| `{name}` | {p.meaning} | {p.allowed} |" for name, p in PARAMETERS.items()]
    return "\n".join(["| parameter | meaning | allowed |", "| --- | --- | --- |", *rows]) + "\n"
