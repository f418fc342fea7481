"""How a denoiser is judged: errors at its own noise, and the prior against noise and on a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.lpn import InversionError

from ..errors import UsageError
from ..evaluate import EvaluateConfig, EvaluationError
from ._judging import ROLES, median_seconds, representatives
from ._task import Evaluation, Progress
from .denoising import fixed_noise

if TYPE_CHECKING:
    from opkit.predict import PredictConfig
    from pde_data.hdf5 import Split

    from ._denoising_operator import Denoiser

__all__ = ["evaluate_denoiser", "measure_prior", "predict_denoiser"]

#: Noise at which the prior is evaluated, over that of the training.
LEVELS = (0.0, 0.5, 1.0, 2.0, 3.0)
#: Points of the line.
LINE = np.linspace(-0.25, 1.25, 31)


def evaluate_denoiser(
    op: Denoiser, split: Split, config: EvaluateConfig, progress: Progress | None
) -> Evaluation:
    """Errors on the split with the fixed noise of each sample; `DenoisingTask.evaluate`.

    Notes
    -----
    For a proximal network, R is evaluated at the first ``config.n_solve`` clean fields with more
    and more noise, by inversion, and along the line through two of them: ``R / sigma**2``, the
    negative logarithm of a density, less its value at the clean field.
    """
    task, n = op.task, len(split)
    columns: dict[str, list[np.ndarray]] = {}
    for start in range(0, n, config.batch_size):
        index = np.arange(start, min(n, start + config.batch_size))
        clean, noisy = _pair(op, split, index)
        denoised = np.asarray(op.denoise(noisy, batch_size=config.batch_size))
        bad = ~np.isfinite(denoised).reshape(len(denoised), -1).all(axis=1)
        if bad.any():
            i = int(split.ids[index[int(np.argmax(bad))]])
            raise EvaluationError(f"sample {i}: the denoised field is not finite")
        for name, values in _errors(op, clean, noisy, denoised).items():
            columns.setdefault(name, []).append(values)
        if progress is not None:
            progress(int(index[-1]) + 1, n, "")
    found = {k: np.concatenate(v) for k, v in columns.items()}
    errors = {k: found.pop(k) for k in ("objective", "rel_l2", "rel_l2_noisy")}
    picked = representatives(errors["rel_l2"])
    clean, noisy = _pair(op, split, picked)
    arrays = {
        "ids": split.ids[picked],
        "roles": np.array(ROLES),
        "clean": clean,
        "noisy": noisy,
        "denoised": np.asarray(op.denoise(noisy)),
    }
    facts: dict[str, Any] = {
        "sigma": op.sigma,
        "quality": {k: _summary(v, split.ids) for k, v in found.items()},
        "seconds_per_sample": _seconds(op, split, config),
        "resolution": list(task.shape[1:]),
        "prior": None,
    }
    tables: dict[str, Mapping[str, np.ndarray]] = {"quality": {"id": split.ids, **found}}
    if op.is_prox:
        some, _ = _pair(op, split, np.arange(min(n, config.n_solve)))
        noise = np.stack([fixed_noise(i, task.shape) for i in split.ids[: len(some)]])
        try:
            prior, more = measure_prior(op, some, noise)
        except InversionError as e:
            facts["prior_note"] = str(e)
        else:
            facts["prior"] = prior
            tables |= more
    return Evaluation(split.ids, errors, facts, tables, arrays)


def _pair(op: Denoiser, split: Split, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    clean = op.task.read(split, index).astype(np.float64)
    noise = np.stack([fixed_noise(i, op.task.shape) for i in split.ids[index]])
    return clean, clean + op.sigma * noise


def _errors(
    op: Denoiser, clean: np.ndarray, noisy: np.ndarray, denoised: np.ndarray
) -> dict[str, np.ndarray]:
    def flat(a: np.ndarray) -> np.ndarray:
        return a.reshape(len(a), -1)

    size = np.linalg.norm(flat(clean), axis=1)
    # as in training: a field that is 0 everywhere is judged by the size of others
    size = np.where(size > 0, size, op.scale.scale * np.sqrt(flat(clean).shape[1]))
    out = {"objective": _objective(op, flat(denoised - clean))}
    for name, x in (("", denoised), ("_noisy", noisy)):
        e = flat(x - clean)
        out[f"rel_l2{name}"] = np.linalg.norm(e, axis=1) / size
        mse = (e**2).mean(axis=1) / op.scale.peak**2
        out[f"psnr{name}"] = -10 * np.log10(np.maximum(mse, 1e-20))
        if len(op.shape) == 3 and min(op.shape[1:]) >= 3:
            out[f"ssim{name}"] = _ssim(clean, x, op.scale.peak)
    return out


def _objective(op: Denoiser, error: np.ndarray) -> np.ndarray:
    """Loss of the training's last stage, which is that of normalized units."""
    loss, e = op.description["loss"], error / op.scale.scale
    if loss == "l1":
        return np.abs(e).mean(axis=1)
    if loss == "l2":
        return (e**2).mean(axis=1)
    gamma = op.task.gamma * op.sigma / op.scale.scale * np.sqrt(e.shape[1])
    return -np.expm1(-(e**2).sum(axis=1) / gamma**2)


def _ssim(clean: np.ndarray, x: np.ndarray, peak: float) -> np.ndarray:
    """Structural similarity, windows of 7 x 7 points or what fits; mean over the channels."""
    from skimage.metrics import structural_similarity

    size = min(7, *clean.shape[2:])
    size -= 1 - size % 2
    return np.array(
        [
            np.mean(
                [
                    structural_similarity(a, b, win_size=size, data_range=peak)
                    for a, b in zip(one, other, strict=True)
                ]
            )
            for one, other in zip(clean, x, strict=True)
        ]
    )


def _summary(values: np.ndarray, ids: np.ndarray) -> dict[str, float | int]:
    """Mean, median, and the lowest, which is the worst."""
    worst = int(np.argmin(values))
    return {
        "mean": float(values.mean()),
        "median": float(np.median(values)),
        "min": float(values[worst]),
        "worst_id": int(ids[worst]),
    }


def _seconds(op: Denoiser, split: Split, config: EvaluateConfig) -> float:
    """Median time of a warm batch, divided by its size."""
    _, noisy = _pair(op, split, np.arange(min(len(split), config.batch_size)))
    noisy = noisy.astype(np.float32)
    return median_seconds(lambda: op.denoise(noisy), config.repeats) / len(noisy)


def measure_prior(
    op: Denoiser, clean: np.ndarray, noise: np.ndarray
) -> tuple[dict[str, Any], dict[str, dict[str, np.ndarray]]]:
    """``R / sigma**2`` against noise, and along the line through the first two fields.

    Parameters
    ----------
    op : Denoiser
    clean, noise : ndarray, shape (n, channel, *space)
        Physical units; standard normal.

    Returns
    -------
    facts : dict
        ``n``; ``mean_increase`` over the clean field at each of ``noise_over_sigma``;
        ``increasing``: the mean rises with each level; ``higher_for_noisy``: part of the samples
        and levels above 0 with a higher R than the clean field.
    tables : dict
        ``prior_noise`` and ``prior_line``.

    Raises
    ------
    InversionError
    """
    n = len(clean)
    stack = np.concatenate([clean + s * op.sigma * noise for s in LEVELS])
    values = np.asarray(op.regularizer(stack)).reshape(len(LEVELS), n) / op.sigma**2
    rise = values - values[0]
    mean = rise.mean(axis=1)
    facts = {
        "n": n,
        "noise_over_sigma": list(LEVELS),
        "mean_increase": mean.tolist(),
        "increasing": bool((np.diff(mean) > 0).all()),
        "higher_for_noisy": float((rise[1:] > 0).mean()),
    }
    tables = {
        "prior_noise": {
            "noise_over_sigma": np.array(LEVELS),
            "mean": mean,
            "low": rise.min(axis=1),
            "high": rise.max(axis=1),
        }
    }
    if n > 1:
        line = clean[0] + LINE.reshape(-1, *(1,) * (clean.ndim - 1)) * (clean[1] - clean[0])
        along = np.asarray(op.regularizer(line)) / op.sigma**2
        tables["prior_line"] = {"t": LINE, "value": along - along.min()}
    return facts, tables


def predict_denoiser(op: Denoiser, config: PredictConfig, progress: Progress | None) -> Path:
    """Denoise an array, or the fields of a dataset as stored, into one file.

    Notes
    -----
    No noise is added: what is denoised is what the data holds, such as the measurement of
    ``deblurring`` with ``kernel="none"``.
    """
    out = Path(config.out)
    if config.points is not None:
        raise UsageError(f"points={config.points}: a denoiser answers on the grid of its inputs")
    ids, parts, facts = _source(op, config)
    done, results = 0, []
    for x in parts:
        results.append(np.asarray(op.denoise(x, batch_size=config.batch_size)))
        done += len(x)
        if progress is not None:
            progress(done, len(ids), "")
    values = np.concatenate(results)
    name = f"log_{op.task.field}" if op.task.log else op.task.field
    # as in datasets: components last, none for a scalar
    values = np.moveaxis(values, 1, -1)
    values = np.ascontiguousarray(values[..., 0] if values.shape[-1] == 1 else values)
    _write(out, op, name, ids, values, facts)
    return out


def _source(
    op: Denoiser, config: PredictConfig
) -> tuple[np.ndarray, Iterator[np.ndarray], dict[str, str]]:
    path, step = Path(config.data), config.batch_size
    dtype = np.float64 if str(op.dtype) == "torch.float64" else np.float32
    facts = {"run": Path(config.run).resolve().name, "source": path.resolve().name}
    if path.suffix == ".npy":
        try:
            array = np.load(path, allow_pickle=False).astype(dtype)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as e:
            raise UsageError(
                f"{path}: no .npy file of numbers ({' '.join(str(e).split())})"
            ) from None
        if array.shape[1:] == op.shape[1:] and op.shape[0] == 1:
            array = array[:, None]
        if array.ndim != len(op.shape) + 1 or array.shape[1:] != op.shape or not len(array):
            raise UsageError(
                f"{path} has shape {array.shape}, expected (batch, {', '.join(map(str, op.shape))})"
            )
        ids = np.arange(len(array))
        return ids, (array[a : a + step] for a in range(0, len(array), step)), facts
    from pde_data.hdf5 import open_dataset

    dataset = open_dataset(path)
    if reason := op.task.misfit(dataset.schema):
        raise UsageError(f"{config.data} does not fit {config.run}: {reason}")
    split = dataset[config.split]
    if not len(split):
        raise UsageError(f"{config.data}: split {config.split!r} has no samples")
    facts |= {"split": split.name, "content_digest": dataset.content_digest}
    starts = range(0, len(split), step)
    parts = (
        op.task.read(split, np.arange(a, min(a + step, len(split)))).astype(dtype) for a in starts
    )
    return split.ids, parts, facts


def _write(
    out: Path, op: Denoiser, name: str, ids: np.ndarray, values: np.ndarray, facts: dict[str, str]
) -> None:
    from ..checkpoint import replace_file, save_arrays
    from ..predict import FORMAT, FORMAT_VERSION

    coords = {a.name: a.coords for a in op.task.axes}
    if out.suffix == ".npz":
        save_arrays(out, {"sample": ids, **coords, name: values})
    elif out.suffix == ".npy":

        def write(path: Path) -> None:
            with path.open("wb") as f:
                np.save(f, values, allow_pickle=False)

        replace_file(out, write)
    else:
        from pde_data.hdf5._atomic import atomic_h5

        with atomic_h5(out) as f:
            f.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, model=op.name, **facts)
            f.attrs["problem"] = op.description["data"]["problem"]
            f.create_dataset("sample", data=ids.astype("<i8"), track_times=False)
            for axis in op.task.axes:
                ds = f.create_dataset(axis.name, data=axis.coords, track_times=False)
                ds.attrs["units"] = axis.units
            group = f.create_group("outputs")
            group.attrs["field_names"] = [name]
            ds = group.create_dataset(name, data=values, track_times=False)
            ds.attrs["units"] = "1" if op.task.log else op.task.units
            ds.attrs["long_name"] = op.task.long_name
