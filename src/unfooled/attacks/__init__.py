"""Attacks propose inputs that change the label; `evaluation.verify` grades them.

Budget attacks: `fgsm`, `pgd`, `apgd`, `square`. Minimal-norm attacks: `bisect`, `ddn`, `fmn`, `sigma_zero`.
"""

from unfooled.attacks.apgd import apgd
from unfooled.attacks.bisect import bisect
from unfooled.attacks.ddn import ddn
from unfooled.attacks.fgsm import fgsm
from unfooled.attacks.fmn import fmn
from unfooled.attacks.pgd import pgd
from unfooled.attacks.restarts import restarted
from unfooled.attacks.sigma_zero import sigma_zero
from unfooled.attacks.square import square

__all__ = ["apgd", "bisect", "ddn", "fgsm", "fmn", "pgd", "restarted", "sigma_zero", "square"]
