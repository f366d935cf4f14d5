"""What checks an argument of a tool against its type: pydantic, told to stop at the first thing that is wrong.

By itself it collects all of them, a few hundred bytes each and one for every member of a union: of two million texts where numbers were wanted it made seven gigabytes
and took a minute, in which nothing else of the host ran. Only the first is ever told.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice
from typing import Any

_SEQUENCES = frozenset(("list", "set", "frozenset"))
_PARTS = (
    "schema", "items_schema", "keys_schema", "values_schema", "extras_schema", "lax_schema", "strict_schema", "json_schema", "python_schema", "steps",
    "definitions", "choices", "fields",
)  # fmt: skip
"""Where a schema of pydantic's has others."""
_NAMED = frozenset(("choices", "fields"))
"""Of these, the ones that may have them by name."""
_PIECE = 500
"""Entries of a dict that are checked together."""


def validator(annotation: Any) -> Any:
    """Has a method `validate_python`; False for an annotation that pydantic cannot check (a class of the host's own)."""
    import pydantic
    from pydantic_core import SchemaError, SchemaValidator

    try:
        adapter = pydantic.TypeAdapter(annotation)
        schema = adapter.core_schema
        if not isinstance(schema, dict):
            return adapter
        shared = _Shared(schema.get("definitions", []))
        quick = _quick(schema, shared)
        shared.quick += quick.get("definitions", ())
        return SchemaValidator(quick)
    except pydantic.errors.PydanticUserError:
        return False
    except SchemaError:  # a pydantic that does not know how to stop
        return adapter


class _Shared:
    """What parts of a schema refer to: as it was, and as it will be."""

    def __init__(self, plain: list[Any]) -> None:
        self.plain = plain
        self.quick: list[Any] = []


def _with(schema: Any, definitions: list[Any]) -> Any:
    return {"type": "definitions", "schema": schema, "definitions": definitions} if definitions else schema


def _quick(schema: Any, shared: _Shared) -> Any:
    """The same schema, for a validator that stops at the first thing that is wrong in a sequence, or in a piece of a dict."""
    if isinstance(schema, list):
        return [_quick(part, shared) for part in schema]
    if isinstance(schema, tuple):  # a choice and what it is called
        return (_quick(schema[0], shared), *schema[1:])
    if not isinstance(schema, dict):
        return schema
    new = dict(schema)
    for name in _PARTS:
        if name in new:
            part = new[name]
            named = name in _NAMED and isinstance(part, dict)
            new[name] = {key: _quick(each, shared) for key, each in part.items()} if named else _quick(part, shared)
    kind = new.get("type")
    if kind == "union":
        new["choices"] = [_called(*pair, shared) for pair in zip(schema["choices"], new["choices"], strict=True)]
    if kind in _SEQUENCES or (kind == "tuple" and "variadic_item_index" in new):
        new["fail_fast"] = True
    if kind == "dict" and "min_length" not in new and "max_length" not in new:
        return _around(new, _in_pieces)
    if kind == "dict" and "max_length" in new:
        return _around(new, partial(_cut, new["max_length"]))
    if kind == "model" and not new.get("custom_init"):
        return _around(new, _Fields(new, shared))
    return new


class _Fields:
    """Checks a large value's fields before its model does, which brings a validator of its own along, and that collects."""

    def __init__(self, model: dict[str, Any], shared: _Shared) -> None:
        self._model = model
        self._shared = shared
        self._validator: Any = None

    def __call__(self, value: Any, check: Callable[[Any], Any]) -> Any:
        if _is_large(value):
            if self._validator is None:
                self._validator = self._made()
            known = self._model["schema"].get("fields", ())
            forbids = (self._model.get("config") or {}).get("extra_fields_behavior") == "forbid"
            few = type(value) is dict and forbids and len(value) > len(known) + _PIECE
            self._validator.validate_python(dict(islice(value.items(), len(known) + _PIECE)) if few else value)
        return check(value)

    def _made(self) -> Any:
        from pydantic_core import SchemaValidator

        return SchemaValidator(_with(self._model["schema"], self._shared.quick), self._model.get("config"))


def _is_large(value: Any) -> bool:
    """Whether there are more than so many parts in it that pydantic would be long about those that are wrong."""
    pending, seen = [value], 0
    while pending and seen <= _PIECE:
        part = pending.pop()
        kind = type(part)
        if kind is dict:
            part = part.values()
        elif kind not in (list, tuple, set, frozenset):
            continue
        seen += len(part)
        pending += islice(part, _PIECE)
    return seen > _PIECE


def _called(before: Any, after: Any, shared: _Shared) -> Any:
    """A choice of a union, called what it was in messages."""
    from pydantic_core import SchemaValidator

    return after if isinstance(before, tuple) else (after, SchemaValidator(_with(before, shared.plain)).title)


def _around(schema: dict[str, Any], function: Callable[[Any, Any], Any]) -> Any:
    from pydantic_core import core_schema

    reference = schema.pop("ref", None)
    return core_schema.no_info_wrap_validator_function(function, schema, ref=reference)


def _in_pieces(value: Any, check: Callable[[Any], Any]) -> Any:
    if type(value) is not dict or len(value) <= _PIECE:
        return check(value)
    found = {}
    entries = iter(value.items())
    while piece := dict(islice(entries, _PIECE)):
        found.update(check(piece))
    return found


def _cut(most: int, value: Any, check: Callable[[Any], Any]) -> Any:
    if type(value) is dict and len(value) > most:
        value = dict(islice(value.items(), most + 1))  # too many all the same
    return check(value)
