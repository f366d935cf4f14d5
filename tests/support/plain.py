"""The guest in a bare subprocess: no wall at all. What the core is tested against without a sandbox around it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safeexec
from safeexec.backend import Backend, Guest, GuestDied, StreamGuest, Wall
from safeexec.errors import PolicyError
from safeexec.policy import Policy

_MAIN = """
import importlib.util, sys
sys.modules["safeexec"] = None  # the two files alone, as they arrive in a sandbox that has nothing of ours
for name in ("wire", "guest"):
    spec = importlib.util.spec_from_file_location("safeexec_" + name, sys.argv[2] + "/" + name + ".py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
del sys.modules["safeexec"]
module.Guest(module.FdChannel(int(sys.argv[1]))).serve()
"""


class PlainGuest(StreamGuest):
    def __init__(self, policy: Policy, python: str = sys.executable) -> None:
        ours, theirs = socket.socketpair()
        self._home = TemporaryDirectory()
        with theirs:
            self.process = subprocess.Popen(
                [python, "-I", "-c", _MAIN, str(theirs.fileno()), str(Path(safeexec.__file__).parent)],
                pass_fds=[theirs.fileno()],
                cwd=self._home.name,
                env={"MPLBACKEND": "Agg", "PYTHONDONTWRITEBYTECODE": "1"},
                start_new_session=True,
            )
        super().__init__(ours, policy.limits.value + 2**20)

    def interrupt(self) -> None:
        try:
            os.kill(self.process.pid, signal.SIGINT)
        except ProcessLookupError:
            return

    def kill(self) -> None:
        if self.process.poll() is None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:  # another thread waited for it in between
                pass
        self.hang_up()

    def death(self) -> GuestDied:
        self.kill()
        return GuestDied("crash", f"the process ended with {self.process.wait()}")

    def close(self) -> None:
        self.kill()
        self.process.wait()
        super().close()
        self._home.cleanup()


class PlainBackend(Backend):
    name = "plain"

    def __init__(self, policy: Policy | None = None, **options: Any) -> None:
        self._options = options

    def start(self, policy: Policy) -> Guest:
        # Without a wall nothing but the core's own limits can be honoured: the rest is refused, never ignored.
        asked = [f"Limits.{name}" for name in ("memory", "disk", "processes") if name in policy.limits.changed()]
        asked += [name for name in ("packages",) if getattr(policy, name)]
        asked += [
            f"require: {wall}" for wall in policy.require or () if not self.isolation.get(wall, Wall(False)).active
        ]
        asked += ["imports"] if policy.imports not in (None, ("*",)) else []
        asked += ["rollback"] if policy.rollback in ("limits", "errors") else []
        if asked:
            raise PolicyError(f"the plain process cannot honour {', '.join(asked)}")
        return PlainGuest(policy, **self._options)

    @property
    def isolation(self) -> Mapping[str, Wall]:
        return {"process": Wall(True, ""), "rollback": Wall(False, "a failed step ends the session")}

    def close(self) -> None:
        pass
