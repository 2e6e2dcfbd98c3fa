"""Study: training step, data wait, PartialFC, quality."""
