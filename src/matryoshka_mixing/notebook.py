"""What every notebook does first."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from types import ModuleType

from matryoshka_mixing import figures, training
from matryoshka_mixing._commands import one_thread
from matryoshka_mixing.parameters import Chapter


def begin(namespace: MutableMapping[str, object]) -> Chapter:
    """Check the parameters, and set up threads and figures: call it with `globals()` after the imports.

    Args:
        namespace: of the notebook, which has imported its chapter's module by the name `chapter`.

    Returns:
        The parameters, as the chapter's own `Parameters` object.

    Raises:
        ValueError: naming a parameter that is out of range, misspelt, or not one of this chapter.
    """
    chapter = namespace.get("chapter")
    if not isinstance(chapter, ModuleType) or not hasattr(chapter, "Parameters"):
        raise ValueError("import the chapter's module first: from matryoshka_mixing.chapters import NAME as chapter")
    chosen = chapter.Parameters.of(namespace)
    one_thread()
    # Of matrices; SAEs are trained on all cores that this process may use, unless a number was given.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault(training.THREADS, str(cores))
    figures.use_style()
    return chosen
