"""Who has no sandbox beside it says so when it starts, not when a command is to be tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from hostwright_kit import previewing
from hostwright_kit.errors import HostError
from hostwright_kit.jobs import JobStore
from hostwright_kit.runtime import open_runtime


async def test_without_the_package_that_has_sandboxes_the_setting_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOSTWRIGHT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("HOSTWRIGHT_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("HOSTWRIGHT_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(previewing, "GROUP", "hostwright.nobody")
    runtime = open_runtime("system")
    jobs = JobStore(runtime.paths.state_dir, "system")
    try:
        with pytest.raises(HostError, match="shell_preview needs the guard") as refused:
            previewing.open_previewer(runtime, jobs, "[system] shell_preview")
        assert "Install hostwright-guard" in str(refused.value.fix)
    finally:
        await jobs.close()
        await runtime.close()
