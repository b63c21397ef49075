"""Run the arithmetic and the drawings of `book/_static/explorable.js` outside a browser.

`python scripts/explorable.py` writes the first frame, which a page shows before, or without, JavaScript. It needs Node:
the one on the path, or the one that comes with Playwright.
"""

import json
import shutil
import subprocess
from pathlib import Path

STATIC = Path(__file__).parents[1] / "book/_static"


def node():
    """Return the path of a Node, or raise FileNotFoundError."""
    if found := shutil.which("node"):
        return found
    import playwright

    found = Path(playwright.__file__).parent / "driver/node"
    if not found.is_file():
        raise FileNotFoundError("no Node on the path, nor one in Playwright's package: install Node 18 or newer.")
    return str(found)


def evaluate(expression):
    """Return the value of a JavaScript expression in which `E` is the explorable, as JSON carries it."""
    script = (
        f"const E = require({json.dumps(str(STATIC / 'explorable.js'))}); console.log(JSON.stringify({expression}));"
    )
    done = subprocess.run([node(), "-e", script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def first_frame():
    """Return the HTML of the first frame."""
    picture, words = evaluate("[E.picture(E.tidy(E.START), {x: 'q'}), E.words(E.START)]")
    body = picture.replace("><", ">\n<")
    return f'<div class="explorable-picture">\n{body}\n</div>\n<p class="explorable-words">{words}</p>\n'


if __name__ == "__main__":
    (STATIC / "explorable.html").write_text(first_frame())
