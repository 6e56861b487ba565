"""A classifier behind an HTTP address: samples go out as JSON, scores or labels come back.

    POST {"instances": [[...], ...]}   ->   {"predictions": [[...], ...]}, or the bare list of rows

as TensorFlow Serving, KServe and MLflow speak; the rows may also be called scores, logits, probabilities, labels or
outputs. Requests are sent in batches, again after a failure, and not faster than allowed; an answer that is known is
not asked for again.
"""

from __future__ import annotations

import hashlib
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from unfooled.core.errors import BadInput
from unfooled.models.black_boxes.box import Array

KEYS = ("predictions", "scores", "logits", "probabilities", "labels", "outputs")
"""Names of the rows in an answer, the first that is there counts."""
MAX_ANSWER = 1 << 28
"""Largest answer that is read, in bytes."""
AGAIN = (408, 425, 429, 500, 502, 503, 504)
"""Codes of HTTP after which a request is sent again."""


class _Answers:
    """Answers by the hash of the sample; a copy begins empty, so that a copied endpoint asks anew."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Any] = {}

    def __deepcopy__(self, _memo: Any) -> _Answers:
        return _Answers()


@dataclass(frozen=True, eq=False)
class Endpoint:
    """A function from an array to the answers of an HTTP service.

    Args:
        url: Address, http or https; options may follow a #, as in "http://127.0.0.1:8000/predict#batch=32&timeout=5".
        batch: Samples in one request.
        timeout: Seconds to wait for an answer.
        retries: Number of times that a failed request is sent again, after a second, two, four and so on.
        per_second: Requests in a second at most. None: no limit.
        cache: Largest number of answers that are remembered.
        classes: Number of classes, for a service that answers with labels only. None: that of the scores.

    Raises:
        BadInput: Another address or option; in a call: no answer in time, an answer that is no JSON, or another number
            of rows.
    """

    url: str
    batch: int = 64
    timeout: float = 30.0
    retries: int = 3
    per_second: float | None = None
    cache: int = 100_000
    classes: int | None = None
    answers: _Answers = field(default_factory=_Answers, repr=False)
    last: list[float] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BadInput(f"{self.url} is no address; write http://HOST:PORT/PATH")
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise BadInput(f"{name} of the endpoint is {value}; it must be at least {least:g}")

    @classmethod
    def of(cls, source: str) -> Endpoint:
        """Return the endpoint of an address, with the options that follow its #."""
        url, _, text = source.partition("#")
        kinds = {name: float if name in ("timeout", "per_second") else int for name in LEAST}
        given: dict[str, Any] = {}
        for name, value in urllib.parse.parse_qsl(text, keep_blank_values=True):
            if name not in kinds:
                raise BadInput(f"{source}: an endpoint has no option {name!r}; it has {', '.join(LEAST)}")
            try:
                given[name] = kinds[name](value)
            except ValueError:
                raise BadInput(f"{source}: {name} is {value!r}; it is a number") from None
        return replace(cls(url), **given)

    def __call__(self, x: Array) -> Array:
        """Return the answers to samples, (B, *D): scores (B, K) or labels (B,)."""
        known = self.answers.rows
        keys = [hashlib.sha256(row.tobytes()).digest() for row in np.ascontiguousarray(x)]
        first = {key: i for i, key in reversed(list(enumerate(keys))) if key not in known}
        asked, found = sorted(first.values()), dict[bytes, Any]()
        for start in range(0, len(asked), self.batch):
            rows = asked[start : start + self.batch]
            found |= zip([keys[i] for i in rows], self._ask(x[rows]), strict=True)
        answers = [found[key] if key in found else known[key] for key in keys]
        if len(known) + len(found) <= self.cache:
            known |= found
        try:
            return np.array(answers)
        except ValueError:
            raise BadInput(f"{self.url} answered with rows of different lengths") from None

    def _ask(self, x: Array) -> list[Any]:
        """Return the rows that the service answers with."""
        body = json.dumps({"instances": x.tolist()}).encode()
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(2.0 ** (attempt - 1) * PAUSE)
            self._wait()
            try:
                return self._rows(self._send(body), len(x))
            except urllib.error.HTTPError as error:
                reason = f"answered with HTTP {error.code}, {error.reason}"
                if error.code not in AGAIN:
                    break
            except TimeoutError:
                reason = f"did not answer within {self.timeout:g} s; give a longer timeout or a smaller batch after a #"
            except (urllib.error.URLError, OSError) as error:
                cause = getattr(error, "reason", error)
                late = isinstance(cause, TimeoutError)
                reason = f"did not answer within {self.timeout:g} s" if late else f"cannot be reached: {cause}"
        raise BadInput(f"{self.url} {reason} ({attempt + 1} attempts)")

    def _send(self, body: bytes) -> bytes:
        """Return the body of the answer to one request."""
        request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=self.timeout) as answer:
            read: bytes = answer.read(MAX_ANSWER + 1)
        if len(read) > MAX_ANSWER:
            raise BadInput(f"{self.url} answered with more than {MAX_ANSWER >> 20} MiB")
        return read

    def _rows(self, body: bytes, n: int) -> list[Any]:
        """Return the rows in an answer."""
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            raise BadInput(f"{self.url} answered with no JSON: {body[:60]!r}") from None
        if isinstance(content, dict):
            content = next((content[key] for key in KEYS if key in content), None)
        if not isinstance(content, list):
            raise BadInput(f'{self.url} answered without rows; they are a list, or under "{KEYS[0]}"')
        if len(content) != n:
            raise BadInput(f"{self.url} answered with {len(content)} rows for {n} samples")
        return content

    def _wait(self) -> None:
        """Wait until another request may be sent."""
        if self.per_second is not None and self.last:
            time.sleep(max(0.0, self.last[0] + 1 / self.per_second - time.monotonic()))
        self.last[:] = [time.monotonic()]


PAUSE = 1.0
"""Seconds before the first repetition; it doubles each time."""
LEAST = {"batch": 1, "timeout": 1e-3, "retries": 0, "per_second": 1e-6, "cache": 0, "classes": 2}
"""Options that may follow the # of an address, and their least values."""
