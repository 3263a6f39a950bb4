"""Training losses of generator and discriminator (paper, section 3.4)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from dv.nets.discriminator import Discriminator

EPSILON = 1e-9


@dataclass(frozen=True)
class Losses:
    """Scalar losses of one sample; the adversarial ones are None if there is no discriminator.

    Attributes:
        generator: weighted sum that the generator minimises.
        l1: mean absolute error, unweighted.
        generator_gan: adversarial term of the generator, unweighted.
        discriminator: loss that the discriminator minimises.
    """

    generator: Tensor
    l1: Tensor
    generator_gan: Tensor | None = None
    discriminator: Tensor | None = None


def cut_border(image: Tensor, border: int) -> Tensor:
    """Return ``image`` ``[..., H, W]`` without its outer ``border`` pixels.

    >>> cut_border(torch.arange(16).view(4, 4), border=1)
    tensor([[ 5,  6],
            [ 9, 10]])
    """
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
    """Compute the losses of rendered target views, averaged over views and pixels.

    With discriminator D and ε = 1e-9 they are::

        generator:      l1_weight·|output - truth| + l2_weight·(output - truth)² - gan_weight·log(D(output) + ε)
        discriminator:  ½·(-log(1 - D(output) + ε) - log(D(truth) + ε))

    The paper's generator loss has ``l2_weight`` 0. The generator's loss treats the weights of the discriminator as
    constants, and the discriminator's loss treats the output as a constant, so one backward pass over the sum of both
    gives all gradients.

    Args:
        output: rendered images ``[N, 3, S, S]`` in [-0.5, 0.5].
        truth: ground-truth images ``[N, 3, S, S]`` in [-0.5, 0.5].
        l1_weight: weight of the mean absolute error.
        gan_weight: weight of the adversarial term.
        border: number of pixels along each edge of the images that are left out.
        discriminator: the discriminator; None for training without adversarial losses.
        l2_weight: weight of the mean squared error.

    >>> output, truth = torch.zeros(1, 3, 8, 8), torch.full((1, 3, 8, 8), 0.25)
    >>> losses = deepvoxels_losses(output, truth, l1_weight=200.0, gan_weight=1.0, border=1, discriminator=None)
    >>> losses.l1.item(), losses.generator.item()
    (0.25, 50.0)
    """
    fake, real = cut_border(output, border), cut_border(truth, border)
    l1 = (fake - real).abs().mean()
    reconstruction = l1_weight * l1 + l2_weight * (fake - real).square().mean() if l2_weight else l1_weight * l1
    if discriminator is None:
        return Losses(reconstruction, l1)
    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    generator_gan = -(_at_least_fp32(functional_call(discriminator, frozen, (fake,))) + EPSILON).log().mean()
    fake_score, real_score = _at_least_fp32(discriminator(torch.cat([fake.detach(), real]))).chunk(2)
    discriminator_loss = 0.5 * (-(1 - fake_score + EPSILON).log().mean() - (real_score + EPSILON).log().mean())
    return Losses(reconstruction + gan_weight * generator_gan, l1, generator_gan, discriminator_loss)


def _at_least_fp32(score: Tensor) -> Tensor:
    """Convert 16-bit scores to fp32: in 16 bits ε vanishes, and the logarithm of a score of 0 or 1 is infinite."""
    return score.float() if score.dtype in (torch.float16, torch.bfloat16) else score


def all_finite(losses: Losses) -> bool:
    """Return whether the losses of generator and discriminator are finite."""
    values = [losses.generator] if losses.discriminator is None else [losses.generator, losses.discriminator]
    return bool(torch.isfinite(torch.stack([v.detach() for v in values])).all())
