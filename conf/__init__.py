"""Hydra config groups beside the dataclasses that type them: what a person may set."""
