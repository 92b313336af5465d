import numpy as np
import torch
from PIL import Image
from pytorch_lightning.loggers.logger import Logger

from trainer.callbacks.ema import EMA
from trainer.callbacks.samples import Samples
from trainer.sampling.grids import grid
from trainer.sampling.sampler import Sampler


class Gallery(Logger):
    name, version = "gallery", ""

    def __init__(self):
        super().__init__()
        self.shown, self.tables = [], []

    def log_hyperparams(self, *_, **__): ...

    def log_metrics(self, *_, **__): ...

    def log_image(self, key, images, step, caption):
        self.shown.append((key, images, step, caption))

    def log_sample_table(self, *arguments):
        self.tables.append(arguments)


def test_grids_of_the_average_at_the_right_times(objective, data, make_trainer, tmp_path):
    gallery = Gallery()
    callbacks = [EMA(halflife_kimg=1e-3), Samples(times=2, num_images=3, columns=2, table_rows=2)]
    make_trainer(callbacks, max_steps=8, logger=gallery).fit(objective, data)
    names = sorted(path.name for path in (tmp_path / "samples").iterdir())
    assert names == ["kimg000000.016.png", "kimg000000.032.png", "latest.png"]
    [(_, _, first, _), (key, images, last, captions)] = gallery.shown
    assert (key, first, last, captions) == ("samples/images", 4, 8, data.fixed_captions(3))

    [(table, rows, seeds, pictures, step)] = gallery.tables  # at the end alone
    assert (table, rows, list(seeds), step) == ("samples/table", captions[:2], [0, 1], 8)
    assert np.array_equal(pictures, images[:2])

    average = Sampler(objective, data.text)(captions, range(3)).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(np.stack(images), average)
    objective.ema = {}
    weights = Sampler(objective, data.text)(captions, range(3)).permute(0, 2, 3, 1).numpy()
    assert not np.array_equal(np.stack(images), weights)
    seen = [caption in data.train.captions for caption in captions]
    sheet = grid(torch.from_numpy(average).permute(0, 3, 1, 2), captions, 2, seen)
    latest = np.array(Image.open(tmp_path / "samples" / "latest.png"))
    assert np.array_equal(latest, np.array(sheet))


def test_a_grid_shows_each_image_enlarged_above_its_caption():
    images = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    images[1, 0] = 255
    sheet = np.array(grid(images, ["a", "", "a very long caption " * 9], columns=2))
    assert sheet.shape[1] == 2 * (128 + 8) + 8
    assert (sheet[8 : 8 + 128, 144 : 144 + 128] == [255, 0, 0]).all()
    below = sheet[8 + 128 + 1 : 8 + 128 + 40]
    assert (below[:, 8:136] < 128).any()  # text under the first
    assert (below[:, 144:] == 255).all()  # and none under the second
