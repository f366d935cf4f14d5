from __future__ import annotations

import base64
import json
import math
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest

from safeexec import Array, Display, FileInfo, GuestError, Image, Opaque, Result, Table, ToolCall
from safeexec.cli import document
from tests.cli.conftest import Command

KEYS = {
    "schema", "sandbox", "ok", "exit_code", "interrupted", "value", "stdout", "stderr", "error", "displays", "files", "saved",
    "usage", "tool_calls", "network", "truncated", "rolled_back",
}  # fmt: skip

VALUES: list[tuple[Any, Any]] = [
    (None, None),
    (True, True),
    (-(2**63), -(2**63)),
    (2**63, {"$type": "int", "hex": hex(2**63)}),
    (10**20_000, {"$type": "int", "hex": hex(10**20_000)}),
    (1.5, 1.5),
    (math.nan, {"$type": "float", "value": "nan"}),
    (-math.inf, {"$type": "float", "value": "-inf"}),
    (complex(math.inf, 1), {"$type": "complex", "real": {"$type": "float", "value": "inf"}, "imag": 1.0}),
    ("é\x1b\x7f\u202e", "é\x1b\x7f\u202e"),
    ("\ud800", {"$type": "str", "base64": base64.b64encode(b"\xed\xa0\x80").decode()}),
    (b"\x00\xff", {"$type": "bytes", "base64": "AP8="}),
    ([1, (2,)], [1, {"$type": "tuple", "items": [2]}]),
    ({1}, {"$type": "set", "items": [1]}),
    (frozenset({1}), {"$type": "frozenset", "items": [1]}),
    ({"a": 1}, {"a": 1}),
    ({1: "a"}, {"$type": "dict", "items": [[1, "a"]]}),
    ({"$type": "bytes", "base64": ""}, {"$type": "dict", "items": [["$type", "bytes"], ["base64", ""]]}),
    (range(1, 2**70, 2), {"$type": "range", "start": 1, "stop": {"$type": "int", "hex": hex(2**70)}, "step": 2}),
    (datetime(2026, 1, 2, 3, tzinfo=UTC), {"$type": "datetime", "iso": "2026-01-02T03:00:00+00:00"}),
    (date(2026, 1, 2), {"$type": "date", "iso": "2026-01-02"}),
    (time(3, 4), {"$type": "time", "iso": "03:04:00"}),
    (timedelta(1, 2, 3), {"$type": "timedelta", "days": 1, "seconds": 2, "microseconds": 3}),
    (timezone(timedelta(hours=1)), {"$type": "timezone", "name": "UTC+01:00", "seconds": 3600.0}),
    (Decimal("NaN"), {"$type": "Decimal", "value": "NaN"}),
    (Fraction(1, 3), {"$type": "Fraction", "numerator": 1, "denominator": 3}),
    (UUID(int=1), {"$type": "UUID", "value": str(UUID(int=1))}),
    (Array("<i4", (1,), b"\1\0\0\0"), {"$type": "Array", "dtype": "<i4", "shape": [1], "base64": "AQAAAA=="}),
    (Image("image/png", b"P"), {"$type": "Image", "mime": "image/png", "base64": "UA=="}),
    (Table({"a": [math.nan]}), {"$type": "Table", "columns": [["a", [{"$type": "float", "value": "nan"}]]], "index": None}),
    (Opaque("T", "<T \ud800>"), {"$type": "Opaque", "type": "T", "repr": "<T \\ud800>"}),
    (object, {"$type": "Opaque", "type": "type", "repr": ""}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("value", "expected"), VALUES, ids=[type(v).__name__ + str(i) for i, (v, _) in enumerate(VALUES)]
)
def test_every_value_is_strict_ascii_json(value: Any, expected: Any) -> None:
    def refuse(name: str) -> Any:
        raise AssertionError(f"{name} is not JSON")

    text = document.dump(document.value(value))
    assert json.loads(text, parse_constant=refuse) == expected
    assert text.isascii() and text.isprintable(), "a terminal would act on it"


def test_the_document_holds_everything_in_a_result() -> None:
    result = Result(
        value=1,
        stdout="o\x1b",
        stderr="e\ud800",
        error=GuestError("exception", "T\x1b", "m", "t", 3),
        displays=(Display({"image/png": b"P", "text/html": "<b>"}),),
        files=(FileInfo("n\x1b", 2),),
        tool_calls=(ToolCall("f", {"x": b"\0"}, "E: no", 0.5),),
        truncated=True,
        rolled_back=True,
    )
    text = document.dump(document.of_result(result, sandbox="s", exit_code=1), 2)
    assert text.isascii() and text.replace("\n", "").isprintable()
    data = json.loads(text)
    assert set(data) == KEYS
    assert data["displays"] == [{"image/png": {"base64": "UA=="}, "text/html": "<b>"}]
    assert data["error"] == {"kind": "exception", "type": "T\x1b", "message": "m", "traceback": "t", "line": 3}
    assert data["tool_calls"] == [
        {"tool": "f", "arguments": {"x": {"$type": "bytes", "base64": "AA=="}}, "error": "E: no", "duration": 0.5}
    ]
    assert (data["stderr"], data["files"], data["truncated"]) == ("e\\ud800", [{"name": "n\x1b", "size": 2}], True)


def test_json_is_the_only_thing_on_stdout(cli: Command) -> None:
    ran = cli("run", "--json", "-c", "import sys; print('hi'); print('err', file=sys.stderr); [float('nan'), {1}]")
    assert (ran.code, ran.err) == (0, "")
    assert set(ran.json) == KEYS
    assert ran.json["ok"] is True and ran.json["exit_code"] == 0 and ran.json["sandbox"] == "plain"
    assert (ran.json["stdout"], ran.json["stderr"]) == ("hi\n", "err\n")
    assert ran.json["value"] == [{"$type": "float", "value": "nan"}, {"$type": "set", "items": [1]}]
    assert ran.json["usage"]["duration"] > 0


def test_a_failed_program_is_a_document_too(cli: Command) -> None:
    ran = cli("run", "--json", "--timeout", "0.3", "-c", "print('x')\nwhile True: pass")
    assert (ran.code, ran.json["exit_code"], ran.json["stdout"]) == (3, 3, "x\n")
    assert ran.json["error"]["kind"] == "time" and ran.json["ok"] is False


def test_saved_files_are_in_the_document(cli: Command) -> None:
    ran = cli("run", "--json", "--save-files", "out", "-c", "open('a', 'w').write('x')")
    assert ran.json["files"] == [{"name": "a", "size": 1}]
    assert ran.json["saved"] == ["out/a"]


@pytest.mark.parametrize(
    ("args", "code", "kind"),
    [
        (["--sandbox", "broken"], 4, "BackendUnavailable"),
        (["--sandbox", "nosuch"], 4, "BackendUnavailable"),
        (["--allow-import", "a b"], 2, "PolicyError"),
        (["--tool", "json:__name__"], 2, "ToolError"),
    ],
)
def test_trouble_of_the_host_is_a_document_too(cli: Command, args: list[str], code: int, kind: str) -> None:
    ran = cli("run", "--json", *args, "-c", "1")
    assert (ran.code, ran.json["exit_code"], ran.json["ok"]) == (code, code, False)
    assert set(ran.json) == KEYS
    assert (ran.json["error"]["kind"], ran.json["error"]["type"]) == ("host", kind)
    assert ran.err.count("\n") == 1
