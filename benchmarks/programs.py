"""Programs whose speed in a sandbox is compared with plain ``exec``. Each leaves its result in the last expression."""

from __future__ import annotations

COMPUTE = {
    "fib": """
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)
fib(25)
""",
    "while": """
i = total = 0
while i < 1_000_000:
    total += i & 7
    i += 1
total
""",
    "sort": """
import random
random.seed(1)
rows = [(random.random(), str(i)) for i in range(100_000)]
rows.sort()
rows.sort(key=lambda row: row[1])
rows[0][1]
""",
    "json": """
import json
data = {"rows": [{"id": i, "name": f"row {i}", "tags": ["a", "b"], "score": i / 7} for i in range(8_000)]}
for _ in range(3):
    data = json.loads(json.dumps(data))
len(data["rows"])
""",
    "strings": """
parts = []
for i in range(400_000):
    parts.append(f"{i:05d}".replace("0", "o").upper())
text = ",".join(parts)
len(text.split(",")), text.count("O")
""",
    "methods": """
class Account:
    def __init__(self, balance):
        self.balance = balance
        self._log = []
    def deposit(self, amount):
        self.balance += amount
        self._log.append(amount)
        return self
account = Account(0)
for i in range(400_000):
    account.deposit(i)
account.balance, len(account._log)
""",
    "dict": """
counts = {}
for i in range(400_000):
    key = i % 1009
    counts[key] = counts.get(key, 0) + 1
sum(counts.values())
""",
}
"""The first five make the published geometric mean; the others show what object-heavy code pays."""

PUBLISHED = ("fib", "while", "sort", "json", "strings")

EVERYDAY = {
    "sha256": """
import hashlib
digest = b"x" * 1000
for _ in range(2_000):
    digest = hashlib.sha256(digest * 20).digest()
digest.hex()
""",
}
"""What code of the standard library that is written in C costs; only the comparison with other executors runs it."""
