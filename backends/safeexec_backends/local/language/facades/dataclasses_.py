"""dataclasses, whose generated methods are the program's."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
import typing
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from safeexec_backends.local.language.identity import (
    MAIN,
    AttributeRefused,
    LanguageRefused,
    class_dict,
    class_mro,
    exact_name,
    is_class,
    is_facade,
    is_guest_class,
    native_metaclass,
)

from .annotations import checked_annotations
from .generated import is_in_work, methods_of, replaced

if TYPE_CHECKING:
    from safeexec_backends.local.language import RestrictedLanguage

Exports = dict[str, Any]


_DATACLASS_PARTS = ("field", "is_dataclass", "KW_ONLY", "MISSING", "InitVar", "FrozenInstanceError", "Field", "fields")


_NAMED = re.compile(r"\s*(?:(\w+)\s*\.)?\s*(\w+)").match
_MARKERS = (typing.ClassVar, dataclasses.InitVar, dataclasses.KW_ONLY)


def _dataclasses(language: RestrictedLanguage) -> Exports:
    import copy
    import keyword

    guards = language.guards

    def check_name(name: Any) -> str:
        """A field's name becomes source text of the methods that dataclasses writes: it must be a name."""
        if type(name) is not str or not name.isidentifier() or keyword.iskeyword(name):
            raise TypeError(f"Field names must be valid identifiers: {name!r}")
        if name[:2] == "__" and name[-2:] == "__":
            raise AttributeRefused(f"a field cannot be called {name!r} in this sandbox")
        return name

    def check_class(cls: Any) -> None:
        guards.writable(cls)
        for base in class_mro(cls):
            # Every base, not those marked as the program's only: it can call its own by a module of the library.
            if not native_metaclass(base) and any(
                m is not type
                and m is not object
                and (
                    class_dict(m).keys() & {"__getattribute__", "__getattr__", "__setattr__", "__delattr__"}
                    or any(n.startswith("__dataclass") for n in class_dict(m))
                )
                for m in class_mro(type(base))
            ):
                raise LanguageRefused("dataclass() does not take classes whose metaclass answers for their attributes")
            if base is cls:
                continue
            known = class_dict(base).get("__dataclass_fields__")
            if known is None:
                continue
            if type(known) is not dict or type(class_dict(base).get("__dataclass_params__")) is not _Params:
                raise TypeError("a base class is not a dataclass")
            known = dict(known)  # the program may hold the other one, and change it in a thread
            for key, item in known.items():
                if type(item) is not dataclasses.Field or type(item.name) is not str or item.name != check_name(key):
                    raise TypeError("a base class has fields that dataclass() did not make")
            type.__setattr__(base, "__dataclass_fields__", known)

    def marker(cls: Any, annotation: Any) -> Any:
        """ClassVar, InitVar or KW_ONLY for an annotation whose text names it, else the annotation.

        dataclasses itself looks the name up in ``sys.modules``, where the program's modules are not.
        """
        if type(annotation) is not str:
            return annotation
        named = _NAMED(annotation)
        space = language.space_of(class_dict(cls).get("__module__"))
        if named is None or space is None:
            return annotation
        module, name = named.groups()
        found = space.get(module or name)
        if module and is_facade(type(found)):
            found = getattr(found, name, None)
        return found if any(found is known for known in _MARKERS) else annotation

    _only_its_own_fields(check_name)
    _Params = type(dataclasses.dataclass(type("_", (), {})).__dataclass_params__)  # type: ignore[attr-defined]

    def process(cls: Any, options: dict[str, Any]) -> Any:
        check_class(cls)
        own = class_dict(cls)
        if type(own.get("__module__")) is not str:  # asked for in sys.modules, by its own __hash__
            raise TypeError("__module__ must be a string")
        if "__annotate_func__" not in own and "__annotate__" not in own and "__annotations__" in own:
            annotations = own["__annotations__"]
            if type(annotations) is not dict:
                raise TypeError("__annotations__ must be a dict")
            checked = {check_name(name): marker(cls, value) for name, value in annotations.items()}
            # While dataclasses reads it, code of the program may run (descriptors, __class__ of defaults): it must find
            # nothing to change. 3.12 makes a copy itself and wants a dict.
            type.__setattr__(cls, "__annotations__",
                             types.MappingProxyType(checked) if sys.version_info < (3, 12) else checked)  # fmt: skip
            try:
                with methods_of(language, cls):
                    made = dataclasses.dataclass(**options)(cls)
            finally:
                type.__setattr__(cls, "__annotations__", annotations)
            if made is not cls:  # slots=True makes a new class, from a copy of the dictionary
                type.__setattr__(made, "__annotations__", annotations)
            return made
        if sys.version_info < (3, 14):
            for name in list(getattr(cls, "__annotations__", {})):
                check_name(name)
            with methods_of(language, cls):
                return dataclasses.dataclass(**options)(cls)
        with checked_annotations(cls, lambda name, value: (check_name(name), marker(cls, value))[1]) as restore:
            with methods_of(language, cls):
                made = dataclasses.dataclass(**options)(cls)
            if made is not cls:
                restore(made)
            return made

    allowed = ("init", "repr", "eq", "order", "unsafe_hash", "frozen", "match_args", "kw_only", "slots", "weakref_slot")

    def dataclass(cls: Any = None, /, **options: Any) -> Any:
        """As `dataclasses.dataclass`; the field names are checked before they become source text."""
        for name in options:
            if name not in allowed:
                raise TypeError(f"dataclass() got an unexpected keyword argument {name!r}")
        options = {name: bool(value) for name, value in options.items()}
        if cls is None:
            return lambda c: process(c, options)
        return process(cls, options)

    def make_dataclass(cls_name: str, fields: Any, *, bases: Any = (), namespace: Any = None, module: Any = None,
                       decorator: Any = None, **options: Any) -> Any:  # fmt: skip
        """As `dataclasses.make_dataclass`."""
        body: dict[str, Any] = dict(namespace or {})
        annotations: dict[str, Any] = {}
        for item in fields:
            if isinstance(item, str):
                name, kind = exact_name(item), Any
            else:
                item = tuple(item)
                name, kind = item[0], item[1]
                if len(item) == 3:
                    body[check_name(exact_name(name))] = item[2]
            name = check_name(exact_name(name))
            if name in annotations:
                raise TypeError(f"Field name duplicated: {name!r}")
            annotations[name] = kind
        body["__annotations__"] = annotations
        body["__module__"] = MAIN
        cls = types.new_class(exact_name(cls_name), tuple(bases), {}, lambda ns: ns.update(body))
        return dataclass(cls, **options)

    def known_fields(obj: Any) -> list[Any]:
        return list(dataclasses.fields(obj))

    def _walk(obj: Any, factory: Callable[..., Any], as_dict: bool) -> Any:
        kind = type(obj)
        if dataclasses.is_dataclass(obj) and not is_class(obj):
            pairs = [(f.name, _walk(guards.read(obj, exact_name(f.name)), factory, as_dict)) for f in known_fields(obj)]
            return factory(pairs) if as_dict else factory([v for _, v in pairs])
        if isinstance(obj, tuple) and hasattr(obj, "_fields"):
            return kind(*[_walk(v, factory, as_dict) for v in obj])
        if isinstance(obj, list | tuple):
            return kind(_walk(v, factory, as_dict) for v in obj)
        if isinstance(obj, dict):
            pairs = [(_walk(k, factory, as_dict), _walk(v, factory, as_dict)) for k, v in obj.items()]
            if hasattr(kind, "default_factory"):
                factory_: Any = getattr(obj, "default_factory", None)
                made: Any = kind(factory_)
                for k, v in pairs:
                    made[k] = v
                return made
            return kind(pairs)
        return copy.deepcopy(obj)

    def _instance(obj: Any, what: str) -> None:
        if is_class(obj) or not dataclasses.is_dataclass(obj):
            raise TypeError(f"{what}() should be called on dataclass instances")

    def asdict(obj: Any, *, dict_factory: Callable[..., Any] = dict) -> Any:
        """As `dataclasses.asdict`."""
        _instance(obj, "asdict")
        return _walk(obj, dict_factory, True)

    def astuple(obj: Any, *, tuple_factory: Callable[..., Any] = tuple) -> Any:
        """As `dataclasses.astuple`."""
        _instance(obj, "astuple")
        return _walk(obj, tuple_factory, False)

    def replace(obj: Any, /, **changes: Any) -> Any:
        """As `dataclasses.replace`."""
        _instance(obj, "replace")
        return replaced(guards, obj, changes)

    return {n: getattr(dataclasses, n) for n in _DATACLASS_PARTS} | {
        "dataclass": dataclass,
        "make_dataclass": make_dataclass,
        "asdict": asdict,
        "astuple": astuple,
        "replace": replace,
    }


def _only_its_own_fields(check_name: Callable[[Any], str]) -> None:
    """Have dataclasses take only fields that it made itself, by the name that was checked.

    Their names become source text. A subclass of ``Field``, or what says that it is one by ``__class__``, answers each time as it likes when
    asked for its name.
    """
    import dataclasses

    from safeexec_backends.local.language.guards import Guards

    guards = Guards()
    module: Any = dataclasses
    original = module._get_field
    if getattr(original, "checks", False):
        return

    def get_field(cls: Any, a_name: Any, *rest: Any) -> Any:
        if not is_guest_class(cls) and not is_in_work(cls):  # of a library
            return original(cls, a_name, *rest)
        check_name(a_name)  # once more: the annotations may have been changed while dataclasses goes through them
        natives = [base for base in class_mro(cls) if not is_guest_class(base)]
        of_base = next((not is_guest_class(base) for base in class_mro(cls) if a_name in class_dict(base)), False)
        made = original(cls, a_name, *rest)
        if type(made) is not dataclasses.Field or made.name is not a_name:
            raise TypeError(f"the field {a_name!r} is none that field() made")
        # What a base of the library has by the field's name, and the library reads without a guard. By the object itself, too: an annotation's own code
        # runs meanwhile, and may put something else in the way by now.
        holders = [base for base in natives if a_name in class_dict(base)]
        kept = any(made.default is class_dict(base)[a_name] for base in holders)
        if made.default is not dataclasses.MISSING and (of_base or kept):
            if any(guards.readable(base, a_name, None) is not made.default for base in (cls, *holders)):
                raise TypeError(f"the field {a_name!r} belongs to a base class")
        return made

    get_field.checks = True  # type: ignore[attr-defined]
    module._get_field = get_field


BUILDERS: Mapping[str, Callable[[RestrictedLanguage], Exports]] = {
    "dataclasses": _dataclasses,
}
