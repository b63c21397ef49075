"""Turn a sweep file into runs of one chapter's notebook, and refuse a bad one before anything runs.

A sweep file is YAML::

    chapter: 03_matryoshka_inherits      # a notebook, by its name without ending
    profile: quick                       # one of notebooks/profiles, or none for the notebook's own values
    fixed: {n_seeds: 64}                 # parameters that all runs share
    seeds: [0, 1000]                     # number of the first seed of each run; every point runs once with each
    unfit: refuse                        # or skip: leave out points that the chapter does not allow
    design:                              # one of these three
      grid: {child_probability: [0.1, 0.4], l1: [0, 0.1]}           # every combination
      one_at_a_time: {child_probability: [0.1], l1: [0.1, 0.3]}     # each value alone, and once none of them
      random:                                                       # a Latin hypercube
        runs: 40
        seed: 0
        ranges: {child_probability: [0.01, 0.5], l1: {low: 0.001, high: 1, log: true}, n_children: [2, 5]}

A range between whole numbers is one of whole numbers, for a parameter that has to be whole.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.stats import qmc

from matryoshka_mixing import plain
from matryoshka_mixing._commands import write_text
from matryoshka_mixing.parameters import Chapter

ROOT = Path(__file__).resolve().parent.parent
FIELDS = {"chapter", "profile", "fixed", "seeds", "unfit", "design"}
DESIGNS = ("grid", "one_at_a_time", "random")


@dataclass(frozen=True)
class Sweep:
    """The runs of one sweep.

    Attributes:
        name: of the sweep file, without ending.
        chapter: the notebook.
        varied: the parameters that the design moves.
        runs: all parameters of every run, by the run's id, which follows from chapter and parameters alone.
        left_out: points that the chapter does not allow, where the file says to skip them.
    """

    name: str
    chapter: str
    varied: tuple[str, ...]
    runs: Mapping[str, Mapping[str, Any]]
    left_out: int = 0


def parameters_of(chapter: str) -> type[Chapter]:
    """The parameter class of a notebook's chapter.

    Raises:
        ValueError: if there is no such notebook.
    """
    known = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
    if chapter not in known:
        raise ValueError(f"chapter is {chapter!r}; it must be one of {', '.join(known)}.")
    return importlib.import_module(f"matryoshka_mixing.chapters.{chapter.split('_', 1)[1]}").Parameters


def load(path: str | Path) -> Sweep:
    """Read a sweep file, expand its design, and check every point with the chapter's own parameter object.

    Raises:
        ValueError: naming the file, what is wrong, what is allowed, and what to do.
        OSError: if the file cannot be read.
    """
    path = Path(path)
    try:
        return _expanded(path.stem, plain.read_yaml(path))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None


def _expanded(name: str, sheet: Any) -> Sweep:
    if not isinstance(sheet, dict) or not {"chapter", "design"} <= set(sheet) <= FIELDS:
        given = sorted(sheet) if isinstance(sheet, dict) else sheet
        raise ValueError(f"a sweep file holds chapter, design and, if need be, {sorted(FIELDS)}; this one: {given}.")
    chapter = parameters_of(sheet["chapter"])
    known, fixed, unfit = chapter.described(), dict(sheet.get("fixed") or {}), sheet.get("unfit", "refuse")
    if unfit not in ("refuse", "skip"):
        raise ValueError(f"unfit is {unfit!r}; it must be refuse or skip.")
    profile = {key: value for key, value in _profile(sheet.get("profile")).items() if key in known}
    varied, points = _points(sheet["design"], known)
    for name in {*varied, *fixed} - set(known):
        chapter.of({name: 0})  # raises: there is no such parameter
    seeds = sheet.get("seeds", [None])
    if twice := set(varied) & set(fixed) or {"seed"} & {*varied, *(fixed if "seeds" in sheet else ())}:
        raise ValueError(f"{', '.join(sorted(twice))}: given twice. Say it under design, fixed or seeds, and once.")
    base = profile | fixed
    _refuse_shared(seeds, base.get("n_seeds", getattr(chapter(), "n_seeds", 1)))
    runs, refused = {}, []
    for point, seed in itertools.product(points, seeds):
        try:
            chosen = asdict(chapter.of(base | point | ({} if seed is None else {"seed": seed})))
        except ValueError as error:
            refused.append(f"{point or 'the fixed values'}: {error}")
            continue
        chosen = {key: _settled(key, value, getattr(chapter, key)) for key, value in chosen.items()}
        text = json.dumps([sheet["chapter"], chosen], sort_keys=True)
        runs[hashlib.sha256(text.encode()).hexdigest()[:12]] = chosen
    if refused and (unfit == "refuse" or not runs):
        total = len(points) * len(seeds)
        raise ValueError(
            f"{len(refused)} of {total} runs cannot run, the first with {refused[0]} "
            "Change the design, or write `unfit: skip` to leave such points out."
        )
    return Sweep(name, sheet["chapter"], tuple(varied), runs, len(refused))


def _settled(name: str, value: Any, default: Any) -> Any:
    """The one form of a value, whichever way it was written; a path holds from any folder."""
    if isinstance(default, float):
        return float(value)
    return os.path.abspath(value) if name.endswith("_path") and value else value


def _profile(name: str | None) -> dict[str, Any]:
    if name is None:
        return {}
    known = sorted(path.stem for path in (ROOT / "notebooks/profiles").glob("*.yml"))
    if name not in known:
        raise ValueError(f"profile is {name!r}; it must be one of {', '.join(known)}, or left out.")
    return plain.read_yaml(ROOT / f"notebooks/profiles/{name}.yml")


def _refuse_shared(seeds: Any, each: int) -> None:
    """Raise ValueError where two runs of one point would share random seeds, and so not be two."""
    if not isinstance(seeds, list) or not seeds:
        raise ValueError(f"seeds is {seeds!r}; it must be a list such as [0, 1000].")
    if len(seeds) > 1 and (shortest := min(np.diff(sorted(seeds)))) < each:
        raise ValueError(
            f"seeds {seeds} lie {shortest} apart, but a run takes {each} of them (n_seeds), so that some would be "
            f"taken twice. Keep them at least {each} apart."
        )


def _points(design: Any, known: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """The parameters that a design moves, and its points."""
    if not isinstance(design, dict) or len(design) != 1 or next(iter(design)) not in DESIGNS:
        raise ValueError(f"design is {design!r}; it must be one of {', '.join(DESIGNS)}, with what belongs to it.")
    ((kind, what),) = design.items()
    if kind == "random":
        return _random(what, known)
    if not isinstance(what, dict) or not what or not all(isinstance(v, list) and v for v in what.values()):
        raise ValueError(f"{kind} is {what!r}; it must give each parameter a list of values.")
    if kind == "grid":
        return list(what), [dict(zip(what, values, strict=True)) for values in itertools.product(*what.values())]
    return list(what), [{}, *({name: value} for name, values in what.items() for value in values)]


def _random(what: Any, known: Mapping[str, Any]) -> tuple[list[str], list[dict[str, Any]]]:
    """A Latin hypercube: each parameter's range is cut into as many parts as there are runs, one run in each."""
    if not isinstance(what, dict) or set(what) != {"runs", "seed", "ranges"} or not isinstance(what["ranges"], dict):
        raise ValueError(f"random is {what!r}; it must hold runs, seed and ranges.")
    if not isinstance(what["runs"], int) or what["runs"] < 1 or not what["ranges"]:
        raise ValueError(f"random asks for {what['runs']!r} runs over {what['ranges']!r}; give at least 1 of both.")
    cube = qmc.LatinHypercube(len(what["ranges"]), rng=np.random.default_rng(what["seed"])).random(what["runs"])
    columns = {}
    for (name, given), part in zip(what["ranges"].items(), cube.T, strict=True):
        span = dict(zip(("low", "high"), given, strict=False)) if isinstance(given, list) else given
        if not isinstance(span, dict) or not {"low", "high"} <= set(span) <= {"low", "high", "log"}:
            raise ValueError(f"the range of {name} is {given!r}; it must be [low, high] or {{low, high, log: true}}.")
        low, high, log = span["low"], span["high"], span.get("log", False)
        if not (0 < low < high if log else low < high):
            raise ValueError(f"{name} from {low} to {high}: low must be below high, and above 0 on a log scale.")
        whole = name in known and known[name].whole
        if whole and not log:  # every whole number gets the same share
            columns[name] = [int(value) for value in np.floor(low + part * (high + 1 - low))]
            continue
        values = low * (high / low) ** part if log else low + part * (high - low)
        columns[name] = [round(v) if whole else float(f"{v:.4g}") for v in values.tolist()]
    return list(columns), [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def write(sweep: Sweep, folder: str | Path) -> None:
    """Write `plan.json` and each run's `runs/ID/parameters.yml`, touching only files that differ."""
    plan = {"name": sweep.name, "chapter": sweep.chapter, "varied": sweep.varied, "runs": list(sweep.runs)}
    texts = {"plan.json": json.dumps(plan, indent=1) + "\n"}
    texts |= {f"runs/{run}/parameters.yml": yaml.safe_dump(dict(chosen)) for run, chosen in sweep.runs.items()}
    for name, text in texts.items():
        path = Path(folder) / name
        if not path.is_file() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, text)
