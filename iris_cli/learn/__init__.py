"""What the agents share, never naming one: imagination, actor-critic learning, losses."""
