"""The only judge: verification, runs that survive a kill, audits and their records."""
