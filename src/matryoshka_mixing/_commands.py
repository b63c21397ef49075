"""What notebooks and commands share: one thread, files written in one move, an end in one line if they are stopped."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np


def one_thread() -> None:
    """Hold PyTorch and BLAS to one thread: on small matrices threads wait for each other longer than they compute."""
    import torch  # which those that only write files need not wait for
    from threadpoolctl import threadpool_limits

    torch.set_num_threads(1)
    threadpool_limits(1)


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A draft beside `path` to write to; it takes the place of `path` at the end, and is gone after an error.

    A reader sees the old file or the new one, never a part: not after a kill, and not on a full disk.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, UTF-8, in one move."""
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")


def write_arrays(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Write a compressed NumPy archive in one move."""
    with replacing(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, **arrays)


@contextmanager
def resumable(name: str, parts: str) -> Iterator[None]:
    """A command that goes on where it was, on one thread: Ctrl-C, and a disk that is full, end it in one line.

    Args:
        name: what the line begins with.
        parts: what the next call still has to do, such as "seeds".
    """
    then = f"the same command goes on with the {parts} that are left"
    try:
        one_thread()
        yield
    except KeyboardInterrupt:
        sys.exit(f"[{name}] interrupted; {then}")
    except OSError as error:
        sys.exit(f"[{name}] FAILED: {error}; {then}")
