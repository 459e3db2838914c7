"""Rows in, laws with intervals out. numpy, scipy and pandas; no torch, no Hydra."""
