"""Elastic endpoints beside Parsl's SlurmProvider and dask-jobqueue, on one real Slurm.

``python -m benchmarks.elastic``, as root where Slurm and sshd are installed: it builds the cluster of network
namespaces that the end-to-end tests use.
"""
