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
# Can a network learn the map $a \mapsto u$ from a few hundred solutions, and is it worth it? The
# sizes here are small, so that the notebook runs in a minute or two; the error at the end is
# accordingly large.

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

import opkit

torch.set_num_threads(1)  # arrays this small are slower on several threads
work = Path(tempfile.mkdtemp())
n = int(os.environ.get("OPKIT_NOTEBOOK_N", "200"))
epochs = int(os.environ.get("OPKIT_NOTEBOOK_EPOCHS", "20"))

# %% [markdown]
# ## Make the data
#
# The permeability is two-valued: 12 where a Gaussian random field is positive, 3 elsewhere. Each
# solution carries its residual.

# %%
made = opkit.generate("darcy", out=work / "darcy", n=n, n_test=32, resolution=33, seed=1)
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
operator = opkit.fit(
    work / "darcy",
    model="mgno",
    out=run,
    epochs=epochs,
    batch_size=16,
    set={"hidden_channels": 12},
)
operator

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
from opkit.plots import plot_comparison, plot_sample

sample = data["test"][0]
truth = sample["outputs"]["u"]
prediction = operator(sample["inputs"]["a"])
plot_sample(
    sample["inputs"]["a"][None],
    truth[None],
    prediction[None],
    [sample["coords"][k] for k in "xy"],
    input_labels=["a [m²/(Pa s)]"],
    output_labels=["u [Pa]"],
    axis_units=["m", "m"],
)

# %% [markdown]
# ## Is it worth it?
#
# The solver gets the same chance: a grid that is just fine enough for the accuracy of the network.

# %%
comparison = metrics["comparison"]
print(f"solver at the same accuracy {1000 * comparison['solver_seconds']:.2g} ms")
print(f"model {1000 * comparison['model_seconds']:.2g} ms")
print("solutions until data and training have paid off:", comparison["break_even"])
plot_comparison(
    comparison,
    model_error=metrics["rel_l2"]["mean"],
    data_resolution=metrics["data"]["resolution"],
).figure

# %% [markdown]
# One page with all of it, to keep or to send:

# %%
print(opkit.report(run).name)
