"""The Lightning callback and its parts."""
