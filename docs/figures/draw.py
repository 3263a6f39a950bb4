"""Draw the figures of the method pages as SVG: `python docs/figures/draw.py`.

What a figure shows is computed from the formulas of the code, and its numbers come from conf/. Each has a background of
its own and follows the reader's light or dark scheme. tests/test_docs.py compares the files with what this draws.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import yaml

FOLDER = Path(__file__).parent
MODEL = FOLDER.parents[1] / "conf" / "model" / "radiance_grid.yaml"
STYLE = """
.bg{fill:#fff}text{font:14px system-ui,sans-serif;fill:#222}.small{font-size:12px}
.mono{font-family:monospace;font-size:13px}
.dim{fill:#666}text{stroke:none!important}.bold{font-weight:600}.line{stroke:#444;fill:none;stroke-width:1.4}
.faint{stroke:#bbb;fill:none}
.tensor{fill:#eef1f6;stroke:#8a94a6}.op{fill:#dfe7fd;stroke:#5a74c9}.keep{fill:#ffe9c7;stroke:#c98a1b}
.blue{fill:#3f5fc4;stroke:#3f5fc4}.orange{fill:#d9822b;stroke:#d9822b}.green{fill:#2d8a57;stroke:#2d8a57}.grey{fill:#c4c8d0;stroke:none}
.bluel{stroke:#3f5fc4;fill:none;stroke-width:2}.orangel{stroke:#d9822b;fill:none;stroke-width:2}
.greenl{stroke:#2d8a57;fill:none;stroke-width:2}
.dash{stroke-dasharray:5 4}.head{fill:#444}
@media (prefers-color-scheme:dark){.bg{fill:#20232b}text{fill:#e6e6e6}.dim{fill:#a5a9b3}.line{stroke:#c8c8c8}
.head{fill:#c8c8c8}.faint{stroke:#555b66}
.tensor{fill:#2c313b;stroke:#78829a}.op{fill:#2b365c;stroke:#7f97e6}.keep{fill:#4d3a17;stroke:#d9a13a}.grey{fill:#565c68}
.blue{fill:#8aa2f2;stroke:#8aa2f2}.orange{fill:#f0a45a;stroke:#f0a45a}.green{fill:#5cc08a;stroke:#5cc08a}
.bluel{stroke:#8aa2f2}.orangel{stroke:#f0a45a}.greenl{stroke:#5cc08a}}
"""
Point = tuple[float, float]


class Drawing:
    """SVG elements of one figure."""

    def __init__(self, width: int, height: int, title: str) -> None:
        self.width, self.height, self.title = width, height, title
        self.parts: list[str] = []

    def text(self, x: float, y: float, text: str, style: str = "", anchor: str = "middle") -> None:
        """Write text whose baseline is at y."""
        self.parts.append(
            f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">{html.escape(text)}</text>'
        )

    def box(
        self, x: float, y: float, w: float, h: float, style: str, lines: Iterable[str] = (), radius: int = 6
    ) -> None:
        """Draw a rectangle with centred lines, the first bold; lines in brackets are shapes."""
        self.parts.append(
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" rx="{radius}" class="{style}"/>'
        )
        lines = list(lines)
        for i, line in enumerate(lines):
            look = "mono" if line.startswith("[") else "bold" if i == 0 else "small"
            self.text(x + w / 2, y + h / 2 + 5 + 18 * (i - (len(lines) - 1) / 2), line, look)

    def path(self, points: Sequence[Point], style: str = "line", arrow: bool = False) -> None:
        """Draw a polyline, with an arrow head at its end if asked."""
        d = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
        head = ' marker-end="url(#head)"' if arrow else ""
        self.parts.append(f'<path d="{d}" class="{style}"{head}/>')

    def dot(self, x: float, y: float, style: str, radius: float = 2.5) -> None:
        """Draw a filled circle."""
        self.parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" class="{style}"/>')

    def svg(self) -> str:
        """Return the file."""
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" width="{self.width}" '
            f'height="{self.height}" role="img"><title>{html.escape(self.title)}</title><style>{STYLE}</style>'
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            'orient="auto"><path d="M0 0L8 4L0 8Z" class="head"/></marker></defs>'
            f'<rect width="{self.width}" height="{self.height}" rx="8" class="bg"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )


def pipeline() -> Drawing:
    """DeepVoxels: from a source view into the grid, and from the grid to a target view."""
    d = Drawing(962, 400, "DeepVoxels: tensors and the operators between them")
    w, h, gap = 118, 66, 16
    xs = [20 + i * (w + gap) for i in range(7)]

    def row(y: float, boxes: list[tuple[str, list[str]] | None]) -> None:
        previous = None
        for x, box in zip(xs, boxes, strict=True):
            if box:
                d.box(x, y, w, h, box[0], box[1])
                if previous is not None:
                    d.path([(previous + w, y + h / 2), (x - 2, y + h / 2)], arrow=True)
                previous = x

    d.text(20, 32, "one source view into the grid", "dim", "start")
    row(46, [("tensor", ["source image", "[3, S, S]"]), ("op", ["extract", "2D U-Net"]),
             ("tensor", ["feature map", "[F, P, P]"]), ("op", ["lift", "matrix per pose"]),
             ("tensor", ["lifted L", "[F, G, G, G]"]), ("op", ["integrate", "gated update"]),
             ("keep", ["grid H", "[F, G, G, G]"])])  # fmt: skip
    d.path([(xs[6] + w / 2, 112), (xs[6] + w / 2, 142), (xs[5] + w / 2, 142), (xs[5] + w / 2, 114)], arrow=True)
    d.text((xs[5] + xs[6] + w) / 2, 160, "kept from step to step", "small dim")
    d.text(xs[0] + w / 2 + 12, 212, "from the grid to each target view", "dim", "start")
    row(236, [("op", ["inpaint", "3D U-Net"]), ("op", ["resample", "matrix per pose"]),
              ("tensor", ["frustum", "[F, 2G, P, P]"]), ("op", ["occlude", "3D U-Net"]),
              ("tensor", ["features", "[F, P, P]"]), ("op", ["render", "2D U-Net"]),
              ("tensor", ["image", "[3, S, S]"])])  # fmt: skip
    d.path([(xs[6] + w - 14, 112), (xs[6] + w - 14, 186), (xs[0] + w / 2, 186), (xs[0] + w / 2, 234)], arrow=True)
    d.box(xs[4], 322, w, h - 10, "tensor", ["depth map", "[1, P, P]"])
    d.path([(xs[3] + w / 2, 302), (xs[3] + w / 2, 350), (xs[4] - 2, 350)], arrow=True)
    d.text(xs[3] + w / 2 - 8, 344, "visibility: softmax over depth", "small dim", "end")
    return d


def frustum() -> Drawing:
    """Section through camera, grid and canonical frustum."""
    d = Drawing(760, 540, "Section through a camera, the grid and its view frustum")
    grid_side, scale, near, distance, unit = 8, 1.0, 0.95, 1.7, 215.0
    cx, cy = 60.0, 270.0

    def place(z: float, x: float) -> Point:  # from camera axes to the drawing
        return cx + z * unit, cy + x * unit

    tilt, half = math.radians(18), 0.36  # of the grid, and of the field of view at depth 1

    def rotated(u: float, v: float) -> Point:
        return distance + u * math.cos(tilt) - v * math.sin(tilt), u * math.sin(tilt) + v * math.cos(tilt)

    corners = [rotated(a, b) for a, b in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5), (-0.5, -0.5))]
    for i in range(1, grid_side):
        t = i / grid_side - 0.5
        d.path([place(*rotated(t, -0.5)), place(*rotated(t, 0.5))], "faint")
        d.path([place(*rotated(-0.5, t)), place(*rotated(0.5, t))], "faint")
    d.path([place(*c) for c in corners], "orangel")
    planes = [near + k * scale / grid_side for k in range(2 * grid_side)]
    for side in (-half, half):
        d.path([place(0, 0), place(planes[-1], side * planes[-1])], "line")
    rays = [half * (i + 0.5) / 4 for i in range(-4, 4)]
    for z in planes:
        for slope in rays:
            u, v = z - distance, slope * z
            a, b = u * math.cos(tilt) + v * math.sin(tilt), -u * math.sin(tilt) + v * math.cos(tilt)
            inside = max(abs(a), abs(b)) < 0.5
            d.dot(*place(z, slope * z), "blue" if inside else "grey", 2.6 if inside else 2.0)
    for z in (planes[0], planes[-1]):
        d.path([place(z, -half * z), place(z, half * z)], "line dash")
    d.dot(*place(0, 0), "head", 5)
    d.text(cx, cy + 24, "camera")
    x, y = place(planes[0], half * planes[0])
    d.text(x, y + 22, "k = 0, depth near", "small")
    x, y = place(planes[-1], half * planes[-1])
    d.text(x - 30, y + 18, "k = 2G − 1", "small")
    voxel = rotated(-0.5 + 2 / 8, -0.5 + 3 / 8)
    film = 0.45
    d.path([place(film, -half * film), place(film, half * film)], "greenl")
    d.path([place(*voxel), place(film, voxel[1] / voxel[0] * film)], "greenl dash", arrow=True)
    d.dot(*place(*voxel), "green", 4)
    x, y = place(film, -half * film)
    d.text(x - 6, y - 22, "feature map", "small")
    d.text(20, 30, "lift: voxel v takes the features where it projects to", "green", "start")
    d.text(20, 520, "resample: samples on the rays of P² pixels, one voxel side apart in depth", "blue", "start")
    x, y = place(*corners[1])
    d.text(x - 150, y - 84, "grid of side scale", "small")
    return d


def volume_rendering() -> Drawing:
    """Opacity, transmittance and weight of the samples of a ray, by the formulas of dv.ops.compositing_reference."""
    d = Drawing(760, 430, "Opacity, transmittance, weight and depth along a ray")
    model = yaml.safe_load(MODEL.read_text())["model"]
    side, step = 128, 0.5
    interval = 100 * step / (side - 1)
    count = 44
    raw = [model["initial_density"] + 9.0 * math.exp(-(((i - 20) / 4.5) ** 2)) + 5.5 * (i > 30) for i in range(count)]
    optical = [math.log1p(math.exp(s)) * interval for s in raw]
    alpha = [1 - math.exp(-o) for o in optical]
    before, transmittance = 1.0, []
    depth = None
    for i, a in enumerate(alpha):
        transmittance.append(before)
        after = before * (1 - a)
        if before > 0.5 >= after:
            depth = i + 0.5 + math.log(2 * before) / optical[i] - 0.5
        before = after
    weight = [t * a for t, a in zip(transmittance, alpha, strict=True)]
    assert depth is not None
    left, wide = 150, 580

    def x(i: float) -> float:
        return left + wide * i / count

    rows = [
        ("opacity αᵢ", alpha, "orange"),
        ("transmittance Tᵢ", transmittance, "green"),
        ("weight wᵢ = Tᵢ αᵢ", weight, "blue"),
    ]
    for r, (name, values, style) in enumerate(rows):
        top, tall = 40 + r * 118, 88
        top_value = max(values)
        d.path([(left, top), (left, top + tall), (left + wide, top + tall)], "line")
        d.text(left - 10, top + 30, name, f"{style} bold", "end")
        d.text(left - 8, top + 8, f"{top_value:.2f}", "small dim", "end")
        for i, value in enumerate(values):
            bar = value / top_value * tall
            look = style if alpha[i] >= 1e-3 and transmittance[i] >= 1e-2 else "grey"
            d.box(x(i) + 1.5, top + tall - bar, wide / count - 3, bar, look, radius=1)
        if r == 1:
            d.path([(left, top + tall / 2), (left + wide, top + tall / 2)], "faint dash")
            d.text(left - 8, top + tall / 2 + 5, "½", "small dim", "end")
    d.path([(x(depth), 30), (x(depth), 40 + 2 * 118 + 92)], "line dash")
    d.text(x(depth) + 6, 26, "depth: T falls to ½", "small", "start")
    d.path([(left, 392), (left + wide, 392)], arrow=True)
    d.text(left, 412, "camera", "small", "start")
    d.text(left + wide, 412, "samples Δ vertex spacings apart; grey: skipped, α < 10⁻³ or T < 10⁻²", "small dim", "end")
    return d


def levels() -> Drawing:
    """A ray through nested cubes, in segments as dv.ops.compositing_reference.ray_segments makes them."""
    d = Drawing(760, 500, "A ray through three nested cubes and the panorama beyond")
    cx, cy, half, count = 380.0, 254.0, 52.0, 3
    near = 0.5 * 2 * half
    for level in range(count - 1, -1, -1):
        side = half * 2**level
        d.path([(cx - side, cy - side), (cx + side, cy - side), (cx + side, cy + side), (cx - side, cy + side),
                (cx - side, cy - side)], ("orangel", "bluel", "greenl")[level])  # fmt: skip
        d.text(cx - side + 6, cy - side + 17, f"level {level}" + (", the box" if level == 0 else ""), "small", "start")
    start, angle = (cx - 172.0, cy + 92.0), math.radians(-23)
    ux, uy = math.cos(angle), math.sin(angle)

    def span(side: float) -> tuple[float, float]:
        ends = []
        for o, c, u in ((start[0], cx, ux), (start[1], cy, uy)):
            ends.append(sorted(((c - side - o) / u, (c + side - o) / u)))
        return max(near, ends[0][0], ends[1][0]), min(ends[0][1], ends[1][1])

    spans = [span(half * 2**level) for level in range(count)]
    drawn = 0
    for segment in range(2 * count - 1):
        level = abs(segment - count + 1)
        t, end = spans[level]
        if level:
            t_in, t_out = spans[level - 1]
            t, end = (t, min(end, t_in)) if segment < count - 1 else (t_out, end)
        step = 7.0 * 2**level
        t += 0.5 * step
        while t < end:
            d.dot(start[0] + t * ux, start[1] + t * uy, ("orange", "blue", "green")[level], 3)
            drawn += 1
            t += step
    far = spans[-1][1]
    d.path([start, (start[0] + near * ux, start[1] + near * uy)], "faint")
    d.path(
        [(start[0] + far * ux, start[1] + far * uy), (start[0] + (far + 90) * ux, start[1] + (far + 90) * uy)],
        arrow=True,
    )
    d.dot(*start, "head", 5)
    d.text(start[0] - 2, start[1] + 22, "camera", "small")
    d.text(start[0] + near * ux + 4, start[1] + near * uy + 64, "samples start at model.near", "small dim", "start")
    d.text(cx + 300, cy - 150, "panorama b(d)", "", "middle")
    d.text(20, 30, "cells and steps are twice as long in each further level", "dim", "start")
    d.text(20, 488, "a point belongs to the innermost level that contains it", "dim", "start")
    return d


def mirror() -> Drawing:
    """The direction mirrored at a normal."""
    d = Drawing(560, 300, "The viewing direction d, the normal n and the mirrored direction")
    px, py = 280.0, 225.0
    arc = [(px + 230 * math.sin(a), py + 230 - 230 * math.cos(a)) for a in (i / 40 - 0.9 for i in range(73))]
    d.path(arc, "line")
    direction = (math.cos(math.radians(38)), math.sin(math.radians(38)))  # y points down
    normal = (0.0, -1.0)
    cosine = direction[0] * normal[0] + direction[1] * normal[1]
    reflected = tuple(a - 2 * cosine * b for a, b in zip(direction, normal, strict=True))
    d.path(
        [(px - 210 * direction[0], py - 210 * direction[1]), (px - 4 * direction[0], py - 4 * direction[1])],
        "bluel",
        True,
    )
    d.path([(px, py), (px + 120 * normal[0], py + 120 * normal[1])], "greenl", True)
    d.path([(px, py), (px + 190 * reflected[0], py + 190 * reflected[1])], "orangel", True)
    d.dot(px - 214 * direction[0], py - 214 * direction[1], "head", 5)
    d.text(px - 214 * direction[0], py - 214 * direction[1] - 12, "camera")
    d.text(px - 130, py - 78, "d", "blue bold")
    d.text(px, py - 130, "n, learned", "green bold")
    d.text(px + 190 * reflected[0] + 4, py + 190 * reflected[1] - 8, "dᵣ = d − 2 (d · n) n", "orange bold")
    d.text(px, 28, "what a glossy surface shows comes from dᵣ", "dim")
    return d


def colour() -> Drawing:
    """Radiance grid: from the samples of a ray to the colour that is compared with a photograph."""
    d = Drawing(960, 330, "Radiance grid: from samples to the colour of a pixel")
    d.box(20, 120, 130, 84, "keep", ["vertices", "density s", "features f"])
    d.box(190, 120, 130, 84, "op", ["composite", "interpolate, Σ wᵢ fᵢ", "along the ray"])
    d.box(360, 20, 190, 66, "op", ["harmonics", "Σ Yₖ(d) fₖ"])
    d.box(360, 129, 190, 66, "op", ["decoder", "(1 − T) g(f, d, dᵣ)"])
    d.box(360, 238, 190, 66, "op", ["background", "T b"])
    d.box(610, 129, 60, 66, "tensor", ["+", "ray"])
    d.box(710, 120, 100, 84, "op", ["pixel", "mean over", "its rays"])
    d.box(844, 120, 100, 84, "op", ["exposure,", "vignetting", "of the view"])
    d.path([(150, 162), (188, 162)], arrow=True)
    d.text(332, 88, "f", "bold", "end")
    d.text(332, 250, "T", "bold", "end")
    d.path([(320, 150), (340, 150), (340, 53), (358, 53)], arrow=True)
    d.path([(320, 162), (358, 162)], arrow=True)
    d.path([(320, 174), (340, 174), (340, 271), (358, 271)], arrow=True)
    d.path([(550, 53), (640, 53), (640, 127)], arrow=True)
    d.path([(550, 162), (608, 162)], arrow=True)
    d.path([(550, 271), (640, 271), (640, 197)], arrow=True)
    d.path([(670, 162), (708, 162)], arrow=True)
    d.path([(810, 162), (842, 162)], arrow=True)
    d.text(760, 226, "linear light by λ", "small dim")
    d.text(894, 226, "if learned", "small dim")
    return d


def schedule() -> Drawing:
    """The recipe of experiment=radiance over the training, from conf/."""
    d = Drawing(760, 400, "What changes during the training of a radiance grid")
    settings = yaml.safe_load(MODEL.read_text())
    model, optimizer = settings["model"], settings["optimizer"]
    final_side = int(next(x["override /grid"] for x in settings["defaults"] if "override /grid" in x))
    left, wide = 170, 560

    def x(p: float) -> float:
        return left + wide * p

    times = [0.0, *model["refine_at"], 1.0]
    for i, (a, b) in enumerate(itertools.pairwise(times)):
        side = final_side // 2 ** (len(model["refine_at"]) - i)
        d.box(x(a), 40, x(b) - x(a) - 2, 34, "op", [f"{side}³"])
    d.text(left - 12, 62, "grid", "bold", "end")
    d.box(x(0), 88, x(model["fine_at"]) - x(0) - 2, 34, "tensor", ["Δ = 1"])
    d.box(x(model["fine_at"]), 88, x(1) - x(model["fine_at"]), 34, "op", ["Δ = ½"])
    d.text(left - 12, 110, "samples", "bold", "end")
    d.box(x(0), 136, x(model["view_from"]) - x(0) - 2, 34, "tensor", ["colour only"])
    d.box(
        x(model["view_from"]), 136, x(1) - x(model["view_from"]), 34, "op", ["decoder, normals, share of linear light"]
    )
    d.text(left - 12, 158, "vertices hold", "bold", "end")
    for time in sorted({*model["refine_at"], *model["prune_at"]}):
        d.path([(x(time), 182), (x(time), 200)], "orangel")
    d.text(left - 12, 196, "prune", "bold", "end")
    top, tall = 222, 120
    curves = {
        "of features, decoder": ("bluel", lambda p: optimizer["final_fraction"] ** p),
        "of density": ("orangel", lambda p: (optimizer["final_fraction"] * model["density_rise"]) ** p),
    }
    d.path([(left, top), (left, top + tall), (left + wide, top + tall)], "line")
    decades = math.log10(1 / optimizer["final_fraction"])
    for name, (style, rate) in curves.items():
        points = [(x(i / 60), top + tall * -math.log10(rate(i / 60)) / decades) for i in range(61)]
        d.path(points, style)
        above = name == "of density"
        d.text(
            *((x(0.72), points[43][1] - 8) if above else (x(0.46), points[27][1] + 20)),
            name,
            style[:-1],
            "start" if above else "end",
        )
    d.text(left - 12, top + 12, "learning rate,", "bold", "end")
    d.text(left - 12, top + 30, "relative, log", "small dim", "end")
    d.text(left - 12, top + tall, f"{optimizer['final_fraction']:g}", "small dim", "end")
    for time in sorted({0.0, 0.5, 1.0, *model["refine_at"], *model["prune_at"], model["fine_at"]}):
        d.text(x(time), top + tall + 20, f"{time:g}", "small dim")
    d.text(x(0.5), top + tall + 42, "fraction of the steps", "dim")
    return d


FIGURES = {
    "deepvoxels": pipeline,
    "frustum": frustum,
    "volume-rendering": volume_rendering,
    "levels": levels,
    "mirror": mirror,
    "colour": colour,
    "schedule": schedule,
}

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        (FOLDER / f"{name}.svg").write_text(draw().svg())
