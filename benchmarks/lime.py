"""LIME of images, texts and tables: time above the model alone, and stability at equal samples, beside peers.

    python benchmarks/lime.py --out benchmarks/results/lime.json
    python benchmarks/lime.py --parts mnist text --n 4 --rounds 1

The floor is the model alone on as many composed samples: calls of 64 for images, one call for texts and rows; what a
method takes beyond is its own time. Floor and methods take turns, in reversed order every other round; figures are
processor time of one thread, medians over samples and rounds, and ratios are medians of the ratios within a turn.

    mnist      LeNet-5 (clean weights) on MNIST, 49 cells, 500 samples
    together   the same for 32 images in one call, beside 32 floors
    cub        a light network with random weights on CUB photographs, 224 x 224, 49 cells, 300 samples
    text       20-newsgroups, atheism against Christian: TF-IDF and a forest of 100, 1,000 samples
    table      adult: one-hot categories and a forest of 100, 1,000 and 5,000 samples; beside the floor, the model
               alone on the rows that lime draws
    stability  images: top-5 Jaccard between 10 seeds and the error to the solution of 100,000 samples
    documents  top-5 Jaccard between 10 seeds of 12 test documents, at 1,000 samples

Peers: lime, Captum's Lime at its defaults and 128 at a time, Captum's KernelShap, shap's KernelExplainer; those that
are not installed are left out. Data: the folder that UNFOOLED_DATA names.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.metadata
import itertools
import json
import os
import platform
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
os.environ.setdefault("TQDM_DISABLE", "1")  # lime's progress bar
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != HERE]  # or `import lime` finds this script

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from unfooled.data import load_data  # noqa: E402
from unfooled.explanations import TabularSpace, lime_image, lime_tabular, lime_text  # noqa: E402
from unfooled.explanations.lime import balanced, bernoulli, constant, cosine_kernel, fit, paired  # noqa: E402
from unfooled.explanations.lime.segments import composed, grid_of  # noqa: E402
from unfooled.explanations.lime.text import pieces_of  # noqa: E402
from unfooled.models import load_model  # noqa: E402

DATA = Path(os.environ.get("UNFOOLED_DATA", HERE.parent.parent / "shared" / "data"))
DOCUMENTS = (83, 300, *range(10))
"""Test documents; the sampler of texts was chosen on others, 20 to 149."""
CALL = 64  # the fastest of 10 to 128 here
Method = Callable[[int], Any]
"""Index of a sample -> an explanation of it."""


def turns(methods: dict[str, Method], n: int, rounds: int) -> dict[str, Any]:
    """Time methods in turns, sample by sample, and compare them with the first, the floor."""
    seconds: dict[str, list[float]] = {name: [] for name in methods}
    for method in methods.values():
        method(0)
    for turn in range(rounds):
        order = list(methods) if turn % 2 == 0 else list(methods)[::-1]
        for i, name in itertools.product(range(n), order):
            began = time.process_time()
            methods[name](i)
            seconds[name].append(time.process_time() - began)
    floor, *_ = seconds.values()
    rows = {}
    for name, values in seconds.items():
        own = [value - base for value, base in zip(values, floor, strict=True)]
        floors = statistics.median(value / base for value, base in zip(values, floor, strict=True))
        ours = statistics.median(value / base for value, base in zip(values, seconds["unfooled"], strict=True))
        medians = {"ms": 1e3 * statistics.median(values), "own_ms": 1e3 * statistics.median(own)}
        rows[name] = {key: round(value, 3) for key, value in {**medians, "floors": floors, "unfooleds": ours}.items()}
    return rows


def there(name: str) -> bool:
    """Return whether a peer can be imported."""
    try:
        __import__(name)
    except (ImportError, RuntimeError, OSError):
        return False
    return True


# Images


class Pictures:
    """Images, a network, and the ways to explain its predictions over the 7 x 7 grid, hidden segments 0."""

    def __init__(self, net: nn.Module, x: Tensor, samples: int) -> None:
        self.net, self.x, self.samples = net, x, samples
        with torch.no_grad():
            self.y = net(x).argmax(1)
        self.ids = grid_of(x[:1], cells=7)[0]
        masks = paired(49, samples, 0).masks
        with torch.no_grad():
            self.copies = [composed(masks, self.ids, one, torch.zeros_like(one)) for one in x[:12]]

    def floor(self, i: int) -> None:
        """Ask the model alone."""
        with torch.inference_mode():
            for part in self.copies[i].split(CALL):
                self.net(part)

    def ours(self, i: int) -> Any:
        """Explain by this package."""
        at = slice(i, i + 1)
        return lime_image(self.net, self.x[at], self.y[at], samples=self.samples, baseline=constant(0.0))

    def all_at_once(self, _: int) -> Any:
        """Explain all images in one call."""
        return lime_image(self.net, self.x, self.y, samples=self.samples, baseline=constant(0.0))

    def all_floors(self, _: int) -> None:
        """Ask the model alone, for each image."""
        for k in range(len(self.x)):
            self.floor(k % len(self.copies))

    def captum(self, i: int, method: Any, together: int) -> Any:
        """Explain by a method of Captum."""
        return method(self.net).attribute(
            self.x[i : i + 1], target=int(self.y[i]), feature_mask=self.ids[None, None], n_samples=self.samples,
            perturbations_per_eval=together, baselines=0.0,
        )  # fmt: skip

    def probabilities(self, images: Any) -> Any:
        """Return what lime asks for."""
        with torch.inference_mode():
            pixels = torch.as_tensor(np.asarray(images)[..., : self.x.shape[1]], dtype=torch.float32)
            return self.net(pixels.permute(0, 3, 1, 2)).softmax(1).numpy()

    def lime(self, i: int, seed: int = 0) -> Any:
        """Explain by lime."""
        from lime.lime_image import LimeImageExplainer

        image = self.x[i].permute(1, 2, 0).double().numpy()
        return LimeImageExplainer(random_state=seed).explain_instance(
            image[..., 0] if image.shape[2] == 1 else image, self.probabilities, labels=(int(self.y[i]),),
            top_labels=None, hide_color=0, num_samples=self.samples, segmentation_fn=lambda _: self.ids.numpy(),
        )  # fmt: skip

    def shap(self, i: int) -> Any:
        """Explain by shap, at the same samples."""
        from shap import KernelExplainer  # type: ignore[import-not-found,unused-ignore]

        def logits(z: Any) -> Any:
            with torch.inference_mode():
                masks = torch.as_tensor(z) > 0.5
                parts = [composed(m, self.ids, self.x[i], torch.zeros_like(self.x[i])) for m in masks.split(CALL)]
                return torch.cat([self.net(part)[:, self.y[i]] for part in parts]).numpy()

        return KernelExplainer(logits, np.zeros((1, 49))).shap_values(np.ones(49), nsamples=self.samples, silent=True)

    def methods(self) -> dict[str, Method]:
        """Return the floor, ours, and the peers that are there."""
        found: dict[str, Method] = {"floor": self.floor, "unfooled": self.ours}
        if there("lime"):
            found["lime"] = self.lime
        if there("captum.attr"):
            from captum.attr import KernelShap, Lime

            found["captum Lime"] = partial(self.captum, method=Lime, together=1)
            found["captum Lime, 128 at a time"] = partial(self.captum, method=Lime, together=128)
            found["captum KernelShap"] = partial(self.captum, method=KernelShap, together=1)
        if there("shap"):
            found["shap KernelExplainer"] = self.shap
        return found


def mnist(samples: int = 500, n: int = 12) -> Pictures:
    net = load_model(DATA / "models" / "mnist_lenet5_clntrained.pt", "lenet5")
    return Pictures(net, load_data("mnist", "test", n=n)[0], samples)


def cub(samples: int = 300) -> Pictures:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 7, stride=4), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(576, 10)).eval()
    return Pictures(net, load_data("cub", "test", n=12, size=224)[0], samples)


# Texts and rows


class Texts:
    """20-newsgroups: atheism against Christian, a forest on TF-IDF."""

    samples = 1000

    def __init__(self) -> None:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.pipeline import make_pipeline

        with gzip.open(DATA / "text_tabular" / "20news_atheism_christian.jsonl.gz", "rt", encoding="utf8") as lines:
            rows = [json.loads(line) for line in lines]
        train, self.test = ([row for row in rows if row["split"] == split] for split in ("train", "test"))
        forest = RandomForestClassifier(100, random_state=0)
        self.model = make_pipeline(TfidfVectorizer(lowercase=False), forest)
        self.model.fit([row["text"] for row in train], [row["label"] for row in train])
        self.texts = [self.test[i]["text"] for i in DOCUMENTS]
        self.copies: dict[int, Any] = {}

    def floor(self, i: int) -> None:
        """Ask the model alone."""
        self.model.predict_proba(self.copies[i])

    def ours(self, i: int, seed: int = 0, sampler: Any = balanced) -> Any:
        """Explain by this package."""
        generator = torch.Generator().manual_seed(seed)
        return lime_text(
            self.model.predict_proba, self.texts[i], 1, samples=self.samples, sampler=sampler, generator=generator
        )

    def lime(self, i: int, seed: int = 0) -> Any:
        """Explain by lime."""
        from lime.lime_text import LimeTextExplainer

        explainer = LimeTextExplainer(random_state=seed)
        return explainer.explain_instance(
            self.texts[i], self.model.predict_proba, num_features=10, num_samples=self.samples
        )

    def methods(self) -> dict[str, Method]:
        """Return the floor, ours, and the peers that are there."""
        for i, text in enumerate(self.texts):
            own = pieces_of(text)
            self.copies[i] = own.copies(balanced(own.features, self.samples, 0).masks)
        found: dict[str, Method] = {"floor": self.floor, "unfooled": self.ours}
        return found | ({"lime": self.lime} if there("lime") else {})


class People:
    """Adult: categories as numbers, a pipeline that turns them one-hot, a forest of 100."""

    def __init__(self) -> None:
        from sklearn.compose import ColumnTransformer
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import OneHotEncoder

        with gzip.open(DATA / "text_tabular" / "adult.csv.gz", "rt", encoding="utf8") as lines:
            cells = [line.strip().split(", ") for line in lines if line.strip()]
        *columns, label = map(list, zip(*cells, strict=True))
        self.named = [k for k, column in enumerate(columns) if not column[0].lstrip("-").isdigit()]
        codes = [np.unique(c, return_inverse=True)[1] if k in self.named else c for k, c in enumerate(columns)]
        self.table = np.column_stack([np.asarray(code, np.float64) for code in codes])
        codes_of = OneHotEncoder(handle_unknown="ignore")
        split = ColumnTransformer([("categories", codes_of, self.named)], remainder="passthrough")
        self.model = make_pipeline(split, RandomForestClassifier(100, random_state=0))
        self.model.fit(self.table[:20000], [value == ">50K" for value in label[:20000]])
        self.space = TabularSpace.learn(self.table[:20000], categorical=self.named)
        self.rows = self.table[-12:]

    def floor(self, i: int) -> None:
        """Ask the model alone."""
        self.model.predict_proba(self.copies[i])

    def ours(self, i: int) -> Any:
        """Explain by this package."""
        return lime_tabular(self.model.predict_proba, self.rows[i : i + 1], 1, space=self.space, samples=self.samples)

    def lime(self, i: int) -> Any:
        """Explain by lime."""
        return self.explainer.explain_instance(self.rows[i], self.model.predict_proba, num_samples=self.samples)

    def methods(self, samples: int) -> dict[str, Method]:
        """Return the floor, ours, and the peers that are there."""
        self.samples = samples
        asked: list[Any] = []

        def noted(table: Any) -> Any:
            asked.append(table)
            return self.model.predict_proba(table)

        for i in range(len(self.rows)):
            lime_tabular(noted, self.rows[i : i + 1], 1, space=self.space, samples=self.samples)
        self.copies, asked = asked, []
        found: dict[str, Method] = {"floor": self.floor, "unfooled": self.ours}
        if there("lime"):
            from lime.lime_tabular import LimeTabularExplainer

            names = {k: [str(v) for v in np.unique(self.table[:, k])] for k in self.named}
            self.explainer = LimeTabularExplainer(
                self.table[:20000], categorical_features=self.named, categorical_names=names, random_state=0
            )
            found["lime"] = self.lime
            for i in range(len(self.rows)):
                self.explainer.explain_instance(self.rows[i], noted, num_samples=self.samples)
            copies = asked
            found["floor of lime's rows"] = lambda i: self.model.predict_proba(copies[i])
        return found


# Stability


def jaccard(tops: Sequence[set[Any]]) -> float:
    """Return the mean share of common features over pairs of answers."""
    return statistics.mean(len(a & b) / len(a | b) for a, b in itertools.combinations(tops, 2))


def leading(weights: Tensor) -> set[int]:
    return set(weights.abs().argsort(descending=True)[:5].tolist())


def answers(subject: Pictures, i: int, masks: Tensor) -> Tensor:
    """Return the logit and the probability of the class of image i at masks, (S, 2)."""
    parts = []
    with torch.inference_mode():
        for part in masks.split(CALL):
            logits = subject.net(composed(part, subject.ids, subject.x[i], torch.zeros_like(subject.x[i]))).double()
            parts.append(torch.stack([logits, logits.softmax(1)], 2)[:, subject.y[i]])
    return torch.cat(parts)


def stability_of_images(seeds: int, samples: int, most: int, n: int) -> dict[str, Any]:
    """Return Jaccard and relative error by image, on logits and probabilities, of pairs, of no pairs, and of lime."""
    subject, many = mnist(samples, n), paired(49, most, 10**6).masks
    weights: dict[str, list[Tensor]] = {"pairs": [], "no pairs": [], "truth": [], "truth of lime": []}
    held_out = []
    for i in range(n):
        all_answers = answers(subject, i, many)[None]
        weights["truth"].append(fit(many, all_answers, groups=2).weights)
        weights["truth of lime"].append(fit(many, all_answers, cosine_kernel(0.25)(many)).weights)
        for method, sampler, unit in (("pairs", paired, 2), ("no pairs", bernoulli, 1)):
            draws = [sampler(49, samples, seed).masks for seed in range(seeds)]
            fits = [fit(masks, answers(subject, i, masks)[None], groups=unit) for masks in draws]
            weights[method].append(torch.cat([own.weights for own in fits]))
            held_out.append(torch.stack([own.r2_held_out[0] for own in fits]).mean(0))
    found: dict[str, Any] = {"truth_samples": most, "seeds": seeds, "samples": samples}
    together = {name: torch.stack(own) for name, own in weights.items()}  # (n, seeds, 2, 49)
    for t, name in enumerate(("logits", "probabilities")):
        rows = {method: compared(together[method][:, :, t], together["truth"][:, 0, t]) for method in list(weights)[:2]}
        if name == "probabilities" and there("lime"):
            lime = torch.stack([of_lime(subject, i, seeds) for i in range(n)])
            rows["lime"] = compared(lime, together["truth of lime"][:, 0, t])
        pairs = zip(rows["pairs"]["error"], rows["no pairs"]["error"], strict=True)
        found[name] = rows | {
            "median_ratio_of_errors": statistics.median(a / b for a, b in pairs),
            "median_r2_held_out": float(torch.stack(held_out)[::2, t].median()),
        }
    return found


def compared(weights: Tensor, truth: Tensor) -> dict[str, Any]:
    """Return the Jaccard between seeds and the error by image, and their medians; weights (n, seeds, M)."""
    error = (weights - truth[:, None]).norm(dim=2) / truth.norm(dim=1, keepdim=True)
    by_image = {
        "jaccard": [round(jaccard([leading(w) for w in own]), 3) for own in weights],
        "error": [round(value, 4) for value in error.square().mean(1).sqrt().tolist()],
    }
    return by_image | {f"median_{name}": statistics.median(values) for name, values in by_image.items()}


def of_lime(subject: Pictures, i: int, seeds: int) -> Tensor:
    """Return lime's weights of one image, (seeds, 49)."""
    weights = torch.zeros(seeds, 49, dtype=torch.float64)
    for seed in range(seeds):
        for segment, weight in subject.lime(i, seed).local_exp[int(subject.y[i])]:
            weights[seed, segment] = weight
    return weights


def stability_of_texts(texts: Texts, seeds: int, n: int) -> dict[str, Any]:
    """Return the Jaccard between seeds of each document, and medians; `pairs`: this package's, with complements."""
    from unfooled.explanations.lime import by_size

    found: dict[str, Any] = {"seeds": seeds, "samples": texts.samples}
    methods: dict[str, Callable[[int, int], set[str]]] = {
        "unfooled": lambda i, seed: {name for name, _ in texts.ours(i, seed).as_list(top=5)},
        "pairs": lambda i, seed: {name for name, _ in texts.ours(i, seed, by_size).as_list(top=5)},
    }
    if there("lime"):
        methods["lime"] = lambda i, seed: {str(name) for name, _ in texts.lime(i, seed).as_list()[:5]}
    for i, document in enumerate(DOCUMENTS[:n]):
        found[f"document {document}"] = {
            name: round(jaccard([method(i, seed) for seed in range(seeds)]), 3) for name, method in methods.items()
        } | {"words": pieces_of(texts.texts[i]).features}
    rows = [found[f"document {document}"] for document in DOCUMENTS[:n]]
    return found | {f"median {name}": statistics.median(row[name] for row in rows) for name in methods}


PARTS = ("mnist", "together", "cub", "text", "table", "stability", "documents")


def measured(part: str, n: int, rounds: int, most: int) -> dict[str, Any]:
    if part == "mnist":
        return turns(mnist().methods(), n, rounds)
    if part == "together":
        subject = mnist(n=32)
        return turns({"floor": subject.all_floors, "unfooled": subject.all_at_once}, 1, rounds)
    if part == "cub":
        return turns(cub().methods(), n, rounds)
    if part == "text":
        return turns(Texts().methods(), n, rounds)
    if part == "table":
        people = People()
        return {str(samples): turns(people.methods(samples), n, rounds) for samples in (1000, 5000)}
    seeds = 10 if n > 4 else 3
    if part == "documents":
        return stability_of_texts(Texts(), seeds, n)
    return {"images": stability_of_images(seeds, 500, most, n)}


def environment() -> dict[str, Any]:
    packages = ("unfooled", "torch", "numpy", "scikit-learn", "lime", "captum", "shap")
    versions = {}
    for name in packages:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = ""
    return {"python": platform.python_version(), "cores": os.cpu_count(), **versions}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--n", type=int, default=12, help="images, documents and rows, at most 12")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--most", type=int, default=100_000, help="samples of the solution that errors are taken to")
    parser.add_argument("--out", type=Path, help="JSON; parts that it holds and that are not asked for stay")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    result: dict[str, Any] = {}
    if options.out is not None and options.out.is_file():
        result = json.loads(options.out.read_text(encoding="utf-8"))
    result |= {"environment": environment()}
    for part in options.parts:
        before = os.getloadavg()[0]
        result[part] = measured(part, options.n, options.rounds, options.most)
        result[part] |= {"n": options.n, "rounds": options.rounds}
        result[part]["load"] = [round(before, 1), round(os.getloadavg()[0], 1)]
        print(part, json.dumps(result[part]), flush=True)
        if options.out is not None:
            options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
