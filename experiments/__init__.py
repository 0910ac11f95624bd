"""The tables and figures of the article, and a few more, one file each.

  python -m experiments                     lists them
  python -m experiments.omega --config=configs/digits.py --workdir=/tmp/digits
  python -m experiments.scorecard --workdir=/tmp/digits

Each is a short study over the shared machinery and runs on any config of
configs/. Give all of them one workdir: what two of them need is trained once.
Source of most: Ma et al. (2021), arXiv:2105.07381.
"""

# In the order in which the article shows them; then what it does not have.
NAMES = (
  'main_table',
  'stronger_students',
  'logits',
  'embedding',
  'adversary',
  'omega',
  'temperature',
  'alpha',
  'fraction',
  'data_free',
  'inversion',
  'balance',
  'arena',
)
