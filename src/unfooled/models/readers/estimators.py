"""Files of estimators: `.skops`, and pickles of joblib where their author is trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from unfooled.core.errors import BadInput, option
from unfooled.models.black_boxes.estimators import from_estimator, is_estimator
from unfooled.models.known import SKOPS
from unfooled.models.readers.loaded import Loaded


def from_estimator_file(path: Path, *, trust_pickle: bool = False) -> Loaded:
    """Load a fitted classifier of scikit-learn, XGBoost or another library with its methods.

    Args:
        path: File of `joblib.dump`, `pickle.dump` or `skops.io.dump`.
        trust_pickle: True: allow a pickle to run arbitrary code, and a skops file any type; only for files from trusted
            authors.

    Raises:
        BadInput: A pickle without that permission, a skops file of untrusted types, a damaged file, or no classifier.
    """
    estimator = _skops(path, trust_pickle) if path.suffix == SKOPS else _pickle(path, trust_pickle)
    if not is_estimator(estimator):
        raise BadInput(f"{path} holds a {type(estimator).__name__}; save a fitted classifier of scikit-learn")
    return Loaded(from_estimator(estimator), path.stem)


def _pickle(path: Path, trusted: bool) -> Any:
    """Read a pickle, whose code runs."""
    if not trusted:
        raise BadInput(
            f"{path} was refused: it is a pickle, which may run any code when it is read; save the estimator with "
            f"skops.io.dump, or give {option('trust_pickle', True)} if you trust its author"
        )
    import joblib

    try:
        return joblib.load(path)
    except Exception as error:  # whatever an unpickler and the classes in it raise
        raise BadInput(f"{path} cannot be read: {type(error).__name__}: {str(error)[:200]}") from error


def _skops(path: Path, trusted: bool) -> Any:
    """Read a skops file, whose types are checked."""
    try:
        from skops import io
    except ImportError:
        raise BadInput(f"{path} needs skops; pip install skops") from None
    try:
        unknown = io.get_untrusted_types(file=path)
        if unknown and not trusted:
            raise BadInput(
                f"{path} was refused: it holds types that skops does not trust, {', '.join(unknown[:4])}; give "
                f"{option('trust_pickle', True)} if you trust its author"
            )
        return io.load(path, trusted=unknown)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{path} cannot be read: {type(error).__name__}: {str(error)[:200]}") from error
