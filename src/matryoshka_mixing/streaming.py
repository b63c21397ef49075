"""Sweeps of `train` that are too large for memory: written to disk chunk by chunk, and taken up again after a kill."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

import matryoshka_mixing
from matryoshka_mixing.sae import SAE
from matryoshka_mixing.training import Setting, TrainConfig, Trained, train

_NUMBERS = ("loss", "grad_norm", "converged", "history")
_USUAL = TrainConfig()


@dataclass(frozen=True)
class Stored:
    """A streamed sweep on disk. It iterates over its chunks, one `Trained` at a time, in the order of the settings.

    Attributes:
        folder: where it stands.

    Raises:
        ValueError: if there is no such folder, or a chunk is missing between others; on iteration, if one is damaged.
    """

    folder: Path

    @property
    def chunks(self) -> list[Path]:
        """The folders of the chunks that are done, in order."""
        if not Path(self.folder).is_dir():
            raise ValueError(f"{self.folder} is no folder; stream makes one.")
        found = [path for path in Path(self.folder).glob("[0-9]*") if path.name.isdecimal() and path.is_dir()]
        return sorted(found, key=lambda path: int(path.name))

    def __len__(self) -> int:
        return len(self.chunks)

    def __iter__(self) -> Iterator[Trained]:
        for i, chunk in enumerate(chunks := self.chunks):
            if int(chunk.name) != i:
                raise ValueError(
                    f"{self.folder} has no chunk {i:05}, but {len(chunks) - i} later ones; stream fills it."
                )
        return (_read(chunk) for chunk in chunks)


def stream(
    settings: Iterable[Setting],
    start: SAE,
    config: TrainConfig = _USUAL,
    *,
    folder: str | Path,
    chunk: int = 64,
    threads: int | None = None,
    dtype: torch.dtype = torch.float64,
    progress: bool = False,
) -> Stored:
    """Train a sweep of any length with `train`, chunk by chunk, each on disk before the next begins.

    A second call with the same arguments goes on where the first one was stopped or killed, and ends with the same
    bits: those of one call of `train` on all settings. Memory holds one chunk. All seeds of a setting stay together,
    since a seed's batches depend on its number among them.

    Args:
        settings: points of the sweep, such as a generator, which is read chunk by chunk.
        start: initial parameters with axes (seeds,), used for every setting.
        config: how to train.
        folder: where the chunks go: `00000`, `00001` and so on, each with safetensors files.
        chunk: settings in a chunk, at least 1. Some seconds of training each is a good size.
        threads, dtype: as for `train`.
        progress: show a progress bar, in settings.

    Returns:
        What is on disk.

    Raises:
        ValueError: if the folder holds another sweep, if `start` has other axes, or as `train` does.
    """
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}; it must be at least 1 setting.")
    if len(start.instances) != 1:
        raise ValueError(f"start has the axes {start.instances}; it must have one, the seeds.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".[0-9]*.partial"):
        shutil.rmtree(leftover)
    given = iter(settings)
    total = len(settings) if isinstance(settings, Sequence) else None
    number = 0
    with tqdm(total=total, disable=not progress, unit="setting") as bar:
        while some := list(islice(given, chunk)):
            home, digest = folder / f"{number:05}", _digest(some, start, config, str(dtype))
            if not home.is_dir():
                _write(train(some, start, config, threads=threads, dtype=dtype), digest, home)
            elif _mark(home)["digest"] != digest:
                raise ValueError(
                    f"{home} holds another sweep: its settings, start, training, chunk size or the package's version "
                    "differ. Give the same ones to go on, or an empty folder."
                )
            number += 1
            bar.update(len(some))
    stored = Stored(folder)
    if not number:
        raise ValueError("no settings were given; stream needs at least 1.")
    if len(stored) > number:
        raise ValueError(f"{folder} holds {len(stored)} chunks, of which {number} belong to this sweep. Empty it.")
    return stored


def _write(trained: Trained, digest: str, home: Path) -> None:
    """Write one chunk in one move: a folder is there whole or not at all."""
    from safetensors.torch import save_file

    draft = home.with_name(f".{home.name}.{os.getpid()}.partial")
    draft.mkdir()
    trained.sae.save(draft / "sae.safetensors")
    trained.path.save(draft / "path.safetensors")
    save_file({name: getattr(trained, name).contiguous() for name in _NUMBERS}, draft / "numbers.safetensors")
    (draft / "chunk.json").write_text(json.dumps({"digest": digest, "steps": trained.steps}))
    draft.replace(home)


def _mark(home: Path) -> dict:
    try:
        return json.loads((home / "chunk.json").read_text())
    except (OSError, ValueError):
        raise ValueError(
            f"{home} holds no chunk that stream wrote, or is damaged. Remove it to compute it again."
        ) from None


def _read(home: Path) -> Trained:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    steps = _mark(home)["steps"]
    try:
        numbers = load_file(home / "numbers.safetensors")
        return Trained(
            SAE.load(home / "sae.safetensors"), **numbers, steps=steps, path=SAE.load(home / "path.safetensors")
        )
    except (OSError, SafetensorError, TypeError, ValueError) as error:
        raise ValueError(f"{home} is damaged ({error}). Remove it to compute it again.") from None


def _digest(*what: object) -> str:
    """A fingerprint of all that the bits of a chunk depend on."""
    found = hashlib.sha256(matryoshka_mixing.__version__.encode())

    def add(value: object) -> None:
        if isinstance(value, Tensor | np.ndarray):
            array = np.ascontiguousarray(value.detach().cpu() if isinstance(value, Tensor) else value)
            found.update(f"{array.dtype}{array.shape}".encode() + array.tobytes())
        elif is_dataclass(value):
            add({entry.name: getattr(value, entry.name) for entry in fields(value)})
        elif isinstance(value, Mapping):
            add([*value.items()])
        elif isinstance(value, list | tuple):
            found.update(f"{len(value)}:".encode())
            for item in value:
                add(item)
        else:
            found.update(f"{value!r};".encode())

    add(what)
    return found.hexdigest()
