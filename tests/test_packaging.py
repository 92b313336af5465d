"""The wheel, installed beside nothing of the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the sdist, and the wheel that is made of it."""
    folder = tmp_path_factory.mktemp("built")
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def wheel(built) -> Path:
    return next(built.glob("text_image_trainer-*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Path:
    """A virtual environment with the wheel; the dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    packages = next(folder.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    others = [p for p in sys.path if p.endswith(("site-packages", "dist-packages"))]
    (packages / "dependencies.pth").write_text("\n".join(others) + "\n")
    return folder


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    python = str(installed / "bin/python")
    return subprocess.run([python, *arguments], cwd=folder, capture_output=True, text=True, env=clean)


def test_the_wheel_is_one_package_with_conf_and_no_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for file in (ROOT / "conf").rglob("*.yaml"):
        assert f"trainer/conf/{file.relative_to(ROOT / 'conf')}" in names
    for file in (ROOT / "trainer").rglob("*.py"):
        assert str(file.relative_to(ROOT)) in names
    assert "trainer/py.typed" in names
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {"trainer"}


@pytest.mark.parametrize("name", ["shapes", "emoji"])
def test_what_is_in_the_box_draws_before_anything_is_trained(installed, tmp_path, name):
    drawn = run(installed, tmp_path, "-m", "trainer.sample", f"checkpoint={name}", "prompts=[a red star]", "seeds=0,1")
    assert drawn.returncode == 0, drawn.stderr
    assert len([*(tmp_path / "outputs" / name / "samples").rglob("a-red-star_seed*.png")]) == 2


def test_an_index_would_take_it(built):
    pytest.importorskip("twine")
    check = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built.iterdir())]
    checked = subprocess.run(check, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    assert checked.stdout.count("PASSED") == 2


def test_it_runs_from_another_folder(installed, tmp_path):
    where = run(installed, tmp_path, "-c", "import trainer; print(trainer.__file__)").stdout
    assert where.startswith(str(installed))
    shown = run(installed, tmp_path, "-m", "trainer", "--help").stdout
    for file in (ROOT / "conf/experiment").glob("*.yaml"):
        assert f"  {file.stem} " in shown
    for experiment in ("experiment=cgan", "+experiment=cgan"):
        result = run(installed, tmp_path, "-m", "trainer", experiment, "--cfg", "job", "--resolve")
        assert result.returncode == 0, result.stderr
        assert "name: cgan\n" in result.stdout
    wrong = run(installed, tmp_path, "-m", "trainer", "experiment=cgan", "data.resolutoin=64")
    assert (wrong.returncode, wrong.stderr) == (2, "data.resolutoin: no such key; did you mean data.resolution?\n")
