"""Draw ninety days of temperatures at two sites."""

import csv
from collections import defaultdict
from datetime import datetime

import matplotlib.pyplot as plt
import numpy as np

# %% Read; readings that are missing or impossible are left out.
readings = defaultdict(lambda: defaultdict(list))
dropped = 0
with open("sensors.csv", newline="") as f:
    for row in csv.DictReader(f):
        try:
            celsius = float(row["celsius"])
        except ValueError:
            dropped += 1
            continue
        if not -60 < celsius < 60:
            dropped += 1
            continue
        when = datetime.fromisoformat(row["time"])
        readings[row["site"]][when.date()].append(celsius)

daily = {site: np.array([np.mean(values) for _, values in sorted(days.items())]) for site, days in readings.items()}
print(f"{dropped} readings dropped;", ", ".join(f"{site}: {len(means)} days" for site, means in daily.items()))
daily["roof"]

# %% Draw.
fig, (top, bottom) = plt.subplots(2, 1, figsize=(8, 6), layout="constrained")
for site, means in daily.items():
    trend = np.polyfit(np.arange(len(means)), means, 1)
    (line,) = top.plot(means, label=f"{site} ({trend[0]:+.2f} °C a day)", linewidth=1)
    top.plot(np.polyval(trend, np.arange(len(means))), color=line.get_color(), linestyle="--", linewidth=1)
top.set(title="Daily mean temperature", xlabel="day", ylabel="°C")
top.legend()
bottom.hist([daily["roof"], daily["cellar"]], bins=20, label=["roof", "cellar"])
bottom.set(xlabel="°C", ylabel="days")
fig.savefig("chart.png", dpi=100)
print("wrote chart.png")
