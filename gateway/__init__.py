"""Headgate: the gateway in front of machine-learning models. Start at gateway/pipeline/exchange.py."""

__version__ = "0.1.0"
