"""One stage of training: the loop, its log, its validation and its checkpoints."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from extractor.training.checkpoint import read_checkpoint, write_atomically
from extractor.training.log import CsvLog
from extractor.training.objective import Objective
from extractor.training.optimisation import create_optimiser, scheduled, set_rates
from extractor.training.photos import Batch, Batches, Split, in_order
from extractor.training.settings import Settings
from extractor.training.validation import retrieval_map
from extractor.training.views import View

Progress = Callable[[str, int, int], None]
"""Is told the name of a stage, how many of its steps are done, and of how many."""

_LEAST_RESCALED = 160  # below, receptive fields see little but padding


@dataclass(frozen=True)
class Stage:
    """What a stage shows and for how long.

    Attributes:
        name: of its checkpoint `NAME.pt` and its log `NAME.csv`.
        view: what is shown of a photo.
        epochs: times that every photo is shown.
        least_scale: each batch is reduced by a random factor between this and 1.
    """

    name: str
    view: View
    epochs: float
    least_scale: float = 1.0


@dataclass(frozen=True)
class StageResult:
    """How a stage went.

    Attributes:
        steps: that the optimiser took.
        losses: means over the steps of the last row of the log.
        validation: step -> mean average precision, in percent; step 0 is before training.
        failed: photos that could not be read, and why.
        photos_per_second: while training, of the last row of the log; None if the stage was done already.
    """

    steps: int
    losses: dict[str, float]
    validation: dict[int, float]
    failed: dict[Path, str]
    photos_per_second: float | None


@dataclass
class _Course:
    """What changes from step to step beside weights and optimiser, and is in the checkpoint."""

    step: int = 0
    losses: dict[str, float] = field(default_factory=dict)
    validation: dict[int, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def run_stage(
    stage: Stage,
    objective: Objective,
    photos: Split,
    settings: Settings,
    folder: Path,
    identity: Mapping[str, object],
    report: Progress,
) -> StageResult:
    """Train, from the beginning or from the checkpoint in the folder, and leave the objective trained.

    The random part of a step follows from the seed and the number of the step, and the checkpoint holds the
    weights, the optimiser and the scaler of float16. So a training that was killed ends with the same weights
    as one that was not, on the same number of threads.

    Args:
        stage: what is shown.
        objective: on the CPU; it is moved to the device of the settings.
        photos: to train and to validate on.
        settings: of the run.
        folder: where checkpoint and log are.
        identity: what a checkpoint must agree with.
        report: told about steps.

    Raises:
        CheckpointError: the checkpoint is damaged, or of another training.
        ValueError: no photo of a step can be read, a loss is not finite, or the device has too little memory.
    """
    try:
        return _Run(stage, objective, photos, settings, folder, identity).to_end(report)
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"{settings.device} has too little memory for {stage.name}: make batch (now {settings.batch}) "
            f"smaller and accumulate (now {settings.accumulate}) larger, or the crop smaller"
        ) from error


class _Run:
    def __init__(
        self,
        stage: Stage,
        objective: Objective,
        photos: Split,
        settings: Settings,
        folder: Path,
        identity: Mapping[str, object],
    ) -> None:
        self.stage, self.objective, self.photos, self.settings = stage, objective, photos, settings
        self.identity = {**identity, "stage": stage.name}
        self.objective.to(settings.device).train()
        self.optimiser = create_optimiser(objective, settings)
        self.device = torch.device(settings.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=settings.precision == "float16")
        per_step = settings.batch * settings.accumulate
        self.steps = max(1, math.ceil(stage.epochs * len(photos.training) / per_step))
        self.validate_every = settings.validate_every or math.ceil(self.steps / 10)
        self.course = _Course()
        self.sums: dict[str, Tensor] = {}
        self.summed = 0
        self.checkpoint = folder / f"{stage.name}.pt"
        saved = read_checkpoint(self.checkpoint, self.identity)
        if saved is not None:
            self._restore(saved)
        columns = ["step", "epoch", *(f"loss_{name}" for name in objective.weights)]
        columns += ["rate", "photos_per_second", "validation_map"]
        self.log = CsvLog(folder / f"{stage.name}.csv", columns, self.course.step)

    def to_end(self, report: Progress) -> StageResult:
        c, s = self.course, self.settings
        speed = None
        if c.step == 0 and self.photos.validation:
            self.log.append({"step": 0, "epoch": 0, "validation_map": self._validated()})
        batches = self._batches()
        began, shown = time.perf_counter(), 0
        try:
            while c.step < self.steps:
                report(self.stage.name, c.step, self.steps)
                share = scheduled(c.step, self.steps, s.warm_up)
                set_rates(self.optimiser, share)
                shown += self._step(list(itertools.islice(batches, s.accumulate)))
                c.step += 1
                last = c.step == self.steps
                validate = bool(self.photos.validation) and (last or c.step % self.validate_every == 0)
                save = last or c.step % s.checkpoint_every == 0
                if validate or save or c.step % s.log_every == 0:
                    self._average()
                    speed = shown / (time.perf_counter() - began)
                    row: dict[str, float | int | None] = {
                        "step": c.step,
                        "epoch": c.step * s.batch * s.accumulate / len(self.photos.training),
                        **{f"loss_{name}": value for name, value in c.losses.items()},
                        "rate": share * s.rate,
                        "photos_per_second": round(speed, 1),
                        "validation_map": self._validated() if validate else None,
                    }
                    self.log.append(row)
                    began, shown = time.perf_counter(), 0
                if save:
                    self._save()
        finally:
            batches.close()
        report(self.stage.name, self.steps, self.steps)
        failed = {Path(path): reason for path, reason in c.failed.items()}
        return StageResult(self.steps, c.losses, c.validation, failed, speed)

    def _batches(self) -> Generator[Batch]:
        classes = {label: number for number, label in enumerate(self.photos.landmarks)}
        s = self.settings
        batches = Batches(self.photos.training, classes, self.stage.view, s.batch, s.seed, s.threads)
        return batches.starting(self.course.step * s.accumulate)

    def _step(self, batches: list[Batch]) -> int:
        """Take a step; returns how many photos were shown."""
        for batch in batches:
            self.course.failed |= {str(path): reason for path, reason in batch.failed.items()}
        shown = sum(len(batch.labels) for batch in batches)
        if not shown:
            path, reason = next(iter(batches[0].failed.items()))
            raise ValueError(
                f"none of the photos of step {self.course.step + 1} can be read: {path}: {reason}"
            )
        for number, batch in enumerate(batches):
            if len(batch.labels):
                self._learn(batch, number, len(batch.labels) / shown)
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        self.summed += 1
        return shown

    def _learn(self, batch: Batch, number: int, share: float) -> None:
        """Add a batch's share to the gradients."""
        pixels, labels = self._moved(batch)
        pixels = self._rescaled(pixels, number)
        with self._autocast():
            losses = self.objective.losses(pixels, labels)
        weights = self.objective.weights
        total = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        self.scaler.scale(total * share).backward()
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(loss)) + loss.detach() * share

    def _rescaled(self, pixels: Tensor, number: int) -> Tensor:
        """The batch reduced by a random factor."""
        if self.stage.least_scale >= 1:
            return pixels
        rng = np.random.default_rng([self.settings.seed, 3, self.course.step, number])
        side = pixels.shape[1]
        wanted = max(round(side * rng.uniform(self.stage.least_scale, 1)), min(side, _LEAST_RESCALED))
        image = pixels.permute(0, 3, 1, 2).float()
        image = functional.interpolate(image, (wanted, wanted), mode="bilinear", antialias=True)
        return image.permute(0, 2, 3, 1)

    def _average(self) -> None:
        """Losses since the last row; a checkpoint comes after that, so it never holds weights gone wrong."""
        c = self.course
        c.losses = {name: float(total) / self.summed for name, total in self.sums.items()}
        self.sums, self.summed = {}, 0
        wrong = [name for name, value in c.losses.items() if not math.isfinite(value)]
        if wrong:
            raise ValueError(
                f"the {wrong[0]} loss is {c.losses[wrong[0]]} at step {c.step} of {self.stage.name}: "
                "train with a lower rate, or with precision float32 or bfloat16"
            )

    def _validated(self) -> float:
        """Validate now."""
        self.objective.eval()
        found: list[Tensor] = []
        labels: list[Tensor] = []
        shown = self.photos.validation
        classes = {label: number for number, label in enumerate(sorted({label for _, label in shown}))}
        for batch in in_order(shown, classes, self.stage.view.side, self.settings.batch):
            self.course.failed |= {str(path): reason for path, reason in batch.failed.items()}
            if len(batch.labels):
                with torch.inference_mode(), self._autocast():
                    found.append(self.objective.describe(self._moved(batch)[0]).float().cpu())
                labels.append(batch.labels)
        self.objective.train()
        if not found:
            path, reason = next(iter(self.course.failed.items()))
            raise ValueError(f"none of the photos for validation can be read: {path}: {reason}")
        score = retrieval_map(torch.cat(found).numpy(), torch.cat(labels).numpy())
        self.course.validation[self.course.step] = score
        return score

    def _moved(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The batch on the device."""
        if self.device.type == "cpu":
            return batch.pixels, batch.labels
        pinned = batch.pixels.pin_memory() if self.device.type == "cuda" else batch.pixels
        return pinned.to(self.device, non_blocking=True), batch.labels.to(self.device)

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = getattr(torch, self.settings.precision)
        return torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32)

    def _save(self) -> None:
        c = self.course
        write_atomically(
            self.checkpoint,
            {
                "identity": self.identity,
                "objective": self.objective.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "scaler": self.scaler.state_dict(),
                "step": c.step,
                "losses": c.losses,
                "validation": c.validation,
                "failed": c.failed,
            },
        )

    def _restore(self, saved: dict[str, Any]) -> None:
        self.objective.load_state_dict(saved["objective"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.scaler.load_state_dict(saved["scaler"])
        self.course = _Course(**{name: saved[name] for name in _Course.__dataclass_fields__})
