"""Benchmark: throughput of deliver compared with other pipelines. Nothing imports this folder."""
