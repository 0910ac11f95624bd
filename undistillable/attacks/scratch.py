"""No attack: the student is trained alone, the control of every attack."""

from undistillable.defenses import none

PARENTS = ()

Settings = none.Settings
make = none.make
