"""A guest that rewrote its own program: the frames that it forges gain it nothing."""

from __future__ import annotations

import pytest

from safeexec import Executor, Limits, Policy
from tests.support import late

SPIN = "while True:\n    pass"
FAST = Policy(limits=Limits(time=0.4))


FORGE = """
g = display.__self__
channel = g._channel
real = type(channel).send
class Forger:
    def __getattr__(self, name): return getattr(channel, name)
    def send(self, header, blobs=()):
        real(channel, header, blobs)
        if header.get('t') == 'done':
            %s
g._channel = Forger()
"""
FORGERIES = (
    "real(channel, {'t': 'ready'})",
    "real(channel, {'t': 'state', 'more': False}, [b'forged'])",
    "real(channel, {'t': 'state', 'more': True}, [b'x' * 100])",
    "real(channel, {'t': 'died', 'kind': 'memory', 'message': 'forged'})",
    "real(channel, {'t': 'out', 's': 1}, [b'late'])",
    "real(channel, {'t': 'done', 'id': header['id']})",
)


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_frames_gain_nothing(executor: Executor, forgery: str) -> None:
    """Whatever a guest sends behind its answer, it meets its own session's end or past, as an error the library has a name for."""
    policy = Policy(limits=Limits(time=0.5))
    for ask in ("run", "fork", "snapshot", "rollback"):
        with executor.session(policy=policy) as session:
            session.run("x = [1]")
            session.run(FORGE % forgery)
            try:
                if ask == "run":
                    session.run("x")
                elif ask == "fork":
                    session.fork().close()
                elif ask == "snapshot":
                    executor.restore(session.snapshot()).close()
                else:
                    session.run(SPIN)
                session.run("x")
            except Exception as error:
                assert type(error).__module__ == "safeexec.errors", error
            if not session.closed:
                assert session.run("x").value in ([1], None)
    with executor.session() as other:
        assert other.run("1 + 1").value == 2


def test_an_answer_to_an_undone_call_is_no_answer_to_the_next(
    executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    late.check(executor, monkeypatch)
