"""Acts on the machine: files, services, the broker. Holds no policy."""
