"""What makes an instance what it is between two requests, kept, put back, doubled.

Then no guest code is on any stack, so its state is its linear memory, one global (the stack pointer, checked to be where it always rests), the
file system the host keeps for it, and nothing else: clocks and randomness are the host's, frames are all delivered. Putting a state back means
a fresh instance with those pages: after a trap the old one is of no use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypeVar
from weakref import WeakSet

from . import abi, fs_copy
from .fs import FileSystem
from .host import Host
from .pages import PAGE, Frozen, Run, Shadow, compared, finder, shadows, total, united

Known = dict[str, tuple[int, int]]
H = TypeVar("H", bound=Host)


class Unsettled(Exception):
    """The instance is in a state that cannot be kept."""


class State(NamedTuple):
    """Everything of an instance but the content of its pages."""

    size: int
    """Bytes of linear memory."""
    base: Frozen | None
    """Pages shared with other branches; `runs` come on top."""
    runs: Sequence[Run]
    files: FileSystem
    clocks: Mapping[int, Callable[[], int]]
    known: Known
    """Of the reporting of changed files: what was reported last."""
    changes: int


class Rest(NamedTuple):
    """What every instance of an image looks like between two requests."""

    stack: int
    """The stack pointer."""
    table: int
    """Entries of the function table."""
    pristine: Callable[[], memoryview]
    """The memory of an instance that never ran; asked for only where the kernel does not tell which pages were written."""

    @classmethod
    def of(cls, host: Host, pristine: Callable[[], memoryview]) -> Rest:
        """Read it off a fresh instance."""
        return cls(host.instance.global_value(_STACK), host.instance.table_size(_TABLE), pristine)


_STACK, _TABLE = "__stack_pointer", "__indirect_function_table"


def settled(host: Host, rest: Rest) -> None:
    """Raise Unsettled unless the instance rests as an instance does between two requests."""
    if host.parts or host.inbox:
        raise Unsettled("a frame is under way")
    if host.instance.global_value(_STACK) != rest.stack:
        raise Unsettled("its stack is not where it rests")
    if host.instance.table_size(_TABLE) != rest.table:
        raise Unsettled("it has loaded functions")


def written(host: Host, rest: Rest) -> list[Run]:
    """The pages of an instance that are neither the image's nor its base's."""
    host.memory.refresh()
    if finder.ready():
        return host.instance.written.find(host.memory.address(), host.memory.size)
    return compared(host.memory.view, rest.pristine())


def take(host: Host, rest: Rest, shadow: Shadow, known: Known, changes: int, last: FileSystem | None = None) -> State:
    """Keep the state of an instance, its pages in `shadow`; `last` is the file system kept before. Raises Unsettled, OSError."""
    settled(host, rest)
    runs = written(host, rest)
    shadow.keep(host.memory.view, runs)
    return State(host.memory.size, host.base, runs, fs_copy.copy(host.files, last), host.clocks, known, changes)


def freeze(host: Host, rest: Rest, known: Known, changes: int) -> State:
    """Keep the state of an instance in pages that branches map. Raises Unsettled, OSError."""
    settled(host, rest)
    runs = written(host, rest)
    base = host.base
    if runs or base is None:
        base = Frozen(host.memory.view, runs if base is None else united(runs, base.runs))
    return State(host.memory.size, base, (), fs_copy.copy(host.files), host.clocks, known, changes)


class Source(Protocol):
    """Where the content of a state's pages is."""

    def put(self, memory: memoryview, runs: Sequence[Run]) -> None:
        """Copy it to their places in `memory`."""


class Living:
    """The memory of an instance at rest, to be copied right away."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory

    def put(self, memory: memoryview, runs: Sequence[Run]) -> None:
        """Copy runs of it."""
        for start, end in runs:
            memory[start:end] = self._memory[start:end]


def revive(make: Callable[[], H], state: State, source: Source | None) -> H:
    """A fresh instance in that state; `state` can be used again. Raises EngineError when there is no room."""
    host = make()
    host.instance.written.forget()
    try:
        fit(host, state.size)
        if state.base is not None:
            state.base.map_over(host.memory.address(), host.memory.size)
        if source is not None:
            source.put(host.memory.view, state.runs)
    except OSError as error:
        host.close()
        raise abi.EngineError(f"its pages could not be mapped: {error}") from error
    except BaseException:
        host.close()
        raise
    host.base = state.base
    host.files = fs_copy.copy(state.files)
    host.clocks = state.clocks
    return host


def fit(host: Host, size: int) -> None:
    """Grow a fresh instance's memory to `size` bytes. Raises EngineError."""
    missing = size - host.memory.size
    if missing < 0 or missing % abi.PAGE:
        raise abi.EngineError("a memory of a size that none has")
    if missing and not host.memory.grow(missing // abi.PAGE):
        raise abi.EngineError("its memory could not be made as large as it was")


class Past:
    """The last checkpoint of one session, and the frozen state that its branches share.

    A checkpoint is asked for when a request is over, and taken when the next one comes, so that a session that waits holds no second copy of its
    pages: that takes less time than a message to this process. Only one that has much to copy is taken while nobody waits.
    """

    def __init__(self, rest: Rest, unused: bool = False) -> None:
        """`unused`: the instance is as every fresh one is."""
        self.rest = rest
        self.wanted = False
        """A checkpoint was asked for and not yet taken."""
        self._unused = unused
        self._fresh = False
        """The checkpoint is a fresh instance."""
        self._shadow: Shadow | None = None
        self._state: State | None = None
        self._files: FileSystem | None = None
        """Of the last checkpoint: what has not changed since is not copied again."""
        self._trouble = "no checkpoint was taken"
        self._frozen: State | None = None
        self._branched = False
        """There is a branch of the instance's present state."""
        self._repeated = 0.0
        """Bytes that were copied although they were what had been copied before, since such were last put aside."""
        self._price = 1
        """How many times as much they have to be as what is to be put aside; more where that was written to again soon."""
        self._judged = True
        """Whether it was."""

    def want(self) -> None:
        """The state as it is now is to be kept; what was kept is of no use any more."""
        self.wanted = True
        if not self.large():
            self._release()

    def large(self) -> bool:
        """Whether the last checkpoint took so long to copy that the next one is better taken at once."""
        return self._state is not None and (total(self._state.runs) > _QUICK or self._state.files.inodes > _FEW_FILES)

    def keep(self, host: Host, known: Known, changes: int) -> None:
        """Take the checkpoint. Raises nothing: what failed is told when it is wanted back."""
        self.wanted = False
        self._fresh = self._unused
        if self._fresh:
            self._release()
            return
        try:
            # If this is cut short the old state is gone as well: its pages are being written over.
            last, self._state = self._state, None
            if self._shadow is None:
                self._shadow = shadows.take()
            elif last is not None and total(last.runs) > _QUICK:
                self._put_aside(host, self._shadow)
            self._state = take(host, self.rest, self._shadow, known, changes, self._files)
            self._files = self._state.files
        except (Unsettled, OSError, abi.EngineError) as error:
            self._trouble = str(error)

    def _put_aside(self, host: Host, shadow: Shadow) -> None:
        """Large data that stays as it is would be copied with every checkpoint: once as much was copied in vain, have the memory map it from a file,
        of which it is no part until it is written to again. Raises Unsettled, OSError."""
        if not finder.ready():
            return  # all that differs from the image would count as written again; and to look is the cost, not to copy
        settled(host, self.rest)
        runs = written(host, self.rest)
        before: Sequence[Run] = () if host.base is None else host.base.runs
        if not self._judged and 4 * (total(runs) + total(before) - total(united(runs, before))) > total(before):
            self._price, self._judged = 2 * self._price, True
        alike = shadow.alike(host.memory.view)
        if alike < _ALIKE:
            return
        self._repeated += alike * total(runs)
        base = lasting(united([run for run in runs if run[1] - run[0] >= _LARGE], before))
        if self._repeated < self._price * total(base) or len(_put) >= _MOST_PUT:
            return
        self._repeated, self._judged = 0.0, False
        try:
            frozen = Frozen(host.memory.view, base)
            _put.add(frozen)
            # In this order: what could not be mapped is still the instance's own, and found as such.
            host.base = frozen
            host.instance.written.forget()
            frozen.map_over(host.memory.address(), host.memory.size)
        except OSError:
            pass  # no descriptor, no room, too many mappings: it is copied as before

    def back(self, make: Callable[[], H]) -> tuple[H, State]:
        """An instance as at the checkpoint. Raises EngineError."""
        if self._fresh:
            host = make()
            self._unused = True
            return host, State(host.memory.size, None, (), host.files, host.clocks, {}, host.files.changes)
        if self._state is None:
            raise abi.EngineError(self._trouble)
        return revive(make, self._state, self._shadow), self._state

    def branch(self, host: Host, known: Known, changes: int) -> tuple[State, Source | None]:
        """The state of the instance now, for one branch, to be used at once. Raises Unsettled, OSError.

        The first branch gets a copy of the pages, which is quicker; all others share one that is frozen.
        """
        if not self._branched:
            self._branched = True
            settled(host, self.rest)
            runs = written(host, self.rest)
            state = State(host.memory.size, host.base, runs, fs_copy.copy(host.files), host.clocks, known, changes)
            return state, Living(host.memory.view)
        if self._frozen is None:
            self._frozen = freeze(host, self.rest, known, changes)
        base = self._frozen.base
        if base is not None and base.popular():
            self._frozen = self._frozen._replace(base=base.compact(host.memory.view))
        return self._frozen, None

    def moves(self, host: Host, known: Known, changes: int) -> None:
        """The instance is about to run."""
        if self.wanted:
            self.keep(host, known, changes)
        self._frozen = None
        self._unused = self._branched = False

    def _release(self) -> None:
        self._state = None
        shadow, self._shadow = self._shadow, None
        if shadow is not None:
            shadows.give(shadow)

    def close(self) -> None:
        """Free it."""
        self._release()
        self._frozen = self._files = None
        self._fresh = self.wanted = False
        self._trouble = "the session is closed"


def lasting(runs: Sequence[Run]) -> list[Run]:
    """The same but for the first page, to which interrupts write at any time: one that came between its copy and its mapping would be lost."""
    return [(max(start, PAGE), end) for start, end in runs if end > PAGE]


_put: Final[WeakSet[Frozen]] = WeakSet()
_MOST_PUT: Final = 256
"""Sessions of a process that may have data put aside: each has a descriptor, and mappings, of which a process has 65,530."""
_LARGE: Final = 1 << 18
"""Bytes of a run that is worth a mapping."""
_ALIKE: Final = 0.75
"""Data of which less stays as it is would be put aside again and again: a page that is written to after that costs as much as two that are copied."""
_QUICK: Final = 4 << 20
"""Bytes that are copied in less than a millisecond."""
_FEW_FILES: Final = 500
