"""What a host gives a session of arrays, tables and pictures: objects of libraries that nobody reviewed would lead past the language wall."""

from __future__ import annotations

from typing import Any

import pytest

from safeexec import DEFAULT_IMPORTS, Array, Executor, Image, Policy, Table

numpy: Any = pytest.importorskip("numpy")
pandas: Any = pytest.importorskip("pandas")
pytest.importorskip("PIL")


def table() -> Any:
    """A table."""
    return pandas.DataFrame({"n": [1, 2]})


GIVEN = {"a": numpy.arange(3), "t": table(), "i": Image("image/png", b"\x89PNG")}
KINDS = "[type(each).__name__ for each in (a, t, i, table())]"


def test_where_the_language_is_a_wall_they_stay_stand_ins() -> None:
    with Executor("local") as executor, executor.session(tools=[table], variables=GIVEN) as session:
        assert executor.isolation["language"].active
        assert session.run(KINDS).value == ["Array", "Table", "Image", "Table"]
        assert session.run("(a.shape, a.data[8], list(t.columns), i.data)").value == ((3,), 1, ["n"], b"\x89PNG")
        for call in ("a.to_numpy()", "t.to_pandas()", "i.to_pil()", "type(a).to_numpy(a)", "t.columns['n'].to_numpy()"):
            error = session.run(call).error
            assert error is not None and error.type == "ImportError", call
        # What a table of pandas gave them: an attribute that is read by pandas, and not by the wall.
        reach = "table().eval('@x.__class__.__mro__[1].__subclasses__()', local_dict={'x': []})"
        assert session.run(reach).value is None
        back = session.run("(a, t)").value
        assert back[0] == Array("<i8", (3,), numpy.arange(3).tobytes()) and isinstance(back[1], Table)


@pytest.mark.parametrize("more", ["numpy.*", "pandas", "*"])
def test_where_it_is_none_they_become_what_they_were(more: str) -> None:
    policy = Policy(imports=(*DEFAULT_IMPORTS, more))
    with Executor("local", policy=policy) as executor, executor.session(tools=[table], variables=GIVEN) as session:
        assert not executor.isolation["language"].active
        assert session.run(KINDS).value == ["ndarray", "DataFrame", "Image", "DataFrame"]
