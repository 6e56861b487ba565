"""Several attacks in one: the cascade, AutoAttack, nearest points in several norms."""
