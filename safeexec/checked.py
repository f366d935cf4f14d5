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
        return SchemaValidator(_quick(schema)) if isinstance(schema, dict) else adapter
    except pydantic.errors.PydanticUserError:
        return False
    except SchemaError:  # a pydantic that does not know how to stop
        return adapter


def _quick(schema: Any) -> Any:
    """The same schema, for a validator that stops at the first thing that is wrong in a sequence, or in a piece of a dict."""
    if isinstance(schema, list):
        return [_quick(part) for part in schema]
    if isinstance(schema, tuple):  # a choice and what it is called
        return (_quick(schema[0]), *schema[1:])
    if not isinstance(schema, dict):
        return schema
    new = dict(schema)
    for name in _PARTS:
        if name in new:
            part = new[name]
            named = name in _NAMED and isinstance(part, dict)
            new[name] = {key: _quick(each) for key, each in part.items()} if named else _quick(part)
    kind = new.get("type")
    if kind == "union":
        new["choices"] = [_called(*pair) for pair in zip(schema["choices"], new["choices"], strict=True)]
    if kind in _SEQUENCES or (kind == "tuple" and "variadic_item_index" in new):
        new["fail_fast"] = True
    if kind == "dict" and "min_length" not in new and "max_length" not in new:
        return _around(new, _in_pieces)
    if kind == "dict" and "max_length" in new:
        return _around(new, partial(_cut, new["max_length"]))
    return new


def _called(before: Any, after: Any) -> Any:
    """A choice of a union, called what it was in messages."""
    from pydantic_core import SchemaError, SchemaValidator

    if isinstance(before, tuple):
        return after
    try:
        return after, SchemaValidator(before).title
    except SchemaError:  # it refers to what is defined elsewhere
        return (after, "dict") if before["type"] == "dict" else after


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
