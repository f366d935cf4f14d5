"""Output passed on while a step runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from safeexec.aio import AsyncSession
from safeexec.result import Result
from safeexec.step import Output
from safeexec.text import neutralise


async def run_streaming(session: AsyncSession, code: str, send: Callable[[str], Awaitable[None]]) -> Result:
    """Run a step whose output, made harmless for a terminal, `send` gets piece by piece; all of it before this returns."""
    pieces: asyncio.Queue[Output | None] = asyncio.Queue()
    relay = asyncio.ensure_future(_relay(pieces, send))
    try:
        return await session.run(code, on_output=pieces.put_nowait)
    finally:
        pieces.put_nowait(None)
        await relay


async def _relay(pieces: asyncio.Queue[Output | None], send: Callable[[str], Awaitable[None]]) -> None:
    """What has gathered goes in one message, so that a flood does not become a flood of messages."""
    ended = False
    while not ended:
        gathered = [await pieces.get()]
        while not pieces.empty():
            gathered.append(pieces.get_nowait())
        ended = None in gathered
        text = "".join(piece for piece in gathered if piece is not None)
        if text:
            await send(neutralise(text))
