"""Damage files in random ways and use them; only a `DatasetError` may come out.

Run as ``python h5_mutate.py DIRECTORY SEED COUNT``, in a process of its own: a crash, a hang or an
allocation beyond reason must not take the tests with it.
"""

import resource
import runpy
import shutil
import sys
from pathlib import Path

import h5py
import numpy as np

from pde_data.hdf5 import (
    DatasetError,
    check_dataset,
    close_files,
    dataset_info,
    format_info,
    open_dataset,
)

SECRET = 987654321.0
VALUES = [
    0, -1, 10**15, 2**62, np.nan, np.inf, 1e300, 1 + 2j, True, b"\xff", "", "x", "2.0", "1.9",
    "grid", "mesh", "ragged", "series", "time_dependent", np.zeros(0), np.zeros((0, 3)),
    np.arange(5), np.ones((2, 2)), np.array([-1, 2**40]), np.array(["a", "b"], object),
    np.array([], object),
]  # fmt: skip


def set_attr(obj, name, value):
    if isinstance(value, np.ndarray) and value.dtype == object:
        obj.attrs.create(name, value, value.shape, h5py.string_dtype())
    elif isinstance(value, bytes):
        obj.attrs.create(name, np.array(value, "S3"))
    else:
        obj.attrs[name] = value


def objects(f):
    found = [f]
    f.visititems(lambda _, obj: found.append(obj))
    return found


def mutate(path, rng, secret):
    """Change a file in one to three ways."""
    if rng.random() < 0.25:
        return scramble(path, rng)
    with h5py.File(path, "r+") as f:
        for _ in range(rng.integers(1, 4)):
            every = objects(f)
            obj = every[rng.integers(len(every))]
            if rng.random() < 0.5 and len(obj.attrs):
                name = sorted(obj.attrs)[rng.integers(len(obj.attrs))]
                if name in ("DIMENSION_LIST", "REFERENCE_LIST") and rng.random() < 0.8:
                    continue
                if rng.random() < 0.3:
                    del obj.attrs[name]
                else:
                    set_attr(obj, name, VALUES[rng.integers(len(VALUES))])
            elif isinstance(obj, h5py.Dataset) and rng.random() < 0.5:
                edit(obj, rng)
            elif obj.name != "/":
                substitute(f, obj, rng, secret)


def edit(ds, rng):
    """Change one value, or the extent."""
    if rng.random() < 0.3 and ds.chunks and ds.ndim:
        big = ds.maxshape[0] is None or rng.random() < 0.5
        try:
            ds.resize((2**40) if big else 0, axis=0)
        except (ValueError, OSError):
            ds.resize(max(0, ds.shape[0] - 1), axis=0)
    elif ds.size and ds.dtype.kind in "fiu":
        at = tuple(int(rng.integers(n)) for n in ds.shape)
        if ds.dtype.kind == "f":
            ds[at] = [np.nan, np.inf, -1e30, 0.0, 1e9][rng.integers(5)]
        else:
            info = np.iinfo(ds.dtype)
            ds[at] = [info.max, info.min, 0, 7][rng.integers(4)]


def substitute(f, obj, rng, secret):
    """Put something else in an object's place."""
    name, dtype = obj.name, obj.dtype if isinstance(obj, h5py.Dataset) else np.dtype("<f4")
    shape = obj.shape if isinstance(obj, h5py.Dataset) else (4, 5)
    attrs = dict(obj.attrs) if rng.random() < 0.7 else {}
    for k in ("DIMENSION_LIST", "REFERENCE_LIST", "CLASS", "NAME"):
        attrs.pop(k, None)
    del f[name]
    kind = rng.integers(10)
    if kind == 0:
        return
    if kind == 1:
        new = f.create_group(name)
    elif kind == 2:
        f[name] = h5py.SoftLink(["/", name, "/sample", "/nothing"][rng.integers(4)])
        return
    elif kind == 3:
        f[name] = h5py.ExternalLink(str(secret), "/data")
        return
    elif kind == 4:
        shape = tuple(int(10.0 ** rng.integers(0, 9)) for _ in shape) or (2**40,)
        new = f.create_dataset(name, shape, dtype if dtype.kind in "fiu" else "<f8", chunks=True)
    elif kind == 5:
        kinds = ["<i2", "S4", "<c8", h5py.string_dtype(), [("a", "<f4")], "?", ">f8", "<f2"]
        new = f.create_dataset(name, shape, kinds[rng.integers(len(kinds))])
    elif kind == 6:
        new = f.create_dataset(name, data=h5py.Empty("f"))
    elif kind == 7:
        layout = h5py.VirtualLayout(shape or (1,), dtype if dtype.kind in "fiu" else "<f8")
        source = [str(secret), f"../{secret.name}", "nothing.h5", "."][rng.integers(4)]
        layout[...] = h5py.VirtualSource(source, "/data", layout.shape)
        new = f.create_virtual_dataset(name, layout, fillvalue=0)
    elif kind == 8:
        kind_of = dtype if dtype.kind in "fiu" else "<f8"
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(kind_of).itemsize or 8
        new = f.create_dataset(name, shape or (1,), kind_of, external=[(str(secret), 0, size)])
    else:
        new = f.create_dataset(name, (2**31,), "<f8", chunks=(2**28,), compression="gzip")
    for k, v in attrs.items():
        set_attr(new, k, v)


def scramble(path, rng):
    """Flip bytes, mostly of the header, or cut the file."""
    data = bytearray(path.read_bytes())
    if rng.random() < 0.2:
        data = data[: rng.integers(len(data))]
    else:
        end = min(len(data), 4096) if rng.random() < 0.7 else len(data)
        for _ in range(rng.integers(1, 6)):
            data[rng.integers(end)] = rng.integers(256)
    path.write_bytes(data)


def use(path, thorough):
    """Everything one does with a file; what is read comes back."""
    seen = []
    try:
        dataset = open_dataset(path)
        for split in dataset.splits:
            s = dataset[split]
            if len(s):
                one = s[len(s) - 1]
                seen += [*one["inputs"].values(), *one["outputs"].values(), *one["coords"].values()]
                seen += [one["weights"]]
                for values in s.read([0, -1]).values():
                    seen += list(values)
        if thorough:
            format_info(dataset_info(path))
    except DatasetError as e:
        assert "\n" not in str(e), str(e)
    if thorough:
        check_dataset(path, physics=True)
    return seen


def main(directory, seed, count):
    files = sorted(directory.glob("*.h5"))
    secret = directory / "outside" / "secret.h5"
    work = directory / "work"
    work.mkdir(exist_ok=True)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**29, used + 2**29))
    broken = 0
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        path = work / "f.h5"
        shutil.copyfile(files[i % len(files)], path)
        before = path.read_bytes()
        try:
            mutate(path, rng, secret)
        except (OSError, ValueError, TypeError, KeyError, RuntimeError):  # of h5py, half-way
            continue
        broken += path.read_bytes() != before
        try:
            seen = use(path, thorough=i % 8 == i // 8 % 8)
            for values in seen:
                assert not np.any(np.asarray(values) == SECRET), "read another file"
        except BaseException:
            sys.stderr.write(f"mutation {i} of seed {seed}, {files[i % len(files)].name}\n")
            raise
        close_files()
    sys.stdout.write(f"broken {broken}\n")


def prepare(directory):
    """One file of each layout, and one outside that must not be read."""
    S = runpy.run_path(str(Path(__file__).with_name("h5_samples.py")))
    (directory / "outside").mkdir()
    with h5py.File(directory / "outside" / "secret.h5", "w") as f:
        f["data"] = np.full(1000, SECRET)
    schemas = {"grid": "flow", "mesh": "beam", "ragged": "pipes", "series": "ode"}
    for layout, name in schemas.items():
        S["write_dataset"](directory / layout, S[name](), {"train": 4})
        shard = next((directory / layout / "data" / "train").glob("*.h5"))
        shutil.copyfile(shard, directory / f"{layout}.h5")


if __name__ == "__main__":
    where = Path(sys.argv[1])
    if not list(where.glob("*.h5")):
        prepare(where)
    main(where, int(sys.argv[2]), int(sys.argv[3]))
