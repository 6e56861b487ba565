"""MNIST features: what do networks inherit from a rebuilt data set?"""

from unfooled.studies.mnist_features.scale import MnistScale
from unfooled.studies.mnist_features.study import run_mnist_features

__all__ = ["MnistScale", "run_mnist_features"]
