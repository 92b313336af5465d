"""README and docs/: every link resolves, every command composes, every path and every name of the code is there."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shlex
import sys
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [*map(ROOT.joinpath, ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *sorted((ROOT / "docs").rglob("*.md"))]
SEPARATORS = ("|", "&&", ";", "||")
OUR_FOLDERS = ("trainer/", "conf/", "tests/", "docs/", "launch/", "notebooks/", ".ci/")


def of_file(path):
    """A module of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = of_file(ROOT / "docs" / "hooks.py")
OUTPUTS = of_file(ROOT / "docs" / "make" / "outputs.py")
PICTURES = of_file(ROOT / "docs" / "make" / "pictures.py").PICTURES


def blocks(text, *languages):
    """The fenced code blocks of a page in some languages."""
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [code for language, code in found if language in languages]


def without_code(text):
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def inline(text):
    return re.findall(r"(?<!`)`([^`\n]+)`(?!`)", without_code(text))


def lines(text):
    """The command lines of a page: of its blocks, and of code within its sentences."""
    for code in blocks(text, "bash", "sh"):
        yield from filter(None, (line.strip() for line in code.replace("\\\n", " ").split("\n")))
    yield from (code for code in inline(text) if "-m trainer" in code or code.startswith(("launch/", "pytest ")))


def commands(line):
    """(module, arguments) of what a line runs of this package."""
    words = shlex.split(line, comments=True)
    starts = [0, *(n + 1 for n, word in enumerate(words) if word in SEPARATORS)]
    for start in starts:
        command = words[start : next((n for n in range(start, len(words)) if words[n] in SEPARATORS), None)]
        for at, word in enumerate(command):
            if word == "-m" and command[at + 1 : at + 2] and command[at + 1].split(".")[0] == "trainer":
                yield command[at + 1], command[at + 2 :]
                break
            if word == "launch/torchrun.sh":
                yield "trainer", command[at + 1 :]
                break


def typed():
    """Every command of the pages once, with the first page that has it."""
    found = {}
    for page in PAGES:
        for line in lines(page.read_text(encoding="utf-8")):
            for module, arguments in commands(line):
                if arguments and not re.search("[A-Z]{4}", " ".join([module, *arguments[:1]]).split("=")[0]):  # VERB
                    found.setdefault((module, *arguments), page.name)
    made = [c for name, chapter in OUTPUTS.CHAPTERS.items() if name != "mistakes" for c in chapter.values()]
    for line in [*made, *(line for picture in PICTURES.values() for line in picture.commands)]:
        found |= {(module, *arguments): "docs/make" for module, arguments in commands(line)}
    return found


def one_run(arguments):
    """Of a sweep its first run; its launcher and sweeper are still composed."""
    arguments = [a for a in arguments if a not in ("-m", "--multirun")]
    return [re.sub(r"^([\w.@/+]+=[^,\[\]'\"]+),.*$", r"\1", a) for a in arguments]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """What an earlier run leaves for resume=, init= and the like: experiment -> file name -> text."""
    import contextlib
    import io
    import signal

    from trainer.__main__ import main

    data = ["data=folder", "data.source.path=pictures", "--cfg", "job"]
    texts: dict[str, dict[str, str]] = {"cgan": {}, "fsq": {}}
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    for experiment, (name, more) in product(texts, (("composed.yaml", []), ("config.yaml", ["--resolve"]))):
        text = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(text):
            patch.setattr(sys, "argv", ["trainer", f"experiment={experiment}", *data, *more])
            main()
        texts[experiment][name] = text.getvalue()
    for number, handler in before.items():
        signal.signal(number, handler)
    return texts


def compose(command, monkeypatch, module, arguments):
    """Reads a command line as its module would, and stops before anything is done: exit code and last words."""
    if module == "trainer" and arguments[:1] and (ROOT / "trainer" / f"{arguments[0]}.py").is_file():
        module, arguments = f"trainer.{arguments[0]}", arguments[1:]
    path = ROOT.joinpath(*module.split("."))
    verb = importlib.import_module(f"{module}.__main__" if path.is_dir() else module)
    composed = []
    with monkeypatch.context() as patch:
        if hasattr(verb, "entry"):
            real = verb.entry
            patch.setattr(verb, "entry", lambda task, *more: real(composed.append, *more))
        else:
            parse = argparse.ArgumentParser.parse_args

            def parse_only(*given, **options):
                composed.append(parse(*given, **options))
                sys.exit(0)

            patch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
        result = command(*arguments, main=verb.main)
    if result.code == 0 and not composed and not {"--help", "--cfg", "--version"} & {*arguments}:
        result.code, result.err = 1, "nothing was composed"
    return result


@pytest.mark.parametrize("words", typed(), ids=lambda words: " ".join(words)[:150])
def test_command_composes(command, monkeypatch, tmp_path, saved, words):
    module, *arguments = words
    filled = ["+experiment=cgan"] if module == "trainer" else ["checkpoint=RUN", "prompts=[a]"]
    arguments = [each for a in one_run(arguments) for each in (filled if a == "..." else [a])]
    monkeypatch.chdir(tmp_path)
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in ("resume", "init", "teacher", "tokenizer"):
            Path(value).mkdir(parents=True)
            for name, text in saved["fsq" if key == "tokenizer" else "cgan"].items():
                (Path(value) / name).write_text(text)
    result = compose(command, monkeypatch, module, arguments)
    assert result.code == 0, f"{typed()[words]}: python -m {shlex.join(words)}\n{result.err}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("python -m trainer +experiment=cgann", "did you mean cgan?"),
        ("python -m trainer +experiment=cgan data.resolutoin=64", "did you mean data.resolution?"),
        ("python -m trainer.sample checkpoint=RUN 'prompts=[a]' sedes=3", "no such key"),
        ("python -m trainer.report --pages RUN", "unrecognized arguments"),
        ("python -m trainer.nonsense checkpoint=RUN", None),
    ],
)
def test_a_mistyped_command_is_seen(command, monkeypatch, tmp_path, line, expected):
    monkeypatch.chdir(tmp_path)
    [(module, arguments)] = commands(line)
    if expected is None:
        with pytest.raises(ModuleNotFoundError):
            compose(command, monkeypatch, module, arguments)
    else:
        result = compose(command, monkeypatch, module, arguments)
        assert result.code
        assert expected in result.err


# Links and paths ------------------------------------------------------------------------------------------------------


def slugs(page):
    """The anchors of a page."""
    text = without_code(HOOKS.included(page.read_text(encoding="utf-8")))
    titles = re.findall(r"^#+ +(.*?)(?: +\{.*\})? *$", text, re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).replace("`", "") for title in titles]
    return {re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in plain}


def dead_links(page, text):
    """The links of a page that lead nowhere within this repository."""
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", without_code(text))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        is_bad_anchor = anchor and file.suffix == ".md" and file.is_file() and anchor not in slugs(file)
        if not file.exists() or is_bad_anchor:
            dead.append(target)
    return dead


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths(page):
    text = page.read_text(encoding="utf-8")
    assert not dead_links(page, text)
    words = [word for code in [*inline(text), *lines(text)] for word in re.findall(r"[\w./-]+", code)]
    ours = {word.rstrip(".") for word in words if word.startswith(OUR_FOLDERS) and not re.search("[A-Z]{2}", word)}
    assert not [word for word in sorted(ours) if not (ROOT / word).exists() and word != "trainer/weights"]


def test_a_dead_link_is_seen():
    page = ROOT / "docs" / "index.md"
    text = "[a](nowhere.md) [b](data.md#nothing) [c](data.md#formats) ![d](pictures/none.png) `[e](x)`"
    assert dead_links(page, text) == ["nowhere.md", "data.md#nothing", "pictures/none.png"]


def test_pages_that_code_and_configs_name():
    files = [f for folder in ("trainer", "tests") for f in (ROOT / folder).rglob("*.py")]
    files += (ROOT / "conf").rglob("*.yaml")
    named = {(f, name) for f in files for name in re.findall(r"\bdocs/[\w/-]+\.md", f.read_text(encoding="utf-8"))}
    assert named
    assert not [f"{file.relative_to(ROOT)}: {name}" for file, name in sorted(named) if not (ROOT / name).is_file()]


# What pages include ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_included_is_there(page):
    text = HOOKS.included(page.read_text(encoding="utf-8"))
    for name in re.findall(r"^::: (trainer[\w.]*)$", text, re.MULTILINE):
        file, names = HOOKS.module(name)
        assert not names or HOOKS.source(name), file


@pytest.mark.parametrize(
    "line",
    ["::: source trainer.noise.nothing", "::: source trainer.no.uniform", "::: source trainer.noise", "::: output x"],
)
def test_what_is_not_there_ends_the_build(line):
    with pytest.raises(HOOKS.MissingError):
        HOOKS.included(line)


def test_outputs_are_of_the_commands_that_make_them():
    made = {name: command for chapter in OUTPUTS.CHAPTERS.values() for name, command in chapter.items()}
    shown = {name for page in PAGES for name in re.findall(r"^::: output (\S+)$", page.read_text(), re.MULTILINE)}
    assert shown <= {*made}
    for file in OUTPUTS.OUTPUT.glob("*.txt"):
        machine, command, *_ = file.read_text(encoding="utf-8").split("\n")
        assert machine.startswith("# ") and "PyTorch" in machine
        assert command == f"$ {made[file.stem]}", f"run python docs/make/outputs.py {file.stem}"
