"""What all tests share: no network, no cache of the user's, and the command line in this process."""

from __future__ import annotations

import datetime
import logging
import os
import signal
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from trainer.process import signals


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of the cases of a test marked `sampled(n)`, one in n runs on a day, another on the next; ALL=1 runs all.

    Of slow tests without the mark one case in three does. Files begin at different cases, so that tests of one case do
    not all fall on the same day.
    """
    if os.environ.get("ALL"):
        return
    seen: dict[object, int] = {}
    left_out = []
    for item in items:
        mark = item.get_closest_marker("sampled")
        if days := mark.args[0] if mark else 3 if item.get_closest_marker("slow") else 0:
            test = item.function  # type: ignore[attr-defined]
            seen[test] = seen.get(test, zlib.crc32(item.path.name.encode())) + 1
            if (seen[test] + datetime.date.today().toordinal()) % days:
                left_out.append(item)
    items[:] = [item for item in items if item not in left_out]
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture(autouse=True, scope="session")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAINER_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.delenv("TRAINER_RUN_DIR", raising=False)
        yield


@pytest.fixture(autouse=True)
def signals_as_before() -> Iterator[None]:
    """What a run in this process has armed or received does not reach the next test."""
    before = {number: signal.getsignal(number) for number in signals.STOPPING}
    yield
    signals.immediate()
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """`command("experiment=x", "seed=1")` is `python -m trainer experiment=x seed=1`: its code, out and err."""

    def run(*arguments: str, main: Callable[[], None] | None = None) -> SimpleNamespace:
        from trainer.__main__ import main as train

        before = dict(os.environ)
        loggers = [logging.root, logging.getLogger("hydra")]
        logs = [(log, log.level, list(log.handlers)) for log in loggers]  # --info has Hydra log into this test's stdout
        monkeypatch.setattr(sys, "argv", ["trainer", *arguments])
        capsys.readouterr()
        code = 0
        try:
            (main or train)()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        finally:
            os.environ.clear()
            os.environ.update(before)
            for log, level, handlers in logs:
                log.setLevel(level)
                log.handlers[:] = handlers
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err)

    return run


STAND_INS = '''
import os
from pathlib import Path
from trainer.errors import UserError

class Base:
    def __init__(self, width: int = 8, rate: float = 0.1):
        pass

class Network(Base):
    def __init__(self, depth: int = 1, **base):
        super().__init__(**base)

class Objective:
    def __init__(self, network, images: int = 0):
        self.images = images
    def begin(self):
        pass

class Data:
    start = 0
    def __init__(self, text, resolution: int, batch_size: int, source: str = "good", num_workers: int = 0):
        if source == "bad":
            raise UserError("data.source=bad: expected good")
        if source == "denied":
            raise PermissionError(13, "Permission denied", "/data")
        if source == "refused":
            raise ValueError("no such source")
        if source == "broken":
            raise RuntimeError("a bug")
    def start_at(self, images):
        self.start = images

class Trainer:
    """Trains nothing, and leaves word of what it was given."""
    is_global_zero = True
    def __init__(self, strategy, callbacks, logger, max_steps: int, default_root_dir: str, accelerator: str = "auto"):
        self.word = f"strategy={type(strategy).__name__} callbacks={len(callbacks)} max_steps={max_steps}"
        self.root = Path(default_root_dir)
        self.world_size = 1 if type(strategy).__name__ == "Single" else int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
    def fit(self, objective, datamodule, ckpt_path):
        print(f"{self.word} start={datamodule.start} checkpoint={ckpt_path} root={self.root}")

class Part:
    def __init__(self, every: int = 1, signal: int = 0):
        self.signal = signal
    def build(self, node):  # as a strategy
        from hydra.utils import instantiate
        return instantiate(node, _convert_="all")

class Single(Part):
    pass
'''

STAND_IN_CONF = {
    "data/emoji": "_target_: standin.Data\nresolution: 32\nbatch_size: 64\nsource: good\nnum_workers: 0",
    "data/shapes": "_target_: standin.Data\nresolution: 16\nbatch_size: 64",
    "text/minilm": "encoder: {_target_: standin.Part}\nnetwork: {_target_: standin.Part}\nwidth: 384\nmax_tokens: 24",
    "strategy/auto": "_target_: standin.Part",
    "strategy/single": "_target_: standin.Single",
    "trainer/default": "_target_: standin.Trainer\naccelerator: auto\nmax_steps: ${steps:${kimg},${data.batch_size}}\n"
    "default_root_dir: ${run_dir}",
    "callbacks/default": "samples: {_target_: standin.Part, every: 1}\nema: {_target_: standin.Part}",
    "logger/default": "csv: {_target_: standin.Part}",
    "objective/gan": "_target_: standin.Objective\nnetwork: {_target_: standin.Network, depth: 2, width: 8, rate: 0.1}",
    "experiment/small": "# @package _global_\n# one small $5 run\n\ndefaults:\n  - override /objective: gan\n"
    "name: small\nkimg: 1",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, whose ./conf replaces every heavy part by a stand-in."""
    for name, text in STAND_IN_CONF.items():
        file = tmp_path / "conf" / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    (tmp_path / "standin.py").write_text(STAND_INS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "standin", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run folder with two checkpoints of a small GAN, whose EMA weights are not its weights."""
    text = {
        "_target_": "trainer.text.scratch.TextTransformer",
        **{"width": 16, "num_layers": 1, "num_heads": 2, "vocabulary": 64, "max_tokens": 5},
    }
    encoder = {"_target_": "trainer.text.scratch.HashTokenizer", "vocabulary": 64, "max_tokens": 5}
    return save_run(tmp_path / "outputs" / "small" / "2026-01-31_12-00-00", text, {"encoder": encoder})


@pytest.fixture
def of_classes(tmp_path: Path) -> Path:
    """As `trained`, but its conditions are features, those of classes, and captions were dropped."""
    encoder = {"_target_": "trainer.text.labels.Labels", "width": 16}
    folder = tmp_path / "outputs" / "classes" / "2026-01-31_12-00-00"
    return save_run(folder, {"_target_": "torch.nn.Identity"}, {"encoder": encoder, "caption_dropout": 0.1})


def save_run(run: Path, text: dict[str, Any], reading: dict[str, Any]) -> Path:
    """text: the network of each player for it. reading: `text` of the configuration."""
    import torch
    from hydra.utils import instantiate

    small = {"resolution": 16, "text_channels": 16, "text": text, "base_channels": 8, "max_channels": 16}
    adam = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.001}
    objective = {
        "_target_": "trainer.objectives.gan.GAN",
        "generator": {"_target_": "trainer.networks.dcgan.Generator", "latent_channels": 8, **small},
        "discriminator": {"_target_": "trainer.networks.dcgan.Discriminator", **small},
        "loss": {"_target_": "trainer.losses.adversarial.NonSaturating"},
        "optimizer": {"generator": adam, "discriminator": adam},
        "schedule": {
            "_target_": "trainer.objectives.schedules.linear",
            "_partial_": True,
            "kimg": 1,
            "start": 0.5,
            "final": 0.1,
        },
        "seed": 0,
    }
    (run / "checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    gan = instantiate(objective, _convert_="all")
    gan.config = {"name": "small", "objective": objective, "text": reading}
    for images in (500, 1500):
        gan.images_seen = images
        gan.ema = {f"generator.{k}": p * (1 + images / 5000) for k, p in gan.generator.state_dict().items()}
        content = {"state_dict": gan.state_dict(), "global_step": images // 50}
        gan.on_save_checkpoint(content)
        torch.save(content, run / "checkpoints" / f"kimg{images / 1000:010.3f}.ckpt")
    return run


@pytest.fixture(scope="session")
def language_model() -> Callable[..., Path]:
    """Saves a causal language model of 16 channels with random weights, as the hub has them: folder, seed, options."""

    def save(folder: Path, seed: int = 0, chat: bool = False, positions: int = 2048, kind: str = "llama") -> Path:
        import torch
        import transformers as t
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

        from trainer.text.enrichment import EXAMPLES

        ends = ["<|end|>", "<|start|>"]
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        more = ["Describe a picture of X in one line.\n user assistant", *"abcdefghijklmnopqrstuvwxyz"]
        tokenizer.train_from_iterator([*EXAMPLES, *more], trainers.BpeTrainer(vocab_size=400, special_tokens=ends))
        fast = t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=ends[0], bos_token=ends[1])
        if chat:
            fast.chat_template = (
                "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>\n{% endfor %}"
                "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
            )
        fast.save_pretrained(folder)
        torch.manual_seed(seed)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
                 "vocab_size": len(fast), "eos_token_id": 0, "bos_token_id": 1, "pad_token_id": None,
                 "max_position_embeddings": positions, "initializer_range": 0.5}  # fmt: skip
        if kind == "bert":
            t.BertForMaskedLM(t.BertConfig(**sizes)).save_pretrained(folder)
        else:
            t.LlamaForCausalLM(t.LlamaConfig(**sizes, num_key_value_heads=1)).save_pretrained(folder)
        return folder

    return save
