# mypy: ignore-errors
# It is written against the CPython inside the image, whose private names a checker on the host does not know.
"""Runs inside the sandbox: what needs a second process, a second thread, a network or OpenSSL says that there is none, and what to do instead.

Otherwise it is "Function not implemented", or an attribute that is missing.
"""

import errno
import hashlib
import os
import select
import socket
import subprocess

_PROGRAMS = "no program can be started in this sandbox; do it in Python"
_ALONE = "this sandbox is one process with one thread; call the function itself, or use asyncio"
_PIPE = "this sandbox is one process with one thread, and nobody at a pipe's other end; call the function itself, or use asyncio"
_ONE = "this sandbox is one process"
_NETWORK = "this sandbox reaches no host but those that Policy.network names; ask for what you need through a tool"
_COPY = "use shutil.copyfileobj or shutil.copyfile"
_KINDS = "files, directories and symbolic links are all that can be made in this sandbox"
_TERMINAL = "there is no terminal in this sandbox"
_ATTRIBUTES = "files have no extended attributes in this sandbox"

REFUSED = {
    **dict.fromkeys(("fork", "forkpty"), _ALONE),
    **dict.fromkeys(("execv", "execve"), _PROGRAMS),
    **dict.fromkeys(("pipe", "pipe2"), _PIPE),
}
"""Functions of `os` that exist and fail: their place is taken."""

ABSENT = {
    "os": {
        "link": "a file has one name in this sandbox; use shutil.copy or os.symlink",
        **dict.fromkeys(("sendfile", "copy_file_range", "splice"), _COPY),
        **dict.fromkeys(("mkfifo", "mknod"), _KINDS),
        **dict.fromkeys(("openpty", "login_tty"), _TERMINAL),
        **dict.fromkeys(("posix_spawn", "posix_spawnp"), _PROGRAMS),
        **dict.fromkeys(("eventfd", "timerfd_create", "pidfd_open", "setns", "unshare"), _ONE),
        "memfd_create": "use io.BytesIO or tempfile.TemporaryFile",
        **dict.fromkeys(("nice", "setpriority", "sched_setaffinity", "sched_setscheduler"), _ONE),
        **dict.fromkeys(("getxattr", "setxattr", "listxattr", "removexattr"), _ATTRIBUTES),
    },
    "hashlib": {"scrypt": "this sandbox's Python is without OpenSSL, which has it; use hashlib.pbkdf2_hmac"},
    "select": {"epoll": "there is nothing to wait for but the host; use asyncio"},
}
"""Names that are not there and stay so, since programs ask `hasattr` what to do: whoever reads one is told why."""


def complete():
    """Put it in place."""
    for name, text in REFUSED.items():
        if hasattr(os, name):
            _put(os, name, _refusal(name, text))
    for module in (os, hashlib, select):
        module.__getattr__ = _absent(module.__name__, ABSENT[module.__name__])
    for name in ("wait", "wait3", "wait4", "waitpid", "waitid"):
        if hasattr(os, name):
            _put(os, name, _no_children(name))
    subprocess.Popen.__init__ = _no_program
    _complete_sockets()


def _put(module, name, function):
    function.__name__ = function.__qualname__ = name
    function.__module__ = module.__name__
    setattr(module, name, function)


def _refusal(name, text):
    def refuse(*args, **options):
        raise OSError(errno.ENOSYS, text)

    refuse.__doc__ = f"Raise OSError: {text}."
    return refuse


def _no_children(name):
    def wait(*args, **options):
        raise ChildProcessError(errno.ECHILD, os.strerror(errno.ECHILD))

    wait.__doc__ = "Raise ChildProcessError: there never is a child process."
    return wait


def _absent(module, hints):
    def __getattr__(name):
        text = f"module {module!r} has no attribute {name!r}"
        hint = hints.get(name) if type(name) is str else None
        raise AttributeError(f"{text}: {hint}" if hint else text, name=name)

    return __getattr__


def _no_program(self, args, *rest, **options):
    """Raise OSError: no program can be started."""
    raise OSError(errno.ENOTSUP, _PROGRAMS)


def _complete_sockets():
    """`safeexec_inside_wasm` puts classes and functions of its own over these when the policy permits a network."""
    make = socket.socket.__init__

    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        try:
            make(self, family, type, proto, fileno)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            raise OSError(errno.ENOSYS, _NETWORK) from None

    socket.socket.__init__ = __init__
    _put(socket, "socketpair", _refusal("socketpair", _PIPE))
    for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
        _put(socket, name, _looked_up(getattr(socket, name)))


def _looked_up(original):
    def look_up(*args, **options):
        try:
            return original(*args, **options)
        except socket.gaierror as error:
            if error.errno != socket.EAI_NONAME:
                raise
            raise socket.gaierror(error.errno, _NETWORK) from None

    look_up.__doc__ = original.__doc__
    return look_up


async def create_server(original, args, options):
    """`create_server` of an event loop; asyncio takes a socket that cannot be made for one of a family that is not there."""
    try:
        return await original(*args, **options)
    except OSError as error:
        if error.errno is not None:
            raise
        raise OSError(errno.ENOSYS, _NETWORK) from None
