from types import SimpleNamespace

import numpy as np
import pytest
import torch

from trainer.errors import UserError
from trainer.evaluation.protocol import VERSION, Study, run
from trainer.sampling.conditioning import Conditioning


class Sampler:
    """An image is its seed and the number in its caption."""

    device, conditioning, task = torch.device("cpu"), Conditioning(), None

    def __call__(self, captions, seeds, sources=None):
        pairs = [[int(caption), seed % 256, 0] for caption, seed in zip(captions, seeds, strict=True)]
        return torch.tensor(pairs, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 4, 4)


def study(num_images=10, num_references=3, references=4, **more):
    images = np.arange(references, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 4, 3), np.uint8)
    held = SimpleNamespace(images=images, captions=[str(i) for i in range(references)], attributes=[{}] * references)
    return Study(Sampler(), held, "heldout", num_images, num_references, "data", "x.ckpt", 1.0, **more)


class Watch:
    def prepare(self, study):
        self.study, self.seen = study, {}

    def update(self, numbers, images):
        self.seen |= {n: image[:2, 0, 0].tolist() for n, image in zip(numbers, images, strict=True)}

    def figures(self):
        return [self.study.figure("seen", len(self.seen), "higher", extra=1)]


def test_captions_are_spread_and_seeds_counted():
    watch = Watch()
    (figure,) = run(study(seed=7), [watch])
    assert watch.seen == {i: [i * 4 // 10, 7 + i] for i in range(10)}
    assert figure.value == 10 and figure.kimg == 1.0 and figure.checkpoint == "x.ckpt"
    assert figure.protocol == {
        "num_images": 10, "split": "heldout", "captions": "of heldout images, evenly spread", "seed": 7,
        "version": VERSION, "resolution": 4, "data": "data", "extra": 1,
    }  # fmt: skip


def test_guidance_is_part_of_a_figure():
    guided = study()
    guided.sampler.conditioning = Conditioning(guidance=3.0)
    (figure,) = run(guided, [Watch()])
    assert figure.protocol["guidance"] == "3.0"


def test_references_are_spread_and_not_repeated():
    numbers, images = zip(*study(num_references=2).reference_images(), strict=True)
    assert [n for some in numbers for n in some] == [0, 1]
    assert torch.cat(images)[:, 0, 0, 0].tolist() == [0, 2]
    assert study(num_references=50).num_references == 4


@pytest.mark.parametrize("wrong", [{"num_images": 1}, {"num_references": 1}, {"references": 1}])
def test_too_few(wrong):
    with pytest.raises(UserError, match="at least 2"):
        study(**wrong)


def test_a_figure_has_all_bits_of_float32_whatever_training_has():
    class Bits(Watch):
        def prepare(self, study):
            super().prepare(study)
            self.allowed = [self.now()]

        @staticmethod
        def now():
            return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

        def update(self, numbers, images):
            self.allowed.append(self.now())

        def figures(self):
            self.allowed.append(self.now())
            raise UserError("as any error")

    before, bits = Bits.now(), Bits()
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        with pytest.raises(UserError, match="as any error"):
            run(study(), [bits])
        assert {*bits.allowed} == {(False, False)}
        assert Bits.now() == (True, True)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
