"""Exports a protected network: one folder, which needs no undistillable.

  python -m undistillable.export --workdir=/tmp/digits --to=/tmp/protected

The folder holds the network in four forms: `predict.jaxexport`, which answers
images as its clients are answered; `model.safetensors` and `model.pt`, with
PyTorch's names; and `variables/`, an Orbax PyTree. `config.json` says what it
is, and README.md, its model card, what it is worth and how each form is used.
No other network leaves, but for those that its answers are made of.
"""

import argparse
import os
import pathlib
import secrets
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export as jax_export

from undistillable import (
  command as command_lib,
  data,
  errors,
  interop,
  losses,
  serving,
  terminal,
)
from undistillable.data import augment
from undistillable.graph import programs, runs as runs_lib, store as store_lib
from undistillable.report import card, responses
from undistillable.storage import disk, paths
from undistillable.training import checkpoints, environment

# uint8[B, H, W, C] -> arrays by name
PredictFn = Callable[[jax.Array], dict[str, jax.Array]]

PLATFORMS = ('cpu', 'cuda', 'tpu')
_MOST_NAMED = 5  # Runs in a sentence.


def export(
  workdir: str | os.PathLike[str],
  to: str | os.PathLike[str],
  *,
  run: str | None = None,
  command: str = '',
) -> runs_lib.Run:
  """Writes the folder of a protected teacher, whole or not at all.

  Args:
    workdir: of a study.
    to: the folder; it must not exist, or be empty.
    run: the id or the folder of the teacher; None where there is but one.
    command: what the card says was typed.

  Returns:
    What was exported.

  Raises:
    errors.InputError: there is no such teacher, none or several to choose
      from, a file of it is damaged, or the folder cannot be written.
  """
  workdir, to = paths.local(workdir, 'workdir'), paths.local(to, 'to').resolve()
  paths.check_folder(to, 'to')
  if to.exists() and any(to.iterdir()):
    raise errors.InputError(f'to={to} is not empty; choose another folder')
  place = workdir / 'runs' / _choose(workdir, run)['id']
  result, chosen = _read(place / 'result.json'), runs_lib.read(place)
  variables = jax.tree.map(
    np.asarray, store_lib.Store(workdir).variables(chosen)
  )
  roles, beside = programs.asked(chosen, variables)
  adversary = chosen.parents.get('adversary')
  if any(chosen.parents[role] == adversary for role in roles):
    raise errors.InputError(
      f'{chosen.id}: its defense asks its adversary about every image, and '
      'the adversary must not leave; answer clients from the workdir itself'
    )
  private = sorted({*beside} & {*getattr(chosen.module, 'SECRETS', ())})
  if private:
    raise errors.InputError(
      f'{chosen.id}: its answers are made of the {", ".join(private)} of its '
      'owner, which must not leave; answer clients from the workdir itself, or '
      f'export the network without it: --run={chosen.parents["normal"].id}'
    )
  own, kept = _own(variables), variables.get(serving.PARENTS, {})
  served = {
    **own,
    **{name: variables[name] for name in beside},
    serving.PARENTS: {role: _own(kept[role]) for role in roles},
  }
  answers = responses.read(workdir)  # Where the study has kept some.
  names = None
  if answers and chosen.id in answers['ids']:
    names = answers['class_names'].tolist()
  told = _describe(chosen, result, [*roles, *beside], names)
  study = workdir / 'results.json'
  results = _read(study) if study.exists() else None

  # A folder beside it, of which nothing is left where something goes wrong.
  to.parent.mkdir(parents=True, exist_ok=True)
  temporary = to.with_name(f'.{to.name}.{secrets.token_hex(8)}')
  temporary.mkdir()
  try:
    program = serialize(answer_fn(chosen, served), told['image_shape'])
    (temporary / 'predict.jaxexport').write_bytes(program)
    state_dict = interop.to_torch(chosen.model, own)
    for name in ('model.safetensors', 'model.pt'):
      interop.save(temporary / name, state_dict)
    checkpoints.save_variables(temporary, own)
    disk.write_json(temporary / 'config.json', told)
    text = card.text(told, results, command)
    (temporary / 'README.md').write_text(text, encoding='utf-8')
    os.replace(temporary, to)
  finally:
    shutil.rmtree(temporary, ignore_errors=True)
  return chosen


def answer_fn(run: runs_lib.Run, variables: Mapping[str, Any]) -> PredictFn:
  """From images as they are to what a client is answered.

  Args:
    run: a teacher.
    variables: of it, and of the networks that its answers are made of.

  Returns:
    uint8[B, H, W, C] -> {'labels': int32[B], 'probabilities': float32[B, K],
    'log_scores': float32[B, K]}. A class that is withheld has the probability
    0 and a log-score below -1e8.
  """
  answer = programs.answer_fn(run)
  mean, std = data.NORMALIZATIONS[run.normalization]

  def predict(images: jax.Array) -> dict[str, jax.Array]:
    prepared = augment.normalize(images, mean, std, jnp.dtype(run.dtype))
    # As arrays of JAX, which can be indexed by what is computed.
    scores = answer(jax.tree.map(jnp.asarray, variables), prepared)
    log_scores = losses.log_scores(scores)
    return {
      'labels': scores.argmax(-1).astype(jnp.int32),
      'log_scores': log_scores,
      'probabilities': jnp.exp(log_scores),
    }

  return predict


def serialize(predict: PredictFn, image_shape: Sequence[int]) -> bytes:
  """The file of a function of uint8 images, of any number of them.

  Args:
    predict: uint8[B, H, W, C] -> arrays; its weights become part of the file.
    image_shape: (H, W, C).

  Returns:
    What `jax.export.deserialize` takes, for `PLATFORMS`.

  Raises:
    errors.InputError: it cannot be written down so.
  """
  (batch,) = jax_export.symbolic_shape('batch')
  images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.uint8)
  try:
    exporting = jax_export.export(jax.jit(predict), platforms=PLATFORMS)
    return bytes(exporting(images).serialize())
  # A defense of one's own may do what no file can hold, as call Python.
  except (TypeError, ValueError, NotImplementedError) as error:
    reason = str(error).partition('\n')[0]
    raise errors.InputError(
      'the answers cannot be exported for any number of images and for '
      f'{", ".join(PLATFORMS)} ({type(error).__name__}: {reason})'
    ) from error


def _choose(workdir: pathlib.Path, name: str | None) -> dict[str, Any]:
  """The result of the protected teacher that is named, or of the only one."""
  folder = workdir / 'runs'
  if not folder.is_dir():
    raise errors.InputError(
      f'workdir={workdir} holds no runs; expected the workdir of a main job'
    )
  results = {
    path.parent.name: disk.read_json(path)
    for path in sorted(folder.glob('*/result.json'))
  }
  protected = _protected(results.values())
  known = [
    f'{one["id"]} ({one["method"]}, seed {one["seed"]})' for one in protected
  ]
  more = len(known) - _MOST_NAMED
  told = ', '.join(known[:_MOST_NAMED]) or 'none'
  told += f', and {more} more' if more > 0 else ''
  if name is None:
    if len(protected) == 1:
      return protected[0]
    raise errors.InputError(
      f'{folder} has {len(protected)} finished protected teachers, expected '
      'one' + (f'; choose with --run: {told}' if protected else '')
    )
  found = results.get(pathlib.PurePath(name).name)
  if found is None:
    fault = f'there is no finished run {name} in {folder}'
  elif found['role'] != 'teacher':
    fault = f'{found["id"]} is of the thief (a {found["role"]})'
  elif found['method'] == 'none':
    fault = f'{found["id"]} is not protected, and the adversary of what is'
  elif found['status'] != 'finished':
    fault = f'{found["id"]} has {found["status"]}'
  else:
    return found
  raise errors.InputError(f'{fault}; protected teachers: {told}')


def _read(path: pathlib.Path) -> Any:
  """The content of a file that a card quotes."""
  if disk.damaged(path.parent, [path.name]):
    raise errors.InputError(
      f'{path} is damaged; start the study again to have it made again'
    )
  return disk.read_json(path)


def _protected(results: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
  """Those of protected teachers, less those that others are made of."""
  teachers = [
    one
    for one in results
    if one['role'] == 'teacher' and one['status'] == 'finished'
  ]
  parents = {parent for one in teachers for parent in one['parents'].values()}
  found = [
    one
    for one in teachers
    if one['method'] != 'none' and one['id'] not in parents
  ]
  return sorted(found, key=lambda one: (one['method'], one['seed']))


def _own(variables: Mapping[str, Any]) -> dict[str, Any]:
  """Those of a network itself, as far as there are any."""
  return {k: v for k, v in serving.own(variables).items() if v}


def _describe(
  run: runs_lib.Run,
  result: Mapping[str, Any],
  others: Sequence[str],
  class_names: list[str] | None,
) -> dict[str, Any]:
  """The content of config.json: all that it takes to use the files."""
  source = data.get_source(run.judged_on['name'])
  mean, std = data.NORMALIZATIONS[run.normalization]
  described = environment.describe()
  trained = run.parents['normal'] if run.only_serves else run
  return {
    'run': run.id,
    'model': run.model,
    'image_shape': list(source.image_shape),
    'num_classes': source.num_classes,
    'class_names': class_names,
    'mean': list(mean),
    'std': list(std),
    'dtype': run.dtype,
    'defense': run.shown_method,
    'settings': dict(run.settings),
    'serves': hasattr(run.module, 'serve'),
    'asks': list(others),
    'dataset': dict(run.judged_on),
    'description': source.description,
    'init_from': trained.init_from,
    'seed': run.seed,
    'test_accuracy': result['test_accuracy'],
    'test_nll': result['test_nll'],
    'test_examples': result['test_examples'],
    'platforms': list(PLATFORMS),
    'exported_by': {
      name: described[name] for name in ('undistillable', 'jax', 'date')
    },
  }


def main(argv: Sequence[str] | None = None) -> int:
  """Runs the command; returns the exit status."""
  terminal.be_printable()
  given = sys.argv[1:] if argv is None else list(argv)
  parser = terminal.Parser(
    prog='python -m undistillable.export',
    description=__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument('--workdir', required=True, help='of a main job')
  parser.add_argument(
    '--run',
    help='id or folder of the teacher, where the workdir has several '
    'protected ones',
  )
  parser.add_argument('--to', required=True, help='a folder that is new')
  parser.add_argument(
    '--config', help='a config file that registers the data set, if it is new'
  )
  arguments = parser.parse_args(given)
  try:
    if arguments.config:
      command_lib.load(arguments.config)
    run = export(
      arguments.workdir,
      arguments.to,
      run=arguments.run,
      command=shlex.join(['python', '-m', 'undistillable.export', *given]),
    )
  except (errors.InputError, OSError) as error:
    print(f'error: {error}', file=sys.stderr)
    return 1
  print(f'{run.label} ({run.id}) is in {arguments.to}; see README.md there')
  return 0


if __name__ == '__main__':
  sys.exit(main())
