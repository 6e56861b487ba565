"""A LeNet-like network, often used for adversarial training on MNIST.

    conv 3x3 (32), relu, max pool 2, conv 3x3 (64), relu, max pool 2, fc 200, relu, fc K

References:
    LeCun, Bottou, Bengio, Haffner, Gradient-based learning applied to document recognition, Proc. IEEE 1998.
    Differs from the paper: ReLU and max pooling, other widths; the layout (and the names of the weights) is that of the
    MNIST models of advertorch (Ding, Wang, Jin 2019, arXiv:1902.07623), so that their checkpoints can be loaded.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unfooled.models.nets.images import image_shape


class Lenet5(nn.Module):
    """Two padded 3x3 convolutions and two linear layers.

    Args:
        input_shape: Shape of one sample, (C, H, W), H and W at least 4.
        classes: Number of classes, K, at least 2.

    Raises:
        BadInput: An input shape that is not an image of at least 4x4.
    """

    fixed_size = True

    def __init__(self, input_shape: Sequence[int] = (1, 28, 28), classes: int = 10) -> None:
        super().__init__()
        self.input_shape = image_shape("lenet5", input_shape, 4)
        channels, height, width = input_shape
        self.conv1 = nn.Conv2d(channels, 32, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.flat = nn.Flatten()
        self.linear1 = nn.Linear(64 * (height // 4) * (width // 4), 200)
        self.relu3 = nn.ReLU()
        self.linear2 = nn.Linear(200, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K), of images, (B, C, H, W)."""
        z = self.pool1(self.relu1(self.conv1(x)))
        z = self.pool2(self.relu2(self.conv2(z)))
        return self.linear2(self.relu3(self.linear1(self.flat(z))))
