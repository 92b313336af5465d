"""What the package does, by the first word of a command line."""

from __future__ import annotations

VERBS = {  # verb -> its module
    "train": "trainer.__main__",
    "prepare": "trainer.prepare",
    "sample": "trainer.sample",
    "caption": "trainer.caption",
    "enrich": "trainer.enrich",
    "edit": "trainer.edit",
    "evaluate": "trainer.evaluate",
    "compress": "trainer.compress",
    "export": "trainer.export",
    "speed": "trainer.speed",
    "benchmark": "trainer.benchmark.__main__",
    "report": "trainer.report.__main__",
    "dashboard": "trainer.dashboard",
}
_OTHERS = {  # what other programs call them
    "train": "fit run start finetune",
    "prepare": "preprocess cache index",
    "sample": "generate draw infer inference predict text2image txt2img",
    "caption": "describe image2text img2txt",
    "enrich": "expand rewrite",
    "edit": "invert manipulate",
    "evaluate": "eval test validate val measure metrics score fid",
    "compress": "quantize quantise prune optimize distil",
    "export": "convert onnx save",
    "benchmark": "bench profile",
    "report": "compare summary summarize show plot",
    "dashboard": "wandb",
}
OTHERS = {word: verb for verb, words in _OTHERS.items() for word in words.split()}

FIRST = """Train text-conditioned GANs and VAEs, and draw with them. Five things to do:

  train on emoji and their names, in about 6 minutes on 2 CPU cores
    python -m trainer +experiment=cgan
  train on pictures of your own: a folder with captions
    python -m trainer +experiment=cgan data=folder data.source.path=PICTURES
  draw pictures of a text
    python -m trainer.sample checkpoint=RUN 'prompts=[a red apple, a blue car]' seeds=0-7
  measure a run
    python -m trainer.evaluate checkpoint=RUN
  make it small and fast
    python -m trainer.compress checkpoint=RUN

RUN is the folder that training prints: outputs/NAME/TIME.
python -m trainer --help lists experiments and options; python -m trainer.VERB --help explains a verb:
{verbs}.
The documentation begins at docs/index.md of the source."""


def first() -> str:
    """What `python -m trainer` alone prints."""
    return FIRST.format(verbs=", ".join(verb for verb in VERBS if verb != "train"))
