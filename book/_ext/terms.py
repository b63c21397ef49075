"""Lead each chapter's first use of a term to the glossary, where its author has not done so.

Only running prose is looked at: no heading, caption, table, code or formula. A word that also has an everyday sense is
taken where its neighbours show that the term is meant.
"""

import re

from docutils import nodes
from sphinx import addnodes

# The glossary's entry, and the words that stand for it. Of two that begin at the same place the longer one is meant.
WORDS = {
    "absorption": r"[Aa]bsorption|absorbs|absorbed|absorbing",
    "arm": r"[Aa]rms?",
    "basin": r"[Bb]asins?",
    "blamed": r"blamed",
    "feature hedging": r"[Ff]eature hedging",
    "inner prefix": r"inner prefix(?:es)?",
    "L0": r"L0",
    "latent": r"[Ll]atents?",
    "ledger": r"ledger",
    "live": r"live(?= (?:random |fresh |inner )*(?:seeds|ones|SAEs|latents))|Live(?= seeds)",
    "mixing": r"[Mm]ixing|mixed(?= in\b)",
    "narrow SAE": r"narrow SAEs?",
    "near the truth": r"near the truth",
    "outer prefix": r"outer prefix(?:es)?",
    "penalty": r"(?:L1 )?penalty",
    "prefix": r"[Pp]refix(?:es)?",
    "recovery": r"recovery|recovers?(?= the features)",
    "state": r"states?",
    "term": r"[Tt]erms?(?= (?:of the loss|that mix))",
}
ORDER = sorted(WORDS, key=lambda term: (-len(term), term))
ANY = re.compile("|".join(rf"(?P<t{i}>\b(?:{WORDS[term]})\b)" for i, term in enumerate(ORDER)))


def found(text, known):
    """Return (start, end, term) of each first use in `text` of a term that is not `known` yet; they are known then."""
    places = []
    for match in ANY.finditer(text):
        term = ORDER[int(match.lastgroup[1:])]
        if term not in known:
            known.add(term)
            places.append((*match.span(), term))
    return places


def link(document, name):
    """Turn the first use of each term in a document's prose into a reference to the glossary."""
    given = [node for node in document.findall(addnodes.pending_xref) if node.get("reftype") == "term"]
    known = {term for term in WORDS if any(node["reftarget"].lower() == term.lower() for node in given)}
    for paragraph in document.findall(nodes.paragraph):
        if isinstance(paragraph.parent, nodes.entry):
            continue
        for text in [child for child in paragraph.children if isinstance(child, nodes.Text)]:
            parts, done, words = [], 0, str(text)
            for start, end, term in found(words, known):
                shown = nodes.inline("", words[start:end], classes=["xref", "std", "std-term"])
                options = {"refdomain": "std", "reftype": "term", "reftarget": term, "refdoc": name}
                parts += [nodes.Text(words[done:start])] * (start > done)
                parts.append(addnodes.pending_xref("", shown, refexplicit=True, refwarn=True, **options))
                done = end
            if parts:
                paragraph.replace(text, [*parts, *[nodes.Text(words[done:])] * (done < len(words))])


def setup(app):
    """Look at each chapter once it is read."""
    app.connect("doctree-read", lambda app, document: chapter(app.env.docname, document))
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def chapter(name, document):
    """Link the terms of a chapter; other pages are left as they are."""
    if name.startswith("notebooks/"):
        link(document, name)
