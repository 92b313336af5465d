"""From a command line to a checked configuration: schema, search path, and the entry point that all verbs share."""

from __future__ import annotations

import math
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from string import Template
from typing import Any

import hydra
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import MISSING, DictConfig, OmegaConf

from trainer.config import command_line, mistakes, signatures, sweeps
from trainer.errors import UserError
from trainer.process import distribution, ranks, signals
from trainer.runs import allowlist, run_folder
from trainer.size import Resolution, Size


@dataclass
class Text:
    """Keys of `text`: how captions become a condition."""

    encoder: Any = MISSING
    network: Any = MISSING
    width: int = MISSING
    max_tokens: int = MISSING
    uncaptioned: str = "error"
    caption_dropout: float = 0.0


@dataclass
class Training:
    """Keys of a training run. What is inside a node is checked against the signature of its `_target_`."""

    name: str = MISSING
    kimg: float = MISSING
    seed: int = 0
    resume: str | None = None
    init: str | None = None
    teacher: str | None = None
    tokenizer: str | None = None
    matcher: str | None = None
    backbones: Any = None
    allow: Any = None
    run_dir: str = "${run_dir:${name}}"
    launch: Any = None
    nodes: int = 1
    gpus_per_node: Any = "auto"
    images_per_gpu: int | None = None
    tf32: bool | None = None
    objective: Any = MISSING
    data: Any = MISSING
    text: Text = MISSING
    strategy: Any = MISSING
    trainer: Any = MISSING
    callbacks: Any = MISSING
    logger: Any = MISSING


def conf_folders() -> list[Path]:
    """Where configs are looked for, first match wins: the user's ./conf, then the packaged one."""
    here = Path(__file__).parents[1]
    packaged = here / "conf" if (here / "conf").is_dir() else here.parent / "conf"  # in a wheel, in a checkout
    own = Path.cwd() / "conf"
    return [own, packaged] if own.is_dir() and not own.samefile(packaged) else [packaged]


class UserConf(SearchPathPlugin):
    """Puts the user's ./conf before the packaged one, so that it extends and overrides."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for folder in conf_folders()[:-1]:
            search_path.prepend(provider="./conf", path=f"file://{folder}", anchor="main")


def steps(kimg: float, batch_size: int) -> int:
    """Batches in a budget of thousand images."""
    if not (0 < kimg < math.inf and batch_size > 0):
        raise UserError(f"kimg={kimg}, data.batch_size={batch_size}: expected more than 0")
    return math.ceil(kimg * 1000 / batch_size)


def by_width(lr: float, width: int) -> float:
    """A learning rate that is `lr` at a width of 768 and goes as 1 / width (Lee et al. 2025)."""
    if width < 1:
        raise UserError(f"width={width}: expected at least 1")
    return lr * 768 / width


def by_pixels(gamma: float, resolution: Resolution) -> float:
    """A weight of R1 or R2 that is `gamma` at 32 pixels and goes as their number (Karras et al. 2020, appendix B)."""
    height, width = Size.of(resolution)
    if min(height, width) < 1:
        raise UserError(f"resolution={resolution}: expected at least 1")
    return gamma * (height / 32 * (width / 32))


def by_name(*table: str | float, _root_: DictConfig) -> float:
    """A value for each experiment, of a table of names and values in turn."""
    values = dict(zip(table[::2], table[1::2], strict=True))
    if _root_.name not in values:
        raise UserError(f"name={_root_.name} has no value here: expected one of {', '.join(map(str, values))}")
    return float(values[_root_.name])


def entry(
    task: Callable[[DictConfig], Any],
    config_name: str,
    schema: type,
    offer: Callable[[list[str]], None] = lambda arguments: None,
) -> None:
    """Runs `task` with the configuration `config_name` of the command line: composed and checked.

    schema: dataclass of the root keys, which the root config lists as `{config_name}_schema` in its defaults.
    offer: may add to the arguments, and to what Hydra can choose from, before it composes.
    The user's mistakes, wherever they come up, end in one line on stderr and exit code 2; others keep their traceback.
    """
    if "--version" in sys.argv[1:]:
        print(distribution.NAME, distribution.version())
        return
    ConfigStore.instance().store(name=f"{config_name}_schema", node=schema)
    Plugins.instance().register(UserConf)
    OmegaConf.register_new_resolver("steps", steps, replace=True)
    OmegaConf.register_new_resolver("by_width", by_width, replace=True)
    OmegaConf.register_new_resolver("by_pixels", by_pixels, replace=True)
    OmegaConf.register_new_resolver("by_name", by_name, replace=True)
    OmegaConf.register_new_resolver("run_dir", run_folder.default, replace=True)
    for resolver in (ranks.num_nodes, ranks.devices, ranks.accelerator):
        OmegaConf.register_new_resolver(resolver.__name__, resolver, replace=True)
    OmegaConf.register_new_resolver("help", lambda: mistakes.listing(conf_folders()), replace=True)
    signals.arm()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands exceptions on instead of printing them

    def job(cfg: DictConfig) -> Any:
        with sweeps.keep_going(), exit_on_error():
            ranks.check_launcher()
            allowlist.allow(cfg.get("allow"))
            signatures.check(cfg, schema, conf_folders())
            return sweeps.run_job(task, cfg)

    with exit_on_error(composing=True):
        if {"-h", "--help"} & {*sys.argv[1:]}:
            print(help_text(config_name), flush=True)
            return
        roots = [field.name for field in fields(schema)]
        groups = mistakes.options(conf_folders()) if "objective" in roots else {}
        experiments = groups.get("experiment", {})
        sys.argv[1:] = command_line.overrides(sys.argv[1:], roots, [*experiments])
        offer(sys.argv)
        sys.argv[1:] = sweeps.later(group_overrides(sys.argv[1:]), groups)
        hydra.main(version_base="1.3", config_path=str(conf_folders()[-1]), config_name=config_name)(job)()
    sweeps.exit_if_failed()


def help_text(config_name: str) -> str:
    """What --help prints. Hydra's own way copies all configurations once for each group first, which takes a second."""
    with hydra.initialize_config_dir(version_base="1.3", config_dir=str(conf_folders()[-1])):
        cfg = hydra.compose(config_name, return_hydra_config=True)
    return Template(cfg.hydra.help.template).substitute()


def group_overrides(arguments: list[str]) -> list[str]:
    """Groups that reach everywhere need no `+`; an experiment is merged before a scale, whichever came first.

    group@key=null is key=null: to Hydra that is no option.
    """
    arguments = [re.sub(r"^\+*[\w/]+@([\w.]+=null)$", r"++\1", a) for a in arguments]
    arguments = [f"+{a}" if a.startswith(("experiment=", "scale=")) else a for a in arguments]
    arguments.sort(key=lambda a: a not in ("-m", "--multirun"))  # argparse takes overrides on one side of a flag only
    everywhere = iter(sorted(a for a in arguments if a.startswith(("+experiment=", "+scale="))))
    return [next(everywhere) if a.startswith(("+experiment=", "+scale=")) else a for a in arguments]


@contextmanager
def exit_on_error(composing: bool = False) -> Iterator[None]:
    """Ends the process for what is raised within; while a configuration is composed all of it is the user's mistake."""
    try:
        yield
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit:
        if signals.aborted():  # for which Lightning has a code of its own
            sys.exit(130)
        raise
    except BrokenPipeError:  # of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if number := signals.leaving():
            sys.exit(128 + number)
        line = mistakes.explain(error, conf_folders())
        if line is None and composing:
            line = mistakes.explain_reading(error, conf_folders())
        if line is None:
            traceback.print_exc()
            sys.exit(1)
        print(f"{ranks.title()}{line}", file=sys.stderr, flush=True)
        sys.exit(2)
