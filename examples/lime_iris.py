"""Which bins of a flower's measures decide? lime's own calls, and the same over bins with standard errors.

python examples/lime_iris.py
"""

from __future__ import annotations

import argparse

from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

from unfooled.compat.lime import LimeTabularExplainer
from unfooled.explanations import TabularSpace, lime_tabular


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=5000, help="perturbed rows")
    parser.add_argument("--trees", type=int, default=100)
    options = parser.parse_args()

    iris = load_iris()
    train, test, y_train, y_test = train_test_split(iris.data, iris.target, train_size=0.8, random_state=0)
    model = RandomForestClassifier(options.trees, random_state=0).fit(train, y_train)
    print(f"accuracy {model.score(test, y_test):.3f}")

    explainer = LimeTabularExplainer(
        train, feature_names=iris.feature_names, class_names=iris.target_names, random_state=0
    )
    lime = explainer.explain_instance(test[0], model.predict_proba, num_features=2, top_labels=1, num_samples=options.n)
    (label,) = lime.available_labels()
    print(f"{iris.target_names[label]}, by lime's calls:")
    for name, weight in lime.as_list(label):
        print(f"  {name:<32} {weight:+.3f}")

    space = TabularSpace.learn(train, names=iris.feature_names)
    classes = [str(name) for name in iris.target_names]
    found = lime_tabular(model.predict_proba, test[:1], space=space, samples=options.n, classes=classes)
    print(f"{found.class_name(int(found.y))}, with standard errors; held-out R2 {float(found.r2_held_out):.2f}:")
    for j in found.weights[0, 0].abs().argsort(descending=True).tolist():
        print(f"  {found.names[0][j]:<32} {found.weights[0, 0, j]:+.3f} +- {found.se[0, 0, j]:.3f}")


if __name__ == "__main__":
    main()
