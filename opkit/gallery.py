"""Pictures of samples of any dataset: grids, meshes, time series, sensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .plots import _scale, _with_units, plot_field

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from pde_data.hdf5 import DatasetSchema, FieldSpec
    from pde_data.problem import Problem
    from solvers.meshes import Mesh

__all__ = ["plot_fields", "plot_problem"]

#: Okabe & Ito, for lines of several states.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#666666")
#: Panels of a picture.
_MOST = 4
#: One panel: title and what draws it.
_Panel = tuple[str, Callable[["Axes"], Any]]


def plot_problem(
    problem: Problem, resolution: int | tuple[int, ...] | None = None, *, seed: int = 0
) -> Figure:
    """Draw and solve one sample of a problem, and picture its inputs and outputs.

    Parameters
    ----------
    problem : Problem
    resolution : int or tuple of int, optional
    seed : int
    """
    shape = problem.check_resolution(resolution)
    inputs = problem.draw(np.random.default_rng(seed), 0)
    solver = problem.check_solver(problem.choose_solver(shape))
    solution = problem.solve(inputs, shape, solver=solver)
    schema = problem.schema(shape)
    return plot_fields(schema, solution.fields, mesh=solution.mesh, time=solution.time)


def plot_fields(
    schema: DatasetSchema,
    fields: Mapping[str, np.ndarray],
    *,
    mesh: Mesh | None = None,
    time: np.ndarray | None = None,
) -> Figure:
    """Draw inputs and outputs of one sample side by side.

    Scalar fields are drawn as they are, vectors and tensors by their length; a field that depends
    on time over one space dimension as an x-t image, over two by its last two quarters.

    Parameters
    ----------
    schema : DatasetSchema
    fields : mapping of str to ndarray
        As in `Solution.fields`: shapes of `DatasetSchema.sample_shape`.
    mesh : Mesh, optional
        The sample's, for layout ``"ragged"``.
    time : ndarray, shape (T,), optional
        The sample's, where times differ.

    Returns
    -------
    Figure
    """
    from matplotlib.figure import Figure

    mesh = schema.mesh if mesh is None else mesh
    t = np.asarray(schema.time if time is None else time, np.float64)
    known = {f.name for f in schema.fields}
    names = list(dict.fromkeys(n for n in (*schema.inputs, *schema.outputs) if n in known))
    panels: list[_Panel] = []
    # a handful of numbers is no picture
    small = [n for n in names if np.size(fields[n]) <= 8]
    for name in names if len(small) == len(names) else [n for n in names if n not in small]:
        panels += _panels(schema, schema.field(name), np.asarray(fields[name]), mesh, t)
    # the first input and the outputs say most
    panels = panels if len(panels) <= _MOST else [panels[0], *panels[1 - _MOST :]]
    figure = Figure(figsize=(3.5 * max(len(panels), 1), 2.9), layout="compressed")
    for ax, (title, draw) in zip(
        figure.subplots(1, max(len(panels), 1), squeeze=False)[0], panels, strict=False
    ):
        draw(ax)
        ax.set_title(title, fontsize=10)
    figure.draw_without_rendering()
    return figure


def _panels(
    schema: DatasetSchema, spec: FieldSpec, u: np.ndarray, mesh: Mesh | None, t: np.ndarray
) -> list[_Panel]:
    label = _with_units(spec.name, spec.units)
    if spec.dims is not None:
        return [(spec.long_name, lambda ax: _extra(ax, schema, spec, u, t, label))]
    if spec.rank:
        u = np.sqrt(np.sum(u**2, axis=tuple(range(-spec.rank, 0))))
        label = _with_units(f"|{spec.name}|", spec.units)
    if mesh is not None:
        if spec.time_varying:
            return [
                (f"{spec.long_name}, t = {t[k]:.3g}", _on_mesh(mesh, u[k], label)) for k in (-1,)
            ]
        return [(spec.long_name, _on_mesh(mesh, u, label))]
    varies = spec.dim_varying or (True,) * schema.grid.dim
    axes = [a for a, v in zip(schema.grid.axes, varies, strict=True) if v]
    coords = [a.coords for a in axes]
    options: dict[str, Any] = {
        "label": label,
        "axis_names": [a.name for a in axes],
        "axis_units": [a.units for a in axes],
    }
    if not axes:
        return []
    if not spec.time_varying:
        return [(spec.long_name, lambda ax: plot_field(u, coords, ax=ax, **options))]
    if len(axes) == 1:
        return [(spec.long_name, lambda ax: _space_time(ax, u, t, schema, options))]
    chosen = sorted({len(t) // 2, len(t) - 1})
    low, high, cmap = _scale(u[chosen])
    options |= {"vmin": low, "vmax": high, "cmap": cmap}

    def frame(k: int) -> Callable[[Axes], Any]:
        return lambda ax: plot_field(u[k], coords, ax=ax, **options)

    return [(f"{spec.long_name}, t = {t[k]:.3g}", frame(k)) for k in chosen]


def _space_time(
    ax: Axes, u: np.ndarray, t: np.ndarray, schema: DatasetSchema, options: Mapping[str, Any]
) -> None:
    low, high, cmap = _scale(u)
    axis = next(a for a in schema.grid.axes if a.name == options["axis_names"][0])
    image = ax.pcolormesh(axis.coords, t, u, vmin=low, vmax=high, cmap=cmap, rasterized=True)
    ax.set_xlabel(_with_units(axis.name, axis.units))
    ax.set_ylabel(_with_units("t", schema.time_units))
    ax.figure.colorbar(image, ax=ax, label=options["label"])


def _on_mesh(mesh: Mesh, u: np.ndarray, label: str) -> Callable[[Axes], Any]:
    def draw(ax: Axes) -> None:
        triangles = _triangles(mesh)
        low, high, cmap = _scale(u)
        x, y = mesh.points[:, 0], mesh.points[:, min(1, mesh.dim - 1)]
        shared: dict[str, Any] = {"vmin": low, "vmax": high, "cmap": cmap}
        if mesh.dim != 2 or not len(triangles):
            image: Any = ax.scatter(x, y, c=u, s=4, **shared)
        elif len(u) == mesh.n_cells != mesh.n_points:
            image = ax.tripcolor(x, y, triangles, facecolors=u, rasterized=True, **shared)
        else:
            image = ax.tripcolor(x, y, triangles, u, shading="gouraud", rasterized=True, **shared)
        ax.set_aspect("equal")
        ax.set_xlabel(_with_units("x", mesh.units))
        ax.set_ylabel(_with_units("y", mesh.units))
        bar = ax.figure.colorbar(image, ax=ax, label=label)
        bar.formatter.set_powerlimits((-2, 3))  # type: ignore[attr-defined]

    return draw


def _triangles(mesh: Mesh) -> np.ndarray:
    """Corner triangles of the cells; quads are cut in two."""
    out = [np.empty((0, 3), np.int64)]
    for code, cells in mesh.blocks():
        if code in (5, 69):
            out.append(cells[:, :3])
        elif code in (9, 70):
            out += [cells[:, [0, 1, 2]], cells[:, [0, 2, 3]]]
    return np.concatenate(out)


def _extra(
    ax: Axes, schema: DatasetSchema, spec: FieldSpec, u: np.ndarray, t: np.ndarray, label: str
) -> None:
    """Field on axes of its own: lines over time or the axis, an image for two axes."""
    dims: tuple[str, ...] = spec.dims or ()
    coords = {a.name: np.asarray(a.coords) for a in schema.axes}
    coords |= {a.name: a.coords for a in schema.grid.axes}
    units = {a.name: a.units for a in schema.axes} | {a.name: a.units for a in schema.grid.axes}
    if spec.time_varying and u.ndim <= 2:
        rows = u.reshape(len(u), -1)
        if rows.shape[1] > 12:  # too many lines to tell apart
            low, high, cmap = _scale(rows)
            image = ax.pcolormesh(
                coords[dims[-1]], t, rows, vmin=low, vmax=high, cmap=cmap, rasterized=True
            )
            ax.figure.colorbar(image, ax=ax, label=label)
            ax.set_xlabel(_with_units(dims[-1], units[dims[-1]]))
            ax.set_ylabel(_with_units("t", schema.time_units))
            return
        for k, values in enumerate(rows.T):
            name = spec.labels[k] if spec.labels else None
            ax.plot(t, values, color=_COLORS[k % len(_COLORS)], lw=1.4, label=name)
        if spec.labels:
            ax.legend(fontsize=8, frameon=False)
        ax.set_xlabel(_with_units("t", schema.time_units))
        ax.set_ylabel(label)
        return
    u = u[-1] if spec.time_varying else u
    while u.ndim > 2:
        u = u[..., 0]
    if u.ndim == 2:
        low, high, cmap = _scale(u)
        image = ax.pcolormesh(
            coords[dims[1]], coords[dims[0]], u, vmin=low, vmax=high, cmap=cmap, rasterized=True
        )
        ax.figure.colorbar(image, ax=ax, label=label)
        ax.set_xlabel(_with_units(dims[1], units[dims[1]]))
        ax.set_ylabel(_with_units(dims[0], units[dims[0]]))
        return
    x = coords[dims[0]] if dims else np.zeros(1)
    style = {"marker": "o", "ms": 3, "lw": 0} if len(x) <= 64 else {"lw": 1.4}
    ax.plot(x, u.reshape(len(x)), color=_COLORS[0], **style)  # type: ignore[arg-type]
    if dims:
        ax.set_xlabel(_with_units(dims[0], units[dims[0]]))
    ax.set_ylabel(label)
