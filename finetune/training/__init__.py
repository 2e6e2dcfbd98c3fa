"""The training loop: plan, assembly, step, optimizers, schedules."""
