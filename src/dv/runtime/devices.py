"""The devices and precision of a process."""

from __future__ import annotations

import logging
import os
from typing import Literal

import torch

from dv.errors import UserError

log = logging.getLogger(__name__)
AUTOCAST = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


def count_gpus(gpus: int | Literal["auto"]) -> int:
    """Return the number of GPUs to use: 0 for the CPU; ``auto`` selects all of this machine.

    Raises:
        UserError: if this machine has fewer.
    """
    available = torch.cuda.device_count()
    if gpus == "auto":
        return available
    if gpus > available:
        raise UserError(
            f"trainer.gpus={gpus}, but this machine has {available} GPUs; use trainer.gpus={available} or auto"
        )
    return gpus


def device_of(gpus: int) -> torch.device:
    """Return the device of this process: its own GPU if there are ``gpus``, else the CPU."""
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if gpus else torch.device("cpu")


def supported_precision(precision: str, gpus: int) -> str:
    """Return the precision to compute in: fp32 for bf16 on CPUs without bf16 arithmetic, 100 times slower there."""
    if not gpus and precision == "bf16-mixed" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        log.warning("this CPU has no bf16 arithmetic; trainer.precision=bf16-mixed computes in fp32 here")
        return "32-true"
    return precision


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context in which models render in ``bf16-mixed`` or ``16-mixed``; other precisions change nothing."""
    dtype = AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)
