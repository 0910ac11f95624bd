"""The figures of a report, under one roof."""

from undistillable.analysis import accuracy_figure, curve_figure, logit_figure

accuracy_bars = accuracy_figure.accuracy_bars
collect_curves = curve_figure.collect
logit_responses = logit_figure.logit_responses
training_curves = curve_figure.training_curves
