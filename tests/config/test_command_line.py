"""What people type, and what Hydra makes of it."""

from __future__ import annotations

import os

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from trainer.config.command_line import overrides, quoted, unquoted
from trainer.errors import UserError

ROOTS = ("checkpoint", "prompts", "seeds", "out", "batch_size")
PROMPTS = {
    "prompts=café": ["café"],
    "prompts=[красное яблоко, 苹果, 🍎]": ["красное яблоко", "苹果", "🍎"],
    "prompts=[介绍一下你。]": ["介绍一下你。"],
    "prompts=[it's red]": ["it's red"],
    "prompts=['tis red, a car]": ["'tis red", "a car"],
    "prompts=[a red (circle), a: b, {x}]": ["a red (circle)", "a: b", "{x}"],
    "prompts=[a star (large, red), a car]": ["a star (large, red)", "a car"],
    "prompts=[smile :), a car]": ["smile :)", "a car"],
    "prompts=a red apple, cut": ["a red apple, cut"],
    "prompts=[a red apple, a blue car]": ["a red apple", "a blue car"],
    'prompts=["a red apple, cut", a car]': ["a red apple, cut", "a car"],
    "prompts=['a \"b\", c', 'it\\'s']": ['a "b", c', "it's"],
    r"prompts=[a\, b, c]": ["a, b", "c"],
    "prompts='a red apple'": ["a red apple"],
    "prompts=[true, null, 1.10, 007]": ["true", "null", "1.10", "007"],
    "prompts=true": ["true"],
    "prompts=1.10": ["1.10"],
    "prompts=;&#!<~(){}=$%^*|\\/`": [";&#!<~(){}=$%^*|\\/`"],
    "prompts=[${seeds}, \\${x}]": ["${seeds}", "\\${x}"],
    "prompts=C:\\dir\\": ["C:\\dir\\"],
    "prompts=two\nlines\tand a tab": ["two\nlines\tand a tab"],
    "prompts=@ > é": ["@ > é"],
    "prompts=": [],
    "prompts=[]": [],
    "prompts=['']": [""],
    "prompt=a red apple": ["a red apple"],
}


def value(argument: str):
    """What a configuration holds after one override."""
    override = OverridesParser.create().parse_override(argument)
    return OmegaConf.to_container(OmegaConf.create({"value": override.value()}), resolve=True)["value"]


@pytest.mark.parametrize("typed", PROMPTS)
def test_prompts_are_what_was_typed(typed):
    [read] = overrides([typed], ROOTS)
    assert value(read) == PROMPTS[typed]
    assert overrides([read], ROOTS) == [read]  # as in the processes that a run starts


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["--prompt", "a red, round apple"], ["prompts=['a red, round apple']"]),
        (["--prompts=a car", "--seeds", "0-3"], ["prompts=['a car']", "seeds=0-3"]),
        (["prompts=[a", "red", "apple,", "a", "car]", "seeds=0"], ["prompts=['a red apple','a car']", "seeds=0"]),
        (["prompts=a", "red", "apple"], ["prompts=['a red apple']"]),
        (["some/run", "seeds=0,2,5-9"], ["checkpoint=some/run", "seeds=[0,2,5-9]"]),
        (["--checkpoint", "a", "--batch-size=4", "--compile"], ["checkpoint=a", "batch_size=4", "compile=true"]),
        (["-m", "checkpoint=a,b", "seeds=1"], ["-m", "checkpoint=a,b", "seeds=1"]),
        (["--cfg", "job", "-p", "data"], ["--cfg", "job", "-p", "data"]),
        (["out=null", "~logger"], ["out=null", "~logger"]),
    ],
)
def test_words_of_a_command_line(typed, read):
    assert overrides(typed, ROOTS) == read
    assert overrides(read, ROOTS) == read


@pytest.mark.parametrize(
    "key", ["data.source.path", "run_dir", "checkpoint", "out", "resume", "prompts_file", "x.path"]
)
@pytest.mark.parametrize(
    "path",
    [
        "Bücher",
        "新加卷2",
        "My Pictures (2024)",
        "a=b",
        "it's",
        "1.10",
        "2024",
        "true",
        "{0..3}.tar",
        "[1] a",
        "a,b",
        "C:\\x",
    ],
)
def test_a_path_may_be_called_anything(key, path):
    assert value(overrides([f"{key}={path}"])[0]) == path


def test_home_and_references_in_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/jo")
    assert value(overrides(["data.source.path=~/pics"])[0]) == "/home/jo/pics"
    assert overrides(["run_dir=${name}/x"]) == ["run_dir=${name}/x"]  # Hydra still fills it in
    assert overrides(["+data.source.path=[a.parquet,b.parquet]"]) == ["+data.source.path=[a.parquet,b.parquet]"]


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("logger.wandb.notes=it's", "it's"),
        ("name=größer", "größer"),
        ("logger.wandb.tags=[é, b, 1]", ["é", "b", 1]),
        ("data.batch_size=32", 32),
        ("objective.matching=4", 4),  # a weight there, a run of trainer.evaluate
        ("objective.betas=[0.0,0.99]", [0.0, 0.99]),
    ],
)
def test_other_values_are_read_by_hydra_where_it_can(typed, expected):
    assert value(overrides([typed])[0]) == expected


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["-n", "4"], "-n: no such flag"),
        (["--config-name", "cgan"], "experiment=NAME"),
        (["kimg=1,2"], "-m in front runs once for each value"),
        (["cgann"], "cgann: expected key=value.*; did you mean cgan"),
    ],
)
def test_what_is_nothing(typed, message):
    with pytest.raises(UserError, match=message):
        overrides(typed, ("experiment", "kimg"), ["cgan", "cvae"])


def test_an_experiment_by_its_name():
    assert overrides(["cgan", "kimg=1"], (), ["cgan"]) == ["+experiment=cgan", "kimg=1"]


def test_a_sweep_in_a_folder():
    assert overrides(["-m", "run_dir=~x/Bücher", "seed=0,1"], ("run_dir",))[1:] == [
        f"hydra.sweep.dir={quoted(os.path.expanduser('~x/Bücher'))}",
        "seed=0,1",
    ]


@pytest.mark.parametrize("text", ["a", "it's", "\\", "a\\'b", 'C:\\dir\\"', "新", "'", '"', "a, b"])
def test_quotes_and_back(text):
    assert unquoted(quoted(text)) == text
