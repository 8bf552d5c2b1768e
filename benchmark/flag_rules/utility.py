"""Flags on what the defended network is still worth, and to whom."""

from __future__ import annotations

import math

from benchmark.flag_rules.table import Table
from benchmark.metrics.statistics import difference_low
from benchmark.record import Record
from benchmark.record_values import number
from benchmark.standing import TIERS, Standing

# Of one distribution, two groups of images are told apart this surely once in a million defenses.
P_APART = 1e-6
AUC_APART = 0.9


def utility_at_majority(standing: Standing, table: Table) -> str | None:
    """The defended network predicts no better than its commonest class."""
    majority = standing.over_victims(lambda record: number(record.utility, "majority"))
    if standing.utility <= majority:
        return f"accuracy {standing.utility:.3f}, commonest class {majority:.3f}"
    return None


def memorises_test(standing: Standing, table: Table) -> str | None:
    """The defense treats the images it is judged on unlike others: it is better on them, or changes them alone."""
    for record in standing.row.records:
        for name, where in (("test", "test images"), ("targets", f"targets in {record.axes.phase}")):
            found = record.evidence.get(f"{name}_apart")
            if found and found["p"] < P_APART and abs(found["auc"] - 0.5) > AUC_APART - 0.5:
                return (
                    f"it changes what is sent of the {where} by {found['judged']:.3f} of its size, of auxiliary images "
                    f"by {found['others']:.3f} (Mann-Whitney AUC {found['auc']:.2f}, p {found['p']:.0e})"
                )
    return _better_on_test(standing)


def _better_on_test(standing: Standing) -> str | None:
    auxiliary = standing.over_victims(lambda record: number(record.utility, "auxiliary_accuracy"))
    if not (math.isfinite(auxiliary) and math.isfinite(standing.utility)):
        return None
    sizes = [min(_size(record, part) for record in standing.row.records) for part in ("n_test", "n_auxiliary")]
    if min(sizes) < 1:
        return None
    right = [round(share * n) for share, n in zip((standing.utility, auxiliary), sizes, strict=True)]
    low = difference_low((right[0], sizes[0]), (right[1], sizes[1]))
    # What is worth a tier is worth a flag.
    if low <= TIERS[0]:
        return None
    return (
        f"accuracy {standing.utility:.3f} on {sizes[0]} test images, {auxiliary:.3f} on {sizes[1]} auxiliary ones: at "
        f"least {low:.3f} more"
    )


def _size(record: Record, part: str) -> int:
    return int(record.evidence.get(part, 0))
