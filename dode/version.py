"""The one place that states the version in code; pyproject.toml states the same."""

__version__ = "0.2.0"
