"""A complete sandbox of one's own: the guest program in a process that bubblewrap walls in.

Each session is a process with namespaces of its own, the host's libraries read-only, an empty file system in memory to work in, and no network.
To offer it by name, register the class: ``[project.entry-points."safeexec.backends"]``, ``bubblewrap = "my_package:BubblewrapBackend"``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safeexec
from safeexec.backend import Backend, Guest, GuestDied, StreamGuest, Wall
from safeexec.errors import BackendUnavailable, PolicyError
from safeexec.policy import Policy

# What runs inside: the two files of the protocol, as text from this package, served over one descriptor.
_MAIN = """
import importlib.util, sys
sys.modules["safeexec"] = None
for name in ("wire", "guest"):
    spec = importlib.util.spec_from_file_location("safeexec_" + name, sys.argv[2] + "/" + name + ".py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
del sys.modules["safeexec"]
module.Guest(module.FdChannel(int(sys.argv[1]))).serve()
"""


class BubblewrapGuest(StreamGuest):
    """One session's process. Frames travel over a socket pair, which StreamGuest reads and writes."""

    def __init__(self, policy: Policy, program: str) -> None:
        ours, theirs = socket.socketpair()
        told, tells = os.pipe()
        try:
            with theirs, open(told) as file:
                with open(tells, "w"):
                    self._process = subprocess.Popen(
                        _command(program, theirs.fileno(), tells), pass_fds=[theirs.fileno(), tells], start_new_session=True, env={}
                    )  # fmt: skip
                self._init = json.load(file)["child-pid"]
        except (OSError, ValueError) as error:
            ours.close()
            raise BackendUnavailable(f"bubblewrap did not start: {error}") from error
        super().__init__(ours, policy.limits.value + 2**20)

    def interrupt(self) -> None:
        # The guest is the one child of the first process in its namespace; bubblewrap itself would end at the signal.
        try:
            for pid in Path(f"/proc/{self._init}/task/{self._init}/children").read_text().split()[:1]:
                os.kill(int(pid), signal.SIGINT)
        except OSError:
            return  # it has gone

    def kill(self) -> None:
        if self._process.poll() is None:
            try:
                # The group: bubblewrap and what it started. --die-with-parent and the pid namespace take the rest along.
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:  # another thread waited for it in between
                pass
        self.hang_up()

    def death(self) -> GuestDied:
        self.kill()
        return GuestDied("crash", f"the process ended with {self._process.wait()}")

    def close(self) -> None:
        self.kill()
        self._process.wait()
        super().close()


def _command(program: str, channel: int, tells: int) -> list[str]:
    prefix = os.path.realpath(sys.base_prefix)
    files = str(Path(safeexec.__file__).parent)
    # An allow-list of what is seen: no home, no /etc, no /proc of the host, no file that is not of the system or the interpreter.
    seen = [path for path in ("/usr", "/lib", "/lib64", "/bin", prefix) if os.path.exists(path)]
    return [
        program,
        *(word for path in seen for word in ("--ro-bind", path, path)),
        *("--ro-bind", f"{files}/guest.py", "/guest/guest.py", "--ro-bind", f"{files}/wire.py", "/guest/wire.py"),
        *("--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--tmpfs", "/work", "--chdir", "/work"),
        *("--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL"),
        *("--setenv", "HOME", "/work", "--setenv", "PYTHONDONTWRITEBYTECODE", "1", "--info-fd", str(tells)),
        *(os.path.join(prefix, "bin", "python3"), "-I", "-c", _MAIN, str(channel), "/guest"),
    ]


class BubblewrapBackend(Backend):
    """Made once for an Executor; `start` makes a guest for each session."""

    name = "bubblewrap"

    def __init__(self, policy: Policy | None = None) -> None:
        program = shutil.which("bwrap")
        if program is None:
            raise BackendUnavailable("bubblewrap is not installed: apt-get install bubblewrap")
        self._program = program

    def start(self, policy: Policy) -> Guest:
        # A field that cannot be honoured is refused, never ignored: bubblewrap has no limits on resources.
        asked = [f"Limits.{name}" for name in ("memory", "disk", "processes") if name in policy.limits.changed()]
        asked += [name for name in ("packages",) if getattr(policy, name)]
        asked += [
            f"require: {wall}" for wall in policy.require or () if not self.isolation.get(wall, Wall(False)).active
        ]
        asked += ["imports"] if policy.imports not in (None, ("*",)) else []
        asked += ["rollback"] if policy.rollback in ("limits", "errors") else []
        if asked:
            raise PolicyError(f"the bubblewrap sandbox cannot honour {', '.join(asked)}")
        return BubblewrapGuest(policy, self._program)

    @property
    def isolation(self) -> Mapping[str, Wall]:
        """What stands. Only what was found standing may be called active; the tests look."""
        walls: dict[str, Any] = dict.fromkeys(("files", "network", "processes"), Wall(True))
        walls["system_calls"] = Wall(False, "no seccomp filter: a flaw in the kernel is a way out")
        walls["memory"] = Wall(False, "bubblewrap limits no resources")
        walls["rollback"] = Wall(False, "a failed step ends the session")
        return walls

    def close(self) -> None:
        """Nothing outlives its session here; a backend with a pool or a daemon ends it in this place."""
