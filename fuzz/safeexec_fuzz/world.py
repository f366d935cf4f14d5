"""What surrounds one case: secrets, files, listeners and a bystander, fresh each time, and what became of them."""

from __future__ import annotations

import base64
import os
import secrets
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from . import processes
from .cases import Case

TOKENS = ("canary", "env", "object", "cross")


def token() -> str:
    """Something that nobody can guess, and that appears nowhere by accident."""
    return "tk" + secrets.token_hex(12)


def forms(secret: str) -> list[bytes]:
    """How a token may look on its way out."""
    raw = secret.encode()
    found = [raw, raw[::-1], raw.hex().encode(), ", ".join(map(str, raw)).encode(), "', '".join(secret).encode()]
    found += [base64.b64encode(b"x" * shift + raw)[4 if shift else 0 : -4] for shift in (0, 1, 2)]
    return found


def seen(secret: str, text: bytes) -> bool:
    """Whether a token is in the text, plain or in a usual encoding."""
    return any(form in text for form in forms(secret))


class Listeners:
    """A TCP, a UDP and two Unix listeners that note who came and what was said."""

    def __init__(self, folder: Path) -> None:
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.unix.bind(str(folder / "socket"))
        os.chmod(folder / "socket", 0o777)
        self.abstract_name = "safeexec-" + secrets.token_hex(8)
        self.abstract = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.abstract.bind("\0" + self.abstract_name)
        for server in (self.unix, self.abstract):
            server.listen()
        self._servers = (self.tcp, self.unix, self.abstract)
        for listener in (*self._servers, self.udp):
            listener.setblocking(False)
        self._open: list[tuple[socket.socket, int]] = []
        self.heard = b""
        self.visits: list[tuple[str, int | None, bytes]] = []

    def look(self, root: int) -> None:
        """Accept and read what is there. A visitor that is known not to be below the process `root` is not counted."""
        ready, _, _ = select.select([*self._servers, self.udp, *(c for c, _ in self._open)], [], [], 0)
        for server in self._servers:
            if server in ready:
                connection, peer = server.accept()
                connection.setblocking(False)
                if server is self.tcp:
                    name, pid = "TCP", processes.owner_of_tcp(peer[1], self.tcp.getsockname()[1])
                else:
                    name = "Unix socket"
                    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                    pid = struct.unpack("iII", credentials)[0] or None
                if pid is not None and os.path.exists(f"/proc/{pid}") and pid not in processes.descendants(root):
                    connection.close()  # somebody else's scan of ports
                    continue
                self.visits.append((name, pid, b""))
                self._open.append((connection, len(self.visits) - 1))
        if self.udp in ready:
            data, _ = self.udp.recvfrom(65536)
            self.heard += data[:65536]
            self.visits.append(("UDP", None, data[:200]))
        for connection, index in list(self._open):
            if connection in ready:
                try:
                    data = connection.recv(65536)
                except OSError:
                    data = b""
                if data:
                    self.heard = (self.heard + data)[-1_000_000:]
                    name, pid, before = self.visits[index]
                    self.visits[index] = (name, pid, (before + data)[:200])
                    if data.startswith(b"GET"):
                        connection.send(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")
                else:
                    connection.close()
                    self._open.remove((connection, index))

    def close(self) -> None:
        for listener in (*self._servers, self.udp, *(c for c, _ in self._open)):
            listener.close()


def _listing(folder: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = path.read_bytes()[:4096] if path.is_file() and not path.is_symlink() else b""
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_nlink, status.st_size, content)
    return found


_SHARED_FOLDERS = ("/dev/shm", "/dev/mqueue", tempfile.gettempdir())


def _settings(pid: int) -> dict[str, object]:
    """What others could set of a process; nothing of one that is gone."""
    try:
        return {
            "priority": os.getpriority(os.PRIO_PROCESS, pid),
            "processors": os.sched_getaffinity(pid),
            "limits": Path(f"/proc/{pid}/limits").read_bytes(),
            "score with the out-of-memory killer": Path(f"/proc/{pid}/oom_score_adj").read_bytes(),
        }
    except (FileNotFoundError, ProcessLookupError):
        return {}


@dataclass
class World:
    """The surroundings of one case. Made before it starts, closed when it was judged."""

    case: Case
    folder: Path = field(init=False)
    secrets: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.secrets = {name: token() for name in TOKENS}
        self.folder = Path(tempfile.mkdtemp(prefix="safeexec-world-"))
        self.folder.chmod(0o755)
        self.outside = self.folder / "outside"
        self.outside.mkdir()
        # Open to everybody: it is the sandbox that must keep the guest away, not the mode of the folder.
        self.outside.chmod(0o777)
        canary = self.outside / "canary.txt"
        canary.write_text(self.secrets["canary"] + "\n")
        canary.chmod(0o666)
        self.listeners = Listeners(self.folder)
        self.victim = subprocess.Popen(
            ["sleep", "600"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        processes.bystanders.add(self.victim.pid)
        self._before = _listing(self.outside)
        self.shared_name = "safeexec-" + secrets.token_hex(8)
        self.shared_key = secrets.randbelow(1 << 30) + 1
        self._settings = _settings(self.victim.pid)
        self.env_name = "SAFEEXEC_AUDIT_SECRET"

    def fill(self, code: str, host: int) -> str:
        """A step's code with its placeholders replaced."""
        values = {
            "@CANARY@": str(self.outside / "canary.txt"),
            "@OUTSIDE@": str(self.outside),
            "@MARKER@": str(self.outside / "marker"),
            "@ENV@": self.env_name,
            "@PORT@": str(self.listeners.tcp.getsockname()[1]),
            "@UDP@": str(self.listeners.udp.getsockname()[1]),
            "@UNIX@": str(self.folder / "socket"),
            "@ABSTRACT@": self.listeners.abstract_name,
            "@SHARED@": self.shared_name,
            "@KEY@": str(self.shared_key),
            "@VICTIM@": str(self.victim.pid),
            "@HOSTPID@": str(host),
            "@PLANT@": self.secrets["cross"],
        }
        for name, value in values.items():
            if name in code:
                code = code.replace(name, value)
        return code

    def outside_changes(self) -> list[str]:
        """What was made, changed or removed outside, in shared memory of the machine too."""
        now = _listing(self.outside)
        changed = sorted(name for name in {*now, *self._before} if now.get(name) != self._before.get(name))
        return changed + [name for name, _ in self._shared()]

    def _shared(self) -> list[tuple[str, str]]:
        """What exists under the names that only this case's guest was told: how to say it, and how to remove it."""
        found = [(f"{folder}/{self.shared_name}", "") for folder in _SHARED_FOLDERS]
        found = [item for item in found if os.path.lexists(item[0])]
        for table, option in (("shm", "-M"), ("sem", "-S"), ("msg", "-Q")):
            try:
                lines = Path(f"/proc/sysvipc/{table}").read_text(encoding="ascii").splitlines()[1:]
            except FileNotFoundError:
                continue  # a kernel without them
            if any(int(line.split()[0]) == self.shared_key for line in lines):
                found.append((f"System V {table} {self.shared_key}", option))
        return found

    def victim_hurt(self) -> str:
        """What happened to the bystander, or nothing."""
        code = self.victim.poll()
        if code is not None:
            return f"the bystander ended with {code}"
        try:
            with open(f"/proc/{self.victim.pid}/stat", "rb") as file:
                state = file.read().rpartition(b")")[2].split()[0]
        except FileNotFoundError:
            return "the bystander is gone"
        if state in (b"T", b"t"):
            return "the bystander was stopped"
        now = _settings(self.victim.pid)
        return "; ".join(
            f"the bystander's {name} changed" for name, was in self._settings.items() if now.get(name) != was
        )

    def close(self) -> None:
        for name, option in self._shared():
            # ipcrm is part of util-linux, as what reads these tables is part of the kernel; without it they stay and are named.
            if not option:
                processes.remove(name)
            elif shutil.which("ipcrm"):
                subprocess.run(["ipcrm", option, str(self.shared_key)], check=False)
        self.listeners.close()
        self.victim.kill()
        self.victim.wait()
        processes.bystanders.discard(self.victim.pid)
        shutil.rmtree(self.folder, ignore_errors=True)


def python_environment(secret: str) -> dict[str, str]:
    """The environment of a host process: this one's, and the secret in it that no guest must see."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    # Of a kind that nothing here uses: a proxy that programs would really ask must not change what a target does.
    proxy = f"http://auditor:{secret}@127.0.0.1:9"
    return {**kept, "SAFEEXEC_AUDIT_SECRET": secret, "SAFEEXEC_AUDIT_HOST_SECRET": secret, "ftp_proxy": proxy}


HERE = Path(__file__).parent
BOOT = """
import importlib.util, sys
folder, commands, reports = sys.argv[1:4]
spec = importlib.util.spec_from_file_location("safeexec_fuzz", folder + "/__init__.py", submodule_search_locations=[folder])
module = importlib.util.module_from_spec(spec)
sys.modules["safeexec_fuzz"] = module
spec.loader.exec_module(module)
from safeexec_fuzz.host.main import main
main(int(commands), int(reports))
"""
"""Started in another environment, where this package is not installed. -I: what lies in the working directory is the guest's to write."""


def host_command(python: str, commands: int, reports: int) -> list[str]:
    """The command line of a host process."""
    return [python or sys.executable, "-I", "-c", BOOT, str(HERE), str(commands), str(reports)]
