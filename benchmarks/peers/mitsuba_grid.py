"""A radiance field with Mitsuba: a grid of extinction and spherical harmonics whose side doubles, marched by Dr.Jit.

    python -m venv ENV && ENV/bin/pip install mitsuba==3.9.1 imageio
    apt-get install libllvm19        # DRJIT_LIBLLVM_PATH names the file if it lies elsewhere
    ENV/bin/python benchmarks/peers/mitsuba_grid.py EXPORTED RESULT --seconds 60

The model is that of Mitsuba's tutorial on radiance fields: extinction and harmonics are interpolated linearly and
clipped afterwards (a ReLU field), Adam optimises them, and gradients come from marching every ray a second time (path
replay) instead of from stored samples. Batches are random pixels of all training views, as the other peers have them,
instead of whole images of a few cameras, and the loss is the mean squared error. Compiling kernels counts as training.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from pathlib import Path
from typing import Any

import drjit as dr
import mitsuba as mi
import numpy as np
from exported import Rays, Views, read_views, write_result

LEAST_LLVM = 16  # Dr.Jit refuses 14, and 15 cannot compile its minima and maxima; 19 is tested


def newest_llvm() -> str:
    """Return the newest of LLVM's shared libraries where Debian installs them.

    Raises:
        SystemExit: if there is none that is new enough.
    """
    found = [(re.match(r"libLLVM(?:-|\.so\.)(\d+)", p.name), p) for p in Path("/usr/lib").glob("*-linux-gnu/libLLVM*")]
    newest = max(((int(match[1]), str(path)) for match, path in found if match), default=(0, ""))
    if newest[0] < LEAST_LLVM:
        raise SystemExit(f"Mitsuba's llvm_ad_rgb needs LLVM {LEAST_LLVM} or later: apt-get install libllvm19")
    return newest[1]


if "DRJIT_LIBLLVM_PATH" not in os.environ:
    os.environ["DRJIT_LIBLLVM_PATH"] = newest_llvm()
mi.set_variant("llvm_ad_rgb")
dr.set_expand_threshold(1 << 28)  # every core adds gradients to its own array: atomic additions are far slower

SIDES = (16, 32, 64, 128)  # vertices along an edge of the box, up to --side
DOUBLE_AT = (0.05, 0.15, 0.5)  # fractions of the training at which the side doubles
DEGREE = 1  # of the spherical harmonics
RAYS = 4096  # per step
LEARNING_RATE = 0.1
FINAL_FRACTION = 0.1  # of the learning rate, which falls exponentially
DENSITY_SCALE = 100.0  # extinction per side of the box for a value of 1
INITIAL_DENSITY, INITIAL_COLOR = 0.01, 0.5
LEAST_TRANSMITTANCE = 1e-3  # rays end below it
PIXELS_AT_ONCE = 1 << 18  # while rendering


class Batch:
    """R rays as Dr.Jit arrays.

    Args:
        rays: NumPy arrays; see :class:`exported.Rays`.
        background: colour ``[3]`` in [0, 1].
    """

    def __init__(self, rays: Rays, background: Any) -> None:
        self.origin = mi.Point3f(np.ascontiguousarray(rays.origins.T))
        self.direction = mi.Vector3f(np.ascontiguousarray(rays.directions.T))
        self.near, self.far = mi.Float(rays.near), mi.Float(rays.far)
        self.background = mi.Color3f(*map(float, background))


class Field:
    """Extinction ``[G, G, G, 1]`` and coefficients of harmonics ``[G, G, G, 3·K]`` (z, y, x) in the box.

    Args:
        extinction: values before clipping.
        color: coefficients, of red, green and blue for each of the K harmonics.
    """

    def __init__(self, extinction: Any, color: Any) -> None:
        self.side = extinction.shape[0]
        self.optimizer = mi.ad.Adam(lr=LEARNING_RATE, params={"extinction": extinction, "color": color})
        options = {"use_accel": False, "migrate": False}
        self.extinction = mi.Texture3f(self.optimizer["extinction"], **options)
        self.color = mi.Texture3f(self.optimizer["color"], **options)

    @classmethod
    def new(cls, side: int) -> Field:
        """Return a field of even extinction and grey colour."""
        color = np.zeros((side, side, side, 3 * (DEGREE + 1) ** 2), np.float32)
        color[..., :3] = INITIAL_COLOR / 0.2820948  # the harmonic of degree 0
        extinction = np.full((side, side, side, 1), INITIAL_DENSITY, np.float32)
        return cls(mi.TensorXf(extinction), mi.TensorXf(color))

    def finer(self, side: int) -> Field:
        """Return the field with another number of vertices."""
        values = (self.optimizer["extinction"], self.optimizer["color"])
        return Field(*(dr.resample(v, shape=(side, side, side, v.shape[3]), filter="linear") for v in values))

    def sample(self, point: Any, harmonics: list[Any], step: Any) -> tuple[Any, Any]:
        """Return the opacity of a step at a point of the box, and the colour there."""
        at = 0.5 * point + 0.5
        extinction = dr.maximum(self.extinction.eval(at)[0], 0) * (DENSITY_SCALE / 2)
        coefficients = self.color.eval(at)
        color = mi.Color3f(0)
        for i, harmonic in enumerate(harmonics):
            color += harmonic * mi.Color3f(coefficients[3 * i], coefficients[3 * i + 1], coefficients[3 * i + 2])
        return 1 - dr.exp(-extinction * step), dr.clip(color, 0, 1)

    def update(self) -> None:
        """Take a step of the optimiser."""
        self.optimizer.step()
        self.extinction.set_tensor(self.optimizer["extinction"])
        self.color.set_tensor(self.optimizer["color"])


@dr.syntax
def march(field: Field, rays: Batch, step: Any, offset: Any) -> Any:
    """Return the colours of rays, sampled every ``step`` from ``offset`` steps behind their entry on."""
    harmonics = dr.sh_eval(rays.direction, DEGREE)
    distance, transmittance, color = rays.near + offset * step, mi.Float(1), mi.Color3f(0)
    while (distance < rays.far) & (transmittance > LEAST_TRANSMITTANCE):
        opacity, emitted = field.sample(rays.origin + distance * rays.direction, harmonics, step)
        color += transmittance * opacity * emitted
        transmittance *= 1 - opacity
        distance += step
    return color + transmittance * rays.background


@dr.syntax
def march_gradients(field: Field, rays: Batch, step: Any, offset: Any, color: Any, gradient: Any) -> None:
    """March again, and add the gradients of all samples to those of the field.

    Args:
        field: whose textures have gradients.
        rays: as given to :func:`march`.
        step: likewise.
        offset: likewise.
        color: that :func:`march` returned.
        gradient: of the loss by it.
    """
    harmonics = dr.sh_eval(rays.direction, DEGREE)
    distance, transmittance, behind = rays.near + offset * step, mi.Float(1), mi.Color3f(color)
    while (distance < rays.far) & (transmittance > LEAST_TRANSMITTANCE):
        with dr.resume_grad():
            opacity, emitted = field.sample(rays.origin + distance * rays.direction, harmonics, step)
            added = transmittance * opacity * emitted
            behind -= dr.detach(added)  # what samples behind this one and the background add
            passed = behind * ((1 - opacity) / dr.maximum(dr.detach(1 - opacity), 1e-6))
            dr.backward_from(dr.dot(gradient, added + passed))
        transmittance *= 1 - dr.detach(opacity)
        distance += step


def train(views: Views, seconds: float, last_side: int) -> tuple[Field, int]:
    """Train a field that grows to ``last_side`` for some seconds, and return it with the number of steps."""
    rays, colors = views.rays(), views.images.reshape(-1, 3)
    hit = rays.far > rays.near
    rays = Rays(rays.origins[hit], rays.directions[hit], rays.near[hit], rays.far[hit])
    colors, background, random = colors[hit], views.corner_color(), np.random.default_rng(0)
    start, steps, done = time.perf_counter(), 0, 0.0
    field = Field.new(SIDES[0])
    while done < 1:
        side = min(SIDES[sum(done >= at for at in DOUBLE_AT)], last_side)
        if side != field.side:
            field = field.finer(side)
        field.optimizer.set_learning_rate(LEARNING_RATE * FINAL_FRACTION**done)
        chosen = random.integers(len(colors), size=RAYS)
        batch = Batch(Rays(*(a[chosen] for a in (rays.origins, rays.directions, rays.near, rays.far))), background)
        truth = mi.Color3f(np.ascontiguousarray(colors[chosen].T))
        step, offset = dr.opaque(mi.Float, 2 / side), mi.Float(random.random(RAYS, np.float32))
        with dr.suspend_grad():
            color = march(field, batch, step, offset)
            gradient = (2 / (3 * RAYS)) * (color - truth)
            dr.eval(color, gradient)
            march_gradients(field, batch, step, offset, color, gradient)
        field.update()
        dr.eval(field.optimizer["extinction"], field.optimizer["color"])
        dr.sync_thread()
        steps += 1
        done = (time.perf_counter() - start) / seconds
    return field, steps


def render_views(field: Field, views: Views, background: Any) -> Any:
    """Render views to images ``[V, H, W, 3]`` with two samples per vertex."""
    rays, parts = views.rays(), []
    for i in range(0, len(rays.near), PIXELS_AT_ONCE):
        chosen = slice(i, i + PIXELS_AT_ONCE)
        batch = Batch(
            Rays(rays.origins[chosen], rays.directions[chosen], rays.near[chosen], rays.far[chosen]), background
        )
        with dr.suspend_grad():
            color = march(field, batch, dr.opaque(mi.Float, 1 / field.side), mi.Float(0.5))
        parts.append(np.array(color).T)
    return np.concatenate(parts).reshape(views.images.shape)


def main() -> None:
    """Train on an exported object and write its test views."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", type=Path, help="folder that prepare.py source=export wrote")
    parser.add_argument("result", type=Path, help="folder to write")
    parser.add_argument("--seconds", type=float, default=60, help="of training")
    parser.add_argument("--side", type=int, default=128, choices=SIDES, help="of the grid at the end, vertices")
    arguments = parser.parse_args()
    views = read_views(arguments.exported, "train")
    field, steps = train(views, arguments.seconds, arguments.side)
    images = render_views(field, read_views(arguments.exported, "test"), views.corner_color())
    write_result(arguments.result, images, arguments.seconds, steps)


if __name__ == "__main__":
    main()
