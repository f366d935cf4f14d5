"""Walk everything that a program can reach by names that are read without a guard; print what it must not find, as JSON.

Run in a process of its own: it touches some thirty thousand objects.
"""

import collections
import json
import sys
import warnings
from pathlib import Path

from safeexec_backends.local.language import RestrictedLanguage, denied, names
from safeexec_backends.local.language.facades import borrowed, builders

class_dict = type.__dict__["__dict__"].__get__
class_mro = type.__dict__["__mro__"].__get__


def seeds():
    language = RestrictedLanguage(environ={})
    namespace = language.namespace()
    for name, item in language.builtins.items():
        if " " not in name:
            yield item, name
    for module in builders().keys() - borrowed.NAMES:  # those run as the program's own code: they hold what it holds
        facade = language.gate.find(module)
        for name in dir(facade):
            yield getattr(facade, name), f"{module}.{name}"
    for code in language.compile((Path(__file__).parent / "samples.txt").read_text(), "<samples>"):
        eval(code, namespace)
    namespace["cor"].close()
    for sample in namespace["samples"]:
        yield sample, f"a {type(sample).__name__}"


def attribute_names(item):
    kinds = [*class_mro(type(item))]
    if isinstance(item, type):
        kinds += class_mro(item)
    found = {n for kind in kinds for n in class_dict(kind)}
    try:
        found |= set(object.__dir__(item))
    except Exception:
        pass  # a proxy without a target
    return sorted(n for n in found if isinstance(n, str))


def walk(depth):
    queue = collections.deque((item, path, 0) for item, path in seeds())
    seen, bad, read = {}, [], set()
    while queue:
        item, path, level = queue.popleft()
        owner = getattr(item, "__self__", None)
        # Bound methods are made anew by every reading: one for each class is enough.
        key = (
            id(item)
            if owner is None or isinstance(item, type)
            else (type(item), type(owner), getattr(item, "__name__", ""))
        )
        if key in seen or level > depth:
            continue
        seen[key] = item
        queue.append((type(item), f"type({path})", level + 1))
        for name in attribute_names(item):
            public = name[:1] != "_" and name not in names.SUSPECT and name not in names.MODULES - names.DIRECT
            if not public and not (level == 0 and name in names.DUNDER_DIRECT):
                continue
            try:
                value = getattr(item, name)
            except BaseException:
                continue  # what raises yields nothing
            if name in names.DIRECT:
                read.add(name)
            if denied.is_denied(value):
                bad.append([path, name, type(value).__name__, getattr(value, "__name__", "")])
                continue
            queue.append((value, f"{path}.{name}", level + 1))
    return len(seen), bad, read


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    count, bad, read = walk(int(sys.argv[1]))
    print("\n" + json.dumps({"objects": count, "bad": bad, "read": sorted(read)}))
