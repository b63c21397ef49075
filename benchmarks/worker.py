"""A process that measures one contender: `worker.py CONTENDER THREADS` answers cells, one line of JSON each.

With a cell as third argument it measures that one alone, so that whoever starts it can time a process from its start
to the answer. It stays on as many cores as threads; nothing is imported before that is settled.
"""

import importlib
import json
import os
import re
import signal
import sys

TIME_LIMIT = 180
"""Seconds after which a cell is given up."""
MODULES = {"ours": "ours", "fast": "fast", "jax": "in_jax", "loop": "peers", "saelens": "peers", "machine": "floor"}


def settle(contender: str, threads: int) -> None:
    """Stay on so many cores, and tell the libraries; threads of ours are its own."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1" if contender in ("ours", "fast") else str(threads)
    if threads == 1:
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(threads),
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
    }


def without_paths(error: BaseException) -> str:
    """The error in one line; folders of this machine are nobody's business."""
    return re.sub(r"(?:/[\w.@+-]+)+/", ".../", f"{type(error).__name__}: {error}".splitlines()[0])


def give_up(*_) -> None:
    """When the alarm rings."""
    raise TimeoutError(f"given up after {TIME_LIMIT} s")


def measure(module: str, cell: dict) -> dict:
    """What came of a cell: numbers, or an error."""
    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(TIME_LIMIT)
    try:
        return getattr(importlib.import_module(module), cell["measure"])(cell)
    except Exception as error:
        return {"error": without_paths(error)}
    finally:
        signal.alarm(0)


def main(contender: str, threads: str, *cells: str) -> None:
    """Answer the given cells, or those of the standard input until it ends."""
    settle(contender, int(threads))
    answers = os.fdopen(os.dup(1), "w")
    silence = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(silence, stream)  # progress bars and warnings of the libraries
    for line in cells or sys.stdin:
        print(json.dumps(measure(MODULES[contender], json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
