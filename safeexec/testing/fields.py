"""Every field of Policy is honoured, or starting raises a PolicyError that names it: none is ever ignored."""

from __future__ import annotations

import socket
import threading

import pytest

from safeexec.errors import BackendUnavailable, PolicyError, SafeExecError
from safeexec.policy import DEFAULT_IMPORTS
from safeexec.testing.base import Base, assert_closed


class Fields(Base):
    def test_imports_restrict(self) -> None:
        executor = self.started(imports=("math",))
        if executor is None:
            return
        with executor, executor.session() as session:
            assert session.run("import math\nmath.floor(2.5)").value == 2
            for code in ("import fractions", "from fractions import Fraction", "__import__('fractions')"):
                error = session.run(code).error
                assert error is not None and error.kind == "policy", (code, error)
            error = session.run("import fractions").error
            assert error is not None and error.type == "ImportError" and "'fractions'" in error.message

    def test_own_files_are_imported_under_the_same_rule(self) -> None:
        files = {
            "helper_of_mine.py": b"import math\ndef area(r):\n    return math.floor(math.pi * r * r)\n",
            "package_of_mine/__init__.py": b"from . import part\n",
            "package_of_mine/part.py": b"import math\nfrom helper_of_mine import area\nx = area(math.sqrt(2))\n",
            "greedy_of_mine.py": b"import fractions\n",
        }
        code = "import helper_of_mine\nfrom package_of_mine import part\nhelper_of_mine.area(1), part.x"
        executor = self.started(imports=("math",), files=files)
        if executor is not None:
            with executor, executor.session() as session:
                assert session.run(code).value == (3, 6)
                for refused in ("import greedy_of_mine", "import fractions", "from package_of_mine import fractions"):
                    error = session.run(refused).error
                    assert error is not None and error.type == "ImportError", (refused, error)
        with self.make(files=files) as executor:
            assert executor.run(code).value == (3, 6)

    def test_imports_add(self) -> None:
        executor = self.started(imports=(*DEFAULT_IMPORTS, "colorsys"))
        if executor is None:
            return
        with executor:
            assert executor.run("import colorsys, json\ncolorsys.rgb_to_hsv(1, 0, 0) and json.dumps(1)").value == "1"

    def test_imports_of_everything(self) -> None:
        executor = self.started(imports="*")
        if executor is None:
            return
        with executor:
            assert executor.run("import colorsys\ncolorsys.rgb_to_hsv(1, 0, 0)").value == (0.0, 1.0, 1.0)

    def test_default_imports_are_there(self) -> None:
        with self.session() as session:
            for name in DEFAULT_IMPORTS:
                result = session.run(f"import {name}")
                assert result.ok, (name, result.error)

    def test_packages_are_there_or_refused(self) -> None:
        name = self._package or "msgpack"
        try:
            executor = self.started(packages=(name,), imports="*")
        except BackendUnavailable as error:
            assert self._package is None, error
            assert name in str(error)
            return
        if executor is None:
            assert self._package is None, "the declared package is refused"
            return
        with executor:
            result = executor.run(f"import {name}\n{name}.__name__")
            assert result.value == name, result.error

    def test_network_reaches_what_is_named_or_is_refused(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            executor = self.started(network=("127.0.0.1",), imports="*")
            if executor is None:
                return
            reached = threading.Event()

            def serve() -> None:
                connection, _ = server.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello")
                reached.set()

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            code = f"import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{port}/', timeout=5).read()"
            with executor:
                assert executor.run(code).value == b"hello"
            assert reached.wait(5)

    def test_env_is_the_guests_environment(self) -> None:
        executor = self.started(env={"CONFORMANCE": "value ☃"})
        if executor is None:
            return
        with executor:
            assert executor.run("import os\n(os.environ.get('CONFORMANCE'), os.getenv('CONFORMANCE'))").value == (
                "value ☃",
                "value ☃",
            )

    def test_require_of_an_unknown_wall_is_refused(self) -> None:
        with pytest.raises((PolicyError, BackendUnavailable), match="no-such-wall"):
            with self.make(require=("no-such-wall",)) as executor:
                executor.session().close()

    def test_require_of_walls_that_stand(self) -> None:
        standing = tuple(name for name, wall in self.executor.isolation.items() if wall.active)
        with self.make(require=standing) as executor:
            assert executor.run("1").value == 1
            for name in standing:
                assert executor.isolation[name].active

    def test_require_of_a_wall_that_does_not_stand_is_refused(self) -> None:
        for name in [name for name, wall in self.executor.isolation.items() if not wall.active]:
            with pytest.raises((PolicyError, BackendUnavailable), match=name):
                with self.make(require=(name,)) as executor:
                    executor.session().close()

    def test_require_nothing(self) -> None:
        with self.make(require=()) as executor:
            assert executor.run("1").value == 1

    def test_rollback_by_default(self) -> None:
        with self.session(time=0.3) as session:
            session.run("x = [1]")
            result = session.run("x.append(2)\nwhile True:\n    pass")
            assert result.error is not None and result.error.kind == "time"
            if result.rolled_back:
                assert session.run("x").value == [1]
            else:
                assert_closed(session)

    def test_rollback_of_limits(self) -> None:
        executor = self.started(rollback="limits", limits=self.limits(time=0.3).limits)
        if executor is None:
            return
        with executor, executor.session() as session:
            session.run("x = [1]")
            result = session.run("x.append(2)\nwhile True:\n    pass")
            assert result.rolled_back and session.run("x").value == [1]
            result = session.run("x.append(3)\n1 / 0")
            assert not result.rolled_back and session.run("x").value == [1, 3]

    def test_rollback_of_errors(self) -> None:
        executor = self.started(rollback="errors")
        if executor is None:
            return
        with executor, executor.session() as session:
            session.run("x = [1]")
            result = session.run("x.append(2)\nprint('kept')\n1 / 0")
            assert result.rolled_back and result.stdout == "kept\n"
            assert session.run("x").value == [1]

    def test_rollback_never(self) -> None:
        executor = self.started(rollback="never", limits=self.limits(time=0.3).limits)
        if executor is None:
            return
        with executor, executor.session() as session:
            session.run("x = [1]")
            result = session.run("x.append(2)\n1 / 0")
            assert not result.rolled_back and session.run("x").value == [1, 2]
            assert not session.run("while True:\n    pass").rolled_back
            self.usable(session)

    def test_policy_of_a_session_replaces_the_executors(self) -> None:
        changed = self._policy.replace(imports=("math",), limits=self.limits(output=100, value=5000).limits)
        try:
            session = self.session(policy=changed)
        except SafeExecError as error:
            assert isinstance(error, PolicyError)
            return
        with session:
            assert session.run("import math\nprint('x' * 500)").stdout == "x" * 100
            error_ = session.run("import fractions").error
            assert error_ is not None and error_.kind == "policy"
        assert self.run("import fractions\nprint('x' * 500)").stdout == "x" * 500 + "\n"
