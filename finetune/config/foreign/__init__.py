"""Configurations of other trainers as ours, with the fate of each of their keys."""
