"""ResNet-18 for small images, as used in adversarial training: four stages at sides S, S/2, S/4, S/8.

    conv 3x3 (64), 4 stages of 2 blocks of width 64, 128, 256, 512, global average, fc K
    block: relu( bn(conv(relu(bn(conv(x))))) + shortcut(x) ),   shortcut: 1x1 convolution and bn where sizes differ

References:
    He, Zhang, Ren, Sun, Deep residual learning for image recognition, CVPR 2016, arXiv:1512.03385, table 1, option B.
    Differs, as checkpoints for 32x32 images do: a first 3x3 convolution of stride 1, and no pooling after it. The names
    of the weights are those of common published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unfooled.models.nets.cifar_resnet import Block
from unfooled.models.nets.images import image_shape


class ResNet18(nn.Module):
    """18 layers with weights, 11.2M parameters at width 64.

    Args:
        input_shape: Shape of one sample, (C, H, W), H and W at least 8.
        classes: Number of classes, K, at least 2.
        width: Channels of the first stage.

    Raises:
        BadInput: An input shape that is not an image of at least 8x8.
    """

    fixed_size = False

    def __init__(self, input_shape: Sequence[int] = (3, 32, 32), classes: int = 10, *, width: int = 64) -> None:
        super().__init__()
        self.input_shape = image_shape("resnet18", input_shape, 8)
        self.conv1 = nn.Conv2d(input_shape[0], width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.layer1 = self._stage(width, width, stride=1)
        self.layer2 = self._stage(width, 2 * width, stride=2)
        self.layer3 = self._stage(2 * width, 4 * width, stride=2)
        self.layer4 = self._stage(4 * width, 8 * width, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.linear = nn.Linear(8 * width, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    @staticmethod
    def _stage(before: int, width: int, *, stride: int) -> nn.Sequential:
        first = Block(before, width, stride)
        if stride > 1 or before != width:
            first.shortcut = nn.Sequential(
                nn.Conv2d(before, width, 1, stride=stride, bias=False), nn.BatchNorm2d(width)
            )
        return nn.Sequential(first, Block(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K), of images, (B, C, H, W)."""
        z = self.relu(self.bn1(self.conv1(x)))
        z = self.layer4(self.layer3(self.layer2(self.layer1(z))))
        return self.linear(self.flat(self.pool(z)))
