"""Break the package on purpose, one small change at a time, and see whether a test notices: `python scripts/mutate.py`.

A sample of the changes that could be made to `theory`, `metrics` and `claims` (another comparison, another sign, a
constant that is off, a condition turned), each in a process of its own against the tests of that module. What survives
is written to benchmarks/mutation.json as it goes, for the page *How it was tested*.
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
}
"""The tests by module; those of whole experiments, whose verdicts flip, are left out, since they take long."""
LONGER, LEAST = 5, 60
"""A change counts as noticed if the tests take more than so many times their usual time, and so many seconds.

Seconds of the processor, not of the clock, so that a busy machine changes nothing.
"""
HARMLESS = {
    ("theory", "1 → 2", "t = _root(balance, 1 / n)"): "none: the root lies below both ends",
    ("theory", "100 → 101", "for _ in range(100):"): "none: one more halving of what is exact already",
    ("metrics", "Lt → LtE", "complement = signs[..., parent].gather(-1, k.clamp_min(0)) < 0"): (
        "none: no parent's latent has the cosine 0 with it"
    ),
    ("metrics", "1.0 → 2.0", "worth = len(parents) + 1.0  # one more of these is worth more than any cosines"): (
        "none: either outweighs all cosines"
    ),
    ("metrics", "LtE → Lt", "return (loss - other).abs() <= 1e-4 * power"): "none, but for a tie to the last bit",
    ("metrics", "LtE → Lt", "and bool((tables[seed] - tables[first]).abs().max() <= tolerance)"): (
        "none, but for a tie to the last bit"
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
        source = (ROOT / f"src/matryoshka_mixing/{name}.py").read_text(encoding="utf-8")
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
