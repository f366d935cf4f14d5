"""One session for each framework that safeexec plugs into, each with that framework installed in an environment of its own.

``nox`` runs all; ``nox -s smolagents`` one. Pinned to the releases whose interfaces the adapters were written to.
"""

import functools

import nox

nox.options.reuse_existing_virtualenvs = True

FRAMEWORKS = {
    "smolagents": ["smolagents>=1.26,<1.27"],
    "mcp": ["mcp>=2.3,<3", "matplotlib"],
}


def _test(session: nox.Session, name: str) -> None:
    session.install("-q", "-e", ".", "pytest", "pytest-timeout", *FRAMEWORKS[name])
    session.run("pytest", "-p", "no:cacheprovider", f"tests/integrations/test_{name}.py", *session.posargs)


for _name in FRAMEWORKS:
    nox.session(functools.partial(_test, name=_name), name=_name)
