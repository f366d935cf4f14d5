"""What people see of a run. All text of models, tools and sandboxes is neutralised before it is printed, and never read as markup."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.console import Console, Group
from rich.panel import Panel
from rich.rule import Rule
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from safeexec.cli import console as own
from safeexec.text import neutralise
from safeexec_agent.memory import ActionStep, PlanningStep, TaskStep, cut
from safeexec_agent.values import describe


def plain(value: Any, style: str = "", length: int = 20_000) -> Text:
    """Hostile text as rich text."""
    text = value if isinstance(value, str) else describe(value, length)
    return Text(neutralise(cut(text, length)), style=style)


class LiveTrace:
    """Prints a run as it goes on. 1: steps, code, output; 2: also what the model wrote around the code."""

    def __init__(self, level: int = 1, console: Console | None = None) -> None:
        self.level = level
        self.console = console or own.Console(highlight=False)
        self._open = False
        self._said = ""

    def __call__(self, event: str, **about: Any) -> None:
        show = getattr(self, f"_{event}", None)
        if show is not None:
            show(**about)

    def line(self, text: Text) -> None:
        """Text that is not broken into lines by us: the terminal does that, and a pipe gets it whole."""
        self.print(text, soft_wrap=True)

    def print(self, *items: Any, **options: Any) -> None:
        """Print, on a line of its own."""
        if self._open:
            self.console.print()
            self._open = False
        self.console.print(*items, **options)

    def _run_start(self, agent: Any, task: str) -> None:
        name = f" - {agent.name}" if agent.name else ""
        title = neutralise(f"New run{name}")
        foot = neutralise(
            f"{type(agent.model).__name__} - {getattr(agent.model, 'model_id', '')} in {agent.executor.sandbox}"
        )
        self.print(Panel(plain(task.strip(), "bold"), title=Text(title), subtitle=Text(foot), title_align="left", subtitle_align="left",
                         border_style="yellow"))  # fmt: skip

    def _step_start(self, agent: Any, step: ActionStep) -> None:
        name = f" ({agent.name})" if agent.name else ""
        self.print(Rule(Text(f"Step {step.step_number}{name}", "bold"), characters="━", style="yellow"))

    def _delta(self, agent: Any, text: str) -> None:
        self.console.print(Text(neutralise(text), "dim"), end="")
        self._open = not text.endswith("\n")

    def _plan(self, agent: Any, step: PlanningStep) -> None:
        self.print(Panel(plain(step.plan), title="Plan", title_align="left", border_style="blue"))

    def _code(self, agent: Any, step: ActionStep) -> None:
        if self.level > 1 and not agent.stream_outputs:
            self.print(Text("Output message of the model:", "bold"))
            self.print(plain(step.model_output or "", "dim"))
        self.print(Rule(Text("Executing parsed code:", "bold"), align="left", style="dim"))
        source = step.code_action or ""
        if self.console.is_terminal:
            self.print(code(source))
        else:
            self.line(plain(source, length=len(source)))
        # rich draws a rule without a title in this character whatever the encoding has.
        line = "─" if self.console.encoding.startswith("utf") else "-"
        self.print(Rule(characters=line, style="dim"))

    def _output(self, agent: Any, text: str) -> None:
        self.console.print(plain(str(text)), end="", soft_wrap=True)
        self._open = not text.endswith("\n")

    def _step_end(self, agent: Any, step: ActionStep) -> None:
        if step.error is not None:
            self._said = str(step.error)
            self.line(plain(self._said, "bold red", 4000))
        elif step.is_final_answer:
            self.line(Text("Final answer: ", "bold green") + plain(step.action_output, "bold green"))
        elif step.action_output is not None:
            self.line(Text("Out: ", "bold") + plain(step.action_output, length=4000))
        for number, display in enumerate(step.displays, 1):
            self.line(plain(f"display {number}: {', '.join(display.data)}", "cyan"))
        if step.files:
            self.line(plain(f"files: {', '.join(step.files)}", "cyan"))
        used = step.token_usage
        tokens = f" | Input tokens: {used.input_tokens:,} | Output tokens: {used.output_tokens:,}" if used else ""
        self.print(Text(f"[Step {step.step_number}: Duration {step.timing.duration:.2f} seconds{tokens}]", "dim"))

    def _final(self, agent: Any, output: Any, state: str, token_usage: Any, duration: float) -> None:
        if state != "success":
            self.print(
                Text(f"Ended: {state.replace('_', ' ')}. ", "bold yellow")
                + plain(output if output is not None else "no answer")
            )
        if agent.name is None or self.level > 1:
            self.print(Text(cost(token_usage, duration), "dim"))

    def _failed(self, agent: Any, error: Exception) -> None:
        text = f"{type(error).__name__}: {error}"
        if text != self._said:  # the step it ended has said it already
            self.line(plain(text, "bold red", 4000))


def cost(used: Any, duration: float) -> str:
    """One line: what a run took."""
    return f"Total: {used.input_tokens:,} tokens in, {used.output_tokens:,} tokens out, {duration:.2f} seconds"


def code(source: str) -> Syntax:
    """Highlighted Python; whole, since somebody may be asked whether it may run."""
    return Syntax(neutralise(source), "python", theme="ansi_dark", word_wrap=True, background_color="default")


def visualize(agent: Any, console: Console | None = None) -> None:
    """See CodeAgent.visualize."""
    (console or own.Console(highlight=False)).print(tree(agent))


def tree(agent: Any, label: str = "") -> Tree:
    """The agent, its tools and its team."""
    head = f"{label}{type(agent).__name__} | {getattr(agent.model, 'model_id', '')} | {agent.sandbox if isinstance(agent.sandbox, str) else agent.sandbox.sandbox}"
    root = Tree(plain(head, "bold"))
    more = [name for name in agent.authorized_imports if name not in _defaults() and not name.endswith(".*")]
    root.add(
        plain(
            f"✅ Authorized imports: {more}{' and the default ones' if _defaults() <= set(agent.authorized_imports) else ''}"
        )
    )
    if agent.description:
        root.add(plain(f"📝 Description: {agent.description}"))
    table = Table("Name", "Description", "Arguments", box=box.ROUNDED, show_lines=True)
    for item in agent.tools.values():
        arguments = [
            f"{key} (`{about['type']}`{', optional' if about.get('nullable') else ''}): {about['description']}"
            for key, about in item.inputs.items()
        ]
        table.add_row(
            plain(item.name), plain(item.description.strip(), length=500), plain("\n".join(arguments), length=1000)
        )
    root.add(Group("🛠️ Tools:", table))
    if agent.managed_agents:
        team = root.add("🤖 Managed agents:")
        for name, member in agent.managed_agents.items():
            team.add(tree(member, f"{name} | "))
    return root


def _defaults() -> set[str]:
    from safeexec import DEFAULT_IMPORTS

    return set(DEFAULT_IMPORTS)


def replay(agent: Any, detailed: bool = False, console: Console | None = None) -> None:
    """See CodeAgent.replay."""
    trace = LiveTrace(2, console)
    if detailed:
        trace.print(
            Panel(plain(agent.memory.system_prompt.system_prompt, "dim"), title="System prompt", title_align="left")
        )
    for step in agent.memory.steps:
        if isinstance(step, TaskStep):
            trace.print(Panel(plain(step.task, "bold"), title="Task", title_align="left", border_style="yellow"))
        elif isinstance(step, PlanningStep):
            trace("plan", agent=agent, step=step)
        elif isinstance(step, ActionStep):
            trace("step_start", agent=agent, step=step)
            if detailed:
                for message in step.model_input_messages:
                    trace.print(plain(f"{message.role}: {message.text}", "dim"))
            if step.code_action is not None:
                trace("code", agent=agent, step=step)
            trace.print(plain(step.observations or ""))
            if step.is_final_answer:
                trace("step_end", agent=agent, step=step)
