"""One process among others: its rank, its signals, its lines on the terminal, files that several share."""
