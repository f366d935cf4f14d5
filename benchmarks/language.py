"""What the restricted language costs: each program plain and restricted, best of several runs.

python benchmarks/language.py [--json]
"""

import json
import math
import sys
import time

from safeexec_backends.local.language import RestrictedLanguage

PROGRAMS = {
    "fib": "def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)\nfib(24)",
    "while loop": "i = t = 0\nwhile i < 400_000:\n    i += 1\n    t += i & 3",
    "sort": (
        "import random\nr = random.Random(1)\nd = [r.random() for _ in range(60_000)]\n"
        "d.sort()\ns = sorted(d, key=lambda x: -x)"
    ),
    "json": ("import json\no = [{'k': i, 'v': [str(i)] * 5} for i in range(4000)]\njson.loads(json.dumps(o)) == o"),
    "string building": (
        "p = []\nfor i in range(80_000):\n    p.append(f'{i:05d}'.replace('0', 'o').upper())\n"
        "s = ''.join(p)\nlen(s.split('O'))"
    ),
    "objects": """
class P:
    def __init__(self, x, y):
        self.x = x
        self._y = y
    def step(self):
        self.x += 1
        self._y -= 1
        return self.x + self._y
t = 0
for i in range(60_000):
    p = P(i, 2)
    t += p.step() + p.step()
""",
    "dataclasses": """
from dataclasses import dataclass
@dataclass
class V:
    x: float
    y: float
    def __add__(self, o): return V(self.x + o.x, self.y + o.y)
v = V(0, 0)
for i in range(60_000): v = v + V(1, 2)
""",
    "math": "import math\nt = 0.0\nfor i in range(200_000): t += math.sqrt(i) * math.sin(i)",
}
COMPUTE = ("fib", "while loop", "sort", "json", "string building")


def best(*runs, times=9):
    """The least processor time of each, taken in turns so that a busy machine is busy for all."""
    found = [math.inf] * len(runs)
    for _ in range(times):
        for index, run in enumerate(runs):
            started = time.process_time()
            run()
            found[index] = min(found[index], time.process_time() - started)
    return found


def plain(source):
    code = compile(source, "<plain>", "exec")
    exec(code, {"__name__": "__main__"})


def restricted(source):
    language = RestrictedLanguage()
    namespace = language.namespace()
    for code in language.compile(source, "<restricted>"):
        eval(code, namespace)


def main():
    rows = {}
    for name, source in PROGRAMS.items():
        a, b = best(lambda s=source: plain(s), lambda s=source: restricted(s))
        rows[name] = {"plain_ms": a * 1e3, "restricted_ms": b * 1e3, "ratio": b / a}
    language = RestrictedLanguage()
    language.namespace()
    (step,) = best(lambda: language.compile("x = 1\nx + 1", "<c>"), times=300)
    rows["compile 'x = 1; x + 1'"] = {"restricted_us": step * 1e6}
    mean = math.prod(rows[n]["ratio"] for n in COMPUTE) ** (1 / len(COMPUTE))
    rows["geometric mean of compute"] = {"ratio": mean}
    if "--json" in sys.argv:
        print(json.dumps(rows))
        return
    for name, row in rows.items():
        print(f"{name:<28}" + "  ".join(f"{k} {v:.3f}" for k, v in row.items()))


if __name__ == "__main__":
    main()
