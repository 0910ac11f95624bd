"""Runs of studies that never were, for the tests of their reports."""


def make_run(role, model, method, seed, accuracy, parents=(), **config):
  """One finished run as a study writes it; `config` are its settings."""
  name = '-'.join([role, model, method, str(seed), *parents])
  name += ''.join(f'-{value}' for value in config.values())
  return {
    'id': name,
    'role': role,
    'model': model,
    'method': method,
    'parents': list(parents),
    'dataset': 'digits',
    'seed': seed,
    'test_accuracy': accuracy,
    'test_nll': 0.1,
    'val_accuracy': None,
    'epochs': 3,
    'seconds': 12.0,
    'config': {'seed': seed, 'method': {'name': method, **config}},
    'status': 'finished',
  }


def make_study(alone, normal, protected, cost=(0.2, 0.4), models=('cnn',)):
  """Runs of one teacher pair; accuracies by seed, the same for each model."""
  runs = []
  for seed, _ in enumerate(alone):
    first = make_run('teacher', 'resnet8', 'none', seed, 99.0 - seed)
    second = make_run(
      'teacher',
      'resnet8',
      'nasty',
      seed,
      99.0 - seed - cost[seed % 2],
      [first['id']],
    )
    runs += [first, second]
    for model in models:
      runs += [
        make_run('student', model, 'scratch', seed, alone[seed]),
        make_run('student', model, 'kd', seed, normal[seed], [first['id']]),
        make_run('student', model, 'kd', seed, protected[seed], [second['id']]),
      ]
  return runs
