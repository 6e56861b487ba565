"""The residual networks for small images: 6n + 2 layers, shortcuts without parameters.

    conv 3x3 (16), 3 stages of n blocks of width 16, 32, 64 at sides S, S/2, S/4, global average, fc K
    block: relu( bn(conv(relu(bn(conv(x))))) + shortcut(x) )

References:
    He, Zhang, Ren, Sun, Deep residual learning for image recognition, CVPR 2016, arXiv:1512.03385, section 4.2 and
    table 6: depth 20, 32, 56 have 0.27M, 0.46M, 0.85M parameters. Shortcuts are the paper's option A: every second
    pixel, new channels zero; here half of the zeros are put on either side, as in the checkpoints in circulation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from unfooled.core.errors import BadInput
from unfooled.models.nets.images import image_shape


class PadShortcut(nn.Module):
    """Option A: every `stride`-th pixel, zeros for the new channels; no parameters.

    Args:
        new: Number of channels to add.
        stride: Step between the pixels that are taken.
    """

    def __init__(self, new: int, stride: int) -> None:
        super().__init__()
        self.new, self.stride = new, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C + new, H / stride, W / stride) of (B, C, H, W)."""
        before = self.new // 2
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new - before))


class Block(nn.Module):
    """Two 3x3 convolutions with batch normalisation, and the shortcut around them.

    Args:
        before: Number of input channels.
        width: Number of output channels.
        stride: Stride of the first convolution.
    """

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, width, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        same = stride == 1 and before == width
        self.shortcut: nn.Module = nn.Identity() if same else PadShortcut(width - before, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, width, H / stride, W / stride) of (B, before, H, W)."""
        z = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        return self.relu2(z + self.shortcut(x))


class CifarResnet(nn.Module):
    """ResNet-20, -32, -44, -56, -110 for images of about 32x32.

    Args:
        input_shape: Shape of one sample, (C, H, W), H and W at least 4.
        classes: Number of classes, K, at least 2.
        depth: Layers with weights, 6n + 2.
        width: Channels of the first stage.

    Raises:
        BadInput: A depth that is not 6n + 2, or an input shape that is not an image of at least 4x4.
    """

    fixed_size = False

    def __init__(
        self, input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, *, depth: int = 20, width: int = 16
    ) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise BadInput(f"a cifar-resnet has depth 6n + 2 (20, 32, 44, 56, 110), not {depth}")
        self.input_shape = image_shape("cifar-resnet", input_shape, 4)
        n = (depth - 2) // 6
        self.conv1 = nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = self._stage(n, width, width, stride=1)
        self.layer2 = self._stage(n, width, 2 * width, stride=2)
        self.layer3 = self._stage(n, 2 * width, 4 * width, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.linear = nn.Linear(4 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    @staticmethod
    def _stage(n: int, before: int, width: int, *, stride: int) -> nn.Sequential:
        first = Block(before, width, stride)
        return nn.Sequential(first, *(Block(width, width, 1) for _ in range(n - 1)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K), of images, (B, C, H, W)."""
        z = self.relu(self.bn1(self.conv1(x)))
        z = self.layer3(self.layer2(self.layer1(z)))
        return self.linear(self.flat(self.pool(z)))
