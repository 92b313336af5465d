"""Exact rewrites of a generator: fewer operations for the same images, up to rounding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.batch import Condition
from trainer.compression.fold_modulated import FoldedModulatedConv
from trainer.compression.subpixel import SubPixel, behind_resizing, is_subpixel, of_resized, of_transposed
from trainer.networks import dcgan, progressive, residual
from trainer.networks.layers import EPSILON, ModulatedNorm, NormAcross, TextVector
from trainer.networks.modulation import ModulatedConv

NARROW = 16  # channels up to which a transposed convolution is slower than its sub-pixel form (measured)


def fold(network: nn.Module, inputs: Sequence[tuple[Tensor, Condition]] = ()) -> nn.Module:
    """The network with constants folded into its weights, of the same images within 1e-5 of their range.

    Fold after pruning: a centred layer whose channels go is no longer centred. Parts of other classes stay as they are.
    """
    network = deepcopy(network)
    with torch.no_grad():
        for module in list(network.modules()):  # of its own, or behind a text encoder
            if isinstance(module, dcgan.Generator):
                fold_dcgan(module)
            elif isinstance(module, progressive.Generator):
                fold_progressive(module)
        for path, module in list(network.named_modules()):
            if (
                type(module) is residual.UpBlock
                and all(type(part) is nn.Conv2d for part in (module.conv1, module.conv2, module.skip))
                and (type(module.norm2) is FoldedNorm or is_plain(module.norm2))
            ):
                network.set_submodule(path, FoldedUpBlock.of(module))
        for path, module in list(network.named_modules()):
            if is_plain(module):
                network.set_submodule(path, FoldedNorm.of(module, centred=False))
            elif type(module) is TextVector and type(module.key) is type(module.value) is type(module.out) is nn.Linear:
                network.set_submodule(path, FoldedText.of(module))
            elif type(module) is ModulatedConv:
                network.set_submodule(path, FoldedModulatedConv.of(module))
            elif is_subpixel(module) and module.out_channels <= NARROW:
                network.set_submodule(path, of_transposed(module))
            elif (conv := behind_resizing(module)) is not None:
                network.set_submodule(path, of_resized(conv))
    return network


def fold_dcgan(network: dcgan.Generator) -> None:
    """In place: resizing and convolution as one, and norms of what has mean 0 already."""
    for index, up in enumerate(network.ups):
        if (conv := behind_resizing(up)) is not None:
            network.ups[index] = of_resized(conv)
    first = math.prod(network.sizes[0])
    for index, (maker, norm) in enumerate(zip([network.start, *network.ups], network.norms, strict=True)):
        if is_plain(norm) and center_outputs(maker, first if maker is network.start else 1):
            network.norms[index] = FoldedNorm.of(norm, centred=True)


def fold_progressive(network: progressive.Generator) -> None:
    """In place, likewise."""
    if is_plain(network.norm) and center_outputs(network.start, math.prod(network.sizes[0])):
        network.norm = FoldedNorm.of(network.norm, centred=True)
    for index, block in enumerate(network.blocks):
        if type(block) is not progressive.Block or not (is_plain(block.norm1) and is_plain(block.norm2)):
            continue
        if type(block.conv1) is type(block.conv2) is nn.Conv2d:
            network.blocks[index] = FoldedBlock.of(block)


def is_plain(module: nn.Module) -> TypeGuard[ModulatedNorm]:
    """A `ModulatedNorm` whose linear layer is one, and not factors or 8 bits of it."""
    return type(module) is ModulatedNorm and type(module.style) is nn.Linear


def center_outputs(layer: nn.Module, places: int = 1) -> bool:
    """Takes the mean over channels out of what a layer makes, in place; False where it is of another class.

    What is normalised next loses that mean anyway: norm(W x + b) = norm((W - mean W) x + b - mean b).
    places: of pixels that a linear layer makes, each with all channels.
    """
    if type(layer) is SubPixel and type(layer.conv) is nn.Conv2d:
        layer, places = layer.conv, 4  # the phases
    elif not (type(layer) is nn.Linear or type(layer) is nn.Conv2d or type(layer) is nn.ConvTranspose2d):
        return False
    out_dim = 1 if type(layer) is nn.ConvTranspose2d else 0
    for tensor, dim in ((layer.weight, out_dim), (layer.bias, 0)):
        if tensor is not None:
            channels = tensor.unflatten(dim, (places, -1))
            tensor.copy_((channels - channels.mean(dim + 1, keepdim=True)).flatten(dim, dim + 1))
    return True


class Folded(nn.Module):
    """Base of what takes the place of a part: it is built again by the `settings` that its __init__ took."""

    settings: dict[str, Any]

    def node(self) -> dict[str, Any]:
        return {"_target_": f"{__name__}.{type(self).__name__}", **self.settings}


class FoldedNorm(Folded):
    """`ModulatedNorm` whose linear layer yields 1 + scale; `centred`: of maps whose channels have mean 0 already.

    (N, C, H, W), (N, S) -> (N, C, H, W): y = scale(s) * x / sqrt(mean x^2 + 1e-5) + shift(s).
    """

    def __init__(self, channels: int, style_channels: int, centred: bool):
        super().__init__()
        self.settings = {"channels": channels, "style_channels": style_channels, "centred": centred}
        self.style = nn.Linear(style_channels, 2 * channels)

    @classmethod
    def of(cls, norm: ModulatedNorm, centred: bool) -> FoldedNorm:
        self = cls(norm.style.out_features // 2, norm.style.in_features, centred).to(norm.style.weight)
        self.style = norm.style
        self.style.bias[: self.style.out_features // 2] += 1
        return self.train(norm.training)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        scale, shift = self.style(style)[:, :, None, None].chunk(2, 1)
        pixels = x.permute(0, 2, 3, 1)  # (N, H, W, C), contiguous
        if self.settings["centred"]:  # the kernel of layer_norm is slow over few channels
            rms = torch.linalg.vector_norm(pixels, dim=3, keepdim=True) * x.shape[1] ** -0.5
            normed = pixels * rms.square().add(EPSILON).rsqrt()
        else:
            normed = F.layer_norm(pixels, x.shape[1:2], eps=EPSILON)
        return normed.permute(0, 3, 1, 2).mul_(scale).add_(shift)  # in place: new memory costs more than a pass over it

    def for_onnx(self) -> nn.Module:
        return NormAcross(self.style, one=0.0, centred=self.settings["centred"])


class FoldedText(Folded):
    """`TextVector` with queries and key as one matrix, and the value read after the weighted sum of the words.

    q . (K w) = (K^T q) . w, and value(sum a_l w_l) = sum a_l value(w_l) as the weights a_l sum to 1.
    forward: Condition -> (N, out_channels).
    """

    def __init__(self, text_channels: int, out_channels: int, num_queries: int, head_channels: int):
        super().__init__()
        self.settings = {
            "text_channels": text_channels, "out_channels": out_channels,
            "num_queries": num_queries, "head_channels": head_channels,
        }  # fmt: skip
        self.query = nn.Linear(text_channels, num_queries, bias=False)
        self.value = nn.Linear(text_channels, head_channels)
        self.out = nn.Linear(num_queries * head_channels + text_channels, out_channels)

    @classmethod
    def of(cls, text: TextVector) -> FoldedText:
        sizes = text.key.in_features, text.out.bias.shape[0], len(text.query), text.value.out_features
        self = cls(*sizes).to(text.query)
        self.value, self.out = text.value, text.out
        self.query.weight.copy_(text.query @ text.key.weight / math.sqrt(text.query.shape[1]))
        self.query.requires_grad_(text.query.requires_grad)
        return self.train(text.training)

    def forward(self, condition: Condition) -> Tensor:
        words = F.layer_norm(condition.tokens, condition.tokens.shape[-1:])
        score = self.query(words).masked_fill(~condition.mask[..., None], -torch.inf)  # (N, L, Q)
        read = self.value(score.softmax(1).transpose(1, 2) @ words)  # (N, Q, head_channels)
        pooled = F.layer_norm(condition.pooled, condition.pooled.shape[-1:])
        return self.out(torch.cat([read.flatten(1), pooled], 1))


class FoldedPair(Folded):
    """Two convolutions of a block, the first of which works before resizing."""

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int, style_channels: int):
        super().__init__()
        self.settings = {
            "in_channels": in_channels, "hidden_channels": hidden_channels,
            "out_channels": out_channels, "style_channels": style_channels,
        }  # fmt: skip
        self.conv1 = SubPixel(in_channels, hidden_channels)
        self.conv2 = nn.Conv2d(hidden_channels, out_channels, kernel_size=3, padding=1)


class FoldedUpBlock(FoldedPair):
    """`residual.UpBlock` whose first convolution works before resizing, its constant factor within the weights."""

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int, style_channels: int):
        super().__init__(in_channels, hidden_channels, out_channels, style_channels)
        self.norm1: nn.Module = ModulatedNorm(in_channels, style_channels)
        self.norm2: nn.Module = FoldedNorm(hidden_channels, style_channels, centred=True)
        self.skip = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)

    @classmethod
    def of(cls, block: residual.UpBlock) -> FoldedUpBlock:
        out_channels, hidden_channels = block.conv2.weight.shape[:2]
        self = cls(block.conv1.weight.shape[1], hidden_channels, out_channels, block.norm2.style.in_features)
        self.norm1, self.conv1, self.conv2, self.skip = block.norm1, of_resized(block.conv1), block.conv2, block.skip
        is_new = type(block.norm2) is ModulatedNorm
        self.norm2 = FoldedNorm.of(block.norm2, centred=center_outputs(self.conv1)) if is_new else block.norm2
        for tensor in (self.conv2.weight, self.conv2.bias, self.skip.weight):
            if tensor is not None:
                tensor *= 0.5**0.5
        return self.train(block.training)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        skip = self.skip(x)
        x = self.conv1(F.silu(self.norm1(x, style)))
        x = self.conv2(F.silu(self.norm2(x, style)))
        places = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # (N, C, H, 2, W, 2)
        return (places + skip[:, :, :, None, :, None]).flatten(4).flatten(2, 3)


class FoldedBlock(FoldedPair):
    """`progressive.Block` whose first convolution works before resizing, with norms of what has mean 0 already."""

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int, style_channels: int):
        super().__init__(in_channels, hidden_channels, out_channels, style_channels)
        self.norm1, self.norm2 = (
            FoldedNorm(channels, style_channels, centred=True) for channels in (hidden_channels, out_channels)
        )

    @classmethod
    def of(cls, block: progressive.Block) -> FoldedBlock:
        out_channels, hidden_channels = block.conv2.weight.shape[:2]
        self = cls(block.conv1.weight.shape[1], hidden_channels, out_channels, block.norm1.style.in_features)
        self.conv1, self.conv2 = of_resized(block.conv1), block.conv2
        center_outputs(self.conv1)
        center_outputs(self.conv2)
        self.norm1, self.norm2 = (FoldedNorm.of(norm, centred=True) for norm in (block.norm1, block.norm2))
        return self.train(block.training)

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        x = F.leaky_relu(self.norm1(self.conv1(x), style), 0.2)
        return F.leaky_relu(self.norm2(self.conv2(x), style), 0.2)
