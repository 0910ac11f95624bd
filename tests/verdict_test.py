"""The verdict: numbers by hand, what its bounds cover, what never matters."""

import itertools

import numpy as np
import pytest
import scipy.stats

from undistillable.report import verdict


def test_a_gain_by_hand():
  """Two seeds on eight images against a control that is never right.

  Accuracies 1/2 and 1/4: over seeds 1/32, of their mean 1/64. Mean hits twice
  1, 1/2, 0, 0: over images 11/56, of their mean 11/448. What is left of the
  hits without row and column is twelve times 1/8 and four times 3/8: mean
  square 3/28, of the mean 3/448, which is in both and counted once.
  """
  attack = np.array([[1, 1, 0, 0], [1, 0, 0, 0]], bool)
  attack = np.tile(attack, 2)
  found = verdict.gain(attack, np.zeros((2, 8), bool))
  seeds, images = 1 / 64, 8 / 448
  assert found.points == 37.5
  np.testing.assert_allclose(found.seeds_variance, 1e4 * seeds)
  np.testing.assert_allclose(found.images_variance, 1e4 * images)
  degrees = (seeds + images) ** 2 / (seeds**2 / 1 + images**2 / 7)
  np.testing.assert_allclose(found.degrees, degrees)
  assert found.num_seeds == 2


def test_of_the_same_networks_nothing_is_gained():
  hits = np.random.default_rng(0).random((3, 50)) < 0.8
  found = verdict.gain(hits, hits)
  assert found.points == 0
  assert found.low() == -found.high() < 0


def test_agreement_on_all_images_proves_little_about_others():
  """One image of n is reckoned with, though none was discordant."""
  hits = np.tile(np.arange(200) % 7 > 0, (3, 1))
  found = verdict.gain(hits, hits)
  np.testing.assert_allclose(found.error, 0.5)


def test_hits_that_do_not_belong_together_are_refused():
  with pytest.raises(ValueError, match='expected .R, n. about the same'):
    verdict.gain(np.zeros((2, 5), bool), np.zeros((2, 6), bool))
  with pytest.raises(ValueError, match='one seed has no variance'):
    verdict.gain(np.zeros((1, 5), bool), np.zeros((2, 5), bool))
  with pytest.raises(ValueError, match='one seed has no variance'):
    verdict.bootstrap(np.zeros((2, 5), bool), np.zeros((1, 5), bool))


def _simulated(rng, seeds, images, noise, num_seeds, num_images):
  """Hits of two groups of networks that are alike, of crossed effects.

  Each is right where a normal variable is below a level: that of its seed, of
  the image, which both groups see, and of what neither explains.
  """
  level = 1.3 * np.sqrt(seeds**2 + images**2 + noise**2)
  of_images = rng.normal(0, images, num_images)

  def group():
    of_seeds = rng.normal(0, seeds, (num_seeds, 1))
    left = rng.normal(0, noise, (num_seeds, num_images))
    return of_seeds + of_images + left < level

  return group(), group()


@pytest.mark.parametrize('num_seeds', [3, 5])
@pytest.mark.parametrize(
  ('seeds', 'images', 'noise'),
  [(0.3, 1.0, 0.3), (0.02, 1.0, 0.3), (0.02, 0.3, 1.0)],
  ids=['seeds', 'images', 'noise'],
)
def test_bounds_cover_the_truth_as_often_as_they_say(
  seeds, images, noise, num_seeds
):
  """Whatever of the three prevails; the true gain is 0."""
  rng = np.random.default_rng(0)
  found = [
    verdict.gain(*_simulated(rng, seeds, images, noise, num_seeds, 200))
    for _ in range(800)
  ]
  low = np.mean([gain.low() <= 0 for gain in found])
  high = np.mean([gain.high() >= 0 for gain in found])
  # Nominally 95 %; the standard error of the simulation is 0.8 %.
  assert 0.93 <= low <= 0.99
  assert 0.93 <= high <= 0.99
  variance = np.mean([gain.error**2 for gain in found])
  actual = np.var([gain.points for gain in found])
  assert 0.85 < variance / actual < 1.35


def test_drawn_again_what_is_certain_stays():
  """Seeds that are alike, on images about which nobody differs."""
  right = np.ones((3, 20), bool)
  assert verdict.bootstrap(right, ~right) == pytest.approx((100, 100))
  assert verdict.bootstrap(right, right[:2]) == pytest.approx((0, 0))


def test_drawn_images_are_the_same_for_both():
  """The attack is right about all images of the control and 50 more of 200."""
  control = np.tile(np.arange(200) < 100, (5, 1))
  attack = np.tile(np.arange(200) < 150, (5, 1))
  low, high = verdict.bootstrap(attack, control)
  # Of 200 draws the number of those that fall on the 50, and no more.
  drawn = scipy.stats.binom(200, 0.25)
  assert low == pytest.approx(drawn.ppf(0.05) / 2, abs=0.501)
  assert high == pytest.approx(drawn.ppf(0.95) / 2, abs=0.501)


def test_few_seeds_are_drawn_with_all_their_variance():
  """Each seed is right about all images, or about none."""
  attack = np.repeat(np.array([[True], [False]]), 1000, axis=1)
  control = np.zeros((2, 1000), bool)
  # Both of the same kind, each in a quarter of the draws: 0 or 1 becomes
  # 1/2 -+ sqrt(2) / 2.
  expected = 50 - 50 * np.sqrt(2), 50 + 50 * np.sqrt(2)
  assert verdict.bootstrap(attack, control) == pytest.approx(expected)
  # In the middle half of all draws there is one of each.
  low, high = verdict.bootstrap(attack, control, level=0.3)
  assert (low, high) == pytest.approx((50, expected[1]))


@pytest.mark.parametrize(
  ('seeds', 'learned'), [(0.3, 0), (0.02, 300)], ids=['seeds', 'images']
)
def test_drawing_again_comes_to_the_same_bounds(seeds, learned):
  """Of many seeds and images, where what neither explains does not prevail."""
  rng = np.random.default_rng(5)
  attack, control = _simulated(rng, seeds, 1.0, 0.05, 30, 2000)
  attack |= rng.permutation(2000) < learned  # The same at every seed.
  found = verdict.gain(attack, control)
  assert (found.seeds_variance < found.images_variance) == (learned > 0)
  low, high = verdict.bootstrap(attack, control, 4000)
  reach = found.high() - found.low()
  np.testing.assert_allclose(low, found.low(), atol=0.05 * reach)
  np.testing.assert_allclose(high, found.high(), atol=0.05 * reach)


def test_drawn_bounds_change_sides_with_attack_and_control():
  rng = np.random.default_rng(6)
  attack, control = _simulated(rng, 0.1, 1.0, 0.3, 5, 400)
  low, high = verdict.bootstrap(attack, control)
  other = verdict.bootstrap(control, attack)
  reach = high - low
  np.testing.assert_allclose(other, (-high, -low), atol=0.05 * reach)
  assert verdict.bootstrap(attack, control) == (low, high)


@pytest.mark.parametrize('noise', [0.1, 1.0], ids=['images', 'noise'])
def test_drawn_bounds_cover_the_truth_at_least_as_often(noise):
  """Five seeds; the true gain is 0. Noise makes them wide, and never narrow."""
  rng = np.random.default_rng(7)
  found = np.array(
    [
      verdict.bootstrap(*_simulated(rng, 0.05, 1.0, noise, 5, 100), 400)
      for _ in range(300)
    ]
  )
  low, high = np.mean(found[:, 0] <= 0), np.mean(found[:, 1] >= 0)
  # Nominally 95 %; the standard error of the simulation is 1.3 %.
  assert min(low, high) >= 0.91
  assert max(low, high) > 0.98 or noise < 1


def test_more_seeds_reduce_their_part_alone():
  found = verdict.Gain(1.0, 4.0, 9.0, 8.0, 5)
  np.testing.assert_allclose(found.with_seeds(5).error, np.sqrt(13))
  np.testing.assert_allclose(found.with_seeds(20).error, np.sqrt(10))


def test_what_is_right_most_often_is_chosen_and_ties_by_name():
  one, two = np.eye(4, dtype=bool)[:2], np.ones((2, 4), bool)
  assert verdict.choose({'b': one, 'a': two}) == 'a'
  assert verdict.choose({'b': two, 'a': one}) == 'b'
  assert verdict.choose({'b': one, 'a': one[::-1]}) == 'a'


def test_a_choice_is_as_stable_as_it_is_clear():
  rng = np.random.default_rng(0)
  even = rng.permutation(400)[None] < 200
  clear = {'a': np.zeros((1, 400), bool), 'b': even}
  assert verdict.stability(clear) == 1
  # Each is right where the other is wrong.
  tossed = {'a': even, 'b': ~even}
  assert 0.45 < verdict.stability(tossed) < 0.55
  assert verdict.stability({'a': even, 'b': even.copy()}) == 1


def _gain(points, error=1.0, seeds_share=0.5, num_seeds=5):
  return verdict.Gain(
    points,
    seeds_share * error**2,
    (1 - seeds_share) * error**2,
    2.0 * (num_seeds - 1),
    num_seeds,
  )


def _contest(student, chosen=None, **gains):
  return verdict.Contest(student, chosen, gains)


def test_a_gain_of_the_chosen_thief_makes_it_distillable():
  clear = _contest('s', 'kd', kd=_gain(4.0), dkd=_gain(-3.0))
  found = verdict.judge([clear], margin=2.0)
  assert found.decision == 'distillable'
  assert (found.student, found.attack) == ('s', 'kd')
  # What was not chosen has no say: it may have been lucky.
  lucky = clear._replace(chosen='dkd')
  assert verdict.judge([lucky], margin=2.0).decision == 'open'


def test_students_share_the_level():
  """p = 0.04: enough for one student, not for the best of two."""
  gain = _gain(1.0)
  error = 1.0 / float(scipy.stats.t.isf(0.04, gain.degrees))
  gain = _gain(1.0, error)
  np.testing.assert_allclose(gain.low(0.04), 0, atol=1e-12)
  one = _contest('a', 'kd', kd=gain)
  other = _contest('b', 'kd', kd=_gain(-1.0))
  assert verdict.judge([one], margin=0.5).decision == 'distillable'
  both = verdict.judge([one, other], margin=0.5)
  assert both.decision == 'open'
  assert both.level == 0.025


def test_without_a_choice_the_attacks_share_it_too():
  gains = {name: _gain(-1.0) for name in 'abcdefg'} | {'kd': _gain(2.2)}
  chosen = _contest('s', 'kd', **gains)
  assert verdict.judge([chosen], margin=1.0).decision == 'distillable'
  found = verdict.judge([chosen._replace(chosen=None)], margin=1.0)
  assert found.decision == 'open'
  assert found.level == 0.05 / 8


def test_who_surely_gains_most_decides_and_not_the_surest_of_little():
  """A small gain that is certain is not all that leaks."""
  gains = {'sure': _gain(6.0, 1.0), 'large': _gain(20.0, 4.0)}
  contest = _contest('s', **gains)
  found = verdict.judge([contest], margin=1.0)
  assert (found.decision, found.attack) == ('distillable', 'large')
  assert found.gain.low(found.level) > gains['sure'].low(found.level) > 0
  # One that may be luck is not all the same.
  gains['lucky'] = _gain(21.0, 40.0)
  found = verdict.judge([_contest('s', **gains)], margin=1.0)
  assert found.attack == 'large'


def test_every_attack_of_every_student_must_stay_below_the_margin():
  small, large = _gain(-0.5, 0.4), _gain(0.5, 1.0)
  held = [
    _contest('a', 'kd', kd=small, dkd=small),
    _contest('b', 'kd', kd=small, dkd=small),
  ]
  assert verdict.judge(held, margin=1.0).decision == 'undistillable'
  for student, attack in itertools.product(range(2), ('kd', 'dkd')):
    one = held[student]
    gains = {**one.gains, attack: large}
    changed = [*held]
    changed[student] = one._replace(gains=gains)
    assert verdict.judge(changed, margin=1.0).decision == 'open'


def test_each_of_many_attacks_keeps_the_full_level():
  """An intersection-union test needs no correction for how many there are."""
  gains = {f'attack{i}': _gain(-1.0, 0.9) for i in range(30)}
  found = verdict.judge([_contest('s', 'attack0', **gains)], margin=1.0)
  assert found.decision == 'undistillable'


def test_a_gain_that_is_certain_and_small_is_said_to_be_both():
  sure = _contest('s', 'kd', kd=_gain(0.5, 0.1))
  found = verdict.judge([sure], margin=1.0)
  assert found.decision == 'distillable'
  assert found.below_margin
  assert not verdict.judge([sure], margin=0.4).below_margin


def test_two_seeds_decide_nothing():
  for points in (50.0, -50.0):
    few = _contest('s', 'kd', kd=_gain(points, num_seeds=2))
    assert verdict.judge([few], margin=1.0).decision == 'open'


def test_an_attack_without_a_result_leaves_it_open_unless_another_gains():
  def judged(points):
    contest = _contest('cnn8', kd=_gain(points, error=0.1))
    return verdict.judge([contest._replace(missing=('mkd',))], 1.0)

  found = judged(0.0)
  assert (found.decision, found.missing) == ('open', ('mkd',))
  assert found.seeds is None  # No more seeds of the others will tell.
  assert judged(3.0).decision == 'distillable'


def test_nothing_at_all_is_open():
  found = verdict.judge([], margin=1.0)
  assert (found.decision, found.gain) == ('open', None)


def test_an_open_verdict_says_how_many_seeds_would_settle_it():
  """With so many and the same gain it is decided; with one less it is not."""
  for points in (0.7, -0.2):
    now = _gain(points, 1.0, seeds_share=1.0)
    found = verdict.judge([_contest('s', 'kd', kd=now)], margin=1.0)
    assert found.decision == 'open'
    decisions = []
    for number in (found.seeds - 1, found.seeds):
      then = _gain(points, now.with_seeds(number).error, 1.0, number)
      contest = _contest('s', 'kd', kd=then)
      decisions.append(verdict.judge([contest], margin=1.0).decision)
    assert decisions[0] == 'open'
    assert decisions[1] == ('distillable' if points > 0 else 'undistillable')


@pytest.mark.parametrize('control', ['guess', 'alike', 'varied'])
def test_so_many_seeds_settle_it_whoever_varies(control):
  """The degrees of freedom depend on whose part of the variance is large."""
  rng = np.random.default_rng(4)
  skill = rng.normal(0, 0.4, 1000)
  of_seeds = {'guess': 0.0, 'alike': 0.05, 'varied': 0.3}[control]
  checked = 0
  for _ in range(40):
    pair = [
      skill + rng.normal(0, spread, (5, 1)) + rng.normal(0, 0.5, (5, 1000)) < 1
      for spread in (0.05, of_seeds)
    ]
    if control == 'guess':  # Says the same at every seed.
      pair[1] = np.tile(pair[1][:1], (5, 1))
    now = verdict.gain(*pair)
    found = verdict.judge([_contest('s', 'kd', kd=now)], margin=2.0)
    if found.seeds is None or found.seeds < 7:
      continue
    parts = [1e4 * hits.mean(axis=1).var(ddof=1) for hits in pair]
    decisions = []
    for number in (found.seeds - 1, found.seeds):
      seeds, images = sum(parts) / number, now.images_variance
      known = sum((s / number) ** 2 for s in parts) / (number - 1)
      degrees = (seeds + images) ** 2 / (known + images**2 / 999)
      then = verdict.Gain(now.points, seeds, images, degrees, number)
      contest = _contest('s', 'kd', kd=then)
      decisions.append(verdict.judge([contest], margin=2.0).decision)
    assert decisions[0] == 'open'
    assert decisions[1] != 'open'
    checked += 1
  assert checked > 5


def test_where_images_are_too_few_no_number_of_seeds_helps():
  now = _gain(0.5, 1.0, seeds_share=0.0)
  found = verdict.judge([_contest('s', 'kd', kd=now)], margin=1.0)
  assert (found.decision, found.seeds) == ('open', None)


def test_the_order_of_seeds_attacks_and_students_does_not_matter():
  rng = np.random.default_rng(1)
  hits = {
    (s, a): rng.random((4, 120)) < 0.75 + 0.05 * i
    for s in 'xy'
    for i, a in enumerate(('kd', 'dkd', 'hard'))
  }
  control = rng.random((4, 120)) < 0.75

  def judged(students, attacks, seeds):
    return verdict.judge(
      [
        verdict.Contest(
          s,
          verdict.choose({a: hits[s, a] for a in attacks}),
          {a: verdict.gain(hits[s, a][seeds], control) for a in attacks},
        )
        for s in students
      ],
      margin=2.0,
    )

  first = judged('xy', ('kd', 'dkd', 'hard'), [0, 1, 2, 3])
  other = judged('yx', ('hard', 'kd', 'dkd'), [2, 0, 3, 1])
  assert other[:3] == first[:3]
  assert other[4:] == first[4:]
  np.testing.assert_allclose(other.gain, first.gain)


def test_noise_decides_nothing():
  """A larger error leaves open what was open, and may open what was not."""
  rng = np.random.default_rng(2)
  opened = 0
  for _ in range(200):
    gains = {name: _gain(rng.normal(0, 3), 1.0) for name in ('kd', 'dkd')}
    decisions = []
    for factor in (1.0, 2.0):
      noisy = {k: _gain(g.points, factor * g.error) for k, g in gains.items()}
      contest = verdict.Contest('s', 'kd', noisy)
      decisions.append(verdict.judge([contest], margin=1.0).decision)
    assert decisions[0] != 'open' or decisions[1] == 'open'
    opened += decisions[0] != decisions[1]
  assert opened > 20


def test_labels_turned_at_random_open_verdicts_on_average():
  rng = np.random.default_rng(3)
  decided = np.zeros(2, int)
  for _ in range(200):
    skill = rng.normal(0, 1, 150)
    clean = [
      skill + rng.normal(0, 0.4, (5, 150)) < level for level in (1.4, 1.0)
    ]
    noisy = [hits ^ (rng.random(hits.shape) < 0.25) for hits in clean]
    for i, pair in enumerate((clean, noisy)):
      contest = verdict.Contest('s', 'kd', {'kd': verdict.gain(*pair)})
      decided[i] += verdict.judge([contest], margin=2.0).decision != 'open'
  assert decided[1] < decided[0]


def test_draws_in_parts_are_those_at_once(monkeypatch):
  rng = np.random.default_rng(0)
  hits = {name: rng.random((3, 40)) < 0.7 for name in 'abc'}
  found = []
  for together in (7, 10**6):
    monkeypatch.setattr(verdict, '_TOGETHER', together)
    bounds = verdict.bootstrap(hits['a'], hits['b'], replicates=100)
    found.append((verdict.stability(hits), bounds))
  assert found[0] == found[1]
  assert 0 < found[0][0] < 1
