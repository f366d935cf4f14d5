"""The parser under ``xml.dom`` and ``xml.sax``. It knows no files: what it does not find in the text it asks its handlers for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import exact_name

from .facade import make

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]


def _expat(language: RestrictedLanguage) -> Exports:
    import importlib

    expat: Any = importlib.import_module("xml.parsers.expat")

    def ParserCreate(encoding: Any = None, namespace_separator: Any = None, intern: Any = None) -> Any:
        """As `xml.parsers.expat.ParserCreate`."""
        if intern is not None and type(intern) is not dict:  # written to from C, past a subclass's own methods
            raise TypeError("intern must be a dictionary")
        texts = [None if text is None else exact_name(text) for text in (encoding, namespace_separator)]
        return expat.ParserCreate(*texts) if intern is None else expat.ParserCreate(*texts, intern)

    def constants(module: Any) -> Any:
        found = {n: dict(v) if type(v) is dict else v for n, v in vars(module).items() if n[:2] != "__"}
        plain = {n: v for n, v in found.items() if type(v) in (int, str, dict)}
        return make(f"xml.parsers.expat.{module.__name__.rpartition('.')[2]}", plain)

    shown = "EXPAT_VERSION ErrorString ExpatError error features native_encoding version_info".split()
    numbers = {n: v for n, v in vars(expat).items() if n[:4] == "XML_" and type(v) is int}
    return numbers | {n: getattr(expat, n) for n in shown} | {
        "ParserCreate": ParserCreate, "errors": constants(expat.errors), "model": constants(expat.model),
    }  # fmt: skip


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {"xml.parsers.expat": _expat}
