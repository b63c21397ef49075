"""The changes that mutation testing makes, and what is said of those that do no harm."""

import ast

import mutate
import tested
import torture

SOURCE = """
LIMIT = 3

def f(a, b: int = 2):
    if a < b and not a:
        raise ValueError("never changed: {1 + 1}")
    return -a * 2 + 1 if a is None else True
"""


def test_every_operator_number_and_condition_inside_functions_is_changed_once():
    words = sorted(words for _, words, _ in mutate.changes(ast.parse(SOURCE)))
    assert words == sorted(
        ["Lt → LtE", "And → Or", "a not lost", "a condition turned", "a condition turned", "a minus lost", "Mult → Div",
         "2 → 3", "Add → Sub", "1 → 2", "Is → IsNot", "True → False"]
    )  # fmt: skip


def test_a_change_changes_one_thing_and_leaves_the_source_as_it_was():
    tree = ast.parse(SOURCE)
    before = ast.unparse(tree)
    texts = [ast.unparse(changed()) for _, _, changed in mutate.changes(tree)]
    assert len(set(texts)) == len(texts) and before not in texts and ast.unparse(tree) == before
    for text in texts:
        differing = [(a, b) for a, b in zip(before.splitlines(), text.splitlines(), strict=True) if a != b]
        assert len(differing) == 1, text


def test_what_is_said_to_do_no_harm_is_a_change_of_a_line_that_is_there():
    for module, change, code in mutate.HARMLESS:
        source = mutate.source_of(module)
        made = {(words, source.splitlines()[line - 1].strip()) for line, words, _ in mutate.changes(ast.parse(source))}
        assert (change, code) in made, (module, change, code)


def test_the_page_names_what_has_not_been_tried_yet():
    case = {"what": "a kill", "tries": 2, "failed": 1, "outcome": "all is well", "wrong": ["it was not"]}
    page = tested.tortured({"parts": {"kills": [case]}})
    assert "| a kill | 2 | 1 | all is well |" in page and "| a kill | it was not |" in page
    assert torture.whole.__doc__ in page and torture.kills.__doc__ not in page
    assert "Not run" not in tested.tortured({"parts": {part: [case] for part in torture.PARTS}})
