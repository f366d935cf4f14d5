"""Annotations, which from Python 3.14 on a function says when it is asked."""

import sys

import pytest

lazy = pytest.mark.skipif(sys.version_info < (3, 14), reason="n/a: new in 3.14")


def test_hints_of_classes(run):
    source = """
import typing
class A:
    other: "A"
    n: int
class B(A):
    more: list["B"]
class C(B): pass
hints = typing.get_type_hints(B)
hints == {"other": A, "n": int, "more": list[B]}, typing.get_type_hints(C) == hints, C.__annotations__
"""
    assert run(source) == (True, True, {})


@lazy
def test_a_dataclass_may_name_itself(run):
    source = """
from dataclasses import KW_ONLY, InitVar, dataclass, fields
from typing import ClassVar
@dataclass(slots={})
class Node:
    value: int
    seen: "ClassVar[int]" = 3
    following: Node | None = None
    _: KW_ONLY
    more: InitVar[int] = 2
    def __post_init__(self, more): self.value += more
node = Node(1, Node(2), more=5)
node.value, node.following.value, [f.name for f in fields(Node)], Node.__annotations__["following"] == Node | None
"""
    for slots in ("False", "True"):
        assert run(source.format(slots)) == (6, 4, ["value", "following"], True)


@lazy
@pytest.mark.parametrize(
    "says",
    [
        "return {EVIL: int}",
        "if len(asked) == 1: raise NameError('later')\n    return {EVIL if len(asked) > 2 else 'x': int}",
        "return {'x' if len(asked) == 1 else EVIL: int}",
    ],
)
@pytest.mark.parametrize("as_class", ["dataclass(A)", "dataclass(slots=True)(A)"])
def test_names_that_a_function_says_are_those_that_were_checked(run, says, as_class):
    source = f"""
from dataclasses import dataclass
EVIL = "x=print('PWN'), y"
asked = []
def annotate(format):
    asked.append(format)
    {says}
class A: pass
A.__annotate__ = annotate
try:
    made = [name for name in {as_class}.__dataclass_fields__]
except TypeError as error:
    made = str(error)
made
"""
    made = run(source)
    assert made == ["x"] or made.startswith("Field names must be valid identifiers"), made
