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
