"""What the theme does not do: light pages, figures in the page's own colours, a description for shared links.

Each page is described while it is written. At the end all are finished: unused scripts go, vector figures move into
the page, and a policy forbids what comes from outside. The download button gets a notebook to read.
"""

import html
import json
import re
from pathlib import Path

from fontTools import subset

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; font-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'"
)
UNUSED = re.compile(r"[ \t]*<script\b[^>]*_static/scripts/fontawesome\.js[^>]*></script>\n?")
SEARCH = re.compile(r"[ \t]*<script\b[^>]*(?:searchtools|language_data|searchindex)\.js[^>]*></script>\n?")
# What some pages use: the mark of its use, and what is loaded for it.
OPTIONAL = {
    'class="math': re.compile(r"[ \t]*<script\b[^>]*katex\.min\.js[^>]*></script>\n?"),
    'class="sd-': re.compile(
        r"[ \t]*<(?:link|script)\b[^>]*(?:sphinx-design\.min\.css|design-tabs\.js)[^>]*>(?:</script>)?\n?"
    ),
}
DOWNLOAD = re.compile(r'<a href="([^"]*_sources/[^"]*/([^"/]+\.(?:ipynb|md)))"')

# Of a list of references: a role that is no longer one, and a list without items.
OLD_ROLES = re.compile(r' role="doc-biblioentry"| role="list"(?= class="citation-list")')

EMPTY_HEADER = re.compile(r"<th\b[^>]*>(?:\s|&nbsp;|\xa0)*(?:<p>\s*</p>)?\s*</th>")

# Icons: the style sheet of the theme names some two thousand.
ICON = re.compile(r"\bfa-[a-z0-9-]+")
ICON_RULE = re.compile(r'((?:\.fa-[a-z0-9-]+:before,?)+)\{content:"[^"]*"\}')

# Rules of a style sheet for classes that are on no page
RULE = re.compile(r"([^{}@;]+)\{[^{}]*\}")
CLASS = re.compile(r"\.(-?[_a-zA-Z][\w-]*)")
CONDITION = re.compile(r":(?:not|is|where|has)\([^()]*\)")
WORD = re.compile(r"[A-Za-z_][\w-]+")

# Figures
VECTOR = re.compile(r'<img\b([^>]*)\bsrc="([^"]*_images/[^"]+\.svg)"([^>]*)>')
HEAVIEST = 400_000  # bytes of a figure that moves into its page
INK = re.compile(r"(?<=[:\s\"])#(?:000000|262626|333333|4d4d4d|404040)\b")
GROUND = re.compile(r'style="fill: #ffffff"')
IDS = re.compile(r'(\bid="|href="#|url\(#)([^")]+)')
SIZE = re.compile(r'width="([\d.]+)pt" height="([\d.]+)pt"')

# Roles of MyST in a notebook that is downloaded
GLUE = re.compile(r"\{glue:(?:text)?\}`(?:[^`:]*::)?([\w-]+)(?::([^`]*))?`")
GLUED_FIGURE = re.compile(r"```\{glue:figure\} (\w+)\n(?:---\n.*?\n---\n|(?::.*\n)*)\s*(.*?)\n```", re.DOTALL)
DOC = re.compile(r"\{doc\}`(?:[^`<]*<)?([^`>]+)>?`")
TERM = re.compile(r"\{term\}`([^`<]+?)(?:\s*<[^`>]*>)?`")
OTHER_ROLE = re.compile(r"\{(?:cite:[pt]|cite|numref|eq|ref)\}`([^`]+)`")


def lighter(page, name):
    """Return a page's HTML without scripts that it does not use; all pictures but the first are loaded when seen.

    What screen readers stumble on is mended on the way: empty headers of tables, and a side bar that is no landmark.
    """
    page = UNUSED.sub("", page)
    if name != "search.html":
        page = SEARCH.sub("", page)
    for mark, loaded in OPTIONAL.items():
        if mark not in page:
            page = loaded.sub("", page)
    page = OLD_ROLES.sub("", EMPTY_HEADER.sub("<td></td>", page))
    page = re.sub(r'<div id="pst-primary-sidebar"(?! role)', r'\g<0> role="region" aria-label="Book"', page)
    page = page.replace(
        '<summary><span class="toctree-toggle"', '<summary aria-label="Pages below"><span class="toctree-toggle"'
    )
    page = DOWNLOAD.sub(r'<a download="\2" href="\1"', page)
    head, mark, body = page.partition("<main")
    before, first, rest = body.partition("<img ")
    return head + mark + before + first + re.sub(r"<img (?!loading=)", '<img loading="lazy" ', rest)


def unnamed(page):
    """Take the names that pandas gives to each cell of a styled table, where no rule of the page refers to them."""
    used = set(re.findall(r"#(T_[\w-]+)", page))
    bare = r' id="(T_[\w-]+)" class="(?:data|row_heading|col_heading|index_name|blank)[\w ]*"(?: (?=>))?'
    return re.sub(bare, lambda found: found[0] if found[1] in used else "", page)


def guarded(page):
    """Return a page's HTML with the policy in its head."""
    if "Content-Security-Policy" in page:
        return page
    return page.replace("<head>", f'<head>\n    <meta http-equiv="Content-Security-Policy" content="{POLICY}" />', 1)


def inlined(drawing, prefix, alt):
    """Return an SVG file of Matplotlib's as part of a page: no ground, ink in the page's colour, ids of its own.

    It grows with the column and shrinks to its own size, at which a point is a pixel; below that its box scrolls.
    """
    body = drawing[drawing.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style\b.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = GROUND.sub('style="fill: none"', INK.sub("currentColor", body))
    body = body.replace("stroke: #ffffff", "stroke: var(--pst-color-background)")
    body = IDS.sub(rf"\g<1>{prefix}-\g<2>", body)
    width = float(SIZE.search(body)[1])
    style = f"min-width: {width:.0f}px; max-width: {1.25 * width:.0f}px; stroke-linejoin: round"
    body = SIZE.sub(f'role="img" aria-label="{html.escape(alt)}" style="{style}"', body, count=1)
    body = re.sub(r">\s+<", "><", body)
    return f'<div class="figure-box">{body}</div>'


def with_figures(page, folder, root):
    """Return a page's HTML with its vector figures in it; those that are too heavy stay outside."""
    numbers = iter(range(10_000))

    def drawn(match):
        file = (folder / match[2]).resolve()
        if root.resolve() not in file.parents or not file.is_file() or file.stat().st_size > HEAVIEST:
            return match[0]
        alt = re.search(r'alt="([^"]*)"', match[1] + match[3])
        return inlined(file.read_text(encoding="utf-8"), f"f{next(numbers)}", html.unescape(alt[1]) if alt else "")

    return VECTOR.sub(drawn, page)


def used_icons(sheet, icons):
    """Return a style sheet without the icons that no page shows."""

    def kept(match):
        names = match[1].replace(":before", "").replace(".", "").split(",")
        return match[0] if any(name in icons for name in names) else ""

    return ICON_RULE.sub(kept, sheet)


def used_rules(sheet, words):
    """Return a style sheet without the rules that need a class which is in no page and no script: not among `words`."""

    def kept(match):
        plain = CONDITION.sub("", CONDITION.sub("", match[1]))  # what must not be there, or may be, decides nothing
        selectors = plain.split(",")
        return match[0] if any(all(name in words for name in CLASS.findall(each)) for each in selectors) else ""

    return RULE.sub(kept, sheet)


def smaller_font(sheet, folder):
    """Cut the font of icons down to those that style sheets beside `sheet` still name; other forms of it go."""
    font, rules = folder / "fa-solid-900.ttf", sheet.read_text(encoding="utf-8")
    if not font.is_file():
        return
    named = "".join(path.read_text(encoding="utf-8") for path in sheet.parent.glob("*.css"))
    wanted = [int(code, 16) for code in re.findall(r"\\(f[0-9a-f]{3})\b", named)]
    options = subset.Options(flavor="woff", notdef_outline=True)
    with subset.load_font(font, options) as opened:
        cutter = subset.Subsetter(options)
        cutter.populate(unicodes=wanted)
        cutter.subset(opened)
        subset.save_font(opened, folder / "fa-solid-900.woff", options)
    for waste in [*folder.glob("*.ttf"), folder / "fa-solid-900.woff2"]:
        waste.unlink(missing_ok=True)
    rules = re.sub(r',url\([^)]*\.ttf\) format\("truetype"\)', "", rules)
    rules = rules.replace('fa-solid-900.woff2) format("woff2")', 'fa-solid-900.woff) format("woff")')
    sheet.write_text(rules, encoding="utf-8")


def glued(notebook):
    """Return what an executed notebook hands to its prose: name -> text."""
    found = {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if name := output.get("metadata", {}).get("scrapbook", {}).get("name"):
                data = output["data"]
                text = "".join(data.get("text/plain", ""))
                if "text/html" in data:
                    text = re.sub(r"<[^>]+>", "", "".join(data["text/html"]))
                found[name] = text
    return found


def pictures(notebook):
    """Return the figures that an executed notebook hands to its prose: name -> PNG, in base64."""
    kind, found = "application/papermill.record/image/png", {}
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if kind in output.get("data", {}):
                found[output["metadata"]["scrapbook"]["name"]] = "".join(output["data"][kind])
    return found


def to_read(notebook):
    """Return an executed notebook whose prose reads without the book: roles are replaced by what they stand for."""
    values, drawn = glued(notebook), pictures(notebook)

    def value(match):
        text = values.get(match[1], match[1].replace("_", " "))
        try:
            return format(float(text), match[2]) if match[2] else text.strip("'")
        except ValueError:
            return text.strip("'")

    for cell in notebook["cells"]:
        if cell["cell_type"] == "markdown":
            prose = "".join(cell["source"])
            for name in (match[1] for match in GLUED_FIGURE.finditer(prose) if match[1] in drawn):
                cell.setdefault("attachments", {})[f"{name}.png"] = {"image/png": drawn[name]}
            prose = GLUED_FIGURE.sub(r"![\1](attachment:\1.png)\n\n*\2*", prose)
            prose = TERM.sub(r"\1", GLUE.sub(value, prose))
            # Details stand further down in the notebook itself.
            prose = DOC.sub(
                lambda match: "[{0}]({0}.ipynb)".format(Path(match[1]).name.removesuffix("_details")), prose
            )
            cell["source"] = OTHER_ROLE.sub(lambda match: f"[{match[1]}]", prose)
    return notebook


def _describe(app, pagename, templatename, context, doctree):
    """Put the first paragraph into the tags that search engines and shared links show."""
    if doctree is None:
        return
    paragraphs = [node.astext() for node in doctree.findall(lambda node: node.tagname == "paragraph")]
    text = next((" ".join(each.split()) for each in paragraphs if len(each) > 60), "")
    if len(text) > 220:
        text = text[:220].rsplit(" ", 1)[0] + "…"
    title, text = html.escape(re.sub(r"<[^>]+>", "", context.get("title") or "")), html.escape(text)
    tags = {"og:type": "article", "og:title": title, "og:site_name": context["project"], "og:description": text}
    # A shared link shows the book's picture; crawlers want the whole address, which html_baseurl gives.
    base, picture = app.config.html_baseurl, "_static/readme-figure.png"
    tags["og:image"] = f"{base.rstrip('/')}/{picture}" if base else context["pathto"](picture, 1)
    context["metatags"] += '\n<meta name="twitter:card" content="summary_large_image" />'
    context["metatags"] += f'\n<meta name="description" content="{text}" />'
    context["metatags"] += "".join(f'\n<meta property="{name}" content="{value}" />' for name, value in tags.items())


def _finish(app, exception):
    if exception or app.builder.name not in ("html", "singlehtml"):
        return
    root, icons, words = Path(app.outdir), set(), set()
    for path in root.rglob("*.html"):
        if "_static" in path.parts:
            continue
        page = path.read_text(encoding="utf-8")
        # A single page refers to everything as if it stood at the root.
        folder = root if app.builder.name == "singlehtml" else path.parent
        done = guarded(unnamed(lighter(with_figures(page, folder, root), path.name)))
        icons |= set(ICON.findall(done))
        words |= {word for names in re.findall(r'\bclass="([^"]*)"', done) for word in names.split()}
        if done != page:
            path.write_text(done, encoding="utf-8")
    static = root / "_static"
    for script in static.glob("scripts/*.js"):
        if script.name != "fontawesome.js":
            icons |= set(ICON.findall(script.read_text(encoding="utf-8")))
    for waste in [*static.glob("scripts/fontawesome.*"), *static.rglob("*.map")]:
        waste.unlink(missing_ok=True)
    for script in static.rglob("*.js"):
        words |= set(WORD.findall(script.read_text(encoding="utf-8")))
    sheet = static / "styles/pydata-sphinx-theme.css"
    sheet.write_text(used_icons(sheet.read_text(encoding="utf-8"), icons), encoding="utf-8")
    for rules in [sheet, *static.glob("mystnb*.css")]:
        # A script puts the name of this class together.
        rules.write_text(used_rules(rules.read_text(encoding="utf-8"), words | {"bs-tooltip-auto"}), encoding="utf-8")
    smaller_font(sheet, static / "vendor/fontawesome/webfonts")
    for path in root.glob("_sources/notebooks/*.ipynb"):
        # Pages show the cells in another order, some on a page of their own; a reader gets the notebook that runs.
        whole = Path(app.srcdir) / "whole" / f"{path.stem.removesuffix('_details')}.ipynb"
        notebook = json.loads((whole if whole.is_file() else path).read_text(encoding="utf-8"))
        path.write_text(json.dumps(to_read(notebook), indent=1, ensure_ascii=False), encoding="utf-8")


def setup(app):
    """Describe each page while it is written, and finish all of them at the end."""
    app.connect("html-page-context", _describe)
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
