"""Files of a run, written whole or not at all and read without running code from them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = [
    "OperatorError",
    "load_json",
    "load_weights",
    "replace_file",
    "save_arrays",
    "save_json",
    "save_weights",
    "weights_of",
]


class OperatorError(ValueError):
    """A run directory that cannot be used; the message names the file and what is wrong."""


def replace_file(path: Path, write: Callable[[Path], Any]) -> None:
    """Call ``write(temporary)``, then rename the temporary to `path`.

    Raises
    ------
    OSError
        Disk full and the like; the old file stays, no temporary is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fd, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=".tmp", dir=path.parent)
    os.close(fd)
    temporary = Path(name)
    try:
        write(temporary)
        mask = os.umask(0o022)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        with temporary.open("rb") as f:
            os.fsync(f.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def save_json(path: Path, value: Any) -> None:
    """Write JSON; NaN and infinity are refused."""
    text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    replace_file(path, lambda p: p.write_text(text, encoding="utf-8"))


def load_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises
    ------
    OperatorError
        Missing, damaged, or no object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise OperatorError(f"{path} is missing") from None
    except (OSError, ValueError) as e:
        raise OperatorError(f"{path} is damaged: {' '.join(str(e).split())}") from None
    if not isinstance(value, dict):
        raise OperatorError(f"{path} is damaged: no JSON object")
    return value


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz file of plain arrays."""

    def write(p: Path) -> None:
        with p.open("wb") as f:
            np.savez(f, allow_pickle=False, **arrays)

    replace_file(path, write)


def weights_of(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers; what else a module puts into its state is left out.

    neuraloperator adds a dict of its arguments, which no safe format takes.
    """
    import torch

    return {k: v for k, v in module.state_dict().items() if isinstance(v, torch.Tensor)}


def save_weights(path: Path, module: nn.Module) -> None:
    """Write weights as safetensors."""
    from safetensors.torch import save_file

    tensors = {k: v.detach().cpu().contiguous().clone() for k, v in weights_of(module).items()}
    replace_file(path, lambda p: save_file(tensors, p))


def load_weights(path: Path, module: nn.Module) -> None:
    """Read weights into a module.

    Raises
    ------
    OperatorError
        Missing, damaged, or weights of another model.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise OperatorError(f"{path} is missing: the training has finished no epoch")
    try:
        found = load_file(path)
    except (SafetensorError, OSError, ValueError) as e:
        raise OperatorError(f"{path} is damaged: {' '.join(str(e).split())}") from None
    own = weights_of(module)
    for name in sorted(own.keys() ^ found.keys()):
        where = "has no" if name in own else "has a"
        raise OperatorError(f"{path} {where} tensor {name!r}: the weights are of another model")
    with torch.no_grad():
        for name, tensor in own.items():
            if tensor.shape != found[name].shape:
                raise OperatorError(
                    f"{path}: {name} has shape {tuple(found[name].shape)}, the model needs "
                    f"{tuple(tensor.shape)}"
                )
            tensor.copy_(found[name])
