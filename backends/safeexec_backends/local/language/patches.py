"""Places of the standard library that would act on a program's word with more rights than the program has.

The changes are stricter for a program's own objects only; everything else takes CPython's own way.
"""

from __future__ import annotations

import copy
import inspect
import traceback
import types
from typing import Any

from .identity import WriteRefused, is_class, is_guest_class

_installed = False


def install() -> None:
    """Put them in, once."""
    global _installed
    if _installed:
        return
    _installed = True
    original = copy._reconstruct  # type: ignore[attr-defined]

    def reconstruct(x: Any, memo: Any, func: Any, args: Any, state: Any = None, *rest: Any, **options: Any) -> Any:
        # A program's __reduce__ names any object it can reach; copy would then write `state` into it. The reducer may also hang on an
        # object of the library (SimpleNamespace, an exception), so what is made is looked at whatever `x` is.
        if state is not None or rest:

            def checked(*a: Any) -> Any:
                made = func(*a)
                kind = type(made)
                if is_class(made) or not (kind is type(x) or is_guest_class(kind) or id(kind) in _CONTAINERS):
                    raise WriteRefused("__reduce__ gave an object that is not the program's")
                return made

            return original(x, memo, checked, args, state, *rest, **options)
        return original(x, memo, func, args, state, *rest, **options)

    copy._reconstruct = reconstruct  # type: ignore[attr-defined]
    _no_imports_for_suggestions()
    _no_names_from_signatures()


_CONTAINERS = frozenset(map(id, (list, dict, set)))


def _no_names_from_signatures() -> None:
    """``inspect`` (``dataclass`` too) evaluates the names in ``__text_signature__``, in the module that ``__module__`` names."""
    original = inspect._signature_fromstr  # type: ignore[attr-defined]
    text_of_class = type.__dict__["__text_signature__"].__get__

    def from_string(kind: Any, obj: Any, text: Any, *rest: Any) -> Any:
        if is_class(obj):
            text = text_of_class(obj)  # CPython's own, not what a metaclass or the class itself says
        elif type(obj) not in _NATIVE_CALLABLES:
            text = None
        if type(text) is not str:
            raise ValueError("no signature found")
        return original(kind, obj, text, *rest)

    inspect._signature_fromstr = from_string  # type: ignore[attr-defined]


_NATIVE_CALLABLES = (
    types.BuiltinFunctionType, types.MethodDescriptorType, types.WrapperDescriptorType, types.MethodWrapperType,
    types.ClassMethodDescriptorType,
)  # fmt: skip


def _no_imports_for_suggestions() -> None:
    """From 3.12 on the traceback of an ImportError imports the module that it names, to find similar names in it."""
    original = getattr(traceback, "_compute_suggestion_error", None)
    if original is None:
        return

    def suggest(error: Any, tb: Any, wrong_name: Any) -> Any:
        return None if isinstance(error, ImportError) else original(error, tb, wrong_name)

    setattr(traceback, "_compute_suggestion_error", suggest)  # noqa: B010  # not in its stub
