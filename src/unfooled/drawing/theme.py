"""Colours of the report page, light and dark. Text has a contrast of at least 4.5:1 on every background."""

from __future__ import annotations

# name -> (light, dark). The runs' colours s0 to s3 follow Okabe and Ito, safe for colour-blind readers; each run also
# has a letter and a marker, and "held" (not fooled, blue) and "fooled" (orange) also differ by hatching and words.
# "void" is for figures that cannot be believed, "idle" for samples that are wrong when clean, "rule" for lines.
TOKENS: dict[str, tuple[str, str]] = {
    "paper": ("#fbfaf7", "#121518"),
    "card": ("#ffffff", "#1a1e22"),
    "code": ("#f3f1eb", "#0c0f11"),
    "ink": ("#1c2126", "#e9e6df"),
    "muted": ("#59616b", "#a4abb3"),
    "rule": ("#e2ded5", "#2e343a"),
    "strong": ("#8a8f96", "#6b737b"),
    "accent": ("#0a5a87", "#7cc0ec"),
    "accent-soft": ("#d5e6f0", "#1b3a4c"),
    "bad": ("#a63f00", "#f29a63"),
    "bad-soft": ("#fbe7da", "#3d2413"),
    "void": ("#9f1239", "#ff9db0"),
    "void-soft": ("#fce4ea", "#42141f"),
    "warn": ("#5c4300", "#f3dfa0"),
    "warn-soft": ("#fff3cf", "#332c10"),
    # cells of a confusion table on its diagonal and off it
    "heat-on": ("#a9cfe6", "#1f4d69"),
    "heat-off": ("#f6b184", "#84431a"),
    "held": ("#0072b2", "#5db4ea"),
    "fooled": ("#c45500", "#f08a45"),
    "idle": ("#a3a8ae", "#5d656d"),
    "s0": ("#0072b2", "#5db4ea"),
    "s1": ("#9b3d84", "#e08cc6"),
    "s2": ("#007a5a", "#3fc79b"),
    "s3": ("#8a6100", "#e3b341"),
}


def css_variables() -> str:
    """Return the colours as CSS variables: light for old browsers, both themes for those with `light-dark()`."""
    light = "".join(f"--{name}:{pair[0]};" for name, pair in TOKENS.items())
    both = "".join(f"--{name}:light-dark({pair[0]},{pair[1]});" for name, pair in TOKENS.items())
    return f":root{{{light}}}\n@supports (color:light-dark(#000,#fff)){{:root{{{both}}}}}\n"
