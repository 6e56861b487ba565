"""Attacks propose inputs that change the label; `evaluation.verify` grades them."""

from unfooled.attacks.apgd import apgd
from unfooled.attacks.fgsm import fgsm
from unfooled.attacks.pgd import pgd
from unfooled.attacks.restarts import restarted

__all__ = ["apgd", "fgsm", "pgd", "restarted"]
