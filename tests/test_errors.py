"""The exception tree: what the docstring draws is what the classes are."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from regaudit import errors
from regaudit.errors import NotFound, RegauditError, RegistryError, UsageError

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == errors.__name__]


def drawn():
    """Return child -> parent as the docstring of the module draws it, and the words beside each name."""
    parents, words, path = {}, {}, []
    for line in errors.__doc__.splitlines():
        found = re.fullmatch(r" {4}((?:[│ ] {3})*)(?:[├└]── )?([A-Z]\w+)(?: {2,}(.+))?", line)
        if found is None:
            continue
        depth = len(found[1]) // 4 + ("── " in line)
        path[depth:] = [found[2]]
        parents[found[2]] = path[depth - 1] if depth else None
        words[found[2]] = found[3]
    return parents, words


def test_the_drawing_is_the_tree_of_the_classes():
    parents, _ = drawn()
    real = {cls.__name__: next((b.__name__ for b in cls.__bases__ if b in CLASSES), None) for cls in CLASSES}
    assert parents == real


def test_the_drawing_says_of_every_class_what_it_means():
    _, words = drawn()
    assert [name for name, text in words.items() if not text] == ["RegauditError"]


def test_every_kind_is_one_word_of_its_own():
    kinds = [cls.kind for cls in CLASSES]
    assert len(set(kinds)) == len(kinds) == 30
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", kind) for kind in kinds)


def test_what_a_person_typed_wrong_is_also_a_value_error():
    assert [cls for cls in CLASSES if issubclass(cls, ValueError)] == [
        cls for cls in CLASSES if issubclass(cls, UsageError)
    ]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_every_error_is_raised_with_a_message_and_caught_as_the_root(cls):
    with pytest.raises(RegauditError, match="what to do"):
        raise cls("what to do")


@pytest.mark.parametrize(
    "cls", [cls for cls in CLASSES if issubclass(cls, RegistryError)], ids=lambda cls: cls.__name__
)
def test_a_registry_error_keeps_what_it_knows_across_processes(cls):
    error = pickle.loads(pickle.dumps(cls("gone", url="https://reg.io/v2/", status=404, code="NAME_UNKNOWN")))
    assert type(error) is cls
    assert (str(error), error.url, error.status, error.code) == ("gone", "https://reg.io/v2/", 404, "NAME_UNKNOWN")


def test_a_registry_error_without_an_answer_has_no_status():
    error = NotFound("gone")
    assert (error.url, error.status, error.code) == ("", None, None)
