"""Fast versions of single operations. Knows heads, tokens, channels and state; nothing of SANA."""
