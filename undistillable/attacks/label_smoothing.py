"""No attack: a student alone with smoothed labels, the stronger control."""

from undistillable.defenses import label_smoothing

PARENTS = ()

Settings = label_smoothing.Settings
make = label_smoothing.make
