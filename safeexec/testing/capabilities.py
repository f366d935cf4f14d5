"""What not every sandbox can do: tested where it is declared, refused clearly elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from safeexec.errors import NotSupported
from safeexec.testing.base import Base


class Capabilities(Base):
    def test_fork(self) -> None:
        with self.session(variables={"x": [1]}) as session:
            if "fork" not in self._capabilities:
                with pytest.raises(NotSupported):
                    session.fork()
                assert session.run("x").value == [1]
                return
            session.run("def f():\n    return sum(x)\nimport random\nrandom.random()")
            with session.fork() as branch:
                branch.run("x.append(2)")
                session.run("x.append(10)")
                assert branch.run("f()").value == 3 and session.run("f()").value == 11
                branch.close()
                assert session.run("1").value == 1

    def test_fork_keeps_or_replaces_tools(self) -> None:
        if "fork" not in self._capabilities:
            pytest.skip("n/a: fork is not declared for this sandbox")
        with self.session({"f": lambda: "old"}) as session:
            with session.fork() as branch:
                assert branch.run("f()").value == "old"
            with session.fork(tools={"f": lambda: "new"}) as branch:
                assert branch.run("f()").value == "new" and session.run("f()").value == "old"

    def test_fork_can_reseed(self) -> None:
        if "fork" not in self._capabilities:
            pytest.skip("n/a: fork is not declared for this sandbox")
        code = "import random\nrandom.random()"
        with self.session() as session:
            session.run(code)
            with session.fork() as same, session.fork(reseed=True) as other:
                mine = session.run(code).value
                assert same.run(code).value == mine and other.run(code).value != mine

    def test_snapshot(self, tmp_path: Path) -> None:
        with self.session({"f": lambda: 1}, {"x": [1]}) as session:
            if "snapshot" not in self._capabilities:
                with pytest.raises(NotSupported):
                    session.snapshot()
                with pytest.raises(NotSupported):
                    self.executor.restore(b"")
                assert session.run("x").value == [1]
                return
            session.run("def g():\n    return x + [2]")
            image: Any = session.snapshot()
            session.run("x.append(99)")
        with self.executor.restore(image, tools={"f": lambda: 2}, variables={"y": 5}) as back:
            assert back.run("g() + [y, f()]").value == [1, 2, 5, 2]
        with self.executor.restore(image) as back:  # a snapshot holds no tools
            assert back.run("f()").error is not None
