"""What happened in a run: steps, as plain data, and the messages they become."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from safeexec import Display
from safeexec_agent.errors import AgentError
from safeexec_agent.models import ChatMessage, TokenUsage, usage_dict
from safeexec_agent.values import from_plain, to_plain

FORMAT = 1


@dataclass
class Timing:
    """Seconds since the epoch, and their difference."""

    start_time: float
    end_time: float | None = None

    @property
    def duration(self) -> float:
        """Seconds; 0 while it runs."""
        return 0.0 if self.end_time is None else self.end_time - self.start_time


@dataclass
class StepError:
    """Why a step failed: the guest's exception, or one of "ParseError", "Refused", "FinalAnswerCheck", "ModelError", "MaxSteps"."""

    type: str
    message: str
    kind: str = "agent"
    line: int | None = None

    def __str__(self) -> str:
        return f"{self.type}: {self.message}"


@dataclass
class Step:
    """One entry of the memory."""

    kind: ClassVar[str] = ""

    def to_messages(self) -> list[ChatMessage]:
        """What the model sees of it."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        data: dict[str, Any] = {"kind": self.kind}
        for key, value in vars(self).items():
            if key.startswith(("_", "model_input")):
                continue
            data[key] = _dump(value)
        return data


@dataclass
class SystemPromptStep(Step):
    """The first message."""

    kind = "system"
    system_prompt: str

    def to_messages(self) -> list[ChatMessage]:
        return [ChatMessage("system", self.system_prompt)]


@dataclass
class TaskStep(Step):
    """What the user asked for. `task_images` are PNG, JPEG, GIF or WebP files as bytes."""

    kind = "task"
    task: str
    task_images: list[bytes] = field(default_factory=list)
    prompt: str = ""

    def to_messages(self) -> list[ChatMessage]:
        text = self.prompt or f"New task:\n{self.task}"
        if not self.task_images:
            return [ChatMessage("user", text)]
        return [ChatMessage("user", [{"type": "text", "text": text}, *map(image_part, self.task_images)])]


@dataclass
class PlanningStep(Step):
    """A plan the model made."""

    kind = "planning"
    plan: str
    timing: Timing
    token_usage: TokenUsage | None = None

    def to_messages(self) -> list[ChatMessage]:
        return [ChatMessage("assistant", self.plan), ChatMessage("user", "Now carry the plan out, one step at a time.")]


@dataclass
class ActionStep(Step):
    """One round: what the model wrote, what ran, what came of it. `duration` in `usage` is the sandbox's; `timing` is the whole step's."""

    kind = "action"
    step_number: int
    timing: Timing
    model_input_messages: list[ChatMessage] = field(default_factory=list)
    model_output: str | None = None
    token_usage: TokenUsage | None = None
    code_action: str | None = None
    observations: str | None = None
    observations_images: list[bytes] = field(default_factory=list)
    displays: tuple[Display, ...] = ()
    files: list[str] = field(default_factory=list)
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    error: StepError | None = None
    action_output: Any = None
    is_final_answer: bool = False

    def to_messages(self) -> list[ChatMessage]:
        messages = [] if self.model_output is None else [ChatMessage("assistant", self.model_output)]
        if self.observations is not None:
            text = f"Observation:\n{self.observations}"
            parts = [{"type": "text", "text": text}, *map(image_part, self.observations_images)]
            messages.append(ChatMessage("user", parts if self.observations_images else text))
        return messages


@dataclass
class FinalAnswerStep(Step):
    """The answer."""

    kind = "final"
    output: Any


_KINDS: dict[str, type[Step]] = {
    kind.kind: kind for kind in (SystemPromptStep, TaskStep, PlanningStep, ActionStep, FinalAnswerStep)
}


@dataclass
class AgentMemory:
    """The system prompt, and the steps after it."""

    system_prompt: SystemPromptStep
    steps: list[Step] = field(default_factory=list)

    def reset(self) -> None:
        """Forget all but the system prompt."""
        self.steps = []

    @property
    def actions(self) -> list[ActionStep]:
        """The action steps."""
        return [step for step in self.steps if isinstance(step, ActionStep)]

    def return_full_code(self) -> str:
        """All code that was run."""
        return "\n\n".join(step.code_action for step in self.actions if step.code_action)

    def token_usage(self) -> TokenUsage:
        """Of all steps."""
        return sum((getattr(step, "token_usage", None) or TokenUsage() for step in self.steps), TokenUsage())

    def to_messages(self, budget: int | None = None) -> list[ChatMessage]:
        """The conversation, in at most about `budget` tokens: old steps are shortened, then left out; the task and the last step stay."""
        groups = [(step, step.to_messages()) for step in (self.system_prompt, *self.steps)]
        if budget is not None:
            groups = _trimmed(groups, budget)
        return [message for _, messages in groups for message in messages]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "format": FORMAT,
            "system_prompt": self.system_prompt.system_prompt,
            "steps": [s.to_dict() for s in self.steps],
        }

    @classmethod
    def from_dict(cls, data: Any) -> AgentMemory:
        """What :meth:`to_dict` made. Raises AgentError for anything else: such a file may come from anywhere."""
        try:
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']!r}; this version reads {FORMAT}")
            memory = cls(SystemPromptStep(_of(str, data["system_prompt"])))
            memory.steps = [_load(step) for step in _of(list, data["steps"])]
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise AgentError(f"not a saved run: {type(error).__name__}: {error}") from error
        return memory


Groups = list[tuple[Step, list[ChatMessage]]]


def tokens(messages: Sequence[ChatMessage]) -> int:
    """About how many tokens: a quarter of the characters, a thousand for a picture."""
    size = 0
    for message in messages:
        if isinstance(message.content, str):
            size += len(message.content) // 4 + 4
        else:
            size += (
                sum(len(str(p.get("text", ""))) // 4 if p.get("type") == "text" else 1000 for p in message.content) + 4
            )
    return size


def _trimmed(groups: Groups, budget: int) -> Groups:
    total = sum(tokens(messages) for _, messages in groups)
    if total <= budget:
        return groups
    last = max((i for i, (step, _) in enumerate(groups) if isinstance(step, ActionStep | PlanningStep)), default=-1)
    changes: list[Callable[[list[ChatMessage]], list[ChatMessage]]] = [_shortened, lambda _: []]
    for change in changes:
        for index, (step, messages) in enumerate(groups):
            if total <= budget:
                break
            if index < last and isinstance(step, ActionStep | PlanningStep) and messages:
                now = change(messages)
                total -= tokens(messages) - tokens(now)
                groups[index] = (step, now)
    gone = sum(1 for step, messages in groups if isinstance(step, ActionStep) and not messages)
    if gone:
        note = ChatMessage("user", f"({gone} earlier steps are left out here; their variables are still there.)")
        at = next(i for i, (step, messages) in enumerate(groups) if isinstance(step, ActionStep) and not messages)
        groups[at] = (groups[at][0], [note])
    if total > budget and last >= 0:  # one observation larger than everything
        step, messages = groups[last]
        groups[last] = (step, _shortened(messages, max(2000, 2 * budget)))
    return groups


def _shortened(messages: list[ChatMessage], length: int = 400) -> list[ChatMessage]:
    return [ChatMessage(m.role, cut(m.text, length)) for m in messages]


def cut(text: str, length: int) -> str:
    """`text` in at most about `length` characters, with the middle left out."""
    if len(text) <= length:
        return text
    half = length // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters are left out …]\n{text[-half:]}"


def image_part(data: bytes) -> dict[str, Any]:
    """A picture as a part of a message."""
    kinds = {b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}
    kind = next((name for magic, name in kinds.items() if isinstance(data, bytes) and data.startswith(magic)), None)
    if kind is None:
        raise AgentError("a picture must be a PNG, JPEG, GIF or WebP file, as bytes")
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{base64.b64encode(data).decode()}"}}


# -- plain data -------------------------------------------------------------------------------------------------------------


def _dump(value: Any) -> Any:
    if isinstance(value, TokenUsage):
        return usage_dict(value)
    if isinstance(value, Timing | StepError):
        return asdict(value)
    if isinstance(value, tuple) and all(isinstance(v, Display) for v in value):
        return [to_plain(dict(display.data)) for display in value]
    return to_plain(value)


def _of(kind: type, value: Any) -> Any:
    if not isinstance(value, kind):
        raise ValueError(f"{value!r:.80} is not {kind.__name__}")
    return value


_FIELDS: dict[str, Callable[[Any], Any]] = {
    "timing": lambda v: Timing(_of((int, float), v["start_time"]), v["end_time"]),  # type: ignore[arg-type]
    "token_usage": lambda v: v and TokenUsage(_of(int, v["input_tokens"]), _of(int, v["output_tokens"])),
    "error": lambda v: v and StepError(_of(str, v["type"]), _of(str, v["message"]), _of(str, v["kind"]), v.get("line")),
    "displays": lambda v: tuple(Display(from_plain(d)) for d in _of(list, v)),
}


def _load(data: Any) -> Step:
    kind = _KINDS[data["kind"]]
    values = {k: _FIELDS.get(k, from_plain)(v) for k, v in data.items() if k != "kind"}
    return kind(**values)


def dumps(data: Any) -> str:
    """JSON in ASCII, so that no text of a guest can be more than text."""
    return json.dumps(data, indent=1)
