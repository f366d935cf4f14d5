"""What checks an argument of a tool against its type: pydantic, told to stop at the first thing that is wrong.

By itself it collects all of them, a few hundred bytes each and one for every member of a union: of two million texts where numbers were wanted it made seven gigabytes
and took a minute, in which nothing else of the host ran. Only the first is ever told.

What it makes of values that are well is bounded here, too: sets and dicts of keys that were never together when they travelled, and Decimals of numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from decimal import Decimal
from itertools import islice
from typing import Any

from safeexec import wire

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
_SETS = frozenset(("set", "frozenset"))
_FEW = 16
"""Members of a set that take no time however they hash."""
_ALIKE = 64
"""Keys of one set or dict that may hash alike."""
_LONG = 14_284
"""Bits of 4300 digits: beyond, Python itself takes a whole number for too long to be written out."""


def validator(annotation: Any) -> Any:
    """Has a method `validate_python`; False for an annotation that pydantic cannot check (a class of the host's own)."""
    import pydantic
    from pydantic_core import SchemaError

    try:
        adapter = pydantic.TypeAdapter(annotation)
        schema = adapter.core_schema
        if not isinstance(schema, dict):
            return adapter
        try:
            return _built(schema, True)
        except SchemaError:  # a pydantic that does not know how to stop
            return _built(schema, False)
    except pydantic.errors.PydanticUserError:
        return False
    except SchemaError:
        return adapter


def _built(schema: dict[str, Any], stops: bool) -> Any:
    from pydantic_core import SchemaValidator

    shared = _Shared(schema.get("definitions", []), stops)
    quick = _quick(schema, shared)
    shared.quick += quick.get("definitions", ())
    return SchemaValidator(quick)


class _Shared:
    """What parts of a schema refer to: as it was, and as it will be."""

    def __init__(self, plain: list[Any], stops: bool) -> None:
        self.plain = plain
        self.quick: list[Any] = []
        self.stops = {"fail_fast": True} if stops else {}
        """What has a sequence be checked until the first thing is wrong."""


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
        new |= shared.stops
    if kind in _SETS:
        return _with_function("before", new, _Members(new, shared))
    if kind == "decimal":
        return _with_function("after", _with_function("before", new, _not_long), _not_wide)
    if kind == "dict" and "min_length" not in new and "max_length" not in new:
        return _with_function("wrap", new, _in_pieces)
    if kind == "dict" or "keys_schema" in new:  # an ordered one, a counter: those go through no dict on their way
        return _with_function("wrap", new, _Entries(new, shared))
    if kind == "dataclass" or (kind == "model" and not new.get("custom_init")):
        return _with_function("wrap", new, _Fields(new, shared))
    return new


class _Later:
    """Checks values against a schema, by a validator that is made for the first of them: before, what the schema refers to is not all there."""

    def __init__(self, schema: Any, shared: _Shared, config: Any = None) -> None:
        self._schema, self._shared, self._config = schema, shared, config
        self._validator: Any = None

    def __call__(self, value: Any) -> Any:
        """What it makes of the value. Raises ValidationError."""
        if self._validator is None:
            from pydantic_core import SchemaValidator

            self._validator = SchemaValidator(_with(self._schema, self._shared.quick), self._config)
        return self._validator.validate_python(value)


class _Fields:
    """Checks a large value's fields before its model or dataclass does, which brings a validator of its own along, and that collects."""

    def __init__(self, model: dict[str, Any], shared: _Shared) -> None:
        self._model = model
        self._check = _Later(model["schema"], shared, model.get("config"))

    def __call__(self, value: Any, check: Callable[[Any], Any]) -> Any:
        if _is_large(value):
            known = self._model["schema"].get("fields", ())
            forbids = (self._model.get("config") or {}).get("extra_fields_behavior") == "forbid"
            few = type(value) is dict and forbids and len(value) > len(known) + _PIECE
            self._check(dict(islice(value.items(), len(known) + _PIECE)) if few else value)
        return check(value)


def _is_large(value: Any) -> bool:
    """Whether there is so much in it that pydantic would be long about what is wrong, or about what it makes of it."""
    pending, seen = [value], 0
    while pending and seen <= _PIECE:
        part = pending.pop()
        kind = type(part)
        if (kind is int and part.bit_length() > _LONG) or (kind in (str, bytes) and len(part) > _PIECE):
            return True  # a number to be a Decimal, or JSON
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


def _with_function(when: str, schema: dict[str, Any], function: Callable[..., Any]) -> Any:
    """The schema with a function that is called "before" or "after" it has checked a value, or with what checks it ("wrap")."""
    from pydantic_core import core_schema

    reference = schema.pop("ref", None)
    return getattr(core_schema, f"no_info_{when}_validator_function")(function, schema, ref=reference)


def _not_long(value: Any) -> Any:
    """A Decimal is made of it: hours for a number of megabytes, in which no other thread runs."""
    if type(value) is int and value.bit_length() > _LONG:
        raise ValueError("a number of more than 4300 digits")
    return value


def _not_wide(value: Decimal) -> Decimal:
    """One of text may have an exponent that none has that crosses: see ``wire.MAX_SCALAR``."""
    if abs(value.adjusted()) > wire.MAX_SCALAR:
        raise ValueError("a number whose exponent is too large")
    return value


def _in_pieces(value: Any, check: Callable[[Any], Any]) -> Any:
    if type(value) is not dict or len(value) <= _PIECE:
        return check(value)
    found = {}
    keys = _Keys()
    entries = iter(value.items())
    while piece := dict(islice(entries, _PIECE)):
        part = check(piece)
        if not set(map(type, part)) <= {str}:  # how text hashes nobody knows beforehand
            keys.add(part)
        found.update(part)
    return found


class _Entries:
    """Checks those of a large dict that has a bound, or is to be of another kind: not in pieces, since it is asked for as a whole, but before in such."""

    def __init__(self, schema: dict[str, Any], shared: _Shared) -> None:
        self._most = schema.get("max_length")
        entries: dict[str, Any] = {name: schema[name] for name in ("keys_schema", "values_schema") if name in schema}
        self._check = _Later(_with_function("wrap", {"type": "dict", "strict": False, **entries}, _in_pieces), shared)

    def __call__(self, value: Any, check: Callable[[Any], Any]) -> Any:
        if type(value) is dict and self._most is not None and len(value) > self._most:
            value = dict(islice(value.items(), self._most + 1))  # too many all the same
        if type(value) is dict and len(value) > _PIECE:
            self._check(value)
        return check(value)


class _Members:
    """Checks as a list what is to be a set: as one it could take hours, of numbers that all hash alike, in which no other thread runs."""

    def __init__(self, schema: dict[str, Any], shared: _Shared) -> None:
        items = {"items_schema": schema["items_schema"]} if "items_schema" in schema else {}
        self._check = _Later({"type": "list", "strict": False, **shared.stops, **items}, shared)

    def __call__(self, value: Any) -> Any:
        if type(value) in (list, tuple, set, frozenset) and len(value) > _FEW:
            with suppress(TypeError):  # what cannot be in a set: that is told where it is put into it
                _Keys().add(self._check(value))
        return value


class _Keys:
    """Keys of one set or dict. Whoever crafts thousands that hash alike has each compared with all of them."""

    def __init__(self) -> None:
        self._first: dict[int, Any] = {}
        self._alike: dict[int, list[Any]] = {}
        self._kinds: set[Any] = set()
        self._left = wire.MAX_COMPARING

    def add(self, keys: Iterable[Any]) -> None:
        """Raises ValueError where there are too many alike, TypeError for what is no key."""
        for key in keys:
            number = hash(key)
            first = self._first.setdefault(number, key)
            if first is not key:
                self._compare(key, self._alike.setdefault(number, [first]))

    def _compare(self, key: Any, others: list[Any]) -> None:
        self._kinds |= wire._kinds_below((others[0], key))
        if self._kinds >= {Decimal, "wide"}:  # to compare the two takes as long as to make one of the other
            raise ValueError("keys that take too long to compare")
        for other in others:
            if key == other:
                return
            self._left -= wire._weight(key)
        others.append(key)
        if len(others) > _ALIKE or self._left < 0:
            raise ValueError("too many keys that hash alike")
