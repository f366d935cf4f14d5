"""Clean a year of orders from three shops and aggregate them."""

import csv
import json
import re
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from datetime import date, datetime

DATE_FORMATS = ("%Y-%m-%d", "%d/%m/%Y", "%b %d, %Y")


@dataclass
class Order:
    order_id: str
    day: date
    customer: str
    region: str
    product: str
    quantity: int
    unit_price: float
    status: str

    @property
    def total(self) -> float:
        return self.quantity * self.unit_price


def parse_date(text: str) -> date:
    for fmt in DATE_FORMATS:
        try:
            return datetime.strptime(text.strip(), fmt).date()
        except ValueError:
            continue
    raise ValueError(f"unknown date {text!r}")


def parse_price(text: str) -> float:
    return float(re.sub(r"[^\d.]", "", text))


# %% Read and clean: every row that is dropped is counted under a reason.
orders: list[Order] = []
rejected: Counter[str] = Counter()
seen: set[str] = set()

with open("orders.csv", newline="", encoding="utf-8") as f:
    for row in csv.DictReader(f):
        if row["order_id"] in seen:
            rejected["duplicate"] += 1
            continue
        seen.add(row["order_id"])
        try:
            day = parse_date(row["date"])
        except ValueError:
            rejected["bad date"] += 1
            continue
        if not row["quantity"]:
            rejected["no quantity"] += 1
            continue
        if (quantity := int(row["quantity"])) <= 0:
            rejected["negative quantity"] += 1
            continue
        orders.append(
            Order(
                order_id=row["order_id"],
                day=day,
                customer=row["customer"],
                region=row["region"].strip().lower(),
                product=row["product"],
                quantity=quantity,
                unit_price=parse_price(row["unit_price"]),
                status=row["status"],
            )
        )

print(f"{len(orders)} orders kept, {sum(rejected.values())} rows rejected")
for reason, count in rejected.most_common():
    print(f"  {reason:18} {count:4d}")
{"kept": len(orders), "rejected": dict(rejected)}

# %% Aggregate what was paid.
paid = [o for o in orders if o.status == "paid"]
by_region: defaultdict[str, float] = defaultdict(float)
by_month: defaultdict[str, float] = defaultdict(float)
by_product: dict[str, dict[str, float]] = {}
for o in paid:
    by_region[o.region] += o.total
    by_month[f"{o.day:%Y-%m}"] += o.total
    entry = by_product.setdefault(o.product, {"units": 0, "revenue": 0.0})
    entry["units"] += o.quantity
    entry["revenue"] += o.total

customers = Counter()
for o in paid:
    customers[o.customer] += o.total
best = max(by_month, key=by_month.get)

print(f"\n{'region':10}{'revenue':>14}")
for region, revenue in sorted(by_region.items(), key=lambda item: -item[1]):
    print(f"{region:10}{revenue:14,.2f}")
print(f"\nbest month: {best} with {by_month[best]:,.2f}")

# %% Write the results.
summary = {
    "orders": len(paid),
    "revenue": round(sum(o.total for o in paid), 2),
    "by_region": {k: round(v, 2) for k, v in sorted(by_region.items())},
    "by_month": {k: round(v, 2) for k, v in sorted(by_month.items())},
    "by_product": {k: {"units": v["units"], "revenue": round(v["revenue"], 2)} for k, v in sorted(by_product.items())},
    "top_customers": [name for name, _ in customers.most_common(5)],
}
with open("summary.json", "w") as f:
    json.dump(summary, f, indent=2)

with open("orders_clean.csv", "w", newline="") as f:
    writer = csv.DictWriter(f, fieldnames=list(asdict(orders[0])))
    writer.writeheader()
    writer.writerows(asdict(o) for o in orders)

summary
