"""Run notebooks in this process on the edge of what is allowed: `python tests/torture/corners.py [NOTEBOOK ...]`.

One line for each run, OK or FAIL and why.
"""

import json
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
for name in ("tests/torture", "scripts"):
    sys.path.insert(0, str(ROOT / name))

import inprocess  # noqa: E402

from matryoshka_mixing.parameters import _plain  # noqa: E402

NUMBERS = [
    {"n_seeds": 1, "n_sweep_seeds": 1},
    {"parent_probability": 1.0},
    {"parent_probability": 1e-6},
    {"child_probability": 0.5, "n_children": 2},
    {"child_probability": 1 / 12, "n_children": 12},
    {"n_children": 3, "child_probability": 1 / 3},
    {"l1": 0.0},
    {"l1": 10.0},
    {"l1": 1e-9},
    {"inner_weight": 0.001},
    {"inner_weight": 1000.0},
    {"start_noise": 0.0},
    {"start_noise": 10.0},
    {"n_steps": 50},
    {"parent_magnitude": 1e-3, "child_magnitude": 1e3},
    {"batch_size": 16},
    {"seed": 1_000_000_000},
]
"""Values of parameters; a notebook takes those that it has, as far as its ranges go."""


def leaf(chance=0.4, **more):
    return {"active_prob": chance} | more


def tree(*children, **more):
    return {"active_prob": 1, "is_read_out": False, "children": list(children)} | more


def family(chance=0.3, *children, **more):
    return leaf(chance, children=list(children) or [leaf(), leaf()], mutually_exclusive_children=True, **more)


CHAIN = leaf(0.95)
for _ in range(28):
    CHAIN = leaf(0.95, children=[CHAIN])
TREES = {
    "one family": tree(family()),
    "probabilities of 1": tree(leaf(1, children=[leaf(1), leaf(1)])),
    "a child that always fires": tree(family(0.3, leaf(1))),
    "rare": tree(family(0.3, leaf(1e-5), leaf(0.4))),
    "17 loose features": tree(family(), *[leaf(0.05)] * 17),
    "29 levels": tree(CHAIN),
    "loud and quiet": tree(family(0.3, leaf(magnitude_mean=1000), leaf(magnitude_mean=0.001))),
    "magnitudes that vary": tree(family(0.3, leaf(magnitude_std=2), magnitude_mean=0, magnitude_std=1)),
    "unread parent": tree(family(0.3, leaf(0.5, is_read_out=False, children=[leaf(), leaf()]))),
    "twelve children": tree(family(0.3, *[leaf(1 / 12)] * 12)),
    "odd names": tree(family(0.3, leaf(id=r"$\frac{"), leaf(id="<script>"), id="x" * 300)),
}


def cases(name, folder):
    declared = inprocess.chapter_of(name).described()
    yield {}
    for some in NUMBERS:
        fits = {key: value for key, value in some.items() if key in declared}
        if (
            fits
            and len(fits) == len({*some} & {*declared})
            and set(some) - set(declared) <= {"n_seeds", "n_sweep_seeds"}
        ):
            yield {k: min(max(v, declared[k].low), declared[k].high) for k, v in fits.items()}
    if "child_probability" in declared and "n_children" not in declared:
        yield {"child_probability": declared["child_probability"].high}
    if "d_model" in declared:  # as many as features
        low = declared["d_model"].low
        yield {"d_model": int(max(low, 3 if "n_children" in declared else 1))}
        if "n_children" in declared:
            yield {"n_children": 12, "child_probability": 1 / 12, "d_model": int(max(low, 13))}
    if "tree_path" in declared:
        for number, (title, nodes) in enumerate(TREES.items()):
            path = folder / f"{number} {title}.json"
            path.write_text(json.dumps(nodes))
            sized = {"d_model": 40} if "d_model" in declared else {}
            batch = {"batch_size": 5000} if title == "rare" and "batch_size" in declared else {}
            yield {"tree_path": str(path)} | sized | batch


def main():
    names = sys.argv[1:] or sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            for chosen in cases(name, Path(folder)):
                shown = ", ".join(f"{k}={Path(v).name if k == 'tree_path' else _plain(v)}" for k, v in chosen.items())
                began = time.monotonic()
                try:
                    inprocess.run(name, **chosen)
                except Exception as error:
                    place = error.__traceback__
                    while place.tb_next:
                        place = place.tb_next
                    where = f"{Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}"
                    said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
                    print(f"FAIL {name} {shown}: {said} ({where})", flush=True)
                else:
                    print(f"OK {name} {shown} ({time.monotonic() - began:.0f} s)", flush=True)


if __name__ == "__main__":
    main()
