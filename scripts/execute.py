"""Run one notebook source with papermill and keep the result only if it succeeds.

The source is a jupytext `py:percent` file. A profile is a flat YAML file of parameter names and values;
a notebook takes from it those that its `parameters` cell declares with another default. Where nothing
differs, no cell is injected. What varies from run to run (times, versions, cell ids) is stripped,
so that the same code writes the same bytes.
"""

import argparse
import ast
import difflib
import os
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import kernels
import nbformat
import papermill
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError

from matryoshka_mixing import plain
from matryoshka_mixing._commands import replacing

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
STABLE_CELL_METADATA = ("tags", "mystnb", "lines_to_next_cell")
ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def load_profile(path, sources):
    """Return the profile at `path` as a dict; a relative path in it starts from the current folder.

    Raises:
        ValueError: if it is no flat mapping, or holds a key that is a parameter of none of the notebook `sources`.
    """
    profile = plain.read_yaml(path) or {}
    if not isinstance(profile, dict):
        raise ValueError(f"{path}: a profile is a mapping of parameter names to values, not {profile!r:.80}")
    known = {name for source in sources for name in declared_parameters(jupytext.read(source))}
    for name, value in profile.items():
        if isinstance(value, dict):
            raise ValueError(f"{path}: {name} must be a plain value or a list, not a mapping")
        if name not in known:
            close = difflib.get_close_matches(str(name).lower(), known, n=1)
            hint = f"Did you mean {close[0]}? " if close else ""
            raise ValueError(f"{path}: no notebook has a parameter {name}. {hint}There are {', '.join(sorted(known))}")
    return {name: from_here(name, value) for name, value in profile.items()}


def from_here(name, value):
    """Make the value of a parameter that is a path absolute: the notebook runs in another folder."""
    return os.path.abspath(value) if name.endswith("_path") and value else value


def is_parameters(cell):
    """Tell whether `cell` is the code cell that declares the notebook's parameters."""
    return cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])


def declared_parameters(notebook):
    """Return name -> default of the cell tagged `parameters`, whose lines are plain assignments."""
    declared = {}
    for cell in filter(is_parameters, notebook.cells):
        for node in ast.parse(cell.source).body:
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            if not isinstance(target, ast.Name) or node.value is None:
                raise ValueError(f"a parameters cell assigns plain values, not: {ast.unparse(node)}")
            declared[target.id] = ast.literal_eval(node.value)
    return declared


def as_list(value):
    """Turn tuples into lists at every depth, because YAML knows no tuples."""
    return [as_list(item) for item in value] if isinstance(value, list | tuple) else value


def overrides(declared, profile):
    """Return those entries of `profile` that change one of the `declared` defaults."""
    return {
        name: value for name, value in profile.items() if name in declared and as_list(value) != as_list(declared[name])
    }


def clean(notebook):
    """Strip from `notebook`, in place, all that two runs of the same code would not share."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        tags = cell.metadata.get("tags", [])
        if "injected-parameters" in tags:
            tags.append("remove-cell")
        cell.id = str(number)
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in STABLE_CELL_METADATA if cell.metadata.get(key)}
        )


def write(notebook, path):
    """Write `notebook` to `path` in one step: a reader sees the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as draft:
        nbformat.write(notebook, draft)


def describe(error, notebook):
    """Say in one line which cell failed and with what."""
    if not isinstance(error, PapermillExecutionError):
        return f"{type(error).__name__}: {error}"
    lines = [line for line in error.source.splitlines() if line.strip() and not line.startswith("#")]
    return f"cell [{error.exec_count}] ({lines[0] if lines else 'empty'}): {error.ename}: {error.evalue}"


class SavedAtTheEnd(NBClientEngine):
    """Papermill's own engine, but the notebook is saved at the start and the end only, also if the kernel has died.

    Saving it whole before and after each cell takes longer than most cells.
    """

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **given):
        """Execute the notebook."""
        nb_man.output_path, output = None, nb_man.output_path
        try:
            super().execute_managed_notebook(nb_man, kernel_name, **given)
        finally:
            nb_man.output_path = output


papermill_engines.register(SavedAtTheEnd.__name__, SavedAtTheEnd)


def executed(notebook, output, parameters, cwd):
    """Call papermill as every run of the project does, and return the executed notebook."""
    return papermill.execute_notebook(
        notebook,
        output,
        parameters,
        cwd=cwd,
        kernel_manager_class=kernels.AsyncPrivate,
        progress_bar=False,
        engine_name=SavedAtTheEnd.__name__,
        coalesce_streams=True,
        shutdown_kernel="immediate",  # it has nothing left to save, and taking PyTorch apart takes a second or two
        extra_arguments=["--log-level=CRITICAL"],
    )


def run(source, output, profile):
    """Execute `source` into `output`; on failure keep the evidence beside it and raise RuntimeError."""
    failed, log = output.with_suffix(".failed.ipynb"), output.with_suffix(".failed.log")
    for leftover in (failed, log):
        leftover.unlink(missing_ok=True)
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = KERNEL
    parameters = overrides(declared_parameters(notebook), profile)
    with tempfile.TemporaryDirectory() as scratch:
        draft = Path(scratch) / output.name
        try:
            executed(notebook, draft, parameters, cwd=scratch)
        except Exception as error:
            failed.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(ANSI_COLOUR.sub("", f"{error}\n"))
            if draft.exists():
                write(nbformat.read(draft, as_version=4), failed)
            raise RuntimeError(f"{describe(error, notebook)}\n  traceback: {log}\n  notebook:  {failed}") from error
        result = nbformat.read(draft, as_version=4)
    clean(result)
    write(result, output)


def main():
    """Parse the command line, run the notebook, and report in one line at start and one at the end."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="notebook source, a py:percent file")
    parser.add_argument("-o", "--output", type=Path, required=True, help="executed notebook to write (.ipynb)")
    parser.add_argument("--profile", type=Path, help="YAML file of parameter values; default: the notebook's own")
    args = parser.parse_args()

    # Ended from outside, it ends as if interrupted: no kernel and no folder is left behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    label, start = f"[{args.source.stem}]", time.monotonic()
    print(f"{label} running…", flush=True)
    try:
        chapters = {args.source, *args.source.parent.glob("[0-9][0-9]_*.py")}
        run(args.source, args.output, load_profile(args.profile, chapters) if args.profile else {})
    except KeyboardInterrupt:
        sys.exit(f"{label} interrupted; nothing was written")
    except (RuntimeError, ValueError, OSError, SyntaxError) as error:
        sys.exit(f"{label} FAILED after {time.monotonic() - start:.1f} s in {error}")
    print(f"{label} done in {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
