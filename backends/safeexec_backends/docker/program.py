"""The program a container is started with, as text; compiled by the first container of an image, shipped compiled to those that follow."""

from __future__ import annotations

import marshal
from functools import cache
from pathlib import Path

from safeexec.bundle import modules

OUT_OF_MEMORY = b"safeexec: a process was killed because the memory was used up\n"
"""What an init of ours says at the end, last of all. podman does not notice on the first version of control groups."""

_SHARED = ("folders", "kept_files", "open_files")
_LATER = (*_SHARED, "copies", "warmth", "keeper", "past")
"""What of the program is run when it is needed first."""

BOOT = """
import marshal, os, sys, types
child = os.getpid() == 1 and os.fork()
if child:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    while True:
        ended, status = os.wait()
        if ended == child:
            for path in ("memory.events", "memory/memory.oom_control"):
                try:
                    with open("/sys/fs/cgroup/" + path) as file:
                        words = file.read().split()
                    if words[words.index("oom_kill") + 1] != "0":
                        os.write(2, OUT_OF_MEMORY)
                except (OSError, ValueError):
                    continue
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)
sockets = []
if len(sys.argv) > 1:
    import _socket
    for _ in range(2):
        end = _socket.socket(1, 1)
        end.connect(sys.argv[1])
        sockets.append(end.detach())
def take(n):
    data = b""
    while len(data) < n:
        piece = os.read(sockets[0] if sockets else 0, n - len(data))
        if not piece:
            os._exit(0)
        data += piece
    return data
parts = marshal.loads(take(int.from_bytes(take(4), "little")))
codes = []
later = {}
for name, code in parts:
    fresh = isinstance(code, str)
    if fresh:
        code = compile(code, "<" + name + ">", "exec", dont_inherit=True)
    codes.append((name, code))
    if name in LATER:
        later[name] = code
        continue
    module = types.ModuleType(name)
    module.__file__ = "<" + name + ">"
    sys.modules[name] = module
    exec(code, module.__dict__)
sys.modules["safeexec_inside"].main(marshal.dumps(codes) if fresh else None, sockets, later)
""".replace("OUT_OF_MEMORY", repr(OUT_OF_MEMORY)).replace("LATER", repr(tuple(f"safeexec_{name}" for name in _LATER)))
"""Reads the program from the first of two sockets, or from stdin: a command line could not hold it.

As process 1, where the engine brings no init, it is the init itself and the guest its child: no signal that has not been asked for reaches process 1, so that
a guest in its place could not even kill itself, and what its children leave behind would stay as zombies.
"""


@cache
def source() -> bytes:
    """The program as source. marshal's version 2 of strings and tuples is read by every CPython that a guest can run on."""
    here = Path(__file__).parent
    files = [here.parent / "_hardening" / f"{name}.py" for name in _SHARED]
    files += [here / f"{name}.py" for name in (*_LATER[len(_SHARED) :], "orders", "channel", "stdio", "look")]
    files += [here.parent / "import_rule.py", here / "inside.py"]
    own = ((f"safeexec_{path.stem}", path.read_text("utf-8")) for path in files)
    return marshal.dumps((*modules(), *own), 2)


def framed(program: bytes) -> bytes:
    """What goes to the container first. `program` is :func:`source`, or what a container made of it; the host never loads the latter."""
    return len(program).to_bytes(4, "little") + program


def command(python: str, socket: str = "") -> list[str]:
    """The container's command; `socket` is the path in it that it connects to. ``-I``: nothing of the environment or the working directory is imported."""
    return [python, "-I", "-X", "utf8", "-c", BOOT, *([socket] if socket else [])]
