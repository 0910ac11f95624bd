# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A teacher that cannot be copied
#
# [![Open in Colab][badge]][colab]
#
# [badge]: https://colab.research.google.com/assets/colab-badge.svg
# [colab]: https://colab.research.google.com/github/your_github_name/undistillable/blob/main/notebooks/quickstart.ipynb
#
# Whoever may query a classifier can train another network, a *student*, on its
# answers, and then owns a model almost as good. A *nasty teacher* ([Ma et al.,
# ICLR 2021](https://arxiv.org/abs/2105.07381)) stays accurate while its
# students fail.
#
# This notebook trains a normal and a nasty teacher on scikit-learn's 1,797
# digits, robs both, and shows what a thief gets. It downloads no data, and
# trains for a minute and a half on two CPU cores. (The outputs below are from
# such a machine that was busy with other things, with the versions of Colab.)

# %% [markdown]
# ## Setup
#
# On Colab, the next cell fetches the code and installs what is missing. The
# runtime's `jax` knows its TPU or GPU, so the last line makes sure that it was
# left as it is.

# %% tags=["colab"]
import importlib.metadata

jax_before = importlib.metadata.version('jax')
clone = '/content/undistillable'
url = 'https://github.com/your_github_name/undistillable'
# !test -d {clone} || git clone -q {url} {clone}
# %cd -q {clone}
# !pip install -q .
assert importlib.metadata.version('jax') == jax_before, 'jax was replaced'

# %% [markdown]
# ## Devices
#
# A batch is split over all devices that are listed here. A free TPU runtime has
# one, and so has a machine with a CPU alone.

# %%
import jax

print('jax', jax.__version__)
for device in jax.devices():
  print(device.platform, device.device_kind)

# %% [markdown]
# ## Parameters
#
# Change them as you like; with another `omega` or `epochs`, name another
# `workdir`. The larger `omega` is, the more the nasty teacher's answers differ
# from those of a normal one.

# %% tags=["parameters"]
workdir = 'workdirs/quickstart'
students = ('cnn8', 'cnn16')  # Two small CNNs, of 8 and of 16 features.
seeds = (0, 1, 2)  # Each trains all networks anew.
epochs = 30
omega = 0.05

# %% [markdown]
# `configs/digits.py` holds all other settings. Every field is explained in
# `undistillable/config.py`.

# %%
from undistillable import command

config = command.load('digits')
config.students = students
config.seeds = seeds
config.recipe.epochs = epochs
config.nasty.omega = omega

# %% [markdown]
# ## Train and rob
#
# For each seed: a normal teacher, a nasty one that is trained against it, and
# every student three times: alone, distilled from the normal teacher, and
# distilled from the nasty one. A bar shows what is being trained.

# %%
import time

from undistillable import study

start = time.monotonic()
results = study.run(config, workdir)
first_secs = time.monotonic() - start
print(f'{len(results["runs"])} networks in {first_secs:.0f} s')

# %% [markdown]
# ## What the thief gets
#
# Accuracy on the test images, mean over the seeds ± one standard deviation. A
# teacher is compared with the normal one, a student with the same student
# trained alone. The last lines are the answer.

# %%
from undistillable.report import table

print(table.text(results['summary']))

# %% [markdown]
# The same as bars: grey is a student alone, blue the normal teacher and whoever
# learned from it, orange the nasty teacher and its students. Circles are seeds.

# %%
import pathlib

from IPython import display

figures = pathlib.Path(workdir, 'figures')
display.Image(filename=figures / 'accuracy.png', width=800)

# %% [markdown]
# Why it works: what both teachers answer to the same test images. The normal
# one has one high logit an image. The nasty one has its highest at the same
# class; but for some images another is nearly as high, at a class that has
# nothing to do with what is seen. A student learns both.

# %%
display.Image(filename=figures / 'logits.png', width=800)

# %% [markdown]
# How they learned: accuracy on held-out images, and loss, epoch by epoch.

# %%
display.Image(filename=figures / 'curves.png', width=800)

# %% [markdown]
# ## Run again
#
# A network is named after all that it depends on, so nothing is trained twice:
# the same study finds its networks in the workdir, and gives the same numbers.
# Interrupt a cell that trains and run it again: it goes on from the last whole
# epoch.

# %%
start = time.monotonic()
again = study.run(config, workdir)
print(f'{time.monotonic() - start:.0f} s, before it were {first_secs:.0f} s')
assert again['runs'] == results['runs']

# %% [markdown]
# ## Where to go on
#
# - `workdirs/quickstart/report.html` is the whole report in one file that needs
#   no network; on Colab it is in the file browser on the left.
# - Without a notebook, this was `python -m undistillable.main
#   --config=configs/digits.py`. It can do more:
#   `--config.defenses='("nasty","stingy")'` compares protections, and
#   `--config.attacks='("kd","hard_label")'` tries several thefts.
# - [tiny_imagenet_tpu](tiny_imagenet_tpu.ipynb) runs that command on a TPU, and
#   [your_model](your_model.ipynb) protects a network of your own.
