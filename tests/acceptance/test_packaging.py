"""The wheel: it holds `runlane` alone, with the folds and the schema, and works in an environment of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built through the sdist from a copy of what is committed or about to be."""
    source = tmp_path_factory.mktemp("source")
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    for name in filter(None, files):
        if (ROOT / name).is_symlink() or (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, source / name, follow_symlinks=False)
    out = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "-q", "-o", str(out), str(source)], check=True, timeout=110)
    return next(out.glob("*.whl"))


def test_only_runlane_lands_in_site_packages(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"runlane"}
    for needed in ("runlane/schema.sql", "runlane/py.typed", "runlane/projections/runs.py", "runlane/cli/__init__.py"):
        assert needed in names


def test_an_installed_wheel_works(wheel: Path, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    site = next((environment / "lib").glob("python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    # Its dependencies come from this environment: installing them again would only test the registry.
    ours = next(Path(sys.prefix, "lib").glob("python*/site-packages"))
    (site / "dependencies.pth").write_text(f"{ours}\n")
    program = (
        "import runlane, runlane.projections, pathlib\n"
        f"assert pathlib.Path(runlane.__file__).is_relative_to({str(site)!r}), runlane.__file__\n"
        "@runlane.task('t')\n"
        "def t(x: int): return x + 1\n"
        "with runlane.Runlane('sqlite:///wheel.db', tasks=[t]) as app:\n"
        "    print(app.run_now(t, 1).run.result, app.audit.verify().identical)\n"
    )
    done = subprocess.run(
        [environment / "bin" / "python", "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "2 True\n", done.stderr


def test_the_folds_refuse_a_second_name() -> None:
    done = subprocess.run([sys.executable, "-c", "import projections"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "import runlane.projections" in done.stderr
