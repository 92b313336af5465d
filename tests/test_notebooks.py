"""The notebooks run from top to bottom, as their reader runs them but for the size of the training."""

from __future__ import annotations

import ast
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SMALL = (
    *("kimg=0.3", "data.source.num_images=300", "data.batch_size=32"),
    *("callbacks.evaluation.times=1", "callbacks.evaluation.num_images=32", "callbacks.evaluation.num_references=32"),
    *("callbacks.samples.times=2", "trainer.accelerator=cpu"),
)


def cells(path: Path) -> list[str]:
    code = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in code), "clear the outputs before committing"
    return ["".join(cell["source"]) for cell in code]


@pytest.fixture(scope="module")
def place(tmp_path_factory, surroundings) -> Path:
    """A folder with the run of the training cell, and one that differs by its seed."""
    folder = tmp_path_factory.mktemp("notebooks")
    train = next(cell for cell in cells(ROOT / "notebooks" / "sample.ipynb") if cell.startswith("!"))
    command = [sys.executable, *shlex.split(train)[1:], *SMALL]
    search = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=search, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (run,) = folder.glob("outputs/*/*")
    other = shutil.copytree(run, run.with_name("other"))
    for name in ("config.yaml", "composed.yaml"):
        text = (other / name).read_text()
        (other / name).write_text(text.replace("\nseed: 0", "\nseed: 1", 1))
    return folder


def results(code: str, scope: dict[str, Any]) -> list[Any]:
    """What a notebook would show below a cell."""
    *before, last = ast.parse(code).body
    if not isinstance(last, ast.Expr):
        exec(code, scope)
        return []
    exec(compile(ast.Module(before, []), "cell", "exec"), scope)
    return [eval(compile(ast.Expression(last.value), "cell", "eval"), scope)]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_run_and_show_pictures(path, place, monkeypatch):
    monkeypatch.chdir(place)
    scope: dict[str, Any] = {}
    shown = [each for code in cells(path) if not code.startswith("!") for each in results(code, scope)]
    pictures = [each for each in shown if isinstance(each, Image.Image)]
    assert len(pictures) >= {"sample": 3, "latent": 5, "compare": 2}[path.stem]
    for picture in pictures:
        assert np.asarray(picture).std() > 1
    assert None not in shown
    if path.stem == "compare":
        page = next(each for each in shown if hasattr(each, "_repr_html_"))._repr_html_()
        assert page.count("&lt;svg") > 5
        assert "<tr><td>seed</td><td>0</td><td>1</td></tr>" in page.replace("&lt;", "<").replace("&gt;", ">")


def test_notebooks_define_nothing():
    for path in NOTEBOOKS:
        for code in cells(path):
            assert len(code.splitlines()) <= 8, f"{path.name}: a long cell belongs into the package"
            if not code.startswith("!"):
                assert not any(isinstance(n, (ast.FunctionDef, ast.ClassDef)) for n in ast.walk(ast.parse(code)))
