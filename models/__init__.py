"""The network and its arithmetic: parameters, FLOPs, peaks. Knows no schedule, no queue, no table."""
