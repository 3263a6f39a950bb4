"""DeepVoxels in eval mode, written plainly and slowly from the paper: loops for geometry, explicit padding.

It reads a state dict of ``DeepVoxels`` and tests sizes that the recorded reference tensors do not cover.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F


def project(point, pose, f, cx, cy):
    """Return column, row and depth of a world point."""
    p = pose[:3, :3].T @ (point - pose[:3, 3])
    return (f * p[0] / p[2] + cx).item(), (f * p[1] / p[2] + cy).item(), p[2].item()


def half_even(x):
    return round(x)  # Python rounds half to even, like the reference


def lift(features, pose, intrinsics, origin, scale, grid_side):
    """Lift features [F, P, P] to a grid [F, G, G, G] (z, y, x), voxel by voxel."""
    channels, side, _ = features.shape
    f, cx, cy = intrinsics
    v = scale / grid_side
    grid = torch.zeros(channels, grid_side, grid_side, grid_side, dtype=features.dtype)
    for iz in range(grid_side):
        for iy in range(grid_side):
            for ix in range(grid_side):
                i = torch.tensor([ix, iy, iz], dtype=torch.float64)
                px, py, depth = project(origin + (i - grid_side / 2) * v, pose, f, cx, cy)
                if depth <= 0 or not (0 <= half_even(px) < side and 0 <= half_even(py) < side):
                    continue
                x0, y0 = math.floor(px), math.floor(py)
                a, b = px - x0, py - y0
                value = 0
                for dy, wy in ((0, 1 - b), (1, b)):
                    for dx, wx in ((0, 1 - a), (1, a)):
                        row, col = min(max(y0 + dy, 0), side - 1), min(max(x0 + dx, 0), side - 1)
                        value = value + wx * wy * features[:, row, col]
                grid[:, iz, iy, ix] = value
    return grid


def resample(grid, pose, intrinsics, side, origin, scale, near):
    """Resample a grid [F, G, G, G] to a frustum [F, D, P, P], sample by sample."""
    channels, grid_side = grid.shape[:2]
    f, cx, cy = intrinsics
    v = scale / grid_side
    frustum = torch.zeros(channels, 2 * grid_side, side, side, dtype=grid.dtype)
    for k in range(2 * grid_side):
        z = near + k * v
        for row in range(side):
            for col in range(side):
                camera = torch.tensor([(col - cx) / f * z, (row - cy) / f * z, z], dtype=torch.float64)
                world = pose[:3, :3] @ camera + pose[:3, 3]
                x, y, zz = ((world - origin) / v + grid_side / 2).tolist()
                if not all(0 <= c < grid_side for c in (x, y, zz)):
                    continue
                lows = [math.floor(c) for c in (x, y, zz)]
                for corner in range(8):
                    weight, index = 1.0, []
                    for axis, (c, low) in enumerate(zip((x, y, zz), lows, strict=True)):
                        up = corner >> axis & 1
                        weight *= c - low if up else 1 - (c - low)
                        index.append(min(low + up, grid_side - 1))
                    frustum[:, k, row, col] += weight * grid[:, index[2], index[1], index[0]]
    return frustum


class SlowDeepVoxels:
    """Forward pass in eval mode, from a state dict of ``DeepVoxels``."""

    def __init__(self, state, sizes):
        self.state = state
        self.s = sizes

    def conv(self, x, name, kernel, stride=1):
        w, b = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        d = w.dim() - 2
        x = F.pad(x, (1,) * 2 * d, mode="reflect" if d == 2 else "replicate")
        assert w.shape[2:] == (kernel,) * d
        return (F.conv2d if d == 2 else F.conv3d)(x, w, b, stride=stride)

    def up(self, x, name):
        w, b = self.state[f"{name}.weight"], self.state.get(f"{name}.bias")
        return (F.conv_transpose2d if w.dim() == 4 else F.conv_transpose3d)(x, w, b, stride=2, padding=1)

    def norm(self, x, name):
        def get(key):
            return self.state[f"{name}.{key}"].reshape(1, -1, *[1] * (x.dim() - 2))

        return (x - get("running_mean")) / (get("running_var") + 1e-5).sqrt() * get("weight") + get("bias")

    def layers(self, x, name, plan):
        """Apply layers, one per letter of ``plan``.

        s, d and t are convolutions of stride 1, of stride 2 and transposed, n is a norm, l and r are LeakyReLU and
        ReLU, - is dropout, which does nothing here.
        """
        for i, letter in enumerate(plan):
            layer = f"{name}.{i}"
            if letter == "s":
                x = self.conv(x, layer, 3)
            elif letter == "d":
                x = self.conv(x, layer, 4, 2)
            elif letter == "t":
                x = self.up(x, layer)
            elif letter == "n":
                x = self.norm(x, layer)
            elif letter in "lr":
                x = F.leaky_relu(x, 0.2) if letter == "l" else F.relu(x)
        return x

    def unet(self, x, name, levels, plans, last):
        """Apply a U-Net of nested blocks, each of which is concat(input, up(… down(input)))."""
        first, down, up, inner_down, inner_up = plans

        def block(x, i):
            inner = i == levels - 1
            y = self.layers(x, f"{name}.downs.{i}", inner_down if inner else down)
            if not inner:
                y = block(y, i + 1)
            y = self.layers(y, f"{name}.ups.{i}", inner_up if inner else up)
            return torch.cat([x, y], 1)

        return self.layers(block(self.layers(x, f"{name}.in_layer", first), 0), f"{name}.out_layer", last)

    PLAIN_2D = ("snl", "snldnl", "tnrsnr", "sldl", "trsr")
    DROPPED_2D = ("snl-", "snl-dnl-", "tnr-snr-", "sl-dl-", "tr-sr-")
    PLAIN_3D = ("snl", "dnl", "tnr", "dl", "tr")

    def extract(self, image):
        s = self.s
        x = image
        for i in range(int(math.log2(s.image_side // s.feature_side))):
            x = self.layers(x, f"extractor.downs.{i}", "snldnl")
        return self.unet(x, "extractor.unet", int(math.log2(s.feature_side)), self.PLAIN_2D, "snr")

    def coordinates(self):
        g = self.s.grid_side
        c = torch.zeros(1, 3, g, g, g, dtype=torch.float64)
        for i in range(g):
            c[0, 0, i], c[0, 1, :, i], c[0, 2, :, :, i] = ((i - g / 2) / g,) * 3
        return c

    def integrate(self, state, lifted):
        old, new = (torch.cat([x, self.coordinates()], 1) for x in (state, lifted))

        def c(x, name):
            return self.conv(x, f"integration.{name}", 3)

        reset = torch.sigmoid(c(old, "reset_old") + c(new, "reset_new"))
        update = torch.sigmoid(c(old, "update_old") + c(new, "update_new"))
        candidate = F.relu(c(new, "candidate_new") + c(reset * old, "candidate_old"))
        return (1 - update) * state + update * candidate

    def inpaint(self, grid):
        return self.unet(torch.cat([grid, self.coordinates()], 1), "inpainting.unet", 2, self.PLAIN_3D, "snr")

    def render(self, frustum):
        """Return image and depth map of a frustum [1, F, D, P, P]."""
        s = self.s
        _, features, depth, p, _ = frustum.shape
        depth_map = None
        if s.occlusion_net:
            d = torch.stack([torch.full((p, p), (k - depth / 2) / depth, dtype=torch.float64) for k in range(depth)])
            d = d[None, None]
            prep = self.layers(torch.cat([d, frustum], 1), "flatten.prep", "snr")
            u = self.unet(prep, "flatten.unet", int(min(math.log2(depth), math.log2(p))), self.PLAIN_3D, "snr")
            w = torch.softmax(self.conv(torch.cat([prep, u, d], 1), "flatten.visibility", 3), 2)
            depth_map = (d * w).sum(2)
            x = (w * frustum).mean(2)
        else:
            x = frustum.reshape(1, features * depth, p, p)
            x = self.layers(x, "flatten.layers", "snrsnrsnr")
        doublings = int(math.log2(s.image_side // s.feature_side))
        last = "snr-" if doublings else "s"
        x = self.unet(x, "renderer.unet", int(math.log2(p)), self.DROPPED_2D, last)
        for i in range(doublings):
            x = self.layers(x, f"renderer.ups.{i}", "tnr-snr-")
        if doublings:
            x = self.layers(x, "renderer.out_layer", "snrs")
        return torch.tanh(x) * 0.5, depth_map
