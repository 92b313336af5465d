"""The report of one run."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from omegaconf import OmegaConf

from trainer.errors import UserError
from trainer.process import distribution
from trainer.report import page
from trainer.report.curves import curve_groups
from trainer.report.plot import short
from trainer.report.run import Run
from trainer.report.warnings import warnings
from trainer.runs.results import Figure

FILE = "report.html"
MAIN_PACKAGES = (
    distribution.NAME,
    "torch",
    "pytorch-lightning",
    "transformers",
    "hydra-core",
    "wandb",
    "deepspeed",
    "numpy",
)
LOWER = re.compile(r"val/(clean_)?r?(fd_|kd_|fid|kid)|val/(iwae_)?bits_|val/lpips")  # which is better
MOST_SHOTS = 12  # of the evolution of samples; evenly spread over those there are


def write(folder: Path, out: Path | None = None) -> Path:
    """Writes `out`, RUN/report.html if None; its path. UserError if `folder` is no run or `out` cannot be written."""
    run = Run(folder)
    return page.save(out or folder / FILE, page.page(f"{run.name}: {run.end['state']}", parts(run)))


def parts(run: Run) -> Iterator[str]:
    yield head(run)
    yield page.section("Samples", evolution(run))
    yield page.section("Curves", curve_groups({"": run}))
    try:
        measured = run.figures
    except UserError:  # among the warnings
        measured = []
    yield page.section("Figures", figure_table(measured))
    config = OmegaConf.to_yaml(OmegaConf.create(run.config))
    yield page.section("Configuration", page.details("config.yaml, resolved", page.text(config)))
    yield page.section("Environment", environment(run))


def head(run: Run) -> str:
    state, reason = run.end["state"], run.end.get("reason", "")
    title = f'<div class="title"><h1>{html.escape(run.name)}</h1>{page.state(state)}</div>'
    about = [run.panel.get("data"), run.panel.get("devices"), str(run.folder)]
    lines = [title, f'<p class="faint">{html.escape(" · ".join(part for part in about if part))}</p>']
    lines.append(page.notes([f"{state}: {reason}"] if reason else [], "failed" if state == "failed" else "warning"))
    if "traceback" in run.end:
        lines.append(page.details("Traceback", page.text(run.end["traceback"])))
    lines += [page.notes(warnings(run)), page.tiles(facts(run)), commands(run)]
    return f"<header>{''.join(lines)}</header>"


def facts(run: Run) -> Iterator[tuple[str, str, str]]:
    """Headline figures: name, value, remark."""
    yield "thousand images seen", f"{run.kimg:,.10g}", f"of {float(run.config.get('kimg', 0)):,.10g}"
    if seconds := duration_seconds(run):
        yield "took", duration(seconds), "since its last start" if len(run.starts) > 1 else ""
    for key in sorted(key for key in run.curves if key.startswith("val/")):
        if points := run.finite(key):
            rising = not LOWER.match(key)
            kimg, best = (max if rising else min)(points, key=lambda point: point[1])
            yield key, f"{points[-1][1]:.5g}", f"{'highest' if rising else 'lowest'} {best:.5g} at kimg {kimg:,.10g}"
    if speed := run.finite("throughput/images_per_second"):
        values = sorted(value for _, value in speed)
        yield "images/s", short(values[len(values) // 2]), "median"
    if memory := run.finite("memory/peak_gib"):
        yield "peak memory", f"{max(value for _, value in memory):.3g} GiB", "a rank"
    for part in run.panel.get("parameters", "").split(", "):
        if part:
            name, _, size = part.rpartition(" ")
            yield "parameters", size, name


def duration_seconds(run: Run) -> float:
    """Seconds from the last start to the end, 0 where one of them is not known."""
    try:
        began, ended = (datetime.strptime(t, "%Y-%m-%d %H:%M:%S %z") for t in (run.starts[-1]["time"], run.end["time"]))
    except (KeyError, IndexError, ValueError):
        return 0
    return (ended - began).total_seconds()


def duration(seconds: float) -> str:
    """192 -> `3 min 12 s`."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def commands(run: Run) -> str:
    """What to type next."""
    offers = []
    if run.end["state"] != "finished" and run.checkpoint:
        offers.append(("go on where it was", f"python -m trainer resume={run.quoted}"))
    if run.checkpoint and run.grids:  # it draws
        said = run.panel.get("draw", "'prompts=[a red apple, a blue car]'")
        of_data = re.search(r" ?'prompts=\[[\w ,]+\]'", said)  # a caption that the run knows, or none
        prompts = f" {of_data[0].strip()}" if of_data else ""
        source = "".join(re.findall(r" (?:source|mask)=\w+\.png", said))  # of an image task
        if "describe" in run.panel:
            offers.append(("describe", f"python -m trainer.caption checkpoint={run.quoted} data=PICTURES"))
        else:
            offers.append(("draw", f"python -m trainer.sample checkpoint={run.quoted}{source}{prompts}"))
        offers.append(("measure", f"python -m trainer.evaluate checkpoint={run.quoted}"))
    if not run.checkpoint and run.starts:
        offers.append(("there is no checkpoint; start again", run.starts[-1].get("command", "")))
    offers.append(("compare with another run", f"python -m trainer.report {run.quoted} OTHER_RUN"))
    blocks = "".join(f"<div>{html.escape(what)}{page.text(command)}</div>" for what, command in offers)
    return f'<details class="next" open><summary>What to type next</summary>{blocks}</details>'


def evolution(run: Run) -> str:
    """Sample grids under a slider; without scripts, one below the other."""
    count = len(run.grids)
    if not count:
        return ""
    chosen = sorted({(count - 1) * i // max(1, min(count, MOST_SHOTS) - 1) for i in range(min(count, MOST_SHOTS))})
    shots = "".join(page.picture(path, f"kimg {kimg:,.10g}") for kimg, path in (run.grids[i] for i in chosen))
    last = len(chosen) - 1
    slider = f'<input type="range" min="0" max="{last}" value="{last}" aria-label="when the samples were drawn">'
    return f'<div class="evolution"><label hidden>first {slider} last</label>{shots}</div>'


def figure_table(figures: Iterable[Figure]) -> str:
    head = ("metric", "value", "real", "shuffled", "better", "kimg", "checkpoint", "protocol")
    return page.table(
        head,
        (
            (
                html.escape(each.metric),
                value(each),
                *(f"{each.anchors[name]:.5g}" if each.anchors else "" for name in ("real", "shuffled")),
                html.escape(each.better),
                f"{each.kimg:.4g}",
                html.escape(each.checkpoint),
                html.escape(protocol(each)),
            )
            for each in figures
        ),
    )


def value(figure: Figure) -> str:
    std = f" ± {figure.std:.2g}" if figure.std is not None else ""
    return f'<span class="whole"><b>{figure.value:.5g}</b>{std}</span>'


def protocol(figure: Figure) -> str:
    return ", ".join(f"{key} {str(value)[:12] if key == 'sha256' else value}" for key, value in figure.protocol.items())


def environment(run: Run) -> str:
    if not run.starts:
        return ""
    last = run.starts[-1]
    packages = last.get("packages", "").split()
    main = [p for p in packages if p.partition("==")[0] in MAIN_PACKAGES]
    rows = [(html.escape(key), html.escape(value)) for key, value in last.items() if key != "packages"]
    lists = page.details(f"all {len(packages)} packages", f'<p class="faint">{html.escape(" ".join(packages))}</p>')
    return page.table((), [*rows, ("packages", html.escape(" ".join(main)))]) + lists
