"""Host functions called from the sandbox."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from safeexec.errors import EndStep, ExecutionError, PolicyError, SessionBusy
from safeexec.errors import ToolError as HostToolError
from safeexec.testing.base import PATIENCE, Base, same


class Peak:
    """Counts how many are inside at once."""

    def __init__(self, wanted: int) -> None:
        self.peak = 0
        self._now = 0
        self._lock = threading.Lock()
        self._barrier = threading.Barrier(wanted)

    def enter(self) -> None:
        with self._lock:
            self._now += 1
            self.peak = max(self.peak, self._now)
        try:
            self._barrier.wait(5)
        except threading.BrokenBarrierError:
            pass
        finally:
            with self._lock:
                self._now -= 1


class SearchTool:
    """The shape of smolagents' tools."""

    name = "search"
    description = "Finds things."
    inputs = {  # noqa: RUF012
        "query": {"type": "string", "description": "what"},
        "count": {"type": "integer", "description": "how many", "nullable": True},
    }
    output_type = "string"
    secret = "canary-instance-secret"

    def __call__(self, query: str, count: int | None = None) -> str:
        return f"{query}:{count}"


class ToolTests(Base):
    def test_tool_is_a_function_of_the_guest(self) -> None:
        def add(a: int, b: int = 10) -> int:
            """Adds."""
            return a + b

        with self.session([add]) as session:
            assert session.run("[add(1, 2), add(1), add(b=1, a=2), add(*[3], **{'b': 4})]").value == [3, 11, 3, 7]
            assert session.run("list(map(add, [1, 2]))").value == [11, 12]
            assert session.run("add.__name__").value == "add"

    def test_result_lists_the_calls(self) -> None:
        def f(a: int, *rest: int, k: str = "d") -> str:
            return k

        result = self.run("f(1, 2, 3, k='x')\nf(4)\nlen('abc')", [f])
        assert result.value == 3
        assert [c.tool for c in result.tool_calls] == ["f", "f"] and result.usage.tool_calls == 2
        assert dict(result.tool_calls[0].arguments)["a"] == 1
        assert result.tool_calls[0].error is None and result.tool_calls[0].duration >= 0

    def test_mapping_renames(self) -> None:
        assert self.run("find('x')", {"find": lambda q: q + "!"}).value == "x!"

    def test_object_with_name_description_inputs(self) -> None:
        with self.session([SearchTool()]) as session:
            assert session.run("search('cats')").value == "cats:None"
            assert session.run("search(query='cats', count=3)").value == "cats:3"
            error = session.run("search(query=5)").error
            assert error is not None and error.type == "ValueError" and "query" in error.message

    def test_async_tool_is_called_plainly(self) -> None:
        async def slow(n: int) -> int:
            await asyncio.sleep(0.001)
            return n + 1

        assert self.run("slow(1)", [slow]).value == 2

    def test_values_cross_exactly(self) -> None:
        seen: list[Any] = []

        def echo(v: Any) -> Any:
            seen.append(v)
            return v

        value = {"a": (1, 2.5), "b": {3}, "c": b"x", (1,): None, "big": 2**100}
        result = self.run("r = echo(v); r == v and r", [echo], {"v": value})
        assert result.ok and same(result.value, value) and same(seen, [value])

    def test_arguments_are_validated(self) -> None:
        calls: list[Any] = []

        def f(n: int, names: list[str]) -> str:
            calls.append((n, names))
            return "called"

        with self.session([f]) as session:
            for code, kind, part in (
                ("f('no', [])", "ValueError", "'n'"),
                ("f(1, [2])", "ValueError", "'names'"),
                ("f(1)", "TypeError", "names"),
                ("f(1, [], 3)", "TypeError", "too many"),
                ("f(1, [], extra=3)", "TypeError", "extra"),
            ):
                error = session.run(code).error
                assert error is not None and error.type == kind and part in error.message, (code, error)
                assert "f(" in error.message
            assert calls == []
            assert session.run("f(1, ['a'])").value == "called"

    def test_error_arrives_by_type_name_and_message_only(self) -> None:
        class HostOnly(Exception):
            pass

        def fails(kind: str) -> None:
            try:
                raise OSError("canary-cause")
            except OSError as cause:
                if kind == "value":
                    raise ValueError("bad value") from cause
                raise HostOnly("bad host") from cause

        with self.session([fails]) as session:
            code = "try:\n    fails('value')\nexcept ValueError as e:\n    r = str(e)\nr"
            assert session.run(code).value == "bad value"
            code = "try:\n    fails('host')\nexcept ToolError as e:\n    r = (e.type, e.message)\nr"
            assert session.run(code).value == ("HostOnly", "bad host")
            result = session.run("fails('value')")
            assert result.error is not None
            text = result.error.traceback + result.error.message
            assert "canary-cause" not in text and __file__ not in text and "host" not in text
            assert result.tool_calls[0].error == "ValueError: bad value"

    def test_nothing_of_the_host_enters_with_a_tool(self) -> None:
        secret = "canary-closure-secret"

        def tool(q: str, key: str = "canary-default-secret") -> str:
            return "ok" if secret and key else ""

        code = """
found = []
for name in ("__defaults__", "__kwdefaults__", "__closure__", "__globals__", "__code__", "__self__", "__wrapped__", "__annotations__", "__dict__", "__module__", "__func__"):
    for t in (tool, search):
        try:
            found.append(repr(getattr(t, name)))
        except Exception:
            pass
found.append(repr(tool)); found.append(repr(search)); found.append(str(tool.__doc__))
"\\n".join(found)
"""
        result = self.run(code, [tool, SearchTool()])
        assert result.ok, result.error
        assert "canary" not in result.value

    def test_unknown_tool_is_no_name(self) -> None:
        error = self.run("nothing_here(1)", [len]).error
        assert error is not None and error.type == "NameError"

    def test_awaited_tools_run_at_once(self) -> None:
        peak = Peak(3)

        def work(n: int) -> int:
            peak.enter()
            return n * 10

        code = "import asyncio\nawait asyncio.gather(work.aio(1), work.aio(2), work.aio(3))"
        assert self.value(code, tools=[work]) == [10, 20, 30]
        assert peak.peak == 3

    def test_awaited_async_tools_run_at_once(self) -> None:
        inside = 0
        peak = 0
        full = asyncio.Event()

        async def work(n: int) -> int:
            nonlocal inside, peak
            inside += 1
            peak = max(peak, inside)
            if inside == 3:
                full.set()
            await asyncio.wait_for(full.wait(), 5)
            return n

        code = "import asyncio\nasync def main():\n    return await asyncio.gather(*[work.aio(i) for i in range(3)])\nasyncio.run(main())"
        assert self.value(code, tools=[work]) == [0, 1, 2]
        assert peak == 3

    def test_awaited_error_is_caught_and_others_finish(self) -> None:
        def work(n: int) -> int:
            if n == 1:
                raise KeyError("one")
            return n

        code = "import asyncio\nr = await asyncio.gather(*[work.aio(i) for i in range(3)], return_exceptions=True)\n[r[0], type(r[1]).__name__, r[2]]"
        assert self.value(code, tools=[work]) == [0, "KeyError", 2]

    def test_result_that_is_not_plain_is_an_error(self) -> None:
        error = self.run("f()", {"f": lambda: object()}).error
        assert error is not None and error.type == "TypeError" and "f()" in error.message

    def test_argument_that_is_not_plain_is_an_error(self) -> None:
        result = self.run("f(lambda: 1)", {"f": lambda x: x})
        assert result.error is not None and result.error.type == "TypeError" and result.tool_calls == ()

    def test_large_argument_and_result(self) -> None:
        data = b"q" * 3_000_000
        assert self.run("len(f(d))", {"f": lambda d: d + b"!"}, {"d": data}).value == 3_000_001

    def test_huge_result_is_an_error(self) -> None:
        error = self.run("f()", {"f": lambda: b"x" * 300_000}, value=100_000).error
        assert error is not None and "larg" in error.message

    def test_tool_that_calls_its_own_session_is_told(self) -> None:
        caught: list[BaseException] = []

        def again() -> str:
            try:
                session.run("1")
            except SessionBusy as error:
                caught.append(error)
                raise
            return "no"

        with self.session([again]) as session:
            assert session.run("again()").error is not None
            assert len(caught) == 1
            assert session.run("1").value == 1

    def test_tools_can_be_added(self) -> None:
        with self.session() as session:
            session.add_tools({"late": lambda: "came"})
            assert session.run("late()").value == "came"

    def test_tools_are_not_variables(self) -> None:
        with self.session({"f": lambda: 1}, {"x": 1}) as session:
            assert set(session.variables) == {"x"}

    def test_tools_from_a_guest_thread_or_many_calls_in_a_row(self) -> None:
        with self.session({"f": lambda n: n + 1}) as session:
            assert session.run("t = 0\nfor _ in range(200):\n    t = f(t)\nt").value == 200

    def test_bad_tools_are_refused_before_anything_starts(self) -> None:
        for bad in ([5], ["text"], {"not a name": len}, [lambda: 1], {"class": len}):
            with pytest.raises(HostToolError):
                self.session(bad)

    def test_a_tool_may_end_the_step(self) -> None:
        answers: list[Any] = []

        def answer(value: Any) -> None:
            answers.append(value)
            raise EndStep

        codes = {
            "x = 1\nanswer(1)\nx = 2": 1,
            "try:\n    answer(1)\nexcept Exception:\n    x = 2\nx = 3": 1,
            "try:\n    answer(1)\nexcept BaseException:\n    raise ValueError('changed')": 1,
            "try:\n    answer(1)\nexcept BaseException:\n    answer(2)": 1,
            "try:\n    answer(1)\nfinally:\n    x = answer(3)": 1,
            "await answer.aio(1)": 1,
        }
        with self.session([answer], {"x": 1}) as session:
            for code, expected in codes.items():
                answers.clear()
                result = session.run(code)
                assert result.ended and result.ok and result.value is None, code
                assert answers == [expected] and [c.tool for c in result.tool_calls] == ["answer"], code
                assert session.run("x").value == 1
            assert not session.run("x").ended

    def test_code_that_goes_on_after_the_end_is_stopped(self) -> None:
        called: list[str] = []

        def answer() -> None:
            called.append("answer")
            raise EndStep

        def other() -> None:
            called.append("other")

        code = "while True:\n    try:\n        answer()\n        while True: pass\n    except BaseException:\n        other()"
        result = self.run(code, [answer, other], time=60)
        assert result.ended and called == ["answer"]

    def test_module_of_the_host_is_importable(self) -> None:
        source = "import re\nDEPTH = 2\ndef clean(text):\n    return re.sub(' +', ' ', text).strip()\nclass Pair:\n    def __init__(self, a):\n        self.a = a\n"
        with self.session() as session:
            session.add_module("shelf", source)
            assert session.run(
                "from shelf import clean, Pair\nimport shelf\nclean(' a   b '), Pair(3).a, shelf.DEPTH"
            ).value == ("a b", 3, 2)
            with pytest.raises(ExecutionError, match="ZeroDivisionError"):
                session.add_module("broken", "1 / 0")
            with pytest.raises(ExecutionError, match="SyntaxError"):
                session.add_module("worse", "def")
            with pytest.raises(PolicyError):
                session.add_module("no name", "")
            assert session.run("clean('x  y')").value == "x y"

    def test_a_tools_own_time_replaces_tool_time(self) -> None:
        release = threading.Event()
        threading.Timer(0.3, release.set).start()

        class Patient:
            name = "patient"
            description = "Waits."
            inputs: Mapping[str, Any] = {}
            tool_time = None

            def __call__(self) -> bool:
                return release.wait(PATIENCE)

        assert self.run("patient()", [Patient()], tool_time=0.1).value is True

    def test_tool_time_ends_the_call_not_the_step(self) -> None:
        release = threading.Event()

        def slow() -> str:
            release.wait(PATIENCE)
            return "late"

        try:
            code = "try:\n    slow()\nexcept TimeoutError as e:\n    r = str(e)\nr"
            result = self.run(code, [slow], tool_time=0.1)
            assert result.ok and "tool_time" in result.value
            assert result.tool_calls[0].error is not None and "TimeoutError" in result.tool_calls[0].error
        finally:
            release.set()
