"""Several processes: launching, collectives, interruption, locks."""
