"""The rooms of the house, from the ground up: an import goes down or stays in its room. README's tree is made of them.

After a change: python tests/test_imports.py --write
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "trainer"
ROOMS = {  # each knows those above it in this list, and nothing below
    "errors": "what a user did wrong, in one line",
    "noise": "random numbers as a function of seed, stream and position",
    "size": "height and width of pictures, of one number or two",
    "batch": "what a step works on: images, captions, conditions",
    "process": "rank, signals, progress lines, locks and caches of a process",
    "losses": "adversarial, reconstruction, matching, penalties: functions (N, ...) -> (N,)",
    "metrics": "functions of features and images: distances, manifolds, scores; sums over ranks",
    "tasks": "what an image task starts from: holes, noise, small and grey pictures",
    "networks": "generators, discriminators, encoders, and the blocks that they share",
    "pretrained": "weights that others trained: from a package, a folder, the Hugging Face hub",
    "text": "frozen text encoders with a cache, and a small one that trains",
    "backbones": "networks that judge: Inception, DINOv2, CLIP, EfficientNet-Lite, LPIPS",
    "data": "a source a file; cache, order, augmentation, the data module",
    "strategies": "one engine a network: single, ddp, fsdp, zero; ranks that watch each other",
    "runs": "a run's folder, checkpoints and results; trained runs that teach or judge; what a file may name",
    "config": "schema, check of every key, one line for a mistake, what a command line takes from earlier runs",
    "objectives": "the loop, and GAN, VAE, matching, distillation on it",
    "sampling": "captions and seeds to images: one, many, many by many processes; grids",
    "editing": "where a generator draws a picture, and which way words lead from there",
    "exports": "a format a file, each checked against PyTorch; the model card",
    "report": "a run on a page, several side by side",
    "evaluation": "a protocol, and measures that see every image once",
    "launch": "launch=slurm",
    "loggers": "csv, W&B and its dashboard",
    "callbacks": "EMA, evaluation, checkpoints, progress, heartbeat",
    "benchmark": "steps, memory and scaling beside a bare loop; what a run would cost on many GPUs",
    "compression": "passes network -> network; the search over them; what was gained and lost",
    "verbs": "python -m trainer.VERB: arguments in, one call, output",
}
TORCH_ONLY = ("errors", "noise", "batch", "losses", "metrics")


def room(file: Path) -> str:
    name = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return name if name in ROOMS else "verbs"


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


def upwards(own: str, names: list[str]) -> list[str]:
    """The imports that lead from a room to one that stands on it. A verb may use another."""
    known = [*ROOMS][: [*ROOMS].index(own) + 1]
    ours = [name for name in names if name.startswith("trainer.") and own != "verbs"]
    return [name for name in ours if name.split(".")[1] not in known]


@pytest.mark.parametrize("own", ROOMS)
def test_imports_go_down(own):
    wrong = {file.name: up for file, names in FILES.items() if room(file) == own and (up := upwards(own, names))}
    assert wrong == {}


def test_the_check_sees_an_import_that_goes_up():
    tree = ast.parse("def f():\n    from trainer.objectives.base import Objective\n    import trainer.batch")
    assert upwards("networks", [*imports(tree)]) == ["trainer.objectives.base.Objective"]


def test_rooms_hold_no_circle_of_files():
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}

    def needs(file: Path) -> set[str]:
        return {name for each in FILES[file] for name in (each, each.rpartition(".")[0]) if name in names}

    left = {name: needs(file) - {name, "trainer"} for name, file in names.items()}
    while free := {name for name, needed in left.items() if not needed & left.keys()}:
        left = {name: needed for name, needed in left.items() if name not in free}
    assert left == {}


def test_third_parties():
    for file, names in FILES.items():
        roots = {name.split(".")[0] for name in names} - sys.stdlib_module_names - {"trainer"}
        assert "torchvision" not in roots, f"{file}: does not import beside a CPU build of torch"
        if room(file) in TORCH_ONLY:
            assert roots <= {"torch", "numpy"}, file
        if room(file) in ("networks", "objectives", "losses"):
            assert not any(name.startswith(("torch.distributed", "deepspeed")) for name in names), file


def test_sizes():
    sizes = {file.relative_to(ROOT): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {file: size for file, size in sizes.items() if size > 250} == {}
    assert len([*PACKAGE.glob("*.py")]) <= 24


def tree() -> str:
    """README's, of the rooms of trainer/."""
    return "\n".join(f"  {name + ('/' if (PACKAGE / name).is_dir() else ''):<14}{what}" for name, what in ROOMS.items())


def with_tree(text: str) -> str:
    head, _, rest = text.partition("trainer/\n")
    return f"{head}trainer/\n{tree()}{rest[rest.index(f'{chr(10)}launch/') :]}"


def test_readme_has_the_tree():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert with_tree(text) == text


def test_the_paths_to_read_go_down():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    parts = re.findall(r"^- \*(.*?)(?=^- |\n\n)", text, re.MULTILINE | re.DOTALL)
    paths = [re.findall(r"`(trainer/[\w/]+\.py)`", part) for part in parts]
    assert [len(path) <= 7 for path in paths] == [True, True]
    for path in paths:
        floors = [[*ROOMS].index(room(ROOT / file)) for file in path]
        assert floors == sorted(floors, reverse=True), path
        assert all((ROOT / file).is_file() for file in path)


if __name__ == "__main__" and "--write" in sys.argv:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (ROOT / "README.md").write_text(with_tree(text), encoding="utf-8")
