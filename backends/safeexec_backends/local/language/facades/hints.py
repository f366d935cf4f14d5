"""Modules that are left out on purpose: why, and what to use instead."""

from __future__ import annotations

_NETWORK = "there is no network in this sandbox; ask for what you need through a tool"
_HTTP = "no host is reached from this sandbox but those that Policy.network names; ask for what you need through a tool"
_PROGRAMS = "no program can be started in this sandbox"
_PROCESSES = _PROGRAMS + "; use concurrent.futures.ThreadPoolExecutor"
_PICKLE = "reading a pickle runs code; use json, or copy.deepcopy for a copy"
_INTERPRETER = "the interpreter's own machinery is out of reach in this sandbox"
_TERMINAL = "there is no terminal in this sandbox"
_DISPLAY = "there is no screen in this sandbox; print text or write a file"
_DEBUGGER = "there is no debugger in this sandbox; print what you want to see"
_PROFILER = "nothing watches calls in this sandbox; use timeit or time.perf_counter"
_PACKAGE = "packages are not installed here unless the policy names them"
UNKNOWN = "no file in the working directory is called so, and " + _PACKAGE

HINTS: dict[str, str] = {
    **dict.fromkeys(("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "copyreg", "dbm"), _PICKLE),
    **dict.fromkeys(
        ("socket", "ssl", "select", "selectors", "socketserver", "ftplib", "smtplib", "poplib", "imaplib", "telnetlib", "xmlrpc", "wsgiref",
         "webbrowser", "aiohttp", "http.server"),
        _NETWORK,
    ),
    **dict.fromkeys(
        ("requests", "httpx", "urllib3", "http.client", "http.cookiejar", "urllib.request", "urllib.error", "urllib.robotparser"), _HTTP
    ),
    **dict.fromkeys(("subprocess", "pty", "sh", "pexpect", "venv", "ensurepip", "pip"), _PROGRAMS),
    **dict.fromkeys(("multiprocessing", "concurrent.futures.process"), _PROCESSES),
    "asyncio.subprocess": _PROGRAMS,
    "signal": "no signals reach a program in this sandbox; asyncio.timeout limits what awaits, Limits.time every step",
    "_thread": "use threading",
    "typing_extensions": "use typing",
    "pwd": "use getpass.getuser",
    **dict.fromkeys(("posixpath", "ntpath"), "use os.path or pathlib"),
    "importlib.metadata": "ask a package for its __version__",
    "importlib.resources": "open files by their path",
    "pydoc": "use help() or inspect",
    **dict.fromkeys(
        ("ctypes", "dis", "imp", "site", "sysconfig", "pkgutil", "symtable", "faulthandler", "code", "codeop", "py_compile",
         "compileall", "zipimport"),
        _INTERPRETER,
    ),
    "resource": "Limits bounds memory and time; time.process_time and tracemalloc.get_traced_memory measure",
    "runpy": "import the file by its name, or exec() its text",
    "mmap": "read the file, or use a bytearray",
    **dict.fromkeys(("pdb", "bdb"), _DEBUGGER),
    **dict.fromkeys(("cProfile", "profile", "pstats", "trace"), _PROFILER),
    **dict.fromkeys(("curses", "readline", "termios", "tty"), _TERMINAL),
    **dict.fromkeys(("tkinter", "turtle"), _DISPLAY),
    **dict.fromkeys(("numpy", "pandas", "scipy", "matplotlib", "sklearn", "sympy", "PIL", "networkx", "yaml", "seaborn", "bs4"), _PACKAGE),
}  # fmt: skip

NAMES: dict[str, str] = {
    **dict.fromkeys(
        [f"os.{name}" for name in "system popen startfile execl execle execlp execv execve execvp execvpe spawnl spawnle spawnlp spawnv spawnve spawnvp posix_spawn".split()]
        + ["asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell", "asyncio.subprocess"],
        _PROGRAMS,
    ),
    **dict.fromkeys(("os.fork", "os.forkpty", "os.wait", "os.waitpid"), _PROCESSES),
    **dict.fromkeys(
        ("asyncio.open_connection", "asyncio.start_server", "asyncio.open_unix_connection", "asyncio.start_unix_server", "asyncio.StreamReader",
         "asyncio.StreamWriter", "asyncio.Protocol", "asyncio.DatagramProtocol", "asyncio.Transport"),
        _NETWORK,
    ),
    "concurrent.futures.ProcessPoolExecutor": _PROCESSES,
    **dict.fromkeys(("os._exit", "os.abort"), "use sys.exit"),
    **dict.fromkeys(("os.kill", "os.killpg"), "no signals reach a program in this sandbox"),
    **dict.fromkeys(("os.putenv", "os.unsetenv"), "use os.environ"),
    **dict.fromkeys(("sys._getframe", "inspect.getouterframes"), "use inspect.currentframe or inspect.stack"),
    **dict.fromkeys(("sys.settrace", "sys.setprofile", "threading.settrace", "threading.setprofile"), _PROFILER),
    "sys.breakpointhook": _DEBUGGER,
    **dict.fromkeys(("sys.meta_path", "sys.path_hooks"), "put the module's file into the working directory, or its folder on sys.path"),
    **dict.fromkeys(("tracemalloc.take_snapshot", "tracemalloc.Snapshot", "tracemalloc.Filter"), "use tracemalloc.get_traced_memory"),
    **dict.fromkeys(
        [f"doctest.{name}" for name in "DocTestFinder DocTestRunner DocTestParser DocTestSuite DocFileSuite OutputChecker".split()],
        "use doctest.testmod, doctest.testfile or doctest.run_docstring_examples",
    ),
    "time.tzset": "use zoneinfo, or datetime.timezone",
    "io.FileIO": "use open",
    "threading.excepthook": "an error of a thread is written to sys.stderr; catch it in the thread's function",
    "threading.currentThread": "use threading.current_thread",
    "threading.activeCount": "use threading.active_count",
    "importlib.util.spec_from_file_location": "put the file's folder on sys.path and import it by its name",
    **dict.fromkeys(("gc.get_objects", "gc.get_referrers", "gc.get_referents"), "keep what you want to find in a weakref.WeakSet"),
}  # fmt: skip
"""The same for names of modules that are there."""
