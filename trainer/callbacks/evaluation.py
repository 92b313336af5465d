"""How good the samples are, while training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pytorch_lightning import Callback, Trainer

from trainer.callbacks.log import record
from trainer.callbacks.schedule import due, last
from trainer.errors import UserError
from trainer.evaluation.fidelity import Fidelity
from trainer.evaluation.protocol import Measure, Study, ieee, run
from trainer.evaluation.reconstruction import Reconstruction
from trainer.evaluation.similarity import Similarity
from trainer.process import signals
from trainer.process.progress import say
from trainer.runs import results
from trainer.runs.checkpoint_files import kimg_name
from trainer.runs.judges import require_untaught
from trainer.sampling.conditioning import Conditioning
from trainer.sampling.sampler import Sampler

_AT_ONCE = 64  # images; on one CPU core a sixth quicker than the 16 of a sampler


class Evaluation(Callback):
    """`val/METRIC` of EMA samples for the captions of held-out images, `times` in a run and so at its end.

    backbone, metrics: see `trainer.evaluation.fidelity.Fidelity`; with the default ones `val/fd_effnet`, which is not
    FID. A run that draws nothing, but reconstructs, is measured by its reconstructions: `val/rfd_effnet`, `val/psnr`,
    `val/ssim`; one of an image task by held-out images beside what it makes of their sources. Sample i has the same
    caption and latent every time. Compare values of the same data, backbone, num_images and num_references only: the
    fewer images, the larger the distance, also between two sets of real ones. precision: bfloat16, in which samples are
    drawn, or None for float32.
    The last values of a run go into RUN/metrics.json with their protocol.

    A signal breaks a measurement off; the run that goes on makes it before its first step, with the same values.

    All ranks share the work and get the same values. On one core of a Xeon with AVX-512 500 samples of cgan cost 0.6 s,
    their features 0.9 s, the distance 10 ms. Training waits, because the best checkpoint is chosen by these values.
    """

    def __init__(
        self, backbone: Any, metrics: Sequence[str] = ("fd",), times: int = 10, num_images: int = 500,
        num_references: int = 5000, precision: str | None = None,
    ) -> None:  # fmt: skip
        if times < 0 or min(num_images, num_references) < 2:
            raise UserError(
                f"callbacks.evaluation: times={times}, num_images={num_images}, num_references={num_references}: "
                f"expected at least 0, 2 and 2"
            )
        self.backbone = backbone
        self.metrics = metrics
        self.times = times
        self.num_images = num_images
        self.num_references = num_references
        self.conditioning = Conditioning(precision=precision)
        self.broken_off = self._lent = False
        self._study: Study | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"broken_off": self.broken_off}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.broken_off = state_dict["broken_off"]

    def on_load_checkpoint(self, trainer: Trainer, objective: Any, checkpoint: dict[str, Any]) -> None:
        saved = checkpoint["callbacks"].get(self.state_key, {})
        if saved.get("broken_off") and 0 < trainer.max_steps <= checkpoint["global_step"]:
            trainer.fit_loop.epoch_loop.max_steps += 1  # else there is nothing to start; until `on_train_start`
            self._lent = True

    def setup(self, trainer: Trainer, objective: Any, stage: str) -> None:
        """UserError, before anything is trained, if what judges has taught."""
        for name, node in objective.config.get("callbacks", {}).items():
            if node and "backbone" in node:
                remedy = f"backbone@callbacks.{name}.backbone=effnet_lite2 callbacks.checkpoint.metric=val/fd_effnet2"
                require_untaught(node["backbone"], objective.config, remedy)

    def on_train_start(self, trainer: Trainer, objective: Any) -> None:
        """References are measured before the first step, so that what is wrong with them is told now."""
        if self._lent:
            trainer.fit_loop.epoch_loop.max_steps -= 1
            self._lent = False
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not self.times:
            return
        if trainer.is_global_zero:
            results.read(trainer.default_root_dir)  # a file that cannot be added to is told now, not at the end
        if len(data.heldout.captions) < 2:
            if trainer.is_global_zero:
                say("val/* is off: it needs held-out images, see data.heldout")
            return
        fidelity = Fidelity(self.backbone, data.cache_dir, self.metrics)
        draws = bool(objective.draws_with)
        # one for the run: it remembers conditions of captions
        sampler = Sampler(objective, data.text, _AT_ONCE, conditioning=self.conditioning)
        self._measures: list[Measure] = [fidelity]
        if not draws:
            self._measures.append(Reconstruction())
        elif sampler.task and data.heldout.pairs:
            self._measures.append(Similarity())
        self._study = Study(
            sampler=sampler,
            references=data.heldout,
            split="heldout",
            num_images=self.num_images,
            num_references=self.num_references,
            data=data.fingerprint,
            checkpoint="",
            kimg=0.0,
            reconstructs=not draws,
        )
        with ieee():
            fidelity.prepare(self._study)
        if self.broken_off:
            self._measure(trainer, objective, self._study)

    def on_train_batch_end(self, trainer: Trainer, objective: Any, *_: Any) -> None:
        if self._study is not None and due(trainer, self.times):
            self._measure(trainer, objective, self._study)

    def _measure(self, trainer: Trainer, objective: Any, study: Study) -> None:
        name = f"{kimg_name(objective.images_seen)}.ckpt"
        study = replace(study, checkpoint=name, kimg=objective.images_seen / 1000)
        with objective.ema_weights():  # all ranks together, each draws its share
            found = run(study, self._measures, lambda: signals.received != 0)
        self.broken_off = not found
        if self.broken_off:
            return
        record(trainer, {f"val/{figure.metric}": figure.value for figure in found})
        if trainer.is_global_zero:
            values = "  ".join(f"val/{figure.metric} {figure.value:.5g}" for figure in found)
            print(f"kimg {study.kimg:.1f}  {values}  {self.num_images} samples", flush=True)
            if last(trainer):
                try:
                    results.add(trainer.default_root_dir, found)
                except (OSError, UserError) as error:  # the checkpoint that comes now is worth more
                    say(f"{results.FILE} is not written: {error}")
