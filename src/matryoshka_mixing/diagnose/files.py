"""Activations and labels from NumPy, safetensors, Parquet and CSV files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np

from matryoshka_mixing import plain

KINDS = (".npy", ".npz", ".safetensors", ".parquet")


class _Slices:
    """A tensor of a safetensors file, read a slice at a time."""

    def __init__(self, inner: Any):
        self.inner, self.shape = inner, tuple(inner.get_shape())

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, some: slice) -> Any:
        return self.inner[some]


def activations(path: Path, key: str | None = None) -> Any:
    """What has a `shape` and gives rows in slices. `.npy` and `.safetensors` files are not read at once.

    Args:
        path: the file. A Parquet file holds a column for each dimension, or one column of lists.
        key: name of the array in an `.npz` or `.safetensors` file; needed if it holds several.

    Raises:
        ValueError: if the kind of file is unknown, the file is damaged or needs unpickling, or `key` is not there.
        OSError: if it cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise ValueError(f"{path} is no file; activations come as {KINDS}.")
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
        said = "it holds objects, which are not unpickled" if "allow_pickle" in str(error) else str(error)
        raise ValueError(f"{path} is damaged or cut short: {said}") from None


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
