"""Run one chapter's notebook at one point of a sweep, and keep its verdicts and printed numbers, but no figures.

The cells run as papermill would run them, with the same parameters checked by the same chapter, but in a process of
their own instead of a Jupyter kernel, and nothing is drawn: kernel, imports and figures are most of the cost of a small
run. On one machine the imports are shared too: `--serve CHAPTER` imports once, loads the compiled code, and forks a
process for each run that comes over its socket, whose address stands in SWEEP_SERVER. Without one a run is done here,
as on a cluster.
"""

import argparse
import ast
import contextlib
import io
import json
import os
import socket
import sys
import threading
import time
from pathlib import Path

SCRIPTS = str(Path(__file__).resolve().parent.parent / "scripts")


def undrawn(cell):
    """The cell's source without the figure that it ends with: whatever a verdict needs is computed before it."""
    if "figure" not in cell.metadata.get("mystnb", {}):
        return cell.source
    *_, last = ast.parse(cell.source).body
    drawn = isinstance(last, ast.Assign) and ast.unparse(last.targets[0]) == "figure"
    return "\n".join(cell.source.splitlines()[: last.lineno - 1]) if drawn else cell.source


def execute(source, output, profile):
    """Run the cells of `source` and write them with their outputs; on failure raise RuntimeError that says where.

    What a run costs stands in the notebook's metadata as `cost`: seconds, seconds of computing, the most memory in MB.
    """
    import resource  # the imports wait: whoever asks a server needs none of them

    import jupytext
    import matplotlib as mpl
    import nbformat
    import yaml
    from IPython.core.displayhook import CapturingDisplayHook
    from IPython.core.displaypub import CapturingDisplayPublisher

    sys.path.insert(0, SCRIPTS)
    import execute as papermill_run

    mpl.use("agg")
    started, computed = time.monotonic(), time.process_time()
    log = output.with_suffix(".failed.log")
    log.unlink(missing_ok=True)
    notebook = jupytext.read(source)
    declared = papermill_run.declared_parameters(notebook)
    shell = bare_shell()
    shell.display_pub = CapturingDisplayPublisher()
    shell.display_trap.hook = CapturingDisplayHook(shell, shell.display_pub.outputs)
    for number, cell in enumerate(cell for cell in notebook.cells if cell.cell_type == "code"):
        shell.display_pub.outputs.clear()
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            result = shell.run_cell(undrawn(cell))
        cell.execution_count = number + 1
        cell.outputs = [
            nbformat.v4.new_output("display_data", data=shown["data"], metadata=shown["metadata"])
            for shown in shell.display_pub.outputs
        ]
        if printed.getvalue():
            cell.outputs.append(nbformat.v4.new_output("stream", name="stdout", text=printed.getvalue()))
        if not result.success:
            error = result.error_before_exec or result.error_in_exec
            log.parent.mkdir(parents=True, exist_ok=True)
            log.write_text(f"cell: {cell.source}\n\n{printed.getvalue()}\n{type(error).__name__}: {error}\n")
            raise RuntimeError(f"{type(error).__name__}: {error}\n  more: {log}")
        if papermill_run.is_parameters(cell):
            shell.user_ns.update(papermill_run.overrides(declared, yaml.safe_load(profile.read_text()) or {}))
    papermill_run.clean(notebook)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)
    spent = {"seconds": time.monotonic() - started, "cpu_seconds": time.process_time() - computed, "memory_mb": most}
    notebook.metadata["cost"] = {name: round(value, 2) for name, value in spent.items()}
    papermill_run.write(notebook, output)


def bare_shell():
    """IPython's shell of this process, without a history, which would open a file for each run."""
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets.config import Config

    without = Config({"HistoryManager": {"enabled": False}})
    return InteractiveShell.instance(user_ns={"__name__": "__main__"}, config=without)


def attempt(source, output, profile):
    """Run, and return what a shell reads: 0 and a line, or 1 and the error."""
    try:
        execute(Path(source), Path(output), Path(profile))
    except (RuntimeError, ValueError, OSError, SyntaxError) as error:
        return {"code": 1, "told": f"[{Path(source).stem}] FAILED in {error}"}
    return {"code": 0, "told": f"[{Path(source).stem}] done"}


def serve(chapter):
    """Import once what runs of `chapter` import, then fork a process for each that comes over the socket on stdin."""
    import importlib
    import signal

    import matplotlib as mpl

    server, parent = socket.socket(fileno=0), os.getppid()
    mpl.use("agg")
    sys.path.insert(0, SCRIPTS)
    for name in ("execute", "IPython.core.interactiveshell", f"matryoshka_mixing.chapters.{chapter.split('_', 1)[1]}"):
        importlib.import_module(name)
    warm_up()
    address = Path(server.getsockname())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the children
    server.settimeout(1)
    while os.getppid() == parent:  # who started it has gone: so does it
        try:
            link, _ = server.accept()
        except TimeoutError:
            continue
        if os.fork() == 0:
            server.close()
            _answer(link)
        link.close()
    address.unlink()
    address.parent.rmdir()


def warm_up():
    """Do once what every run would do first: the shell, the style, the compiled trainer, the schema of notebooks."""
    import nbformat

    from matryoshka_mixing import features, figures, sae, training

    bare_shell()
    figures.use_style()
    nbformat.validate(nbformat.v4.new_notebook())
    config, family = sae.SAEConfig(3, widths=(1, 3)), features.family(0.3, 0.4)
    directions = features.orthonormal_dictionaries(3, 3, [0])
    setting, start = training.Setting(config, family.states(), directions), sae.random_start(config, [0])
    for batch_size in (None, 1):
        training.train(setting, start, training.TrainConfig(1, batch_size=batch_size))


def _answer(link):
    """Do the one run that is asked for, in a process that ends after it, or when whoever asked has gone."""
    link.settimeout(None)
    with link.makefile("rw") as stream:
        asked = json.loads(stream.readline())
        threading.Thread(target=lambda: (stream.readline(), os._exit(1)), daemon=True).start()
        link.sendall(json.dumps(attempt(**asked)).encode() + b"\n")
    os._exit(0)


def ask(address, asked):
    """Let the server do the run; None where none listens."""
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.connect(address)
            link.sendall(json.dumps(asked).encode() + b"\n")
            answer = link.makefile().readline()
    except OSError:
        return None
    return json.loads(answer) if answer else {"code": 1, "told": "the process of this run was ended"}


def main():
    """Serve, ask, or run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", help="notebook source, a py:percent file")
    parser.add_argument("-o", "--output", help="notebook to write (.ipynb)")
    parser.add_argument("--profile", help="YAML file of parameter values")
    parser.add_argument("--serve", metavar="CHAPTER", help="serve runs of this notebook; standard input is the socket")
    options = parser.parse_args()
    if options.serve:
        return serve(options.serve)
    if not (options.source and options.output and options.profile):
        parser.error("a run needs SOURCE, --output and --profile")
    asked = {name: os.path.abspath(getattr(options, name)) for name in ("source", "output", "profile")}
    address = os.environ.get("SWEEP_SERVER")
    done = (address and ask(address, asked)) or attempt(**asked)
    print(done["told"], flush=True)
    sys.exit(done["code"])


if __name__ == "__main__":
    main()
