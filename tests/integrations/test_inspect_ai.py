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

from safeexec import Executor
from safeexec.integrations.inspect_ai import SafeexecSandboxEnvironment, safeexec_python


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
