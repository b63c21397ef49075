"""Activations and labels from NumPy, safetensors, torch, Parquet and CSV files."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from matryoshka_mixing import exchange, plain
from matryoshka_mixing.diagnose import Shards

KINDS = (".npy", ".npz", ".safetensors", ".pt", ".pth", ".parquet")


class _Slices:
    """A tensor of a safetensors file, read a slice at a time."""

    def __init__(self, inner: Any):
        self.inner, self.shape = inner, tuple(inner.get_shape())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, some: slice) -> Any:
        return self.inner[some]


class _Later:
    """One of many files, opened when its rows are asked for: a process may not hold thousands open."""

    def __init__(self, path: Path, opened: Callable[[Path], Any]):
        self.path, self.opened, self.shape = path, opened, tuple(opened(path).shape)

    def __getitem__(self, some: slice) -> Any:
        return self.opened(self.path)[some]


def activations(given: Path | Sequence[Path], key: str | None = None) -> Any:
    """What has a `shape` and gives rows in slices. Files of NumPy (`.npy`), safetensors and torch are not read at once.

    Args:
        given: a file; a folder, whose files of one such kind are taken by name, numbers in numeric order (`x_2.npy`
            comes before `x_10.npy`); or several of these, in order. All their rows follow one another. A Parquet file
            holds a column for each dimension, or one column of lists, a torch file a tensor or tensors by name.
        key: name of the array in a file of arrays by name; needed if it holds several.

    Raises:
        ValueError: if the kind of file is unknown, a file is damaged or needs unpickling, `key` is not there, or files
            differ in d_in.
        OSError: if it cannot be read.
    """
    paths = [file for path in ([given] if isinstance(given, Path) else given) for file in _files(path)]
    if len(paths) == 1:
        return _one(paths[0], key)
    opened = lru_cache(2)(lambda path: _one(path, key))
    return Shards([_Later(path, opened) for path in paths], [str(path) for path in paths])


def _files(path: Path) -> list[Path]:
    """A file, or those of a folder."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"{path} is no file and no folder; activations come as {KINDS}.")
    found = [file for file in path.iterdir() if file.suffix in KINDS and file.name[0] != "." and file.is_file()]
    if len(kinds := sorted({file.suffix for file in found})) != 1:
        raise ValueError(
            f"{path} is a folder with files of the kinds {kinds}; one of {KINDS} alone is taken. Name files one by one."
        )

    def place(file: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", file.stem)]

    return sorted(found, key=lambda file: (place(file), file.name))


def _one(path: Path, key: str | None) -> Any:
    """The rows of one file."""
    from safetensors import SafetensorError, safe_open

    try:
        if path.suffix == ".npy":
            return _array(path, "r")
        if path.suffix == ".npz":
            arrays = plain.read_arrays(path)
            return arrays[_chosen(path, list(arrays), key)]
        if path.suffix == ".safetensors":
            opened = safe_open(path, framework="pt")
            with opened as file:
                return _Slices(file.get_slice(_chosen(path, list(file.keys()), key)))
        if path.suffix in (".pt", ".pth"):
            return _tensor(path, key)
        if path.suffix == ".parquet":
            return _matrix(path)
    except (ValueError, EOFError, SafetensorError) as error:
        raise ValueError(f"{path} cannot be read as activations: {error}") from None
    raise ValueError(f"{path} is no file of a known kind; activations come as {KINDS}.")


def _array(path: Path, mapped: Literal["r"] | None = None) -> np.ndarray:
    """The array of an `.npy` file; nothing is unpickled, whatever the file is called."""
    with path.open("rb") as file:
        if file.read(6) != b"\x93NUMPY":
            raise ValueError(f"{path} is no .npy file of NumPy.")
    try:
        return np.load(path, mmap_mode=mapped, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        if "allow_pickle" in str(error) or "Python objects" in str(error):
            raise ValueError(f"{path} holds Python objects, which are not unpickled; save numbers.") from None
        raise ValueError(f"{path} is damaged or cut short: {error}") from None


def _tensor(path: Path, key: str | None) -> Any:
    """The tensor of a file of `torch.save`, which holds it alone or under a name; nothing else is unpickled."""
    held = exchange.read_torch(path, mapped=True)
    if isinstance(held, dict):
        held = held[_chosen(path, list(held), key)]
    if getattr(held, "layout", None) != torch.strided:
        raise ValueError(f"it holds a {type(held).__name__}, no (dense) tensor.")
    return held.detach()


def _chosen(path: Path, names: list[str], key: str | None) -> str:
    if key is None and len(names) == 1:
        return names[0]
    if key not in names:
        raise ValueError(f"it holds {names}; say which with --key (it is {key!r}).")
    return key


def _parquet(path: Path) -> Any:
    import pandas

    try:
        return pandas.read_parquet(path)
    except ImportError:
        raise ValueError(f"{path}: Parquet files need pyarrow; `pip install pyarrow`, or save a NumPy file.") from None


def _matrix(path: Path) -> np.ndarray:
    import pandas

    table = _parquet(path)
    if table.shape[1] == 1 and pandas.api.types.is_object_dtype(table.dtypes.iloc[0]):
        return np.stack([np.asarray(row) for row in table.iloc[:, 0]])
    return table.to_numpy()


def labels(path: Path, hierarchy: Path) -> tuple[np.ndarray, list[int | None], list[str]]:
    """The table of labels, each feature's parent, and their names; parents first.

    Args:
        path: a Parquet or CSV file with a named column for each feature, or an `.npy` file, whose names are numbers.
        hierarchy: a JSON file that gives each feature's name its parent's, or null.

    Raises:
        ValueError: if a name is unknown, a feature is its own ancestor, or a file is of no known kind.
    """
    import pandas

    if path.suffix == ".npy":
        table = _array(path)
        if table.ndim != 2:
            raise ValueError(f"{path} has shape {table.shape}; labels must be (rows, features).")
        frame = pandas.DataFrame(table, columns=[str(i) for i in range(table.shape[-1])])
    elif path.suffix in (".parquet", ".csv"):
        try:
            frame = _parquet(path) if path.suffix == ".parquet" else pandas.read_csv(path)
        except ValueError as error:
            raise ValueError(f"{path} cannot be read as labels: {' '.join(str(error).split())}") from None
    else:
        raise ValueError(f"{path} is no file of a known kind; labels come as .npy, .parquet or .csv.")
    parents = plain.read_json(hierarchy)
    if not isinstance(parents, dict) or any(not isinstance(p, str | None) for p in parents.values()):
        raise ValueError(
            f'{hierarchy} must hold an object of names, or null, such as {{"animal": null, "dog": "animal"}}.'
        )
    columns = {str(column) for column in frame.columns}
    if unknown := sorted(({*parents} | {p for p in parents.values() if p is not None}) - columns):
        raise ValueError(f"{hierarchy} names {unknown}, which are no columns of {path}: {sorted(columns)}.")
    order: list[str] = []

    def visit(name: str, below: tuple[str, ...]) -> None:
        if name in below:
            raise ValueError(f"{hierarchy}: {name} is its own ancestor.")
        if name in order:
            return
        if parents.get(name) is not None:
            visit(parents[name], (*below, name))
        order.append(name)

    for name in parents:
        visit(name, ())
    return (
        frame[order].to_numpy(),
        [None if parents.get(name) is None else order.index(parents[name]) for name in order],
        order,
    )
