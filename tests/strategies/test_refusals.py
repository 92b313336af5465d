"""What a strategy cannot do it says before the first step, with the remedy."""

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from conftest_objectives import make_gan, random_batch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch.utils.data import DataLoader

from trainer.errors import UserError
from trainer.strategies.fsdp import FSDP
from trainer.strategies.sharded import units
from trainer.strategies.single import Single
from trainer.strategies.zero import ZeRO


def fit(strategy, objective=None, precision="32-true"):
    half = precision == "16-mixed"  # a Trainer would take bf16 on a CPU
    trainer = pl.Trainer(
        strategy=strategy, accelerator="cpu", devices=1, max_steps=1, precision=None if half else precision,
        plugins=MixedPrecision("16-mixed", "cpu") if half else None, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    try:
        trainer.fit(objective or make_gan(), DataLoader([random_batch()], batch_size=None))
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@pytest.mark.parametrize("precision", ["bf16-true", "64-true"])
def test_precision(precision):
    with pytest.raises(UserError, match=f"{precision}: expected one of 32-true, bf16-mixed, 16-mixed"):
        fit(Single("cpu"), precision=precision)


@pytest.mark.parametrize("strategy", [FSDP, partial(ZeRO, stage=2)])
def test_optimizers_that_need_whole_parameters(strategy):
    with pytest.raises(UserError, match=r"Adafactor needs whole parameters.*or strategy=ddp"):
        fit(strategy(), make_gan(optimizer=torch.optim.Adafactor))


@pytest.mark.parametrize("strategy", [FSDP, partial(ZeRO, stage=3)])
def test_tied_parameters(strategy):
    gan = make_gan()
    gan.generator.again = gan.generator.style
    with pytest.raises(UserError, match=r"generator uses \d+ parameters in several places.*strategy=ddp"):
        fit(strategy(), gan)


@pytest.mark.parametrize(
    "make", [partial(ZeRO, stage=2, offload_optimizer=True), partial(FSDP, offload_parameters=True)]
)
def test_offload_without_a_gpu(make):
    with pytest.raises(UserError, match="there is no GPU"):
        fit(make())


def test_offload_of_what_is_not_split():
    with pytest.raises(UserError, match="only strategy=zero3"):
        ZeRO(stage=2, offload_parameters=True)


@pytest.mark.parametrize(
    "make", [lambda: ZeRO(stage=4), lambda: ZeRO(2, gather_dtype="bfloat16"), lambda: FSDP(unit_parameters=0)]
)
def test_values(make):
    with pytest.raises(UserError, match="expected"):
        make()


def test_units_are_the_children_and_large_blocks():
    """A loss may call any child of a network by itself; a list of blocks is never called, its blocks are."""
    generator = make_gan().generator
    names = {id(module): name for name, module in generator.named_modules()}
    coarse = [names[id(unit)] for unit in units(generator, 10**9)]
    assert coarse == ["style", "start", "norms.0", "norms.1", "norms.2", "ups.0", "ups.1", "image"]
    fine = units(generator, 400)
    assert len(fine) > len(coarse)
    for position, unit in enumerate(fine):
        inside = {id(module) for module in unit.modules()}
        assert all(id(later) not in inside for later in fine[position + 1 :]), "inner blocks are split first"
    assert {id(p) for unit in fine for p in unit.parameters()} == {id(p) for p in generator.parameters()}
