"""Network, losses and gradients equal tensors recorded from the reference implementation."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from dv.geometry.camera import Intrinsics
from dv.geometry.grid import GridPlacement
from dv.geometry.projection import lifting_matrix, resampling_matrix
from dv.losses import deepvoxels_losses
from dv.model import DeepVoxels
from dv.nets.discriminator import Discriminator
from dv.reference import discriminator_names, infer_sizes, model_names, translate

CASES = Path(__file__).parent / "parity"


class Case:
    """Recorded tensors and the networks with the recorded weights."""

    def __init__(self, name: str, dtype: torch.dtype) -> None:
        self.tensors = np.load(CASES / name / "tensors.npz")
        self.config = json.loads((CASES / name / "config.json").read_text())
        checkpoint = torch.load(CASES / name / "checkpoint.pth", weights_only=True)
        self.sizes = infer_sizes(checkpoint["model"])
        self.model = DeepVoxels(self.sizes)
        self.discriminator = Discriminator()
        self.model.load_state_dict(translate(self.model, checkpoint["model"]))
        self.discriminator.load_state_dict(translate(self.discriminator, checkpoint["discriminator"]))
        self.model.to(dtype)
        self.discriminator.to(dtype)
        self.dtype = dtype
        k = self["input.intrinsics_feature_resolution"]
        p = self.sizes.feature_side
        intrinsics = Intrinsics.square(float(k[0, 0]), float(k[0, 2]), float(k[1, 2]), p)
        placement = GridPlacement(
            tuple(self["input.grid_origin"].tolist()), float(self["input.scale"]), float(self["input.near_plane"])
        )
        camera = (intrinsics, p, placement, self.sizes.grid_side)
        self.lifting = lifting_matrix(self["input.source_pose"], *camera)
        self.resampling = [resampling_matrix(pose, *camera, rim=self.sizes.rim) for pose in self["input.target_poses"]]

    def __getitem__(self, key: str) -> torch.Tensor:
        value = torch.from_numpy(self.tensors[key])
        return value.to(self.dtype) if key.startswith("input.") and "image" in key else value.double()

    def close(self, ours: torch.Tensor, key: str, tolerance: float) -> None:
        torch.testing.assert_close(ours.double(), self[key], rtol=0, atol=tolerance, msg=lambda m: f"{key}: {m}")


@pytest.fixture(params=["occlusion", "no_occlusion"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_sizes_are_inferred_from_tensors(name):
    case = Case(name, torch.float32)
    for key, value in asdict(case.sizes).items():
        assert case.config[key] == value


@pytest.mark.parametrize("together", [True, False], ids=["together", "one_by_one"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-6), (torch.float32, 2e-4)])
def test_forward(name, dtype, tolerance, together):
    case = Case(name, dtype)
    model = case.model.eval()
    with torch.no_grad():
        case.close(case.discriminator.eval()(case["input.source_image"]), "eval.discriminator_on_image", tolerance)
        features = model.extractor(case["input.source_image"])
        case.close(features, "eval.image_features", tolerance)
        lifted = model.lift(features, case.lifting)
        case.close(lifted, "eval.lifted_grid", tolerance)
        integrated = model.integrate(lifted)
        case.close(integrated.grid, "eval.integrated_grid", tolerance)
        inpainted = model.inpaint(integrated.grid)
        case.close(inpainted, "eval.inpainted_grid", tolerance)
        inner = slice(case.sizes.rim, case.sizes.rim + case.sizes.feature_side)
        for view, rimmed in enumerate(model.resample(inpainted, case.resampling)):
            case.close(rimmed[..., inner, inner], f"eval.frustum_features.{view}", tolerance)
        renderings = (
            [(model.render(inpainted, case.resampling), i) for i in range(2)]
            if together
            else [(model.render(inpainted, [matrix]), 0) for matrix in case.resampling]
        )
        for view, (rendering, i) in enumerate(renderings):
            case.close(rendering.image[i : i + 1], f"eval.image.{view}", tolerance)
            if case.sizes.occlusion_net:
                case.close(rendering.visibility[i : i + 1], f"eval.visibility.{view}", tolerance)
                case.close(rendering.depth_map[i : i + 1], f"eval.depth_map.{view}", tolerance)
        test = model.render(model.inpaint(), case.resampling[:1])
        case.close(test.image, "test.image.0", tolerance)
        if case.sizes.occlusion_net:
            case.close(test.depth_map, "test.depth_map.0", tolerance)


def without_dropout(module: torch.nn.Module) -> torch.nn.Module:
    for layer in module.modules():
        if isinstance(layer, torch.nn.modules.dropout._DropoutNd):
            layer.p = 0.0
    return module.train()


def train_step(case: Case, together: bool):
    """Take one step and return losses per target, the new grid, the images, the true images and the loss weights."""
    model, discriminator = without_dropout(case.model), without_dropout(case.discriminator)
    integrated = model.integrate(model.lift(model.extractor(case["input.source_image"]), case.lifting))
    inpainted = model.inpaint(integrated.grid)
    truth = case["input.target_images"]
    if together:
        images = model.render(inpainted, case.resampling).image
    else:
        images = torch.cat([model.render(inpainted, [matrix]).image for matrix in case.resampling])
    weights = {"l1_weight": case.config["l1_weight"], "gan_weight": 1.0, "border": case.config["border"]}
    per_view = [
        deepvoxels_losses(image[None], real[None], **weights, discriminator=discriminator)
        for image, real in zip(images, truth, strict=True)
    ]
    return per_view, integrated.grid, images, truth, weights


@pytest.mark.parametrize("together", [True, False], ids=["together", "one_by_one"])
def test_training_step(name, together):
    case = Case(name, torch.float64)
    per_view, grid, images, truth, weights = train_step(case, together)
    for ours, key in (("l1", "l1"), ("generator_gan", "generator_gan"), ("discriminator", "discriminator_loss")):
        values = torch.stack([getattr(losses, ours) for losses in per_view])
        torch.testing.assert_close(values, case[f"train.{key}"], rtol=1e-9, atol=0)
    case.close(grid, "train.grid_after", 1e-6)
    losses = (
        deepvoxels_losses(images, truth, **weights, discriminator=case.discriminator) if together else None
    )  # as in training, for all targets at once
    total = losses.generator if losses else sum(v.generator for v in per_view) / len(per_view)
    torch.testing.assert_close(total, case["train.generator_total"], rtol=1e-9, atol=0)
    total.backward()
    gradients = {name: p.grad.norm().item() for name, p in case.model.named_parameters()}
    recorded = dict(zip(case.tensors["train.grad_norm_names"], case.tensors["train.grad_norm_values"], strict=True))
    checked = 0
    for ours, theirs in model_names(case.model).items():
        if ours not in gradients:
            continue
        aliases = [theirs, theirs.replace(".net.1.weight", ".weight"), theirs.replace(".net.1.bias", ".bias")]
        aliases.append(theirs.replace(".out_layer.0.net.1.weight", ".out_layer_weight"))
        value = next(recorded[alias] for alias in aliases if alias in recorded)
        if value > 1e-5:
            assert gradients[ours] == pytest.approx(value, rel=1e-6), ours
            checked += 1
    assert len(gradients) == len(recorded)
    assert checked > 0.7 * len(recorded)


def test_running_averages_do_not_depend_on_batching(name):
    buffers = []
    for together in (True, False):
        case = Case(name, torch.float64)
        train_step(case, together)
        buffers.append(dict(case.model.named_buffers()))
    for key, value in buffers[0].items():
        torch.testing.assert_close(value, buffers[1][key], rtol=1e-12, atol=1e-12, msg=lambda m, key=key: f"{key}: {m}")
    assert any("running_mean" in key for key in buffers[0])


def test_generator_loss_leaves_the_discriminator_alone(name):
    case = Case(name, torch.float64)
    per_view, *_ = train_step(case, together=True)
    per_view[0].generator.backward(retain_graph=True)
    assert all(p.grad is None for p in case.discriminator.parameters())
    model_gradients = {key: p.grad.clone() for key, p in case.model.named_parameters()}
    per_view[0].discriminator.backward()
    assert all(torch.equal(p.grad, model_gradients[key]) for key, p in case.model.named_parameters())
    assert all(p.grad is not None for p in case.discriminator.parameters())


def test_every_state_entry_has_one_reference_name(name):
    case = Case(name, torch.float32)
    for module, names in (
        (case.model, model_names(case.model)),
        (case.discriminator, discriminator_names(case.discriminator)),
    ):
        assert set(names) == set(module.state_dict())
        assert len(set(names.values())) == len(names)
