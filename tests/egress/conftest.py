from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator

import pytest

from safeexec.egress import addresses, upstream
from tests.egress.site import TLS, Site
from tests.egress.wire import Wire

Names = dict[str, list[str]]


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """The resolver of the tests: names to addresses. What it does not have does not exist, and nothing is asked of a network."""
    table: Names = {name: ["127.0.0.1"] for name in ("site.test", "api.test", "other.test", "evil.test")}

    def resolve(name: str, port: int) -> list[str]:
        if name not in table:
            raise OSError(-2, "no such name in the tests")
        return table[name]

    monkeypatch.setattr(addresses, "resolve", resolve)
    return table


@pytest.fixture
def make_site() -> Iterator[Callable[..., Site]]:
    sites: list[Site] = []

    def make(**options: str) -> Site:
        sites.append(Site(**options))
        return sites[-1]

    yield make
    for site in sites:
        site.close()


@pytest.fixture
def site(make_site: Callable[..., Site]) -> Site:
    return make_site()


@pytest.fixture
def trust(monkeypatch: pytest.MonkeyPatch) -> None:
    """The host trusts the tests' own authority, as it would by SSL_CERT_FILE."""
    context = ssl.create_default_context(cafile=str(TLS / "ca.pem"))
    monkeypatch.setattr(upstream, "tls_context", lambda: context)


@pytest.fixture
def wire() -> Iterator[Callable[..., Wire]]:
    """A host's step whose guest writes what a test wants: nothing of the guest program is between."""
    made: list[Wire] = []

    def make(*network: str, **options: object) -> Wire:
        made.append(Wire(network, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        one.step.stop(tell=False)
