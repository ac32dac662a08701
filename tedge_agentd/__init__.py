"""tedge-agentd: keeps the MQTT listeners of a thin-edge.io gateway as its configuration asks."""

__version__ = "0.1.0"
