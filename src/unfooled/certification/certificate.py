"""Certificates: which samples are proven robust, for which model, data and threat; stored, and checked again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from unfooled.certification.graph import trace
from unfooled.certification.inner import Inner
from unfooled.certification.network import Network
from unfooled.certification.proof import Domains, Level, checked
from unfooled.certification.region import Region
from unfooled.certification.rounding import least_margins
from unfooled.core.checks import check_attack
from unfooled.core.errors import BadInput
from unfooled.core.threat_text import norm_name
from unfooled.core.threats import L1, L2, Box, Linf, Threat
from unfooled.runs.files import read_file, write_whole
from unfooled.runs.hashes import content_hash, model_hash, tensors_hash
from unfooled.runs.sealed import Rows, Seal, open_rows, seal_rows

SEAL = Seal("certificate, version 1", "certificate")


@dataclass(frozen=True, eq=False)
class Certificate:
    """Proofs that no input of a threat changes the label.

    Attributes:
        certified: Samples that are proven robust, (B,) bool.
        lower: Lower bound of the smallest margin over the threat, in logits, (B,); -inf where none was found. Of open
            samples in the precision of x, without a bound of its rounding errors.
        level: Method that proves each sample, a `Level`, (B,).
        domains: Parts of the regions of samples proven by branch and bound.
        inner: Slopes of the bounds of nodes in between of these samples.
        threat: The threat.
        model_hash: SHA-256 of the model.
        data_hash: SHA-256 of samples and labels.
        examples: Adversarial examples that the search has met, by sample.
    """

    certified: Tensor
    lower: Tensor
    level: Tensor
    domains: Domains
    inner: Inner
    threat: Threat
    model_hash: str
    data_hash: str
    examples: dict[int, Tensor]

    @classmethod
    def of(
        cls, model: Callable[..., Any], x: Tensor, y: Tensor, threat: Threat, lower: Tensor, level: Tensor,
        domains: Domains, inner: Inner, examples: dict[int, Tensor],
    ) -> Self:  # fmt: skip
        """Return the certificate of what was proven."""
        return cls(
            (level > Level.OPEN) & (lower > 0), lower, level, domains, inner, threat, model_hash(model),
            tensors_hash(x, y), examples,
        )  # fmt: skip

    def __str__(self) -> str:
        return f"{int(self.certified.sum())} of {len(self.certified)} samples certified, {self.threat}"

    @classmethod
    def joined(
        cls, model: Callable[..., Any], x: Tensor, y: Tensor, threat: Threat, parts: Sequence[Rows]
    ) -> Self:  # fmt: skip
        """Return the certificate of all samples from the `proven_rows` of consecutive samples.

        Args:
            model: The model.
            x: All inputs.
            y: All labels.
            threat: The threat.
            parts: Rows of at least one part.
        """
        examples: dict[int, Tensor] = {}
        start, domains, inner = 0, None, Inner.none()
        for rows in parts:
            own, slopes = _stored_proofs(rows)
            own = replace(own, owner=own.owner + start)
            domains = own if domains is None else domains.joined(own)
            inner = inner.joined(replace(slopes, owner=slopes.owner + start))
            examples |= {sample + start: point for sample, point in _examples(rows).items()}
            start += len(rows["level"])
        assert domains is not None
        lower, level = (torch.cat([rows[name] for rows in parts]) for name in ("lower", "level"))
        return cls.of(model, x, y, threat, lower, level, domains, inner, examples)

    def save(self, path: str | Path) -> None:
        """Write the certificate to a file, a safetensors file with its SHA-256 in the header."""
        eps = torch.as_tensor(self.threat.eps, dtype=torch.float64).cpu()
        rows = proven_rows(self.lower, self.level, self.domains, self.inner, self.examples)
        rows |= {"certified": self.certified, "eps": eps.reshape(-1)}
        rows["model"], rows["data"] = _as_bytes(self.model_hash), _as_bytes(self.data_hash)
        if self.threat.free is not None:
            rows["free"] = self.threat.free.cpu()
        box = self.threat.box
        facts = {"norm": self.threat.norm, "low": box.low, "high": box.high, "each": float(eps.ndim)}
        write_whole(Path(path), seal_rows({k: v.contiguous() for k, v in rows.items()}, facts, SEAL))

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a certificate.

        Raises:
            BadInput: There is no such file, it is no certificate, or it was changed.
        """
        data = read_file(Path(path))
        if data is None:
            raise BadInput(f"there is no certificate {path}")
        opened = open_rows(data, None, SEAL)
        if opened is None:
            raise BadInput(f"{path} is no certificate, or was changed after it was written")
        rows, facts = opened
        eps = rows["eps"] if facts["each"] else float(rows["eps"])
        kinds: dict[float, type[Linf] | type[L2] | type[L1]] = {float("inf"): Linf, 2.0: L2, 1.0: L1}
        kind = kinds[float(facts["norm"])]
        threat = kind(eps, box=Box(facts["low"], facts["high"]), free=rows.get("free"))
        return cls(
            rows["certified"], rows["lower"], rows["level"], *_stored_proofs(rows), threat, _as_text(rows["model"]),
            _as_text(rows["data"]), _examples(rows),
        )  # fmt: skip

    def check(self, model: Callable[..., Any], x: Tensor, y: Tensor, threat: Threat | None = None) -> Tensor:
        """Compute every proof anew, in float64 with outward rounding, and the margin that the model's rounding needs.

        Args:
            model: The model of the certificate.
            x: Its inputs.
            y: Its labels.
            threat: Threat that is expected. None: that of the certificate.

        Returns:
            Samples whose proof holds, (B,) bool.

        Raises:
            BadInput: The certificate belongs to another model, other data or another threat.
        """
        x = self._check_subject(model, x, y, threat)
        rows = self.certified.nonzero()[:, 0]
        holds = torch.zeros_like(self.certified)
        if len(rows):
            graph = trace(model, x)
            dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
            exact = graph.network(torch.float64)
            with torch.no_grad():
                least = least_margins(graph.network(dtype), exact, Region.of(x, self.threat, dtype), rows)
                holds[rows] = self._recomputed(exact, x, y)[rows] > least
        return holds

    def recomputed(self, model: Callable[..., Any], x: Tensor, y: Tensor) -> Tensor:
        """Return the lower bounds of the second check, (B,); -inf for open samples."""
        with torch.no_grad():
            return self._recomputed(trace(model, x).network(torch.float64), x, y)

    def _recomputed(self, network: Network, x: Tensor, y: Tensor) -> Tensor:
        return checked(network, Region.of(x, self.threat, torch.float64), y, self.level, self.domains, self.inner)

    def _check_subject(self, model: Callable[..., Any], x: Tensor, y: Tensor, threat: Threat | None) -> Tensor:
        """Return the samples in the precision in which they were certified."""
        x = check_attack(x, y, self.threat if threat is None else threat)
        if threat is not None and threat_facts(threat) != threat_facts(self.threat):
            own, other = str(self.threat), str(threat)
            same = " with another box, other radii of samples or other free entries" if own == other else ""
            raise BadInput(f"the certificate is for the threat {own}, not for {other}{same}")
        if model_hash(model) != self.model_hash:
            raise BadInput("the certificate belongs to another model; certify this one again")
        if tensors_hash(x, y) != self.data_hash:
            raise BadInput("the certificate belongs to other samples or labels; certify these again")
        return x


def proven_rows(lower: Tensor, level: Tensor, domains: Domains, inner: Inner, examples: Mapping[int, Tensor]) -> Rows:
    """Return what was proven of some samples as tensors that a file can hold; see `Certificate` for the arguments."""
    rows = {"lower": lower, "level": level}
    for name, part in (("domain", domains), ("inner", inner)):
        rows |= {f"{name}_{f.name}": getattr(part, f.name) for f in fields(part)}
    if examples:
        rows["example_owner"] = torch.tensor(sorted(examples))
        rows["example_point"] = torch.stack([examples[k].cpu() for k in sorted(examples)])
    return {k: v.contiguous() for k, v in rows.items()}


def _stored_proofs(rows: Rows) -> tuple[Domains, Inner]:
    """Return proven parts and inner slopes from stored rows; files of earlier versions have no slopes."""
    domains = Domains(**{f.name: rows[f"domain_{f.name}"] for f in fields(Domains)})
    if "inner_owner" not in rows:
        return domains, Inner.none()
    return domains, Inner(**{f.name: rows[f"inner_{f.name}"] for f in fields(Inner)})


def _examples(rows: Rows) -> dict[int, Tensor]:
    """Return stored adversarial examples by sample; files of earlier versions have none."""
    owners = rows.get("example_owner", torch.zeros(0)).tolist()
    return {int(sample): rows["example_point"][k] for k, sample in enumerate(owners)}


def threat_facts(threat: Threat) -> str:
    """Return a hash of all that a threat says."""
    eps = torch.as_tensor(threat.eps, dtype=torch.float64)
    facts: dict[str, Any] = {"norm": norm_name(threat.norm), "low": threat.box.low, "high": threat.box.high, "eps": eps}
    if threat.free is not None:
        facts["free"] = threat.free
    return content_hash(facts)


def _as_bytes(text: str) -> Tensor:
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def _as_text(value: Tensor) -> str:
    return bytes(value.tolist()).decode()
