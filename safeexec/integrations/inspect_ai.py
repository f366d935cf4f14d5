"""inspect_ai: the tool ``safeexec_python()``, and the sandbox environment ``sandbox="safeexec"`` for its ``python`` tool.

Interface: ``@tool`` and ``@sandboxenv`` of inspect_ai 0.3; entry-point group ``inspect_ai``. The environment runs Python, as a program of its own each time
in one session's files; there is no shell in it, and every other command fails with exit code 127.
"""

from __future__ import annotations

import base64
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from inspect_ai.tool import ContentImage, ContentText, Tool, tool
from inspect_ai.util import ExecResult, SandboxEnvironment, sandboxenv, store

from safeexec.aio import AsyncSession, _in_thread
from safeexec.executor import DEFAULT_SANDBOX, Executor
from safeexec.integrations._sessions import Sessions, failure, images, observation
from safeexec.names import UnsafeName, check_name
from safeexec.policy import Policy
from safeexec.tools import Tools

_PYTHON = ("python", "python3")


@tool
def safeexec_python(
    sandbox: str | Executor = DEFAULT_SANDBOX,
    policy: Policy | None = None,
    tools: Tools = (),
    options: dict[str, Any] | None = None,
) -> Tool:
    """A stateful Python tool: one session for each sample."""
    sessions = Sessions(sandbox, policy=policy, tools=tools, **(options or {}))

    async def execute(code: str) -> Any:
        """Run Python code in a sandbox where variables and files live on from call to call.

        Args:
            code: The program; the value of its last expression is returned, too.
        """
        # Everything of a sample shares its store, which is otherwise not touched.
        key = store().get("safeexec_session") or uuid4().hex
        store().set("safeexec_session", key)
        session = AsyncSession(await _in_thread(lambda: sessions.get(key)))
        result = await session.run(code)
        text = observation(result, session)
        pictures = [
            ContentImage(image=f"data:{mime};base64,{base64.b64encode(d).decode()}") for mime, d in images(result)
        ]
        return [ContentText(text=text), *pictures] if pictures else text

    return execute


@sandboxenv(name="safeexec")
class SafeexecSandboxEnvironment(SandboxEnvironment):
    """The files of a sample, and Python programs run over them. `config` is the name of safeexec's sandbox; wasm when there is none."""

    def __init__(self, executor: Executor) -> None:
        super().__init__()
        self._executor = executor
        self._files: dict[str, bytes] = {}

    @classmethod
    async def sample_init(cls, task_name: str, config: Any, metadata: dict[str, str]) -> dict[str, SandboxEnvironment]:
        """One environment for a sample. A name given as configuration arrives as a path: it was resolved against the task's folder."""
        return {"default": cls(await _in_thread(lambda: Executor(Path(config).name if config else DEFAULT_SANDBOX)))}

    @classmethod
    async def sample_cleanup(
        cls, task_name: str, config: Any, environments: dict[str, SandboxEnvironment], interrupted: bool
    ) -> None:
        """End them."""
        for environment in environments.values():
            await _in_thread(environment.as_type(cls)._executor.close)

    async def exec(
        self, cmd: list[str], input: str | bytes | None = None, cwd: str | None = None, env: dict[str, str] | None = None,
        user: str | None = None, timeout: int | None = None, timeout_retry: bool = True, concurrency: bool = True,
    ) -> ExecResult[str]:  # fmt: skip
        """Run ``python -c CODE``, ``python -`` with `input`, or ``python FILE``. Raises TimeoutError."""
        program = self._program(cmd, input)
        if program is None:
            return ExecResult(
                False,
                127,
                "",
                f"{' '.join(cmd)[:200]}: this sandbox runs Python only: python -c CODE, python -, python FILE\n",
            )
        policy = self._executor.policy
        limits = policy.limits if timeout is None else replace(policy.limits, time=float(timeout))
        chosen = policy.replace(limits=limits, files=self._files, env={**policy.env, **(env or {})})
        session = AsyncSession(await _in_thread(lambda: self._executor.session(policy=chosen)))
        try:
            result = await session.run(program)
            if result.error is not None and result.error.kind == "time":
                raise TimeoutError(result.error.message)
            if not session.closed:
                self._files = {info.name: await session.files.read(info.name) for info in await session.files.list()}
        finally:
            await session.close()
        return ExecResult(result.ok, 0 if result.ok else 1, result.stdout, result.stderr + failure(result))

    def _program(self, cmd: list[str], given: str | bytes | None) -> str | None:
        if len(cmd) == 4 and cmd[:3] == ["bash", "--login", "-c"]:  # how inspect_ai's own python tool calls it
            cmd = cmd[3].split()
        if not cmd or cmd[0] not in _PYTHON:
            return None
        if len(cmd) == 3 and cmd[1] == "-c":
            return cmd[2]
        source = given if cmd[1:] in ([], ["-"]) else self._files.get(cmd[1]) if len(cmd) == 2 else None
        return source.decode() if isinstance(source, bytes) else source

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Write a file of the sample. Raises PermissionError for a name outside its folder."""
        try:
            check_name(file)
        except UnsafeName as error:
            raise PermissionError(str(error)) from error
        self._files[file] = contents.encode() if isinstance(contents, str) else contents

    async def read_file(self, file: str, text: bool = True) -> Any:
        """Read a file of the sample. Raises FileNotFoundError, UnicodeDecodeError."""
        if file not in self._files:
            raise FileNotFoundError(file)
        return self._files[file].decode() if text else self._files[file]
