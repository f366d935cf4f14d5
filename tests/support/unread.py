"""A guest that leaves the answers of its tools unread, says that its step is done, and goes on."""

from __future__ import annotations

import threading

from safeexec import Executor, Limits, Policy

FORGE = """
import sys, time
frame, number, channel = sys._getframe(), None, None
while frame is not None:
    for value in list(frame.f_locals.values()):
        if number is None and type(value) is dict and value.get('t') == 'run': number = value['id']
        if hasattr(value, '_channel'): channel = value._channel
    frame = frame.f_back
for call in range(1000, 1000 + calls):
    channel.send({'t': 'call', 'id': call, 'tool': 'large', 'a': [], 'k': {}})
if calls: time.sleep(0.5)
channel.send({'t': 'done', 'id': number})
while True: pass
"""


def large() -> bytes:
    return bytes(4_000_000)


def check(executor: Executor) -> None:
    """Its step ends, and so does every other of the host."""
    policy = Policy(limits=Limits(time=5, wall=8))
    hostile = executor.session({"large": large}, policy=policy)
    neighbour = executor.session(policy=Policy(limits=Limits(time=0.5)))
    ended: list[str] = []

    def work() -> None:
        hostile.run("calls = 6")
        hostile.run(FORGE)
        ended.append("hostile")
        error = neighbour.run("while True: pass").error
        assert error is not None
        ended.append(error.kind)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(40)
    try:
        assert ended == ["hostile", "time"]
    finally:
        hostile.kill()
        neighbour.kill()
        thread.join(10)
        hostile.close()
        neighbour.close()
