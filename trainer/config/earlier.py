"""What a command line takes from earlier runs: resume=RUN goes on, init=RUN starts from, teacher=RUN
and tokenizer=RUN are learned from."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from trainer.config.command_line import quoted, unquoted
from trainer.config.entry import conf_folders
from trainer.config.mistakes import options
from trainer.errors import UserError
from trainer.runs import allowlist
from trainer.runs.export_files import PRETRAINED, TOKENS, tokenizer_of
from trainer.runs.judges import taught_by
from trainer.runs.run_folder import BOX, COMPOSED, PLACE, VARIABLE, boxed

KEPT = {"data": ("resolution", "batch_size", "num_workers", "cache_dir")}  # what networks and machine hang on
TRAINED = {  # key -> experiments that need it, and the group of the network that they take of it
    "teacher": (("distill", "distill_data", "distill_text"), "discriminator"),
    "tokenizer": (("dalle", "maskgit", "gat_latents"), "autoencoder"),
    "init": (("reward", "reward_tokens"), "generator"),  # with any other experiment it gives weights alone
}
EXAMPLES = {"teacher": "cgan", "tokenizer": "fsq", "init": "cgan"}
WORDED = "distill_text"  # the experiment in which the teacher's text encoder is learned, and its generator stays
LATENTS, STUDENT = "objective.generator.latent_channels", 64  # of a student, and what it has by default
FEATURE = "objective.feature"  # weight of what the teacher's own discriminator or encoder sees
GROUPS = ("objective", "data", "text", "strategy", "trainer", "callbacks", "logger")


def register_earlier_runs(arguments: list[str]) -> None:
    """Makes what earlier runs hold available to Hydra; may append to the arguments."""
    allowlist.allow(value(arguments, "allow"))
    for at, (key, given) in enumerate([(a.partition("=")[0], unquoted(a.partition("=")[2])) for a in arguments]):
        if key in TRAINED and given in boxed() and not Path(given).exists():
            arguments[at] = f"{key}={quoted(str(BOX / given))}"
    register_saved_config(arguments)
    register_trained(arguments)


def register_saved_config(arguments: list[str]) -> None:
    """For `resume=RUN` and `init=RUN`: where no experiment is named, the run has its configuration, and with resume its
    folder.

    It becomes an experiment that leaves nothing of the default groups, so that overrides work as on any other.
    """
    resume, init = value(arguments, "resume"), value(arguments, "init")
    given = resume or init
    if not given:
        return
    path = Path(given).expanduser()
    own = Path(os.environ.get(VARIABLE, ""))
    if not resume and VARIABLE in os.environ and (own / COMPOSED).is_file():
        path = own  # requeued: the run that began so, whatever became of the other
    folder = next((f for f in (path, *path.parents) if (f / COMPOSED).is_file()), None) if path.exists() else None
    experiment = [a for a in arguments if a.lstrip("+").startswith("experiment=")]
    if folder is None and experiment and (path.exists() if init else path.is_file()):
        return  # a checkpoint without its folder: a new run from it
    if folder is None:
        key = "resume" if resume else "init"
        gone = "" if path.exists() else ", and nothing is there"
        raise UserError(f"{key}={path}: expected a run folder (with {COMPOSED} in it) or a checkpoint in one{gone}")
    if resume and not any(a.startswith("run_dir=") for a in arguments):
        os.environ[VARIABLE] = str(folder)
    if not experiment:  # beside the path: flags may follow, and argparse takes overrides on one side of them only
        at = max(n for n, a in enumerate(arguments) if a.startswith("resume=" if resume else "init="))
        arguments.insert(at + 1, "+experiment=resumed")
    if "+experiment=resumed" in arguments:  # also in the children of such a run
        node = saved_config(folder)
        chosen = drop_chosen_groups(node, arguments)
        node["defaults"] = [*({f"override /{group}": None} for group in GROUPS if group not in chosen), "_self_"]
        ConfigStore.instance().store("resumed", node, group="experiment", package="_global_")


def drop_chosen_groups(node: dict[str, Any], arguments: list[str]) -> set[str]:
    """Takes out of a saved configuration what the command line chooses anew by `group=option`; the groups of the root
    among them.

    A group that the saved configuration has no defaults list for, as backbone@callbacks.evaluation.backbone=inception,
    is appended to its own.
    """
    groups, chosen = options(conf_folders()), set()
    choices = [re.fullmatch(r"\+*([\w/]+)(?:@([\w.]+))?=(.*)", argument) for argument in arguments]
    found = [(at, m[1], m[2] or m[1].replace("/", "."), m[3]) for at, m in enumerate(choices) if m and m[1] in groups]
    for _, _, package, _ in found:
        if package in GROUPS:
            chosen.add(package)
            node[package] = {key: node[package][key] for key in KEPT.get(package, ()) if key in (node[package] or {})}
    for at, group, package, option in found:
        root, *_ = package.split(".")
        if root not in GROUPS or root in chosen:
            continue
        *parents, last = package.split(".")
        holder: Any = node
        for name in parents:
            holder = holder.get(name) if isinstance(holder, dict) else None
        if isinstance(holder, dict):
            holder.pop(last, None)
            arguments[at] = f"+{group}@{package}={option}"
    return chosen


def register_trained(arguments: list[str]) -> None:
    """For `teacher=RUN`, `tokenizer=RUN` and, of a reward, `init=RUN`: data, text and network of it become the options
    `of_teacher` and so on of their groups."""
    for key, (experiments, group) in TRAINED.items():
        given = value(arguments, key)
        names = tuple(f"experiment={name}" for name in experiments)
        named = [a.lstrip("+") for a in arguments if a.lstrip("+").startswith(names)]
        if named and not given:
            raise UserError(f"{named[0]}: name the run to learn from, as in {key}=outputs/{EXAMPLES[key]}")
        if not given or (key == "init" and not named):
            continue
        path = Path(given).expanduser()
        if not path.exists():
            raise UserError(f"{key}={path} does not exist: expected a run folder, a checkpoint in one, or an export")
        at = max(number for number, argument in enumerate(arguments) if argument.startswith(f"{key}="))
        arguments[at] = f"{key}={quoted(str(path.absolute()))}"  # as it is kept in the run, wherever that goes on
        files = (each / name for each in (path, *path.parents) for name in ("config.yaml", "config.json"))
        file = next(filter(Path.is_file, files), None)
        saved: Any = OmegaConf.to_container(OmegaConf.load(file)) if file else {}
        saved = allowlist.check_config(saved.get("config", saved), file or path)
        encoder = (saved.get("text") or {}).get("encoder") or {}
        if file and file.name == "config.json" and encoder.get("_target_") == TOKENS:
            encoder["path"] = str(tokenizer_of(file))
        if not isinstance(saved.get("objective"), dict) or "data" not in saved or "text" not in saved:
            expected = "the config.yaml of a run or the config.json of an export beside it"
            raise UserError(f"{key}={path}: expected {expected}")
        network = saved["objective"].get(group)
        if key == "tokenizer" and "bottleneck" not in (network or {}):
            raise UserError(f"{key}={path} has no codes: give a run of experiment={EXAMPLES[key]}, vqvae or vqgan")
        if network is None or network.get("_partial_"):  # there is none of images; of scenes a wider one ran away
            network = {"defaults": ["dcgan", "_self_"], "base_channels": 16, "max_channels": 128}
        nodes = {"data": saved["data"], "text": saved["text"], group: network, "generator": drawing(saved["objective"])}
        for name, node in nodes.items():
            ConfigStore.instance().store(f"of_{key}", node, group=name)
        if any(argument.lstrip("+") == f"experiment={WORDED}" for argument in arguments):
            arguments[at + 1 : at + 1] = read_by(saved["text"], f"{key}={path}")
        elif key == "teacher":
            if not value(arguments, LATENTS) and (own := latents_of(saved["objective"])) != STUDENT:
                arguments.insert(at + 1, f"{LATENTS}={own}")  # both draw from the same
            if not value(arguments, FEATURE) and not {"discriminator", "autoencoder"} & {*saved["objective"]}:
                arguments.insert(at + 1, f"{FEATURE}=0")  # a prior of codes, or an export: none of its networks sees
        if taught := list(taught_by([saved["objective"], saved.get("backbones")])):  # and so may not judge the new run
            arguments.insert(at + 1, f"backbones=[{','.join(map(written, taught))}]")


def read_by(text: dict[str, Any], name: str) -> list[str]:
    """Arguments by which a student reads what a frozen text encoder reads. UserError if `text` has none."""
    encoder = text["encoder"]
    if encoder.get("_target_") != PRETRAINED:
        remedy = "give a run of text=minilm, bert, clip or alike"
        raise UserError(f"{name} has no frozen text encoder to learn from: {remedy}")
    given = {f"text.{key}": text.get(key) for key in ("width", "max_tokens", "uncaptioned", "caption_dropout")}
    given |= {f"text.encoder.{key}": encoder.get(key) for key in ("name", "path")}
    return [f"{key}={quoted(str(value))}" for key, value in given.items() if value is not None]


def drawing(objective: dict[str, Any]) -> dict[str, Any]:
    """The network of an objective that draws, by its configuration."""
    return objective.get("generator") or (objective.get("autoencoder") or {}).get("decoder") or {}


def latents_of(objective: dict[str, Any]) -> int:
    """How many values the network that draws takes, by its configuration; a student's number where it does not say.

    Those of a caption's Gaussian, as of attngan, are drawn with the others.
    """
    network = drawing(objective)
    while inside := network.get("network") or network.get("generator"):  # of an export, behind a text encoder
        network = inside
    if tokenizer := network.get("tokenizer"):  # a number for each code, or two in each parallel step
        return int(tokenizer["encoder"]["size"]) ** 2 * (2 * int(network.get("num_steps") or 0) or 1)
    own = network.get("latent_channels")
    return int(own) + int(network.get("caption_channels") or 0) if own else STUDENT


def written(node: dict[str, Any]) -> str:
    """A mapping of plain values in Hydra's grammar."""
    values = {key: quoted(value) if isinstance(value, str) else json.dumps(value) for key, value in node.items()}
    return "{" + ",".join(f"{key}:{value}" for key, value in values.items()) + "}"


def saved_config(folder: Path) -> dict[str, Any]:
    """The configuration of a run as it was composed, without where it ran. UserError if it names what it may not.

    One that was kept to the CPU stays there: its trainer.devices are processes.
    """
    saved: Any = OmegaConf.to_container(OmegaConf.load(folder / COMPOSED))
    kept = saved
    if isinstance(saved, dict):
        on_cpu = saved.get("gpus_per_node") == 0
        kept = {key: node for key, node in saved.items() if key not in PLACE or (on_cpu and key == "gpus_per_node")}
    return allowlist.check_config(kept, folder / COMPOSED, is_composed=True)


def value(arguments: Sequence[str], key: str) -> str:
    """What a command line gives to a key of the root, '' if nothing or null."""
    given = [unquoted(a.partition("=")[2]) for a in arguments if a.startswith(f"{key}=")]
    return given[-1] if given and given[-1] != "null" else ""
