import json

import pytest
import torch
from omegaconf import OmegaConf

from trainer.errors import UserError
from trainer.size import Size


def test_one_number_is_a_square_and_two_are_height_and_width():
    assert Size.of(32) == Size.of([32, 32]) == (32, 32) and Size.of(32).resolution == Size.of([32, 32]).resolution == 32
    size = Size.of(OmegaConf.create([32, 48]))
    assert (size.height, size.width) == (32, 48) and json.dumps(size.resolution) == "[32, 48]"
    assert Size.of(torch.zeros(2, 3, 32, 48).shape[2:]) == Size.of(size) == size
    assert (f"{size}", f"{Size.of(64)}") == ("32x48", "64")
    assert size.over(5) == (6, 9)


@pytest.mark.parametrize("wrong", ["32x48", [32], [1, 2, 3], [32, "48"], 32.5, None])
def test_anything_else_is_refused(wrong):
    with pytest.raises(UserError, match=r"expected a number of pixels, or two as \[64,96\], height and width"):
        Size.of(wrong)
