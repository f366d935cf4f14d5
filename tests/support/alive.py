"""What cannot be written down and made again: open databases, generators, closures, a task that waits. For sandboxes that go back, branch, and are put aside."""

from __future__ import annotations

LIVE = """
import sqlite3, asyncio, itertools, random
memory = sqlite3.connect(':memory:')
memory.execute('create table t (n)')
memory.execute('insert into t values (1)')
disk = sqlite3.connect('data.db')
disk.execute('create table t (n)')
disk.commit()
disk.execute('insert into t values (1)')
def walk():
    try:
        for n in range(100):
            yield n
    finally:
        print('closed')
walker = walk()
next(walker)
count = itertools.count(5)
next(count)
def make():
    total = 0
    def add(n):
        nonlocal total
        total += n
        return total
    return add
add = make()
add(3)
class Node:
    def __init__(self, value):
        self.value, self.me = value, self
nodes = [Node(n) for n in range(1000)]
async def later():
    await asyncio.sleep(0)
    return 42
task = None
async def begin():
    global task
    task = asyncio.get_running_loop().create_task(later())
await begin()
"""
LOOK = """
async def finish():
    await asyncio.sleep(0.001)
    return await task
(next(walker), next(count), add(1), [n.value for n in nodes[:3]], nodes[5].me is nodes[5],
 memory.execute('select count(*) from t').fetchone()[0], disk.in_transaction,
 disk.execute('select count(*) from t').fetchone()[0], await finish())
"""
SEEN = (1, 6, 4, [0, 1, 2], True, 1, True, 1, 42)
"""What `LOOK` sees after `LIVE`, and nothing in between."""
WRECK = """
import asyncio, sys
for _ in range(20): next(walker), next(count), add(100)
nodes.clear()
memory.execute('drop table t')
disk.rollback()
disk.execute('drop table t')
disk.commit()
task.cancel()
async def wait():
    await asyncio.sleep(0.001)
try:
    await wait()
except BaseException:
    pass
sys.modules['random'] = None
"""
