"""The rules of The Well's format checker, restated."""

from __future__ import annotations

import numpy as np


def is_bool(value):
    return isinstance(value, bool | np.bool_)


def is_names(value):
    return isinstance(value, np.ndarray) and all(isinstance(v, str) for v in value)


def breaches_of_the_wells_rules(f):
    """The rules of PolymathicAI/the_well scripts/check_thewell_formatting.py, restated."""
    root, dims = f.attrs, f["dimensions"]
    axes = list(dims.attrs["spatial_dims"])
    rules = {
        "n_spatial_dims": root["n_spatial_dims"] == len(axes) > 0,
        "n_trajectories": isinstance(root["n_trajectories"], int | np.integer),
        "dataset_name": isinstance(root["dataset_name"], str),
        "grid_type": isinstance(root["grid_type"], str),
        "simulation_parameters": all(p in root for p in root["simulation_parameters"]),
        "spatial_dims": is_names(dims.attrs["spatial_dims"]),
        "time_varying of time": bool(dims["time"].attrs["time_varying"]),
    }
    for d in ("time", *axes):
        for a in ("sample_varying", "time_varying"):
            rules[f"{d}@{a}"] = is_bool(dims[d].attrs[a])
    for order in range(3):
        group = f[f"t{order}_fields"]
        rules[f"names of t{order}"] = is_names(group.attrs["field_names"])
        rules[f"all of t{order}"] = set(group.attrs["field_names"]) == set(group)
        for name in group.attrs["field_names"]:
            ds, shape = group[name], []
            for a in ("sample_varying", "time_varying"):
                rules[f"{name}@{a}"] = is_bool(ds.attrs[a])
            varying = ds.attrs["dim_varying"]
            rules[f"{name}@dim_varying"] = len(varying) == len(axes) and is_bool(varying[0])
            if ds.attrs["sample_varying"]:
                shape.append(root["n_trajectories"])
            if ds.attrs["time_varying"]:
                shape.append(dims["time"].shape[-1])
            shape += [dims[d].shape[-1] for d, v in zip(axes, varying, strict=True) if v]
            rules[f"shape of {name}"] = ds.shape == (*shape, *[len(axes)] * order)
    scalars = f["scalars"]
    rules["names of scalars"] = is_names(scalars.attrs["field_names"])
    for name in scalars.attrs["field_names"]:
        flags = [scalars[name].attrs[a] for a in ("sample_varying", "time_varying")]
        rules[f"scalar {name}"] = all(map(is_bool, flags)) and scalars[name].ndim == sum(flags)
    for name, bc in f["boundary_conditions"].items():
        flags = [bc.attrs[a] for a in ("sample_varying", "time_varying")]
        rules[f"{name} flags"] = all(map(is_bool, flags))
        rules[f"{name} type"] = bc.attrs["bc_type"] in ("WALL", "OPEN", "PERIODIC")
        rules[f"{name} fields"] = is_names(bc.attrs["associated_fields"])
        on = bc.attrs["associated_dims"]
        rules[f"{name} dims"] = is_names(on) and len(on) > 0 and set(on) <= set(axes)
        rules[f"{name} mask"] = bc["mask"].shape == tuple(dims[d].shape[-1] for d in on)
    return [name for name, holds in rules.items() if not holds]
