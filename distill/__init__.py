"""Distillation toolkit for small reasoning models: kernel, student and command line."""

__version__ = "0.1.0"
