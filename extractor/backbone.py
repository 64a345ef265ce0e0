"""What every backbone is: pixels in, feature maps out, and the geometry of these maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from extractor.dense_keypoints import Layer


class Backbone(Protocol):
    """A convolutional or transformer network without its classifier."""

    @property
    def identity(self) -> Mapping[str, object]:
        """Name and digest of the weights, in values that JSON can hold."""

    def to(self, device: str, dtype: torch.dtype) -> None:
        """Move the network; pixels are expected on the device, and maps come in the type."""

    def channels(self, tap: str) -> int:
        """Channels of the feature map at a tap.

        Raises:
            ValueError: no such tap; the message lists those that there are.
        """

    def layers(self, tap: str) -> Sequence[Layer]:
        """Convolutions and poolings from the pixels to a tap, as far as they move or blur places."""

    def maps(self, pixels: Tensor, taps: Sequence[str]) -> list[Tensor]:
        """Feature maps of a batch of photos in one forward pass, which ends at the last tap wanted.

        Args:
            pixels: uint8 or float32 [B, H, W, 3], red green blue, 0 to 255.
            taps: in any order.

        Returns:
            For each tap float [B, channels(tap), h, w].
        """
