"""What speaks for an income above 50,000? A forest behind a pipeline that takes categories as they are written.

python examples/lime_adult.py
"""

from __future__ import annotations

import argparse
import gzip
import os
from pathlib import Path

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from unfooled.explanations import TabularSpace, lime_tabular

DATA = Path(os.environ.get("UNFOOLED_DATA", "../shared/data"), "text_tabular", "adult.csv.gz")
NAMES = "age workclass fnlwgt education education-num marital occupation relationship race sex gain loss hours country"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=20000, help="training rows")
    parser.add_argument("--trees", type=int, default=100)
    parser.add_argument("--samples", type=int, default=2000, help="perturbed rows")
    options = parser.parse_args()
    if not DATA.is_file():
        raise SystemExit(f"{DATA} is not there; set UNFOOLED_DATA to the folder that holds text_tabular")

    cells = [line.strip().split(", ") for line in gzip.decompress(DATA.read_bytes()).decode().split("\n") if line]
    columns = [list(column) for column in zip(*cells, strict=True)]
    named = [k for k, column in enumerate(columns[:14]) if not column[0].isdigit()]
    values = [column if k in named else list(map(float, column)) for k, column in enumerate(columns[:14])]
    table, y = np.array(values, dtype=object).T, np.array([label == ">50K" for label in columns[14]])
    train, test = table[: options.n], table[-2000:]

    codes = ColumnTransformer([("categories", OneHotEncoder(handle_unknown="ignore"), named)], remainder="passthrough")
    model = make_pipeline(codes, RandomForestClassifier(options.trees, random_state=0)).fit(train, y[: options.n])
    print(f"accuracy {model.score(test, y[-2000:]):.3f}")

    space = TabularSpace.learn(train, categorical=named, names=NAMES.split())
    found = lime_tabular(
        model.predict_proba, test[:2], 1, space=space, samples=options.samples, classes=["<=50K", ">50K"]
    )
    for i, own in enumerate(found):
        print(f"row {i}: >50K with {float(own.prediction):.2f}; held-out R2 {float(own.r2_held_out):.2f}")
        for j in own.weights[0, 0].abs().argsort(descending=True)[:5].tolist():
            low, high = (float(own.weights[0, 0, j] + sign * 2 * own.se[0, 0, j]) for sign in (-1, 1))
            print(f"  {own.names[0][j]:<40} {own.weights[0, 0, j]:+.3f}  [{low:+.3f}, {high:+.3f}]")


if __name__ == "__main__":
    main()
