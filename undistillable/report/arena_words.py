"""What the page of the arena says, and how it writes its numbers."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence

from undistillable.report import (
  document,
  verdict as verdict_lib,
)
from undistillable.report.board import NONE, WEIGHTS, Board, Group

_MAX_LISTED = 2  # Defenses with their prices in a sentence.

VERDICTS = (
  'Distillable: the thief whom validation chose gains over the best that he '
  'could do alone (lower bound above 0, with Holm’s correction over the '
  'students). Undistillable against these attacks: the gain of every one of '
  'them, by every student, is below the margin of {margin:g} points (each '
  'upper bound). Open: neither; below it how many fresh seeds would settle it '
  'if all gains stayed as they are, or which attack has no result, as one '
  'whose training diverged: it may gain with other settings. Gain: of the '
  'thief who decides, in points, with its one-sided 95 % bounds. Bootstrap: '
  'the same bounds by drawing seeds and images again, as a check. Seeds / '
  'images: the standard error of the gain in points, by what causes it; more '
  'seeds reduce the first part alone. Leaked: his gain as a share of that from '
  'the unprotected network, where that is above {leak:g} point. Against none: '
  'his accuracy less that of the thief chosen against the unprotected network. '
  'Scores: less that of a thief who hears the top classes alone. Price: change '
  'of the accuracy that the owner serves, in points, and of its Brier score, '
  'against the normal network. Time: of an answer to one image, as a multiple.'
)
NO_CONTROL = (
  'There is no telling what anybody gains: no training without the owner came '
  'to a result.'
)
MATRIX = (
  'Gain over the control ({control}) in points, on {seeds} fresh seeds and '
  '{images} test images, with one-sided 95 % bounds. Red: above 0. Green: '
  'below 0. = marks a run that is shared with the unprotected network: that '
  'thief cannot tell them apart.'
)
CHOICE = (
  ' Bold: chosen by validation; at the end of the row how often the same '
  'attack would be chosen from other held-out images.'
)
OTHER_VERDICTS = (
  ' Two things differ here. Gains are over {control}, which is all that '
  'such a thief could do alone. And he has no labels to choose an attack by: '
  'any of them may show that he gains, with Holm’s correction over all of '
  'them, and over the students; the lower bounds are at that level. Scores: of '
  'whoever hears them, less a thief who hears the top classes alone.'
)
CONTROLS = (
  'What a thief can do without the owner, with the same images, labels and '
  'steps. Bold: the best on the held-out images with seeds {choose}; every '
  'gain is over that one. In brackets how often it would be chosen from other '
  'held-out images. A null control is an attack on nobody, whose answers are '
  'the labels of the thief’s own images.'
)
BOUND = (
  ' † is a bound, and no thief: it knows what none does. It decides nothing.'
)
PRICES = (
  'Of the answers as they are served, means over the fresh seeds. Flipped: '
  'images with another top class than the normal network gives. NLL: of scores '
  'mixed with 1e-4 a class, in nats. ECE: 15 bins, of the surest class, and '
  'the mean over classes. Fitted: after a client has fitted one temperature on '
  'held-out images. L1: distance to the normal scores. AURC: mean error among '
  'the surest answers, less is better.'
)
SERVING = (
  'Time of an answer to one image, and to 256: the median, and below it the '
  '95th percentile, as multiples of the median of the normal network. '
  'Training: seconds of all networks that are trained for it, over those of '
  'the normal one; about 1 where little more is trained.'
)
SERVING_MEASURED = (
  ' Networks: others that an answer is made of. State: all weights that it is '
  'made of. Again, shuffled: the largest difference of a score when the same '
  'images are asked about again, and in another order among others; a defense '
  'that rounds may turn the last digit of a score into more.'
)
ASKED = (
  'One student: images that he asks about. All: different questions of all '
  'students of one seed to the networks of one owner, and of what they train '
  'on the way. Once, recorded: about every image, without augmentation; the '
  'answer is reused, by all students of that network. Every view, fresh: each '
  'augmented image is a question of its own; students of one attack and seed '
  'see the same ones.'
)
LIMITS = (
  'Undistillable always means: against the attacks, students and data listed '
  'here. A better attack can end it, none can be excluded. Each verdict has a '
  'level of its own: of twenty, one may be wrong by chance. Gains are those of '
  'networks trained with these settings; whoever trains longer, or has other '
  'images, may gain more.'
)


def conclusion(board: Board) -> document.Conclusion:
  """What the page says first, of the group that has most to go by."""
  first, *others = board.groups
  number = len(first.defenses())
  if board.audited is not None or not number:
    return audit(board)
  distillable, held, still_open = (
    first.defenses(decision)
    for decision in ('distillable', 'undistillable', 'open')
  )
  sentence = (
    f'{_against(first)}, of {count(number, "defense")} {_are(distillable)} '
    f'distillable, {len(held) or "none"} undistillable against these attacks'
    f'{_at_prices(held, board)}, and {len(still_open) or "none"} open; '
    f'{_plain_clause(first.none)}.'
  )
  for group in others:
    if not group.thieves:
      continue  # Bounds alone.
    leaking = len(group.defenses('distillable'))
    sentence += f' {group.title} gain from {leaking or "none"} of {number}.'
  if first.none.decision == 'undistillable':
    headline, tone = 'Here is nothing to protect', 'open'
    if _robbing(others):
      headline = f'Nothing to protect from {first.title.lower()}'
  elif distillable:
    leaks = 'leaks' if len(distillable) == 1 else 'leak'
    headline = f'{len(distillable)} of {number} defenses {leaks}'
    tone = 'bad'
  elif still_open:
    are = 'is' if len(still_open) == 1 else 'are'
    headline = f'{len(still_open)} of {number} defenses {are} open'
    tone = 'open'
  else:
    headline, tone = 'No thief gains from any defense', 'good'
  title = f'Which defense holds on {board.dataset}, and at what price?'
  return document.Conclusion(title, headline, sentence, tone)


def audit(board: Board) -> document.Conclusion:
  """What the page of one network says first, of the same group.

  As it is served: where a defense stands before it, of the row of that.
  """
  first, *others = board.groups
  name = board.audited or NONE
  found = first.rows[name].verdict
  behind = '' if name == NONE else f' behind {_wrapper(name)}'
  headline, tone = {
    'distillable': (f'It can be distilled{behind}', 'bad'),
    'undistillable': (f'Undistillable{behind} against these attacks', 'good'),
    'open': (f'Not yet decided{behind}', 'open'),
  }[found.decision]
  state, *more = told(found).splitlines()
  known = f' ({more[0]})' if more and state != 'undistillable' else ''
  if found.seeds and not found.missing:
    known = f' ({found.seeds} fresh seeds would settle it)'
  served = f', served{behind},' if behind else ''
  verdict = f'this network{served} is {state}'
  if found.decision == 'open':
    verdict = f'it is open whether this network{served} can be distilled'
  sentence = f'{_against(first)}, {verdict}{known}'
  if found.gain:
    who = thief(found.attack, found.student).replace('\n', ' with ')
    low, high = points(found.gain.low(found.level)), points(found.gain.high())
    sentence += (
      f': {who} gains {points(found.gain.points)} points ({low} to {high}) '
      'over the best that this thief could do alone'
    )
  others_tried = first.defenses(but=name)
  if others_tried:
    held = first.defenses('undistillable', but=name)
    defenses = 'other defense' if behind else 'defense'
    sentence += (
      f'; of {count(len(others_tried), defenses)} {_are(held)} undistillable '
      f'against them{_at_prices(held, board)}'
    )
  sentence += '.'
  if behind:
    sentence += f' {_without(board, first, name)}'
  weak = weaker(board, first, name)
  if weak and found.decision != 'distillable':
    sentence, tone = f'{sentence} {weak}', 'open'
    headline = f'It has little to give{behind}'
  robbing = _robbing(others, name)
  for group in robbing:
    sentence += f' {group.title} gain from it'
    # What stands before a network is not before who has it.
    met = behind and group.name == WEIGHTS
    sentence += f', and never meet {_wrapper(name)}.' if met else '.'
  if behind:
    robbing = [group for group in robbing if group.name != WEIGHTS]
  if robbing and found.decision != 'distillable':
    thieves = document.listed(group.title.lower() for group in robbing)
    headline, tone = f'It can be distilled{behind} by {thieves}', 'bad'
  title = (
    f'Can this network{served} be stolen by distillation? ({board.dataset})'
  )
  legend = (
    'Below, none is this network itself, protected already or not; where the '
    'unprotected network is spoken of, it is that'
  )
  if behind:
    legend += f'. {_wrapper(name)} is the same as its clients are answered'
  details = [document.Text(f'{legend}.')]
  return document.Conclusion(title, headline, sentence, tone, details)


def _without(board: Board, group: Group, name: str) -> str:
  """The network without what serves it, and the price of that."""
  plain, found = group.none, group.rows[name].verdict
  too = ', too' if plain.decision == found.decision else ''
  text = f'Without {_wrapper(name)} it is {plain.decision}{too}'
  if plain.gain:
    gained = points(plain.gain.points)
    text += f' ({gained} points by {_in_words(plain.attack)})'
  change = board.paid.change.get(name)
  if change:
    text += (
      f'; being served so changes its accuracy by {points(change["accuracy"])} '
      f'points and its Brier score (less is better) by '
      f'{signed(change["brier"], ".3f")}'
    )
  return f'{text}.'


def _in_words(name: str) -> str:
  """'kd:alpha=0.1,tau=2' -> 'kd with alpha=0.1, tau=2'."""
  return in_two_lines(name).replace('\n', ' with ')


def _wrapper(name: str) -> str:
  """'top_k:k=3' -> 'top_k (k=3)'."""
  method, *settings = in_two_lines(name).splitlines()
  return ' '.join([method, *(f'({one})' for one in settings)])


def weaker(board: Board, group: Group, name: str = NONE) -> str:
  """That a network has nothing to give to who trains alone, or ''.

  Below whoever it should teach by more than the margin: weights that are read
  in another way than where they were trained look undistillable. `name` is of
  the defense that serves it.
  """
  own = board.paid.mean.get(name, {}).get('accuracy')
  alone = [100 * float(hits.mean()) for hits in group.alone.values()]
  if own is None or own + board.rules['margin'] > min(alone, default=0.0):
    return ''
  text = (
    f'But the network is right about {own:.1f} % of the test images, and a '
    f'thief who trains alone about {min(alone):.1f} %: it has little to give. '
  )
  if name != NONE and not weaker(board, group):
    plain = board.paid.mean[NONE]['accuracy']
    return f'{text}Without {_wrapper(name)} it is right about {plain:.1f} %.'
  return text + (
    'If it should be right more often, compare config.normalization, and the '
    'order of the classes, with those that it was trained with.'
  )


def _against(group: Group) -> str:
  attacks = count(len(group.thieves), 'attack')
  return f'Against {attacks} by {group.title.lower()}'


def _are(names: Sequence[str]) -> str:
  return f'{len(names) or "none"} {"is" if len(names) < 2 else "are"}'


def _robbing(groups: Iterable[Group], name: str = NONE) -> list[Group]:
  """Of these thieves, whoever gains from a row, as the unprotected network."""
  return [
    group
    for group in groups
    if group.rows[name].verdict.decision == 'distillable'
  ]


def _plain_clause(plain: verdict_lib.Verdict) -> str:
  """What stands at the end: what there is to protect at all."""
  if plain.gain is None:
    return 'there are too few seeds to say anything of the unprotected network'
  attack = _in_words(plain.attack)
  told = f'{points(plain.gain.points)} points by {attack}'
  if plain.decision == 'distillable':
    return f'from the unprotected network a thief gains {told}'
  if plain.decision == 'undistillable':
    return (
      'but from the unprotected network, too, no thief gains as much as the '
      f'margin (the one who was chosen {told})'
    )
  return f'whether the unprotected network is distillable is open ({told})'


def _at_prices(names: Sequence[str], board: Board) -> str:
  """' (stingy at −0.3 points of accuracy and +0.021 Brier)', or nothing."""
  told = [
    f'{name} at {points(change["accuracy"])} points of accuracy and '
    f'{signed(change["brier"], ".3f")} Brier'
    for name in names
    if (change := board.paid.change.get(name))
  ]
  return f' ({"; ".join(told)})' if told and len(names) <= _MAX_LISTED else ''


def next_steps(board: Board) -> list[str]:
  """What to do, a text for all thieves for whom it is the same."""
  step_fn = next_step if board.audited is None else audit_step
  titles: dict[str, list[str]] = {}
  groups = [group for group in board.groups if group.thieves]
  for group in groups:
    titles.setdefault(step_fn(board, group), []).append(group.title)
  if len(groups) == 1:
    return list(titles)
  return [
    f'{document.listed([first, *map(str.lower, others)])}: {step}'
    for step, (first, *others) in titles.items()
  ]


def next_step(board: Board, group: Group) -> str:
  """Against one kind of thieves."""
  verdicts = {  # Where 'none' would say nobody.
    'the unprotected network' if name == NONE else name: row.verdict
    for name, row in group.rows.items()
  }
  steps = _to_settle(board, verdicts)
  settled = not any(
    found.decision == 'open' and (found.gain or found.missing)
    for found in verdicts.values()
  )
  plain = group.none.decision
  change = board.paid.change
  held = [n for n in group.defenses('undistillable') if n in change]
  if held and plain == 'distillable':
    steps.append(_cheapest(board, held))
  elif settled and not held:
    steps.append(
      'Nobody gains here: let it meet more students, and attacks that were '
      'made for it, before it is relied upon.'
      if plain == 'undistillable'
      else 'Nothing here withholds what a thief can learn: try others.'
    )
  if not steps:
    steps.append('Try a data set on which there is more to steal.')
  return ' '.join([ceiling(board, group), *steps]).lstrip()


def audit_step(board: Board, group: Group) -> str:
  """Against one kind of thieves, about one network as it is served."""
  name = board.audited or NONE
  who = 'it' if name == NONE else _wrapper(name)
  found = group.rows[name].verdict
  decision, steps = found.decision, _to_settle(board, {'this network': found})
  tried = group.defenses(but=name)
  held = group.defenses('undistillable', but=name)
  held = [one for one in held if one in board.paid.change]
  if decision == 'distillable' and group.name == WEIGHTS:
    steps.append(
      'No defense that only serves stands before the weights: keep them to '
      'yourself, or train a network whose weights say less.'
    )
  elif decision == 'distillable' and held:
    steps.append(_cheapest(board, held))
  elif decision == 'distillable':
    steps.append(
      'Nothing here withholds what a thief can learn: train a network that '
      'does, as nasty, and audit that.'
      if tried
      else f'Nothing here withholds what a thief can learn; --budget=full '
      f'tries every {"" if name == NONE else "other "}defense that can be '
      'served before this network as it is.'
    )
  elif decision == 'undistillable':
    if name != NONE and group.none.decision == 'undistillable':
      steps.append(f'Nobody gains here without {who} either.')
    steps.append(
      f'Let it meet more students, and attacks that were made for {who}, '
      'before it is relied upon.'
    )
  elif not steps:
    steps.append('No attack that was tried fits it: try others.')
  return ' '.join([ceiling(board, group), *steps]).lstrip()


def _to_settle(
  board: Board, verdicts: Mapping[str, verdict_lib.Verdict]
) -> list[str]:
  """What would settle the open ones of these, by how they are called."""
  have = len(board.rules['fresh_seeds'])
  lacking: list[str] = []
  by_seeds: dict[int | None, list[str]] = {}
  for name, found in verdicts.items():
    if found.decision == 'open' and found.missing:
      lacking.append(name)
    elif found.decision == 'open' and found.gain:
      by_seeds.setdefault(found.seeds, []).append(name)
  hopeless = by_seeds.pop(None, [])
  steps = []
  if have < verdict_lib.MIN_SEEDS:
    steps.append(
      f'Judge on at least {verdict_lib.MIN_SEEDS} fresh seeds; here are {have} '
      '(config.arena.fresh_seeds).'
    )
  elif by_seeds:
    enough = '; '.join(
      f'{number} fresh seeds settle {document.listed(names)}'
      for number, names in sorted(by_seeds.items())
    )
    steps.append(
      f'Judge on more fresh seeds than {have} (config.arena.fresh_seeds), none '
      'of them among these, or it would be a second look: if the gains stay '
      f'as they are, {enough}.'
    )
  if lacking:
    steps.append(
      f'Against {document.listed(lacking)} an attack has no result, for which '
      'a note below the matrix has the reason: it may be one that needs '
      'another setting.'
    )
  if hopeless:
    steps.append(
      f'No number of seeds settles {document.listed(hopeless)}: the gain lies '
      'too near to 0 and to the margin for so few test images.'
    )
  return steps


def _cheapest(board: Board, held: Sequence[str]) -> str:
  """Of some whose prices are known."""
  cheap = min(held, key=lambda name: board.paid.change[name]['brier'])
  return (
    f'Of what holds, {cheap} costs least{_at_prices([cheap], board)}; before '
    'it is relied upon, it should meet an attack that was made for it.'
  )


def ceiling(board: Board, group: Group) -> str:
  """That no gain could reach the margin, where that is so, or ''."""
  alone = [float(hits.mean()) for hits in group.alone.values()]
  room = 100 * (1 - min(alone, default=0.0))  # What is left to gain.
  if room >= board.rules['margin']:
    return ''
  return (
    f'Even a thief who is always right would gain only {points(room)} points '
    'here, less than the margin: that none gains as much says little of any '
    'defense.'
  )


def told(found: verdict_lib.Verdict) -> str:
  """A verdict in a cell."""
  if found.missing and found.decision == 'open':
    return f'open\n{document.listed(found.missing)} without a result'
  if found.gain is None:
    return 'open\ntoo few seeds, or no thief'
  if found.decision == 'distillable':
    small = '\nby less than the margin' if found.below_margin else ''
    return f'distillable{small}'
  if found.decision == 'undistillable':
    return 'undistillable\nagainst these attacks'
  if found.seeds is None:
    return 'open\nwith any number of seeds'
  return f'open\n{found.seeds} fresh seeds'


def price(change: Mapping[str, float]) -> str:
  """'−0.3', and below it what it means for the Brier score."""
  brier = signed(change['brier'], '.3f')
  return f'{points(change["accuracy"])}\n{brier} Brier'


def time(multiple: float | None) -> str:
  return '–' if multiple is None else f'{multiple:.1f}×'


def in_two_lines(attack: str) -> str:
  """'kd:alpha=0.1,tau=2' -> 'kd', and 'alpha=0.1, tau=2' below it."""
  # A line of a narrow column may end behind each.
  spaced = re.sub(r', *(?=\w+=)', ', ', attack)
  return spaced.replace(':', '\n', 1)


def size(number: float) -> str:
  """Bytes, as '312 kB' or '44.7 MB'."""
  return f'{number / 1e3:.0f} kB' if number < 1e6 else f'{number / 1e6:.1f} MB'


def parts(gain: verdict_lib.Gain | None) -> str:
  """'0.55 /', and '0.61' below it: the errors of the seeds and the images."""
  if gain is None:
    return '–'
  variances = gain.seeds_variance, gain.images_variance
  return ' /\n'.join(f'{math.sqrt(variance):.2f}' for variance in variances)


def thief(attack: str | None, detail: str) -> str:
  """'kd', and below it a detail, as the student, and the settings."""
  if not attack:
    return '–'
  name, *settings = in_two_lines(attack).splitlines()
  return f'{name}\n{", ".join([detail, *settings])}'


def interval(
  gain: verdict_lib.Gain | None,
  level: float = verdict_lib.LEVEL,
  mark: str = '',
) -> str:
  """'+1.2', and below it '[0.3, 2.1]'."""
  if gain is None:
    return '–'
  bounds = span(gain.low(level), gain.high())
  return f'{points(gain.points)}{mark}\n{bounds}'


def span(low: float, high: float) -> str:
  """'−0.3 to +2.1', in points."""
  return f'{points(low)} to {points(high)}'


def percent(share: float) -> str:
  return f'{100 * share:.0f} %'.replace('-', '−')


def points(value: float) -> str:
  return signed(value, '.1f')


def signed(value: float, spec: str) -> str:
  """With its sign; what rounds to nothing has none."""
  shown = format(value, f'+{spec}')
  if not shown.strip('+-0.'):
    return shown[1:]
  return shown.replace('-', '−')


def numbers(values: Iterable[int]) -> str:
  """'1, 2, 3'."""
  return ', '.join(map(str, values))


def count(number: int, noun: str) -> str:
  return f'{number} {noun}{"" if number == 1 else "s"}'
