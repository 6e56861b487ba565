"""A network of two strided convolutions: on 28x28 about fifteen times cheaper than `mnist-cnn`.

    conv 4x4 / 2 (w), relu, conv 4x4 / 2 (2w), relu, fc 100, relu, fc K

References:
    Wong, Kolter, Provable defenses against adversarial examples via the convex outer adversarial polytope, ICML 2018,
    arXiv:1711.00851 (its MNIST network, w = 16); Wong, Rice, Kolter, Fast is better than free, ICLR 2020,
    arXiv:2001.03994, trains the same network. Differs: layers have names, and any image size and width is allowed.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unfooled.models.nets.images import image_shape


class StridedCnn(nn.Module):
    """Two padded 4x4 convolutions that halve each side, and two linear layers; no dropout, no normalisation layers.

    The output of `fc1`, 100 numbers before their ReLU, is the feature vector that `unfooled.features` inverts.

    Args:
        input_shape: Shape of one sample, (C, H, W), H and W at least 4.
        classes: Number of classes, K, at least 2.
        width: Channels of the first convolution, w in the formula.

    Raises:
        BadInput: An input shape that is not an image of at least 4x4.
    """

    fixed_size = True

    def __init__(self, input_shape: Sequence[int] = (1, 28, 28), classes: int = 10, width: int = 16) -> None:
        super().__init__()
        self.input_shape = image_shape("strided-cnn", input_shape, 4)
        channels, height, columns = input_shape
        self.conv1 = nn.Conv2d(channels, width, 4, stride=2, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, 2 * width, 4, stride=2, padding=1)
        self.relu2 = nn.ReLU()
        self.flat = nn.Flatten()
        self.fc1 = nn.Linear(2 * width * (height // 4) * (columns // 4), 100)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K), of images, (B, C, H, W)."""
        z = self.relu2(self.conv2(self.relu1(self.conv1(x))))
        return self.fc2(self.relu3(self.fc1(self.flat(z))))
