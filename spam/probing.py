"""`spam plan`: tiles, bytes, hours and memory of each step for given lab files, from a short probe on this machine."""

import contextlib
import dataclasses
import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from spam.embedding.embedding import encode, planned_encoder
from spam.embedding.planning import EmbedPlan, PlannedSection, read_plan
from spam.encoders import Encoder
from spam.errors import SpamError, counted
from spam.hardware import Usage, measured, resolve_device
from spam.models.expression import log1p_cp10k
from spam.predicting import predict
from spam.progress import SILENT, Advance, Progress
from spam.schemas.config import default_of
from spam.schemas.embed_config import PlanConfig
from spam.schemas.encoder_card import EncoderCard
from spam.schemas.predict_config import PredictConfig
from spam.schemas.records import Record
from spam.schemas.store_format import FeatureMeta
from spam.schemas.training_config import FinetuneConfig, PretrainConfig
from spam.store import Store, create_store, open_store
from spam.training import finetune, pretrain

_MOST_JOBS = 8  # sections and tile sizes whose tiles are embedded
_CPU_BATCH = 8  # a batch of a large encoder must fit into the probe; larger ones are hardly faster on a CPU
_MOST_SECTIONS = 4  # as many folds as `spam finetune` trains at most
_FEWEST, _MOST = 200, 6400  # spots that are trained on
_CLEARLY = 0.7  # a line through samples of nearly one size would show their noise
_EPOCHS = 2  # the first includes what is done once
_STAGES = ("pretrain", "selection", "finetune")
_STEPS = ("pretrain", "finetune", "predict")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class StepPlan(Record):
    """What one command will take.

    Attributes
    ----------
    step
        Name of the command.
    work
        What it does, with numbers.
    hours, memory_bytes, gpu_bytes
        Time, and the largest memory of the process and on the GPU.
    disk_bytes
        Size of what it writes.
    """

    step: str
    work: str
    hours: float
    memory_bytes: int
    gpu_bytes: int
    disk_bytes: int

    def row(self) -> str:
        """Write the line of a Markdown table."""
        units = {"h": 1, "min": 60, "s": 3600}
        unit = next((unit for unit, n in units.items() if self.hours * n >= 1), "s")
        time_needed = f"{self.hours * units[unit]:.1f} {unit}"
        gpu = f"{self.gpu_bytes / 1e9:.1f} GB" if self.gpu_bytes else "-"
        sizes = f"{self.memory_bytes / 1e9:.1f} GB | {gpu} | {self.disk_bytes / 1e6:.1f} MB"
        return f"| {self.step} | {self.work} | {time_needed} | {sizes} |"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlanReport(Record):
    """Outcome of `plan`.

    Attributes
    ----------
    n_sections, n_spots, n_tiles, n_left
        Size of the cohort; tiles in all, and those that the store does not have.
    device
        Where the probe ran.
    steps
        The commands in their order.
    notes
        What was not measured, and why.
    """

    n_sections: int
    n_spots: int
    n_tiles: int
    n_left: int
    encoder: str
    device: str
    steps: tuple[StepPlan, ...]
    notes: tuple[str, ...]

    def summary(self) -> str:
        """Draw the table."""
        head = ("| step | work | time | memory | GPU | disk |", "|---|---|---:|---:|---:|---:|")
        tiles = f"{self.n_tiles} tiles, {self.n_left} of them to embed"
        size = f"{counted(self.n_sections, 'section')}, {self.n_spots} spots, {tiles}; encoder {self.encoder} on {self.device}"
        return "\n".join([size, *head, *(step.row() for step in self.steps), *self.notes])


def plan(config: PlanConfig, *, progress: Progress = SILENT) -> PlanReport:
    """Read and check all files as `embed` does, measure some work of each step, and extrapolate to the whole cohort.

    Half of ``config.probe_s`` trains both stages and predicts, on part of the spots, with features made from their counts; time,
    memory and disk follow a line through two numbers of spots. The other half embeds tiles of up to eight
    sections and tile sizes, in the order in which `embed` reads them. Nothing is written outside a temporary folder.

    Raises
    ------
    ConfigError, EncoderError, MissingInputError, SectionError, SlideError, StoreError, TileError
        As `spam.embedding.embed`.
    """
    begun, notes = time.perf_counter(), []
    with contextlib.ExitStack() as slides, progress.task("probing", 2) as advance:
        planned = read_plan(config, slides)
        read_s = time.perf_counter() - begun
        # Before the encoder takes memory: trainings do not load it.
        steps, left = list[StepPlan](), _left(planned, config)
        if any(one.section.counts is not None for one in planned.sections):
            try:
                with _quiet():
                    steps += _probe_training(planned, config)
            except SpamError as error:  # e.g. too few spots to hold some out
                notes.append(f"training and prediction are not planned, because a small part fails: {error}")
        else:
            notes.append("training and prediction are not planned: no section has counts")
        advance(note="training")
        encoder = planned_encoder(planned, config)
        steps.insert(0, _probe_embedding(planned, left, config, encoder, read_s))
        advance(note="embedding")
    return PlanReport(
        n_sections=len(planned.sections),
        n_spots=sum(one.section.n_spots for one in planned.sections),
        n_tiles=planned.n_tiles,
        n_left=sum(one.section.n_spots for one, _ in left),
        encoder=planned.encoder,
        device=str(encoder.device),
        steps=tuple(steps),
        notes=tuple(notes),
    )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the messages of trainings back: they are about parts of sections."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _left(planned: EmbedPlan, config: PlanConfig) -> list[tuple[PlannedSection, int]]:
    """List sections and numbers of tile sizes whose features `embed` will compute."""
    is_kept = (planned.store / "zarr.json").exists() and not config.overwrite
    store = open_store(planned.store) if is_kept else None
    done = {
        (name, key)
        for name in (store.section_names if store else ())
        for key in (store.section(name).feature_keys if store else ())
    }
    return [
        (one, size)
        for one in planned.sections
        for size, key in enumerate(one.keys)
        if (one.section.name, key) not in done
    ]


def _probe_embedding(
    planned: EmbedPlan,
    left: Sequence[tuple[PlannedSection, int]],
    config: PlanConfig,
    encoder: Encoder,
    read_s: float,
) -> StepPlan:
    """Embed tiles of some sections and sizes; the rest is embedded as fast as these are on average."""
    chosen = (
        [left[i] for i in sorted({len(left) * i // _MOST_JOBS for i in range(_MOST_JOBS)})] if left else []
    )
    spent_s, n_done, seconds = 0.0, 0, read_s
    with measured(encoder.device) as usage:
        for one, size in chosen:
            n, job_s = _embed_for(one, size, config, encoder, config.probe_s / 2 / len(chosen))
            n_done, spent_s = n_done + n, spent_s + job_s
    n_left = -(-sum(one.section.n_spots for one, _ in left) // config.shard_of[1])  # of one part
    if n_done:
        seconds += n_left * spent_s / n_done
    rate = f" at {n_done / spent_s:.1f}/s" if n_done else ""
    return StepPlan(
        step="embed",
        work=f"{n_left} tiles{rate}",
        hours=seconds / 3600,
        memory_bytes=usage.memory_bytes,
        gpu_bytes=usage.gpu_bytes,
        disk_bytes=planned.n_bytes * n_left // planned.n_tiles,
    )


def _embed_for(
    one: PlannedSection, size: int, config: PlanConfig, encoder: Encoder, seconds: float
) -> tuple[int, float]:
    """Embed tiles for some seconds; return how many, and how long they took after the first batch."""
    spots = one.in_reading_order(np.arange(min(one.section.n_spots, config.chunk_rows or 4096)), size)
    step = config.batch_size if encoder.device.type == "cuda" else min(config.batch_size, _CPU_BATCH)
    batches = np.split(spots, range(1, len(spots), step))
    n, first = 0, time.perf_counter()
    with contextlib.closing(encode(one, batches, size, config, encoder)) as encoded:
        for number, (tiles, _) in enumerate(encoded):
            now = time.perf_counter()
            if number == 0 and len(batches) > 1:
                first = now
                continue
            n += len(tiles.pixels)
            if now - first > seconds:
                break
    return n, time.perf_counter() - first


class _Stopwatch:
    """A `Progress` that adds up the seconds of the last epoch of each run."""

    def __init__(self) -> None:
        self.epoch_s = 0.0

    @contextlib.contextmanager
    def task(self, description: str, total: int) -> Iterator[Advance]:
        times = [time.perf_counter()]

        def advance(steps: int = 1, *, note: str = "") -> None:
            times.append(time.perf_counter())

        yield advance
        if description in _STAGES and len(times) > 1:
            self.epoch_s += times[-1] - times[-2]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """One measurement of a step on `n` spots: seconds of an epoch, and of everything else."""

    n: int
    epoch_s: float
    other_s: float
    usage: Usage
    disk_bytes: int


def _probe_training(planned: EmbedPlan, config: PlanConfig) -> list[StepPlan]:
    """Train and predict on more and more spots, until the time is used up."""
    sections = [one for one in planned.sections if one.section.counts is not None]
    sections.sort(key=lambda one: -one.section.n_spots)
    sizes = [one.section.n_spots for one in sections]
    most = min(_MOST, sum(sizes[:_MOST_SECTIONS]))
    n, until = min(_FEWEST, most), time.perf_counter() + config.probe_s / 2
    samples: dict[str, list[_Sample]] = {step: [] for step in _STEPS}
    while True:
        with tempfile.TemporaryDirectory(prefix="spam-plan-") as folder:
            for step, sample in _run_steps(Path(folder), sections[:_MOST_SECTIONS], n, planned.card, config):
                samples[step].append(sample)
        if n >= most or (len(samples["predict"]) > 1 and time.perf_counter() > until):
            break
        n = min(2 * n, most)
    together, alone = [sum(sizes)], [one.section.n_spots for one in planned.sections]
    return [
        _extrapolated("pretrain", samples["pretrain"], together, default_of(PretrainConfig, "epochs")),
        _extrapolated("finetune", samples["finetune"], together, default_of(FinetuneConfig, "epochs")),
        _extrapolated("predict", samples["predict"], alone, 0),
    ]


def _run_steps(
    folder: Path, sections: Sequence[PlannedSection], n: int, card: EncoderCard, config: PlanConfig
) -> Iterator[tuple[str, _Sample]]:
    """Measure each step on about `n` spots."""
    store = create_store(folder / "store.zarr")
    n_each = [min(one.section.n_spots, -(-n // len(sections))) for one in sections]
    for one, rows in zip(sections, n_each, strict=True):
        _add_part(store, one, rows, card)
    shared: dict[str, Any] = {"store": store.folder, "device": config.device}
    training = {**shared, "epochs": _EPOCHS}
    largest, checkpoint = int(np.argmax(n_each)), folder / "finetune" / "best.safetensors"

    def run(step: str, watch: Progress) -> object:
        if step == "pretrain":
            return pretrain(PretrainConfig(save_dir=folder / step, **training), progress=watch)
        if step == "finetune":
            return finetune(FinetuneConfig(save_dir=folder / step, **training), progress=watch)
        to: dict[str, Any] = {"section": sections[largest].section.name, "out_dir": folder / step}
        return predict(PredictConfig(ckpt=checkpoint, plots=False, **to, **shared), progress=watch)

    for step in _STEPS:
        watch = _Stopwatch()
        with measured(resolve_device(config.device)) as usage:
            run(step, watch)
        files = [file for file in (folder / step).rglob("*") if file.is_file()]
        yield (
            step,
            _Sample(
                n=n_each[largest] if step == "predict" else sum(n_each),
                epoch_s=watch.epoch_s,
                other_s=max(0.0, usage.seconds - _EPOCHS * watch.epoch_s),
                usage=usage,
                disk_bytes=sum(file.stat().st_size for file in files),
            ),
        )


def _add_part(store: Store, one: PlannedSection, n: int, card: EncoderCard) -> None:
    """Write the first `n` spots of a section, with features that are random projections of their expression."""
    whole = one.section
    assert whole.counts is not None  # chosen by the caller
    counts, obs = whole.counts[:n], {name: values[:n] for name, values in whole.obs.items()}
    part = dataclasses.replace(whole, ids=whole.ids[:n], xy_px=whole.xy_px[:n], counts=counts, obs=obs)
    stored = store.add_section(part, slide_size_px=None, licence=None, overview=None)
    expression = log1p_cp10k(counts, np.asarray(counts.sum(axis=1)).ravel())
    rng = np.random.default_rng(0)  # the same projections in every section
    for key, spec in zip(one.keys, one.specs, strict=True):
        features = expression @ rng.standard_normal((expression.shape[1], card.dim), dtype=np.float32)
        meta = FeatureMeta(
            key=key,
            origin="embed",
            encoder=card.to_mapping(),
            weights_sha256=None,
            lora_sha256=None,
            tile=spec.to_mapping(),
            sampling=None,
            precision="float32",
            dim=card.dim,
            dtype="float16",
            chunk_rows=n,
            software={},
        )
        writer = stored.feature_writer(meta)
        writer.write(slice(0, n), features / expression.shape[1] ** 0.5)
        writer.finish()


def _extrapolated(step: str, samples: Sequence[_Sample], sizes: Sequence[int], epochs: int) -> StepPlan:
    """Follow the line through the largest sample, and one that is clearly smaller, to runs of given sizes."""
    last = samples[-1]
    smaller = [sample for sample in samples if sample.n <= _CLEARLY * last.n]

    def at(n: int, value: Callable[[_Sample], float]) -> float:
        if not smaller:
            return value(last) * max(1.0, n / last.n)
        before = smaller[-1]
        slope = max(0.0, (value(last) - value(before)) / (last.n - before.n))
        return max(0.0, value(last) + slope * (n - last.n))

    seconds = sum(at(n, lambda s: s.other_s) + epochs * at(n, lambda s: s.epoch_s) for n in sizes)
    work = (
        f"at most {epochs} epochs of {sizes[0]} spots"
        if epochs
        else f"{counted(len(sizes), 'section')}, without plots"
    )
    return StepPlan(
        step=step,
        work=work,
        hours=seconds / 3600,
        memory_bytes=round(max(at(n, lambda s: s.usage.memory_bytes) for n in sizes)),
        gpu_bytes=round(max(at(n, lambda s: s.usage.gpu_bytes) for n in sizes)),
        disk_bytes=round(sum(at(n, lambda s: s.disk_bytes) for n in sizes)),
    )
