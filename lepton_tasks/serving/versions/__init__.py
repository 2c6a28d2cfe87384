"""Model versions: deployment, rollouts, rollback, server processes."""
