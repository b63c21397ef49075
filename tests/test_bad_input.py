"""Bad input of every kind, made by rules: refused in words that name it, before any training, and nothing is written.

`table` counts the cases by kind, for the page *How it was tested*.
"""

import importlib
import io
import json
import math
import pickle
import re
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import design
import execute
import jaxtyping
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import matryoshka_mixing as mm
from matryoshka_mixing import claims, exchange, original, parameters, plain, training
from matryoshka_mixing.chapters.real_activations import experiments
from matryoshka_mixing.chapters.what_cures_it.page import Stored
from matryoshka_mixing.diagnose import __main__ as command
from matryoshka_mixing.features import FeatureTree

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
CHAPTERS = {name: importlib.import_module(f"matryoshka_mixing.chapters.{name[3:]}").Parameters for name in NOTEBOOKS}
STORED = ROOT / "benchmarks/bad_input.json"
"""How many cases there are of each kind, for the page *How it was tested*."""
INTERNAL = re.compile(
    r"object has no|unexpected keyword|positional argument|NoneType|subscriptable|not iterable|unhashable|unpack|"
    r"0 sized|zero-size|max\(\) |overflow|recursion depth exceeded$|allow_pickle=",
    re.IGNORECASE,
)
"""Words that a reader should not need to understand."""


@pytest.fixture(autouse=True)
def as_users_have_it(monkeypatch):
    """Shapes and types that signatures name are checked in tests alone; and nothing may be trained."""
    jaxtyping.config.update("jaxtyping_disable", True)

    def trained(*_, **__):
        pytest.fail("it was trained")

    for module, name in ((training, "_run"), (training, "descend"), (original.fitting.training, "_run")):
        monkeypatch.setattr(module, name, trained)
    monkeypatch.delenv(parameters.INSIST, raising=False)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def refused(act, *named):
    """What is wrong with how `act` refuses: nothing, or why in words."""
    try:
        found = act()
    except (ValueError, OSError) as error:
        said = str(error)
    except SystemExit as error:
        said = str(error.code)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    else:
        return f"it was taken: {found!r:.100}"
    if missing := [name for name in named if name not in said]:
        return f"{missing} not named: {said[:300]}"
    if INTERNAL.search(said):
        return f"in the wrong words: {said[:300]}"
    return "" if len(said) < 2000 else f"{len(said)} characters long"


def all_refused(cases, folder=None):
    """Every case is refused, and the folder stays as it is."""
    before = folder and snapshot(folder)
    wrong = {title: why for title, act, *named in cases if (why := refused(act, *named))}
    assert not wrong, "\n".join(f"{title}: {why}" for title, why in wrong.items())
    assert folder is None or snapshot(folder) == before, "something was written"


def snapshot(folder):
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*")}


# Parameters

NEVER = [
    None, True, "3", "", [3], (1, 2), {"a": 1}, {1}, b"3", math.nan, math.inf, -math.inf, 3 + 0j, "nan", "1e3",
    10**20, -(10**20), 10**400, 1e308, -1, "$\\frac{", "<script>", "x" * 10_000,
]  # fmt: skip
"""What no number of a chapter may be."""


def values_of(parameter):
    """Bad values of a parameter, from its declaration."""
    if parameter.tree_file:
        return [*(value for value in NEVER if value != ""), ".", "none.json", "a\0b"]
    if parameter.choices:
        return [*NEVER, *(word.upper() for word in parameter.choices[:3]), parameter.choices[0] + " "]
    step = 1 if parameter.whole else 1e-6 * parameter.high
    more = [parameter.low - step, parameter.high + step, str(parameter.low)]
    return NEVER + more + ([parameter.low + 0.5, float(parameter.high)] if parameter.whole else [])


def parameter_cases(name):
    chapter = CHAPTERS[name]
    for key, parameter in chapter.described().items():
        for value in values_of(parameter):
            yield f"{key} = {value!r:.40}", lambda key=key, value=value: chapter.of({key: value}), f"{key} = "
        for wrong in (key.upper(), key.capitalize(), key + "s", key[:-1]):
            yield f"the name {wrong}", lambda wrong=wrong: chapter.of({wrong: 1}), f"{wrong} = 1", "parameter"
    for other in parameters.PARAMETERS.keys() - chapter.described().keys():
        yield f"{other}, of other chapters", lambda other=other: chapter.of({other: 1}), other, "of other chapters"


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_parameters(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    all_refused(parameter_cases(name), tmp_path)


def huge(name):
    """The most of every count that the chapter allows, one by one and together."""
    chapter = CHAPTERS[name]
    counts = {
        key: p.high for key, p in chapter.described().items() if key in ("n_seeds", "n_steps", "n_grid", "n_trained")
    }
    return counts | {"n_sweep_seeds": 10_000} if "n_sweep_seeds" in chapter.described() else counts


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_what_would_take_days_or_all_memory_is_said_and_can_be_insisted_on(name, monkeypatch):
    chapter = CHAPTERS[name]
    asked = {key: int(value) for key, value in huge(name).items()}
    all_refused([("all", lambda: chapter(**asked), "hours of one core", "GB", "MATRYOSHKA_INSIST=1")])
    monkeypatch.setenv(parameters.INSIST, "1")
    assert chapter(**asked).n_steps == asked["n_steps"]
    monkeypatch.delenv(parameters.INSIST)
    for profile in ("quick", "report", "full"):
        given = plain.read_yaml(ROOT / f"notebooks/profiles/{profile}.yml")
        chapter(**{key: value for key, value in given.items() if key in chapter.described()})


# Profiles and sweep files

PROFILES = {
    "a list": "- n_seeds\n",
    "a number": "3\n",
    "text": "n_seeds\n",
    "a mapping inside": "n_seeds: {a: 1}\n",
    "an unknown name": "n_sedes: 3\n",
    "wrong case": "N_SEEDS: 3\n",
    "a number as a name": "1: 2\n",
    "twice": "n_seeds: 3\nn_seeds: 4\n",
    "a tag": "n_seeds: !!python/object/apply:os.getcwd []\n",
    "a tag of YAML": "n_seeds: !!binary aGFsbG8=\n",
    "a reference": "n_seeds: &a 3\nn_steps: *a\n",
    "a circle": "n_seeds: &a [*a]\n",
    "not closed": "n_seeds: [1\n",
    "a tabulator": "n_seeds:\n\t- 1\n",
    "deep": "n_seeds: " + "[" * 500 + "]" * 500,
    "two documents": "a: 1\n---\nb: 2\n",
    "a list as a name": "? [1]\n: 2\n",
    "a date that is none": "n_seeds: 2026-99-99\n",
    "a null byte": "n_seeds: \0\n",
    "latin-1": b"n_s\xe9eds: 3\n",
    "UTF-16": "n_seeds: 3\n".encode("utf-16"),
    "a picture": b"\x89PNG\r\n\x1a\n" * 20,
    "large": "# " + "x" * 10_000_001,
}
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A few lines that are a billion words once written out."""


def profile_cases(folder):
    source = ROOT / "notebooks/02_narrow_sae_mixes.py"
    for number, (title, text) in enumerate({**PROFILES, "a bomb": BOMB}.items()):
        path = folder / f"profile{number}.yml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        yield title, lambda path=path: execute.load_profile(path, [source]), path.name
    yield "a folder", lambda: execute.load_profile(folder, [source]), folder.name
    yield "no file", lambda: execute.load_profile(folder / "none.yml", [source]), "none.yml"


SWEEPS = {
    "empty": "",
    "a list": "[1]\n",
    "no design": "chapter: 02_narrow_sae_mixes\n",
    "a bomb": BOMB,
    "no such chapter": "chapter: 99_none\ndesign: {grid: {l1: [0]}}\n",
    "of another chapter": "chapter: 02_narrow_sae_mixes\ndesign: {grid: {inner_weight: [1]}}\n",
    "out of range": "chapter: 02_narrow_sae_mixes\ndesign: {grid: {l1: [-1]}}\n",
    "NaN": "chapter: 02_narrow_sae_mixes\ndesign: {grid: {l1: [.nan]}}\n",
    "no values": "chapter: 02_narrow_sae_mixes\ndesign: {grid: {l1: []}}\n",
    "a tag": "chapter: !!python/name:os.system\ndesign: {grid: {l1: [0]}}\n",
    "twice": "chapter: 02_narrow_sae_mixes\nchapter: 03_matryoshka_inherits\ndesign: {grid: {l1: [0]}}\n",
}


def sweep_cases(folder):
    for number, (title, text) in enumerate(SWEEPS.items()):
        path = folder / f"sweep{number}.yml"
        path.write_text(text)
        yield title, lambda path=path: design.load(path), path.name


# Trees

NODE = {"active_prob": 0.3}
PARENT = {"active_prob": 1, "is_read_out": False}


def nested(levels):
    return '{"active_prob": 0.9, "children": [' * levels + '{"active_prob": 0.9}' + "]}" * levels


def with_leaf(**changes):
    return json.dumps(PARENT | {"children": [NODE | {"children": [NODE | changes]}]})


TREE_TEXTS = {
    "empty": "",
    "blank": "  \n",
    "null": "null",
    "a list": "[]",
    "a number": "0.3",
    "text": '"tree"',
    "no probability": "{}",
    "NaN": '{"active_prob": NaN}',
    "infinity": '{"active_prob": Infinity}',
    "a probability above 1": '{"active_prob": 1.2}',
    "below 0": '{"active_prob": -0.1}',
    "1e400": '{"active_prob": 1e400}',
    "as text": '{"active_prob": "0.3"}',
    "true": '{"active_prob": true}',
    "a huge whole": '{"active_prob": ' + "9" * 500 + "}",
    "a name twice": '{"active_prob": 0.3, "active_prob": 0.4}',
    "an unknown name": with_leaf(prob=1),
    "children as an object": '{"active_prob": 0.3, "children": {}}',
    "children null": '{"active_prob": 0.3, "children": null}',
    "a child null": '{"active_prob": 0.3, "children": [null]}',
    "a child a list": '{"active_prob": 0.3, "children": [[]]}',
    "a circle by reference": json.dumps(NODE | {"children": [{"$ref": "#"}]}),
    "a name that is a number": with_leaf(id=3),
    "exclusive as text": with_leaf(mutually_exclusive_children="yes"),
    "magnitude NaN": with_leaf().replace("0.3}]", '0.3, "magnitude_mean": NaN}]'),
    "magnitude below 0": with_leaf(magnitude_mean=-1),
    "magnitude 1e308": with_leaf(magnitude_mean=1e308),
    "spread 1e308": with_leaf(magnitude_std=1e308),
    "not binary": with_leaf(is_binary=False),
    "exclusive above 1": json.dumps(NODE | {"mutually_exclusive_children": True, "children": [NODE] * 4}),
    "truncated": with_leaf()[:-9],
    "trailing": with_leaf() + "}",
    "Python": "{'active_prob': 0.3}",
    "a comment": "// x\n{}",
    "60 levels": nested(60),
    "470 levels": nested(470),
    "100,000 levels": nested(100_000),
    "brackets": "[" * 200_000,
    "wide": json.dumps(PARENT | {"children": [NODE] * 20_001}),
    "YAML": "active_prob: 0.3\n",
}
TREE_BYTES = {
    "UTF-16": with_leaf().encode("utf-16"),
    "latin-1": with_leaf(id="x").replace("x", "é").encode("latin-1"),
    "UTF-32": with_leaf().encode("utf-32"),
    "zeros": bytes(1000),
    "a picture": b"\x89PNG\r\n\x1a\n" * 9,
    "a pickle": pickle.dumps(NODE),
    "gzip": b"\x1f\x8b\x08\x00" + bytes(50),
}


def tree_cases(folder):
    for number, (title, text) in enumerate({**TREE_TEXTS, **TREE_BYTES}.items()):
        path = folder / f"tree{number}.json"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        yield title, lambda path=path: FeatureTree.from_json(path), path.name
    with (folder / "big.json").open("wb") as file:  # with a hole: it takes no room on the disk
        file.truncate(50_000_000)
    yield "50 MB", lambda: FeatureTree.from_json(folder / "big.json"), "big.json", "50,000,000 bytes"


def leaf(chance=0.4, **more):
    return {"active_prob": chance} | more


def family(chance=0.3, *children, **more):
    return {"active_prob": chance, "children": list(children) or [leaf(), leaf()]} | more


UNFIT = {
    "no features": PARENT,
    "only loose ones": PARENT | {"children": [leaf(), leaf()]},
    "a root that never fires": {"active_prob": 0, "is_read_out": False, "children": [family()]},
    "a parent that never fires": PARENT | {"children": [family(0)]},
    "a child that never fires": PARENT | {"children": [family(0.3, leaf(0), leaf())]},
    "a parent of magnitude 0": PARENT | {"children": [family(magnitude_mean=0)]},
    "a child of magnitude 0": PARENT | {"children": [family(0.3, leaf(magnitude_mean=0), leaf())]},
    "all of magnitude 0": PARENT | {"children": [family(0.3, leaf(magnitude_mean=0), magnitude_mean=0)]},
    "a very rare family": PARENT | {"children": [family(1e-9)]},
    "a very rare child": PARENT | {"children": [family(0.3, leaf(1e-12), leaf())]},
    "a chain down to nothing": json.loads(nested(25).replace("0.9", "0.1")),
    "too quiet a child": PARENT | {"children": [family(0.3, leaf(magnitude_mean=1e-200), leaf())]},
    "loud beside quiet": PARENT | {"children": [family(0.3, leaf(magnitude_mean=1e-6), magnitude_mean=1e6)]},
    "more features than memory": PARENT | {"children": [family(0.3, *[leaf(0.01)] * 2000)]},
}
"""Trees that are good trees, on which no chapter can say anything."""


def unfit_cases(folder):
    for chapter in ("06_every_prefix", "11_what_cures_it"):
        for number, (title, tree) in enumerate(UNFIT.items()):
            path = folder / f"unfit{number}.json"
            path.write_text(json.dumps(tree))
            said = "leaves no room for 2001" if (chapter[:2], title[:4]) == ("11", "more") else path.name
            yield f"{chapter}: {title}", lambda c=chapter, path=path: CHAPTERS[c](tree_path=str(path)), said


# The ledger

CLAIM = {"id": "x", "title": "X", "claim": "c", "source": "s"}
CRITERION = {"metric": "m", "says": "s", "op": ">=", "threshold": 0, "role": "decisive"}


def ledger_texts():
    yield "empty", ""
    yield "a mapping", "id: x\n"
    yield "text", "claims\n"
    yield "a bomb", BOMB
    yield "a reference", "- &a {id: x, title: X, claim: c, source: s}\n- *a\n"
    yield "a tag", "- !!python/object/new:os.system [x]\n"
    yield "cut short", json.dumps([CLAIM])[:-4]
    yield "two of one id", json.dumps([CLAIM, CLAIM])
    yield "an entry that is text", json.dumps([CLAIM, "x"])
    for key in CLAIM:
        yield f"no {key}", json.dumps([{k: v for k, v in CLAIM.items() if k != key}])
        for value in (None, 3, ["x"], True):
            yield f"{key}: {value}", json.dumps([CLAIM | {key: value}])
    yield "an unknown key", json.dumps([CLAIM | {"titel": "X"}])
    yield "a key twice", "- {id: x, id: y, title: X, claim: c, source: s}\n"
    yield "history as text", json.dumps([CLAIM | {"history": "none"}])
    yield "history with a mapping", json.dumps([CLAIM | {"history": [{"a": 1}]}])
    yield "criteria as a mapping", json.dumps([CLAIM | {"criteria": CRITERION}])
    yield "a metric twice", json.dumps([CLAIM | {"criteria": [CRITERION, CRITERION]}])
    for key in CRITERION:
        yield (
            f"criterion without {key}",
            json.dumps([CLAIM | {"criteria": [{k: CRITERION[k] for k in CRITERION if k != key}]}]),
        )
    bad = {
        "op": ["<", "=", None, 3],
        "threshold": ["0.3", None, True, [1]],
        "role": ["main", None],
        "share": [0, 1, 2, "half"],
        "mean": ["yes", 1],
        "width": [0.1, -1, "x"],
        "colour": ["red"],
    }
    for key, values in bad.items():
        for value in values:
            yield f"criterion with {key}: {value}", json.dumps([CLAIM | {"criteria": [CRITERION | {key: value}]}])
    for word in (".nan", ".inf", "-.inf"):
        text = json.dumps([CLAIM | {"criteria": [CRITERION | {"threshold": "?"}]}])
        yield f"threshold {word}", text.replace('"?"', word)
    tested = CLAIM | {"notebook": "n", "criteria": [CRITERION]}
    for key in ("", "no number", "{other}", "{m", "m}", "{m.criterion}", "{m.__class__}", "{}", "{0}", "{m[0]}"):
        yield f"key {key!r}", json.dumps([tested | {"key": key}])


def ledger_cases(folder):
    for number, (title, text) in enumerate(ledger_texts()):
        path = folder / f"ledger{number}.yml"
        path.write_text(text)
        yield title, lambda path=path: claims.load(path), path.name


# Arrays, SAEs, activations


class Bomb:
    """What a pickle would run."""

    def __reduce__(self):
        return Path.touch, (Path("it_ran"),)


def damaged(whole):
    """A file's bytes, damaged in several ways."""
    size = len(whole)
    yield "empty", b""
    for share in (0.01, 0.3, 0.7, 0.99):
        yield f"cut at {share:.0%}", whole[: int(share * size)]
    yield "a hole", whole[: size // 2] + whole[size // 2 + 40 :]
    yield "zeros inside", whole[: size // 3] + bytes(min(200, size // 3)) + whole[size // 3 + min(200, size // 3) :]
    yield "text", b"not this\n" * 20
    yield "a pickle", pickle.dumps(Bomb())
    buffer = io.BytesIO()
    np.save(buffer, np.array([Bomb()], dtype=object), allow_pickle=True)
    yield "a pickled array", buffer.getvalue()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("data.pkl", pickle.dumps(Bomb()))
        file.writestr("names.npy", pickle.dumps(Bomb()))
    yield "a pickle in an archive", buffer.getvalue()


def npz(arrays, **options):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays, **options)
    return buffer.getvalue()


def run_cases(folder):
    good = {name: np.arange(60.0).reshape(3, 20) for name in ("parent_to_child", "absorption", "l0", "missing")}
    good |= {"names": np.array(["a", "b", "c"]), "seeds": np.arange(20), "steps": np.arange(5)}
    readers = {"recipe": original.load, "remedies": Stored.load, "real": experiments.stored}
    shapes = {"remedies": np.array(["a"]), "toy/relu/measures": np.zeros((2, 3, 4)), "toy/relu/prefixes": np.zeros(3)}
    others = {
        "no arrays": npz({}),
        "other arrays": npz({"x": np.zeros(3)}),
        "other shapes": npz(shapes | {"toy/relu/values": 1}),
        "one array short": npz(good | {"l0": np.zeros((2, 20))}),
        "objects": npz({"names": np.array([{}])}, allow_pickle=True),
    }
    for kind, read in readers.items():
        for number, (title, content) in enumerate([*damaged(npz(good)), *others.items()]):
            path = folder / f"{kind}{number}.npz"
            path.write_bytes(content)
            yield f"{kind}: {title}", lambda path=path, read=read: read(path), path.name
        yield f"{kind}: no file", lambda read=read: read(folder / "none.npz"), "none.npz"


def an_sae():
    tree = mm.family(0.3, 0.4)
    directions = mm.orthonormal_dictionary(tree.n_features, 12, 0)
    return mm.start_near(directions, [0])[0].with_config(mm.SAEConfig(12, (1, 3)))


def sae_cases(folder):
    sae = an_sae()
    sae.save(folder / "good.safetensors")
    tensors = dict(sae.parameters)
    torch.save(tensors, folder / "good.pt")
    for ending, read in ((".safetensors", exchange.read), (".safetensors", mm.SAE.load), (".pt", exchange.read)):
        for number, (title, content) in enumerate(damaged((folder / f"good{ending}").read_bytes())):
            if title == "zeros inside":
                continue  # numbers like others
            path = folder / f"{read.__name__}{number}{ending}"
            path.write_bytes(content)
            yield f"{read.__qualname__} of {ending}: {title}", lambda path=path, read=read: read(path), path.name
    wrong = {
        "a tensor lacks": {k: v for k, v in tensors.items() if k != "b_enc"},
        "one too many": tensors | {"x": tensors["b_enc"]},
        "turned": tensors | {"W_enc": tensors["W_dec"]},
        "three axes": tensors | {"W_dec": tensors["W_dec"][None]},
        "whole numbers": {k: v.long() for k, v in tensors.items()},
        "NaN": tensors | {"b_enc": tensors["b_enc"] * math.nan},
        "infinite": tensors | {"W_dec": tensors["W_dec"] / 0},
        "no latents": {k: v[..., :0] for k, v in tensors.items()},
        "scalars": {k: v.flatten()[0].clone() for k, v in tensors.items()},
    }
    config = {"architecture": "standard", "d_in": 12, "d_sae": 3, "apply_b_dec_to_input": True}
    for number, (title, some) in enumerate(wrong.items()):
        home, file = folder / f"saelens{number}", folder / f"plain{number}.safetensors"
        home.mkdir()
        (home / "cfg.json").write_text(json.dumps(config))
        save_file({k: v.contiguous().clone() for k, v in some.items()}, home / "sae_weights.safetensors")
        save_file({k: v.contiguous().clone() for k, v in some.items()}, file)
        yield f"SAELens: {title}", lambda home=home: exchange.read(home), home.name
        yield f"no configuration: {title}", lambda file=file: exchange.read(file), file.name
    broken = {
        "a list": [],
        "unknown": config | {"architecture": "gated"},
        "wrong size": config | {"d_in": 3},
        "k as text": config | {"architecture": "topk", "k": "2"},
        "k = NaN": config | {"architecture": "topk", "k": math.nan},
        "k too large": config | {"architecture": "topk", "k": 9},
        "no k": config | {"architecture": "topk"},
        "a number for a name": config | {"architecture": 3},
        "metadata a list": config | {"metadata": [1]},
        "widths as text": config | {"matryoshka_widths": "1, 3"},
        "one width": config | {"matryoshka_widths": 3},
        "widths as text in a list": config | {"matryoshka_widths": ["1", "3"]},
        "one weight": config | {"matryoshka_widths": [1, 3], "metadata": {"matryoshka_weights": 2}},
        "widths that fall": config | {"matryoshka_widths": [3, 1]},
        "widths of another": config | {"matryoshka_widths": [1, 9]},
    }
    for number, (title, data) in enumerate(broken.items()):
        home = folder / f"configured{number}"
        home.mkdir()
        (home / "cfg.json").write_text(json.dumps(data))
        # With unit rows, so that TopK gets as far as its k.
        unit = tensors | {"W_dec": torch.nn.functional.normalize(tensors["W_dec"], dim=-1)}
        save_file({k: v.contiguous().clone() for k, v in unit.items()}, home / "sae_weights.safetensors")
        yield f"cfg.json: {title}", lambda home=home: exchange.read(home), home.name
    yield "no SAE", lambda: exchange.read(folder / "none"), "none"


def diagnosis_cases(folder):
    rng = np.random.default_rng(0)
    sae, x = folder / "sae.safetensors", rng.normal(size=(200, 12))
    an_sae().save(sae)
    np.save(folder / "x.npy", x)
    buffer = io.BytesIO()
    np.save(buffer, x)
    kinds = {".npy": buffer.getvalue(), ".npz": npz({"x": x})}
    save_file({"x": torch.from_numpy(x)}, folder / "whole.safetensors")
    kinds[".safetensors"] = (folder / "whole.safetensors").read_bytes()

    def act(path, *more):
        def run():
            stderr = io.StringIO()
            kept, sys.stderr = sys.stderr, stderr
            try:
                code = command.main([str(sae), str(path), "--output", str(folder / "out"), "--quiet", *map(str, more)])
            finally:
                sys.stderr = kept
            if code == 0:
                return "a diagnosis"
            raise ValueError(stderr.getvalue())

        return run

    for ending, whole in kinds.items():
        for number, (title, content) in enumerate(damaged(whole)):
            if ending != ".npz" and title == "zeros inside":
                continue  # numbers like others; an archive has check sums
            path = folder / f"x{number}{ending}"
            path.write_bytes(content)
            yield f"{ending}: {title}", act(path), path.name, "error: "
    arrays = {
        "one axis": x[0],
        "three axes": x[None],
        "another width": x[:, :5],
        "too few": x[:2],
        "none": x[:0],
        "whole numbers": x.astype(int),
        "complex": x + 0j,
        "text": x.astype(str),
        "NaN": np.where(x > 2, np.nan, x),
        "infinite": np.where(x > 2, np.inf, x),
        "all alike": np.ones_like(x),
        "true and false": x > 0,
        "a scalar": np.array(1.0),
        "too large": x * 1e200,
    }
    for number, (title, values) in enumerate(arrays.items()):
        path = folder / f"array{number}.npy"
        np.save(path, values)
        yield title, act(path), "error: "
    good = folder / "x.npy"
    (folder / "x.txt").write_text("1 2 3")
    for title, more in {
        "widths that fall": ["--widths", 3, 1], "widths of others": ["--widths", 1, 9], "one width": ["--widths", 3],
        "a width of 0": ["--widths", 0, 3], "ridge 0": ["--ridge", 0], "ridge NaN": ["--ridge", "nan"],
        "ridge infinite": ["--ridge", "inf"], "draws 0": ["--draws", 0], "batch 0": ["--batch", 0],
        "seed -1": ["--seed", -1],
        "labels alone": ["--labels", good], "hierarchy alone": ["--hierarchy", good], "scale for none": ["--scale", 2],
        "scale NaN": ["--scale", "nan"],
    }.items():  # fmt: skip
        yield title, act(good, *more), "error: "
    yield "no file", act(folder / "none.npy"), "none.npy"
    yield "a folder", act(folder), "error: "
    yield "text", act(folder / "x.txt"), "x.txt"
    (folder / "a_file").touch()
    yield "an output that is a file", act(good, "--output", folder / "a_file"), "a_file"
    yield "an output below a file", act(good, "--output", folder / "a_file/b"), "a_file"
    (folder / "taken/diagnosis.json").mkdir(parents=True)
    yield "an output whose numbers are a folder", act(good, "--output", folder / "taken"), "taken"
    np.save(folder / "labels.npy", np.tile([[1, 0], [0, 0]], (100, 1)))
    (folder / "labels.csv").write_text("a,b\n1\n1,2,3\n")
    hierarchies = {
        "not JSON": "{",
        "a list": "[1]",
        "an unknown name": '{"9": null}',
        "its own parent": '{"0": "0"}',
        "a circle": '{"0": "1", "1": "0"}',
        "a list as parent": '{"0": ["1"]}',
        "a number as parent": '{"0": 1}',
        "deep": "[" * 100_000,
        "twice": '{"0": null, "0": "1"}',
    }
    for number, (title, text) in enumerate(hierarchies.items()):
        path = folder / f"h{number}.json"
        path.write_text(text)
        yield f"hierarchy: {title}", act(good, "--labels", folder / "labels.npy", "--hierarchy", path), path.name
    (folder / "good.json").write_text('{"0": null, "1": "0"}')
    for number, (title, content) in enumerate(damaged((folder / "labels.npy").read_bytes())):
        path = folder / f"labels{number}.npy"
        path.write_bytes(content)
        yield f"labels: {title}", act(good, "--labels", path, "--hierarchy", folder / "good.json"), "error: "
    for name in ("labels.csv", "x.txt", "none.csv"):
        yield f"labels: {name}", act(good, "--labels", folder / name, "--hierarchy", folder / "good.json"), name


FILES = {
    "profiles": profile_cases,
    "sweep files": sweep_cases,
    "tree files": tree_cases,
    "trees that a chapter can say nothing about": unfit_cases,
    "ledgers": ledger_cases,
    "stored runs": run_cases,
    "SAE files": sae_cases,
    "activations, labels and options of the diagnosis": diagnosis_cases,
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_files(kind, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    cases = list(FILES[kind](tmp_path))
    all_refused(cases, tmp_path)
    assert not (tmp_path / "here/it_ran").exists(), "a pickle was run"


def table(folder):
    """How many cases there are of each kind."""
    counts = Counter({"parameters of chapters": sum(len(list(parameter_cases(name))) for name in NOTEBOOKS)})
    for kind, cases in FILES.items():
        home = folder / kind
        home.mkdir()
        counts[kind] = len(list(cases(home)))
    return dict(counts)


def test_there_are_hundreds_of_cases_and_the_page_says_how_many(tmp_path):
    counts = table(tmp_path)
    assert json.loads(STORED.read_text()) == counts, "write it anew: python tests/test_bad_input.py"
    assert sum(counts.values()) >= 1000 and min(counts.values()) >= 10, counts


def test_what_is_close_to_a_bad_file_and_good_is_read(tmp_path):
    path = tmp_path / "tree.json"
    tree = PARENT | {"children": [family()]}
    for text in (json.dumps(tree), "\ufeff" + json.dumps(tree), json.dumps(tree, indent=1).replace("\n", "\r\n")):
        path.write_bytes(text.encode())
        assert FeatureTree.from_json(path).n_features == 3
        for chapter in ("06_every_prefix", "11_what_cures_it"):
            assert CHAPTERS[chapter](tree_path=str(path)).tree_path == str(path)
    ledger = tmp_path / "claims.yml"
    ledger.write_text(json.dumps([CLAIM | {"criteria": [CRITERION | {"share": 0.5}]}]))
    assert claims.load(ledger)["x"].criteria[0].share == 0.5
    many = PARENT | {"children": [leaf(0.05)] * 17 + [family()] * 40}
    path.write_text(json.dumps(many))
    for chapter in ("06_every_prefix", "11_what_cures_it"):  # too many states to list, but not to draw from
        CHAPTERS[chapter](tree_path=str(path), **({"d_model": 200, "n_seeds": 16} if chapter[:2] == "11" else {}))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as home:
        STORED.write_text(json.dumps(table(Path(home)), indent=1) + "\n")
