"""What the topics of the suite share: an executor for the class, sessions for the tests, exact comparison."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from decimal import Decimal
from time import monotonic
from typing import Any, ClassVar

import pytest

from safeexec.aio import AsyncExecutor
from safeexec.backend import Backend
from safeexec.errors import PolicyError
from safeexec.executor import Executor
from safeexec.policy import DEFAULT_IMPORTS, Limits, Policy
from safeexec.result import Result
from safeexec.session import Session

PATIENCE = 20.0
"""Seconds after which a condition that should hold at once is given up: only a broken sandbox waits that long."""


def same(left: Any, right: Any) -> bool:
    """Equal in value and in exact type, all the way down; nan is nan, and -0.0 is not 0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return (math.isnan(left) and math.isnan(right)) or (
            left == right and math.copysign(1, left) == math.copysign(1, right)
        )
    if isinstance(left, complex):
        return same(left.real, right.real) and same(left.imag, right.imag)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, dict):
        return len(left) == len(right) and all(
            same(a, b) and same(left[a], right[b]) for a, b in zip(left, right, strict=True)
        )
    if isinstance(left, set | frozenset):
        return len(left) == len(right) and all(any(same(a, b) for b in right) for a in left)
    if isinstance(left, Decimal):
        return bool(left.as_tuple() == right.as_tuple())
    if hasattr(left, "tzinfo"):
        return bool(left == right and left.fold == right.fold and left.tzinfo == right.tzinfo)
    return bool(left == right)


def eventually(condition: Callable[[], bool], patience: float = PATIENCE) -> bool:
    """Whether `condition` comes true; looked at every few milliseconds."""
    pause = threading.Event()
    deadline = monotonic() + patience
    while not condition():
        if monotonic() > deadline:
            return False
        pause.wait(0.005)
    return True


class Base:
    """The executor of a test class, and shortcuts to it. Not collected by itself: ``conformance`` fills in the class variables."""

    _sandbox: ClassVar[Any]
    _options: ClassVar[dict[str, Any]]
    _policy: ClassVar[Policy]
    _capabilities: ClassVar[frozenset[str]]
    _modules: ClassVar[frozenset[str]]
    _package: ClassVar[str | None]
    _deviations: ClassVar[Mapping[str, str]]
    _shared: ClassVar[Session | None] = None
    executor: ClassVar[Executor]

    @classmethod
    def setup_class(cls) -> None:
        cls.executor = cls.make()

    @classmethod
    def teardown_class(cls) -> None:
        cls.executor.close()

    def setup_method(self, method: Any) -> None:
        reason = self._deviations.get(method.__name__)
        if reason is not None:
            pytest.skip(f"declared deviation: {reason}")

    # -- making things ---------------------------------------------------------------------------------------------------

    @classmethod
    def target(cls, policy: Policy) -> tuple[str | Backend, dict[str, Any]]:
        """First argument and options for an Executor."""
        if callable(cls._sandbox):
            return cls._sandbox(policy, **cls._options), {}
        return cls._sandbox, cls._options

    @classmethod
    def make(cls, **fields: Any) -> Executor:
        """A new executor; `fields` replace fields of the policy."""
        policy = cls._policy.replace(**fields)
        sandbox, options = cls.target(policy)
        return Executor(sandbox, policy=policy, **options)

    @classmethod
    def make_async(cls, **fields: Any) -> AsyncExecutor:
        """A new asynchronous executor."""
        policy = cls._policy.replace(**fields)
        sandbox, options = cls.target(policy)
        return AsyncExecutor(sandbox, policy=policy, **options)

    def limits(self, **changes: Any) -> Policy:
        """The suite's policy with some limits changed."""
        values = {name: getattr(self._policy.limits, name) for name in self._policy.limits.changed()}
        return self._policy.replace(limits=Limits(**{**values, **changes}))

    def session(
        self, tools: Any = (), variables: Any = None, *, policy: Policy | None = None, **limits: Any
    ) -> Session:
        """A session of the class's executor; keyword arguments change its limits."""
        if limits:
            policy = self.limits(**limits)
        return self.executor.session(tools, variables, policy=policy)

    def shared(self) -> Session:
        """One session for the many small tests that leave nothing in it; a new one when it was closed."""
        cls = type(self)
        if cls._shared is None or cls._shared.closed:
            cls._shared = self.executor.session()
        return cls._shared

    def run(self, code: str, tools: Any = (), variables: Any = None, **limits: Any) -> Result:
        """One step in a fresh session."""
        with self.session(tools, variables, **limits) as session:
            return session.run(code)

    def value(self, code: str, **more: Any) -> Any:
        """The value of a step that must not fail."""
        result = self.run(code, **more)
        assert result.error is None, result.error.traceback or str(result.error)
        return result.value

    def started(self, **fields: Any) -> Executor | None:
        """An executor that has begun a session under a policy, or None where a PolicyError says that it cannot be honoured.

        The error must name the field, so that its reader knows what to change.
        """
        executor = None
        try:
            executor = self.make(**fields)
            executor.session().close()
            return executor
        except PolicyError as error:
            if executor is not None:
                executor.close()
            names = set(fields) - {"limits"}
            if "limits" in fields:
                names |= fields["limits"].changed()
            assert any(name in str(error) for name in names), f"{error} does not name any of {sorted(names)}"
            return None
        except BaseException:
            if executor is not None:
                executor.close()
            raise

    def needs_module(self, name: str) -> Policy:
        """The policy that lets the guest import third-party module `name`; skips the test where the sandbox has not declared it."""
        if name not in self._modules:
            pytest.skip(f"n/a: {name} is not declared in modules= for this sandbox")
        base = DEFAULT_IMPORTS if self._policy.imports is None else tuple(self._policy.imports)
        return self._policy.replace(imports=base if "*" in base else (*base, name, f"{name}.*"))

    def usable(self, session: Session) -> None:
        """Assert that a session is consistent: it runs the next step, or it is closed and says so."""
        if session.closed:
            assert_closed(session)
        else:
            assert session.run("20 + 22").value == 42


def assert_closed(session: Session) -> None:
    """Assert that a session says that it is closed, and why."""
    from safeexec.errors import SessionClosed

    assert session.closed
    with pytest.raises(SessionClosed, match=r"closed: \S"):
        session.run("1")
