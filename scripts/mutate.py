"""Break the package on purpose, one small change at a time, and see whether a test notices: `python scripts/mutate.py`.

A sample of the changes that could be made to what the verdicts and findings rest on (another comparison, another sign,
a constant that is off, a condition turned), each in a process of its own against the tests of that module. What
survives is written to benchmarks/mutation.json as it goes, for the page *How it was tested*.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import json
import os
import random
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = {
    "theory": ["tests/test_theory.py"],
    "metrics": ["tests/test_metrics.py"],
    "claims": [
        "tests/test_claims.py",
        "tests/test_bad_input.py",
        "-k",
        "not flips and (claims or ledgers)",
    ],
    "remedy": ["tests/test_remedy.py"],
    "diagnose": ["tests/test_diagnose.py", "-k", "not command and not false_alarms"],
    "features": ["tests/test_features.py"],
    "sae": ["tests/test_sae.py"],
}
"""The tests by module; those of whole experiments, whose verdicts flip, are left out, since they take long."""
LONGER, LEAST = 5, 60
"""A change counts as noticed if the tests take more than so many times their usual time, and so many seconds.

Seconds of the processor, not of the clock, so that a busy machine changes nothing.
"""
HARMLESS = {
    ("theory", "100 → 101", "for _ in range(100):"): "none: one more halving of what is exact already",
    ("metrics", "Lt → LtE", "complement = signs[..., parent].gather(-1, k.clamp_min(0)) < 0"): (
        "none: no parent's latent has the cosine 0 with it"
    ),
    ("metrics", "1.0 → 2.0", "worth = len(parents) + 1.0  # one more of these is worth more than any cosines"): (
        "none: either outweighs all cosines"
    ),
    ("metrics", "LtE → Lt", "return (loss - other).abs() <= 1e-4 * power"): "none, but for a tie to the last bit",
    ("diagnose", "Gt → GtE", "opposite = judged & ~(lean > 0) & (as_predicted > np.max([most_by_chance, far / 2, "
     "np.full(inner, LEAST)], axis=0))"): "none, but for a tie to the last bit",
    ("diagnose", "Add → Sub", "random = [turn(W + _solve(factor, part)[:n], W, u) for part in sums.by_chance]"): (
        "none: random signs are as likely the other way round"
    ),
    ("diagnose", "Gt → GtE",
     "leans, otherwise = (judged & (lean - by > np.maximum(bound, LEAST)) for by in (by_penalty, by_shrinkage))"): (
        "none, but for a tie to the last bit"
    ),
    ("diagnose", "Div → Mult",
     "acts, probs = sae.encode(x), torch.full((len(x),), 1 / len(x), dtype=torch.float64)"): (
        "none: of these weights shares alone are read"
    ),
    ("remedy", "2 → 3", "weights = x.new_full(x.shape[-2:-1], 1 / x.shape[-2]) if probs is None else probs"): (
        "none: leading axes of equal weights"
    ),
    ("remedy", "1 → 2", "known = torch.cat([acts, torch.ones_like(acts[..., :1])], -1) if biased else acts"): (
        "none: two columns of ones share what one takes"
    ),
    ("remedy", "0 → 1",
     "acts, counts = setting.data.sample(ROWS, torch.Generator().manual_seed(0)), torch.ones(ROWS)"): (
        "none: other samples"
    ),
    ("features", "Gt → GtE",
     "return States(acts[probs > 1e-12], probs[probs > 1e-12])  # not those of probability 0, up to rounding"): (
        "none, but for a tie"
    ),
    ("features", "2 → 3", 'write_text(path, json.dumps(self.to_dict(), indent=2) + "\\n")'): (
        "none: how a file is indented"
    ),
    ("metrics", "Gt → GtE", "each = each if len(each) > 1 else [each[0]] * len(sae)"): (
        "none: one stands for all anyway"
    ),
    ("theory", "GtE → Gt",
     "above = middle >= total + (pulls.square() / (middle[..., None] - pulls)).sum(-1)"): "none, but for a tie",
    ("diagnose", "LtE → Lt", "fitted=bool(judged.any() and (steps <= FITTED * lengths).all()),"): (
        "none, but for a tie to the last bit"
    ),
    ("diagnose", "Or → And", "if labels is None or hierarchy is None:"): "none: both are given, or neither",
    ("diagnose", "True → False", "for i, (name, parent) in enumerate(zip(names, hierarchy, strict=True)):"): (
        "none: that they are as many was looked at before"
    ),
    ("remedy", "True → False",
     "change = torch.linalg.pinv(by_row @ known, hermitian=True, rtol=1e-10) @ (by_row @ (x - sae.decode(acts)))"): (
        "none: the matrix is symmetric"
    ),
    ("features", "1 → 2", "depth.append(0 if parent is None else depth[parent] + 1)"): "none: only the order counts",
    ("claims", "False → True",
     "hand_over(name, _rounded(value) if isinstance(value, float) else value, display=False)"): (
        "nbval notices: the value would stand in an output"
    ),
    ("claims", "1 → 2",
     "texts = {options.ledger: json.dumps(found, indent=1), options.table: table(found), options.page: page(found)}"): (
        "none: how a file is indented"
    ),
    ("claims", "0 → 1", "return float(values[0]), float(values[0])"): "none: all values are equal there",
    ("claims", "Lt → LtE", "if abs(value) < NEGLIGIBLE:"): "none: the next line says the same of this number",
}  # fmt: skip
"""Changes that do no harm, by module, change and line, and why: no test could notice them."""
COMPARED = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
COMPUTED = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}  # fmt: skip


def changes(tree: ast.Module) -> Iterator[tuple[int, str, Callable[[], ast.Module]]]:
    """Every change: its line, what it is, and a function that gives the module with it."""

    def changed(node: ast.AST, attribute: str, value: object) -> ast.Module:
        kept = getattr(node, attribute)
        setattr(node, attribute, value)
        try:
            return copy.deepcopy(tree)
        finally:
            setattr(node, attribute, kept)

    inside = [
        part
        for top in tree.body
        if isinstance(top, ast.FunctionDef | ast.ClassDef)
        for function in ast.walk(top)
        if isinstance(function, ast.FunctionDef)
        for statement in function.body
        for part in ast.walk(statement)
    ]
    skipped = {
        id(part)
        for node in inside
        if isinstance(node, ast.JoinedStr | ast.Raise | ast.AnnAssign)
        for part in ast.walk(node)
    } | {
        id(part)
        for node in inside
        for kind in (getattr(node, "annotation", None), getattr(node, "returns", None))
        if kind is not None
        for part in ast.walk(kind)
    }
    for node in dict.fromkeys(inside):
        if id(node) in skipped:
            continue
        for words, attribute, value in _of(node):
            yield node.lineno, words, partial(changed, node, attribute, value)


def _of(node: ast.AST) -> Iterator[tuple[str, str, object]]:
    """The changes of one node: in words, which attribute, and its other value."""
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARED:
        other = COMPARED[type(node.ops[0])]
        yield f"{type(node.ops[0]).__name__} → {other.__name__}", "ops", [other(), *node.ops[1:]]
    elif isinstance(node, ast.BinOp) and type(node.op) in COMPUTED:
        other = COMPUTED[type(node.op)]
        yield f"{type(node.op).__name__} → {other.__name__}", "op", other()
    elif isinstance(node, ast.BoolOp):
        other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield f"{type(node.op).__name__} → {type(other).__name__}", "op", other
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        yield "a minus lost", "op", ast.UAdd()
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield "a not lost", "op", ast.UAdd()
    elif isinstance(node, ast.IfExp | ast.If):
        yield "a condition turned", "test", ast.copy_location(ast.UnaryOp(ast.Not(), node.test), node.test)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield f"{node.value} → {node.value + 1}", "value", node.value + 1
    elif isinstance(node, ast.Constant) and type(node.value) is bool:
        yield f"{node.value} → {not node.value}", "value", not node.value


def source_of(name: str) -> str:
    """The text of a module, or of a package's own."""
    path = ROOT / f"src/matryoshka_mixing/{name}"
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path.read_text(encoding="utf-8")


def noticed(name: str, changed: ast.Module, seconds: float) -> tuple[bool, float]:
    """Whether a test of the module fails with the change or takes too long, in a process of its own; its seconds."""
    child = os.fork()
    if child:
        _, status, used = os.wait4(child, 0)
        return status != 0, used.ru_utime + used.ru_stime
    status = 1
    try:
        spent = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        resource.setrlimit(resource.RLIMIT_CPU, (int(spent + seconds) + 1, int(spent + seconds) + 5))
        quiet = os.open(os.environ.get("MUTATE_LOG", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        _replace(name, changed)
        import pytest

        plain = ["-o", "addopts=", "-o", "filterwarnings=ignore", "--assert=plain", "-p", "no:cacheprovider"]
        status = int(pytest.main(["-x", "-q", *plain, *TESTS[name]]))
    finally:
        os._exit(status)


def _replace(name: str, changed: ast.Module) -> None:
    """Put the changed module in the place of the imported one, wherever the package holds a part of it."""
    module = sys.modules[f"matryoshka_mixing.{name}"]
    before = dict(vars(module))
    exec(compile(ast.fix_missing_locations(changed), module.__file__, "exec"), vars(module))
    after = vars(module)
    moved = {id(old): after[key] for key, old in before.items() if callable(old) and old is not after[key]}
    for other in [m for key, m in sys.modules.items() if key.startswith("matryoshka_mixing") and m is not module]:
        for key, value in list(vars(other).items()):
            if id(value) in moved:
                setattr(other, key, moved[id(value)])


def _warm() -> None:
    """Train a little: every child then has the compiled trainer, which takes seconds to load."""
    import matryoshka_mixing as mm

    states, directions = mm.family(0.3, 0.4).states(), mm.orthonormal_dictionaries(3, 20, range(2))
    for config in (mm.SAEConfig(20, (1, 3)), mm.SAEConfig(20, (3,), activation="batchtopk", k=1)):
        mm.train(mm.Setting(config, states, directions), mm.random_start(config, range(2)), mm.TrainConfig(2))


def main() -> None:
    """Sample, try, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=40, help="changes of each module (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default: %(default)s)")
    parser.add_argument("--modules", nargs="+", choices=list(TESTS), default=list(TESTS))
    parser.add_argument("--again", action="store_true", help="try what survived the stored run, after more tests")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/mutation.json", help="file to write")
    options = parser.parse_args()
    os.chdir(ROOT)
    for folder in ("scripts", "benchmarks", "sweeps", "tests", "book/_ext"):
        sys.path.insert(0, str(ROOT / folder))
    warnings.simplefilter("ignore")
    # What the tests import is imported once; every child begins with it.
    for module in ("hypothesis", "pandas", "pytest", "scipy.optimize", "scipy.stats", "chapters.why_it_happens"):
        importlib.import_module(f"matryoshka_mixing.{module}" if module.startswith("chapters") else module)
    _warm()
    found = json.loads(options.output.read_text(encoding="utf-8")) if options.output.is_file() else {"modules": {}}
    for name in options.modules:
        source = source_of(name)
        lines, every = source.splitlines(), list(changes(ast.parse(source)))
        failed, usual = noticed(name, ast.parse(source), 3600)
        if failed:
            sys.exit(f"[mutate] the tests of {name} fail without any change; MUTATE_LOG=FILE keeps what they say")
        print(f"[mutate] {name}: {len(every)} changes are possible; its tests take {usual:.0f} s", flush=True)
        sample, known = random.Random(options.seed).sample(every, min(options.each, len(every))), {}
        if options.again:
            known = found["modules"][name]
            left = {(one["change"], one["code"]) for one in known["survived"]}
            sample = [one for one in every if (one[1], lines[one[0] - 1].strip()) in left]
        alive: list[dict] = []
        for number, (line, words, changed) in enumerate(sample, 1):
            seen, seconds = noticed(name, changed(), max(LEAST, LONGER * usual))
            told = f"{name} {number}/{len(sample)} line {line}: {words}: {'noticed' if seen else 'ALIVE'}"
            print(f"[mutate] {told} ({seconds:.0f} s)", flush=True)
            if not seen:
                alive.append({"line": line, "change": words, "code": lines[line - 1].strip()})
            if options.again and number < len(sample):
                continue
            found["modules"][name] = {
                "possible": len(every), "tried": known.get("tried", number), "survived": alive, "seed": options.seed,
            }  # fmt: skip
            options.output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
