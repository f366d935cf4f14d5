"""What the adapters share, without any framework: sessions by conversation, turns, what is shown and passed on, and how thin they stay."""

from __future__ import annotations

import ast
import asyncio
import contextvars
import gc
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from safeexec import Executor, FileInfo, Limits, Policy, Session
from safeexec.integrations import _code
from safeexec.integrations._attachments import Attachment, files, pictures
from safeexec.integrations._programs import Programs
from safeexec.integrations._sessions import Sessions
from safeexec.integrations._shown import clip, failure, native
from safeexec.integrations._streaming import run_streaming
from safeexec.integrations._turns import Turns
from safeexec.integrations.langgraph_codeact import eval_fn
from safeexec.testing.base import eventually
from safeexec.wire import Array, Image, Table
from tests.support.lines import lines_of_code
from tests.support.markdown import ROOT
from tests.support.plain import PlainBackend

MOST = 64
FOLDER = ROOT / "safeexec" / "integrations"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.stem)
def test_adapters_are_thin(path: Path) -> None:
    assert lines_of_code(path) <= MOST


@pytest.mark.parametrize("path", sorted(FOLDER.glob("[a-z]*.py")), ids=lambda path: path.stem)
def test_what_an_adapter_says_it_has_is_there(path: Path) -> None:
    tree = ast.parse(path.read_text())
    said = (ast.get_docstring(tree) or "").partition("\n")[0]
    defined = {node.name for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    assert set(re.findall(r"\bSafeexec\w+(?=\()", said)) <= defined


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor(PlainBackend(), policy=Policy(limits=Limits(time=20))) as made:
        yield made


@pytest.fixture
def sessions(executor: Executor) -> Iterator[Sessions]:
    made = Sessions(executor)
    yield made
    made.close()


def test_a_conversation_keeps_its_state_and_shares_it_with_no_other(sessions: Sessions) -> None:
    assert sessions.run("x = 41", "one").text == "(no output)"
    assert sessions.run("x + 1", "one").text == "value: 42"
    assert "NameError" in sessions.run("x", "two").text
    sessions.drop("one")
    assert "NameError" in sessions.run("x", "one").text


def test_the_conversations_unused_for_longest_lose_their_sessions(executor: Executor) -> None:
    sessions = Sessions(executor, limit=2)
    held = []
    for key in ("one", "two", "one", "three"):
        with sessions.turn(key) as session:
            held.append(session)
    assert [session.closed for session in held] == [False, True, False, False]
    assert held[0] is held[2]
    sessions.close()
    assert all(session.closed for session in held)
    assert executor.run("1 + 1").value == 2, "an executor that was passed in is its owner's to close"


def test_idle_conversations_are_closed_when_another_goes_on(executor: Executor) -> None:
    sessions = Sessions(executor, idle=1e-9)
    with sessions.turn("one") as one:
        pass
    with sessions.turn("two"):
        assert one.closed
    sessions.close()


def test_idle_conversations_are_closed_where_nobody_comes_by_any_more(executor: Executor) -> None:
    """A vendor's sandbox is renewed as long as its session is open: one that is forgotten would be paid for, for weeks."""
    sessions = Sessions(executor, idle=0.2)
    with sessions.turn("long") as long:
        sessions.run("x = 1", "one")
        one = sessions._kept.open()[-1]
        assert one is not long and eventually(lambda: one.closed)
        assert not long.closed, "a step that takes longer is no conversation without use"
        assert long.run("1 + 1").value == 2
    assert eventually(lambda: long.closed and not sessions._kept._places)
    assert eventually(lambda: not any(thread.name == "safeexec-alarm" for thread in threading.enumerate()))
    assert sessions.run("1 + 1", "long").text == "value: 2"
    asyncio.run(sessions.arun("x = 1", "async"))
    assert eventually(lambda: not sessions._kept._places)
    sessions.close()


def test_sessions_that_nobody_has_any_more_are_not_kept_by_their_clock(executor: Executor) -> None:
    sessions = Sessions(executor, idle=1000)
    sessions.run("x = 1")
    kept = weakref.ref(sessions._kept)
    alarm = sessions._kept._alarm
    del sessions
    gc.collect()
    assert kept() is None
    alarm.cancel()


def test_a_cancelled_step_leaves_its_session_unused(sessions: Sessions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is cancelled while its session is made."""
    making, go_on = threading.Event(), threading.Event()
    fresh = sessions.fresh

    def slow() -> Session:
        making.set()
        assert go_on.wait(20)
        return fresh()

    async def cancelled(ready: Callable[[], bool]) -> None:
        task = asyncio.ensure_future(sessions.arun("while True: pass", "one"))
        assert await asyncio.to_thread(eventually, ready)
        task.cancel()
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    monkeypatch.setattr(sessions, "fresh", slow)
    asyncio.run(cancelled(making.is_set))
    assert [place.users for place in sessions._kept._places.values()] == [0]
    asyncio.run(cancelled(lambda: sessions._kept._places["one"].users == 1))
    assert [place.users for place in sessions._kept._places.values()] == [0]


def test_values_whose_digits_python_does_not_write_are_shown(sessions: Sessions) -> None:
    """Of an int of more than 4300 digits there is no repr: a guest ended the host's run by it."""
    assert sessions.run("[10 ** 5000]").text.startswith("value: [0x")


def test_an_executor_of_its_own_is_closed_and_takes_the_options(executor: Executor) -> None:
    sessions = Sessions("local", policy=Policy(limits=Limits(time=7)))
    assert sessions.executor.policy.limits.time == 7
    sessions.close()
    with pytest.raises(Exception, match="closed"):
        sessions.executor.run("1")
    with pytest.raises(TypeError, match="workers"):
        Sessions(executor, workers=1)


def test_steps_that_models_ask_for_in_parallel_take_turns(sessions: Sessions) -> None:
    """Models call tools in parallel, and a session runs one step at a time."""

    async def check() -> None:
        await sessions.arun("import time\nseen = []", "one")
        code = "n = len(seen)\ntime.sleep(0.02)\nseen.append(n)\nseen"
        shown = await asyncio.gather(*[sessions.arun(code, "one") for _ in range(6)])
        assert sorted(len(each.result.value) for each in shown) == [1, 2, 3, 4, 5, 6]
        assert max(shown, key=lambda each: len(each.text)).result.value == [0, 1, 2, 3, 4, 5]

    asyncio.run(check())
    threads = [threading.Thread(target=sessions.run, args=("seen.append(len(seen))", "one")) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sessions.run("seen", "one").result.value == list(range(12))


def test_cancelling_a_step_that_waits_for_its_turn_disturbs_nobody(sessions: Sessions) -> None:
    async def check() -> None:
        started, release = asyncio.Event(), threading.Event()
        loop = asyncio.get_running_loop()

        def hold() -> bool:
            loop.call_soon_threadsafe(started.set)
            return release.wait(30)

        sessions.give({"hold": hold})
        first = asyncio.ensure_future(sessions.arun("hold()"))
        await started.wait()
        before = threading.active_count()
        waiting = [asyncio.ensure_future(sessions.arun("'never'")) for _ in range(50)]
        last = asyncio.ensure_future(sessions.arun("'last'"))
        await asyncio.sleep(0)  # they begin to wait
        assert threading.active_count() <= before, "who waits holds no thread"
        for each in waiting:
            each.cancel()
        assert all(
            isinstance(each, asyncio.CancelledError) for each in await asyncio.gather(*waiting, return_exceptions=True)
        )
        assert not first.done(), "nor does the one who leaves wait"
        release.set()
        assert (await first).result.value is True
        assert (await last).result.value == "last"

    asyncio.run(asyncio.wait_for(check(), 60))


def test_a_turn_that_comes_while_it_is_given_up_goes_to_the_next() -> None:
    turns = Turns()

    async def check() -> None:
        async def take(order: list[int], n: int) -> None:
            async with turns.awaited("key"):
                order.append(n)

        for _ in range(50):
            order: list[int] = []
            with turns.wait("key"):
                context = contextvars.Context()
                tasks = [context.run(asyncio.ensure_future, take(order, n)) for n in range(5)]
                await asyncio.sleep(0)
            tasks[0].cancel()  # the turn is on its way to it
            tasks[2].cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert order == [1, 3, 4]
        async with turns.awaited("key"):
            pass

    asyncio.run(asyncio.wait_for(check(), 60))
    assert len(turns._turns) == 0, "nothing is kept of conversations that nobody waits for"


def test_turns_hold_under_threads_and_loops_at_once() -> None:
    turns, inside, most = Turns(), 0, 0

    def step() -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        inside -= 1

    def threaded() -> None:
        for _ in range(200):
            with turns.wait("key"):
                step()

    async def looped() -> None:
        async def one() -> None:
            for n in range(40):
                async with turns.awaited("key"):
                    step()
                    if n % 7 == 0:
                        await asyncio.sleep(0)
                    assert inside == 0

        tasks = [asyncio.ensure_future(one()) for _ in range(10)]
        tasks[3].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert [each for each in done if each is not None and not isinstance(each, asyncio.CancelledError)] == []

    threads = [threading.Thread(target=threaded) for _ in range(4)]
    for thread in threads:
        thread.start()
    asyncio.run(asyncio.wait_for(looped(), 60))
    for thread in threads:
        thread.join(60)
    assert most == 1 and not any(thread.is_alive() for thread in threads)


def test_cancelling_a_step_ends_it_and_leaves_the_turn_to_the_next(sessions: Sessions) -> None:
    async def check() -> None:
        started = asyncio.Event()
        loop = asyncio.get_running_loop()
        sessions.give({"go_on": lambda: loop.call_soon_threadsafe(started.set) and None})
        running = asyncio.ensure_future(sessions.arun("go_on()\nwhile True: pass"))
        await started.wait()
        waiting = asyncio.ensure_future(sessions.arun("'next'"))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (await waiting).result.value == "next"

    asyncio.run(asyncio.wait_for(check(), 60))


@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_tool_that_runs_code_in_its_own_conversation_is_told_so(executor: Executor, asynchronous: bool) -> None:
    """It would wait for itself, until its time is up and then at a moment of nobody's choosing."""
    sessions = Sessions(executor)

    async def later(key: str, code: str) -> str:
        return (await sessions.arun(code, key)).text

    def now(key: str, code: str) -> str:
        return sessions.run(code, key).text

    sessions.give({"inner": later if asynchronous else now})
    tried = "def tried(key, code):\n    try: return inner(key, code)\n    except Exception as e: return str(e)\n"
    code = f"{tried}(tried('one', '1'), tried('two', '1 + 1'), tried('two', {tried + 'tried(chr(111) + chr(110) + chr(101), chr(49))'!r}))"
    shown = asyncio.run(sessions.arun(code, "one")) if asynchronous else sessions.run(code, "one")
    sessions.close()
    mine, its, mine_again = shown.result.value
    assert "runs one step at a time" in mine
    assert its == "value: 2"
    assert "runs one step at a time" in mine_again, "nor by way of another conversation"


def test_what_a_tool_leaves_behind_may_run_code_after_the_step(sessions: Sessions) -> None:
    kept: list[contextvars.Context] = []

    def keep() -> None:
        kept.append(contextvars.copy_context())

    sessions.give({"keep": keep})
    sessions.run("keep()")
    assert kept[0].run(sessions.run, "6 * 7").result.value == 42


def test_asynchronous_tools_run_on_the_loop_that_runs_the_step(sessions: Sessions) -> None:
    loops: list[Any] = []

    async def here() -> None:
        loops.append(asyncio.get_running_loop())

    async def check() -> None:
        assert (await sessions.arun("here()")).result.ok
        assert loops[-1] is asyncio.get_running_loop()

    sessions.give({"here": here})
    asyncio.run(check())
    asyncio.run(check())  # another loop, the same session
    assert sessions.run("here()").result.ok and len(loops) == 3


def test_what_was_given_comes_back_in_a_session_that_replaces_a_lost_one(sessions: Sessions) -> None:
    sessions.give({"double": lambda n: 2 * n}, {"x": 4})
    assert sessions.run("double(x)").result.value == 8
    sessions.give({"double": lambda n: 20 * n})
    with sessions.turn() as session:
        assert session.run("double(x)").value == 80
        session.kill()
    assert sessions.run("double(x)").result.value == 80
    with sessions.fresh({"more": lambda: 1}, {"y": 2}) as session:
        assert session.run("double(x) + more() + y").value == 83


def test_a_lost_session_is_told_to_the_model(sessions: Sessions) -> None:
    shown = sessions.run("import os\nos._exit(3)")
    assert "the next step starts afresh" in shown.text and not shown.result.ok
    assert sessions.run("1 + 1").text == "value: 2"


def test_everything_of_a_step_is_shown_and_made_harmless(sessions: Sessions) -> None:
    code = "import sys\nprint('a\\x1b[31mb')\nprint('\\u202ec', file=sys.stderr)\nopen('d\\x07\\ne', 'w').write('12')\n'\\x1b]0;f\\x07'"
    shown = sessions.run(code)
    assert shown.text == "a\\x1b[31mb\nstderr: \\u202ec\nvalue: '\\x1b]0;f\\x07'\nfiles: d\\x07\\ne (2 bytes)"
    error = sessions.run("def f():\n    raise ValueError('\\x1b[2Jbad')\nf()")
    assert "line 2, in f" in error.text and "ValueError: \\x1b[2Jbad" in error.text and "\x1b" not in error.text


def test_what_is_long_loses_its_middle(sessions: Sessions) -> None:
    shown = sessions.run("'a' * 50_000 + 'z'")
    assert "characters left out" in shown.text and len(shown.text) < 21_000 and shown.text.endswith("z'")
    assert clip("abcdef", 4) == "ab\n... (2 characters left out) ...\nef" and clip("abcd", 4) == "abcd"
    long = sessions.run("raise ValueError('b' * 50_000)")
    assert len(failure(long.result)) < 21_000


def test_pictures_are_those_that_run_nothing(sessions: Sessions) -> None:
    code = """def P(**kinds):
    return type('P', (), {f'_repr_{kind}_': lambda self, data=data: data for kind, data in kinds.items()})()
display(P(png=b'one', jpeg=b'other'))
display(P(svg='<svg onload="x"/>'))
display(P(jpeg=b'two'))"""
    shown = sessions.run(code)
    assert [(p.name, p.mime, p.data) for p in shown.pictures] == [
        ("display-1.png", "image/png", b"one"),
        ("display-2.jpeg", "image/jpeg", b"two"),
    ]
    assert shown.pictures[0].url == "data:image/png;base64,b25l"
    assert pictures(sessions.run("1").result) == []


def test_files_are_of_the_kind_their_name_says() -> None:
    assert Attachment.named("a.csv", b"x\x1b[2J").text == "x\\x1b[2J"
    assert Attachment.named("a.csv", b"").mime == "text/csv"
    assert Attachment.named("a.png", b"text").text is None
    assert Attachment.named("a", b"\xff").text is None
    assert Attachment.named("a", b"").mime == "application/octet-stream"


def test_names_a_guest_invents_end_no_run_of_the_host() -> None:
    with Executor("wasm", policy=Policy(limits=Limits(disk=1000))) as executor, executor.session() as session:
        code = """for name, size in (('good.txt', 3), ('b\x1b]0;x\x07ad', 1), ('con', 1), ('half', 600), ('gone', 1)):
    open(name, 'w').write('x' * size)"""
        named = session.run(code).files
        session.run("import os\nos.remove('gone')")
        # The guest says which files there are, and may say more than it could ever hold.
        found, trouble = files(session, [*named, FileInfo("half", 600)])
    assert [file.name for file in found] == ["good.txt", "half"]
    said = trouble.splitlines()
    assert len(said) == 4 and "\x1b" not in trouble and all("is not passed on" in line for line in said)
    assert "larger than Limits.disk" in said[3]


def test_programs_share_files_and_nothing_else(executor: Executor) -> None:
    async def check() -> None:
        programs = Programs(executor)
        programs.write("in.txt", b"ab")
        result, trouble = await programs.run("x = 1\nopen('out.txt', 'w').write(open('in.txt').read() * 2)", {}, None)
        assert result.ok and trouble == "" and programs.read("out.txt") == b"abab"
        result, _ = await programs.run(
            "import os\nos.remove('in.txt')\nprint(os.environ['K'], 'x' in globals())", {"K": "v"}, None
        )
        assert result.stdout == "v False\n"
        assert "in.txt" not in programs and "out.txt" in programs
        result, _ = await programs.run("open('out.txt', 'w').write('lost')\nwhile True: pass", {}, 0.3)
        assert result.error is not None and result.error.kind == "time" and programs.read("out.txt") == b"abab"
        result, trouble = await programs.run("open('b\\x07d', 'w').write('x')", {}, None)
        assert result.ok and "not passed on" in trouble
        with pytest.raises(ValueError, match=r"\.\."):
            programs.write("../x", b"")
        with pytest.raises(FileNotFoundError):
            programs.read("nowhere")

    asyncio.run(asyncio.wait_for(check(), 90))


def test_output_is_passed_on_whole_and_gathered(sessions: Sessions) -> None:
    sent: list[str] = []

    async def send(text: str) -> None:
        sent.append(text)

    async def check() -> None:
        async with sessions.aturn() as session:
            result = await run_streaming(session, "for n in range(3000): print(n, flush=True)\nprint('\\x1b[2J')", send)
            assert result.ok

    asyncio.run(asyncio.wait_for(check(), 60))
    assert "".join(sent) == "".join(f"{n}\n" for n in range(3000)) + "\\x1b[2J\n"
    assert len(sent) < 3000


def test_the_value_of_a_last_assignment_and_the_line_of_an_error(sessions: Sessions) -> None:
    cases = {
        "x = 2": 2,
        "x = y = 3": 3,
        "x += 1": 4,
        "z: int = 5": 5,
        "z: int": None,
        "a, b = 1, 2": None,
        "del b": None,
        "": None,
        "7": 7,
    }
    for code, value in cases.items():
        with sessions.turn() as session:
            assert _code.last_value(code, session.run(code), session) == value, code
    code = "'a\x0cb\u2028'\r\ndef f():\r    return 1 / 0\n\nf()  # here"
    error = sessions.run(code).result.error
    assert error is not None and _code.failing_line(code, error) == "f()  # here"
    broken = sessions.run("(").result.error
    assert broken is not None and _code.failing_line("(", broken) == "("
    assert _code.last_value("(", sessions.run("(").result, session) is None


def test_arrays_become_the_hosts_own_where_it_can() -> None:
    numpy = pytest.importorskip("numpy", reason="n/a: numpy is not installed here")
    found = native(Array("<i4", (2,), numpy.array([1, 2], "<i4").tobytes()))
    assert isinstance(found, numpy.ndarray) and found.tolist() == [1, 2]
    assert native([1]) == [1]


def test_what_is_no_picture_and_no_table_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest chose its bytes and its columns: an error of the library that looks at them would end the host's run."""

    def to_pandas(_: Table) -> None:
        raise ValueError("All arrays must be of the same length")  # as pandas says it, which takes a second to import

    monkeypatch.setattr(Table, "to_pandas", to_pandas)
    for value in (Image("image/png", b"no picture"), Table({"a": [1], "b": [1, 2]}), Array("<f8", (3,), b"x")):
        assert native(value) is value


def test_variables_of_a_block_that_are_large_together_stay_in_the_sandbox(
    sessions: Sessions, executor: Executor
) -> None:
    """One large value with many names would be as many copies in the host's memory."""
    limit = executor.policy.limits.value
    names = [f"v{n}" for n in range(40)]
    code = f"small = 1\nlarge = bytes({limit // 3})\nhuge = bytes({limit} + 1)\nmixed = [print, 1]\n"
    output, new = eval_fn(sessions)(code + "\n".join(f"{name} = large" for name in names), {})
    assert new["small"] == 1 and "mixed" not in new
    assert sum(len(value) for value in new.values() if isinstance(value, bytes)) <= limit
    assert "too large to be kept for the next step: huge, v" in output
    assert eval_fn(sessions)("small + len(large) // len(large)", new)[0] == "value: 2"  # what is kept can be given


LIES = """
import sys
[kind] = {m.Guest for m in list(sys.modules.values()) if hasattr(getattr(m, 'Guest', None), 'serve')}
real = kind.handle
def handle(self, header, blobs=()):
    if header['t'] in ('list', 'names'):
        self._send({'t': 'done', 'id': header['id'], 'v': 3, 'files': 'x'})
    else:
        real(self, header, blobs)
kind.handle = handle
"""


def test_a_guest_that_lies_about_its_variables_and_files_ends_nothing_of_the_host_s(
    sessions: Sessions, executor: Executor
) -> None:
    output, new = eval_fn(sessions)(LIES, {"x": 1})
    assert new == {} and "cannot be had" in output
    programs = Programs(executor)
    programs.write("a.txt", b"1")
    result, trouble = asyncio.run(programs.run(LIES, {}, None))
    assert result.ok and "not passed on" in trouble and programs.read("a.txt") == b"1"
