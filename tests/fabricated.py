"""Entries of studies that never were, for the tests of their reports."""


def make_entry(role, model, method, seed, accuracy, parent=None, **config):
  """One finished network as a study writes it; `config` are its settings.

  `parent` is the entry of its teacher, or of the adversary of a teacher.
  """
  name = '-'.join([role, model, method, str(seed)])
  name += f'-{parent["id"]}' if parent else ''
  name += ''.join(f'-{value}' for value in config.values())
  parents = {}
  if parent:
    parents['adversary' if role == 'teacher' else 'teacher'] = parent['id']
  return {
    'id': name,
    'role': role,
    'model': model,
    'method': method,
    'parents': parents,
    'teacher': parents.get('teacher'),
    'control': None,
    'normal': None,
    'dataset': 'digits',
    'seed': seed,
    'test_accuracy': accuracy,
    'test_nll': 0.1,
    'val_accuracy': None,
    'epochs': 3,
    'seconds': 12.0,
    'config': {'seed': seed, 'settings': {'name': method, **config}},
    'status': 'finished',
  }


def make_study(
  alone,
  normal,
  protected,
  cost=(0.2, 0.4),
  models=('cnn',),
  attacks=('kd',),
  defenses=('nasty',),
):
  """Entries of teachers and students; accuracies by seed, all models alike."""
  entries = []
  for seed, _ in enumerate(alone):
    first = make_entry('teacher', 'resnet8', 'none', seed, 99.0 - seed)
    owners = [first]
    for defense in defenses:
      accuracy = 99.0 - seed - cost[seed % 2]
      owners.append(
        make_entry('teacher', 'resnet8', defense, seed, accuracy, first)
        | {'normal': first['id']}
      )
    entries += owners
    for model in models:
      control = make_entry('student', model, 'scratch', seed, alone[seed])
      entries.append(control)
      for attack in attacks:
        twin = None
        for owner in owners:
          accuracy = protected[seed] if twin else normal[seed]
          student = make_entry('student', model, attack, seed, accuracy, owner)
          student['control'] = control['id']
          student['normal'] = twin and twin['id']
          twin = twin or student
          entries.append(student)
  return entries
