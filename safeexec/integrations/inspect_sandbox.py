"""inspect_ai: the sandbox environment ``sandbox="safeexec"``, or ``("safeexec", "local")``, for inspect_ai's own tools.

Interface: ``@sandboxenv`` of inspect_ai 0.3. It runs Python, as a program of its own each time over the same files; there is no shell in it, and every
other command fails with exit code 127.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from inspect_ai.util import ExecResult, SandboxEnvironment, sandboxenv

from safeexec.aio import _in_thread
from safeexec.cli.exits import of_result
from safeexec.executor import DEFAULT_SANDBOX, Executor
from safeexec.integrations._programs import Programs
from safeexec.integrations._shown import failure
from safeexec.names import UnsafeName

_HELP = "this sandbox runs Python only: python -c CODE, python -, python FILE\n"


@sandboxenv(name="safeexec")
class SafeexecSandboxEnvironment(SandboxEnvironment):
    """The files of a sample, and Python programs run over them. `config` is the name of safeexec's sandbox; wasm when there is none."""

    def __init__(self, executor: Executor) -> None:
        super().__init__()
        self._programs = Programs(executor)

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
            await _in_thread(environment.as_type(cls)._programs.executor.close)

    async def exec(
        self, cmd: list[str], input: Any = None, cwd: Any = None, env: dict[str, str] | None = None, user: Any = None,
        timeout: int | None = None, timeout_retry: bool = True, concurrency: bool = True,
    ) -> ExecResult[str]:  # fmt: skip
        """Run ``python -c CODE``, ``python -`` with `input`, or ``python FILE``. Raises TimeoutError."""
        program = self._program(cmd, input)
        if program is None:
            return ExecResult(False, 127, "", f"{' '.join(cmd)[:200]}: {_HELP}")
        result, trouble = await self._programs.run(program, env or {}, timeout)
        if result.error is not None and result.error.kind == "time":
            raise TimeoutError(result.error.message)
        code = of_result(result)
        return ExecResult(not code, code, result.stdout, result.stderr + trouble + (failure(result) if code else ""))

    def _program(self, cmd: list[str], given: str | bytes | None) -> str | None:
        if cmd[:-1] == ["bash", "--login", "-c"]:  # how inspect_ai's own python tool calls it
            cmd = cmd[3].split()
        match cmd:
            case ["python" | "python3", "-c", code]:
                return code
            case ["python" | "python3"] | ["python" | "python3", "-"]:
                return given.decode() if isinstance(given, bytes) else given
            case ["python" | "python3", file] if file in self._programs:
                return self._programs.read(file).decode()
        return None

    async def write_file(self, file: str, contents: str | bytes) -> None:
        """Write a file of the sample. Raises PermissionError for a name outside its folder."""
        try:
            self._programs.write(file, contents.encode() if isinstance(contents, str) else contents)
        except UnsafeName as error:
            raise PermissionError(str(error)) from error

    async def read_file(self, file: str, text: bool = True) -> Any:
        """Read a file of the sample. Raises FileNotFoundError, UnicodeDecodeError."""
        data = self._programs.read(file)
        return data.decode() if text else data
