"""How a calibration runs: a program returns also what predictors and plans want to know.

What it leaves behind is ``learned``.
"""
