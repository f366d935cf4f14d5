"""Tools: what becomes of hints and docstrings, what is missing, and how calls cross."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest

from safeexec import ToolError
from safeexec_agent import CodeAgent, FinalAnswerTool, Tool, ToolCollection, tool
from safeexec_agent.prompts import fill, signature
from tests.agent.conftest import SANDBOXES, Make, code


class Colour(enum.Enum):
    RED = "red"


@tool
def everything(
    a: str,
    b: int,
    c: float,
    d: bool,
    e: list[int],
    f: dict[str, int],
    g: Any,
    h: Literal["x", "y"] = "x",
    i: int | None = None,
    j: Annotated[str, "n"] = "",
) -> dict[str, Any]:
    """Does everything.

    It takes two paragraphs.

    Args:
        a (str): The first.
        b: Two
            lines.
        c: 3
        d: 4
        e: 5
        f: 6
        g: 7: with a colon
        h: 8
        i: 9
        j: 10

    Returns:
        All of it.
    """
    return {"a": a, "h": h}


def test_schema_of_a_function() -> None:
    assert everything.name == "everything" and everything.output_type == "object"
    assert everything.description == "Does everything.\n\nIt takes two paragraphs."
    assert [about["type"] for about in everything.inputs.values()] == [
        "string", "integer", "number", "boolean", "array", "object", "any", "string", "integer", "string",
    ]  # fmt: skip
    assert (
        everything.inputs["b"]["description"] == "Two lines."
        and everything.inputs["g"]["description"] == "7: with a colon"
    )
    assert [key for key, about in everything.inputs.items() if about.get("nullable")] == ["h", "i", "j"]
    assert everything.inputs["h"]["enum"] == ["x", "y"]
    shown = signature("f", everything.inputs, "object", 'Says """hi""".')
    compile(shown + "\n", "f", "exec")
    assert "h: Literal['x', 'y'] = None" in shown


def documented(function: Callable[..., Any]) -> Callable[..., Any]:
    function.__doc__ = "Does.\n\nArgs:\n    a: The a.\n"
    return function


def no_hint(a) -> str: ...  # type: ignore[no-untyped-def, empty-body]
def no_result(a: str): ...  # type: ignore[no-untyped-def]
def no_doc(a: str) -> str: ...  # type: ignore[empty-body]
def no_argument(a: str, b: str) -> str: ...  # type: ignore[empty-body]
def stars(*a: str) -> str: ...  # type: ignore[empty-body]
def strange(a: "Nowhere") -> str: ...  # type: ignore[name-defined, empty-body]  # noqa: F821, UP037


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (documented(no_hint), "parameter 'a' has no type hint"),
        (documented(no_result), "the result has no type hint"),
        (no_doc, "the docstring is missing"),
        (documented(no_argument), "does not describe 'b'"),
        (documented(stars), "cannot be described"),
        (documented(strange), "cannot be read"),
        (lambda a: a, "needs a name"),
    ],
)
def test_what_is_missing_is_said(function: Any, message: str) -> None:
    with pytest.raises(ToolError, match=message):
        tool(function)


def test_a_class_is_checked_when_it_is_made() -> None:
    def made(**fields: Any) -> Any:
        base = {
            "name": "t", "description": "d", "inputs": {"x": {"type": "string", "description": "x"}}, "output_type": "string",
            "forward": lambda self, x: x,
        }  # fmt: skip
        return type("T", (Tool,), {k: v for k, v in {**base, **fields}.items() if v is not None})()

    assert made()("a") == "a"
    for fields, message in (
        ({"name": None}, "'name' is missing"),
        ({"description": None}, "'description' is missing"),
        ({"name": "a b"}, "code can call"),
        ({"inputs": {"x": "string"}}, "'type' and 'description'"),
        ({"inputs": {"x": {"type": "text", "description": ""}}}, "none of string"),
        ({"forward": lambda self, y: y}, "must be the same"),
    ):
        with pytest.raises(ToolError, match=message):
            made(**fields)
    with pytest.raises(ToolError, match="no tool"):
        ToolCollection([5])


class Counter(Tool):
    name = "count"
    description = "Counts."
    inputs = {"step": {"type": "integer", "description": "by", "nullable": True}}  # noqa: RUF012
    output_type = "integer"
    secret = "sk-canary"

    def __init__(self) -> None:
        super().__init__()
        self.set_up = 0
        self.value = 0

    def setup(self) -> None:
        self.set_up += 1

    def forward(self, step: int | None = None) -> int:
        self.value += 1 if step is None else step
        return self.value


@pytest.mark.parametrize("on", SANDBOXES)
def test_calls_run_on_the_host_and_state_stays_there(make: Make, on: str) -> None:
    counter = Counter()
    agent = make(
        [code("count()\ncount(step=5)\nfinal_answer((count(2), everything('q', 1, 2, True, [1], {}, None, h='y')))")],
        [counter, everything],
        on=on,
    )
    assert agent.run("Count.") == (8, {"a": "q", "h": "y"})
    assert (counter.set_up, counter.value) == (1, 8)
    assert [c["name"] for c in agent.memory.actions[0].tool_calls] == [
        "count",
        "count",
        "count",
        "everything",
        "final_answer",
    ]


def test_arguments_are_checked_by_the_hints(make: Make) -> None:
    agent = make([code("everything(1, 1, 2, True, ['x'], {}, None)"), code("everything('a', 1, 2, True, [1], {}, None, h='z')"), code("count(step='many')"), code("final_answer(0)")], [everything, Counter()])  # fmt: skip
    agent.run("Call.")
    messages = [step.observations or "" for step in agent.memory.actions]
    assert "argument 'a'" in messages[0] and "'x' or 'y'" in messages[1] and "argument 'step'" in messages[2]


def test_a_final_answer_tool_of_ones_own(make: Make) -> None:
    class Rounded(FinalAnswerTool):
        def forward(self, answer: Any) -> Any:
            if not isinstance(answer, float):
                raise ValueError("a number with a fraction, please")
            return round(answer, 1)

    agent = make([code("final_answer('x')"), code("final_answer(3.14159)")], [Rounded()])
    assert agent.run("Pi.") == 3.1
    assert "a number with a fraction" in (agent.memory.actions[0].observations or "")


class Shaped:
    """A tool of another library: name, description, inputs, and a call."""

    name, description, output_type = "shout", "Shouts.", "string"
    inputs = {"text": {"type": "string", "description": "what"}}  # noqa: RUF012

    def __call__(self, *args: Any, sanitize_inputs_outputs: bool = False, **kwargs: Any) -> str:
        return str(kwargs["text"]).upper()


def test_tools_of_smolagents_shape_and_plain_functions(make: Make) -> None:
    def half(n: int) -> float:
        """Halves.

        Args:
            n: What to halve.
        """
        return n / 2

    agent = make([code("final_answer(shout('a') + str(half(3)))")], [*ToolCollection([Shaped()]), half])
    assert agent.run("Shout.") == "A1.5"


def test_templates_are_filled_once_and_nothing_is_evaluated() -> None:
    assert fill("{{ a }} {{b}} {{c}}", a="{{b}}", b="{% x %}") == "{{b}} {% x %} {{c}}"


def test_system_prompt_lists_tools_and_agents(make: Make) -> None:
    worker = make([], name="web_agent", description="Searches.")
    agent = CodeAgent([Counter()], make([]).model, managed_agents=[worker], instructions="Be brief.", verbosity_level=0)
    text = agent.system_prompt
    assert "def count(step: integer = None) -> integer:" in text and "def web_agent(task: string" in text
    assert text.endswith("Be brief.") and "{{" not in text and "sk-canary" not in text
