"""tedge-agentd: keeps the MQTT listeners of a thin-edge.io gateway as its configuration asks."""

__version__ = "0.1.0"

RUNTIME_DIR = "/run/tedge-agentd"  # here, because `status` needs no more of the package than this
