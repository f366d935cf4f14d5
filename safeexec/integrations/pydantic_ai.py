"""Pydantic AI: ``Agent(model, toolsets=[toolset("wasm")])``, or ``Agent(model, capabilities=[CodeMode("wasm")])``.

Interface: ``FunctionToolset``, ``AbstractCapability.get_wrapper_toolset`` and ``WrapperToolset`` of pydantic-ai 2. The session is the one of the run's
``conversation_id``. In code mode the model sees one tool, `run_python`; the agent's other tools are functions that its code calls and the host runs.
Tools that ask somebody first, or run elsewhere, stay tools of their own: a call from code could wait for neither.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from pydantic_ai import BinaryContent, ModelRetry, RunContext, ToolDefinition, ToolReturn
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.toolsets import AbstractToolset, FunctionToolset, WrapperToolset

from safeexec.executor import DEFAULT_SANDBOX, Executor
from safeexec.integrations._sessions import Sessions
from safeexec.integrations._shown import Shown
from safeexec.policy import Policy


def _returned(shown: Shown) -> ToolReturn:
    if not shown.result.ok:
        # The model reads the error and may try again, as often as the tool's retries allow.
        raise ModelRetry(shown.text)
    pictures = [BinaryContent(picture.data, media_type=picture.mime) for picture in shown.pictures]
    return ToolReturn(shown.text, content=pictures or None)


def toolset(
    sandbox: str | Executor = DEFAULT_SANDBOX, *, policy: Policy | None = None, max_retries: int = 3, **options: Any
) -> FunctionToolset[Any]:
    """A toolset with the one tool `run_python`; its attribute `sessions` is to be closed."""
    sessions = Sessions(sandbox, policy=policy, **options)
    made: FunctionToolset[Any] = FunctionToolset(max_retries=max_retries)

    @made.tool
    async def run_python(ctx: RunContext[Any], code: str) -> ToolReturn:
        """Run Python code in a sandbox. Returns what it prints and the value of its last expression. State lives on from call to call."""
        return _returned(await sessions.arun(code, ctx.conversation_id))

    made.sessions = sessions  # type: ignore[attr-defined]
    return made


@dataclass
class CodeMode(AbstractCapability[Any]):
    """The agent's tools become functions of one sandbox, which the model calls by writing code."""

    sandbox: str | Executor = DEFAULT_SANDBOX
    policy: Policy | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.sessions = Sessions(self.sandbox, policy=self.policy, **self.options)

    def get_wrapper_toolset(self, toolset: AbstractToolset[Any]) -> AbstractToolset[Any]:
        """The one tool in place of all."""
        return _CodeToolset(toolset, self.sessions)


@dataclass
class _CodeToolset(WrapperToolset[Any]):
    sessions: Sessions

    async def get_tools(self, ctx: RunContext[Any]) -> dict[str, Any]:
        tools = await self.wrapped.get_tools(ctx)
        # Not those that need an approval, or are deferred: the agent's loop sees to that, which calls from code do not pass.
        inner = {name: tool for name, tool in tools.items() if tool.tool_def.kind == "function"}

        async def run_python(ctx: RunContext[Any], code: str) -> ToolReturn:
            """Run Python code in a sandbox where these functions can be called, by keyword arguments. State lives on."""
            async with self.sessions.aturn(ctx.conversation_id) as session:
                await session.add_tools({name: self._function(name, tool, ctx) for name, tool in inner.items()})
                return _returned(Shown.of(await session.run(code), session))

        outer: FunctionToolset[Any] = FunctionToolset([run_python], max_retries=3)
        made = (await outer.get_tools(ctx))["run_python"]
        listed = "\n".join(_described(tool.tool_def) for tool in inner.values())
        definition = replace(made.tool_def, description=f"{made.tool_def.description}\n\n{listed}")
        others = {name: tool for name, tool in tools.items() if name not in inner}
        return {**others, "run_python": replace(made, tool_def=definition)}

    def _function(self, name: str, tool: Any, ctx: RunContext[Any]) -> Any:
        async def call(**arguments: Any) -> Any:
            checked = tool.args_validator.validate_python(arguments, context=ctx.validation_context)
            return await self.wrapped.call_tool(name, checked, replace(ctx, tool_name=name), tool)

        call.__name__ = name
        call.__doc__ = tool.tool_def.description
        return call

    async def call_tool(self, name: str, tool_args: dict[str, Any], ctx: RunContext[Any], tool: Any) -> Any:
        whose = tool.toolset if name == "run_python" else self.wrapped
        return await whose.call_tool(name, tool_args, ctx, tool)


def _described(tool: ToolDefinition) -> str:
    arguments = ", ".join(tool.parameters_json_schema.get("properties", {}))
    return f"def {tool.name}({arguments}): {tool.description or ''}"
