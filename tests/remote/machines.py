"""The machine behind the loopback servers: commands are processes of this machine, in a home directory of their own. No wall at all."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safeexec import Executor
from safeexec.serve.machine import ExecutorMachine, Process


class LocalProcess(Process):
    def __init__(self, words: list[str], env: Mapping[str, str], folder: str) -> None:
        self._popen = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(env),
            cwd=folder,
            start_new_session=True,
        )
        self.pid = self._popen.pid
        self.exited = threading.Event()

    def events(self) -> Iterator[tuple[str, Any]]:
        assert self._popen.stdout is not None and self._popen.stderr is not None
        names = {self._popen.stdout.fileno(): "stdout", self._popen.stderr.fileno(): "stderr"}
        poll = select.poll()
        for fd in names:
            poll.register(fd, select.POLLIN)
        try:
            while names:
                for fd, _ in poll.poll():
                    data = os.read(fd, 32768)
                    if data:
                        yield names[fd], data
                    else:
                        poll.unregister(fd)
                        del names[fd]
            yield "exit", self._popen.wait()
        finally:
            self._popen.wait()
            self.close_input()
            self._popen.stdout.close()
            self._popen.stderr.close()
            self.exited.set()

    def write(self, data: bytes) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.write(data)
        self._popen.stdin.flush()

    def close_input(self) -> None:
        assert self._popen.stdin is not None
        try:
            self._popen.stdin.close()
        except OSError:
            pass

    def signal(self, number: int) -> None:
        self._popen.send_signal(number)  # not by its id, which may be another process's by now

    def end(self) -> None:
        if self._popen.poll() is None:
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


class LocalMachine(ExecutorMachine):
    """Code contexts over an executor, commands as processes."""

    def __init__(self, executor: Executor | None, env: Mapping[str, str], programs: str = "") -> None:
        if executor is not None:  # without one there are commands only
            super().__init__(executor)
        self._has_code = executor is not None
        self.folder = Path(tempfile.mkdtemp(prefix="safeexec-loopback-"))
        path = f"{programs or Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
        (self.folder / ".profile").write_text(f"export PATH={path}\n")  # a login shell sets PATH anew
        self._env = {"HOME": str(self.folder), "PATH": path, "LANG": "C.UTF-8", **env}
        self._processes: list[LocalProcess] = []
        self._ended = False

    def start(self, words: list[str], env: Mapping[str, str], folder: str | None) -> Process:
        process = LocalProcess(words, {**self._env, **env}, folder or str(self.folder))
        self._processes.append(process)
        if self._ended:
            process.end()
        return process

    def close(self) -> None:
        self._ended = True
        for process in self._processes:
            process.end()
            process.exited.wait(10)
        if self._has_code:
            super().close()
        shutil.rmtree(self.folder, ignore_errors=True)


def image_with(packages: list[str], env: Mapping[str, str], folder: Path) -> str:
    """A folder of programs whose Python has these packages as well; "built" as a vendor builds an image. Raises CalledProcessError."""
    import sysconfig

    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True, capture_output=True)
    site = next(folder.glob("lib/python*/site-packages"))
    (site / "ours.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    if packages:
        words = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(site), *packages]
        subprocess.run(words, check=True, capture_output=True, env={**os.environ, **env})
    return str(folder / "bin")
