"""Several training processes: launching, collectives, interruption."""
