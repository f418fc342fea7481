"""The index vouches for the structure of files whose bytes beside the fields have not changed."""

import json
import os
import runpy
import shutil
from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

from pde_data.hdf5 import DatasetError, check_dataset, open_dataset, rebuild_index
from pde_data.hdf5 import _file as file
from pde_data.hdf5.manifest import sound_shards
from pde_data.hdf5.reader import _HANDLES, close_files

S = SimpleNamespace(**runpy.run_path(str(Path(__file__).parent / "h5_samples.py")))
KINDS = ["darcy", "flow", "beam", "pipes", "ode"]


@pytest.fixture
def parsed(monkeypatch):
    """Names of the files whose whole structure is gone through."""
    names, read_schema = [], file.read_schema

    def note(f, **options):
        names.append(Path(f.filename).name)
        return read_schema(f, **options)

    monkeypatch.setattr(file, "read_schema", note)
    return names


def write(root, kind, compression="gzip"):
    schema = getattr(S, kind)()
    config = S.config_of(schema, {"train": 9}, samples_per_shard=3, compression=compression)
    for k in range(3):
        S.write_shard(root, schema, config, "train", k, fail={4})
    return rebuild_index(root)


def shards(manifest):
    return [s for split in manifest["splits"].values() for s in split["shards"]]


def same(a, b):
    """Whether two lists of facts say the same."""
    return len(a) == len(b) and all(
        np.array_equal(x, y, equal_nan=x.dtype.kind == "f") if isinstance(x, np.ndarray) else x == y
        for one, two in zip(a, b, strict=True)
        for x, y in ((getattr(one, f.name), getattr(two, f.name)) for f in fields(one))
    )


@pytest.mark.parametrize("compression", ["gzip", None])
@pytest.mark.parametrize("kind", KINDS)
def test_a_file_whose_bytes_are_known_is_not_gone_through(tmp_path, kind, compression, parsed):
    manifest = write(tmp_path, kind, compression)
    paths = [tmp_path / s["file"] for s in shards(manifest)]
    parsed.clear()
    by_index = sound_shards(tmp_path)
    assert parsed == [paths[0].name]  # the schema is that of all
    os.rename(tmp_path / "dataset.json", tmp_path / "elsewhere")
    parsed.clear()
    whole = sound_shards(tmp_path)
    assert parsed == [p.name for p in paths] and [f.path for f in whole] == paths
    assert same(by_index, whole)
    # other times and inodes are other files, with the same content
    os.rename(tmp_path / "elsewhere", tmp_path / "dataset.json")
    copy = tmp_path / "copy"
    shutil.copytree(tmp_path, copy, copy_function=shutil.copyfile)
    parsed.clear()
    assert len(sound_shards(copy)) == 3 and len(parsed) == 1
    for path in paths:
        os.utime(path, (0, 0))
    assert [s["frame"] for s in shards(rebuild_index(tmp_path))] == [
        s["frame"] for s in shards(manifest)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_found_with_the_index_as_without(tmp_path, kind):
    """Also where size, time and inode stay, as on a failing disk."""
    manifest = write(tmp_path, kind)
    index, entry = tmp_path / "dataset.json", shards(manifest)[1]
    path, text = tmp_path / entry["file"], index.read_text()
    data, st, rng = path.read_bytes(), path.stat(), np.random.default_rng(0)
    inside = np.zeros(len(data), bool)
    for a, b in entry["frame"]["fields"]:
        inside[a:b] = True
    assert 0 < inside.sum() < len(data)
    found = 0
    for at in rng.choice(np.flatnonzero(~inside), 16, replace=False):
        damaged = bytearray(data)
        damaged[at] ^= 1 << int(rng.integers(8))
        with path.open("r+b") as f:
            f.write(damaged)
        os.utime(path, ns=(st.st_atime_ns, st.st_mtime_ns))
        index.write_text(text)
        by_index = sound_shards(tmp_path)
        index.unlink()
        whole = sound_shards(tmp_path)
        assert same(by_index, whole)
        found += len(whole) == 2
    assert found >= 3  # HDF5 keeps room in which a byte means nothing


def test_the_frame_leaves_out_the_fields_and_nothing_else(tmp_path):
    manifest = write(tmp_path, "darcy")
    entry = shards(manifest)[0]
    with h5py.File(tmp_path / entry["file"]) as f:
        for name in ("a", "u"):
            ds = f[f"t0_fields/{name}"]
            for k in range(ds.id.get_num_chunks()):
                c = ds.id.get_chunk_info(k)
                assert any(
                    a <= c.byte_offset and c.byte_offset + c.size <= b
                    for a, b in entry["frame"]["fields"]
                )
        columns = [f[p] for p in ("sample", "quality/digest", "quality/residual")]
        for ds in columns:
            at = ds.id.get_chunk_info(0).byte_offset
            assert not any(a <= at < b for a, b in entry["frame"]["fields"])


@pytest.mark.parametrize(
    "wrong",
    [
        None, 1, "x", [], {}, {"fields": [], "digest": ""}, {"fields": [[0, 10**18]]},
        {"fields": [[5, 3]], "digest": "0"}, {"fields": [["a", "b"]], "digest": "0"},
        {"fields": [[1]], "digest": "0"}, {"fields": [[-5, 3]], "digest": "0"},
        {"fields": [[0.5, 3]], "digest": "0"}, {"fields": 3, "digest": "0"},
        {"fields": [[10**30, 10**31]], "digest": "0"}, {"fields": {"a": 1}, "digest": "0"},
    ],
)  # fmt: skip
def test_a_frame_that_does_not_fit_is_not_believed(tmp_path, wrong, parsed):
    write(tmp_path, "ode")
    index = tmp_path / "dataset.json"
    manifest = json.loads(index.read_text())
    for entry in shards(manifest):
        entry["frame"] = wrong
    index.write_text(json.dumps(manifest))
    parsed.clear()
    assert len(sound_shards(tmp_path)) == 3 and len(parsed) == 3
    assert open_dataset(tmp_path)["train"].ids.size == 8


def test_a_shard_of_another_dataset_is_not_taken_for_its_own(tmp_path):
    """Sound in itself, under a name that the index knows."""
    write(tmp_path / "d", "darcy")
    schema = S.darcy(13)
    config = S.config_of(schema, {"train": 9}, samples_per_shard=3)
    S.write_shard(tmp_path / "other", schema, config, "train", 1)
    name = "data/train/darcy_train_00001.h5"
    shutil.copyfile(tmp_path / "other" / name, tmp_path / "d" / name)
    facts = sound_shards(tmp_path / "d")
    assert [f.schema.grid.shape for f in facts] == [(9, 9), (13, 13), (9, 9)]
    assert check_dataset(tmp_path / "d") != []


# -- readers -------------------------------------------------------------------------------------


def test_a_reader_goes_through_a_file_once(tmp_path, monkeypatch):
    write(tmp_path, "darcy")
    checked, check_shapes = [], file.check_shapes
    monkeypatch.setattr(
        file,
        "check_shapes",
        lambda f, *a, **k: checked.append(f.filename) or check_shapes(f, *a, **k),
    )
    monkeypatch.setattr("pde_data.hdf5.reader.MAX_OPEN_FILES", 1)
    close_files()
    split = open_dataset(tmp_path)["train"]
    values = split.read(range(len(split)), ["u"])["u"]
    for _ in range(2):
        assert len(split.quality("residual")) == len(split.ids) == 8
        np.testing.assert_array_equal(split.read(range(len(split)), ["u"])["u"], values)
    assert len(checked) == 3 and len(_HANDLES._open) == 1
    close_files()
    split.quality("seed")
    assert len(checked) == 6


def test_a_reader_goes_through_a_file_that_was_replaced(tmp_path, monkeypatch):
    write(tmp_path, "darcy")
    monkeypatch.setattr("pde_data.hdf5.reader.MAX_OPEN_FILES", 1)
    split = open_dataset(tmp_path)["train"]
    split.quality("residual")
    first = split.files[0]
    schema = S.darcy(9)
    config = S.config_of(schema, {"train": 9}, samples_per_shard=3)
    S.write_shard(tmp_path / "x", schema, config, "train", 0, fail={1})
    os.replace(tmp_path / "x/data/train" / first.name, first)
    split.read([7], ["u"])  # another file, so that the first has to be opened again
    with pytest.raises(DatasetError, match="its content is not what"):
        split.quality("residual")
    with first.open("r+b") as f:
        f.truncate(1000)
    with pytest.raises(DatasetError):
        split.quality("residual")
