"""Modules that are left out on purpose: why, and what to use instead."""

from __future__ import annotations

_NETWORK = "there is no network in this sandbox; ask for what you need through a tool"
_HTTP = "no host is reached from this sandbox but those that Policy.network names; ask for what you need through a tool"
_PROGRAMS = "no program can be started in this sandbox"
_PICKLE = "reading a pickle runs code; use json"
_INTERPRETER = "the interpreter's own machinery is out of reach in this sandbox"
_TERMINAL = "there is no terminal in this sandbox"
_PACKAGE = "packages are not installed here unless the policy names them"

HINTS: dict[str, str] = {
    **dict.fromkeys(("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "copyreg", "dbm"), _PICKLE),
    **dict.fromkeys(
        ("socket", "ssl", "select", "selectors", "socketserver", "ftplib", "smtplib", "poplib", "imaplib", "telnetlib", "xmlrpc", "wsgiref",
         "webbrowser", "aiohttp", "http.server"),
        _NETWORK,
    ),
    **dict.fromkeys(("requests", "httpx", "urllib3", "http.client", "urllib.request"), _HTTP),
    **dict.fromkeys(("subprocess", "pty", "sh", "pexpect", "venv", "ensurepip", "pip"), _PROGRAMS),
    "multiprocessing": _PROGRAMS + "; use concurrent.futures.ThreadPoolExecutor",
    "concurrent.futures.process": _PROGRAMS + "; use concurrent.futures.ThreadPoolExecutor",
    **dict.fromkeys(
        ("ctypes", "dis", "inspect", "imp", "runpy", "site", "sysconfig", "pkgutil", "symtable", "faulthandler", "cProfile", "profile",
         "pstats", "pdb", "bdb", "trace", "code", "codeop", "py_compile", "compileall", "zipimport", "mmap", "resource", "signal"),
        _INTERPRETER,
    ),
    **dict.fromkeys(("curses", "tkinter", "turtle", "readline", "termios", "tty"), _TERMINAL),
    **dict.fromkeys(("numpy", "pandas", "scipy", "matplotlib", "sklearn", "sympy", "PIL", "networkx", "yaml", "seaborn", "bs4"), _PACKAGE),
}  # fmt: skip
