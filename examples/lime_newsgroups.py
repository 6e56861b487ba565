"""What tells atheism from Christianity in 20-newsgroups? Words of the header; without them the prediction moves.

python examples/lime_newsgroups.py
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline

from unfooled.explanations import lime_text

DATA = Path(os.environ.get("UNFOOLED_DATA", "../shared/data"), "text_tabular", "20news_atheism_christian.jsonl.gz")
HEADER = {"NNTP", "Nntp", "Host", "Posting"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n", type=int, default=1000, help="perturbed texts")
    parser.add_argument("--trees", type=int, default=100)
    options = parser.parse_args()
    if not DATA.is_file():
        raise SystemExit(f"{DATA} is not there; set UNFOOLED_DATA to the folder that holds text_tabular")

    rows = [json.loads(line) for line in gzip.decompress(DATA.read_bytes()).decode().split("\n") if line]
    train, test = ([row for row in rows if row["split"] == split] for split in ("train", "test"))
    model = make_pipeline(TfidfVectorizer(lowercase=False), RandomForestClassifier(options.trees, random_state=0))
    model.fit([row["text"] for row in train], [row["label"] for row in train])
    print(f"accuracy {model.score([row['text'] for row in test], [row['label'] for row in test]):.3f}")

    for document in (83, 300):
        text = test[document]["text"]
        seen: list[Any] = []

        def predict(texts: list[str], seen: list[Any] = seen) -> Any:
            seen.append(model.predict_proba(texts))
            return seen[-1]

        found = lime_text(predict, text, 1, samples=options.n)
        print(f"document {document}: " + ", ".join(f"{name} {w:+.3f}" for name, w in found.as_list(top=6)))
        # The surrogate's error: two standard deviations of the answers left out of its fit.
        said = -sum(weight for name, weight in found.as_list() if name in HEADER)
        after = model.predict_proba([re.sub(rf"\b({'|'.join(HEADER)})\b", "", text)])[0, 1]
        misses = np.sqrt(1 - float(found.r2_held_out)) * np.concatenate(seen)[:, 1].std()
        print(f"  without the header's words: said {said:+.3f} +- {2 * misses:.3f}, ", end="")
        print(f"moved {after - float(found.prediction):+.3f}, to {after:.3f}")


if __name__ == "__main__":
    main()
