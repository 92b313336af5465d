"""Composition and checks, one piece at a time; test_cli.py has them as a user meets them."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from trainer.config import mistakes, signatures, synonyms
from trainer.config.entry import Training, by_pixels, conf_folders, entry, group_overrides, steps
from trainer.errors import UserError
from trainer.evaluate import Evaluation
from trainer.runs import run_folder
from trainer.sample import Sampling
from trainer.speed import Speed

CONF = Path(__file__).parents[2] / "conf"
OPTIONS = mistakes.options([CONF])
EVERYWHERE = ("experiment", "scale", "hydra/sweeper", "compression")  # no part of a run has their name
# these need an earlier run: tests/test_compress.py, tests/test_experiments.py
TAUGHT = {"distill", "distill_data", "distill_text", "dalle", "maskgit", "gat_latents", "reward", "reward_tokens"}
EXPERIMENTS = sorted({*OPTIONS["experiment"]} - TAUGHT)
# where a part stands that has no place of its own at the root
INSIDE = {
    "augment": ("gan", "objective.augment"),
    "backbone": ("gan", "callbacks.evaluation.backbone"),
    "autoencoder": ("vae", "objective.autoencoder"),
    "bottleneck": ("tokenizer", "objective.autoencoder.bottleneck"),
    "discriminator": ("gan", "objective.discriminator"),
    "discriminator=attngan": ("attngan", "objective.discriminator"),  # has as many stages as its generator
    "encoder": ("vae", "objective.autoencoder.encoder"),
    "generator=unet": ("restoration", "objective.generator"),
    "generator=residual_sr": ("restoration", "objective.generator"),
    "generator=coarse_to_fine": ("restoration", "objective.generator"),
    "task": ("restoration", "objective.generator.task"),
    "captioner": ("captioning", "objective.captioner"),
    "captioner=varied": ("captioning_vae", "objective.captioner"),
    "generator": ("gan", "objective.generator"),
    "reward": ("reward", "objective.reward"),
}


@pytest.fixture
def compose(command, tmp_path, monkeypatch):
    """The checked configuration of the packaged conf for some arguments."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> DictConfig:
        composed: list[DictConfig] = []
        result = command(*arguments, main=lambda: entry(composed.append, "config", Training))
        assert result.code == 0, result.err
        return composed[0]

    return run


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_composes_and_says_what_it_is(compose, experiment):
    cfg = compose(f"experiment={experiment}")
    assert cfg.name == experiment
    assert mistakes.title(OPTIONS["experiment"][experiment]), "a header comment, for --help"
    assert cfg.trainer.max_steps == -(-cfg.kimg * 1000 // cfg.data.batch_size)


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_experiment_takes_other_data_in_place_of_its_own(compose, experiment):
    data = compose(f"experiment={experiment}", "data=folder", "data.source.path=pictures").data
    assert "max_objects" not in data.source


@pytest.mark.parametrize("chosen", ["objective=attngan", "discriminator@objective.discriminator=attngan"])
def test_a_part_that_needs_another_names_it(command, tmp_path, monkeypatch, chosen):
    monkeypatch.chdir(tmp_path)
    result = command("experiment=cgan_shapes", chosen, main=lambda: entry(print, "config", Training))
    assert result.code == 2
    expected = "'objective.generator.stages' not found; choose another part, or generator@objective.generator=attngan\n"
    assert result.err.endswith(expected)


def test_a_part_of_the_root_that_another_needs_is_named(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = command("objective=captioning", "name=x", "kimg=1", main=lambda: entry(print, "config", Training))
    assert result.code == 2
    assert result.err.endswith("'text.network.vocabulary' not found; choose another part, or text=pieces or scratch\n")


@pytest.mark.parametrize("scale", [name for name in OPTIONS["scale"] if name.removeprefix("gpu_") not in TAUGHT])
def test_scale_changes_an_experiment_wherever_it_stands(compose, scale):
    family = scale.removeprefix("gpu").lstrip("_")  # that it is for
    experiment = {"": "cgan", "vae": "cvae", "equal_cost": "r3gan"}.get(family, family)
    plain = OmegaConf.to_container(compose(f"experiment={experiment}"))
    scaled = OmegaConf.to_container(compose(f"experiment={experiment}", f"+scale={scale}"))
    assert scaled != plain
    assert OmegaConf.to_container(compose(f"scale={scale}", f"+experiment={experiment}")) == scaled


def test_a_scale_by_name_says_which_names_it_has(command, compose):
    assert compose("experiment=r3gan", "+scale=equal_cost").kimg == 12
    refused = command("experiment=cvae", "+scale=equal_cost", main=lambda: entry(print, "config", Training))
    assert refused.code == 2
    assert refused.err.startswith("name=cvae has no value here: expected one of cgan, dcgan, gat, ")


@pytest.mark.parametrize("experiment, gamma", [("cgan", 0.2), ("cgan_shapes64", 0.2), ("r3gan", 0.2), ("gat", 0.1)])
def test_r1_goes_with_the_number_of_pixels_unless_it_is_said(compose, experiment, gamma):
    for size in (32, 64, 256):
        objective = compose(f"experiment={experiment}", f"data.resolution={size}").objective
        assert objective.r1 == pytest.approx(gamma * (size / 32) ** 2)
        assert objective.r2 in (0, pytest.approx(objective.r1))
    objective = compose(f"experiment={experiment}", "data.resolution=[48,64]").objective
    assert objective.r1 == pytest.approx(gamma * 3)
    assert compose(f"experiment={experiment}", "data.resolution=64", "objective.r1=0.3").objective.r1 == 0.3
    with pytest.raises(UserError, match="resolution=0"):
        by_pixels(gamma, 0)


@pytest.mark.parametrize("experiment", ["cgan", "cgan_shapes"])  # with an augmentation and without
def test_a_part_is_left_out_by_null(compose, experiment):
    assert compose(f"experiment={experiment}", "augment@objective.augment=ada").objective.augment
    assert not compose(f"experiment={experiment}", "augment@objective.augment=null").objective.get("augment")


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_callbacks_stand_in_order(compose, experiment):
    """What measures sees the averages of this step, and stands before what uses its values; pauses come late."""
    wanted = ["heartbeat", "ema", "posthoc", "log", "throughput", "samples", "evaluation", "retrieval", "captions"]
    wanted += ["stop", "alerts", "checkpoint", "artifacts", "progress"]
    assert list(compose(f"+experiment={experiment}").callbacks) == wanted


@pytest.mark.parametrize(("group", "option"), [(g, o) for g in OPTIONS if g not in EVERYWHERE for o in OPTIONS[g]])
def test_every_option_of_every_group_composes(compose, group, option):
    objective, place = INSIDE.get(f"{group}={option}") or INSIDE.get(group, ("gan", group))
    override = f"{group}={option}" if place == group else f"{group}@{place}={option}"
    arguments = [] if group == "objective" else [f"objective={objective}"]
    if override == "objective=distill_text":  # its generator is the teacher's, and here is none
        arguments.append("generator@objective.generator.generator=dcgan")
    if group == "captioner" or override.removeprefix("objective=") in ("captioning", "captioning_vae", "textgan"):
        arguments.append("text=pieces")
    if option == "domains":
        arguments += ["data.source.source.path=a", "data.source.target.path=b"]
    elif group == "data" and not option.startswith(("emoji", "shapes")):
        arguments.append("data.source.path=somewhere")
    cfg = compose(*arguments, override, "name=x", "kimg=1")
    assert OmegaConf.select(cfg, place) is not None


@pytest.mark.parametrize(
    ("word", "known", "expected"),
    [
        ("data.resolutoin", ["data.resolution", "data.source"], "; did you mean data.resolution?"),
        ("resolution", ["data.resolution", "kimg"], "; did you mean data.resolution?"),
        ("dat.resolution", ["data.resolution", "data"], "; did you mean data.resolution?"),
        ("a.width", ["b.width", "a.widths"], "; did you mean a.widths?"),  # a sibling before a namesake
        ("quantum", ["single", "ddp"], ""),
        ("foo", ["foo", "foo.bar"], ""),  # not itself
    ],
)
def test_nearest(word, known, expected):
    assert mistakes.nearest(word, known) == expected


def test_synonyms_name_keys_that_there_are(compose):
    known = {key for name in ("cgan", "cvae", "matching") for key in mistakes.keys(compose(f"+experiment={name}"))}
    known |= {*OPTIONS}
    for file, schema in (("sample", Sampling), ("evaluate", Evaluation), ("speed", Speed)):
        known |= {*mistakes.keys(OmegaConf.load(CONF / f"{file}.yaml")), *(each.name for each in fields(schema))}
    known |= {"data.source.path"}  # of data=folder and its like
    for word, names in synonyms.MEANT.items():
        for name in names:
            assert synonyms.suggestion(word, {re.split("[ =]", name)[0]}) == name
            assert re.split("[ =]", name)[0] in known, f"{word}: there is no {name}"
    assert synonyms.suggestion("precision", known) == "trainer.precision"
    assert synonyms.suggestion("data.path", known - {"data.source.path", "checkpoint"}).startswith("data=folder ")


def test_title_is_the_first_line_of_the_header(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("# @package _global_\n# one line\n# more\nname: x\n")
    assert mistakes.title(file) == "one line"
    file.write_text("name: x\n# late\n")
    assert mistakes.title(file) == ""


def test_steps_cover_the_budget():
    assert steps(1, 64) == 16
    assert steps(0.064, 64) == 1
    with pytest.raises(UserError, match="expected more than 0"):
        steps(1, 0)


def test_groups_that_reach_everywhere_take_turns_in_their_places():
    given = ["-m", "scale=gpu", "seed=1,2", "+experiment=x", "kimg=1"]
    assert group_overrides(given) == ["-m", "+experiment=x", "seed=1,2", "+scale=gpu", "kimg=1"]


def test_conf_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert conf_folders() == [CONF]
    (tmp_path / "conf").mkdir()
    assert conf_folders() == [tmp_path / "conf", CONF]
    monkeypatch.chdir(CONF.parent)
    assert conf_folders() == [CONF]  # in a checkout ./conf is the packaged one


class Base:
    def __init__(self, width: int = 1, rate: float | None = None) -> None: ...


class Network(Base):
    def __init__(self, depth: int, later: Undefined = None, **base) -> None: ...  # type: ignore[name-defined] # noqa: F821


def anything(**options): ...


def test_parameters_reach_through_the_bases():
    accepted = signatures.parameters(Network)
    assert accepted is not None
    assert set(accepted) == {"self", "depth", "later", "width", "rate"}
    assert accepted["width"] is int
    assert signatures.parameters(anything) is None


@pytest.mark.parametrize(
    ("value", "hint", "right"),
    [
        (1, int, True),
        (1, float, True),
        (None, float | None, True),
        (2, float | None, True),
        ("a", str | int, True),
        ([1], list, True),  # only plain types are looked at
        (1.5, int, False),
        ("1", int, False),
        (True, int, False),
        (1, bool, False),
        (None, int, False),
        ("a", float | None, False),
    ],
)
def test_types(value, hint, right):
    if right:
        signatures.check_type("key", value, hint)
    else:
        with pytest.raises(UserError, match=f"key={value}: expected"):
            signatures.check_type("key", value, hint)


def test_a_part_that_lacks_a_package_names_it(tmp_path, monkeypatch):
    (tmp_path / "needy.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="needs the package a_package_that_is_not_there"):
        signatures.find("data", "needy.Thing")


def test_torchrun_ranks_agree_on_a_folder(tmp_path, monkeypatch):
    from torch.distributed import TCPStore

    server = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(server.port))
    monkeypatch.setenv("RANK", "0")
    first = run_folder.agree_on_one(Path("outputs/x/now"))
    assert first == Path("outputs/x/now")
    assert run_folder.agree_on_one(Path("outputs/x/later")) == first  # started again
    monkeypatch.setenv("RANK", "1")
    assert run_folder.agree_on_one(Path("outputs/x/a second later")) == first


def test_a_folder_without_files_is_not_left_behind(tmp_path):
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full/config.yaml").touch()
    run_folder.remove_if_empty(tmp_path / "empty")
    run_folder.remove_if_empty(tmp_path / "full")
    assert [folder.name for folder in tmp_path.iterdir()] == ["full"]


@pytest.mark.parametrize("option", sorted(OPTIONS["compression"]))
def test_every_pass_has_its_place(option):
    file = CONF / "compression" / f"{option}.yaml"
    assert file.read_text().startswith(f"# @package passes.{option}\n# ")
    assert "_target_" in OmegaConf.load(file) or option == "finetune"


def test_checkpoints_may_be_left_out(compose):
    """What alerts and a sweep look at was named there."""
    alerts = compose("+experiment=cgan", "callbacks.checkpoint=null").callbacks.alerts
    assert (alerts.metric, alerts.better) == ("val/fd_effnet", "lower")
