"""The host's handle of one session in a worker process, and of its way to another when that dies."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

from safeexec import watchdog
from safeexec.backend import GuestDied, OnFrame
from safeexec.errors import BackendUnavailable, PolicyError, SnapshotError
from safeexec.policy import Policy
from safeexec.wire import Frame

from .first import First
from .kept import NOT_YET, Keeper, Kept, Wish
from .process import Line, WorkerProcess, no_room
from .reserve import reserve
from .worker_channel import KEEP_WORD, WorkerChannel, death_of

T = TypeVar("T")
_LARGE = 4 << 20
"""Bytes of a session beyond the image's own from which a checkpoint is begun at once."""
_MOVES = 8
"""Deaths of workers that a session survives, of which it may have caused one: if its code ran at the second one it is closed."""


class WorkerGuest(WorkerChannel):
    """One session in a worker."""

    def __init__(
        self,
        line: Line,
        policy: Policy,
        worker: WorkerProcess,
        forget: Callable[[WorkerGuest], None],
        greet: bool = False,
        once: bool = False,
    ) -> None:
        """`greet`: it is a fresh one; `once`: it ends with the first step."""
        super().__init__(line, policy, worker, greet)
        self._forget = forget
        self.elsewhere: Callable[[Policy, bytes], WorkerGuest] | None = None
        """Makes branches where every session has a worker of its own."""
        self.keeper: Keeper | None = None
        """Keeps its state for when its worker dies; None: it dies with it."""
        self.unkept = NOT_YET
        """Why no state of it is kept, if none is."""
        self._moves = 0
        self._blamed = False
        """A worker died while this session ran in it."""
        self._first = First(policy)
        self._first_kept = self._first.held
        self._once = once
        self._remembered = False
        """The worker keeps, or will keep, a checkpoint of this session."""
        self._large = False
        self._state = threading.Lock()
        self._busy = False
        """The worker may be running code of this session."""
        self._requests = 0
        self._heard = False
        """A frame of the running request has come."""
        self._missed = False
        """It was to be kept while a request ran."""
        self._untouched = False
        """It rests, and the worker never had anything to do for it."""
        self._is_kept = False
        self._closed = False

    @classmethod
    def start(
        cls, worker: WorkerProcess, policy: Policy, forget: Callable[[WorkerGuest], None], once: bool = False
    ) -> WorkerGuest:
        """A fresh session. Raises OSError if the worker is gone."""
        return cls(worker.fresh(), policy, worker, forget, greet=True, once=once)

    @classmethod
    def restore(
        cls, worker: WorkerProcess, policy: Policy, forget: Callable[[WorkerGuest], None], state: bytes
    ) -> WorkerGuest:
        """A session in the state of a snapshot. Raises OSError if the worker is gone, SnapshotError."""
        guest = cls(worker.line(policy, "written", size=len(state)), policy, worker, forget)
        try:
            guest.begin(state)
        except GuestDied as death:
            guest.close()
            if not worker.alive:
                raise OSError(death.message) from None
            raise SnapshotError(death.message) from None
        return guest

    def exchange(self, frame: Frame, on_frame: OnFrame) -> None:
        header, blobs = frame
        answer = self._first.answers(header)
        if answer is not None and not self._killed:
            on_frame((answer, ()))
            return

        def checked(answer: Frame) -> bool:
            self._heard = True
            header = answer[0]
            if header.get("t") == "died":
                raise death_of(header)
            if header.get("t") == "done":
                used = header.get("rss")  # the worker's word
                self._large = type(used) is int and used > _LARGE
            return on_frame(answer)

        with self._state:
            if self._killed:
                raise self.death()
            self._busy = True
            self._requests += 1
            self._heard = False
        self._last = self._once and header.get("t") == "run"
        self.worker.works(self)
        self.worker.served += 1
        while True:
            try:
                super().exchange((self._first.completes(header), blobs), checked)
                break
            except GuestDied as death:
                # The kernel says so if the worker never read the request: then none of its code has run.
                if self._heard or not isinstance(death.__cause__, BrokenPipeError | ConnectionResetError):
                    raise
                self._move(ran=False)
        self._busy = False  # not after an exception: then nobody knows what the worker is doing
        self.worker.rests(self)
        if self._missed:
            self._missed = False
            self._want()

    def interrupt(self) -> None:
        self._order("interrupt")

    def kill(self) -> None:
        with self._state:
            if self._killed:
                return
            self._killed = True
            busy = self._busy
        if busy:  # else it waits for a request, and learns from the hang-up that none will come
            self._order("kill")
        self.hang_up()

    # The past. The worker does the work; what it is told by a frame of one byte needs no answer unless something depends on it.

    def checkpoint(self) -> None:
        self._first_kept = self._first.held
        self._remembered = True
        self._untouched = bool(self._greeting)
        self.unkept = NOT_YET
        if self._is_kept:
            self._is_kept = False
            if self.keeper is not None:
                self.keeper.forget(self)
        # The word travels with the next request: a message of its own would wake the worker twice. If none comes soon it is sent alone, and
        # the worker takes the checkpoint while nobody waits; at once, where that takes longer than a message.
        self._wanted = True
        if self._greeting:
            return  # there is nothing yet that differs from the image
        if self._large:
            self._keep_now(0.0)
        else:
            watchdog.watch(id(self), self._keep_now)

    def _keep_now(self, _now: float) -> None:
        watchdog.unwatch(id(self))
        self._want()
        # Not waiting for the lock: an answer of a tool may be on its way that the guest never reads, and all clocks of this process would wait with it. The
        # word travels with the next request then.
        if not self._send_lock.acquire(blocking=False):
            return
        try:
            if not self._wanted or self._killed or self._socket is None:
                return
            if self._socket.send(KEEP_WORD, socket.MSG_DONTWAIT) == len(KEEP_WORD):
                self._wanted = False
        except OSError:
            pass  # it is gone: the next request finds that out, and the checkpoint before is still good
        finally:
            self._send_lock.release()

    def rollback(self) -> None:
        if self._closed:
            raise GuestDied("crash", "the guest was closed")
        self.hang_up()
        old = self.number
        try:
            line = self._line_back(old)
        except OSError:
            self._move(ran=True)
            return
        self._change(line)
        try:
            self.begin()
        except GuestDied:
            if self.worker.alive:
                raise
            self._move(ran=True)
            return
        finally:
            self._order("drop", old)
        if not self._is_kept:
            self._want()

    def _line_back(self, old: int) -> Line:
        try:
            return self.worker.line(self._policy, "back", old)
        except OSError as error:
            if error.errno != errno.EMFILE:
                raise
        with reserve.lent():
            return self.worker.line(self._policy, "back", old)

    # The worker's death

    def _want(self) -> None:
        if self.keeper is not None and not self._killed and not self._untouched:
            self.keeper.want(self)

    def wish(self) -> Wish | None:
        """What the keeper needs to ask for its state; None if this is not the time. From any thread."""
        with self._state:
            if self._killed or self._closed or self._greeting:
                return None
            self._missed = True  # before looking: the end of a request looks at it last
            if self._busy:
                return None
            self._missed = False
            return Wish(self.number, self._requests, self._first.held)

    @property
    def at_rest(self) -> bool:
        """Whether all its requests are answered, so that no code of it has anything to do."""
        return not (self._busy or self._killed or self._closed)

    def keep(self, wish: Wish, state: bytes) -> None:
        """Have a state kept, if it is still the one it is in. From any thread."""
        with self._state:
            same = not self._busy and not self._killed and (self._requests, self.number) == (wish.requests, wish.number)
            if same and self.keeper is not None:
                self._is_kept = True
                self.keeper.put(self, Kept(state, wish.held))

    def _touched(self) -> None:
        """Something was made of the state that the worker drew for it: a fresh one would have other random numbers."""
        if self._untouched:
            self._untouched = False
            self._want()

    def _move(self, ran: bool) -> None:
        """Go on in another worker, in the state that was kept; `ran`: code of it may have run when its own one died. Raises GuestDied."""
        if self._killed and not ran:
            raise self.death()
        why = self.worker.why()
        keeper = self.keeper
        if keeper is None or self.worker.alive:
            raise GuestDied("crash", why) from None
        kept = Kept(None, self._first_kept) if self._untouched else keeper.get(self)
        if kept is None:
            trouble = self.unkept
        elif self._moves >= _MOVES or (ran and self._blamed):
            # It may be what kills them: without an end to it, one session could end the steps of all others for ever.
            trouble = "it is not restored again: too many workers died with it"
        else:
            self._moves += 1
            self._blamed = self._blamed or ran
            try:
                self._become(keeper.start(self._policy, kept.state), kept, ran)
                return
            except (BackendUnavailable, PolicyError, SnapshotError) as error:
                trouble = f"it could not be restored: {error}"
        keeper.forget(self)
        self._untouched = False
        self.unkept = trouble
        raise GuestDied("crash", f"{why}; {trouble}") from None

    def _become(self, twin: WorkerGuest, kept: Kept, ran: bool) -> None:
        assert twin._socket is not None
        with self._state:
            # A failed step is undone after it was killed, and lives again; a request that is killed while it waits for a worker does not.
            wanted = ran or not self._killed
            if wanted:
                self._first_kept = kept.held
                busy = self._busy and not ran
                twin.worker.sessions.add(self)
                self.worker.sessions.discard(self)
                twin.worker.sessions.discard(twin)
                self.worker = twin.worker
                self._change(Line(twin.number, twin._socket))
                with self._send_lock:
                    # It is a checkpoint as well: the next request may have to be undone.
                    self._greeting, self._wanted = twin._greeting, True
                self._remembered = True
                self._busy = busy
                twin._socket, twin._closed = None, True
        if not wanted:
            twin.close()
            raise self.death()

    def _change(self, line: Line) -> None:
        assert self._socket is not None
        with self._send_lock:
            self._socket.close()
            self.number, self._socket = line
            self._socket.setblocking(True)
            self._reader = self._reader.of(self._socket.recv_into)
            self._greeting, self._wanted = b"", False
            self._first.held = self._first_kept
            self._killed = self._busy = False

    def fork(self) -> WorkerGuest:
        if self.elsewhere is not None:
            return self.elsewhere(self._policy, self.snapshot()[1])
        return self._ask(self._branch)

    def _ask(self, work: Callable[[], T]) -> T:
        """Something that the worker does for the session without running its code. Where that is at rest it goes on elsewhere if the worker is gone."""
        self._touched()
        if self.keeper is None or self._killed:
            return work()
        if self.worker.alive:
            try:
                return work()
            except (BackendUnavailable, GuestDied):
                if self.worker.alive:
                    raise
                self._move(ran=True)
        else:
            self._move(ran=False)
        return work()

    def _branch(self) -> WorkerGuest:
        if self._greeting:
            self.begin()
        try:
            branch = self._begun(WorkerGuest(self.worker.line(self._policy, "branch", self.number), *self._kin()))
            branch._first.held = self._first.held
            return branch
        except OSError as error:
            if self.worker.alive:  # no descriptor is left, say: this session goes on
                raise BackendUnavailable(f"the session could not be forked: {no_room('branch', error)}") from error
            raise self.death() from None

    def _kin(self) -> tuple[Policy, WorkerProcess, Callable[[WorkerGuest], None]]:
        return self._policy, self.worker, self._forget

    def _begun(self, branch: WorkerGuest) -> WorkerGuest:
        try:
            branch.begin()
        except BaseException as error:
            branch.close()
            if isinstance(error, GuestDied):
                raise BackendUnavailable(f"the session could not be forked: {error.message}") from None
            raise
        branch.keeper, branch._moves, branch._blamed = self.keeper, self._moves, self._blamed
        self.worker.sessions.add(branch)
        return branch

    def snapshot(self) -> tuple[str, bytes]:
        return self._ask(self._write_down)

    def _write_down(self) -> tuple[str, bytes]:
        if self._first.held is not None:  # the guest has to know it to have it written down: any request takes it along
            self.exchange(({"t": "names", "id": 0}, ()), lambda frame: frame[0].get("t") == "done")
        return self.worker.engine, self._read_state()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            watchdog.unwatch(id(self))
            self.worker.ends(self)
            # Before it hears that the session is over, and keeps a checkpoint for nobody.
            if self._remembered and not self._busy:
                self._order("drop")
                self._remembered = False
            self.kill()
            if self.keeper is not None:
                self.keeper.forget(self)  # not before: nothing is kept of a session that was killed
            if self._remembered:
                self._order("drop")
            super().close()
            self._forget(self)
            if not self._busy:
                self.worker.prepare()
