"""Which walls must stand, what is refused, and what is said about it."""

from __future__ import annotations

import os
import sys
from typing import Any

import pytest

from safeexec import Executor, Limits, Policy
from safeexec.errors import BackendUnavailable, PolicyError
from safeexec_backends.local import cell
from safeexec_backends.local.backend import LocalBackend

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="n/a: these walls are Linux's")

WALLS = [*cell.WALLS, "language"]


def make(policy: Policy | None = None, **options: Any) -> LocalBackend:
    return LocalBackend(policy or Policy(), _language="full", **options)


def refused(policy: Policy | None = None, **options: Any) -> str:
    with pytest.raises(BackendUnavailable) as caught:
        make(policy, **options).close()
    return str(caught.value)


def test_every_wall_is_reported() -> None:
    made = make()
    assert list(made.isolation) == WALLS
    assert all(wall.active != bool(wall.reason) for wall in made.isolation.values())
    made.close()


DENIABLE = [
    "landlock",
    "pid_namespace",
    "network_namespace",
    "ipc_namespace",
    "uts_namespace",
    "cgroup_namespace",
    "parent_death",
]


@pytest.mark.parametrize("wall", DENIABLE)
def test_a_missing_wall_is_reported_and_the_others_stand(wall: str) -> None:
    full = make()
    standing = {name for name, w in full.isolation.items() if w.active}
    full.close()
    made = make(_deny=[wall])
    assert {name for name, w in made.isolation.items() if w.active} == standing - {wall}
    assert made.isolation[wall].reason == "switched off"
    assert made.start(Policy()).pid > 0
    made.close()


def test_seccomp_is_part_of_the_minimum() -> None:
    message = refused(_deny=["seccomp"])
    assert "seccomp is missing" in message and "require=()" in message and "--allow-weak" in message


def test_landlock_or_a_mount_namespace_is_part_of_the_minimum() -> None:
    message = refused(_deny=["landlock", "mount_namespace"])
    assert "landlock is missing" in message and "mount_namespace is missing" in message and "require=()" in message


@pytest.mark.parametrize("deny", [["landlock"], ["mount_namespace"], ["user_namespace"]])
def test_one_file_wall_is_enough(deny: list[str]) -> None:
    with Executor("local", _language="full", _deny=deny) as executor:
        assert executor.run("open('x', 'w').write('1'); open('x').read()").value == "1"


def test_fewer_walls_by_explicit_word() -> None:
    policy = Policy(require=())
    everything = list(cell.WALLS)
    with Executor("local", policy=policy, _language="full", _deny=everything) as executor:
        assert executor.run("1 + 1").value == 2
        assert not executor.isolation["seccomp"].active
    with Executor("local", policy=policy, _language="full", _deny=["seccomp"]) as executor:
        assert executor.run("1 + 1").value == 2


def test_a_weaker_word_at_the_executor_does_not_weaken_a_stricter_session() -> None:
    made = make(Policy(require=()), _deny=["seccomp"])
    with pytest.raises(BackendUnavailable):
        made.start(Policy())
    made.close()


def test_required_walls_fail_closed() -> None:
    assert "'uts_namespace' is required" in refused(
        Policy(require=("seccomp", "uts_namespace")), _deny=["uts_namespace"]
    )
    assert "'language' is required" in refused(Policy(require=("language",)))
    assert "seccomp" in refused(
        Policy(require=("landlock",)), _deny=["seccomp"]
    )  # naming one does not waive the minimum
    with pytest.raises(PolicyError, match="no wall 'moat'"):
        make(Policy(require=("moat",)))
    make(Policy(require=("seccomp", "landlock", "mount_namespace"))).close()


@pytest.mark.parametrize(
    "policy",
    [
        Policy(packages=("numpy",)),
        Policy(network=("example.com",)),
        Policy(rollback="limits"),
        Policy(rollback="errors"),
    ],
)
def test_what_cannot_be_honoured_is_refused(policy: Policy) -> None:
    made = make()
    with pytest.raises(PolicyError):
        made.start(policy)
    made.close()
    with pytest.raises(PolicyError):
        make(policy)


def test_limits_that_cannot_be_held_are_refused_when_set() -> None:
    made = make(_deny=["user_namespace"])
    for limits in (Limits(disk=2**20), Limits(processes=4)):
        with pytest.raises(PolicyError):
            made.start(Policy(limits=limits))
    assert "Limits.disk" in made.isolation["mount_namespace"].reason
    made.close()


def test_unknown_options_are_refused() -> None:
    with pytest.raises(PolicyError, match="colour"):
        make(colour="red")


def test_imports_beyond_the_reviewed_ones_weaken_the_language_wall() -> None:
    made = LocalBackend(Policy(imports=("numpy.*",)), _language="full")
    made.close()
    wall = LocalBackend._language_wall(_Restricted(), Policy(imports=("math", "numpy.*")))  # type: ignore[arg-type]
    assert not wall.active and "numpy" in wall.reason
    assert LocalBackend._language_wall(_Restricted(), Policy()).active  # type: ignore[arg-type]


class _Restricted:
    _language = "restricted"


def test_environment_variables_of_the_policy_arrive_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WALLS_SECRET", "1")
    with Executor("local", policy=Policy(env={"GREETING": "hello"}), _language="full") as executor:
        assert executor.run("import os; dict(os.environ)").value == {"GREETING": "hello"}


def test_third_party_modules_are_imported_ahead_of_the_session() -> None:
    policy = Policy(imports=("numpy.*", "matplotlib.*"), limits=Limits(memory=512 * 2**20))
    with Executor("local", policy=policy, _language="full") as executor:
        assert executor.run("import sys; 'numpy' in sys.modules, 'matplotlib.pyplot' in sys.modules").value == (
            True,
            True,
        )
        result = executor.run(
            "import matplotlib.pyplot as plt\nplt.plot([1, 2, 3])\nplt.savefig('x.png')\nopen('x.png','rb').read(4)"
        )
        assert result.value == b"\x89PNG", result.error


def test_a_hostile_sitecustomize_or_working_directory_is_not_loaded(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    marker = tmp_path / "marker"
    for name in ("sitecustomize", "usercustomize", "json", "socket"):
        (tmp_path / f"{name}.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    make().close()
    assert not marker.exists()


def test_the_folder_of_the_users_own_modules_is_not_shown(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "settings.py").write_text("PASSWORD = 'canary'\n")
    os.chmod(tmp_path, 0o755)
    monkeypatch.syspath_prepend(str(tmp_path))
    with Executor("local", _language="full") as executor:
        result = executor.run(f"import os, sys\n[os.path.exists({str(tmp_path)!r}), {str(tmp_path)!r} in sys.path]")
    assert result.value == [False, False]


def test_the_library_cannot_be_changed_for_the_next_session() -> None:
    with Executor("local", _language="full") as executor:
        executor.run("import json\njson.loads = None\nimport builtins\nbuiltins.len = None")
        assert executor.run("import json\njson.loads('[1]'), len('abc')").value == ([1], 3)
