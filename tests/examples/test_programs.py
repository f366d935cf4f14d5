"""Each example against a computation of the same answer by other means, and against plain CPython."""

from __future__ import annotations

import csv
import io
import json
import math
import runpy
from collections import Counter
from collections.abc import Callable
from datetime import date, datetime, timedelta
from itertools import groupby
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy
import pandas
import PIL.Image
import pytest

from tests.examples.conftest import Run
from tests.examples.programs import DATA, EXAMPLES, PROGRAMS

RunSteps = Callable[[str], Run]


def test_the_generator_makes_exactly_the_data_that_is_there() -> None:
    made = runpy.run_path(str(EXAMPLES / "generate.py"))["everything"]()
    assert set(made) == {path.name for path in DATA.iterdir()}
    for name, content in made.items():
        assert (DATA / name).read_bytes() == content, name


@pytest.mark.parametrize("name", PROGRAMS)
def test_prints_the_same_as_on_plain_cpython(name: str, run_steps: RunSteps, tmp_path: Path) -> None:
    expected = PROGRAMS[name].run_plain(tmp_path)
    assert len(expected) > 40
    assert run_steps(name).stdout == expected


def test_orders(run_steps: RunSteps) -> None:
    run = run_steps("orders")
    _, cleaned, _, summary = (result.value for result in run.results)

    raw = pandas.read_csv(DATA / "orders.csv", dtype=str, keep_default_na=False)
    once = raw.drop_duplicates("order_id")
    days = pandas.to_datetime(once["date"], format="%Y-%m-%d", errors="coerce")
    for form in ("%d/%m/%Y", "%b %d, %Y"):
        days = days.fillna(pandas.to_datetime(once["date"], format=form, errors="coerce"))
    quantity = pandas.to_numeric(once["quantity"], errors="coerce")
    keep = once[days.notna() & (quantity > 0)].assign(day=days, quantity=quantity)
    keep["price"] = keep["unit_price"].str.strip().str.lstrip("$").str.replace(",", "").astype(float)
    keep["region"] = keep["region"].str.strip().str.lower()
    keep["total"] = keep["price"] * keep["quantity"]
    paid = keep[keep["status"] == "paid"]

    assert cleaned["kept"] == len(keep)
    assert cleaned["rejected"] == {
        "duplicate": len(raw) - len(once),
        "bad date": int(days.isna().sum()),
        "no quantity": int((days.notna() & (once["quantity"] == "")).sum()),
        "negative quantity": int((days.notna() & (quantity < 0)).sum()),
    }
    assert summary["orders"] == len(paid)
    assert summary["revenue"] == pytest.approx(paid["total"].sum(), abs=0.01)
    assert summary["by_region"] == pytest.approx(paid.groupby("region")["total"].sum().to_dict(), abs=0.01)
    by_month = paid.groupby(paid["day"].dt.strftime("%Y-%m"))["total"].sum()
    assert summary["by_month"] == pytest.approx(by_month.to_dict(), abs=0.01)
    assert len(summary["by_month"]) == 12
    for product, rows in paid.groupby("product"):
        assert summary["by_product"][product]["units"] == rows["quantity"].sum()
        assert summary["by_product"][product]["revenue"] == pytest.approx(rows["total"].sum(), abs=0.01)
    assert summary["top_customers"] == list(paid.groupby("customer")["total"].sum().nlargest(5).index)

    assert {info.name for info in run.results[-1].files} == {"summary.json", "orders_clean.csv"}
    assert json.loads(run.session.files.read("summary.json")) == summary
    written = pandas.read_csv(io.BytesIO(run.session.files.read("orders_clean.csv")))
    assert list(written["order_id"]) == list(keep["order_id"])
    assert list(written["unit_price"]) == pytest.approx(list(keep["price"]))


def test_access_log(run_steps: RunSteps) -> None:
    run = run_steps("access_log")
    hits: list[tuple[str, datetime, str, int, int, float]] = []
    lines = (DATA / "access.log").read_text().splitlines()
    for line in lines:  # cut at quotes and spaces instead of by a pattern
        parts = line.split('"')
        if len(parts) != 5:
            continue
        ip, _, _, stamp, zone = parts[0].split()
        status, size, took = parts[2].split()
        when = datetime.strptime(f"{stamp} {zone}", "[%d/%b/%Y:%H:%M:%S %z]")
        path = parts[1].split()[1].partition("?")[0]
        hits.append((ip, when, path, int(status), 0 if size == "-" else int(size), float(took)))

    assert run.results[1].value == (len(hits), len(lines) - len(hits))
    value: Any = run.values[-1]
    assert value["status"] == Counter(hit[3] for hit in hits)
    assert value["top_paths"] == Counter(hit[2] for hit in hits).most_common(3)
    assert value["bytes"] == sum(hit[4] for hit in hits)
    hours = Counter(hit[1].hour for hit in hits)
    assert value["busiest_hour"] == max(hours, key=hours.__getitem__)
    assert value["median"] == pytest.approx(numpy.median([hit[5] for hit in hits]))
    path, p95 = value["slowest"]
    assert path == "/api/search"
    assert p95 == pytest.approx(numpy.percentile([h[5] for h in hits if h[2] == path], 95, method="weibull"))

    worst: dict[str, int] = {}
    failed = sorted((h[0], h[1]) for h in hits if h[3] == 401)
    for ip, group in groupby(failed, key=lambda pair: pair[0]):
        times = [when for _, when in group]
        most = max(sum(end - timedelta(minutes=2) <= t <= end for t in times) for end in times)
        if most >= 20:
            worst[ip] = most
    assert set(worst) == {"203.0.113.9", "198.51.100.77"}
    assert value["suspects"] == worst


def rows_of(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_library(run_steps: RunSteps) -> None:
    run = run_steps("library")
    _, counts, popular, durations, overdue, total = run.values
    loans, books = rows_of("loans.csv"), {row["id"]: row for row in rows_of("books.csv")}

    assert counts == {"books": len(books), "members": len(rows_of("members.csv")), "loans": len(loans)}
    times = Counter(int(loan["book_id"]) for loan in loans)
    assert popular == sorted(times.items(), key=lambda item: (-item[1], item[0]))[:5]

    by_genre: dict[str, list[int]] = {}
    for loan in loans:
        if loan["returned"]:
            days = (date.fromisoformat(loan["returned"]) - date.fromisoformat(loan["lent"])).days
            by_genre.setdefault(books[loan["book_id"]]["genre"], []).append(days)
    expected = {genre: (len(days), sum(days) / len(days)) for genre, days in by_genre.items()}
    assert isinstance(durations, dict) and durations.keys() == expected.keys()
    for genre, (count, mean) in durations.items():
        assert (count, mean) == (expected[genre][0], pytest.approx(expected[genre][1], abs=0.005))

    out: dict[int, int] = {}
    for loan in loans:
        if not loan["returned"]:
            days_out = (date(2025, 11, 20) - date.fromisoformat(loan["lent"])).days
            out[int(loan["member_id"])] = max(out.get(int(loan["member_id"]), 0), days_out)
    late = [(member, days_out) for member, days_out in out.items() if days_out > 60]
    assert overdue == sorted(late, key=lambda item: (-item[1], item[0]))

    assert total == len(loans), "the refused transaction left a row behind"
    assert "FOREIGN KEY" in run.results[-1].stdout
    assert run.session.files.read("library.db").startswith(b"SQLite format 3\0")


def test_monte_carlo(run_steps: RunSteps) -> None:
    _, birthday, option, gambler = run_steps("monte_carlo").values
    assert isinstance(birthday, dict) and isinstance(option, tuple) and isinstance(gambler, dict)
    # In half-widths of a 95 % interval: five standard errors. The seed is fixed, so this never fails by chance.
    sure = 2.5

    for people, (estimate, error) in birthday.items():
        exact = 1 - math.prod((365 - k) / 365 for k in range(people))
        assert abs(estimate - exact) < sure * error and 0 < error < 0.02

    spot, strike, rate, sigma = 100, 105, 0.03, 0.2
    d1 = (math.log(spot / strike) + rate + sigma**2 / 2) / sigma
    exact = spot * NormalDist().cdf(d1) - strike * math.exp(-rate) * NormalDist().cdf(d1 - sigma)
    assert abs(option[0] - exact) < sure * option[1] and 0 < option[1] < 0.2

    ratio = 0.52 / 0.48
    exact = (1 - ratio**10) / (1 - ratio**25)
    assert abs(gambler["won"][0] - exact) < sure * gambler["won"][1] and 0 < gambler["won"][1] < 0.03
    expected_bets = (10 - 25 * exact) / (0.52 - 0.48)
    assert gambler["bets"] == pytest.approx(expected_bets, rel=0.1)


def test_reviews(run_steps: RunSteps) -> None:
    _, size, keywords, mood, pairs = run_steps("reviews").values
    frame = pandas.read_json(DATA / "reviews.jsonl", lines=True)
    # Another tokeniser: whatever is no letter and no apostrophe becomes a space.
    words = frame["text"].str.lower().map(lambda t: "".join(c if c.isalpha() or c == "'" else " " for c in t).split())
    counts = Counter(word for text in words for word in text)
    assert size == (len(frame), sum(counts.values()), len(counts))

    topics = {
        "kettle": {"kettle", "boils", "water", "lid", "handle", "cordless"},
        "toaster": {"toaster", "bread", "slots", "crumbs", "browning", "bagels"},
        "blender": {"blender", "smoothies", "blades", "jug", "ice", "motor"},
        "espresso machine": {"espresso", "machine", "crema", "grinder", "steam", "milk", "pressure"},
        "grill": {"grill", "charcoal", "burgers", "grate", "smoke", "wheels"},
    }
    assert isinstance(keywords, dict) and keywords.keys() == topics.keys()
    for product, found in keywords.items():
        assert len(found) == 5 and set(found) <= topics[product]

    good = "great love excellent sturdy quiet fast reliable perfect happy easy".split()
    bad = "broken noisy terrible slow cheap leaks disappointed refund awful flimsy".split()
    scores = words.map(lambda text: sum(map(text.count, good)) - sum(map(text.count, bad)))
    assert isinstance(mood, dict)
    assert mood["moods"] == {"good": (scores > 0).sum(), "bad": (scores < 0).sum(), "neutral": (scores == 0).sum()}
    assert mood["correlation"] == pytest.approx(numpy.corrcoef(scores, frame["stars"])[0, 1])
    for product, rows in frame.groupby("product"):
        assert mood["stars"][product] == (len(rows), pytest.approx(rows["stars"].mean(), abs=0.0005))

    assert isinstance(pairs, list)
    for pair, count in pairs:
        assert count == sum(text[i : i + 2] == list(pair) for text in words for i in range(len(text)))
    assert pairs[0][0] == ("espresso", "machine")


def test_chart(run_steps: RunSteps) -> None:
    run = run_steps("chart")
    frame = pandas.read_csv(DATA / "sensors.csv", parse_dates=["time"])
    frame = frame[(frame["site"] == "roof") & (frame["celsius"].abs() < 60)]
    expected = frame.groupby(frame["time"].dt.date)["celsius"].mean()
    roof: Any = run.results[1].value
    assert roof.shape == (90,) and roof.to_numpy() == pytest.approx(expected.to_numpy())

    assert [info.name for info in run.results[-1].files] == ["chart.png"]
    saved = run.session.files.read("chart.png")
    (display,) = run.results[-1].displays
    for data in (saved, display["image/png"]):
        assert isinstance(data, bytes) and data.startswith(b"\x89PNG\r\n\x1a\n")
        with PIL.Image.open(io.BytesIO(data)) as image:
            picture = numpy.asarray(image.convert("RGB")).reshape(-1, 3)
        colours = Counter(map(tuple, picture.tolist()))
        # The two lines and the bars in matplotlib's first two colours, on a white page: drawn, not only saved.
        assert colours[(31, 119, 180)] > 1000 and colours[(255, 127, 14)] > 1000
        assert colours[(255, 255, 255)] > len(picture) / 2
    with PIL.Image.open(io.BytesIO(saved)) as image:
        assert image.size == (800, 600)
