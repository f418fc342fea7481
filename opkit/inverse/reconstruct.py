"""`invert`: reconstruct unknowns from measurements; write what was found and how sure it is."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from solvers.grids import Axis, Grid
from solvers.names import suggest

from ..errors import UsageError
from .baselines import discrepancy_weight, tikhonov, tv, wavelet_l1
from .forward import LinearForward, NonlinearForward, as_forward, tangent_map
from .maps import operator_map, problem_map
from .pnp import InverseResult, check_data, pnp_admm, pnp_drs, pnp_pgd
from .prior import Prior, as_prior
from .tempered import pnp_tempered

__all__ = ["Inversion", "InvertConfig", "invert"]

FORMAT = "opkit-inversion"
FORMAT_VERSION = "1.0"
LEARNED = ("pgd", "admm", "drs")
#: Name of an operator on the command line -> the problem that has it.
OPERATORS = {
    "blur": "deblurring",
    "compressed_sensing": "compressed_sensing",
    "radon": "tomography",
    "pde": "source_recovery",
    "darcy": "darcy_inverse",
}
#: Operators that come as a file.
FILES = ("mask", "matrix")
#: Weights that are tried on the validation samples, over ``|A|^2``.
TRIALS = np.logspace(-6, 0, 19)
#: Validation samples that choose the weight of a baseline.
N_TUNE = 20

#: Called as ``progress(samples done, samples in all, note)``.
Progress = Callable[[int, int, str], None]


class InvertConfig(BaseModel):
    """Settings of `invert`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    measurements: str = Field(
        description="dataset of an inverse problem, or .npy/.h5 file of data (batch, *shape)"
    )
    out: str = Field(description="directory to make")
    run: str | None = Field(
        None, description="run of opkit fit with a denoiser, the prior; none for the baselines"
    )
    method: Literal["pgd", "admm", "drs", "tv", "tikhonov", "wavelet"] | None = Field(
        None, description="default pgd with a run, tv without"
    )
    operator: str | None = Field(
        None, description="blur, compressed_sensing, radon, pde (source to sensors), darcy "
        "(log-coefficient to sensors), mask or matrix; a dataset knows its own",
    )  # fmt: skip
    params: dict[str, Any] = Field(
        default_factory=dict, description="parameters of the operator, such as width=1.5; "
        "file=NAME.npy for mask and matrix",
    )  # fmt: skip
    resolution: int | tuple[int, ...] | None = Field(
        None, description="points per axis of the unknown; a dataset knows its own"
    )
    through: str | None = Field(
        None, description="run of opkit fit, coefficient to solution: the forward map instead of "
        "the solver (darcy)",
    )  # fmt: skip
    noise: float | None = Field(
        None, gt=0, allow_inf_nan=False,
        description="standard deviation of the noise in the data; a dataset knows its own",
    )  # fmt: skip
    weight: float | None = Field(
        None, gt=0, allow_inf_nan=False,
        description="weight of the prior, 1/step or rho; default what noise and training ask, at "
        "least 1.01 L. Of a baseline: default tuned on valid, else by the noise (discrepancy)",
    )  # fmt: skip
    temper: bool = Field(
        False, description="inflate the noise where data are more precise than the prior's "
        "training noise, so that the weight the noise asks for is certain to converge",
    )  # fmt: skip
    split: str = Field("test", description="which samples of a dataset")
    n: int | None = Field(None, ge=1, description="the first n samples alone")
    max_iter: int = Field(500, ge=1, le=10**7, description="iterations")
    tol: float = Field(1e-6, ge=0, description="relative change at which a sample is done")
    start: Literal["tikhonov", "zero"] = Field("tikhonov", description="where the iteration starts")
    overwrite: bool = Field(False, description="replace `out`")

    @field_validator("measurements", "out", "run", "through", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, Path) else value

    @field_validator("measurements", "out")
    @classmethod
    def _named(cls, value: str) -> str:
        if not value:
            raise ValueError("a path is empty")
        return value

    @model_validator(mode="after")
    def _fits(self) -> InvertConfig:
        learned = self.chosen in LEARNED
        if learned and self.run is None:
            raise ValueError(f"method={self.chosen!r} needs a run of opkit fit as its prior")
        if not learned and self.run is not None:
            raise ValueError(f"method={self.chosen!r} uses no prior: leave the run out")
        if self.operator is not None and self.operator not in (*OPERATORS, *FILES):
            allowed = (*OPERATORS, *FILES)
            raise ValueError(
                f"operator={self.operator!r}: unknown.{suggest(self.operator, allowed)} Allowed: "
                f"{', '.join(allowed)}"
            )
        return self

    @property
    def chosen(self) -> str:
        """The method."""
        return self.method or ("pgd" if self.run is not None else "tv")


@dataclass(frozen=True)
class Inversion:
    """What `invert` leaves.

    Attributes
    ----------
    x : ndarray, shape (n, *shape)
        Reconstructions, in the units of the unknown (for ``darcy`` the coefficient).
    result : InverseResult
    facts : dict
        Content of ``inversion.json``.
    path : Path
    """

    x: np.ndarray
    result: InverseResult
    facts: dict[str, Any]
    path: Path


@dataclass(frozen=True)
class _Given:
    """Measurements and everything known about them."""

    forward: LinearForward | NonlinearForward
    data: np.ndarray
    ids: np.ndarray
    noise: np.ndarray | None
    truth: np.ndarray | None
    axes: tuple[Axis, ...]
    name: str
    units: str
    log: bool
    facts: dict[str, Any]
    #: Other samples with truth, to tune on: data, noise, truth.
    valid: tuple[np.ndarray, np.ndarray] | None = None
    limits: tuple[float, float] | None = None
    #: The solver, where `forward` is a trained operator.
    solver: LinearForward | NonlinearForward | None = None


def invert(config: InvertConfig, *, progress: Progress | None = None) -> Inversion:
    """Reconstruct unknowns from measurements.

    Returns
    -------
    Inversion
        Also written to `config.out`: ``reconstruction.h5``, ``inversion.json`` (settings,
        certificate, errors), ``figures/`` and ``report.html``.

    Raises
    ------
    UsageError
        Shapes of operator and data that do not fit, a missing noise level, a prior for another
        field, or a path that is taken: one line.
    FileExistsError
        `config.out` exists, and `overwrite` is not set.
    """
    out = Path(config.out)
    if out.exists() and not config.overwrite:
        raise FileExistsError(f"{out} exists already; --overwrite replaces it")
    prior: Prior | None = None
    start: np.ndarray | None = None
    try:
        given = _read(config)
        if config.chosen in LEARNED:
            result, facts, prior, start = _learned(config, given, progress)
        else:
            result, facts = _baseline(config, given)
    except UsageError:
        raise
    except ValueError as e:
        raise UsageError(" ".join(str(e).split())) from e
    x = result.x.reshape(len(given.data), *given.forward.in_shape)
    x = np.exp(x) if given.log else x
    record = _record(config, given, result, x, facts)
    line = _line(prior, start, result, given) if prior is not None and start is not None else None
    record["prior_line"] = line
    _write(out, config, given, result, x, record)
    return Inversion(x, result, record, out)


# -- what was measured ---------------------------------------------------------------------------


def _read(config: InvertConfig) -> _Given:
    path = Path(config.measurements)
    if not path.exists():
        raise UsageError(f"{path}: no such file or directory")
    if path.suffix == ".npy" or (path.is_file() and not _is_dataset(path)):
        return _from_array(config, _load_array(path))
    return _from_dataset(config)


def _is_dataset(path: Path) -> bool:
    import h5py

    try:
        with h5py.File(path, "r") as f:
            return "format" in f.attrs
    except OSError:
        return False


def _load_array(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        try:
            array = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as e:
            raise UsageError(f"{path}: no .npy file of numbers ({e})") from None
    else:
        import h5py

        try:
            with h5py.File(path, "r") as f:
                names = [k for k, v in f.items() if isinstance(v, h5py.Dataset)]
                if "measurement" not in names and len(names) != 1:
                    raise UsageError(
                        f"{path}: need one dataset, or one called 'measurement'; it has "
                        f"{', '.join(names) or 'none'}"
                    )
                array = f["measurement" if "measurement" in names else names[0]][()]
        except OSError as e:
            raise UsageError(f"{path}: no HDF5 file ({e})") from None
    array = np.asarray(array)
    if array.dtype.kind not in "fiu" or array.ndim == 0:
        raise UsageError(f"{path}: dtype {array.dtype}, need an array of real numbers")
    return array.astype(np.float64)


def _from_array(config: InvertConfig, data: np.ndarray) -> _Given:
    if config.operator is None:
        raise UsageError(
            f"operator is missing: name what maps the unknown to {config.measurements}; allowed: "
            f"{', '.join((*OPERATORS, *FILES))}"
        )
    forward, grid, log, unknown, units = _operator(config, data)
    solver = None
    if config.through is not None:
        solver, forward = forward, _through(config, grid, log)
    batch, _ = check_data(data, forward)
    noise = None if config.noise is None else np.full(len(batch), config.noise)
    return _Given(
        forward, batch[: config.n], np.arange(len(batch))[: config.n],
        None if noise is None else noise[: config.n], None, grid.axes, unknown, units, log,
        {"source": Path(config.measurements).name, "operator": config.operator,
         "params": config.params},
        solver=solver,
    )  # fmt: skip


def _operator(
    config: InvertConfig, data: np.ndarray
) -> tuple[LinearForward | NonlinearForward, Grid, bool, str, str]:
    from pde_data.problem import get_problem

    assert config.operator is not None
    if config.operator in FILES:
        return _file_operator(config)
    params = dict(config.params)
    for name in ("noise", "noise_scale"):
        if name in params:
            raise UsageError(f"--set {name}: the noise level is the option --noise")
    problem = get_problem(OPERATORS[config.operator], **params)
    resolution = config.resolution
    if resolution is None:
        if config.operator != "blur":
            raise UsageError(
                f"resolution is missing: operator {config.operator!r} does not follow from the data"
            )
        resolution = tuple(data.shape[-2:])
    pair = (resolution,) * 2 if isinstance(resolution, int) else tuple(resolution)
    if len(pair) != 2:
        raise UsageError(f"resolution={resolution}: need one number, or two")
    schema = problem.schema(pair)
    unknown = schema.field(schema.outputs[0])
    return (
        problem_map(problem, pair), schema.grid, config.operator == "darcy", unknown.name,
        unknown.units,
    )  # fmt: skip


def _file_operator(
    config: InvertConfig,
) -> tuple[LinearForward | NonlinearForward, Grid, bool, str, str]:
    from solvers.observation import mask_operator

    unknown = [k for k in config.params if k != "file"]
    if unknown or "file" not in config.params:
        raise UsageError(f"operator={config.operator!r} takes --set file=NAME.npy alone")
    path = Path(str(config.params["file"]))
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as e:
        raise UsageError(f"{path}: no .npy file of numbers ({e})") from None
    forward: LinearForward | NonlinearForward
    if config.operator == "mask":
        if array.dtype != bool:
            if not np.isin(array, (0, 1)).all():
                raise UsageError(f"{path}: a mask holds True and False, or 1 and 0")
            array = array.astype(bool)
        forward, shape = as_forward(mask_operator(array)), array.shape
    else:
        if array.ndim != 2:
            raise UsageError(f"{path}: shape {array.shape}, need a matrix (data, unknowns)")
        shape = (array.shape[1],)
        if config.resolution is not None:
            r = config.resolution
            shape = (r, array.shape[1] // max(r, 1)) if isinstance(r, int) else tuple(r)
        forward = as_forward(array, shape)
    axes = tuple(
        Axis(name, max(n, 2), 0.0, 1.0, location="cell_center")
        for name, n in zip("xyz", shape, strict=False)
    )
    return forward, Grid(axes), False, "x", "1"


def _from_dataset(config: InvertConfig) -> _Given:
    from pde_data.hdf5 import open_dataset
    from pde_data.problem import get_problem

    for name in ("resolution", "noise"):
        if getattr(config, name) is not None and name == "resolution":
            raise UsageError(f"{name}: the dataset knows its own")
    dataset = open_dataset(config.measurements)
    schema = dataset.schema
    params = dict(dataset.config.get("params") or {})
    problem = get_problem(schema.problem, **params)
    if not hasattr(problem, "operator"):
        raise UsageError(
            f"{config.measurements} holds {schema.problem!r}, which has no forward operator to "
            "invert: need deblurring, compressed_sensing, tomography, source_recovery or "
            "darcy_inverse"
        )
    if config.operator is not None and OPERATORS.get(config.operator) != schema.problem:
        raise UsageError(
            f"operator={config.operator!r}, but {config.measurements} holds {schema.problem!r}, "
            "whose operator is known: leave it out"
        )
    if config.params:
        raise UsageError("--set: the dataset knows the parameters of its operator")
    grid = schema.grid
    log = schema.problem == "darcy_inverse"
    forward, solver = problem_map(problem, grid.shape), None
    if config.through is not None:
        solver, forward = forward, _through(config, grid, log, problem.operator(grid.shape))
    unknown = schema.field(schema.outputs[0])
    split = dataset[config.split]
    count = len(split) if config.n is None else min(config.n, len(split))
    if not count:
        raise UsageError(f"{config.measurements}: split {config.split!r} has no samples")
    data, noise, truth = _samples(split, np.arange(count), unknown.name, log)
    valid = None
    if config.split != "valid" and "valid" in dataset and len(dataset["valid"]):
        other = dataset["valid"]
        values, _, known = _samples(other, np.arange(min(N_TUNE, len(other))), unknown.name, log)
        valid = (values, known)
    limits = None
    if unknown.valid_min is not None and unknown.valid_max is not None and not log:
        limits = (float(unknown.valid_min), float(unknown.valid_max))
    if config.noise is not None:
        noise = np.full(count, config.noise)
    return _Given(
        forward, data, np.asarray(split.ids)[:count], noise if np.all(noise > 0) else None,
        truth, grid.axes, unknown.name, unknown.units, log,
        {"source": Path(config.measurements).resolve().name, "problem": schema.problem,
         "params": params, "split": split.name, "content_digest": dataset.content_digest},
        valid, limits, solver,
    )  # fmt: skip


def _samples(
    split: Any, index: np.ndarray, unknown: str, log: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    values = split.read(index, ["measurement", "noise_std", unknown])
    truth = np.asarray(values[unknown], np.float64)
    return (
        np.asarray(values["measurement"], np.float64),
        np.asarray(values["noise_std"], np.float64).reshape(-1),
        np.log(truth) if log else truth,
    )


def _through(config: InvertConfig, grid: Grid, log: bool, sensors: Any = None) -> NonlinearForward:
    from opkit.operator import load
    from pde_data.problem import get_problem

    if not log:
        raise UsageError(
            f"through={config.through}: a trained operator replaces the solver of operator 'darcy'"
        )
    assert config.through is not None
    if sensors is None:
        problem: Any = get_problem("darcy_inverse", **config.params)
        sensors = problem.operator(grid.shape)
    return operator_map(load(config.through), grid, sensors)


# -- reconstruction ------------------------------------------------------------------------------


def _learned(
    config: InvertConfig, given: _Given, progress: Progress | None
) -> tuple[InverseResult, dict[str, Any], Prior, np.ndarray]:
    from opkit.operator import load

    assert config.run is not None
    operator = load(config.run)
    task: Any = operator.task
    if getattr(task, "name", "") != "denoising":
        raise UsageError(
            f"{config.run} was trained for the task {getattr(task, 'name', '?')!r}: a prior needs "
            "a denoiser, such as opkit fit DATA -m lpn"
        )
    if bool(task.log) != given.log:
        what = "log=true" if given.log else "log=false"
        raise UsageError(
            f"{config.run} learned {'log ' if task.log else ''}{task.field}, the unknown is "
            f"{'log ' if given.log else ''}{given.name}: train it with --task {what}"
        )
    prior = as_prior(operator, given.forward.in_shape)
    if given.noise is None and config.weight is None:
        raise UsageError(
            "noise is missing: give the standard deviation of the noise in the data (--noise), "
            "or the weight of the prior (--weight)"
        )
    start = _start(config, given)
    scale: float | np.ndarray = 1.0
    asked = None
    if given.noise is not None and prior.sigma is not None:
        # one weight for all samples: those with less noise weigh their data more
        scale = float(np.mean(given.noise**2)) / given.noise**2
        asked = float(np.mean(given.noise**2)) / prior.sigma**2
    weight = config.weight
    forward, data = given.forward, given.data
    run: Any = {"pgd": pnp_pgd, "admm": pnp_admm, "drs": pnp_drs}[config.chosen]
    common: dict[str, Any] = {
        "x0": start, "max_iter": config.max_iter, "tol": config.tol, "sigma_noise": given.noise,
    }  # fmt: skip
    if not isinstance(forward, LinearForward) and config.chosen != "pgd":
        raise UsageError(f"method={config.chosen!r} needs a linear operator: use pgd")
    if progress is not None:
        progress(0, len(given.data), "iterating")
    if config.temper:
        if given.noise is None or prior.sigma is None:
            raise UsageError("temper needs the noise of the data and of the prior's training")
        if weight is not None:
            raise UsageError(f"weight={weight}: temper takes the weight that the noise asks for")
        result = pnp_tempered(forward, data, prior, method=run, **common)
    elif isinstance(forward, LinearForward):
        bound = float(np.max(scale)) * forward.norm_bound().value ** 2
        if weight is None:
            weight = max(asked or 0.0, 1.01 * bound)
        step = {"step": 1 / weight} if config.chosen == "pgd" else {"rho": weight}
        result = run(forward, data, prior, scale=scale, **common, **step)
    else:
        step = {"step": 1 / (weight if weight is not None else asked or 1.0)}
        result = run(forward, data, prior, scale=scale, **common, **step)
    if progress is not None:
        progress(len(given.data), len(given.data), "")
    facts = {
        "prior": Path(config.run).resolve().name,
        "model": operator.name,
        "sigma_train": prior.sigma,
        "weight_asked_by_noise": asked,
    }
    return result, facts, prior, start


def _start(config: InvertConfig, given: _Given) -> np.ndarray:
    shape = (len(given.data), *given.forward.in_shape)
    if config.start == "zero" or not isinstance(given.forward, LinearForward):
        return np.zeros(shape)
    weight = _discrepancy(given, lambda w: tikhonov(given.forward, given.data, weight=w))
    return tikhonov(given.forward, given.data, weight=weight).x.reshape(shape)


def _discrepancy(given: _Given, solve: Callable[[float], InverseResult]) -> float:
    size = _size(given.forward)
    if given.noise is None:
        return 1e-2 * size
    n_data = given.data[0].size
    return discrepancy_weight(solve, given.noise, n_data, low=1e-8 * size, high=1e2 * size)


def _size(forward: LinearForward | NonlinearForward) -> float:
    """Squared norm of the map, or of its derivative at 0: the scale of weights."""
    linear = forward if isinstance(forward, LinearForward) else tangent_map(forward)
    return linear.norm_bound().value ** 2


def _baseline(config: InvertConfig, given: _Given) -> tuple[InverseResult, dict[str, Any]]:
    forward = given.forward
    linear = isinstance(forward, LinearForward)
    if not linear and config.chosen != "tikhonov":
        raise UsageError(
            f"method={config.chosen!r} needs a linear operator; pgd and tikhonov take this one"
        )
    solve = _solver(config, forward)
    if config.weight is not None:
        return solve(given.data, config.weight), {"weight_from": "given"}
    if given.valid is not None:
        weights = (TRIALS if linear else TRIALS[::3]) * _size(forward)
        data, truth = given.valid
        errors = [_mean_error(solve(data, float(w)).x, truth) for w in weights]
        k = int(np.argmin(errors))
        facts = {
            "weight_from": f"{len(truth)} samples of valid",
            "tuning": {"weights": weights.tolist(), "rel_l2": errors},
        }
        return solve(given.data, float(weights[k])), facts
    if given.noise is None:
        raise UsageError(
            "noise is missing: give the standard deviation of the noise in the data (--noise), or "
            "the weight (--weight)"
        )
    weight = _discrepancy(given, lambda w: solve(given.data, w))
    return solve(given.data, weight), {"weight_from": "discrepancy principle"}


def _solver(
    config: InvertConfig, forward: LinearForward | NonlinearForward
) -> Callable[[np.ndarray, float], InverseResult]:
    if config.chosen == "tikhonov":
        return lambda y, w: tikhonov(forward, y, weight=w)
    if config.chosen == "tv":
        return lambda y, w: tv(forward, y, weight=w, max_iter=4 * config.max_iter)
    return lambda y, w: wavelet_l1(forward, y, weight=w, max_iter=2 * config.max_iter)


def _mean_error(x: np.ndarray, truth: np.ndarray) -> float:
    return float(np.mean(_rel(x.reshape(truth.shape), truth)))


def _rel(x: np.ndarray, truth: np.ndarray) -> np.ndarray:
    n = len(truth)
    size = np.linalg.norm(truth.reshape(n, -1), axis=1)
    return np.linalg.norm((x - truth).reshape(n, -1), axis=1) / np.where(size > 0, size, 1.0)


# -- what is written -----------------------------------------------------------------------------


def _record(
    config: InvertConfig, given: _Given, result: InverseResult, x: np.ndarray,
    facts: Mapping[str, Any],
) -> dict[str, Any]:  # fmt: skip
    certificate = result.certificate
    record: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "method": config.chosen,
        "config": config.model_dump(mode="json"),
        "data": given.facts,
        "unknown": given.name,
        "n_samples": len(x),
        "ids": [int(i) for i in given.ids],
        **facts,
        "weight": float(result.weight.max()),
        "certificate": None if certificate is None else certificate.as_dict(),
        "converged": int(result.converged.sum()),
        "diverged": int(result.diverged.sum()),
        "iterations": int(result.iterations.max()),
        "largest_residual": _finite_max(result.residuals[-1] if len(result.residuals) else []),
        "fixed_point_residual": _finite_max(result.fixed_point),
        "restarts": len(result.restarts),
        "seconds": result.seconds,
    }
    if given.noise is not None:
        # 1 where the residual is as large as the noise; misfit without the samples' scale
        maps = {"misfit_over_noise": given.forward, "misfit_over_noise_by_solver": given.solver}
        for key, forward in maps.items():
            if forward is not None:
                r = (forward(np.log(x) if given.log else x) - given.data).reshape(len(x), -1)
                chi = np.mean(r**2, axis=1) / given.noise**2
                record[key] = {"mean": float(chi.mean()), "max": float(chi.max())}
    if given.truth is not None:
        truth = np.exp(given.truth) if given.log else given.truth
        record["errors"] = errors(x, truth, given.limits)
    return record


def errors(
    x: np.ndarray, truth: np.ndarray, limits: tuple[float, float] | None = None
) -> dict[str, dict[str, float]]:
    """Relative L2 error, PSNR and (for images of 7 x 7 and more) SSIM: mean, median, worst.

    Parameters
    ----------
    x, truth : ndarray, shape (n, *shape)
    limits : (float, float), optional
        Range that PSNR and SSIM refer to; default that of the truth.
    """
    from skimage.metrics import structural_similarity

    low, high = limits if limits is not None else (float(truth.min()), float(truth.max()))
    peak = high - low or 1.0
    n = len(x)
    mse = np.mean((x - truth).reshape(n, -1) ** 2, axis=1)
    columns = {"rel_l2": _rel(x, truth), "psnr": 10 * np.log10(peak**2 / np.maximum(mse, 1e-20))}
    if x.ndim == 3 and min(x.shape[1:]) >= 7:
        columns["ssim"] = np.array(
            [structural_similarity(a, b, data_range=peak) for a, b in zip(x, truth, strict=True)]
        )
    return {
        k: {
            "mean": float(v.mean()),
            "median": float(np.median(v)),
            "worst": float(v.max() if k == "rel_l2" else v.min()),
        }
        for k, v in columns.items()
    }


def _finite_max(values: Any) -> float | None:
    v = np.asarray(values, float)
    v = v[np.isfinite(v)]
    return float(v.max()) if v.size else None


def _line(
    prior: Prior, start: np.ndarray, result: InverseResult, given: _Given
) -> dict[str, Any] | None:
    """Evaluate R / sigma^2 from the start of the first sample to its reconstruction and beyond."""
    if not prior.exact or prior._value is None:
        return None
    t = np.linspace(-0.25, 1.5, 36)
    x = result.x.reshape(len(given.data), *given.forward.in_shape)[0]
    points = start[0] + t.reshape(-1, *(1,) * x.ndim) * (x - start[0])
    try:
        values = prior.value(points)
    except RuntimeError as e:  # no pre-image: the network says so itself
        return {"note": " ".join(str(e).split())}
    values = values / (prior.sigma or 1.0) ** 2
    return {"t": t.tolist(), "value": (values - values.min()).tolist()}


def _write(
    out: Path, config: InvertConfig, given: _Given, result: InverseResult, x: np.ndarray,
    record: Mapping[str, Any],
) -> None:  # fmt: skip
    from opkit.checkpoint import save_json
    from pde_data.hdf5._atomic import atomic_h5

    from .figures import save_figures, write_page

    partial = out.with_name(f".{out.name}.tmp")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        with atomic_h5(partial / "reconstruction.h5") as f:
            f.attrs.update(format=FORMAT, format_version=FORMAT_VERSION, method=config.chosen)
            f.create_dataset("sample", data=given.ids.astype("<i8"), track_times=False)
            for axis in given.axes:
                ds = f.create_dataset(axis.name, data=axis.coords, track_times=False)
                ds.attrs["units"] = axis.units
            ds = f.create_dataset(f"outputs/{given.name}", data=x, track_times=False)
            ds.attrs["units"] = given.units
            f.create_dataset("measurement", data=given.data, track_times=False)
            if given.truth is not None:
                truth = np.exp(given.truth) if given.log else given.truth
                f.create_dataset(f"truth/{given.name}", data=truth, track_times=False)
            f.create_dataset("residuals", data=result.residuals, track_times=False)
            f.create_dataset("objective", data=result.objective, track_times=False)
        save_json(partial / "inversion.json", record)
        pictures = save_figures(partial / "figures", given, result, x, record)
        write_page(partial / "report.html", record, pictures)
        if out.exists():
            if not (out / "inversion.json").is_file():
                raise UsageError(f"out={out}: no inversion of opkit, so it is not replaced")
            shutil.rmtree(out)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
