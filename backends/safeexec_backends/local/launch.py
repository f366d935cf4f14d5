"""Starting the process of a zygote: nothing but that, so that the command line can do it before it has imported anything else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import safeexec_backends
from safeexec_backends.local import control, library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

MODULE = "safeexec_backends.local.zygote"


class Launched:
    """A process that was started, and told its set-up unless that comes later; its answer has not been read."""

    def __init__(self, setup: control.Message | None, module: str = MODULE) -> None:
        """`module` is where its `main` is. Raises OSError."""
        self.module = module
        self.told: control.Message | None = None
        self.socket, theirs = map(_above_standard, socket.socketpair())
        roots = [os.path.dirname(next(iter(safeexec_backends.__path__)))]
        boot = (
            "import sys; sys.path[:] = sys.argv[4:] + [sys.argv[3]]; "
            f"from {module} import main; main(int(sys.argv[1]), sys.argv[2])"
        )
        with theirs:
            try:
                self.process = subprocess.Popen(
                    [
                        sys.executable, "-I", "-S", "-X", "utf8", "-c", boot, str(theirs.fileno()), _core(), *roots, *library.paths(),
                    ],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    pass_fds=[theirs.fileno()],
                    start_new_session=True,
                    cwd="/",
                    # Nothing of the host's environment. One thread: a zygote that has more cannot fork. Few arenas: each
                    # takes 64 MiB of the address space that cells are limited in.
                    env={
                        "OPENBLAS_NUM_THREADS": "1",
                        "OMP_NUM_THREADS": "1",
                        "MKL_NUM_THREADS": "1",
                        "NUMEXPR_NUM_THREADS": "1",
                        "MALLOC_ARENA_MAX": "2",
                        # glibc gives large blocks back at once, and every page of the next one is a fault: with these it keeps them, and
                        # ten megabytes arrive in 8 ms instead of 13. (The threshold's highest value; a higher one is ignored.)
                        "MALLOC_MMAP_THRESHOLD_": str(2**25),
                        "MALLOC_TRIM_THRESHOLD_": str(2**27),
                        "TZ": "UTC",
                        # Some interpreters do not start without it.
                        **{k: v for k, v in os.environ.items() if k == "LD_LIBRARY_PATH"},
                    },
                )  # fmt: skip
            except BaseException:
                self.socket.close()
                raise
        self._owner = os.getpid()
        if setup is not None:
            self.tell(setup)

    def suits(self, wanted: control.Message, module: str) -> bool:
        """Whether it is, or can become, what is wanted in this process."""
        return self.module == module and self.told in (None, wanted) and self._owner == os.getpid()

    def tell(self, setup: control.Message) -> None:
        """Send the set-up, once."""
        if self.told is None:
            self.told = setup
            try:
                control.send(self.socket, setup)
            except OSError:
                pass  # it died: whoever waits for its answer finds out

    def end(self) -> str:
        """Kill it; what it had to say."""
        if os.getpid() != self._owner:  # the child of a fork ends nothing of its parent's
            return ""
        self.process.kill()
        said = self.process.communicate()[1].decode(errors="replace").strip()
        self.socket.close()
        return said


def _above_standard(end: socket.socket) -> socket.socket:
    """The same socket under a number above 2. A host without standard streams (a daemon) gets those for the next files it opens, and a child has other files there."""
    if end.fileno() > 2:
        return end
    import fcntl

    with end:
        return socket.socket(fileno=fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 3))


def _core() -> str:
    """The folder of the safeexec package."""
    return os.path.dirname(str(sys.modules["safeexec"].__file__))


def setup(
    *, deny: Mapping[str, str], extra: Iterable[tuple[str, str]], language: str, skip: Iterable[str], portable: bool
) -> control.Message:
    """What a zygote is told first."""
    return {
        "readable": library.readable(),
        "deny": dict(deny),
        "extra": [list(place) for place in sorted(extra)],
        "language": language,
        "skip": sorted(skip),
        "portable": portable,
    }


_ahead: list[Launched] = []


def ahead(policy: Any, options: Mapping[str, Any]) -> None:
    """Start the zygote that an executor with this policy (None: an ordinary one) and these options will want, before there is one. Raises OSError."""
    if options or getattr(policy, "imports", None) is not None:
        ahead_of(MODULE)
    else:
        _ahead.append(Launched(setup(deny={}, extra=(), language="restricted", skip=(), portable=False)))


def ahead_of(module: str) -> None:
    """Start a zygote that can be told later what it is for. Raises OSError."""
    _ahead.append(Launched(None, module))


def tell_ahead(module: str, wanted: control.Message) -> None:
    """Tell the one that waits to be told, if there is one."""
    for started in list(_ahead):
        if started.suits(wanted, module):
            started.tell(wanted)


def take(wanted: control.Message, module: str = MODULE) -> Launched | None:
    """A zygote that was started ahead, if one was told just this, or nothing yet."""
    for found in list(_ahead):
        if found.suits(wanted, module):
            try:
                _ahead.remove(found)
            except ValueError:
                continue  # another thread was faster
            found.tell(wanted)
            return found
    return None


def discard() -> None:
    """End the zygotes that were started ahead and that nobody took."""
    while True:
        try:
            found = _ahead.pop()
        except IndexError:
            return
        found.end()
