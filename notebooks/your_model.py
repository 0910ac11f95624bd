# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Protect, audit and export your own model
#
# [![Open in Colab][badge]][colab]
#
# [badge]: https://colab.research.google.com/assets/colab-badge.svg
# [colab]: https://colab.research.google.com/github/your_github_name/undistillable/blob/main/notebooks/your_model.ipynb
#
# A network of your own, written in Flax, is protected against distillation:
# with one loss in a training loop of your own. Then you are the thief, and see
# what that is worth. At last the network gets a name, which is all that the
# library needs to do the rest: protect it, rob it in every way that it knows,
# and export it for those who run it.
#
# The data are scikit-learn's 1,797 digits. It takes some minutes on any
# runtime. (The outputs below are from two CPU cores, with the versions of
# Colab.)

# %% [markdown]
# ## Setup
#
# On Colab, the next cell fetches the code and installs what is missing. The
# runtime's `jax` knows its TPU or GPU, so the last line makes sure that it was
# left as it is.

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
# ## Parameters
#
# The larger `omega`, the weight of the protection, the worse for the thief, and
# from some point on for you. `temperature` softens the answers that are
# compared: yours in the protection, and those that the thief learns from.

# %% tags=["parameters"]
epochs = 30
omega = 0.05
temperature = 8.0
workdir = 'workdirs/your_model'

# %% [markdown]
# ## Your data and your network
#
# Your own arrays may stand here: images uint8[N, H, W, C], labels integers from
# 0 on. `prepare` makes batches of them that a network can read.

# %%
from undistillable import data

digits = data.load('digits')
train_set = {'image': digits.train['image'], 'label': digits.train['label']}
test_set = {'image': digits.test['image'], 'label': digits.test['label']}
prepare = data.prepare_fn(digits.mean, digits.std)
for name, arrays in {'train': train_set, 'test': test_set}.items():
  print(name, arrays['image'].shape, arrays['image'].dtype)

# %% [markdown]
# Any linen module will do that is called as `module(images, train=...)`. The
# fields are for later: over `axis_name` BatchNorm pools all devices, and
# `dtype` is that of the computation.

# %%
from typing import Any

import flax.linen as nn
import jax.numpy as jnp


class Net(nn.Module):
  num_classes: int
  axis_name: str | None = None
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, images, train=False):
    x = images
    for features, stride in ((16, 1), (32, 2), (64, 2)):
      x = nn.Conv(features, (3, 3), stride, use_bias=False, dtype=self.dtype)(x)
      x = nn.BatchNorm(
        not train, momentum=0.9, axis_name=self.axis_name, dtype=self.dtype
      )(x)
      x = nn.relu(x)
    x = x.mean((1, 2)).astype(jnp.float32)
    return nn.Dense(self.num_classes)(x)


model = Net(num_classes=10)

# %% [markdown]
# ## Protect it: a loss in your own loop
#
# This is a loop as you may have one. What it minimises is an argument: a
# function of logits that gives one number an example, as all losses of the
# library do.

# %%
import jax
import numpy as np
import optax

everything = prepare(train_set, np.arange(len(train_set['label'])), None)
images, labels = everything['image'], jnp.asarray(everything['label'])
batch_size = 64
num_steps = epochs * (len(labels) // batch_size)
optimizer = optax.chain(
  optax.add_decayed_weights(5e-4),
  optax.sgd(optax.cosine_decay_schedule(0.1, num_steps), momentum=0.9),
)


def fit(loss_fn, seed):
  """Trains `model`; loss_fn: (logits [B, K], index [B]) -> losses [B]."""
  variables = model.init(jax.random.key(0), images[:1])
  opt_state = optimizer.init(variables['params'])

  @jax.jit
  def step(variables, opt_state, index):
    def mean_loss(params):
      logits, changed = model.apply(
        {**variables, 'params': params},
        images[index],
        train=True,
        mutable=['batch_stats'],
      )
      return loss_fn(logits, index).mean(), changed

    params = variables['params']
    grads, changed = jax.grad(mean_loss, has_aux=True)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    params = optax.apply_updates(params, updates)
    return {'params': params, **changed}, opt_state

  rng = np.random.default_rng(seed)
  for _ in range(epochs):
    order = rng.permutation(len(labels))[: num_steps // epochs * batch_size]
    for index in order.reshape(-1, batch_size):
      variables, opt_state = step(variables, opt_state, index)
  return variables


# %% [markdown]
# First a normal teacher, with cross entropy. Its accuracy on the test images:

# %%
from undistillable import losses, method
from undistillable.training import evaluate


def answers(module, variables):
  """Logits of every test image: float32[N, 10]."""
  ask = method.frozen_fn(module)
  return evaluate.predict(ask, variables, test_set, prepare)


def accuracy(module, variables):
  """On the test images, in percent."""
  found = answers(module, variables)
  return evaluate.scores(found, test_set['label'])['accuracy']


normal = fit(
  lambda logits, index: losses.cross_entropy(logits, labels[index]), seed=0
)
print(f'normal teacher: {accuracy(model, normal):.1f} %')

# %% [markdown]
# Then a nasty one. Only the loss is another: cross entropy, less `omega` times
# how far its answers are from those of an *adversary*. That is the normal
# teacher, which stays as it is. The nasty one should be about as accurate.

# %%
adversary_logits = jax.jit(model.apply)(normal, images)

nasty = fit(
  lambda logits, index: losses.self_undermining(
    logits,
    adversary_logits[index],
    labels[index],
    temperature=temperature,
    omega=omega,
  ),
  seed=1,
)
print(f'nasty teacher: {accuracy(model, nasty):.1f} %')

# %% [markdown]
# What both answer to four test images, softened by the temperature as the thief
# reads them. The normal teacher's bars have one peak, and are low and even
# elsewhere. Those of the nasty one are highest at the same class; but in some
# answers others that have nothing to do with the image are nearly as high, and
# some answers are far too sure.

# %%
from matplotlib import pyplot as plt

shown = [int(np.argmax(test_set['label'] == label)) for label in (0, 3, 5, 7)]
figure, axes = plt.subplots(
  2, 4, figsize=(10, 3.6), height_ratios=(1, 1.4), layout='constrained'
)
for column, index in enumerate(shown):
  axes[0, column].imshow(test_set['image'][index, ..., 0], cmap='gray')
  axes[0, column].set_axis_off()
  bars = axes[1, column]
  for name, variables, color, shift in (
    ('normal', normal, '#0072b2', -0.2),
    ('nasty', nasty, '#d55e00', 0.2),
  ):
    shares = jax.nn.softmax(answers(model, variables)[index] / temperature)
    bars.bar(np.arange(10) + shift, shares, 0.4, color=color, label=name)
  bars.set_xticks(range(10))
  bars.set_ylim(0, 1)
  bars.spines[['top', 'right']].set_visible(False)
axes[1, 0].set_ylabel('softened probability')
axes[1, -1].legend(frameon=False)
plt.show()

# %% [markdown]
# ## Audit it: be the thief
#
# The thief trains a small network of the library, once on the labels alone, and
# once on the answers of either teacher. What the protection is worth is what he
# loses against training alone.

# %%
from undistillable import attacks, models
from undistillable.training import train

student = models.get_model('cnn8', num_classes=10)
adam = optax.adam(optax.cosine_decay_schedule(1e-3, num_steps))
kd = attacks.kd.make(
  student, adam, attacks.kd.Settings(temperature), {'teacher': model}
)
alone = attacks.scratch.make(student, adam)

for name, thief, frozen in (
  ('alone', alone, None),
  ('of the normal teacher', kd, {'teacher': normal}),
  ('of the nasty teacher', kd, {'teacher': nasty}),
):
  robbed = train.fit(
    thief,
    train_set,
    prepare,
    frozen=frozen,
    stream='thief',
    epochs=epochs,
    batch_size=batch_size,
  ).variables
  print(f'student {name}: {accuracy(student, robbed):.1f} %')

# %% [markdown]
# One seed is no result, and one attack is no audit: a protection holds against
# what was tried, and against nothing else.

# %% [markdown]
# ## Give it a name
#
# A network with a name takes part in everything: a study protects it, robs it
# and writes a report, in any number of seeds (here one), with the defenses and
# attacks that `config.defenses` and `config.attacks` list. Runs are named after
# it, so give it another name, or take another `workdir`, when you change it.
# For data of your own that a study can name, see [add a data
# set](https://github.com/your_github_name/undistillable/blob/main/docs/add_a_data_set.md).

# %%
from undistillable import command, study
from undistillable.report import table

models.MODELS['my_net'] = Net

config = command.load('digits')
config.teacher.model = 'my_net'
config.students = ('cnn8',)
config.seeds = (0,)
config.recipe.epochs = epochs
config.nasty.omega = omega
config.nasty.temperature = config.kd.temperature = temperature
results = study.run(config, workdir)
print(table.text(results['summary']))

# %%
from IPython import display

display.Image(filename=f'{workdir}/figures/accuracy.png', width=800)

# %% [markdown]
# ## Export it
#
# The folder holds the nasty teacher, and nothing of the normal one, which is
# what a thief would like to have. A shell does the same with `python -m
# undistillable.export --workdir=... --to=...`, for networks that the package
# knows.

# %%
import pathlib
import shutil

from undistillable import export

folder = pathlib.Path(workdir, 'exported')
shutil.rmtree(folder, ignore_errors=True)  # Of an earlier time.
exported = export.export(workdir, folder)
print(exported.label)
for path in sorted(folder.iterdir()):
  print(f'{path.name}/' if path.is_dir() else path.name)

# %% [markdown]
# ## Load it elsewhere, and compare
#
# Another process, which needs `jax` and NumPy alone, and neither Flax nor the
# code of your network. It gets test images as they are, and is answered labels,
# probabilities and log-scores. (It runs on the CPU, since this notebook has the
# TPU or GPU.)

# %%
import os
import subprocess
import sys

np.savez(folder / 'test.npz', **test_set)
ELSEWHERE = """
import pathlib
import sys

import numpy as np
from jax import export

folder = pathlib.Path(sys.argv[1])
network = export.deserialize((folder / 'predict.jaxexport').read_bytes())
test = np.load(folder / 'test.npz')
found = network.call(test['image'])
print('labels', found['labels'][:10])
print(f'accuracy {100 * (found["labels"] == test["label"]).mean():.1f} %')
assert not {'flax', 'undistillable'} & set(sys.modules)
"""
process = subprocess.run(
  [sys.executable, '-c', ELSEWHERE, folder],
  env=os.environ | {'JAX_PLATFORMS': 'cpu'},
  stdout=subprocess.PIPE,
  text=True,
  check=True,
)
print(process.stdout)

# %% [markdown]
# The study measured the same network, before it was exported:

# %%
for run in results['runs']:
  if run['id'] == exported.id:
    print(f'accuracy {run["test_accuracy"]:.1f} %')

# %% [markdown]
# `README.md` in the folder is the model card: what the network is, what the
# protection is worth, and how to use each file, from PyTorch as well.
