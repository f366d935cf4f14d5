"""What each subject's own interface calls a session, a step and a tool. Imported in the subject's environment: standard library and the subject only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

Tool = Callable[[int, int], int]


class Session(Protocol):
    """One sandbox with state."""

    def value(self, expression: str) -> Any:
        """Run one expression and bring its value to the host."""

    def run(self, code: str) -> None:
        """Run statements."""

    def close(self) -> None:
        """Free it."""


class Subject(Protocol):
    """One sandbox library."""

    call: str
    """How code in the sandbox calls the tool `add` with `i` and 1."""

    def once(self) -> Any:
        """The value of `1 + 1` from a fresh sandbox that is gone afterwards, by the quickest way there is."""

    def session(self, add: Tool | None = None) -> Session:
        """A fresh sandbox that keeps its state."""

    def close(self) -> None:
        """Free what sessions share."""


class Safeexec:
    """This project's wasm sandbox, in worker processes or in the caller's own."""

    call = "add(i, 1)"

    def __init__(self, **options: Any) -> None:
        from safeexec import Executor, Policy

        self._executor = Executor("wasm", policy=Policy(rollback="never"), **options)

    def once(self) -> Any:
        return self._executor.run("1 + 1").value

    def session(self, add: Tool | None = None) -> Session:
        session = self._executor.session(tools={"add": add} if add else ())

        class Ours:
            def value(self, expression: str) -> Any:
                return session.run(expression).raise_for_error().value

            def run(self, code: str) -> None:
                session.run(code).raise_for_error()

            def close(self) -> None:
                session.close()

        return Ours()

    def close(self) -> None:
        self._executor.close()


class Eryx:
    """pyeryx: CPython for WASI on wasmtime, in the caller's process."""

    call = "await add(a=i, b=1)"

    def once(self) -> Any:
        import eryx  # type: ignore[import-not-found,unused-ignore]

        return eryx.Sandbox().execute("result = 1 + 1").result

    def session(self, add: Tool | None = None) -> Session:
        import eryx

        tools = [{"name": "add", "fn": add, "description": "Add two numbers."}] if add else None
        session = eryx.Session(callbacks=tools)

        class Theirs:
            def value(self, expression: str) -> Any:
                return session.execute(f"result = {expression}").result

            def run(self, code: str) -> None:
                session.execute(code)

            def close(self) -> None:
                pass  # it ends with its last reference

        return Theirs()

    def close(self) -> None:
        pass


class Monty:
    """pydantic-monty: an interpreter for a part of Python, in a pool of worker processes."""

    call = "add(i, 1)"

    def __init__(self) -> None:
        import pydantic_monty  # type: ignore[import-not-found,unused-ignore]

        self._pool = pydantic_monty.Monty(max_processes=1000)
        self._pool.__enter__()

    def once(self) -> Any:
        with self._pool.checkout() as session:
            return session.feed_run("1 + 1")

    def session(self, add: Tool | None = None) -> Session:
        lookup = {"add": add} if add else None
        session = self._pool.checkout()
        session.__enter__()

        class Theirs:
            def value(self, expression: str) -> Any:
                return session.feed_run(expression)

            def run(self, code: str) -> None:
                session.feed_run(code, external_lookup=lookup)

            def close(self) -> None:
                session.__exit__(None, None, None)

        return Theirs()

    def close(self) -> None:
        self._pool.__exit__(None, None, None)


SUBJECTS: dict[str, Callable[[], Subject]] = {
    "safeexec (in process)": lambda: Safeexec(workers=0),
    "safeexec (workers)": Safeexec,
    "pyeryx": Eryx,
    "pydantic-monty": Monty,
}
