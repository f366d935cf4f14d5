"""Let untrusted code call functions of this program: ``python examples/with_tools.py [SANDBOX]``.

What runs in the sandbox is written as a language model would write it. It sees two functions; the prices and the log they use stay here.
"""

from __future__ import annotations

import sys

from safeexec import Executor, Limits, Policy

PRICES = {"kettle": 34.5, "toaster": 28.0, "grill": 89.0}
RATES = {"EUR": 1.0, "GBP": 0.84, "USD": 1.09}

STEP_1 = """
basket = {"kettle": 2, "grill": 1}
total = sum(price(item) * count for item, count in basket.items())
print("total in EUR:", total)
"""

STEP_2 = """
in_pounds = await convert.aio(total, "GBP")
try:
    price("sofa")
except KeyError as error:
    print("no price:", error)
with open("receipt.txt", "w") as f:
    f.write(f"{in_pounds:.2f} GBP")
in_pounds
"""


def price(item: str) -> float:
    """The price of one item in EUR. Raises KeyError for an item that is not sold."""
    return PRICES[item]


async def convert(amount: float, currency: str) -> float:
    """`amount` of EUR in another currency."""
    return round(amount * RATES[currency], 2)


def main(sandbox: str = "local") -> None:
    policy = Policy(limits=Limits(time=2, tool_time=1, tool_calls=20))
    with Executor(sandbox, policy=policy) as executor, executor.session(tools=[price, convert]) as session:
        for step in (STEP_1, STEP_2):
            result = session.run(step, on_output=lambda piece: print("  |", piece, end=""))
            result.raise_for_error()
            for call in result.tool_calls:
                print("  called", call.tool, dict(call.arguments), call.error or "")
        print("value:", result.value)
        print("receipt:", session.files.read("receipt.txt").decode())

        # A tool is called with what its signature asks for, or not at all.
        refused = session.run("price(12)")
        assert refused.error is not None
        print("refused:", refused.error.message)


if __name__ == "__main__":
    main(*sys.argv[1:2])
