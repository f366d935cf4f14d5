"""Values round-trip with their exact type; the encoder takes apart what is not built in."""

from __future__ import annotations

import collections
import dataclasses
import enum
import json
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from safeexec import wire
from safeexec.testing import same
from tests.core.strategies import rich, values


def cross(value: Any, limit: int = 16 * 2**20, strict: bool = False) -> Any:
    """Encode, pack, unpack, decode: the whole way."""
    encoder = wire.Encoder(limit, strict)
    header = {"t": "x", "v": encoder.encode(value)}
    data = b"".join(bytes(b) for b in wire.pack(header, encoder.blobs))
    back, blobs = wire.unpack(data[4:])
    return wire.Decoder(blobs).decode(back["v"])


@given(values)
def test_every_value_survives(value: Any) -> None:
    assert same(cross(value), value)
    assert same(cross(value, strict=True), value)


@given(rich)
def test_rich_stand_ins_survive(value: Any) -> None:
    assert same(cross([value])[0], value)


@given(values)
def test_encoding_is_json_and_blobs(value: Any) -> None:
    encoder = wire.Encoder()
    node = encoder.encode(value)
    assert json.loads(json.dumps(node)) == node
    assert all(isinstance(blob, bytes | bytearray | memoryview) for blob in encoder.blobs)


@given(values)
def test_what_is_its_own_node_would_have_been_encoded_so_and_for_nothing(value: Any) -> None:
    assert not wire.is_node(value) or same(wire.Encoder(0, strict=True).encode(value), value)
    if type(value) in (int, float, bool, type(None)):
        assert wire.is_node(value) == (type(wire.Encoder().encode(value)) is not dict)
    else:
        assert not wire.is_node(value)


@given(st.lists(values))
def test_what_are_their_own_values_would_have_been_decoded_so(items: list[Any]) -> None:
    nodes = [wire.Encoder().encode(item) for item in items]
    if wire.are_values(nodes):
        assert same([wire.Decoder(()).decode(node) for node in nodes], nodes)
    assert wire.are_values(nodes) == all(not isinstance(node, list | dict) for node in nodes)


class Colour(enum.Enum):
    RED = "red"


class Point(NamedTuple):
    x: int
    y: int


@dataclasses.dataclass
class Data:
    a: int
    b: Any = None


class Str(str):
    def __str__(self) -> str:
        raise AssertionError("guest code ran")

    def encode(self, *_: Any) -> bytes:  # type: ignore[override]
        raise AssertionError("guest code ran")


class Int(int):
    def __add__(self, other: object) -> Any:
        raise AssertionError("guest code ran")


class List(list[Any]):
    def __iter__(self) -> Any:
        raise AssertionError("guest code ran")


class Dict(dict[Any, Any]):
    def items(self) -> Any:
        raise AssertionError("guest code ran")

    __iter__ = __getitem__ = keys = items  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (collections.OrderedDict(a=1), {"a": 1}),
        (Point(1, 2), (1, 2)),
        (Colour.RED, "red"),
        (Data(1, [Point(1, 2)]), {"a": 1, "b": [(1, 2)]}),
        (Str("s"), "s"),
        (Int(5), 5),
        (List([1]), [1]),
        (Dict(a=1), {"a": 1}),
        (bytearray(b"x"), b"x"),
        (memoryview(b"xy"), b"xy"),
        (memoryview(b"abcd")[::2], b"ac"),
        (Str("long" * 1000), "long" * 1000),
    ],
    ids=lambda v: type(v).__name__,
)
def test_subclasses_become_their_base_without_running_their_code(value: Any, plain: Any) -> None:
    assert same(cross(value), plain)


@pytest.mark.parametrize("value", [object(), len, type, (i for i in ()), ..., NotImplemented, Data])
def test_the_rest_is_opaque_or_refused(value: Any) -> None:
    assert type(cross(value)) is wire.Opaque
    with pytest.raises(wire.NotPlain):
        cross(value, strict=True)
    with pytest.raises(wire.NotPlain):
        cross({"deep": [value]}, strict=True)


def test_cycles_are_cut_and_refused() -> None:
    loop: list[Any] = [1]
    loop.append({"me": loop})
    assert type(cross(loop)[1]["me"]) is wire.Opaque
    with pytest.raises(wire.NotPlain):
        cross(loop, strict=True)
    data = Data(1)
    data.b = data
    assert type(cross(data)["b"]) is wire.Opaque
    subclass = List([])
    subclass.append(subclass)
    assert type(cross(subclass)[0]) is wire.Opaque


def test_the_same_value_twice_is_no_cycle() -> None:
    shared = [1]
    assert cross([shared, shared, {"x": shared}]) == [[1], [1], {"x": [1]}]


@pytest.mark.parametrize("wrap", [lambda v: [v], lambda v: (v,), lambda v: {"k": v}, lambda v: {1: v}])
def test_deep_nesting_is_cut_without_recursion_trouble(wrap: Any) -> None:
    value: Any = 1
    for _ in range(100_000):
        value = wrap(value)
    depth, back = 0, cross(value)
    while type(back) is not wire.Opaque:
        back = next(iter(back.values())) if type(back) is dict else back[0]
        depth += 1
    assert depth == wire.MAX_DEPTH
    while isinstance(value, list | tuple | dict) and value:  # by hand: the collector would recurse
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]


def test_ten_thousand_million_aliases_are_refused_at_once() -> None:
    value: Any = [0] * 10
    for _ in range(10):
        value = [value] * 10
    with pytest.raises(wire.TooLarge):
        wire.Encoder().encode(value)


@pytest.mark.parametrize(
    "value", [b"x" * 1001, "x" * 1001, "é" * 501, list(range(2000)), 1 << 8000, {"k" * 1001: 1}, ["ab"] * 501]
)
def test_limit_is_kept(value: Any) -> None:
    with pytest.raises(wire.TooLarge):
        wire.Encoder(1000).encode(value)


class Hostile:
    def __repr__(self) -> str:
        raise ValueError("no")


class Huge:
    def __repr__(self) -> str:
        return "x" * 10_000_000


class Renamed:
    pass


Renamed.__name__ = "n" * 100_000
Renamed.__module__ = 5  # type: ignore[assignment]


@pytest.mark.parametrize("value", [Hostile(), Huge(), Renamed(), [Hostile()], {Hostile(): 1}, {1: Huge()}])
def test_hostile_repr_and_names_are_survived(value: Any) -> None:
    back = cross(value)
    assert len(repr(back)) < 20_000


def test_wrong_len_and_iter_of_sets_are_ignored() -> None:
    class Set(set[Any]):
        def __iter__(self) -> Any:
            raise AssertionError("guest code ran")

        def __len__(self) -> int:
            raise AssertionError("guest code ran")

    assert same(cross(Set([1, 2])), {1, 2})


def test_numpy_scalars_are_plain_and_arrays_are_arrays() -> None:
    numpy = pytest.importorskip("numpy")
    assert same(cross([numpy.float64(1.5), numpy.int32(3), numpy.bool_(True), numpy.str_("s")]), [1.5, 3, True, "s"])
    zero = cross(numpy.array(2.5))
    assert same(zero, wire.Array("<f8", (), numpy.array(2.5).tobytes())) and zero.to_numpy() == 2.5
    for dtype in ("<f4", ">i8", "|b1", "<U3", "|S4", "<M8[ns]", "<c16"):
        array = numpy.zeros((2, 3), dtype)
        assert numpy.array_equal(cross(array).to_numpy(), array)
    assert cross(numpy.array([{"a": 1}, None], dtype=object)) == [{"a": 1}, None]
    assert cross(numpy.asfortranarray(numpy.arange(6).reshape(2, 3))).to_numpy().tolist() == [[0, 1, 2], [3, 4, 5]]


def test_frames_of_pandas_round_trip() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"n": [1.5, None], "s": ["a", "b"]}, index=["x", "y"])
    table = cross(frame)
    assert type(table) is wire.Table and table.index == ["x", "y"]
    assert table.to_pandas()["s"].tolist() == ["a", "b"]
    assert list(cross(pandas.Series([1, 2], name="q")).columns) == ["q"]


def test_pictures_arrive_encoded() -> None:
    pil = pytest.importorskip("PIL.Image")
    back = cross(pil.new("RGB", (4, 3), "red"))
    assert back.mime == "image/png" and back.to_pil().size == (4, 3)


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "\ud800\udc00"])
def test_headers_carry_text_that_is_not_unicode(text: str) -> None:
    data = b"".join(bytes(b) for b in wire.pack({"m": text}))
    (back, _) = wire.unpack(data[4:])
    assert back["m"].encode("utf-16", "surrogatepass") == text.encode("utf-16", "surrogatepass")
