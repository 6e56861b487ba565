"""Records of counterfactuals: what would have to change, what was changed, and what the controls did."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from unfooled.counterfactuals.spaces import AucRows
from unfooled.runs.records import Environment, Record


class Outcome(StrEnum):
    """Answer to a question for a counterfactual."""

    SAME = "same"
    """The image is of the target class already."""
    DONE = "done"
    """An input in the threat realises the edit."""
    UNREALISED = "unrealised"
    """A permitted edit of the attributes exists, but no input in the threat that realises it was found."""
    INFEASIBLE = "infeasible"
    """No permitted change of the attributes is enough."""


class AttributeRow(Record):
    """An attribute of one image.

    Attributes:
        name: Its name.
        before, wanted, achieved: Its value for the image, after the edit, and for the changed image. None: no edit.
        asked, reached: Changes that the edit asks for and that the changed image shows, in switches. A switch is the
            mean value where the attribute is present minus that where it is absent.
        stays: True: it had to stay, and the changed image leaves it as it was, within the tolerance; False: it does
            not, or the attribute crosses from present to absent or back. None: it was free to change, cannot be read,
            or there is no changed image.
    """

    name: str
    before: float
    wanted: float | None = None
    achieved: float | None = None
    asked: float = 0.0
    reached: float | None = None
    stays: bool | None = None


class Figures(Record):
    """Measures of one way to change an image; None where one is not defined.

    Attributes:
        valid: The network predicts the target, for an input inside the threat.
        valid_8bit: It still does after rounding to 8 bits.
        achieved: Completeness along the edit; 1: all of it.
        selectivity: Share of the squared change on the edited attributes.
        side_effect: Length of the change of the other attributes, divided by that of the edited ones.
        off_target: Length of the change of the other attributes, in switches.
        distance: l_2 distance of the images.
        psnr, ssim: Quality of the changed image.
        noise: Noise ratio of SPECTRA: l_2 distance of the images over the length of the edit, in switches. None: not
            defined, or absent in records of earlier versions.
    """

    valid: bool
    valid_8bit: bool
    achieved: float | None
    selectivity: float | None
    side_effect: float | None
    off_target: float | None
    distance: float
    psnr: float | None
    ssim: float | None
    noise: float | None = None


class KappaPoint(Record):
    """Result at one kappa, the weight of the label against the attributes."""

    kappa: float
    valid: bool
    selectivity: float | None


class Counterfactual(Record):
    """Change that would give one image another class.

    Attributes:
        item: The image.
        predicted, target: Names of the classes.
        outcome: Kind of the answer.
        sentence: The answer in words.
        cost: Size of the smallest edit in switches. None: there is none.
        exact: True: no edit is smaller; False: attributes depend on each other, and the cost is an upper bound.
        shortfall: Logits that are missing after the best permitted edit.
        whole: Names of the fewest attributes to flip, each by one switch. None: no flips are enough.
        whole_exact: True: there are no fewer; False: the number is an upper bound.
        rows: The attributes, in the order of the table, without those that are left out.
        figures: Measures by method: "edit", "targeted PGD", "random attribute".
        kappa: Weight of the label in the edit. None: no edit.
        curve: Results at every kappa.
        largest_difference: Largest change of a pixel, averaged over its channels.
        slope_of: Attribute whose gradient is drawn; empty: none.
    """

    item: str
    predicted: str
    target: str
    outcome: Outcome
    sentence: str
    cost: float | None = None
    exact: bool = True
    shortfall: float = 0.0
    whole: list[str] | None = None
    whole_exact: bool = True
    rows: list[AttributeRow]
    figures: dict[str, Figures] = Field(default_factory=dict)
    kappa: float | None = None
    curve: list[KappaPoint] = Field(default_factory=list)
    largest_difference: float = 0.0
    slope_of: str = ""


class AttributeFact(Record):
    """An attribute of the network.

    Attributes:
        name: Its name.
        auc: Area under the ROC curve. None: too few images of one value.
        auc_rows: Images that it was computed on; those that a probe is not fitted on are held out. None: not stated.
        usable: True for an AUC of at least .8; of the others nothing is claimed, and no edit changes them.
        kept: True: it had to stay.
        switch: Mean value where it is present minus where it is absent.
    """

    name: str
    auc: float | None
    auc_rows: AucRows | None = None
    usable: bool
    kept: bool
    switch: float


class CounterfactualRecord(Record):
    """Counterfactuals of images, and the network and attributes that they are about.

    Attributes:
        model, data, table: Names of the model, the images and the table of attributes.
        kind: "concept" for the attribute logits of a concept network, "probes" for directions fitted to features.
        layer: Layer whose input are the features or attribute logits.
        images: Number of images in the table.
        attributes: The attributes, without those that are left out.
        left_out: Attributes with fewer than five images of one value: nothing is computed of them.
        threat: The threat.
        steps: Steps of each search.
        seed: Random seed.
        tolerance: Switches by which the changed image may move an attribute that must stay.
        target: Class asked for. Empty: the nearest other one.
        results: One for each image.
        success: Shares of valid changes with their budget, by method.
        warnings: Sentences that limit the result.
        seconds: Wall time.
        command: Command line that reproduces the record.
        created: Time of creation.
        environment: Versions and device.
        files: Files that were written.
    """

    model: str
    data: str
    table: str
    kind: str
    layer: str
    images: int
    attributes: list[AttributeFact]
    left_out: list[str] = Field(default_factory=list)
    threat: str
    steps: int
    seed: int
    tolerance: float = 0.25
    target: str = ""
    results: list[Counterfactual]
    success: dict[str, str] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    seconds: float
    command: str = ""
    created: str
    environment: Environment
    files: list[str] = Field(default_factory=list)
