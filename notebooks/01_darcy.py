# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Darcy flow: data, operator, errors
#
# Pressure $u$ in a porous medium of permeability $a$:
#
# $$-\nabla\cdot(a\,\nabla u) = f \quad\text{in } (0,1)^2, \qquad u = 0 \text{ on the boundary.}$$
#
# Can a network learn the map $a \mapsto u$ from a few hundred solutions, and is it worth it? The sizes here are small, so that
# the notebook runs in a minute or two; the error at the end is accordingly large.

# %%
import os
import tempfile
from pathlib import Path

import numpy as np

import opkit

work = Path(os.environ.get("OPKIT_NOTEBOOK_DIR", tempfile.mkdtemp()))
n, epochs = (
    int(os.environ.get("OPKIT_NOTEBOOK_N", 200)),
    int(os.environ.get("OPKIT_NOTEBOOK_EPOCHS", 20)),
)

# %% [markdown]
# ## Make the data
#
# The permeability is two-valued: 12 where a Gaussian random field is positive, 3 elsewhere. Each solution carries its residual.

# %%
opkit.generate("darcy", out=work / "darcy", n=n, n_test=32, resolution=33, seed=1)
data = opkit.open_dataset(work / "darcy")
train = data["train"]
print(len(train), "samples, largest residual", train.quality("residual").max())

# %%
sample = train[0]
a, u = sample["inputs"]["a"], sample["outputs"]["u"]
print("a in", np.unique(a), " u from", u.min(), "to", u.max())

# %% [markdown]
# ## Train an operator
#
# MgNO writes each linear map between layers as a learned multigrid V-cycle.

# %%
run = work / "run"
opkit.fit(work / "darcy", model="mgno", out=run, epochs=epochs, seed=0)

# %% [markdown]
# ## How good is it?

# %%
metrics = opkit.evaluate(run, work / "darcy", split="test")
print(
    f"relative L2 error: mean {metrics['rel_l2']['mean']:.1%}, worst {metrics['rel_l2']['max']:.1%}"
)

# %% [markdown]
# Truth and prediction share one color scale; the error has its own.

# %%
from opkit.plots import plot_comparison, plot_history, plot_sample

operator = opkit.load(run)
test = data["test"]
batch = test.read(np.arange(1), ["a", "u"])
prediction = operator(batch["a"][:, None])
figure = plot_sample(
    batch["a"],
    batch["u"],
    prediction[0],
    [test[0]["coords"][k] for k in "xy"],
    input_labels=["a [m^2/(Pa s)]"],
    output_labels=["u [Pa]"],
    axis_units=["m", "m"],
)
figure

# %% [markdown]
# ## Is it worth it?
#
# The solver gets the same chance: a grid that is just fine enough for the accuracy of the network.

# %%
comparison = metrics["comparison"]
print(
    "solver at the same accuracy:",
    comparison["solver_seconds"],
    "s; model:",
    comparison["model_seconds"],
    "s",
)
print("pays off after", comparison["break_even"], "solves")
plot_comparison(comparison, model_error=metrics["rel_l2"]["mean"]).figure

# %%
print(opkit.report(run).name)
