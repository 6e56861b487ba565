"""lime 0.2.0.1's modules, names and numbers.

    from unfooled.compat.lime.lime_text import LimeTextExplainer     in place of lime.lime_text

or `unfooled.compat.lime.install()` once, after which `import lime.lime_text` finds these modules. The same
`random_state` gives the same samples, features, weights, intercepts and scores as the original, within 1e-6.

Explainers and explanations can be pickled; words and numbers are `str`, `int` and `float`; pages need no script. One
departure: showing an explanation draws nothing from the explainer's random stream, as the original does for text, so
that it does not change the next explanation.

References:
    Ribeiro, Singh, Guestrin, "Why should I trust you?" Explaining the predictions of any classifier, KDD 2016,
    arXiv:1602.04938.
"""

from unfooled.compat.lime.alias import install
from unfooled.compat.lime.lime_image import LimeImageExplainer
from unfooled.compat.lime.lime_tabular import LimeTabularExplainer, RecurrentTabularExplainer
from unfooled.compat.lime.lime_text import LimeTextExplainer
from unfooled.compat.lime.submodular_pick import SubmodularPick

__all__ = [
    "LimeImageExplainer",
    "LimeTabularExplainer",
    "LimeTextExplainer",
    "RecurrentTabularExplainer",
    "SubmodularPick",
    "install",
]
