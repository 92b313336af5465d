"""What a run costs: its speed against a bare loop, its communication and memory, and how it scales."""
