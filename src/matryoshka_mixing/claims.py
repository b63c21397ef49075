"""The ledger: claims and thresholds from `book/claims.yml`, verdicts computed from measured values.

A verdict is computed once, in its notebook, and travels in that notebook's output. `collect` gathers the verdicts of
executed notebooks into one JSON ledger and the book's table; nothing else decides.
"""

from __future__ import annotations

import argparse
import html
import json
import math
import string
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtri, stdtrit

from matryoshka_mixing import plain
from matryoshka_mixing._commands import write_text

MIME = "application/vnd.matryoshka-mixing.verdict+json"
NEGLIGIBLE = 1e-8
"""Smaller numbers are rounding noise and are written as 0, so that machines agree."""
TINY = 1e-4
"""Smaller measured numbers are told as a bound, the next power of ten.

They are gaps of training or of rounding, whose digits differ between machines.
"""
NARROW = 0.1
"""An interval that lies within so much of the share asked for says "about that share" (our default).

Near 0 and 1 less is asked: half of what is left to them, so .05 at a share of .9.
"""
NEAR = "about there"
"""The outcome of a criterion whose narrow interval holds what is asked for; more seeds would not decide it."""
BADGES = {"supported": "✓", "refuted": "✗", "mixed": "±", "inconclusive": "?", "not yet tested": "…"}


_TYPES: dict[str, tuple[type, ...]] = {
    "str": (str,), "str | None": (str, type(None)), "float": (int, float), "float | None": (int, float, type(None)),
    "bool": (bool,),
}  # fmt: skip
"""What a field of the ledger may hold, by its annotation."""


@dataclass(frozen=True)
class Criterion:
    """One threshold of a claim; see the head of `book/claims.yml` for what the fields mean."""

    metric: str
    says: str
    op: str
    threshold: float
    role: str
    share: float | None = None
    mean: bool = False
    width: float | None = None

    def __post_init__(self) -> None:
        if self.op not in (">=", "<="):
            raise ValueError(f"{self.metric}: op is {self.op!r}; it must be '>=' or '<='.")
        if not math.isfinite(self.threshold):
            raise ValueError(f"{self.metric}: threshold is {self.threshold}; it must be a finite number.")
        if self.role not in ("decisive", "supporting", "control"):
            raise ValueError(f"{self.metric}: role is {self.role!r}; it must be 'decisive', 'supporting' or 'control'.")
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"{self.metric}: share is {self.share}; it must lie between 0 and 1.")
        if self.mean and self.share is not None:
            raise ValueError(f"{self.metric} has a share and asks for the mean; give one of the two.")
        if self.width is not None and not (self.mean and self.width > 0):
            raise ValueError(f"{self.metric}: width is {self.width}; give a positive one, and `mean: true`.")

    @property
    def by_seed(self) -> bool:
        """Whether the metric is one value for each seed."""
        return self.mean or self.share is not None

    @property
    def asked(self) -> str:
        """What is asked for in a few signs, such as "at least 0.1, in more than 50% of seeds"."""
        bound = f"{'at least' if self.op == '>=' else 'at most'} {self.threshold:g}"
        if self.mean:
            return f"{bound}, on average over seeds"
        return bound if self.share is None else f"{bound}, in more than {self.share:.0%} of seeds"


@dataclass(frozen=True)
class Claim:
    """One entry of the ledger."""

    id: str
    title: str
    claim: str
    source: str
    prediction: str = ""
    scope: str = ""
    notebook: str | None = None
    key: str = ""
    criteria: tuple[Criterion, ...] = ()
    history: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        metrics = [criterion.metric for criterion in self.criteria]
        try:
            asked = [str(field) for _, field, _, _ in string.Formatter().parse(self.key) if field is not None]
        except ValueError as error:
            raise ValueError(f"{self.id}: key is {self.key!r}; its braces do not match: {error}.") from None
        named = {field.removesuffix(".counted") for field in asked}
        if (twice := {name for name in metrics if metrics.count(name) > 1}) or not self.id:
            raise ValueError(f"{self.id or self.title}: it has no id, or these metrics twice: {sorted(twice)}.")
        if self.notebook and (not named or named - set(metrics)):
            raise ValueError(
                f"{self.id}: key is {self.key!r}; it must be a sentence that names some of its metrics in braces, such "
                f"as 'the parent leans {{child_cosine}} toward each child; the truth is 0'. They are {metrics}."
            )
        if self.notebook and not any(c.role == "decisive" for c in self.criteria):
            raise ValueError(f"{self.id} has a notebook but no decisive criterion; nothing could refute it.")


@dataclass(frozen=True)
class Outcome:
    """How one criterion came out.

    Attributes:
        criterion: the criterion.
        outcome: "met", "failed", "undecided" (too few seeds), or "about there" (see `judge`).
        value: the number, or the median over seeds, or their mean if that is asked for; None where no seed qualified.
        low, high: smallest and largest value over seeds (the number itself where there is just one).
        passed, total: seeds that pass, and seeds judged (0 where the metric is one number).
        started: seeds started; more than `total` where dead ones are left out.
        interval: 95% interval: Wilson's of the share that passes, or Student's of the mean.
    """

    criterion: Criterion
    outcome: str
    value: float | None
    low: float | None
    high: float | None
    passed: int = 0
    total: int = 0
    started: int = 0
    interval: tuple[float, float] | None = None

    def __format__(self, form: str) -> str:
        """The measured value, for a key sentence: `{metric}`, `{metric:.3f}`; "not known" where no seed gave one."""
        if self.value is None:
            return "not known"
        return f"{self.value:{form}}" if form else number(self.value)

    @property
    def counted(self) -> str:
        """How many seeds pass, such as "62 of 64 judged seeds (192 started)"."""
        if not self.total:
            return f"none of {self.started} seeds"
        live = f" judged seeds ({self.started} started)" if self.started > self.total else " seeds"
        return f"{self.passed} of {self.total}{live}"

    @property
    def words(self) -> str:
        """The outcome in words, such as "met", "failed", "undecided (too few seeds)", "about half of the seeds"."""
        if self.outcome == "undecided":
            return "undecided (too few seeds)" if self.criterion.by_seed else "undecided (no value)"
        if self.outcome != NEAR:
            return self.outcome
        share = self.criterion.share
        if share is None:
            return f"about {self.criterion.threshold:g}"
        return f"about {'half' if share == 0.5 else format(share, '.0%')} of the seeds"

    def text(self) -> str:
        """The measured value in a few words."""
        dropped = f" judged seeds ({self.started} started)" if self.started > self.total else " seeds"
        if self.value is None:
            return f"no seed to judge ({self.started} started)" if self.started else "no seed gave a value"
        if not self.total:
            return number(self.value)
        if self.criterion.mean and self.interval is not None:
            ends = " to ".join(f"{end:.3g}" for end in self.interval)
            return f"{number(self.value)} on average (95% interval {ends}) over {self.total}{dropped}"
        shown = self.value, self.low or 0.0, self.high or 0.0
        # Beside numbers of ordinary size, noise is a plain 0.
        plain = max(map(abs, (*shown, self.criterion.threshold))) >= 0.001
        middle, low, high = (f"{end:.3f}" if plain and abs(end) < NEGLIGIBLE else number(end) for end in shown)
        spread = f" ({low} to {high})" if low != high else ""
        return f"{middle}{spread} in {self.passed} of {self.total}{dropped}"


@dataclass(frozen=True)
class Verdict:
    """The verdict on one claim, with everything that led to it. Displays itself in a notebook."""

    claim: Claim
    verdict: str
    outcomes: tuple[Outcome, ...]

    @property
    def key(self) -> str:
        """The key sentence of the claim, with what was measured, as the table of verdicts shows."""
        said = self.claim.key.format(**{outcome.criterion.metric: outcome for outcome in self.outcomes})
        return said[:1].upper() + said[1:]

    @property
    def why(self) -> str:
        """Why the verdict is what it is, in words, by the criteria that were not met, the weightiest first."""
        return self._because(2, " (measured: {})")

    def _because(self, most: int, measured: str = "") -> str:
        short = [outcome for outcome in self.outcomes if outcome.outcome != "met"]
        if self.verdict == "supported":
            return "every criterion is met"
        controls = [outcome for outcome in short if outcome.criterion.role == "control"]
        if controls:
            short = controls  # nothing else can be concluded
        short.sort(key=lambda outcome: (outcome.criterion.role != "decisive", outcome.outcome == "undecided"))
        told = [f"{o.words}: {o.criterion.says}{measured.format(o.text())}" for o in short[:most]]
        more = len(short) - len(told)
        return "; ".join(told) + (f"; and {more} more" if more else "")

    def headline(self) -> str:
        """The verdict, its key sentence and its reason in a few lines of HTML, for the top of a chapter."""
        return (
            f'<p class="verdict-headline">{badge(self.verdict)} <strong>{html.escape(self.claim.title)}.</strong> '
            f'{html.escape(self.key)}. <span class="verdict-why">Why: {html.escape(self._because(1))}.</span></p>'
        )

    def as_dict(self) -> dict:
        """Plain data, as the ledger holds it."""
        outcomes = [asdict(o) | {"text": o.text(), "words": o.words} for o in self.outcomes]
        return {
            "id": self.claim.id, "verdict": self.verdict, "key": self.key, "why": self.why, "outcomes": outcomes,
        }  # fmt: skip

    def __repr__(self) -> str:
        lines = [f"{self.claim.id}: {self.verdict}"]
        lines += [
            f"  {o.outcome:11} {o.criterion.role:10} {o.criterion.metric}: {o.text()} (asked: {o.criterion.asked})"
            for o in self.outcomes
        ]
        return "\n".join(lines)

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return {"text/plain": repr(self), "text/html": self._html(), MIME: self.as_dict()}

    def _html(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(o.criterion.says)}</td><td>{o.criterion.role}</td>"
            f"<td>{html.escape(o.text())}</td><td>{html.escape(o.words)}</td></tr>"
            for o in self.outcomes
        )
        return (
            f'<div class="verdict-box"><p>{badge(self.verdict)} <strong>{html.escape(self.claim.title)}.</strong> '
            f"{html.escape(self.claim.scope)}</p><p>Why: {html.escape(self.why)}.</p>"
            "<table><thead><tr><th>criterion</th><th>role</th><th>measured: median (range), or mean (interval)</th>"
            f"<th>outcome</th></tr></thead><tbody>{rows}</tbody></table></div>"
        )


def badge(verdict: str) -> str:
    """A verdict as a small HTML badge: a sign and a word, so that colour is not needed to read it."""
    name = "untested" if verdict == "not yet tested" else verdict
    return f'<span class="verdict verdict-{name}">{BADGES[verdict]} {verdict}</span>'


def load(path: str | Path | None = None) -> dict[str, Claim]:
    """All claims by id, in the order of the file (the project's own if `path` is None)."""
    if path is None:
        # In a checkout the book's own file; in an installed wheel the copy beside this module.
        checkout = Path(__file__).parents[2] / "book" / "claims.yml"
        path = checkout if checkout.is_file() else Path(__file__).with_name("claims.yml")
    found = plain.read_yaml(path)
    if not isinstance(found, list) or not found:
        raise ValueError(f"{path}: a ledger is a list of claims; this holds {'none' if not found else 'other things'}.")
    claims: dict[str, Claim] = {}
    for number, entry in enumerate(found):
        name = entry.get("id") if isinstance(entry, dict) else None
        try:
            claim = _claim(entry)
            if claim.id in claims:
                raise ValueError("a second claim has this id; give each its own.")
        except ValueError as error:
            raise ValueError(f"{path}: claim {number + 1} ({name}): {error}") from None
        claims[claim.id] = claim
    return claims


def _claim(entry: Any) -> Claim:
    """A claim from plain data; the names and types of its fields are checked here, what they mean where it is made."""
    given = _fields(Claim, entry, "a claim")
    for name in ("criteria", "history"):
        if not isinstance(given.get(name, []), list):
            raise ValueError(f"{name} is {given[name]!r:.60}; it must be a list.")
    criteria = tuple(Criterion(**_fields(Criterion, each, "a criterion")) for each in given.pop("criteria", []))
    history = given.pop("history", [])
    if any(not isinstance(each, str) for each in history):
        raise ValueError("history holds something else than text; put quotes around an entry with a colon.")
    return Claim(criteria=criteria, history=tuple(history), **given)


def _fields(kind: type, data: Any, what: str) -> dict[str, Any]:
    """The fields of a dataclass from plain data, each of its type."""
    if not isinstance(data, dict):
        raise ValueError(f"{what} is a mapping of names to values, not {data!r:.60}.")
    declared = {entry.name: entry for entry in fields(kind)}
    needed = {name for name, entry in declared.items() if entry.default is MISSING}
    unknown, lacking = sorted(map(str, data.keys() - declared.keys())), sorted(needed - data.keys())
    if unknown or lacking:
        raise ValueError(f"{what} has {unknown}, which are unknown, and lacks {lacking}. Known are {sorted(declared)}.")
    for name, value in data.items():
        kinds = _TYPES.get(str(declared[name].type))
        if kinds is None or (isinstance(value, kinds) and (bool in kinds or not isinstance(value, bool))):
            continue
        raise ValueError(f"{name} is {value!r:.60}; it must be of the type {declared[name].type}.")
    return dict(data)


def judge(claim: Claim, measured: Mapping[str, object], started: int | Mapping[str, int] = 0) -> Verdict:
    """Hold measured values against a claim's thresholds. This is the one function that gives verdicts.

    Args:
        claim: from `load`.
        measured: a value for each metric of the claim: one number, or one for each seed where the
            criterion has a share or asks for the mean. Numbers, arrays and tensors are all fine. NaN for one number
            means that no seed gave one, which decides nothing.
        started: how many seeds were started, where values of dead ones are left out; one number, or one by metric.

    Returns:
        A verdict. A criterion over seeds is judged by a 95% interval, of the share that passes or of the mean; *met* if
        all of it is on the right side of what is asked for, *failed* if all is on the wrong side. Between the two it is
        *about there* if the interval is narrow, within `NARROW` of the share (within the criterion's `width` of the
        threshold of a mean): more seeds would not change that. Otherwise it is *undecided*: too few seeds.

        The first of these applies. *Inconclusive* if a control is not met. *Refuted* if every decisive criterion
        failed, *mixed* if some did or one is about there. *Inconclusive* if one is undecided. *Mixed* if a supporting
        criterion failed or is about there, *inconclusive* if one is undecided. *Supported* otherwise.

    Raises:
        ValueError: if a metric is missing, unknown, of the wrong form, or not a number.
    """
    wanted = {criterion.metric for criterion in claim.criteria}
    if wanted != set(measured):
        raise ValueError(
            f"{claim.id} needs exactly the metrics {sorted(wanted)}; missing {sorted(wanted - set(measured))}, "
            f"unknown {sorted(set(measured) - wanted)}."
        )
    begun = started if isinstance(started, Mapping) else dict.fromkeys(wanted, started)
    outcomes = tuple(_decide(c, measured[c.metric], begun.get(c.metric, 0)) for c in claim.criteria)

    def results(*roles: str) -> set[str]:
        return {o.outcome for o in outcomes if o.criterion.role in roles}

    decisive, supporting = results("decisive"), results("supporting")
    if results("control") - {"met"}:
        verdict = "inconclusive"
    elif decisive == {"failed"}:
        verdict = "refuted"
    elif decisive & {"failed", NEAR}:
        verdict = "mixed"
    elif "undecided" in decisive:
        verdict = "inconclusive"
    elif supporting & {"failed", NEAR}:
        verdict = "mixed"
    else:
        verdict = "inconclusive" if "undecided" in supporting else "supported"
    return Verdict(claim, verdict, outcomes)


def _decide(criterion: Criterion, value: object, started: int) -> Outcome:
    values = np.asarray(value, dtype=float)
    if values.ndim and np.isnan(values).any():
        raise ValueError(f"{criterion.metric} holds values that are not a number; leave out seeds without one.")
    if (values.ndim > 0) != criterion.by_seed:
        form = "one number for each seed" if criterion.by_seed else "one number"
        raise ValueError(f"{criterion.metric} has shape {values.shape}; its criterion needs {form}.")
    passes = values >= criterion.threshold if criterion.op == ">=" else values <= criterion.threshold
    if values.size == 0 or np.isnan(values).all():
        return Outcome(criterion, "undecided", None, None, None, started=started)
    middle, least, most = (_measured(float(f(values))) for f in (np.median, np.min, np.max))
    if not criterion.by_seed:
        return Outcome(criterion, "met" if passes else "failed", middle, least, most)
    passed, total, above = int(passes.sum()), values.size, criterion.op == ">="
    if criterion.share is not None:
        low, high = _share_interval(passed, total)
        width = min(NARROW, criterion.share / 2, (1 - criterion.share) / 2)
        outcome = _against(low, high, criterion.share, width)
    else:
        middle, (low, high) = _measured(float(values.mean())), _mean_interval(values)
        signs = (low, high, criterion.threshold) if above else (-high, -low, -criterion.threshold)
        outcome = "met" if signs[0] == signs[2] else _against(*signs, criterion.width or 0)
    bounds = None if np.isnan(low) else (_measured(low), _measured(high))
    return Outcome(criterion, outcome, middle, least, most, passed, total, started, bounds)


def _against(low: float, high: float, target: float, width: float) -> str:
    """The outcome of an interval that should lie above a target."""
    if low > target:
        return "met"
    if high < target:
        return "failed"
    return NEAR if target - width <= low and high <= target + width else "undecided"


def _mean_interval(values: np.ndarray) -> tuple[float, float]:
    """The 95% interval of the mean by Student's t; NaN for a single seed."""
    if len(values) < 2:
        return np.nan, np.nan
    if np.ptp(values) == 0:  # of equal numbers, whose mean is rounded
        return float(values[0]), float(values[0])
    middle, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    reach = float(stdtrit(len(values) - 1, 0.975)) * error
    return middle - reach, middle + reach


def _share_interval(passed: int, total: int) -> tuple[float, float]:
    """The 95% interval of a share by Wilson (1927). Like the other one `scipy.stats` has it, but takes a second."""
    z = float(ndtri(0.975))
    middle, rest = passed + z * z / 2, z * math.sqrt(passed * (total - passed) / total + z * z / 4)
    low, high = ((middle + sign * rest) / (total + z * z) for sign in (-1, 1))
    return (low if passed else 0.0), (high if passed < total else 1.0)


def _rounded(number: float) -> float:
    return 0.0 if abs(number) < NEGLIGIBLE else float(f"{number:.6g}")


def _measured(number: float) -> float:
    """A measured number as it is kept: six digits, a tiny one as the power of ten that it does not reach."""
    number = _rounded(number)
    return math.copysign(_bound(number), number) if 0 < abs(number) < TINY else number


def _bound(number: float) -> float:
    """The power of ten that a number's size does not exceed."""
    return float(f"1e{math.ceil(math.log10(abs(number)) - 1e-9)}")


def number(value: float) -> str:
    """A number for people: three decimals, powers of ten where it is small; "below 1e-05" where it is a mere gap."""
    if math.isnan(value):
        return "no value"
    if abs(value) < NEGLIGIBLE:
        return f"below {NEGLIGIBLE:.0e}"
    if abs(value) < TINY:
        return f"below {_bound(value):.0e}"
    return f"{value:.3f}" if 0.001 <= abs(value) < 1000 else f"{value:.1e}"


def glue(**values: object) -> None:
    """Hand values to the prose of the page by name (MyST-NB's glue, which must be installed).

    Numbers are rounded to six digits first, so that machines agree; tiny ones should come as `number(value)`. A
    `Verdict` comes as its headline, under the claim's id whatever it is called here.
    """
    from IPython.display import HTML
    from myst_nb import glue as hand_over  # a tool of the book, not of the package

    for name, value in values.items():
        if isinstance(value, Verdict):
            name, value = value.claim.id, HTML(value.headline())
        hand_over(name, _rounded(value) if isinstance(value, float) else value, display=False)


def collect(notebooks: Sequence[Path]) -> dict[str, dict]:
    """The verdicts that executed notebooks carry in their outputs, by claim id.

    Raises:
        ValueError: if a claim that names a notebook has no verdict in it, or a verdict stands twice.
    """
    found: dict[str, dict] = {}
    for path in notebooks:
        for cell in json.loads(Path(path).read_text(encoding="utf-8"))["cells"]:
            for output in cell.get("outputs", []):
                record = output.get("data", {}).get(MIME)
                if record is None or output.get("metadata", {}).get("scrapbook"):
                    continue
                if record["id"] in found:
                    raise ValueError(f"{path}: the verdict on {record['id']} stands twice.")
                found[record["id"]] = record | {"notebook": Path(path).stem}
    expected = {claim.id for claim in load().values() if claim.notebook in {Path(p).stem for p in notebooks}}
    if expected != set(found):
        raise ValueError(
            f"claims.yml expects verdicts on {sorted(expected)}, the notebooks hold {sorted(found)}. "
            "Call judge() for each claim in the notebook that claims.yml names, and display the result."
        )
    return found


def table(found: Mapping[str, dict]) -> str:
    """The landing table in Markdown: every claim with its verdict, key sentence and reason, tested or not."""
    lines = ["| Claim | Verdict, key number and reason |", "| --- | --- |"]
    for claim in load().values():
        record = found.get(claim.id)
        title = f"[{_cell(claim.title)}](../notebooks/{claim.notebook}.ipynb)" if record else _cell(claim.title)
        verdict = badge(record["verdict"] if record else "not yet tested")
        told = f" <br> {_cell(record['key'])}. <br> *Why:* {_cell(record['why'])}." if record else ""
        lines.append(f"| {title} <br> {_cell(claim.claim)} | {verdict}{told} |")
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    """Text for a cell of a Markdown table, in which no sign means anything."""
    for sign in "\\`*_{}[]$|":
        text = text.replace(sign, "\\" + sign)
    return html.escape(text, quote=False)


def page(found: Mapping[str, dict]) -> str:
    """The ledger as a page in Markdown: of every claim its criteria, what was measured, and what changed when."""
    parts = []
    for claim in load().values():
        record = found.get(claim.id)
        outcomes = {o["criterion"]["metric"]: o for o in record["outcomes"]} if record else {}
        verdict = badge(record["verdict"] if record else "not yet tested")
        why = f" {_cell(record['key'])}. *Why:* {_cell(record['why'])}." if record else ""
        lines = [f"({claim.id})=", f"## {_cell(claim.title)}", "", f"{verdict}{why}", "", _cell(claim.claim), ""]
        about = {"Source": claim.source, "Prediction": claim.prediction, "Scope": claim.scope}
        lines += [f"- **{name}.** {_cell(text)}" for name, text in about.items() if text]
        if record:
            lines.append(f"- **Chapter.** {{doc}}`../notebooks/{claim.notebook}`")
        if claim.criteria:
            lines += ["", "| criterion | role | asked | measured | outcome |", "| --- | --- | --- | --- | --- |"]
        for criterion in claim.criteria:
            o = outcomes.get(criterion.metric, {"text": "", "words": "not yet tested"})
            cells = [criterion.says, criterion.role, criterion.asked, o["text"], o["words"]]
            lines.append(f"| {' | '.join(map(_cell, cells))} |")
        lines += [
            "",
            "**What changed, and when.**",
            "",
            *[f"1. {_cell(entry)}" for entry in claim.history or ["Nothing."]],
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m matryoshka_mixing.claims collect NOTEBOOK.ipynb ... --ledger FILE --table FILE --page FILE`."""
    parser = argparse.ArgumentParser(prog="python -m matryoshka_mixing.claims", description=main.__doc__)
    parser.add_argument("command", choices=["collect"], help="gather the verdicts of executed notebooks")
    parser.add_argument("notebooks", nargs="+", type=Path, help="executed notebooks")
    parser.add_argument("--ledger", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--table", required=True, type=Path, help="Markdown file to write: the landing table")
    parser.add_argument(
        "--page", required=True, type=Path, help="Markdown file to write: every criterion and its history"
    )
    options = parser.parse_args(arguments)
    try:
        _write(options)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"[ledger] FAILED: {type(error).__name__}: {error}")


def _write(options: argparse.Namespace) -> None:
    found = collect(options.notebooks)
    texts = {options.ledger: json.dumps(found, indent=1), options.table: table(found), options.page: page(found)}
    for path, text in texts.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)


if __name__ == "__main__":
    main()
