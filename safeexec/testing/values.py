"""Values cross by copy, with their exact built-in type; what has no plain form arrives as Opaque."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any
from uuid import UUID

import pytest

from safeexec.errors import LimitExceeded
from safeexec.testing.base import Base, same
from safeexec.wire import Array, Image, Opaque, Table

_EAST = timezone(timedelta(hours=5, minutes=30))

VALUES: list[Any] = [
    None, True, False, 0, -1, 2**63, -(2**64), 10**500, 0.0, -0.0, 1.5, 5e-324, float("nan"), float("inf"), float("-inf"),
    1j, complex(-0.0, float("nan")), "", "plain", "naïve ☃ 🎉 \0 \x1b[31m", "\ud800 lone surrogate", "x" * 5000, b"", bytes(range(256)),
    b"\0" * 100_000, [], [1, "a", None, [2.5, [b"x"]]], (), (1,), (1, (2, [3])), {}, {"a": 1, "$": "int"}, {"$": "bytes", "i": 0},
    {1: "one", (2, 3): [4], None: 5, 2.5: b"", frozenset({1}): "f"}, set(), {1, "a", (2, 3)}, frozenset(), frozenset({b"x", None}),
    range(3), range(10, -10, -3), range(10**30), date(1, 1, 1), date(9999, 12, 31), time(23, 59, 59, 999_999), time(1, 2, tzinfo=_EAST),
    datetime(2024, 2, 29, 12, 30, 15, 7), datetime(2024, 10, 27, 2, 30, fold=1), datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2000, 1, 1, tzinfo=_EAST), timedelta(days=-3, microseconds=1), timedelta.max, UTC, _EAST,
    Decimal("1.10"), Decimal("-0"), Decimal("1E+400"), Decimal("NaN"), Decimal("-Infinity"), Fraction(-22, 7), Fraction(10**60, 3),
    UUID(int=0), UUID("12345678123456781234567812345678"), list(range(5000)), [0.5] * 5000, {str(i): i for i in range(3000)},
]  # fmt: skip

CODE: list[tuple[str, Any]] = [
    ("", None),
    ("x = 1", None),
    ("1; 2; 3", 3),
    ("[1, 2.5, 'a', b'b', None, True]", [1, 2.5, "a", b"b", None, True]),
    ("import collections; collections.Counter('aab')", {"a": 2, "b": 1}),
    ("import collections; collections.OrderedDict(a=1)", {"a": 1}),
    ("import collections; d = collections.defaultdict(list); d['k'].append(1); d", {"k": [1]}),
    ("import collections; P = collections.namedtuple('P', 'x y'); P(1, 2)", (1, 2)),
    ("class L(list):\n    pass\nL([1, 2])", [1, 2]),
    ("class S(str):\n    pass\nS('text')", "text"),
    ("class I(int):\n    pass\nI(7)", 7),
    ("import enum\nclass E(enum.Enum):\n    A = 'a'\nE.A", "a"),
    ("import enum\nclass E(enum.IntEnum):\n    A = 3\n[E.A]", [3]),
    ("import dataclasses\n@dataclasses.dataclass\nclass D:\n    a: int\n    b: str = 'x'\nD(1)", {"a": 1, "b": "x"}),
    ("bytearray(b'abc')", b"abc"),
    ("memoryview(b'abc')", b"abc"),
]


class Values(Base):
    @pytest.mark.parametrize("value", VALUES, ids=lambda v: f"{type(v).__name__}-{ascii(v)[:24]}")
    def test_value_survives_both_ways(self, value: Any) -> None:
        session = self.shared()
        session.variables["v"] = value
        assert same(session.run("v").value, value)
        assert same(session.variables["v"], value)
        result = session.run("w = [v, {'in': v}]; type(v).__name__")
        assert result.value == type(value).__name__
        assert same(session.variables["w"], [value, {"in": value}])

    @pytest.mark.parametrize(("code", "expected"), CODE, ids=[c[:40] for c, _ in CODE])
    def test_code_yields_plain_value(self, code: str, expected: Any) -> None:
        result = self.shared().run(code)
        assert result.ok, result.error
        assert same(result.value, expected)

    @pytest.mark.parametrize("code", ["object()", "lambda: 1", "(i for i in ())", "print", "type('T', (), {})"])
    def test_what_has_no_plain_form_is_opaque(self, code: str) -> None:
        value = self.value(code)
        assert type(value) is Opaque
        assert value.type and type(value.repr) is str

    def test_cycle_is_cut(self) -> None:
        value = self.value("a = [1]; a.append(a); a")
        assert value[0] == 1 and type(value[1]) is Opaque
        value = self.value("d = {}; d['me'] = d; d")
        assert type(value["me"]) is Opaque

    def test_deep_nesting_is_cut(self) -> None:
        value = self.value("a = []\nfor _ in range(5000):\n    a = [a]\na")
        for _ in range(90):
            assert type(value) is list
            value = value[0]

    def test_aliases_do_not_explode(self) -> None:
        result = self.run("a = [0] * 10\nfor _ in range(12):\n    a = [a] * 10\na")
        assert result.ok and result.truncated
        assert type(result.value) is Opaque

    def test_value_over_the_limit_is_described(self) -> None:
        result = self.run("'x' * 2_000_000", value=1_000_000)
        assert result.ok and result.truncated
        assert type(result.value) is Opaque and result.value.type == "str"
        assert len(result.value.repr) < 10_000

    def test_hostile_repr_does_not_break_the_step(self) -> None:
        code = "class H:\n    def __repr__(self):\n        raise ValueError('no')\n[H(), 1]"
        value = self.value(code)
        assert type(value[0]) is Opaque and value[1] == 1

    def test_values_are_copies(self) -> None:
        mine = [1, [2]]
        with self.session(variables={"v": mine}) as session:
            session.run("v[1].append(3)")
            assert mine == [1, [2]]
            taken = session.variables["v"]
            taken.append(4)
            assert session.variables["v"] == [1, [2, 3]]

    def test_large_bytes_cross_both_ways(self) -> None:
        data = bytes(range(256)) * 40_000
        with self.session(variables={"v": data}) as session:
            assert session.run("len(v)").value == len(data)
            assert session.run("v").value == data

    def test_host_refuses_what_is_not_plain(self) -> None:
        with self.session() as session:
            with pytest.raises(TypeError, match="cannot be passed"):
                session.variables["f"] = lambda: 1
            with pytest.raises(TypeError, match="cannot be passed"):
                session.variables["o"] = [object()]
            assert session.run("1").value == 1

    def test_host_refuses_a_value_over_the_limit(self) -> None:
        with self.session(value=100_000) as session:
            with pytest.raises(LimitExceeded, match=r"Limits\.value"):
                session.variables["big"] = b"x" * 200_000
            session.run("big = b'x' * 200_000")
            with pytest.raises(LimitExceeded, match=r"Limits\.value"):
                session.variables["big"]
            assert session.run("len(big)").value == 200_000

    def test_array_table_and_image_stand_ins_reach_the_host(self) -> None:
        with self.session() as session:
            session.variables["a"] = Array("<i4", (2, 2), bytes(range(16)))
            session.variables["i"] = Image("image/png", b"not parsed")
            session.variables["t"] = Table({"n": [1, 2], "s": ["a", "b"]})
            a, t = session.variables["a"], session.variables["t"]
            assert same(a, Array("<i4", (2, 2), bytes(range(16))))
            assert list(t.columns) == ["n", "s"] and t.columns["s"] == ["a", "b"]
            assert same(session.variables["i"], Image("image/png", b"not parsed"))

    def test_numpy_array_arrives_as_plain_array(self) -> None:
        policy = self.needs_module("numpy")
        with self.session(policy=policy) as session:
            result = session.run(
                "import numpy as np\n[np.arange(6, dtype='<i4').reshape(2, 3), np.float64(1.5), np.bool_(True)]"
            )
            assert result.ok, result.error
            array, scalar, flag = result.value
            assert array.dtype == "<i4" and array.shape == (2, 3)
            assert array.data == b"".join(i.to_bytes(4, "little") for i in range(6))
            assert same(scalar, 1.5) and flag is True

    def test_data_frame_arrives_as_table(self) -> None:
        policy = self.needs_module("pandas")
        with self.session(policy=policy) as session:
            result = session.run("import pandas as pd\npd.DataFrame({'n': [1, 2], 's': ['a', None]})")
            assert result.ok, result.error
            assert type(result.value) is Table and list(result.value.columns) == ["n", "s"]
            assert result.value.columns["n"].data == b"".join(i.to_bytes(8, "little") for i in (1, 2))

    def test_picture_arrives_as_encoded_image(self) -> None:
        policy = self.needs_module("PIL")
        with self.session(policy=policy) as session:
            result = session.run("from PIL import Image\nImage.new('RGB', (3, 2), 'red')")
            assert result.ok, result.error
            assert type(result.value) is Image and result.value.data.startswith(b"\x89PNG")
