"""The second stage, read-only and total: every product with a weight ends as part of a site, or as a miss.

Then what a plan must know of each site is read off: its facts, and whether a calibration fits.
"""
