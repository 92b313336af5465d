"""One rank of several that measure together: worker.py RANK RANKS FOLDER; it writes FOLDER/RANK.json."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from trainer.metrics import distributed
from trainer.metrics.diversity import pairwise_distance
from trainer.metrics.frechet import frechet_distance, mean_and_covariance, moments
from trainer.metrics.inception_score import inception_score, score_sums
from trainer.metrics.kernel import kernel_distance
from trainer.metrics.manifold import density_coverage, precision_recall
from trainer.metrics.similarity import psnr, ssim
from trainer.metrics.text_match import clip_score, r_precision

TOTAL, PER_CAPTION = 240, 4
SHARES = {1: [240], 2: [49, 191], 3: [170, 0, 70]}


def measure(rank: int, num_ranks: int) -> dict[str, float]:
    """Every metric of 240 made-up images, of which this rank has seen its share, in an order of its own."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    real, fake, logits, texts = normal(200, 32), normal(TOTAL, 32) + 0.2, 2 * normal(TOTAL, 10), normal(150, 32)
    images = torch.randint(0, 256, (TOTAL, 3, 16, 16), generator=generator, dtype=torch.uint8)
    back = (images.int() + (9 * normal(*images.shape)).int()).clamp(0, 255).to(torch.uint8)
    order = torch.randperm(TOTAL, generator=generator)
    own = torch.arange(TOTAL) % 150
    fake = fake + texts[own] / 2

    numbers = order.split(SHARES[num_ranks])[rank]
    rows = distributed.gather(fake[numbers], numbers)
    sums = distributed.add(moments(fake[numbers]))
    scores = distributed.add(score_sums(logits[numbers], numbers, TOTAL))
    values = torch.stack(
        [torch.ones(len(numbers)), psnr(images[numbers], back[numbers]), ssim_of(images, back, numbers)]
    )
    values = torch.cat([values, clip_score(fake[numbers], texts[own[numbers]])[None]])
    count, *totals = distributed.add(values.sum(1)).tolist()
    distances = torch.zeros(2, dtype=torch.float64)
    for caption in range(TOTAL // PER_CAPTION):  # a caption is the work of the rank that has its number
        if caption in numbers:
            distance = pairwise_distance(fake[caption * PER_CAPTION : (caption + 1) * PER_CAPTION])
            distances += torch.stack([distance, torch.ones_like(distance)])
    distance, captions = distributed.add(distances).tolist()
    assert (count, captions) == (TOTAL, TOTAL // PER_CAPTION)

    found = {"fd": frechet_distance(*mean_and_covariance(moments(real)), *mean_and_covariance(sums))}
    found |= zip(("kd", "kd_std"), kernel_distance(real, rows, 10, 50), strict=True)
    found |= zip(("precision", "recall"), precision_recall(real, rows), strict=True)
    found |= zip(("density", "coverage"), density_coverage(real, rows), strict=True)
    found |= zip(("inception_score", "inception_score_std"), inception_score(scores), strict=True)
    found |= zip(("psnr", "ssim", "clip_score"), (total / count for total in totals), strict=True)
    return found | {"diversity": distance / captions, "r_precision": r_precision(rows, texts, own)}


def ssim_of(images, back, numbers):
    return ssim(images[numbers], back[numbers]) if len(numbers) else torch.zeros(0, dtype=torch.float64)


if __name__ == "__main__":
    rank, num_ranks, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=num_ranks)
    (folder / f"{rank}.json").write_text(json.dumps(measure(rank, num_ranks)))
    dist.destroy_process_group()
