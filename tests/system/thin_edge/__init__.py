"""Stand-ins for thin-edge.io's programs. They run inside the gateway with Debian's Python, and need nothing else."""
