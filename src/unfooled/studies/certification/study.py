"""Study of certification: how far apart are what is proven and what withstands attacks, and which training closes it?

Networks are trained plainly, adversarially (PGD-AT), and for proofs (IBP, SABR, MTL-IBP), each for the radius at which
it is judged. Each test image is certified, by intervals alone and with the scale's effort, and attacked by the cascade;
both ends of robust accuracy, and the open part between them, are compared. Where the data folder has them, a network
trained by TRADES and CNN-A-Adv, on the 200 images on which verifiers are compared, are judged as well.

References:
    Gowal et al., On the effectiveness of interval bound propagation for training verifiably robust models, 2018,
    arXiv:1810.12715.
    Mueller et al., Certified training: small boxes are all you need, ICLR 2023, arXiv:2210.04871.
    De Palma et al., Expressive losses for verified robustness via convex combinations, ICLR 2024, arXiv:2305.13991.
    Wang et al., Beta-CROWN, NeurIPS 2021, arXiv:2103.06624.
"""

from __future__ import annotations

from collections.abc import Sequence

from unfooled.runs.chunks import Progress
from unfooled.runs.opening import Place
from unfooled.studies.certification.bench import CertificationBench
from unfooled.studies.certification.claims import claims
from unfooled.studies.certification.pictures import both_ends
from unfooled.studies.certification.scale import SCALES, CertificationScale
from unfooled.studies.certification.tables import tables
from unfooled.studies.certification.units import Results, measure
from unfooled.studies.common.records import StudySummary
from unfooled.studies.common.run import Findings, StudyRun, seconds_of
from unfooled.studies.common.scale import pick_scale

NAME, TITLE = "certification", "How robust at least, how robust at most?"


def run_certification(
    scale: str | CertificationScale,
    *,
    out: Place | None = None,
    seeds: Sequence[int] = (0,),
    data: Sequence[str] | None = None,
    device: str = "cpu",
    progress: Progress | None = None,
    command: str = "",
) -> StudySummary:
    """Train networks in five ways, prove and attack their test images, and compare both ends of robust accuracy.

    Args:
        scale: "small" (digits), "medium" (MNIST and Fashion-MNIST, from the folder that UNFOOLED_DATA names) or "full"
            (more images, with branch and bound); or your own sizes.
        out: Folder, URL or open store of the results; a second run there resumes. None: nothing is stored.
        seeds: Random seeds; each repeats everything.
        data: Data sets to use; None: all of the scale's.
        device: Device of the networks.
        progress: Called with `(stage, units done, units in all)`; None: silent.
        command: Command that reproduces the run, for the record.

    Returns:
        The `StudySummary`, also written to `summary.json` in `out`.

    Raises:
        BadInput: no such scale or data set, data that are not there, or a folder of another run.
    """
    name, size = pick_scale(SCALES, scale)
    run = StudyRun(NAME, TITLE, name, seeds, out=out, device=device, progress=progress, command=command)
    results, _ = run.task_results(size, data, measure, CertificationBench, n=size.n)
    return run.finish(certification_findings(results))


def certification_findings(results: Sequence[Results]) -> Findings:
    """Make tables, claims and pictures from the stored results."""
    made = {title: rows for result in results for title, rows in tables(result).items()}
    decided = [claim for result in results for claim in claims(result)]
    pictures = [both_ends(result, eps) for result in results for eps in sorted({one.eps for one in result.judged})]
    return Findings(made, decided, NOTES, pictures, seconds_of(*(result.judged for result in results)))


NOTES = (
    "The lower end is proven, in float64 with outward rounding: no attack can lower it. The upper end is what the "
    "attack left; a stronger attack may lower it.",
    "Networks are small and trained for a few minutes at most, with the same settings for every method and nothing "
    "selected by the test images; published networks are larger and are tuned longer.",
    "One seed says little about the order of certified methods: published differences are often smaller than the "
    "spread over seeds. From three seeds on, intervals include that spread.",
    "CNN-A-Adv is judged on the 200 images on which verifiers are compared (76.5 % withstand attacks, beta-CROWN "
    "proves 71.0 % on a GPU).",
)
