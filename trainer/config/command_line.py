"""From words as people type them to overrides that Hydra's grammar can read. Read twice, they stay what they are."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

from trainer.config import habits
from trainer.errors import UserError

SWEEPS = ("-m", "--multirun")
ALONE = (*SWEEPS, "-h", "--help", "--hydra-help", "--resolve", "-r", "--run", "-sc", "--shell-completion")
FOLLOWED = ("-c", "--cfg", "-p", "--package", "-i", "--info", "-cd", "--config-dir")  # by a value of theirs
OF_CONFIGS = ("-cn", "--config-name", "-cp", "--config-path")
# keys, and last words of keys, that name a file or folder, which may be called anything
PATHS = {"checkpoint", "out", "resume", "init", "teacher", "tokenizer", "matcher", "reference", "matching"}
PATHS |= {"prompts_file", "objective.matcher", "objective.reward.pairs", "hydra.sweep.dir", "source", "mask"}
PATHS |= {"captioning", "model", "enrich", "enrich_examples", "examples"}
LAST = {"path", "folder", "run_dir", "cache_dir"}
OVERRIDE = re.compile(r"(\+{0,2}[\w./@:-]+)=(.*)", re.DOTALL)
QUOTED = re.compile(r"""\s*('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")\s*""", re.DOTALL)
PAIRS = {")": "(", "]": "[", "}": "{"}


def overrides(arguments: Sequence[str], roots: Sequence[str] = (), experiments: Sequence[str] = ()) -> list[str]:
    """What Hydra shall read of a command line.

    roots: keys of the verb. A flag means its key (--seed 3 is seed=3), the first bare word is the checkpoint or, among
    `experiments`, the experiment. Prompts and other captions are texts whatever they hold, so are paths, and so is any
    value that Hydra could not read. UserError for a word that is nothing of this.
    """
    words = flagless(arguments)
    sweeping = any(word in SWEEPS for word in words)
    found: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        at += 1
        if word.startswith(("-", "~")):
            check_flag(word, words[at : at + 1], words)
            follows = word in FOLLOWED and at < len(words) and "=" not in words[at]
            found += [word, *words[at : at + follows]]
            at += follows
            continue
        if word.startswith("prompt=") and "prompts" in roots and "prompt" not in roots:
            word = f"prompts={word.removeprefix('prompt=')}"
        if word.startswith("data=") and "source" in roots and {"beams", "model"} & {*roots}:  # of caption, of enrich
            word = f"source={word.removeprefix('data=')}"
        if word.startswith("prompts="):  # the shell takes a text without quotes apart
            while at < len(words) and goes_on(word, words[at]):
                word += f" {words[at]}"
                at += 1
        if sweeping and word.startswith("run_dir=") and "run_dir" in roots:  # each run has its own in that of the sweep
            word = f"hydra.sweep.dir={word.removeprefix('run_dir=')}"
        if not OVERRIDE.fullmatch(word):
            word = bare(word, found, words[at:], roots, experiments)
        key, _, value = word.partition("=")
        habits.check(key, value, roots)
        found.append(readable(word, sweeping))
    return found


def goes_on(prompts: str, word: str) -> bool:
    """Whether `word` is part of the text before it: a list goes on to its end, any other text to what is not of it."""
    if prompts.startswith("prompts=["):
        return not prompts.endswith("]")
    return not (OVERRIDE.fullmatch(word) or word.startswith("-") or os.path.exists(word))


def flagless(arguments: Sequence[str]) -> list[str]:
    """--key value, --key=value and --key, but for Hydra's own flags, as key=value."""
    words: list[str] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        if word in OF_CONFIGS:
            raise UserError(f"{word}: {habits.NAMED}")
        if not word.startswith("-") or word in (*ALONE, *FOLLOWED) or word.startswith(tuple(f"{f}=" for f in FOLLOWED)):
            words.append(word)
            if word in FOLLOWED and rest:
                words.append(rest.pop(0))
            continue
        key, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("--") or not key:
            raise UserError(f"{word}: no such flag; expected key=value, or --help")
        if not equals:
            has_value = bool(rest) and not rest[0].startswith("--") and not OVERRIDE.fullmatch(rest[0])
            value = rest.pop(0) if has_value else "" if key in habits.RUNS else "true"
        words.append(f"{key.replace('-', '_')}={value}")
    return words


def flags(arguments: Sequence[str], positional: str = "") -> list[str]:
    """The reverse for verbs of argparse: key=value as --key value, key=true as --key; `positional` is no flag there."""
    words: list[str] = []
    for word in arguments:
        found = OVERRIDE.fullmatch(word)
        if not found or word.startswith("-") or os.path.exists(word):
            words.append(word)
        elif found[1] == positional:
            words.append(os.path.expanduser(found[2]))
        else:
            words += [f"--{found[1]}", *([os.path.expanduser(found[2])] if found[2] != "true" else [])]
    return words


def check_flag(flag: str, after: Sequence[str], words: Sequence[str]) -> None:
    """UserError for a flag of Hydra's that would end in its usage, or do nothing."""
    value = next(iter(after), "")
    if flag in ("-c", "--cfg") and value not in ("job", "hydra", "all"):
        raise UserError(f"{flag} {value}: expected job, hydra or all; {habits.named(value) or habits.NAMED}")
    if flag in ("-p", "--package") and not {"-c", "--cfg"} & {each.partition("=")[0] for each in words}:
        raise UserError(f"{flag} {value}: shows a part of --cfg job; expected --cfg job before it, or key=value")


def bare(
    word: str, before: Sequence[str], after: Sequence[str], roots: Sequence[str], experiments: Sequence[str]
) -> str:
    """The override that a word without `=` stands for."""
    named = {argument.lstrip("+").partition("=")[0] for argument in before}
    if word in experiments and "experiment" not in named:
        return f"+experiment={word}"
    habits.check_word(word, after, roots)
    if "checkpoint" in roots and "checkpoint" not in named:
        return f"checkpoint={word}"
    from trainer.config.mistakes import nearest
    from trainer.config.verbs import VERBS

    near = nearest(word, [*experiments, *VERBS])
    raise UserError(f"{word}: expected key=value, in quotes where the value has spaces{near}")


def readable(argument: str, sweeping: bool = False) -> str:
    """An override whose value Hydra reads as it is meant."""
    found = OVERRIDE.fullmatch(argument)
    if not found:
        return argument
    key, value = found[1], found[2].strip()
    name = key.lstrip("+").rpartition(".")[2]
    if name in ("prompts", "interpolate") and value != "null":
        return f"{key}=[{','.join(quoted(each, literal=True) for each in texts(value))}]"
    if (name == "negative" or key in ("prompt", "caption")) and value != "null":
        return f"{key}={quoted(value, literal=True)}"
    if name == "seeds" and re.fullmatch(r"[\d-]+,[\d,-]+", value):  # a bare comma is a sweep to Hydra
        return f"{key}=[{value}]"
    if (key.lstrip("+") in PATHS or name in LAST) and value not in ("", "null") and not QUOTED.fullmatch(value):
        several = sweeping or (value.startswith("[") and value.endswith("]"))
        override, path = parsed(f"{key}={value}"), os.path.expanduser(value)
        if not (override and (several or override.value() == path)):
            return f"{key}={quoted(path)}"
    override = parsed(argument)
    if override is None:
        return f"{key}={plain(value)}"
    if override.is_sweep_override() and not sweeping:
        raise UserError(f"{argument}: -m in front runs once for each value; a list is {key}=[{value}], in quotes")
    return argument


def plain(value: str) -> str:
    """A value that Hydra cannot read, as text; items of a list one by one. What is half a list or a dict stays."""
    if value.startswith("[") and value.endswith("]"):
        return f"[{','.join(each if parsed(f'x={each}') else quoted(each) for each in items(value[1:-1]))}]"
    return value if value.startswith(("[", "{")) else quoted(value)


def texts(value: str) -> list[str]:
    """The texts of `a red apple, cut`, which is one, or of a list `[a red (large, round) apple, it's blue, "a, b"]`."""
    if not (value.startswith("[") and value.endswith("]")):
        return [value] if value else []
    return items(value[1:-1])


def items(inside: str) -> list[str]:
    """Split at commas; those within brackets and within quotes around an item are part of it."""
    nested = balanced(inside)
    found, start, at, depth = [], 0, 0, 0
    while at < len(inside):
        whole = QUOTED.match(inside, at) if not inside[start:at].strip() else None
        if whole and (whole.end() == len(inside) or inside[whole.end()] == ","):
            at = whole.end()
            continue
        letter = inside[at]
        if nested:
            depth += (letter in PAIRS.values()) - (letter in PAIRS)
        if letter == "," and depth == 0:
            found.append(inside[start:at].strip())
            start = at + 1
        at += 2 if inside[at : at + 2] == r"\," else 1
    found.append(inside[start:].strip())
    return found if inside.strip() else []


def balanced(text: str) -> bool:
    """Whether each bracket is closed in its turn: those of :) are not."""
    opened: list[str] = []
    for letter in text:
        if letter in PAIRS.values():
            opened.append(letter)
        elif letter in PAIRS and (not opened or opened.pop() != PAIRS[letter]):
            return False
    return not opened


def quoted(text: str, literal: bool = False) -> str:
    """As a value on Hydra's command line, whatever is in it; what is quoted stays so. literal: ${x} is no reference."""
    if QUOTED.fullmatch(text):
        return text.strip()
    text = text.replace(r"\,", ",")
    if literal:
        text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    return QuotedString(text, Quote.single).with_quotes()


def unquoted(value: str) -> str:
    """What Hydra makes of a text in quotes; any other is itself."""
    override = parsed(f"x={value}") if QUOTED.fullmatch(value) else None
    return str(override.value()) if override else value


@functools.cache
def parsed(argument: str) -> Any:
    """Hydra's reading of an override, None if it cannot read it."""
    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException:
        return None
