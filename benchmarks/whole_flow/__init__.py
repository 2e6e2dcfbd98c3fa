"""`rtool demo`: the whole flow with a measured number per hop, and its report. Ships in the wheel."""
