"""Modules for whole programs: command lines and settings.

They read and set attributes whose names the program chooses, on objects that it hands in, and open files. Their functions look such
builtins up in their module first; there they find guarded ones.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.denied import is_denied
from safeexec_backends.local.language.identity import class_dict, class_mro, exact_name, is_guest_class, passes_on

from . import reviewed
from .paths import open_file

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]


def private_copy(name: str) -> Any:
    """The module `name` once more, for programs: what is put into it does not reach who else uses it."""
    import importlib.util

    spec = importlib.util.find_spec(name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def guard(module: Any, language: RestrictedLanguage, *own: type) -> None:
    """Give `module` guarded builtins; objects of the types `own` are the module's business, but for what is never shown."""
    guards = language.guards
    missing = object()

    def is_ours(kind: type) -> bool:
        return any(base is other for base in class_mro(kind) for other in own)

    def is_own(o: Any, name: str) -> bool:
        kind = type(o)
        if name[:2] == "__" or not is_ours(kind) or passes_on(kind):
            return False
        # A program's class may inherit from another of the library, too: what that brings along is read as everywhere.
        return all(is_guest_class(b) or is_ours(b) for b in class_mro(kind) if name in class_dict(b))

    def getattr_(o: Any, name: Any, /, default: Any = missing) -> Any:
        name = exact_name(name)
        try:
            if not is_own(o, name):
                return guards.read(o, name)
            value = getattr(o, name)
            guards.check(value, name)
            return value
        except AttributeError:
            if default is missing:
                raise
            return default

    def hasattr_(o: Any, name: Any, /) -> bool:
        absent = object()
        return getattr_(o, name, absent) is not absent

    def setattr_(o: Any, name: Any, value: Any, /) -> None:
        name = exact_name(name)
        if is_own(o, name):
            setattr(o, name, value)
        else:
            guards.set(o, name, value)

    def delattr_(o: Any, name: Any, /) -> None:
        name = exact_name(name)
        if is_own(o, name):
            delattr(o, name)
        else:
            guards.delete(o, name)

    def vars_(o: Any, /) -> Any:
        found = vars(o) if is_ours(type(o)) else None
        if type(found) is dict and not any(map(is_denied, list(found.values()))):
            return found
        return guards.variables(o)  # of ``type``, which is told to be a namespace, what nobody may read of it

    names = {
        "getattr": getattr_,
        "hasattr": hasattr_,
        "setattr": setattr_,
        "delattr": delattr_,
        "vars": vars_,
        "open": open_file,
    }
    vars(module).update(names)


def _argparse(language: RestrictedLanguage) -> Exports:
    import argparse

    own = [argparse.Namespace, argparse.Action]
    own += [base for base in argparse.ArgumentParser.__mro__ if base.__module__ == "argparse"]
    guard(argparse, language, *own)
    setattr(argparse, "_sys", language.gate.build("sys"))  # noqa: B010  # the command line is the program's, not the process's
    shown = """Action ArgumentDefaultsHelpFormatter ArgumentError ArgumentParser ArgumentTypeError BooleanOptionalAction
        HelpFormatter MetavarTypeHelpFormatter Namespace ONE_OR_MORE OPTIONAL PARSER REMAINDER RawDescriptionHelpFormatter
        RawTextHelpFormatter SUPPRESS ZERO_OR_MORE""".split()

    class FileType:
        """As `argparse.FileType`, in the places that the builtin opens. Not a kind of it: that one reads an attribute of `sys.stdin`."""

        def __init__(self, mode: Any = "r", bufsize: int = -1, encoding: Any = None, errors: Any = None) -> None:
            self._mode = exact_name(mode)
            self._options = bufsize, encoding, errors

        def __call__(self, string: Any) -> Any:
            mode, string = exact_name(self._mode), exact_name(string)
            if string != "-":
                try:
                    return open_file(string, mode, *self._options)
                except OSError as error:
                    raise argparse.ArgumentTypeError(f"can't open '{string}': {error}") from None
            if not set("rwax") & set(mode):
                raise ValueError(f'argument "-" with mode {mode!r}')
            system = language.gate.build("sys")
            stream = system.stdin if "r" in mode else system.stdout
            return language.guards.read(stream, "buffer") if "b" in mode else stream

    FileType.__module__ = __name__
    return {n: getattr(argparse, n) for n in shown} | {"FileType": FileType}


def _configparser(language: RestrictedLanguage) -> Exports:
    import configparser

    guard(configparser, language, configparser.RawConfigParser, configparser.SectionProxy)
    shown = """BasicInterpolation ConfigParser DEFAULTSECT DuplicateOptionError DuplicateSectionError Error
        ExtendedInterpolation Interpolation InterpolationDepthError InterpolationError InterpolationMissingOptionError
        InterpolationSyntaxError LegacyInterpolation MAX_INTERPOLATION_DEPTH MissingSectionHeaderError NoOptionError
        NoSectionError ParsingError RawConfigParser SectionProxy""".split()
    return {n: getattr(configparser, n) for n in shown if hasattr(configparser, n)}


def _pprint(language: RestrictedLanguage) -> Exports:
    import pprint

    setattr(pprint, "_sys", language.gate.build("sys"))  # noqa: B010  # a printer keeps the stream that it finds there
    guard(pprint, language)  # it reads the attributes that a dataclass names, and shows them to a subclass's format()
    _no_variables_of_others(pprint.PrettyPrinter, language)
    return reviewed("pprint")


def _no_variables_of_others(printer: Any, language: RestrictedLanguage) -> None:
    """What is printed as a namespace is so by its ``__repr__``, which any class may have: an alias of ``type`` passed on what nobody may read of that."""
    original = class_dict(printer)["_pprint_simplenamespace"]
    if original.__module__ == __name__:
        return

    def _pprint_simplenamespace(self: Any, object: Any, *rest: Any) -> None:
        if any(base is types.SimpleNamespace for base in class_mro(type(object))) and not passes_on(type(object)):
            original(self, object, *rest)
        else:
            rest[0].write(self._repr(object, rest[3], rest[4]))

    printer._pprint_simplenamespace = _pprint_simplenamespace
    printer._dispatch[types.SimpleNamespace.__repr__] = _pprint_simplenamespace


def _getopt(language: RestrictedLanguage) -> Exports:
    import getopt

    return {n: getattr(getopt, n) for n in ("GetoptError", "error", "getopt", "gnu_getopt")}


def _sched(language: RestrictedLanguage) -> Exports:
    import sched

    return {n: getattr(sched, n) for n in ("Event", "scheduler")}


def _tokenize(language: RestrictedLanguage) -> Exports:
    import token
    import tokenize

    def open(filename: Any) -> Any:
        """As `tokenize.open`, in the places that the builtin opens."""
        with open_file(filename, "rb") as file:
            encoding = tokenize.detect_encoding(file.readline)[0]
        return open_file(filename, "r", encoding=encoding)

    shown = "TokenError TokenInfo detect_encoding generate_tokens tok_name tokenize untokenize".split()
    numbers = {n: getattr(token, n) for n in dir(token) if n.isupper() and type(getattr(token, n)) is int}
    return numbers | {n: getattr(tokenize, n) for n in shown} | {"open": open}


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {
    "argparse": _argparse,
    "configparser": _configparser,
    "getopt": _getopt,
    "pprint": _pprint,
    "sched": _sched,
    "tokenize": _tokenize,
}
