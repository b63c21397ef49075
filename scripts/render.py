"""Turn executed notebooks and prose into the site, check it, and publish it.

`build` gathers the sources of the book in `BUILD/source`, renders them with Jupyter Book (a warning is an
error) and checks the pages. `publish` swaps the site into place. `check` looks at a finished site. `pdf` prints the
whole book. `figure` takes a figure out of an executed notebook, for the README. `place` puts a notebook that papermill
wrote in the place of its chapter's, to be rendered with the others.
"""

import argparse
import ast
import base64
import contextlib
import errno
import functools
import http.server
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import kernels
import tested
import yaml

ANSI_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
TRACEBACK = re.compile(r'class="output traceback|Traceback \(most recent call last\)')
RAW_TABLE = re.compile(r"<p>\|[^<]*\|")
LOADED = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(?!data:)([^"?#]+)')
EXPLORABLE = re.compile(r'<div class="explorable".*?<script type="application/json">(.*?)</script>', re.DOTALL)
PDF = "matryoshka-mixing.pdf"
TRAINED = "03_matryoshka_inherits"
OUTSIDE = re.compile(r"(?:https?:)?//")
GLUED_FIGURE = re.compile(r"(```\{glue:figure\} (\w+)\n.*?\n)(```)", re.DOTALL)
NAME = re.compile(r"^:?name: *(\S+)$", re.MULTILINE)


def toc_pages(entry):
    """Return the documents that a `_toc.yml`, or a part of one, names, in order and without suffix."""
    if isinstance(entry, list):
        return [page for item in entry for page in toc_pages(item)]
    if not isinstance(entry, dict):
        return []
    own = [entry[key] for key in ("root", "file") if key in entry]
    return own + [page for value in entry.values() for page in toc_pages(value)]


def read_toc(path):
    """Return the documents named in the `_toc.yml` at `path`."""
    return toc_pages(yaml.safe_load(Path(path).read_text()))


def problems(site, pages):
    """Return one line for each thing that is wrong with the rendered `site`; an empty list is good."""
    found = []
    for page in pages:
        html = site / f"{page}.html"
        if not html.is_file():
            found.append(f"{html}: the page is missing")
            continue
        text = html.read_text()
        if TRACEBACK.search(text):
            found.append(f"{html}: the page shows a traceback")
        if RAW_TABLE.search(text):
            found.append(f"{html}: the page shows the source of a table")
        for url in LOADED.findall(text):
            if OUTSIDE.match(url):
                found.append(f"{html}: loads {url} from outside")
            elif not (html.parent / url).is_file():
                found.append(f"{html}: loads {url}, which is not there")
    return found


def wanted_sources(build, shown, notebooks):
    """Return where each file of the book's source comes from: path inside the source -> path here.

    The `shown` pages of notebooks are rendered; the `notebooks` themselves are what a reader downloads.
    """
    prose = [path for path in Path("book").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    wanted = {path: path for path in [Path("_config.yml"), Path("_toc.yml"), *prose]}
    for generated in ("verdicts.md", "criteria.md", "parameters.md", "explorable.html", "tested.md"):
        wanted[Path("book") / generated] = build / generated
    # The page on speed comes with figures, unless no benchmark was run.
    wanted |= {Path("book") / path.name: path for path in (build / "speed").glob("*")}
    wanted |= {Path("whole") / notebook.name: notebook for notebook in notebooks}
    folders = {".csv": Path("numbers"), ".ipynb": Path("notebooks")}
    return wanted | {folders[page.suffix] / page.name: page for page in shown}


def assemble(source, wanted):
    """Make the folder `source` hold exactly the `wanted` files, and touch only those that differ.

    Returns:
        True if Sphinx must start afresh: it neither removes the page of a vanished file nor notices
        an edited extension.
    """
    afresh = False
    for path in [path for path in source.rglob("*") if path.is_file()]:
        inside = path.relative_to(source)
        if inside not in wanted and "__pycache__" not in inside.parts:
            path.unlink()
            afresh = True
    for inside, origin in wanted.items():
        target, content = source / inside, origin.read_bytes()
        if not target.is_file() or target.read_bytes() != content:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            afresh |= "_ext" in inside.parts
    return afresh


def chapter_of(notebook):
    """Return the module of the chapter that `notebook` belongs to."""
    return importlib.import_module(f"matryoshka_mixing.chapters.{notebook.stem.split('_', 1)[1]}")


def bar(source, chapter):
    """Return what stands on the bar over folded code: what the function that it is about says of itself."""
    rooms = {name: importlib.import_module(f"matryoshka_mixing.{name}") for name in ("figures", "notebook", "claims")}
    rooms["chapter"] = chapter
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    named = [ast.unparse(call).split(".") for call in calls if isinstance(call, ast.Attribute)]
    # The verdict, else the figure that it draws, else what it computes, else what every chapter does.
    ranks = [("claims", "judge"), ("chapter", "draw"), ("figures", ""), ("chapter", ""), ("notebook", "begin")]
    for room, start in ranks:
        for name, *path in named:
            if name != room or not path[-1].startswith(start):
                continue
            about = functools.reduce(lambda where, step: getattr(where, step, None), path, rooms[name])
            if about is not None and about.__doc__:
                words = re.split(r"[.:;] ", " ".join(about.__doc__.split("\n\n")[0].split()))[0].rstrip(".:")
                small = words[0] if re.match("[A-Z][A-Z0-9]", words) else words[0].lower()
                return f"Code: {small}{words[1:]}".replace("`", "")
    return "Code"


def with_bars(cells, chapter):
    """Fold the code among `cells` of a notebook under bars that say what it does.

    The parameters stay open, and so does code that is there to be read: it calls nothing that a bar could tell of.
    """
    for cell in cells:
        if cell["cell_type"] != "code" or {"parameters", "remove-cell"} & set(tags(cell)):
            continue
        words = bar("".join(cell["source"]), chapter)
        if words != "Code" and "hide-cell" not in tags(cell):
            cell["metadata"]["tags"] = sorted({*tags(cell), "hide-input"})
        if {"hide-input", "hide-cell"} & set(tags(cell)):
            cell["metadata"].setdefault("mystnb", {}).setdefault("code_prompt_show", words)


def tags(cell):
    """Return the tags of a notebook's cell."""
    return cell["metadata"].get("tags", [])


def is_glued(output):
    """Tell whether an output is kept for the prose, not shown in its place."""
    return "scrapbook" in output.get("metadata", {})


def decisive_first(cells):
    """Return the `cells` with the decisive figure, if one is tagged so, before everything but the claim.

    The notebook has it where it is drawn, since nothing can be drawn first; the caption leads there.
    """
    cells = [*cells]
    for place, cell in enumerate(cells):
        if "decisive" in tags(cell):
            about = cell["metadata"]
            says = {key: words for key, words in about["mystnb"].items() if key == "code_prompt_show"}
            figure = about["mystnb"]["figure"]
            name = f"{figure['name']}-code"
            figure = figure | {"caption": f"{figure['caption']} {{ref}}`Code <{name}>`"}
            shown = about["mystnb"] | {"figure": figure}
            first = without_glue(cell) | {"id": "decisive"}
            first["metadata"] = about | {"mystnb": shown, "tags": ["remove-input"]}
            rest = [output for output in cell["outputs"] if is_glued(output)]
            target = {"cell_type": "markdown", "id": "code", "metadata": {}, "source": f"({name})="}
            cells[place] = cell | {"metadata": about | {"mystnb": says}, "outputs": rest}
            return [cells[0], first, *cells[1:place], target, *cells[place:]]
    return cells


def pages_of(notebook, chapter):
    """Return the pages that an executed notebook becomes, as JSON by file name.

    One page, with the decisive figure first; and, where cells are tagged `details`, those on a second one. Each then
    comes with all that the notebook hands to its prose.
    """
    read, pages = json.loads(notebook.read_text()), {}
    with_bars(read["cells"], chapter)
    handed = handed_numbers(read["cells"])
    for cell in read["cells"]:
        pages |= with_numbers(cell) if cell["cell_type"] == "code" else with_glued_numbers(cell, handed)
    kept = [cell for cell in read["cells"] if "details" not in tags(cell)]
    more = [cell for cell in read["cells"] if "details" in tags(cell)]
    found = {notebook.name: decisive_first(kept)}
    if more:
        outputs = [output for cell in read["cells"] for output in cell.get("outputs", [])]
        glue = {
            "cell_type": "code", "id": "glue", "metadata": {"tags": ["remove-cell"]}, "source": "",
            "execution_count": None, "outputs": [output for output in outputs if is_glued(output)],
        }  # fmt: skip
        name = "".join(kept[0]["source"]).splitlines()[0]
        words = f"{name}: details\n\nWhat {{doc}}`{notebook.stem}` leaves out, from the same run."
        head = {"cell_type": "markdown", "id": "head", "metadata": {}, "source": words}
        found |= {f"{notebook.stem}_details.ipynb": [head, *more]}
        found = {page: [*map(without_glue, cells), glue] for page, cells in found.items()}
    return pages | {
        page: json.dumps(read | {"cells": cells}, indent=1, ensure_ascii=False) for page, cells in found.items()
    }


def with_numbers(cell):
    """Let the caption of a cell's figure lead to the numbers behind it; return their file, if there are any."""
    about = cell["metadata"].get("mystnb", {}).get("figure")
    tables = [output["data"]["text/csv"] for output in cell.get("outputs", []) if "text/csv" in output.get("data", {})]
    if not about or not tables:
        return {}
    about["caption"] += f" {{download}}`Numbers </numbers/{about['name']}.csv>`"
    return {f"{about['name']}.csv": "".join(tables[-1])}


def handed_numbers(cells):
    """Return the numbers behind each figure that a notebook hands to its prose, as CSV by the figure's name."""
    kind = "application/papermill.record/text/csv"
    outputs = [output for cell in cells for output in cell.get("outputs", []) if kind in output.get("data", {})]
    return {output["metadata"]["scrapbook"]["name"]: "".join(output["data"][kind]) for output in outputs}


def with_glued_numbers(cell, handed):
    """Let the captions of figures that stand in prose lead to the numbers behind them; return their files."""
    files = {}

    def led(match):
        name = NAME.search(match[1])
        if match[2] not in handed or not name:
            return match[0]
        files[f"{name[1]}.csv"] = handed[match[2]]
        return f"{match[1].rstrip()} {{download}}`Numbers </numbers/{name[1]}.csv>`\n{match[3]}"

    prose = "".join(cell["source"])
    if GLUED_FIGURE.search(prose):
        cell["source"] = GLUED_FIGURE.sub(led, prose)
    return files


def without_glue(cell):
    """Return a notebook's cell without what it hands to the prose."""
    if cell["cell_type"] != "code":
        return cell
    return cell | {"outputs": [output for output in cell["outputs"] if not is_glued(output)]}


def parameters_page(notebooks):
    """Return one folded table of parameters for each notebook, as its chapter declares them."""
    parts = []
    for notebook in notebooks:
        parts.append(f":::{{dropdown}} `{notebook.stem}`\n{chapter_of(notebook).Parameters.table()}:::\n")
    return "\n".join(parts)


def explorable_data(notebook):
    """Return the JSON that a chapter hands to what a reader moves, from its executed `notebook`."""
    for cell in json.loads(notebook.read_text())["cells"]:
        for output in cell.get("outputs", []):
            page = "".join(output.get("data", {}).get("text/html", ""))
            if found := EXPLORABLE.search(page):
                return json.loads(found[1])
    raise ValueError(f"{notebook} shows nothing that a reader can move")


def explorable_page(notebooks):
    """Return the HTML of the landing page's explorable: its first frame, and the trained SAEs of the run."""
    source = next((path for path in notebooks if path.stem == TRAINED), None)
    data = explorable_data(source) if source else {}
    other = dict.fromkeys(("without", "remedy"), "04_why_it_happens")
    # The message is that of the default values, whatever the run's.
    data = {key: data[key] for key in ("run", "dots") if key in data} | {"notebooks": {"whole": TRAINED} | other}
    frame, packed = Path("book/_static/explorable.html").read_text(), json.dumps(data).replace("<", "\\u003c")
    return f'<div class="explorable">\n{frame}<script type="application/json">{packed}</script>\n</div>\n'


def build_site(build, notebooks):
    """Render the site of one profile into `build/_build/html`; `build/rendered` marks success."""
    marker, sphinx_output = build / "rendered", build / "_build"
    (build / "parameters.md").write_text(parameters_page(notebooks))
    (build / "explorable.html").write_text(explorable_page(notebooks))
    (build / "tested.md").write_text(tested.page())
    shutil.rmtree(build / "shown", ignore_errors=True)
    (build / "shown").mkdir()
    shown = []
    for notebook in notebooks:
        for name, page in pages_of(notebook, chapter_of(notebook)).items():
            shown.append(build / "shown" / name)
            shown[-1].write_text(page)
    shutil.rmtree(build / "speed", ignore_errors=True)
    command = [sys.executable, "benchmarks/page.py", "benchmarks/results.json", build / "speed"]
    subprocess.run(command, check=True, env=kernels.surroundings())
    afresh = assemble(build / "source", wanted_sources(build, shown, notebooks))
    # Sphinx repeats no warning for a page that it has already read: after a failed
    # or interrupted build a second one would pass.
    if afresh or not marker.exists():
        shutil.rmtree(sphinx_output, ignore_errors=True)
    marker.unlink(missing_ok=True)
    print("[book] rendering…", flush=True)
    start = time.monotonic()
    jupyter_book(build / "source", build, build / "sphinx.log", "-W", "-n", "--keep-going")
    check(sphinx_output / "html", Path("_toc.yml"))
    print(f"[book] rendered in {time.monotonic() - start:.1f} s", flush=True)
    marker.write_text(f"{build.name} {time.time_ns()}\n")


def jupyter_book(source, output, log, *options):
    """Call Jupyter Book; on failure stop with its complaints."""
    command = [Path(sys.executable).with_name("jupyter-book"), "build", source, "--path-output", output, "-q", *options]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if os.strerror(errno.ENOSPC) in result.stdout:  # Sphinx tells it file by file
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output))
    log.write_text(ANSI_COLOUR.sub("", result.stdout))
    if result.returncode:
        lines = [line for line in log.read_text().splitlines() if "WARNING" in line or "ERROR" in line]
        sys.exit("\n".join([*lines, f"[book] FAILED: full log in {log}"]))


@contextlib.contextmanager
def served(folder):
    """Serve `folder` on this machine alone; gives the address. Pages allow only what comes from their own server."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def pdf(build, site):
    """Print the whole book as one PDF into the published `site`, and show the link to it.

    Jupyter Book puts all chapters on one page, and Debian's Chromium prints that.
    """
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        sys.exit("[book] no chromium found: install Debian's package, or name another in CHROMIUM")
    if not (build / "rendered").is_file() or not (site / "index.html").is_file():
        sys.exit("[book] nothing to print yet: run 'make book' first")
    print("[book] printing…", flush=True)
    start, single = time.monotonic(), build / "single"
    jupyter_book(build / "source", single, build / "pdf.log", "--builder", "singlehtml")
    pages = single / "_build" / "singlehtml"
    page = next(pages.glob("book/index.html"), None) or next(pages.glob("*.html"))
    page = Path(shutil.copy(page, pages / "whole.html"))  # it refers to everything as if it stood at the root
    with tempfile.TemporaryDirectory() as scratch, served(pages) as address:
        draft = Path(scratch) / "book.pdf"
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        options += [f"--user-data-dir={scratch}/profile", "--no-pdf-header-footer", "--virtual-time-budget=20000"]
        command = [chromium, *options, f"--print-to-pdf={draft}", f"{address}/{page.relative_to(pages)}"]
        subprocess.run(command, check=True, capture_output=True, timeout=500)
        shutil.copy(draft, site / f".{PDF}.partial")
        (site / f".{PDF}.partial").replace(site / PDF)
    landing = site / "book" / "index.html"
    landing.write_text(landing.read_text().replace('class="pdf" hidden', 'class="pdf"'))
    print(f"[book] printed {site / PDF} in {time.monotonic() - start:.1f} s")


def check(site, toc):
    """Stop with a list of what is wrong with `site`, if anything is."""
    if found := problems(site, read_toc(toc)):
        sys.exit("\n".join([*found, f"[book] FAILED: {len(found)} problem(s) in the rendered pages"]))


def publish(build, site):
    """Put the rendered site of `build` at `site`, unless the same rendering is already there."""
    marker, published = build / "rendered", site / ".rendered"
    if not published.is_file() or published.read_bytes() != marker.read_bytes():
        fresh, old = site.with_name(f"{site.name}.new"), site.with_name(f"{site.name}.old")
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        shutil.copytree(build / "_build" / "html", fresh)
        shutil.copy(marker, fresh / ".rendered")
        if site.exists():
            site.rename(old)
        fresh.rename(site)
        shutil.rmtree(old, ignore_errors=True)
    print(f"[book] open {(site / 'index.html').resolve()} ({build.name} profile)")


def stored_figure(notebook, name):
    """Return the PNG of the figure called `name` in an executed notebook."""
    for cell in json.loads(notebook.read_text())["cells"]:
        if cell["metadata"].get("mystnb", {}).get("figure", {}).get("name") == name:
            return base64.b64decode(cell["outputs"][-1]["data"]["image/png"])
    raise ValueError(f"{notebook} has no figure called {name}")


def place(notebook, folder):
    """Put a `notebook` that papermill wrote in the place of the same chapter's in `folder`."""
    try:
        ran = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["papermill"]
        chapter = folder / f"{Path(ran['input_path']).stem}.ipynb"
        if ran.get("exception") or not chapter.is_file():
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        known = ", ".join(sorted(path.stem for path in folder.glob("*.ipynb")))
        sys.exit(
            f"error: {notebook} is no notebook that papermill wrote, without an error, from one of {known}; "
            "write one with: papermill notebooks/NAME.ipynb out.ipynb -p ..."
        )
    shutil.copy(notebook, chapter)


def main():
    """Parse the command line and run one of the steps."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("build", help="gather the sources, render them, check the pages")
    step.add_argument("build", type=Path, help="folder of one profile, such as _build/report")
    step.add_argument("notebooks", type=Path, nargs="+", help="executed notebooks")
    step = steps.add_parser("publish", help="put a rendered site into place")
    step.add_argument("build", type=Path, help="folder of one profile, such as _build/report")
    step.add_argument("site", type=Path, help="where the site shall stand, such as _build/html")
    step = steps.add_parser("check", help="see that every page exists, shows no traceback, loads only what is there")
    step.add_argument("site", type=Path, help="folder of the rendered site")
    step.add_argument("--toc", type=Path, default=Path("_toc.yml"), help="table of contents (default: _toc.yml)")
    step = steps.add_parser("pdf", help="print the whole book into a site that is in place")
    step.add_argument("build", type=Path, help="folder of one profile, such as _build/report")
    step.add_argument("site", type=Path, help="where the site stands, such as _build/html")
    step = steps.add_parser("figure", help="copy a figure of an executed notebook into a PNG file")
    step.add_argument("notebook", type=Path, help="executed notebook")
    step.add_argument("name", help="name of the figure, such as fig-matryoshka-curve")
    step.add_argument("image", type=Path, help="PNG file to write")
    step = steps.add_parser("place", help="put notebooks that papermill wrote in the place of their chapters'")
    step.add_argument("folder", type=Path, help="where the executed notebooks of all chapters lie")
    step.add_argument("notebooks", type=Path, nargs="+", help="notebooks that papermill wrote")
    args = parser.parse_args()

    if args.step == "figure":
        args.image.write_bytes(stored_figure(args.notebook, args.name))
    elif args.step == "build":
        build_site(args.build, args.notebooks)
    elif args.step == "place":
        for notebook in args.notebooks:
            place(notebook, args.folder)
    elif args.step in ("publish", "pdf"):
        {"publish": publish, "pdf": pdf}[args.step](args.build, args.site)
    else:
        check(args.site, args.toc)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("[book] interrupted; the site is as it was")
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"[book] FAILED: {error}; the site is as it was")
