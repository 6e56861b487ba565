"""Records of counterfactuals: what would have to change, what was changed, and what the controls did."""

from __future__ import annotations

from enum import StrEnum

from pydantic import Field

from unfooled.runs.records import Environment, Record


class Outcome(StrEnum):
    """Answer to a question for a counterfactual."""

    SAME = "same"
    """The image is of the target class already."""
    DONE = "done"
    """An input in the threat realises the edit."""
    UNREALISED = "unrealised"
    """The attributes could change so, but no such input was found in the threat."""
    INFEASIBLE = "infeasible"
    """No permitted change of the attributes is enough."""


class AttributeRow(Record):
    """An attribute of one image.

    Attributes:
        name: Its name.
        before, wanted, achieved: Its value for the image, after the edit, and for the changed image. None: no edit.
        asked, reached: Changes in switches.
    """

    name: str
    before: float
    wanted: float | None = None
    achieved: float | None = None
    asked: float = 0.0
    reached: float | None = None


class Figures(Record):
    """Measures of one way to change an image; None where one is not defined.

    Attributes:
        valid: The network names the target, for an input inside the threat.
        valid_8bit: It still does after rounding to 8 bits.
        achieved: Completeness along the edit; 1: all of it.
        selectivity: Share of the squared change on the edited attributes.
        side_effect: Change off the edited attributes, relative to that on them.
        off_target: Change off the edited attributes, in switches.
        distance: l_2 distance of the images.
        psnr, ssim: Quality of the changed image.
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


class KappaPoint(Record):
    """Result at one weight of the label against the attributes."""

    kappa: float
    valid: bool
    selectivity: float | None


class Counterfactual(Record):
    """Change that would give one image another class.

    Attributes:
        item: The image.
        predicted, target: Names of the classes.
        outcome: What became of it.
        sentence: The answer in words.
        cost: Size of the smallest edit in switches. None: there is none.
        exact: True: no edit is smaller; False: attributes depend on each other, and the cost is an upper bound.
        shortfall: Logits that the best permitted edit falls short of.
        whole: Fewest attributes to turn over: names. None: turning over does not do.
        whole_exact: True: there are no fewer.
        rows: The attributes, in the order of the table.
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
        auc: Area under the ROC curve: held out for probes. None: too few images of one value.
        usable: True for an AUC of at least .8; of the others nothing is claimed, and no edit changes them.
        kept: True: it had to stay.
        switch: Mean value where it is present minus where it is absent.
    """

    name: str
    auc: float | None
    usable: bool
    kept: bool
    switch: float


class CounterfactualRecord(Record):
    """Counterfactuals of images.

    Attributes:
        model, data, table: Names of the model, the images and the table of attributes.
        kind: "concept" for the attribute logits of a concept network, "probes" for directions fitted to features.
        layer: Layer whose input are the features or attribute logits.
        images: Images of the table.
        attributes: The attributes.
        left_out: Attributes with fewer than five images of one value.
        threat: The threat.
        steps: Steps of each search.
        seed: Random seed.
        target: Class asked for. Empty: the nearest other one.
        results: One for each image.
        success: Shares of valid changes with their budget, by method.
        warnings: Cautions.
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
    target: str = ""
    results: list[Counterfactual]
    success: dict[str, str] = Field(default_factory=dict)
    warnings: list[str] = Field(default_factory=list)
    seconds: float
    command: str = ""
    created: str
    environment: Environment
    files: list[str] = Field(default_factory=list)
