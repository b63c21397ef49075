"""Write the tables of the page *How it was tested* from what was stored and from the tests themselves."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import mutate
import torture

from matryoshka_mixing import claims

ROOT = Path(__file__).resolve().parent.parent
KINDS = {"clean": "an SAE that is clean", "absorbed": "an SAE that absorbs", "mixed": "an SAE that mixes"}
"""The SAEs by hand that break criteria, in words."""


def cell(text: str) -> str:
    """Text of a table's cell, in which no sign means anything."""
    return claims._cell(text)


def rows(head: list[str], body: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *[list(map(cell, line)) for line in body]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def breaks(how) -> str:
    """What breaks a criterion, from the function that measures it: the SAEs it reads, or what it says of itself."""
    told = [KINDS[word] for word in how.__code__.co_consts if isinstance(word, str) and word in KINDS]
    if told:
        return " beside ".join(dict.fromkeys(told))
    named = [how, *(how.__globals__.get(name) for name in how.__code__.co_names)]
    docs = [f.__doc__.split("\n")[0].rstrip(".") for f in named if getattr(f, "__doc__", None) and callable(f)]
    return docs[0] if docs else "a number by hand"


def flips() -> str:
    """What flips each decisive criterion, from `FAILS` of tests/test_decisive.py."""
    sys.path.insert(0, str(ROOT / "tests"))
    from test_decisive import FAILS

    ledger, body = claims.load(), []
    for name, metrics in FAILS.items():
        says = {criterion.metric: criterion.says for criterion in ledger[name].criteria}
        body += [[ledger[name].title, says[metric], breaks(how)] for metric, how in metrics.items()]
    return rows(["claim", "decisive criterion", "is failed by"], body)


def harmless(module: str, change: str, code: str) -> str:
    """Why a change that no test notices does no harm, from `HARMLESS` of scripts/mutate.py; else what is missing."""
    return mutate.HARMLESS.get((module, change, code), "a test is missing")


def stored(name: str) -> dict:
    """A stored file of benchmarks, or nothing."""
    path = ROOT / "benchmarks" / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def tortured(found: dict) -> str:
    """What was tried by `make torture`, and what came of it."""
    cases = [case for part in found["parts"].values() for case in part]
    body = [[case["what"], str(case["tries"]), str(case["tries"] - case["failed"]), case["outcome"]] for case in cases]
    table = rows(["tried", "times", "came right", "which is"], body)
    wrong = [[case["what"], " ".join(each.split())[:400]] for case in cases for each in case["wrong"]]
    lacking = [part.__doc__.splitlines()[0] for name, part in torture.PARTS.items() if name not in found["parts"]]
    if lacking:
        table += "\nNot run to a result yet:\n\n" + "".join(f"- {each}\n" for each in lacking)
    return table + ("\nWhat went wrong:\n\n" + rows(["tried", "what came"], wrong) if wrong else "")


def mutated(found: dict) -> str:
    """How many changes were noticed, and those that were not."""
    body = [
        [name, str(one["possible"]), str(one["tried"]), str(one["tried"] - len(one["survived"]))]
        for name, one in found["modules"].items()
    ]
    alive = [
        [name, each["change"], each["code"], harmless(name, each["change"], each["code"])]
        for name, one in found["modules"].items()
        for each in one["survived"]
    ]
    table = rows(["module", "possible changes", "tried", "noticed by a test"], body)
    head = ["module", "change", "the line", "what it does"]
    return table + ("\nNot noticed:\n\n" + rows(head, alive) if alive else "")


def agreement(found: dict) -> str:
    """SAELens's losses, gradients and training beside ours."""
    body = [
        [one["class"], one["inputs"], *(claims.number(one[key]) for key in ("loss", "gradient", "trainer", "control"))]
        for one in found["comparisons"]
    ]
    head = ["SAE", "inputs", "loss", "gradient", "after training", "control: another prefix weight or K"]
    return rows(head, body)


def page() -> str:
    """All tables, each below its heading."""
    counts = stored("bad_input.json")
    parts = {
        "Bad input": rows(["kind", "cases refused"], [[kind, str(n)] for kind, n in counts.items()]),
        "Kills, disks and company": tortured(stored("torture.json")) if stored("torture.json") else "",
        "What flips each verdict": flips(),
        "Broken on purpose": mutated(stored("mutation.json")) if stored("mutation.json") else "",
        "Beside other libraries": agreement(stored("agreement.json")),
    }
    words = {
        "Bad input": "Parameters, profiles, trees, ledgers, stored runs, SAE files and activations, made by rules "
        "(`tests/test_bad_input.py`). Each is refused in words that name it, before any training; nothing is written.",
        "Kills, disks and company": "`make torture` does this in copies of the checkout. Most of it is done to a small "
        "book, of two notebooks that last some seconds and compute nothing: so half an hour holds many kills.",
        "What flips each verdict": "Every decisive criterion has an SAE or a run that fails it "
        "(`tests/test_decisive.py`): what nothing fails decides nothing.",
        "Broken on purpose": "`scripts/mutate.py` makes small changes to the code, one at a time: another comparison, "
        "another sign, a number that is off, a condition turned. Of all that are possible it draws a sample. A test of "
        "the module should notice.",
        "Beside other libraries": "Largest relative differences between this package and SAELens on the same SAEs and "
        "batches (`benchmarks/agreement.py`). Beside them what the same comparison gives for another SAE, which it "
        "must tell apart. {doc}`speed` holds JAX beside it.",
    }  # fmt: skip
    return "\n".join(f"## {title}\n\n{words[title]}\n\n{table}" for title, table in parts.items() if table)
