"""Arrays without a description: neuraloperator's ``.pt``, FNO's ``.mat``, DeepXDE's ``.npz``.

What the files do not say (domain, boundary conditions, units, what a name means) the user must.
"""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from solvers.grids import Grid
from solvers.names import check_name

from ..hdf5 import (
    BoundarySpec,
    DatasetSchema,
    ExtraAxis,
    FieldSpec,
    MissingMetadataError,
    ScalarSpec,
    SchemaError,
)
from ..hdf5.errors import NotAnOpkitFileError
from .common import (
    Foreign,
    ImportOptions,
    Sample,
    increasing,
    open_h5,
    readers,
    uniform_grid,
    with_options,
)
from .torch_file import SafeUnpickler, load_tensors

__all__ = ["read"]

#: Names that stand for input and output, in the order in which they are looked for.
_INPUTS = ("x", "coeff", "a", "input", "f", "u0")
_OUTPUTS = ("y", "sol", "u", "output")


def read(format: str, files: Sequence[Path], options: ImportOptions, stack: ExitStack) -> Foreign:
    """Open files of arrays.

    Raises
    ------
    MissingMetadataError
        What the file does not say and the options do not either.
    SchemaError
    """
    groups = {"train": list(files), "valid": list(options.valid), "test": list(options.test)}
    loaded = {s: [_load(format, p, stack) for p in ps] for s, ps in groups.items() if ps}
    if format == "deepxde":
        return _deepxde(groups, loaded, options)
    return _grid(format, groups, loaded, options)


def _load(format: str, path: Path, stack: ExitStack) -> dict[str, Any]:
    if format == "neuraloperator":
        content = load_tensors(path)
        if not isinstance(content, dict):
            raise SchemaError(f"{path}: holds a {type(content).__name__}, expected named tensors")
        return {str(k): v for k, v in content.items() if isinstance(v, np.ndarray)}
    if format == "fno":
        return _load_mat(path, stack)
    return _load_npz(path, stack)


def _load_mat(path: Path, stack: ExitStack) -> dict[str, Any]:
    """Arrays of a MATLAB file; v7.3 is HDF5 with the axes reversed."""
    from scipy.io import loadmat

    try:
        with path.open("rb") as f:
            hdf5 = b"MATLAB 7.3" in f.read(128)
        if not hdf5:
            content = loadmat(path)
            return {k: v for k, v in content.items() if not k.startswith("__")}
    except (ValueError, OSError, NotImplementedError, TypeError) as e:
        raise NotAnOpkitFileError(f"{path}: not a MATLAB file ({e})") from None
    f5 = open_h5(path, stack)
    return {k: _Reversed(v) for k, v in f5.items() if hasattr(v, "shape") and not k.startswith("#")}


class _Reversed:
    """HDF5 dataset of MATLAB seen with its own order of axes; a row is read when asked for."""

    def __init__(self, ds: Any) -> None:
        self._ds = ds
        self.shape, self.dtype = ds.shape[::-1], ds.dtype
        self.ndim, self.size = ds.ndim, ds.size

    def __getitem__(self, i: int) -> np.ndarray:
        return np.asarray(self._ds[..., i]).T

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self._ds[...], dtype).T


_MULTIARRAY = importlib.import_module("numpy._core.multiarray")


class _NumpyUnpickler(SafeUnpickler):
    """Object arrays of arrays, as numpy pickles them."""

    allowed: ClassVar[dict[tuple[str, str], Any]] = {
        **SafeUnpickler.allowed,
        **{
            (f"numpy.{core}.multiarray", name): getattr(_MULTIARRAY, name)
            for core in ("core", "_core")
            for name in ("_reconstruct", "scalar")
        },
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }


def _load_npz(path: Path, stack: ExitStack) -> dict[str, Any]:
    """Arrays of an ``.npz`` file; object arrays are unpickled with numpy's own names only."""
    import zipfile

    try:
        out: dict[str, Any] = {}
        with zipfile.ZipFile(path) as z:
            for name in z.namelist():
                with z.open(name) as member:
                    version = np.lib.format.read_magic(member)
                    header = {
                        (1, 0): np.lib.format.read_array_header_1_0,
                        (2, 0): np.lib.format.read_array_header_2_0,
                    }[version]
                    shape, fortran, dtype = header(member)
                    key = name.removesuffix(".npy")
                    if dtype.hasobject:
                        out[key] = _NumpyUnpickler(member).load()
                        continue
                    data = np.frombuffer(member.read(), dtype)
                    out[key] = data.reshape(shape, order="F" if fortran else "C")
        return out
    except (zipfile.BadZipFile, pickle.UnpicklingError, ValueError, KeyError, EOFError) as e:
        raise NotAnOpkitFileError(f"{path}: not a readable .npz file ({e})") from None


# -- fields on grids -----------------------------------------------------------------------------


def _grid(
    format: str,
    groups: Mapping[str, Sequence[Path]],
    loaded: Mapping[str, Sequence[dict[str, Any]]],
    options: ImportOptions,
) -> Foreign:
    path, first = groups["train"][0], loaded["train"][0]
    source_in = _name(path, first, _INPUTS, options, "input")
    source_out = _name(path, first, _OUTPUTS, options, "output", other=source_in)
    a, u = first[source_in], first[source_out]
    unmapped = a.dtype.kind == "b" and source_in not in options.values
    meaning = (
        f"meaning of the two values of {source_in}",
        f"--map {source_in}=NAME:{{0:VALUE,1:VALUE}}",
    )
    options.require(path, "domain", "boundary", "units", more=[meaning] if unmapped else [])
    name_in = options.fields.get(source_in, "a" if source_in in ("x", "coeff", "a") else source_in)
    name_out = options.fields.get(
        source_out, "u" if source_out in ("y", "sol", "u") else source_out
    )
    if a.shape[0] != u.shape[0]:
        raise SchemaError(f"{path}: {a.shape[0]} inputs and {u.shape[0]} outputs")
    squeeze = a.ndim - 1 if 1 in a.shape[1:2] and a.ndim == u.ndim + 1 else None
    space = a.shape[2:] if squeeze else a.shape[1:]
    timed = u.ndim == len(space) + 2
    time_last = timed and format == "fno"  # (N, *space, T) there, (N, T, *space) else
    if tuple(u.shape[1:]) not in (
        tuple(space),
        *(((*space, u.shape[-1]),) if time_last else ((u.shape[1], *space),) if timed else ()),
    ):
        raise SchemaError(f"{path}: {source_in} has shape {a.shape}, {source_out} {u.shape}")
    if not 1 <= len(space) <= 3:
        raise SchemaError(f"{path}: {source_in} has shape {a.shape}, expected (N, X[, Y[, Z]])")
    kind = str(options.boundary)
    grid = uniform_grid(options, space, periodic=kind == "periodic", path=path)
    location = grid.axes[0].location
    n_t = u.shape[-1 if time_last else 1] if timed else 1
    times: tuple[float, ...] = (0.0,)
    if timed:
        key = next((k for k in ("t", "time") if k in first), None)
        if key is None:
            raise MissingMetadataError(f"{path.name} holds {n_t} frames and no times (t)")
        times = increasing(path, key, np.asarray(first[key]), n_t)
    numbers = [
        (k, float(np.asarray(v).reshape(-1)[0]))
        for k, v in first.items()
        if np.size(v) == 1
        and k not in (source_in, source_out)
        and np.asarray(v).dtype.kind in "fiu"
    ]
    units = options.units
    values = options.values.get(source_in)
    fields = (
        FieldSpec(name_in, name_in, location=location),
        FieldSpec(name_out, name_out, location=location, time_varying=timed),
    )  # fmt: skip
    dtype = np.result_type(u.dtype, np.float32)
    schema = DatasetSchema(
        problem=f"{format}_{path.stem}".replace("-", "_").replace(".", "_").replace(" ", "_"),
        title=f"imported from {path.name}",
        grid=grid,
        fields=fields,
        inputs=(name_in,),
        outputs=(name_out,),
        scalars=tuple(ScalarSpec(k, k, units.get(k, "1"), v) for k, v in numbers),
        boundary_conditions=()
        if kind == "periodic"
        else tuple(BoundarySpec(x.name, kind, (name_out,)) for x in grid.axes),
        problem_type="time_dependent" if timed else "static",
        time=times,
        dtype="float64" if dtype == np.float64 else "float32",
        sampling="unknown",
    )

    def make(data: dict[str, Any], p: Path) -> Callable[[int], Sample]:
        for key, shape in ((source_in, a.shape), (source_out, u.shape)):
            if key not in data or tuple(data[key].shape[1:]) != tuple(shape[1:]):
                raise SchemaError(f"{p}: {key} is missing or of another shape than in {path.name}")

        def sample(i: int) -> Sample:
            x = _mapped(np.asarray(data[source_in][i]), values, source_in, p)
            y = np.asarray(data[source_out][i], np.float64)
            return Sample(
                {name_in: x.reshape(space), name_out: np.moveaxis(y, -1, 0) if time_last else y}
            )

        return sample

    parts: dict[str, list[Callable[[], Sample]]] = {}
    for split, datas in loaded.items():
        for data, p in zip(datas, groups[split], strict=True):
            n = data[source_in].shape[0]
            parts.setdefault(split, []).extend(readers(make(data, p), {split: range(n)})[split])
    notes = "domain, boundary conditions and units are as stated by the user"
    if "valid" not in parts:
        held = max(1, len(parts["train"]) // 10)
        parts["valid"] = parts["train"][-held:]
        parts["train"] = parts["train"][:-held]
        notes += "; valid: the last tenth of the training file"
    splits: dict[str, Sequence[Callable[[], Sample]]]
    splits = {s: parts[s] for s in ("train", "valid", "test") if s in parts}
    paths = [p for ps in groups.values() for p in ps]
    source = {"source": f"{format} file", "import_notes": notes, "license": "unknown"}
    return Foreign(schema.problem, with_options(schema, options), splits, source, paths)


def _name(
    path: Path, data: Mapping[str, Any], names: Sequence[str], options: ImportOptions, role: str,
    other: str = "",
) -> str:  # fmt: skip
    arrays = [k for k, v in data.items() if np.ndim(v) > 1 or hasattr(v, "_ds")]
    for key in options.fields:
        check_name(f"array in {path.name}", key, sorted(data))
    for key in (*[k for k in options.fields if k in names], *names):
        if key in arrays and key != other:
            return key
    raise SchemaError(
        f"{path}: no {role} among the arrays {', '.join(sorted(data)) or 'none'}; looked for "
        f"{', '.join(names)}"
    )


def _mapped(
    x: np.ndarray, values: Mapping[float, float] | None, key: str, path: Path
) -> np.ndarray:
    x = np.asarray(x, np.float64)
    if values is None:
        return x
    out = np.full(x.shape, np.nan)
    for old, new in values.items():
        out[x == old] = new
    if np.isnan(out).any():
        odd = float(x[np.isnan(out)].flat[0])
        raise SchemaError(
            f"{path}: {key} holds {odd:g}, which --map does not name ({sorted(values)})"
        )
    return out


# -- DeepXDE -------------------------------------------------------------------------------------


def _deepxde(
    groups: Mapping[str, Sequence[Path]],
    loaded: Mapping[str, Sequence[dict[str, Any]]],
    options: ImportOptions,
) -> Foreign:
    """Sensors, query points and values: aligned (shared points) or one point a sample."""
    sets = {
        s: [_triple(d, p, s) for d, p in zip(ds, groups[s], strict=True)]
        for s, ds in loaded.items()
    }
    path = groups["train"][0]
    options.require(path, "units")
    u, y, s = sets["train"][0]
    aligned = s.shape[1:] != (1,) or len(y) != len(s)
    m, d, p = u.shape[1], y.shape[1], s.shape[1]
    axes = (
        ExtraAxis.index("sensor", m),
        ExtraAxis.index("query", p),
        ExtraAxis.index("coordinate", d),
    )
    names = {k: options.fields.get(k, k) for k in ("u", "y", "s")}
    schema = DatasetSchema(
        problem="deepxde_" + path.stem.replace("-", "_").replace(".", "_"),
        title=f"imported from {path.name}",
        grid=Grid(),
        fields=(
            FieldSpec(
                names["u"],
                "input function at the sensors",
                dims=("sensor",),
            ),
            FieldSpec(
                names["y"],
                "query points",
                dims=("query", "coordinate"),
                sample_varying=not aligned,
            ),
            FieldSpec(
                names["s"],
                "output function at the query points",
                dims=("query",),
            ),
        ),
        inputs=(names["u"], names["y"]),
        outputs=(names["s"],),
        layout="series",
        axes=axes,
        dtype="float64" if s.dtype == np.float64 else "float32",
        sampling="unknown",
    )

    def make(triple: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Callable[[int], Sample]:
        u1, y1, s1 = triple

        def sample(i: int) -> Sample:
            points = y1 if aligned else y1[i : i + 1]
            return Sample({names["u"]: u1[i], names["y"]: points, names["s"]: s1[i].reshape(p)})

        return sample

    parts: dict[str, list[Callable[[], Sample]]] = {}
    for split, triples in sets.items():
        for t, file in zip(triples, groups[split], strict=True):
            if t[0].shape[1] != m or t[1].shape[1] != d or (aligned and t[1].shape != y.shape):
                raise SchemaError(f"{file}: sensors or query points differ from {path.name}")
            if aligned and not np.array_equal(t[1], y):
                raise SchemaError(f"{file}: the query points differ from those of {path.name}")
            parts.setdefault(split, []).extend(readers(make(t), {split: range(len(t[0]))})[split])
    if "valid" not in parts:
        held = max(1, len(parts["train"]) // 10)
        parts["valid"], parts["train"] = parts["train"][-held:], parts["train"][:-held]
    splits: dict[str, Sequence[Callable[[], Sample]]]
    splits = {s: parts[s] for s in ("train", "valid", "test") if s in parts}
    source = {
        "source": "DeepXDE file",
        "license": "unknown",
        "import_notes": ("aligned" if aligned else "unaligned: one query point a sample")
        + "; units are as stated by the user; valid: the last tenth of the training file",
    }
    paths = [p for ps in groups.values() for p in ps]
    return Foreign(schema.problem, with_options(schema, options), splits, source, paths)


def _triple(data: Mapping[str, Any], path: Path, split: str) -> tuple[Any, Any, Any]:
    """``(u, y, s)`` of shapes (N, m), (P, d) or (N, d), (N, P) or (N, 1)."""
    if "X" in data and "y" in data:
        x, s = data["X"], data["y"]
        u, y = x[0], x[1]
    else:
        ends = [f"_{split}", "_train", "_test", ""]
        for end in ends:
            keys = (f"X{end}0", f"X{end}1", f"y{end}")
            if all(k in data for k in keys):
                u, y, s = (data[k] for k in keys)
                break
        else:
            raise SchemaError(
                f"{path}: expected X and y, or X_train0, X_train1 and y_train (found "
                f"{', '.join(sorted(data)) or 'nothing'})"
            )
    u, y, s = (np.asarray(v, np.float64 if np.asarray(v).dtype == np.float64 else np.float32)
               for v in (u, y, s))  # fmt: skip
    s = s.reshape(len(s), -1)
    if u.ndim != 2 or y.ndim != 2 or len(s) != len(u) or s.shape[1] not in (1, len(y)):
        raise SchemaError(
            f"{path}: shapes {u.shape}, {y.shape} and {s.shape} are neither aligned, (N, m), "
            "(P, d) and (N, P), nor unaligned, (N, m), (N, d) and (N, 1)"
        )
    return u, y, s
