"""Networks that predict attributes first, and the class from these alone: a linear head on attribute logits.

    e = g(x) in R^n, attribute logits;      l = W e + b, class logits

The first two convolutions keep the full resolution, so that textures of one or two pixels survive. The encoder g comes
in three sizes: small, large, and residual.

References:
    Koh et al., Concept bottleneck models, ICML 2020, arXiv:2007.04612.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.models.nets.cifar_resnet import Block
from unfooled.models.nets.images import image_shape
from unfooled.models.nets.small_cnn import GRID, GridPool

LAYERS: dict[str, tuple[tuple[int, int], ...]] = {
    "small": ((1, 1), (2, 1), (2, 2), (4, 2), (4, 1)),
    "large": ((1, 1), (2, 1), (2, 2), (2, 1), (4, 2), (4, 1), (4, 1)),
}
"""Encoder -> (width relative to the first convolution, stride) of each 3x3 convolution."""
ENCODERS = (*LAYERS, "residual")


def _convolutions(channels: int, width: int, layers: Sequence[tuple[int, int]]) -> nn.Sequential:
    """Return 3x3 convolutions, each with batch normalisation and ReLU."""
    made: list[nn.Module] = []
    before = channels
    for times, stride in layers:
        after = times * width
        made += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
        before = after
    return nn.Sequential(*made)


def _residual(channels: int, width: int) -> nn.Sequential:
    """Return two convolutions at full resolution and four residual blocks, two of stride 2."""
    blocks = [Block(2 * width, 2 * width, 2), Block(2 * width, 2 * width, 1)]
    blocks += [Block(2 * width, 4 * width, 2), Block(4 * width, 4 * width, 1)]
    return nn.Sequential(*_convolutions(channels, width, LAYERS["small"][:2]), *blocks)


class ConceptCnn(nn.Module):
    """Convolutions, a pooled grid, two linear layers to attribute logits, and a linear head.

    small: conv(w), conv(2w), conv(2w) of stride 2, conv(4w) of stride 2, conv(4w), average pool to 4x4, fc(8w)-relu,
    fc(n), head fc(K); each convolution with batch normalisation and ReLU. Nothing lies between the attribute logits and
    the head, so that the geometry of the head is that of an affine map.

    Args:
        input_shape: Shape of one sample, (C, H, W), H and W at least 8.
        classes: Number of classes, K, at least 2.
        attributes: Number of attributes, n, at least 1.
        width: Channels of the first convolution, w in the formula.
        encoder: "small", "large" (seven convolutions) or "residual" (two convolutions and four residual blocks).

    Raises:
        BadInput: An input shape that is not an image of at least 8x8, no attributes, or an unknown encoder.

    Example:
        >>> import torch
        >>> net = ConceptCnn((3, 32, 32), classes=4, attributes=26).eval()
        >>> net.encode(torch.rand(2, 3, 32, 32)).shape, net(torch.rand(2, 3, 32, 32)).shape
        (torch.Size([2, 26]), torch.Size([2, 4]))
    """

    fixed_size = False

    def __init__(
        self, input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, *, attributes: int = 26, width: int = 16,
        encoder: str = "small",
    ) -> None:  # fmt: skip
        super().__init__()
        if attributes < 1:
            raise BadInput(f"attributes is {attributes}; a concept network has at least one")
        if encoder not in ENCODERS:
            raise BadInput(f"there is no encoder {encoder!r}; there are {', '.join(ENCODERS)}")
        self.input_shape = image_shape("concept-cnn", input_shape, 8)
        channels = self.input_shape[0]
        residual = encoder == "residual"
        self.features = _residual(channels, width) if residual else _convolutions(channels, width, LAYERS[encoder])
        sides = [min(GRID, -(-side // 4)) for side in self.input_shape[1:]]
        self.grid = GridPool((sides[0], sides[1]))
        self.flat = nn.Flatten()
        self.fc = nn.Linear(4 * width * sides[0] * sides[1], 8 * width)
        self.relu = nn.ReLU()
        self.concepts = nn.Linear(8 * width, attributes)
        self.head = nn.Linear(attributes, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def encode(self, x: Tensor) -> Tensor:
        """Return the attribute logits, (B, n), of images, (B, C, H, W)."""
        return self.concepts(self.relu(self.fc(self.flat(self.grid(self.features(x))))))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K), of images, (B, C, H, W)."""
        return self.head(self.encode(x))
