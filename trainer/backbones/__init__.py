"""Networks with known weights, whose features metrics are made of.

A backbone is an `nn.Module` with `name`, `sha256` of its weights, `width`, `resizer` (how images reach the input size:
part of the protocol of a figure) and `features(images) -> (N, width) float32` of uint8 images (N, 3, H, W).
"""
