"""Model files of every published format, and LoRAs."""
