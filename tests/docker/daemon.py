"""A docker daemon of the tests' own: nothing of the machine's is touched, and nothing of ours stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from time import monotonic

READY_SECONDS = 30.0


class Daemon:
    """A private dockerd without network set-up. `runtimes` maps names to lists of path and arguments; `mirror` is asked for official images. Raises RuntimeError."""

    def __init__(self, folder: Path, runtimes: dict[str, list[str]] | None = None, mirror: str = "") -> None:
        self.folder = folder
        self.url = f"unix://{folder}/docker.sock"
        config = folder / "daemon.json"
        import json

        described = {name: {"path": path, "runtimeArgs": rest} for name, (path, *rest) in (runtimes or {}).items()}
        settings: dict[str, object] = {"runtimes": described} if described else {}
        if mirror:
            settings["registry-mirrors"] = [mirror]
        config.write_text(json.dumps(settings))
        self._log = (folder / "log").open("wb")
        self.process = subprocess.Popen(
            [
                "dockerd", "-H", self.url, "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec"),
                "--pidfile", str(folder / "docker.pid"), "--config-file", str(config),
                "--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false",
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )  # fmt: skip
        pause = threading.Event()
        deadline = monotonic() + READY_SECONDS
        while not self._answers():
            if self.process.poll() is not None or monotonic() > deadline:
                said = (folder / "log").read_text(errors="replace")[-2000:]
                self.close()
                raise RuntimeError(f"dockerd did not come up: {said}")
            pause.wait(0.05)

    def _answers(self) -> bool:
        import docker
        import docker.errors

        try:
            client = docker.DockerClient(base_url=self.url, timeout=5)
        except docker.errors.DockerException:
            return False
        try:
            return bool(client.ping())
        except Exception:
            return False
        finally:
            client.close()

    def close(self) -> None:
        """End it by its process id and remove what it kept."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self._log.close()
        for line in Path("/proc/mounts").read_text().splitlines():
            target = line.split()[1]
            if target.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "-l", target], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
