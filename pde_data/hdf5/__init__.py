"""The HDF5 dataset format: schema, writer, reader, checks. See ``docs/data_format.md``.

Names are imported when first used, so that describing a dataset does not load h5py.
"""

from __future__ import annotations

import importlib
from typing import Any

_MODULES = {
    "schema": (
        "FORMAT",
        "FORMAT_VERSION",
        "SPLIT_CODES",
        "SPLIT_STRIDE",
        "BoundarySpec",
        "DatasetConfig",
        "DatasetSchema",
        "ExtraAxis",
        "FieldSpec",
        "NonuniformAxis",
        "ScalarSpec",
        "check_split_name",
        "default_samples_per_shard",
        "split_of_id",
    ),
    "errors": (
        "ChecksumError",
        "ConfigMismatchError",
        "DatasetError",
        "FormatVersionError",
        "IncompleteShardError",
        "InvalidSampleError",
        "MissingMetadataError",
        "MissingShardError",
        "NotAnOpkitFileError",
        "PhysicsCheckError",
        "SchemaError",
        "SplitLeakError",
        "TooManyFailuresError",
        "TruncatedFileError",
        "UnitsError",
    ),
    "writer": (
        "ShardWriter",
        "clean_temporaries",
        "is_complete_shard",
        "n_shards",
        "shard_defect",
        "shard_name",
        "shard_path",
    ),
    "reader": ("Dataset", "Split", "close_files", "open_dataset"),
    "manifest": ("rebuild_index",),
    "check": ("DamagedShard", "Finding", "check_dataset", "find_damaged"),
    "info": ("dataset_info", "format_info"),
    "convert": ("export_h5", "import_h5"),
    "export": ("export_netcdf", "export_well"),
    "units": ("check_units",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
