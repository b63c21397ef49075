"""The ledger: claims and thresholds from `book/claims.yml`, verdicts computed from measured values.

A verdict is computed once, in its notebook, and travels in that notebook's output. `collect` gathers the verdicts of
executed notebooks into one JSON ledger and the book's table; nothing else decides.
"""

from __future__ import annotations

import argparse
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml
from scipy.stats import binomtest

MIME = "application/vnd.matryoshka-mixing.verdict+json"
NEGLIGIBLE = 1e-8
"""Smaller numbers are rounding noise and are written as 0, so that machines agree."""
BADGES = {"supported": "✓", "refuted": "✗", "mixed": "±", "inconclusive": "?", "not yet tested": "…"}


@dataclass(frozen=True)
class Criterion:
    """One threshold of a claim; see the head of `book/claims.yml` for what the fields mean."""

    metric: str
    says: str
    op: str
    threshold: float
    role: str
    share: float | None = None

    def __post_init__(self) -> None:
        if self.op not in (">=", "<="):
            raise ValueError(f"{self.metric}: op is {self.op!r}; it must be '>=' or '<='.")
        if self.role not in ("decisive", "supporting", "control"):
            raise ValueError(f"{self.metric}: role is {self.role!r}; it must be 'decisive', 'supporting' or 'control'.")
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"{self.metric}: share is {self.share}; it must lie between 0 and 1.")


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
    key: str | None = None
    criteria: tuple[Criterion, ...] = ()

    def __post_init__(self) -> None:
        metrics = [criterion.metric for criterion in self.criteria]
        if self.notebook and self.key not in metrics:
            raise ValueError(f"{self.id}: key is {self.key!r}; it must be one of its metrics {metrics}.")
        if self.notebook and not any(c.role == "decisive" for c in self.criteria):
            raise ValueError(f"{self.id} has a notebook but no decisive criterion; nothing could refute it.")


@dataclass(frozen=True)
class Outcome:
    """How one criterion came out.

    Attributes:
        criterion: the criterion.
        outcome: "met", "failed" or "undecided".
        value: the number, or the median over seeds; None where no seed qualified.
        low, high: smallest and largest value over seeds (the number itself where there is just one).
        passed, total: seeds that pass, and seeds judged (0 where the metric is one number).
        started: seeds started; more than `total` where dead ones are left out.
        interval: 95% Wilson interval of the share that passes.
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

    def text(self) -> str:
        """The measured value in a few words."""
        dropped = f" live seeds ({self.started} started)" if self.started > self.total else " seeds"
        if self.value is None:
            return f"no live seed ({self.started} started)" if self.started else "no seed gave a value"
        if not self.total:
            return number(self.value)
        low, high = number(self.low or 0.0), number(self.high or 0.0)
        spread = f" ({low} to {high})" if low != high else ""
        return f"{number(self.value)}{spread} in {self.passed} of {self.total}{dropped}"


@dataclass(frozen=True)
class Verdict:
    """The verdict on one claim, with everything that led to it. Displays itself in a notebook."""

    claim: Claim
    verdict: str
    outcomes: tuple[Outcome, ...]

    @property
    def key(self) -> Outcome:
        """The outcome that the table of verdicts shows."""
        return next(o for o in self.outcomes if o.criterion.metric == self.claim.key)

    def headline(self) -> str:
        """The verdict and its key number in one line of HTML, for the top of a chapter."""
        label = f"{_label(self.claim)}: {self.key.text()}"
        return (
            f'<p class="verdict-headline">{badge(self.verdict)} <strong>{html.escape(self.claim.title)}.</strong> '
            f"{html.escape(label[0].upper() + label[1:])}.</p>"
        )

    def as_dict(self) -> dict:
        """Plain data, as the ledger holds it."""
        outcomes = [asdict(o) | {"text": o.text()} for o in self.outcomes]
        return {"id": self.claim.id, "verdict": self.verdict, "key": self.key.text(), "outcomes": outcomes}

    def __repr__(self) -> str:
        lines = [f"{self.claim.id}: {self.verdict}"]
        lines += [
            f"  {o.outcome:9} {o.criterion.role:10} {o.criterion.metric}: {o.text()}"
            f" (threshold {o.criterion.op} {o.criterion.threshold:g}"
            + (f" in more than {o.criterion.share:.0%} of seeds)" if o.total else ")")
            for o in self.outcomes
        ]
        return "\n".join(lines)

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict:
        return {"text/plain": repr(self), "text/html": self._html(), MIME: self.as_dict()}

    def _html(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(o.criterion.says)}</td><td>{o.criterion.role}</td>"
            f"<td>{html.escape(o.text())}</td><td>{o.outcome}</td></tr>"
            for o in self.outcomes
        )
        return (
            f'<div class="verdict-box"><p>{badge(self.verdict)} <strong>{html.escape(self.claim.title)}.</strong> '
            f"{html.escape(self.claim.scope)}</p>"
            "<table><thead><tr><th>criterion</th><th>role</th>"
            f"<th>measured: median (range)</th><th>outcome</th></tr></thead><tbody>{rows}</tbody></table></div>"
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
    # The C parser is several times as fast; PyYAML has it unless it was built without.
    safe = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    claims = {}
    for entry in yaml.load(Path(path).read_text(encoding="utf-8"), Loader=safe):
        criteria = tuple(Criterion(**criterion) for criterion in entry.pop("criteria", []))
        claims[entry["id"]] = Claim(criteria=criteria, **entry)
    return claims


def judge(claim: Claim, measured: Mapping[str, object], started: int | Mapping[str, int] = 0) -> Verdict:
    """Hold measured values against a claim's thresholds. This is the one function that gives verdicts.

    Args:
        claim: from `load`.
        measured: a value for each metric of the claim: one number, or one for each seed where the
            criterion has a share. Numbers, arrays and tensors are all fine. NaN for one number means
            that no seed gave one, which decides nothing.
        started: how many seeds were started, where values of dead ones are left out; one number, or one by metric.

    Returns:
        A verdict, the first of these that applies. *Inconclusive* if a control is not met. *Refuted* if every
        decisive criterion failed, *mixed* if some did. *Inconclusive* if one is undecided (too few seeds). *Mixed* if a
        supporting criterion failed, *inconclusive* if one is undecided. *Supported* otherwise.

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
    elif "failed" in decisive:
        verdict = "refuted" if decisive == {"failed"} else "mixed"
    elif "undecided" in decisive:
        verdict = "inconclusive"
    elif "failed" in supporting:
        verdict = "mixed"
    else:
        verdict = "inconclusive" if "undecided" in supporting else "supported"
    return Verdict(claim, verdict, outcomes)


def _decide(criterion: Criterion, value: object, started: int) -> Outcome:
    values = np.asarray(value, dtype=float)
    if values.ndim and np.isnan(values).any():
        raise ValueError(f"{criterion.metric} holds values that are not a number; leave out seeds without one.")
    if (values.ndim == 0) != (criterion.share is None):
        form = "one number" if criterion.share is None else "one number for each seed"
        raise ValueError(f"{criterion.metric} has shape {values.shape}; its criterion needs {form}.")
    passes = values >= criterion.threshold if criterion.op == ">=" else values <= criterion.threshold
    if values.size == 0 or np.isnan(values).all():
        return Outcome(criterion, "undecided", None, None, None, started=started)
    middle, least, most = (_rounded(float(f(values))) for f in (np.median, np.min, np.max))
    if criterion.share is None:
        return Outcome(criterion, "met" if passes else "failed", middle, least, most)
    passed, total = int(passes.sum()), values.size
    interval = binomtest(passed, total).proportion_ci(method="wilson")
    outcome = "undecided"
    if interval.low > criterion.share:
        outcome = "met"
    elif interval.high < criterion.share:
        outcome = "failed"
    bounds = _rounded(interval.low), _rounded(interval.high)
    return Outcome(criterion, outcome, middle, least, most, passed, total, started, bounds)


def _rounded(number: float) -> float:
    return 0.0 if abs(number) < NEGLIGIBLE else float(f"{number:.4g}")


def number(value: float) -> str:
    """A number for people: three decimals, powers of ten where it is small, "below 1e-08" where it is noise."""
    if abs(value) < NEGLIGIBLE:
        return f"below {NEGLIGIBLE:.0e}"
    return f"{value:.3f}" if 0.001 <= abs(value) < 1000 else f"{value:.1e}"


def glue(**values: object) -> None:
    """Hand values to the prose of the page by name (MyST-NB's glue, which must be installed).

    Numbers are rounded to four digits first, so that machines agree; tiny ones should come as `number(value)`. A
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
    """The landing table in Markdown: every claim with its verdict and key number, tested or not."""
    lines = ["| Claim | Verdict and key number |", "| --- | --- |"]
    for claim in load().values():
        record = found.get(claim.id)
        title = f"[{claim.title}](../notebooks/{claim.notebook}.ipynb)" if record else claim.title
        verdict = record["verdict"] if record else "not yet tested"
        number = f"<br> {_label(claim)}: {record['key']}" if record else ""
        lines.append(f"| {title} <br> {claim.claim} | {badge(verdict)} {number} |")
    return "\n".join(lines) + "\n"


def _label(claim: Claim) -> str:
    return (claim.key or "").replace("_near_truth", " (near the truth)").replace("_", " ")


def main(arguments: Sequence[str] | None = None) -> None:
    """`python -m matryoshka_mixing.claims collect NOTEBOOK.ipynb ... --ledger FILE --table FILE`."""
    parser = argparse.ArgumentParser(prog="python -m matryoshka_mixing.claims", description=main.__doc__)
    parser.add_argument("command", choices=["collect"], help="gather the verdicts of executed notebooks")
    parser.add_argument("notebooks", nargs="+", type=Path, help="executed notebooks")
    parser.add_argument("--ledger", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--table", required=True, type=Path, help="Markdown file to write")
    options = parser.parse_args(arguments)
    found = collect(options.notebooks)
    for path, text in [(options.ledger, json.dumps(found, indent=1)), (options.table, table(found))]:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(path.name + ".tmp")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)


if __name__ == "__main__":
    main()
