"""One session for each framework that safeexec plugs into, each with that framework installed in an environment of its own.

``nox`` runs all; ``nox -s smolagents`` one; ``nox -s smolagents_own -- CHECKOUT/tests/test_agents.py`` smolagents' own tests with our executor. Pinned to the
releases whose interfaces the adapters were written to.
"""

import functools

import nox

nox.options.reuse_existing_virtualenvs = True

FRAMEWORKS = {
    "smolagents": ["smolagents>=1.26,<1.27", "numpy"],
    "mcp": ["mcp>=2.3,<3", "matplotlib"],
    "langchain": ["langchain>=1.4,<2", "langgraph>=1.2,<2"],
    "langgraph_codeact": ["langgraph-codeact>=0.1.3,<0.2"],
    "pydantic_ai": ["pydantic-ai-slim>=2.62,<3"],
    "openai_agents": ["openai-agents>=0.24,<0.25"],
    "llama_index": ["llama-index-core>=0.14,<0.15"],
    "autogen": ["autogen-agentchat>=0.7.5,<0.8"],
    "ag2": ["ag2>=1.2,<2"],
    "google_adk": ["google-adk>=2.13,<3"],
    "inspect_ai": ["inspect_ai>=0.3.285,<0.4"],
    "agent_framework": ["agent-framework-core>=1.23,<2"],
}


def _test(session: nox.Session, name: str) -> None:
    session.install("-q", "-e", ".", "pytest", "pytest-timeout", "hypothesis", *FRAMEWORKS[name])
    files = (f"tests/integrations/test_{name}.py", "tests/integrations/test_examples.py")
    session.run("pytest", "-p", "no:cacheprovider", *files, *session.posargs)


for _name in FRAMEWORKS:
    nox.session(functools.partial(_test, name=_name), name=_name)

nox.options.sessions = list(FRAMEWORKS)


@nox.session
def smolagents_own(session: nox.Session) -> None:
    """See tests/support/smolagents_own.py."""
    theirs = ("pytest", "pytest-datadir", "ddgs", "ipython", "markdownify", "numpy", "openai")
    session.install("-q", "-e", ".", *theirs, *FRAMEWORKS["smolagents"])
    path = {"PYTHONPATH": "tests/support"}  # a checkout has a package `tests` of its own
    session.run(
        "python", "-P", "-m", "pytest", "-p", "no:cacheprovider", "-p", "smolagents_own", *session.posargs, env=path
    )
