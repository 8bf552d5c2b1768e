"""Flags on claims of differential privacy: without ground, not valid, or contradicted by what was measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from benchmark.flag_rules.table import Table
from benchmark.metrics.statistics import exact_low
from benchmark.record import Record
from benchmark.record_values import claimed
from benchmark.rows import configurations
from benchmark.standing import Standing

# How sure one must be, over all attacks of a row together, before a claim counts as refuted.
LEVEL = 0.99


def epsilon_without_ground(standing: Standing, table: Table) -> str | None:
    """An epsilon is claimed without what it takes to believe it."""
    for record in standing.row.records:
        for claim in record.privacy:
            # An infinite epsilon promises nothing, so that it needs no ground.
            if claim.get("epsilon") is None or math.isinf(claimed(claim)):
                continue
            lacking = [*_lacking(claim), *_lacking_delta(claim.get("delta"), record.evidence.get("n_records"))]
            if lacking:
                return f"epsilon_{claim.get('view')} {claim.get('epsilon')} lacks {', '.join(lacking)}"
    return None


def _lacking(claim: Mapping[str, Any]) -> Iterator[str]:
    yield from (name for name in ("unit", "adjacency", "accountant") if not claim.get(name))
    if math.isnan(claimed(claim)):
        yield "an epsilon of at least 0"
    releases = claim.get("releases")
    if not (isinstance(releases, int) and releases >= 1):
        yield "a number of releases of at least 1"
    if claim.get("why_invalid"):
        yield f"validity ({claim['why_invalid']})"


def _lacking_delta(delta: object, n_records: int | None) -> Iterator[str]:
    if not (isinstance(delta, int | float) and 0 <= delta < 1):
        yield "a delta in [0, 1)"
    elif n_records and delta * n_records >= 1:
        # Sending one record in the clear, drawn at random, satisfies it.
        yield f"a delta below 1/{n_records}, one over the number of training records (it states {delta:g})"


def epsilon_invalid(standing: Standing, table: Table) -> str | None:
    """A mechanism ran whose epsilon would not be valid."""
    for record in standing.row.records:
        for claim in record.privacy:
            if claim.get("epsilon") is None:
                return f"{claim.get('view')}: {claim.get('why_invalid') or 'no reason stated'}"
    return None


def claim_refuted(standing: Standing, table: Table) -> str | None:
    """More images are told apart by what is sent than the epsilon claimed for it allows."""
    return _answered_with_certainty(standing) or _identified_too_often(standing)


def _answered_with_certainty(standing: Standing) -> str | None:
    """What is neither random nor the same for all tells two images apart with certainty; delta below 1 forbids it."""
    for record in standing.row.records:
        for claim in _claims(record):
            for phase, channel in record.evidence.get("sent", {}).items():
                hidden = channel.get("random") or channel.get("frozen") or channel.get("constant")
                if channel.get("finite") and not hidden:
                    return (
                        f"epsilon_activations {claim['epsilon']} is claimed, but what is sent in {phase} is not "
                        "random: it tells two images apart with certainty"
                    )
    return None


def _identified_too_often(standing: Standing) -> str | None:
    found = configurations([*standing.row.slots, *standing.row.references]).items()
    tried = [(key, records) for key, members in found if (records := _line_ups([slot.done for slot in members]))]
    for key, records in tried:
        bound = max(_most_identified(record) for record in records)
        rates = [record.per_image["identified"] for record in records]
        trials = min(len(rate) for rate in rates)
        # A share of a tie is no success; seeds attack the same images, which are no further trials.
        successes = math.floor(float(np.mean([np.mean(rate) for rate in rates])) * trials + 1e-9)
        if successes <= bound * trials:
            continue  # No lower end lies above the share itself.
        low = exact_low(successes, trials, 1 - (1 - LEVEL) / len(tried))
        if low > bound:
            candidates = int(records[0].scalars["identification_candidates"])
            claim = next(_claims(records[0]))
            return (
                f"epsilon_activations {claim['epsilon']} allows {bound:.3f} of the images to be named among "
                f"{candidates} from {key.views} view{'s' if key.views > 1 else ''}; {key.title} names {successes} of "
                f"{trials}, at least {low:.3f}"
            )
    return None


def _line_ups(records: Sequence[Record | None]) -> list[Record]:
    """Records that can refute: of images in use, whose labels nobody is given, with a claim at every seed."""
    done = [record for record in records if record is not None]
    fit = [
        record
        for record in done
        if record.axes.phase == "inference"
        and record.per_image.get("identified")
        and record.scalars.get("identification_candidates", 0) >= 2
        and any(True for _ in _claims(record))
    ]
    return fit if len(fit) == len(done) else []


def _claims(record: Record) -> Iterator[Mapping[str, Any]]:
    for claim in record.privacy:
        delta = claim.get("delta")
        known = isinstance(delta, int | float) and 0 <= delta < 1
        if claim.get("view") == "activations" and math.isfinite(claimed(claim)) and known:
            yield claim


def _most_identified(record: Record) -> float:
    candidates = int(record.scalars["identification_candidates"])
    return min(most_identified(claim, candidates, record.axes.views) for claim in _claims(record))


def most_identified(claim: Mapping[str, Any], candidates: int, views: int) -> float:
    """How often anybody can name an image among equally likely candidates, by a claim for what is sent of it.

    Let M be (eps, delta)-private between any two images, I uniform on N candidates, and g any rule that names one of
    them from M(x_I), with p = P[g(M(x_I)) = I]. With P_i the law of M(x_i), the definition gives P_i[g = i] <=
    e^eps P_j[g = i] + delta for every j != i. Summed over all i and j != i, the left is (N - 1) N p, and on the right
    sum_j sum_{i != j} P_j[g = i] <= sum_j (1 - P_j[g = j]) = N (1 - p). So (N - 1) p <= e^eps (1 - p) + (N - 1) delta:

        p <= (e^eps + (N - 1) delta) / (e^eps + N - 1)

    which pure randomised response on N values attains at delta 0. For N = 2 it is the bound on a balanced membership
    test (Humphries et al., 2023, "Investigating Membership Inference Attacks under Data Dependencies").
    Where neighbours differ by adding or removing a record, replacing one is two steps: (2 eps, (1 + e^eps) delta). More
    views than the claim counts releases are ceil(views / releases) such releases, and epsilon and delta add up (Dwork
    and Roth, 2014, theorem 3.16).

    Args:
        claim: As in a record: `epsilon` finite and at least 0, `delta` in [0, 1), `adjacency`, `releases`.
        candidates: N, at least 2.
        views: How often the image was sent, at least 1.

    Returns:
        The largest p, in [1/N, 1].
    """
    epsilon, delta = claimed(claim), float(claim["delta"])
    if claim.get("adjacency") != "replace-one":
        delta *= 1 + math.exp(min(epsilon, 700.0))
        epsilon *= 2
    releases = claim.get("releases")
    times = -(-views // releases) if isinstance(releases, int) and releases >= 1 else views
    epsilon, delta = epsilon * times, delta * times
    # Divided by e^eps, so that nothing overflows.
    others = (candidates - 1) * math.exp(-epsilon)
    return min(1.0, (1 + others * delta) / (1 + others))
