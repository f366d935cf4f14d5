"""Many sandboxes at once from one event loop: ``python examples/async_sessions.py [SANDBOX]``.

Each of five sessions asks the host for its numbers, works on them and keeps its own state; one of them never ends, and costs only itself.
"""

from __future__ import annotations

import asyncio
import sys

from safeexec import AsyncExecutor, Limits, Policy

WORK = """
import statistics
numbers = await fetch.aio(seed)
mean = statistics.fmean(numbers)
"""

ENDLESS = "while True: pass"


async def fetch(seed: int) -> list[int]:
    """A hundred numbers, from somewhere slow."""
    await asyncio.sleep(0.05)
    return [(seed * 7919 + n * n) % 1000 for n in range(100)]


async def one(executor: AsyncExecutor, seed: int) -> str:
    async with executor.session(tools=[fetch], variables={"seed": seed}) as session:
        (await session.run(WORK)).raise_for_error()
        result = await session.run(ENDLESS if seed == 3 else "round(mean, 2)")
        return f"seed {seed}: {result.value if result.ok else result.error}"


async def main(sandbox: str = "local") -> None:
    policy = Policy(limits=Limits(time=1))
    async with AsyncExecutor(sandbox, policy=policy) as executor:
        for line in await asyncio.gather(*(one(executor, seed) for seed in range(5))):
            print(line)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:2]))
