"""Denoising of one field of a dataset: what learned proximal networks are trained by."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field

from solvers.grids import Axis
from solvers.names import check_name

from ..errors import UsageError
from ._task import Evaluation, Picture, Progress, Task, TaskOptions
from .normalizer import ChannelMoments, Normalizer

if TYPE_CHECKING:
    from models.spec import DenoisingSpec
    from opkit.evaluate import EvaluateConfig
    from opkit.fit import FitConfig
    from opkit.learner import Learner
    from opkit.predict import PredictConfig
    from pde_data.hdf5 import Dataset, DatasetSchema, Split

    from ._denoising_operator import Denoiser

__all__ = ["DenoisingOptions", "DenoisingTask", "FieldScale", "fixed_noise"]


class DenoisingOptions(TaskOptions):
    """Settings of `DenoisingTask`."""

    field: str | None = Field(
        None, description="name of an input, output or other field; default the first output"
    )
    sigma: float = Field(
        0.1,
        gt=0,
        allow_inf_nan=False,
        description="standard deviation of the noise, see sigma_units",
    )
    sigma_units: Literal["relative", "absolute"] = Field(
        "relative",
        description="relative: sigma times the standard deviation of all values of the field in "
        "the training split; absolute: in the field's own units",
    )
    log: bool = Field(
        False, description="learn the natural logarithm of the field, which must be positive"
    )
    gamma: float = Field(
        0.8, gt=0, allow_inf_nan=False,
        description="last gamma of proximal matching, over sigma sqrt(n), n values a sample",
    )  # fmt: skip
    stages: int = Field(
        4, ge=1, le=20, description="gammas of proximal matching, each half the one before"
    )
    pretrain: float = Field(
        0.5, ge=0, le=1, description="part of the steps that minimize the absolute error first"
    )
    lr_ratio: float = Field(
        0.5, gt=0, le=10, description="learning rate of proximal matching over that before"
    )


@dataclass(frozen=True)
class FieldScale:
    """``(x - shift) / scale``: one number each, so that a proximal operator stays one.

    Parameters
    ----------
    shift, scale : float
        Mean and standard deviation of all values in the training split.
    low, high : float
        Ends of the range that the peak signal-to-noise ratio refers to: the bounds of the field
        if the data states both, else the extreme values of the training split.
    """

    shift: float
    scale: float
    low: float
    high: float

    def __post_init__(self) -> None:
        values = (self.shift, self.scale, self.low, self.high)
        if not all(map(math.isfinite, values)) or self.scale <= 0 or self.low >= self.high:
            raise ValueError(
                f"shift={self.shift}, scale={self.scale}, low={self.low}, high={self.high}: need "
                "finite numbers, scale > 0 and low < high"
            )

    @property
    def peak(self) -> float:
        """``high - low``."""
        return self.high - self.low

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return asdict(self)


@dataclass(frozen=True)
class DenoisingTask(Task):
    """One field plus Gaussian noise to the field.

    Arrays are ``(batch, channel, *space)``: one channel, or one for each component of a vector or
    tensor. Numbers are ``(batch, 1)``. Of a field that varies in time the last stored time counts.

    Parameters
    ----------
    field, long_name, units : str
    shape : tuple of int
        ``(channels, *space)``, of the model's input; ``(1,)`` for numbers.
    axes : tuple of Axis
        Of the space; empty where there is no grid.
    sigma, sigma_units, log, gamma, stages, pretrain, lr_ratio
        See `DenoisingOptions`.
    bounds : (float, float), optional
        That the data states for the field.
    """

    field: str
    long_name: str
    units: str
    shape: tuple[int, ...]
    axes: tuple[Axis, ...]
    sigma: float
    sigma_units: str
    log: bool
    gamma: float
    stages: int
    pretrain: float
    lr_ratio: float
    bounds: tuple[float, float] | None = None

    usage: ClassVar[str] = "x = operator.denoise(y)  # also operator.regularizer(x)"
    name: ClassVar[str] = "denoising"
    losses: ClassVar[tuple[str, ...]] = ("proximal_matching", "l1", "l2")
    default_loss: ClassVar[str] = "proximal_matching"
    #: The first chooses the weights: the loss of the last stage, in proximal matching plus the
    #: stages still to come. By the squared error, it would end where it began.
    metrics: ClassVar[Mapping[str, str]] = {
        "objective": "loss of the last stage, plus stages to come",
        "rel_l2": "relative L2",
        "psnr": "PSNR [dB]",
    }
    titles: ClassVar[Mapping[str, str]] = {
        "ssim": "SSIM",
        "rel_l2_noisy": "relative L2 of the noisy field",
        "ssim_noisy": "SSIM of the noisy field",
        "psnr_noisy": "PSNR of the noisy field [dB]",
    }
    defaults: ClassVar[Mapping[str, Any]] = {
        "lr": 2e-3, "batch_size": 16, "weight_decay": 0.0, "epochs": 40,
    }  # fmt: skip
    Options: ClassVar[type[TaskOptions]] = DenoisingOptions

    # -- descriptions ----------------------------------------------------------------------

    @classmethod
    def from_dataset(
        cls, dataset: Dataset, options: DenoisingOptions, resolution: Sequence[Any] = ()
    ) -> Self:
        """Task of a dataset; see `Task.from_dataset`."""
        cls.refuse_resolution(resolution)
        schema = dataset.schema
        varying = [f.name for f in schema.fields if f.sample_varying]
        numbers = [s.name for s in schema.scalars if s.value is None]
        name = options.field or schema.outputs[0]
        check_name("field", name, [*varying, *numbers])
        settings = options.model_dump(exclude={"field"})
        if name in numbers:
            spec = next(s for s in schema.scalars if s.name == name)
            return cls(name, spec.long_name, spec.units, (1,), (), **settings)
        f = schema.field(name)
        shape = schema.sample_shape(name)[int(f.time_varying) :]
        if -1 in shape:
            raise UsageError(
                f"field {name!r} of problem {schema.problem!r} has as many values as its mesh has "
                "points, another number in each sample: the denoising task needs fields of one size"
            )
        split = len(shape) - f.rank
        channels = math.prod(shape[split:])
        on_grid = schema.layout == "grid" and f.dims is None
        which = f.dim_varying or (True,) * schema.grid.dim
        axes = tuple(a for a, v in zip(schema.grid.axes, which, strict=True) if v)
        bounds = None
        if f.valid_min is not None and f.valid_max is not None and f.valid_min < f.valid_max:
            bounds = (float(f.valid_min), float(f.valid_max))
        return cls(
            name, f.long_name, f.units, (channels, *shape[:split]), axes if on_grid else (),
            **settings, bounds=bounds,
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            **{k: v for k, v in vars(self).items() if k not in ("axes", "shape", "bounds")},
            "shape": list(self.shape),
            "axes": [asdict(a) for a in self.axes],
            "bounds": None if self.bounds is None else list(self.bounds),
        }

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Self:
        """Inverse of `as_dict`."""
        bounds = d["bounds"]
        return cls(
            **{
                **d,
                "shape": tuple(int(n) for n in d["shape"]),
                "axes": tuple(Axis(**a) for a in d["axes"]),
                "bounds": None if bounds is None else (float(bounds[0]), float(bounds[1])),
            }
        )

    def spec(self) -> DenoisingSpec:
        """Shape, and which axes are periodic."""
        from models.spec import DenoisingSpec

        periodic = tuple(a.periodic for a in self.axes) or (False,) * (len(self.shape) - 1)
        return DenoisingSpec(self.shape, periodic)

    def misfit(self, schema: DatasetSchema, *, inputs_only: bool = False) -> str:
        """Why data do not fit a denoiser, in one line; ``""`` if they do."""
        for item in (*schema.fields, *schema.scalars):
            if item.name == self.field:
                break
        else:
            return f"the data has no field {self.field!r}"
        if item.units != self.units:
            return (
                f"{self.field} is in {item.units!r} in the data, the operator needs {self.units!r}"
            )
        shape: tuple[int, ...] = ()
        if any(f.name == self.field for f in schema.fields):
            shape = schema.sample_shape(self.field)
            shape = shape[int(schema.field(self.field).time_varying) :]
        mine = (*self.shape[1:], self.shape[0])
        if math.prod(shape) != math.prod(mine) or shape[: len(mine) - 1] != mine[:-1]:
            return f"{self.field} has shape {shape} in the data, the operator {mine[:-1] or ()}"
        return ""

    # -- training --------------------------------------------------------------------------

    def dry_run(self, model: Any) -> None:
        """Apply a new model once; see `Task.dry_run`."""
        import torch

        with torch.no_grad():
            y = model(torch.zeros(1, *self.shape))
        if tuple(y.shape) != (1, *self.shape):
            raise UsageError(f"model: returns shape {tuple(y.shape)}, expected {(1, *self.shape)}")

    def read(self, split: Split, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read clean fields of some samples, (n, channel, *space), as stored (or their log)."""
        schema = split.schema
        moving = any(f.name == self.field and f.time_varying for f in schema.fields)
        window = {"window": slice(-1, None)} if moving else {}
        values = np.asarray(split.read(indices, [self.field], **window)[self.field])
        if moving:
            values = values[:, 0]
        values = values.reshape(len(values), *self.shape[1:], self.shape[0])
        values = np.moveaxis(values, -1, 1)
        if not self.log:
            return values
        if not (values > 0).all():
            i = int(np.argmin((values > 0).reshape(len(values), -1).all(axis=1)))
            raise UsageError(
                f"log=true: sample {int(split.ids[np.asarray(indices)[i]])} has the value "
                f"{float(values[i].min()):.3g}; the logarithm needs positive values"
            )
        return np.log(values)

    def fit_normalizer(self, split: Split, *, limit: int | None = None) -> FieldScale:
        """Mean and standard deviation of all values, over all channels and points.

        Raises
        ------
        UsageError
            Values that are not finite, or a field that is the same number everywhere.
        """
        n = len(split) if limit is None else min(limit, len(split))
        step = max(1, 2**22 // math.prod(self.shape))
        moments, low, high = ChannelMoments(), math.inf, -math.inf
        for start in range(0, n, step):
            x = self.read(split, np.arange(start, min(n, start + step)))
            bad = ~np.isfinite(x).reshape(len(x), -1).all(axis=1)
            if bad.any():
                i = int(split.ids[start + int(np.argmax(bad))])
                raise UsageError(f"sample {i}: {self.field} is not finite; see opkit data check")
            moments.add(x.reshape(len(x), 1, -1))
            low, high = min(low, float(x.min())), max(high, float(x.max()))
        scale = float(Normalizer.usable_scale(moments.std, moments.largest)[0])
        if low >= high:
            raise UsageError(f"{self.field} is {low:g} everywhere: there is nothing to learn")
        if self.bounds is not None and not self.log:
            low, high = self.bounds
        return FieldScale(float(moments.mean[0]), scale, low, high)

    def load_normalizer(self, d: Mapping[str, Any]) -> FieldScale:
        """Inverse of `FieldScale.as_dict`."""
        return FieldScale(**{k: float(d[k]) for k in ("shift", "scale", "low", "high")})

    def noise_std(self, scale: FieldScale) -> float:
        """Return the standard deviation of the noise in the units of the field (or its log)."""
        return self.sigma * (scale.scale if self.sigma_units == "relative" else 1.0)

    def data(
        self, split: Split, *, dtype: Any, limit: int | None = None, train: bool = False
    ) -> Any:
        """Batches of clean fields (and fixed normal noise, if not to train) and weights."""
        from ._denoising_learner import CleanData

        return CleanData(split, self, dtype=dtype, limit=limit, noise=not train)

    def learner(self, model: Any, normalizer: FieldScale, config: FitConfig) -> Learner:
        """Noise, loss and schedule."""
        from ._denoising_learner import DenoisingLearner

        return DenoisingLearner(model, self, normalizer, config)

    # -- use -------------------------------------------------------------------------------

    def operator(
        self, model: Any, normalizer: FieldScale, description: Mapping[str, Any], path: Path | None
    ) -> Denoiser:
        """`Denoiser`."""
        from ._denoising_operator import Denoiser

        return Denoiser(model, self, normalizer, description, path=path)

    def evaluate(
        self,
        op: Any,
        dataset: Dataset,
        split: Split,
        config: EvaluateConfig,
        progress: Progress | None,
    ) -> dict[str, Evaluation]:
        """Errors of denoising, and the prior against noise and along a line."""
        from ._denoising_evaluation import evaluate_denoiser

        return {"": evaluate_denoiser(op, split, config, progress)}

    def predict(self, op: Any, config: PredictConfig, progress: Progress | None) -> Path:
        """Write denoised fields."""
        from ._denoising_evaluation import predict_denoiser

        return predict_denoiser(op, config, progress)

    @classmethod
    def figures(
        cls, description: Mapping[str, Any], evaluation: Mapping[str, Any]
    ) -> Sequence[Picture]:
        """Denoised samples, the prior against noise and along a line."""
        from ._denoising_figures import denoising_figures

        return denoising_figures(description, evaluation)

    @classmethod
    def report_html(cls, evaluation: Mapping[str, Any]) -> str:
        """Signal-to-noise ratio and similarity, and what the prior says of noise."""
        metrics = evaluation["metrics"]
        titles = {**cls.metrics, **cls.titles}
        rows = "".join(
            f"<tr><th>{titles.get(k, k)}</th>"
            + "".join(f'<td class="n">{q[c]:.4g}</td>' for c in ("mean", "median", "min"))
            + f'<td class="n">{q["worst_id"]}</td></tr>'
            for k, q in metrics["quality"].items()
        )
        table = (
            f'<h3>Quality at noise {metrics["sigma"]:.4g}</h3><div class="scroll"><table><tr>'
            "<th></th><th>mean</th><th>median</th><th>worst</th><th>worst sample</th></tr>"
            f"{rows}</table></div>"
        )
        prior = metrics["prior"]
        if prior is None:
            note = metrics.get("prior_note", "this model is no proximal operator")
            return f'{table}<p class="dim">No prior: {html.escape(note)}.</p>'
        trend = "rises with each level" if prior["increasing"] else "does not rise everywhere"
        return (
            f"{table}<p>The mean of the prior over {prior['n']} samples {trend} of added noise; "
            f"{100 * prior['higher_for_noisy']:.0f} % of the noisy fields have a higher value than "
            "their clean field.</p>"
        )


def fixed_noise(sample_id: int, shape: Sequence[int]) -> np.ndarray:
    """Draw standard normal noise that depends on the sample alone, in float64."""
    sequence = np.random.SeedSequence(int(sample_id), spawn_key=(0x6E6F697365,))
    return np.random.default_rng(sequence).standard_normal(tuple(shape))
