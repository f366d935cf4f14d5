from __future__ import annotations

import pytest

from safeexec.testing import conformance

pytest.importorskip("docker", reason="the docker SDK is not installed: pip install 'safeexec[docker]'")

TestDocker = conformance("docker", capabilities=("rollback",), pool=2)
