"""Evaluation: a model on a suite, metrics with intervals, and the paired comparison of models."""
