"""Study: training step, time spent waiting for data, PartialFC, accuracy."""
