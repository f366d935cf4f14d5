"""The guest: the program that runs inside every sandbox.

Standard library only, CPython 3.9 and later, shipped into the sandbox as text together with ``wire.py``. It keeps one namespace, runs one
step at a time, streams what the step writes, calls the host's tools, and answers with plain data. It defends nothing: whatever runs beside it may
rewrite it, so the host believes no frame of it.

A host drives it with :meth:`Guest.handle`, one request frame at a time, or lets :meth:`Guest.serve` read them.
"""

import ast
import builtins
import codecs
import io
import keyword
import linecache
import os
import re
import signal
import sys
import threading
import time
import traceback
import types
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

try:
    import resource
except ImportError:  # not everywhere
    resource = None  # type: ignore[assignment]
try:
    from safeexec import wire
except ImportError:  # shipped as text: the two files arrive as top-level modules
    import safeexec_wire as wire  # type: ignore[import-not-found, no-redef, unused-ignore]

PROTOCOL = 1
_COROUTINE = 0x80  # inspect.CO_COROUTINE; importing inspect costs 5 ms
_CHUNK = 64 * 1024
_FLOOD = 16
"""A step that goes on writing after this many times its output limit is ended."""
_INNERMOST, _OUTERMOST = 200, 10
"""Of a traceback that is longer, so many frames at its end and at its beginning are shown."""
_MAX_FRAME = 2**31  # from the host, whose word is good here: what it sends has limits there
_MAX_FILES = 2_000
_MAX_DISPLAYS = 100

own_modules: Dict[str, Any] = {}
"""Modules that the host gave the session, by name; a rule on imports lets them pass."""


class Refused(Exception):
    """The sandbox's language policy refuses this. Mixed into ImportError, AttributeError… where code would expect those."""


class ImportRefused(ImportError, Refused):
    """An import that the policy does not allow."""


class ToolError(Exception):
    """A host tool failed with an exception that has no built-in name here: `type` is its class name."""

    def __init__(self, type: str, message: str) -> None:
        super().__init__("{}: {}".format(type, message))
        self.type = type
        self.message = message


class OutputFlood(BaseException):
    """The step goes on writing far past its limit."""


def _tool_exceptions() -> Dict[str, Callable[[str], BaseException]]:
    table: Dict[str, Callable[[str], BaseException]] = {}
    for name, item in vars(builtins).items():
        if isinstance(item, type) and issubclass(item, Exception) and not issubclass(item, UnicodeError):
            if item.__name__ == name and not name.endswith("ExceptionGroup"):
                table[name] = item
    return table


class Python:
    """The whole language: what runs where the sandbox's wall is not the language."""

    hidden: Tuple[str, ...] = ()

    def namespace(self) -> Dict[str, Any]:
        """The globals of a fresh session: those of a module called ``__main__``, as ``dataclasses`` and ``pickle`` expect."""
        module = types.ModuleType("__main__")
        module.__dict__["__builtins__"] = builtins
        sys.modules["__main__"] = module
        if os.getcwd() not in sys.path:
            sys.path.append(os.getcwd())  # last: a file of the program's does not take a library's place
        setattr(builtins, "print", fast_print)
        setattr(builtins, "input", ask)
        sys.breakpointhook = refuse_debugger
        for name in ("exit", "quit"):
            setattr(builtins, name, leave)
        if not hasattr(builtins, "help"):  # an interpreter without the site module
            setattr(builtins, "help", show_help)
        return module.__dict__

    def module(self, name: str) -> Tuple[Any, Dict[str, Any]]:
        """A new module, and the namespace its code is to run in."""
        module = types.ModuleType(name)
        module.__dict__["__builtins__"] = builtins
        return module, module.__dict__

    def add_module(self, name: str, module: Any) -> None:
        """Let the session's code import it."""
        sys.modules[name] = own_modules[name] = module

    def compile(self, source: str, filename: str) -> List[types.CodeType]:
        """Code objects to evaluate in order; the last yields the step's value."""
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        if _may_be_expression(source):  # compiled at once: a tree of objects and back costs three times as much
            try:
                return [compile(source, filename, "eval", flags, dont_inherit=True)]
            except SyntaxError:
                pass  # a statement, or an error, which is described for statements
        else:
            kind, body, end = _look_at_end(source)
            try:
                if kind == "statement":
                    return [compile(source, filename, "exec", flags, dont_inherit=True)]
                if kind == "expression":
                    value = compile(end, filename, "eval", flags, dont_inherit=True)
                    return [compile(body, filename, "exec", flags, dont_inherit=True), value]
            except SyntaxError:
                pass
        tree = compile(source, filename, "exec", flags | ast.PyCF_ONLY_AST, dont_inherit=True)
        codes = []
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        if tree.body:
            codes.append(compile(tree, filename, "exec", flags, dont_inherit=True))
        if last is not None:
            codes.append(compile(ast.Expression(last.value), filename, "eval", flags, dont_inherit=True))
        return codes


def source_lines(source: str) -> List[str]:
    """As the compiler counts them (str.splitlines counts form feeds too), each with its end: without one, traceback points one column too far."""
    if "\r" in source:
        source = source.replace("\r\n", "\n").replace("\r", "\n")
    lines = [line + "\n" for line in source.split("\n")]
    if lines[-1] == "\n":  # behind the last line's end
        lines.pop()
    return lines


_NO_THREADS = "can't start new thread"
_NEVER_FIRST = frozenset(keyword.kwlist) - {"None", "True", "False", "await", "lambda", "not"}
_COMPARISONS = ("==", "!=", "<=", ">=")


def _may_be_expression(source: str) -> bool:
    """Whether it is worth trying: a line that neither begins like a statement nor assigns."""
    if len(source) > 1000 or not source or source[0] in " \t\f#@" or "\n" in source or ";" in source or "\r" in source:
        return False
    head = source.partition("(")[0]
    if "=" in head:
        for sign in _COMPARISONS:
            head = head.replace(sign, "")
        if "=" in head:
            return False
    return head.partition(" ")[0].rstrip(":") not in _NEVER_FIRST


# How a statement begins that is no expression. `match`, `case` and `type` may begin one.
_STATEMENTS = frozenset(keyword.kwlist) - {"None", "True", "False", "await", "lambda", "not", "yield"}
_TEXT = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")
_PAIR = re.compile(r"[(\[{][^()\[\]{}]*[)\]}]")
_WORD = re.compile(r"\w+")
_ASSIGNS = re.compile(r"(?<![=!<>:])=(?!=)")


def _look_at_end(source: str) -> Tuple[str, str, str]:
    """Whether the last statement of a program has a value, as far as its last line tells: "statement", "expression" or "".

    For an expression also the program before it, and itself below as many empty lines. Both must then be compiled: an expression that begins
    further up, or inside a block, does not survive that, so no program is ever cut where it should not be.
    """
    if "\r" in source or "\f" in source or "\0" in source:
        return "", "", ""
    end = len(source)
    while True:
        start = source.rfind("\n", 0, end) + 1
        line = source[start:end].rstrip()
        if line and line.lstrip()[0] != "#":
            break
        if not start:
            return "", "", ""
        end = start - 1
    # A line that a string or a backslash carries on from the one before it says little.
    if len(line) > 2000 or '"""' in line or "'''" in line or source[: max(start - 1, 0)].endswith("\\"):
        return "", "", ""
    bare = _TEXT.sub("", line)
    if '"' in bare or "'" in bare or "\\" in bare:
        return "", "", ""
    text = bare.partition("#")[0]
    pairs = 1
    while pairs and ("(" in text or "[" in text or "{" in text):
        text, pairs = _PAIR.subn("", text)
    if ")" in text or "]" in text or "}" in text:  # it ends something that began further up
        return "", "", ""
    if line[0] in " \t":  # of a block: what is open at its end was opened in it
        return "statement", "", ""
    if ";" in text:
        return "", "", ""
    word = _WORD.match(text)
    if word is not None and word[0] in _STATEMENTS:
        return "statement", "", ""
    if "lambda" not in text and _ASSIGNS.search(text):
        return "statement", "", ""
    return "expression", source[:start], "\n" * source.count("\n", 0, start) + line


_print = builtins.print
ONE_WRITE: List[type] = []
"""The classes of streams that lead to the host."""


def _print_whole(
    _bound: object,
    /,
    *objects: Any,
    sep: Optional[str] = " ",
    end: Optional[str] = "\n",
    file: Any = None,
    flush: bool = False,
) -> None:
    """``print`` with one write per call to the streams of the sandbox, so that one call is one frame. A file of the program's own is written to piece by piece, as ever."""
    for name, text in (("sep", sep), ("end", end)):
        if text is not None and not isinstance(text, str):
            raise TypeError("{} must be None or a string, not {}".format(name, type(text).__name__))
    target = sys.stdout if file is None else file
    if target is None:
        return
    kind = type(target)
    if not any(kind is known for known in ONE_WRITE):
        _print(*objects, sep=sep, end=end, file=target, flush=flush)
        return
    target.write((" " if sep is None else sep).join([str(o) for o in objects]) + ("\n" if end is None else end))
    if flush:
        target.flush()


class NoInput(EOFError, RuntimeError):
    """There is nobody to ask. What reads until its input ends finds it ended."""


NoInput.__module__, NoInput.__name__, NoInput.__qualname__ = "builtins", "EOFError", "EOFError"


_print_whole.__name__ = _print_whole.__qualname__ = "print"
# Bound, since a plain function in a class would take the instance for what is to be printed: `class Job: report = print`.
fast_print = types.MethodType(_print_whole, "builtins")


def refuse_input(prompt: object = "", /) -> str:
    """There is nobody to ask; the question is asked all the same, as it is where the input has ended."""
    fast_print(prompt, end="")
    raise NoInput("input() is not available in a sandbox: pass the value as a variable, a file or a tool")


def refuse_debugger(*args: object, **options: object) -> None:
    """There is nobody to debug; pdb would find its input ended, and exit."""
    raise RuntimeError("breakpoint() is not available in a sandbox: print what you want to see")


def _asks_for_debugger(frame: types.FrameType) -> bool:
    """Whether it is pdb that asks, for a command: without an answer it would end the step as ``exit()`` does."""
    debugger = getattr(sys.modules.get("pdb"), "Pdb", None)
    return (
        frame.f_globals.get("__name__") == "cmd"
        and isinstance(debugger, type)
        and isinstance(frame.f_locals.get("self"), debugger)
    )


def input_from(readline: Callable[[], Any], prompt: object) -> str:
    """What ``input`` gives where the program has put something of its own in the place of ``sys.stdin``."""
    fast_print(prompt, end="")
    line = readline()
    if not isinstance(line, str):
        raise TypeError("object.readline() returned non-string")
    if not line:
        raise EOFError("EOF when reading a line")
    return line[:-1] if line.endswith("\n") else line


def ask(prompt: object = "", /) -> str:
    """``input``: a line of what the program itself has made its standard input; else there is nobody to ask."""
    if sys.stdin is None or sys.stdin is sys.__stdin__:
        if _asks_for_debugger(sys._getframe(1)):
            raise RuntimeError("pdb is not available in a sandbox: print what you want to see")
        return refuse_input(prompt)
    return input_from(sys.stdin.readline, prompt)


refuse_input.__name__ = refuse_input.__qualname__ = ask.__name__ = ask.__qualname__ = "input"
for _function in (_print_whole, refuse_input, ask):
    _function.__module__ = "builtins"  # an error of theirs is called as the builtin's is


def leave(code: object = None) -> None:
    """``exit()`` and ``quit()``."""
    raise SystemExit(code)


def show_help(*what: Any) -> None:
    """``help()``, of something: there is nobody to ask for more."""
    if not what:
        print("help(object) describes an object.")
        return
    import pydoc

    print(pydoc.render_doc(what[0], "Help on %s:", renderer=getattr(pydoc, "plaintext")))  # noqa: B009  # not in its stub


class FdChannel:
    """Frames over two file descriptors, or one that is a socket."""

    def __init__(
        self,
        read_fd: int,
        write_fd: Optional[int] = None,
        room: Callable[[int], Any] = wire.room,
    ) -> None:
        self._read_fd = read_fd
        self._write_fd = read_fd if write_fd is None else write_fd
        self._reader = wire.FrameReader(self._readinto, _MAX_FRAME, room=room)

    def _readinto(self, view: memoryview) -> int:
        return os.readv(self._read_fd, [view])

    def recv(self) -> wire.Frame:
        """The next frame, waiting for it. Raises EOFError when the host is gone."""
        return self._reader.next()

    def buffered(self) -> bool:
        """Whether a frame may wait without the descriptor being readable."""
        return self._reader.buffered()

    def send(self, header: wire.Header, blobs: Sequence[wire.Blob] = ()) -> None:
        """Write one frame whole."""
        buffers = wire.pack(header, blobs)
        if sum(map(len, buffers)) <= _CHUNK:
            data = buffers[0] if len(buffers) == 1 else b"".join(buffers)
            sent = os.write(self._write_fd, data)
            if sent == len(data):
                return
            buffers = [memoryview(data)[sent:]]
        for buffer in buffers:
            view = memoryview(buffer)
            while len(view):
                view = view[os.write(self._write_fd, view) :]

    def watch(self, loop: Any, callback: Callable[[], None]) -> None:
        """Call `callback` from the event loop whenever a frame may be waiting."""
        loop.add_reader(self._read_fd, callback)
        if self.buffered():
            loop.call_soon(callback)

    def unwatch(self, loop: Any) -> None:
        """Undo :meth:`watch`."""
        loop.remove_reader(self._read_fd)


class _Bytes(io.RawIOBase):
    """``sys.stdout.buffer``."""

    def __init__(self, stream: "Stream") -> None:
        self._stream = stream

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raw = bytes(data)
        self._stream._emit(raw)
        return len(raw)


class Stream(io.TextIOBase):
    """``sys.stdout`` or ``sys.stderr``: every write is a frame at once, so nothing is lost when the guest is killed."""

    def __init__(self, guest: "Guest", number: int) -> None:
        self._guest = guest
        self._number = number
        self._left = 0
        self._flood = 0
        self.truncated = False
        self.buffer = _Bytes(self)

    encoding = "utf-8"
    errors = "backslashreplace"
    newlines = None
    line_buffering = False
    write_through = True
    name = property(lambda self: "<stdout>" if self._number == 1 else "<stderr>")
    mode = "w"

    def reconfigure(
        self,
        *,
        encoding: Optional[str] = None,
        errors: Optional[str] = None,
        newline: Optional[str] = None,
        line_buffering: Optional[bool] = None,
        write_through: Optional[bool] = None,
    ) -> None:
        """As ``TextIOWrapper.reconfigure``. What the host reads is UTF-8, with lines as they are written; nothing waits in a buffer, whatever is asked for.

        :raises LookupError: for names of encodings or error handlers that nobody knows.
        :raises io.UnsupportedOperation: for another encoding, or other ends of lines.
        """
        if encoding is not None and codecs.lookup(encoding).name != "utf-8":
            raise io.UnsupportedOperation("the output of a sandbox is UTF-8, not {}".format(encoding))
        if newline not in (None, "", "\n"):
            raise io.UnsupportedOperation("the output of a sandbox has its lines as they are written")
        if errors is not None or encoding is not None:
            errors = "strict" if errors is None else errors
            codecs.lookup_error(errors)
            self.errors = errors
        if line_buffering is not None:
            self.line_buffering = bool(line_buffering)

    def reset(self, limit: int) -> None:
        self._left = limit
        self._flood = limit * _FLOOD
        self.truncated = False

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return False

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno")

    def write(self, text: str) -> int:
        if not isinstance(text, str):
            raise TypeError("write() argument must be str, not {}".format(type(text).__name__))
        if text:
            if len(text) > self._left + 4 * _CHUNK:  # far past the limit: do not encode what will be dropped
                self._emit(text[: self._left + 1].encode("utf-8", self.errors), len(text))
            else:
                self._emit(text.encode("utf-8", self.errors))
        return len(text)

    def _emit(self, data: bytes, size: Optional[int] = None) -> None:
        size = len(data) if size is None else size
        if size > self._left:
            self._flood -= size
            if not self.truncated:
                self.truncated = True
                data = data[: self._left]
                self._left = 0
            else:
                data = b""
            if self._flood < 0:
                raise OutputFlood
        else:
            self._left -= size
        for start in range(0, len(data), _CHUNK):
            self._guest.send({"t": "out", "s": self._number}, [data[start : start + _CHUNK]])


ONE_WRITE.append(Stream)


class _Slot:
    """Where the answer to one tool call is put; `wake` is called then."""

    __slots__ = ("done", "error", "value", "wake")

    def __init__(self) -> None:
        self.done = False
        self.value: Any = None
        self.error: Optional[BaseException] = None
        self.wake: Optional[Callable[[], None]] = None


class Tool:
    # A function of the host. Calling it waits for its value; ``await tool.aio(…)`` lets others run meanwhile. (No docstring: each tool has its own.)

    __slots__ = ("__doc__", "__name__", "__qualname__", "_call", "_start", "_text")

    def __init__(self, guest: "Guest", name: str, text: str, doc: str) -> None:
        self.__name__ = self.__qualname__ = name
        self.__doc__ = doc
        self._text = text
        self._call = guest.call
        self._start = guest.call_async

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(self.__name__, args, kwargs)

    async def aio(self, *args: Any, **kwargs: Any) -> Any:
        return await self._start(self.__name__, args, kwargs)

    def __repr__(self) -> str:
        return "<tool {}>".format(self._text)


class Guest:
    """One session's interpreter state, driven by request frames."""

    def __init__(self, channel: Any, language: Any = None) -> None:
        self._channel = channel
        self._language = language if language is not None else Python()
        self._namespace: Optional[Dict[str, Any]] = None
        self._own: Dict[str, Any] = {}
        self._steps = 0
        self._running = False
        self._shield = 0
        self._deferred: Optional[Callable[[], None]] = None
        self._send_lock = threading.RLock()
        self._read_lock = threading.RLock()
        self._pending: Dict[int, _Slot] = {}
        self._calls = 0
        self._loop: Any = None
        self._watched: Dict[Any, int] = {}
        self._exceptions: Optional[Dict[str, Callable[[str], BaseException]]] = None
        self._limits = {"output": 1_000_000, "value": 16 * 2**20}
        self._stdout = Stream(self, 1)
        self._stderr = Stream(self, 2)
        self._root = ""
        self._files: Dict[str, Tuple[int, int]] = {}
        self._folders: Dict[str, int] = {}
        self._scanned = 0
        self._displays = 0
        self._display_left = 0
        self._hidden = (__file__, wire.__file__, "<safeexec_inside")
        self._network: Any = None

    # -- the host's side -------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Answer requests until the host hangs up."""
        try:
            signal.signal(signal.SIGINT, self.on_interrupt)
        except (ValueError, AttributeError, OSError):  # not the main thread, or no signals here
            pass
        while True:
            try:
                header, blobs = self._channel.recv()
            except EOFError:
                return
            self.handle(header, blobs)

    def handle(self, header: wire.Header, blobs: Sequence[wire.Blob] = ()) -> None:
        """Answer one request frame with any number of frames, the last of them ``done``."""
        kind = header.get("t")
        answer: Dict[str, Any] = {"t": "done", "id": header.get("id")}
        if kind in ("result", "failure", "net"):  # an answer to a call whose step is over
            return
        try:
            if kind == "run":
                self._run(header, answer)
                return
            encoder = getattr(self, "_do_" + str(kind))(header, blobs, answer)
        except BaseException as error:
            encoder = None
            answer["fail"] = {"type": type(error).__name__, "message": _text(error, 2000)}
            if isinstance(error, OSError) and error.errno is not None:
                answer["fail"]["errno"] = error.errno
        self.send(answer, encoder.blobs if encoder is not None else ())

    def on_interrupt(self, *_: Any) -> None:
        """Raise KeyboardInterrupt in the running step; not while a frame is being read or written."""
        if not self._running:
            return
        if self._shield:
            self._deferred = self.on_interrupt
        else:
            raise KeyboardInterrupt

    def _open_shield(self) -> None:
        self._shield -= 1
        if self._deferred is not None and not self._shield:
            deferred, self._deferred = self._deferred, None
            deferred()

    def send(self, header: wire.Header, blobs: Sequence[wire.Blob] = ()) -> None:
        """Send one frame; an interrupt waits until it is out whole."""
        self._shield += 1
        try:
            with self._send_lock:
                self._channel.send(header, blobs)
        finally:
            self._open_shield()

    # -- requests other than run -----------------------------------------------------------------------------------------

    def _do_init(self, header: wire.Header, blobs: Sequence[wire.Blob], answer: Dict[str, Any]) -> None:
        self._limits.update(header.get("limits", {}))
        if header.get("cwd"):
            os.chdir(header["cwd"])
        self._root = os.getcwd() if header.get("files", True) else ""
        os.environ.update(header.get("env", {}))
        sys.stdout, sys.stderr = self._stdout, self._stderr
        self._stdout.reset(self._limits["output"])
        self._stderr.reset(self._limits["output"])
        # 3.13 has put what the interpreter was started with there, and would show it for what exec() runs.
        linecache.cache.pop("<string>", None)
        namespace = self._language.namespace()
        self._namespace = namespace
        self._own = {"display": self.display, "ToolError": ToolError}
        namespace.update(self._own)
        self._add_tools(header.get("tools", ()))
        if "network" in header:
            self._network = self._start_network(header["network"], blobs)
        if self._root:
            self._files = self._scan()
        answer["python"] = "{}.{}.{}".format(*sys.version_info[:3])
        answer["protocol"] = PROTOCOL

    def _start_network(self, setup: Dict[str, Any], sources: Sequence[wire.Blob]) -> Any:
        """Make what the host permits reachable. The modules that do it come from the host, for sessions that have a network only."""
        sockets = ("inside_wasm", 4) if sys.platform == "emscripten" else ("inside_threads", 3)
        for name, index in (("inside", 0), ("inside_names", 1), ("inside_tls", 2), sockets):
            module = types.ModuleType("safeexec_" + name)
            module.__file__ = "<safeexec_{}>".format(name)
            sys.modules[module.__name__] = module
            exec(compile(bytes(sources[index]), module.__file__, "exec", dont_inherit=True), module.__dict__)
        return module.__dict__["start"](self, setup)

    def _add_tools(self, specs: Sequence[Any]) -> None:
        for spec in specs:
            tool = Tool(self, spec["name"], spec.get("text", spec["name"]), spec.get("doc", ""))
            self._own[spec["name"]] = tool
            self._globals()[spec["name"]] = tool

    def _do_tools(self, header: wire.Header, blobs: Sequence[wire.Blob], answer: Dict[str, Any]) -> None:
        self._add_tools(header["tools"])

    def _do_module(self, header: wire.Header, blobs: Sequence[wire.Blob], answer: Dict[str, Any]) -> None:
        name, source = header["name"], header["code"]
        filename = "<module {}>".format(name)
        linecache.cache[filename] = (len(source), None, source_lines(source), filename)
        self._running = True  # so that an interrupt stops it
        try:
            module, namespace = self._language.module(name)
            for code in self._language.compile(source, filename):
                eval(code, namespace)
            self._language.add_module(name, module)
        except BaseException as error:
            self._running = False
            answer["error"] = self._describe(error, filename)
        finally:
            self._running = False

    def _do_resume(self, header: wire.Header, blobs: Sequence[wire.Blob], answer: Dict[str, Any]) -> None:
        """Go on as a branch of another session, or as what a snapshot brought back."""
        self._limits.update(header.get("limits", {}))
        if "tools" in header:
            for name, item in list(self._own.items()):
                if isinstance(item, Tool):
                    del self._own[name]
                    if self._globals().get(name) is item:
                        del self._globals()[name]
            self._add_tools(header["tools"])
        if header.get("reseed"):
            for name in ("random", "numpy.random"):
                module = sys.modules.get(name)
                if module is not None:
                    module.seed()

    def _globals(self) -> Dict[str, Any]:
        if self._namespace is None:
            raise RuntimeError("the session was not initialised")
        return self._namespace

    def _do_get(self, header: wire.Header, blobs: Sequence[wire.Blob], answer: Dict[str, Any]) -> wire.Encoder:
        encoder = wire.Encoder(self._limits["value"])
        answer["v"] = encoder.encode(self._globals()[header["name"]])
        return encoder

    def _do_set(self, header: wire.Header, blobs: Sequence[wire.Blob], answer: Dict[str, Any]) -> None:
        decoder = wire.Decoder(blobs, array=_array, table=_table)
        values = {name: decoder.decode(node) for name, node in header["v"].items()}
        self._globals().update(values)

    def _do_del(self, header: wire.Header, blobs: Sequence[wire.Blob], answer: Dict[str, Any]) -> None:
        del self._globals()[header["name"]]

    def _do_names(self, header: wire.Header, blobs: Sequence[wire.Blob], answer: Dict[str, Any]) -> None:
        answer["v"] = [
            name
            for name, value in self._globals().items()
            if isinstance(name, str) and not name.startswith("__") and self._own.get(name, self) is not value
        ]

    def _path(self, name: str) -> str:
        return os.path.join(self._root or ".", name)

    def _do_read(self, header: wire.Header, blobs: Sequence[wire.Blob], answer: Dict[str, Any]) -> wire.Encoder:
        encoder = wire.Encoder(2**31)
        with open(self._path(header["name"]), "rb") as file:
            file.seek(header.get("at", 0))
            answer["v"] = encoder.encode(file.read(header["size"]))
        return encoder

    def _do_write(self, header: wire.Header, blobs: Sequence[wire.Blob], answer: Dict[str, Any]) -> None:
        path = self._path(header["name"])
        folder = os.path.dirname(path)
        if folder:
            os.makedirs(folder, exist_ok=True)
        with open(path, "ab" if header.get("append") else "wb") as file:
            file.write(blobs[0])
        if not header.get("quiet"):
            self._files = self._scan()

    def _do_rescan(self, header: wire.Header, blobs: Sequence[wire.Blob], answer: Dict[str, Any]) -> None:
        self._files = self._scan()

    def _do_remove(self, header: wire.Header, blobs: Sequence[wire.Blob], answer: Dict[str, Any]) -> None:
        os.remove(self._path(header["name"]))

    def _do_list(self, header: wire.Header, blobs: Sequence[wire.Blob], answer: Dict[str, Any]) -> wire.Encoder:
        encoder = wire.Encoder(self._limits["value"])
        answer["v"] = encoder.encode([[name, size] for name, (size, _) in self._walk(sys.maxsize, {}).items()])
        return encoder

    # -- a step ----------------------------------------------------------------------------------------------------------

    def _run(self, header: wire.Header, answer: Dict[str, Any]) -> None:
        self._steps += 1
        filename = "<step {}>".format(self._steps)
        self._stdout.reset(self._limits["output"])
        self._stderr.reset(self._limits["output"])
        self._displays = 0
        self._display_left = self._limits["value"]
        sys.stdout, sys.stderr = self._stdout, self._stderr
        blobs: Sequence[wire.Blob] = ()
        started = time.process_time()
        error: Optional[BaseException] = None
        if self._network is not None:
            self._network.begin(header["id"])
        # Beyond calls that were undone: an answer to one may still come.
        self._calls = max(self._calls, header.get("calls", 0))
        for number in header.get("dead", ()):  # calls the host gave up when an earlier step ended
            self._resolve(number, RuntimeError("the step that made this call has ended"))
        try:
            self._running = True
            try:
                value = self._execute(header["code"], filename)
                if value is not None:
                    blobs = self._answer_value(value, answer)
                if "matplotlib.pyplot" in sys.modules:
                    self._show_figures()
            finally:
                self._running = False
        except BaseException as caught:
            error = caught
            if isinstance(caught, MemoryError):
                self._relieve()
        self._deferred = None
        if self._network is not None:
            self._network.reset()
        try:
            if error is not None:
                blobs = ()
                answer.pop("v", None)
                answer["error"] = self._describe(error, filename)
            self._finish(answer, started)
            self.send(answer, blobs)
        except MemoryError:
            del error
            self.send(
                {"t": "done", "id": header["id"], "error": {"kind": "memory", "type": "MemoryError", "message": ""}}
            )

    def _relieve(self) -> None:
        """The step used up the memory, and its variables keep it: give what there is in reserve, so that this can be told."""

    def _execute(self, source: str, filename: str) -> Any:
        linecache.cache[filename] = (len(source), None, source_lines(source), filename)
        if self._steps > 1000:  # a session of a million steps must not keep a million sources
            linecache.cache.pop("<step {}>".format(self._steps - 1000), None)
        value = None
        namespace = self._globals()
        for code in self._language.compile(source, filename):
            value = eval(code, namespace)
            if code.co_flags & _COROUTINE:
                value = self._await(value)
        return value

    def _finish(self, answer: Dict[str, Any], started: float) -> None:
        answer["cpu"] = time.process_time() - started
        answer["rss"] = _peak_memory()
        if self._stdout.truncated or self._stderr.truncated:
            answer["cut"] = True
        if self._root:
            files = self._files if self._unchanged() else self._scan()
            if files != self._files:
                old = self._files
                answer["files"] = [[name, files[name][0]] for name in files if files[name] != old.get(name)]
                self._files = files

    def _answer_value(self, value: Any, answer: Dict[str, Any]) -> Sequence[wire.Blob]:
        if type(value) not in (int, str, float, bool, list, dict, tuple, bytes, set):
            self._show(value, rich_only=True)
        if wire.is_node(value):
            answer["v"] = value
            return ()
        encoder = wire.Encoder(self._limits["value"])
        try:
            answer["v"] = encoder.encode(value)
        except wire.TooLarge:
            encoder = wire.Encoder(self._limits["value"])
            answer["v"] = encoder.encode(wire.Opaque(type(value).__name__, wire.describe(value)))
            answer["cut"] = True
        return encoder.blobs

    def _await(self, coroutine: Any) -> Any:
        self._shield += 1  # an import that is interrupted leaves a package in pieces, for all later steps
        try:
            import asyncio
        finally:
            self._open_shield()
        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        loop = self._loop
        task = loop.create_task(coroutine)
        try:
            return loop.run_until_complete(task)
        except BaseException:
            if not task.done():  # an interrupt left the loop: give the step's own task the chance to clean up
                task.cancel()
                try:
                    loop.run_until_complete(task)
                except BaseException:
                    pass
            raise

    def _describe(self, error: BaseException, filename: str) -> Dict[str, Any]:
        kind = "exception"
        raised = type(error)  # isinstance() would ask the exception for its __class__, which may raise in turn
        if issubclass(raised, SystemExit):
            kind = "exit"
        elif issubclass(raised, MemoryError):
            kind = "memory"
        elif issubclass(raised, OutputFlood):
            kind = "output"
        elif issubclass(raised, Refused):
            kind = "policy"
        answer: Dict[str, Any] = {"kind": kind, "type": _type_name(error), "message": _text(error, 20_000)}
        if sys.platform == "emscripten" and answer["message"] == _NO_THREADS:
            answer["message"] += ": this sandbox has none; call the function itself, or use asyncio"
        if kind == "output":
            answer["type"], answer["message"] = "OutputLimitExceeded", "the step wrote far more than its output limit"
        elif kind == "exit":
            try:
                code = getattr(error, "code", None)
                answer["message"] = "0" if code is None else _text(code, 20_000)
            except BaseException as trouble:
                answer["message"] = "<its code raised {}>".format(type(trouble).__name__)
        try:
            line = getattr(error, "lineno", None) if issubclass(raised, (SyntaxError, Refused)) else None
            if kind != "output":
                answer["traceback"] = self._traceback(error)
            if type(line) is not int or not 0 <= line < 2**31:
                line = None
                tb = error.__traceback__
                while tb is not None:
                    if tb.tb_frame.f_code.co_filename == filename:
                        line = tb.tb_lineno
                    tb = tb.tb_next
            answer["line"] = line
        except BaseException as trouble:
            answer.setdefault("traceback", "(no traceback: {})".format(type(trouble).__name__))
        return answer

    def _traceback(self, error: BaseException) -> str:
        hidden = self._hidden + tuple(self._language.hidden)
        report = traceback.TracebackException(type(error), error, error.__traceback__, limit=-_INNERMOST)
        depth, frame = 0, error.__traceback__
        while frame is not None:
            depth, frame = depth + 1, frame.tb_next
        if depth > _INNERMOST:  # whoever recursed too deep wants to see where that began
            above = min(_OUTERMOST, depth - _INNERMOST)
            outer = traceback.TracebackException(type(error), error, error.__traceback__, limit=above)
            report.stack = traceback.StackSummary.from_list([*outer.stack, *report.stack])
        place = getattr(report, "filename", None)
        if isinstance(place, str) and place.startswith("<step ") and getattr(report, "text", "") is None:
            # The compiler knows the line of a misplaced `return` but looks for its text in a file.
            report.text = linecache.getline(place, int(report.lineno or 0))
        queue: List[Any] = [report]
        seen = set()
        while queue:
            item = queue.pop()
            if item is None or id(item) in seen:
                continue
            seen.add(id(item))
            # Modules in C add lines of their own, with the folder in which their builder compiled them: pyexpat does.
            frames = [f for f in item.stack if not f.filename.startswith(hidden) and not f.filename.endswith(".c")]
            while frames and item is report and not frames[0].filename.startswith(("<step ", "<module ")):
                frames.pop(0)  # the event loop that ran the step
            item.stack = traceback.StackSummary.from_list(frames)
            queue += [item.__cause__, item.__context__, *(getattr(item, "exceptions", None) or ())]
        text = "".join(report.format())
        return text if len(text) <= 50_000 else text[:25_000] + "\n[…]\n" + text[-25_000:]

    # -- displays --------------------------------------------------------------------------------------------------------

    def display(self, *values: Any) -> None:
        """Show values richly: figures, pictures, tables, anything with ``_repr_html_`` and its kind."""
        for value in values:
            if not self._show(value):
                self._send_display({"text/plain": wire.describe(value, 20_000)})

    def _show(self, value: Any, rich_only: bool = False) -> bool:
        data = _rich(value)
        if not data:
            return False
        self._send_display(data)
        return True

    def _send_display(self, data: Dict[str, Any]) -> None:
        kept = []
        for mime, body in data.items():
            raw = body.encode("utf-8", "backslashreplace") if isinstance(body, str) else bytes(body)
            if self._displays < _MAX_DISPLAYS and len(raw) <= self._display_left:
                self._display_left -= len(raw)
                kept.append((mime, raw))
            else:
                self._stdout.truncated = True
        if kept:
            self._displays += 1
            self.send({"t": "display", "m": [mime for mime, _ in kept]}, [raw for _, raw in kept])

    def _show_figures(self) -> None:
        pyplot = sys.modules["matplotlib.pyplot"]
        for number in pyplot.get_fignums():
            self._show(pyplot.figure(number))
        pyplot.close("all")

    def _unchanged(self) -> bool:
        """Whether a scan would find what the last one found. A folder's time changes with its entries, a file's with its content."""
        try:
            for path, mtime in self._folders.items():
                # Some file systems stamp time in ticks of milliseconds: a folder that changed just before the scan proves nothing.
                if os.stat(path).st_mtime_ns != mtime or mtime > self._scanned - 50_000_000:
                    return False
            for name, known in self._files.items():
                info = os.stat(os.path.join(self._root, name))
                if (info.st_size, info.st_mtime_ns) != known or known[1] > self._scanned - 50_000_000:
                    return False
        except OSError:
            return False
        return True

    def _scan(self) -> Dict[str, Tuple[int, int]]:
        """What every step looks at: not all, where there are very many."""
        self._folders = {}
        self._scanned = time.time_ns()
        return self._walk(_MAX_FILES, self._folders)

    def _walk(self, most: int, seen: Dict[str, int]) -> Dict[str, Tuple[int, int]]:
        """Regular files below the working directory, `most` at most: name to (size, mtime). `seen` gets the folders with their mtime."""
        found: Dict[str, Tuple[int, int]] = {}
        folders = [""]
        while folders and len(found) < most:
            folder = folders.pop()
            path = os.path.join(self._root, folder)
            try:
                seen[path] = os.stat(path).st_mtime_ns
                entries = os.scandir(path)
            except OSError:
                continue
            with entries:
                for entry in entries:
                    name = folder + entry.name
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            if len(folders) < most and entry.name != "__pycache__":
                                folders.append(name + "/")
                        elif entry.is_file(follow_symlinks=False):
                            info = entry.stat(follow_symlinks=False)
                            found[name] = (info.st_size, info.st_mtime_ns)
                    except OSError:
                        continue
                    if len(found) >= most:
                        break
        return found

    # -- tools -----------------------------------------------------------------------------------------------------------

    def _begin(self, name: str, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Tuple[int, _Slot]:
        header: Dict[str, Any] = {"t": "call", "tool": name, "a": args, "k": kwargs}
        blobs: Sequence[wire.Blob] = ()
        try:
            if kwargs or not all(map(wire.is_node, args)):
                encoder = wire.Encoder(self._limits["value"], strict=True)
                header["a"] = [encoder.encode(a) for a in args]
                header["k"] = {key: encoder.encode(value) for key, value in kwargs.items()}
                blobs = encoder.blobs
        except wire.NotPlain as error:
            raise TypeError("{}(): {}; pass plain data".format(name, error)) from None
        except wire.TooLarge as error:
            raise ValueError("{}(): the arguments are too large: {}".format(name, error)) from None
        slot = _Slot()
        with self._send_lock:  # of several threads that call at once, numbers must leave in order
            self._calls += 1
            number = header["id"] = self._calls
            self._pending[number] = slot
            self.send(header, blobs)
        return number, slot

    def call(self, name: str, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Call a host tool and wait for its value."""
        number, slot = self._begin(name, args, kwargs)
        try:
            while not slot.done:
                self._shield += 1
                try:
                    with self._read_lock:
                        if not slot.done:
                            self._receive()
                finally:
                    self._open_shield()
        finally:
            self._pending.pop(number, None)
        if slot.error is not None:
            raise slot.error
        return slot.value

    async def call_async(self, name: str, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Any:
        """Call a host tool; other tasks of the event loop run meanwhile."""
        import asyncio

        loop = asyncio.get_running_loop()
        future = loop.create_future()
        number, slot = self._begin(name, args, kwargs)

        def wake() -> None:
            if not future.done():
                future.set_result(None)

        slot.wake = wake
        watching = False
        try:
            # Interrupted in between, the loop would be taken for watched, and no answer come to later calls.
            self._shield += 1
            try:
                watching = True
                self._watched[loop] = self._watched.get(loop, 0) + 1
                if self._watched[loop] == 1:
                    self._channel.watch(loop, self._drain)
            finally:
                self._open_shield()
            await future
        finally:
            self._shield += 1
            try:
                self._pending.pop(number, None)
                if watching:
                    self._watched[loop] -= 1
                    if not self._watched[loop]:
                        del self._watched[loop]
                        self._channel.unwatch(loop)
            finally:
                self._open_shield()
        if slot.error is not None:
            raise slot.error
        return slot.value

    def _drain(self) -> None:
        self._shield += 1
        try:
            if self._pending:
                self._receive()
            while self._pending and self._channel.buffered():
                self._receive()
        finally:
            self._open_shield()

    def _receive(self) -> None:
        """Take one answer of the host and hand it to the call that waits for it."""
        header, blobs = self._channel.recv()
        if header["t"] == "net":
            self._network.feed(header, blobs)
            return
        number = header.get("id", 0)
        if number not in self._pending:
            return
        if header["t"] == "result":
            value = header.get("v")
            if not wire.is_node(value):
                value = wire.Decoder(blobs, array=_array, table=_table).decode(value)
            self._resolve(number, None, value)
        else:
            self._resolve(number, self._tool_error(str(header.get("type")), str(header.get("message"))))

    def _resolve(self, number: int, error: Optional[BaseException], value: Any = None) -> None:
        slot = self._pending.get(number)
        if slot is not None:
            slot.error, slot.value, slot.done = error, value, True
            if slot.wake is not None:
                slot.wake()

    def _tool_error(self, name: str, message: str) -> BaseException:
        if name == "KeyboardInterrupt":
            return KeyboardInterrupt()
        if self._exceptions is None:
            self._exceptions = _tool_exceptions()
        make = self._exceptions.get(name)
        return make(message) if make is not None else ToolError(name, message)


def _array(dtype: str, shape: Tuple[int, ...], data: bytes) -> Any:
    plain = wire.Array(dtype, shape, data)
    try:
        return plain.to_numpy()
    except ImportError:
        return plain


def _table(columns: Dict[str, Any], index: Optional[List[Any]]) -> Any:
    plain = wire.Table(columns, index)
    try:
        return plain.to_pandas()
    except ImportError:
        return plain


_MIMES = (
    ("_repr_html_", "text/html"),
    ("_repr_markdown_", "text/markdown"),
    ("_repr_svg_", "image/svg+xml"),
    ("_repr_png_", "image/png"),
    ("_repr_jpeg_", "image/jpeg"),
    ("_repr_latex_", "text/latex"),
    ("_repr_json_", "application/json"),
)


def _rich(value: Any) -> Dict[str, Any]:
    """The rich forms of `value`, by the protocol that notebooks use."""
    kind = type(value)
    if isinstance(value, type):
        return {}
    if kind.__module__ == "matplotlib.figure" and hasattr(value, "savefig"):
        stream = io.BytesIO()
        value.savefig(stream, format="png", bbox_inches="tight")
        return {"image/png": stream.getvalue()}
    data: Dict[str, Any] = {}
    for method, mime in _MIMES:
        function = getattr(kind, method, None)
        if function is None:
            continue
        try:
            body = function(value)
            if isinstance(body, tuple):
                body = body[0]
            if mime == "application/json" and not isinstance(body, str):
                import json

                body = json.dumps(body)
        except Exception:  # a display that fails is no display: the value itself still arrives
            continue
        if isinstance(body, (str, bytes)) and body:
            data[mime] = body
    return data


def _type_name(error: BaseException) -> str:
    kind = type(error)
    if issubclass(kind, Refused):  # shown as what user code would catch it as
        for base in kind.__mro__:
            if base.__module__ == "builtins" and base not in (Exception, BaseException, object):
                return base.__name__
        return "PolicyError"
    return str(type.__dict__["__name__"].__get__(kind))[:200]  # a metaclass may have a __name__ of its own


def _text(error: Any, length: int) -> str:
    try:
        text = str(error)
    except BaseException as trouble:
        return "<str() raised {}>".format(type(trouble).__name__)
    return text if len(text) <= length else text[: length - 1] + "…"


def _peak_memory() -> int:
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
