"""Whatever bytes arrive, the decoder returns plain data or raises WireError: no crash, no hang, no memory beyond the caps."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import random
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from time import process_time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from safeexec import wire
from tests.core.strategies import nodes, values

P = 2**61 - 1  # whole numbers hash modulo this

PLAIN = frozenset(
    "NoneType bool int float complex str bytes list tuple set frozenset dict range datetime date time timedelta timezone Decimal Fraction UUID "
    "Array Image Table Opaque".split()
)


def body(raw: bytes, *blobs: bytes) -> bytes:
    """A frame's body around a raw header."""
    return struct.pack("<I", len(raw)) + raw + b"".join(blobs)


def all_plain(value: Any) -> bool:
    kind = type(value)
    if kind.__name__ not in PLAIN or kind.__module__ not in (
        "builtins", "datetime", "decimal", "fractions", "uuid", "safeexec.wire"
    ):  # fmt: skip
        return False
    if kind in (list, tuple, set, frozenset):
        return all(map(all_plain, value))
    if kind is dict:
        return all(map(all_plain, value)) and all(map(all_plain, value.values()))
    if kind is wire.Table:
        return all_plain(value.columns) and all_plain(value.index)
    return True


def attempt(data: bytes) -> Any:
    """Read a frame's body and the value in it; None when it is refused."""
    try:
        value = read(data)
    except wire.WireError:
        return None
    assert all_plain(value)
    return value


def read(data: bytes) -> Any:
    header, blobs = wire.unpack(data)
    return wire.Decoder(blobs).decode(header.get("v"))


@pytest.fixture
def reckless() -> Iterator[None]:
    """A host that has switched off the interpreter's own protections."""
    limit, digits = sys.getrecursionlimit(), sys.get_int_max_str_digits()
    sys.setrecursionlimit(10**6)
    sys.set_int_max_str_digits(0)
    yield
    sys.setrecursionlimit(limit)
    sys.set_int_max_str_digits(digits)


@given(st.binary(max_size=400))
def test_arbitrary_bytes(data: bytes) -> None:
    attempt(data)


@given(st.binary(max_size=300), st.lists(st.binary(max_size=20), max_size=3))
def test_arbitrary_header(raw: bytes, blobs: list[bytes]) -> None:
    attempt(body(raw, *blobs))


@given(nodes, st.lists(st.binary(max_size=24), max_size=4))
def test_arbitrary_nodes(node: Any, blobs: list[bytes]) -> None:
    header: dict[str, Any] = {"v": node, "b": [len(b) for b in blobs]}
    attempt(body(json.dumps(header).encode(), *blobs))


@given(nodes)
def test_arbitrary_blob_lengths(lengths: Any) -> None:
    attempt(body(json.dumps({"v": {"$": "bytes", "i": 0}, "b": lengths}).encode(), b"0123456789"))


def frame_of(value: Any) -> bytes:
    encoder = wire.Encoder()
    header = {"t": "done", "v": encoder.encode(value)}
    return b"".join(bytes(b) for b in wire.pack(header, encoder.blobs))


@given(values, st.data())
def test_mutated_frames(value: Any, data: st.DataObject) -> None:
    raw = bytearray(frame_of(value)[4:])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] = data.draw(st.integers(0, 255))
    attempt(bytes(raw))


@given(values, st.data())
def test_truncated_and_extended_frames(value: Any, data: st.DataObject) -> None:
    raw = frame_of(value)[4:]
    cut = data.draw(st.integers(0, len(raw) - 1))
    with pytest.raises(wire.WireError):
        wire.unpack(raw[:cut])
    with pytest.raises(wire.WireError):
        wire.unpack(raw + b"x")


class Source:
    """A stream that hands out its bytes in given portions."""

    def __init__(self, data: bytes, portions: list[int]) -> None:
        self._data, self._portions, self._at = data, portions, 0

    def readinto(self, view: memoryview) -> int:
        size = min(self._portions.pop(0) if self._portions else 4096, len(view), len(self._data) - self._at)
        view[:size] = self._data[self._at : self._at + size]
        self._at += size
        return size


@given(st.lists(values, min_size=1, max_size=4), st.lists(st.integers(1, 90), max_size=40))
def test_reader_cuts_any_stream_into_its_frames(items: list[Any], portions: list[int]) -> None:
    data = b"".join(map(frame_of, items))
    reader = wire.FrameReader(Source(data, portions).readinto, 2**20)
    for item in items:
        header, blobs = reader.next()
        value = wire.Decoder(blobs).decode(header["v"])
        assert type(value) is type(item)
    with pytest.raises(EOFError):
        reader.next()


@given(st.binary(max_size=2000), st.lists(st.integers(1, 50), max_size=20))
def test_reader_of_arbitrary_streams_ends(data: bytes, portions: list[int]) -> None:
    reader = wire.FrameReader(Source(data, portions).readinto, 1000)
    with pytest.raises((EOFError, wire.WireError)):
        for _ in range(len(data) + 1):
            reader.next()


def test_reader_handles_frames_around_the_size_of_its_buffer() -> None:
    sizes = [65500, 65536, 65537, 10, 131072, 1, 40000, 40000, 65480]
    data = b"".join(frame_of(b"x" * size) for size in sizes)
    reader = wire.FrameReader(Source(data, []).readinto, 2**20)
    for size in sizes:
        header, blobs = reader.next()
        assert len(wire.Decoder(blobs).decode(header["v"])) == size


def test_large_frames_stay_what_they_were() -> None:
    values = [bytes([number]) * (5 << 20) for number in range(3)]
    reader = wire.FrameReader(Source(b"".join(map(frame_of, values)), [3, 70_000] * 300).readinto, 2**23)
    frames = [reader.next() for _ in values]
    # All of them are still there, and each is its own.
    assert [wire.Decoder(blobs).decode(header["v"]) for header, blobs in frames] == values


def test_one_large_blob_is_not_copied() -> None:
    data = b"x" * (5 << 20)
    reader = wire.FrameReader(Source(frame_of(data) + frame_of(7), []).readinto, 2**23)
    header, (blob,) = reader.next()
    assert type(blob) is bytes and wire.Decoder([blob]).decode(header["v"]) is blob
    assert reader.next()[0]["v"] == 7


@given(
    st.integers(0, 3),
    st.lists(st.integers(0, 90_000), max_size=6),
    st.lists(st.one_of(st.integers(1, 9), st.integers(60_000, 70_000)), max_size=40),
)
def test_large_frames_are_cut_as_small_ones_are(tail: int, lengths: list[int], portions: list[int]) -> None:
    blobs = [bytes([number + 65]) * length for number, length in enumerate(lengths)]
    sent = b"".join(map(bytes, wire.pack({"t": "x", "pad": "y" * 70_000}, blobs)))
    reader = wire.FrameReader(Source((sent + frame_of(None)) * (tail + 1), portions).readinto, 2**20)
    expected = wire.unpack(sent[4:])
    for _ in range(tail + 1):
        header, got = reader.next()
        assert (header, [bytes(blob) for blob in got]) == (expected[0], blobs)
        assert reader.next()[0]["v"] is None
    with pytest.raises(EOFError):
        reader.next()


@pytest.mark.parametrize("lengths", [[10**18], [-1], [True], [1.0], ["1"], [3, 3], [200_000, 1], {}, "10", [[1]], None])
def test_wrong_blob_lengths_of_a_large_frame_are_refused_before_memory_is_set_aside(lengths: Any) -> None:
    text = json.dumps({"b": lengths}).encode()
    sent = struct.pack("<II", 4 + len(text) + 2**30, len(text)) + text + bytes(100)
    tracemalloc.start()
    try:
        with pytest.raises(wire.WireError):
            wire.FrameReader(Source(sent, []).readinto, 2**31).next()
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("length", [2**20, 2**32 - 1, wire.MAX_HEADER + 1])
def test_a_header_longer_than_its_large_frame_is_refused(length: int) -> None:
    sent = struct.pack("<II", 2**20, length) + bytes(100)
    with pytest.raises(wire.WireError, match="a header of"):
        wire.FrameReader(Source(sent, []).readinto, 2**21).next()


@pytest.mark.parametrize("total", [2**32 - 1, 2**31, 10**6 + 1])
def test_absurd_length_is_refused_before_memory_is_set_aside(total: int) -> None:
    tracemalloc.start()
    try:
        reader = wire.FrameReader(Source(struct.pack("<I", total) + b"x" * 100, []).readinto, 10**6)
        with pytest.raises(wire.TooLarge):
            reader.next()
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "lengths",
    [[10**18], [-1], [True], [1.0], ["1"], [3, 3], [10, 1], {}, "10", [[1]], [0] * 300_000],
    ids=lambda v: repr(v)[:12],
)
def test_wrong_blob_lengths_are_refused(lengths: Any) -> None:
    with pytest.raises(wire.WireError):
        wire.unpack(body(json.dumps({"b": lengths}).encode(), b"0123456789"))


def test_blob_serves_once() -> None:
    raw = json.dumps({"v": [{"$": "bytes", "i": 0}] * 2, "b": [4]}).encode()
    header, blobs = wire.unpack(body(raw, b"abcd"))
    with pytest.raises(wire.WireError, match="twice"):
        wire.Decoder(blobs).decode(header["v"])


@pytest.mark.parametrize("index", [-1, 1, 2**70, True, None, "0", 0.0, [0]])
def test_reference_to_no_blob_is_refused(index: Any) -> None:
    with pytest.raises(wire.WireError):
        wire.Decoder([b"abcd"]).decode({"$": "bytes", "i": index})


def test_duplicate_keys_are_harmless() -> None:
    assert attempt(body(b'{"v":1,"v":[2],"v":{"a":1,"a":2}}')) == {"a": 2}


def cost(case: bytes | Callable[[], object]) -> float:
    """Processor seconds to read a frame or call a function; a WireError is an answer too."""
    began = process_time()
    try:
        _ = read(case) if isinstance(case, bytes) else case()
    except wire.WireError:
        pass
    return process_time() - began


@pytest.fixture(scope="module")
def honest() -> float:
    """What the largest honest value costs on this machine."""
    return cost(frame_of([[i, str(i), {"k": i}] for i in range(80_000)])[4:])


def long_values(kind: str, items: list[Any]) -> Callable[[], object]:
    return lambda: wire.Decoder([]).decode({"$": kind, "v": items})


def hexint(number: int) -> dict[str, str]:
    return {"$": "int", "v": f"{number:x}"}


def alike_within_alike(levels: int, width: int, last: int = 0) -> dict[str, Any]:
    """A set of sets of sets that all hash alike: each level multiplies what comparing two of the level below takes by a thousand."""
    parts = [hexint(n * P) for n in (*range(1, width), width + last)]
    if levels > 1:
        parts = [alike_within_alike(levels - 1, width, n) for n in (*range(1, width), width + last)]
    return {"$": "frozenset", "v": parts}


def random_digits(seed: int) -> str:
    """As many as a fraction may have; those of a pattern are reduced in no time."""
    return f"{random.Random(seed).getrandbits(4 * wire.MAX_SCALAR) | 1 << (4 * wire.MAX_SCALAR - 1):x}"


DEEP = 10**6
SLOW: dict[str, Any] = {
    "deep lists": body(b'{"v":' + b"[" * DEEP + b"]" * DEEP + b"}"),
    "deep lists, never closed": body(b'{"v":' + b"[" * DEEP),
    "deep objects": body(b'{"v":' * DEEP + b"1" + b"}" * DEEP),
    "deep, hidden behind strings": body(b'["' + b'\\"' * 50_000 + b'",' + b"[" * DEEP),
    "string without end, full of quotes": body(b"[" * 300 + b'"' + b'\\"' * 400_000),
    "string without end, full of newlines after backslashes": body(b"[" * 300 + b'"' + b"\\\n" * 400_000 + b'"' * 1000),
    "string that ends in a backslash": body(b"[" * 300 + b'"' + b"x" * 400_000 + b"\\"),
    "many empty lists": body(b'{"v":[' + b"[]," * 300_000 + b"0]}"),
    "too many empty lists": body(b'{"v":[' + b"[]," * 3_000_000 + b"0]}"),
    "too many numbers": body(b'{"v":[' + b"0," * 3_000_000 + b"0]}"),
    "closing brackets without end": body(b"[" * 300 + b"]" * (40 * 2**20)),
    "huge number": body(b'{"v":' + b"9" * 2_000_000 + b"}"),
    "runs of digits just below the cap": body(b'{"v":[' + b",".join([b"9" * 3999] * 1000) + b"]}"),
    "huge exponent": body(b'{"v":[1e999999999,-1E99999,1e-999999999]}'),
    "nested to the limit, over and over": body(b'{"v":[' + b",".join([b"[" * 90 + b"]" * 90] * 2500) + b"]}"),
    "keys that all collide": long_values("set", [hexint(k * P) for k in range(1, 200_000)]),
    "half of the keys collide": long_values("set", [hexint(k * P) for k in range(1, 99_000)] + list(range(100_000))),
    "dict keys that collide": long_values("dict", [i for k in range(1, 99_000) for i in (hexint(k * P), 0)]),
    "few long keys that collide": long_values("set", [{"$": "tuple", "v": [0] * 3000 + [hexint(k * P)]} for k in range(1, 500)]),
    "frozensets that collide": long_values("set", [{"$": "frozenset", "v": [hexint(k * P)]} for k in range(1, 50_000)]),
    "frozensets that collide within such": lambda: wire.Decoder([]).decode(alike_within_alike(3, 60)),
    "the same in tuples": long_values("set", [{"$": "tuple", "v": [alike_within_alike(2, 60, n)]} for n in range(60)]),
    "the same one level more": lambda: wire.Decoder([]).decode(alike_within_alike(4, 30)),
    "fractions that collide, few in each of many sets": long_values(
        "tuple", [{"$": "frozenset", "v": [{"$": "fraction", "v": [f"{k * P:x}", "1"]} for k in range(1, 64)]}] * 8_000
    ),
    "decimal beside a number of a million bits": lambda: wire.Decoder([b"f" * 2_000_000]).decode(
        {"$": "set", "v": [{"$": "decimal", "v": str(int("f" * 2_000_000, 16) % P)}, {"$": "int", "i": 0}]}
    ),
    "the same one level down": lambda: wire.Decoder([b"f" * 2_000_000]).decode(
        {"$": "set", "v": [{"$": "tuple", "v": [{"$": "decimal", "v": str(int("f" * 2_000_000, 16) % P)}]}, {"$": "tuple", "v": [{"$": "int", "i": 0}]}]}
    ),
    "decimals with absurd exponents": long_values("set", [{"$": "decimal", "v": f"{d}e99999999999999999"} for d in range(1, 3000)]),
    "decimals of many digits": long_values("list", [{"$": "decimal", "v": "7" * wire.MAX_SCALAR}] * 100),
    "decimal beyond the cap": long_values("tuple", [{"$": "decimal", "v": "7" * 10**7}]),
    "fractions of many digits": long_values("tuple", [{"$": "fraction", "v": ["3" * 65_000 + "1", "7" * 65_001]}] * 60),
    "fractions that take long to reduce": long_values("tuple", [{"$": "fraction", "v": [random_digits(1), random_digits(2)]}] * 300),
    "fraction beyond the cap": long_values("tuple", [{"$": "fraction", "v": ["3" * 10**6, "7" * 10**6]}]),
    "number of sixteen million hex digits": lambda: wire.Decoder([b"f" * 2**24]).decode({"$": "int", "i": 0}),
    "number that is almost hex": lambda: wire.Decoder([b"f" * 2**24 + b"g"]).decode({"$": "int", "i": 0}),
    "range of absurd size": long_values("range", [0, hexint(16**60_000), 1]),
    "array of absurd shape": lambda: wire.Decoder([b""]).decode({"$": "array", "d": "<f8", "s": [2**47] * 32, "i": 0}),
    "array of nothing in absurd shape": lambda: wire.Decoder([b""]).decode({"$": "array", "d": "S0", "s": [2**47] * 32, "i": 0}),
    "dtype of many digits": lambda: wire.Decoder([b""]).decode({"$": "array", "d": "S" + "9" * 10**6, "s": [0], "i": 0}),
    "mime type that almost matches": lambda: wire.Decoder([b""]).decode({"$": "image", "m": "a" * 10**6, "i": 0}),
}  # fmt: skip


@pytest.mark.parametrize("name", SLOW)
def test_crafted_input_costs_no_more_than_honest_input(name: str, reckless: None, honest: float) -> None:
    # What this guards against costs minutes to hours; the bound only has to tell that from a busy machine.
    assert cost(SLOW[name]) < max(3.0, 5 * honest)


def test_fractions_that_are_sent_can_be_read() -> None:
    """Whatever the encoder lets through the decoder takes, up to the largest; what takes too long to reduce is refused where it is sent."""
    largest = Fraction(int(random_digits(1), 16), int(random_digits(2), 16))
    many = [Fraction(n, n + 1) for n in range(1, 5_000)]
    for value in (largest, many, [Fraction(3**1000, 7**n) for n in range(400, 900)]):
        encoder = wire.Encoder(strict=True)
        node = encoder.encode(value)
        assert wire.Decoder(encoder.blobs, limit=2**24).decode(node) == value
    with pytest.raises(wire.TooLarge):
        wire.Encoder(strict=True).encode([largest, largest])


def test_decimals_are_as_long_as_their_exponents() -> None:
    """Whoever makes a whole number or a fraction of one, as a check of an argument's type does, writes its exponent out."""
    for text in ("1E+999999999", "-1E-999999999", "1E+999999999999999999", "0E+999999999", "1E+70000"):
        node = {"$": "decimal", "v": text}
        with pytest.raises(wire.TooLarge):
            wire.Decoder([]).decode(node)
        assert wire.Encoder().encode(Decimal(text))["$"] == "opaque"
        with pytest.raises(wire.NotPlain):
            wire.Encoder(strict=True).encode(Decimal(text))
    with pytest.raises(wire.TooLarge):
        wire.Decoder([]).decode([{"$": "decimal", "v": "7" * 60_000}] * 2)
    with pytest.raises(wire.TooLarge):
        wire.Encoder().encode([Decimal("1E+60000"), Decimal("1E-60000")])
    usual = [Decimal("7" * 40_000), *map(Decimal, ("0", "-0E-20", "1E+40000", "NaN", "-Infinity", "0.1", "1E-250"))]
    usual += [Decimal(n) / 7 for n in range(20_000)]
    encoder = wire.Encoder(strict=True)
    node = encoder.encode(usual)
    assert list(map(str, wire.Decoder(encoder.blobs, limit=2**24).decode(node))) == list(map(str, usual))


def test_honest_keys_that_hash_alike_are_accepted() -> None:
    corners = {(a, b, c, d) for a in (-1, -2) for b in (-1, -2) for c in (-1, -2) for d in (-1, -2)}
    keys = corners | {(i, j) for i in range(-40, 40) for j in range(-2, 2)} | set(range(5000))
    families = {
        frozenset(chosen)
        for size in range(5)
        for chosen in itertools.combinations(itertools.product((-2, -1, 0), (-2, -1)), size)
    }
    for value in (
        keys,
        set(itertools.product(range(-2, 3), repeat=6)),
        {frozenset({family}) for family in families},
        dict.fromkeys(families, 0),
    ):
        encoder = wire.Encoder()
        assert wire.Decoder(encoder.blobs).decode(encoder.encode(value)) == value


@pytest.mark.parametrize(
    "node",
    [
        {"$": "int", "v": "0x10"}, {"$": "int", "v": "1_0"}, {"$": "int", "v": " 1"}, {"$": "int", "v": ""}, {"$": "int", "v": "٣"},
        {"$": "int"}, {"$": "float", "v": "1"}, {"$": "float", "v": []}, {"$": "complex", "v": [1, 2]}, {"$": "complex", "v": [1.0]},
        {"$": "range", "v": [0, 1, 0]}, {"$": "range", "v": [0.0, 1, 1]}, {"$": "date", "v": [0, 1, 1]}, {"$": "date", "v": [True, 1, 1]},
        {"$": "datetime", "v": [2024, 13, 1, 0, 0, 0, 0, 0], "z": None}, {"$": "datetime", "v": [2024, 1, 1, 0, 0, 0, 0, 2], "z": None},
        {"$": "datetime", "v": [2024, 1, 1, 0, 0, 0, 0, 0], "z": 1e999}, {"$": "time", "v": [1, 2, 3, 4, 0], "z": "UTC"},
        {"$": "timedelta", "v": [10**12, 0, 0]}, {"$": "timezone", "v": 86400}, {"$": "decimal", "v": "abc"}, {"$": "decimal", "v": 1},
        {"$": "fraction", "v": ["1", "0"]}, {"$": "fraction", "v": ["1"]}, {"$": "uuid", "v": "f" * 33}, {"$": "uuid", "v": "-1"},
        {"$": "set", "v": [[1]]}, {"$": "set", "v": [{"$": "decimal", "v": "sNaN"}]}, {"$": "set", "v": {"a": 1}}, {"$": "dict", "v": [1]},
        {"$": "dict", "v": [[1], 2]}, {"$": "tuple", "v": "abc"}, {"$": "tuple"}, {"$": "nothing"}, {"$": 5}, {"$": None, "v": ...},
        {"$": "array", "d": "|O", "s": [0], "i": 0}, {"$": "array", "d": "<f8,<f8", "s": [0], "i": 0}, {"$": "array", "d": "<f8", "s": [1], "i": 0},
        {"$": "array", "d": "<f8", "s": [-1], "i": 0}, {"$": "array", "d": "<f8", "s": [True], "i": 0}, {"$": "array", "d": 8, "s": [0], "i": 0},
        {"$": "image", "m": "text/html\n", "i": 0}, {"$": "image", "m": "../x", "i": 0}, {"$": "table", "n": ["a"], "v": [], "x": None},
        {"$": "table", "n": [1], "v": [[1]], "x": None}, {"$": "table", "n": ["a"], "v": [[1]], "x": "y"}, {"$": "opaque", "t": 1, "r": ""},
        {"$": "str", "i": 0, "x": 1} | {"i": 1},
    ],
    ids=lambda n: ascii(n)[:50],
)  # fmt: skip
def test_malformed_values_are_refused(node: Any) -> None:
    with pytest.raises(wire.WireError):
        wire.Decoder([b"abc"]).decode(node)


@pytest.mark.parametrize("raw", [b"\xff", b'"\xed\xa0\x80"', b'{"v":"\xc3"}', b'{"v":NaN}', b'{"v":Infinity}', b"[]", b"1", b'"x"', b"", b" {}", b"{} ", b"{}{}", b'{"v":1', b"{'v':1}", b'{"v":"\x00"}', b'{"v":"\\x41"}'])  # fmt: skip
def test_what_is_no_json_object_is_refused(raw: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.unpack(body(raw))


@given(st.binary(max_size=2000))
@settings(max_examples=30)
def test_invalid_utf8_in_a_text_blob(data: bytes) -> None:
    try:
        value = wire.Decoder([data]).decode({"$": "str", "i": 0})
    except wire.WireError:
        return
    assert value.encode("utf-8", "surrogatepass") == data


MEMORY = """
import resource, sys
sys.path.insert(0, sys.argv[1])
from tests.core.test_wire_hostile import SLOW, read
from safeexec import wire
limit = 1200 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.setrecursionlimit(10**6)
HUNGRY = ("deep", "many", "too many", "string", "keys", "number", "huge", "array", "range")
cases = [case for name, case in SLOW.items() if name.startswith(HUNGRY)]
for case in cases:
    try:
        read(case) if isinstance(case, bytes) else case()
    except wire.WireError:
        pass
# Not ru_maxrss, which begins with that of the process this one was forked from.
peak = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) // 1024
assert peak < 900, peak
print("survived", len(cases) > 15)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="n/a: counts on Linux' RLIMIT_AS")
def test_all_of_it_in_a_process_with_little_memory() -> None:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run([sys.executable, "-c", MEMORY, root], capture_output=True, text=True, timeout=60)
    assert done.stdout == "survived True\n", done.stderr


@pytest.mark.parametrize(
    "text",
    [
        b'{"":' * 1_000_000,
        b"[" + b'"",' * 2_500_000,
        b'{"":[["",[' * 300_000,
        b'["' + b"\\\\" * 4_000_000 + b'"]' * 300,
    ],
)
def test_looking_at_a_header_takes_no_more_than_the_header(text: bytes) -> None:
    """A list of what lies between its strings took 2.7 GB of the host for one frame of 48 MB that any guest can send."""
    tracemalloc.start()
    try:
        with pytest.raises(wire.WireError):
            wire.unpack(body(text), max_nodes=150_000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * len(text) + (1 << 20), peak / len(text)


TEXTS = st.recursive(
    st.text('ab"\\[]{},:1é', max_size=6) | st.integers() | st.floats(allow_nan=False) | st.none(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\[{,', max_size=4), inner, max_size=4),
)


@given(TEXTS, st.booleans(), st.integers(1, 40))
def test_what_is_in_strings_is_not_counted_wherever_the_text_is_cut(value: object, plain: bool, at_once: int) -> None:
    def count(one: object) -> tuple[int, int]:
        inner = list(one.values()) if isinstance(one, dict) else one if isinstance(one, list) else []
        below = [count(item) for item in inner]
        own = isinstance(one, dict | list)
        return own + max(len(inner) - 1, 0) + sum(n for n, _ in below), own + max(
            (depth for _, depth in below), default=0
        )

    nodes, depth = count(value)
    raw = json.dumps(value, ensure_ascii=plain).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(wire, "_AT_ONCE", at_once)
        bare = wire._strip_strings(raw)
        wire.check_json(raw, nodes, depth)
    assert bare.count(b"[") + bare.count(b"{") + bare.count(b",") == nodes
    if nodes:
        with pytest.raises(wire.WireError):
            wire.check_json(raw, nodes - 1, depth)
        if depth:
            with pytest.raises(wire.WireError):
                wire.check_json(raw, nodes, depth - 1)


@given(st.recursive(st.sampled_from([1, "[", '{"]', ""]), lambda v: st.lists(v, max_size=4) | st.dictionaries(st.text("[]{}\"\\", max_size=3), v, max_size=4), max_leaves=60), st.integers(1, 12))  # fmt: skip
def test_depth_is_counted_as_it_is(value: Any, most: int) -> None:
    def depth(item: Any) -> int:
        below = item.values() if isinstance(item, dict) else item if isinstance(item, list) else None
        return 0 if below is None else 1 + max(map(depth, below), default=0)

    # Enough brackets for them to be looked at, none of them deep.
    raw = json.dumps([value, *[[]] * 20]).encode()
    deeper = depth([value, []]) > most
    try:
        wire.check_json(raw, max_depth=most)
    except wire.WireError:
        assert deeper
    else:
        assert not deeper


@pytest.mark.parametrize("on", [True, False])
def test_a_large_header_is_read_without_the_collector_which_is_then_as_it_was(
    on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    scan = wire._scan

    def watched(text: str, start: int) -> Any:
        seen.append(gc.isenabled())
        return scan(text, start)

    monkeypatch.setattr(wire, "_scan", watched)
    before = gc.isenabled()
    (gc.enable if on else gc.disable)()
    try:
        for text in (
            b'{"t":1,"x":[' + b"[]," * 50_000 + b"0]}",
            b'{"t":1,"x":[' + b"[]," * 50_000 + b"]}",
        ):  # the second is no JSON
            with contextlib.suppress(wire.WireError):
                wire.unpack(body(text))
            assert gc.isenabled() is on
        assert seen == [False, False]
    finally:
        (gc.enable if before else gc.disable)()
