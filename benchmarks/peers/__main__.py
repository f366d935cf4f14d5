"""safeexec beside other executors, in one run.

python -m benchmarks.peers                  build what is missing, measure all, print the tables, keep the JSON and the plots
python -m benchmarks.peers --quick          fewer samples and at most 100 live sessions: does everything work?
python -m benchmarks.peers --only wasm eryx some of them
python -m benchmarks.peers --from FILE      tables and plots of a recorded run
python -m benchmarks.peers --against FILE   does this run tell the same story as a recorded one, of another machine? Its record is left alone
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import tomllib
from pathlib import Path

from benchmarks.peers import plots, report, run, story
from benchmarks.peers.environments import BY_NAME, ROOT, build

CORPUS = ROOT / "fuzz" / "safeexec_fuzz" / "corpus" / "benign"
RECORD = Path(__file__).parent / "recorded"


def programs(folder: Path) -> list[dict[str, str]]:
    """The audit's ordinary programs of one step whose output is known. Raises SystemExit when there are none."""
    found = []
    for path in sorted(folder.glob("*.toml")):
        for case in tomllib.loads(path.read_text(encoding="utf-8"))["case"]:
            if "code" in case and "stdout" in case and not case.get("needs"):
                found.append({"id": case["id"], "code": case["code"], "stdout": case["stdout"]})
    if not found:
        raise SystemExit(f"no ordinary programs in {folder}; name their folder with --corpus")
    return found


def say(text: str) -> None:
    """Progress, apart from what is printed at the end."""
    print(f"{time.strftime('%H:%M:%S')}  load {os.getloadavg()[0]:.1f}  {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Measure, or read; then show. Returns 0, or 1 when a sandbox of ours has no figures or two runs contradict each other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=list(BY_NAME), default=list(BY_NAME), metavar="PEER")
    parser.add_argument("--folder", type=Path, default=ROOT / ".peers", help="where the environments are kept")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help="the ordinary programs")
    parser.add_argument("--build", action="store_true", help="build the environments and stop")
    parser.add_argument("--json", type=Path, help="where to write the run down")
    parser.add_argument("--plots", type=Path, help="the folder of the plots")
    parser.add_argument("--from", dest="recorded", type=Path, help="show this run instead of measuring")
    parser.add_argument("--readme", action="store_true", help="write the tables into README.md, between its marks")
    parser.add_argument("--against", type=Path, metavar="FILE", help="compare with this run")
    options = parser.parse_args()
    # A comparison must not replace what it compares with.
    folder = RECORD if options.against is None else options.folder
    options.json, options.plots = options.json or folder / "run.json", options.plots or folder
    document = json.loads(options.recorded.read_text()) if options.recorded else measure(options)
    if document is None:
        return 0
    print(report.markdown(report.table(document)))
    print(report.markdown(report.live_table(document)))
    for line in report.reasons(document):
        print(line)
    loads = [load for _, load in document["load"]]
    print(f"\n{document['machine']}; load {min(loads):.1f} to {max(loads):.1f}; {document['seconds']:.0f} s")
    for path in plots.draw(document, options.plots):
        print(f"wrote {path}")
    if options.readme:
        into_readme(report.figures(document, options.plots.resolve().relative_to(ROOT).as_posix()))
    missing = [n for n in document["peers"] if BY_NAME[n].ours and not document["results"][n].get("fresh")]
    same = options.against is None or compare(json.loads(options.against.read_text()), document)
    return 1 if missing or not same else 0


def compare(before: report.Document, now: report.Document) -> bool:
    """Print how two runs agree; whether they do."""
    found = story.pairs(before, now)
    against = [pair for pair in found if pair.contradicts]
    there = before["machine"]
    print(
        f"\nBeside the run of {before['date']} on {there['cores']} cores ({there['processor']}, Python {there['python']}):\n"
    )
    print(report.markdown(story.table(found)))
    for pair in against:
        print(f"CONTRADICTS {pair}")
    print(f"{len(found) - len(against)} of {len(found)} comparisons come out the same way.")
    return bool(found) and not against


def into_readme(text: str, path: Path = ROOT / "README.md") -> None:
    """Replace what stands between the marks. Raises ValueError when they are not there."""
    before, start, rest = path.read_text(encoding="utf-8").partition("<!-- figures -->\n")
    _, end, after = rest.partition("<!-- end of figures -->")
    if not start or not end:
        raise ValueError(f"{path} has no marks for the figures")
    path.write_text(before + start + text + end + after, encoding="utf-8")


def measure(options: argparse.Namespace) -> report.Document | None:
    """A run, written down."""
    say("environments")
    built = build(options.only, options.folder)
    for name, found in built.items():
        if found.failure:
            say(f"NOT BUILT {name}: {found.failure}")
    if options.build:
        return None
    cases = programs(options.corpus)
    started = time.monotonic()
    measured = run.Run(built, options.quick, say)
    measured.all(cases)
    document = {
        "machine": run.machine(),
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "quick": options.quick,
        "seconds": time.monotonic() - started,
        "peers": options.only,
        "versions": {name: found.versions for name, found in built.items()},
        "load": measured.load,
        "results": measured.results,
        "failures": measured.failures,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(document, indent=1) + "\n")
    return document


if __name__ == "__main__":
    sys.exit(main())
