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
# # Many dynamical systems, one model: families found without labels
#
# A few trajectories each of twelve systems, and nobody says which of them obey the same law. In
# truth they are harmonic oscillators, double wells and Van der Pol oscillators, four parameters of
# each. MixER gives each system a *context* vector, clusters the contexts, and lets one expert learn
# each cluster. Does it find the three laws? And can it follow a system that it has never seen, from
# one trajectory?
#
# Sizes are small, so that the notebook runs in a minute; the errors are accordingly large.

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
epochs = int(os.environ.get("OPKIT_NOTEBOOK_EPOCHS", "10"))
families = ["harmonic_oscillator", "double_well", "duffing"]

# %% [markdown]
# ## The data
#
# Sparse: three trajectories of twenty points for each system. Families have other horizons (10, 5
# and 10 time units), which share batches all the same.

# %%
opkit.generate(
    "ode_families", out=work / "data", n=36, n_valid=12, n_test=48, seed=1, progress=False,
    set={"families": families, "n_environments": 4},
)  # fmt: skip
train = opkit.open_dataset(work / "data")["train"]
print(len(train), "trajectories, last times", train.times(0)[-1], train.times(5)[-1])

# %% [markdown]
# ## Training
#
# For the first 30 % of the steps all systems share one expert, which only the contexts adapt. By
# then the contexts have sorted themselves by law, and K-means makes the gate.

# %%
run = work / "run"
operator = opkit.fit(
    work / "data", model="mixer", out=run, epochs=epochs, repeat=60, lr=5e-3, threads=1,
    set={"width": 32}, task={"horizon": 4}, progress=False,
)  # fmt: skip
metrics = opkit.evaluate(run, work / "data", progress=False)
print("experts by system:", operator.experts)
print("adjusted Rand index against the families:", metrics["adjusted_rand_index"])
print(f"relative L2 error on new trajectories: median {metrics['rel_l2']['median']:.1%}")

# %%
from opkit.report import _read_run
from opkit.tasks import get_task

facts = _read_run(run)
pictures = get_task("trajectories").figures(facts["operator"], facts["evaluations"]["test"])
pictures[0].figure

# %% [markdown]
# ## A map of the systems
#
# Contexts on their first two principal components. Nothing but the trajectories went into it.

# %%
pictures[1].figure

# %% [markdown]
# ## New systems from one trajectory each
#
# Other parameters of the same laws. All weights stay as they are; every expert is tried, and the
# one with the least loss is kept.

# %%
opkit.generate(
    "ode_families", out=work / "new", n=12, n_valid=12, n_test=48, seed=2, progress=False,
    set={"families": families, "environments": "adaptation"},
)  # fmt: skip
adapted = opkit.adapt(run, work / "new", out=work / "adapted", steps=200, threads=1, progress=False)
after = opkit.evaluate(work / "adapted", work / "new", progress=False)
print("experts of the new systems:", adapted.experts)
print(f"relative L2 error on their other trajectories: median {after['rel_l2']['median']:.1%}")

# %%
adapted.model.contexts.values.data.zero_()  # what the adaptation started from
test = opkit.open_dataset(work / "new")["test"]
a = adapted.task.read(test, np.arange(len(test)))
before = ((adapted(a.x[:, 0], a.times, a.environment) - a.x) ** 2).mean()
print(f"mean squared error {after['mse']['mean']:.2g}, with contexts of zero {before:.2g}")

# %% [markdown]
# When this is *not* the right model is the subject of the next notebook.
