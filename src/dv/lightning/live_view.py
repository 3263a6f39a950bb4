"""``view=true``: a page that shows the training while it runs."""

from __future__ import annotations

import copy
import logging
import time
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback

from dv.data.datamodule import ObjectDataModule
from dv.lightning.object_module import ObjectModule
from dv.viewer.scene import Scene
from dv.viewer.start import start_viewer

if TYPE_CHECKING:
    from dv.viewer.server import Viewer

log = logging.getLogger(__name__)
SHARE = 0.045  # of the time, that frames take; the server's threads take the rest of 5 %
MAX_CREDIT = 0.5  # s, of unused time that frames may take later
RESOLUTION = 128  # rows, which a radiance grid draws in seconds with this share
REFRESH_SECONDS = 2.0  # after which clients at rest see the newer state


class LiveView(Callback):
    """Serves the page on rank 0 and draws between the steps, while somebody looks at it.

    It changes nothing of the training: drawing uses no random numbers and no gradients.

    Args:
        host: address that the server listens at.
        port: of the server; 0 for any free one.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.viewer: Viewer | None = None
        self._credit = 0.0
        self._before = self._refreshed = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the server.

        Raises:
            UserError: if it cannot listen at the port.
        """
        if not trainer.is_global_zero:
            return
        datamodule: Any = trainer.datamodule  # type: ignore[attr-defined]  # Lightning sets it without declaring it
        assert isinstance(pl_module, ObjectModule)
        assert isinstance(datamodule, ObjectDataModule)
        shown = copy.copy(pl_module.model)  # the same parameters; what it remembers of exposures is its own
        shown.use_mean_exposure()
        placement = pl_module.model.placement
        assert placement is not None
        scene = Scene(datamodule.source, placement, shown, trainer.global_step, resolution=RESOLUTION)
        self.viewer = start_viewer(scene, self.host, self.port)
        self._before = self._refreshed = time.perf_counter()
        log.info("the training is shown at %s", self.viewer.url)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Draw a part of a frame, if frames have taken less than their share of the time."""
        if self.viewer is None or not self.viewer.is_watched:
            return
        started = time.perf_counter()
        self._credit = min(MAX_CREDIT, self._credit + SHARE * (started - self._before))
        self._before = started
        if self._credit < 0:
            return
        renderer = self.viewer.renderer
        if started - self._refreshed > REFRESH_SECONDS and renderer.is_idle:
            self._refreshed = started
            renderer.replace_model(renderer.scene.model, trainer.global_step)
        renderer.scene.step = trainer.global_step
        pl_module.eval()
        try:
            self.viewer.work()
        finally:
            pl_module.train()
        self._credit -= time.perf_counter() - started

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Stop the server after a failure or an interruption."""
        self._stop()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Stop the server at the end."""
        self._stop()

    def _stop(self) -> None:
        if self.viewer is not None:
            self.viewer.stop()
            self.viewer = None
