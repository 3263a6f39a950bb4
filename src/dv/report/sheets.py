"""Contact sheets: the best, median and worst evaluated view of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from dv.report.runs import Run

LABEL, HEIGHT, LARGEST = 24, 160, 256  # px: of a label, of a strip at least and at most


def telling_views(run: Run) -> dict[str, dict[str, Any]]:
    """The best, median and worst view by PSNR, of an even number the worse of the two in the middle."""
    views = sorted(run.views, key=lambda view: -float(view["psnr"]))
    return {"best": views[0], "median": views[len(views) // 2], "worst": views[-1]} if views else {}


def write_sheet(path: Path, run: Run) -> bool:
    """Write the strips of the telling views below each other, each with its name and scores.

    Returns False, and writes nothing, if ``evaluate.py`` has not left their pictures with the run.
    """
    from matplotlib import font_manager

    telling = telling_views(run)
    files = [run.path / f"{run.split}_views" / f"{view['name']}.png" for view in telling.values()]
    if not files or not all(file.is_file() for file in files):
        return False
    strips = [_sized(Image.open(file).convert("RGB")) for file in files]
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 14)
    sheet = Image.new("RGB", (max(strip.width for strip in strips), sum(s.height + LABEL for s in strips)), "white")
    draw, y = ImageDraw.Draw(sheet), 0
    for (word, view), strip in zip(telling.items(), strips, strict=True):
        draw.text((4, y + 4), f"{word}: {view_caption(view)}", "black", font)
        sheet.paste(strip, (0, y + LABEL))
        y += LABEL + strip.height
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return True


def view_caption(view: dict[str, Any]) -> str:
    """Name and scores of a view."""
    ssim = view.get("ssim")  # null for pictures smaller than its window
    return f"{view['name']}, {view['psnr']:.2f} dB" + (f", SSIM {ssim:.3f}" if ssim is not None else "")


def _sized(strip: Image.Image) -> Image.Image:
    """Enlarged by a whole factor, or made smaller, to be looked at."""
    if strip.height > LARGEST:
        return strip.resize((strip.width * LARGEST // strip.height, LARGEST), Image.Resampling.LANCZOS)
    k = -(-HEIGHT // strip.height)
    return strip.resize((strip.width * k, strip.height * k), Image.Resampling.NEAREST)
