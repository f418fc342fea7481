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
# # Converting your own network
#
# A convolutional network that was trained on a grid of 64 points counts points: on 256 points its
# kernels are a quarter as wide, and it computes something else. Read as an *operator*, a
# convolution is an integral with a kernel of fixed width, of which the weights are samples.
# `to_operator` reads every layer of a network so. The weights stay as they are; nothing is trained
# again.
#
# The example is one step of the Allen-Cahn equation, periodic in one dimension,
#
# $$\partial_t u = \epsilon^2 \partial_x^2 u + u - u^3,$$
#
# from $u(0)$ to $u(2)$.

# %%
# %matplotlib inline
import os
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import opkit
from models.nn_to_no import UnsupportedLayerError, discretization_error, grid, to_operator

torch.set_num_threads(1)
torch.manual_seed(0)
work = Path(tempfile.mkdtemp())
n = int(os.environ.get("OPKIT_NOTEBOOK_N", "120"))
epochs = int(os.environ.get("OPKIT_NOTEBOOK_EPOCHS", "80"))

# %% [markdown]
# ## Data
#
# The solver's solutions on 256 points. Every fourth point makes the training data: the same
# functions on 64 points.

# %%
opkit.generate(
    "allen_cahn",
    out=work / "step",
    n=n,
    n_test=32,
    resolution=256,
    seed=1,
    params={"dim": 1, "epsilon": 0.04, "t_end": 2, "n_times": 2, "n_modes": 12},
)
data = opkit.open_dataset(work / "step")
train, test = data["train"], data["test"]
print(len(train), "samples, largest residual", train.quality("residual").max())


def fields(split, points):
    u = split.read(np.arange(len(split)), ["u"])["u"][..., :: 256 // points]
    return (torch.as_tensor(u[:, k, None]).float() for k in (0, -1))


# %% [markdown]
# ## A network of your own
#
# Any `torch.nn.Module` whose layers have a continuous analogue. This one is trained at 64 points by
# a plain loop.


# %%
def conv(a, b):
    return nn.Conv1d(a, b, 9, padding=4, padding_mode="circular")


net = nn.Sequential(conv(1, 16), nn.GELU(), conv(16, 16), nn.GELU(), conv(16, 1))
x, y = fields(train, 64)


def relative(p, y):
    return (p - y).flatten(1).norm(dim=1) / y.flatten(1).norm(dim=1)


optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
for _ in range(epochs):
    for index in torch.randperm(len(x)).split(8):
        loss = relative(net(x[index]), y[index]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

# %% [markdown]
# ## The operator with the same weights
#
# `reference` says where the network was trained. `report` tells what each layer became, and whether
# it is the layer itself on that grid.

# %%
reference = grid(64, layout="periodic")
op = to_operator(net, reference=reference)
for row in op.report():
    print(f"{row.path:4s} {row.layer:8s} {row.operator:45s} exact at the reference: {row.exact}")
with torch.no_grad():
    assert torch.equal(op(x[:4]), net(x[:4]))
assert list(op.state_dict()) == list(net.state_dict())

# %% [markdown]
# On the test functions, at the resolution of the training and at ones it has never seen:

# %%
errors = {}
with torch.no_grad():
    for points in (64, 128, 256):
        xt, yt = fields(test, points)
        errors[points] = [float(relative(m(xt), yt).mean()) for m in (op, net)]
        print(
            f"{points} points, relative L2 error: mean {100 * errors[points][0]:.2f} % as an "
            f"operator, {100 * errors[points][1]:.2f} % as a network"
        )

# %%
with torch.no_grad():
    fine, truth = fields(test, 256)
    a, b = op(fine[:1])[0, 0], net(fine[:1])[0, 0]
t = np.arange(256) / 256
figure, ax = plt.subplots(figsize=(6.5, 3.2), layout="constrained")
ax.plot(t, fine[0, 0], color="0.7", label="u(0)")
ax.plot(t, truth[0, 0], color="black", label="u(2), solver")
ax.plot(t, a, "--", color="tab:blue", label="operator")
ax.plot(t, b, ":", color="tab:red", label="network")
ax.set(xlabel="x", ylabel="u", title="256 points, trained at 64")
ax.legend()
plt.show()

# %% [markdown]
# ## Is it an operator?
#
# Without any data: how far is the output on each grid from that on the finest, and from that on
# the training grid (*drift*)? The network converges too, as the grid is refined. But it drifts: to
# a map that acts point by point, which nobody has trained.


# %%
def waves(x):
    return 0.8 * np.sin(2 * np.pi * x) + 0.3 * np.cos(10 * np.pi * x)


grids = [reference.refined(k) for k in (1, 2, 4, 8)]
for name, model in (("operator", op), ("network", net)):
    table = discretization_error(model, waves, grids, reference)
    print(f"{name}\n{table}\n")

# %% [markdown]
# ## What has no continuous analogue
#
# is refused, with the path of the layer in the module and the reason, rather than converted to
# something that only runs.

# %%
for layer in (nn.LayerNorm((1, 64)), nn.AdaptiveAvgPool1d(8), nn.ZeroPad1d(2)):
    try:
        to_operator(nn.Sequential(conv(1, 1), layer), reference=reference)
    except UnsupportedLayerError as e:
        print(e)
