"""The written report: whole, self-contained, escaped, honest about gaps."""

import html.parser
import json
import os
import re

import fabricated
import numpy as np
import pytest

from undistillable.report import (
  curves,
  document,
  draw,
  write,
)

_VOID = {'br', 'hr', 'img', 'link', 'meta', 'source'}


class Page(html.parser.HTMLParser):
  """Collects tags and text, and fails on tags that do not nest."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.open, self.text = [], [], ''
    self.feed(text)
    self.close()
    assert not self.open

  def handle_starttag(self, tag, attrs):
    self.tags.append((tag, dict(attrs)))
    if tag not in _VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    self.text += data

  def find(self, name):
    return [attrs for tag, attrs in self.tags if tag == name]


def _study(workdir, model='cnn'):
  """A whole study on disk: runs, metrics and responses."""
  runs = fabricated.make_study(
    (90.0, 92.0), (91.0, 94.0), (70.0, 74.0), models=(model,)
  )
  # Names of folders, which that of a model must not break.
  names = {run['id']: f'run-{number}' for number, run in enumerate(runs)}
  for run in runs:
    run['id'] = names[run['id']]
    run['parents'] = {k: names[v] for k, v in run['parents'].items()}
    for key in ('teacher', 'control', 'normal'):
      run[key] = names.get(run[key])
  for run in runs:
    path = workdir / 'runs' / run['id'] / 'metrics.jsonl'
    path.parent.mkdir(parents=True)
    lines = [
      {'epoch': e, 'train_loss': 1 / e, 'train_accuracy': 50.0} for e in (1, 2)
    ]
    path.write_text('\n'.join(map(json.dumps, lines)), encoding='utf-8')
  np.savez(
    workdir / 'responses.npz',
    image=np.arange(32, dtype=np.uint8).reshape(2, 4, 4, 1),
    label=np.array([0, 2]),
    ids=np.array(['run-0', 'run-1']),
    logits=np.array([np.eye(3)[[0, 2]], [[3.0, 2, 0], [0, 2, 3.0]]]),
    class_names=np.array(['cat', 'dog', 'owl']),
  )
  return {'runs': runs, 'environment': {'python': '3.11', 'device': 'TPU <v4>'}}


@pytest.fixture(scope='module')
def written(tmp_path_factory):
  """(workdir, page) of a whole study whose names try to break out."""
  workdir = tmp_path_factory.mktemp('study')
  results = _study(workdir, model='<script>alert("1")</script>')
  write.write(results, workdir, command='python -m x --a="<b>" && echo $b')
  return workdir, (workdir / 'report.html').read_text(encoding='utf-8')


def test_all_files_are_written_and_nothing_else(written):
  workdir, _ = written
  assert {path.name for path in workdir.iterdir()} == {
    'figures',
    'report.html',
    'report.md',
    'responses.npz',
    'runs',
  }
  figures = {path.name for path in (workdir / 'figures').iterdir()}
  assert figures == {'accuracy.png', 'curves.png', 'logits.png'}
  for path in (workdir / 'figures').iterdir():
    assert path.read_bytes().startswith(b'\x89PNG')


def test_page_is_self_contained(written):
  _, text = written
  page = Page(text)
  for tag, attrs in page.tags:
    assert tag not in ('script', 'link', 'iframe', 'object')
    assert not any(name.startswith('on') for name in attrs)
    assert not {'src', 'srcset', 'data', 'poster'} & attrs.keys()
    if tag == 'a':
      assert attrs['href'].startswith('https://arxiv.org/')
    elif 'xlink:href' in attrs:
      assert attrs['xlink:href'].startswith(('#', 'data:image/png;base64,'))
    else:
      assert 'href' not in attrs
  sheet = re.search(r'<style>(.*?)</style>', text, re.S)[1]
  assert 'url(' not in sheet and '@import' not in sheet


def test_page_is_accessible(written):
  page = Page(written[1])
  images = [a for a in page.find('div') if a.get('role') == 'img']
  assert len(images) == len(page.find('figure')) == 3
  assert all(len(attrs['aria-label']) > 20 for attrs in images)
  assert page.find('html')[0]['lang'] == 'en'
  levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r'h\d', tag)]
  assert levels[0] == 1 and levels.count(1) == 1
  assert all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))


def test_names_and_settings_are_escaped(written):
  workdir, text = written
  assert '<script' not in text
  page = Page(text)
  assert 'student <script>alert("1")</script>' in page.text
  assert 'python -m x --a="<b>" && echo $b' in page.text
  assert 'TPU <v4>' in page.text
  markdown = (workdir / 'report.md').read_text(encoding='utf-8')
  assert '\\<script\\>' in markdown and ' <script' not in markdown


def test_conclusion_comes_first_and_everything_is_there(written):
  workdir, text = written
  page = Page(text)
  order = [
    'How undistillable is the nasty resnet8 on digits?',
    'The protection holds',
    'costs a thief 19.0 points against training alone',
    '72.0 ± 2.8',
    'Accuracy of every network',
    'What a thief sees',
    'How the networks learned',
    'How it was done',
    'run-9',
    'Limits',
  ]
  at = [page.text.index(part, page.text.index('How und')) for part in order]
  assert at == sorted(at)
  markdown = (workdir / 'report.md').read_text(encoding='utf-8')
  for name in re.findall(r'\]\((figures/[^)]*)\)', markdown):
    assert (workdir / name).is_file()
  assert markdown.count('](figures/') == 3


def test_every_colour_has_a_light_and_a_dark_value(written):
  themes = re.findall(r':root \{(.*?)\}', written[1], re.S)
  light, dark = (set(re.findall(r'--([\w-]+): #', theme)) for theme in themes)
  assert light == dark == set(draw.COLORS)
  used = set(re.findall(r'var\(--([\w-]+)\)', written[1]))
  assert used <= {*light, 'font'}


def test_a_thief_that_lost_nothing_stands_out(tmp_path):
  runs = fabricated.make_study((90.0,), (91.0,), (91.0,))
  write.write({'runs': runs}, tmp_path)
  page = Page((tmp_path / 'report.html').read_text(encoding='utf-8'))
  strong = [a for a in page.find('td') if 'strong' in a.get('class', '')]
  assert len(strong) == 1 and 'Bold: this thief lost nothing' in page.text
  markdown = (tmp_path / 'report.md').read_text(encoding='utf-8')
  assert '| 91.0 | **+1.0** | 1 |' in markdown.replace('\\', '')


def test_template_is_filled(written):
  assert not re.search(r'\$(css|title|body|headline|sentence|tone)', written[1])


def test_missing_parts_are_left_out_and_named(tmp_path):
  runs = fabricated.make_study((90.0,), (91.0,), (70.0,))
  write.write({'runs': runs}, tmp_path)
  page = Page((tmp_path / 'report.html').read_text(encoding='utf-8'))
  assert len(page.find('figure')) == 1
  assert 'no responses.npz' in page.text
  assert 'No metrics by epoch' in page.text
  assert '(one seed only)' in page.text


def test_teachers_without_students(tmp_path):
  runs = fabricated.make_study((90.0,), (91.0,), (70.0,), models=())
  write.write({'runs': runs, 'environment': None}, tmp_path)
  page = Page((tmp_path / 'report.html').read_text(encoding='utf-8'))
  assert 'no student has been distilled' in page.text.lower()


def test_a_study_may_have_another_question_and_folder(tmp_path):
  runs = fabricated.make_study((90.0,), (91.0,), (70.0,))
  conclusion = document.Conclusion('A & B', 'Open', 'Nothing is known.', 'open')
  folder = tmp_path / 'study'
  missing = draw.Figure('Where', 'map', None, '', '', 'There is no map.')
  write.write(
    {'runs': runs},
    tmp_path,
    folder=folder,
    conclusion=conclusion,
    figures=[missing],
  )
  page = Page((folder / 'report.html').read_text(encoding='utf-8'))
  for text in ('A & B', 'Nothing is known.', 'There is no map.'):
    assert text in page.text
  assert 'How the networks learned' not in page.text
  assert not (tmp_path / 'report.html').exists()


def test_no_runs_at_all(tmp_path):
  write.write({'runs': [], 'environment': {}}, str(tmp_path))
  page = Page((tmp_path / 'report.html').read_text(encoding='utf-8'))
  assert 'No run has finished' in page.text
  assert not page.find('svg')


def test_torn_last_line_is_skipped_and_a_broken_one_is_not(tmp_path):
  path = tmp_path / 'runs' / 'a' / 'metrics.jsonl'
  path.parent.mkdir(parents=True)
  path.write_text('{"epoch": 1}\n{"epo', encoding='utf-8')
  runs = [{'id': 'a'}, {'id': 'b'}]
  assert curves.read(tmp_path, runs) == {'a': [{'epoch': 1}]}
  path.write_text('{"epo\n{"epoch": 2}\n', encoding='utf-8')
  with pytest.raises(ValueError, match=r'metrics\.jsonl, line 1: not JSON'):
    curves.read(tmp_path, runs)


def test_a_failed_write_leaves_the_old_report(tmp_path, monkeypatch):
  write.write({'runs': []}, tmp_path)
  before = (tmp_path / 'report.html').read_bytes()

  def fail(*_):
    raise OSError('disk full')

  monkeypatch.setattr(os, 'replace', fail)
  with pytest.raises(OSError, match='disk full'):
    write.write({'runs': []}, tmp_path, command='new')
  assert (tmp_path / 'report.html').read_bytes() == before
  assert {p.name for p in tmp_path.iterdir()} == {'report.html', 'report.md'}
