"""A tool's signature is read once for a function, and again whenever the function is not what it was."""

from __future__ import annotations

import functools
import gc
import inspect
import types
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from safeexec import Executor, parameters
from safeexec.tools import HostTool

Later = None  # what an annotation below names, until a test has it named


def later(value: Later) -> Any:  # type: ignore[valid-type]
    return value


class Thing:
    """Has methods that can be tools."""

    def double(self, value: int) -> int:
        """Twice the value."""
        return 2 * value

    def bare(self, value: int) -> int:
        return value


class Other(Thing):
    """Inherits one and changes the other."""

    def bare(self, value: int) -> int:
        return -value


def make() -> Callable[..., Any]:
    def tool(value: int, more: int = 2) -> int:
        """Adds."""
        return value + more

    return tool


def test_a_function_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[object] = []
    original = parameters._read
    monkeypatch.setattr(parameters, "_read", lambda source, name: reads.append(source) or original(source, name))
    tool, thing = make(), Thing()
    for _ in range(3):
        for source in (tool, thing.double, Other().double):
            assert HostTool(source).bind([1], {})[0] == [1]
    assert reads == [tool, thing.double], "the method of another instance is the same method"
    # A function and a method of one name have their own parameters.
    assert HostTool(Thing.double).spec()["text"] == "double(self, value)"
    assert HostTool(thing.double).spec()["text"] == "double(value)"
    assert HostTool(thing.double).call(4) == 8 and HostTool(tool, "sum").name == "sum"


def changed_default(tool: types.FunctionType) -> None:
    tool.__defaults__ = None


def changed_code(tool: types.FunctionType) -> None:
    def tool_with_another_name(other: int, more: int = 2) -> int:
        return other

    tool.__code__ = tool_with_another_name.__code__
    tool.__annotations__ = {}


def changed_annotation(tool: types.FunctionType) -> None:
    tool.__annotations__["value"] = "str"


def changed_text(tool: types.FunctionType) -> None:
    tool.__doc__ = "Another."


def changed_signature(tool: types.FunctionType) -> None:
    vars(tool)["__signature__"] = inspect.signature(lambda x: x)


def changed_wrapped(tool: types.FunctionType) -> None:
    functools.update_wrapper(tool, Thing.double)


@pytest.mark.parametrize(
    "change",
    [changed_default, changed_code, changed_annotation, changed_text, changed_signature, changed_wrapped],
)
def test_a_function_that_was_changed_is_read_again(change: Callable[[Any], None]) -> None:
    tool = make()

    def seen() -> tuple[Any, ...]:
        found = HostTool(tool)
        return found.spec(), found.description, found._parameters.wanted

    before = seen()
    assert seen() == before
    change(tool)
    assert seen() != before


def test_a_type_that_is_known_later_is_checked_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(globals(), "Later")
    assert HostTool(later).bind(["text"], {})[0] == ["text"], "nothing to check it by"
    monkeypatch.setitem(globals(), "Later", int)
    with pytest.raises(ValueError, match="valid integer"):
        HostTool(later).bind(["text"], {})


def test_inherited_text_is_the_class_s_own() -> None:
    assert HostTool(Thing().bare).description == "" == HostTool(Other().bare).description
    Thing.bare.__doc__ = "From the base."
    try:
        assert HostTool(Other().bare).description == "From the base."
    finally:
        Thing.bare.__doc__ = None


def test_what_is_known_keeps_no_function_alive_and_has_an_end() -> None:
    tool = make()
    HostTool(tool)
    gone = weakref.ref(tool)
    del tool
    gc.collect()
    assert gone() is None
    kept = [make() for _ in range(parameters._MOST + 10)]
    for function in kept:
        HostTool(function)
    assert len(parameters._functions) <= parameters._MOST


def test_sessions_share_the_parameters_and_not_the_function() -> None:
    first, second = make(), make()
    with Executor("local") as executor:
        for tool, name in ((first, "a"), (first, "b"), (second, "a")):
            with executor.session(tools={name: tool}) as session:
                result = session.run(f"{name}('7')")
                assert result.value == 9, result.error
