"""LIME of texts: pieces and their places, truth on additive functions, corners."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from unfooled.core.errors import BadInput
from unfooled.explanations import lime_parts, lime_text
from unfooled.explanations.lime import (
    Flag,
    Surrogates,
    attention_mask,
    balanced,
    bernoulli,
    by_size,
    characters,
    delete,
    every_mask,
    fit,
    kernels,
    log_odds,
    mask_token,
    offsets,
    positions,
    sentences,
    text_part,
    types,
    until_stable,
    with_text_stability,
    words,
)
from unfooled.explanations.lime.kernels import uniform
from unfooled.explanations.lime.text import pieces_of

TEXT = "The film was bad, bad and long; the end was good."
SCORES = {"bad": -2.0, "good": 3.0, "long": -0.5}


def additive(texts: Sequence[str]) -> list[list[float]]:
    "Two outputs that add up over words, whatever their order."
    rows = [sum(SCORES.get(text[a:b], 0.0) for a, b in words(text)) for text in texts]
    return [[1 - row, row] for row in rows]


def listed(pairs: Any) -> Any:
    return pairs


@pytest.mark.parametrize("hide", [delete, mask_token("[MASK]")])
def test_an_additive_function_is_found(hide: Any) -> None:
    found = lime_text(additive, TEXT, [[1, 0]], hide=hide, ridge=0.0)
    want = [SCORES.get(name, 0.0) * (2 if name == "bad" else 1) for name in found.names[0]]
    assert found.names[0] == ("The", "film", "was", "bad", "and", "long", "the", "end", "good")
    assert (found.weights[0, 0] - torch.tensor(want, dtype=torch.float64)).abs().max() < 1e-9
    assert (found.weights[0, 1] + found.weights[0, 0]).abs().max() < 1e-9
    assert found.as_list(1, top=2) == listed([("bad", pytest.approx(-4)), ("good", pytest.approx(3))])
    apart = lime_text(additive, TEXT, 1, hide=hide, ridge=0.0, unit=positions)
    bad = [j for j, name in enumerate(apart.names[0]) if name == "bad"]
    assert [float(apart.weights[0, 0, j]) for j in bad] == pytest.approx([-2, -2])
    assert apart.as_list(top=1) == listed([("good", pytest.approx(3))])


def test_the_text_of_a_mask() -> None:
    piece = pieces_of("a b a, c", words, types, delete)
    assert piece.names == ("a", "b", "c")
    assert piece.written([True, True, True]) == "a b a, c"
    assert piece.written([False, True, True]) == " b , c"
    assert piece.written([False, False, False]) == "  , "
    assert pieces_of("a b a", words, positions, mask_token("?")).written([False, True, True]) == "? b a"
    assert pieces_of("ab c", characters, positions, delete).written([True, False, True]) == "a c"
    two = pieces_of("One is here. Two is not! Three", sentences, positions, delete)
    assert two.names == ("One is here.", "Two is not!", "Three")
    assert pieces_of("naïve 日本 x_1").names == ("naïve", "日本", "x_1")


@pytest.mark.parametrize("hide", [delete, mask_token("?"), mask_token(""), lambda text, gone: f"{len(gone)} {text}"])
@pytest.mark.parametrize("text", ["a b a, c", " x", "one", "é-日本 a\n\tb a ", "  "])
def test_copies_are_the_texts_of_the_masks(text: str, hide: Any) -> None:
    for split, unit in ((words, types), (words, positions), (characters, types)):
        piece = pieces_of(text, split, unit, hide)
        masks = bernoulli(piece.features, 30, 2).masks
        assert piece.copies(masks) == [piece.written(row) for row in masks.tolist()]


def test_offsets_of_a_tokenizer() -> None:
    def tokenizer(text: str, **options: Any) -> dict[str, Any]:
        assert options == {"return_offsets_mapping": True, "add_special_tokens": False}
        return {"offset_mapping": [(0, 0), (0, 2), (2, 4), (5, 6)]}

    assert pieces_of("unit s", offsets(tokenizer)).names == ("un", "it", "s")


def test_every_mask_of_a_short_text() -> None:
    found = lime_text(additive, "bad good", 1, sampler=every_mask, kernel=uniform, ridge=0.0)
    assert found.flags == ((Flag.EVERY_MASK,),)
    assert found.weights[0, 0].tolist() == pytest.approx([-2, 3])
    assert found.se.abs().max() == 0


def test_equal_strings_are_asked_for_once_in_fixed_batches() -> None:
    seen: list[str] = []
    sizes = []

    def count(texts: list[str]) -> list[list[float]]:
        seen.extend(texts)
        sizes.append(len(texts))
        return additive(texts)

    found = lime_text(count, "bad good long", 1, samples=600)
    assert len(seen) == 9, "the text, and eight masks"
    assert found.calls.tolist() == [9]
    lime_text(count, " ".join(f"w{k}" for k in range(40)), 1, samples=1500)
    assert 476 <= max(sizes) <= 1024


def test_the_batch_does_not_matter() -> None:
    texts = [TEXT, "good film", "", "a long film was bad"]
    whole = lime_text(additive, texts, 1)
    for i, text in enumerate(texts):
        alone = lime_text(additive, text, 1)
        if text:
            assert (alone.weights[0] - whole[i].weights[0]).abs().max() < 1e-10
            assert (alone.se[0] - whole[i].se[0]).abs().max() < 1e-10
    other = lime_text(additive, TEXT, 1, sampler=bernoulli, generator=torch.Generator().manual_seed(3))
    assert other.seed == 3


def test_an_empty_text_and_one_word() -> None:
    found = lime_text(additive, ["", "good"], 1)
    assert found[0].as_list() == []
    assert found[0].weights.shape == (1, 1, 0)
    assert found[1].as_list() == listed([("good", pytest.approx(3))])
    assert "There are no features" in found[0].to_html()
    assert Surrogates.from_json(found.to_json()).names == ((), ("good",))
    lonely = lime_text(additive, "good", 1, ridge=0.0)
    assert lonely.as_list() == listed([("good", pytest.approx(3))])


def test_a_penalty_where_words_are_many() -> None:
    many = " ".join(f"w{k}" for k in range(60)) + " good"
    with pytest.warns(UserWarning, match="few effective samples"):
        found = lime_text(additive, many, 1, samples=120)
    assert 0 < dict(found.as_list())["good"] < 3
    assert dict(lime_text(additive, many, 1, samples=600).as_list())["good"] == pytest.approx(3)
    with pytest.raises(BadInput, match="draw at least 63"):
        lime_text(additive, many, 1, samples=60, ridge=0.0)


def test_the_default_masks_are_balanced() -> None:
    features, samples = 40, 512
    design = balanced(features, samples, 3)
    hidden = (~design.masks).sum(0)
    assert hidden.amax() - hidden.amin() <= 1, "each feature is hidden equally often"
    most = (~design.masks)[design.masks.sum(1).argsort()[:256]].sum(0)
    assert most.amax() - most.amin() <= 4, "also among rows of similar size; ties of the size at the cut move some"
    few = balanced(features, 64, 3).masks.sum(1).double()
    assert abs(float(few.mean() - design.masks.sum(1).double().mean())) < 1, "few rows have all sizes"
    assert design.weights is not None
    many = balanced(features, 4096, 3)
    assert many.weights is not None
    share = torch.stack([(many.masks.sum(1) == k).double() @ many.weights / 4096 for k in range(features + 1)])
    assert (share[:features] - 1 / features).abs().max() < 0.01, "sizes are uniform on 1..M hidden"
    assert share[features] == 0
    parts = [balanced(features, 200, 3), balanced(features, 312, 3, start=200)]
    assert torch.equal(torch.cat([part.masks for part in parts]), design.masks)
    assert not torch.equal(balanced(features, samples, 4).masks, design.masks)
    narrow = kernels.cosine_kernel(0.25)
    pi = design.weighed(narrow)
    assert pi.sum() ** 2 / (pi * pi).sum() > 0.75 * samples, "effective samples"
    free = balanced(features, samples, 3, kernel=uniform)
    assert free.weights is not None
    assert (free.weights - 1).abs().max() < 1e-12


def test_subsets_of_the_balanced_masks_are_uniform() -> None:
    masks = balanced(14, 8192, 0).masks
    for shown, subsets, most in ((13, 14, 34.5), (12, 91, 138.0)):  # chi-squared at p = .001
        places = masks[masks.sum(1) == shown].to(torch.int64) @ 2 ** torch.arange(14)
        counts = places.unique(return_counts=True)[1].double()
        assert len(counts) == subsets
        expected = counts.sum() / subsets
        assert float(((counts - expected) ** 2 / expected).sum()) < most


def test_a_short_text_has_all_its_masks() -> None:
    found = lime_text(additive, TEXT, 1)
    assert found.flags == ((Flag.EVERY_MASK,),)
    assert found.se.abs().max() == 0
    assert int(found.calls) <= 2**9 + 1

    def product(texts: Sequence[str]) -> list[list[float]]:
        return [[0.0, float("bad" in t and "good" in t) + 0.3 * ("long" in t)] for t in texts]

    text = "bad good long end"
    many = lime_text(product, text, 1, samples=200_000, sampler=partial(by_size, pairs=False), ridge=0.0)
    exact = lime_text(product, text, 1, samples=200_000)
    assert (many.weights - exact.weights).abs().max() < 0.01, "the same surrogate as of very many draws"


def test_the_balanced_masks_estimate_the_same_surrogate_with_smaller_errors() -> None:
    features, draw = 40, torch.Generator().manual_seed(1)
    rules = [torch.randperm(features, generator=draw)[: 1 + k % 3] for k in range(100)]
    narrow = kernels.cosine_kernel(0.25)

    def weights(sampler: Any, samples: int, seed: int) -> torch.Tensor:
        "Of a forest of rules, each of which asks for one to three words."
        design = sampler(features, samples, seed)
        votes = torch.stack([design.masks[:, rule].all(1) for rule in rules]).double().mean(0)
        return fit(design.masks, votes[None, :, None], design.weighed(narrow)).weights[0, 0]

    plain = partial(by_size, pairs=False)
    truth = weights(plain, 40_000, 10**6)
    assert (weights(balanced, 40_000, 7) - truth).norm() < 0.03 * truth.norm()
    errors = {
        name: float(torch.stack([weights(sampler, 400, seed) - truth for seed in range(10)]).square().mean().sqrt())
        for name, sampler in {"balanced": balanced, "plain": plain, "pairs": by_size}.items()
    }
    assert errors["balanced"] < 0.8 * errors["plain"]
    assert errors["balanced"] < 0.7 * errors["pairs"]


class Encoder(torch.nn.Module):
    """A small transformer's interface: ids and attention in, logits out; the mean of the attended embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(64, 2)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **others: Any) -> Any:
        assert input_ids.shape == attention_mask.shape
        self.seen.append(tuple(input_ids.shape))
        return SimpleNamespace(logits=(self.embedding(input_ids) * attention_mask[..., None]).sum(1).double())


class Tokens:
    """A tokeniser of pieces of at most three letters, with two special tokens."""

    def __call__(self, text: str, **options: Any) -> dict[str, Any]:
        assert options == {"return_offsets_mapping": True, "truncation": True}
        places = [m.span() for m in re.finditer(r"\w{1,3}|[^\w\s]", text)]
        ids = [1, *(sum(map(ord, text[a:b])) % 60 + 4 for a, b in places), 2]
        return {
            "input_ids": ids,
            "attention_mask": [1] * len(ids),
            "token_type_ids": [0] * len(ids),
            "offset_mapping": [(0, 0), *places, (0, 0)],
        }


def test_words_are_hidden_by_the_attention_mask() -> None:
    torch.manual_seed(0)
    net, tokens = Encoder().eval(), Tokens()
    text = "The wonderful film, and a wonderful end"
    found = lime_text(net, [text, "bad"], [[1, 0], [0, 1]], hide=attention_mask(tokens))
    table = net.embedding.weight.detach().double()
    encoded = tokens(text, return_offsets_mapping=True, truncation=True)
    for k, name in enumerate(found.names[0]):
        inside = [
            i
            for i, (a, b) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
            if any(text[s:e] == name and s <= a < b <= e for s, e in words(text))
        ]
        assert len(inside) >= (6 if name == "wonderful" else 1)
        want = table[inside].sum(0)
        assert found.weights[0, 0, k] == pytest.approx(float(want[1]), abs=1e-6)
        assert found.weights[0, 1, k] == pytest.approx(float(want[0]), abs=1e-6)
    assert all(width in (13, 14, 15, 3, 4, 5) for _, width in net.seen), "the tokens stay in their places"
    assert found.baseline.startswith("AttentionMask")
    assert int(found.calls[0]) <= 2**6 + 1

    def function(inputs: Any) -> Any:
        return net(**inputs).logits.detach().numpy()

    other = lime_text(function, text, 1, hide=attention_mask(tokens), batch=5)
    assert (other.weights[0, 0] - found.weights[0, 0]).abs().max() < 1e-9
    stable = with_text_stability(other, net, hide=attention_mask(tokens))
    assert stable.stability is not None
    parts = lime_parts(
        lambda rows: [function({n: t[None] for n, t in row.items()})[0] for row in rows],
        [text_part(text, hide=attention_mask(tokens))],
        1,
        samples=256,
    )
    assert (parts.weights[0, 0] - found.weights[0, 0]).abs().max() < 1e-6
    empty = lime_text(net, "", hide=attention_mask(tokens))
    assert empty.weights.shape == (1, 1, 0)
    with pytest.raises(BadInput, match="give a fast"):
        lime_text(net, text, hide=attention_mask("bert"))
    with pytest.raises(BadInput, match="no tokens with offsets"):
        lime_text(net, text, hide=attention_mask(lambda text, **_: {"input_ids": [1]}))


def test_a_transformer_of_hugging_face() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    words_of = {"[PAD]": 0, "[UNK]": 1, "a": 2, "bad": 3, "good": 4, "film": 5}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(words_of, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="[UNK]", pad_token="[PAD]")
    torch.manual_seed(0)
    sizes = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.BertConfig(**sizes, intermediate_size=8, max_position_embeddings=16)
    net = transformers.BertForSequenceClassification(config).eval()
    found = lime_text(net, "a bad film, a good film", 1, hide=attention_mask(fast), unit=positions)
    assert found.names[0] == ("a", "bad", "film", "a", "good", "film")
    hidden = fast("a bad film, a good film", return_tensors="pt")
    hidden["attention_mask"][0, 1] = 0
    with torch.no_grad():
        gap = found.prediction - net(**hidden).logits[0, 1]
    kept = lime_text(net, "a bad film, a good film", 1, hide=attention_mask(fast), unit=positions, keep_samples=True)
    assert kept.masks is not None
    assert kept.answers is not None
    row = next(k for k, mask in enumerate(kept.masks[0].tolist()) if mask == [True, False, True, True, True, True])
    assert float(kept.prediction - kept.answers[0][row, 0]) == pytest.approx(float(gap), abs=1e-6)


def test_links_and_labels() -> None:
    def sigmoid(texts: list[str]) -> torch.Tensor:
        return torch.tensor(additive(texts), dtype=torch.float64).mul(0.7).sigmoid()

    found = lime_text(sigmoid, TEXT, link=log_odds, ridge=0.0)
    assert int(found.y) == 0
    weights = dict(found.as_list())
    assert weights["good"] == pytest.approx(-2.1)
    assert weights["bad"] == pytest.approx(2.8)
    assert lime_text(sigmoid, TEXT, ridge=0.0).as_list()[0][1] < 1
    with pytest.raises(BadInput, match="log_odds needs probabilities"):
        lime_text(additive, TEXT, link=log_odds)


def test_options_of_the_fit() -> None:
    found = lime_text(additive, [TEXT, "bad"], 1, keep_samples=True, samples=100, batch=9)
    assert found.masks is not None
    assert found.answers is not None
    assert len(found.masks[0]) == len(found.answers[0]) == 100
    assert lime_text(additive, TEXT, 1).masks is None
    m = found.masks[0].shape[1]
    towards = lime_text(additive, TEXT, 1, prior=torch.ones(m), ridge=1e9)
    assert torch.allclose(towards.weights[0, 0], torch.ones(m, dtype=torch.float64), atol=1e-5)
    seen: list[int] = []

    def small(texts: list[str]) -> Any:
        seen.append(len(texts))
        if len(texts) > 5:
            raise MemoryError
        return additive(texts)

    cramped = lime_text(small, TEXT, 1, samples=100)
    assert torch.allclose(cramped.weights, lime_text(additive, TEXT, 1, samples=100).weights)
    assert sum(n > 5 for n in seen) > 0
    with pytest.raises(BadInput, match="batch is 0"):
        lime_text(additive, TEXT, batch=0)


def test_until_stable_and_pages() -> None:
    found = lime_text(additive, TEXT, 1, until=until_stable(2, first=64))
    assert found.flags[0][-1] == Flag.STABLE
    html = found.to_html()
    assert "<mark" in html
    assert ">bad</mark>, <mark" in html
    assert "film was" in html
    assert len(html) < 30_000
    with pytest.raises(BadInput, match="maps are for images"):
        found.heatmap()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: lime_text(additive, []), "no text"),
        (lambda: lime_text(additive, "..."), "nothing is left"),
        (lambda: lime_text(additive, [3]), "a text is a int"),  # type: ignore[list-item]
        (lambda: lime_text(additive, TEXT, 2), "label 2"),
        (lambda: lime_text(additive, TEXT, [0, 1]), "y has shape"),
        (lambda: lime_text(lambda texts: [[0.0, 1.0]], TEXT), "for 256 inputs|for .* inputs"),
        (lambda: lime_text(lambda texts: "no", TEXT), "return numbers"),
        (lambda: lime_text(lambda texts: [[float("nan")]] * len(texts), TEXT), "NaN"),
        (lambda: lime_text(additive, TEXT, split=lambda text: [(0, 3), (2, 5)]), "overlaps"),
    ],
)
def test_refusals(call: Any, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        call()
