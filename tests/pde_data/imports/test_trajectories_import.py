"""Tables of time series become datasets: gaps, lengths, labels, splits, and what is refused."""

import numpy as np
import pytest

from pde_data.hdf5 import SchemaError, check_dataset, open_dataset
from pde_data.imports import ImportOptions, import_data


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


TABLE = """patient,trajectory,time,v [mV],w
a,1,0.0,1.0,2.0
a,1,0.5,1.5,2.5
a,1,1.5,2.5,
a,2,0.0,0.0,1.0
a,2,0.5,0.1,1.1
b,1,0.0,5.0,6.0
b,1,0.7,5.7,6.7
b,1,1.0,6.0,7.0
b,1,2.0,NaN,8.0
b,2,0.0,1.0,2.0
b,2,1.0,5.5,6.5
"""


def test_gaps_lengths_labels_and_hold_out(tmp_path):
    file = write(tmp_path / "cells.csv", TABLE)
    options = ImportOptions(fields={"patient": "environment"}, units={"time": "s"})
    import_data("trajectories", [file], tmp_path / "d", options)
    assert check_dataset(tmp_path / "d") == []
    # environment a and b start in the same state: no leak, as they are other systems
    data = open_dataset(tmp_path / "d")
    schema = data.schema
    assert schema.field("trajectory").labels == ("v [mV]", "w")
    assert schema.time_units == "s" and schema.time_per_sample
    text = next(s.long_name for s in schema.scalars if s.name == "environment")
    assert text == "number of the environment: 0 a, 1 b"
    train, valid = data["train"], data["valid"]
    # the second of the two trajectories of each environment is held out
    assert train.read([0, 1], ["environment"])["environment"].tolist() == [0, 1]
    assert valid.read([0, 1], ["environment"])["environment"].tolist() == [0, 1]
    x = train.read([0, 1], ["trajectory", "observed"])
    np.testing.assert_array_equal(
        x["observed"][0], [[1, 1], [1, 1], [1, 0], [0, 0]]
    )  # a gap, and shorter than the longest
    np.testing.assert_array_equal(x["observed"][1], [[1, 1], [1, 1], [1, 1], [0, 1]])
    np.testing.assert_allclose(x["trajectory"][0, :3, 0], [1.0, 1.5, 2.5])
    np.testing.assert_allclose(x["trajectory"][1, :, 1], [6.0, 6.7, 7.0, 8.0])
    np.testing.assert_allclose(train.times(0), [0.0, 0.5, 1.5, 2.25])  # median step 0.75
    np.testing.assert_allclose(train.times(1), [0.0, 0.7, 1.0, 2.0])


def test_inner_gap_is_a_straight_line_and_shared_times_have_no_mask(tmp_path):
    file = write(tmp_path / "a.csv", "t;x\n0;1\n1;\n3;7\n4;8\n5;9\n6;10\n7;11\n8;12\n9;13\n10;14\n")
    import_data("trajectories", [file], tmp_path / "gap", ImportOptions(valid=(file,)))
    s = open_dataset(tmp_path / "gap")["train"]
    assert not s.schema.time_per_sample
    read = s.read([0], ["trajectory", "observed"])
    assert read["trajectory"][0, 1, 0] == pytest.approx(3.0)
    assert read["observed"][0, :3, 0].tolist() == [1, 0, 1]
    full = write(tmp_path / "b.csv", "time,x\n" + "\n".join(f"{i},{i * i}" for i in range(10)))
    import_data("trajectories", [full], tmp_path / "full", ImportOptions(valid=(full,)))
    assert "observed" not in [f.name for f in open_dataset(tmp_path / "full").schema.fields]


def test_one_trajectory_an_environment_holds_out_late_times(tmp_path):
    rows = "\n".join(f"{e},{t},{t + e}" for e in (3, 7) for t in range(10))
    file = write(tmp_path / "a.csv", "environment,time,x\n" + rows)
    import_data("trajectories", [file], tmp_path / "d")
    data = open_dataset(tmp_path / "d")
    # numbers stay numbers
    assert data["valid"].read([0, 1], ["environment"])["environment"].tolist() == [3, 7]
    assert data["valid"].times(0).tolist() == [8.0, 9.0] or len(data["valid"].times(0)) == 8
    x = data["valid"].read([1], ["trajectory", "observed"])
    assert x["trajectory"][0, :2, 0].tolist() == [15.0, 16.0]
    assert x["observed"][0, :, 0].sum() == 2


def test_family_column(tmp_path):
    text = "env,family,time,x\n0,vdp,0,1\n0,vdp,1,2\n1,lv,0,1\n1,lv,1,2\n"
    file = write(tmp_path / "a.csv", text)
    import_data("trajectories", [file], tmp_path / "d", ImportOptions(valid=(file,)))
    schema = open_dataset(tmp_path / "d").schema
    assert next(s.long_name for s in schema.scalars if s.name == "family").endswith("0 vdp, 1 lv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("time,x\n0,1\n0,2\n", r"line 3: time 0 after 0 in environment 0.*column 'trajectory'"),
        ("time,x\n0,1\n1,high\n", r"line 3: x is 'high', expected a number"),
        ("time,x\n0,1\n1\n", r"line 3: 1 cells, expected 2"),
        ("time,x\n0,1\n", r"has one time, need at least 2"),
        ("x,y\n0,1\n1,2\n", r"no column 'time' among x, y\. Give --map NAME=time"),
        ("time,x\n0,1\n1,inf\n", r"line 3: x is infinite"),
        ("time,x\n,1\n1,2\n", r"line 2: time is missing"),
        ("time,environment\n0,1\n1,2\n", r"there are no states"),
        ("time,x,x\n0,1,1\n1,2,2\n", r"column names are empty or repeat"),
        ("env,family,time,x\n0,a,0,1\n0,b,1,2\n", r"line 3: environment 0 is of family 'b'"),
    ],
)
def test_refused_in_one_line(tmp_path, text, message):
    file = write(tmp_path / "a.csv", text)
    with pytest.raises(SchemaError, match=message) as e:
        import_data("trajectories", [file], tmp_path / "d", ImportOptions(valid=(file,)))
    assert "\n" not in str(e.value)
    assert not (tmp_path / "d").exists()


def test_short_single_trajectories_need_a_valid_file(tmp_path):
    file = write(tmp_path / "a.csv", "time,x\n0,1\n1,2\n2,3\n")
    with pytest.raises(SchemaError, match=r"too short to hold times out.*--valid FILE"):
        import_data("trajectories", [file], tmp_path / "d")


def test_files_with_other_states(tmp_path):
    a = write(tmp_path / "a.csv", "time,x\n0,1\n1,2\n")
    b = write(tmp_path / "b.csv", "time,y\n0,1\n1,2\n")
    with pytest.raises(SchemaError, match=r"b\.csv: states y, those of a\.csv are x"):
        import_data("trajectories", [a], tmp_path / "d", ImportOptions(valid=(b,)))
