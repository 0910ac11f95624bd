# ---
# jupyter:
#   accelerator: TPU
#   colab:
#     gpuType: V5E1
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Tiny-ImageNet on a TPU
#
# [![Open in Colab][badge]][colab]
#
# [badge]: https://colab.research.google.com/assets/colab-badge.svg
# [colab]: https://colab.research.google.com/github/your_github_name/undistillable/blob/main/notebooks/tiny_imagenet_tpu.ipynb
#
# The command line in a notebook: it prepares Tiny-ImageNet, trains a normal and
# a nasty teacher on it, robs both, and writes a report. `:smoke` goes through
# all of that once, on 16 images; its numbers mean nothing. The last section
# says what the whole takes.
#
# *This notebook was executed by a test, on a CPU with fabricated images, and
# without Google Drive; nowhere else yet. So it shows no outputs.*

# %% [markdown]
# ## Setup
#
# Choose a TPU under *Runtime > Change runtime type*: a free one is a v5e with
# one chip. Then fetch the code and install what is missing. The `jax` of the
# runtime knows the TPU, so the last line makes sure that it was left as it is.

# %% tags=["colab"]
import importlib.metadata

clone = '/content/undistillable'
url = 'https://github.com/your_github_name/undistillable'
jax_before = importlib.metadata.version('jax')
# !test -d {clone} || git clone -q {url} {clone}
# %cd -q {clone}
# !pip install -q .
assert importlib.metadata.version('jax') == jax_before, 'jax was replaced'

# %% [markdown]
# ## Is the TPU there?
#
# One process owns the TPU. Here that is each command in its turn, so this
# notebook itself never asks `jax` for anything. With a TPU, the list has a
# `TpuDevice`.

# %%
# !python -c "import jax; print('jax', jax.__version__, jax.devices())"

# %% [markdown]
# ## Parameters
#
# A session's disk is gone with it. On Google Drive, what was trained stays, and
# after a disconnect the same cells go on with it: choose `on_drive` for
# anything longer than `:smoke`. Flags are what you would type behind the
# commands below, such as
# `--archive=/content/drive/MyDrive/tiny-imagenet-200.zip` where you have the
# archive, or `--config.seeds='(0,)'`.

# %% tags=["parameters"]
on_drive = False  # @param {"type":"boolean"}
workdir = 'workdirs/tiny_imagenet'
prepare_flags = ''  # @param {"type":"string"}
flags = ''  # @param {"type":"string"}

# %%
if on_drive:
  from google.colab import drive

  drive.mount('/content/drive')
  workdir = f'/content/drive/MyDrive/undistillable/{workdir}'

# %% [markdown]
# ## Data
#
# The official archive of 248 MB is downloaded from Stanford, checked by its
# sha256, and prepared on the disk of this machine: where it is read in every
# run, Drive would be slow. The last line says how many images there are:
# 100,000 to train and 10,000 to test.

# %%
# !python -m undistillable.data prepare tiny_imagenet {prepare_flags}

# %% [markdown]
# ## Train, rob, report
#
# Five networks: a normal and a nasty ResNeXt-29, and MobileNetV2 alone and as
# the student of either. The first step of each waits for its compiler. At the
# end comes a table, and where the report is.
#
# After a disconnect, run all cells again from the top: this one finds what was
# trained in `workdir`, and goes on from the last whole epoch. Where the session
# ended in the middle of a network, it waits up to a minute before that, until
# it is certain that no one else trains it.

# %%
# !python -m undistillable.main --config=configs/tiny_imagenet.py:smoke \
#   --workdir={workdir} {flags}

# %% [markdown]
# How far it has got, and what is left; also from another session that has the
# same Drive:

# %%
# !python -m undistillable.status --workdir={workdir}

# %% [markdown]
# ## Figures
#
# Test accuracy of every network; what both teachers answer to the same images;
# and how the networks learned. The whole report is `report.html` in the
# workdir, one file that needs no network.

# %%
import pathlib

from IPython import display

for name in ('accuracy', 'logits', 'curves'):
  figure = pathlib.Path(workdir, 'figures', f'{name}.png')
  display.display(display.Image(filename=figure, width=800))

# %% [markdown]
# ## The whole experiment
#
# Remove `:smoke`, and the command trains what the article prints: a ResNet-18
# as teacher and MobileNetV2, ShuffleNetV2 and ResNet-18 as students, 33
# networks in 3 seeds, 200 epochs each. Together they compute 5 million
# teraflop: at the very least 7 hours of a v5e chip, whose peak is 197 teraflop
# a second, and some days at a tenth of it. So put it `on_drive`. One seed,
# `--config.seeds='(0,)'`, takes a third.
#
# The next cell times three layers on this machine and multiplies. That comes
# within a factor of two or so on a CPU; on a TPU nobody has compared it yet,
# and such small layers do not fill one.
#
# A workdir belongs to one config, so give the whole experiment another
# `workdir` under *Parameters* than `:smoke` had.

# %%
# !python -m experiments --config=configs/tiny_imagenet.py \
#   --config.grid.teachers='("resnet18",)' | sed -n 1,2p

# %% [markdown]
# ## The end
#
# What was written to Drive is on its way there until this cell is done.

# %%
if on_drive:
  drive.flush_and_unmount()
