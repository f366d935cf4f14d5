"""Each remaining wall alone, in a child process."""

from __future__ import annotations

import errno
import os
import resource
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from safeexec_backends._hardening import descriptors, folders, landlock, libc, mounts, namespaces, privileges, rlimits
from tests.hardening.child import in_child

linux = pytest.mark.skipif(sys.platform != "linux", reason="n/a: Linux only")
with_landlock = pytest.mark.skipif(bool(landlock.probe()), reason="no Landlock here")
as_root = pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="needs root")


def outcome(call: Any, *arguments: Any) -> Any:
    try:
        call(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "done"


@linux
def test_a_failed_call_names_itself() -> None:
    with pytest.raises(OSError, match="close_range") as caught:
        libc.syscall("close_range", 10, 5, 0)
    assert caught.value.errno == errno.EINVAL
    with pytest.raises(OSError, match="no such system call"):
        libc.syscall("does_not_exist")


@with_landlock
def test_landlock_leaves_only_what_was_given(tmp_path: Path) -> None:
    for name in ("read", "write", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("x")

    def attempt() -> list[Any]:
        privileges.no_new_privileges()
        landlock.apply([str(tmp_path / "read")], [str(tmp_path / "write"), os.devnull])
        return [
            outcome(open, tmp_path / "read" / "file"),
            outcome(open, tmp_path / "read" / "file", "w"),
            outcome(os.unlink, tmp_path / "read" / "file"),
            outcome(open, tmp_path / "write" / "file", "w"),
            outcome(os.mkdir, tmp_path / "write" / "new"),
            outcome(open, tmp_path / "other" / "file"),
            outcome(os.link, tmp_path / "read" / "file", tmp_path / "write" / "linked"),
            outcome(os.rename, tmp_path / "write" / "file", tmp_path / "other" / "moved"),
            outcome(os.symlink, tmp_path / "other" / "file", tmp_path / "write" / "link"),
            outcome(open, tmp_path / "write" / "link"),
            outcome(os.listdir, "/"),
            outcome(open, os.devnull, "w"),
            outcome(os.mknod, tmp_path / "write" / "null", 0o20666, os.makedev(1, 3)),
            outcome(os.execv, "/bin/true", ["true"]),
        ]

    answers = in_child(attempt)
    assert answers[:6] == ["done", "EACCES", "EACCES", "done", "done", "EACCES"]
    assert answers[6] != "done" and answers[7] != "done"
    assert answers[8:12] == ["done", "EACCES", "EACCES", "done"]
    assert answers[12] in ("EACCES", "EPERM") and answers[13] == "EACCES"


@pytest.mark.skipif(landlock.abi() < 4, reason="Landlock guards TCP from ABI 4 on")
def test_landlock_refuses_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def attempt() -> list[Any]:
            privileges.no_new_privileges()
            landlock.apply([], [])
            with socket.socket() as one, socket.socket() as two:
                return [outcome(one.connect, ("127.0.0.1", port)), outcome(two.bind, ("127.0.0.1", 0))]

        assert in_child(attempt) == ["EACCES", "EACCES"]


@linux
def test_capabilities_are_gone_for_good() -> None:
    def attempt() -> list[Any]:
        privileges.drop_capabilities()
        privileges.no_new_privileges()
        privileges.undumpable()
        fd = os.open("/proc/self/status", os.O_RDONLY)
        fields = privileges.status(fd)
        return [
            privileges.holds_no_capability(fields),
            int(fields["CapBnd"], 16) if os.getuid() == 0 else 0,
            privileges.has_no_new_privileges(),
            privileges.is_undumpable(),
            outcome(os.chown, "/", 1, 1),
            outcome(libc.syscall, "mount", b"x", b"/tmp", b"tmpfs", 0, None),
        ]

    assert in_child(attempt) == [True, 0, True, True, "EPERM", "EPERM"]


def test_an_empty_bounding_set_or_no_new_privs_is_needed() -> None:
    empty = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapAmb"), "0" * 16)
    assert privileges.holds_no_capability({**empty, "CapBnd": "ff", "NoNewPrivs": "1"})
    assert not privileges.holds_no_capability({**empty, "CapBnd": "ff", "NoNewPrivs": "0"})
    assert not privileges.holds_no_capability({**empty, "CapEff": "1", "CapBnd": "0", "NoNewPrivs": "1"})
    assert not privileges.holds_no_capability({})


@linux
@as_root
def test_a_change_of_identity_cannot_be_taken_back() -> None:
    def attempt() -> list[Any]:
        proc = os.open("/proc", os.O_PATH)
        uid = privileges.spare_uid(proc)
        privileges.become(uid, uid)
        return [
            uid,
            os.getresuid() == (uid, uid, uid),
            os.getgroups(),
            outcome(os.setuid, 0),
            outcome(open, "/etc/shadow"),
        ]

    uid, changed, groups, back, shadow = in_child(attempt)
    assert uid >= 65533 and changed and groups == [] and back == "EPERM" and shadow == "EACCES"
    assert in_child(attempt)[0] != uid  # not shared with another executor


@linux
def test_death_of_the_parent_is_noticed() -> None:
    def attempt() -> list[bool]:
        before = privileges.dies_with_parent()
        privileges.die_with_parent()
        return [before, privileges.dies_with_parent()]

    assert in_child(attempt) == [False, True]


def test_descriptors_are_moved_and_the_rest_is_closed() -> None:
    def attempt() -> list[Any]:
        first, second = os.pipe()
        os.write(second, b"kept")
        extra = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
        os.dup2(extra[0], 200)
        # In an order in which naive copying would overwrite: the first target is the second source.
        os.dup2(second, 3)
        if first != 4:
            os.dup2(first, 4)
        read_back: list[Any] = []
        write = int(os.environ["WALLS_WRITE"])
        descriptors.keep([4, 3, write])
        read_back.append(os.read(3, 10).decode())
        os.write(4, b"again")
        read_back.append(os.read(3, 10).decode())
        open_ones = []
        for fd in range(256):
            try:
                os.fstat(fd)
                open_ones.append(fd)
            except OSError:
                pass
        answer = [read_back, open_ones, [os.fstat(fd).st_rdev == os.stat(os.devnull).st_rdev for fd in (0, 1, 2)]]
        import json

        os.write(5, json.dumps(answer).encode())
        os._exit(0)

    import json

    read, write = os.pipe()
    os.environ["WALLS_WRITE"] = str(write)
    try:
        pid = os.fork()
        if pid == 0:
            try:
                attempt()
            finally:
                os._exit(1)
    finally:
        del os.environ["WALLS_WRITE"]
    os.close(write)
    with open(read) as pipe:
        answer = json.loads(pipe.read())
    assert os.waitpid(pid, 0)[1] == 0
    assert answer == [["kept", "again"], [0, 1, 2, 3, 4, 5], [True, True, True]]


def test_limits_hold_and_are_verified() -> None:
    def attempt() -> list[Any]:
        wanted = rlimits.plan(file_size=4096, open_files=64)
        before = rlimits.standing(wanted)
        rlimits.apply(wanted)
        held = rlimits.standing(wanted)
        files = []
        full = ""
        try:
            for _ in range(100):
                files.append(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            full = errno.errorcode[error.errno or 0]
        for fd in files:
            os.close(fd)
        return [bool(before), held, resource.getrlimit(resource.RLIMIT_CORE), full]

    assert in_child(attempt) == [True, "", [0, 0], "EMFILE"]
    assert rlimits.plan() == {
        k: v for k, v in rlimits.plan().items() if k not in ("RLIMIT_AS", "RLIMIT_NPROC", "RLIMIT_FSIZE")
    }


@linux
@as_root
def test_a_private_root_holds_only_what_was_put_there(tmp_path: Path) -> None:
    shown, hidden = tmp_path / "shown", tmp_path / "hidden"
    for folder in (shown, hidden):
        folder.mkdir()
        (folder / "file").write_text(folder.name)
    (tmp_path / "link").symlink_to("shown")
    (shown / "out").symlink_to(hidden / "file")

    def attempt() -> list[Any]:
        libc.syscall("unshare", namespaces.FLAGS["mount_namespace"])
        covered = mounts.private_root([str(tmp_path / "link"), "/does/not/exist"])
        before = sorted(os.listdir("/"))
        mounts.storage(2**20, covered)
        big = outcome(Path("/sandbox/big").write_bytes, bytes(2**21))
        return [
            sorted(covered) == [(str(tmp_path / "link"), "shown"), (str(shown), None)],
            before,
            (tmp_path / "link" / "file").read_text(),
            outcome((shown / "file").write_text, "changed"),
            outcome(open, shown / "out"),
            outcome(os.listdir, hidden),
            outcome(os.mkdir, "/new"),
            outcome(open, "/dev/null", "w"),
            big,
            outcome(open, "/tmp/x", "w"),
            sorted(os.listdir("/sandbox")),
        ]

    first_part = tmp_path.parts[1]
    answer = in_child(attempt)
    assert answer[0] is True or first_part != "tmp"
    assert set(answer[1]) <= {"dev", "sandbox", "tmp", first_part}
    assert answer[2:9] == ["shown", "EROFS", "ENOENT", "ENOENT", "EROFS", "done", "ENOSPC"]
    # The quota is shared: the other folder is full, too, but for an empty file.
    assert answer[9] == "done" and answer[10] == ["big"]
    assert (shown / "file").read_text() == "shown"


def test_links_on_the_way_are_followed_and_remembered(tmp_path: Path) -> None:
    real = Path(os.path.realpath(tmp_path))
    (real / "a" / "b").mkdir(parents=True)
    (real / "one").symlink_to("a")
    (real / "two").symlink_to(real / "one" / "b")
    assert mounts.follow(str(real / "two")) == (
        [(str(real / "two"), str(real / "one" / "b")), (str(real / "one"), "a")],
        str(real / "a" / "b"),
    )
    (real / "loop").symlink_to("loop")
    links, _ = mounts.follow(str(real / "loop"))
    assert len(links) == 40


def test_paths_below_others_are_left_out() -> None:
    assert mounts.outermost(["/usr/lib/x", "/usr/lib", "/usr/lib64", "/usr/lib"]) == ["/usr/lib", "/usr/lib64"]
    assert mounts.within("/a/b", "/a") and mounts.within("/a", "/") and not mounts.within("/ab", "/a")


def test_a_hostile_folder_is_removed_whole(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    tree = tmp_path / "tree"
    tree.mkdir()
    here = os.open(tree, os.O_RDONLY)
    first = here
    for _ in range(1500):  # deeper than any recursion, longer than any path
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        if here != first:
            os.close(here)
        here = deeper
    os.close(here)
    os.close(first)
    (tree / "link").symlink_to(outside)
    (tree / "dangling").symlink_to("/nowhere")
    (tree / "closed").mkdir()
    (tree / "closed" / "inner").mkdir()
    (tree / "closed" / "inner" / "file").write_text("x")
    os.chmod(tree / "closed" / "inner", 0)
    os.chmod(tree / "closed", 0)
    os.mkfifo(tree / "pipe")
    (tree / "-rf \n\x1b[0m").write_text("x")
    folders.remove_tree(str(tree))
    assert not tree.exists()
    assert (outside / "precious").read_text() == "x"
    folders.remove_tree(str(tree))  # gone already


def test_namespaces_are_compared_by_identity() -> None:
    assert namespaces.differing({"a": "1", "b": "2", "c": "3"}, {"a": "1", "b": "9"}) == {"b"}
    assert namespaces.flags(["user_namespace", "network_namespace"]) == 0x50000000


@linux
def test_a_clone_knows_itself() -> None:
    import signal
    import threading

    read, write = os.pipe()
    pid, pidfd = namespaces.clone(0)
    if pid == 0:
        try:
            ok = os.getpid() == libc.syscall("getpid") and threading.get_native_id() == os.getpid()
            lock = threading.RLock()
            with lock, lock:
                os.write(write, b"yes" if ok else b"no")
            thread = threading.Thread(target=lambda: os.write(write, b"!"))
            thread.start()
            thread.join()
            signal.raise_signal(signal.SIGTERM)
        finally:
            os._exit(1)
    os.close(write)
    with open(read) as pipe:
        assert pipe.read() == "yes!"
    os.close(pidfd)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
