"""The import arrows of the design, read from the source: what may know of what."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "trainer"
EVERYONE = {"caches", "distribution", "errors", "locks", "noise", "progress"}  # know nothing themselves

# part of trainer/ -> parts that it may import, besides itself and EVERYONE
ARROWS = {
    "distribution": set(),
    "caches": set(),
    "errors": set(),
    "noise": set(),
    "allowlist": set(),
    "progress": set(),
    "locks": set(),
    "batch": set(),
    "fonts": set(),
    "runs": set(),
    "images": {"fonts"},
    "schedules": set(),
    "figures": set(),
    "losses": set(),
    "metrics": set(),
    "backbones": {"hub", "text"},
    "compression": {"batch", "checkpoint", "networks", "saved"},
    "loggers": set(),
    "networks": {"batch"},
    "text": {"batch", "hub"},
    "data": {"batch", "signals"},
    "strategies": {"ranks"},
    "objectives": {"losses", "batch", "matching", "teacher", "checkpoint", "exports"},
    "rounding": {"batch"},
    "sampling": {"batch", "rounding"},
    "bulk": {"pipeline"},
    "many": {"bulk", "exports", "pipeline", "ranks", "sampling", "saved"},
    "checkpoint": {"allowlist", "strategies", "exports", "hub", "saved"},
    "matching": {"checkpoint", "saved"},
    "teacher": {"checkpoint", "batch"},
    "pipeline": {"allowlist", "checkpoint", "compression", "exports", "sampling", "images", "batch"},
    "callbacks": {
        "sampling",
        "metrics",
        "evaluation",
        "figures",
        "images",
        "batch",
        "signals",
        "ranks",
        "strategies",
        "checkpoint",
        "report",
        "saved",
    },
    "saved": {"exports"},
    "run_lock": set(),
    "ranks": set(),
    "signals": {"ranks"},
    "synonyms": set(),
    "mistakes": {"synonyms"},
    "command_line": {"mistakes"},
    "limits": set(),
    "signatures": {"limits", "mistakes"},
    "run_folder": set(),
    "sweeps": set(),
    "earlier": {"allowlist", "command_line", "config", "mistakes", "run_folder"},
    "dashboard": {"command_line"},
    "config": {
        *("allowlist", "command_line", "mistakes", "signatures", "run_folder", "ranks", "sweeps", "signals"),
    },
    "__init__": {"lazy", "pipeline"},
    "lazy": set(),
    "report": {"command_line", "config", "run_folder", "mistakes", "figures", "signals", "saved"},
    "__main__": {
        *("allowlist", "signatures", "config", "earlier", "run_folder", "run_lock", "checkpoint", "signals", "ranks"),
        "report",
    },
    "sample": {"many", "config", "pipeline", "images", "run_folder"},
    "export": {"config", "checkpoint", "exports", "objectives", "images", "sampling"},
    "exports": {"allowlist", "batch", "text", "figures", "run_folder"},
    "hub": set(),
    "evaluation": {"sampling", "metrics", "data", "figures", "batch"},
    "evaluate": {
        *("config", "pipeline", "evaluation", "figures", "matching", "ranks", "backbones", "run_folder", "text"),
        *("checkpoint", "data", "strategies"),
    },
    "workshop": {
        *("batch", "checkpoint", "command_line", "compression", "earlier", "evaluation", "exports", "figures"),
        *("objectives", "proof", "run_folder", "sampling"),
    },
    "compress": {
        *("config", "pipeline", "compression", "evaluation", "evaluate", "exports", "figures", "objectives", "proof"),
        *("run_folder", "workshop", "teacher"),
    },
    "benchmark": {"config", "run_folder", "callbacks", "strategies", "batch", "ranks"},
    "proof": {"batch", "benchmark", "compression", "exports", "pipeline", "report", "sampling"},
    "speed": {"config", "exports", "pipeline", "proof"},
    "launch": {"checkpoint", "run_folder", "run_lock"},
}
TORCH_ONLY = ("errors", "noise", "progress", "batch", "schedules", "losses", "metrics")


def part(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(node: ast.AST) -> Iterator[str]:
    """Dotted names of all imports below a node, those for type checkers aside."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            yield from (f"{child.module}.{alias.name}" for alias in child.names)
        else:
            yield from imports(child)


FILES = {file: sorted(set(imports(ast.parse(file.read_text(encoding="utf-8"))))) for file in PACKAGE.rglob("*.py")}


def offenders(names: list[str], file: Path, allowed: set[str]) -> list[str]:
    ours = [name.split(".")[1] for name in names if name.startswith("trainer.")]
    return [f"{file.relative_to(PACKAGE)} -> {name}" for name in ours if name not in allowed | EVERYONE | {part(file)}]


def test_every_part_has_its_arrows():
    assert {part(file) for file in FILES} == set(ARROWS)


@pytest.mark.parametrize("name", ARROWS)
def test_arrows(name):
    wrong = [
        each for file, names in FILES.items() if part(file) == name for each in offenders(names, file, ARROWS[name])
    ]
    assert wrong == []


def test_the_check_sees_an_arrow_against_the_grain():
    names = list(
        imports(ast.parse("def f():\n    from trainer.objectives.base import Objective\n    import trainer.batch"))
    )
    assert offenders(names, PACKAGE / "networks/x.py", ARROWS["networks"]) == ["networks/x.py -> objectives"]


def test_arrows_have_no_circle():
    seen: set[str] = set()
    while left := {name for name in ARROWS if name not in seen and ARROWS[name] <= seen}:
        seen |= left
    assert seen == set(ARROWS)


def test_third_parties():
    for file, names in FILES.items():
        roots = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"trainer"}
        assert "torchvision" not in roots, f"{file}: does not import beside a CPU build of torch"
        if part(file) in TORCH_ONLY:
            assert roots <= {"torch", "numpy"}, file
        if part(file) in ("networks", "objectives", "losses"):
            assert not any(name.startswith(("torch.distributed", "deepspeed")) for name in names), file
