"""An exported page in Chromium: time to open it, frames per second, texture reads, and its images beside the model's.

    python export.py ckpt=PATH format=html output_dir=DIR
    python benchmarks/page.py PATH DIR/vase.html

WebGL2 runs on the CPU (SwiftShader), so that numbers can be compared between machines without graphics cards.
"""

from __future__ import annotations

import argparse
import base64
import re
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from frames import open_checkpoint
from playwright.sync_api import Page, sync_playwright

from dv.metrics import to_unit

FLAGS = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader",
         "--ignore-gpu-blocklist", "--disable-background-networking", "--disable-component-update"]  # fmt: skip
SIDE, FRAMES, VIEWS = 512, 20, 10
RENDER = """([pose, lens, width, height]) => {
  let text = "";
  for (const byte of dv.render(pose, lens, width, height)) text += String.fromCharCode(byte);
  return btoa(text);
}"""
TURN = """([side, frames]) => {
  const times = [];
  for (let i = 0; i < frames; i++) {
    dv.camera.orbit(2 / frames, 0);
    const start = performance.now();
    dv.render(dv.camera.pose, dv.camera.lens(side, side), side, side, 1);
    times.push(performance.now() - start);
  }
  return times;
}"""


def pixels(tab: Page, pose: list[list[float]], lens: list[float], width: int, height: int) -> np.ndarray:
    """Return the image of a view, uint8 ``[height, width, 3]``."""
    data = base64.b64decode(tab.evaluate(RENDER, [pose, lens, width, height]))
    return np.frombuffer(data, np.uint8).reshape(height, width, 4)[..., :3]


def counting(text: str) -> str:
    """Return a page whose images show how many texels each ray reads, without those of the decoder's weights."""
    count = """out vec4 color;
int reads = 0;
#define texelFetch(sampler, at, level) (reads++, texelFetch(sampler, at, level))
#define texture(sampler, at) (reads++, texture(sampler, at))
"""
    after_march = "// The basis of dv.ops.harmonics"
    show = "color = vec4(float(reads % 256), float(reads / 256), 0, 255) / 255.0;\n}\n"
    text = text.replace("out vec4 color;", count).replace(
        after_march, f"#undef texelFetch\n#undef texture\n{after_march}"
    )
    return re.sub(r"color = vec4\(clamp\(.*\n}\n", show, text)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt", type=Path)
    parser.add_argument("page", type=Path)
    arguments = parser.parse_args()
    restored = open_checkpoint(arguments.ckpt, torch.device("cpu"), "32-true")
    restored.model.use_mean_exposure()
    views = restored.source.views("test")
    chosen = np.linspace(0, len(views.names) - 1, min(VIEWS, len(views.names))).round().astype(int)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        tab = browser.new_page(viewport={"width": SIDE, "height": SIDE})
        start = time.perf_counter()
        tab.goto(arguments.page.resolve().as_uri())
        tab.wait_for_function("window.dv")
        opened = time.perf_counter() - start
        tab.wait_for_function("dv.resting", timeout=300_000)
        times = np.array(tab.evaluate(TURN, [SIDE, FRAMES]))
        scores = []
        for i in chosen.tolist():
            camera, pose = views.cameras[i], views.poses[i]
            expected = to_unit(next(restored.render_views(pose[None], [camera], 1)).image).permute(1, 2, 0).numpy()
            lens = list(restored.model.corrected(camera).numbers())
            found = pixels(tab, pose.tolist(), lens, camera.width, camera.height) / 255
            scores.append(-10 * np.log10(np.square(found - expected).mean()))
        reads = browser.new_page()
        reads.set_content(counting(arguments.page.read_text()))
        reads.wait_for_function("window.dv")
        lens = reads.evaluate(f"dv.camera.lens({SIDE}, {SIDE})")
        reads.evaluate("dv.about.rays = 1")
        image = pixels(reads, reads.evaluate("dv.camera.pose"), lens, SIDE, SIDE).astype(int)
        counts = image[..., 0] + 256 * image[..., 1]
        browser.close()
    megabytes = arguments.page.stat().st_size / 1e6
    print(f"{arguments.page}: {megabytes:.1f} MB, opened in {opened:.2f} s")
    print(f"{SIDE}×{SIDE} px, one ray per pixel, read back: {1000 / times.mean():.1f} frames per second")
    print(f"texture reads per pixel along the ray: mean {counts.mean():.0f}, largest {counts.max()}")
    print(f"PSNR to the model at {len(scores)} test views: lowest {min(scores):.1f}, mean {np.mean(scores):.1f} dB")


if __name__ == "__main__":
    main()
