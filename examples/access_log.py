"""Summarise two days of a web server's log and find who guesses passwords."""

import re
import statistics
from collections import Counter, defaultdict, deque
from datetime import datetime, timedelta

LINE = re.compile(
    r"(?P<ip>\S+) \S+ \S+ \[(?P<time>[^\]]+)\] "
    r'"(?P<method>[A-Z]+) (?P<path>\S+) [^"]*" '
    r'(?P<status>\d{3}) (?P<size>\d+|-) (?P<took>[\d.]+) "(?P<agent>[^"]*)"'
)

# %% Parse.
hits = []
malformed = []
with open("access.log") as log:
    for number, line in enumerate(log, start=1):
        match = LINE.fullmatch(line.rstrip("\n"))
        if match is None:
            malformed.append(number)
            continue
        hit = match.groupdict()
        hit["time"] = datetime.strptime(hit["time"], "%d/%b/%Y:%H:%M:%S %z")
        hit["status"] = int(hit["status"])
        hit["size"] = 0 if hit["size"] == "-" else int(hit["size"])
        hit["took"] = float(hit["took"])
        hit["path"] = hit["path"].split("?", 1)[0]
        hits.append(hit)

print(f"{len(hits):,} requests from {len({h['ip'] for h in hits})} addresses, {len(malformed)} malformed lines")
len(hits), len(malformed)

# %% Summarise.
status = Counter(h["status"] for h in hits)
paths = Counter(h["path"] for h in hits)
hours = Counter(h["time"].hour for h in hits)
times = defaultdict(list)
for h in hits:
    times[h["path"]].append(h["took"])
slowest = sorted(
    ((path, statistics.quantiles(values, n=20)[-1]) for path, values in times.items() if len(values) > 1),
    key=lambda pair: pair[1],
    reverse=True,
)
errors = sum(n for code, n in status.items() if code >= 500)

print("\nstatus ", "  ".join(f"{code}: {n}" for code, n in sorted(status.items())))
print(f"server errors: {errors / len(hits):.2%}, {sum(h['size'] for h in hits) / 2**20:.1f} MiB sent")
print("\nslowest paths (95th percentile)")
for path, p95 in slowest[:3]:
    print(f"  {path:20} {p95 * 1000:7.1f} ms")
peak = max(hours.values())
print("\nrequests by hour of the day")
for hour in range(24):
    print(f"  {hour:02d}  {hours[hour]:4d} {'#' * round(40 * hours[hour] / peak)}")


# %% Find bursts of failed log-ins: 20 or more from one address within two minutes.
def bursts(events, size, window):
    recent = defaultdict(deque)
    worst = {}
    for event in events:
        queue = recent[event["ip"]]
        queue.append(event["time"])
        while event["time"] - queue[0] > window:
            queue.popleft()
        if len(queue) >= size:
            worst[event["ip"]] = max(worst.get(event["ip"], 0), len(queue))
    return worst


suspects = bursts((h for h in hits if h["status"] == 401), size=20, window=timedelta(minutes=2))
for ip, count in suspects.items():
    print(f"\n{ip}: up to {count} failed log-ins within two minutes")

{
    "status": dict(status),
    "top_paths": paths.most_common(3),
    "bytes": sum(h["size"] for h in hits),
    "busiest_hour": hours.most_common(1)[0][0],
    "slowest": slowest[0],
    "median": statistics.median(h["took"] for h in hits),
    "suspects": suspects,
}
