"""Programs whose every step changes something that a checkpoint must hold: for sandboxes that go back, and on, and must be none the worse."""

from __future__ import annotations

from typing import Any

START = """
import random, sqlite3
random.seed(7)
x, y, items, table = 1, 0, [], {}
def gen():
    n = 0
    while True:
        n += 1
        yield n
numbers = gen()
def closure():
    kept = 0
    def total(n):
        nonlocal kept
        kept += n
        return kept
    return total
total = closure()
database = sqlite3.connect('data.db')
database.execute('create table t (n)')
"""
RAISES = ("1 / 0", "raise KeyError(x)")
STEPS = (
    "x = x * 3 + 1",
    "items.append(x)",
    "items and items.pop(0)",
    "table[len(table)] = str(x)",
    "y = next(numbers)",
    "x = total(y)",
    "open('log', 'a').write(f'{x}\\n')",
    "open('b', 'w').write('b' * (x % 100))",
    "import os\nif os.path.exists('b'): os.remove('b')",
    "import os\nos.makedirs('d/e', exist_ok=True)",
    "import random\nx = random.randrange(1000)",
    "class C:\n    n = x\nitems.append(C.n)",
    "import collections\ntable = dict(collections.OrderedDict(table))",
    *RAISES,
    "_ = database.execute('insert into t values (?)', (x,))",
    "database.rollback()",
    "database.commit()",
    "print(x, len(items))",
    "def f(): return x\nx = f() % 1000",
    "big = bytes(300_000)",
)
_SEEN = (
    "x", "y", "items", "table", "total(0)", "next(numbers)", "random.random()", "sorted(os.listdir('.'))",
    "open('log').read() if os.path.exists('log') else ''", "database.execute('select * from t').fetchall()", "database.in_transaction",
)  # fmt: skip


def look(*more: str) -> str:
    """A step whose value is everything that the steps change, and `more` expressions."""
    return f"import os\n({', '.join((*_SEEN, *more))})"


def outcome(result: Any) -> Any:
    """What two steps have in common that did the same."""
    error = None if result.error is None else (result.error.kind, result.error.type, result.error.message)
    return result.value, result.stdout, error
