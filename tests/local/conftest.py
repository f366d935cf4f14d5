"""Sessions with the language wall off, so that whatever Python can do can be tried."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from safeexec import Executor, Limits, Policy, Session

FAST = Policy(limits=Limits(time=0.8))


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with Executor("local", _language="full") as made:
        yield made


@pytest.fixture
def session(executor: Executor) -> Iterator[Session]:
    with executor.session(policy=FAST) as made:
        yield made


@pytest.fixture
def trunk(session: Session) -> Session:
    """The same, as what branches come of."""
    return session
