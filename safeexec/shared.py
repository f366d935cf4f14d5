"""One step in a sandbox of its own, and the executors that are kept for the next."""

from __future__ import annotations

import atexit
import os
import threading
from collections import OrderedDict
from contextlib import ExitStack, contextmanager

from safeexec.ahead import DEFAULT_SANDBOX, getting_ready

# The rest is imported in the first call, while the sandbox gets ready in other processes.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from safeexec.executor import Executor
    from safeexec.policy import Limits, Policy
    from safeexec.result import Result
    from safeexec.step import OnOutput
    from safeexec.tools import Tools

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
    with ExitStack() as used:
        with getting_ready(sandbox, policy, backend_options):
            from safeexec.policy import Policy, checked

            chosen = Policy() if policy is None else checked(policy)
            if limits is not None:
                chosen = chosen.replace(limits=limits)
            executor = used.enter_context(_shared_executor(sandbox, chosen, backend_options))
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
                from safeexec.executor import Executor

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


_of_parents: list[Any] = []
"""In a forked child, the executors of its parent's: kept, since who forgets one may end what belongs to it."""


def _after_fork() -> None:
    global _shared_lock
    _shared_lock = threading.Lock()
    _of_parents.extend(_shared.values())
    _shared.clear()


atexit.register(close_shared)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
