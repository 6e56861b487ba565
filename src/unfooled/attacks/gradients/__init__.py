"""Gradients of models that hide them: averaged, straight-through, jittered, estimated, and those of a twin.

    Averaged         mean_k f_k(x)                              a random model, as the mean of its draws (EOT)
    StraightThrough  f(x), with the gradient of another model   parts that have none (BPDA)
    Jittered         f(x), with mean_k f'(x + sigma n_k)        gradients that are noise or change within a hair
    Estimated        f(x), with differences along signs         outputs only (SPSA, NES)

Each is a callable x -> logits, so every gradient attack takes it. Hand the wrapper to the attack and the model itself
to `verify`: success on a wrapper is not success on the model. `distil` trains a twin on the model's answers, `transfer`
attacks it.
"""

from unfooled.attacks.gradients.averaged import Averaged
from unfooled.attacks.gradients.estimated import Estimated, estimated_gradient
from unfooled.attacks.gradients.jittered import Jittered
from unfooled.attacks.gradients.straight_through import Defended, StraightThrough, bpda, identity
from unfooled.attacks.gradients.twins import distil, transfer

__all__ = [
    "Averaged",
    "Defended",
    "Estimated",
    "Jittered",
    "StraightThrough",
    "bpda",
    "distil",
    "estimated_gradient",
    "identity",
    "transfer",
]
