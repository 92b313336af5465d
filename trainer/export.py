"""Export: python -m trainer.export checkpoint=RUN out=FOLDER. One plain file of weights and the configuration."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from omegaconf import MISSING, DictConfig

from trainer.config import entry
from trainer.errors import UserError


@dataclass
class Export:
    """checkpoint: a run folder, or one of its checkpoints, however many ranks wrote it. out: a folder to make."""

    checkpoint: str = MISSING
    out: str = MISSING


def export(cfg: DictConfig) -> None:
    """Writes OUT/model.safetensors, the weights that sample (averaged where they have an average), and config.json."""
    from safetensors.torch import save_file

    from trainer import checkpoint

    path = checkpoint.newest(cfg.checkpoint)
    saved = checkpoint.read(path)
    weights = {**dict(saved["state_dict"]), **dict(saved["ema"])}
    out = Path(cfg.out)
    settings = {key: saved[key] for key in ("images_seen", "global_step", "config")}
    try:
        out.mkdir(parents=True, exist_ok=True)
        save_file({k: v.contiguous() for k, v in weights.items()}, out / checkpoint.WEIGHTS)
        (out / checkpoint.SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"out={out}: {error.strerror}; name a folder that can be written") from error
    size = (out / checkpoint.WEIGHTS).stat().st_size
    print(f"{path} -> {out / checkpoint.WEIGHTS}: {len(weights)} tensors, {size / 2**20:.1f} MiB")
    print(f"python -m trainer.sample checkpoint={out} 'prompts=[a red apple]'")


def main() -> None:
    entry(export, "export", Export)


if __name__ == "__main__":
    main()
