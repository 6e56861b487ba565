"""Readers of networks: checkpoints, exported programs, model libraries, factories."""
