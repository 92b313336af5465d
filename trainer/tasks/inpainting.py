"""Holes to be filled by what the caption says: boxes and brush strokes, as users make them."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from trainer.errors import UserError
from trainer.tasks.base import Task, between, require

STROKES, CORNERS = 2, 4  # brush strokes of a hole, and their points


class Inpainting(Task):
    """A box, or strokes of a round brush, is grey in the source, and its fourth channel is 1 there and -1 elsewhere.

    boxes: share of holes that are boxes. box: shortest and longest side of one. brush: width of strokes. All of the
    image's side. What is no hole comes back as it was (Pathak et al. 2016; free-form holes as in Yu et al. 2019).
    """

    channels = 4
    holes = True

    def __init__(
        self,
        boxes: float = 0.5,
        box: tuple[float, float] = (0.25, 0.6),
        brush: tuple[float, float] = (0.1, 0.25),
        source_dropout: float = 0.0,
    ):
        super().__init__(source_dropout)
        require(0 <= boxes <= 1, f"task.boxes={boxes}: expected a share in [0, 1]")
        for name, (low, high) in (("box", box), ("brush", brush)):
            require(0 < low <= high <= 1, f"task.{name}={[low, high]}: expected two shares of the side, in order")
        self.boxes, self.box, self.brush = boxes, (box[0], box[1]), (brush[0], brush[1])

    def __call__(self, image: Tensor, seed: int, position: Tensor) -> Tensor:
        return self.of_picture(image, self.hole(image, seed, position))

    def hole(self, image: Tensor, seed: int, position: Tensor) -> Tensor:
        """(N, 1, H, W) 1 in a hole, 0 elsewhere."""
        side = min(image.shape[2:])
        rows, columns = (torch.arange(n, device=image.device) + 0.5 for n in image.shape[2:])
        is_box, tall, wide, down, right = self.draws("hole", seed, position, 5)
        inside = []
        for place, size, at, length in (
            (rows, tall, down, image.shape[2]),
            (columns, wide, right, image.shape[3]),
        ):
            size = between(*self.box, size) * side
            begin = (at * (length - size))[:, None]
            inside.append((place >= begin) & (place < begin + size[:, None]))
        box = inside[0][:, :, None] & inside[1][:, None, :]
        hole = torch.where(is_box.view(-1, 1, 1) < self.boxes, box, self.strokes(rows, columns, side, seed, position))
        return hole[:, None].to(image.dtype)

    def strokes(self, rows: Tensor, columns: Tensor, side: int, seed: int, position: Tensor) -> Tensor:
        """(N, H, W) bool: within half a brush of lines through random points."""
        draws = self.draws("strokes", seed, position, STROKES * (2 * CORNERS + 1))
        reached = torch.zeros(len(position), len(rows), len(columns), dtype=torch.bool, device=rows.device)
        for _ in range(STROKES):
            reach = between(*self.brush, draws.pop()).view(-1, 1, 1) * side / 2
            points = [
                (draws.pop().view(-1, 1, 1) * len(rows), draws.pop().view(-1, 1, 1) * len(columns))
                for _ in range(CORNERS)
            ]
            for (y, x), (to_y, to_x) in pairwise(points):
                dy, dx = to_y - y, to_x - x
                from_y, from_x = rows[None, :, None] - y, columns[None, None, :] - x
                at = ((from_y * dy + from_x * dx) / (dy**2 + dx**2).clamp(min=1e-6)).clamp(0, 1)
                reached = reached | ((from_y - at * dy) ** 2 + (from_x - at * dx) ** 2 < reach**2)
        return reached

    def of_picture(self, picture: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is None:
            raise UserError("inpainting fills holes, and none is given: mask=mask.png, white where the hole is")
        return torch.cat([picture * (1 - mask), 2 * mask - 1], 1)

    def start(self, source: Tensor) -> Tensor:
        return source[:, :3]

    def keep(self, image: Tensor, source: Tensor) -> Tensor:
        hole = (source[:, 3:] + 1) / 2
        return source[:, :3] + hole * (image - source[:, :3])
