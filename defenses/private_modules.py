"""Refuses networks that DP-SGD cannot make private, whichever part of a split network the cause is in.

Differentially private training bounds what a sample contributes by clipping that sample's gradient. A module that mixes
samples, anywhere between the images and the loss, lets a sample contribute to the gradients of others, where no clip
sees it. Batch normalisation in the server's part alone let one record change *other* records' client gradients by up
to 11 % where it was tried.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import nn

from benchmark.errors import UserError
from benchmark.seeds import isolated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    from benchmark.seeds import Rng


def refuse_batch_statistics(part: str, module: nn.Module) -> None:
    """Refuse normalisation over the batch, with or without weights, and running statistics.

    Args:
        part: `head`, `body` or `tail`, for the error.
        module: That part, whether it is trained privately or not.

    Raises:
        UserError: There is some; names part, module and remedy.
    """
    for name, inner in module.named_modules():
        if isinstance(inner, nn.modules.batchnorm._BatchNorm) or getattr(inner, "track_running_stats", False):
            raise _mixes(part, name, inner)


def refuse_without_sample_gradients(part: str, module: nn.Module) -> None:
    """Refuse what Opacus takes no per-sample gradients of.

    Args:
        part: `head`, `body` or `tail`, for the error.
        module: That part, which is to be trained privately.

    Raises:
        UserError: There is such a module; names part, module and remedy.
    """
    from opacus.validators import ModuleValidator

    for name, inner in module.named_modules():
        trainable = any(parameter.requires_grad for parameter in inner.parameters(recurse=False))
        validate = ModuleValidator.VALIDATORS.get(type(inner))
        if validate is not None and validate(inner):
            remedy = f"use opacus.layers.DP{type(inner).__name__}"
        elif trainable and any(True for _ in inner.buffers()):
            remedy = "make it a module without buffers"
        else:
            continue
        raise UserError(
            f"defense dp_sgd: Opacus takes no per-sample gradients of {_where(part, name, inner)}; {remedy}"
        )


def refuse_mixing(parts: Mapping[str, nn.Module], x: Tensor, rng: Rng) -> None:
    """Refuse a module whose output for a sample changes when another sample does: tried out, not looked up.

    Args:
        parts: The parts by name, in the order of the forward pass, in the mode they are trained in.
        x: At least two images, [n, channels, height, width], in [0, 1].
        rng: For modules that draw (dropout).

    Raises:
        UserError: There is one; names part, module and remedy.
    """
    for part, module in parts.items():
        stages = dict(module.named_children()) if isinstance(module, nn.Sequential) else {"": module}
        for name, stage in stages.items():
            changed = x.clone()
            changed[0] = 1 - changed[0]
            out, other = (_tried(stage, value, rng) for value in (x, changed))
            if not torch.allclose(out[1:], other[1:], rtol=1e-4, atol=1e-5):
                raise _mixes(part, name, stage)
            x = out


def _tried(module: nn.Module, x: Tensor, rng: Rng) -> Tensor:
    # A copy: a trial must not move statistics the module keeps.
    with torch.no_grad(), isolated(rng):
        output: Tensor = copy.deepcopy(module)(x)
    return output


def _mixes(part: str, name: str, module: nn.Module) -> UserError:
    return UserError(
        f"defense dp_sgd: {_where(part, name, module)} mixes the samples of a batch, so that clipping per sample "
        "bounds nothing; use one that treats every sample alone, such as GroupNorm"
    )


def _where(part: str, name: str, module: nn.Module) -> str:
    return (
        f"module {name!r} ({type(module).__name__}) of the {part}" if name else f"the {part} ({type(module).__name__})"
    )
