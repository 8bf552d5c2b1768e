"""Plans and records as a run would leave them, with per-image values of the size that was measured on real digits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from benchmark.cell import Cell, Group, Plan, PluginRef, TargetRule, VictimSpec
from benchmark.record import Record

SUITE, DIGEST = "smoke-v1", "5" * 64
# Joint unsplit at pool1 was measured at an aligned SSIM of .47 to .85, single images a tenth or two apart.
UNDEFENDED = 0.65
CONTROLS = {"constant": 0.18, "train_mean": 0.24, "auxiliary": 0.21}
UTILITY = 0.975


def plugin(kind: Literal["attack", "defense", "model"], name: str, changed: str = "") -> PluginRef:
    return PluginRef(kind, name, {"changed": changed}, changed, "builtin", 1, f"{kind} {name}", kind == "defense")


def cell(
    defense: str = "none",
    params: str = "",
    seed: int = 0,
    attack: str = "unsplit",
    attack_params: str = "clone=joint",
    **changes: Any,
) -> Cell:
    """A cell of the suite; `changes` are fields of the cell, or of its victim (cut, topology, tail, epochs)."""
    at = {name: changes.pop(name) for name in ("cut", "cut_reached", "topology", "tail", "epochs") if name in changes}
    cut = at.pop("cut", "pool1")
    defenses = () if defense == "none" else (plugin("defense", defense, params),)
    victim = VictimSpec(
        dataset="mnist-5k",
        dataset_digest="d" * 64,
        model=plugin("model", "mnist_net"),
        defenses=defenses,
        seed=seed,
        **{
            "topology": "vanilla",
            "cut": cut,
            "cut_reached": cut,
            "tail": None,
            "epochs": 3,
            "batch_size": 64,
            "learning_rate": 1e-3,
            **at,
        },
    )
    planned = Cell(
        victim=victim,
        attack=plugin("attack", attack, attack_params),
        attack_seed=0,
        phase="inference",
        views=1,
        targets=TargetRule(),
        goals=("reconstruct",),
        role="attack",
        stance="oblivious",
        threat_model="architecture",
        side="none" if defense == "none" else "activations",
    )
    return replace(planned, **changes)


def plan(cells: Iterable[Cell], suite: str = SUITE, digest: str = DIGEST) -> Plan:
    return Plan(suite, digest, tuple(Group((one,)) for one in cells))


def record(
    of: Cell,
    ssim: float = UNDEFENDED,
    labels: float = 0.9,
    clone: float = 0.9,
    utility: float = UTILITY,
    n: int = 20,
    status: Literal["done", "failed", "skipped"] = "done",
    **fields: Any,
) -> Record:
    """What a run would store for a cell.

    Args:
        of: The cell.
        ssim: Mean aligned SSIM; images differ by what was measured, and alike in every cell of a victim seed.
        labels: Share of labels inferred, up to rounding to a whole number of targets.
        clone: Accuracy of the cloned head.
        utility: Test accuracy; without a defense it is `UTILITY`.
        n: Targets.
        status: A failed cell holds nothing but its reason.
        fields: Further fields of the record, as they are.
    """
    base = {"key": of.key(), "suite": SUITE, "suite_digest": DIGEST, "axes": of.axes(), "status": status}
    if status != "done":
        return Record(**{**base, "reason": "RuntimeError: out of lanes", "run": _run(), **fields})
    # Images are easy or hard whatever the victim; a victim seed adds its own, smaller share.
    easy = np.random.default_rng(7).normal(0, 0.10, n)
    own = np.random.default_rng([11, of.victim.seed]).normal(0, 0.04, n)
    spread = easy - easy.mean() + own - own.mean()
    per_image: dict[str, list[float]] = {}
    controls: dict[str, dict[str, list[float]]] = {}
    scalars: dict[str, float] = {}
    if "reconstruct" in of.goals:
        per_image |= _images(ssim + spread)
        controls |= {name: _images(level + 0.3 * (easy - easy.mean())) for name, level in CONTROLS.items()}
        scalars |= {"identification_candidates": 100.0, "identification_chance": 0.01, "recognition_of_truth": 0.9}
    if "infer_labels" in of.goals:
        right = round(labels * n)
        per_image["correct"] = [1.0] * right + [0.0] * (n - right)
        scalars["label_accuracy"] = right / n
        controls |= {"chance": {"accuracy": [0.1]}, "majority": {"accuracy": [0.1]}}
    if "steal" in of.goals:
        scalars |= {"steal_accuracy": clone, "steal_agreement": clone, "victim_accuracy": utility}
        controls["random_clone"] = {"steal_accuracy": [0.12], "steal_agreement": [0.12], "victim_accuracy": [utility]}
    return Record(
        **{
            **base,
            "targets": {"ids": list(range(n)), "labels": [i % 10 for i in range(n)], "digest": "a" * 64},
            "per_image": per_image,
            "controls": controls,
            "scalars": scalars,
            "utility": {
                "accuracy": utility,
                "undefended_accuracy": UTILITY,
                "majority": 0.114,
                "auxiliary_accuracy": utility,
            },
            "evidence": evidence(base["axes"].defense),
            "cost": {"bytes_up": 4608.0, "bytes_down": 4608.0, "time_ratio": 1.1, "client_params": 208.0},
            "convergence": {"trace": {"step": [0, 1], "loss": [1.0, 0.1]}, "steps": 2000, "converged": True},
            "run": _run(),
            **fields,
        }
    )


def records(cells: Sequence[Cell], **values: Any) -> list[Record]:
    return [record(one, **values) for one in cells]


def evidence(defense: str = "none", **changes: Any) -> dict[str, Any]:
    """What a run finds out about an ordinary client: noise that is fresh, or nothing at all without a defense.

    Args:
        defense: `none` or any other.
        changes: Facts about what is sent, by phase (`inference={"frozen": True}`), or other facts, as they are.
    """
    defended = defense != "none"
    channel = {
        "finite": True,
        "random": defended,
        "frozen": False,
        "constant": False,
        "inactive": not defended,
        "gradient": "flows",
        "distortion": 0.5 if defended else 0.0,
        "problem": None,
    }
    alike = {"judged": 0.5, "others": 0.5, "auc": 0.5, "p": 0.8}
    facts = {
        "sent": {phase: channel | changes.pop(phase, {}) for phase in ("inference", "training")},
        "gradients": None,
        "hooks": ["protect_activations"] if defended else [],
        "watched": False,
        "n_records": 3000,
        "n_auxiliary": 1000,
        "n_test": 1000,
        "n_targets": 20,
        "targets_in_auxiliary": 0,
        "test_apart": alike,
        "targets_apart": alike,
    }
    return facts | changes


def _images(ssim: np.ndarray) -> dict[str, list[float]]:
    ssim = ssim.clip(-1.0, 0.999)
    mse = 0.08 * (1 - ssim)
    return {
        "ssim_aligned": ssim.tolist(),
        "ssim_raw": (0.3 * ssim).tolist(),
        "psnr_aligned": (-10 * np.log10(mse)).tolist(),
        "psnr_raw": (-10 * np.log10(mse + 0.06)).tolist(),
        "mse_aligned": mse.tolist(),
        "mse_raw": (mse + 0.06).tolist(),
        "correlation": (0.2 + 0.8 * ssim).clip(-1, 1).tolist(),
        # What is seen at half of SSIM's way is found in a line-up well before.
        "identified": (ssim > 0.3).astype(float).tolist(),
        "identification_rank": np.where(ssim > 0.3, 1.0, 20.0).tolist(),
        "recognised": (ssim > 0.6).astype(float).tolist(),
    }


def _run() -> dict[str, Any]:
    return {"seconds": 4.0, "peak_memory": 10**9, "device": "cpu", "environment": {"torch": "2.14.1", "python": "3.11"}}
