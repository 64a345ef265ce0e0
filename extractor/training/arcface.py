"""ArcFace: a softmax over cosines in which the right class must win by an angle.

Deng et al., "ArcFace: additive angular margin loss for deep face recognition" (CVPR 2019).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEAST_SQUARED_SINE = 1e-12  # whose root still has a gradient


class ArcFace(nn.Module):
    """Classifies descriptors by their angle to a learned centre of each class.

    Args:
        dimension: of a descriptor.
        classes: how many there are.
        margin: radians that are added to the angle to the right centre.
        scale: what multiplies the cosines at first; it is learned. None is the square root of the dimension,
            as in DELG.
    """

    def __init__(self, dimension: int, classes: int, margin: float = 0.1, scale: float | None = None) -> None:
        super().__init__()
        self.margin = margin
        self.centres = nn.Parameter(nn.init.xavier_uniform_(torch.empty(classes, dimension)))
        self.scale = nn.Parameter(torch.tensor(math.sqrt(dimension) if scale is None else scale))

    def logits(self, descriptors: Tensor, labels: Tensor) -> Tensor:
        """Scaled cosines with the margin on the right class.

        The margin is left out where the angle would pass 180 degrees, and its cosine would grow again.

        Args:
            descriptors: float [B, dimension] of any norm.
            labels: int64 [B].

        Returns:
            float32 [B, classes].
        """
        cosines = (
            functional.normalize(descriptors.float(), dim=1) @ functional.normalize(self.centres, dim=1).T
        )
        right = cosines.gather(1, labels[:, None])
        sines = (1 - right.square()).clamp(min=_LEAST_SQUARED_SINE).sqrt()
        wider = right * math.cos(self.margin) - sines * math.sin(self.margin)
        wider = torch.where(right > math.cos(math.pi - self.margin), wider, right)
        return self.scale * cosines.scatter(1, labels[:, None], wider)

    def forward(self, descriptors: Tensor, labels: Tensor) -> Tensor:
        """Mean cross entropy of the `logits`."""
        with torch.autocast(descriptors.device.type, enabled=False):
            return functional.cross_entropy(self.logits(descriptors, labels), labels)
