"""``str.format`` and ``string.Formatter``: a template may read attributes, so its field names are code.

A template whose fields name only harmless attributes is left to CPython. Any other is formatted here, where every attribute goes through
the same guard as the program's own expressions (CVE-2023-41039, CVE-2024-47532).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import names


def _string() -> Any:
    import _string  # the parser behind string.Formatter

    return _string


def is_tame(template: str) -> bool:
    """Whether no field of `template` (an exact str) reads an attribute that needs a guard. False for one that does not parse."""
    if "." not in template or "{" not in template:
        return True
    string = _string()
    try:
        for _, field, spec, _ in string.formatter_parser(template):
            if field is None:
                continue
            for is_attribute, name in string.formatter_field_name_split(field)[1]:
                if not is_attribute:
                    continue
                if name[:1] == "_" or name in names.SUSPECT:
                    if name not in names.DUNDER_DIRECT:
                        return False
            if spec and not is_tame(spec):
                return False
    except ValueError:
        return False  # CPython would read the fields before the faulty one
    return True


def make(read: Callable[[Any, str], Any]) -> tuple[type, Callable[..., str], Callable[..., str]]:
    """(Formatter class, ``str.format``, ``str.format_map``), the functions unbound; `read` is the guarded getattr."""
    import string

    field_name_split = _string().formatter_field_name_split

    class Formatter(string.Formatter):
        __module__ = "string"

        def get_field(self, field_name: str, args: Any, kwargs: Any) -> Any:
            first, rest = field_name_split(str.__str__(field_name))
            item = self.get_value(first, args, kwargs)
            for is_attribute, name in rest:
                item = read(item, name) if is_attribute else item[name]
            return item, first

    # Bound once: not the class's attributes, which the program may override in a subclass.
    guarded = Formatter()

    def safe_format(self: str, /, *args: Any, **kwargs: Any) -> str:
        template = str.__str__(self)  # an exact str: a subclass could answer twice, differently
        if is_tame(template):
            return str.format(template, *args, **kwargs)
        return guarded.vformat(template, args, kwargs)

    def safe_format_map(self: str, mapping: Mapping[str, Any], /) -> str:
        template = str.__str__(self)
        if is_tame(template):
            return str.format_map(template, mapping)
        return guarded.vformat(template, (), mapping)

    return Formatter, safe_format, safe_format_map
