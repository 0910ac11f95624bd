"""The leaderboard is what its command makes of the recorded arenas."""

import copy
import json
import pathlib
import re
import types

import fabricated
import fabricated_arena
import pytest

from experiments import leaderboard, predictions, records
from undistillable import arena, errors
from undistillable.report import arena_words as words, board as board_lib
from undistillable.storage import disk

ROOT = pathlib.Path(__file__).parents[1]
CONTROLS = {'scratch': 80.0, 'null kd': 84.0, 'null mkd': 79.0}
SKILLS = {
  'none': {'kd': 96.0, 'mkd': 84.0},
  'nasty': {'kd': 70.0, 'mkd': 81.0},
  'stingy': {'kd': 90.0, 'mkd': 79.0},
}


def _results(skills=None, omega=0.04, **changes):
  """Of an arena as one writes it, each defense with its networks."""
  results = fabricated_arena.make_results(
    skills or SKILLS, CONTROLS, margin=4.0, **changes
  )
  entries = {entry['id']: entry for entry in results['runs']}
  for cell in results['measurements']['board']['cells']:
    for seed, run in cell['runs'].items():
      if cell['defense'] is None:
        continue
      method = cell['defense'].split(':')[0]
      owner = fabricated.make_entry(
        'teacher', 'resnet8', method, int(seed), 97.0, omega=omega
      )
      entries.setdefault(owner['id'], owner)
      entries[run]['teacher'] = owner['id']
  return {'study': 'arena', **results, 'runs': list(entries.values())}


def _record(results, name='first', withdrawn=None):
  return records.Record(name, results, withdrawn or {})


def _tables(*found):
  """{heading: rows of its table, each a list of cells}."""
  tables, heading = {}, ''
  for line in leaderboard.tables(found).splitlines():
    if line.startswith('#'):
      heading = line.lstrip('# ')
    if line.startswith('| ') and not line.startswith(('| Rank', '| --')):
      cells = [cell.strip('* ') for cell in line.strip('|').split('|')]
      tables.setdefault(heading, []).append(cells)
  return tables


OWN = board_lib.GROUPS[board_lib.OWN]


@pytest.fixture(scope='module')
def recorded():
  return records.read_all()


def test_the_page_is_what_the_command_makes_of_the_records(recorded):
  """If this fails: python -m experiments.leaderboard."""
  text = leaderboard.PAGE.read_text(encoding='utf-8')
  assert leaderboard.page(text, recorded) == text


def test_thieves_with_few_images_are_told():
  results = _results()
  assert 'student cnn8; chosen' in leaderboard.tables([_record(results)])
  for entry in results['runs']:
    if entry['role'] == 'student':
      entry['config']['learns_from'] = {'fraction': 0.1}
  told = leaderboard.tables([_record(results)])
  assert 'student cnn8 with 10 % of the images; chosen' in told


def test_every_record_has_what_it_must_have_and_a_readme(recorded):
  assert recorded
  for record in recorded:
    assert records.problems(record.results) == []
    folder = records.RESULTS / record.name
    for name in ('README.md', 'report.md', 'config.json', 'figures'):
      assert (folder / name).exists()
    # What grows is the list of networks, and of what they are right about; of
    # each defense it is measured what it costs, and a cell may share its runs.
    networks = len(record.results['runs'])
    hits = record.results['measurements']['hits']
    digits = sum(len(one) for k in ('test', 'val') for one in hits[k].values())
    size = (folder / 'results.json').stat().st_size
    rest = [
      record.results['measurements'].get(key, {})
      for key in ('board', 'latency', 'prices', 'serving')
    ]
    assert size < 570 * networks + digits + len(json.dumps(rest, indent=2))


def test_every_open_row_is_told_with_its_own_number_of_seeds(recorded):
  (tenth,) = [one for one in recorded if one.name == 'digits_arena_tenth']
  board = board_lib.Board(tenth.results)
  group = board.groups[0]
  told = words.next_step(board, group)
  parts = re.findall(r'(\d+) fresh seeds settle ([^;.]*)', told)
  found = {
    name: int(number)
    for number, names in parts
    for name in re.split(', | and ', names)
  }
  assert len(parts) > 1
  assert found == {
    'the unprotected network' if name == 'none' else name: row.verdict.seeds
    for name, row in group.rows.items()
    if row.verdict.decision == 'open'
  }
  numbers = [int(number) for number, _ in parts]
  assert numbers == sorted(set(numbers))


def test_what_became_of_the_predictions_is_told_where_they_are(recorded):
  pages = {one.name: [records.RESULTS / one.name] for one in recorded}
  pages['digits_arena'].append(ROOT / 'docs' / 'arena.md')
  for one in recorded:
    table = predictions.table(board_lib.Board(one.results))
    for page in pages[one.name]:
      place = page / 'README.md' if page.is_dir() else page
      assert table in place.read_text(encoding='utf-8')


def test_a_page_without_its_marks_is_refused():
  with pytest.raises(errors.InputError, match='has no <!-- tables -->'):
    leaderboard.page('# The leaderboard\n', [])


def test_defenses_stand_by_what_leaks_and_nobody_ranks_none():
  results = _results()
  rows = _tables(_record(results))[f'{OWN}: defenses']
  (group,) = board_lib.Board(results).groups
  leaked = {name: row.leaked for name, row in group.rows.items()}
  assert leaked['nasty'] < leaked['stingy'] < leaked['none'] == 1
  assert [row[:2] for row in rows] == [
    ['1', 'nasty'],
    ['2', 'stingy'],
    ['–', 'none'],
  ]
  assert rows[1][3] == f'{100 * leaked["stingy"]:.0f} %'


def test_settings_stand_where_they_tell_attacks_apart():
  attacks = ('kd_tuned:alphas=(0.1,)', 'knockoff', 'knockoff:targets=top')
  shown = [leaderboard._short(name, attacks) for name in attacks]
  assert shown == ['kd_tuned', 'knockoff', 'knockoff:targets=top']


def test_what_leaks_alike_stands_by_its_price():
  skills = {d: {'kd': 96.0, 'mkd': 84.0} for d in ('none', 'dear', 'cheap')}
  results = _results(skills)
  measured = results['measurements']
  hits = measured['hits']
  first, *others = (
    next(c for c in measured['board']['cells'] if c['defense'] == name)
    for name in skills
  )
  for cell in others:
    for seed, run in cell['runs'].items():
      for part in ('test', 'val'):
        hits[part][run] = hits[part][first['runs'][seed]]
  for seed, price in measured['prices']['cheap'].items():
    price['brier'] = measured['prices']['dear'][seed]['brier'] - 0.01
  rows = _tables(_record(results))[f'{OWN}: defenses']
  assert [row[:2] for row in rows] == [
    ['–', 'none'],
    ['1', 'cheap'],
    ['2', 'dear'],
  ]


def test_where_nothing_leaks_nobody_has_a_rank():
  skills = {d: {'kd': 80.0, 'mkd': 80.0} for d in ('none', 'nasty')}
  record = _record(_results(skills))
  assert 'Nobody is ranked' in leaderboard.tables([record])
  rows = _tables(record)[f'{OWN}: defenses']
  assert {row[0] for row in rows} == {'–'}


def test_attacks_stand_by_their_mean_gain_over_themselves_on_nobody():
  """By hand, from the hits. kd gains more from none, and less from the rest."""
  results = _results()
  rows = _tables(_record(results))[f'{OWN}: attacks by cnn8']
  assert [row[:2] for row in rows] == [['1', 'mkd'], ['2', 'kd']]
  board = board_lib.Board(results)
  null = board.test(board.cell(None, 'null mkd', 'cnn8'))
  accuracies = {
    defense: board.test(board.cell(defense, 'mkd', 'cnn8')).mean()
    for defense in ('nasty', 'stingy', 'none')
  }
  over = {d: 100 * (a - null.mean()) for d, a in accuracies.items()}
  mean = (over['nasty'] + over['stingy']) / 2
  shown = [float(cell.split()[0]) for cell in rows[0][2:5]]
  expected = [mean, over['none'], over['nasty']]
  assert shown == pytest.approx(expected, abs=0.0501)
  assert rows[0][4].endswith(' nasty')


def test_who_knows_what_no_thief_does_is_no_attack_of_the_leaderboard():
  results = _results()
  for cell in results['measurements']['board']['cells']:
    cell['bound'] = cell['attack'] == 'mkd'
  rows = _tables(_record(results))[f'{OWN}: attacks by cnn8']
  assert [row[1] for row in rows] == ['kd']


def test_a_claim_falls_with_a_later_attack_on_the_same_network():
  calm = {d: {'kd': 80.0} for d in ('none', 'nasty')}
  claims = _record(_results(calm))
  told = _tables(claims)[f'{OWN}: defenses']
  assert {row[2] for row in told} == {'undistillable against these attacks'}

  def standing(other):
    """Of nasty in the first record, beside another."""
    text = leaderboard.tables([claims, other])
    first = text.split(f'{claims.name}\n')[1].split('## ')[0:4]
    (row,) = [
      line
      for part in first
      for line in part.splitlines()
      if '| nasty |' in line
    ]
    return row

  broken = {'none': {'kd': 80.0}, 'nasty': {'kd': 96.0}}
  row = standing(_record(_results(broken), 'again'))
  assert 'withdrawn: distillable by kd in again' in row
  # However its row is called; its settings are those of its network.
  spelt = {'none': {'kd': 80.0}, 'nasty:omega=0.3': {'kd': 96.0}}
  row = standing(_record(_results(spelt), 'again'))
  assert 'withdrawn: distillable by kd in again' in row
  # Another version of the defense is another claim.
  row = standing(_record(_results(broken, omega=0.5), 'again'))
  assert 'undistillable against these attacks' in row


def test_a_claim_is_withdrawn_by_hand_and_what_never_held_is_not():
  calm = _results({d: {'kd': 80.0} for d in ('none', 'nasty')})
  why = {'nasty': 'answers depend on the batch'}
  rows = _tables(_record(calm, withdrawn=why))[f'{OWN}: defenses']
  found = {row[1]: row[2] for row in rows}
  assert found['nasty'] == 'withdrawn: answers depend on the batch'
  assert found['none'] == 'undistillable against these attacks'
  rows = _tables(_record(_results(), withdrawn={'stingy': 'late'}))
  told = {row[1]: row[2] for row in rows[f'{OWN}: defenses']}
  assert told['stingy'] == 'distillable'


def test_what_a_record_keeps_is_all_that_its_tables_follow_from():
  results = _results()
  kept = records.reduced(results)
  assert len(kept['configs']) < len(kept['runs']) == len(results['runs'])
  again = records.restored(json.loads(json.dumps(kept)))
  assert leaderboard.tables([_record(again)]) == leaderboard.tables(
    [_record(results)]
  )
  for one, other in zip(again['runs'], results['runs'], strict=True):
    assert one['config']['settings'] == other['config']['settings']
    assert one['config']['seed'] == other['seed']
  assert records.restored(results) == results


def _without_a_cell(results):
  results['measurements']['board']['cells'].pop()


def _without_a_run(results):
  """A seed to choose with, of which nothing else tells."""
  results['measurements']['board']['cells'][-1]['runs'].pop('1')


def test_who_has_no_labels_needs_no_seed_to_choose_with():
  results = _results()
  _without_a_run(results)
  assert records.problems(results)
  results['measurements']['board']['cells'][-1]['group'] = 'foreign'
  assert records.problems(results) == []


def _without_a_result(results):
  cell = results['measurements']['board']['cells'][-1]
  results['measurements']['hits']['test'].pop(cell['runs']['3'])
  entry = next(r for r in results['runs'] if r['id'] == cell['runs']['3'])
  entry['status'] = 'finished'


def _with_a_top_class_that_moves(results):
  cell = results['measurements']['board']['cells'][-1]
  cell |= {'shared': True, 'answers': 'labels'}
  for price in results['measurements']['prices']['stingy'].values():
    price['flipped'] = 3.0


def _with_another_accuracy(results):
  next(run for run in results['runs'] if run['method'] == 'kd')[
    'test_accuracy'
  ] += 0.5


def _with_other_hits(change):
  def spoil(results):
    hits = results['measurements']['hits']['test']
    name = next(iter(hits))
    hits[name] = change(hits[name])

  return spoil


def _with_a_thief_who_hears_nobody(results):
  """Whom he asks or not, he is right about the same images."""
  hits, cells = (results['measurements'][k] for k in ('hits', 'board'))
  found = {
    (cell['defense'], cell['attack']): cell['runs'] for cell in cells['cells']
  }
  for seed, run in found['none', 'mkd'].items():
    hits['test'][run] = hits['test'][found[None, 'null mkd'][seed]]


@pytest.mark.parametrize(
  ('spoil', 'told'),
  [
    (_with_a_thief_who_hears_nobody, 'mkd by cnn8 never heard the network'),
    (_with_another_accuracy, 'are not those of its accuracy'),
    (_with_other_hits(lambda x: 'g' + x[1:]), 'are not those of its'),
    (_with_other_hits(lambda x: x + '00'), 'are not those of its'),
    (_with_other_hits(lambda x: 3), 'are not those of its'),
    (_with_other_hits(lambda x: ''), 'are not those of its'),
    (lambda r: r.update(study='main'), 'it is not of an arena'),
    (_without_a_cell, 'mkd by cnn8 never met stingy'),
    (_without_a_run, 'mkd against stingy has neither a result'),
    (_without_a_result, 'mkd against stingy has neither a result'),
    (_with_a_top_class_that_moves, 'mkd against stingy: stingy declares KEEPS'),
    (lambda r: r['measurements']['prices'].pop('nasty'), 'nasty has no price'),
    (
      lambda r: [one.pop('nasty') for one in _latency(r)],
      'nasty was not timed',
    ),
    (lambda r: next(iter(_latency(r))).pop('nasty'), 'nasty was not timed'),
    (lambda r: r['measurements'].pop('hits'), 'it lacks hits'),
    (lambda r: r.pop('measurements'), 'it lacks measurements'),
    (lambda r: _rules(r).update(fresh_seeds=[2, 3]), '2 fresh seeds'),
    (lambda r: _rules(r).update(choose_seeds=[0, 2]), 'is judged on it'),
    (
      lambda r: r['measurements']['board']['owners'].remove('none'),
      'the unprotected network is not among',
    ),
  ],
)
def test_what_lacks_something_makes_no_record(spoil, told):
  results = copy.deepcopy(_results())
  assert records.problems(results) == []
  spoil(results)
  assert told in '; '.join(records.problems(results))


def _rules(results):
  return results['measurements']['rules']


def _latency(results):
  return results['measurements']['latency'].values()


def test_a_record_is_made_of_what_an_arena_left(tmp_path):
  source, folder = tmp_path / 'arena', tmp_path / 'results' / 'mine'
  (source / 'figures').mkdir(parents=True)
  (source / 'report.md').write_text('# It\n')
  (source / 'config.json').write_text('{}\n')
  (source / 'figures' / 'plane.png').write_bytes(b'png')
  results = _results()
  disk.write_json(source / 'results.json', results)
  disk.sign(source, ['results.json'])
  records.add(source, folder)
  disk.write_json(folder / 'withdrawn.json', {'nasty': 'why'})
  assert (folder / 'figures' / 'plane.png').read_bytes() == b'png'
  (record,) = records.read_all(tmp_path / 'results')
  assert (record.name, record.withdrawn) == ('mine', {'nasty': 'why'})
  assert leaderboard.tables([_record(record.results)]) == leaderboard.tables(
    [_record(results)]
  )
  with pytest.raises(errors.InputError, match='has a record; give this one'):
    records.add(source, folder)
  text = (source / 'results.json').read_text()
  (source / 'results.json').write_text(text.replace('84', '85', 1))
  with pytest.raises(errors.InputError, match='not there or is damaged'):
    records.add(source, folder)
  results['measurements']['prices'].pop('nasty')
  disk.write_json(source / 'results.json', results)
  disk.sign(source, ['results.json'])
  with pytest.raises(errors.InputError, match='no record: nasty has no price'):
    records.add(source, folder)


@pytest.mark.parametrize(
  'missing', ['SHA256SUMS', 'config.json', 'report.md', 'results.json']
)
def test_where_a_file_is_missing_no_half_of_a_record_is_left(missing, tmp_path):
  source, folder = tmp_path / 'arena', tmp_path / 'mine'
  (source / 'figures').mkdir(parents=True)
  for name in ('config.json', 'report.md'):
    (source / name).write_text('{}\n')
  disk.write_json(source / 'results.json', _results())
  disk.sign(source, ['results.json'])
  (source / missing).unlink()
  with pytest.raises(errors.InputError, match='not there'):
    records.add(source, folder)
  assert not folder.exists()


def test_the_protocol_is_in_what_an_arena_measures(recorded):
  """The first record is from before it was: it is protocol 1."""
  assert arena.PROTOCOL >= 1
  for record in recorded:
    number = record.results['measurements']['rules'].get('protocol', 1)
    assert 1 <= number <= arena.PROTOCOL


@pytest.mark.parametrize('name', ['../x', '/tmp/x', '.', ''])
def test_a_record_is_named_by_a_word(name, monkeypatch):
  for flag, value in (('_ADD', '/nowhere'), ('_NAME', name)):
    monkeypatch.setattr(leaderboard, flag, types.SimpleNamespace(value=value))
  with pytest.raises(errors.InputError, match='expected a word'):
    leaderboard.main()
