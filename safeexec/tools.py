"""Host functions that code in a sandbox may call.

Into the sandbox go a tool's name, its description, and of each parameter the name, kind and whether it has a default. Everything else stays here:
defaults are filled in on the host, arguments are checked before the call, and an exception crosses as type name and message only.
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from safeexec import parameters, wire
from safeexec.errors import ToolError

Tools = Sequence[Any] | Mapping[str, Any]

_EXACT = frozenset((str, int, float, bool, list, dict))
_STARS: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}


class HostTool:
    """A callable of the host with a name, a signature and validators for its parameters.

    Raises ToolError when `source` is not callable, has no usable name, or its signature cannot be read.
    """

    def __init__(self, source: Any, name: str | None = None) -> None:
        inputs = getattr(source, "inputs", None)
        shaped = isinstance(inputs, Mapping) and hasattr(source, "description")
        if not callable(source):
            raise ToolError(
                f"a tool must be callable, or have name, description, inputs and __call__; got {source!r:.200}"
            )
        chosen = name
        if chosen is None:
            chosen = (getattr(source, "name", None) if shaped else None) or getattr(source, "__name__", None)
            chosen = chosen or getattr(source, "name", None)
        if not isinstance(chosen, str) or not chosen.isidentifier() or keyword.iskeyword(chosen) or chosen[:2] == "__":
            raise ToolError(f"tool name {chosen!r} is not a name that code could call; pass tools={{'name': function}}")
        self.name = chosen
        self.call: Callable[..., Any] = source
        self.time_limit: float | None = _time_limit(source, chosen)
        """Seconds of one call instead of ``Limits.tool_time``, from the tool's attribute `tool_time`; inf for None there, None for no such attribute."""
        self._shaped = shaped
        self._parameters = parameters.of_inputs(source) if shaped else parameters.of_callable(source, chosen)
        self.is_async = self._parameters.is_async
        self.description = self._parameters.doc

    def spec(self) -> dict[str, Any]:
        """What the guest is told."""
        shown = []
        for parameter in self._parameters.named.values():
            star = _STARS.get(parameter.kind, "")
            shown.append(star + parameter.name + ("=…" if parameter.default is not parameter.empty else ""))
        return {"name": self.name, "doc": self.description[:20_000], "text": f"{self.name}({', '.join(shown)})"}

    def bind(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any], dict[str, Any]]:
        """Check arguments against the signature: positional and keyword arguments to call with, and all by name for the log.

        Raises TypeError or ValueError with a message the guest's author can act on.
        """
        of = self._parameters
        if of.simple and not self._shaped and not kwargs and of.required <= len(args) <= len(of.order):
            named = dict(zip(of.order, args, strict=False))
            checked = [self._check(key, value) for key, value in named.items()]
            return checked, {}, named
        try:
            bound = of.signature.bind(*args, **kwargs)
            for key in of.positional:
                # Python 3.13 takes one that is named for one of **more, and misses nothing.
                if key not in bound.arguments:
                    raise TypeError(f"missing a required positional-only argument: {key!r}")
        except TypeError as error:
            raise TypeError(f"{self.name}(): {error}; it is {self.spec()['text']}") from None
        named = dict(bound.arguments)
        for key, value in bound.arguments.items():
            kind = of.named[key].kind
            if kind is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[key] = tuple(self._check(key, item) for item in value)
            elif kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[key] = {k: self._check(key, item) for k, item in value.items()}
            else:
                bound.arguments[key] = self._check(key, value)
        if self._shaped:
            return [], dict(bound.arguments), named
        return list(bound.args), dict(bound.kwargs), named

    def _check(self, name: str, value: Any) -> Any:
        of = self._parameters
        if name not in of.wanted:
            return value
        wanted = of.wanted[name]
        if type(value) is wanted and wanted in _EXACT:
            return value
        validator = of.validators.get(name)
        if validator is None:
            from safeexec import checked  # what stands behind it takes 100 ms that only types of parts need

            validator = of.validators[name] = checked.validator(wanted)
        if validator is False:
            return value
        import pydantic

        try:
            return validator.validate_python(value)
        except pydantic.ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            where = "".join(f"[{part!r}]" for part in first["loc"])
            shown = wire.describe(value, 100)  # cut before, not after: repr() of a value may take long, or fail
            raise ValueError(f"{self.name}(): argument {name!r}{where}: {first['msg']}; got {shown}") from None


def _time_limit(source: Any, name: str) -> float | None:
    limit = getattr(source, "tool_time", False)
    if limit is False:
        return None
    if limit is None:
        return float("inf")
    if not isinstance(limit, int | float) or isinstance(limit, bool) or not limit > 0:
        raise ToolError(f"tool {name!r}: tool_time must be a positive number of seconds, or None for no bound")
    return float(limit)


def collect(tools: Tools) -> dict[str, HostTool]:
    """Name to tool, from a sequence or a mapping. Raises ToolError for a name used twice."""
    pairs: list[tuple[str | None, Any]]
    if isinstance(tools, Mapping):
        pairs = [(str(key), value) for key, value in tools.items()]
    elif callable(tools) or isinstance(tools, str | bytes):
        raise ToolError("tools must be a sequence of callables or a mapping of names to callables")
    else:
        pairs = [(None, value) for value in tools]
    found: dict[str, HostTool] = {}
    for name, source in pairs:
        tool = source if isinstance(source, HostTool) and name is None else HostTool(source, name)
        if tool.name in found:
            raise ToolError(f"two tools are called {tool.name!r}")
        found[tool.name] = tool
    return found
