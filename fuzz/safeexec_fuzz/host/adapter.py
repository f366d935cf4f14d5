"""What an adapter of a target is: sessions that run code, and what they can do besides."""

import sys
from importlib import import_module


class Outcome:
    """What the target handed to its host. `value` may be hostile."""

    def __init__(self, value=None, stdout="", stderr="", error=None, has_value=True):
        self.value = value
        self.stdout = stdout
        self.stderr = stderr
        self.error = error
        """None, or (kind, type, message)."""
        self.has_value = has_value


class Adapter:
    """One target. `batch`: several cases may share its host process, because code runs in another one."""

    batch = False
    capabilities = frozenset()
    """Of "tools", "sessions", "files", "variables", "value"."""

    def __init__(self, options):
        self.options = options

    def open(self, tools, kind):
        """A session. `tools` is name to callable; `kind` is the case's."""
        raise NotImplementedError

    def close(self):
        """Free everything."""

    def version(self):
        """What is tested, for the report."""
        return ""


class Session:
    """One session of a target."""

    def run(self, code):
        """Run a step and return an Outcome. What it raises counts as the target's own failure."""
        raise NotImplementedError

    def alive(self):
        """Whether another step can be run."""
        return True

    def read(self, name):
        """Bytes of a file."""
        raise NotImplementedError

    def names(self):
        """Names of the files."""
        return []

    def get(self, name):
        """A variable."""
        raise NotImplementedError

    def close(self):
        """End the session."""


_BUILT_IN = {
    "sandbox": "ours:SafeExec",
    "weak": "weak:Weak",
    "smolagents": "peers:Smolagents",
    "restrictedpython": "peers:Restricted",
    "monty": "peers:Monty",
    "eryx": "peers:Eryx",
    "subprocess": "programs:Subprocess",
    "cmd": "programs:Command",
}


def load(kind, options):
    """The adapter of a kind, or what "factory" names. Raises whatever importing it raises."""
    if kind == "factory":
        module, _, name = options["factory"].partition(":")
        sys.path.append(options["cwd"])
        made = import_module(module)
        for part in name.split("."):
            made = getattr(made, part)
        from .programs import Factory

        return Factory(made, options)
    module, _, name = _BUILT_IN[kind].partition(":")
    return getattr(import_module("." + module, __package__), name)(options)


def distribution(name):
    """``name version`` of an installed distribution."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return name + " " + version(name)
    except PackageNotFoundError:
        return name
