"""The MNIST network of TRADES: four unpadded 3x3 convolutions, three linear layers.

    [conv(32), relu, conv(32), relu, max pool 2], [conv(64), relu, conv(64), relu, max pool 2],
    fc 200, relu, dropout, fc 200, relu, fc K

References:
    Zhang et al., Theoretically principled trade-off between robustness and accuracy, ICML 2019, arXiv:1901.08573;
    the architecture is that of Carlini, Wagner, S&P 2017, arXiv:1608.04644. The names of the weights are those of the
    published checkpoint, which can be loaded. Differs from the published code: the last layer starts at PyTorch's
    default instead of zero.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn

from unfooled.models.nets.images import image_shape


class TradesSmallCnn(nn.Module):
    """A feature extractor and a classifier head, each a sequence of named layers.

    Args:
        input_shape: Shape of one sample, (C, H, W), H and W at least 16.
        classes: Number of classes, K, at least 2.
        drop: Dropout rate between the first two linear layers.

    Raises:
        BadInput: An input shape that is not an image of at least 16x16.
    """

    fixed_size = True

    def __init__(self, input_shape: Sequence[int] = (1, 28, 28), classes: int = 10, *, drop: float = 0.5) -> None:
        super().__init__()
        self.input_shape = image_shape("trades-small-cnn", input_shape, 16)
        height, width = (((side - 4) // 2 - 4) // 2 for side in input_shape[1:])
        self.feature_extractor = nn.Sequential(
            OrderedDict(
                conv1=nn.Conv2d(input_shape[0], 32, 3),
                relu1=nn.ReLU(),
                conv2=nn.Conv2d(32, 32, 3),
                relu2=nn.ReLU(),
                pool1=nn.MaxPool2d(2),
                conv3=nn.Conv2d(32, 64, 3),
                relu3=nn.ReLU(),
                conv4=nn.Conv2d(64, 64, 3),
                relu4=nn.ReLU(),
                pool2=nn.MaxPool2d(2),
            )
        )
        self.classifier = nn.Sequential(
            OrderedDict(
                flat=nn.Flatten(),
                fc1=nn.Linear(64 * height * width, 200),
                relu1=nn.ReLU(),
                drop=nn.Dropout(drop),
                fc2=nn.Linear(200, 200),
                relu2=nn.ReLU(),
                fc3=nn.Linear(200, classes),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (B, K), of images, (B, C, H, W)."""
        return self.classifier(self.feature_extractor(x))
