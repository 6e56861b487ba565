"""A few explanations that stand for a whole data set: of texts, of classes of flowers, and of a regression.

python examples/lime_pick.py
"""

from __future__ import annotations

import argparse

from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from unfooled.compat.lime.lime_tabular import LimeTabularExplainer
from unfooled.compat.lime.submodular_pick import SubmodularPick
from unfooled.explanations import lime_text, submodular_pick

GOOD = ["a good film", "good fun", "a fine film about dogs", "fine and funny", "good dogs", "funny and fine"]
BAD = ["a bad film", "bad fun", "a dull film about dogs", "dull and bad", "dull dogs", "a bad and dull evening"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=30, help="rows to choose from")
    parser.add_argument("--samples", type=int, default=1000, help="perturbed rows")
    options = parser.parse_args()
    words = make_pipeline(CountVectorizer(), LogisticRegression()).fit(GOOD + BAD, [1] * len(GOOD) + [0] * len(BAD))
    texts = lime_text(words.predict_proba, GOOD + BAD, 1, samples=options.samples)
    picked = submodular_pick(texts, budget=3)
    for i, gain in zip(picked.index, picked.gain, strict=True):
        print(f"text {(GOOD + BAD)[i]!r}: adds {gain:.2f}, {texts[i].as_list(top=2)[0][0]!r} leads")
    print(f"picked texts cover {picked.covered:.2f} of the importance, as many at random {picked.by_chance:.2f}")

    iris = load_iris()
    model = RandomForestClassifier(30, random_state=0).fit(iris.data, iris.target)
    flowers = LimeTabularExplainer(
        iris.data, feature_names=iris.feature_names, class_names=iris.target_names, random_state=0
    )
    rows = iris.data[:: -(-len(iris.data) // options.n)]
    sp = SubmodularPick(
        flowers, rows, model.predict_proba, method="full", num_exps_desired=3, top_labels=3, num_samples=options.samples
    )
    for found in sp.sp_explanations:
        label = found.top_labels[0]
        print(f"flower {iris.target_names[label]}: {found.as_list(label=label)[0][0]}")

    diabetes = load_diabetes()
    trees = RandomForestRegressor(30, random_state=0).fit(diabetes.data, diabetes.target)
    patients = LimeTabularExplainer(diabetes.data, feature_names=diabetes.feature_names, mode="regression")
    sp = SubmodularPick(
        patients, diabetes.data[: options.n], trees.predict, "full", num_exps_desired=3, num_samples=options.samples
    )
    for record in [dict(found.as_list()) for found in sp.sp_explanations]:  # pandas.DataFrame takes this list
        print(f"patient {max(record, key=lambda name: abs(record[name]))}")


if __name__ == "__main__":
    main()
