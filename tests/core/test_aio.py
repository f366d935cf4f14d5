"""The asynchronous interface: cancellation, threads, the caller's loop."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from safeexec import AsyncExecutor, Executor, Limits, Policy, SessionClosed
from safeexec.aio import AsyncSession
from safeexec.testing.base import eventually
from tests.core.scripted import Peer, ScriptedBackend, threads_named
from tests.support.plain import PlainBackend

PATIENT = Policy(limits=Limits(time=20))


def run(main: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(main, 40))


def scripted() -> AsyncExecutor:
    def behave(peer: Peer, request: dict[str, Any]) -> None:
        peer.done(request, v=request.get("code"))

    return AsyncExecutor(ScriptedBackend(behave))


def test_two_hundred_idle_sessions_hold_no_threads() -> None:
    async def main() -> None:
        async with scripted() as executor:
            sessions = [await executor.session() for _ in range(200)]
            results = await asyncio.gather(*[s.run(str(i)) for i, s in enumerate(sessions)])
            assert [r.value for r in results] == [str(i) for i in range(200)]
            # At most the idle ones kept for the next work, and those are shared by all sessions.
            assert await asyncio.to_thread(lambda: eventually(lambda: len(threads_named("safeexec-worker")) <= 32, 10))
            for session in sessions:
                await session.close()

    run(main())


def test_cancelling_waits_until_the_step_has_ended() -> None:
    async def main() -> None:
        async with (
            AsyncExecutor(PlainBackend(), policy=PATIENT) as executor,
            executor.session(variables={"x": 1}) as session,
        ):
            for code in (
                "while True:\n    pass",
                "import time\ntime.sleep(30)",
                "import asyncio\nawait asyncio.sleep(30)",
            ):
                begun = asyncio.Event()
                task = asyncio.create_task(session.run("print('b')\n" + code, on_output=lambda _, e=begun: e.set()))
                await begun.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert not session.closed
                assert (await session.run("x")).value == 1

    run(main())


def test_cancelling_a_step_that_obeys_nothing_closes_the_session() -> None:
    async def main() -> None:
        async with AsyncExecutor(PlainBackend(), policy=PATIENT) as executor:
            session = await executor.session()
            begun = asyncio.Event()
            code = "while True:\n    try:\n        print('b')\n        while True: pass\n    except BaseException: pass"
            task = asyncio.create_task(session.run(code, on_output=lambda _: begun.set()))
            await begun.wait()
            task.cancel()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert session.closed
            with pytest.raises(SessionClosed):
                await session.run("1")

    run(main())


def test_time_out_of_asyncio_ends_the_step() -> None:
    async def main() -> None:
        async with AsyncExecutor(PlainBackend(), policy=PATIENT) as executor, executor.session() as session:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await session.run("while True:\n    pass")
            assert (await session.run("5")).value == 5

    run(main())


def test_cancelling_while_a_tool_runs_cancels_the_tool() -> None:
    async def main() -> None:
        begun, cancelled = asyncio.Event(), asyncio.Event()

        async def tool() -> None:
            begun.set()
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.set()
                raise

        async with AsyncExecutor(PlainBackend(), policy=PATIENT) as executor, executor.session([tool]) as session:
            task = asyncio.create_task(session.run("tool()"))
            await begun.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await asyncio.wait_for(cancelled.wait(), 10)
            assert session.closed or (await session.run("1")).value == 1

    run(main())


def test_tools_know_by_context_who_runs_the_step() -> None:
    """As without asyncio: a trace, or the user whose request this is."""
    user = contextvars.ContextVar("user", default="nobody")

    def plain() -> str:
        return user.get()

    async def awaited() -> str:
        return user.get()

    async def main() -> None:
        async with AsyncExecutor(PlainBackend(), policy=PATIENT) as executor:
            for name in ("ann", "bob"):
                user.set(name)
                async with executor.session([plain, awaited]) as session:
                    assert (await session.run("plain(), awaited()")).value == (name, name)

    run(main())


def test_asynchronous_tools_run_on_the_loop_that_runs_the_step() -> None:
    loops: list[Any] = []

    async def here() -> None:
        loops.append(asyncio.get_running_loop())

    with Executor(PlainBackend(), policy=PATIENT) as executor, executor.session([here]) as session:
        for _ in range(2):  # the session outlives the first loop

            async def main() -> None:
                assert (await AsyncSession(session).run("here()")).ok
                assert loops[-1] is asyncio.get_running_loop()

            run(main())


def test_cancelling_while_a_session_starts_leaves_nothing() -> None:
    from safeexec.testing.lifecycle import children

    before = set(children())  # of executors that other tests share

    async def main() -> None:
        async with AsyncExecutor(PlainBackend(), policy=PATIENT) as executor:
            for _ in range(5):
                task = asyncio.ensure_future(executor.session()._make())
                await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            assert (await executor.run("1")).value == 1

    run(main())
    assert eventually(lambda: set(children()) <= before)


def test_guest_that_does_not_read_does_not_hold_up_the_loop() -> None:
    """Results of asynchronous tools pile up unread; the loop they run on must go on turning."""

    def stuck(peer: Peer, request: dict[str, Any]) -> None:
        for number in range(1, 12):
            peer.send({"t": "call", "id": number, "tool": "big", "a": [], "k": {}})
        peer.wait_for_the_end()

    async def big() -> bytes:
        return b"x" * 190_000

    async def main() -> None:
        policy = Policy(limits=Limits(time=1.0, value=200_000))
        async with AsyncExecutor(ScriptedBackend(stuck), policy=policy) as executor, executor.session([big]) as session:
            task = asyncio.create_task(session.run("x"))
            longest, last = 0.0, asyncio.get_running_loop().time()
            while not task.done():
                await asyncio.sleep(0.01)
                now = asyncio.get_running_loop().time()
                longest, last = max(longest, now - last), now
            result = await task
            assert result.error is not None and result.error.kind == "time"
            assert longest < 0.8  # held up, it would be the whole time limit

    run(main())


def test_tools_of_both_kinds_run_where_they_should() -> None:
    async def main() -> None:
        loop, here = asyncio.get_running_loop(), threading.get_ident()
        seen: dict[str, Any] = {}

        async def on_loop() -> None:
            seen["loop"], seen["thread"] = asyncio.get_running_loop(), threading.get_ident()

        def in_thread() -> None:
            seen["sync"] = threading.get_ident()

        async with AsyncExecutor(PlainBackend(), policy=PATIENT) as executor:
            result = await executor.run("on_loop()\nin_thread()\n1", tools=[on_loop, in_thread])
            assert result.value == 1, result.error
        assert seen["loop"] is loop and seen["thread"] == here and seen["sync"] != here

    run(main())


def test_executor_is_set_up_on_first_use_and_says_so() -> None:
    async def main() -> None:
        executor = scripted()
        with pytest.raises(RuntimeError, match="not set up"):
            _ = executor.isolation
        assert (await executor.run("7")).value == "7"
        assert executor.isolation == {}
        await executor.close()
        await executor.close()
        with pytest.raises(SessionClosed):
            await executor.run("1")

    run(main())


def test_session_that_outlives_its_loop_can_be_closed() -> None:
    made: list[Any] = []

    async def main() -> None:
        executor = scripted()
        made.extend([executor, await executor.session()])

    run(main())

    async def later() -> None:
        assert (await made[1].run("still")).value == "still"
        await made[0].close()

    run(later())
    assert made[1].closed


@pytest.mark.parametrize("turns", range(6))
def test_cancelling_before_the_step_has_begun_ends_it(turns: int) -> None:
    async def main() -> None:
        policy = Policy(limits=Limits(time=None, wall=None))  # nothing else would end it
        async with AsyncExecutor(PlainBackend(), policy=policy) as executor, executor.session() as session:
            for _ in range(3):
                task = asyncio.create_task(session.run("while True:\n    pass"))
                for _ in range(turns):
                    await asyncio.sleep(0)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                if session.closed:  # one that did not stop at once; this guest cannot go back
                    break
                assert (await session.run("1")).value == 1

    run(main())


def test_an_interrupt_is_not_sent_by_the_event_loops_thread() -> None:
    """A guest that reads nothing, or takes no orders, would hold up the loop and all that is on it."""
    threads: list[int] = []

    def behave(peer: Peer, request: dict[str, Any]) -> None:
        peer.send({"t": "out", "s": 1}, b"begun")
        peer.wait_for_the_end()

    async def main() -> None:
        backend = ScriptedBackend(behave)
        async with AsyncExecutor(backend, policy=PATIENT) as executor:
            for cancel in (True, False):
                session = await executor.session()
                guest = backend.guests[-1]

                def interrupted(guest: Any = guest) -> None:
                    threads.append(threading.get_ident())
                    guest.hang_up()

                guest.interrupt = interrupted  # type: ignore[method-assign]
                begun = asyncio.Event()
                task = asyncio.create_task(session.run("x", on_output=lambda _, e=begun: e.set()))
                await begun.wait()
                if cancel:
                    task.cancel()
                else:
                    session.interrupt()
                await asyncio.gather(task, return_exceptions=True)
        assert len(threads) == 2 and threading.get_ident() not in threads

    run(main())


def test_an_executor_whose_first_user_is_cancelled_is_there_for_the_next() -> None:
    made: list[Executor] = []
    go = threading.Event()

    async def main() -> None:
        async_executor = scripted()
        make = async_executor._make

        def slowly() -> Executor:
            assert go.wait(20)
            made.append(make())
            return made[-1]

        async_executor._make = slowly
        first = asyncio.create_task(async_executor.run("1"))
        await asyncio.sleep(0)
        first.cancel()
        second = asyncio.create_task(async_executor.run("2"))
        await asyncio.sleep(0)
        go.set()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await second).value == "2"
        await async_executor.close()
        assert len(made) == 1 and made[0]._closed

    run(main())


def test_an_executor_is_set_up_once_for_two_loops() -> None:
    executor, made, both = scripted(), [], threading.Barrier(2)
    make, values = executor._make, []

    def slowly() -> Executor:
        made.append(1)
        threading.Event().wait(0.1)  # the other loop comes meanwhile
        return make()

    executor._make = slowly

    def loop(number: int) -> None:
        both.wait(10)

        async def main() -> None:
            values.append((await executor.run(str(number))).value)

        asyncio.run(main())

    started = [threading.Thread(target=loop, args=(number,), daemon=True) for number in range(2)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join(20)
    assert sorted(values) == ["0", "1"] and made == [1]
    run(executor.close())
