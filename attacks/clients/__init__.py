"""What an attacker makes of the client: its network, its defense's hooks, and what was observed of it."""
