"""Images with packages: made once in a container with network, used in containers without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from safeexec import BackendUnavailable, Executor, Limits, Policy
from safeexec.cli.main import main
from safeexec_backends.docker.setup import local_image
from tests.docker.images import BUILD

# The private daemon has no bridge, so pip's container takes the host's network; pip's own settings go with it.


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_package_is_installed_once_and_the_session_has_no_network(client: Any) -> None:
    policy = Policy(packages=("msgpack",))
    with Executor("docker", policy=policy, **BUILD) as executor:
        assert executor.run("import msgpack\nmsgpack.unpackb(msgpack.packb([1, 'a']))").value == [1, "a"]
        assert executor.run("open('/proc/net/route').read().count('\\n')").value <= 1
    made = {tag for image in client.images.list("safeexec-packages") for tag in image.tags}
    filters = {"label": ["safeexec.packages=msgpack", f"safeexec.base={client.images.get(local_image()).id}"]}
    [labels] = [image.labels for image in client.images.list(filters=filters)]
    assert labels["safeexec.image"] == "packages"
    with Executor("docker", policy=policy) as executor:  # without a build network: found, not made again
        assert executor.run("import msgpack\nmsgpack.__name__").value == "msgpack"
    assert {tag for image in client.images.list("safeexec-packages") for tag in image.tags} == made
    assert len(made) >= 1


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_chart_is_saved_as_png() -> None:
    policy = Policy(packages=("matplotlib",), limits=Limits(time=60))
    code = "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.savefig('chart.png')"
    with Executor("docker", policy=policy, **BUILD) as executor, executor.session() as session:
        result = session.run(code)
        assert result.ok, result.error
        assert session.files.read("chart.png").startswith(b"\x89PNG\r\n")
        assert [sorted(d.data) for d in result.displays] == [["image/png"]]
        assert [f.name for f in result.files] == ["chart.png"]  # no cache of a library among them


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_example_draws_its_chart(client: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As its text says: ``safeexec setup docker --package`` first, then the program, in a process of its own."""
    assert main(["setup", "docker", "--package", "matplotlib", "--build-network", "host"]) == 0, capfd.readouterr().err
    target = tmp_path / "chart.png"
    program = Path(__file__).parents[2] / "examples" / "docker" / "chart.py"
    ran = subprocess.run([sys.executable, str(program), str(target)], capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0 and ran.stdout == f"saved {target}\n", ran.stderr
    from PIL import Image

    with Image.open(target) as picture:
        pixels = picture.convert("RGB")
        colours = {colour: count for count, colour in pixels.getcolors(1 << 20) or ()}
        assert pixels.size == (640, 480) and colours[(255, 255, 255)] > 200_000
        assert colours.get((31, 119, 180), 0) > 300, "the curve, in matplotlib's first colour"


def test_package_that_does_not_exist_says_so() -> None:
    with pytest.raises(BackendUnavailable, match="safeexec-no-such-package"):
        Executor("docker", policy=Policy(packages=("safeexec-no-such-package==0.0.1",)), build_env={"PIP_RETRIES": "0"})
