"""``str.format`` and ``string.Formatter``: a template may read attributes, so its field names are code.

A template whose fields name only harmless attributes is left to CPython. Any other is formatted here, where every attribute goes through
the same guard as the program's own expressions (CVE-2023-41039, CVE-2024-47532).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import names


def _string() -> Any:
    import importlib

    return importlib.import_module("_string")  # the parser behind string.Formatter


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
                    if name not in names.DUNDER_DIRECT and name not in ("__init__", "__new__"):
                        return False
            if spec and not is_tame(spec):
                return False
    except ValueError:
        return False  # CPython would read the fields before the faulty one
    return True


def make(read: Callable[[Any, str], Any]) -> tuple[type, Callable[..., str], Callable[..., str]]:
    """(Formatter class, ``str.format``, ``str.format_map``), the functions unbound; `read` is the guarded getattr."""
    field_name_split, parser = _string().formatter_field_name_split, _string().formatter_parser

    class Formatter:
        """As `string.Formatter`, of which it is no subclass: its base would be the unguarded one."""

        __module__ = "string"

        def format(self, format_string: str, /, *args: Any, **kwargs: Any) -> str:
            return self.vformat(format_string, args, kwargs)

        def vformat(self, format_string: str, args: Any, kwargs: Any) -> str:
            used: set[Any] = set()
            text, _ = self._expand(str.__str__(format_string), args, kwargs, used, 2, 0)
            self.check_unused_args(used, args, kwargs)
            return text

        def _expand(
            self, template: str, args: Any, kwargs: Any, used: set[Any], depth: int, number: int | bool
        ) -> tuple[str, int | bool]:
            # `number` is that of the next field without a name; False once fields are numbered by hand.
            if depth < 0:
                raise ValueError("Max string recursion exceeded")
            parts: list[str] = []
            for literal, field, spec, conversion in self.parse(template):
                if literal:
                    parts.append(literal)
                if field is None:
                    continue
                first = str(field_name_split(str.__str__(field))[0])
                if first == "":
                    if number is False:
                        raise ValueError("cannot switch from manual field specification to automatic field numbering")
                    field = f"{number}{field}"
                    number += 1
                elif first.isdigit():
                    if number:
                        raise ValueError("cannot switch from manual field specification to automatic field numbering")
                    number = False
                item, key = self.get_field(field, args, kwargs)
                used.add(key)
                item = self.convert_field(item, conversion)
                inner, number = self._expand(spec, args, kwargs, used, depth - 1, number)
                parts.append(self.format_field(item, inner))
            return "".join(parts), number

        def parse(self, format_string: str) -> Any:
            return parser(str.__str__(format_string))

        def get_value(self, key: Any, args: Any, kwargs: Any) -> Any:
            return args[key] if isinstance(key, int) else kwargs[key]

        def check_unused_args(self, used_args: Any, args: Any, kwargs: Any) -> None:
            pass

        def format_field(self, value: Any, format_spec: str) -> str:
            return format(value, format_spec)

        def convert_field(self, value: Any, conversion: Any) -> Any:
            if conversion is None:
                return value
            if conversion not in ("s", "r", "a"):
                raise ValueError(f"Unknown conversion specifier {conversion!s}")
            convert: dict[str, Callable[[Any], str]] = {"s": str, "r": repr, "a": ascii}
            return convert[conversion](value)

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
