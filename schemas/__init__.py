"""Configurations and metadata: the contract between the rooms, and with files and people."""
