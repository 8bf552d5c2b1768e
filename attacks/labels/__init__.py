"""How an attacker on labels groups, probes and un-flips gradients."""
