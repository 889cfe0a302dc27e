"""Networks in plain torch. Nothing here knows of games, agents or rewards."""
