"""Parts that studies share.

run            a run from settings over units of work to the `StudySummary`
scale          named sizes of a study
bench          samples and trained networks of one data set and seed
arms           networks that are trained by several losses, for studies that compare these
fitting        training that is stored and resumed
claims         verdicts on claims
records        records that a study writes
feature_*      units, records, figures and pictures of the studies of features
"""

from unfooled.studies.common.arms import Arm, ArmBench, Task
from unfooled.studies.common.bench import Bench, Labelled, Splits, load_splits
from unfooled.studies.common.claims import MIN_DIFFERENCE, claim, lowest
from unfooled.studies.common.feature_pictures import accuracy_by_column, accuracy_by_size, image_rows, under_attack
from unfooled.studies.common.feature_records import (
    Aligned,
    Attacked,
    Drawn,
    Measured,
    Reach,
    Rebuilt,
    columns,
    packed,
    unpacked,
)
from unfooled.studies.common.feature_results import Accuracies, Alignments, AttackedAccuracies
from unfooled.studies.common.feature_units import align, attack, describe_set, radii_survived, stored_set
from unfooled.studies.common.fitting import FRESH, Updates, fit, new_network
from unfooled.studies.common.records import Claim, Outcome, StudySummary, Table, array, bits, listed
from unfooled.studies.common.run import Findings, StudyRun, map_jobs, map_names, pick_data, seconds_of
from unfooled.studies.common.scale import OWN, Scale, pick_scale

__all__ = [
    "FRESH",
    "MIN_DIFFERENCE",
    "OWN",
    "Accuracies",
    "Aligned",
    "Alignments",
    "Arm",
    "ArmBench",
    "Attacked",
    "AttackedAccuracies",
    "Bench",
    "Claim",
    "Drawn",
    "Findings",
    "Labelled",
    "Measured",
    "Outcome",
    "Reach",
    "Rebuilt",
    "Scale",
    "Splits",
    "StudyRun",
    "StudySummary",
    "Table",
    "Task",
    "Updates",
    "accuracy_by_column",
    "accuracy_by_size",
    "align",
    "array",
    "attack",
    "bits",
    "claim",
    "columns",
    "describe_set",
    "fit",
    "image_rows",
    "listed",
    "load_splits",
    "lowest",
    "map_jobs",
    "map_names",
    "new_network",
    "packed",
    "pick_data",
    "pick_scale",
    "radii_survived",
    "seconds_of",
    "stored_set",
    "under_attack",
    "unpacked",
]
