"""The same names, awaited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

import pytest

from safeexec.testing.base import PATIENCE, Base


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine, with a time limit."""
    asyncio.run(asyncio.wait_for(main, 3 * PATIENCE))


class Asynchronous(Base):
    def test_names_are_awaited(self) -> None:
        async def main() -> None:
            async with self.make_async() as executor:
                assert (await executor.run("1 + 1")).value == 2
                assert executor.isolation
                async with executor.session(variables={"x": 1}) as session:
                    await session.variables.set("y", [2])
                    assert (await session.run("y.append(x)\ny")).value == [2, 1]
                    assert await session.variables["y"] == [2, 1]
                    assert await session.variables.names() == ("x", "y")
                    await session.files.write("a.txt", "text")
                    assert await session.files.read("a.txt") == b"text"
                    assert [f.name for f in await session.files.list()] == ["a.txt"]
                assert session.closed

        run(main())

    def test_output_comes_on_the_loop(self) -> None:
        async def main() -> None:
            pieces: list[str] = []
            threads: set[int] = set()

            def on_output(piece: str) -> None:
                pieces.append(piece)
                threads.add(threading.get_ident())

            async with self.make_async() as executor, executor.session() as session:
                await session.run("print('a')\nprint('b')", on_output=on_output)
                assert "".join(pieces) == "a\nb\n" and threads == {threading.get_ident()}

        run(main())

    def test_async_tools_run_on_the_callers_loop(self) -> None:
        async def main() -> None:
            loops: list[Any] = []

            async def where(n: int) -> int:
                loops.append(asyncio.get_running_loop())
                return n + 1

            async with self.make_async() as executor, executor.session([where]) as session:
                assert (await session.run("where(1)")).value == 2
                assert (await session.run("await where.aio(2)")).value == 3
                assert loops == [asyncio.get_running_loop()] * 2

        run(main())

    def test_sessions_run_at_once(self) -> None:
        async def main() -> None:
            inside, full = 0, asyncio.Event()

            async def meet() -> None:
                nonlocal inside
                inside += 1
                if inside == 3:
                    full.set()
                await asyncio.wait_for(full.wait(), PATIENCE)

            async with self.make_async() as executor:
                results = await asyncio.gather(*[executor.run(f"meet()\n{i}", tools=[meet]) for i in range(3)])
                assert [r.value for r in results] == [0, 1, 2]

        run(main())

    def test_cancelling_the_task_ends_the_step(self) -> None:
        async def main() -> None:
            begun = asyncio.Event()
            async with self.make_async(limits=self.limits(time=30).limits) as executor, executor.session() as session:
                await session.run("kept = 1")
                code = "print('begun')\nwhile True:\n    pass"
                task = asyncio.create_task(session.run(code, on_output=lambda _: begun.set()))
                await begun.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                if not session.closed:
                    assert (await session.run("kept")).value == 1

        run(main())
