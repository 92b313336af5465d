"""A generator as a program of plain tensors, open in the number of images and of tokens, and what runs one."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from trainer.batch import Condition
from trainer.size import Resolution

MAX_IMAGES = 4096  # at once
NARROW = 4  # channels; onnxruntime computes a convolution's in blocks of 8 or 16, and throws away what is too much
WITHOUT_TOKENS = ("latent", "pooled", "source")


class FromFeatures(nn.Module):
    """(latent (N, Z), tokens (N, L, D), mask (N, L) bool, pooled (N, D)[, source]) to images (N, 3, H, W)."""

    def __init__(self, generator: nn.Module):
        super().__init__()
        self.generator = generator

    def forward(
        self, latent: Tensor, tokens: Tensor, mask: Tensor, pooled: Tensor, source: Tensor | None = None
    ) -> Tensor:
        return self.generator(latent, Condition(tokens, mask, pooled, source))


class FromIds(nn.Module):
    """(latent (N, Z), input_ids (N, L) int64, attention_mask (N, L) int64 or bool[, source]) to images (N, 3, H, W)."""

    def __init__(self, generator: nn.Module):
        super().__init__()
        self.generator = generator

    def forward(
        self, latent: Tensor, input_ids: Tensor, attention_mask: Tensor, source: Tensor | None = None
    ) -> Tensor:
        mask = attention_mask if attention_mask.dtype == torch.bool else attention_mask > 0
        return self.generator(latent, Condition(input_ids, mask, latent[:, :0], source))


def inputs(latent: Tensor, condition: Condition) -> dict[str, Tensor]:
    """What a program takes, by name, in order."""
    text = {"tokens": condition.tokens, "mask": condition.mask, "pooled": condition.pooled}
    if not condition.tokens.is_floating_point():
        text = {"input_ids": condition.tokens, "attention_mask": condition.mask.long()}
    return {"latent": latent, **text, **({} if condition.source is None else {"source": condition.source})}


def arrays(latent: Tensor, condition: Condition, length: int) -> dict[str, Any]:
    """`inputs` on a CPU as numpy has them, of the first `length` tokens, but any mask is bool."""
    tokens, mask = condition.tokens.numpy()[:, :length], condition.mask.numpy()[:, :length]
    if condition.tokens.is_floating_point():
        given = {"latent": latent.numpy(), "tokens": tokens, "mask": mask, "pooled": condition.pooled.numpy()}
    else:
        given = {"latent": latent.numpy(), "input_ids": tokens, "attention_mask": mask}
    return given if condition.source is None else {**given, "source": condition.source.numpy()}


class Transposed(nn.Module):
    """A convolution at stride 1 as the transposed one that it is, of weights turned round: (N, C, H, W) to pixels.

    onnxruntime makes of that one product and sums of it: 2.3 to 3.3 times as fast for 3 channels of 3 x 3 places.
    """

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.weight = nn.Parameter(conv.weight.detach().transpose(0, 1).flip(2, 3).contiguous())
        self.bias = conv.bias
        padding: Any = conv.padding
        self.padding = tuple(size - 1 - pad for size, pad in zip(conv.kernel_size, padding, strict=True))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight, self.bias, padding=self.padding)


def is_narrow(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """A plain convolution to so few channels that onnxruntime is quicker by its transposed form."""
    if type(module) is not nn.Conv2d or module.out_channels > NARROW or isinstance(module.padding, str):
        return False
    plain = module.padding_mode == "zeros" and {*module.stride, *module.dilation, module.groups} == {1}
    return plain and all(pad < size for pad, size in zip(module.padding, module.kernel_size, strict=True))


def for_onnx(program: nn.Module) -> nn.Module:
    """A copy in which each module that has another form for ONNX (`for_onnx`), or is a narrow convolution, has that."""
    copied = copy.deepcopy(program)
    done: list[str] = []
    for path, module in [*copied.named_modules()]:
        if path.startswith(tuple(done)):
            continue
        if hasattr(module, "for_onnx"):
            copied.set_submodule(path, module.for_onnx())
            done.append(f"{path}.")
        elif is_narrow(module):
            copied.set_submodule(path, Transposed(module))
    return copied


def exported(program: nn.Module, example: dict[str, Tensor], open_tokens: bool) -> ExportedProgram:
    """The program of PyTorch's operators alone, for 1 to 4096 images. example: inputs of 2 or more images and tokens.

    open_tokens: L may be less than the example's, else it is fixed.
    """
    images = Dim("N", min=1, max=MAX_IMAGES)
    width = next(each.shape[1] for name, each in example.items() if name in ("tokens", "input_ids"))
    tokens = {1: Dim("L", min=1, max=width)} if open_tokens else {}
    shapes = {name: {0: images, **(tokens if name not in WITHOUT_TOKENS else {})} for name in example}
    with torch.no_grad():
        return torch.export.export(program, tuple(example.values()), dynamic_shapes=shapes, strict=False)


class Runtime(nn.Module, ABC):
    """A generator that draws with a file's program in the place of a network: (latent, Condition) -> images.

    task, resolution: of an image task, as its network has them.

    It takes and gives tensors on any device, whichever one the program runs on.
    """

    def __init__(self, latent_channels: int, task: Any = None, resolution: Resolution = 0):
        super().__init__()
        self.latent_channels = latent_channels
        self.task, self.resolution = task, resolution
        self.register_buffer("place", torch.empty(0), persistent=False)  # tells the sampler which device it is on

    @abstractmethod
    def run(self, given: dict[str, Tensor]) -> Tensor:
        """Images of `inputs`, on any device."""

    def forward(self, latent: Tensor, condition: Condition) -> Tensor:
        return self.run(inputs(latent, condition)).to(latent.device)


def reason(error: BaseException) -> str:
    """The first line of an error, for a line that says more."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
