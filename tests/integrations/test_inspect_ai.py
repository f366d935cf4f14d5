"""The adapters for inspect_ai, driven by its eval() with its mock model."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from inspect_ai import Task, eval
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import Tool, python

from safeexec import Executor, Session
from safeexec.integrations.inspect_ai import SafeexecSandboxEnvironment, safeexec_python

PICTURE = "class P:\n    def _repr_png_(self): return b'\\x89PNG\\r\\n\\x1a\\n' + b'0' * 20\nP()"


async def _length(text: str) -> int:
    return len(text)


def run(tmp_path: Path, tool: Tool, *programs: str, sandbox: Any = None, files: Any = None) -> list[str]:
    name = "python" if sandbox else "safeexec_python"
    outputs = [ModelOutput.for_tool_call("mock", name, {"code": code}) for code in programs]
    model = get_model("mockllm/model", custom_outputs=[*outputs, ModelOutput.from_content("mock", "42 it is")])
    model.api.count_text_tokens = _length  # its own way fetches a vocabulary
    task = Task(
        dataset=[Sample(input="go", target="42", files=files)],
        solver=[use_tools(tool), generate()],
        scorer=includes(),
        sandbox=sandbox,
    )
    (log,) = eval(task, model=model, log_dir=str(tmp_path), display="none")
    assert log.status == "success", log.error
    assert log.samples is not None
    return [str(message.content) or str(message.error) for message in log.samples[0].messages if message.role == "tool"]


@pytest.mark.parametrize("sandbox", ["wasm", "local"])
def test_the_tool_keeps_state_within_a_sample(tmp_path: Path, sandbox: str) -> None:
    tool = safeexec_python(sandbox)
    assert run(tmp_path, tool, "x = 41", "x + 1", "1 / 0")[1] == "value: 42"
    assert "NameError" in run(tmp_path, tool, "x")[0]


@pytest.mark.parametrize("sandbox", ["wasm", "local"])
def test_the_environment_runs_inspects_own_python_tool(tmp_path: Path, sandbox: str) -> None:
    seen = run(
        tmp_path, python(), "print(open('in.txt').read())\nopen('made.txt', 'w').write('7')", "print(open('made.txt').read())\nx",
        sandbox=("safeexec", sandbox), files={"in.txt": "given"},
    )  # fmt: skip
    assert "given" in seen[0]
    assert "7" in seen[1] and "NameError" in seen[1]


def test_what_is_not_python_is_refused_and_limits_hold() -> None:
    async def check() -> None:
        with Executor("wasm") as executor:
            environment = SafeexecSandboxEnvironment(executor)
            refused = await environment.exec(["rm", "-rf", "/"])
            assert refused.returncode == 127 and "Python only" in refused.stderr
            with pytest.raises(TimeoutError):
                await environment.exec(["python3", "-c", "while True: pass"], timeout=1)
            for name in ("../x", "/etc/x"):
                with pytest.raises(PermissionError):
                    await environment.write_file(name, "x")
            with pytest.raises(FileNotFoundError):
                await environment.read_file("nowhere")
            await environment.write_file("a.py", "import os\nprint(os.environ.get('K'), 6 * 7)")
            assert (await environment.exec(["python", "a.py"], env={"K": "v"})).stdout == "v 42\n"

    asyncio.run(check())


def test_a_session_ends_with_its_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    make = Executor.session

    def session(*args: Any, **more: Any) -> Session:
        made.append(make(*args, **more))
        return made[-1]

    monkeypatch.setattr(Executor, "session", session)
    with Executor("local") as executor:
        tool = safeexec_python(executor)
        assert run(tmp_path, tool, "x = 1", "x")[1] == "value: 1"
        assert [each.closed for each in made] == [True]
        assert asyncio.run(tool("6 * 7")) == "value: 42", "without a sample the tool works, too"


def test_pictures_are_passed_on_as_pictures(tmp_path: Path) -> None:
    assert "ContentImage(" in run(tmp_path, safeexec_python("wasm"), PICTURE)[0]


def test_programs_end_as_their_exit_codes_say() -> None:
    async def check() -> None:
        with Executor("wasm") as executor:
            environment = SafeexecSandboxEnvironment(executor)
            ended = await environment.exec(["python", "-c", "import sys\nprint('so far')\nsys.exit(0)"])
            assert (ended.success, ended.returncode, ended.stdout, ended.stderr) == (True, 0, "so far\n", "")
            assert (await environment.exec(["python3", "-"], input="raise SystemExit(3)")).returncode == 1
            failed = await environment.exec(["python3"], input=b"1 / 0")
            assert failed.returncode == 1 and "ZeroDivisionError" in failed.stderr
            assert (await environment.exec(["python3", "nowhere.py"])).returncode == 127
            named = await environment.exec(["python3", "-c", "open('a\\x07b', 'w')\nopen('c', 'w').write('kept')"])
            assert named.success and "a\\x07b is not passed on" in named.stderr and "\x07" not in named.stderr
            assert await environment.read_file("c") == "kept"

    asyncio.run(check())
