"""What of a batch travels to the device, and what it is there."""

import pickle
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader

from trainer.batch import Batch, Condition
from trainer.data.loader import Packed, _tensors


def loaded():
    condition = Condition(torch.randn(4, 3, 2).half(), torch.ones(4, 3, dtype=torch.bool), torch.randn(4, 2).half())
    image = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    return Batch(image, condition, torch.arange(4), torch.arange(4))


def test_features_travel_as_they_are_stored_and_are_float32_in_a_step():
    batch = loaded()
    step = batch.as_float()
    assert step.condition.tokens.dtype == step.condition.pooled.dtype == step.image.dtype == torch.float32
    assert torch.equal(step.condition.tokens.half(), batch.condition.tokens)
    ids = batch.condition._replace(tokens=torch.arange(12).view(4, 3))
    assert ids.float().tokens.dtype == torch.int64
    assert ids.float().mask.dtype == torch.bool


@pytest.mark.parametrize(("device", "pinned"), [("cuda", True), ("cpu", False)])
def test_batches_for_a_gpu_are_pinned(module, device, pinned):
    data = module()
    data.trainer = SimpleNamespace(
        global_rank=0, world_size=1, strategy=SimpleNamespace(root_device=torch.device(device))
    )
    assert data.train_dataloader().pin_memory is pinned


def test_a_loader_asks_the_batch_to_pin_itself(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self.clone())  # without a GPU there is no such memory
    batch = loaded()
    pinned = batch.pin_memory()
    parts = zip((pinned.image, *pinned.condition[:3]), (batch.image, *batch.condition[:3]), strict=True)
    assert all(a is not b and torch.equal(a, b) for a, b in parts)
    from torch.utils.data._utils.pin_memory import pin_memory

    assert isinstance(pin_memory(batch), Batch)
    assert isinstance(next(iter(DataLoader([batch], batch_size=None))), Batch)


@pytest.mark.parametrize("other", [False, True])
def test_a_packed_batch_is_the_same_in_one_block(other):
    batch = loaded()
    batch.encoded = torch.randn(4, 2, 3, 3).half()
    if other:
        batch.other, batch.condition = loaded(), batch.condition._replace(source=torch.randn(4, 1, 2, 2)[:, :, ::2])
    packed = Packed(batch)
    for found in (pickle.loads(pickle.dumps(packed)).batch(), packed.batch()):
        pairs = [*zip(_tensors(found), _tensors(batch), strict=True)]
        assert len(pairs) == (16 if other else 8)
        for mine, given in pairs:
            assert mine is given is None or (torch.equal(mine, given) and mine.dtype == given.dtype)
        assert found.image.is_contiguous(memory_format=torch.channels_last)
        assert len({each.untyped_storage().data_ptr() for each, _ in pairs if each is not None}) == 1
    assert batch.condition.tokens.data_ptr() != packed.batch().condition.tokens.data_ptr()
