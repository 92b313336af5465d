"""Squares of pictures that lie where the position says, in the picture as it lies in its file."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from trainer import noise
from trainer.data.augment import Augment
from trainer.data.build import CENTRE, fit
from trainer.data.folder import Folder
from trainer.errors import UserError

WIDTH, HEIGHT, SIZE = 120, 80, 16


def slope():
    """A picture that tells where: red is twice the column, green twice the row, in pixels."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return Image.fromarray(np.stack([2 * columns, 2 * rows, 0 * rows], -1).astype(np.uint8))


@pytest.fixture
def folder(tmp_path):
    """Eight such pictures, and sources whose blue is 255."""
    root = tmp_path / "pictures"
    root.mkdir()
    lines = []
    for number in range(8):
        slope().save(root / f"{number}.png")
        blue = np.asarray(slope()).copy()
        blue[..., 2] = 255
        Image.fromarray(blue).save(root / f"{number}-source.png")
        names = {"file_name": f"{number}.png", "source": f"{number}-source.png"}
        lines.append(json.dumps({**names, "text": f"thing {number}"}))
    (root / "metadata.jsonl").write_text("\n".join(lines))
    return Folder(str(root))


def batches(made, count=3):
    made.prepare()
    loader = iter(made.train_dataloader())
    return [next(loader) for _ in range(count)]


def squares(images):
    """Side, left and top in pixels of the slope of uint8 images (N, 3, S, S), by the middle of their rows."""
    red, green = images[:, :2].double().unbind(1)
    size = images.shape[-1]
    step = (red[:, :, -3] - red[:, :, 2]).mean(1) / (2 * (size - 5))  # pixels of the slope for one of the image
    side = step * size
    left, top = ((each.mean((1, 2)) / 2 + 0.5) - side / 2 for each in (red, green))
    return side, left, top


def test_a_square_lies_where_its_fractions_say():
    for part, right, down in ((1.0, 0.5, 0.5), (0.5, 0.0, 1.0), (0.7, 0.3, 0.2)):
        image = torch.from_numpy(np.asarray(fit(slope(), SIZE, (part, right, down))).copy()).permute(2, 0, 1)[None]
        side, left, top = squares(image)
        assert side.item() == pytest.approx(HEIGHT * part, rel=0.03)
        assert left.item() == pytest.approx((WIDTH - HEIGHT * part) * right, abs=0.6)
        assert top.item() == pytest.approx((HEIGHT - HEIGHT * part) * down, abs=0.6)
    assert fit(slope(), SIZE).tobytes() == fit(slope(), SIZE, CENTRE).tobytes()
    whole = Image.fromarray(np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), np.uint8))
    assert fit(whole, SIZE).tobytes() == whole.tobytes() != fit(whole, SIZE, (0.5, 0.5, 0.5)).tobytes()


def test_training_pictures_are_cut_by_their_position(module, folder):
    given = {"decoded": False, "resolution": SIZE, "seed": 3}
    made = module(folder, augment=Augment(random_crop=0.5), **given)
    seen = batches(made)
    for number, batch in enumerate(seen):
        draws = noise.uniform(3, "random crop", torch.arange(8) + 8 * number, 3).double()
        side, left, top = squares(batch.image)
        part = HEIGHT * (0.5 + 0.5 * draws[:, 0])
        torch.testing.assert_close(side, part, rtol=0.04, atol=0)
        torch.testing.assert_close(left, (WIDTH - part) * draws[:, 1], rtol=0, atol=1.0)
        torch.testing.assert_close(top, (HEIGHT - part) * draws[:, 2], rtol=0, atol=1.0)
        assert torch.equal(batch.other.image[:, :2], batch.image[:, :2])  # a source is cut as its image
    made.start_at(8)
    assert torch.equal(batches(made, 1)[0].image, seen[1].image)


def test_ranks_and_workers_see_the_same(module, folder):
    given = {"decoded": False, "resolution": SIZE, "augment": Augment(random_crop=0.3)}
    whole = batches(module(folder, **given))
    working = batches(module(folder, num_workers=2, **given))
    for one, other in zip(whole, working, strict=True):
        assert torch.equal(one.image, other.image) and torch.equal(one.other.image, other.other.image)
    made = module(folder, **given)
    made.prepare()
    stream = made.train_dataloader().dataset
    for rank in (0, 1):
        stream.first, stream.size = 4 * rank, 4
        assert torch.equal(stream[8].image, whole[1].image[4 * rank : 4 * rank + 4])


def test_held_out_pictures_stay_as_they_are(module, folder):
    made = module(folder, decoded=False, resolution=SIZE, heldout=0.5, augment=Augment(random_crop=0.3))
    made.prepare()
    expected = np.asarray(fit(slope(), SIZE))
    assert len(made.heldout) and all((image == expected).all() for image in made.heldout.images[:])


def test_a_jpeg_is_not_reduced_below_what_is_cut_out(module, tmp_path):
    """At 16 pixels a JPEG would be decoded at an eighth; of a tenth of its side these would be enlarged ones."""
    root = tmp_path / "large"
    root.mkdir()
    lines = 255 * (np.arange(1024) // 4 % 2)
    Image.fromarray(np.tile(lines.astype(np.uint8), (1024, 1))).convert("RGB").save(root / "a.jpg", quality=95)
    (root / "a.txt").write_text("lines")
    augment = Augment(random_crop=0.0625)
    made = module(Folder(str(root)), decoded=False, resolution=64, batch_size=32, augment=augment)
    image = batches(made, 1)[0].image.float()
    part = augment.parts(0, torch.arange(32))[:, 0]
    assert image[int(part.argmin())].std() > 90  # 64 to 100 pixels there, and lines of 4 are still seen


def test_what_is_refused(module, folder):
    with pytest.raises(UserError, match=r"data.augment.random_crop=0.5: set data.decoded=false"):
        module(folder, augment=Augment(random_crop=0.5))
    for wrong in (0.0, 1.5):
        with pytest.raises(UserError, match=r"expected a fraction in \(0, 1\], or null"):
            Augment(random_crop=wrong)
