"""What people of other programs type, on every verb: one line with what to say here."""

from __future__ import annotations

import shlex
from importlib import import_module

import pytest

from trainer.config import verbs
from trainer.config.command_line import flags, overrides

TRAIN = {
    "--prompt 'a red apple'": "python -m trainer.sample checkpoint=RUN 'prompts=[a red apple]'",
    "--prompts=x": "python -m trainer.sample checkpoint=RUN 'prompts=[x]'",
    "prompts_file=x": "python -m trainer.sample checkpoint=RUN",
    "--batch-size 64": "did you mean data.batch_size?",
    "lr=1e-4": "did you mean objective.optimizer.generator.lr, with experiment=cgan?",
    "optimizer=adamw": "objective.optimizer, which has an entry for each network",
    "--epochs 10": "did you mean kimg (",
    "--data pictures": "data=pictures: no such option; a path of yours is data=folder data.source.path=pictures",
    "data=cats.parquet": "a path of yours is data=parquet data.source.path=cats.parquet",
    "pictures": "pictures: a path of yours is data=folder data.source.path=pictures",
    "old": "old: a run; resume=old goes on with it",
    "--config x.yaml": "./conf/experiment/x.yaml is +experiment=x",
    "-c x.yaml": "-c x.yaml: expected job, hydra or all; an experiment is named, not a file",
    "--cfg": "expected job, hydra or all",
    "conf/experiment/small.yaml": "is +experiment=small",
    "-p cat": "-p cat: shows a part of --cfg job",
    "--checkpoint x": "did you mean resume=RUN to go on, or init=RUN for its weights alone?",
    "--model X": "did you mean objective, or experiment=NAME",
    "resume": "resume: a value is needed; say resume=RUN, a folder outputs/NAME/TIME",
    "--resume": "resume: a value is needed; say resume=RUN",
    "resume=": "resume: a value is needed; say resume=RUN",  # $RUN, unset
    "experiment small": "experiment: a value is needed; say +experiment=small",
    "+experiment small": "experiment: a value is needed; say +experiment=small",
    "seed": "seed: a value is needed; say seed=...",
    "help": "help: say --help",
    "trainer sample": "trainer: said once, before the verb: python -m trainer.sample ...",
    "smaple": "did you mean sample?",
    "smal": "did you mean small?",
    "generate": "generate: a verb is the first word, here python -m trainer.sample ... or trainer sample ...",
    "fit": "here python -m trainer ... or trainer train ...",
    "seed=1 evaluate": "evaluate: a verb is the first word",
    "--output d": "did you mean run_dir?",
    "--hydra.verbos x": "hydra.verbos: no such key",
}
SAMPLE = {
    "lr=1e-4": "in training it is objective.optimizer.generator.lr=1e-4: python -m trainer +experiment=NAME ...",
    "--epochs 5": "in training it is kimg (",
    "trainer.max_epochs=3": "in training it is kimg (",
    "data=pictures": "in training it is data=pictures",
    "data.path=p": "in training it is data.source.path=p",
    "strategy=ddp": "in training it is strategy=ddp",
    "experiment=small": "what it trained is checkpoint=RUN",
    "+experiment small": "what it trained is checkpoint=RUN",
    "--resume x": "did you mean checkpoint=x?",
    "resume": "did you mean checkpoint=RUN?",
    "--text x": "did you mean 'prompts=[x]'?",
    "--model X": "did you mean checkpoint?",
    "--seed 1": "did you mean seeds?",
    "--output d": "did you mean out?",
    "--gpus 2": "did you mean gpus_per_node?",
    "prompts": "prompts: a value is needed",
    "sample": "sample: a verb is the first word",
    "": "checkpoint: a value is needed; say checkpoint=RUN",
}
EVALUATE = {
    "--prompt x": "python -m trainer.sample checkpoint=RUN 'prompts=[x]'",
    "data=pictures": "where the data of a run lie now is data.source.path=pictures",
    "--gpus 2": "torchrun --nproc-per-node=N -m trainer.evaluate",
    "--output d": "trainer.evaluate keeps them in RUN/metrics.json",
    "--precision 16": "checkpoint: a value is needed",  # and then that it is bfloat16 or null
}
OTHERS = {
    "compress --batch-size 4": "did you mean batch_sizes?",
    "compress --precision 16": "in training it is trainer.precision=16",
    "export --text x": "did you mean 'prompts=[x]'?",
    "speed --prompt x": "python -m trainer.sample checkpoint=RUN 'prompts=[x]'",
    "benchmark --gpus 2": "did you mean gpus_per_node?",
    "report": "the following arguments are required: RUN; see python -m trainer.report --help",
    "report RUN --output=x": "unrecognized arguments: --output=x; did you mean --out?",
    "report RUN precision=16": "unrecognized arguments: --precision 16; see python -m trainer.report --help",
    "dashboard": "one of the arguments --push --dump is required; see python -m trainer.dashboard --help",
    **{f"sample {words}": answer for words, answer in SAMPLE.items()},
    **{f"evaluate {words}": answer for words, answer in EVALUATE.items()},
}


@pytest.mark.parametrize("words", [*TRAIN, *OTHERS])
def test_a_habit_is_answered_in_a_line(project, command, words):
    (project / "pictures").mkdir()
    (project / "old").mkdir()
    (project / "old/config.yaml").touch()
    result = command(*shlex.split(words))
    assert {**TRAIN, **OTHERS}[words] in result.err
    assert (result.code, result.err.count("\n"), result.out) == (2, 1, "")


def test_words_of_hydra_and_groups_stay():
    words = ["hydra.sweep.dir=x", "hydra/launcher=basic", "+compression@passes.x=fold", "--cfg", "job"]
    assert overrides([*words, "-p", "data"], ["checkpoint", "passes"]) == [*words, "-p", "data"]
    assert overrides(["resume=null", "data={}"], ["resume", "objective", "data"]) == ["resume=null", "data={}"]


def test_a_flag_with_its_value_stays_one():
    assert flags(["RUN", "--out=x.html", "out=y.html"]) == ["RUN", "--out=x.html", "--out", "y.html"]


def test_alone_it_prints_what_one_can_do(project, command):
    result = command()
    assert (result.code, result.err) == (0, "")
    commands = [line.strip() for line in result.out.splitlines() if line.startswith("    ")]
    assert len(commands) == 5
    for line in commands:
        python, m, module, *arguments = shlex.split(line)
        assert (python, m, module.partition(".")[0]) == ("python", "-m", "trainer")
        verb = module.split(".")[1:]
        arguments = [a.replace("cgan", "small") for a in arguments]
        shown = command(*verb, *arguments, "--cfg", "job")
        assert shown.code == 0, shown.err


def test_each_verb_is_a_module(project, command):
    for verb, module in verbs.VERBS.items():
        assert callable(import_module(module).main)
        assert command(verb, "--version").out.startswith("text-image-trainer ")
    assert set(verbs.OTHERS.values()) <= set(verbs.VERBS)
    assert not set(verbs.OTHERS) & set(verbs.VERBS)


def test_help_is_that_of_the_verb_whatever_else_is_typed(project, command):
    for verb in ("sample", "caption", "edit", "evaluate", "compress", "export", "speed"):
        shown = command(verb, "--help")
        assert (shown.code, shown.err) == (0, "")
        assert f"python -m trainer.{verb} checkpoint=RUN" in shown.out
        assert command(verb, "-h", "no_such_key=1").out == shown.out
