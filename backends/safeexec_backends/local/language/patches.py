"""Places of the standard library that would act on a program's word with more rights than the program has.

The changes are stricter for a program's own objects only; everything else takes CPython's own way.
"""

from __future__ import annotations

import copy
import traceback
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
        # A program's __reduce__ names any object it can reach; copy would then write `state` into it.
        if is_guest_class(type(x)) and (state is not None or rest):

            def checked(*a: Any) -> Any:
                made = func(*a)
                if not is_guest_class(type(made)) or is_class(made):
                    raise WriteRefused("__reduce__ gave an object that is not the program's")
                return made

            return original(x, memo, checked, args, state, *rest, **options)
        return original(x, memo, func, args, state, *rest, **options)

    copy._reconstruct = reconstruct  # type: ignore[attr-defined]
    _no_imports_for_suggestions()


def _no_imports_for_suggestions() -> None:
    """From 3.12 on the traceback of an ImportError imports the module that it names, to find similar names in it."""
    original = getattr(traceback, "_compute_suggestion_error", None)
    if original is None:
        return

    def suggest(error: Any, tb: Any, wrong_name: Any) -> Any:
        return None if isinstance(error, ImportError) else original(error, tb, wrong_name)

    setattr(traceback, "_compute_suggestion_error", suggest)  # noqa: B010  # not in its stub
