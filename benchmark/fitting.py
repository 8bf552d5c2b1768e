"""Whether a plug-in can work where a suite puts it, and if not, why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from benchmark.cell import TargetRule
from benchmark.suite_format import AttackEntry, Block, Suite, Watching
from benchmark.view import Knowledge

if TYPE_CHECKING:
    from attacks.base import Attack
    from defenses.base import Defense


def watching_of(block: Block, suite: Suite) -> Watching:
    """What of training is kept: as the block says, or else the suite."""
    return suite.watch if block.watch is None else block.watch


def targets_of(entry: AttackEntry, block: Block, suite: Suite) -> TargetRule:
    """The entry's own targets, or those that block or suite have for its phase."""
    if entry.targets is not None:
        return entry.targets.rule()
    return (watching_of(block, suite).targets if entry.phase == "training" else suite.targets).rule()


def misplaced(block: Block, defenses: Sequence[Defense], suite: Suite) -> str | None:
    """Why the defenses do nothing in the block, or None."""
    if defenses and watching_of(block, suite).batch_size is not None:
        return (
            f"defense {defenses[0].name} acts in training, but watch.batch_size shows what an undefended client sends "
            "after it; move the defense to a block that watches the epochs, without watch.batch_size"
        )
    for defense in defenses:
        if block.topology == "vanilla" and defense.side == "labels":
            return (
                f"defense {defense.name} protects labels, but in the vanilla topology the client hands its labels "
                "to the server; move it to a block with topology: u_shaped"
            )
    return None


def unworkable(block: Block, entry: AttackEntry, attack: Attack, suite: Suite) -> str | None:
    """Why the attack cannot be run as the entry says, or None."""
    own = {Knowledge.CLIENT_WEIGHTS, Knowledge.WEIGHT_GRADIENTS} & attack.knowledge()
    if entry.assumes and own:
        return f"is granted the client's own weights or their gradients; leave assumes: {entry.assumes} out"
    if block.topology not in attack.topologies:
        return f"works only in topology {' or '.join(attack.topologies)}, not {block.topology}; move it to such a block"
    if block.topology == "vanilla" and attack.goals == ("infer_labels",):
        return "infers labels, which the vanilla topology gives the server anyway; move it to a u_shaped block"
    if entry.phase not in attack.phases:
        return f"works only in phase {' or '.join(attack.phases)}, not {entry.phase}; write phase: {attack.phases[0]}"
    wanted = attack.known_labels_per_class() if Knowledge.KNOWN_LABELS in attack.knowledge() else 0
    if wanted and entry.phase == "inference":
        return "wants known labels, which only training gives; write phase: training"
    if entry.phase == "inference":
        return None
    kept = watching_of(block, suite)
    epochs = block.training.epochs if kept.batch_size is None else 1
    if epochs == 0:
        return (
            "phase training needs epochs, but the block's training has none; write phase: inference, or "
            "watch: {batch_size: 64} for what is seen before any training"
        )
    if entry.views is not None and entry.views > epochs:
        return f"wants the latest {entry.views} epochs, but training has only {epochs}; lower views"
    if wanted > kept.known_per_class:
        return (
            f"wants {wanted} known labels a class, but the suite's watch keeps {kept.known_per_class}; "
            f"write watch.known_per_class: {wanted}"
        )
    rule, kept_rule = targets_of(entry, block, suite), kept.targets.rule()
    if rule != kept_rule and ("drawn" in (rule.how, kept_rule.how) or rule.n > kept_rule.n):
        return f"its targets ({rule.text()}) are not among the watched ({kept_rule.text()}); raise watch.targets.n"
    return None
