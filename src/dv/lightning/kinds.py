"""The LightningModule of each kind of model."""

from __future__ import annotations

from dv.errors import UserError
from dv.lightning.deepvoxels_module import DeepVoxelsModule
from dv.lightning.object_module import ObjectModule
from dv.lightning.radiance_module import RadianceGridModule
from dv.validation import import_object

MODULES: dict[str, type[ObjectModule]] = {"deepvoxels": DeepVoxelsModule, "radiance_grid": RadianceGridModule}


def module_class(kind: str) -> type[ObjectModule]:
    """Return the class of a ``model.kind``: a name, or ``package.module:Class`` for a model of your own.

    Raises:
        UserError: if there is no such class.
    """
    found = MODULES.get(kind) or (import_object(kind) if ":" in kind else None)
    if found is None:
        raise UserError(f"model.kind={kind} must be {' or '.join(MODULES)}, or package.module:Class")
    return found
