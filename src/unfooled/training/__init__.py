"""Training: one generator loop, and one file per loss."""

from unfooled.training.loop import Batches, Epoch, train
from unfooled.training.madry import Madry
from unfooled.training.standard import Standard
from unfooled.training.trades import Trades

__all__ = ["Batches", "Epoch", "Madry", "Standard", "Trades", "train"]
