"""Losses and scores of a training as files that TensorBoard reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from napari_mrsr.training.events import StageScored, StepDone, ValidationDone


class Log:
    """Scalars of one stage.

    Parameters
    ----------
    folder : Path
        Made where it is missing; ``tensorboard --logdir`` of it or of a folder above shows the curves.
    first_step : int
        Values after it, of a run that was cut off, are hidden.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None, flush_secs=20)

    def add(self, event: object) -> None:
        """Write what an event tells."""
        if isinstance(event, StepDone):
            for name, value in event.losses.items():
                self.writer.add_scalar(f"loss/{name}", value, event.step)
            self.writer.add_scalar("learning rate", event.learning_rate, event.step)
        elif isinstance(event, ValidationDone):
            self.writer.add_scalar("validation/PSNR", event.psnr, event.step)
        elif isinstance(event, StageScored) and np.isfinite(event.score):
            self.writer.add_scalar("validation/score", event.score, event.step)

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()
