"""What a calibration leaves behind: second moments, active neurons, winning rows, what predictors found.

Plain data, which a plan may read; how it is counted is ``calibration``.
"""
