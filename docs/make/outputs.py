"""What commands print, for the pages of docs/ to include: python docs/make/outputs.py [NAME ...]

Each command runs in an empty folder, with a cache of its own, and leaves docs/output/NAME.txt: the machine, the
command, what it printed, and its exit code where that is not 0. Without names all run: 7 CPU minutes on a Xeon; help,
mistakes and slurm are 40 s of it.
The commands of a chapter run in order, in one folder, as the later need what the earlier leave.
"""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "docs" / "output"
MODULE = "python -m trainer"

# chapter -> name of the output -> command. Each chapter has a folder of its own.
CHAPTERS: dict[str, dict[str, str]] = {
    "help": {
        "help": f"{MODULE} --help",
        **{f"help-{verb}": f"{MODULE}.{verb} --help" for verb in ("sample", "evaluate", "compress", "export", "speed")},
        **{f"help-{verb}": f"{MODULE}.{verb} --help" for verb in ("caption", "enrich", "edit", "benchmark", "report")},
        "help-dashboard": f"{MODULE}.dashboard --help",
        "help-prepare": f"{MODULE}.prepare --help",
        "config-data": f"{MODULE} +experiment=cgan --cfg job --package data",
    },
    "mistakes": {
        "mistake-experiment": f"{MODULE} +experiment=cgann",
        "mistake-key": f"{MODULE} +experiment=cgan data.resolutoin=64",
        "mistake-word": f"{MODULE} +experiment=cgan precision=bf16",
        "mistake-data": f"{MODULE} +experiment=cgan data=folder data.source.path=PICTURES",
    },
    "slurm": {
        "slurm": f"{MODULE} +experiment=cgan +scale=gpu launch=slurm nodes=4 gpus_per_node=8 launch.time=8:00:00 "
        "launch.partition=gpu launch.dry_run=true run_dir=/shared/cgan",
    },
    "forecast": {  # of a run on many GPUs: a minute or two of counting
        "forecast": f"{MODULE}.benchmark +experiment=cgan +scale=gpu kimg=100000 'forecast=[64,1024]' "
        "images_per_gpu=64 price=2.5 out=forecast",
        "forecast-large": f"{MODULE}.benchmark +experiment=gat +scale=gpu_gat kimg=100000 "
        "objective.generator.width=1024 objective.generator.depth=24 objective.generator.num_heads=16 "
        "objective.discriminator.width=1024 objective.discriminator.depth=24 objective.discriminator.num_heads=16 "
        "'forecast=[64,1024]' images_per_gpu=16 price=2.5 out=forecast-large",
    },
    "tour": {  # a minute of training: the output of a run, not its quality
        "train": f"{MODULE} +experiment=cgan kimg=1 run_dir=outputs/first",
        "sample": f"{MODULE}.sample checkpoint=outputs/first 'prompts=[a red apple, a blue car]' seeds=0-3",
        "evaluate": f"{MODULE}.evaluate checkpoint=outputs/first num_images=500",
        "export": f"{MODULE}.export checkpoint=outputs/first out=exported formats=[safetensors,onnx]",
        "report": f"{MODULE}.report outputs/first",
        "resume": f"{MODULE} resume=outputs/first kimg=1.1",
        "tree": "ls outputs/first",
        "bulk": f"{MODULE}.sample checkpoint=outputs/first prompts_file=captions.txt images_per_file=50 "
        "out=bulk processes=1",
        "tars": "ls bulk",
    },
    "edit": {
        "edit-source": f"{MODULE}.sample checkpoint=emoji 'prompts=[red heart]' seeds=1 out=drawn",
        "edit": f"{MODULE}.edit checkpoint=emoji source=drawn/red-heart_seed0001.png caption='red heart' prompt='tree'",
    },
    "pictures": {
        "pictures-make": "python make_pictures.py pictures",
        "pictures-train": f"{MODULE} +experiment=cgan data=folder data.source.path=pictures data.resolution=32 "
        "data.heldout=0.2 kimg=6 callbacks.evaluation=null run_dir=outputs/own",
        "pictures-sample": f"{MODULE}.sample checkpoint=outputs/own 'prompts=[a red circle, a blue square]' seeds=0-7",
    },
}


# what the commands leave in their folder -> docs/pictures
PICTURES = {"pictures-sample": ("outputs/own/samples/*/grid.png", "own.png")}


def machine() -> str:
    """This machine in a line."""
    import torch

    model = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    cpu = model[1] if model else platform.processor()
    kernels = torch.backends.cpu.get_cpu_capability()
    return f"{cpu}, {os.cpu_count()} cores, {kernels}, {gpu}, PyTorch {torch.__version__}"


def shown(text: str, folder: Path) -> str:
    """Printed text as a page has it: without colours, progress that was overwritten, and folders of this machine."""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace(str(folder), ".").replace(sys.executable, "python")
    text = re.sub(rf"\b{re.escape(platform.node())}\b", "node1", text)
    lines = [line.split("\r")[-1].rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def run(chapter: str, names: set[str]) -> None:
    commands = CHAPTERS[chapter]
    if not names & {*commands, chapter}:
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "make_pictures.py").write_text((ROOT / "docs" / "make" / "make_pictures.py").read_text())
        captions = [f"a {colour} {thing}\n" for colour in ("red", "blue") for thing in ("cat", "dog") * 25]
        (folder / "captions.txt").write_text("".join(captions))
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "WANDB_MODE": "offline", "COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": "",
        }  # fmt: skip
        for name, command in commands.items():
            done = subprocess.run(
                command, shell=True, cwd=folder, env=environment, text=True, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=900,
            )  # fmt: skip
            code = f"\n(exit code {done.returncode})" if done.returncode else ""
            text = f"# {machine()}\n$ {command}\n{shown(done.stdout, folder)}{code}\n"
            (OUTPUT / f"{name}.txt").write_text(text, encoding="utf-8")
            if name in PICTURES:
                pattern, picture = PICTURES[name]
                shutil.copy(next(folder.glob(pattern)), ROOT / "docs" / "pictures" / picture)
            print(f"{name}: exit code {done.returncode}, {len(text.splitlines())} lines", flush=True)


def main() -> None:
    known = {*CHAPTERS, *(name for commands in CHAPTERS.values() for name in commands)}
    names = set(sys.argv[1:]) or {*CHAPTERS}
    if unknown := names - known:
        sys.exit(f"{shlex.join(sorted(unknown))}: expected some of {' '.join(sorted(known))}")
    OUTPUT.mkdir(exist_ok=True)
    for chapter in CHAPTERS:
        run(chapter, names)


if __name__ == "__main__":
    main()
