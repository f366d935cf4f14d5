"""Starting a loopback server as a process of its own, and talking to its controls."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class Loopback:
    """A running server; `url` is its address."""

    def __init__(self, module: str, settings: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            text=True,
        )
        assert self._process.stdout is not None and self._process.stdin is not None
        # Not on the command line, where a sandbox of this machine would see the key.
        self._process.stdin.write(json.dumps(settings) + "\n")
        self._process.stdin.flush()
        # The address, and that of the controls where it is another.
        self.url, _, control = self._process.stdout.readline().strip().partition(" ")
        self._control = control or self.url
        assert self.url, "the loopback server did not start"

    def _call(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(urllib.request.Request(self._control + path, data), timeout=10) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def faults(self, *rules: dict[str, Any]) -> None:
        """Put these rules in force, and forget the record."""
        self._call("/_faults", list(rules))

    def record(self) -> list[dict[str, Any]]:
        """What has been asked."""
        found: list[dict[str, Any]] = self._call("/_record")
        return found

    def calls(self, part: str) -> int:
        """How many requests contained `part` in their method and path."""
        return sum(part in entry["call"] for entry in self.record())

    def state(self) -> Any:
        """The sandboxes there are."""
        return self._call("/_state")

    def close(self) -> None:
        """End it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
