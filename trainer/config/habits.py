"""Habits of other programs, answered before Hydra reads them: keys of other verbs, files for names, words without =."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from trainer.config.synonyms import IN_TRAINING, MEANT
from trainer.config.verbs import OTHERS, VERBS
from trainer.errors import UserError

PROMPTS = {"prompt", "prompts", "caption", "captions", "prompts_file", "prompt_file", "text"}
CONFIGS = {"config", "cfg", "config_file", "config_name", "config_path"}
ADDED = ("experiment", "scale")  # groups that reach everywhere
RUNS = {"resume", "init", "teacher", "tokenizer", "checkpoint"}  # keys whose value is a run
OF_TRAINING = ("kimg", "objective", "data", "text", "strategy", "trainer", "callbacks", "logger", "scale", "run_dir")
GPUS = {"gpus", "num_gpus", "n_gpus", "ngpus", "gpus_per_node", "nodes", "launch"}
NAMED = "a configuration is named by experiment=NAME, and changed by key=value"


def needed(key: str, example: str = "") -> UserError:
    """For a key without a value."""
    value = "RUN, a folder outputs/NAME/TIME" if key in RUNS else example or "..."
    return UserError(f"{key}: a value is needed; say {'+' * (key in ADDED)}{key}={value}")


def check(key: str, value: str, roots: Sequence[str]) -> None:
    """UserError for `key=value` that cannot be of the verb with keys `roots`, where it is plain what was meant."""
    key = key.lstrip("+")
    root = key.partition(".")[0].partition("@")[0]
    if not roots:
        return
    if key in RUNS and key in roots and not value:  # $RUN, unset, would begin a new run
        raise needed(key)
    if "objective" in roots:  # it trains
        if key in PROMPTS - {"text"} and key not in roots:
            raise UserError(f"{key}: pictures of a prompt are python -m trainer.sample checkpoint=RUN {prompts(value)}")
        if key in CONFIGS:
            raise UserError(f"{key}={value}: {named(value) or NAMED}")
        return
    if key == "data" and key in roots and not value.startswith("{"):
        raise UserError(f"{key}={value}: where the data of a run lie now is data.source.path={value}")
    if key == "text" and "prompts" in roots:
        raise UserError(f"{key}: no such key; did you mean {prompts(value)}?")
    if root in roots or ("prompts" in roots and key in PROMPTS):
        return
    if key in PROMPTS:
        raise UserError(f"{key}: pictures of a prompt are python -m trainer.sample checkpoint=RUN {prompts(value)}")
    if key in RUNS and "checkpoint" in roots:
        raise UserError(f"{key}: no such key; did you mean checkpoint={value or 'RUN'}?")
    if key in ("experiment", *CONFIGS):
        raise UserError(f"{key}: of training, python -m trainer +experiment=NAME; what it trained is checkpoint=RUN")
    if key in GPUS and "gpus_per_node" not in roots:
        raise UserError(f"{key}: no such key; torchrun --nproc-per-node=N -m trainer.evaluate measures on N GPUs")
    if "out" not in roots and "run_dir" in MEANT.get(key, ()):
        raise UserError(f"{key}: no such key; figures are printed, and trainer.evaluate keeps them in RUN/metrics.json")
    if theirs := of_training(key, roots):
        example = theirs if "=" in theirs or " " in theirs else f"{theirs}={value}"
        raise UserError(f"{key}: no such key; in training it is {example}: python -m trainer +experiment=NAME ...")


def of_training(key: str, roots: Sequence[str]) -> str:
    """What `key`, which is not of the verb with keys `roots`, is in a training; '' if unknown or of the verb by another
    name."""
    root, _, last = key.split(".")[0], *key.rpartition(".")[1:]
    if root != key and root not in (*OF_TRAINING, "optimizer", "model"):
        return ""
    meant = MEANT.get(last, ())
    if root in (key, "trainer") and any(name.partition(" ")[0] in roots for name in meant):
        return ""
    theirs = next((name for name in meant if name.startswith(OF_TRAINING)), "")
    return theirs or IN_TRAINING.get(last, "") or (key if root in OF_TRAINING else "")


def check_word(word: str, after: Sequence[str], roots: Sequence[str]) -> None:
    """UserError for a word without `=`, followed by the words `after`, where it is plain what was meant."""
    if not roots or (os.path.exists(word) and "objective" not in roots):
        return
    key, following = word.lstrip("+"), next(iter(after), "")
    if key == "help":
        raise UserError(f"{word}: say --help")
    if key in (*ADDED, *RUNS, *roots) and key != "trainer":
        check(key, following, roots)
        raise needed(key, following if following.isidentifier() else "")
    if "objective" not in roots and key not in VERBS:
        return
    if key == "trainer":
        raise UserError(f"{word}: said once, before the verb: python -m trainer.{verb(following) or 'sample'} ...")
    if name := verb(key):
        module = "python -m trainer" if name == "train" else f"python -m trainer.{name}"
        raise UserError(f"{word}: a verb is the first word, here {module} ... or trainer {name} ...")
    if remark := named(word):
        raise UserError(f"{word}: {remark}")
    if (Path(word) / "config.yaml").is_file():
        raise UserError(f"{word}: a run; resume={word} goes on with it, init={word} begins a new one with its weights")
    if os.path.exists(word):
        raise UserError(f"{word}: {data(word)}")


def verb(word: str) -> str:
    return word if word in VERBS else OTHERS.get(word, "")


def prompts(value: str) -> str:
    inside = value if value.startswith("[") else f"[{value or 'a red apple'}]"
    return f"'prompts={inside}'"


def named(file: str) -> str:
    """What to say for the file of a configuration, '' for another."""
    path = Path(file)
    if path.suffix not in (".yaml", ".yml"):
        return ""
    return f"an experiment is named, not a file: ./conf/experiment/{path.stem}.yaml is +experiment={path.stem}"


def data(path: str) -> str:
    """What to say for a file or folder where a data set was meant."""
    kind = {".parquet": "parquet", ".tar": "webdataset"}.get(Path(path).suffix, "folder")
    return f"a path of yours is data={kind} data.source.path={path}"
