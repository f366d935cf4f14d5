"""The executor: a sandbox of one kind, set up once, from which sessions are made."""

from __future__ import annotations

import os
import threading
import weakref

from safeexec.ahead import DEFAULT_SANDBOX as DEFAULT_SANDBOX
from safeexec.ahead import getting_ready
from safeexec.errors import BackendUnavailable, NotSupported, PolicyError, SessionClosed

# What an executor needs is imported when the first is made, while its sandbox gets ready in other processes.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from safeexec.backend import Backend, Wall
    from safeexec.policy import Policy
    from safeexec.result import Result
    from safeexec.session import Session
    from safeexec.snapshot import Snapshot
    from safeexec.step import OnOutput
    from safeexec.tools import Tools


def _make(kind: Any, name: str, policy: Policy, options: Mapping[str, Any]) -> Backend:
    try:
        found: Backend = kind(policy, **options)
    except TypeError as error:
        import inspect  # not worth its time to those who make no mistake

        signature = inspect.signature(kind)
        try:
            signature.bind(policy, **options)
        except TypeError:
            known = [n for n, p in signature.parameters.items() if p.kind is p.KEYWORD_ONLY and not n.startswith("_")]
            if unknown := sorted(set(options) - set(known)):
                raise PolicyError(
                    f"the {name} sandbox has no option {', '.join(unknown)}; it has {', '.join(known) or 'none'}"
                ) from error
        raise
    return found


class Executor:
    """Runs untrusted Python in the named sandbox. Thread-safe; owns compiled code, pools and workers until :meth:`close`.

    `sandbox` is a name ("wasm", "local", "docker", …) or a Backend; `backend_options` go to the sandbox. Raises BackendUnavailable when the
    sandbox cannot run here, saying what to do, and PolicyError for a policy it cannot honour.
    """

    def __init__(
        self, sandbox: str | Backend = DEFAULT_SANDBOX, *, policy: Policy | None = None, **backend_options: Any
    ) -> None:
        with getting_ready(sandbox, policy, backend_options):
            from safeexec import session  # noqa: F401
            from safeexec.backend import Backend
            from safeexec.policy import Policy, checked
            from safeexec.registry import load_backend

            self.policy = Policy() if policy is None else checked(policy)
            if isinstance(sandbox, Backend):
                if backend_options:
                    raise TypeError(f"options {sorted(backend_options)} go to the Backend itself when one is passed")
                self._backend = sandbox
            else:
                self._backend = _make(load_backend(sandbox), sandbox, self.policy, backend_options)
        self._closed = self._forked = False
        self._lock = threading.Lock()
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()
        _live.add(self)

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<safeexec.Executor {self.sandbox!r}>"

    @property
    def sandbox(self) -> str:
        """The sandbox's name."""
        return self._backend.name

    @property
    def isolation(self) -> Mapping[str, Wall]:
        """Which walls really stand here under the executor's policy: name to ``(active, reason)``. A session with a policy of its own may have fewer:
        its ``imports`` and ``network`` decide about "language" and "rollback" of ``local``."""
        return self._backend.isolation

    def session(
        self, tools: Tools = (), variables: Mapping[str, Any] | None = None, *, policy: Policy | None = None
    ) -> Session:
        """A fresh session, with host functions it may call and variables to start with.

        `policy` replaces the executor's for this session. Raises ToolError, PolicyError, BackendUnavailable; TypeError and LimitExceeded for
        variables that cannot cross.
        """
        return self._session(tools, variables, policy, None)

    def _session(
        self,
        tools: Tools,
        variables: Mapping[str, Any] | None,
        policy: Policy | None,
        loop: Any,
        once: bool = False,
    ) -> Session:
        from safeexec.policy import checked
        from safeexec.session import Session
        from safeexec.tools import collect

        found = collect(tools)
        chosen = self.policy if policy is None else checked(policy)
        self._check_open()
        guest = self._backend.start_once(chosen) if once else self._backend.start(chosen)
        session = Session(guest, chosen, found, {} if variables is None else variables, loop, once)
        return self._own(session)

    def _check_open(self) -> None:
        if self._forked:
            from safeexec.inherited import WHY

            raise BackendUnavailable(WHY)
        if self._closed:
            raise SessionClosed("the executor is closed")

    def _disown(self) -> None:
        """In a forked child: be closed, and leave everything to the parent, unless it is in this process anyway."""
        self._lock = threading.Lock()
        if self._backend.survives_fork:
            for session in list(self._sessions):
                if session._lock.locked() and session._holder != threading.get_ident():
                    session._disown()  # the thread that ran it is not in this process
            self._backend.disown()
            return
        self._closed = self._forked = True
        for session in list(self._sessions):
            session._disown()
        self._backend.disown()
        _inherited.append(self._backend)

    def _own(self, session: Session) -> Session:
        session._sandbox, session._adopt = self.sandbox, self._own
        with self._lock:
            self._sessions.add(session)
            closed = self._closed
        if closed:  # closed while the session was made
            session.close()
            raise SessionClosed("the executor is closed")
        return session

    def run(
        self,
        code: str,
        *,
        tools: Tools = (),
        variables: Mapping[str, Any] | None = None,
        policy: Policy | None = None,
        on_output: OnOutput | None = None,
    ) -> Result:
        """Run one step in a fresh session that is gone afterwards."""
        with self._session(tools, variables, policy, None, once=True) as session:
            return session.run(code, on_output=on_output)

    def restore(
        self,
        image: Snapshot | bytes | str | os.PathLike[str],
        tools: Tools = (),
        variables: Mapping[str, Any] | None = None,
        *,
        policy: Policy | None = None,
        key: bytes | None = None,
    ) -> Session:
        """A session from a snapshot, or the path of one; with `tools`, since a snapshot has none, and with `variables` set.

        It runs under `policy`, or the executor's; what of a policy is built into a state (imports, packages, network) must be as it was. `key`
        is the one the snapshot was signed with. Raises NotSupported where the sandbox cannot, SnapshotError for what is damaged, forged, of
        another version, sandbox or policy (nothing is loaded then), OSError, BackendUnavailable.
        """
        return self._restore(image, tools, variables, policy, key, None)

    def _restore(
        self, image: Any, tools: Tools, variables: Mapping[str, Any] | None, policy: Policy | None, key: Any, loop: Any
    ) -> Session:
        from safeexec import snapshot, travel
        from safeexec.backend import SupportsRestore
        from safeexec.policy import checked
        from safeexec.tools import collect

        if not isinstance(self._backend, SupportsRestore):
            raise NotSupported(f"the {self.sandbox} sandbox cannot restore snapshots; 'wasm' can")
        found = collect(tools)
        chosen = self.policy if policy is None else checked(policy)
        if isinstance(image, str | os.PathLike):
            image = snapshot.Snapshot.load(image)
        contents = snapshot.unpack(bytes(image), key)
        snapshot.check_fits(contents, self.sandbox, chosen)
        self._check_open()
        guest = self._backend.restore(contents.engine, contents.state, chosen)
        session = self._own(travel.resumed(guest, chosen, found, loop, contents.abandoned))
        limits = {"output": chosen.limits.output, "value": chosen.limits.value}
        specs = [tool.spec() for tool in found.values()]
        travel.begin(session, {"t": "resume", "limits": limits, "tools": specs}, variables or {})
        return session

    def close(self) -> None:
        """End all sessions and free everything. Idempotent."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            sessions = list(self._sessions)
        for session in sessions:
            session.close()
        self._backend.close()


_live: weakref.WeakSet[Executor] = weakref.WeakSet()
_inherited: list[Backend] = []
"""In a forked child, backends of its parent's: kept, since who forgets one may end what belongs to it."""


def _after_fork() -> None:
    # A forked child must not use, or end, what belongs to its parent.
    for executor in list(_live):
        executor._disown()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
