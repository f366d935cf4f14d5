"""Programs that share files and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from safeexec.aio import AsyncSession, _in_thread
from safeexec.errors import SafeExecError
from safeexec.executor import Executor
from safeexec.integrations._attachments import files
from safeexec.result import Result
from safeexec.text import neutralise_line


class Programs:
    """Files, and Python programs run over them, each in a session of its own. The executor's policy holds, and its files are there at first."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self._policy = executor.policy

    async def run(self, code: str, env: Mapping[str, str], time: float | None) -> tuple[Result, str]:
        """What came of a program, and what there is to say about files that could not be kept. `time` replaces the policy's; None: that."""
        limits = replace(self._policy.limits, time=self._policy.limits.time if time is None else time)
        policy = self._policy.replace(limits=limits, env={**self._policy.env, **env})
        session, trouble = await _in_thread(lambda: self.executor.session(policy=policy)), ""
        async with AsyncSession(session) as running:
            result = await running.run(code)
            if not session.closed:
                try:
                    left, trouble = await _in_thread(lambda: files(session, session.files.list()))
                    self._policy = self._policy.replace(files={file.name: file.data for file in left})
                except SafeExecError as error:  # a guest that lies about its files leaves them as they were
                    trouble = f"files are not passed on: {neutralise_line(str(error))}\n"
        return result, trouble

    def __contains__(self, name: str) -> bool:
        return name in self._policy.files

    def write(self, name: str, data: bytes) -> None:
        """Write a file. Raises UnsafeName."""
        self._policy = self._policy.replace(files={**self._policy.files, name: data})

    def read(self, name: str) -> bytes:
        """Read a file. Raises FileNotFoundError."""
        if name not in self:
            raise FileNotFoundError(name)
        return self._policy.file_bytes(name)
