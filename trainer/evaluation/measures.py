"""Which measures fit a run and a command, and the table of what they found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from trainer.backbones import clip, vgg
from trainer.data.module import DataModule
from trainer.errors import UserError
from trainer.evaluation.attributes import Attributes
from trainer.evaluation.captions import Captions
from trainer.evaluation.diversity import Diversity
from trainer.evaluation.fidelity import METRICS, Fidelity
from trainer.evaluation.likelihood import Likelihood
from trainer.evaluation.open_captions import OpenCaptions
from trainer.evaluation.protocol import Measure, Study
from trainer.evaluation.reconstruction import Reconstruction
from trainer.evaluation.similarity import Similarity
from trainer.evaluation.steering import Steering
from trainer.evaluation.styles import Styles
from trainer.evaluation.text import TextMatch
from trainer.process import ranks
from trainer.process.progress import say
from trainer.report import table as report
from trainer.runs import checkpoint
from trainer.runs.judges import require_untaught
from trainer.runs.results import Figure
from trainer.runs.trained import Matcher
from trainer.sampling.pipeline import Pipeline
from trainer.text.models import FAMILIES

# beside those of a backbone
OTHERS = (
    *("attributes", "open_captions", "diversity", "reconstruction", "similarity", "likelihood", "r_precision"),
    *("steering", "styles", "captions", "clip_score"),
)


def check_split(split: str) -> None:
    if split not in ("heldout", "train"):
        raise UserError(f"split={split}: expected heldout or train")


def check_without(without: str | None, pipe: Pipeline) -> None:
    """UserError for what a run has not learned to draw without."""
    if without not in (None, "source", "caption"):
        raise UserError(f"without={without}: expected source or caption")
    learned = {
        "source": getattr(pipe.sampler.task, "source_dropout", 0),
        "caption": (pipe.config.get("text") or {}).get("caption_dropout"),
    }
    if without and not learned[without]:
        remedy = "task.source_dropout" if without == "source" else "text.caption_dropout"
        raise UserError(f"without={without}: this run has never drawn so; train one with {remedy}=0.1")


def data_of(cfg: DictConfig, pipe: Pipeline) -> Any:
    """The data of a run, prepared, at the places that `cfg.data` gives; a line where they are not those it had."""
    node = pipe.config["data"]
    if path := cfg.data.source.path:
        if "path" not in node["source"]:
            raise UserError(f"data.source.path={path}: the run's data are no files, but {node['source']['_target_']}")
        node["source"]["path"] = path
    node["cache_dir"] = cfg.data.cache_dir or node.get("cache_dir")
    data = instantiate(node, text=pipe.text, _convert_="all")
    data.prepare()
    known = checkpoint.read(pipe.path).get(DataModule.__qualname__)
    if known and (changed := data.changed(known)) and ranks.rank() == 0:
        say(f"the data have changed since the checkpoint: {changed}; its run may have trained on what is held out now")
    return data


def studies(cfg: DictConfig, pipe: Pipeline, data: Any) -> Callable[..., Study]:
    """Samplers to the study of each: the same captions and seeds, and the same references."""
    return partial(
        Study, references=getattr(data, cfg.split), split=cfg.split, num_images=cfg.num_images,
        num_references=cfg.num_references, data=data.fingerprint, checkpoint=pipe.path.name,
        kimg=pipe.objective.images_seen / 1000, seed=cfg.seed, reconstructs=not pipe.objective.draws_with,
        without=cfg.get("without"),
    )  # fmt: skip


def measures(cfg: DictConfig, pipe: Pipeline, data: Any) -> list[Measure]:
    """Those that `metrics` names; without it all for which the run and the command have what is needed."""
    if own := getattr(pipe.objective, "measured_by", None):
        raise UserError(f"checkpoint={cfg.checkpoint}: it draws one picture; {own} in its metrics.csv measures that")
    scenes = bool(data.heldout.attributes and data.heldout.attributes[0].get("objects"))
    explains = getattr(pipe.objective, "explains_pixels", False)
    draws = None if pipe.objective.draws_with else "a run that draws, not one that reconstructs"
    alone = draws or (pipe.sampler.task and "a run that draws from captions alone")
    fills = None if getattr(pipe.sampler.task, "holes", False) else "a run that fills holes, as inpainting"
    likeness = None if pipe.objective.draws_with and pipe.sampler.task else "an image task, as inpainting"
    targets = {each.get("target") for each in data.heldout.attributes} if pipe.sampler.task else set()
    writes = hasattr(pipe.objective, "captioner")
    only_writes = writes and not pipe.objective.draws_with
    possible = {
        "captions": None if writes else "a run that writes captions, as captioning",
        "attributes": draws if scenes else "scenes: data=shapes",
        "open_captions": alone if scenes else "scenes: data=shapes",
        "diversity": alone,
        "reconstruction": None if hasattr(pipe.objective, "reconstruct") else "an autoencoder",
        "similarity": likeness or (None if data.heldout.pairs else "pairs: these data have two domains"),
        "steering": fills if scenes else "scenes: data=shapes",
        "styles": None if len(targets) > 1 else "several styles: data=emoji_styles",
        "likelihood": None if explains else "a VAE whose distortion is of pixels",
        "r_precision": draws if cfg.matching or cfg.clip else "matching=RUN of experiment=matching, or clip=...",
        "clip_score": draws if cfg.clip else "clip=openai/clip-vit-base-patch32, or a folder",
    }
    if isinstance(cfg.metrics, str):
        cfg.metrics = [cfg.metrics]
    if only_writes:
        possible |= dict.fromkeys(METRICS, "a run that draws, not one that writes captions")
    reward = pipe.config["objective"].get("reward") or pipe.config.get("reward") or {}
    if str(reward.get("_target_")).endswith(".Attributes"):
        possible |= dict.fromkeys(("attributes", "open_captions"), "a run that the probe of scenes has not rewarded")
    wanted = list(cfg.metrics or (name for name in (*METRICS, *OTHERS) if not possible.get(name)))
    for name in wanted:
        if name not in (*METRICS, *OTHERS):
            raise UserError(f"metrics: {name} is none of {', '.join((*METRICS, *OTHERS))}")
        if possible.get(name):
            raise UserError(f"metrics: {name} needs {possible[name]}")
    of_images = {*METRICS, "diversity", "styles", "captions"} & set(wanted)
    if of_images:
        require_untaught(cfg.backbone, pipe.config, "backbone=effnet_lite2, effnet_lite0, inception, ...")
    backbone = instantiate(cfg.backbone)
    of_backbone = [name for name in wanted if name in METRICS]
    if of_backbone and not cfg.metrics and not hasattr(backbone, "logits"):
        of_backbone.remove("inception_score")
    chosen: list[Measure] = []
    if of_backbone:
        chosen.append(Fidelity(backbone, data.cache_dir, of_backbone))
    if "diversity" in wanted:
        chosen.append(Diversity(backbone))
    if "attributes" in wanted:
        chosen.append(Attributes(data.source.max_objects, data.cache_dir))
    if "open_captions" in wanted:
        chosen.append(OpenCaptions(data.source.max_objects, data.cache_dir))
    path = cfg.lpips if isinstance(cfg.lpips, str) and cfg.lpips.lower() != "true" else None
    lpips = vgg.load(path) if cfg.lpips and {"reconstruction", "similarity"} & {*wanted} else None
    if "reconstruction" in wanted:
        chosen.append(Reconstruction(lpips))
    if "similarity" in wanted:
        chosen.append(Similarity(lpips, backbone))
    if "captions" in wanted:
        chosen.append(Captions(nearest=(backbone, data.train) if cfg.get("anchors") else None))
    if "steering" in wanted:
        chosen.append(Steering(data.source.max_objects, data.cache_dir))
    if "styles" in wanted:
        chosen.append(Styles(backbone, data.train))
    if "likelihood" in wanted:
        chosen.append(Likelihood())
    if "r_precision" in wanted and cfg.matching:
        matching = Matcher(cfg.matching, pipe.sampler.device)
        teacher = pipe.config["objective"].get("matcher") or pipe.config.get("matcher")
        own = (matching.path.resolve(), *matching.path.resolve().parents)
        if teacher and (Path(teacher).resolve() in own or teacher in (each.name for each in own)):  # a name in exports
            raise UserError(f"matching={cfg.matching}: it taught the generator; another one has to judge")
        chosen.append(TextMatch(matching, matching.images, matching.captions, ["r_precision"]))
    if cfg.clip and {"r_precision", "clip_score"} & set(wanted):
        node = {"_target_": "trainer.backbones.clip.load", "path": cfg.clip}
        require_untaught(node, pipe.config, "clip= of another hub id or folder")
        encoder = pipe.config["text"]["encoder"]
        if encoder.get("name") == "clip" and (encoder["path"] or FAMILIES["clip"].hub_id) == cfg.clip:
            raise UserError(f"clip={cfg.clip}: the model was trained with its text encoder; another CLIP has to judge")
        judge = clip.load(cfg.clip).to(pipe.sampler.device)
        chosen.append(TextMatch(judge, judge.features, judge.text, wanted))
    return chosen


def lengths(found: Mapping[Any, Sequence[Figure]]) -> str:
    """One line a length of the weights' average, a column a metric."""
    metrics = [*dict.fromkeys(figure.metric for figures in found.values() for figure in figures)]
    values = [{figure.metric: f"{figure.value:.5g}" for figure in figures} for figures in found.values()]
    rows = [(str(length), *(each[metric] for metric in metrics)) for length, each in zip(found, values, strict=True)]
    return report.plain(("ema", *metrics), rows, left=())


def table(found: Sequence[Figure]) -> str:
    """One line a figure: value, deviation over its parts, anchors, which way is better, how many images, by what."""
    rows = [("metric", "value", "", "real", "shuffled", "better", "images", "references", "measured by")]
    for figure in found:
        known = figure.protocol
        network = known.get("backbone") or known.get("judge") or ("probe" if "probe" in known else "")
        how = ", ".join(str(known[key]) for key in ("sha256", "resizer") if known.get(key))
        if "probe" in known:
            how = f"reads {known['probe_accuracy']:.2%} of real scenes without fault"
        std = f"± {figure.std:.3g}" if figure.std is not None else ""
        counts = str(known["num_images"]), str(known.get("num_references", ""))
        form = "{:.2%}" if figure.metric.startswith(("attributes", "styles", "r_prec")) else "{:.5g}"
        real, other = (form.format(figure.anchors[name]) if figure.anchors else "" for name in ("real", "shuffled"))
        by = f"{network} ({how})" if how else network
        rows.append((figure.metric, form.format(figure.value), std, real, other, figure.better, *counts, by))
    lines = [report.plain(rows[0], rows[1:], left=(0, 2, 5, 8))]
    if pictures := dict.fromkeys(figure.anchors["pictures"] for figure in found if figure.anchors):
        lines.append(f"real: pictures {', '.join(pictures)}; shuffled: of training, captions ignored")
    if drawn := dict.fromkeys(known["precision"] for figure in found if "precision" in (known := figure.protocol)):
        lines.append(f"samples are made in {', '.join(drawn)}: these do not compare with figures of float32")
    return "\n".join(lines)
