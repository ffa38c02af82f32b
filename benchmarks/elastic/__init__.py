"""Elastic endpoints compared with Parsl's SlurmProvider and dask-jobqueue, on a real Slurm.

``python -m benchmarks.elastic`` needs root, Slurm and sshd. It builds the cluster of network namespaces of
the end-to-end tests.
"""
