"""Which words speak for each of four kinds of text? lime's own calls, answered by `unfooled.compat.lime`.

python examples/lime_topics.py
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import MultinomialNB
from sklearn.pipeline import make_pipeline

from unfooled.compat.lime.lime_text import LimeTextExplainer

DATA = Path(os.environ.get("UNFOOLED_DATA", "../shared/data"), "text_tabular")
KINDS = ["atheism", "christian", "film review", "film sentence"]


def lines(name: str) -> list[str]:
    return [line for line in gzip.decompress((DATA / name).read_bytes()).decode().split("\n") if line]


def texts(n: int) -> tuple[list[str], list[int]]:
    names = ("20news_atheism_christian.jsonl.gz", "imdb_subset.jsonl.gz")
    news, reviews = ([json.loads(line) for line in lines(name)] for name in names)
    groups = [[row["text"] for row in news if row["label"] == label] for label in (0, 1)]
    groups += [[row["text"] for row in reviews], [line.split("\t")[1] for line in lines("rt_polarity.tsv.gz")]]
    return [text for group in groups for text in group[:n]], [k for k, group in enumerate(groups) for _ in group[:n]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=600, help="texts of each kind")
    parser.add_argument("--samples", type=int, default=1000, help="perturbed texts")
    options = parser.parse_args()
    if not DATA.is_dir():
        raise SystemExit(f"{DATA} is not there; set UNFOOLED_DATA to the folder that holds it")
    train, test, y_train, y_test = train_test_split(*texts(options.n), test_size=0.3, random_state=0)
    model = make_pipeline(TfidfVectorizer(lowercase=False), MultinomialNB(alpha=0.01)).fit(train, y_train)
    print(f"accuracy {model.score(test, y_test):.3f}")

    explainer = LimeTextExplainer(class_names=KINDS, random_state=0)
    for k in range(3):
        text = test[y_test.index(k)]
        found = explainer.explain_instance(
            text, model.predict_proba, num_features=6, top_labels=2, num_samples=options.samples
        )
        print(f"{KINDS[k]}: {' '.join(text.split())[:60]}")
        for label in found.available_labels():
            print(f"  {KINDS[label]}: " + ", ".join(f"{word} {w:+.3f}" for word, w in found.as_list(label=label)))


if __name__ == "__main__":
    main()
