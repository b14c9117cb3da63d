"""What is no path is refused in one clear error, before anything is read or written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runlane import ConfigurationInvalid, Runlane
from runlane.export import import_events, replay
from runlane.sealing import check_proof
from runlane.simulation import simulate_export
from tests.engine.tasks import echo

CALLS: dict[str, Callable[[Runlane, Any, Path], object]] = {
    "export": lambda app, path, _: app.audit.export(path),
    "export, key": lambda app, path, folder: app.audit.export(folder / "events.jsonl", key=path),
    "archives": lambda app, path, _: app.audit.archives(path),
    "archives, public_key": lambda app, path, folder: app.audit.archives(folder, public_key=path),
    "simulate_export": lambda _, path, __: simulate_export(path),
    "replay": lambda _, path, __: replay(path),
    "import": lambda _, path, __: import_events(path, "memory:"),
    "check_proof": lambda _, path, __: check_proof(path),
    "verify, key": lambda app, path, _: app.audit.verify(key=path),
    "verify, keys": lambda app, path, _: app.audit.verify(key=[path]),
    "verify, checkpoints": lambda app, path, _: app.audit.verify(checkpoints=path),
    "verify, a checkpoint": lambda app, path, _: app.audit.verify(checkpoints=[path]),
}


@pytest.mark.parametrize("path", [5, 0.5, b"folder", object()], ids=lambda path: type(path).__name__)
@pytest.mark.parametrize("call", CALLS)
def test_what_is_no_path_is_refused(make_app: Callable[..., Runlane], tmp_path: Path, call: str, path: Any) -> None:
    app = make_app(echo)
    app.trigger(echo, 1)
    folder = tmp_path / "folder"
    folder.mkdir()
    with pytest.raises(ConfigurationInvalid, match=r"must be (a path|a list of files)"):
        CALLS[call](app, path, folder)
    assert list(folder.iterdir()) == []
