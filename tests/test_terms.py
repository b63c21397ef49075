"""Each chapter's first use of a term leads to the glossary."""

from pathlib import Path

import terms
from docutils import nodes
from docutils.utils import new_document
from sphinx import addnodes

ROOT = Path(__file__).parent.parent


def document(*children):
    made = new_document("x")
    made += list(children)
    return made


def prose(*parts):
    made = nodes.paragraph()
    made += [nodes.Text(part) if isinstance(part, str) else part for part in parts]
    return made


def links(made):
    return [(node["reftarget"], node.astext()) for node in made.findall(addnodes.pending_xref)]


def test_the_first_use_is_linked_and_no_other_and_no_word_is_lost():
    text = "The inner prefix holds Latents that mix; live seeds in basins. A latent of a prefix, live here."
    made = document(nodes.title("", "A latent"), prose(text), prose("More latents in a state."))
    terms.link(made, "notebooks/x")
    assert links(made) == [
        ("inner prefix", "inner prefix"), ("latent", "Latents"), ("live", "live"), ("basin", "basins"),
        ("prefix", "prefix"), ("state", "state"),
    ]  # fmt: skip
    assert [part.astext() for part in made.findall(nodes.paragraph)] == [text, "More latents in a state."]


def test_what_an_author_linked_and_what_is_no_prose_is_left_alone():
    own = addnodes.pending_xref("", nodes.inline("", "prefixes"), reftype="term", reftarget="Prefix")
    table = nodes.entry("", prose("absorption"))
    made = document(prose(own, " and a prefix, ", nodes.literal("", "latent"), nodes.emphasis("", "arm")), table)
    terms.link(made, "notebooks/x")
    assert links(made) == [("Prefix", "prefixes")]


def test_only_chapters_are_looked_at():
    for name, expected in [("book/api", []), ("notebooks/03_x", [("latent", "latent")])]:
        made = document(prose("A latent."))
        terms.chapter(name, made)
        assert links(made) == expected


def test_everyday_senses_are_no_terms():
    assert terms.found("A live page, in terms of what it says, recovers and warms.", set()) == []


def test_every_term_stands_in_the_glossary():
    glossary = (ROOT / "book/glossary.md").read_text().splitlines()
    assert [term for term in terms.WORDS if term not in glossary] == []
