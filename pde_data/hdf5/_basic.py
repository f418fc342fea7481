"""Reading and writing single HDF5 objects, safely."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from .errors import SchemaError

KIB, MIB = 2**10, 2**20
STR = h5py.string_dtype()
#: Deflate makes data at most 1032 times smaller.
MAX_RATIO = 1100


def set_attrs(obj: h5py.HLObject, values: Mapping[str, Any]) -> None:
    """Write attributes; a sequence of str becomes a 1-D string array, also when empty."""
    for key, value in values.items():
        if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            obj.attrs.create(key, np.array(list(value), dtype=object), (len(value),), STR)
        else:
            obj.attrs[key] = value


def strings(value: Any) -> tuple[str, ...]:
    """Return a stored ``str[]`` as a tuple; one lone string counts as a list of one."""
    if isinstance(value, str | bytes):
        value = [value]
    return tuple(v.decode() if isinstance(v, bytes) else str(v) for v in np.asarray(value).ravel())


def filters(compression: str | None) -> dict[str, Any]:
    """Storage options of chunked data."""
    return {
        "fletcher32": True,
        "shuffle": compression is not None,
        "compression": compression,
        "compression_opts": 4 if compression else None,
    }


def column(
    f: h5py.Group,
    name: str,
    values: np.ndarray,
    attrs: Mapping[str, Any] | None = None,
    *,
    checksum: bool = False,
) -> h5py.Dataset:
    """Create a small dataset; with a checksum in one chunk, which costs 2 kB of HDF5's index."""
    values = np.asarray(values)
    if values.dtype.kind == "O":
        ds = f.create_dataset(name, values.shape, STR, data=values if values.size else None)
    elif checksum and values.ndim and values.size:
        ds = f.create_dataset(name, data=values, chunks=values.shape, fletcher32=True)
    else:
        ds = f.create_dataset(name, data=values)
    set_attrs(ds, attrs or {})
    return ds


def has(f: h5py.File, path: str) -> bool:
    """Whether there is something at `path`; no link is followed to find out."""
    *parents, last = path.split("/")
    obj: Any = f.id
    for part in parents:
        if _link(obj, part) != h5py.h5l.TYPE_HARD:
            return False
        obj = h5py.h5o.open(obj, _key(part))
    return _link(obj, last) is not None


def get(f: h5py.File, path: str) -> Any:
    """Object at `path`, through hard links alone; never into another file.

    Raises
    ------
    SchemaError
        It is missing, or behind a soft or external link.
    """
    obj: Any = f.id  # h5py's own objects cost several times as much
    for part in path.split("/"):
        link = _link(obj, part)
        if link is None:
            raise SchemaError(f"{f.filename}: {path} is missing.")
        if link != h5py.h5l.TYPE_HARD:
            raise SchemaError(f"{f.filename}: {path} is a link to elsewhere; that is not followed.")
        obj = h5py.h5o.open(obj, _key(part))
    if isinstance(obj, h5py.h5d.DatasetID):
        return h5py.Dataset(obj)
    return h5py.Group(obj) if isinstance(obj, h5py.h5g.GroupID) else h5py.Datatype(obj)


def _link(group: Any, name: str) -> int | None:
    """Kind of a link of a group; None if there is no such link, or it is no group."""
    if not isinstance(group, h5py.h5g.GroupID) or name in ("", "."):
        return None
    key = _key(name)
    return group.links.get_info(key).type if group.links.exists(key) else None


def _key(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


def get_group(f: h5py.File, path: str) -> h5py.Group:
    """Group at `path`."""
    group = get(f, path)
    if not isinstance(group, h5py.Group):
        raise SchemaError(f"{f.filename}: {path} is a dataset, expected a group.")
    return group


def get_dataset(f: h5py.File, path: str, *, virtual: bool = False) -> h5py.Dataset:
    """Dataset at `path` whose data lie in this very file, and are as large as they say.

    Raises
    ------
    SchemaError
        Not a dataset, or its data lie in other files, or it declares more than it can hold.
    """
    ds = get(f, path)
    if not isinstance(ds, h5py.Dataset):
        raise SchemaError(f"{f.filename}: {path} is a group, expected a dataset.")
    if ds.external or (ds.is_virtual and not virtual):
        raise SchemaError(f"{f.filename}: {path} keeps its data in other files; not followed.")
    if ds.shape is None:
        raise SchemaError(f"{f.filename}: {path} holds nothing.")
    if not ds.is_virtual:
        stored = ds.id.get_storage_size()
        limit = MAX_RATIO * stored + 64 * KIB if ds.chunks else stored
        for what, shape in (("declares", ds.shape), ("has chunks of", ds.chunks)):
            size = math.prod(shape) * ds.dtype.itemsize if shape else 0
            if size > limit and not (what == "has chunks of" and ds.size == 0):
                raise SchemaError(
                    f"{f.filename}: {path} {what} {size} bytes, which {stored} stored bytes "
                    "cannot hold."
                )
    return ds


def load(ds: h5py.Dataset) -> np.ndarray:
    """All of a dataset from `get_dataset`, as an array."""
    return np.asarray(ds[...])


def attr(obj: h5py.HLObject, name: str) -> Any:
    """Attribute that must be there."""
    attrs = obj.attrs
    if name not in attrs:
        raise SchemaError(
            f"{obj.file.filename}: {obj.name.lstrip('/') or 'root'} has no attribute {name!r}."
        )
    return attrs[name]


def scale_names(ds: h5py.Dataset, root: Mapping[int, str]) -> list[list[str]]:
    """Names of the dimension scales attached to each axis.

    HDF5's own functions for it take the type of the attributes on trust, and write past the end of
    memory where it is another.

    Parameters
    ----------
    root : mapping of int to str
        From `root_addresses`.
    """
    names: list[list[str]] = [[] for _ in ds.shape]
    lists = ds.attrs.get("DIMENSION_LIST")
    if not isinstance(lists, np.ndarray) or lists.shape != (len(ds.shape),):
        return names
    for axis, refs in zip(names, lists, strict=True):
        for ref in refs if isinstance(refs, np.ndarray) and refs.ndim == 1 else ():
            if isinstance(ref, h5py.Reference) and ref:
                obj = h5py.h5r.dereference(ref, ds.id)
                axis.append(root.get(h5py.h5o.get_info(obj).addr, ""))
    return [[name for name in axis if name] for axis in names]


def root_addresses(f: h5py.File) -> dict[int, str]:
    """Names of the datasets in the root by where they lie in the file."""
    out = {}
    for name in f:
        if isinstance(f.get(name, getlink=True), h5py.HardLink):
            out[h5py.h5o.get_info(f[name].id).addr] = name
    return out
