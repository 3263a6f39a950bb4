"""Training losses of generator and discriminator (paper, section 3.4), per target view and averaged over them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from dv.nets.discriminator import Discriminator

EPSILON = 1e-9


@dataclass(frozen=True)
class Losses:
    """Scalars: the two that are minimised, and their parts. Without a discriminator the adversarial ones are None."""

    generator: Tensor
    l1: Tensor
    generator_gan: Tensor | None = None
    discriminator: Tensor | None = None


def cut_border(image: Tensor, border: int) -> Tensor:
    """``image`` ``[..., H, W]`` without its outer ``border`` pixels."""
    return image[..., border:-border, border:-border] if border else image


def deepvoxels_losses(
    output: Tensor,
    truth: Tensor,
    *,
    l1_weight: float,
    gan_weight: float,
    border: int,
    discriminator: Discriminator | None,
    l2_weight: float = 0.0,
) -> Losses:
    """Losses of rendered targets ``output`` against ``truth``, both ``[N, 3, S, S]`` in [-0.5, 0.5].

    Generator: ``l1_weight·|output - truth| + l2_weight·(output - truth)² - gan_weight·log(D(output) + ε)``, the paper's
    with ``l2_weight`` 0. Discriminator:
    ``½(-log(1 - D(output) + ε) - log(D(truth) + ε))``. Both come from the same weights, so one backward pass over
    their sum serves both: the generator's term sees the discriminator's weights as constants, the discriminator's
    sees the output as one.
    """
    fake, real = cut_border(output, border), cut_border(truth, border)
    l1 = (fake - real).abs().mean()
    content = l1_weight * l1 + l2_weight * (fake - real).square().mean() if l2_weight else l1_weight * l1
    if discriminator is None:
        return Losses(content, l1)
    constants = {name: p.detach() for name, p in discriminator.named_parameters()}
    generator_gan = -(_full(functional_call(discriminator, constants, (fake,))) + EPSILON).log().mean()
    on_fake, on_real = _full(discriminator(torch.cat([fake.detach(), real]))).chunk(2)
    discriminator_loss = 0.5 * (-(1 - on_fake + EPSILON).log().mean() - (on_real + EPSILON).log().mean())
    return Losses(content + gan_weight * generator_gan, l1, generator_gan, discriminator_loss)


def _full(score: Tensor) -> Tensor:
    """A score in fp32 at least: in 16 bits ε vanishes and the logarithm of a sure discriminator is infinite."""
    return score.float() if score.dtype in (torch.float16, torch.bfloat16) else score


def all_finite(losses: Losses) -> bool:
    """Whether both losses are finite numbers."""
    values = [losses.generator] if losses.discriminator is None else [losses.generator, losses.discriminator]
    return bool(torch.isfinite(torch.stack([v.detach() for v in values])).all())
