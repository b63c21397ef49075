"""Gather what the runs of a sweep found into one tidy table: a row for each run, claim and criterion."""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from matryoshka_mixing import claims
from matryoshka_mixing._commands import replacing

TAKEN = ("value", "low", "high", "passed", "total", "started", "outcome")


def gather(folder: str | Path) -> pd.DataFrame:
    """The table of the sweep that `design.write` planned in `folder`.

    Returns:
        Columns: `sweep`, `run`, `chapter`, `version` of the package; `status` ("done", "failed" or "not run") and
        `reason`, the first line of a failure; every parameter, `seed` among them, the number of the run's first random
        seed; `seconds`, `cpu_seconds` and `memory_mb` of the run, where the engine measured them; then `claim`,
        `verdict`, `metric`, `role`, and the criterion's `outcome`, `value` (a median where there are seeds), `low`,
        `high`, `passed`, `total`, `started`. A run without verdicts has one row, with these empty.
    """
    folder = Path(folder)
    plan = json.loads((folder / "plan.json").read_text())
    rows: list[dict[str, Any]] = []
    for run in plan["runs"]:
        home = folder / "runs" / run
        common = {
            "sweep": plan["name"],
            "run": run,
            "chapter": plan["chapter"],
            "version": version("matryoshka-mixing"),
        }
        parameters = yaml.safe_load((home / "parameters.yml").read_text())
        status, reason, cost, found = _outcome(home, plan["chapter"])
        common |= {"status": status, "reason": reason} | parameters | cost
        rows += [
            common
            | {"claim": claim, "verdict": record["verdict"]}
            | {"metric": outcome["criterion"]["metric"], "role": outcome["criterion"]["role"]}
            | {name: outcome[name] for name in TAKEN}
            for claim, record in found.items()
            for outcome in record["outcomes"]
        ] or [common]
    return pd.DataFrame(rows)


def _outcome(home: Path, chapter: str) -> tuple[str, str, dict[str, float], dict[str, dict]]:
    """A run's status, why it failed, what it cost, and its verdicts."""
    notebook, log = home / f"{chapter}.ipynb", home / f"{chapter}.failed.log"
    if notebook.is_file():
        try:
            cost = json.loads(notebook.read_text())["metadata"].get("cost", {})
            return "done", "", cost, claims.collect([notebook])
        except ValueError as error:
            return "failed", str(error), {}, {}
    if log.is_file():
        lines = [line for line in log.read_text().splitlines() if line.strip()]
        return "failed", lines[-1] if lines else "no message", {}, {}
    return "not run", "", {}, {}


def summary(table: pd.DataFrame) -> str:
    """How many runs came to what, in a few lines."""
    runs = table.drop_duplicates("run")["status"].value_counts()
    lines = [f"{runs.sum()} runs: " + ", ".join(f"{count} {status}" for status, count in runs.items())]
    if "claim" in table:
        for claim, rows in table.dropna(subset="claim").groupby("claim", sort=False):
            counts = rows.drop_duplicates("run")["verdict"].value_counts()
            lines.append(f"  {claim}: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return "\n".join(lines)


def main() -> None:
    """Gather one sweep's runs, write the table in one move, and say how many came to what."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the sweep's folder, such as _build/sweeps/NAME")
    parser.add_argument("-o", "--output", type=Path, required=True, help="CSV file to write")
    options = parser.parse_args()
    table = gather(options.folder)
    with replacing(options.output) as draft:
        table.to_csv(draft, index=False)
    print(f"{summary(table)}\ntable: {options.output}")


if __name__ == "__main__":
    main()
