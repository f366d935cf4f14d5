"""Tools: functions of the host that the model's code may call. They run here; into the sandbox go name, description and parameters' names."""

from __future__ import annotations

import functools
import inspect
import re
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal, Union, get_args, get_origin

from safeexec import ToolError

TYPES = ("string", "boolean", "integer", "number", "image", "audio", "array", "object", "any", "null")
_NAMES: dict[Any, str] = {
    str: "string", bool: "boolean", int: "integer", float: "number", list: "array", tuple: "array", set: "array", dict: "object",
    bytes: "string", Any: "any", object: "any", type(None): "null",
}  # fmt: skip
_ARGS = re.compile(r"^[ \t]*(?:Args|Arguments|Parameters):[ \t]*$", re.MULTILINE)
_END = re.compile(r"^[ \t]*(?:Returns?|Raises|Yields|Examples?|Notes?):[ \t]*", re.MULTILINE)
_ARG = re.compile(r"^[ \t]*\*{0,2}(\w+)[ \t]*(?:\([^\n)]*\))?[ \t]*:[ \t]*(.*)$")


class Tool:
    """A tool as a class: set `name`, `description`, `inputs` and `output_type`, and write ``forward``.

    `inputs` maps each parameter to ``{"type": …, "description": …}``, with ``"nullable": True`` where it may be left out. `tool_time` bounds one call
    in seconds instead of ``Limits.tool_time``; None there means no bound. Raises ToolError, when made, for what is missing or does not fit together.
    """

    name: str
    description: str
    inputs: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    output_type: str = "any"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.is_initialized = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        made = cls.__init__

        @functools.wraps(made)
        def checked(self: Tool, *args: Any, **kw: Any) -> None:
            made(self, *args, **kw)
            if type(self) is cls:
                check(self)

        cls.__init__ = checked  # type: ignore[method-assign]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the tool does."""
        raise NotImplementedError(f"tool {self.name!r} has no forward()")

    def setup(self) -> None:
        """Called once, before the first call: for what is slow to make."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not getattr(self, "is_initialized", False):
            self.setup()
            self.is_initialized = True
        return self.forward(*args, **kwargs)


class FunctionTool(Tool):
    """What :func:`tool` makes."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.name = function.__name__
        self.description, self.inputs, self.output_type = _schema(function)  # type: ignore[misc]
        self.__wrapped__ = function

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)


def tool(function: Callable[..., Any]) -> FunctionTool:
    """Make a function a tool. Its type hints and its docstring's ``Args:`` become what the model is told.

    Raises ToolError that says what is missing: a hint for a parameter or the result, a description, the description of a parameter.
    """
    return FunctionTool(function)


def as_tool(source: Any) -> Any:
    """A tool object from what users pass: one of ours, one of smolagents' shape as it is, or a plain function."""
    if isinstance(source, Tool):
        return source
    if (
        isinstance(getattr(source, "inputs", None), Mapping)
        and hasattr(source, "description")
        and hasattr(source, "name")
    ):
        check(source)
        return source
    if inspect.isroutine(source):
        return tool(source)
    raise ToolError(f"{source!r:.200} is no tool: pass a Tool, or a function with type hints and a docstring")


def check(item: Any) -> None:
    """Raise ToolError unless `item` has what a tool must have."""
    label = f"tool {getattr(item, 'name', type(item).__name__)!r}"
    for field in ("name", "description", "output_type"):
        if not isinstance(getattr(item, field, None), str) or not getattr(item, field):
            raise ToolError(f"{label}: {field!r} is missing; set it to a text in the class {type(item).__name__}")
    if not item.name.isidentifier():
        raise ToolError(f"{label}: the name must be one that code can call, such as 'web_search'")
    if not isinstance(item.inputs, Mapping):
        raise ToolError(f"{label}: inputs must map names to {{'type': …, 'description': …}}")
    for key, about in item.inputs.items():
        if not isinstance(about, Mapping) or "type" not in about or "description" not in about:
            raise ToolError(f"{label}: inputs[{key!r}] needs 'type' and 'description'")
        kinds = about["type"] if isinstance(about["type"], list | tuple) else [about["type"]]
        if not all(kind in TYPES for kind in kinds):
            raise ToolError(f"{label}: inputs[{key!r}]: type {about['type']!r} is none of {', '.join(TYPES)}")
    if (
        not isinstance(item, Tool)
        or isinstance(item, FunctionTool)
        or getattr(item, "skip_forward_signature_validation", False)
    ):
        return  # others have checked their own by their own rules
    parameters = inspect.signature(item.forward).parameters
    if any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in parameters.values()):
        return
    if set(parameters) != set(item.inputs):
        raise ToolError(
            f"{label}: forward() takes {sorted(parameters)}, inputs describes {sorted(item.inputs)}; they must be the same"
        )


def _schema(function: Callable[..., Any]) -> tuple[str, dict[str, dict[str, Any]], str]:
    name = getattr(function, "__name__", "")
    label = f"tool {name!r}"
    if not name.isidentifier():
        raise ToolError(f"{label}: a tool needs a name; write it as a function with def")
    try:
        hints = typing.get_type_hints(function)
    except NameError as error:
        raise ToolError(f"{label}: a type hint cannot be read: {error}") from None
    text, described = _docstring(inspect.getdoc(function) or "")
    if not text:
        raise ToolError(f"{label}: the docstring is missing; the model reads there what the function is for")
    inputs: dict[str, dict[str, Any]] = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            raise ToolError(f"{label}: *{parameter.name} cannot be described to a model; name the parameters")
        if parameter.name not in hints:
            raise ToolError(
                f"{label}: parameter {parameter.name!r} has no type hint; write for example '{parameter.name}: str'"
            )
        if parameter.name not in described:
            raise ToolError(
                f"{label}: the docstring does not describe {parameter.name!r}; add a line '{parameter.name}: …' below 'Args:'"
            )
        about = {**_type(hints[parameter.name]), "description": described[parameter.name]}
        if parameter.default is not parameter.empty:
            about["nullable"] = True
        inputs[parameter.name] = about
    if "return" not in hints:
        raise ToolError(f"{label}: the result has no type hint; write for example 'def {name}(…) -> str:'")
    kind = _type(hints["return"])["type"]
    return text, inputs, kind if isinstance(kind, str) else "any"


def _type(hint: Any) -> dict[str, Any]:
    origin, args = get_origin(hint), get_args(hint)
    if origin is typing.Annotated:
        return _type(args[0])
    if origin is Literal:
        kinds = {_NAMES.get(type(value), "any") for value in args}
        return {"type": kinds.pop() if len(kinds) == 1 else "any", "enum": list(args)}
    if origin in (Union, types.UnionType):
        rest = [arg for arg in args if arg is not type(None)]
        about = _type(rest[0]) if len(rest) == 1 else {"type": "any"}
        return {**about, "nullable": True} if len(rest) < len(args) else about
    kind = origin or hint
    if isinstance(kind, type):
        if kind.__module__.startswith("PIL."):
            return {"type": "image"}
        for known, name in _NAMES.items():
            if isinstance(known, type) and known is not object and kind is not bool and issubclass(kind, known):
                return {"type": name}
        if issubclass(kind, Mapping):
            return {"type": "object"}
        if issubclass(kind, Iterable):
            return {"type": "array"}
    return {"type": _NAMES.get(kind, "any")}


def _docstring(doc: str) -> tuple[str, dict[str, str]]:
    """What stands before ``Args:``, and the description of each argument, whose further lines are indented deeper."""
    head = _ARGS.search(doc)
    if head is None:
        return _END.split(doc)[0].strip(), {}
    described: dict[str, list[str]] = {}
    indent: int | None = None
    current: list[str] | None = None
    for line in doc[head.end() :].split("\n"):
        if not line.strip():
            continue
        depth = len(line) - len(line.lstrip())
        if _END.match(line) and (indent is None or depth < indent):
            break
        match = _ARG.match(line)
        if match and (indent is None or depth <= indent):
            indent = depth
            current = described[match[1]] = [match[2].strip()]
        elif current is not None:
            current.append(line.strip())
    return doc[: head.start()].strip(), {name: " ".join(filter(None, lines)) for name, lines in described.items()}


class ToolCollection:
    """Several tools; iterating gives them."""

    def __init__(self, tools: Iterable[Any]) -> None:
        self.tools = [as_tool(item) for item in tools]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.tools)

    @classmethod
    def from_mcp(cls, server_parameters: Any, *, trust_remote_code: bool = False, timeout: float = 30.0) -> Any:
        """The tools of an MCP server, while entered: ``with ToolCollection.from_mcp(…) as collection``.

        `server_parameters`: ``mcp.StdioServerParameters`` (the program is started by your word), or ``{"url": …}`` for one over HTTP, with
        ``"transport": "sse"`` for one that speaks server-sent events.
        `trust_remote_code` is accepted for examples written for smolagents and changes nothing: no code of a server runs here.
        """
        from safeexec_agent.mcp_tools import connected

        return connected(cls, server_parameters, timeout)
