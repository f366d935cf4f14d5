"""Run something that cannot be undone in a child process."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Callable
from typing import Any


def in_child(action: Callable[[], Any]) -> Any:
    """What `action` returns (as JSON) in a forked child; an exception there is one here."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = {"value": action()}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        # The walls under test may leave nothing but writing to an open pipe.
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        text = pipe.read()
    _, status = os.waitpid(pid, 0)
    assert status == 0, f"the child ended with status {status}"
    answer = json.loads(text)
    assert "error" not in answer, answer["error"]
    return answer["value"]
