"""A host that forks while guests run in it: the child goes on with what has a thread there, and can end."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, threading
from safeexec import Executor, SessionClosed
executor = Executor("wasm", workers=0)
idle, busy = executor.session(variables={"x": 7}), executor.session()
begun = threading.Event()
results = []
code = "print('b')\\nimport time\\nfor _ in range(2000): time.sleep(0.001)"
thread = threading.Thread(target=lambda: results.append(busy.run(code, on_output=lambda _: begun.set())))
thread.start()
begun.wait()
pid = os.fork()
if pid == 0:
    assert idle.run("x").value == 7 and executor.run("2").value == 2
    try:
        busy.run("1")
    except SessionClosed:
        busy.interrupt()
        busy.kill()
        busy.close()
        executor.close()
        os._exit(0)
    os._exit(1)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
busy.interrupt()
thread.join()
print(code, results[0].error.type, busy.run("3").value, idle.run("x").value)
executor.close()
"""


def test_a_forked_child_is_not_held_up_by_what_another_thread_ran() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60)
    assert done.stdout == "0 KeyboardInterrupt 3 7\n", done.stderr
