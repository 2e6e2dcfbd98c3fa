"""Inputs to measure a model on, where no data are given."""
