"""Programs whose steps are undone, for every sandbox that does so by copies of a process: how they end, and what they do to files before."""

from __future__ import annotations

from tests.support import histories, unread

SPIN = "while True:\n    pass"
CRASH = "import os\nos._exit(1)"
ENDS = (
    SPIN,
    "import os\nos.abort()",
    "x = []\nwhile True: x.append(bytearray(2**22))",
    "while True: print('x' * 100000)",
)

SAYS_MEMORY = unread.FORGE.replace(
    "'id': number}", "'id': number, 'error': {'kind': 'memory', 'type': 'MemoryError', 'message': '', 'traceback': ''}}"
)

TREE = """
import os
def tree():
    found = {}
    for root in ('/sandbox', '/tmp'):
        device = os.stat(root).st_dev
        for folder, folders, files in os.walk(root):
            # An interpreter whose library lies below /tmp has it mounted there.
            folders[:] = [name for name in folders if os.lstat(os.path.join(folder, name)).st_dev == device]
            for name in folders + files:
                path = os.path.join(folder, name)
                info = os.lstat(path)
                found[repr(path)] = (oct(info.st_mode), info.st_mtime_ns, info.st_nlink if not os.path.isdir(path) else 0,
                    os.readlink(path) if os.path.islink(path) else open(path, 'rb').read() if os.path.isfile(path) else b'')
    return found
os.makedirs('a/b/c')
open('a/one', 'w').write('one')
open('a/b/two', 'wb').write(bytes(range(256)) * 5000)
os.symlink('../one', 'a/b/link')
os.symlink('/nowhere', 'dangling')
os.link('a/one', 'twin')
os.chmod('a/one', 0o600)
open('/tmp/three', 'w').write('3')
open(b'odd\\xff', 'w').close()
open('executable', 'w').close()
os.chmod('executable', 0o755)
with open('sparse', 'wb') as file:
    file.truncate(30_000_000)
    file.seek(10_000_000)
    file.write(b'middle')
before = tree()
"""
"""Files of every kind; `tree()` says what there is."""
RUINS = {
    "removed": "import shutil\nfor name in os.listdir('.'):\n    shutil.rmtree(name) if os.path.isdir(name) and not os.path.islink(name) else os.remove(name)\nos.remove('/tmp/three')",
    "overwritten": "for name in ('a/one', 'a/b/two', '/tmp/three', 'executable'): open(name, 'w').write('changed')",
    "exchanged": "os.rename('a/one', 'x')\nos.rename('a/b/two', 'a/one')\nos.rename('x', 'a/b/two')",
    "other kinds": "os.remove('a/one')\nos.mkdir('a/one')\nos.remove('twin')\nos.symlink('a', 'twin')\nimport shutil\nshutil.rmtree('a/b')\nopen('a/b', 'w').write('x')",
    "links out": "import shutil\nshutil.rmtree('a')\nos.symlink('/usr', 'a')\nos.remove('executable')\nos.symlink('/dev/null', 'executable')",
    "hard links": "os.remove('executable')\nos.link('twin', 'executable')\nopen('executable', 'w').write('x')",
    "modes": "os.chmod('a/one', 0)\nos.chmod('a/b', 0)\nos.chmod('/tmp/three', 0o777)\nos.chmod('.', 0o500)",
    "times": "for name in before: os.utime(eval(name), (1, 1), follow_symlinks=False)",
    "with more": "for n in range(300): open('more%d' % n, 'w').write('x' * 1000)\nos.makedirs('/'.join('d' * 400))",
    "one of two names": "os.remove('a/one')\nopen('twin', 'w').write('other')",
    "deep": "for _ in range(400):\n    os.mkdir('d' * 100)\n    os.chdir('d' * 100)\nos.chmod('..', 0)",
    "odd names": "open(b'\\xff\\xfe\\n', 'w').close()\nos.rename(b'odd\\xff', b'\\xfeodd')\nos.mkdir('…')",
    "full": "try:\n    open('fill', 'wb').write(bytes(2**30))\nexcept (OSError, MemoryError):\n    pass\nos.remove('a/b/two')",
    "mapped": "import mmap\nf = open('a/b/two', 'r+b')\nm = mmap.mmap(f.fileno(), 0)\nm[5:10] = b'.....'",
    "where it is": "os.chdir('a/b/c')\nos.rmdir('/sandbox/a/b/c')",
}  # fmt: skip

STEPS = (*histories.STEPS, "kept.write(str(x))", "kept.seek(x % 7)")
PROPERTY_START = histories.START + "kept = open('kept', 'w+')\n"
PROPERTY_LOOK = "kept.flush()\n" + histories.look("kept.tell()", "open('kept').read()")
WAYS_TO_FAIL = (
    SPIN,
    CRASH,
    "import os\nos.abort()",
    "items.clear()\ntable.clear()\nkept.truncate(0)\nos = None\n" + CRASH,
)
