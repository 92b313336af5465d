"""What compression gained and lost: stages measured side by side, as a table, a front and a page."""
