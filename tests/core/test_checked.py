"""Arguments are checked as pydantic does, and what is wrong with them costs no more than what is right."""

from __future__ import annotations

import dataclasses
import itertools
import json
import time
import tracemalloc
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Annotated, Any, Literal

import pydantic
import pydantic.dataclasses
import pytest

from safeexec import Executor, Limits, Policy, checked
from tests.support.plain import PlainBackend


class Node(pydantic.BaseModel):
    numbers: list[int] = [1]
    below: dict[str, Node] = {}
    type: str = "list"


@dataclasses.dataclass
class Plain:
    numbers: list[int]
    named: dict[str, float] = dataclasses.field(default_factory=dict)


@pydantic.dataclasses.dataclass
class Checked:
    numbers: set[int]


class Cat(pydantic.BaseModel):
    kind: Literal["cat"]
    lives: list[int]


class Dog(pydantic.BaseModel):
    kind: Literal["dog"]
    bones: dict[str, int]


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    a: int


def short(value: Any) -> Any:
    if isinstance(value, list | dict) and len(value) > 600:
        raise ValueError("too long for the program's own rule")
    return value


TYPES: dict[str, Any] = {
    str(n): annotation
    for n, annotation in enumerate(
        [
            list[int], dict[str, int], dict[str, int] | dict[str, str], list[int | str | None], tuple[int, ...], tuple[int, str], tuple[int, str, float], set[int], frozenset[str],
            Node, list[Node], dict[str, Node], Plain, Checked, list[Checked | Plain], Annotated[dict[str, int], pydantic.Field(max_length=3)], Annotated[dict[str, int], pydantic.Field(min_length=2)],
            Annotated[list[int], pydantic.Field(min_length=2, max_length=4)], dict[str, list[float]] | None, Annotated[Cat | Dog, pydantic.Field(discriminator="kind")],
            Literal["a", 1], bytes, float, Sequence[int], Mapping[str, int], dict[int, list[dict[str, Node]]], list[Any], Any, int,
            dict[str, list[int]] | Node, Node | dict[str, list[int]], dict[str, Any] | Cat, Cat | Dog, Strict, list[Strict | Node], pydantic.RootModel[list[int]], list[dict[str, int]] | dict[str, list[int]], dict[str, float] | dict[str, int] | dict[str, str], dict[str, int] | None | str,
            dict[float, int] | dict[int, int], set[tuple[int, ...]] | list[tuple[int, ...]], dict[str, dict[str, int] | list[dict[str, float]]],
            Annotated[set[int], pydantic.Field(min_length=3, max_length=5000)], set[int] | list[int], list[int] | set[int], set, frozenset[tuple[int, str]] | set[str], set[Any], list[set[int]],
            Decimal, list[Decimal], int | Decimal, Decimal | int, Decimal | str, dict[Decimal, int], Annotated[dict[int, int], pydantic.Field(min_length=2, max_length=1500)], Counter[int], Counter[str], OrderedDict[int, int], defaultdict[str, int],
            Annotated[dict[str, int], pydantic.Field(min_length=1000)], Annotated[Decimal, pydantic.Field(gt=3)], pydantic.Json[set[int]],
            Annotated[dict[str, int], pydantic.AfterValidator(short)], Annotated[list[int], pydantic.BeforeValidator(short)],
        ]
    )
}  # fmt: skip
MANY = {str(n): n for n in range(1200)}
VALUES: list[Any] = [
    1, "1", "x", None, [], [1, "2"], [1, "x"], ["a", "b"], {}, {"a": 1}, {"a": "x"}, {"a": "1", "b": "2"}, MANY, {**MANY, "z": "bad"}, {**MANY, 7: 7}, dict.fromkeys(MANY, "s"),
    {"a": [1, 2]}, {"a": [1, "x"]}, (1, "a"), (1, 2), {1, 2}, {"x"}, {"numbers": [1], "below": {"k": {"numbers": ["2"], "below": {}}}}, {"numbers": ["1"], "named": {"q": 1}},
    {"numbers": ["x"]}, {"kind": "cat", "lives": [1, "2"]}, {"kind": "dog", "bones": {"a": "b"}}, {"kind": "bird"}, list(range(2000)), [*range(2000), "x"], {1: [{"a": {"numbers": [1]}}]},
    {"type": "dict"}, b"x", 1.5, [1, 2, 3, 4, 5], {"a": 1, "b": 2, "c": 3, "d": 4}, {"1": 1, 1: 2}, {f"{n}": 1.0 for n in range(501)},
    Decimal("1.5"), "-inf", "1e60000", 10**400, "1.5", [*range(20), [2]] * 2, ["1", 1, 2] * 300, set(range(40)), [1.0] * 20, json.dumps(list(range(50))), {str(n): n for n in range(1050)},
    {"numbers": list(range(700))}, {"numbers": [*range(700), "x"]}, {"a": 1, **MANY}, {"a": 1}, {"kind": "cat", "lives": ["1"] * 700}, [{"a": 1}, {"numbers": ["5"] * 700}],
]  # fmt: skip


def outcome(validator: Any, value: Any) -> Any:
    """What comes of it: the value, or what is wrong first, and where."""
    try:
        return "value", validator.validate_python(value)
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return first["loc"], first["msg"]


@pytest.mark.parametrize("name", TYPES)
def test_it_comes_to_what_pydantic_says(name: str) -> None:
    annotation = TYPES[name]
    mine, theirs = checked.validator(annotation), pydantic.TypeAdapter(annotation)
    for value in VALUES:
        assert outcome(mine, value) == outcome(theirs, value), value


def test_what_cannot_be_checked_is_not() -> None:
    class Foreign:
        pass

    assert checked.validator(Foreign) is False
    assert outcome(checked.validator(Iterable[int]), 5)[1] == "Input should be iterable"


WRONG: dict[str, tuple[Any, Any]] = {
    "texts for numbers": (list[int], ["a"] * 400_000),
    "texts for any of many": (list[int | float | list[int] | dict[str, int]], ["a"] * 400_000),
    "in a dict": (dict[str, list[float]], {"k": ["a"] * 400_000}),
    "in a class": (Plain, {"numbers": ["a"] * 400_000}),
    "a dict's": (dict[str, int | list[int]], {str(n): "a" for n in range(200_000)}),
    "a dict's names": (dict[int, int], {f"n{n}": 1 for n in range(200_000)}),
    "more than there may be": (Annotated[dict[str, int], pydantic.Field(max_length=10)], {str(n): "a" for n in range(200_000)}),
    "tuple": (tuple[int, ...], ["a"] * 400_000),
    "in a model": (Node, {"numbers": ["a"] * 400_000}),
    "in models": (dict[str, Node], {"k": {"below": {"k": {"numbers": ["a"] * 400_000}}}}),
    "in one of two models": (Cat | Dog, {"kind": "cat", "lives": ["a"] * 400_000}),
    "in one of two models, told by its kind": (Annotated[Cat | Dog, pydantic.Field(discriminator="kind")], {"kind": "dog", "bones": {str(n): "a" for n in range(200_000)}}),
    "fields that there are none of": (Strict, {"a": 1, **{str(n): n for n in range(200_000)}}),
    "after as many good ones": (list[int], list(itertools.chain(range(200_000), ["a"] * 200_000))),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_only_the_first_of_what_is_wrong_is_collected(name: str) -> None:
    annotation, value = WRONG[name]
    validator = checked.validator(annotation)
    began = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(pydantic.ValidationError) as caught:
            validator.validate_python(value)
        assert tracemalloc.get_traced_memory()[1] < 30_000_000
    finally:
        tracemalloc.stop()
    assert caught.value.error_count() <= 2000
    assert time.process_time() - began < 2


ALIKE = [n * (2**61 - 1) for n in range(1, 25_000)]
"""Numbers that all hash alike."""


class Fields(pydantic.BaseModel):
    numbers: set[int] = set()
    text: pydantic.Json[set[int]] = pydantic.Field(default_factory=set)
    price: Decimal = Decimal(0)


CRAFTED: dict[str, tuple[Any, Any]] = {
    "set": (set[int], ALIKE),
    "of texts": (set[int], list(map(str, ALIKE))),
    "any": (set, ALIKE),
    "frozenset": (list[frozenset[int]], [tuple(ALIKE)]),
    "tuples": (set[tuple[int, int]], [[n, n] for n in ALIKE]),
    "with a bound": (Annotated[set[int], pydantic.Field(max_length=10**6)], ALIKE),
    "sets in a set": (set[frozenset[int]], [[n, n + 1] for n in ALIKE]),
    "names": (dict[int, int], {str(n): 0 for n in ALIKE}),
    "names, with a bound": (Annotated[dict[int, int], pydantic.Field(max_length=10**6)], {str(n): 0 for n in ALIKE}),
    "names, with another bound": (Annotated[dict[int, int], pydantic.Field(min_length=1)], {str(n): 0 for n in ALIKE}),
    "a counter's": (Counter[int], {str(n): 1 for n in ALIKE}),
    "an ordered one's": (OrderedDict[int, int], {str(n): 1 for n in ALIKE}),
    "with a default": (defaultdict[int, int], {str(n): 1 for n in ALIKE}),
    "JSON": (pydantic.Json[set[int]], json.dumps(ALIKE)),
    "in a model": (Fields, {"numbers": ALIKE}),
    "a long number in a model": (Fields, {"price": 1 << 1_000_000}),
    "JSON in a model": (list[Fields], [{"text": json.dumps(ALIKE)}]),
    "in a dataclass": (Checked, {"numbers": ALIKE}),
    "a number to compare with a Decimal": (set[Decimal | int], [1 << 1_000_000, Decimal((1 << 1_000_000) % (2**61 - 1)), *range(20)]),
    "a long number": (Decimal, 1 << 1_000_000),
    "a long exponent": (Decimal, "1e999999999"),
    "another": (list[Decimal], ["1.5", "-1e-999999999"]),
    "long numbers": (list[Decimal | None], [1 << 1_000_000]),
}  # fmt: skip


@pytest.mark.parametrize("name", CRAFTED)
def test_what_is_made_of_crafted_values_does_not_keep_the_host(name: str) -> None:
    annotation, value = CRAFTED[name]
    validator = checked.validator(annotation)
    began = time.process_time()
    with pytest.raises(pydantic.ValidationError, match=r"alike|too long to compare|more than 4300 digits|exponent"):
        validator.validate_python(value)
    assert time.process_time() - began < 2


def test_a_pydantic_that_cannot_stop_is_bounded_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to 2.8 its schemas have no such word."""
    import pydantic_core

    made = pydantic_core.SchemaValidator

    def of_old(schema: Any, config: Any = None) -> Any:
        if "fail_fast" in repr(schema):
            raise pydantic_core.SchemaError("extra key")
        return made(schema, config)

    monkeypatch.setattr(pydantic_core, "SchemaValidator", of_old)
    for annotation, value in (
        (set[int], ALIKE),
        (list[dict[int, int]], [{str(n): 0 for n in ALIKE}]),
        (Fields, {"numbers": ALIKE}),
    ):
        began = time.process_time()
        with pytest.raises(pydantic.ValidationError, match="alike"):
            checked.validator(annotation).validate_python(value)
        assert time.process_time() - began < 2
    assert checked.validator(list[set[int]]).validate_python([["1", 2]]) == [{1, 2}]


def test_a_few_that_hash_alike_are_well() -> None:
    few = [n * (2**61 - 1) for n in range(1, 60)]
    assert checked.validator(set[int]).validate_python([*few, *few, *map(str, few)]) == set(few)
    pairs = [(-1, "a"), (-2, "a")] * 40
    assert checked.validator(frozenset[tuple[int, str]]).validate_python(pairs) == frozenset(pairs)
    many = {str(n): 0 for n in [*few, *range(1, 2000)]}
    assert checked.validator(dict[int, int]).validate_python(many) == dict.fromkeys(map(int, many), 0)


def test_a_number_with_a_long_exponent_does_not_keep_the_host() -> None:
    def double(number: int) -> int:
        return 2 * number

    with Executor(PlainBackend()) as executor, executor.session([double]) as session:
        session.run("from decimal import Decimal")
        error = session.run("double(Decimal('1E+999999999'))").error
        assert error is not None and "a Decimal of more than 65536 digits" in error.message
        assert session.run("double(Decimal('1E+3'))").value == 2000


def test_a_program_with_many_wrong_arguments_does_not_keep_the_host() -> None:
    def total(numbers: list[int | float | list[int] | dict[str, int]]) -> int:
        return len(numbers)

    policy = Policy(limits=Limits(time=20))
    with Executor(PlainBackend(), policy=policy) as executor, executor.session([total]) as session:
        session.run("many = ['a'] * 1_000_000")
        began = time.process_time()
        error = session.run("total(many)").error
        assert error is not None and error.type == "ValueError" and "valid integer" in error.message
        assert time.process_time() - began < 8
        assert session.run("total([1, 2.5, [3], {'a': 4}])").value == 4
