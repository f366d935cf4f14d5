"""The executor: a sandbox of one kind, set up once, from which sessions are made."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from safeexec import inherited
from safeexec.backend import Backend, SupportsRestore, Wall
from safeexec.errors import BackendUnavailable, NotSupported, PolicyError, SessionClosed
from safeexec.policy import Limits, Policy
from safeexec.registry import load_backend
from safeexec.result import Result
from safeexec.session import Session
from safeexec.step import OnOutput
from safeexec.tools import Tools, collect

if TYPE_CHECKING:
    from safeexec.snapshot import Snapshot

DEFAULT_SANDBOX = "wasm"


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
        self.policy = Policy() if policy is None else policy
        if not isinstance(self.policy, Policy):
            raise PolicyError(f"policy must be a safeexec.Policy, not {type(policy).__name__}")
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
        """Which walls really stand here: name to ``(active, reason)``."""
        return self._backend.isolation

    def session(
        self, tools: Tools = (), variables: Mapping[str, Any] | None = None, *, policy: Policy | None = None
    ) -> Session:
        """A fresh session, with host functions it may call and variables to start with.

        `policy` replaces the executor's for this session. Raises ToolError, PolicyError, BackendUnavailable.
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
        found = collect(tools)
        chosen = self.policy if policy is None else policy
        self._check_open()
        guest = self._backend.start_once(chosen) if once else self._backend.start(chosen)
        session = Session(guest, chosen, found, {} if variables is None else variables, loop, once)
        return self._own(session)

    def _check_open(self) -> None:
        if self._forked:
            raise BackendUnavailable(inherited.WHY)
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

        if not isinstance(self._backend, SupportsRestore):
            raise NotSupported(f"the {self.sandbox} sandbox cannot restore snapshots; 'wasm' can")
        found = collect(tools)
        chosen = self.policy if policy is None else policy
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

# -- one-shot runs ----------------------------------------------------------------------------------------------------------

_MAX_SHARED = 4
"""Executors kept while nobody uses them."""


class _Shared:
    """An executor of :func:`run`, and how many calls use it: it is made once, and not closed under them."""

    def __init__(self) -> None:
        self.making = threading.Lock()
        self.executor: Executor | None = None
        self.users = 0


_shared: OrderedDict[Any, _Shared] = OrderedDict()
_shared_lock = threading.Lock()


def run(
    code: str,
    *,
    sandbox: str = DEFAULT_SANDBOX,
    policy: Policy | None = None,
    limits: Limits | None = None,
    tools: Tools = (),
    variables: Mapping[str, Any] | None = None,
    on_output: OnOutput | None = None,
    **backend_options: Any,
) -> Result:
    """Run one step in a fresh sandbox. The executor behind it is kept for the next call that wants the same kind."""
    chosen = Policy() if policy is None else policy
    if limits is not None:
        chosen = chosen.replace(limits=limits)
    with _shared_executor(sandbox, chosen, backend_options) as executor:
        return executor.run(code, tools=tools, variables=variables, policy=chosen, on_output=on_output)


@contextmanager
def _shared_executor(sandbox: str, policy: Policy, options: dict[str, Any]) -> Iterator[Executor]:
    # Only what a sandbox may prepare for is part of the key; limits, files and environment belong to the session.
    prepared = (policy.imports, policy.packages, policy.network, policy.require, policy.rollback)
    key = (sandbox, prepared, tuple(sorted((k, repr(v)) for k, v in options.items())))
    with _shared_lock:
        shared = _shared.setdefault(key, _Shared())
        _shared.move_to_end(key)
        shared.users += 1
    try:
        with shared.making:
            if shared.executor is None:
                shared.executor = Executor(sandbox, policy=policy.replace(files={}, env={}), **options)
        yield shared.executor
    finally:
        for executor in _unused(key, shared):
            executor.close()


def _unused(key: Any, shared: _Shared) -> list[Executor]:
    """One call less uses `shared`: the executors that are not to be kept any more."""
    with _shared_lock:
        shared.users -= 1
        idle = [k for k, other in _shared.items() if not other.users]
        gone = [_shared.pop(k) for k in idle[: max(0, len(_shared) - _MAX_SHARED)]]
        if not shared.users and _shared.get(key) is not shared and shared not in gone:
            gone.append(shared)  # close_shared() came while it was made
    return [other.executor for other in gone if other.executor is not None]


def close_shared() -> None:
    """Close the executors that :func:`run` keeps. Happens by itself when the process ends."""
    with _shared_lock:
        executors = [shared.executor for shared in _shared.values() if shared.executor is not None]
        _shared.clear()
    for executor in executors:
        executor.close()


def _after_fork() -> None:
    # A forked child must not use, or end, what belongs to its parent.
    global _shared_lock
    _shared_lock = threading.Lock()
    for executor in list(_live):
        executor._disown()
    _shared.clear()


atexit.register(close_shared)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
