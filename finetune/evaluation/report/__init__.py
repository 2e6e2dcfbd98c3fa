"""What an evaluation leaves behind: JSON, a table, and one self-contained HTML page."""
