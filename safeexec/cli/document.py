"""A result as one JSON document: what ``safeexec run --json`` prints.

The document is strict JSON (RFC 8259: no NaN, no lone surrogates) in ASCII, with these keys, always all of them::

    schema       1; changes when a key changes its meaning
    sandbox      name of the sandbox
    ok           whether the program ended without an error
    exit_code    what the command exits with
    interrupted  whether Ctrl-C was pressed
    value        value of the last expression, see below
    stdout, stderr
    error        null, or {kind, type, message, traceback, line}; kind is one of safeexec.result.ERROR_KINDS, or "host" when the
                 program could not be run: then type is the name of a safeexec exception
    displays     list of {mime: text, or {"base64": …} for bytes}
    files        list of {name, size}: made or changed by the program
    saved        host paths written for --save-files
    usage        {duration, cpu_time (seconds), peak_memory (bytes), tool_calls}
    tool_calls   list of {tool, arguments, error, duration}
    network      list of {method, url, host, port, status, sent, received (bytes), refused, error, duration}: every request, refused ones
                 included; status is null where there was no answer, or one inside a tunnel
    truncated    output, displays or the value were cut at a limit
    rolled_back  the session is as it was before the step

Values: null, booleans, integers of up to 64 bits, finite floats, strings, lists, and dicts whose keys are all strings and do not include
"$type" stand for themselves. Everything else is an object with "$type"::

    int        hex                      float      value: "nan", "inf", "-inf"
    complex    real, imag (floats)      str        base64: UTF-8 with lone surrogates
    bytes      base64                   tuple, set, frozenset   items
    dict       items: [[key, value]…]   range      start, stop, step
    datetime, date, time                iso        timedelta    days, seconds, microseconds
    timezone   name, seconds            Decimal, UUID   value
    Fraction   numerator, denominator   Array      dtype, shape, base64
    Image      mime, base64             Table      columns: [[name, values]…], index
    Opaque     type, repr
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Callable, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any
from uuid import UUID

from safeexec.result import Result
from safeexec.wire import Array, Image, Opaque, Table

SCHEMA = 1


def of_result(
    result: Result, *, sandbox: str, exit_code: int, interrupted: bool = False, saved: Sequence[Path] = ()
) -> dict[str, Any]:
    """The document as plain data."""
    error = result.error
    return {
        "schema": SCHEMA,
        "sandbox": _text(sandbox),
        "ok": result.ok,
        "exit_code": exit_code,
        "interrupted": interrupted,
        "value": value(result.value),
        "stdout": _text(result.stdout),
        "stderr": _text(result.stderr),
        "error": None
        if error is None
        else {
            "kind": error.kind,
            "type": _text(error.type),
            "message": _text(error.message),
            "traceback": _text(error.traceback),
            "line": error.line,
        },
        "displays": [
            {
                mime: _text(data) if isinstance(data, str) else {"base64": _base64(data)}
                for mime, data in display.data.items()
            }
            for display in result.displays
        ],
        "files": [{"name": _text(info.name), "size": info.size} for info in result.files],
        "saved": [_text(str(path)) for path in saved],
        "usage": {
            "duration": result.usage.duration,
            "cpu_time": result.usage.cpu_time,
            "peak_memory": result.usage.peak_memory,
            "tool_calls": result.usage.tool_calls,
        },
        "tool_calls": [
            {
                "tool": call.tool,
                "arguments": {_text(name): value(item) for name, item in call.arguments.items()},
                "error": None if call.error is None else _text(call.error),
                "duration": call.duration,
            }
            for call in result.tool_calls
        ],
        "network": [
            {
                "method": _text(request.method),
                "url": _text(request.url),
                "host": _text(request.host),
                "port": request.port,
                "status": request.status,
                "sent": request.sent,
                "received": request.received,
                "refused": request.refused,
                "error": None if request.error is None else _text(request.error),
                "duration": request.duration,
            }
            for request in result.network
        ],
        "truncated": result.truncated,
        "rolled_back": result.rolled_back,
    }


def dump(data: Any, indent: int | None = None) -> str:
    """Strict JSON that holds no character a terminal would act on."""
    return json.dumps(data, ensure_ascii=True, allow_nan=False, indent=indent).replace("\x7f", "\\u007f")


def value(item: Any) -> Any:
    """One value, see the module's docstring."""
    make = _KINDS.get(type(item))
    if make is None:  # only in the arguments of a tool that put an object of the host into one of them
        return {"$type": "Opaque", "type": type(item).__name__, "repr": ""}
    return make(item)


def _text(text: str) -> str:
    """Text that is a message or a name: lone surrogates, which JSON cannot hold, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def _base64(data: bytes) -> str:
    return b64encode(data).decode("ascii")


def _str(item: str) -> Any:
    try:
        item.encode()
    except UnicodeEncodeError:
        return {"$type": "str", "base64": _base64(item.encode("utf-8", "surrogatepass"))}
    return item


def _int(item: int) -> Any:
    return item if -(2**63) <= item < 2**63 else {"$type": "int", "hex": hex(item)}


def _float(item: float) -> Any:
    return item if math.isfinite(item) else {"$type": "float", "value": repr(item)}


def _dict(item: dict[Any, Any]) -> Any:
    if "$type" not in item and all(type(key) is str and _str(key) is key for key in item):
        return {key: value(held) for key, held in item.items()}
    return {"$type": "dict", "items": _pairs(item)}


def _pairs(item: dict[Any, Any]) -> list[list[Any]]:
    return [[value(key), value(held)] for key, held in item.items()]


def _items(item: Any) -> Any:
    return {"$type": type(item).__name__, "items": [value(held) for held in item]}


def _iso(item: Any) -> Any:
    return {"$type": type(item).__name__, "iso": item.isoformat()}


def _zone(item: timezone) -> Any:
    offset = item.utcoffset(None)
    return {"$type": "timezone", "name": _text(item.tzname(None)), "seconds": offset.total_seconds()}


_KINDS: dict[type, Callable[[Any], Any]] = {
    type(None): lambda v: v,
    bool: lambda v: v,
    int: _int,
    float: _float,
    str: _str,
    list: lambda v: [value(item) for item in v],
    dict: _dict,
    tuple: _items,
    set: _items,
    frozenset: _items,
    bytes: lambda v: {"$type": "bytes", "base64": _base64(v)},
    complex: lambda v: {"$type": "complex", "real": _float(v.real), "imag": _float(v.imag)},
    range: lambda v: {"$type": "range", "start": _int(v.start), "stop": _int(v.stop), "step": _int(v.step)},
    datetime: _iso,
    date: _iso,
    time: _iso,
    timedelta: lambda v: {"$type": "timedelta", "days": v.days, "seconds": v.seconds, "microseconds": v.microseconds},
    timezone: _zone,
    Decimal: lambda v: {"$type": "Decimal", "value": str(v)},
    UUID: lambda v: {"$type": "UUID", "value": str(v)},
    Fraction: lambda v: {"$type": "Fraction", "numerator": _int(v.numerator), "denominator": _int(v.denominator)},
    Array: lambda v: {"$type": "Array", "dtype": v.dtype, "shape": list(v.shape), "base64": _base64(v.data)},
    Image: lambda v: {"$type": "Image", "mime": v.mime, "base64": _base64(v.data)},
    Table: lambda v: {"$type": "Table", "columns": _pairs(v.columns), "index": value(v.index)},
    Opaque: lambda v: {"$type": "Opaque", "type": _text(v.type), "repr": _text(v.repr)},
}
