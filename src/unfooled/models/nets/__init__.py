"""Small reference networks.

Each class states `fixed_size`: True if its linear layers fix the height and width of the images.
"""

from unfooled.models.nets.cifar_resnet import CifarResnet
from unfooled.models.nets.concept_cnn import ConceptCnn
from unfooled.models.nets.lenet5 import Lenet5
from unfooled.models.nets.mnist_cnn import MnistCnn
from unfooled.models.nets.resnet18 import ResNet18
from unfooled.models.nets.small_cnn import SmallCnn
from unfooled.models.nets.strided_cnn import StridedCnn
from unfooled.models.nets.trades_small_cnn import TradesSmallCnn

__all__ = ["CifarResnet", "ConceptCnn", "Lenet5", "MnistCnn", "ResNet18", "SmallCnn", "StridedCnn", "TradesSmallCnn"]
