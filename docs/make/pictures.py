"""The pictures of docs/pictures, from the runs they show: python docs/make/pictures.py [NAME FOLDER]

Without arguments, what to run for each and what that costs. FOLDER is what the commands leave: a run, its compressed
folder, or a folder of a benchmark. own.png is of docs/make/outputs.py; leet.png is a window of a terminal.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
TRAIN = "python -m trainer +experiment="
THIN = "objective.generator.base_channels=16 objective.generator.max_channels=96"
REWARDED = "large orange circle, flag of Peru, smiling face with tear, panda face, stopwatch, railway car"


class Picture(NamedTuple):
    """commands: what makes its folder. file: within that, a pattern. cost: on 2 cores of a Xeon with AVX-512."""

    commands: tuple[str, ...]
    file: str
    cost: str


PICTURES = {
    "cgan": Picture((TRAIN + "cgan",), "samples/latest.png", "22 minutes on one core of an EPYC with AVX2"),
    "cgan-at-a-tenth": Picture((TRAIN + "cgan",), "samples/kimg000008.*.png", "22 minutes, the run of cgan"),
    "cgan_shapes": Picture((TRAIN + "cgan_shapes",), "samples/latest.png", "5 minutes"),
    "progressive64": Picture(
        (TRAIN + "progressive data.resolution=64 kimg=30",),
        "samples/latest.png",
        "17 minutes on one core of an EPYC with AVX2",
    ),
    **{
        name: Picture((TRAIN + name,), "samples/latest.png", f"{minutes} minutes on one core of a busy EPYC")
        for name, minutes in (("inpainting", 14), ("super_resolution", 10), ("colorization", 18), ("captioning", 6))
    },
    "droppable": Picture(
        (
            TRAIN + "colorization",
            TRAIN + "colorization init=RUN objective.generator.task.source_dropout=0.6 kimg=30",
        ),
        "samples/latest.png",
        "18 minutes, and 10 more",
    ),
    **{
        name: Picture(("npm install @lobehub/fluent-emoji-3d", TRAIN + name), "samples/latest.png", f"{minutes} min")
        for name, minutes in (("pix2pix", 8), ("cyclegan", 14), ("style_transfer", 12))
    },
    "open": Picture(
        (
            TRAIN + "stylevae run_dir=outputs/1",
            TRAIN + "cgan_shapes run_dir=outputs/2",
            TRAIN + "cgan_shapes generator@objective.generator=dcgan run_dir=outputs/3",
            TRAIN + "fsq_shapes run_dir=outputs/tokenizer",
            TRAIN + "maskgit tokenizer=outputs/tokenizer run_dir=outputs/4",
            "for n in 1 2 3 4; do python -m trainer.sample checkpoint=outputs/$n seeds=0-5 out=outputs/open-$n "
            "'prompts=[a red star, a blue square, a small green heart on a white background, "
            "a large pink cross on a navy background]'; done",
        ),
        "open-*/grid.png",
        "78 minutes on one core of an EPYC with AVX2; four grids side by side",
    ),
    "reward": Picture(
        (
            TRAIN + "matching_emoji run_dir=outputs/matcher",
            TRAIN + "reward init=emoji matcher=outputs/matcher run_dir=outputs/2",
            TRAIN + "reward init=emoji matcher=outputs/matcher objective.perceptual_weight=0 kimg=10 "
            "objective.optimizer.generator.lr=0.0004 run_dir=outputs/3",
            *(
                f"python -m trainer.sample checkpoint={run} seeds=0-1 out=outputs/reward-{number} "
                f"'prompts=[{REWARDED}]'"
                for number, run in enumerate(("emoji", "outputs/2", "outputs/3"), start=1)
            ),
        ),
        "reward-*/grid.png",
        "8 CPU minutes of a busy EPYC; three grids side by side",
    ),
    "maskgit": Picture(
        (
            TRAIN + "fsq_shapes run_dir=outputs/tokenizer",
            TRAIN + "maskgit tokenizer=outputs/tokenizer run_dir=outputs/maskgit",
            "python -m trainer.sample checkpoint=outputs/maskgit 'prompts=[a small red circle at the top left on a "
            "white background, a large blue star in the center on a gray background, a medium purple heart at the "
            "bottom right on a black background, a small green triangle in the center on a gray background]' seeds=0-7 "
            "out=outputs/drawn",
        ),
        "grid.png",
        "26 minutes on one core of an EPYC with AVX2",
    ),
    "interpolate": Picture(
        (
            TRAIN + "cgan_shapes text.caption_dropout=0.1 kimg=60 run_dir=outputs/dropped",
            "python -m trainer.sample checkpoint=outputs/dropped 'interpolate=[a large red circle at the top left on a "
            "white background, a small blue star at the bottom right on a black background]' seeds=0-2 out=outputs/way",
        ),
        "grid.png",
        "4 minutes",
    ),
    "editing": Picture(
        (
            TRAIN + "cvae run_dir=outputs/scenes",
            TRAIN + "matching kimg=60 run_dir=outputs/judge",
            "python docs/make/edits.py outputs/scenes outputs/judge 64",
        ),
        "edits.png",
        "9 CPU minutes",
    ),
    "report": Picture((TRAIN + "cgan",), "report.html", "22 minutes; needs playwright and Chromium"),
    "page": Picture(
        (
            "npm install onnxruntime-web @huggingface/tokenizers",
            "python -m trainer.export checkpoint=shapes out=exported formats=[web] 'prompts=[a large purple star on a "
            "beige background, a small red circle at the top left on a navy background]'",
        ),
        "index.html",
        "3 minutes; needs playwright and Chromium",
    ),
    "fast": Picture(
        (
            TRAIN + "cgan_shapes64 run_dir=outputs/teacher",
            TRAIN + "distill teacher=outputs/teacher run_dir=outputs/distilled",
            TRAIN + "distill_data teacher=outputs/teacher init=outputs/distilled run_dir=outputs/student",
            "python -m trainer.compress checkpoint=outputs/student 'compression=[fold,int8,compile]'",
        ),
        "grid.png",
        "104 minutes",
    ),
    "words": Picture(
        (
            TRAIN + "cgan_shapes generator@objective.generator=dcgan run_dir=outputs/scenes",
            TRAIN + f"distill teacher=outputs/scenes run_dir=outputs/thin {THIN}",
            TRAIN + f"distill_data teacher=outputs/scenes init=outputs/thin run_dir=outputs/thinner kimg=40 {THIN}",
            TRAIN + "distill_text teacher=outputs/thinner run_dir=outputs/small objective.others=0.2 "
            "objective.made=16384 text.network.channels=128 kimg=100",
            "OMP_NUM_THREADS=1 python -m trainer.compress checkpoint=outputs/small reference=outputs/scenes "
            "'compression=[vocabulary,fold,half]' 'batch_sizes=[1,16,64]' backbone=effnet_lite2",
        ),
        "grid.png",
        "50 minutes",
    ),
    "front": Picture(
        (
            "python -m trainer.compress checkpoint=outputs/student target=throughput:4x "
            "'compression=[prune,fold,int8,compile]' passes.prune.ratio=0.25 passes.prune.multiple_of=4 "
            "finetune_kimg=16 max_rounds=4",
        ),
        "front.png",
        "16 minutes, behind the student of fast",
    ),
    "scaling": Picture(
        (
            "OMP_NUM_THREADS=1 python -m trainer.benchmark +experiment=cgan strategy=ddp 'ranks=[1,2]' "
            "steps=20 repeats=2",
        ),
        "scaling.png",
        "minutes, on a machine that does nothing else; needs the extra plot",
    ),
}


@contextmanager
def opened(page: Path, *sizes: tuple[int, int]) -> Iterator[Any]:
    """Windows of Chromium in which the page is open, one for each (width, height)."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        windows = [browser.new_page(viewport={"width": width, "height": height}) for width, height in sizes]
        for window in windows:
            window.goto(page.resolve().as_uri())
        yield windows
        browser.close()


def drawing(page: Path, out: Path) -> None:
    """The page of an export, when it has drawn its first prompt."""
    with opened(page, (900, 560)) as (window,):
        window.wait_for_selector("#status[data-milliseconds]", timeout=120_000)
        print(window.text_content("#status"))
        window.screenshot(path=out)


def report(page: Path, out: Path) -> None:
    """A report at desk and phone width, side by side."""
    with opened(page, (730, 1574), (272, 1574)) as windows:
        side_by_side([io.BytesIO(window.screenshot()) for window in windows], out)


def side_by_side(files: Sequence[Any], out: Path) -> None:
    from PIL import Image

    images = [Image.open(file) for file in files]
    sheet = Image.new("RGB", (sum(each.width + 8 for each in images) - 8, max(each.height for each in images)), "grey")
    left = 0
    for image in images:
        sheet.paste(image, (left, 0))
        left += image.width + 8
    sheet.save(out)


def main() -> None:
    if len(sys.argv) == 1:
        for name, picture in PICTURES.items():
            print(f"{name}.png, {picture.cost}:", *picture.commands, sep="\n  ")
        return
    if len(sys.argv) != 3 or sys.argv[1] not in PICTURES:
        sys.exit(f"expected one of {' '.join(PICTURES)}, and the folder that has it")
    name, folder = sys.argv[1], Path(sys.argv[2])
    found = sorted(folder.glob(PICTURES[name].file))
    if not found:
        sys.exit(f"{folder} has no {PICTURES[name].file}")
    out = ROOT / "docs" / "pictures" / f"{name}.png"
    if len(found) > 1:
        side_by_side(found, out)
    else:
        {"report": report, "page": drawing}.get(name, shutil.copy)(found[0], out)
    print(out.relative_to(ROOT))


if __name__ == "__main__":
    main()
