"""Host tools: signatures, validation, concurrency, abandonment, and what crosses when they fail."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import pydantic
import pytest

from safeexec import Executor, Limits, Policy, Session, SessionBusy, ToolError
from safeexec.testing.base import eventually
from safeexec.tools import HostTool, collect
from tests.core.scripted import threads_named
from tests.support.plain import PlainBackend


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(PlainBackend()) as made:
        yield made


def run(executor: Executor, code: str, tools: Any, **limits: Any) -> Any:
    return executor.run(code, tools=tools, policy=Policy(limits=Limits(**{"time": 10.0, **limits})))


# -- signatures ------------------------------------------------------------------------------------------------------------


def everything(a: int, /, b: int = 2, *rest: int, c: int, d: int = 4, **more: int) -> Any:
    """All kinds of parameters."""
    return a, b, rest, c, d, more


class Thing:
    def __init__(self) -> None:
        self.canary = "canary-bound-instance"

    def method(self, x: int, y: int = 1) -> int:
        return x + y

    @classmethod
    def cls(cls, x: int) -> int:
        return x * 2

    @staticmethod
    def static(x: int) -> int:
        return x * 3

    def __call__(self, x: int) -> int:
        return x * 4

    async def later(self, x: int) -> int:
        await asyncio.sleep(0)
        return x * 5


class Shaped:
    name = "shaped"
    description = "A tool as frameworks shape it."
    inputs: Any = {  # noqa: RUF012
        "text": {"type": "string", "description": "what"},
        "times": {"type": "integer", "description": "how often", "nullable": True},
        "kind": {"type": "any", "description": "whatever", "default": "x"},
    }
    output_type = "string"

    def __call__(self, text: str, times: int | None = 2, kind: Any = "host default") -> str:
        return f"{text}/{times}/{kind}"


def async_partial_target() -> Any:
    async def tool(a: int, b: int) -> int:
        await asyncio.sleep(0)
        return a - b

    return functools.partial(tool, b=1)


@pytest.mark.parametrize(
    ("call", "value"),
    [
        ("everything(1, c=3)", (1, 2, (), 3, 4, {})),
        ("everything(1, 5, 6, 7, c=3, d=0, z=9)", (1, 5, (6, 7), 3, 0, {"z": 9})),
        ("everything(*[1, 2], **{'c': 3, 'a': 8})", (1, 2, (), 3, 4, {"a": 8})),
        ("method(1)", 2),
        ("method(y=5, x=1)", 6),
        ("cls(4)", 8),
        ("static(4)", 12),
        ("thing(4)", 16),
        ("later(4)", 20),
        ("await later.aio(4)", 20),
        ("part(1)", (1, 9)),
        ("part(1, b=2)", (1, 2)),
        ("apart(5)", 4),
        ("shaped('a')", "a/2/host default"),
        ("shaped('a', 5, 'k')", "a/5/k"),
        ("shaped(times=None, text='a')", "a/None/host default"),
        ("lam()", "lambda"),
        ("dict_made(a=1)", {"a": 1}),
        ("returns_coroutine(2)", 4),
    ],
)
def test_every_kind_of_callable(executor: Executor, call: str, value: Any) -> None:
    thing = Thing()

    async def doubled(x: int) -> int:
        return x * 2

    tools = {
        "everything": everything, "method": thing.method, "cls": Thing.cls, "static": Thing.static, "thing": thing, "later": thing.later,
        "part": functools.partial(lambda a, b: (a, b), b=9), "apart": async_partial_target(), "shaped": Shaped(), "lam": lambda: "lambda",
        "dict_made": lambda **k: k, "returns_coroutine": lambda x: doubled(x),
    }  # fmt: skip
    result = run(executor, call, tools)
    assert result.ok, result.error
    assert result.value == value


@pytest.mark.parametrize(
    ("call", "kind", "part"),
    [
        ("everything()", "TypeError", "missing a required"),
        ("everything(1)", "TypeError", "'c'"),
        ("everything(a=1, c=2)", "TypeError", "'a'"),
        ("everything('x', c=2)", "ValueError", "argument 'a'"),
        ("everything(1, 2, 'x', c=2)", "ValueError", "argument 'rest'"),
        ("everything(1, c=2, z='x')", "ValueError", "argument 'more'"),
        ("shaped()", "TypeError", "text"),
        ("shaped(5)", "ValueError", "argument 'text'"),
        ("shaped('a', 'b')", "ValueError", "argument 'times'"),
        ("shaped('a', nothing=1)", "TypeError", "nothing"),
        ("deep([{'k': ['x']}])", "ValueError", "[0]['k'][0]"),
        ("choice('c')", "ValueError", "'a' or 'b'"),
        ("positive(-1)", "ValueError", "greater than 0"),
        ("positive(10**5000)", "ValueError", "positive"),
        ("model({'name': 5})", "ValueError", "['name']"),
    ],
)
def test_arguments_are_refused_with_a_message_to_act_on(executor: Executor, call: str, kind: str, part: str) -> None:
    class Model(pydantic.BaseModel):
        name: str

    def deep(v: list[dict[str, list[int]]]) -> None: ...
    def choice(v: Literal["a", "b"]) -> None: ...
    def positive(v: Annotated[int, pydantic.Field(gt=0, lt=100)]) -> None: ...
    def model(v: Any) -> None: ...

    model.__annotations__["v"] = Model
    result = run(executor, call, [everything, Shaped(), deep, choice, positive, model])
    assert result.error is not None and result.error.type == kind, result.error
    name = call.partition("(")[0]
    assert part in result.error.message and f"{name}(" in result.error.message
    assert len(result.error.message) < 1000 and result.tool_calls == ()


def test_pydantic_types_are_built_on_the_host(executor: Executor) -> None:
    class Model(pydantic.BaseModel):
        name: str
        tags: set[str] = set()

    seen: list[Any] = []

    def take(m: Any) -> str:
        seen.append(m)
        return str(m.name)

    take.__annotations__["m"] = Model
    assert run(executor, "take({'name': 'n', 'tags': ['x']})", [take]).value == "n"
    assert type(seen[0]) is Model and seen[0].tags == {"x"}


def test_validator_that_fails_oddly_is_an_error_in_the_guest(executor: Executor) -> None:
    def explode(value: Any) -> Any:
        raise RuntimeError("validator trouble")

    def tool(v: Any) -> None: ...

    tool.__annotations__["v"] = Annotated[int, pydantic.BeforeValidator(explode)]
    with executor.session([tool]) as session:
        error = session.run("tool(1)").error
        assert error is not None and (error.type, error.message) == ("RuntimeError", "validator trouble")
        assert session.run("1").value == 1


def test_annotation_that_cannot_be_checked_or_found_is_not(executor: Executor) -> None:
    class Foreign:
        pass

    def odd(v: Any, w: Any) -> str:
        return f"{v}{w}"

    odd.__annotations__.update(v=Foreign, w="NotDefinedAnywhere")
    assert run(executor, "odd(1, 2)", [odd]).value == "12"


@pytest.mark.parametrize("tools", [[5], ["name"], {"a-b": len}, {"": len}, {"def": len}, {"__import__": len}, [lambda: 1], [len, len], "text", len, [None], {"x": None}])  # fmt: skip
def test_bad_tools_are_refused(tools: Any) -> None:
    with pytest.raises(ToolError):
        collect(tools)


def test_class_without_readable_signature_is_refused() -> None:
    class Odd:
        __signature__ = "no signature"

        def __call__(self) -> None: ...

    for source in (Odd(), dict):
        with pytest.raises(ToolError, match="signature"):
            collect({"odd": source})


def test_generators_do_not_cross(executor: Executor) -> None:
    def numbers() -> Iterator[int]:
        yield 1

    async def async_numbers() -> Any:
        yield 1

    for name, tool in (("numbers", numbers), ("async_numbers", async_numbers)):
        error = run(executor, f"{name}()", [tool]).error
        assert error is not None and error.type == "TypeError" and "generator" in error.message


def test_what_enters_the_guest_is_name_description_and_parameter_shape() -> None:
    secret = "canary"

    def tool(a: int, /, b: str = "canary-default", *c: int, d: Any = object(), **e: int) -> None:  # noqa: B008
        """What it does."""
        print(secret)

    spec = HostTool(tool).spec()
    assert spec == {"name": "tool", "doc": "What it does.", "text": "tool(a, b=…, *c, d=…, **e)"}
    bound = HostTool(Thing().method).spec()
    assert bound["text"] == "method(x, y=…)" and "canary" not in repr(bound)


def test_description_and_message_that_are_not_unicode_cross(executor: Executor) -> None:
    def tool() -> None:
        raise ValueError("lone \ud800")

    tool.__doc__ = "doc \udfff"
    error = run(executor, "tool()", [tool]).error
    assert error is not None and (error.type, error.message) == ("ValueError", "lone \ud800")


# -- failures --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (ValueError("v"), "ValueError", "v"),
        (KeyError("k"), "KeyError", "'k'"),
        (FileNotFoundError(2, "No such file", "/host/secret/path"), "FileNotFoundError", None),
        (ZeroDivisionError(), "ZeroDivisionError", ""),
        (KeyboardInterrupt(), "RuntimeError", None),
        (SystemExit(3), "RuntimeError", None),
        (GeneratorExit(), "RuntimeError", None),
        (StopIteration(1), "StopIteration", "1"),
        (UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"), "ToolError", None),
        (ExceptionGroup("g", [ValueError("inner")]), "ToolError", None),
        (pydantic.errors.PydanticUserError("m", code=None), "ToolError", None),
    ],
)
def test_failure_crosses_by_type_name_and_message(
    executor: Executor, raised: BaseException, kind: str, message: str | None
) -> None:
    def tool() -> None:
        raise raised

    code = "try:\n    tool()\nexcept Exception as e:\n    r = (type(e).__name__, str(e), e.__cause__, e.__context__)\nr"
    with executor.session([tool]) as session:
        result = session.run(code)
        assert result.ok, result.error
        assert result.value[0] == kind and result.value[2:] == (None, None)
        if message is not None:
            assert message in result.value[1]
        assert __file__ not in repr(result)
        assert session.run("1").value == 1


def test_async_tool_that_exits_does_not_take_the_loop_with_it(executor: Executor) -> None:
    async def leave() -> None:
        raise SystemExit(1)

    async def stop() -> None:
        raise KeyboardInterrupt

    async def fine() -> str:
        await asyncio.sleep(0)
        return "fine"

    with executor.session([leave, stop, fine]) as session:
        for name in ("leave", "stop"):
            error = session.run(f"{name}()").error
            assert error is not None and error.type == "RuntimeError"
            assert session.run("fine()").value == "fine"


def test_exception_whose_text_fails_crosses(executor: Executor) -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    def tool() -> None:
        raise Odd

    error = run(executor, "tool()", [tool]).error
    assert error is not None and error.type == "ToolError" and "cannot be shown" in error.message


def test_endless_message_is_cut(executor: Executor) -> None:
    def tool() -> None:
        raise ValueError("m" * 10_000_000)

    error = run(executor, "tool()", [tool]).error
    assert error is not None and error.type == "ValueError" and len(error.message) <= 20_000


def test_result_is_encoded_strictly_and_within_the_limit(executor: Executor) -> None:
    loop: list[Any] = []
    loop.append(loop)
    deep: Any = 1
    for _ in range(500):
        deep = [deep]
    for value, kind in ((object(), "TypeError"), ([lambda: 1], "TypeError"), (loop, "TypeError"), (deep, "TypeError")):
        error = run(executor, "f()", {"f": lambda value=value: value}).error
        assert error is not None and error.type == kind, error
    error = run(executor, "f()", {"f": lambda: "x" * 2_000_000}, value=1_000_000).error
    assert error is not None and "larg" in error.message


def test_tool_that_changes_its_value_afterwards_changes_nothing(executor: Executor) -> None:
    kept: list[Any] = []

    def tool(v: Any) -> Any:
        kept.append(v)
        return v

    result = run(executor, "a = [1]\nb = tool(a)\na.append(2)\nb", [tool])
    assert result.value == [1] and kept == [[1]]


# -- time ------------------------------------------------------------------------------------------------------------------


def test_overrunning_tool_is_abandoned_and_its_late_result_dropped(executor: Executor) -> None:
    release, finished = threading.Event(), threading.Event()

    def slow() -> str:
        try:
            release.wait(20)
            return "late"
        finally:
            finished.set()

    policy = Policy(limits=Limits(tool_time=0.1))
    with executor.session([slow, abs_tool], policy=policy) as session:
        result = session.run("try:\n    slow()\nexcept TimeoutError as e:\n    r = str(e)\nr")
        assert "slow()" in result.value and "tool_time" in result.value
        release.set()
        assert finished.wait(10)
        for n in range(20):  # the late answer must not become the answer of a later call
            assert session.run(f"abs_tool({-n})").value == n
        (call,) = result.tool_calls
        assert call.error is not None and call.error.startswith("TimeoutError") and call.duration >= 0.1


def abs_tool(n: int) -> int:
    return abs(n)


@pytest.mark.parametrize(("own", "whose"), [(False, "(Limits.tool_time)"), (True, "(the tool's own tool_time)")])
def test_what_is_said_of_a_slow_tool_names_the_limit_that_it_ran_into(
    executor: Executor, own: bool, whose: str
) -> None:
    release = threading.Event()

    def slow() -> None:
        release.wait(20)

    if own:
        slow.tool_time = 0.1  # type: ignore[attr-defined]
    try:
        error = run(executor, "slow()", [slow], tool_time=20 if own else 0.1).error
        assert error is not None and error.type == "TimeoutError" and error.message.endswith(whose)
    finally:
        release.set()


def test_overrunning_async_tool_is_cancelled(executor: Executor) -> None:
    cancelled = threading.Event()

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise

    error = run(executor, "slow()", [slow], tool_time=0.1).error
    assert error is not None and error.type == "TimeoutError"
    assert cancelled.wait(10)


def test_step_that_ends_without_waiting_abandons_its_calls(executor: Executor) -> None:
    begun, release, cancelled = threading.Event(), threading.Event(), threading.Event()

    async def background() -> str:
        begun.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return "never"

    def wait() -> None:
        assert begun.wait(10)

    with executor.session([background, wait, abs_tool]) as session:
        result = session.run(
            "import asyncio\nt = asyncio.ensure_future(background.aio())\nawait asyncio.sleep(0)\nwait()\n7"
        )
        assert result.value == 7, result.error
        assert cancelled.wait(10)
        assert [c.error for c in result.tool_calls if c.tool == "background"] == ["abandoned"]
        assert session.run("abs_tool(-3)").value == 3
        release.set()


def test_calls_wait_for_their_turn_and_all_are_answered(executor: Executor) -> None:
    inside, peak, lock = 0, 0, threading.Lock()
    gate = threading.Event()

    def work(n: int) -> int:
        nonlocal inside, peak
        with lock:
            inside += 1
            peak = max(peak, inside)
            if inside == 32:
                gate.set()
        gate.wait(10)
        with lock:
            inside -= 1
        return n

    result = run(executor, "import asyncio\nsum(await asyncio.gather(*[work.aio(i) for i in range(100)]))", [work])
    assert result.value == sum(range(100)), result.error
    assert peak == 32


def test_three_gathered_calls_are_inside_at_once(executor: Executor) -> None:
    barrier = threading.Barrier(3)

    def meet(n: int) -> int:
        barrier.wait(10)  # passes only when all three are in here together
        return n

    assert run(
        executor, "import asyncio\nawait asyncio.gather(meet.aio(1), meet.aio(2), meet.aio(3))", [meet]
    ).value == [1, 2, 3]


def test_tools_are_called_from_threads_of_the_guest(executor: Executor) -> None:
    code = "import threading\nout = []\nts = [threading.Thread(target=lambda i=i: out.append(abs_tool(-i))) for i in range(8)]\n[t.start() for t in ts]\n[t.join() for t in ts]\nsorted(out)"
    assert run(executor, code, [abs_tool]).value == list(range(8))


def test_call_count_is_capped_by_step_also_for_calls_at_once(executor: Executor) -> None:
    made: list[int] = []
    code = "import asyncio\nr = await asyncio.gather(*[f.aio(i) for i in range(50)], return_exceptions=True)\nsum(1 for x in r if isinstance(x, RuntimeError))"
    result = run(executor, code, {"f": made.append}, tool_calls=10)
    assert result.value == 40, result.error
    assert len(made) == 10 == len(result.tool_calls) == result.usage.tool_calls


def test_tool_that_uses_its_own_session_is_told_it_is_busy(executor: Executor) -> None:
    holder: list[Session] = []

    def tool() -> None:
        for use in (
            lambda s: s.run("1"),
            lambda s: s.variables["x"],
            lambda s: s.files.list(),
            lambda s: s.add_tools([]),
        ):
            with pytest.raises(SessionBusy):
                use(holder[0])

    with executor.session([tool]) as session:
        holder.append(session)
        assert session.run("tool()").ok


def test_tool_that_closes_its_own_session_ends_the_step(executor: Executor) -> None:
    holder: list[Session] = []
    with executor.session({"tool": lambda: holder[0].close()}) as session:
        holder.append(session)
        result = session.run("tool()\nwhile True:\n    pass")
        assert result.error is not None and result.error.kind == "crash" and session.closed
    assert eventually(lambda: not threads_named("safeexec-close"))


def test_tool_may_use_another_session(executor: Executor) -> None:
    def nested(code: str) -> Any:
        return executor.run(code).value

    assert run(executor, "nested('1 + 1') + nested('2 + 2')", [nested]).value == 6


def test_context_variables_reach_the_tool(executor: Executor) -> None:
    import contextvars

    variable = contextvars.ContextVar("variable", default="unset")
    variable.set("caller's")
    assert run(executor, "read()", {"read": lambda: variable.get()}).value == "caller's"


def test_interrupt_at_any_moment_of_an_awaited_call_spoils_no_later_one(executor: Executor) -> None:
    # The guest's own moments, of which a signal may hit any: here just before, and just after it begins to watch for answers.
    code = """
guest = abs_tool._start.__self__
channel, watch = guest._channel, guest._channel.watch
def interrupted(loop, callback):
    channel.watch = watch
    if {early}: guest.on_interrupt()
    watch(loop, callback)
    guest.on_interrupt()
channel.watch = interrupted
await abs_tool.aio(-1)
"""
    for early in (True, False):
        with executor.session([abs_tool]) as session:
            result = session.run(code.format(early=early))
            assert result.error is not None and result.error.type == "KeyboardInterrupt"
            assert session.run("await abs_tool.aio(-5)").value == 5


def test_tool_added_under_a_used_name_replaces_it(executor: Executor) -> None:
    with executor.session({"f": lambda: "old"}) as session:
        session.add_tools({"f": lambda: "new", "g": lambda: "more"})
        assert session.run("f() + g()").value == "newmore"


def test_many_calls_leave_no_threads_behind(executor: Executor) -> None:
    run(executor, "import asyncio\nawait asyncio.gather(*[abs_tool.aio(i) for i in range(200)])", [abs_tool])
    assert len(threads_named("safeexec-worker")) <= 32


def test_a_call_whose_step_ends_before_its_thread_runs_is_not_made() -> None:
    from safeexec import broker
    from safeexec.tools import collect

    made: list[str] = []
    calls = broker.Broker(
        collect({"note": lambda text: made.append(text)}), Limits(), lambda _: None, lambda: None, lambda: None
    )
    work = calls.request({"t": "call", "id": 1, "tool": "note", "a": ["x"], "k": {}, "n": 10}, ())
    calls.stop(tell=False)
    assert work is not None
    work()
    assert made == [] and [call.error for call in calls.log] == ["abandoned"]
