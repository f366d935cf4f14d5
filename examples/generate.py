"""Make the data of the examples, the same bytes every time: ``python examples/generate.py [DIRECTORY]``.

The data is invented. It has the faults that real data has (mixed date formats, stray spaces, duplicates, lines cut short), because programs that
clean data are what the examples are about.
"""

from __future__ import annotations

import csv
import io
import json
import math
import random
import sys
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path

PRODUCTS = {"kettle": 34.5, "toaster": 28.0, "blender": 59.9, "espresso machine": 1249.0, "scale": 17.25, "grill": 89.0}
REGIONS = ("north", "south", "east", "west")


def table(header: list[str], rows: list[list[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def orders() -> bytes:
    """3,000 orders of one year and 60 repeated lines, as three shops exported them."""
    rng = random.Random(1)
    rows: list[list[object]] = []
    for number in range(1, 3001):
        day = date(2025, 1, 1) + timedelta(days=rng.randrange(365))
        written = day.strftime(rng.choice(("%Y-%m-%d", "%Y-%m-%d", "%d/%m/%Y", "%b %d, %Y")))
        product = rng.choice(list(PRODUCTS))
        price = round(PRODUCTS[product] * rng.choice((1, 1, 1, 0.9, 0.75)), 2)
        amount: object = rng.randint(1, 8)
        fault = rng.random()
        if fault < 0.02:
            amount = ""
        elif fault < 0.03:
            amount = -rng.randint(1, 3)
        elif fault < 0.035:
            written = "unknown"
        shown = rng.choice((f"{price:.2f}", f"{price:.2f}", f"${price:,.2f}", f" {price:.2f} "))
        region = rng.choice(REGIONS)
        region = rng.choice((region, region, region.upper(), f" {region.title()} "))
        status = rng.choices(("paid", "refunded", "cancelled"), (90, 6, 4))[0]
        rows.append([f"A{number:05d}", written, f"c{rng.randint(1, 400):03d}", region, product, amount, shown, status])
    for _ in range(60):
        rows.insert(rng.randrange(len(rows)), list(rng.choice(rows)))
    return table(["order_id", "date", "customer", "region", "product", "quantity", "unit_price", "status"], rows)


def access_log() -> bytes:
    """5,000 lines of a web server in two days, with a burst of failed log-ins and some lines cut short."""
    rng = random.Random(2)
    paths = ["/", "/products", "/products/17", "/cart", "/login", "/api/search?q=kettle", "/static/app.js", "/old-page"]
    agents = ["Mozilla/5.0 (X11; Linux x86_64)", "Mozilla/5.0 (Macintosh)", "curl/8.5.0", "ExampleBot/2.1"]
    start = datetime(2025, 6, 1, tzinfo=timezone(timedelta(hours=2)))
    events: list[tuple[datetime, str]] = []

    def line(at: datetime, address: str, request: str, status: int, size: int, took: float, agent: str) -> str:
        stamp = at.strftime("%d/%b/%Y:%H:%M:%S %z")
        return f'{address} - - [{stamp}] "{request}" {status} {size or "-"} {took:.3f} "{agent}"'

    for _ in range(4900):
        # More visits by day than by night.
        hour = min(23, max(0, round(rng.gauss(14, 4.5))))
        at = start + timedelta(days=rng.randrange(2), hours=hour, seconds=rng.randrange(3600))
        path = rng.choices(paths, (20, 18, 15, 8, 6, 14, 25, 3))[0]
        method = "POST" if path in ("/cart", "/login") and rng.random() < 0.6 else "GET"
        status = 301 if path == "/old-page" else rng.choices((200, 304, 404, 500, 503), (86, 7, 4, 2, 1))[0]
        size = 0 if status == 304 else int(rng.lognormvariate(8, 1.2))
        took = rng.lognormvariate(-3, 0.8) * (6 if path.startswith("/api") else 1)
        address = f"10.{rng.randrange(4)}.{rng.randrange(8)}.{rng.randrange(1, 250)}"
        events.append((at, line(at, address, f"{method} {path} HTTP/1.1", status, size, took, rng.choice(agents))))
    for address, count in (("203.0.113.9", 60), ("198.51.100.77", 25)):
        at = start + timedelta(hours=rng.randrange(30, 40))
        for _ in range(count):
            at += timedelta(seconds=rng.randint(1, 5))
            events.append((at, line(at, address, "POST /login HTTP/1.1", 401, 312, 0.05, "python-requests/2.31")))
    events.sort(key=lambda event: event[0])
    lines = [text for _, text in events]
    for _ in range(15):
        place = rng.randrange(len(lines))
        lines.insert(place, lines[place][: rng.randint(5, 40)])
    return ("\n".join(lines) + "\n").encode()


def library() -> dict[str, bytes]:
    """A lending library: 300 books, 150 members, 2,500 loans of which some are still out."""
    rng = random.Random(3)
    nouns = ["River", "Clock", "Garden", "Harbour", "Engine", "Winter", "Letter", "Orchard", "Signal", "Mountain"]
    adjectives = ["Quiet", "Broken", "Northern", "Hidden", "Last", "Copper", "Distant", "Second", "Paper", "Long"]
    names = ["Ada", "Bo", "Chen", "Dara", "Elif", "Femi", "Goran", "Hana", "Ines", "Jonas", "Kofi", "Lena", "Mira"]
    genres = ["novel", "history", "science", "travel", "poetry"]
    books: list[list[object]] = [
        [
            n,
            f"The {rng.choice(adjectives)} {rng.choice(nouns)}",
            rng.choice(names),
            rng.choice(genres),
            1950 + rng.randrange(75),
        ]
        for n in range(1, 301)
    ]
    members: list[list[object]] = [
        [
            n,
            f"{rng.choice(names)} {chr(65 + rng.randrange(26))}.",
            (date(2020, 1, 1) + timedelta(rng.randrange(1500))).isoformat(),
        ]
        for n in range(1, 151)
    ]
    loans: list[list[object]] = []
    for n in range(1, 2501):
        out = date(2024, 7, 1) + timedelta(rng.randrange(500))
        back = "" if rng.random() < 0.05 else (out + timedelta(max(1, round(rng.gauss(18, 9))))).isoformat()
        loans.append([n, 1 + int(299 * rng.random() ** 2), rng.randint(1, 150), out.isoformat(), back])
    return {
        "books.csv": table(["id", "title", "author", "genre", "year"], books),
        "members.csv": table(["id", "name", "joined"], members),
        "loans.csv": table(["id", "book_id", "member_id", "lent", "returned"], loans),
    }


def reviews() -> bytes:
    """2,000 product reviews, one JSON object a line; the words agree with the stars more often than not."""
    rng = random.Random(4)
    good = ["great", "love", "excellent", "sturdy", "quiet", "fast", "reliable", "perfect", "happy", "easy"]
    bad = ["broken", "noisy", "terrible", "slow", "cheap", "leaks", "disappointed", "refund", "awful", "flimsy"]
    topics = {
        "kettle": ["boils", "water", "lid", "handle", "cordless"],
        "toaster": ["bread", "slots", "crumbs", "browning", "bagels"],
        "blender": ["smoothies", "blades", "jug", "ice", "motor"],
        "espresso machine": ["crema", "grinder", "steam", "milk", "pressure"],
        "grill": ["charcoal", "burgers", "grate", "smoke", "wheels"],
    }
    openings = [
        "I bought this {p} last month.",
        "My second {p} of this kind.",
        "This {p} was a gift.",
        "We use the {p} daily!",
    ]
    lines = []
    for number in range(1, 2001):
        product = rng.choice(list(topics))
        stars = rng.choices((1, 2, 3, 4, 5), (12, 10, 15, 28, 35))[0]
        likely = stars / 5 if stars != 3 else 0.5
        sentences = [rng.choice(openings).format(p=product)]
        for _ in range(rng.randint(1, 4)):
            word = rng.choice(good if rng.random() < likely else bad)
            topic = rng.choice(topics[product])
            sentences.append(
                rng.choice(
                    (
                        f"The {topic} is {word}, and I'm not the only one who says so.",
                        f"{word.capitalize()}: the {topic} after {rng.randint(2, 40)} days.",
                        f"It's {word}; the {topic} could be better?",
                        f"Really {word} {topic}.",
                    )
                )
            )
        review = {"id": number, "product": product, "stars": stars, "text": " ".join(sentences)}
        lines.append(json.dumps(review, ensure_ascii=False))
    return ("\n".join(lines) + "\n").encode()


def sensors() -> bytes:
    """Hourly temperatures of two sites over 90 days; now and then a reading is missing or out of range."""
    rng = random.Random(5)
    rows: list[list[object]] = []
    for hour in range(24 * 90):
        at = datetime(2025, 3, 1) + timedelta(hours=hour)
        for site, base in (("roof", 6.0), ("cellar", 11.0)):
            swing = 5.0 if site == "roof" else 0.8
            value = base + hour / 24 * (0.12 if site == "roof" else 0.03)
            value += swing * math.sin((at.hour - 9) / 24 * 2 * math.pi) + rng.gauss(0, 0.7)
            shown: object = f"{value:.2f}"
            fault = rng.random()
            if fault < 0.01:
                shown = ""
            elif fault < 0.013:
                shown = "999.00"
            rows.append([at.isoformat(timespec="minutes"), site, shown])
    return table(["time", "site", "celsius"], rows)


SINGLE: dict[str, Callable[[], bytes]] = {
    "orders.csv": orders,
    "access.log": access_log,
    "reviews.jsonl": reviews,
    "sensors.csv": sensors,
}


def everything() -> dict[str, bytes]:
    """File name to content."""
    return {**{name: make() for name, make in SINGLE.items()}, **library()}


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "data"
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in everything().items():
        (folder / name).write_bytes(content)
        print(f"{name:15} {len(content):8,} bytes")
