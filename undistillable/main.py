"""Protects a teacher, robs it, reports: the command line.

  python -m undistillable.main --config=configs/digits.py --workdir=/tmp/digits

Every field of the config can be overridden, as in --config.nasty.omega=0.1.
"""

import functools
import os
import pathlib
import re
import shlex
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from undistillable import config as config_lib, errors, study
from undistillable.report import table

_CONFIG = config_flags.DEFINE_config_file(
  'config', help_string='A file of configs/.', lock_config=True
)
_WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Where runs and report go. Default: workdirs/<dataset>.'
)
_REUSE_WORKDIR = flags.DEFINE_bool(
  'reuse_workdir',
  False,
  'Replace the report of another config in the workdir, keeping its runs.',
)


def run(
  chosen: study.Study = study.MAIN, module: str = 'undistillable.main'
) -> None:
  """Flags in, report out.

  Args:
    chosen: what is trained and shown.
    module: what was run with `python -m`, for the report.
  """
  flags.mark_flag_as_required('config')
  app.run(functools.partial(_main, chosen, module), flags_parser=_parse)


def _main(chosen: study.Study, module: str, argv: list[str]) -> None:
  """What absl calls."""
  if len(argv) > 1:
    sys.exit(f'error: unexpected arguments {argv[1:]}; flags start with --')
  if not flags.FLAGS['verbosity'].present:
    logging.set_verbosity(logging.WARNING)  # Orbax tells all that it does.
  config = _CONFIG.value
  workdir = pathlib.Path(_WORKDIR.value or f'workdirs/{config.dataset}')
  command = shlex.join(['python', '-m', module, *sys.argv[1:]])
  try:
    results = study.run(
      config,
      workdir,
      study=chosen,
      reuse_workdir=_REUSE_WORKDIR.value,
      command=command,
    )
  except (errors.InputError, OSError) as error:
    sys.exit(f'error: {error}')
  except KeyboardInterrupt:
    print(
      '\ninterrupted; the same command goes on where this one stopped',
      file=sys.stderr,
      flush=True,
    )
    # Everything is written and closed by now; to take the interpreter down
    # under a computation that is still running can crash it.
    os._exit(130)
  print(table.text(results['summary']))
  print(f'\nReport: {workdir / chosen.name / "report.html"}')


def _parse(argv: list[str]) -> list[str]:
  """absl's parser, with one sentence for a field that the config lacks.

  Modules of one's own that the command line names bring their settings into
  the config first, so that it can set them.
  """
  try:
    for name in _own_methods(argv):
      config_lib.know(name)
    return app.parse_flags_with_usage(argv)
  except errors.InputError as error:
    sys.exit(f'error: {error}')
  except (AttributeError, KeyError) as error:
    reason = error.args[0]
    while isinstance(reason, Exception):  # ml_collections wraps one in another.
      reason = reason.args[0]
    reason = f'the config has no field {reason}'.replace('\n', '. ')
    sys.exit(f'error: {config_lib.renamed(" ".join(argv)) or reason}')


def _own_methods(argv: list[str]) -> list[str]:
  """The dotted names in --config.defenses=... and --config.attacks=...."""
  given = ' '.join(argv)
  values = re.findall(r'--config\.(?:defenses|attacks)[= ](\([^)]*\))', given)
  return re.findall(r'[\w.]*\w\.\w+', ' '.join(values))


if __name__ == '__main__':
  run()
