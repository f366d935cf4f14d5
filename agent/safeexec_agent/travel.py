"""Runs that outlive their process, and agents that branch."""

from __future__ import annotations

import base64
import copy
import json
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from safeexec import NotSupported, SessionClosed, whole
from safeexec_agent.bridge import Slot
from safeexec_agent.errors import AgentError
from safeexec_agent.memory import AgentMemory, dumps
from safeexec_agent.values import from_plain, to_plain

if TYPE_CHECKING:
    from safeexec import Session
    from safeexec_agent.agent import CodeAgent

_FORMAT = "safeexec-run-1"


def save(agent: CodeAgent, path: Path, task: str) -> None:
    """Write what a run needs to go on: the memory, and the session if the sandbox can write it down. The file is there whole or not at all."""
    session = agent._session
    image: str | None = None
    if session is not None and not session.closed:
        try:
            image = base64.b64encode(bytes(session.snapshot())).decode()
        except (NotSupported, SessionClosed):
            image = None
    data = {
        "format": _FORMAT,
        "task": task,
        "state": to_plain(agent.state),
        "memory": agent.memory.to_dict(),
        "session": image,
    }
    whole.save(path, dumps(data).encode("ascii"), private=True)


def load(agent: CodeAgent, path: Path, task: str) -> None:
    """Take up a run where `save` left it. What is in the sandbox is guest data; what is in the memory is text for the model.

    Raises AgentError for a file that is not one, or of another task, SnapshotError, OSError.
    """
    try:
        data = json.loads(path.read_text(encoding="ascii"))
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']!r:.50}; this version reads {_FORMAT}")
        kept, state, image = data["task"], from_plain(data["state"]), data["session"]
        if not isinstance(kept, str) or not isinstance(state, dict):
            raise ValueError("a malformed file")
        written = None if image is None else base64.b64decode(image, validate=True)
        memory = AgentMemory.from_dict(data["memory"])
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise AgentError(f"{path} is not a run that was kept: {error}") from error
    if kept != task:
        raise AgentError(f"{path} keeps a run of another task: {kept[:200]!r}")
    if agent._session is not None:
        agent._session.close()
    agent._session = None
    agent.memory, agent.state = memory, state
    if written is not None:
        agent._session = agent.executor.restore(written, agent._functions(), policy=agent.policy)


def branch(agent: CodeAgent) -> CodeAgent:
    """See :meth:`CodeAgent.branch`."""
    twin: CodeAgent = copy.copy(agent)
    twin.sandbox, twin._executor = agent.executor, None  # closing a branch leaves the sandbox to the agent it came from
    twin.memory = copy.deepcopy(agent.memory)
    twin.state, twin.observers = dict(agent.state), list(agent.observers)
    twin._slot, twin._lock, twin._interrupted = Slot(), threading.Lock(), threading.Event()
    twin.managed_agents = dict(agent.managed_agents)
    twin._session = None
    twin._session = _forked(agent, twin)
    return twin


def _forked(agent: CodeAgent, twin: CodeAgent) -> Session:
    return agent.session.fork(tools=twin._functions())
