"""Views of digits behind defenses that are made for a test, and the attacker's own copy of them."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import ClassVar

import torch

from benchmark.protection import Protection
from benchmark.seeds import Rng
from benchmark.view import Knowledge, Secrets
from defenses.base import Defense
from tests.server_views import head, images, view


def defense(activations=None, *, inputs=None, model=None):
    """A defense with these hooks, (value, rng, phase) each, and this stand-in."""
    members = {"name": "made_for_a_test", "version": 1, "side": "activations"}
    annotations = dict.fromkeys(members, ClassVar[object])
    if activations is not None:
        members["protect_activations"] = lambda self, z, rng, phase: activations(z, rng, phase)
    if inputs is not None:
        members["protect_inputs"] = lambda self, x, rng, phase: inputs(x, rng, phase)
    if model is not None:
        members["attacker_model"] = lambda self: model
    return type("Made", (Defense,), {**members, "__annotations__": annotations, "__module__": __name__})()


def protection(*defenses, name="victim"):
    return Protection(defenses, Rng(name))


def defended(*defenses, cut="pool1", n=4, k=1, victim=0, phase="inference", attack_seed=0):
    """What the server saw of n digits, k times, behind the defenses; everything granted."""
    client = head(cut, victim).eval().requires_grad_(False)
    owned = protection(*defenses)
    with torch.no_grad():
        smashed = torch.stack([
            owned.activations(client(owned.inputs(images(n), phase)), phase) for _ in range(k)
        ])  # fmt: skip
    granted = frozenset({Knowledge.ARCHITECTURE, Knowledge.DEFENSE, Knowledge.CLIENT_WEIGHTS})
    seen = view(cut, n=n, victim=victim, smashed=smashed, granted=granted, attack_seed=attack_seed)
    secrets = Secrets(client_head=client, protection=copy.deepcopy(owned).restarted("attacker"))
    return replace(seen, phase=phase, _secrets=secrets)


def key(shape):
    """Fixed signs, -1 or 1."""
    return (Rng("key").uniform(shape) < 0.5) * 2.0 - 1.0
