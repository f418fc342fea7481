"""PDEBench's five kinds of HDF5 files.

Layouts from its documentation and issues: single files (one-dimensional ``tensor``, Darcy ``nu``
and ``tensor``, compressible flow ``density``, ``pressure``, ``Vx``, ...), one group a seed, and
incompressible flow. Grids are cell-centered and hold no boundary values; ``t-coordinate`` is one
entry longer than the data.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from solvers.grids import Grid

from ..hdf5 import (
    BoundarySpec,
    DatasetSchema,
    FieldSpec,
    MissingShardError,
    ScalarSpec,
    SchemaError,
)
from . import physics
from .common import (
    Foreign,
    ImportOptions,
    Sample,
    axis_from_coords,
    increasing,
    open_h5,
    readers,
    split_last,
    uniform_grid,
    with_options,
)

__all__ = ["read"]

SOURCE = {
    "source": "https://doi.org/10.18419/darus-2986 (PDEBench)",
    "citation": "Takamoto et al., PDEBench: An extensive benchmark for scientific machine "
    "learning, NeurIPS 2022, arXiv:2210.07182",
    "license": "CC-BY-4.0",
}
_AXES = ("x", "y", "z")


def read(format: str, files: Sequence[Path], options: ImportOptions, stack: ExitStack) -> Foreign:
    """Open a PDEBench file of any kind.

    Raises
    ------
    SchemaError
        None of the five kinds, or contradicting itself.
    """
    if len(files) != 1 or options.valid or options.test:
        raise ValueError(f"files: pdebench takes one file at a time, got {len(files)}")
    path = files[0]
    f = open_h5(path, stack)
    keys = set(f)
    if "velocity" in keys:
        foreign = _incompressible(path, f, options)
    elif "density" in keys:
        foreign = _compressible(path, f, options)
    elif "nu" in keys and "tensor" in keys:
        foreign = _darcy(path, f)
    elif "tensor" in keys:
        foreign = _one_dimensional(path, f)
    elif any(re.fullmatch(r"\d{4,}", k) for k in keys):
        foreign = _per_seed(path, f)
    else:
        raise SchemaError(
            f"{path}: none of PDEBench's layouts (found {', '.join(sorted(keys)[:8]) or 'nothing'};"
            " expected tensor, nu, density, velocity or groups 0000, 0001, ...)"
        )
    return replace(foreign, schema=with_options(foreign.schema, options))


def _coords(path: Path, f: Any, names: Sequence[str], *, periodic: bool) -> Grid:
    axes = []
    for name, key in zip(_AXES, names, strict=False):
        if key not in f:
            raise SchemaError(f"{path}: {key} is missing")
        axes.append(
            axis_from_coords(
                path, name, f[key][...], location="cell_center", periodic=periodic, units="1"
            )
        )
    return Grid(tuple(axes))


def _attribute(f: h5py.File, name: str) -> float | None:
    for key in (name, name.lower(), name.upper(), name.capitalize()):
        if key in f.attrs and np.size(f.attrs[key]) == 1:
            return float(np.asarray(f.attrs[key]).reshape(()))
    return None


def _tenths(n: int) -> dict[str, range]:
    """Split of single files: the first tenth is PDEBench's test set."""
    return split_last(n, 0, max(1, n // 10))


def _schema(
    name: str,
    title: str,
    equation: str,
    grid: Grid,
    fields: tuple[FieldSpec, ...],
    times: tuple[float, ...] | None,
    *,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    scalars: tuple[ScalarSpec, ...] = (),
    boundary: tuple[BoundarySpec, ...] = (),
    dtype: Any = np.float32,
) -> DatasetSchema:
    return DatasetSchema(
        problem=name,
        title=title,
        grid=grid,
        fields=fields,
        inputs=inputs,
        outputs=outputs,
        scalars=scalars,
        boundary_conditions=boundary,
        problem_type="static" if times is None else "time_dependent",
        time=(0.0,) if times is None else times,
        dtype="float64" if np.dtype(dtype) == np.float64 else "float32",
        equation=equation,
        discretization="cell-centered, by PDEBench's generator",
        sampling="cell centers",
        license=SOURCE["license"],
        citation=SOURCE["citation"],
    )


# -- single files --------------------------------------------------------------------------------


def _one_dimensional(path: Path, f: h5py.File) -> Foreign:
    tensor = f["tensor"]
    if tensor.ndim not in (3, 4):
        raise SchemaError(f"{path}: tensor has shape {tensor.shape}, expected (N, T, X)")
    batched = tensor.ndim == 4  # a file of several parameters, (B, N, T, X)
    lead, (n_t, n_x) = tensor.shape[:-2], tensor.shape[-2:]
    n = int(np.prod(lead))
    grid = _coords(path, f, ["x-coordinate"], periodic=True)
    if grid.shape != (n_x,):
        raise SchemaError(f"{path}: x-coordinate has {grid.shape[0]} entries, the data {n_x}")
    times = increasing(path, "t-coordinate", f["t-coordinate"][...], n_t)
    t = np.asarray(times)
    beta, nu, rho = (_attribute(f, k) for k in ("beta", "Nu", "rho"))
    given = [(k, v) for k, v in (("beta", beta), ("nu", nu), ("rho", rho)) if v is not None]
    units = {"beta": "1", "nu": "1", "rho": "1"}
    check: Callable[[Sample], str]
    low = high = None
    if beta is not None:
        speed = beta
        name, title, equation = "advection", "linear advection", r"u_t + \beta u_x = 0"

        def check(s: Sample) -> str:
            return physics.advection(s.fields["u"], t, grid, speed)
    elif nu is not None and rho is not None:
        rate = rho
        name, title = "reaction_diffusion", "reaction-diffusion (Fisher-KPP)"
        equation, low, high = r"u_t = \nu u_{xx} + \rho u (1 - u)", 0.0, 1.0

        def check(s: Sample) -> str:
            return physics.logistic(s.fields["u"], t, rate)
    elif nu is not None:
        name, title = "burgers", "Burgers' equation"
        equation = r"u_t + (u^2/2)_x = \frac{\nu}{\pi} u_{xx}"

        def check(s: Sample) -> str:
            return physics.burgers(s.fields["u"])
    else:
        raise SchemaError(
            f"{path}: no attribute beta, Nu, or Nu and rho says which equation this is (found "
            f"{', '.join(f.attrs) or 'none'})"
        )
    fields = (
        FieldSpec(
            "u",
            "solution",
            location="cell_center",
            time_varying=True,
            valid_min=low,
            valid_max=high,
        ),
    )

    def sample(i: int) -> Sample:
        at = np.unravel_index(i, lead) if batched else (i,)
        return Sample({"u": np.asarray(tensor[tuple(map(int, at))], np.float64)})

    schema = _schema(
        f"pdebench_{name}", f"PDEBench: {title}", equation, grid, fields, times,
        inputs=("u",), outputs=("u",), dtype=tensor.dtype,
        scalars=tuple(ScalarSpec(k, k, units[k], v) for k, v in given),
    )  # fmt: skip
    source = {**SOURCE, "import_notes": _notes(f["t-coordinate"], n_t)}
    return Foreign(schema.problem, schema, readers(sample, _tenths(n)), source, [path], check)


def _notes(t: h5py.Dataset, n_t: int) -> str:
    notes = "test set: the first tenth, as PDEBench's own loader has it"
    return notes + ("; last entry of t-coordinate dropped" if t.size == n_t + 1 else "")


def _darcy(path: Path, f: h5py.File) -> Foreign:
    nu, tensor = f["nu"], f["tensor"]
    if nu.ndim != 3 or tensor.shape != (nu.shape[0], 1, *nu.shape[1:]):
        raise SchemaError(
            f"{path}: nu has shape {nu.shape}, tensor {tensor.shape}, expected (N, X, Y) and "
            "(N, 1, X, Y)"
        )
    beta = _attribute(f, "beta")
    if beta is None:
        raise SchemaError(f"{path}: attribute beta, the source, is missing")
    grid = _coords(path, f, ["x-coordinate", "y-coordinate"], periodic=False)
    if grid.shape != nu.shape[1:]:
        raise SchemaError(f"{path}: coordinates have shape {grid.shape}, the data {nu.shape[1:]}")
    fields = (
        FieldSpec("a", "diffusion coefficient", location="cell_center", valid_min=0.0),
        FieldSpec("u", "solution", location="cell_center"),
    )

    def sample(i: int) -> Sample:
        return Sample(
            {"a": np.asarray(nu[i], np.float64), "u": np.asarray(tensor[i, 0], np.float64)}
        )

    schema = _schema(
        "pdebench_darcy", "PDEBench: Darcy flow", r"-\nabla\cdot(a\,\nabla u) = \beta", grid,
        fields, None, inputs=("a",), outputs=("u",), dtype=tensor.dtype,
        scalars=(ScalarSpec("beta", "source", "1", beta),),
        boundary=tuple(BoundarySpec(a, "dirichlet", ("u",)) for a in "xy"),
    )  # fmt: skip
    source = {**SOURCE, "import_notes": "test set: the first tenth, as PDEBench's own loader"}
    return Foreign(
        schema.problem, schema, readers(sample, _tenths(nu.shape[0])), source, [path],
        lambda s: physics.darcy(s.fields["a"], s.fields["u"], grid, beta),
    )  # fmt: skip


def _compressible(path: Path, f: h5py.File, options: ImportOptions) -> Foreign:
    density = f["density"]
    dim = density.ndim - 2
    if dim not in (1, 2, 3):
        raise SchemaError(
            f"{path}: density has shape {density.shape}, expected (N, T, X[, Y[, Z]])"
        )
    velocity = [f"V{a}" for a in _AXES[:dim]]
    for key in (*velocity, "pressure"):
        if key not in f or f[key].shape != density.shape:
            raise SchemaError(f"{path}: {key} is missing or not of density's shape {density.shape}")
    walls = "outflow" if "trans" in path.name.lower() else "periodic"
    kind = options.boundary or walls
    if kind not in ("periodic", "outflow"):
        raise ValueError(f"bc={kind}: PDEBench's compressible flows are periodic or outflow")
    periodic = kind == "periodic"
    grid = _coords(path, f, [f"{a}-coordinate" for a in _AXES[:dim]], periodic=periodic)
    times = increasing(path, "t-coordinate", f["t-coordinate"][...], density.shape[1])
    common: dict[str, Any] = {"location": "cell_center", "time_varying": True}
    fields = (
        FieldSpec("density", "density", valid_min=0.0, **common),
        FieldSpec("pressure", "pressure", valid_min=0.0, **common),
        FieldSpec("velocity", "velocity", rank=1, **common),
    )
    names = ("density", "pressure", "velocity")

    def sample(i: int) -> Sample:
        u = np.stack([np.asarray(f[k][i], np.float64) for k in velocity], axis=-1)
        return Sample(
            {
                "density": np.asarray(density[i], np.float64),
                "pressure": np.asarray(f["pressure"][i], np.float64),
                "velocity": u,
            }
        )

    scalars = tuple(
        ScalarSpec(k.lower() if k != "M" else "mach", label, "1", v)
        for k, label in (
            ("eta", "shear viscosity"),
            ("zeta", "bulk viscosity"),
            ("M", "Mach number"),
        )
        if (v := _attribute(f, k)) is not None
    )
    equation = (
        r"\rho_t + \nabla\cdot(\rho v) = 0,\quad "
        r"\rho(v_t + v\cdot\nabla v) = -\nabla p + \eta\Delta v"
        r" + (\zeta + \eta/3)\nabla(\nabla\cdot v),\quad "
        r"(\epsilon + \rho v^2/2)_t"
        r" + \nabla\cdot[(\epsilon + p + \rho v^2/2) v - v\cdot\sigma'] = 0"
    )
    boundary = () if periodic else tuple(
        BoundarySpec(a, "outflow", names) for a in _AXES[:dim]
    )  # fmt: skip
    schema = _schema(
        "pdebench_cfd", "PDEBench: compressible Navier-Stokes", equation, grid, fields, times,
        inputs=names, outputs=names, scalars=scalars, boundary=boundary, dtype=density.dtype,
    )  # fmt: skip
    notes = _notes(f["t-coordinate"], density.shape[1]) + f"; boundary {kind}, from the file's name"
    return Foreign(
        schema.problem, schema, readers(sample, _tenths(density.shape[0])),
        {**SOURCE, "import_notes": notes}, [path],
        lambda s: physics.mass(s.fields["density"]) if periodic else "",
    )  # fmt: skip


# -- one group a seed ----------------------------------------------------------------------------

#: Channels -> name, fields (name, long name, valid_min, valid_max), equation, walls.
_KINDS: dict[str, tuple[str, tuple[tuple[str, str, float | None, float | None], ...], str, str]] = {
    "diffusion_sorption": (
        "diffusion-sorption",
        (("u", "concentration", 0.0, 1.0),),
        r"u_t = \frac{D}{R(u)} u_{xx}",
        "none",
    ),
    "diffusion_reaction": (
        "diffusion-reaction (FitzHugh-Nagumo)",
        (("u", "activator", None, None), ("v", "inhibitor", None, None)),
        r"u_t = D_u \Delta u + u - u^3 - k - v,\quad v_t = D_v \Delta v + u - v",
        "neumann",
    ),
    "shallow_water": (
        "shallow water, radial dam break",
        (("h", "water depth", 0.0, None),),
        r"h_t + \nabla\cdot(h v) = 0,\quad (h v)_t + \nabla\cdot(h v\otimes v + g h^2/2\,I) = 0",
        "outflow",
    ),
}


def _per_seed(path: Path, f: h5py.File) -> Foreign:
    groups = sorted(k for k in f if re.fullmatch(r"\d{4,}", k))
    missing = sorted(set(range(int(groups[-1]) + 1)) - {int(k) for k in groups})
    first = f[groups[0]]
    if "data" not in first or "grid" not in first:
        raise SchemaError(f"{path}: group {groups[0]} has no data or grid")
    shape = first["data"].shape
    dim = len(shape) - 2
    if dim not in (1, 2):
        raise SchemaError(f"{path}: {groups[0]}/data has shape {shape}, expected (T, X[, Y], C)")
    kind = _kind_of(path, dim, shape[-1])
    title, channels, equation, walls = _KINDS[kind]
    grid = _coords(path, first["grid"], list(_AXES[:dim]), periodic=False)
    times = increasing(path, "grid/t", first["grid/t"][...], shape[0])
    fields = tuple(
        FieldSpec(
            name, long, location="cell_center", time_varying=True, valid_min=low, valid_max=high
        )
        for name, long, low, high in channels
    )
    names = tuple(x.name for x in fields)
    boundary: tuple[BoundarySpec, ...] = ()
    if walls != "none":
        boundary = tuple(BoundarySpec(a, walls, names) for a in _AXES[:dim])

    def sample(i: int) -> Sample:
        group = f[groups[i]]
        if "data" not in group or group["data"].shape != shape:
            raise SchemaError(f"{path}: group {groups[i]} has no data of shape {shape}")
        if not np.allclose(group["grid/t"][...].reshape(-1)[: shape[0]], times, atol=1e-6):
            raise SchemaError(f"{path}: group {groups[i]} has other times than {groups[0]}")
        u = np.asarray(group["data"][...], np.float64)
        return Sample({name: u[..., c] for c, name in enumerate(names)})

    schema = _schema(
        f"pdebench_{kind}", f"PDEBench: {title}", equation, grid, fields, times,
        inputs=names, outputs=names, boundary=boundary, dtype=first["data"].dtype,
    )  # fmt: skip
    notes = "test set: the last tenth of the seeds, as PDEBench's own loader has it"
    if missing:
        listed = ", ".join(f"{m:04d}" for m in missing[:10])
        notes += f"; {len(missing)} seeds missing in the file: {listed}"
    n = len(groups)
    splits = split_last(n, n - max(1, n // 10), n)
    return Foreign(
        schema.problem, schema, readers(sample, splits), {**SOURCE, "import_notes": notes}, [path],
        (lambda s: physics.mass(s.fields["h"])) if kind == "shallow_water" else (lambda s: ""),
    )  # fmt: skip


def _kind_of(path: Path, dim: int, channels: int) -> str:
    kinds = {(1, 1): "diffusion_sorption", (2, 2): "diffusion_reaction", (2, 1): "shallow_water"}
    if (dim, channels) not in kinds:
        raise SchemaError(
            f"{path}: {dim}-D data of {channels} channels is none of PDEBench's per-seed sets "
            "(diffusion-sorption 1-D 1, diffusion-reaction 2-D 2, shallow water 2-D 1)"
        )
    return kinds[dim, channels]


# -- incompressible flow -------------------------------------------------------------------------


def _incompressible(path: Path, f: h5py.File, options: ImportOptions) -> Foreign:
    velocity = f["velocity"]
    if velocity.ndim != 5 or velocity.shape[-1] != 2:
        raise SchemaError(f"{path}: velocity has shape {velocity.shape}, expected (B, T, X, Y, 2)")
    n, n_t, n_x, n_y, _ = velocity.shape
    latest = f.attrs.get("latestIndex")
    if latest is not None and int(latest) < n_t - 1:
        raise MissingShardError(
            f"{path}: the generator stopped at frame {int(latest)} of {n_t}; the rest holds nothing"
        )
    t = np.asarray(f["t"][...], np.float64).reshape(-1, n_t)
    if not np.allclose(t, t[0], atol=1e-6 * max(1.0, float(np.abs(t).max()))):
        raise SchemaError(f"{path}: samples have different times")
    times = increasing(path, "t", t[0], n_t)
    options.require(path, "domain")
    kind = options.boundary or "dirichlet"
    located = options if options.location else replace(options, location="cell_center")
    grid = uniform_grid(located, (n_x, n_y), periodic=kind == "periodic", path=path)
    common: dict[str, Any] = {"location": grid.axes[0].location, "time_varying": True}
    fields = [FieldSpec("velocity", "velocity", rank=1, **common)]
    if "particles" in f:
        fields.append(FieldSpec("particles", "density of tracer particles", **common))
    if "force" in f:
        moving = f["force"].ndim == 5
        fields.append(
            FieldSpec(
                "force", "body force", rank=1, location=grid.axes[0].location, time_varying=moving
            )
        )

    def sample(i: int) -> Sample:
        values = {s.name: np.asarray(f[s.name][i], np.float64) for s in fields}
        if "particles" in values:
            values["particles"] = values["particles"].reshape(n_t, n_x, n_y)
        return Sample(values)

    moving_names = tuple(s.name for s in fields if s.time_varying and s.name != "force")
    inputs = moving_names + (("force",) if "force" in f else ())
    boundary = () if kind == "periodic" else tuple(
        BoundarySpec(a, "no_slip" if kind == "dirichlet" else kind, ("velocity",)) for a in "xy"
    )  # fmt: skip
    schema = _schema(
        "pdebench_navier_stokes", "PDEBench: incompressible Navier-Stokes",
        r"\rho(v_t + v\cdot\nabla v) = -\nabla p + \mu\Delta v + f,\quad \nabla\cdot v = 0", grid,
        tuple(fields), times, inputs=inputs, outputs=moving_names, boundary=boundary,
        dtype=velocity.dtype,
    )  # fmt: skip
    notes = "test set: the first tenth; domain and boundary as stated by the user"
    return Foreign(
        schema.problem, schema, readers(sample, _tenths(n)), {**SOURCE, "import_notes": notes},
        [path],
    )  # fmt: skip
