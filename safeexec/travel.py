"""What a session does with its past: take failed steps back, branch, be written down."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from safeexec.backend import GuestDied, SupportsCheckpoint, SupportsFork, SupportsSnapshot
from safeexec.errors import NotSupported, PolicyError
from safeexec.tools import HostTool, Tools, collect

if TYPE_CHECKING:
    from safeexec.backend import Guest
    from safeexec.policy import Policy
    from safeexec.result import Result
    from safeexec.session import Session
    from safeexec.snapshot import Snapshot
    from safeexec.step import Step

DISCARD = ("time", "memory", "output", "crash", "protocol")
"""Kinds of error after which a guest is not used as it is."""


@cache
def _can_go_back(kind: type[Guest]) -> bool:
    # Once for each kind: looking a protocol's methods up takes as long as a step.
    return issubclass(kind, SupportsCheckpoint)


def rollback_mode(guest: Guest, policy: Policy) -> str:
    """What is done about failed steps. Raises PolicyError where the policy asks for more than the guest can."""
    if _can_go_back(type(guest)):
        return policy.rollback or "limits"
    if policy.rollback in ("limits", "errors"):
        raise PolicyError(f"Policy.rollback={policy.rollback!r}: this sandbox cannot undo a failed step")
    return "never"


def to_undo(mode: str, step: Step, result: Result) -> bool:
    """Whether a step is to be taken back."""
    error = result.error
    if error is None or mode == "never":
        return False
    # An interrupt stops the code between any two of its lines; nobody wrote it to be left there.
    return mode == "errors" or step.interrupted or step.died is not None or error.kind in DISCARD


def roll_back(session: Session) -> bool:
    """Bring the session back to where it was before the request that failed; False when it must end."""
    if session._rollback == "never" or session._closed is not None:
        return False
    try:
        session._guest.rollback()  # type: ignore[attr-defined]
    except GuestDied as death:
        session._end(f"a step failed, and could not be undone: {death.message}")
    return session._closed is None


def _cannot(session: Session, what: str, who: str = "'wasm'", why: str = "") -> NotSupported:
    if why:
        return NotSupported(f"this session cannot be forked: {why}")
    return NotSupported(f"the {session._sandbox} sandbox cannot {what}; {who} can")


def fork(session: Session, tools: Tools | None, reseed: bool) -> Session:
    """See :meth:`Session.fork`."""
    found = None if tools is None else collect(tools)
    guest = session._guest
    if not isinstance(guest, SupportsFork):
        raise _cannot(session, "fork a session", "'wasm' and 'local'", guest.cannot_fork)
    session._acquire()
    try:
        twin = session._or_end(guest.fork)
        branch = resumed(
            twin, session.policy, session._tools if found is None else found, session._loop, session._abandoned
        )
        branch._peak = session._peak
    finally:
        session._release()
    session._register(branch)
    header: dict[str, Any] = {"t": "resume", "reseed": bool(reseed)}
    if found is not None:
        header["tools"] = [tool.spec() for tool in found.values()]
    begin(branch, header if found is not None or reseed else None, {})
    return branch


def resumed(
    guest: Guest, policy: Policy, tools: Mapping[str, HostTool], loop: Any, abandoned: tuple[int, ...] | list[int]
) -> Session:
    """A session on a guest that has been one's before."""
    from safeexec.session import Session

    session = Session.__new__(Session)
    session._set_up(guest, policy, tools, loop)
    session._abandoned = list(abandoned)
    return session


def begin(session: Session, header: dict[str, Any] | None, variables: Mapping[str, Any]) -> None:
    """The first request of a resumed session, if it needs one. A session that cannot begin is closed."""
    try:
        if header is not None:
            session._request(header)
        if variables:
            session._set(variables)
        session._remember(rollback_mode(session._guest, session.policy))
    except BaseException:
        session._end("it could not be started")
        raise


def take_snapshot(session: Session, key: bytes | None) -> Snapshot:
    """See :meth:`Session.snapshot`."""
    from safeexec import snapshot  # 5 ms of digests that few sessions need

    guest = session._guest
    if not isinstance(guest, SupportsSnapshot):
        raise _cannot(session, "take snapshots")
    session._acquire()
    try:
        engine, state = session._or_end(guest.snapshot)
        identity = snapshot.identity(session.policy)
        contents = snapshot.Contents(session._sandbox, engine, identity, tuple(session._abandoned[-10_000:]), state)
        return snapshot.pack(contents, key)
    finally:
        session._release()
