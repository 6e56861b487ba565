"""The network of the MNIST features study: two unpadded 3x3 convolutions, two linear layers, every layer named.

    conv 32, relu, conv 64, relu, max pool 2, dropout .2, fc 100, relu, dropout .3, fc K

The output of `fc`, 100 numbers before their ReLU, are the features that `unfooled.features` inverts.

References:
    xziyue/robust_mnist_feature_py, 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from unfooled.models.nets.images import image_shape


class MnistCnn(nn.Module):
    """Two convolutions and two linear layers.

    Args:
        input_shape: Shape of one sample, (C, H, W), H and W at least 6.
        classes: Number of classes, K, at least 2.
        drop: Dropout rates before `fc` and before `head`; the study retrains with (.4, .4).

    Raises:
        BadInput: An input shape that is not an image of at least 6x6.
    """

    fixed_size = True

    def __init__(
        self,
        input_shape: Sequence[int] = (1, 28, 28),
        classes: int = 10,
        *,
        drop: tuple[float, float] = (0.2, 0.3),
    ) -> None:
        super().__init__()
        self.input_shape = image_shape("mnist-cnn", input_shape, 6)
        height, width = ((side - 4) // 2 for side in input_shape[1:])
        self.conv1 = nn.Conv2d(input_shape[0], 32, 3)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.relu2 = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.drop1 = nn.Dropout(drop[0])
        self.flat = nn.Flatten()
        self.fc = nn.Linear(64 * height * width, 100)
        self.relu3 = nn.ReLU()
        self.drop2 = nn.Dropout(drop[1])
        self.head = nn.Linear(100, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K), of images, (B, C, H, W)."""
        z = self.pool(self.relu2(self.conv2(self.relu1(self.conv1(x)))))
        return self.head(self.drop2(self.relu3(self.fc(self.flat(self.drop1(z))))))
