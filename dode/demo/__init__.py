"""The embedded model, the exact model for tests, and the demonstration."""
