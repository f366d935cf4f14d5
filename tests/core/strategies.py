"""Values for property tests: everything that crosses, and trees of protocol nodes that no honest guest sends."""

from __future__ import annotations

from datetime import timedelta, timezone
from typing import Any

from hypothesis import strategies as st

from safeexec import Array, Image

zones = st.builds(timezone, st.integers(-86_399_999_999, 86_399_999_999).map(lambda us: timedelta(microseconds=us)))
surrogates = st.text(st.characters(categories=["Cs", "Ll", "Cc", "So"]), max_size=20)

scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**5000), 2**5000),
    st.floats(),
    st.complex_numbers(),
    st.text(max_size=40),
    st.text(min_size=1020, max_size=1030),
    surrogates,
    st.binary(max_size=60),
    st.dates(),
    st.times(timezones=st.none() | zones),
    st.datetimes(timezones=st.none() | zones),
    st.timedeltas(),
    zones,
    st.decimals(),
    st.fractions(),
    st.uuids(),
    st.builds(range, st.integers(), st.integers(), st.integers().filter(bool)),
)

hashable: st.SearchStrategy[Any] = st.recursive(
    scalars.filter(lambda v: not getattr(v, "is_snan", bool)()),
    lambda inner: st.lists(inner, max_size=4).map(tuple) | st.frozensets(inner, max_size=4),
    max_leaves=6,
)

values: st.SearchStrategy[Any] = st.recursive(
    scalars | hashable,
    lambda inner: st.one_of(
        st.lists(inner, max_size=12),
        st.lists(inner, max_size=5).map(tuple),
        st.dictionaries(st.text(max_size=10) | hashable, inner, max_size=6),
        st.sets(hashable, max_size=5),
        st.frozensets(hashable, max_size=5),
    ),
    max_leaves=12,
)

TAGS = (
    "str bytes int float complex tuple set frozenset dict range datetime date time timedelta timezone decimal fraction uuid array image table opaque"
).split()

json_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from(["", "nan", "-inf", "f" * 40, "-1", "1e9", "<f8", "|O", "S0", "image/png", "../x", "\ud800"]),
    st.text(max_size=8),
)


def _node(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    fields = st.fixed_dictionaries(
        {"$": st.sampled_from(TAGS) | st.sampled_from(["os", "", "object"])},
        optional=dict.fromkeys(("v", "i", "z", "d", "s", "m", "n", "x", "t", "r"), inner),
    )
    return st.one_of(st.lists(inner, max_size=8), st.dictionaries(st.text(max_size=3), inner, max_size=4), fields)


nodes: st.SearchStrategy[Any] = st.recursive(json_scalars | st.integers(0, 3), _node, max_leaves=20)

rich: st.SearchStrategy[Any] = st.one_of(
    st.binary(max_size=64).map(lambda b: Array("|u1", (len(b),), b)),
    st.binary(max_size=64).map(lambda b: Image("image/png", b)),
)
