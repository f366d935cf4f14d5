"""Tools as the sandbox's session takes them: wrapped for telemetry, their results made plain. And what runs in the sandbox instead."""

from __future__ import annotations

import ast
import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

from safeexec import EndStep
from safeexec.parsed import parse
from safeexec_agent import telemetry
from safeexec_agent.tools import FunctionTool, Tool

BASE = """
class Tool:
    def __init__(self, *args, **kwargs):
        self.is_initialized = False
    def setup(self):
        pass
    def __call__(self, *args, **kwargs):
        if not getattr(self, "is_initialized", False):
            self.setup()
            self.is_initialized = True
        return self.forward(*args, **kwargs)
def tool(function):
    return function
"""
"""What the source of a tool finds in the sandbox in place of the library it was written for."""


class Slot:
    """Where the final answer of one step is kept: the first one."""

    def __init__(self) -> None:
        self.answers: list[Any] = []
        self._lock = threading.Lock()

    def put(self, answer: Any) -> None:
        """Keep the answer unless there is one."""
        with self._lock:
            if not self.answers:
                self.answers.append(answer)


class SandboxTool(Tool):
    """A tool whose source runs in the sandbox, because nobody here vouches for it. Nothing of it is run to make this object."""

    skip_forward_signature_validation = True

    def __init__(self, name: str, description: str, inputs: Mapping[str, Any], output_type: str, source: str) -> None:
        super().__init__()
        self.name, self.description, self.inputs, self.output_type = name, description, inputs, output_type  # type: ignore[misc]
        self.source = source

    def module(self) -> str:
        """Source of the module that defines the tool, for ``Session.add_module``."""
        tree = parse(self.source)
        kind = next((n for n in tree.body if isinstance(n, ast.ClassDef)), None)
        kept = [n for n in tree.body if not (isinstance(n, ast.ImportFrom) and _library(n.module))]
        maker = f"{self.name} = {kind.name}()" if kind is not None else ""
        return "\n".join([BASE, ast.unparse(ast.Module(kept, [])), maker])


def _library(module: str | None) -> bool:
    return (module or "").partition(".")[0] in ("smolagents", "safeexec_agent")


class Delegate(Tool):
    """A managed agent as a tool: its whole run happens on the host, in its own sandbox; its answer comes back as plain data."""

    tool_time = None  # another agent's work has no bound but its own
    skip_forward_signature_validation = True
    output_type = "any"
    inputs = {  # noqa: RUF012
        "task": {"type": "string", "description": "what the agent is to do"},
        "additional_args": {"type": "object", "description": "variables for it", "nullable": True},
    }

    def __init__(self, agent: Any) -> None:
        super().__init__()
        self.name, self.description, self.agent = agent.name, agent.description, agent

    def forward(self, task: str, additional_args: dict[str, Any] | None = None) -> Any:
        return self.agent(task, additional_args=additional_args)


class _Call:
    """A tool that is an object: called by keyword, as its `inputs` say."""

    def __init__(self, item: Any, call: Callable[..., Any]) -> None:
        self.name, self.description, self.inputs = item.name, item.description, item.inputs
        self._call = call
        if hasattr(item, "tool_time"):
            self.tool_time = item.tool_time

    def __call__(self, **arguments: Any) -> Any:
        return self._call(**arguments)


def host_function(item: Any, slot: Callable[[], Slot]) -> Any:
    """What ``Executor.session(tools=…)`` takes for the tool `item`. A tool called ``final_answer`` ends the step with its result."""
    ends = item.name == "final_answer"

    def call(*args: Any, **kwargs: Any) -> Any:
        mine = slot()  # taken before the tool runs: a call given up in one step must not answer in a later one
        with telemetry.span("TOOL", item.name, gen__ai_tool_name=item.name, tool_name=item.name) as span:
            span.content(input_value=kwargs or args)
            value = _plain(item(*args, **kwargs))
            span.content(output_value=value)
        if ends:
            mine.put(value)
            raise EndStep(f"{item.name}() ended the step")
        return value

    if isinstance(item, FunctionTool):
        # By its own annotations the arguments are checked more exactly than by `inputs`.
        wrapped = functools.wraps(item.function)(call)
        if hasattr(item, "tool_time"):
            wrapped.tool_time = item.tool_time  # type: ignore[attr-defined]
        return wrapped
    return _Call(item, call)


def _plain(value: Any) -> Any:
    """smolagents wraps what its tools return; inside is the value."""
    if type(value).__module__.startswith("smolagents.") and hasattr(value, "to_raw"):
        return value.to_raw()
    return value
