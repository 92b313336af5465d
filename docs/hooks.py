"""What pages include when the site is built, so that it cannot drift:

::: source trainer.noise.uniform     the code of a function, class or module-level name, read from the source
::: output help                      docs/output/help.txt, which docs/make/outputs.py writes
::: experiments                      conf/experiment, read from the headers
::: packages                         the rooms of trainer/, read from the first lines of their docstrings

A name or file that does not exist ends the build.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LINE = re.compile(r"^::: (source|output|experiments|packages)\b *(\S*) *$", re.MULTILINE)


class MissingError(Exception):
    """A page asks for what is not there."""


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Called by MkDocs with each page."""
    from mkdocs.exceptions import PluginError

    try:
        return included(markdown)
    except MissingError as error:
        raise PluginError(f"{page.file.src_path}: {error}") from error


def included(markdown: str) -> str:
    """A page with its `:::` lines replaced."""
    kinds = {"source": source, "output": output, "experiments": experiments, "packages": packages}
    return LINE.sub(lambda line: kinds[line[1]](line[2]), markdown)


def source(name: str) -> str:
    """A code block with the definition of `trainer.module.Class.method`."""
    file, nodes = module(name)
    text = file.read_text(encoding="utf-8")
    body: list[ast.stmt] = ast.parse(text).body
    node: ast.stmt | None = None
    for part in nodes:
        node = next((each for each in body if defines(each, part)), None)
        if node is None:
            raise MissingError(f"::: source {name}: {file.relative_to(ROOT)} defines no {part}")
        body = getattr(node, "body", [])
    if node is None:
        raise MissingError(f"::: source {name}: name a function or class, not a module")
    first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
    lines = text.splitlines()[first - 1 : node.end_lineno]
    indent = len(lines[0]) - len(lines[0].lstrip())
    code = "\n".join(line[indent:] for line in lines)
    return f'```python title="{file.relative_to(ROOT)}, line {first}"\n{code}\n```'


def module(name: str) -> tuple[Path, list[str]]:
    """The file of a dotted name, and the names within it."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:count])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return file, parts[count:]
    raise MissingError(f"::: source {name}: there is no such module")


def defines(node: ast.stmt, name: str) -> bool:
    if isinstance(node, ast.Assign):
        return any(isinstance(target, ast.Name) and target.id == name for target in node.targets)
    return getattr(node, "name", None) == name


def output(name: str) -> str:
    """A code block with what a command printed; its first lines are the machine and the command."""
    file = ROOT / "docs" / "output" / f"{name}.txt"
    if not file.is_file():
        raise MissingError(f"::: output {name}: no docs/output/{name}.txt; add it to docs/make/outputs.py and run that")
    return f"```console\n{file.read_text(encoding='utf-8').rstrip()}\n```"


def experiments(_: str = "") -> str:
    """A section for each experiment: the header of its file."""
    sections = []
    for file in sorted((ROOT / "conf" / "experiment").glob("*.yaml")):
        lines = [line[2:].rstrip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("# ")]
        title, words = lines[1], "\n".join(lines[2:])
        sections.append(f"## {file.stem}\n\n{title}.\n\n```text\n{words}\n```")
    return "\n\n".join(sections)


def packages(_: str = "") -> str:
    """A table of the parts of trainer/."""
    rows = ["| part of `trainer/` | what | modules |", "|---|---|---|"]
    parts = sorted(p for p in (ROOT / "trainer").iterdir() if p.suffix == ".py" or (p / "__init__.py").is_file())
    for part in sorted(parts, key=lambda p: (p.suffix == ".py", p.name)):
        if part.name in ("__init__.py", "conf"):
            continue
        file = part / "__init__.py" if part.is_dir() else part
        what = (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").partition("\n")[0]
        within = sorted(each.stem for each in part.glob("*.py") if not each.stem.startswith("__"))
        what = what.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
        rows.append(f"| `{part.name}{'/' * part.is_dir()}` | {what} | {', '.join(within)} |")
    return "\n".join(rows)
