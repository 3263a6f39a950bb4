"""Contact sheets of the best, median and worst evaluated view of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from dv.report.runs import Run

LABEL_HEIGHT, MIN_STRIP_HEIGHT, MAX_STRIP_HEIGHT = 24, 160, 256  # pixels


def best_median_worst(run: Run) -> dict[str, dict[str, Any]]:
    """Return the views with the best, median and worst PSNR; of an even number, the median is the lower of two."""
    views = sorted(run.views, key=lambda view: -float(view["psnr"]))
    return {"best": views[0], "median": views[len(views) // 2], "worst": views[-1]} if views else {}


def write_sheet(path: Path, run: Run) -> bool:
    """Write the images of the best, median and worst view below each other, with their names and scores.

    Args:
        path: The PNG file to write.
        run: The run, whose folder holds the images that ``evaluate.py`` writes.

    Returns:
        False if images are missing, so that nothing is written.
    """
    from matplotlib import font_manager

    views = best_median_worst(run)
    files = [run.path / f"{run.split}_views" / f"{view['name']}.png" for view in views.values()]
    if not files or not all(file.is_file() for file in files):
        return False
    strips = [_resized(Image.open(file).convert("RGB")) for file in files]
    font = ImageFont.truetype(font_manager.findfont("DejaVu Sans"), 14)
    sheet = Image.new(
        "RGB", (max(strip.width for strip in strips), sum(s.height + LABEL_HEIGHT for s in strips)), "white"
    )
    draw, y = ImageDraw.Draw(sheet), 0
    for (rank, view), strip in zip(views.items(), strips, strict=True):
        draw.text((4, y + 4), f"{rank}: {view_caption(view)}", "black", font)
        sheet.paste(strip, (0, y + LABEL_HEIGHT))
        y += LABEL_HEIGHT + strip.height
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return True


def view_caption(view: dict[str, Any]) -> str:
    """Return the name and scores of a view as text."""
    ssim = view.get("ssim")  # null for images smaller than the SSIM window
    return f"{view['name']}, {view['psnr']:.2f} dB" + (f", SSIM {ssim:.3f}" if ssim is not None else "")


def _resized(strip: Image.Image) -> Image.Image:
    """Enlarge by an integer factor to at least the minimum height, or shrink to the maximum height."""
    if strip.height > MAX_STRIP_HEIGHT:
        return strip.resize(
            (strip.width * MAX_STRIP_HEIGHT // strip.height, MAX_STRIP_HEIGHT), Image.Resampling.LANCZOS
        )
    factor = -(-MIN_STRIP_HEIGHT // strip.height)
    return strip.resize((strip.width * factor, strip.height * factor), Image.Resampling.NEAREST)
