"""CodeAgent: what an agent is made of, its sandbox, and how it is kept and shared. The loop is in ``loop``."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safeexec import DEFAULT_IMPORTS, Executor, Limits, Policy, PolicyError, Session, ToolError, whole
from safeexec_agent import prompts
from safeexec_agent.bridge import Delegate, SandboxTool, Slot, host_function
from safeexec_agent.errors import AgentError
from safeexec_agent.loop import Loop, RunResult
from safeexec_agent.memory import ActionStep, AgentMemory, SystemPromptStep, dumps
from safeexec_agent.models import ChatMessage
from safeexec_agent.parsing import tags_of
from safeexec_agent.toolbox import FinalAnswerTool
from safeexec_agent.tools import as_tool

__all__ = ["CodeAgent", "RunResult"]

DEFAULT_LIMITS = Limits(time=30.0, tool_time=60.0, wall=None)


class CodeAgent(Loop):
    """An agent whose actions are Python. `sandbox` is a name, to which `sandbox_options` go, or an Executor; tools and models run here, the model's
    code only there.

    The names of the arguments are smolagents'. `before_step` sees each :class:`ActionStep` when its code is about to run; returning False or a text
    keeps it from running and tells the model so. `final_answer_checks` get the answer, the memory and the agent, as many as they take; one that
    returns False or raises sends the model back to work. `helpers` are modules, or paths of ``.py`` files, that the model's code can import.
    `context_tokens` bounds the conversation, `token_budget` what a whole run may use. `prompt_templates` replaces some of "system_prompt", "task", "plan",
    "final_answer" and "managed_agent".

    The default sandbox allows :data:`safeexec.DEFAULT_IMPORTS` and `additional_authorized_imports`; a `policy` replaces limits and everything else,
    and its own imports, if any, take the place of the default's. Raises ToolError, PolicyError, ValueError for what is malformed.
    """

    def __init__(
        self,
        tools: Sequence[Any],
        model: Any,
        *,
        sandbox: str | Executor = "wasm",
        sandbox_options: Mapping[str, Any] | None = None,
        policy: Policy | None = None,
        additional_authorized_imports: Sequence[str] = (),
        max_steps: int = 20,
        verbosity_level: int = 1,
        instructions: str | None = None,
        planning_interval: int | None = None,
        managed_agents: Sequence[Any] = (),
        step_callbacks: Sequence[Callable[..., Any]] | Mapping[type, Any] = (),
        before_step: Callable[[ActionStep], Any] | None = None,
        final_answer_checks: Sequence[Callable[..., Any]] = (),
        name: str | None = None,
        description: str | None = None,
        stream_outputs: bool = False,
        use_structured_outputs: bool = False,
        code_block_tags: str | tuple[str, str] | None = None,
        max_print_outputs_length: int = 20_000,
        helpers: Sequence[Any] = (),
        prompt_templates: Mapping[str, str] | None = None,
        context_tokens: int | None = 100_000,
        token_budget: int | None = None,
    ) -> None:
        if name is not None and not name.isidentifier():
            raise ValueError(f"name {name!r} must be one that code can call, such as 'web_agent'")
        if not callable(getattr(model, "generate", None)) and not callable(model):
            raise ValueError(f"model must be a model, such as OpenAIModel('gpt-4o-mini'), not {model!r:.100}")
        if policy is not None and not isinstance(policy, Policy):
            raise PolicyError(f"policy must be a safeexec.Policy, not {type(policy).__name__}")
        if callable(tools) or not isinstance(tools, Iterable):
            raise ToolError(f"tools must be a list of tools, not {tools!r:.100}")
        for what, given in (("step_callbacks", step_callbacks), ("final_answer_checks", final_answer_checks)):
            if callable(given):
                raise ValueError(f"{what} must be a list of functions, not one")
        self.name, self.description = name, description
        self.model, self.instructions, self.max_steps = model, instructions, max_steps
        self.tools = _named([as_tool(item) for item in tools])
        self.tools.setdefault("final_answer", FinalAnswerTool())
        for agent in managed_agents:
            if not getattr(agent, "name", None) or not getattr(agent, "description", None):
                raise ValueError(
                    "a managed agent needs name and description: the manager calls it by the one and reads the other"
                )
        self.managed_agents = _named(list(managed_agents), self.tools)
        self.authorized_imports = _imports(policy, additional_authorized_imports)
        self.sandbox, self._options = sandbox, dict(sandbox_options or {})
        base = Policy(limits=DEFAULT_LIMITS) if policy is None else policy
        self.policy = base.replace(imports=self.authorized_imports)
        self.planning_interval, self.before_step = planning_interval, before_step
        self.step_callbacks, self.final_answer_checks = step_callbacks, list(final_answer_checks)
        self.stream_outputs, self.use_structured_outputs = stream_outputs, use_structured_outputs
        self.tags = tags_of(code_block_tags)
        self.max_print_outputs_length = max_print_outputs_length
        self.helpers = dict(map(_helper, helpers))
        self.prompt_templates = prompts.chosen(prompt_templates or {})
        self.context_tokens, self.token_budget = context_tokens, token_budget
        self.verbosity_level = verbosity_level
        self.observers: list[Callable[..., Any]] = []
        """Called with a name and keywords as a run goes on: for traces. What one raises ends the run."""
        self.state: dict[str, Any] = {}
        self.memory = AgentMemory(SystemPromptStep(self.system_prompt))
        self._executor: Executor | None = None
        self._session: Session | None = None
        self._slot = Slot()
        self._lock = threading.Lock()
        self._interrupted = threading.Event()
        if verbosity_level > 0:
            from safeexec_agent.trace import LiveTrace

            self.observers.append(LiveTrace(verbosity_level))

    # -- what the model is told ----------------------------------------------------------------------------------------------

    @property
    def system_prompt(self) -> str:
        """The first message, of tools, imports and instructions."""
        text = prompts.fill(
            self.prompt_templates["system_prompt"],
            code_block_opening_tag=self.tags[0], code_block_closing_tag=self.tags[1], tools=self._tools_text(),
            managed_agents=prompts.team(self.managed_agents.values()), authorized_imports=", ".join((*self.authorized_imports, *self.helpers)),
            instructions=self.instructions or "", custom_instructions=self.instructions or "",
        )  # fmt: skip
        return text.rstrip() + (prompts.STRUCTURED if self.use_structured_outputs else "")

    def _tools_text(self) -> str:
        return "\n\n".join(
            prompts.signature(t.name, t.inputs, t.output_type, t.description) for t in self.tools.values()
        )

    def _more_imports(self) -> list[str]:
        return [
            *(n for n in self.authorized_imports if n not in DEFAULT_IMPORTS and not n.endswith(".*")),
            *self.helpers,
        ]

    def write_memory_to_messages(self) -> list[ChatMessage]:
        """The conversation so far, within the budget of tokens."""
        return self.memory.to_messages(self.context_tokens)

    # -- the sandbox ---------------------------------------------------------------------------------------------------------

    @property
    def executor(self) -> Executor:
        """The sandbox's executor; made on first use."""
        if isinstance(self.sandbox, Executor):
            return self.sandbox
        if self._executor is None:
            self._executor = Executor(self.sandbox, policy=self.policy, **self._options)
        return self._executor

    @property
    def session(self) -> Session:
        """The session in which the code runs: its ``files`` and ``variables`` are there after a run too, until the next one or ``close()``."""
        if self._session is None or self._session.closed:
            self._session = self._start()
        return self._session

    def _functions(self) -> dict[str, Any]:
        functions = {
            t.name: host_function(t, lambda: self._slot) for t in self.tools.values() if not isinstance(t, SandboxTool)
        }
        functions.update({a.name: host_function(Delegate(a), lambda: self._slot) for a in self.managed_agents.values()})
        return functions

    def _start(self) -> Session:
        session = self.executor.session(self._functions(), self.state, policy=self.policy)
        try:
            for name, source in self.helpers.items():
                session.add_module(name, source)
            for item in self.tools.values():
                if isinstance(item, SandboxTool):
                    session.add_module(f"tool_{item.name}", item.module())
                    self._put_back(session, [item.name])
        except BaseException:
            session.close()
            raise
        return session

    def _put_back(self, session: Session, names: Sequence[str]) -> None:
        functions = self._functions()
        session.add_tools({name: functions[name] for name in names if name in functions})
        for name in names:
            if name not in functions:
                session.run(f"from tool_{name} import {name}").raise_for_error()

    def branch(self) -> CodeAgent:
        """Another agent that has come as far: the same memory, and a session with the same live state. Each goes its own way from here.

        They share the sandbox, which this one's ``close()`` ends, and managed agents. Raises NotSupported where the sandbox cannot fork.
        """
        from safeexec_agent import travel

        return travel.branch(self)

    def close(self) -> None:
        """End the session and the sandbox, and those of managed agents. Running again starts anew."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.close()
        for agent in self.managed_agents.values():
            if hasattr(agent, "close"):
                agent.close()

    def __enter__(self) -> CodeAgent:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def interrupt(self) -> None:
        """Stop the run, and those of managed agents: it raises AgentInterrupted. From any thread."""
        if self._lock.locked():
            self._interrupted.set()
        session = self._session
        if session is not None:
            session.interrupt()
        for agent in self.managed_agents.values():
            if hasattr(agent, "interrupt"):
                agent.interrupt()

    # -- looking back --------------------------------------------------------------------------------------------------------

    def visualize(self, console: Any = None) -> None:
        """Print imports, tools with their arguments, and managed agents, as a tree."""
        from safeexec_agent.trace import visualize

        visualize(self, console)

    def replay(self, detailed: bool = False, console: Any = None) -> None:
        """Print what the memory holds; `detailed` with the messages the model got."""
        from safeexec_agent.trace import replay

        replay(self, detailed, console)

    def save(self, path: str | Path) -> None:
        """The memory as JSON. A file is there whole or not at all, and what it held stays until then. Raises OSError."""
        whole.save(path, dumps(self.memory.to_dict()).encode("ascii"))

    def load(self, path: str | Path) -> None:
        """Take over a saved memory; ``run(…, reset=False)`` goes on from it. Variables are not in it. Raises AgentError, OSError."""
        import json

        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise AgentError(f"{path} is not a saved run: {error}") from error
        self.memory = AgentMemory.from_dict(data)

    # -- sharing -------------------------------------------------------------------------------------------------------------

    def save_to_folder(self, folder: str | Path) -> None:
        """Write prompts, imports and the tools' sources, in the form smolagents publishes. Raises ToolError for a tool without a source of its own."""
        from safeexec_agent import sharing

        sharing.save(self, Path(folder))

    @classmethod
    def from_folder(cls, folder: str | Path, *, trust_remote_code: bool = False, **changes: Any) -> CodeAgent:
        """An agent from such a folder. Its tools' code runs in the sandbox, never here, unless `trust_remote_code`. `changes` are arguments.

        Raises AgentError for what is malformed.
        """
        from safeexec_agent import sharing

        made: CodeAgent = sharing.load(cls, Path(folder), trust_remote_code, changes)
        return made

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        commit_message: str = "Upload agent",
    ) -> str:
        """Upload to a Space of the Hugging Face Hub, with an ``app.py``; returns its address."""
        from safeexec_agent import hub

        return hub.push(self, repo_id, private, token, commit_message)

    @classmethod
    def from_hub(
        cls,
        repo_id: str,
        *,
        trust_remote_code: bool = False,
        token: str | None = None,
        revision: str | None = None,
        **changes: Any,
    ) -> CodeAgent:
        """An agent from a Space, as :meth:`from_folder`."""
        from safeexec_agent import hub, sharing

        folder = hub.download(repo_id, token, revision)
        # The cache's files are links from <repository>/snapshots/<revision> to <repository>/blobs.
        made: CodeAgent = sharing.load(cls, folder, trust_remote_code, changes, folder.parents[1])
        return made


def _named(items: list[Any], taken: Mapping[str, Any] | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for item in items:
        if item.name in found or item.name in (taken or ()):
            raise ToolError(f"two tools or agents are called {item.name!r}")
        found[item.name] = item
    return found


def _imports(policy: Policy | None, additional: Sequence[str]) -> tuple[str, ...]:
    if isinstance(additional, str):
        raise ValueError("additional_authorized_imports must be a list of names, not one text")
    base = DEFAULT_IMPORTS if policy is None or policy.imports is None else tuple(policy.imports)
    more: list[str] = []
    for name in additional:
        if name not in base:  # a package comes with what is below it
            more += [name] if name == "*" or name.endswith(".*") else [name, f"{name}.*"]
    return tuple(dict.fromkeys((*base, *more)))


def _helper(item: Any) -> tuple[str, str]:
    path = Path(getattr(item, "__file__", None) or item)
    if path.name == "__init__.py" or path.suffix != ".py":
        raise ValueError(f"helper {item!r}: pass a module of one file, or the path of a .py file")
    source = path.read_text(encoding="utf-8")
    return path.stem, _without_main(path.name, source)


def _without_main(name: str, source: str) -> str:
    """`source` without what it does only when it is run as a program: in the sandbox it may well be called __main__."""
    import ast

    lines = source.split("\n")  # as the compiler counts them: str.splitlines counts form feeds too
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ValueError(f"helper {name!r} is not Python: {error}") from error
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("__name__ == '__main__'", "'__main__' == __name__"):
            for number in range(node.lineno - 1, node.end_lineno or node.lineno):
                lines[number] = ""
    return "\n".join(lines)
