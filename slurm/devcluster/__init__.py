"""A real SLURM on one Debian or Ubuntu machine: virtual nodes, fake GPUs, accounting.

`python -m slurm.devcluster up` starts it, `down` stops it. Everything lies under one folder, beside
node names in /etc/hosts. For tests, and for anybody who wants to try a launch on a laptop.
"""
